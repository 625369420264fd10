/** Numbers out of rounds. */

/** The middle value; of an even count the mean of the two in the middle. @throws Error of none */
export function median(values: readonly number[]): number {
  if (values.length === 0) throw new Error("the median of no values");
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  const upper = sorted[half] as number;
  return sorted.length % 2 === 1 ? upper : ((sorted[half - 1] as number) + upper) / 2;
}

/** The smallest value that at least the fraction `p` of all do not exceed (nearest rank). */
export function percentile(values: readonly number[], p: number): number {
  if (values.length === 0) throw new Error("a percentile of no values");
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(p * sorted.length) - 1))] as number;
}

/** A stretch of work between two looks at the yardstick. */
export interface Lap {
  readonly ms: number;
  /** Repetitions of the work in it. */
  readonly count: number;
  /** The yardstick just before and just after, in ms. */
  readonly before: number;
  readonly after: number;
}

/** Yardsticks and milliseconds of one repetition over all laps of a round: each lap in the unit of its own moment. */
export function roundOf(laps: readonly Lap[]): { readonly yards: number; readonly ms: number } {
  const count = laps.reduce((n, l) => n + l.count, 0);
  const yards = laps.reduce((n, l) => n + l.ms / ((l.before + l.after) / 2), 0);
  return { yards: yards / count, ms: laps.reduce((n, l) => n + l.ms, 0) / count };
}
