/** Measures one subject in alternation with the yardstick. */
import type { Target } from "../../codegen/kernel.js";
import type { DeviceKind } from "../../runtime/device.js";
import type { Calls, Counter } from "./count.js";
import type { Facts, Row } from "./result.js";
import { type Lap, median, percentile, roundOf } from "./stats.js";
import type { Yardstick } from "./yardstick.js";

/** Something that is measured. */
export interface Subject {
  readonly id: string;
  readonly name: string;
  /** Rows that belong together stand together, and `--only` finds them by this word, too. */
  readonly group: "matmul" | "conv" | "inverse" | "models" | "startup";
  /** Left out with --quick. */
  readonly slow?: boolean;
  open(bench: Bench): Promise<Opened>;
}

/** A subject on the device. */
export interface Opened {
  /** Does the work `count` times and waits for it. */
  run(count: number): Promise<void>;
  /** Repetitions of each lap of a round: whole cycles of whatever recurs. Absent: as many as a clock needs, in one lap. */
  readonly laps?: readonly number[];
  /** Repetitions of a lap go into one submit, where a user's would be one each. */
  readonly batched?: boolean;
  /** Most rounds; of the run's usual number otherwise. */
  readonly rounds?: number;
  /** Holds the numbers to the truth, before anything is timed; says how. @throws Error */
  check(): Promise<string>;
  /** One step, awaited; for the spread of single times. */
  step?(): Promise<void>;
  /** Known once the rounds are over. */
  facts(): Facts;
  close(): Promise<void>;
}

export interface Bench {
  readonly device: GPUDevice;
  /** What kernels are shaped for. */
  readonly target: Target;
  readonly yardstick: Yardstick;
  readonly calls: Counter;
  readonly rounds: number;
  /** Every yardstick of the run, in ms. */
  readonly yards: number[];
}

export const targetOf = (kind: DeviceKind): Target => (kind === "gpu" ? "gpu" : "software");

/** A lap takes at least this long where the work may be repeated: then the cost of a submit (0.1 ms) stays below 1 %. */
const LAP_MS = 20;
const MOST_REPEATS = 300;
/** Single steps that are awaited for p50 and p99. */
const SINGLE_STEPS = 200;

const timed = async (work: () => Promise<unknown>): Promise<number> => {
  const start = performance.now();
  await work();
  return performance.now() - start;
};

export async function measure(subject: Subject, bench: Bench): Promise<Row> {
  const { id, name } = subject;
  const opened = await subject.open(bench);
  try {
    const checked = await opened.check();
    const laps = opened.laps ?? [await repeats(opened)];
    const perRound = laps.reduce((a, b) => a + b, 0);
    const rounds = Math.min(bench.rounds, opened.rounds ?? bench.rounds);
    const all: { yards: number; ms: number }[] = [];
    let calls: Calls = { dispatches: 0, submits: 0 };
    const looks = bench.yards.length;
    let before = await look(bench);
    for (let round = 0; round < rounds; round++) {
      const done: Lap[] = [];
      calls = { dispatches: 0, submits: 0 };
      for (const count of laps) {
        bench.calls.take();
        const ms = await timed(() => opened.run(count));
        const taken = bench.calls.take();
        calls = { dispatches: calls.dispatches + taken.dispatches, submits: calls.submits + taken.submits };
        const after = await look(bench);
        done.push({ ms, count, before, after });
        before = after;
      }
      all.push(roundOf(done));
    }
    const facts: Facts = {
      dispatches: calls.dispatches / perRound,
      submits: opened.batched ? 1 : calls.submits / perRound,
      ...(opened.step ? await singles(opened.step) : {}), ...opened.facts(),
    };
    const best = Math.min(...all.map((r) => r.ms)) / Math.min(...bench.yards.slice(looks, looks + 1 + rounds * laps.length));
    return { id, name, best, yards: median(all.map((r) => r.yards)), ms: median(all.map((r) => r.ms)), rounds, facts, checked };
  } finally {
    await opened.close();
  }
}

async function look(bench: Bench): Promise<number> {
  const ms = await bench.yardstick.round();
  bench.yards.push(ms);
  return ms;
}

/** How often the work is repeated in a lap; the first run, which may compile, does not count. */
async function repeats(opened: Opened): Promise<number> {
  await opened.run(1);
  return Math.max(1, Math.min(MOST_REPEATS, Math.ceil(LAP_MS / (await timed(() => opened.run(1))))));
}

async function singles(step: () => Promise<void>): Promise<Facts> {
  const times: number[] = [];
  for (let k = 0; k < SINGLE_STEPS; k++) times.push(await timed(step));
  const [p50Ms, p99Ms] = [percentile(times, 0.5), percentile(times, 0.99)];
  return { p50Ms, p99Ms, tail: p99Ms / p50Ms };
}
