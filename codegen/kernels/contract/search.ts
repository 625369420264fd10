/** Chooses a schedule: coordinate descent over tile sizes on the counted cost, from a few starting points. */
import type { Axis } from "../../kernel.js";
import { leastWorkgroup, maxAccumulators, MAX_TRIPS } from "../../limits.js";
import { Counter, type Costed, type Counts, estimate } from "./cost.js";
import type { Problem, Side } from "./problem.js";
import { Cut, type Level, levelsOf, product, type Schedule } from "./schedule.js";

/** One choice per axis: accumulators of an output axis, unrolled steps of a reduction axis; and splits of the latter. */
interface Choice {
  readonly tile: readonly number[];
  readonly split: readonly number[];
}

export function scheduleOf(problem: Problem, choice: Choice, forceTwoPass: boolean): Schedule {
  return assemble(problem, problem.axes.map((axis, a) => levelsOf(axis.size, a < problem.outputs, choice.tile[a] ?? 1, choice.split[a] ?? 1)), forceTwoPass);
}

function assemble(problem: Problem, chosen: readonly (readonly Level[])[], forceTwoPass: boolean): Schedule {
  const cuts = problem.axes.map((axis, a) => new Cut(0, axis.size, axis.name, chosen[a] ?? []));
  const peel = peeled(cuts);
  const loops = cuts.flatMap((cut, a) => (cut.trips > 1 ? [a] : []));
  if (peel >= 0) loops.push(...loops.splice(loops.indexOf(peel), 1));
  const axis = (a: number): Axis => problem.axes[a] as Axis;
  const split = product(cuts.map((cut) => cut.parts));
  const paired = new Set(problem.pairs.flat());
  const threads = split * product(cuts.map((cut, a) => (paired.has(a) ? 1 : cut.threads)));
  const tiles = product(problem.pairs.map(([i]) => cuts[i]?.threads ?? 1));
  const workgroup = workgroupFor(problem, threads * (problem.pairs.length > 0 ? (tiles * (tiles + 1)) / 2 : 1));
  return { levels: new Map(cuts.map((cut, a) => [axis(a), cut.levels])), loops: loops.map(axis), ...(peel >= 0 && { peel: axis(peel) }), twoPass: split > 1 || forceTwoPass, workgroup };
}

/** The axis whose last trip is printed apart, -1: none. */
const peeled = (cuts: readonly Cut[]): number => cuts.findLastIndex((cut) => cut.ragged);

/** Small problems get small workgroups, so that every core has one. */
function workgroupFor(problem: Problem, threads: number): number {
  let size = Math.min(64, problem.limits.invocations);
  while (size > leastWorkgroup(problem.limits) && threads < size * 8) size /= 2;
  return size;
}

/** For long axes; short ones also take their divisors. */
const TILES = [1, 2, 4, 8, 12, 16, 32];
/** Axes up to this size may be held whole in registers or unrolled whole. */
const WHOLE = 32;
const SHORT = 7;
/** Pinned combinations beyond which a body is not even counted: dead ones included, text and time are lost on it. */
const MAX_PINNED = 2200;

/** Tile sizes worth trying for an axis: those that waste little, and the whole axis if it is short. */
function tileSizes(size: number): number[] {
  const sizes = new Set(TILES.filter((tile) => tile <= size && (Math.ceil(size / tile) * tile) / size <= 1.25));
  if (size <= WHOLE) for (let tile = 1; tile <= size; tile++) if (size % tile === 0) sizes.add(tile);
  return [...sizes].sort((a, b) => a - b);
}

function splitSizes(size: number): number[] {
  const sizes: number[] = [];
  for (let s = 1; s <= Math.min(size, 1024); s *= 2) sizes.push(s);
  return sizes;
}

/** Something to vary: tiles of one axis (of both axes of a symmetric pair), or parts of a split reduction axis. */
interface Knob {
  readonly axes: readonly number[];
  readonly key: "tile" | "split";
  readonly values: readonly number[];
}

export interface Found {
  readonly best: Costed;
  /** All legal schedules seen, cheapest first. */
  readonly ranked: readonly Costed[];
  readonly evaluated: number;
}

/** What was found for problems of equal shape. Which buffers they read, and what they store, does not matter. */
export type Remembered = Map<string, readonly Candidate[]>;

/** A choice with its cost, before it is a schedule of some problem's own axes. */
interface Candidate {
  readonly levels: readonly (readonly Level[])[];
  readonly cost: number;
  readonly counts: Counts;
}

/**
 * Steepest descent from a few starting points, turning the one knob that helps most; then from the best of those, also
 * turning two knobs by one notch each. Deterministic; some hundred schedules are counted.
 */
export function search(problem: Problem, forceTwoPass = false, allowSplit = true, remembered: Remembered = new Map()): Found {
  const key = shapeOf(problem, forceTwoPass, allowSplit);
  const candidates = remembered.get(key) ?? new Search(problem, forceTwoPass, allowSplit).run();
  remembered.set(key, candidates);
  const ranked = candidates.map(({ levels, cost, counts }): Costed => {
    let schedule: Schedule | undefined;
    return {
      cost, counts,
      get schedule() {
        schedule ??= assemble(problem, levels, forceTwoPass);
        return schedule;
      },
    };
  });
  return { best: ranked[0] ?? { schedule: scheduleOf(problem, plainest(problem), forceTwoPass), cost: Infinity, counts: NOTHING }, ranked, evaluated: candidates.length };
}

/** All that a search depends on. */
function shapeOf({ axes, outputs, left, right, sums, pairs, pooled, limits }: Problem, ...flags: readonly boolean[]): string {
  const side = (s: Side | undefined) => s && [s.address, s.bounds, s.quotients, s.widest];
  return JSON.stringify([axes.map((axis) => axis.size), outputs, side(left), side(right), sums.map((sum) => side(sum.side)), pairs, [...pooled], limits, flags]);
}

/** One cut per axis. */
type Cuts = readonly Cut[];

interface Weighed {
  readonly cuts: Cuts;
  readonly cost: number;
  readonly counts: Counts;
}

class Search {
  readonly #problem: Problem;
  readonly #forceTwoPass: boolean;
  readonly #allowSplit: boolean;
  readonly #counter: Counter;
  readonly #knobs: readonly Knob[];
  readonly #seen = new Map<string, Weighed>();

  constructor(problem: Problem, forceTwoPass: boolean, allowSplit: boolean) {
    this.#problem = problem;
    this.#forceTwoPass = forceTwoPass;
    this.#allowSplit = allowSplit;
    this.#counter = new Counter(problem);
    this.#knobs = knobsOf(problem, allowSplit);
  }

  /** All legal choices seen, cheapest first. */
  run(): Candidate[] {
    let best = this.#weigh(this.#cuts(plainest(this.#problem)));
    for (const seed of seeds(this.#problem, this.#allowSplit)) {
      const there = this.#descend(this.#weigh(this.#cuts(seed)), false);
      if (there.cost < best.cost) best = there;
    }
    this.#descend(best, true);
    const legal = [...this.#seen.values()].filter((w) => w.cost < Infinity).sort((a, b) => a.cost - b.cost);
    return legal.map(({ cuts, cost, counts }) => ({ levels: cuts.map((cut) => cut.levels), cost, counts }));
  }

  #cuts({ tile, split }: Choice): Cuts {
    return this.#problem.axes.map((_, a) => this.#counter.cut(a, tile[a] ?? 1, split[a] ?? 1));
  }

  #weigh(cuts: Cuts): Weighed {
    let key = "";
    for (const cut of cuts) key += String.fromCharCode(cut.id);
    const known = this.#seen.get(key);
    if (known) return known;
    const made = this.#estimate(cuts);
    this.#seen.set(key, made);
    return made;
  }

  #estimate(cuts: Cuts): Weighed {
    const problem = this.#problem;
    if (hopeless(problem, cuts.map((cut) => cut.tile))) return { cuts, cost: Infinity, counts: NOTHING };
    const twoPass = this.#forceTwoPass || cuts.some((cut) => cut.parts > 1);
    const counts = this.#counter.of(cuts, peeled(cuts), twoPass);
    return { cuts, cost: estimate(problem, counts, twoPass), counts };
  }

  #descend(from: Weighed, pairwise: boolean): Weighed {
    let best = from;
    for (let before = Infinity; best.cost < before; ) {
      before = best.cost;
      const { cuts } = best;
      const visit = (candidate: Cuts): void => {
        const weighed = this.#weigh(candidate);
        if (weighed.cost < best.cost) best = weighed;
      };
      if (pairwise) this.#doubles(cuts, visit);
      this.#singles(cuts, visit);
    }
    return best;
  }

  /** Every knob one or two notches away, or all the way. */
  #singles(cuts: Cuts, visit: (cuts: Cuts) => void): void {
    for (const knob of this.#knobs) {
      const at = notch(cuts, knob);
      for (const [i, value] of knob.values.entries())
        if ((i !== at && Math.abs(i - at) <= 2) || i === 0 || i === knob.values.length - 1 || value === 8) visit(this.#turned(cuts, knob, value));
    }
  }

  /** Two knobs by one notch each, not both down. */
  #doubles(cuts: Cuts, visit: (cuts: Cuts) => void): void {
    for (const [i, first] of this.#knobs.entries()) {
      for (const second of this.#knobs.slice(i + 1)) {
        for (const [one, two] of [[1, 1], [1, -1], [-1, 1]] as const) {
          const a = first.values[notch(cuts, first) + one];
          const b = second.values[notch(cuts, second) + two];
          if (a !== undefined && b !== undefined) visit(this.#turned(this.#turned(cuts, first, a), second, b));
        }
      }
    }
  }

  #turned(cuts: Cuts, { axes, key }: Knob, value: number): Cuts {
    const changed = [...cuts];
    for (const a of axes) {
      const { tile, split } = cuts[a] as Cut;
      changed[a] = key === "tile" ? this.#counter.cut(a, value, split) : this.#counter.cut(a, tile, value);
    }
    return changed;
  }
}

const NOTHING = { threads: 0, loads: 0, terms: 0, guards: 0, trips: 0, accumulators: 0, printed: 0, partials: 0, stores: 0 };

function notch(cuts: Cuts, { axes, key, values }: Knob): number {
  return Math.max(0, values.indexOf(cuts[axes[0] ?? 0]?.[key] ?? 1));
}

/** One accumulator per thread, nothing unrolled; splits only where the trips of all loops would be too many. Always legal. */
function plainest(problem: Problem): Choice {
  const split = problem.axes.map(() => 1);
  const trips = () => product(problem.axes.slice(problem.outputs).map((axis, r) => Math.ceil(axis.size / (split[problem.outputs + r] ?? 1))));
  for (let a = problem.outputs; a < problem.axes.length && trips() > MAX_TRIPS; a++) {
    const size = problem.axes[a]?.size ?? 1;
    while (trips() > MAX_TRIPS && (split[a] ?? 1) < size) split[a] = Math.min(size, (split[a] ?? 1) * 2);
  }
  return { tile: problem.axes.map((axis, a) => (problem.pooled.has(a) ? axis.size : 1)), split };
}

/** Starts: a square tile; short axes whole (taps of a filter, rows of an image), which are worth little in part. */
function seeds(problem: Problem, allowSplit: boolean): Choice[] {
  const plain = plainest(problem);
  const whole = (limit: number, from: number, to: number): Choice => ({
    ...plain,
    tile: problem.axes.map((axis, a) => (a >= from && a < to && axis.size <= limit ? axis.size : (plain.tile[a] ?? 1))),
  });
  const [outputs, all] = [problem.outputs, problem.axes.length];
  const long = problem.axes.slice(0, outputs).flatMap((axis, a) => (axis.size > WHOLE ? [a] : []));
  const square = { ...plain, tile: plain.tile.map((tile, a) => (long.slice(-2).includes(a) ? 8 : tile)) };
  // a few channels by all taps over a whole row: one knob at a time, the descent runs out of threads before it gets there
  const channels = problem.pairs.length > 0 ? -1 : problem.axes.findIndex((axis, a) => a < outputs && axis.size > SHORT && !problem.pooled.has(a));
  const several = channels < 0 ? [] : [{
    tile: problem.axes.map((axis, a) => (a === channels ? 4 : axis.size <= (a < outputs ? SHORT : a === all - 1 ? WHOLE : 0) ? axis.size : (plain.tile[a] ?? 1))),
    split: plain.split.map((parts, a) => (allowSplit && a === outputs ? Math.min(problem.axes[a]?.size ?? 1, 32) : parts)),
  }];
  return [square, whole(SHORT, outputs, all), whole(SHORT, 0, outputs), whole(WHOLE, all - 1, all), ...several].filter((choice) => !hopeless(problem, choice.tile));
}

function knobsOf(problem: Problem, allowSplit: boolean): Knob[] {
  const partner = new Map(problem.pairs);
  const columns = new Set(problem.pairs.map(([, j]) => j));
  const knobs: Knob[] = [];
  for (const [a, axis] of problem.axes.entries()) {
    if (axis.size === 1 || columns.has(a) || problem.pooled.has(a)) continue;
    const j = partner.get(a);
    knobs.push({ axes: j === undefined ? [a] : [a, j], key: "tile", values: tileSizes(axis.size) });
    if (allowSplit && a >= problem.outputs) knobs.push({ axes: [a], key: "split", values: splitSizes(axis.size) });
  }
  return knobs;
}

/** Limits that need no tables. */
const hopeless = (problem: Problem, tile: readonly number[]): boolean =>
  product(tile.slice(0, problem.outputs)) > maxAccumulators(problem.limits) || product(tile) > MAX_PINNED;
