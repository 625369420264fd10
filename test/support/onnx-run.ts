/** Imported models against onnxruntime, on seeded inputs. */
import ort from "onnxruntime-node";
import { expect } from "vitest";
import { evaluate } from "../../ir/evaluate.js";
import type { Graph } from "../../ir/graph.js";
import type { NdArray } from "../../ir/ndarray.js";
import { size } from "../../ir/type.js";
import { type Imported, type ImportOptions, importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";

/** Numbers in (−1, 1), the same for the same seed. */
export function random(count: number, seed: number): Float32Array {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

export type Inputs = Readonly<Record<string, { readonly shape: readonly number[]; readonly data: Float32Array | BigInt64Array | Uint8Array }>>;

/** Seeded inputs for every input of a graph; `scale` and `shift` place them where the op is defined. */
export function seeded(graph: Graph, seed: number, scale = 1, shift = 0): Inputs {
  return Object.fromEntries(graph.inputs.map(({ value: { name, type: { shape, dtype } } }, k) => {
    const data = random(size(shape), seed + 97 * k).map((v) => v * scale + shift);
    if (dtype === "bool") return [name, { shape, data: Uint8Array.from(data, (v) => Number(v > 0)) }];
    return [name, { shape, data: dtype === "i32" ? BigInt64Array.from(data, (v) => BigInt(Math.floor(Math.abs(v)))) : data }];
  }));
}

const tensorOf = ({ data, shape }: Inputs[string]): ort.Tensor =>
  new ort.Tensor(data instanceof Float32Array ? "float32" : data instanceof Uint8Array ? "bool" : "int64", data, [...shape]);

export async function runOrt(model: Uint8Array, inputs: Inputs): Promise<Record<string, { shape: readonly number[]; data: number[] }>> {
  const session = await ort.InferenceSession.create(model, { logSeverityLevel: 4 });
  const feeds = Object.fromEntries(Object.entries(inputs).map(([name, v]) => [name, tensorOf(v)]));
  const results = await session.run(feeds);
  const out = Object.fromEntries(Object.entries(results).map(([name, t]) => [name, { shape: t.dims, data: Array.from(t.data as ArrayLike<number | bigint>, Number) }]));
  await session.release();
  return out;
}

/** Weights and inputs of an imported model by name, in float64. */
export function bindingsOf(m: Imported, inputs: Inputs): Record<string, NdArray> {
  const weights = [...m.weights].map(([name, w]) => [name, { dtype: "f32" as const, shape: w.shape, data: Float64Array.from(w.data) }] as const);
  const given = m.graph.inputs.map(({ value: { name, type } }) => [name, { ...type, data: Float64Array.from(inputs[name]?.data as ArrayLike<number>, Number) }] as const);
  return Object.fromEntries([...weights, ...given]);
}

/** The results of an imported model in float64. */
export const runImported = (m: Imported, inputs: Inputs): Record<string, NdArray> => evaluate(m.graph, bindingsOf(m, inputs));

/** float32 sums of up to a hundred terms of size 1: 100 roundings of 2^-24 each, and some to spare. */
const TOLERANCE = 1e-5;

export function expectClose(got: NdArray, wanted: { shape: readonly number[]; data: readonly number[] }, where: string): void {
  expect(got.shape, `${where}: shape`).toEqual([...wanted.shape]);
  const scale = Math.max(1, ...wanted.data.map((v) => (Number.isFinite(v) ? Math.abs(v) : 0)));
  wanted.data.forEach((v, k) => {
    const mine = got.data[k] as number;
    if (!(Math.abs(mine - v) <= TOLERANCE * scale) && !Object.is(mine, v)) expect.fail(`${where}: element ${k} is ${mine}, onnxruntime says ${v}`);
  });
}

/** Imports a model and holds every output to onnxruntime's. */
export async function expectAgrees(model: Uint8Array, seed = 1, scale = 1, shift = 0, options: Partial<ImportOptions> = {}): Promise<Imported> {
  const imported = importModel(loadModel(model), { mode: "eval", ...options });
  const inputs = seeded(imported.graph, seed, scale, shift);
  const [mine, theirs] = [runImported(imported, inputs), await runOrt(model, inputs)];
  for (const [name, wanted] of Object.entries(theirs)) expectClose(mine[name] as NdArray, wanted, `output "${name}", seed ${seed}`);
  return imported;
}
