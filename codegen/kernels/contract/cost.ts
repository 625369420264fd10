/** The cost of a schedule, counted from its tables before any text exists. */
import { MAX_ACCUMULATORS, MAX_SOURCE, MAX_TERMS, MAX_TRIPS } from "../../limits.js";
import type { Axis } from "../../kernel.js";
import { countSide, type SideCount, widthOf } from "./place.js";
import type { Problem } from "./problem.js";
import { type AxisLayout, layOutAxis, type Level, type LevelKind, levelSize, type Part, product, type Schedule, type Width } from "./schedule.js";

/** Per invocation unless said otherwise. */
export interface Counts {
  readonly threads: number;
  readonly loads: number;
  readonly terms: number;
  /** Evaluations of a condition. */
  readonly guards: number;
  readonly trips: number;
  readonly accumulators: number;
  /** Multiply-adds in the text, both bodies together. */
  readonly printed: number;
  /** f32 partial sums in memory, whole problem. */
  readonly partials: number;
  /** Elements stored, whole problem. */
  readonly stores: number;
}

/**
 * Weights measured on llvmpipe (a fit over some ninety kernels and schedules, mean error 24 %), in units of a third of a
 * nanosecond of its two cores. Loads dominate: a lane's load costs as much as thirty multiply-adds.
 */
const COST = {
  load: 7,
  term: 0.22,
  guard: 4,
  trip: 1,
  thread: 4,
  store: 1,
  /** Partial sums are written and read once more, by a second kernel. */
  partial: 4,
  /** Per dispatch, whole machine. */
  dispatch: 150_000,
  /** Fewer invocations than this leave parts of the machine idle. */
  busy: 512,
  /** Per multiply-add in the text: half a millisecond of the driver's compiler, over some three hundred uses. */
  printed: 5000,
};

export interface Costed {
  readonly schedule: Schedule;
  readonly cost: number;
  readonly counts: Counts;
}

const NO_SIDE: SideCount = { loads: 0, live: 1, sets: 1 };

/** Counts schedules of one problem; what depends on few axes is counted once for all schedules that agree on those. */
export class Counter {
  readonly #layouts = new Map<string, { readonly id: number; readonly layout: AxisLayout }>();
  readonly #sides = new Map<string, SideCount>();
  readonly #widths = new Map<string, Width>();
  readonly #relevant: readonly (readonly number[])[];
  readonly problem: Problem;

  constructor(problem: Problem) {
    this.problem = problem;
    this.#relevant = [problem.left, problem.right].map((side) => {
      const forms = side === undefined ? [] : [side.address, ...side.bounds.map((b) => b.form), ...side.quotients.map((q) => q.form)];
      return problem.axes.flatMap((_, a) => (forms.some((form) => form.by[a] !== 0) ? [a] : []));
    });
  }

  count(schedule: Schedule): Counts {
    const { axes, outputs, pairs, spec } = this.problem;
    const sizes = (a: number, kind: LevelKind) => levelSize(schedule, axes[a] as Axis, kind);
    const paired = new Set(pairs.flat());
    const tiles = product(pairs.map(([i]) => sizes(i, "thread")));
    const split = product(axes.map((_, a) => sizes(a, "split")));
    const plain = split * product(axes.map((_, a) => (paired.has(a) ? 1 : sizes(a, "thread"))));
    const trips = product(axes.map((_, a) => sizes(a, "loop")));
    const main = this.#body(schedule, "main", tiles);
    const tail = schedule.peel === undefined ? undefined : this.#body(schedule, "tail", tiles);
    const lastTrips = schedule.peel === undefined ? 0 : trips / levelSize(schedule, schedule.peel, "loop");
    const total = (key: "loads" | "terms" | "guards") => main[key] * (trips - lastTrips) + (tail?.[key] ?? 0) * lastTrips;
    const elements = product(spec.output.map((axis) => axis.size));
    return {
      threads: plain * (pairs.length > 0 ? (tiles * (tiles + 1)) / 2 : 1),
      loads: total("loads"),
      terms: total("terms"),
      guards: total("guards"),
      trips,
      accumulators: product(axes.slice(0, outputs).map((_, a) => sizes(a, "register"))),
      printed: main.terms + (tail?.terms ?? 0),
      partials: schedule.twoPass ? split * elements : 0,
      stores: elements,
    };
  }

  #body(schedule: Schedule, part: Part, tiles: number): { loads: number; terms: number; guards: number } {
    const { problem } = this;
    const laid = problem.axes.map((axis, a) => this.#layout(a, schedule.levels.get(axis) ?? [], schedule.peel === axis ? part : "whole"));
    const whole = schedule.peel === undefined ? laid : problem.axes.map((axis, a) => this.#layout(a, schedule.levels.get(axis) ?? [], "whole"));
    const [left, right] = [problem.left, problem.right].map((side, k) => {
      const relevant = this.#relevant[k] ?? [];
      const width = side && memo(this.#widths, `${k}:${relevant.map((a) => whole[a]?.id).join()}`, () => widthOf(side, whole.map((l) => l.layout)));
      return side && width && memo(this.#sides, `${k}${width}:${relevant.map((a) => laid[a]?.id).join()}`, () => countSide(side, laid.map((l) => l.layout), width));
    });
    const [l, r] = [left ?? NO_SIDE, right ?? NO_SIDE];
    let terms = l.live * r.live * (problem.pairs.length > 0 && tiles === 1 ? 0.5 : 1);
    let ends = 1;
    for (const [a, { layout }] of laid.entries()) {
      let inside = 0;
      let certain = 0;
      for (const reach of layout.reach) {
        if (reach >= 0) inside++;
        if (reach >= layout.span) certain++;
      }
      terms *= inside;
      if (a >= problem.outputs && certain < inside) ends *= 2;
    }
    const sets = l.sets * r.sets * ends;
    return { loads: l.loads + r.loads, terms, guards: sets > 1 ? sets : 0 };
  }

  #layout(a: number, levels: readonly Level[], part: Part): { readonly id: number; readonly layout: AxisLayout } {
    const key = `${a}${part}${levels.map((level) => level.size).join()}`;
    return memo(this.#layouts, key, () => ({ id: this.#layouts.size, layout: layOutAxis(this.problem.axes[a]?.size ?? 1, this.problem.names[a] ?? "", levels, part) }));
  }
}

function memo<T>(map: Map<string, T>, key: string, make: () => T): T {
  const known = map.get(key);
  if (known !== undefined) return known;
  const made = make();
  map.set(key, made);
  return made;
}

/** Estimated time; Infinity where a limit is broken. `finish`: characters of the epilogue. */
export function costOf(counter: Counter, schedule: Schedule): Costed {
  const { problem } = counter;
  const counts = counter.count(schedule);
  const legal =
    counts.trips <= MAX_TRIPS &&
    counts.accumulators <= MAX_ACCUMULATORS &&
    counts.printed <= MAX_TERMS &&
    counts.printed * 14 + counts.accumulators * 40 + 3000 <= MAX_SOURCE &&
    counts.partials * 4 <= problem.limits.bindingBytes &&
    counts.threads < 2 ** 31 &&
    counts.threads <= problem.limits.workgroupsPerDimension ** 2 * 8;
  if (!legal) return { schedule, cost: Infinity, counts };
  const each = COST.load * counts.loads + COST.term * counts.terms + COST.guard * counts.guards + COST.trip * counts.trips + COST.thread;
  const busy = Math.min(1, counts.threads / COST.busy);
  const body = (counts.threads * each + COST.store * (counts.partials || counts.stores)) / busy;
  return { schedule, cost: body + COST.partial * counts.partials + COST.dispatch * (schedule.twoPass ? 2 : 1) + COST.printed * counts.printed, counts };
}
