/** Rows of a tensor by a list that is known at import: joined from few slices, or gathered by a table. */
import type { Value } from "../../../ir/graph.js";
import { size } from "../../../ir/type.js";
import type { Context } from "../context.js";
import { broadcast, cut, reshape } from "./common.js";

/** More pieces than this are not worth a slice each. */
const MAX_CUTS = 8;

/** Numbers first, first + step, … (count of them). */
interface Stretch {
  readonly first: number;
  readonly count: number;
  readonly step: number;
}

/** A list as evenly spaced stretches; numbers below 0 and from 0 on are never in one stretch. */
function stretches(list: readonly number[]): Stretch[] {
  const found: Stretch[] = [];
  for (let k = 0; k < list.length; ) {
    const first = list[k] as number;
    const fits = (i: number, step: number): boolean => i < list.length && list[i] === first + (i - k) * step && (list[i] as number) < 0 === first < 0;
    const step = k + 1 < list.length ? (list[k + 1] as number) - first : 1;
    let end = k + 1;
    while (fits(end, step)) end++;
    found.push({ first, count: end - k, step: end - k === 1 ? 1 : step });
    k = end;
  }
  return found;
}

/** The elements of a stretch along an axis; one element may be repeated. */
function piece(c: Context, x: Value, axis: number, { first, count, step }: Stretch): Value {
  if (step !== 0) return cut(c, x, axis, first, count, step);
  const one = cut(c, x, axis, first, 1);
  const { shape } = one.type;
  return broadcast(c, reshape(c, one, shape.filter((_, k) => k !== axis)), shape.map((n, k) => (k === axis ? count : n)), shape.flatMap((_, k) => (k === axis ? [] : [k])));
}

/**
 * Rows of x, or (−1 − n) row n of `other`, by a list known at import, joined from few slices; undefined where it takes many.
 */
export function joined(c: Context, x: Value, axis: number, list: readonly number[], other: Value = x): Value | undefined {
  const parts = stretches(list);
  if (parts.length > MAX_CUTS) return undefined;
  if (parts.length === 0) return cut(c, x, axis, 0, 0);
  const made = parts.map((s) => (s.first < 0 ? piece(c, other, axis, { first: -1 - s.first, count: s.count, step: -s.step }) : piece(c, x, axis, s)));
  return made.length === 1 ? (made[0] as Value) : c.emit("concat", made, { axis });
}

/** Rows of x along an axis by a list known at import (all of them rows that x has). */
export const pick = (c: Context, x: Value, axis: number, list: readonly number[]): Value =>
  joined(c, x, axis, list) ?? rows(c, x, axis, indexTable(c, "index", [list.length], list));

/** Whole numbers known at import, as a value. */
export const indexTable = (c: Context, what: string, shape: readonly number[], data: ArrayLike<number>): Value =>
  c.host.table(`${c.node.outputs[0]}.${what}`, { dtype: "i32", shape, data: Float64Array.from(data) });

/** x [..pre, n, ..post] by an index [..] that is the same for all of pre: [..pre, ..index, ..post]. */
export function rows(c: Context, x: Value, axis: number, index: Value): Value {
  const { shape } = x.type;
  const [pre, post] = [shape.slice(0, axis), shape.slice(axis + 1)];
  const [outer, n] = [size(pre), size(index.type.shape)];
  const made = c.emit("gather", [
    reshape(c, x, [outer, shape[axis] as number, size(post)]),
    broadcast(c, reshape(c, index, [n]), [outer, n], [1]),
  ]);
  return reshape(c, made, [...pre, ...index.type.shape, ...post]);
}
