/** Kernels of one contraction on a device: loaded, run on given numbers, timed side by side with others. */
import type { Buffer, Lowered } from "../../codegen/kernel.js";
import { RUN_BYTES, RUN_FIELDS, RUN_KNOBS } from "../../runtime/artifact.js";
import { MAP_READ, type OpenDevice, STAGE_COMPUTE, USAGE } from "../../runtime/device.js";

export interface Loaded {
  /** Milliseconds of `times` runs in one submit. */
  time(times: number): Promise<number>;
  /** One run from the first numbers; what it leaves in the buffers. */
  results(of: readonly Buffer[]): Promise<readonly Uint32Array[]>;
  free(): void;
}

/** Rounds in which each candidate is timed once; the shortest time counts, for others only ever add to it. */
const ROUNDS = 5;
/** A time is taken of so many milliseconds' work at least. */
const SLICE = 5;
const MOST_RUNS = 2000;

/** @returns undefined where the device refuses the kernels. `data` by buffer name; whatever it does not hold starts as zeros. */
export async function load({ device }: OpenDevice, { kernels, scratch }: Lowered, data: ReadonlyMap<string, Float32Array | Uint32Array>): Promise<Loaded | undefined> {
  const made: GPUBuffer[] = [];
  const memory = new Map<string, GPUBuffer>();
  const buffer = (size: number, usage: number): GPUBuffer => {
    const b = device.createBuffer({ size, usage });
    made.push(b);
    return b;
  };
  const bytes = (b: Buffer) => Math.max(16, Math.ceil(b.elements / 4) * 16);
  const fill = (): void => { for (const [name, b] of memory) if (data.has(name)) device.queue.writeBuffer(b, 0, data.get(name) as Float32Array<ArrayBuffer>); };
  for (const kind of ["out-of-memory", "internal", "validation"] as const) device.pushErrorScope(kind);
  const run = buffer(RUN_BYTES, USAGE.uniform | USAGE.copyDst);
  device.queue.writeBuffer(run, 0, runBlock());
  const places = new Map<Buffer, GPUBuffer>();
  for (const b of new Set(kernels.flatMap((k) => k.bindings.flatMap((x) => (x.kind === "buffer" ? [x.buffer] : []))))) {
    const place = buffer(bytes(b), USAGE.storage | USAGE.copySrc | USAGE.copyDst);
    places.set(b, place);
    if (!scratch.includes(b)) memory.set(b.name, place);
  }
  const steps = kernels.map((kernel) => {
    const layout = device.createBindGroupLayout({ entries: kernel.bindings.map((b, binding) => ({ binding, visibility: STAGE_COMPUTE, buffer: { type: b.kind === "run" ? "uniform" : b.access === "read" ? "read-only-storage" : "storage" } })) });
    const pipeline = device.createComputePipeline({ label: kernel.name, layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }), compute: { module: device.createShaderModule({ code: kernel.wgsl }) } });
    const group = device.createBindGroup({ layout, entries: kernel.bindings.map((b, binding) => ({ binding, resource: { buffer: b.kind === "run" ? run : (places.get(b.buffer) as GPUBuffer) } })) });
    return { pipeline, group, workgroups: kernel.workgroups };
  });
  const errors = await Promise.all([device.popErrorScope(), device.popErrorScope(), device.popErrorScope()]);
  const free = (): void => { for (const b of made) b.destroy(); };
  if (errors.some((e) => e !== null)) {
    free();
    return undefined;
  }
  const submit = async (times: number, then: (encoder: GPUCommandEncoder) => void = () => {}): Promise<void> => {
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (let i = 0; i < times; i++) {
      for (const { pipeline, group, workgroups } of steps) {
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(...workgroups);
      }
    }
    pass.end();
    then(encoder);
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
  };
  return {
    free,
    async time(times) {
      const start = performance.now();
      await submit(times);
      return performance.now() - start;
    },
    async results(of) {
      fill();
      const copies = of.map((b) => device.createBuffer({ size: bytes(b), usage: USAGE.mapRead | USAGE.copyDst }));
      await submit(1, (encoder) => { for (const [i, b] of of.entries()) encoder.copyBufferToBuffer(memory.get(b.name) as GPUBuffer, 0, copies[i] as GPUBuffer, 0, bytes(b)); });
      const values = await Promise.all(copies.map(async (copy, i) => {
        await copy.mapAsync(MAP_READ);
        return new Uint32Array(copy.getMappedRange().slice(0, (of[i] as Buffer).elements * 4));
      }));
      for (const copy of copies) copy.destroy();
      return values;
    },
  };
}

/** Milliseconds of one run of each, timed in turn so that a busy machine slows all alike. */
export async function race(runners: readonly Loaded[]): Promise<number[]> {
  const times: number[] = [];
  for (const runner of runners) {
    await runner.time(1); // some drivers compile now
    times.push(Math.max(1, Math.min(MOST_RUNS, Math.round(SLICE / Math.max(1e-3, await runner.time(1))))));
  }
  const best = runners.map(() => Infinity);
  for (let round = 0; round < ROUNDS; round++)
    for (const [i, runner] of runners.entries()) best[i] = Math.min(best[i] as number, (await runner.time(times[i] as number)) / (times[i] as number));
  return best;
}

/** The knobs as they start, and a step like any other. */
function runBlock(): ArrayBuffer {
  const view = new DataView(new ArrayBuffer(RUN_BYTES));
  for (const [i, { name, dtype }] of RUN_FIELDS.entries()) {
    const value = RUN_KNOBS.find((k) => k.name === name)?.default ?? 1;
    if (dtype === "u32") view.setUint32(i * 4, value, true);
    else view.setFloat32(i * 4, value, true);
  }
  return view.buffer as ArrayBuffer;
}
