/** Arithmetic of affine index expressions. */
import type { Access, Affine, Axis, Bound, Quotient } from "./kernel.js";

export const constantIndex = (at: number): Affine => ({ at, by: new Map() });
export const axisIndex = (axis: Axis): Affine => (axis.size === 1 ? constantIndex(0) : { at: 0, by: new Map([[axis, 1]]) });

export function addAffine(a: Affine, b: Affine): Affine {
  const by = new Map(a.by);
  for (const [axis, k] of b.by) {
    const total = (by.get(axis) ?? 0) + k;
    if (total === 0) by.delete(axis);
    else by.set(axis, total);
  }
  return { at: a.at + b.at, by };
}

export function scaleAffine(a: Affine, k: number): Affine {
  if (k === 0) return constantIndex(0);
  if (k === 1) return a;
  return { at: a.at * k, by: new Map([...a.by].map(([axis, c]) => [axis, c * k])) };
}

export const shiftAffine = (a: Affine, k: number): Affine => (k === 0 ? a : { at: a.at + k, by: a.by });

/** Smallest and largest value over the whole iteration space. */
export function range(a: Affine): readonly [number, number] {
  let [low, high] = [a.at, a.at];
  for (const [axis, k] of a.by) {
    if (k > 0) high += k * (axis.size - 1);
    else low += k * (axis.size - 1);
  }
  return [low, high];
}

/** Replaces axes by affine expressions of other axes. */
export function substitute(a: Affine, to: ReadonlyMap<Axis, Affine>): Affine {
  let out = constantIndex(a.at);
  for (const [axis, k] of a.by) out = addAffine(out, scaleAffine(to.get(axis) ?? { at: 0, by: new Map([[axis, 1]]) }, k));
  return out;
}

export const substituteBounds = (bounds: readonly Bound[], to: ReadonlyMap<Axis, Affine>): Bound[] =>
  bounds.map((b) => ({ ...b, expr: substitute(b.expr, to) }));

export const substituteQuotients = (quotients: readonly Quotient[], to: ReadonlyMap<Axis, Affine>): Quotient[] =>
  quotients.map((q) => ({ ...q, expr: substitute(q.expr, to) }));

export const substituteAccess = (access: Access, to: ReadonlyMap<Axis, Affine>): Access => ({
  ...access,
  address: substitute(access.address, to),
  bounds: substituteBounds(access.bounds, to),
  quotients: substituteQuotients(access.quotients, to),
});

/** True where the bound can fail somewhere in the iteration space. */
export function boundMatters(b: Bound): boolean {
  const [low, high] = range(b.expr);
  return low < b.low || high >= b.high;
}
