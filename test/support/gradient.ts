/** Reverse mode against finite differences, in float64, along one random direction through all float inputs and trainable weights. */
import { expect } from "vitest";
import { Builder } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import { cotangents } from "../../ir/grad.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { size } from "../../ir/type.js";
import { random } from "./onnx-run.js";

type Bindings = Readonly<Record<string, NdArray>>;

/** Step of the difference: its error is about h⁴ plus 1e-16/h, far below what is allowed, and few kinks lie that near. */
const STEP = 1e-5;
const ALLOWED = 1e-7;

/** Derivative along the direction, by reverse mode and by a five-point difference, of a random weighting of all float results. */
export function directional(graph: Graph, at: Bindings, seed: number): { readonly reverse: number; readonly difference: number; readonly scale: number } {
  const outputs = graph.results.filter((r) => r.value.type.dtype === "f32");
  const weights = outputs.map((r, k) => Float64Array.from(random(size(r.value.type.shape), seed + 11 * k)));
  const wanted = [...graph.params.filter((p) => p.trainable), ...graph.inputs].map((p) => p.value).filter((v) => v.type.dtype === "f32");
  const along = new Map(wanted.map((v, k) => [v, Float64Array.from(random(size(v.type.shape), seed + 7 * k + 1))] as const));

  const b = Builder.from(graph);
  const seeds = new Map<Value, Value>();
  const named: Record<string, NdArray> = { ...at };
  outputs.forEach((r, k) => {
    const weight = b.input(b.fresh("weight"), r.value.type);
    named[weight.name] = ndarray("f32", r.value.type.shape, weights[k] as Float64Array);
    // one value may be two outputs
    const before = seeds.get(r.value);
    seeds.set(r.value, before ? b.emit("add", [before, weight]) : weight);
  });
  const found = cotangents(b, seeds, wanted);
  const gradients = evaluate(b.finish([...found].map(([v, ct]) => ({ name: v.name, value: ct }))), named);
  let [reverse, scale] = [0, 0];
  for (const v of found.keys()) {
    const g = gradients[v.name] as NdArray;
    (along.get(v) as Float64Array).forEach((d, k) => {
      reverse += d * (g.data[k] as number);
      scale += Math.abs(d * (g.data[k] as number));
    });
  }
  const value = (h: number): number => {
    const moved = Object.fromEntries(wanted.map((v) => [v.name, ndarray("f32", v.type.shape, (at[v.name] as NdArray).data.map((x, k) => x + h * ((along.get(v) as Float64Array)[k] as number)))]));
    const results = evaluate(graph, { ...at, ...moved });
    return outputs.reduce((sum, r, k) => sum + (results[r.name] as NdArray).data.reduce((total, x, i) => total + x * ((weights[k] as Float64Array)[i] as number), 0), 0);
  };
  const difference = (8 * (value(STEP) - value(-STEP)) - (value(2 * STEP) - value(-2 * STEP))) / (12 * STEP);
  return { reverse, difference, scale };
}

/** Fails unless both derivatives agree. A graph without float results or float inputs has none. */
export function expectGradient(graph: Graph, at: Bindings, seed: number): void {
  const { reverse, difference, scale } = directional(graph, at, seed);
  if (!(Math.abs(reverse - difference) <= ALLOWED * Math.max(1, scale)))
    expect.fail(`the derivative is ${difference} by differences, ${reverse} by reverse mode (seed ${seed})`);
}
