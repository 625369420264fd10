/** What the parts of one contraction kernel's text share. */
import type { Axis, Buffer, Pool, Store } from "../../kernel.js";
import type { Problem } from "./problem.js";
import type { AxisLayout, Schedule } from "./schedule.js";
import type { Accumulator } from "./terms.js";

/** Spelling of the split digits for a first pass, whose stores address partial sums by them. */
export type SplitAxes = ReadonlyMap<Axis, string>;

/** What a kernel stores: its own results, those of the further sums, and whether the former are maxima of several accumulators. */
export interface Results {
  readonly stores: readonly Store[];
  /** By further sum of the problem. */
  readonly sums: readonly (readonly Store[])[];
  readonly pool?: Pool;
}

/** What the parts of one kernel's text share. */
export interface Printing {
  readonly problem: Problem;
  readonly schedule: Schedule;
  readonly results: Results;
  readonly splits: SplitAxes;
  readonly layout: readonly AxisLayout[];
  readonly accs: readonly Accumulator[];
  readonly sumAccs: readonly Accumulator[];
  readonly lanes: Axis | undefined;
  readonly vec4: ReadonlySet<Buffer>;
  /** Rows of tiles in the triangle; 1 where one tile holds it all, 0 without symmetry. */
  readonly tiles: number;
  /** Prefix of local names, chosen so that no buffer is shadowed. */
  readonly local: string;
}
