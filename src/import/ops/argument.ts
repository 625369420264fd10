/** Where the largest (or smallest) elements are: ArgMax, ArgMin, Hardmax. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import { strides } from "../../../ir/type.js";
import type { Context, ImportOp } from "../context.js";
import { castTo, cut, like, reshape, restore, reversed, times } from "./common.js";

/** Index of the first (or last) largest or smallest element along an axis. */
const argument = (largest: boolean): ImportOp => (c) => {
  const { shape } = c.x(0).type;
  const axis = c.axis(c.int("axis", 0), shape.length);
  const n = shape[axis] as number;
  if (n === 0) throw new CompileError("shape-mismatch", `${c.node.op}: axis ${axis} of [${shape}] has no elements`, c.where);
  const ranked = largest ? c.x(0) : reversed(c, c.x(0));
  const last = c.int("select_last_index", 0) !== 0;
  const first = c.emit("reduce_argmax", [last ? cut(c, ranked, axis, n - 1, n, -1) : ranked], { axes: [axis] });
  const y = last ? c.emit("sub", [like(c, n - 1, first), first]) : first;
  return c.int("keepdims", 1) !== 0 ? reshape(c, y, shape.map((m, k) => (k === axis ? 1 : m))) : y;
};

/** The row-major number of each element inside the given axes. */
function numbered(c: Context, shape: readonly number[], axes: readonly number[]): Value {
  const step = strides(axes.map((axis) => shape[axis] as number));
  return axes.map((axis, k) => times(c, c.emit("iota", [], { shape: [...shape], axis }), step[k] as number)).reduce((a, b) => c.emit("add", [a, b]));
}

/** 1 at the first largest element along an axis (before opset 13: of all axes from it on), else 0. */
function hardmax(c: Context): Value {
  const x = c.x(0);
  const { shape } = x.type;
  const axis = c.axis(c.int("axis", c.opset < 13 ? 1 : -1), shape.length);
  const axes = c.opset < 13 ? shape.flatMap((_, k) => (k >= axis ? [k] : [])) : [axis];
  const first = c.emit("reduce_argmax", [x], { axes });
  return castTo(c, c.emit("eq", [restore(c, first, shape, axes), numbered(c, shape, axes)]), x.type.dtype);
}

export const argumentOps: Readonly<Record<string, ImportOp>> = { ArgMax: argument(true), ArgMin: argument(false), Hardmax: hardmax };
