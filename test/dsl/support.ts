/** For tests of front ends: graphs without the names that a front end is free to choose, and numbers to run them on. */
import { evaluate } from "../../ir/evaluate.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { uniformAt } from "../../ir/ops/source.js";
import { runPasses } from "../../ir/pass.js";
import { CANONICAL } from "../../ir/passes/index.js";
import { print } from "../../ir/print.js";
import { size } from "../../ir/type.js";

/** Canonical text with parameters, inputs, values and results numbered in order, without origins and sources. */
export function anonymous(graph: Graph): string {
  const g = runPasses(graph, CANONICAL, { verify: true });
  const renamed = new Map<Value, Value>();
  const rename = (v: Value, name: string): Value => {
    const made = renamed.get(v) ?? { name, type: v.type };
    renamed.set(v, made);
    return made;
  };
  const params = g.params.map((p, k) => ({ ...p, value: rename(p.value, `p${k}`), source: { kind: "file" } as const }));
  const inputs = g.inputs.map((i, k) => ({ ...i, value: rename(i.value, `x${k}`) }));
  const nodes = g.nodes.map(({ op, attrs, inputs: operands, results }, k) => ({
    op, attrs, regions: [], inputs: operands.map((v) => renamed.get(v) as Value), results: results.map((r) => rename(r, `v${k}`)),
  }));
  return print({ name: "g", params, inputs, nodes, results: g.results.map((r, k) => ({ name: `y${k}`, value: renamed.get(r.value) as Value })) });
}

/** Numbers in (-1, 1), a function of seed and element. */
export const numbers = (shape: readonly number[], seed: number, dtype: "f32" | "i32" = "f32", below = 2): NdArray =>
  ndarray(dtype, shape, Float64Array.from({ length: size(shape) }, (_, k) => {
    const u = uniformAt(k, seed, 7, 0);
    return dtype === "i32" ? Math.floor(u * below) : 2 * u - 1;
  }));

/** Runs a graph in float64 on given inputs and its weights. */
export function run(
  { graph, weights }: { readonly graph: Graph; readonly weights: ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: Float32Array }> },
  inputs: Readonly<Record<string, NdArray>>,
): Record<string, NdArray> {
  const params = Object.fromEntries([...weights].map(([name, w]) => [name, ndarray("f32", w.shape, Float64Array.from(w.data))]));
  return evaluate(graph, { ...params, ...inputs });
}
