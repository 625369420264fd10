/**
 * Ops that write rows into a tensor by index: ScatterElements, ScatterND, TensorScatter.
 *
 * All are one form: data [B, R, I], index [B, N] (a row of data, or none of them), updates [B, N, I]. Where two updates
 * meet in a row, a reduction takes both; without one, the last wins.
 */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import { eachIndex, type NdArray } from "../../../ir/ndarray.js";
import { size, strides } from "../../../ir/type.js";
import { type Context, type ImportOp, scaledAxes } from "../context.js";
import { broadcast, castTo, cut, like, LOWEST, reshape } from "./common.js";
import { axisLast, counted, countedNumbers, needsIndexAlong, permuted, tuples } from "./gather.js";
import { indexTable, joined } from "./pick.js";

type Reduction = "none" | "add" | "mul" | "max" | "min";

interface Rows {
  readonly data: Value;
  readonly updates: Value;
  readonly index: () => Value;
  /** The index's numbers [B, N] where known at import; −1: no row. */
  readonly known: ArrayLike<number> | undefined;
}

/** More elements than this are not made to reduce updates that may meet in a row. */
const MAX_PAIRS = 2 ** 26;

function reductionOf(c: Context): Reduction {
  const name = c.text("reduction", "none");
  if (name === "none" || name === "add" || name === "mul" || name === "max" || name === "min") return name;
  throw c.refuse(`reduction "${name}" is not supported`, "none, add, mul, max and min are");
}

function scatterRows(c: Context, rows: Rows, reduction: Reduction): Value {
  const { data, updates } = rows;
  if (data.type.dtype !== updates.type.dtype) throw new CompileError("shape-mismatch", `${c.node.op}: data and updates have different element types`, c.where);
  if (size(updates.type.shape) === 0 || size(data.type.shape) === 0) return data;
  if (reduction === "add") return c.emit("add", [data, c.emit("scatter", [updates, rows.index()], { rows: data.type.shape[1] as number })]);
  const last = rows.known && lastWriters(rows.known, data.type.shape, updates.type.shape);
  if (reduction === "none") return last ? replaced(c, rows, last.writer) : replacedBy(c, data, updates, lastWriter(c, rows));
  if (last?.single) {
    const writer = writerTable(c, data, last.writer);
    return chosen(c, data, c.emit(reduction, [data, c.emit("gather", [updates, writer])]), hits(c, writer));
  }
  return reduced(c, rows, reduction);
}

/** The last n that writes to each row (−1: none), and whether no row has two. */
function lastWriters(known: ArrayLike<number>, [b, r]: readonly number[], [, n]: readonly number[]): { writer: number[][]; single: boolean } {
  let single = true;
  const writer = Array.from({ length: b as number }, (_, batch) => {
    const line = new Array<number>(r as number).fill(-1);
    for (let k = 0; k < (n as number); k++) {
      const row = known[batch * (n as number) + k] as number;
      if (row < 0) continue;
      if (line[row] !== -1) single = false;
      line[row] = k;
    }
    return line;
  });
  return { writer, single };
}

/** One table for all of the batch where its lines agree. */
function writerTable(c: Context, data: Value, writer: readonly (readonly number[])[]): Value {
  const [b, r] = data.type.shape as [number, number];
  const first = writer[0] as readonly number[];
  if (!writer.every((line) => line.every((n, k) => n === first[k]))) return indexTable(c, "writer", [b, r], writer.flat());
  return broadcast(c, indexTable(c, "writer", [r], first), [b, r], [1]);
}

/** Rows exchanged for known ones: joined from slices where few do. */
function replaced(c: Context, { data, updates }: Rows, writer: readonly (readonly number[])[]): Value {
  const first = writer[0] as readonly number[];
  const alike = writer.every((line) => line.every((n, k) => n === first[k]));
  const whole = alike ? joined(c, data, 1, first.map((n, row) => (n < 0 ? row : -1 - n)), updates) : undefined;
  return whole ?? replacedBy(c, data, updates, writerTable(c, data, writer));
}

/** The computed last writer i32 [B, R] of each row: the largest n with index[b, n] = r. */
function lastWriter(c: Context, { data, updates, index }: Rows): Value {
  const [b, r] = data.type.shape as [number, number];
  const shape = [b, r, updates.type.shape[1] as number];
  const hit = c.emit("eq", [broadcast(c, index(), shape, [0, 2]), c.emit("iota", [], { shape, axis: 1 })]);
  const place = castTo(c, c.emit("iota", [], { shape, axis: 2 }), "f32");
  return castTo(c, c.emit("reduce_max", [c.emit("select", [hit, place, like(c, -1, place)])], { axes: [2] }), "i32");
}

const hits = (c: Context, writer: Value): Value => c.emit("ge", [writer, like(c, 0, writer)]);
const chosen = (c: Context, data: Value, made: Value, hit: Value): Value => c.emit("select", [broadcast(c, hit, data.type.shape, [0, 1]), made, data]);
const replacedBy = (c: Context, data: Value, updates: Value, writer: Value): Value => chosen(c, data, c.emit("gather", [updates, writer]), hits(c, writer));

/** Every row with all of its updates: [B, R, N, I] of them where they hit, reduced over N. */
function reduced(c: Context, { data, updates, index }: Rows, reduction: "mul" | "max" | "min"): Value {
  const [b, r, width] = data.type.shape as [number, number, number];
  const shape = [b, r, updates.type.shape[1] as number, width];
  if (data.type.dtype !== "f32") throw c.refuse(`reduction "${reduction}" is supported for floats only where updates may meet in a row`);
  if (size(shape) > MAX_PAIRS) throw c.refuse(`reduction "${reduction}" of ${shape[2]} updates that may meet in one of ${r} rows is too large`);
  const pairs = shape.slice(0, 3);
  const hit = c.emit("eq", [broadcast(c, index(), pairs, [0, 2]), c.emit("iota", [], { shape: pairs, axis: 1 })]);
  const spread = (v: Value, rest: number): Value => {
    const all = broadcast(c, v, shape, [0, 2, 3]);
    return c.emit("select", [broadcast(c, hit, shape, [0, 1, 2]), all, like(c, rest, all)]);
  };
  if (reduction === "mul") return c.emit("mul", [data, product(c, spread(updates, 1), 2)]);
  const sign = (v: Value): Value => (reduction === "min" ? c.emit("neg", [v]) : v);
  const largest = sign(c.emit("reduce_max", [spread(sign(updates), LOWEST)], { axes: [2] }));
  const any = c.emit("reduce_max", [castTo(c, hit, "f32")], { axes: [2] });
  return chosen(c, data, c.emit(reduction, [data, largest]), c.emit("gt", [any, like(c, 0, any)]));
}

/** Product over an axis by halves: exact, and so is its derivative where factors are zero. */
function product(c: Context, x: Value, axis: number): Value {
  let made = x;
  for (let n = x.type.shape[axis] as number; n > 1; n = Math.ceil(n / 2)) {
    const half = Math.floor(n / 2);
    const both = c.emit("mul", [cut(c, made, axis, 0, half), cut(c, made, axis, half, half)]);
    made = n % 2 === 0 ? both : c.emit("concat", [both, cut(c, made, axis, n - 1, 1)], { axis });
  }
  return reshape(c, made, x.type.shape.filter((_, k) => k !== axis));
}

/** data[i, index[i, j, k], k] = updates[i, j, k] (along axis 1). */
function scatterElements(c: Context): Value {
  const shape = c.shape(0);
  const axis = c.axis(c.int("axis", 0), shape.length);
  const indexShape = c.shape(1);
  const fits = indexShape.length === shape.length && indexShape.every((n, k) => n === c.shape(2)[k] && (k === axis || n <= (shape[k] as number)));
  if (!fits) throw new CompileError("shape-mismatch", `${c.node.op}: indices [${indexShape}] and updates [${c.shape(2)}] into [${shape}]`, c.where);
  needsIndexAlong(c, scaledAxes(shape, c.oldShape(0)), (k) => k === axis);
  const perm = axisLast(shape.length, axis);
  // where the indices leave the rest of an axis out, they get places that name no row
  const room = shape.map((n, k) => (k === axis ? (indexShape[k] as number) : n));
  const flat = (v: Value): Value => {
    const moved = permuted(c, v, perm);
    return reshape(c, moved, [size(moved.type.shape.slice(0, -1)), moved.type.shape.at(-1) as number]);
  };
  const n = shape[axis] as number;
  const numbers = c.numbers(1);
  const known = numbers && padded({ ...numbers, data: Float64Array.from(countedNumbers(c, numbers, n)) }, room, perm);
  const index = (): Value => (known ? indexTable(c, "index", [known.length / (indexShape[axis] as number), indexShape[axis] as number], known) : flat(filled(c, counted(c, c.x(1), n), room, -1)));
  const column = (v: Value): Value => reshape(c, v, [...v.type.shape, 1]);
  const made = scatterRows(c, { data: column(flat(c.x(0))), updates: column(flat(filled(c, c.x(2), room, 0))), index, known }, reductionOf(c));
  return permuted(c, reshape(c, made, perm.map((k) => shape[k] as number)), perm.map((_, k) => perm.indexOf(k)));
}

/** x with `value` behind its ends. */
function filled(c: Context, x: Value, room: readonly number[], value: number): Value {
  const high = room.map((n, k) => n - (x.type.shape[k] as number));
  return high.every((n) => n === 0) ? x : c.emit("pad", [x], { low: room.map(() => 0), high, value });
}

/** The same for known indices, with −1, in the order of permuted axes. */
function padded(x: NdArray, room: readonly number[], perm: readonly number[]): Float64Array {
  const shape = perm.map((k) => room[k] as number);
  const step = strides(x.shape);
  const out = new Float64Array(size(shape)).fill(-1);
  eachIndex(shape, (index, to) => {
    let from = 0;
    for (let k = 0; k < perm.length; k++) {
      const axis = perm[k] as number;
      if ((index[k] as number) >= (x.shape[axis] as number)) return;
      from += (index[k] as number) * (step[axis] as number);
    }
    out[to] = x.data[from] as number;
  });
  return out;
}

/** Rows (or single elements, or blocks) of data at tuples of indices. */
function scatterND(c: Context): Value {
  const shape = c.shape(0);
  const t = tuples(c, 1, 0);
  needsIndexAlong(c, scaledAxes(shape, c.oldShape(0)).filter((axis) => axis < t.batch + t.extents.length), (axis) => axis >= t.batch);
  const outer = shape.slice(0, t.batch);
  const rest = shape.slice(t.batch + t.extents.length);
  const places = c.shape(1).slice(t.batch, -1);
  const wanted = [...outer, ...places, ...rest];
  if (c.shape(2).length !== wanted.length || wanted.some((n, k) => n !== c.shape(2)[k]))
    throw new CompileError("shape-mismatch", `ScatterND: updates [${c.shape(2)}] where [${wanted}] are needed`, c.where);
  const [b, n, width] = [size(outer), size(places), size(rest)];
  const made = scatterRows(c, {
    data: reshape(c, c.x(0), [b, size(t.extents), width]), updates: reshape(c, c.x(2), [b, n, width]),
    index: () => reshape(c, t.index(), [b, n]), known: t.known?.data,
  }, reductionOf(c));
  return reshape(c, made, shape);
}

/** Every sequence's update [.., s, ..] at its own first place in the cache [.., n, ..]; circular: around the end. */
function tensorScatter(c: Context): Value {
  const [shape, updateShape] = [c.shape(0), c.shape(1)];
  const axis = c.axis(c.int("axis", -2), shape.length);
  const mode = c.text("mode", "linear");
  if (axis === 0 || (mode !== "linear" && mode !== "circular")) throw c.refuse(`mode "${mode}" along axis ${axis} is not supported`);
  const [n, s] = [shape[axis] as number, updateShape[axis] as number];
  if (updateShape.length !== shape.length || s > n || updateShape.some((m, k) => k !== axis && m !== shape[k]))
    throw new CompileError("shape-mismatch", `TensorScatter: update [${updateShape}] of [${shape}]`, c.where);
  const [outer, width] = [size(shape.slice(0, axis)), size(shape.slice(axis + 1))];
  const full = [shape[0] as number, outer / (shape[0] as number), n];
  const number = (value: number): Value => broadcast(c, c.scalar(value, "i32"), full, []);
  const start = c.has(2) ? broadcast(c, castTo(c, c.x(2), "i32"), full, [0]) : number(0);
  // the update's row that stands at each row of the cache; none where it is outside 0…s − 1
  const from = c.emit("sub", [c.emit("iota", [], { shape: full, axis: 2 }), start]);
  const around = mode === "circular" ? c.emit("select", [c.emit("lt", [from, number(0)]), c.emit("add", [from, number(n)]), from]) : from;
  const fits = c.emit("and", [c.emit("ge", [around, number(0)]), c.emit("lt", [around, number(s)])]);
  const writer = reshape(c, c.emit("select", [fits, around, number(-1)]), [outer, n]);
  const made = replacedBy(c, reshape(c, c.x(0), [outer, n, width]), reshape(c, c.x(1), [outer, s, width]), writer);
  return reshape(c, made, shape);
}

export const scatterOps: Readonly<Record<string, ImportOp>> = {
  Scatter: scatterElements, ScatterElements: scatterElements, ScatterND: scatterND, TensorScatter: tensorScatter,
};
