/**
 * The unit of every figure the benchmarks print: the time of one 512³ matrix product by `yardstick.wgsl`, a file that never
 * changes. To be measured in alternation with what it measures, in the same process: it drifts with the machine.
 */
import { readFileSync } from "node:fs";
import { MAP_READ, type OpenDevice, STAGE_COMPUTE, USAGE } from "../../runtime/device.js";

export interface Yardstick {
  /** Milliseconds of one product, over a round of several when one is too short for a wall clock. */
  round(): Promise<number>;
  close(): void;
}

const SIDE = 512;
const FLOPS = 2 * SIDE ** 3;
const GROUPS = 16; // 8 × 8 threads of 4 × 4 outputs each
/** A round takes at least this long: the cost of a submit (0.1 ms) and of the timer stay below 1 %. */
const ROUND_MS = 20;
const MOST_PER_ROUND = 1000;

/** GFLOP/s of the yardstick, for the line above a table. */
export const gflops = (ms: number): number => FLOPS / ms / 1e6;

/** Prepares the yardstick on a device and checks that it computes what it says. */
export const openYardstick = async ({ device }: OpenDevice): Promise<Yardstick> => {
  const a = seeded(1);
  const b = seeded(2);
  const buffers = [a, b, new Float32Array(SIDE * SIDE)].map((values) => {
    const buffer = device.createBuffer({ size: values.byteLength, usage: USAGE.storage | USAGE.copySrc | USAGE.copyDst });
    device.queue.writeBuffer(buffer, 0, values);
    return buffer;
  });
  const layout = device.createBindGroupLayout({
    entries: (["read-only-storage", "read-only-storage", "storage"] as const).map((type, binding) => ({
      binding,
      visibility: STAGE_COMPUTE,
      buffer: { type },
    })),
  });
  const code = readFileSync(new URL("yardstick.wgsl", import.meta.url), "utf8");
  const pipeline = await device.createComputePipelineAsync({
    layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
    compute: { module: device.createShaderModule({ label: "yardstick", code }) },
  });
  const group = device.createBindGroup({ layout, entries: buffers.map((buffer, binding) => ({ binding, resource: { buffer } })) });

  const products = async (count: number): Promise<number> => {
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    for (let i = 0; i < count; i++) pass.dispatchWorkgroups(GROUPS, GROUPS);
    pass.end();
    const start = performance.now();
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
    return performance.now() - start;
  };

  await products(1); // some drivers compile at the first dispatch
  checkProduct(a, b, await read(device, buffers[2] as GPUBuffer));
  let count = 1;
  while (count < MOST_PER_ROUND && (await products(count)) < ROUND_MS) count *= 2;
  return {
    round: async () => (await products(count)) / count,
    close: () => {
      for (const buffer of buffers) buffer.destroy();
    },
  };
};

/** Values in [-0.5, 0.5) of a 32-bit linear congruential generator (Numerical Recipes). */
const seeded = (seed: number): Float32Array<ArrayBuffer> => {
  let state = seed;
  return Float32Array.from({ length: SIDE * SIDE }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32 - 0.5;
  });
};

const read = async (device: GPUDevice, source: GPUBuffer): Promise<Float32Array> => {
  const target = device.createBuffer({ size: source.size, usage: USAGE.mapRead | USAGE.copyDst });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(source, 0, target, 0, source.size);
  device.queue.submit([encoder.finish()]);
  await target.mapAsync(MAP_READ);
  const values = new Float32Array(target.getMappedRange().slice(0));
  target.destroy();
  return values;
};

/** A pipeline that does nothing looks infinitely fast: a sample of elements is held to float64. */
const checkProduct = (a: Float32Array, b: Float32Array, c: Float32Array): void => {
  // 512 additions, each rounded at the size of a partial sum (|sum| < 16 for these operands): 512 · 16 · 2⁻²⁴.
  const allowed = SIDE * 16 * 2 ** -24;
  for (let at = 0; at < SIDE * SIDE; at += 1021) {
    const row = Math.floor(at / SIDE);
    let sum = 0;
    for (let k = 0; k < SIDE; k++) sum += (a[row * SIDE + k] ?? 0) * (b[k * SIDE + (at % SIDE)] ?? 0);
    if (!(Math.abs(sum - (c[at] ?? Number.NaN)) <= allowed)) throw new Error(`the yardstick computes ${c[at]} instead of ${sum} at ${at}`);
  }
};
