/** Reductions over axes. */
import type { Value } from "../../../ir/graph.js";
import { size } from "../../../ir/type.js";
import type { Context, ImportOp } from "../context.js";
import { broadcast, castTo, cut, like, mean, reshape, restore, reversed, root, sum } from "./common.js";
import { permuted } from "./gather.js";

type Reduce = (c: Context, x: Value, axes: readonly number[]) => Value;

/** Opset since which the axes of an op are an input. */
const AXES_INPUT: Readonly<Record<string, number>> = { ReduceSum: 13 };

/** Ascending axes; all of them if none are named; undefined: nothing is to be reduced. */
function reducedAxes(c: Context): number[] | undefined {
  const rank = c.shape(0).length;
  const asInput = c.opset >= (AXES_INPUT[c.node.op] ?? 18);
  const named = asInput ? (c.has(1) ? c.ints(1) : []) : (c.intList("axes") ?? []);
  if (named.length === 0) return c.int("noop_with_empty_axes", 0) !== 0 ? undefined : Array.from({ length: rank }, (_, axis) => axis);
  return [...new Set(named.map((axis) => c.axis(axis, rank)))].sort((a, b) => a - b);
}

const keptShape = (shape: readonly number[], axes: readonly number[]): number[] => shape.filter((_, axis) => !axes.includes(axis));
/** How many elements are reduced to one. */
const taken = (x: Value, axes: readonly number[]): number => size(axes.map((axis) => x.type.shape[axis] as number));

const reduction = (f: Reduce): ImportOp => (c) => {
  const axes = reducedAxes(c);
  const x = c.x(0);
  // with no axes given an op may still be told to leave them all; what it does to each element remains
  if (!axes) return f(c, x, []);
  const y = f(c, x, axes);
  return c.int("keepdims", 1) !== 0 ? reshape(c, y, x.type.shape.map((n, axis) => (axes.includes(axis) ? 1 : n))) : y;
};

/** Of numbers, or of floats only. */
const numbers = (f: Reduce): Reduce => (c, x, axes) => {
  if (x.type.dtype === "bool") throw c.refuse("truth values are not supported", "cast them first");
  return f(c, x, axes);
};
const real = (f: Reduce): Reduce => (c, x, axes) => {
  if (x.type.dtype !== "f32") throw c.refuse("integers are not supported", "cast them to float first");
  return f(c, x, axes);
};

const square = (c: Context, x: Value): Value => c.emit("mul", [x, x]);

/** Integers are divided towards zero. */
const average: Reduce = (c, x, axes) => {
  if (x.type.dtype === "f32") return mean(c, x, axes);
  const n = taken(x, axes);
  if (n === 0) throw c.refuse("a mean of no integers");
  const total = sum(c, x, axes);
  return c.emit("div", [total, like(c, n, total)]);
};

/** Of no elements: the number that every other exceeds. Of truth values: whether one holds. */
const largest: Reduce = (c, x, axes) => {
  if (axes.length === 0) return x;
  if (x.type.dtype === "bool") return castTo(c, largest(c, castTo(c, x, "i32"), axes), "bool");
  if (taken(x, axes) > 0) return c.emit("reduce_max", [x], { axes: [...axes] });
  return broadcast(c, c.scalar(x.type.dtype === "f32" ? -Infinity : -(2 ** 31), x.type.dtype), keptShape(x.type.shape, axes), []);
};

/** The largest the other way round. Of no truth values: all hold. */
const smallest: Reduce = (c, x, axes) => {
  if (axes.length === 0) return x;
  if (x.type.dtype === "bool") return c.emit("not", [largest(c, c.emit("not", [x]), axes)]);
  return reversed(c, largest(c, reversed(c, x), axes));
};

const FINITE = 3.4028234663852886e38;

/** Shifted by the largest element, so that no exponential overflows; an infinite one shifts nothing. */
const logSumExp: Reduce = (c, x, axes) => {
  if (axes.length === 0) return x;
  const peak = c.emit("detach", [largest(c, x, axes)]);
  const top = c.emit("select", [c.emit("le", [c.emit("abs", [peak]), like(c, FINITE, peak)]), peak, like(c, 0, peak)]);
  const shifted = c.emit("sub", [x, restore(c, top, x.type.shape, axes)]);
  return c.emit("add", [c.emit("log", [sum(c, c.emit("exp", [shifted]), axes)]), top]);
};

/** The first half times the second, again and again: a zero factor spoils no derivative, and few roundings follow each other. */
const product: Reduce = (c, x, axes) => {
  const kept = keptShape(x.type.shape, axes);
  let n = taken(x, axes);
  if (n === 0) return broadcast(c, c.scalar(1, x.type.dtype), kept, []);
  const order = [...x.type.shape.keys()].filter((axis) => !axes.includes(axis));
  let rest = reshape(c, permuted(c, x, [...order, ...axes]), [...kept, n]);
  for (const last = kept.length; n > 1; n = Math.ceil(n / 2)) {
    const half = Math.ceil(n / 2);
    const back = cut(c, rest, last, half, n - half);
    const even = n % 2 === 0 ? back : c.emit("pad", [back], { low: kept.map(() => 0).concat(0), high: kept.map(() => 0).concat(1), value: 1 });
    rest = c.emit("mul", [cut(c, rest, last, 0, half), even]);
  }
  return reshape(c, rest, kept);
};

export const reduceOps: Readonly<Record<string, ImportOp>> = {
  ReduceSum: reduction(numbers(sum)),
  ReduceMean: reduction(numbers(average)),
  ReduceMax: reduction(largest),
  ReduceMin: reduction(smallest),
  ReduceProd: reduction(numbers(product)),
  ReduceL1: reduction(numbers((c, x, axes) => sum(c, c.emit("abs", [x]), axes))),
  ReduceL2: reduction(real((c, x, axes) => root(c, sum(c, square(c, x), axes)))),
  ReduceSumSquare: reduction(numbers((c, x, axes) => sum(c, square(c, x), axes))),
  ReduceLogSum: reduction(real((c, x, axes) => c.emit("log", [sum(c, x, axes)]))),
  ReduceLogSumExp: reduction(real(logSumExp)),
};
