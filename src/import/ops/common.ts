/** Spellings shared by the importers of single ops. */
import type { Value } from "../../../ir/graph.js";
import { broadcastShape } from "../../../ir/builder.js";
import { CompileError } from "../../../ir/error.js";
import type { OpName } from "../../../ir/ops/names.js";
import { type DType, sameShape } from "../../../ir/type.js";
import type { Context } from "../context.js";

/** The lowest float32, in place of −∞: that has no place in a kernel's source, and −∞ − −∞ would be a NaN. */
export const LOWEST = -3.4028234663852886e38;

export const reshape = (c: Context, x: Value, shape: readonly number[]): Value =>
  sameShape(x.type.shape, shape) ? x : c.emit("reshape", [x], { shape: [...shape] });

/** x's axes placed at `axes` of a larger shape. */
export const broadcast = (c: Context, x: Value, shape: readonly number[], axes: readonly number[]): Value =>
  sameShape(x.type.shape, shape) ? x : c.emit("broadcast", [x], { shape: [...shape], axes: [...axes] });

/** NumPy broadcasting to a known shape. Only axes of 1 that must grow are taken out first. */
export function spread(c: Context, x: Value, shape: readonly number[]): Value {
  const from = x.type.shape;
  const shift = shape.length - from.length;
  const kept = from.flatMap((n, axis) => (n === shape[axis + shift] ? [axis] : []));
  if (shift < 0 || from.some((n, axis) => n !== 1 && n !== shape[axis + shift]))
    throw new CompileError("shape-mismatch", `[${from}] does not broadcast to [${shape}]`);
  const squeezed = reshape(c, x, kept.map((axis) => from[axis] as number));
  return broadcast(c, squeezed, shape, kept.map((axis) => axis + shift));
}

/** A slice along one axis; the others are whole. */
export function cut(c: Context, x: Value, axis: number, start: number, count: number, stride = 1): Value {
  const { shape } = x.type;
  if (start === 0 && count === shape[axis] && stride === 1) return x;
  return c.emit("slice", [x], {
    start: shape.map((_, k) => (k === axis ? start : 0)),
    size: shape.map((n, k) => (k === axis ? count : n)),
    stride: shape.map((_, k) => (k === axis ? stride : 1)),
  });
}

/** x as another element type. */
export const castTo = (c: Context, x: Value, dtype: DType): Value => (x.type.dtype === dtype ? x : c.emit("cast", [x], { dtype }));

/** The number at every place of a tensor like x. */
export const like = (c: Context, value: number, x: Value): Value => broadcast(c, c.scalar(value, x.type.dtype), x.type.shape, []);

/** An elementwise op with NumPy broadcasting of its operands. */
export function elementwise(c: Context, op: OpName, inputs: readonly Value[]): Value {
  const shape = inputs.map((v) => v.type.shape).reduce((a, b) => broadcastShape(a, b));
  return c.emit(op, inputs.map((v) => spread(c, v, shape)));
}

export const add = (c: Context, x: Value, y: Value): Value => elementwise(c, "add", [x, y]);
export const mul = (c: Context, x: Value, y: Value): Value => elementwise(c, "mul", [x, y]);
export const times = (c: Context, x: Value, factor: number): Value => (factor === 1 ? x : c.emit("mul", [x, like(c, factor, x)]));
export const plus = (c: Context, x: Value, term: number): Value => (term === 0 ? x : c.emit("add", [x, like(c, term, x)]));

/** A vector along one axis of a shape: a bias or scale per channel. */
export const along = (c: Context, v: Value, shape: readonly number[], axis: number): Value => c.emit("broadcast", [v], { shape: [...shape], axes: [axis] });

export const sum = (c: Context, x: Value, axes: readonly number[]): Value => (axes.length === 0 ? x : c.emit("reduce_sum", [x], { axes: [...axes] }));

/** Mean over axes (ascending), which are dropped. */
export function mean(c: Context, x: Value, axes: readonly number[]): Value {
  const n = axes.reduce((product, axis) => product * (x.type.shape[axis] as number), 1);
  return times(c, sum(c, x, axes), 1 / n);
}

/** A reduced tensor back at the places of the axes that were kept, repeated along the others. */
export const restore = (c: Context, x: Value, shape: readonly number[], reduced: readonly number[]): Value =>
  broadcast(c, x, shape, shape.flatMap((_, axis) => (reduced.includes(axis) ? [] : [axis])));

/** (x − mean) / √(variance + epsilon) over axes; also the mean and 1/√… over the kept axes. */
export function standardize(c: Context, x: Value, axes: readonly number[], epsilon: number): { y: Value; mean: Value; variance: Value; inverse: Value } {
  const { shape } = x.type;
  const center = mean(c, x, axes);
  const centered = c.emit("sub", [x, restore(c, center, shape, axes)]);
  const variance = mean(c, c.emit("mul", [centered, centered]), axes);
  const inverse = c.emit("reciprocal", [c.emit("sqrt", [plus(c, variance, epsilon)])]);
  return { y: c.emit("mul", [centered, restore(c, inverse, shape, axes)]), mean: center, variance, inverse };
}

/** √x of sums of squares. Its derivative at 0 is taken as 0, as PyTorch has it for norms: 0 · ∞ would be no number. */
export function root(c: Context, x: Value): Value {
  const nothing = c.emit("eq", [x, like(c, 0, x)]);
  return c.emit("select", [nothing, like(c, 0, x), c.emit("sqrt", [c.emit("select", [nothing, like(c, 1, x), x])])]);
}

/** x with its order turned round: −x, but of integers −1 − x, which no integer overflows. */
export const reversed = (c: Context, x: Value): Value => (x.type.dtype === "f32" ? c.emit("neg", [x]) : c.emit("sub", [like(c, -1, x), x]));
