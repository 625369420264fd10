/** Runs generated kernels on a device, strictly: whatever Dawn objects to fails the test with the kernel's text beside it. */
import { afterAll, beforeAll } from "vitest";
import type { Buffer, Kernel } from "../../codegen/kernel.js";
import { nullDevice, openDevice } from "../../runtime/adapter.node.js";
import { RUN_BYTES, RUN_FIELDS, RUN_KNOBS } from "../../runtime/artifact.js";
import { MAP_READ, type OpenDevice, STAGE_COMPUTE, USAGE } from "../../runtime/device.js";

export type Values = Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;
/** What a test may hand in: any view of 4-byte elements. */
export type GivenValues = Float32Array | Int32Array | Uint32Array;

/** A device for all tests of a file (or `describe`), closed after them. Call it at the top level, the result inside tests. */
export const testDevice = (): (() => OpenDevice) => {
  let opened: OpenDevice | undefined;
  beforeAll(async () => {
    opened = await openDevice();
  });
  afterAll(() => opened?.close());
  return () => {
    if (!opened) throw new Error("the device of testDevice() exists inside tests only");
    return opened;
  };
};

/** Opens the default device, runs `use`, closes it whatever happens. */
export const withDevice = async <T>(use: (device: OpenDevice) => Promise<T>): Promise<T> => {
  const device = await openDevice();
  try {
    return await use(device);
  } finally {
    await device.close();
  }
};

/**
 * Dispatches the kernels in order and returns every buffer they bind (`elements` long).
 *
 * A buffer in `data` starts with those values; all other memory, the padding up to a multiple of 16 bytes included, starts
 * as NaN (i32, u32: all bits set), because in a real plan it holds what its last tenant left. `run` sets fields of the uniform
 * block by name; knobs default to their table, `seed` and `step` to 0, everything else to NaN.
 */
export const runKernels = async (
  { device }: OpenDevice,
  kernels: readonly Kernel[],
  data: ReadonlyMap<Buffer, GivenValues>,
  run: Readonly<Record<string, number>> = {},
): Promise<Map<Buffer, Values>> => {
  const pipelines: Pipeline[] = [];
  for (const kernel of kernels) pipelines.push(await compile(device, kernel));

  const scopes = pushScopes(device);
  const bound = new Set(kernels.flatMap((k) => k.bindings.flatMap((b) => (b.kind === "buffer" ? [b.buffer] : []))));
  for (const buffer of data.keys()) if (!bound.has(buffer)) throw new Error(`no kernel binds buffer "${buffer.name}"`);
  const memory = new Map([...bound].map((buffer) => [buffer, upload(device, initial(buffer, data.get(buffer)))]));
  const block = device.createBuffer({ size: RUN_BYTES, usage: USAGE.uniform | USAGE.copyDst });
  device.queue.writeBuffer(block, 0, runBlock(run));

  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  kernels.forEach((kernel, i) => {
    const { pipeline, layout } = pipelines[i] as Pipeline;
    const entries = kernel.bindings.map((b, binding) => ({
      binding,
      resource: { buffer: b.kind === "run" ? block : must(memory.get(b.buffer)) },
    }));
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, device.createBindGroup({ label: kernel.name, layout, entries }));
    pass.dispatchWorkgroups(...kernel.workgroups);
  });
  pass.end();
  const staged = [...memory].map(([buffer, source]) => {
    const target = device.createBuffer({ size: source.size, usage: USAGE.mapRead | USAGE.copyDst });
    encoder.copyBufferToBuffer(source, 0, target, 0, source.size);
    return [buffer, target] as const;
  });
  device.queue.submit([encoder.finish()]);
  await scopes(`running ${kernels.map((k) => k.name).join(", ")}`);

  const results = new Map<Buffer, Values>();
  for (const [buffer, target] of staged) {
    await target.mapAsync(MAP_READ);
    results.set(buffer, new ARRAY[buffer.dtype](target.getMappedRange().slice(0, buffer.elements * 4)));
  }
  for (const buffer of [block, ...memory.values(), ...staged.map(([, target]) => target)]) buffer.destroy();
  return results;
};

/** Compiles kernels against their bindings on Dawn's null backend, which has the portable limits and needs no driver. */
export const compileOnNull = async (kernels: readonly Kernel[]): Promise<void> => {
  const opened = await nullDevice();
  try {
    for (const kernel of kernels) await compile(opened.device, kernel);
  } finally {
    await opened.close();
  }
};

/** The uniform block `run` with the given fields; see `runKernels` for the rest. */
export const runBlock = (run: Readonly<Record<string, number>>): ArrayBuffer => {
  for (const name of Object.keys(run))
    if (!RUN_FIELDS.some((f) => f.name === name)) throw new Error(`the run block has no field "${name}"`);
  const bytes = new ArrayBuffer(RUN_BYTES);
  const view = new DataView(bytes);
  RUN_FIELDS.forEach(({ name, dtype }, i) => {
    if (dtype === "u32") view.setUint32(i * 4, run[name] ?? 0, true);
    else view.setFloat32(i * 4, run[name] ?? RUN_KNOBS.find((k) => k.name === name)?.default ?? Number.NaN, true);
  });
  return bytes;
};

interface Pipeline {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

const ARRAY = { f32: Float32Array, i32: Int32Array, u32: Uint32Array } as const;
const WORKGROUPS_PER_DIMENSION = 65535;

const compile = async (device: GPUDevice, kernel: Kernel): Promise<Pipeline> => {
  if (!kernel.workgroups.every((n) => Number.isInteger(n) && n >= 1 && n <= WORKGROUPS_PER_DIMENSION)) {
    throw new Error(`kernel ${kernel.name}: cannot dispatch [${kernel.workgroups.join(", ")}] workgroups`);
  }
  const scopes = pushScopes(device);
  const layout = device.createBindGroupLayout({
    label: kernel.name,
    entries: kernel.bindings.map((b, binding) => ({ binding, visibility: STAGE_COMPUTE, buffer: { type: layoutType(b) } })),
  });
  const module = device.createShaderModule({ label: kernel.name, code: kernel.wgsl });
  const { messages } = await module.getCompilationInfo();
  const errors = messages.filter((m) => m.type === "error").map((m) => `${m.lineNum}:${m.linePos} ${m.message}`);
  const pipeline = device.createComputePipeline({
    label: kernel.name,
    layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
    compute: { module },
  });
  await scopes(`compiling ${kernel.name}`, () => `${errors.join("\n")}\n${numbered(kernel.wgsl)}`);
  return { pipeline, layout };
};

const layoutType = (binding: Kernel["bindings"][number]): GPUBufferBindingType =>
  binding.kind === "run" ? "uniform" : binding.access === "read" ? "read-only-storage" : "storage";

/** Opens a scope per kind of error; the returned function closes them and throws what they caught. */
const pushScopes = (device: GPUDevice): ((what: string, more?: () => string) => Promise<void>) => {
  const kinds = ["validation", "out-of-memory", "internal"] as const;
  for (const kind of kinds) device.pushErrorScope(kind);
  return async (what, more = () => "") => {
    const caught = await Promise.all(kinds.map(() => device.popErrorScope()));
    const messages = caught.flatMap((error) => (error ? [error.message] : []));
    if (messages.length > 0) throw new Error(`${what}: ${messages.join("\n")}\n${more()}`);
  };
};

const numbered = (source: string): string =>
  source
    .split("\n")
    .map((line, i) => `${String(i + 1).padStart(4)}  ${line}`)
    .join("\n");

/** A buffer's memory as bytes: the given values, the rest poisoned. */
const initial = (buffer: Buffer, values: GivenValues | undefined): Uint8Array<ArrayBuffer> => {
  const elements = Math.max(4, Math.ceil(buffer.elements / 4) * 4);
  const poisoned = buffer.dtype === "f32" ? new Float32Array(elements).fill(Number.NaN) : new Uint32Array(elements).fill(0xffffffff);
  const bytes = new Uint8Array(poisoned.buffer);
  if (values) {
    if (!(values instanceof ARRAY[buffer.dtype]) || values.length !== buffer.elements) {
      throw new Error(
        `buffer "${buffer.name}" holds ${buffer.elements} ${buffer.dtype}, given are ${values.length} in a ${values.constructor.name}`,
      );
    }
    bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  }
  return bytes;
};

const upload = (device: GPUDevice, bytes: Uint8Array<ArrayBuffer>): GPUBuffer => {
  const buffer = device.createBuffer({ size: bytes.byteLength, usage: USAGE.storage | USAGE.copySrc | USAGE.copyDst });
  device.queue.writeBuffer(buffer, 0, bytes);
  return buffer;
};

const must = <T>(value: T | undefined): T => {
  if (value === undefined) throw new Error("unreachable");
  return value;
};
