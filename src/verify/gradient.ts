/** The gradient against central differences of the imported graph's loss. */
import { downstream } from "../../ir/grad.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { type Check, compared } from "./report.js";
import { evaluateFrom, type Known, normals, norm } from "./values.js";

/** Difference steps, relative to the size of a parameter's numbers. Rounding limits the small ones, curvature and kinks the large. */
const STEPS = [1e-4, 1e-5, 1e-6, 1e-3] as const;
/** The best of the steps has an error near 1e-9 where the loss is smooth there; a wrong formula is off by parts of 1. */
export const GRADIENT_ALLOWED = 1e-6;

export interface Differences {
  readonly graph: Graph;
  readonly forward: Known;
  readonly roots: readonly Value[];
  /** Mean loss of the batch from values of the roots. */
  readonly loss: (z: Known) => number;
}

/** ⟨∇, d⟩ of one parameter in a random direction against (L(p + h·d) − L(p − h·d)) / 2h. */
export function gradientCheck(d: Differences, param: Value, gradient: NdArray, seed: number, name = "finite differences"): Check {
  const next = normals(seed);
  const direction = gradient.data.map(() => next());
  const p = d.forward.get(param) as NdArray;
  const size = Math.max(0.01, norm(p.data) / Math.sqrt(p.data.length));
  const slope = direction.reduce((s, v, k) => s + v * (gradient.data[k] as number), 0);
  // errors are relative to the slope; where that is almost flat (a bias before batch normalisation has none), to a part of the largest
  // possible one, and to what rounding of the loss L leaves of differences: 1e-15·L / 1e-4·size
  const scale = Math.max(Math.abs(slope), 0.05 * norm(gradient.data), (1e-4 * Math.abs(d.loss(d.forward))) / size, Number.MIN_VALUE);
  const touched = downstream(d.graph.nodes, [param]);
  const base = new Map([...d.forward].filter(([v]) => !touched.has(v)));
  const at = (h: number): number => {
    const moved = ndarray(p.dtype, p.shape, p.data.map((x, k) => x + h * (direction[k] as number)));
    return d.loss(evaluateFrom(d.graph.nodes, new Map([...base, [param, moved]]), d.roots));
  };
  let [best, step] = [Number.POSITIVE_INFINITY, 0];
  for (const relative of STEPS) {
    const h = relative * size;
    const error = Math.abs((at(h) - at(-h)) / (2 * h) - slope) / scale;
    if (error < best) [best, step] = [error, relative];
    if (best <= GRADIENT_ALLOWED / 10) break;
  }
  return compared(name, best, GRADIENT_ALLOWED, `one random direction, step ${step}`);
}
