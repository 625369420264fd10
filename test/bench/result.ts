/** What the bench measures and writes down. */
import { median } from "./stats.js";

/** Figures of a row beside its time; absent where they mean nothing. Names end in their unit. */
export interface Facts {
  /** Arithmetic and bytes of one repetition, as codegen/work.ts counts them; of a step: the mean over a cycle of its periods. */
  readonly flops?: number;
  readonly bytes?: number;
  /** Of one repetition, as the device saw them. */
  readonly dispatches?: number;
  readonly submits?: number;
  readonly kernels?: number;
  /** From model to plan, in this process. */
  readonly compileMs?: number;
  /** Buffers of the plan; and of a step: all that it keeps or computes on the way, each tensor in a buffer of its own. */
  readonly memoryBytes?: number;
  readonly tensorBytes?: number;
  readonly memoryShare?: number;
  /** From artifact to the first loss in a process of its own: with an empty cache of the driver, and with the one that this left. */
  readonly firstColdMs?: number;
  readonly firstWarmMs?: number;
  /** Of single steps, each awaited. */
  readonly p50Ms?: number;
  readonly p99Ms?: number;
  readonly tail?: number;
  /** Wall clock of a whole command. */
  readonly commandMs?: number;
}

export interface Row {
  /** Stable and short, e.g. "mlp/kfac-10"; baselines and marks go by it. */
  readonly id: string;
  readonly name: string;
  /** Multiples of the yardstick's time; absent where only facts were measured. */
  readonly yards?: number;
  readonly ms?: number;
  /** The shortest round over the shortest yardstick between the rounds: what a busy machine disturbs least. */
  readonly best?: number;
  readonly rounds?: number;
  readonly facts: Facts;
  /** How its numbers were held to the truth. */
  readonly checked?: string;
  /** Why there are no figures. */
  readonly error?: string;
}

export interface Results {
  readonly adapter: string;
  readonly name: string;
  readonly yardstickMs: number;
  readonly gflops: number;
  /** Whose medians the figures are. */
  readonly processes: number;
  readonly rows: readonly Row[];
}

const numbers = (list: readonly (number | undefined)[]): readonly number[] => list.filter((n): n is number => n !== undefined && Number.isFinite(n));
const medianOf = (list: readonly (number | undefined)[]): number | undefined => {
  const present = numbers(list);
  return present.length === 0 ? undefined : median(present);
};

/** The median of several processes, figure by figure. Rows keep the first one's order; one that failed anywhere keeps its error. */
export function merged(runs: readonly Results[]): Results {
  const [first] = runs;
  if (!first) throw new Error("no process returned results");
  const rows = first.rows.map((row): Row => {
    const same = runs.flatMap((r) => r.rows.filter((x) => x.id === row.id));
    const failed = same.find((r) => r.error !== undefined);
    if (failed) return failed;
    const facts = Object.fromEntries(Object.keys(row.facts).map((key) => [key, medianOf(same.map((r) => r.facts[key as keyof Facts]))]));
    const [yards, ms, best] = [medianOf(same.map((r) => r.yards)), medianOf(same.map((r) => r.ms)), medianOf(same.map((r) => r.best))];
    return { ...row, ...(yards === undefined ? {} : { yards }), ...(ms === undefined ? {} : { ms }), ...(best === undefined ? {} : { best }), facts };
  });
  return { ...first, yardstickMs: median(runs.map((r) => r.yardstickMs)), gflops: median(runs.map((r) => r.gflops)), processes: runs.length, rows };
}
