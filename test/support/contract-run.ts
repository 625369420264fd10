/** Runs lowered kernels on a device, for tests and benches. */
import type { Buffer, Kernel, Lowered } from "../../codegen/kernel.js";
import { RUN_FIELDS } from "../../runtime/artifact.js";
import type { OpenDevice } from "../../runtime/device.js";

export interface Loaded {
  /** Encodes and submits all dispatches `times` times and waits for them. */
  run(times?: number): Promise<void>;
  read(buffer: Buffer): Promise<Float32Array>;
  write(buffer: Buffer, data: Float32Array): void;
  free(): void;
}

/** @throws Error with the kernel's text if WGSL or bindings are invalid. */
export async function load(open: OpenDevice, lowered: Lowered, data: ReadonlyMap<Buffer, Float32Array>, knobs: Readonly<Record<string, number>> = {}): Promise<Loaded> {
  const { device } = open;
  const memory = new Map<Buffer, GPUBuffer>();
  const bufferOf = (buffer: Buffer): GPUBuffer => {
    const known = memory.get(buffer);
    if (known) return known;
    const made = device.createBuffer({ size: Math.ceil(buffer.elements / 4) * 16, usage: 128 | 4 | 8 });
    memory.set(buffer, made);
    const values = data.get(buffer);
    // memory nobody defined must not matter: NaN in scratch and in the padding
    device.queue.writeBuffer(made, 0, new Float32Array(made.size / 4).fill(Number.NaN));
    if (values) device.queue.writeBuffer(made, 0, new Float32Array(values));
    return made;
  };
  const block = new DataView(new ArrayBuffer(Math.ceil(RUN_FIELDS.length / 4) * 16));
  for (const [i, field] of RUN_FIELDS.entries()) {
    if (field.dtype === "f32") block.setFloat32(i * 4, knobs[field.name] ?? 0, true);
    else block.setUint32(i * 4, knobs[field.name] ?? 0, true);
  }
  const run = device.createBuffer({ size: block.byteLength, usage: 64 | 8 });
  device.queue.writeBuffer(run, 0, block.buffer);
  const steps: { pipeline: GPUComputePipeline; group: GPUBindGroup; kernel: Kernel }[] = [];
  for (const kernel of lowered.kernels) {
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ code: kernel.wgsl });
    const layout = device.createBindGroupLayout({
      entries: kernel.bindings.map((b, binding) => ({ binding, visibility: 4, buffer: { type: b.kind === "run" ? "uniform" : b.access === "read" ? "read-only-storage" : "storage" } })),
    });
    const pipeline = device.createComputePipeline({ layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }), compute: { module, entryPoint: "main" } });
    const group = device.createBindGroup({ layout, entries: kernel.bindings.map((b, binding) => ({ binding, resource: { buffer: b.kind === "run" ? run : bufferOf(b.buffer) } })) });
    const error = await device.popErrorScope();
    if (error) throw new Error(`${error.message}\n${kernel.wgsl.slice(0, 4000)}`);
    steps.push({ pipeline, group, kernel });
  }
  return {
    async run(times = 1) {
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      for (let i = 0; i < times; i++) {
        for (const { pipeline, group, kernel } of steps) {
          pass.setPipeline(pipeline);
          pass.setBindGroup(0, group);
          pass.dispatchWorkgroups(...kernel.workgroups);
        }
      }
      pass.end();
      device.queue.submit([encoder.finish()]);
      await device.queue.onSubmittedWorkDone();
    },
    async read(buffer) {
      const from = bufferOf(buffer);
      const to = device.createBuffer({ size: from.size, usage: 1 | 8 });
      const encoder = device.createCommandEncoder();
      encoder.copyBufferToBuffer(from, 0, to, 0, from.size);
      device.queue.submit([encoder.finish()]);
      await to.mapAsync(1);
      const values = new Float32Array(to.getMappedRange().slice(0)).slice(0, buffer.elements);
      to.destroy();
      return values;
    },
    write(buffer, values) {
      device.queue.writeBuffer(bufferOf(buffer), 0, new Float32Array(values));
    },
    free() {
      for (const buffer of memory.values()) buffer.destroy();
      run.destroy();
    },
  };
}
