/** Passes 3 and 5: the multiply-adds of one body, grouped by the condition under which they happen. */
import { type Table, tabulate, tabulateEnds, widthOf } from "./place.js";
import { Pool } from "./pool.js";
import type { Problem, Side } from "./problem.js";
import type { AxisLayout, Width } from "./schedule.js";

export interface Tables {
  readonly layout: readonly AxisLayout[];
  readonly pool: Pool;
  readonly left: Table | undefined;
  readonly right: Table | undefined;
  readonly ends: Table;
}

export interface Widths {
  readonly left: Width;
  readonly right: Width;
}

/** How wide each operand buffer is viewed; one buffer has one view per kernel. */
export function widths(problem: Problem, layout: readonly AxisLayout[]): Widths {
  const width = (side: Side | undefined): Width => {
    if (side === undefined) return 4;
    const w = widthOf(side, layout);
    return w === 2 && problem.loaded.has(side.buffer) ? 1 : w;
  };
  const left = width(problem.left);
  const right = width(problem.right);
  if (problem.left?.buffer !== problem.right?.buffer) return { left, right };
  const both = Math.min(left, right) as Width;
  return { left: both, right: both };
}

export function tables(problem: Problem, layout: readonly AxisLayout[], width: Widths): Tables {
  const pool = new Pool();
  return {
    layout,
    pool,
    left: problem.left && tabulate(problem.left, layout, pool, width.left),
    right: problem.right && tabulate(problem.right, layout, pool, width.right),
    ends: tabulateEnds(layout, problem.outputs, pool),
  };
}

/** One product; a missing factor is 1. Factors are entries of the operand's table. */
export interface Term {
  readonly left: number;
  readonly right: number;
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

/** An accumulator: a combination of output pins. `index` numbers all combinations row-major. */
export interface Accumulator {
  readonly index: number;
  readonly pins: readonly number[];
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
  const unrolled: { left: number; right: number; ends: number }[] = [];
  const reduction = layout.slice(problem.outputs);
  const at = (table: Table | undefined, pins: readonly number[], from: number): number =>
    table === undefined ? 0 : pins.reduce((sum, pin, a) => sum + pin * (table.strides[a + from] ?? 0), 0);
  combinations(reduction.map((axis) => axis.values.length), (pins) => {
    unrolled.push({ left: at(t.left, pins, problem.outputs), right: at(t.right, pins, problem.outputs), ends: at(t.ends, pins, problem.outputs) });
  });
  let terms = 0;
  for (const acc of accs) {
    const left = at(t.left, acc.pins, 0);
    const right = at(t.right, acc.pins, 0);
    const ends = at(t.ends, acc.pins, 0);
    for (const step of unrolled) {
      const term = { left: left + step.left, right: right + step.right };
      const a = t.left?.guards[term.left] ?? 0;
      const b = t.right?.guards[term.right] ?? 0;
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
        for (const chunk of [t.left?.chunks[term.left], t.right?.chunks[term.right]]) {
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
