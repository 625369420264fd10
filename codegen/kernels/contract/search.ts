/** Chooses a schedule: coordinate descent over tile sizes on the counted cost, from a few starting points. */
import type { Axis } from "../../kernel.js";
import { MAX_ACCUMULATORS, MAX_TRIPS } from "../../limits.js";
import { Counter, type Costed, costOf } from "./cost.js";
import type { Problem } from "./problem.js";
import { type Level, product, type Schedule } from "./schedule.js";

/** One choice per axis: accumulators of an output axis, unrolled steps of a reduction axis; and splits of the latter. */
interface Choice {
  readonly tile: readonly number[];
  readonly split: readonly number[];
}

export function scheduleOf(problem: Problem, choice: Choice, forceTwoPass: boolean): Schedule {
  const levels = new Map<Axis, readonly Level[]>();
  const loops: Axis[] = [];
  let peel: Axis | undefined;
  let split = 1;
  for (const [a, axis] of problem.axes.entries()) {
    const tile = choice.tile[a] ?? 1;
    const steps = Math.ceil(axis.size / tile);
    if (a < problem.outputs) {
      levels.set(axis, [{ kind: "thread", size: steps }, { kind: "register", size: tile }]);
      continue;
    }
    const trips = Math.ceil(steps / (choice.split[a] ?? 1));
    const parts = Math.ceil(steps / trips);
    split *= parts;
    levels.set(axis, [{ kind: "split", size: parts }, { kind: "loop", size: trips }, { kind: "unroll", size: tile }]);
    if (trips > 1) loops.push(axis);
    if (trips > 1 && parts === 1 && steps * tile !== axis.size) peel = axis;
  }
  if (peel !== undefined) loops.push(...loops.splice(loops.indexOf(peel), 1));
  const paired = new Set(problem.pairs.flat());
  const threads = split * product(problem.axes.slice(0, problem.outputs).map((axis, a) => (paired.has(a) ? 1 : (levels.get(axis)?.[0]?.size ?? 1))));
  const tiles = product(problem.pairs.map(([i]) => levels.get(problem.axes[i] as Axis)?.[0]?.size ?? 1));
  const workgroup = workgroupFor(problem, threads * (problem.pairs.length > 0 ? (tiles * (tiles + 1)) / 2 : 1));
  return { levels, loops, ...(peel && { peel }), twoPass: split > 1 || forceTwoPass, workgroup };
}

/** Small problems get small workgroups, so that every core has one. */
function workgroupFor(problem: Problem, threads: number): number {
  let size = Math.min(64, problem.limits.invocations);
  while (size > 8 && threads < size * 8) size /= 2;
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

/**
 * Steepest descent from a few starting points, turning the one knob that helps most; then from the best of those, also
 * turning two knobs by one notch each. Deterministic; some hundred schedules are counted.
 */
export function search(problem: Problem, forceTwoPass = false, allowSplit = true): Found {
  const seen = new Map<string, Costed>();
  const counter = new Counter(problem);
  const never: Costed = { schedule: scheduleOf(problem, plainest(problem), forceTwoPass), cost: Infinity, counts: NOTHING };
  const evaluate = (choice: Choice): Costed => {
    const key = `${choice.tile.join()}/${choice.split.join()}`;
    let costed = seen.get(key);
    if (costed === undefined) {
      costed = hopeless(problem, choice) ? never : costOf(counter, scheduleOf(problem, choice, forceTwoPass));
      seen.set(key, costed);
    }
    return costed;
  };
  const knobs = knobsOf(problem, allowSplit);
  const descend = (from: Choice, moves: (choice: Choice) => Iterable<Choice>): [Choice, Costed] => {
    let choice = from;
    let best = evaluate(from);
    for (let before = Infinity; best.cost < before; ) {
      before = best.cost;
      for (const candidate of moves(choice)) {
        const costed = evaluate(candidate);
        if (costed.cost < best.cost) [choice, best] = [candidate, costed];
      }
    }
    return [choice, best];
  };
  let choice = plainest(problem);
  let best = evaluate(choice);
  for (const seed of seeds(problem)) {
    const [there, costed] = descend(seed, (from) => singles(from, knobs));
    if (costed.cost < best.cost) [choice, best] = [there, costed];
  }
  [choice, best] = descend(choice, (from) => [...doubles(from, knobs), ...singles(from, knobs)]);
  const ranked = [...seen.values()].filter((c) => c.cost < Infinity).sort((a, b) => a.cost - b.cost);
  return { best, ranked, evaluated: seen.size };
}

const NOTHING = { threads: 0, loads: 0, terms: 0, guards: 0, trips: 0, accumulators: 0, printed: 0, partials: 0, stores: 0 };

/** Every knob one or two notches away, or all the way. */
function* singles(choice: Choice, knobs: readonly Knob[]): Generator<Choice> {
  for (const knob of knobs) {
    const at = notch(choice, knob);
    for (const [i, value] of knob.values.entries())
      if ((i !== at && Math.abs(i - at) <= 2) || i === 0 || i === knob.values.length - 1 || value === 8) yield turned(choice, knob, value);
  }
}

/** Two knobs by one notch each, not both down. */
function* doubles(choice: Choice, knobs: readonly Knob[]): Generator<Choice> {
  for (const [i, first] of knobs.entries()) {
    for (const second of knobs.slice(i + 1)) {
      for (const [one, two] of [[1, 1], [1, -1], [-1, 1]] as const) {
        const a = first.values[notch(choice, first) + one];
        const b = second.values[notch(choice, second) + two];
        if (a !== undefined && b !== undefined) yield turned(turned(choice, first, a), second, b);
      }
    }
  }
}

const notch = (choice: Choice, knob: Knob): number => Math.max(0, knob.values.indexOf(choice[knob.key][knob.axes[0] ?? 0] ?? 1));

function turned(choice: Choice, knob: Knob, value: number): Choice {
  const changed = [...choice[knob.key]];
  for (const a of knob.axes) changed[a] = value;
  return { ...choice, [knob.key]: changed };
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
function seeds(problem: Problem): Choice[] {
  const plain = plainest(problem);
  const whole = (limit: number, from: number, to: number): Choice => ({
    ...plain,
    tile: problem.axes.map((axis, a) => (a >= from && a < to && axis.size <= limit ? axis.size : (plain.tile[a] ?? 1))),
  });
  const [outputs, all] = [problem.outputs, problem.axes.length];
  const long = problem.axes.slice(0, outputs).flatMap((axis, a) => (axis.size > WHOLE ? [a] : []));
  const square = { ...plain, tile: plain.tile.map((tile, a) => (long.slice(-2).includes(a) ? 8 : tile)) };
  return [square, whole(SHORT, outputs, all), whole(SHORT, 0, outputs), whole(WHOLE, all - 1, all)].filter((choice) => !hopeless(problem, choice));
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
const hopeless = (problem: Problem, { tile }: Choice): boolean =>
  product(tile.slice(0, problem.outputs)) > MAX_ACCUMULATORS || product(tile) > MAX_PINNED;
