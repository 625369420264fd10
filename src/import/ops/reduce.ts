/** Reductions over axes. */
import { sameShape } from "../../../ir/type.js";
import type { Value } from "../../../ir/graph.js";
import type { Context, ImportOp, Result } from "../context.js";
import { mean, reshape, restore, sum } from "./common.js";

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

const keep = (shape: readonly number[], axes: readonly number[]): number[] => shape.map((n, axis) => (axes.includes(axis) ? 1 : n));

const reduction = (f: Reduce): ImportOp => (c) => {
  const axes = reducedAxes(c);
  const x = c.x(0);
  if (!axes) return f === total ? x : f(c, x, []);
  const y = f(c, x, axes);
  return c.int("keepdims", 1) !== 0 ? reshape(c, y, keep(x.type.shape, axes)) : y;
};

const total: Reduce = sum;
const square = (c: Context, x: Value): Value => c.emit("mul", [x, x]);
const largest: Reduce = (c, x, axes) => (axes.length === 0 ? x : c.emit("reduce_max", [x], { axes: [...axes] }));

/** Shifted by the largest element, so that no exponential overflows. */
const logSumExp: Reduce = (c, x, axes) => {
  if (axes.length === 0) return x;
  const top = c.emit("detach", [largest(c, x, axes)]);
  const shifted = c.emit("sub", [x, restore(c, top, x.type.shape, axes)]);
  return c.emit("add", [c.emit("log", [sum(c, c.emit("exp", [shifted]), axes)]), top]);
};

/** A product only of numbers known at import (the arithmetic of shapes). */
function product(c: Context): Result {
  const known = c.numbers(0);
  const axes = reducedAxes(c);
  if (!known || !axes || axes.length !== known.shape.length) throw c.refuse("a product of values computed from the model's input is not supported");
  const shape = c.int("keepdims", 1) !== 0 ? keep(known.shape, axes) : [];
  return { dtype: known.dtype, shape, data: Float64Array.of(known.data.reduce((a, b) => a * b, 1)) };
}

/** Index of the first largest (or smallest) element along an axis. */
const argument = (sign: 1 | -1): ImportOp => (c) => {
  const shape = c.shape(0);
  const axes = [c.axis(c.int("axis", 0), shape.length)];
  if (c.int("select_last_index", 0) !== 0) throw c.refuse("select_last_index is not supported");
  const x = sign === 1 ? c.x(0) : c.emit("neg", [c.x(0)]);
  const y = c.emit("reduce_argmax", [x], { axes });
  const kept = keep(shape, axes);
  return c.int("keepdims", 1) !== 0 && !sameShape(y.type.shape, kept) ? reshape(c, y, kept) : y;
};

export const reduceOps: Readonly<Record<string, ImportOp>> = {
  ReduceSum: reduction(total),
  ReduceMean: reduction((c, x, axes) => mean(c, x, axes)),
  ReduceMax: reduction(largest),
  ReduceMin: reduction((c, x, axes) => c.emit("neg", [largest(c, c.emit("neg", [x]), axes)])),
  ReduceL1: reduction((c, x, axes) => sum(c, c.emit("abs", [x]), axes)),
  ReduceL2: reduction((c, x, axes) => c.emit("sqrt", [sum(c, square(c, x), axes)])),
  ReduceSumSquare: reduction((c, x, axes) => sum(c, square(c, x), axes)),
  ReduceLogSum: reduction((c, x, axes) => c.emit("log", [sum(c, x, axes)])),
  ReduceLogSumExp: reduction(logSumExp),
  ReduceProd: product,
  ArgMax: argument(1),
  ArgMin: argument(-1),
};
