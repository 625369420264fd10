/**
 * Two ways to learn how long each of a list of dispatches takes on a device. Both take entries of one dispatch each, in the order in which
 * they follow each other, and give milliseconds. Browser-safe.
 */
import { MAP_READ, USAGE } from "./device.js";
import type { Program } from "./program.js";

export const CLOCKS = ["timestamps", "wall"] as const;
export type Clock = (typeof CLOCKS)[number];

export interface Watch {
  readonly program: Program;
  /** Work on a device that is gone does nothing, and would seem infinitely fast. @throws RuntimeFault "device-lost" */
  alive(): void;
}

/** A measurement lasts this many times as long as submitting nothing, at least. */
const SUBMITS = 20;
/** And so many milliseconds: the host's clock and scheduler are not exact. */
const LEAST = 2;
const MOST_RUNS = 4096;

export const median = (list: readonly number[]): number => {
  const sorted = [...list].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? (sorted[middle] as number) : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
};

/** Milliseconds from submitting the entries to their end. */
async function wall({ program, alive }: Watch, entries: readonly string[]): Promise<number> {
  const start = performance.now();
  program.submit(entries);
  await program.device.queue.onSubmittedWorkDone();
  const took = performance.now() - start;
  alive();
  return took;
}

/** What it costs to submit nothing and to wait for it. */
export async function submitCost(watch: Watch): Promise<number> {
  await wall(watch, []);
  const samples: number[] = [];
  for (let k = 0; k < 9; k++) samples.push(await wall(watch, []));
  return median(samples);
}

const times = (entries: readonly string[], runs: number): string[] => Array.from({ length: runs }, () => entries).flat();

/** How often the entries have to run in one submit for its time to be theirs. */
async function enoughRuns(watch: Watch, entries: readonly string[], cost: number): Promise<number> {
  const enough = Math.max(LEAST, SUBMITS * cost);
  let runs = 1;
  for (;;) {
    const took = await wall(watch, times(entries, runs));
    if (took >= enough || runs === MOST_RUNS) return runs;
    runs = Math.min(MOST_RUNS, runs * Math.max(2, Math.min(16, Math.ceil(enough / took))));
  }
}

const once = async (watch: Watch, entries: readonly string[], runs: number, cost: number): Promise<number> => Math.max(0, (await wall(watch, times(entries, runs))) - cost) / runs;

/** Milliseconds of one run of the entries, one after the other in one submit, by the host's clock. */
export async function together(watch: Watch, entries: readonly string[], repeat: number, cost: number): Promise<number> {
  const runs = await enoughRuns(watch, entries, cost);
  const samples: number[] = [];
  for (let k = 0; k < repeat; k++) samples.push(await once(watch, entries, runs, cost));
  return median(samples);
}

/** Entries around one step of the program, so that it can run again and again on the same values. */
export interface Part {
  readonly run: string;
  /** Copies what the step may write away, and back. */
  readonly save: string;
  readonly restore: string;
  /** Copies back just what tells kernels where they stand (tickets, tables), where the step writes any. */
  readonly rewind: string | undefined;
}

/**
 * Each alone, by the host's clock. A step runs in its place among the others, on the values that these leave it; what it writes is put back
 * before it runs the one time that counts for those behind it. The measurements of a step are a round apart: who else uses the machine for
 * a while does not spoil all of them.
 */
export async function wallClock(watch: Watch, parts: readonly Part[], repeat: number, cost: number): Promise<number[]> {
  const { program } = watch;
  const samples: number[][] = parts.map(() => []);
  const runs: number[] = [];
  for (let round = 0; round <= repeat; round++)
    for (const [k, { run, save, restore, rewind }] of parts.entries()) {
      program.submit([save]);
      const entries = rewind === undefined ? [run] : [rewind, run];
      if (round === 0) runs.push(await enoughRuns(watch, entries, cost));
      else {
        const took = await once(watch, entries, runs[k] as number, cost);
        samples[k]?.push(rewind === undefined ? took : Math.max(0, took - (await once(watch, [rewind], runs[k] as number, cost))));
      }
      program.submit([restore, run]);
    }
  await program.device.queue.onSubmittedWorkDone();
  return samples.map(median);
}

/** Queries of one set: WebGPU's limit is 4096. */
const PASSES = 1024;

/** Each in a pass of its own with a timestamp at either end; undefined where the device's clock does not tick. */
export async function timestamps(watch: Watch, entries: readonly string[], repeat: number): Promise<number[] | undefined> {
  const { device } = watch.program;
  const all: number[][] = entries.map(() => []);
  const count = 2 * Math.min(PASSES, entries.length);
  const set = device.createQuerySet({ type: "timestamp", count });
  const resolved = device.createBuffer({ size: 8 * count, usage: USAGE.queryResolve | USAGE.copySrc });
  const staging = device.createBuffer({ size: 8 * count, usage: USAGE.copyDst | USAGE.mapRead });
  const measure = async (from: number): Promise<void> => {
    const part = entries.slice(from, from + PASSES);
    const bytes = 16 * part.length;
    watch.program.submit(part, (encoder) => {
      encoder.resolveQuerySet(set, 0, 2 * part.length, resolved, 0);
      encoder.copyBufferToBuffer(resolved, 0, staging, 0, bytes);
    }, (k) => ({ querySet: set, beginningOfPassWriteIndex: 2 * k, endOfPassWriteIndex: 2 * k + 1 }));
    await staging.mapAsync(MAP_READ, 0, bytes);
    watch.alive();
    const ticks = new BigUint64Array(staging.getMappedRange(0, bytes).slice(0));
    staging.unmap();
    // some drivers let a pass end before it begins, by a tick
    part.forEach((_, k) => { all[from + k]?.push(Math.max(0, Number((ticks[2 * k + 1] as bigint) - (ticks[2 * k] as bigint)) / 1e6)); });
  };
  try {
    // the first time compiles
    for (let r = 0; r <= repeat; r++) for (let from = 0; from < entries.length; from += PASSES) await measure(from);
  } finally {
    set.destroy();
    resolved.destroy();
    staging.destroy();
  }
  const made = all.map((list) => median(list.slice(1)));
  return entries.length > 0 && made.every((ms) => ms === 0) ? undefined : made;
}
