/** Ops that pick elements by index: Gather, GatherElements, GatherND, Compress, ReverseSequence. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import { eachIndex, type NdArray } from "../../../ir/ndarray.js";
import { size } from "../../../ir/type.js";
import { type Context, type ImportOp, scaledAxes } from "../context.js";
import { broadcast, castTo, cut, reshape } from "./common.js";
import { indexTable, pick, rows } from "./pick.js";

/** Computed indices with negative ones counted from the end of an axis of n. */
export function counted(c: Context, index: Value, n: number): Value {
  const whole = castTo(c, index, "i32");
  const like = (value: number): Value => broadcast(c, c.scalar(value, "i32"), whole.type.shape, []);
  return c.emit("select", [c.emit("lt", [whole, like(0)]), c.emit("add", [whole, like(n)]), whole]);
}

/** The same for indices known at import. @throws CompileError "shape-mismatch" for one that is no element. */
export function countedNumbers(c: Context, known: NdArray, n: number): number[] {
  return Array.from(known.data, (i) => {
    const at = i < 0 ? i + n : i;
    if (!(at >= 0 && at < n)) throw new CompileError("shape-mismatch", `${c.node.op}: index ${i} is outside the ${n} elements of the axis`, c.where);
    return at;
  });
}

/**
 * Rows of x along an axis: known ones by slices or a table; computed ones by `gather`, but along axis 0 by a contraction with
 * their one-hot rows, which is how an embedding is recognised.
 */
function gather(c: Context): Value {
  const shape = c.shape(0);
  const axis = c.axis(c.int("axis", 0), shape.length);
  if (scaledAxes(shape, c.oldShape(0)).includes(axis)) throw c.lost(`axis ${axis} is indexed, which carries the examples`);
  const x = c.x(0);
  const n = shape[axis] as number;
  const indexShape = c.shape(1);
  const known = c.numbers(1);
  if (known) return reshape(c, pick(c, x, axis, countedNumbers(c, known, n)), [...shape.slice(0, axis), ...indexShape, ...shape.slice(axis + 1)]);
  const index = counted(c, c.x(1), n);
  if (axis > 0 || x.type.dtype !== "f32") return rows(c, x, axis, index);
  return c.emit("contract", [oneHot(c, index, n), x], { spec: lookupSpec(indexShape.length, shape.length) });
}

/** f32[…index, n]: 1 where the last axis is the index. */
export function oneHot(c: Context, index: Value, n: number): Value {
  const shape = [...index.type.shape, n];
  const places = c.emit("iota", [], { shape, axis: shape.length - 1 });
  const wanted = broadcast(c, index, shape, index.type.shape.map((_, axis) => axis));
  return c.emit("cast", [c.emit("eq", [wanted, places])], { dtype: "f32" });
}

function lookupSpec(indexRank: number, rank: number): string {
  const index = "ntsrqp".slice(0, indexRank);
  const width = "oabcdefgh".slice(0, rank - 1);
  return `${index}i,i${width}->${index}${width}`;
}

/** While rebinding: examples must be along an axis of the indices too, as many as now. */
export function needsIndexAlong(c: Context, axes: readonly number[], indexed: (axis: number) => boolean): void {
  const [shape, index] = [c.shape(0), c.shape(1)];
  for (const axis of axes) {
    if (indexed(axis)) throw c.lost(`axis ${axis} is indexed, which carries the examples`);
    if (index[axis] !== shape[axis]) throw c.lost(`the indices are for ${index[axis]} places of axis ${axis}, which carries the examples`);
  }
}

/** The axes of a tensor with one of them moved to the end. */
export const axisLast = (rank: number, axis: number): number[] => [...Array.from({ length: rank }, (_, k) => k).filter((k) => k !== axis), axis];

export const permuted = (c: Context, x: Value, perm: readonly number[]): Value =>
  perm.every((from, to) => from === to) ? x : c.emit("permute", [x], { perm: [...perm] });

/** out[i, j, k] = x[i, index[i, j, k], k] (along axis 1). */
function gatherElements(c: Context): Value {
  const shape = c.shape(0);
  const indexShape = c.shape(1);
  const rank = shape.length;
  const axis = c.axis(c.int("axis", 0), rank);
  if (indexShape.length !== rank || indexShape.some((m, k) => k !== axis && m > (shape[k] as number)))
    throw new CompileError("shape-mismatch", `GatherElements: indices [${indexShape}] into [${shape}]`, c.where);
  needsIndexAlong(c, scaledAxes(shape, c.oldShape(0)), (k) => k === axis);
  const n = shape[axis] as number;
  let x = c.x(0);
  for (let k = 0; k < rank; k++) if (k !== axis) x = cut(c, x, k, 0, indexShape[k] as number);
  const known = c.numbers(1);
  const index = known ? indexTable(c, "index", known.shape, countedNumbers(c, known, n)) : counted(c, c.x(1), n);
  const perm = axisLast(rank, axis);
  const moved = permuted(c, index, perm);
  const [outer, m] = [size(moved.type.shape.slice(0, -1)), indexShape[axis] as number];
  const made = c.emit("gather", [reshape(c, permuted(c, x, perm), [outer, n, 1]), reshape(c, moved, [outer, m])]);
  return permuted(c, reshape(c, made, moved.type.shape), perm.map((_, k) => perm.indexOf(k)));
}

/** What an index tuple means: its leading `batch` axes are x's own, then `extents` are the axes that it counts in. */
export interface Tuples {
  readonly batch: number;
  readonly extents: readonly number[];
  /** Flat row numbers inside `extents`, of shape [batch…, places…]; −1 for none. */
  readonly known: NdArray | undefined;
  readonly index: () => Value;
}

/**
 * Input `at` [places…, k], tuples of k indices into x from axis `batch` on, as one index into the k axes made one.
 * Known tuples that begin by counting along their own first axis ([[0, i], [1, j], …]) leave that axis to the batch.
 */
export function tuples(c: Context, at: number, batch: number): Tuples {
  const shape = c.shape(0);
  const indexShape = c.shape(at);
  const k = indexShape.at(-1) ?? 0;
  if (indexShape.length === 0 || k < 1 || batch + k > shape.length || indexShape.slice(0, batch).some((n, axis) => n !== shape[axis]))
    throw new CompileError("shape-mismatch", `${c.node.op}: indices [${indexShape}] into [${shape}]`, c.where);
  const known = c.numbers(at);
  let own = 0;
  while (known && own < k - 1 && countsItself(known, batch + own, own, shape[batch + own] as number)) own++;
  const extents = shape.slice(batch + own, batch + k);
  const places = indexShape.slice(0, -1);
  const flat = known && { dtype: "i32" as const, shape: places, data: flatNumbers(c, known, own, extents) };
  return { batch: batch + own, extents, known: flat, index: () => (flat ? indexTable(c, "index", places, flat.data) : flatIndex(c, c.x(at), extents)) };
}

/** Whether coordinate `j` of every tuple is its place along `axis`, of n. */
function countsItself(known: NdArray, axis: number, j: number, n: number): boolean {
  if (axis >= known.shape.length - 1 || known.shape[axis] !== n) return false;
  let counts = true;
  eachIndex(known.shape, (index, flat) => { if (index.at(-1) === j && known.data[flat] !== index[axis]) counts = false; });
  return counts;
}

function flatNumbers(c: Context, known: NdArray, skipped: number, extents: readonly number[]): Float64Array {
  const k = known.shape.at(-1) as number;
  const one = (tuple: number): number => extents.reduce((row, n, j) => {
    const [at] = countedNumbers(c, { ...known, data: known.data.slice(tuple * k + skipped + j, tuple * k + skipped + j + 1) }, n);
    return row * n + (at as number);
  }, 0);
  return Float64Array.from({ length: known.data.length / k }, (_, tuple) => one(tuple));
}

function flatIndex(c: Context, index: Value, extents: readonly number[]): Value {
  const last = index.type.shape.length - 1;
  return extents.map((n, j) => counted(c, reshape(c, cut(c, index, last, j, 1), index.type.shape.slice(0, -1)), n)).reduce((row, at, j) =>
    c.emit("add", [c.emit("mul", [row, broadcast(c, c.scalar(extents[j] as number, "i32"), row.type.shape, [])]), at]));
}

function gatherND(c: Context): Value {
  const shape = c.shape(0);
  const t = tuples(c, 1, c.int("batch_dims", 0));
  needsIndexAlong(c, scaledAxes(shape, c.oldShape(0)).filter((axis) => axis < t.batch + t.extents.length), (axis) => axis >= t.batch);
  const outer = shape.slice(0, t.batch);
  const rest = shape.slice(t.batch + t.extents.length);
  const index = t.index();
  const places = index.type.shape.slice(t.batch);
  const made = c.emit("gather", [reshape(c, c.x(0), [size(outer), size(t.extents), size(rest)]), reshape(c, index, [size(outer), size(places)])]);
  return reshape(c, made, [...outer, ...places, ...rest]);
}

/** Rows where a known condition holds; without an axis, elements of the flat tensor. */
function compress(c: Context): Value {
  const shape = c.shape(0);
  const condition = c.ints(1);
  const flat = !c.node.attrs.has("axis");
  const axis = flat ? 0 : c.axis(c.int("axis"), shape.length);
  const list = condition.flatMap((holds, k) => (holds ? [k] : []));
  const n = flat ? size(shape) : (shape[axis] as number);
  if (condition.length > n) throw new CompileError("shape-mismatch", `Compress: ${condition.length} conditions for ${n} elements`, c.where);
  const scaled = scaledAxes(shape, c.oldShape(0));
  if (flat ? scaled.length > 0 : scaled.includes(axis)) throw c.lost("some examples are taken");
  return pick(c, flat ? reshape(c, c.x(0), [n]) : c.x(0), axis, list);
}

/** The first `length` elements of every row backwards, the others as they are. */
function reverseSequence(c: Context): Value {
  const x = c.x(0);
  const { shape } = x.type;
  const [time, batch] = [c.axis(c.int("time_axis", 0), shape.length), c.axis(c.int("batch_axis", 1), shape.length)];
  if (time === batch) throw new CompileError("bad-model", "ReverseSequence: time and batch are one axis", c.where);
  const [n, steps] = [shape[batch] as number, shape[time] as number];
  const lengths = castTo(c, c.x(1), "i32");
  if (size(lengths.type.shape) !== n) throw new CompileError("shape-mismatch", `ReverseSequence: ${size(lengths.type.shape)} lengths for ${n} sequences`, c.where);
  const length = broadcast(c, lengths, [n, steps], [0]);
  const t = c.emit("iota", [], { shape: [n, steps], axis: 1 });
  const one = broadcast(c, c.scalar(1, "i32"), [n, steps], []);
  const index = c.emit("select", [c.emit("lt", [t, length]), c.emit("sub", [c.emit("sub", [length, one]), t]), t]);
  const perm = [batch, time, ...shape.flatMap((_, k) => (k === batch || k === time ? [] : [k]))];
  const moved = permuted(c, x, perm);
  const made = c.emit("gather", [reshape(c, moved, [n, steps, size(moved.type.shape.slice(2))]), index]);
  return permuted(c, reshape(c, made, moved.type.shape), perm.map((_, k) => perm.indexOf(k)));
}

export const gatherOps: Readonly<Record<string, ImportOp>> = {
  Gather: gather, GatherElements: gatherElements, GatherND: gatherND, Compress: compress, ReverseSequence: reverseSequence,
};
