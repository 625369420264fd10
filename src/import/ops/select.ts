/** Ops that take parts of tensors or join them, and masks: Slice, Split, Concat, OneHot, Trilu. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import type { NdArray } from "../../../ir/ndarray.js";
import { sameShape, size } from "../../../ir/type.js";
import { type Context, type ImportOp, scaledAxes } from "../context.js";
import { castTo, cut, reshape, spread } from "./common.js";
import { counted, oneHot } from "./gather.js";

/** numpy's start:end:step along one axis of n: first element and count. */
function range(n: number, start: number, end: number, step: number): { first: number; count: number } {
  const from = start < 0 ? start + n : start;
  const to = end < 0 ? end + n : end;
  if (step > 0) {
    const first = Math.min(Math.max(from, 0), n);
    return { first, count: Math.max(0, Math.ceil((Math.min(Math.max(to, 0), n) - first) / step)) };
  }
  const first = Math.min(Math.max(from, -1), n - 1);
  return { first, count: Math.max(0, Math.ceil((Math.min(Math.max(to, -1), n - 1) - first) / step)) };
}

function slice(c: Context): Value {
  let x = c.x(0);
  const rank = x.type.shape.length;
  const asInputs = c.opset >= 10;
  const starts = asInputs ? c.ints(1) : (c.intList("starts") ?? []);
  const ends = asInputs ? c.ints(2) : (c.intList("ends") ?? []);
  const named = asInputs ? (c.has(3) ? c.ints(3) : undefined) : c.intList("axes");
  const axes = (named && named.length > 0 ? named : starts.map((_, k) => k)).map((axis) => c.axis(axis, rank));
  const steps = asInputs && c.has(4) ? c.ints(4) : axes.map(() => 1);
  const old = c.oldShape(0);
  const scaled = scaledAxes(x.type.shape, old);
  axes.forEach((axis, k) => {
    const bounds = [starts[k] as number, ends[k] as number, steps[k] as number] as const;
    if (bounds[2] === 0) throw new CompileError("bad-model", "Slice: a step of 0", c.where);
    if (old && scaled.includes(axis)) {
      const before = range(old[axis] as number, ...bounds);
      if (before.first !== 0 || before.count !== old[axis] || bounds[2] !== 1) throw c.lost(`a part of axis ${axis} is taken, which carries the examples`);
      return;
    }
    const { first, count } = range(x.type.shape[axis] as number, ...bounds);
    x = cut(c, x, axis, count === 0 ? 0 : first, count, count === 0 ? 1 : bounds[2]);
  });
  return x;
}

/** Sizes as an attribute before opset 13, as an input since; else equal parts (the last may be smaller). */
function split(c: Context): Value[] {
  const x = c.x(0);
  const axis = c.axis(c.int("axis", 0), x.type.shape.length);
  const n = x.type.shape[axis] as number;
  const parts = c.node.outputs.length;
  if (c.opset >= 18 && c.int("num_outputs", parts) !== parts) throw new CompileError("bad-model", `Split: ${parts} outputs where num_outputs is ${c.int("num_outputs")}`, c.where);
  const given = c.opset < 13 ? c.intList("split") : c.has(1) ? c.ints(1) : undefined;
  const each = Math.ceil(n / parts);
  const sizes = given && given.length > 0 ? given : Array.from({ length: parts }, (_, k) => Math.max(0, Math.min(each, n - k * each)));
  if (parts > 1 && scaledAxes(x.type.shape, c.oldShape(0)).includes(axis)) throw c.lost(`axis ${axis} is split, which carries the examples`);
  if (sizes.length !== parts || sizes.some((m) => m < 0) || sizes.reduce((a, b) => a + b, 0) !== n)
    throw new CompileError("shape-mismatch", `Split: parts [${sizes}] of ${n} into ${parts}`, c.where);
  let at = 0;
  return sizes.map((count) => {
    const part = cut(c, x, axis, at, count);
    at += count;
    return part;
  });
}

/** Joins; an operand spelled for one example is repeated for all of the new batch. */
function concat(c: Context): Value {
  const rank = c.shape(0).length;
  const axis = c.axis(c.int("axis", 1), rank);
  // empty operands add nothing, whatever their other axes say
  let parts = c.all().filter((v) => v.type.shape[axis] !== 0 && !(v.type.shape.length === 1 && v.type.shape[0] === 0));
  if (parts.length === 0) return c.x(0);
  if (c.host.rebind) {
    const widest = parts.map((v) => v.type.shape).reduce((a, b) => a.map((n, k) => Math.max(n, b[k] ?? 0)));
    parts = parts.map((v) => spread(c, v, widest.map((n, k) => (k === axis ? (v.type.shape[k] as number) : n))));
  }
  return parts.length === 1 ? (parts[0] as Value) : c.emit("concat", parts, { axis });
}

/** [off, on] at the place of each index (negative ones count from the end; others that are no place are off everywhere). */
function onnxOneHot(c: Context): Value {
  const depth = c.number(1, 0);
  const rank = c.shape(0).length + 1;
  const axis = c.axis(c.int("axis", -1), rank);
  const hot = oneHot(c, counted(c, c.x(0), depth), depth);
  const moved = Array.from({ length: rank }, (_, k) => k).filter((k) => k !== rank - 1);
  moved.splice(axis, 0, rank - 1);
  const placed = axis === rank - 1 ? hot : c.emit("permute", [hot], { perm: moved });
  const values = c.numbers(2);
  if (values?.data[0] === 0 && values.data[1] === 1) return castTo(c, placed, c.dtype(2));
  const [off, on] = [0, 1].map((k) => spread(c, reshape(c, cut(c, c.x(2), 0, k, 1), []), placed.type.shape)) as [Value, Value];
  return c.emit("select", [castTo(c, placed, "bool"), on, off]);
}

/** The triangle of a matrix on or above (below) a diagonal; the rest is zero. */
function triangle(c: Context): Value {
  const x = c.x(0);
  const { shape } = x.type;
  const [rows, columns] = shape.slice(-2) as [number, number];
  const k = c.number(1, 0);
  const upper = c.int("upper", 1) !== 0;
  const mask: NdArray = { dtype: "bool", shape: [rows, columns], data: new Float64Array(rows * columns) };
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) mask.data[i * columns + j] = Number(upper ? j - i >= k : j - i <= k);
  const kept = spread(c, c.host.table(`${c.node.outputs[0]}.mask`, mask), shape);
  const zero = spread(c, c.scalar(0, x.type.dtype), shape);
  return size(shape) === 0 || sameShape(shape, []) ? x : c.emit("select", [kept, x, zero]);
}

export const selectOps: Readonly<Record<string, ImportOp>> = {
  Slice: slice, Split: split, Concat: concat, OneHot: onnxOneHot, Trilu: triangle,
};
