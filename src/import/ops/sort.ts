/** Sorting by ranks. */
import type { Value } from "../../../ir/graph.js";
import { CompileError } from "../../../ir/error.js";
import { size } from "../../../ir/type.js";
import { type Context, type ImportOp, scaledAxes } from "../context.js";
import { broadcast, castTo, reshape, sum } from "./common.js";
import { axisLast, permuted } from "./gather.js";

/** Every element is compared with every other: more than this many along an axis take too long. */
const MAX_SORTED = 4096;

/**
 * Places of the elements of x [rows, n] in the order asked for, i32[rows, n]: how many come before each. Of equal ones the first in x does.
 */
function ranks(c: Context, x: Value, largest: boolean): Value {
  const [rows, n] = x.type.shape as [number, number];
  const shape = [rows, n, n];
  const mine = broadcast(c, x, shape, [0, 1]);
  const other = broadcast(c, x, shape, [0, 2]);
  const place = (axis: number): Value => c.emit("iota", [], { shape, axis });
  const earlier = c.emit("and", [c.emit("eq", [other, mine]), c.emit("lt", [place(2), place(1)])]);
  return sum(c, castTo(c, c.emit("or", [c.emit(largest ? "gt" : "lt", [other, mine]), earlier]), "i32"), [2]);
}

/** The first k elements by rank: their numbers in x, i32[rows, k]. */
function firstByRank(c: Context, rank: Value, k: number): Value {
  const [rows, n] = rank.type.shape as [number, number];
  const shape = [rows, k, n];
  const place = (axis: number): Value => c.emit("iota", [], { shape, axis });
  const here = castTo(c, c.emit("eq", [broadcast(c, rank, shape, [0, 2]), place(1)]), "i32");
  return sum(c, c.emit("mul", [here, place(2)]), [2]);
}

/** The k largest (smallest) along an axis, in order, and where they are. */
function topK(c: Context): readonly Value[] {
  const { shape } = c.x(0).type;
  const axis = c.axis(c.int("axis", -1), shape.length);
  const k = c.opset < 10 ? c.int("k") : c.number(1, 0);
  const n = shape[axis] as number;
  if (!(k >= 0 && k <= n)) throw new CompileError("shape-mismatch", `TopK: the first ${k} of ${n}`, c.where);
  if (scaledAxes(shape, c.oldShape(0)).includes(axis)) throw c.lost(`axis ${axis} is sorted, which carries the examples`);
  if (n > MAX_SORTED) throw c.refuse(`sorting ${n} elements is not supported`, `up to ${MAX_SORTED} are`);
  const perm = axisLast(shape.length, axis);
  const moved = permuted(c, c.x(0), perm);
  const rows = size(shape) === 0 ? 0 : size(shape) / n;
  const flat = reshape(c, moved, [rows, n]);
  const index = firstByRank(c, ranks(c, c.emit("detach", [flat]), c.opset < 11 || c.int("largest", 1) !== 0), k);
  const values = c.emit("gather", [reshape(c, flat, [rows, n, 1]), index]);
  const back = perm.map((_, at) => perm.indexOf(at));
  return [values, index].map((v) => permuted(c, reshape(c, v, [...moved.type.shape.slice(0, -1), k]), back));
}

export const sortOps: Readonly<Record<string, ImportOp>> = { TopK: topK };
