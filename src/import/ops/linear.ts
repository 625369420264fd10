/** Matrix products as contractions; transposes go into the labels. */
import { broadcastShape } from "../../../ir/builder.js";
import type { Value } from "../../../ir/graph.js";
import type { Context, ImportOp } from "../context.js";
import { reshape, spread, times } from "./common.js";

/** Y = alpha·A·B + beta·C. */
function gemm(c: Context): Value {
  const left = c.int("transA", 0) !== 0 ? "in" : "ni";
  const right = c.int("transB", 0) !== 0 ? "oi" : "io";
  const product = times(c, c.emit("contract", [c.x(0), c.x(1)], { spec: `${left},${right}->no` }), c.float("alpha", 1));
  if (!c.has(2)) return product;
  return c.emit("add", [product, spread(c, times(c, c.x(2), c.float("beta", 1)), product.type.shape)]);
}

/** Labels for leading axes; `i` is summed and `o` is the right operand's last axis. */
const LEADING = "ntsrqpmlkjhgfedcba";

/** NumPy's matmul: vectors, matrices, and stacks of matrices whose leading axes broadcast. */
function matmul(c: Context): Value {
  const [a, b] = [c.x(0), c.x(1)];
  const [as, bs] = [a.type.shape, b.type.shape];
  if (as.length === 0 || bs.length === 0) throw c.refuse("takes no scalars");
  const stackA = as.slice(0, -2);
  const stackB = bs.slice(0, -2);
  const stack = broadcastShape(stackA, stackB);
  const labels = LEADING.slice(0, stack.length);
  // an axis of 1 that the other operand repeats is left out of its labels
  const side = (mine: readonly number[]): { kept: number[]; labels: string } => {
    const shift = stack.length - mine.length;
    const kept = mine.flatMap((n, axis) => (n === stack[axis + shift] ? [axis] : []));
    return { kept, labels: kept.map((axis) => labels[axis + shift]).join("") };
  };
  const [l, r] = [side(stackA), side(stackB)];
  const row = as.length > 1 ? (LEADING[stack.length] as string) : "";
  const column = bs.length > 1 ? "o" : "";
  const left = reshape(c, a, [...l.kept.map((axis) => as[axis] as number), ...as.slice(-2)]);
  const right = reshape(c, b, [...r.kept.map((axis) => bs[axis] as number), ...bs.slice(-2)]);
  return c.emit("contract", [left, right], { spec: `${l.labels}${row}i,${r.labels}i${column}->${labels}${row}${column}` });
}

/** Two operands, every label at most once in each, no ellipsis. */
function einsum(c: Context): Value {
  const text = c.text("equation", "").replace(/\s/g, "");
  const match = /^([A-Za-z]+),([A-Za-z]+)(?:->([A-Za-z]*))?$/.exec(text);
  if (!match || c.count !== 2) throw c.refuse(`the equation "${text}" is not supported`, "write it with two operands and without an ellipsis");
  const [, left, right] = match as unknown as [string, string, string];
  const both = [...left, ...right];
  // without an arrow: labels that occur once, in alphabetical order
  const out = match[3] ?? both.filter((label) => both.indexOf(label) === both.lastIndexOf(label)).sort().join("");
  return c.emit("contract", [c.x(0), c.x(1)], { spec: `${left},${right}->${out}` });
}

export const linearOps: Readonly<Record<string, ImportOp>> = {
  Gemm: gemm,
  MatMul: matmul,
  Einsum: einsum,
};
