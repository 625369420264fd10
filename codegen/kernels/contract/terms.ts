/** Passes 3 and 5: the multiply-adds of one body, grouped by the condition under which they happen. */
import type { Buffer } from "../../kernel.js";
import { type Table, tabulate, tabulateEnds, widthOf } from "./place.js";
import { Pool } from "./pool.js";
import type { Problem, Side } from "./problem.js";
import { type AxisLayout, product, type Width } from "./schedule.js";

export interface Tables {
  readonly layout: readonly AxisLayout[];
  readonly pool: Pool;
  readonly left: Table | undefined;
  readonly right: Table | undefined;
  /** Of each further sum. */
  readonly sums: readonly (Table | undefined)[];
  readonly ends: Table;
}

/** How wide each operand buffer is viewed; one buffer has one view per kernel. */
export type Widths = ReadonlyMap<Buffer, Width>;

export function widths(problem: Problem, layout: readonly AxisLayout[]): Widths {
  const found = new Map<Buffer, Width>();
  for (const side of [problem.left, problem.right, ...problem.sums.map((sum) => sum.side)]) {
    if (side === undefined) continue;
    const w = widthOf(side, layout);
    found.set(side.buffer, Math.min(w === 2 && problem.loaded.has(side.buffer) ? 1 : w, found.get(side.buffer) ?? 4) as Width);
  }
  return found;
}

export function tables(problem: Problem, layout: readonly AxisLayout[], width: Widths): Tables {
  const pool = new Pool();
  const table = (side: Side | undefined) => side && tabulate(side, layout, pool, width.get(side.buffer) ?? 1);
  return {
    layout,
    pool,
    left: table(problem.left),
    right: table(problem.right),
    sums: problem.sums.map((sum) => table(sum.side)),
    ends: tabulateEnds(layout, problem.outputs, pool),
  };
}

/** One product; a missing factor is 1. Factors are entries of the operand's table; with `sum`: of that further sum's table, `left` alone. */
export interface Term {
  readonly left: number;
  readonly right: number;
  readonly sum?: number;
}

/** Terms under one guard set, by accumulator, with the loads that nobody else needs. */
export interface Group {
  readonly guards: number;
  readonly loads: number[];
  readonly sums: Map<number, Term[]>;
}

export interface Body extends Tables {
  /** Chunks loaded unconditionally: their readers have different guards. A load out of bounds is harmless, its terms are guarded. */
  readonly shared: readonly number[];
  readonly groups: readonly Group[];
  readonly terms: number;
}

/** An accumulator: a combination of output pins. `index` numbers all combinations row-major, those of further sums behind them. */
export interface Accumulator {
  readonly index: number;
  readonly pins: readonly number[];
  /** The further sum it belongs to. */
  readonly sum?: number;
}

/** The accumulators some thread needs. With one triangular tile (`diagonalOnly`) those above the diagonal go. */
export function accumulators(problem: Problem, layout: readonly AxisLayout[], diagonalOnly: boolean): Accumulator[] {
  const found: Accumulator[] = [];
  combinations(layout.slice(0, problem.outputs).map((axis) => axis.values.length), (pins, index) => {
    if (pins.some((pin, a) => (layout[a]?.reach[pin] ?? 0) < 0)) return;
    if (diagonalOnly && tilePosition(problem, layout, pins, 0) > tilePosition(problem, layout, pins, 1)) return;
    found.push({ index, pins: [...pins] });
  });
  return found;
}

/** The accumulators of the further sums: one per combination of the output pins that matter to each (also where nothing is summed: then they only say where to store). */
export function sumAccumulators(problem: Problem, layout: readonly AxisLayout[]): Accumulator[] {
  const found: Accumulator[] = [];
  let from = product(layout.slice(0, problem.outputs).map((axis) => axis.values.length));
  for (const [sum, { absent }] of problem.sums.entries()) {
    const sizes = layout.slice(0, problem.outputs).map((axis, a) => (absent.includes(a) ? 1 : axis.values.length));
    combinations(sizes, (pins, index) => {
      if (pins.some((pin, a) => (layout[a]?.reach[pin] ?? 0) < 0)) return;
      found.push({ index: from + index, pins: [...pins], sum });
    });
    from += product(sizes);
  }
  return found;
}

/** Row-major number of an accumulator's row (side 0) or column (side 1) within a symmetric tile. */
export function tilePosition(problem: Problem, layout: readonly AxisLayout[], pins: readonly number[], side: 0 | 1): number {
  return problem.pairs.reduce((at, pair) => at * (layout[pair[side]]?.values.length ?? 1) + (pins[pair[side]] ?? 0), 0);
}

/** Calls `visit` with every pin vector below `sizes`, in row-major order. The array passed is reused. */
export function combinations(sizes: readonly number[], visit: (pins: number[], index: number) => void): void {
  const pins = sizes.map(() => 0);
  const total = sizes.reduce((a, b) => a * b, 1);
  for (let index = 0; index < total; index++) {
    visit(pins, index);
    for (let a = sizes.length - 1; a >= 0; a--) {
      pins[a] = (pins[a] ?? 0) + 1;
      if ((pins[a] ?? 0) < (sizes[a] ?? 1)) break;
      pins[a] = 0;
    }
  }
}

export function bodyOf(problem: Problem, t: Tables, accs: readonly Accumulator[]): Body {
  const { layout, pool } = t;
  const groups = new Map<number, Group>();
  const unrolled: { left: number; right: number; sums: number[]; ends: number }[] = [];
  const reduction = layout.slice(problem.outputs);
  const at = (table: Table | undefined, pins: readonly number[], from: number): number =>
    table === undefined ? 0 : pins.reduce((sum, pin, a) => sum + pin * (table.strides[a + from] ?? 0), 0);
  combinations(reduction.map((axis) => axis.values.length), (pins) => {
    unrolled.push({
      left: at(t.left, pins, problem.outputs), right: at(t.right, pins, problem.outputs),
      sums: t.sums.map((table) => at(table, pins, problem.outputs)), ends: at(t.ends, pins, problem.outputs),
    });
  });
  let terms = 0;
  for (const acc of accs) {
    const extra = acc.sum === undefined ? undefined : t.sums[acc.sum];
    const left = at(extra ?? t.left, acc.pins, 0);
    const right = at(t.right, acc.pins, 0);
    const ends = at(t.ends, acc.pins, 0);
    for (const step of unrolled) {
      const term: Term = extra ? { left: left + (step.sums[acc.sum as number] ?? 0), right: 0, sum: acc.sum as number } : { left: left + step.left, right: right + step.right };
      const a = (extra ?? t.left)?.guards[term.left] ?? 0;
      const b = extra ? 0 : (t.right?.guards[term.right] ?? 0);
      const c = t.ends.guards[ends + step.ends] ?? 0;
      if (a < 0 || b < 0 || c < 0) continue;
      terms++;
      const guards = pool.union(pool.union(a, b), c);
      const group: Group = groups.get(guards) ?? { guards, loads: [], sums: new Map() };
      groups.set(guards, group);
      const sum = group.sums.get(acc.index);
      if (sum === undefined) group.sums.set(acc.index, [term]);
      else sum.push(term);
    }
  }
  return { ...t, shared: assignLoads(t, [...groups.values()]), groups: [...groups.values()], terms };
}

/** Gives every chunk to the one group that reads it; returns the chunks that several read. */
function assignLoads(t: Tables, groups: readonly Group[]): number[] {
  const owner = new Map<number, Group | "several">();
  for (const group of groups) {
    for (const sum of group.sums.values()) {
      for (const term of sum) {
        for (const chunk of term.sum === undefined ? [t.left?.chunks[term.left], t.right?.chunks[term.right]] : [t.sums[term.sum]?.chunks[term.left]]) {
          if (chunk === undefined) continue;
          const known = owner.get(chunk);
          owner.set(chunk, known === undefined || known === group ? group : "several");
        }
      }
    }
  }
  const shared: number[] = [];
  for (const [chunk, group] of [...owner].sort(([a], [b]) => a - b)) (group === "several" ? shared : group.loads).push(chunk);
  return shared;
}
