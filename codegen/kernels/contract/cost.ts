/** The cost of a schedule, counted from its tables before any text exists. */
import { maxAccumulators, MAX_SOURCE, MAX_TERMS, MAX_TRIPS } from "../../limits.js";
import { NO_SIDE, SideCounter } from "./count.js";
import type { Problem } from "./problem.js";
import { Cut, levelsOf, type Part, product, type Schedule } from "./schedule.js";

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
  busy: 256,
  /** The same of a GPU, and what a dispatch is worth there, where all invocations together are some hundred times as fast: reasoned, not measured. */
  busyGpu: 16_384,
  dispatchGpu: 15_000_000,
  /** Per multiply-add in the text: half a millisecond of the driver's compiler, over some three hundred uses. */
  printed: 15_000,
};

export interface Costed {
  readonly schedule: Schedule;
  readonly cost: number;
  readonly counts: Counts;
}

/** Counts schedules of one problem; what depends on few axes is counted once for all schedules that agree on those. */
export class Counter {
  readonly problem: Problem;
  readonly #sides: readonly (SideCounter | undefined)[];
  readonly #cuts: readonly Map<number, Cut>[];
  readonly #paired: ReadonlySet<number>;
  readonly #elements: number;

  constructor(problem: Problem) {
    this.problem = problem;
    this.#sides = [problem.left, problem.right].map((side) => side && new SideCounter(side, problem.axes.length));
    this.#cuts = problem.axes.map(() => new Map());
    this.#paired = new Set(problem.pairs.flat());
    this.#elements = product(problem.axes.slice(0, problem.outputs).map((axis) => axis.size));
  }

  /** An axis with a tile, and for a reduction axis a number of parts. */
  cut(a: number, tile: number, split: number): Cut {
    const mine = this.#cuts[a] as Map<number, Cut>;
    const key = tile * 2 ** 26 + split;
    const known = mine.get(key);
    if (known) return known;
    const { problem } = this;
    const size = problem.axes[a]?.size ?? 1;
    const made = new Cut(mine.size, size, problem.names[a] ?? "", levelsOf(size, a < problem.outputs, tile, split), split);
    mine.set(key, made);
    return made;
  }

  /** A schedule from elsewhere. */
  count(schedule: Schedule): Counts {
    const { axes, names } = this.problem;
    const cuts = axes.map((axis, a) => new Cut(0, axis.size, names[a] ?? "", schedule.levels.get(axis) ?? []));
    // the numbers of these cuts are not this counter's
    return new Counter(this.problem).of(cuts, schedule.peel === undefined ? -1 : axes.indexOf(schedule.peel), schedule.twoPass);
  }

  /** `peel`: the axis whose last trip is printed apart, -1: none. */
  of(cuts: readonly Cut[], peel: number, twoPass: boolean): Counts {
    const { outputs, pairs } = this.problem;
    let [plain, split, trips, accumulators] = [1, 1, 1, 1];
    for (let a = 0; a < cuts.length; a++) {
      const cut = cuts[a] as Cut;
      split *= cut.parts;
      trips *= cut.trips;
      if (!this.#paired.has(a)) plain *= cut.threads;
      if (a < outputs) accumulators *= cut.tile;
    }
    const tiles = pairs.reduce((n, [i]) => n * (cuts[i] as Cut).threads, 1);
    const main = this.#body(cuts, peel, "main", tiles);
    const tail = peel < 0 ? undefined : this.#body(cuts, peel, "tail", tiles);
    const lastTrips = peel < 0 ? 0 : trips / (cuts[peel] as Cut).trips;
    const total = (one: number, last: number | undefined): number => one * (trips - lastTrips) + (last ?? 0) * lastTrips;
    return {
      threads: split * plain * (pairs.length > 0 ? (tiles * (tiles + 1)) / 2 : 1),
      loads: total(main.loads, tail?.loads),
      terms: total(main.terms, tail?.terms),
      guards: total(main.guards, tail?.guards),
      trips,
      accumulators,
      printed: main.terms + (tail?.terms ?? 0),
      partials: twoPass ? split * this.#elements : 0,
      stores: this.#elements,
    };
  }

  #body(cuts: readonly Cut[], peel: number, part: Part, tiles: number): { loads: number; terms: number; guards: number } {
    const { problem } = this;
    const l = this.#sides[0]?.count(cuts, peel, part) ?? NO_SIDE;
    const r = this.#sides[1]?.count(cuts, peel, part) ?? NO_SIDE;
    let terms = l.live * r.live * (problem.pairs.length > 0 && tiles === 1 ? 0.5 : 1);
    let ends = 1;
    for (let a = 0; a < cuts.length; a++) {
      const { live, certain } = (cuts[a] as Cut).layout(a === peel ? part : "whole");
      terms *= live;
      if (a >= problem.outputs && certain < live) ends *= 2;
    }
    const sets = l.sets * r.sets * ends;
    return { loads: l.loads + r.loads, terms, guards: sets > 1 ? sets : 0 };
  }
}

/** Counts and estimated time of a schedule. */
export function costOf(counter: Counter, schedule: Schedule): Costed {
  const counts = counter.count(schedule);
  return { schedule, cost: estimate(counter.problem, counts, schedule.twoPass), counts };
}

/** @returns Infinity where a limit is broken. */
export function estimate(problem: Problem, counts: Counts, twoPass: boolean): number {
  const legal =
    counts.trips <= MAX_TRIPS &&
    counts.accumulators <= maxAccumulators(problem.limits) &&
    counts.printed <= MAX_TERMS &&
    counts.printed * 14 + counts.accumulators * 40 + 3000 <= MAX_SOURCE &&
    counts.partials * 4 <= problem.limits.bindingBytes &&
    counts.threads < 2 ** 31 &&
    counts.threads <= problem.limits.workgroupsPerDimension ** 2 * 8;
  if (!legal) return Infinity;
  const each = COST.load * counts.loads + COST.term * counts.terms + COST.guard * counts.guards + COST.trip * counts.trips + COST.thread;
  const gpu = problem.limits.target === "gpu";
  const busy = Math.min(1, counts.threads / (gpu ? COST.busyGpu : COST.busy));
  const body = (counts.threads * each + COST.store * (counts.partials || counts.stores)) / busy;
  return body + COST.partial * counts.partials + (gpu ? COST.dispatchGpu : COST.dispatch) * (twoPass ? 2 : 1) + COST.printed * counts.printed;
}
