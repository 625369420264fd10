/**
 * A contraction with a one-hot operand is a look-up, or the sum that undoes one: what an embedding and its gradient look like once layers
 * are registered (registration wants the contraction, see src/kfac/sites.ts).
 */
import type { Value } from "../graph.js";
import { intAttr, intsAttr, stringAttr } from "../op.js";
import { parseSpec } from "../ops/reduction.js";
import type { Pass } from "../pass.js";
import { size } from "../type.js";
import { type Rule, rewrite, type Scope } from "./rewrite.js";

interface OneHot {
  readonly index: Value;
  /** The axis along which one element is 1; the others are the index's, in order. */
  readonly axis: number;
  readonly rows: number;
}

/** [index = number along an axis] as 0 and 1. */
function oneHotOf(v: Value, scope: Scope): OneHot | undefined {
  const cast = scope.producer(v);
  const eq = cast?.op === "cast" ? scope.producer(cast.inputs[0] as Value) : undefined;
  if (eq?.op !== "eq") return undefined;
  for (const [a, b] of [eq.inputs, [...eq.inputs].reverse()] as [Value, Value][]) {
    const [counted, repeated] = [scope.producer(b), scope.producer(a)];
    if (counted?.op !== "iota" || repeated?.op !== "broadcast") continue;
    const axis = intAttr(counted.attrs, "axis");
    const index = repeated.inputs[0] as Value;
    const axes = intsAttr(repeated.attrs, "axes");
    if (index.type.dtype !== "i32" || axes.length !== v.type.shape.length - 1 || axes.includes(axis)) continue;
    return { index, axis, rows: v.type.shape[axis] as number };
  }
  return undefined;
}

const lookup: Rule = (node, scope) => {
  const spec = parseSpec(stringAttr(node.attrs, "spec"));
  for (const k of [0, 1]) {
    const hot = oneHotOf(node.inputs[k] as Value, scope);
    if (hot) {
      const made = rewritten(hot, k === 0 ? spec.left : spec.right, node.inputs[1 - k] as Value, k === 0 ? spec.right : spec.left, spec.out, scope);
      if (made) return made;
    }
  }
  return undefined;
};

function rewritten({ index, axis, rows }: OneHot, hot: string, other: Value, its: string, out: string, { emit }: Scope): Value | undefined {
  const row = hot[axis] as string;
  const places = [...hot].filter((label) => label !== row);
  const extent = (label: string): number => other.type.shape[its.indexOf(label)] as number;
  const arranged = (v: Value, labels: readonly string[], order: readonly string[]): Value =>
    labels.join() === order.join() ? v : emit("permute", [v], { perm: order.map((label) => labels.indexOf(label)) });
  const flat = emit("reshape", [index], { shape: [1, size(index.type.shape)] });
  if (!out.includes(row) && its.includes(row) && places.every((label) => out.includes(label) && !its.includes(label))) {
    const rest = [...its].filter((label) => label !== row);
    if (rest.some((label) => !out.includes(label))) return undefined;
    const table = emit("reshape", [arranged(other, [...its], [row, ...rest])], { shape: [1, rows, size(rest.map(extent))] });
    const made = emit("reshape", [emit("gather", [table, flat])], { shape: [...index.type.shape, ...rest.map(extent)] });
    return arranged(made, [...places, ...rest], [...out]);
  }
  if (out.includes(row) && !its.includes(row) && places.every((label) => !out.includes(label) && its.includes(label))) {
    const rest = [...its].filter((label) => !places.includes(label));
    if (rest.some((label) => !out.includes(label))) return undefined;
    const value = emit("reshape", [arranged(other, [...its], [...places, ...rest])], { shape: [1, size(index.type.shape), size(rest.map(extent))] });
    const made = emit("reshape", [emit("scatter", [value, flat], { rows })], { shape: [rows, ...rest.map(extent)] });
    return arranged(made, [row, ...rest], [...out]);
  }
  return undefined;
}

export const lookups: Pass = {
  name: "lookups",
  doc: "Contractions with a one-hot operand are gathers and scatters. Run it after registration, which looks for the contractions.",
  run: (graph) => rewrite(graph, { contract: [lookup] }),
};
