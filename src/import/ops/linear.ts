/** Matrix products as contractions; transposes go into the labels. */
import { broadcastShape } from "../../../ir/builder.js";
import type { Value } from "../../../ir/graph.js";
import type { Context, ImportOp } from "../context.js";
import { activate } from "./activation.js";
import { reshape, spread, times } from "./common.js";
import { contraction } from "./contraction.js";
import { einsum } from "./einsum.js";

/** x · factor; integers only by whole numbers. */
function scaled(c: Context, x: Value, name: string): Value {
  const factor = c.float(name, 1);
  if (x.type.dtype !== "f32" && !Number.isInteger(factor)) throw c.refuse(`integers times ${name} = ${factor} are not supported`);
  return times(c, x, factor);
}

/** Y = alpha·A·B + beta·C. */
function gemm(c: Context): Value {
  const left = c.int("transA", 0) !== 0 ? "in" : "ni";
  const right = c.int("transB", 0) !== 0 ? "oi" : "io";
  const product = scaled(c, contraction(c, c.x(0), c.x(1), `${left},${right}->no`), "alpha");
  if (!c.has(2)) return product;
  return c.emit("add", [product, spread(c, scaled(c, c.x(2), "beta"), product.type.shape)]);
}

/** Labels for leading axes; `i` is summed and `o` is the right operand's last axis. */
const LEADING = "ntsrqpmlkjhgfedcba";

/** NumPy's matmul: vectors, matrices, and stacks of matrices whose leading axes broadcast. Matrices may be read transposed. */
function matmul(c: Context, a: Value, b: Value, transA = false, transB = false): Value {
  const [as, bs] = [a.type.shape, b.type.shape];
  if (as.length === 0 || bs.length === 0) throw c.refuse("takes no scalars");
  const stackA = as.slice(0, -2);
  const stackB = bs.slice(0, -2);
  const stack = broadcastShape(stackA, stackB);
  if (stack.length >= LEADING.length) throw c.refuse(`more than ${LEADING.length + 1} dimensions are not supported`);
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
  const [mine, its] = [transA ? `i${row}` : `${row}i`, transB ? `${column}i` : `i${column}`];
  return contraction(c, left, right, `${l.labels}${mine},${r.labels}${its}->${labels}${row}${column}`);
}

/** The first axis goes behind the other stacked ones: [m, b…, k] → [b…, m, k]. */
function behind(c: Context, x: Value, wanted: boolean): Value {
  const rank = x.type.shape.length;
  return wanted && rank > 2 ? c.emit("permute", [x], { perm: [...Array.from({ length: rank - 2 }, (_, k) => k + 1), 0, rank - 1] }) : x;
}

/** alpha · A · B, each read transposed where an attribute says so. */
function fusedMatmul(c: Context): Value {
  const on = (name: string): boolean => c.int(name, 0) !== 0;
  return scaled(c, matmul(c, behind(c, c.x(0), on("transBatchA")), behind(c, c.x(1), on("transBatchB")), on("transA"), on("transB")), "alpha");
}

/** Gemm with an activation behind it, whose own attributes are called activation_…. */
function fusedGemm(c: Context): Value {
  return activate(c, gemm(c), c.text("activation", ""), (name, fallback) => c.float(`activation_${name}`, fallback));
}

export const linearOps: Readonly<Record<string, ImportOp>> = {
  Gemm: gemm,
  MatMul: (c) => matmul(c, c.x(0), c.x(1)),
  Einsum: einsum,
  "com.microsoft.FusedMatMul": fusedMatmul,
  "com.microsoft.TransposeMatMul": fusedMatmul,
  "com.microsoft.FusedGemm": fusedGemm,
};
