/**
 * What a tiled kernel makes of a contraction: a batch of matrix products. Axes that only the left operand has are flattened into rows,
 * those of the right one into columns, those of both into a batch, the reduction into depth.
 */
import { laneBuffers } from "../../bindings.js";
import type { Axis, Store } from "../../kernel.js";
import type { Form, Problem, Side } from "./problem.js";
import { product } from "./schedule.js";

/** One side of the product. `axes`: slowest first, flattened row-major; row i of the operand is what they are at i. */
export interface Face {
  readonly side: Side | undefined;
  readonly axes: readonly number[];
  readonly size: number;
}

export interface Roles {
  /** Rows are the outer threads, columns the ones that run fastest: neighbours in memory of the result where that can be. */
  readonly rows: Face;
  readonly columns: Face;
  readonly batch: readonly number[];
  readonly batches: number;
  readonly depth: readonly number[];
  readonly deep: number;
}

/** A stretch of flattened axes along which a form grows evenly: coefficient · ((index / weight) % size). */
export interface Run {
  readonly coefficient: number;
  readonly weight: number;
  /** 0 for the outermost: no remainder is taken. */
  readonly size: number;
}

/** undefined: no operand at all, a symmetric product whose pairs are not its rows and columns, or what only the other family does. */
export function rolesOf(problem: Problem, stores: readonly Store[]): Roles | undefined {
  const { axes, outputs, left, right, pairs } = problem;
  if ((left === undefined && right === undefined) || problem.sums.length > 0 || problem.pooled.size > 0) return undefined;
  const size = (list: readonly number[]) => product(list.map((a) => axes[a]?.size ?? 1));
  const kinds = axes.slice(0, outputs).map((_, a) => (uses(right, a) ? (uses(left, a) ? "both" : "right") : "left"));
  const of = (kind: string) => kinds.flatMap((k, a) => (k === kind && (axes[a]?.size ?? 1) > 1 ? [a] : []));
  const batch = of("both");
  let [rows, columns] = [faceOf(left, sorted(of("left"), left)), faceOf(right, sorted(of("right"), right))];
  if (pairs.length > 0) {
    const partner = new Map(pairs);
    const partners = rows.axes.map((a) => partner.get(a) ?? -1);
    if (partners.includes(-1) || [...partners].sort().join() !== [...columns.axes].sort().join()) return undefined;
    columns = faceOf(right, partners);
  } else if (storedAlong(rows, stores) > storedAlong(columns, stores)) [rows, columns] = [columns, rows];
  const reduction = axes.flatMap((axis, a) => (a >= outputs && axis.size > 1 ? [a] : []));
  const evenness = (order: readonly number[]) => [left, right].reduce((sum, side) => sum + Math.min(16, side ? unitRun(side.address, order, problem) : 0), 0);
  const [one, two] = [sorted(reduction, left), sorted(reduction, right)];
  const depth = evenness(two) > evenness(one) ? two : one;
  return { rows, columns, batch, batches: size(batch), depth, deep: size(depth) };

  function faceOf(side: Side | undefined, list: readonly number[]): Face {
    return { side, axes: list, size: size(list) };
  }
  /** Stores for which the face's fastest axis is the one of unit stride. */
  function storedAlong(face: Face, all: readonly Store[]): number {
    const fastest = axes[face.axes.at(-1) ?? -1];
    return fastest === undefined ? 0 : all.filter((store) => store.address.by.get(fastest) === 1).length;
  }
}

const uses = (side: Side | undefined, a: number): boolean =>
  side !== undefined && [side.address, ...side.bounds.map((b) => b.form), ...side.quotients.map((q) => q.form)].some((form) => form.by[a] !== 0);

/** By how far an operand moves along them, farthest first. */
function sorted(list: readonly number[], side: Side | undefined): number[] {
  const step = (a: number) => (side ? Math.abs((side.address.by[a] ?? 0) + side.quotients.reduce((sum, q) => sum + ((q.form.by[a] ?? 0) * q.stride) / q.divisor, 0)) : 0);
  return [...list].sort((a, b) => step(b) - step(a) || a - b);
}

/** A form over flattened axes, slowest first; neighbours that together grow evenly are one run. */
export function runsOf(form: Form, axes: readonly number[], problem: Problem): Run[] {
  const runs: { coefficient: number; size: number; weight: number; first: boolean; open: boolean }[] = [];
  let weight = product(axes.map((a) => problem.axes[a]?.size ?? 1));
  for (const [i, a] of axes.entries()) {
    const size = problem.axes[a]?.size ?? 1;
    weight /= size;
    const coefficient = form.by[a] ?? 0;
    const last = runs.at(-1);
    if (coefficient !== 0 && last?.open && last.coefficient === coefficient * size) runs[runs.length - 1] = { ...last, coefficient, size: last.size * size, weight };
    else {
      if (last) last.open = false;
      if (coefficient !== 0) runs.push({ coefficient, size, weight, first: i === 0, open: true });
    }
  }
  return runs.map(({ coefficient, size, weight: w, first }) => ({ coefficient, weight: w, size: first ? 0 : size }));
}

/** How many neighbours along flattened axes are neighbours in memory. */
export function unitRun(address: Form, axes: readonly number[], problem: Problem): number {
  const last = runsOf(address, axes, problem).at(-1);
  if (last?.coefficient !== 1 || last.weight !== 1) return 0;
  return last.size || product(axes.map((a) => problem.axes[a]?.size ?? 1));
}

/**
 * Whether four neighbours along flattened axes, from a multiple of four on, are one vec4 of the operand's buffer wherever everything
 * else is, and exist all or not at all.
 */
export function quadsAlong(side: Side, axes: readonly number[], problem: Problem): boolean {
  if (side.widest !== 4 || unitRun(side.address, axes, problem) % 4 !== 0 || unitRun(side.address, axes, problem) === 0) return false;
  const runs = runsOf(side.address, axes, problem);
  const others = problem.axes.flatMap((axis, a) => (axes.includes(a) || axis.size === 1 ? [] : [side.address.by[a] ?? 0]));
  const steps = [side.address.at, ...runs.slice(0, -1).map((run) => run.coefficient), ...others, ...side.quotients.map((q) => q.stride)];
  if (steps.some((step) => step % 4 !== 0)) return false;
  let inner = 1;
  for (const a of axes.toReversed()) {
    if ([...side.bounds, ...side.quotients].some(({ form }) => form.by[a] !== 0)) return false;
    inner *= problem.axes[a]?.size ?? 1;
    if (inner % 4 === 0) return true;
  }
  return false;
}

/** The axis along which four columns can be stored as one vec4. */
export function storedByFour({ columns }: Roles, problem: Problem, stores: readonly Store[]): Axis | undefined {
  const axis = problem.axes[columns.axes.at(-1) ?? -1];
  if (axis === undefined || axis.size % 4 !== 0 || problem.pairs.length > 0) return undefined;
  const wide = laneBuffers(stores, axis, true);
  return stores.some((store) => wide.has(store.buffer)) ? axis : undefined;
}
