/** Ops that take parts of tensors or join them: Slice, Split, Gather, Pad, Concat. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import type { NdArray } from "../../../ir/ndarray.js";
import { sameShape, size } from "../../../ir/type.js";
import { type Context, type ImportOp, scaledAxes } from "../context.js";
import { broadcast, reshape, spread } from "./common.js";

/** A slice along one axis; the others are whole. */
function cut(c: Context, x: Value, axis: number, start: number, count: number, stride = 1): Value {
  const { shape } = x.type;
  if (start === 0 && count === shape[axis] && stride === 1) return x;
  return c.emit("slice", [x], {
    start: shape.map((_, k) => (k === axis ? start : 0)),
    size: shape.map((n, k) => (k === axis ? count : n)),
    stride: shape.map((_, k) => (k === axis ? stride : 1)),
  });
}

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
  const given = c.opset < 13 ? c.intList("split") : c.has(1) ? c.ints(1) : undefined;
  const each = Math.ceil(n / parts);
  const sizes = given && given.length > 0 ? given : Array.from({ length: parts }, (_, k) => Math.min(each, n - k * each));
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

/** More parts than this are not worth a slice each. */
const MAX_CUTS = 32;

/** Rows of x along an axis: known ones by slices, others by a contraction with their one-hot rows (negative ones give zeros). */
function gather(c: Context): Value {
  const rank = c.shape(0).length;
  const axis = c.axis(c.int("axis", 0), rank);
  if (scaledAxes(c.shape(0), c.oldShape(0)).includes(axis)) throw c.lost(`axis ${axis} is indexed, which carries the examples`);
  const x = c.x(0);
  const n = x.type.shape[axis] as number;
  const indexShape = c.shape(1);
  const result = [...x.type.shape.slice(0, axis), ...indexShape, ...x.type.shape.slice(axis + 1)];
  const known = c.numbers(1);
  if (known) {
    const list = [...known.data].map((i) => (i < 0 ? i + n : i));
    if (list.some((i) => i < 0 || i >= n)) throw new CompileError("shape-mismatch", `Gather: an index is outside the ${n} elements of axis ${axis}`, c.where);
    const step = list.length > 1 ? (list[1] as number) - (list[0] as number) : 1;
    if (step !== 0 && list.every((i, k) => i === (list[0] as number) + k * step)) return reshape(c, cut(c, x, axis, list[0] ?? 0, list.length, step), result);
    if (list.length <= MAX_CUTS) return reshape(c, c.emit("concat", list.map((i) => cut(c, x, axis, i, 1)), { axis }), result);
  }
  return c.emit("contract", [oneHot(c, c.x(1), n), x], { spec: gatherSpec(indexShape.length, rank, axis) });
}

/** f32[…index, n]: 1 where the last axis is the index. */
function oneHot(c: Context, index: Value, n: number): Value {
  const shape = [...index.type.shape, n];
  const places = c.emit("iota", [], { shape, axis: shape.length - 1 });
  const wanted = broadcast(c, index, shape, index.type.shape.map((_, axis) => axis));
  return c.emit("cast", [c.emit("eq", [wanted, places])], { dtype: "f32" });
}

function gatherSpec(indexRank: number, rank: number, axis: number): string {
  const index = "ntsrqp".slice(0, indexRank);
  const data = Array.from({ length: rank }, (_, k) => (k === axis ? "i" : ("oabcdefgh"[k > axis ? k - 1 : k] as string)));
  return `${index}i,${data.join("")}->${data.slice(0, axis).join("")}${index}${data.slice(axis + 1).join("")}`;
}

/** Amounts: attribute before opset 11. Negative amounts cut. */
function pad(c: Context): Value {
  const mode = c.text("mode", "constant");
  if (mode !== "constant") throw c.refuse(`mode "${mode}" is not supported`, "only constant padding is");
  let x = c.x(0);
  const rank = x.type.shape.length;
  const amounts = c.opset < 11 ? (c.intList("pads") ?? []) : c.ints(1);
  const value = c.opset < 11 ? c.float("value", 0) : c.number(2, 0);
  const axes = c.opset >= 18 && c.has(3) ? c.ints(3).map((axis) => c.axis(axis, rank)) : x.type.shape.map((_, axis) => axis);
  if (amounts.length !== 2 * axes.length) throw new CompileError("bad-model", `Pad: ${amounts.length} amounts for ${axes.length} axes`, c.where);
  const [low, high] = [new Array<number>(rank).fill(0), new Array<number>(rank).fill(0)];
  axes.forEach((axis, k) => {
    low[axis] = amounts[k] as number;
    high[axis] = amounts[axes.length + k] as number;
  });
  for (const axis of scaledAxes(x.type.shape, c.oldShape(0))) if (low[axis] !== 0 || high[axis] !== 0) throw c.lost(`axis ${axis} is padded, which carries the examples`);
  for (let axis = 0; axis < rank; axis++) {
    const [l, h] = [Math.max(0, -(low[axis] as number)), Math.max(0, -(high[axis] as number))];
    x = cut(c, x, axis, l, (x.type.shape[axis] as number) - l - h);
  }
  const [before, after] = [low.map((n) => Math.max(0, n)), high.map((n) => Math.max(0, n))];
  return [...before, ...after].every((n) => n === 0) ? x : c.emit("pad", [x], { low: before, high: after, value });
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

/** [off, on] at the place of each index. Indices known at import or computed. */
function onnxOneHot(c: Context): Value {
  const depth = c.number(1, 0);
  const index = c.x(0);
  const rank = index.type.shape.length + 1;
  const axis = c.axis(c.int("axis", -1), rank);
  const values = c.numbers(2);
  if (!values) throw c.refuse("the values must be known when the model is compiled");
  const [off, on] = [...values.data] as [number, number];
  const whole = index.type.dtype === "i32" ? index : c.emit("cast", [index], { dtype: "i32" });
  const hot = oneHot(c, whole, depth);
  const scaled = off === 0 && on === 1 ? hot : c.emit("add", [
    c.emit("mul", [hot, spread(c, c.scalar(on - off), hot.type.shape)]), spread(c, c.scalar(off), hot.type.shape)]);
  const moved = Array.from({ length: rank }, (_, k) => k).filter((k) => k !== rank - 1);
  moved.splice(axis, 0, rank - 1);
  return axis === rank - 1 ? scaled : c.emit("permute", [scaled], { perm: moved });
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
  Slice: slice, Split: split, Gather: gather, Pad: pad, Concat: concat, OneHot: onnxOneHot, Trilu: triangle,
};
