/** Schedules: every axis as a list of mixed-radix levels, and the digits that follow from them. */
import type { Axis } from "../../kernel.js";
import type { Problem } from "./problem.js";

export type LevelKind = "thread" | "split" | "loop" | "unroll" | "register";

/** One digit of an axis. thread, split and loop digits exist at run time, unroll and register digits only in the text. */
export interface Level {
  readonly kind: LevelKind;
  readonly size: number;
}

/** Elements per load. */
export type Width = 1 | 2 | 4;

export interface Schedule {
  /** Levels of every axis, outermost first. Their sizes multiply to at least the axis's size. */
  readonly levels: ReadonlyMap<Axis, readonly Level[]>;
  /** Axes with a loop level, outermost loop first. */
  readonly loops: readonly Axis[];
  /** The innermost loop, if its last trip is ragged and printed apart. */
  readonly peel?: Axis;
  /** Pass through partial sums in memory, then a second kernel with the stores. */
  readonly twoPass: boolean;
  /** Invocations per workgroup. */
  readonly workgroup: number;
}

/** A digit known at run time: contributes weight · name, 0 ≤ name < size. */
export interface Digit {
  readonly name: string;
  readonly kind: "thread" | "split" | "loop";
  readonly weight: number;
  readonly size: number;
}

/** An axis in one printed body: value = values[pin] + D, where D = Σ weight · digit is within 0 … reach[pin]. */
export interface AxisLayout {
  readonly digits: readonly Digit[];
  /** The parts known in the text, one per accumulator or unrolled step. */
  readonly values: readonly number[];
  /** Largest D that keeps the axis below its size; negative where none does (such a pin is dead). */
  readonly reach: readonly number[];
  /** Largest D the digits can form. */
  readonly span: number;
  /** gcd of the digits' weights (0 without digits). */
  readonly step: number;
  /** Pins that are not dead, and pins that are below the axis's size for every digit. */
  readonly live: number;
  readonly certain: number;
}

/** "main" runs every trip of the loops but the peeled one's last, "tail" only that one (its digit is a number), "whole" all. */
export type Part = "main" | "tail" | "whole";

export const layOut = (problem: Problem, schedule: Schedule, part: Part): AxisLayout[] =>
  problem.axes.map((axis, a) => layOutAxis(axis.size, problem.names[a] ?? axis.name, schedule.levels.get(axis) ?? [], schedule.peel === axis ? part : "whole"));

/** Digits of one axis; `part` speaks of the axis's own loop. */
export function layOutAxis(axisSize: number, axisName: string, levels: readonly Level[], part: Part): AxisLayout {
  const digits: Digit[] = [];
  let values = [0];
  let weight = 1;
  for (const { kind, size } of levels.toReversed()) {
    if (kind === "unroll" || kind === "register") {
      const inner = values;
      values = [];
      for (let digit = 0; digit < size; digit++) for (const value of inner) values.push(digit * weight + value);
    } else if (size > 1) {
      const trips = kind === "loop" && part !== "whole" ? size - 1 : size;
      if (kind === "loop" && part === "tail") {
        const last = trips * weight;
        values = values.map((value) => value + last);
      } else if (trips > 1) {
        const name = `${axisName}_${kind[0]}${digits.some((d) => d.kind === kind) ? digits.length : ""}`;
        digits.push({ name, kind, weight, size: trips });
      }
    }
    weight *= size;
  }
  const span = digits.reduce((sum, digit) => sum + (digit.size - 1) * digit.weight, 0);
  const step = digits.reduce((g, digit) => gcd(g, digit.weight), 0);
  const reach = values.map((value) => {
    const room = axisSize - 1 - value;
    return room < 0 ? -1 : step === 0 ? 0 : Math.min(span, Math.floor(room / step) * step);
  });
  const count = (least: number): number => reach.reduce((n, r) => (r >= least ? n + 1 : n), 0);
  return { digits: digits.reverse(), values, reach, span, step, live: count(0), certain: count(span) };
}

/** An axis under one choice of levels, with its layouts. `id` is its number among the cuts of this axis that a counter knows. */
export class Cut {
  readonly id: number;
  readonly levels: readonly Level[];
  /** Parts that were asked for: those of equal length may be fewer. */
  readonly split: number;
  /** Sizes of the levels; `tile` is what one invocation holds: registers of an output axis, unrolled steps of a reduction axis. */
  readonly threads: number;
  readonly parts: number;
  readonly trips: number;
  readonly tile: number;
  /** The last trip of its loop is not whole and could be printed apart. */
  readonly ragged: boolean;
  readonly #size: number;
  readonly #name: string;
  readonly #layouts: Partial<Record<Part, AxisLayout>> = {};

  constructor(id: number, size: number, name: string, levels: readonly Level[], split = 1) {
    const of = (kind: LevelKind) => levels.reduce((n, level) => (level.kind === kind ? n * level.size : n), 1);
    this.id = id;
    this.levels = levels;
    this.split = split;
    this.threads = of("thread");
    this.parts = of("split");
    this.trips = of("loop");
    this.tile = of("register") * of("unroll");
    this.ragged = this.trips > 1 && this.parts === 1 && this.trips * this.tile !== size;
    this.#size = size;
    this.#name = name;
  }

  layout(part: Part): AxisLayout {
    const known = this.#layouts[part] ?? layOutAxis(this.#size, this.#name, this.levels, part);
    this.#layouts[part] = known;
    return known;
  }
}

/** Levels of an output axis with `tile` accumulators, or of a reduction axis with `tile` unrolled steps, in about `split` parts. */
export function levelsOf(size: number, output: boolean, tile: number, split: number): readonly Level[] {
  const steps = Math.ceil(size / tile);
  if (output) return [{ kind: "thread", size: steps }, { kind: "register", size: tile }];
  const trips = Math.ceil(steps / split);
  return [{ kind: "split", size: Math.ceil(steps / trips) }, { kind: "loop", size: trips }, { kind: "unroll", size: tile }];
}

export function gcd(a: number, b: number): number {
  let x = Math.abs(a);
  let y = Math.abs(b);
  while (y !== 0) [x, y] = [y, x % y];
  return x;
}

export const product = (numbers: Iterable<number>): number => {
  let result = 1;
  for (const n of numbers) result *= n;
  return result;
};

/** Product of the sizes of an axis's levels of some kinds. */
export const levelSize = (schedule: Schedule, axis: Axis, ...kinds: LevelKind[]): number =>
  product((schedule.levels.get(axis) ?? []).filter((level) => kinds.includes(level.kind)).map((level) => level.size));
