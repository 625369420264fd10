/** What every library gets: the bench's own device behind `navigator.gpu`, the same data, and the losses that the steps must give. */
import { globals } from "webgpu";
import type { OpenDevice } from "../../../runtime/device.js";
import type { HostArray } from "../../../runtime/program.js";
import { Trainer } from "../../../runtime/trainer.js";
import { COMPILE_DEFAULTS, compile } from "../../../src/compile.js";
import type { Opened, Subject } from "../measure.js";
import { batchOf, LENET, MLP, type Network } from "../models.js";
import { ConvData, PLAIN } from "../work/conv.js";
import { seeded, Sum, type Truth } from "../work/program.js";

/** Rate and momentum of the SGD steps: small enough that hundreds of them on one batch stay on the way down. */
export const RATE = 1e-3;
export const MOMENTUM = 0.9;

/** Makes `navigator.gpu` hand out the open device, whatever a library asks for: all share one adapter and its limits. */
export function lend({ device }: OpenDevice): void {
  const adapter = { features: device.features, limits: device.limits, info: device.adapterInfo, isFallbackAdapter: false, requestDevice: async () => device };
  const gpu = { requestAdapter: async () => adapter, getPreferredCanvasFormat: () => "rgba8unorm", wgslLanguageFeatures: new Set<string>() };
  Object.assign(globalThis, globals);
  Object.defineProperty(globalThis, "navigator", { value: { gpu, userAgent: "node", hardwareConcurrency: 1 }, configurable: true });
}

export interface Work {
  /** Does it `count` times and waits. */
  run(count: number): Promise<void>;
  check(): Promise<string>;
  readonly laps?: readonly number[];
}

/** By the ids of the bench's own rows. */
export type Works = Readonly<Record<"matmul/512" | "conv/plain/forward" | "conv/plain/gradients" | "mlp/sgd" | "lenet/sgd", () => Promise<Work>>>;

export const subjectsOf = (works: Works, names: ReadonlyMap<string, string>): readonly Subject[] =>
  Object.entries(works).map(([id, make]): Subject => ({
    id, name: names.get(id) ?? id, group: "matmul",
    open: async (): Promise<Opened> => ({ ...(await make()), facts: () => ({}), close: async () => {} }),
  }));

export interface Matmul {
  readonly left: Float32Array;
  readonly right: Float32Array;
  truth(element: number): Truth;
}

export const matmul = (n: number): Matmul => {
  const [left, right] = [seeded(n * n, 1), seeded(n * n, 2)];
  return {
    left, right,
    truth: (element) => {
      const [i, j, sum] = [Math.floor(element / n), element % n, new Sum()];
      for (let k = 0; k < n; k++) sum.add(left[i * n + k] as number, right[k * n + j] as number);
      return sum.truth();
    },
  };
};

export const convData = (): ConvData => new ConvData(PLAIN);

/** Row-major data with its axes in another order: axis k of the result is axis `perm[k]`. */
export function permuted(values: HostArray, shape: readonly number[], perm: readonly number[]): Float32Array {
  const strides = shape.map((_, k) => shape.slice(k + 1).reduce((a, b) => a * b, 1));
  const to = perm.map((k) => shape[k] as number);
  const by = perm.map((k) => strides[k] as number);
  const index = new Array<number>(shape.length).fill(0);
  return Float32Array.from({ length: values.length }, () => {
    const from = index.reduce((n, i, k) => n + i * (by[k] as number), 0);
    for (let k = shape.length - 1; k >= 0; k--) {
      index[k] = (index[k] as number) + 1;
      if ((index[k] as number) < (to[k] as number)) break;
      index[k] = 0;
    }
    return values[from] as number;
  });
}

export interface Training {
  readonly batch: number;
  readonly weights: ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: Float32Array }>;
  /** [batch, …] */
  readonly input: { readonly shape: readonly number[]; readonly data: Float32Array };
  /** [batch, 10], one 1 per row. */
  readonly target: Float32Array;
  /** Before the first steps, as kfacc has them with the same rate and momentum. */
  readonly losses: readonly number[];
}

const CLASSES = 10;
/** Losses of two optimisers' implementations on the same numbers: sums in float32, in another order. */
const LOSS_TOLERANCE = 2e-4;

/** @param device on which kfacc takes the first three steps */
export async function training(device: GPUDevice, which: "mlp" | "lenet"): Promise<Training> {
  const network: Network = which === "mlp" ? MLP : LENET;
  const c = compile(await network.forward(), { ...COMPILE_DEFAULTS, optimizer: "sgd", loss: network.loss, batches: [network.batch], run: { lr: RATE, momentum: MOMENTUM } });
  const trainer = await Trainer.create(device, c.artifact, c.sources, Object.fromEntries(c.weights), { seed: 1 });
  const batch = batchOf(network, c);
  const losses: number[] = [];
  for (let k = 0; k < 3; k++) losses.push(await trainer.step(batch).loss);
  await trainer.dispose();
  const input = batch[c.artifact.inputs[0]?.name ?? ""] as Training["input"];
  const { data } = batch.target as { readonly data: Int32Array };
  const target = new Float32Array(network.batch * CLASSES);
  data.forEach((label, n) => { target[n * CLASSES + label] = 1; });
  return { batch: network.batch, weights: c.weights, input, target, losses };
}

/** @throws Error if a library's first losses are not kfacc's */
export function checkLosses(mine: readonly number[], { losses }: Training): string {
  losses.forEach((want, k) => {
    const got = mine[k] as number;
    if (!(Math.abs(got - want) <= LOSS_TOLERANCE * Math.abs(want))) throw new Error(`loss ${k} is ${got} instead of ${want}`);
  });
  if (!((mine[mine.length - 1] as number) < (mine[0] as number))) throw new Error(`the loss does not fall: ${mine.join(", ")}`);
  return `${losses.length} losses against kfacc's`;
}

/** A library's entry file, by its path in the folder of this file. */
export const library = async (path: string): Promise<unknown> => import(new URL(`node_modules/${path}`, import.meta.url).href);
