/**
 * The Fisher of a model as one dense matrix in float64: Jacobians of every example run alone, output Hessians and slopes written out.
 * Parameters are joined in the order of the graph.
 */
import { Builder, full } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import { cotangents } from "../../ir/grad.js";
import type { Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { size } from "../../ir/type.js";
import { eachElement } from "../../runtime/matrix.js";
import type { LayerInfo } from "../../runtime/artifact.js";
import type { Vector } from "../../runtime/kronecker.js";
import { prune } from "../../src/train/step-model.js";
import type { Forward } from "../support/models.js";

export type Matrix = number[][];

export interface Case {
  readonly forward: Forward;
  readonly loss: "softmax-ce" | "half-sse";
  /** [N, ..], by input. */
  readonly inputs: Readonly<Record<string, NdArray>>;
  /** softmax-ce: [N] classes; half-sse: as the output. */
  readonly target: NdArray;
  readonly weight?: readonly number[];
}

export const rows = (a: NdArray, start: number, count: number): NdArray => {
  const per = size(a.shape.slice(1));
  return ndarray(a.dtype, [count, ...a.shape.slice(1)], a.data.slice(start * per, (start + count) * per));
};

/** Names and shapes of the trainable parameters, joined in this order. */
export const paramsOf = (forward: Forward): readonly { readonly name: string; readonly shape: readonly number[] }[] =>
  forward(1).graph.params.filter((p) => p.trainable).map(({ value: { name, type } }) => ({ name, shape: type.shape }));

export function join(forward: Forward, v: Vector): number[] {
  return paramsOf(forward).flatMap(({ name }) => [...(v[name]?.data ?? [])]);
}
export function split(forward: Forward, x: readonly number[]): Vector {
  let at = 0;
  return Object.fromEntries(paramsOf(forward).map(({ name, shape }) => {
    at += size(shape);
    return [name, { shape, data: Float64Array.from(x.slice(at - size(shape), at)) }];
  }));
}

/** z and ∂z/∂θ of one example. */
function jacobian(forward: Forward, inputs: Readonly<Record<string, NdArray>>, n: number): { readonly z: number[]; readonly J: Matrix } {
  const { graph, outputs, weights } = forward(1);
  const b = Builder.from(graph);
  const z = outputs[0]?.value as Value;
  const seed = b.input("seed", z.type);
  const params = graph.params.filter((p) => p.trainable).map((p) => p.value);
  const cts = cotangents(b, new Map([[z, seed]]), params);
  const made = prune(b.finish([{ name: "z·", value: z }, ...params.map((p) => ({ name: `d/${p.name}`, value: cts.get(p) ?? full(b, p.type, 0) }))]));
  const given = {
    ...Object.fromEntries([...weights].map(([name, w]) => [name, ndarray("f32", w.shape, Float64Array.from(w.data))])),
    ...Object.fromEntries(Object.entries(inputs).map(([name, a]) => [name, rows(a, n, 1)])),
  };
  const K = size(z.type.shape);
  const run = (k: number) => evaluate(made, { ...given, seed: ndarray("f32", z.type.shape, Float64Array.from({ length: K }, (_, i) => Number(i === k))) });
  const results = Array.from({ length: K }, (_, k) => run(k));
  return { z: [...((results[0] as Record<string, NdArray>)["z·"] as NdArray).data], J: results.map((r) => params.flatMap((p) => [...(r[`d/${p.name}`] as NdArray).data])) };
}

export function denseFisher({ forward, loss, inputs, target, weight }: Case, kind: "exact" | "empirical"): Matrix {
  const N = target.shape[0] as number;
  const total = weight ? weight.reduce((a, b) => a + b) : N;
  let F: Matrix = [];
  for (let n = 0; n < N; n++) {
    const { z, J } = jacobian(forward, inputs, n);
    const P = J[0]?.length ?? 0;
    if (n === 0) F = Array.from({ length: P }, () => new Array<number>(P).fill(0));
    const w = (weight?.[n] ?? 1) / total;
    const sum = z.reduce((t, v) => t + Math.exp(v), 0);
    const p = z.map((v) => Math.exp(v) / sum);
    const t = rows(target, n, 1).data;
    const at = (k: number, i: number) => J[k]?.[i] as number;
    if (kind === "empirical") {
      const slope = z.map((v, k) => (loss === "half-sse" ? v - (t[k] as number) : (p[k] as number) - Number(k === t[0])));
      const g = Array.from({ length: P }, (_, i) => slope.reduce((s, x, k) => s + x * at(k, i), 0));
      for (let i = 0; i < P; i++) for (let j = 0; j < P; j++) (F[i] as number[])[j] = (F[i]?.[j] as number) + w * (g[i] as number) * (g[j] as number);
      continue;
    }
    z.forEach((_, k) => z.forEach((_, l) => {
      const h = loss === "half-sse" ? Number(k === l) : (p[k] as number) * (Number(k === l) - (p[l] as number));
      if (h === 0) return;
      for (let i = 0; i < P; i++) for (let j = 0; j < P; j++) (F[i] as number[])[j] = (F[i]?.[j] as number) + w * h * at(k, i) * at(l, j);
    }));
  }
  return F;
}

/** Zero between layers, between groups of a layer, and where there is no layer. */
export function blocksOnly(F: Matrix, forward: Forward, layers: readonly LayerInfo[]): Matrix {
  const owner = new Map<string, string>();
  for (const l of layers) eachElement(l, (m, param, k) => owner.set(`${param} ${k}`, `${l.name} ${Math.floor(m / (l.dA * l.dG))}`));
  const of = paramsOf(forward).flatMap(({ name, shape }) => Array.from({ length: size(shape) }, (_, k) => owner.get(`${name} ${k}`)));
  return F.map((row, i) => row.map((x, j) => (of[i] !== undefined && of[i] === of[j] ? x : 0)));
}

export const apply = (m: Matrix, v: readonly number[]): number[] => m.map((row) => row.reduce((s, x, k) => s + x * (v[k] as number), 0));
