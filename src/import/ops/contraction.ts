/** Products of two tensors by labelled axes. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import type { Context } from "../context.js";
import { broadcast, sum } from "./common.js";

/** x with its axes at the places of their labels in `order`, repeated along the other ones. */
function placed(c: Context, x: Value, labels: string, order: string, sizes: ReadonlyMap<string, number>): Value {
  const sorted = [...labels].sort((a, b) => order.indexOf(a) - order.indexOf(b));
  const turned = sorted.join("") === labels ? x : c.emit("permute", [x], { perm: sorted.map((label) => labels.indexOf(label)) });
  return broadcast(c, turned, [...order].map((label) => sizes.get(label) as number), sorted.map((label) => order.indexOf(label)));
}

/**
 * left · right, summed over the labels that `out` lacks: spec "ij,jk->ik". A label stands at most once in each operand.
 *
 * Without a sum it is an elementwise product, which joins its neighbours' kernels. Integers are multiplied out and summed: contraction
 * kernels are for floats.
 */
export function contraction(c: Context, left: Value, right: Value, spec: string): Value {
  const [l, r, out] = spec.split(/,|->/) as [string, string, string];
  const summed = [...new Set([...l, ...r])].filter((label) => !out.includes(label));
  if (summed.length > 0 && left.type.dtype === "f32") return c.emit("contract", [left, right], { spec });
  const sizes = new Map([...l].map((label, k) => [label, left.type.shape[k] as number] as const));
  [...r].forEach((label, k) => {
    const n = right.type.shape[k] as number;
    if ((sizes.get(label) ?? n) !== n) throw new CompileError("shape-mismatch", `[${left.type.shape}] and [${right.type.shape}] do not fit "${spec}"`, c.where);
    sizes.set(label, n);
  });
  const order = out + summed.join("");
  const product = c.emit("mul", [placed(c, left, l, order, sizes), placed(c, right, r, order, sizes)]);
  return sum(c, product, summed.map((_, k) => out.length + k));
}
