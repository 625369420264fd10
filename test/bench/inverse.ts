/**
 * Times of the inverse kernels per size, in ms and in multiples of the yardstick (512³ matrix product, timed alternately in
 * the same process), with the error against float64 and the time of the first run, which compiles.
 *
 *   npx tsx test/bench/inverse.ts [n …]      KFACC_ADAPTER chooses the device
 */
import { readFileSync } from "node:fs";
import type { Buffer, Kernel } from "../../codegen/kernel.js";
import { type InverseBatch, lowerInverse } from "../../codegen/kernels/inverse.js";
import { PORTABLE } from "../../codegen/limits.js";
import { openDevice } from "../../runtime/adapter.node.js";
import { MAP_READ, STAGE_COMPUTE, USAGE } from "../../runtime/device.js";
import { inverse64, relativeError, spd, uniforms } from "../support/inverse-oracle.js";

const KAPPA = 1e4;
const REPEATS = 7;
/** float64 on one core is slow: larger sizes are checked by status and by a few rows of A·X. */
const ORACLE_UP_TO = 600;

const sizes = process.argv.slice(2).map(Number);
const opened = await openDevice();
const { device } = opened;

const gpuBuffer = (elements: number, values?: Float32Array): GPUBuffer => {
  const made = device.createBuffer({ size: Math.ceil(elements / 4) * 16, usage: USAGE.storage | USAGE.copySrc | USAGE.copyDst });
  if (values) device.queue.writeBuffer(made, 0, values as Float32Array<ArrayBuffer>);
  return made;
};

type Dispatch = (pass: GPUComputePassEncoder) => void;

const prepare = (kernels: readonly Kernel[], memory: Map<Buffer, GPUBuffer>): Dispatch[] => {
  const pipelines = new Map<string, readonly [GPUComputePipeline, GPUBindGroupLayout]>();
  return kernels.map((kernel) => {
    let made = pipelines.get(kernel.wgsl);
    if (!made) {
      const layout = device.createBindGroupLayout({
        entries: kernel.bindings.map((b, binding) => ({
          binding,
          visibility: STAGE_COMPUTE,
          buffer: { type: b.kind === "buffer" && b.access === "read" ? "read-only-storage" : "storage" },
        })),
      });
      const module = device.createShaderModule({ code: kernel.wgsl });
      made = [device.createComputePipeline({ layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }), compute: { module } }), layout];
      pipelines.set(kernel.wgsl, made);
    }
    const [pipeline, layout] = made;
    const group = device.createBindGroup({
      layout,
      entries: kernel.bindings.map((b, binding) => {
        if (b.kind !== "buffer") throw new Error("the inverse has no knobs");
        const buffer = memory.get(b.buffer) ?? gpuBuffer(b.buffer.elements);
        memory.set(b.buffer, buffer);
        return { binding, resource: { buffer } };
      }),
    });
    return (pass) => {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(...kernel.workgroups);
    };
  });
};

const time = async (dispatches: readonly Dispatch[]): Promise<number> => {
  const start = performance.now();
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (const dispatch of dispatches) dispatch(pass);
  pass.end();
  device.queue.submit([encoder.finish()]);
  await device.queue.onSubmittedWorkDone();
  return performance.now() - start;
};

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] as number;

const readback = async (source: GPUBuffer, elements: number): Promise<Float32Array> => {
  const target = device.createBuffer({ size: source.size, usage: USAGE.mapRead | USAGE.copyDst });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(source, 0, target, 0, source.size);
  device.queue.submit([encoder.finish()]);
  await target.mapAsync(MAP_READ);
  const values = new Float32Array(target.getMappedRange().slice(0, elements * 4));
  target.destroy();
  return values;
};

/** max |A·X − I| over a few rows. */
const residual = (a: Float32Array, x: Float32Array, n: number): number => {
  let worst = 0;
  for (const i of [0, n >> 1, n - 1]) {
    for (let j = 0; j < n; j++) {
      let sum = i === j ? -1 : 0;
      for (let k = 0; k < n; k++) sum += (a[i * n + k] as number) * (x[k * n + j] as number);
      worst = Math.max(worst, Math.abs(sum));
    }
  }
  return worst;
};

const random = uniforms(1);
const product = (name: string): Buffer => ({ name, dtype: "f32", elements: 512 * 512 });
const [a, b, c] = [product("a"), product("b"), product("c")];
const filled = () => gpuBuffer(512 * 512, Float32Array.from({ length: 512 * 512 }, () => random() - 0.5));
const yardstick = prepare(
  [
    {
      name: "yardstick",
      wgsl: readFileSync(new URL("./yardstick.wgsl", import.meta.url), "utf8"),
      bindings: [a, b, c].map((buffer) => ({ kind: "buffer", buffer, access: buffer === c ? "read_write" : "read" })),
      workgroups: [16, 16, 1],
    },
  ],
  new Map([[a, filled()], [b, filled()]]),
);

console.log(opened.name);
for (const n of sizes.length > 0 ? sizes : [32, 64, 65, 128, 257, 512, 785, 1025]) {
  const buffer = (name: string, elements: number): Buffer => ({ name, dtype: "f32", elements });
  const spec: InverseBatch = {
    n, batch: 1, matrix: buffer("matrix", n * n), damping: buffer("damping", 1), inverse: buffer("inverse", n * n), status: buffer("status", 1),
  };
  const matrix = spd(n, KAPPA, n);
  const memory = new Map([[spec.matrix, gpuBuffer(n * n, matrix)]]);
  const { kernels } = lowerInverse({ kind: "inverse", label: "bench", batches: [spec] }, PORTABLE);
  const dispatches = prepare(kernels, memory);
  const firstRuns: string[] = [];
  for (const [text, kernel] of new Map(kernels.map((k, i) => [k.wgsl, i]))) {
    firstRuns.push(`${kernels[kernel]?.name.split("_").at(-1)} ${(await time([dispatches[kernel] as Dispatch])).toFixed(0)} (${text.length} chars)`);
  }
  const parts: string[] = [];
  for (const text of new Set(kernels.map((k) => k.wgsl))) {
    const same = kernels.flatMap((k, i) => (k.wgsl === text ? [i] : []));
    const runs: number[] = [];
    for (let i = 0; i < REPEATS; i++) runs.push(await time(same.map((j) => dispatches[j] as Dispatch)));
    parts.push(`${kernels[same[0] as number]?.name.split("_").at(-1)} ${median(runs).toFixed(2)}`);
  }
  const times: number[] = [];
  const units: number[] = [];
  for (let i = 0; i < REPEATS; i++) {
    units.push(await time(yardstick));
    times.push(await time(dispatches));
  }
  const status = (await readback(memory.get(spec.status) as GPUBuffer, 1))[0];
  const inverse = await readback(memory.get(spec.inverse) as GPUBuffer, n * n);
  const error = n <= ORACLE_UP_TO ? `error ${(relativeError(inverse, inverse64(matrix, n, 0)) / (2 ** -23 * KAPPA)).toFixed(4)} ε·κ` : `|AX−I| ${residual(matrix, inverse, n).toExponential(1)}`;
  console.log(
    `n ${n}: ${median(times).toFixed(2)} ms (min ${Math.min(...times).toFixed(2)}) = ${(median(times) / median(units)).toFixed(2)} Y of ${median(units).toFixed(1)} ms,`,
    `${kernels.length} dispatches, status ${status}, ${error}, parts ${parts.join(", ")}; first runs in ms: ${firstRuns.join(", ")}`,
  );
  for (const held of memory.values()) held.destroy();
}
await opened.close();
