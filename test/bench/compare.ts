/** New figures against those of a baseline: regressions. */
import type { Results, Row } from "./result.js";

/** A row that takes more than this times its baseline has got slower: what noise between two quiet runs does not reach. */
export const TOLERANCE = 1.25;
/** Differences below this, in yardsticks, are those of a dispatch's own cost (some 50 µs), which drifts. */
const FLOOR = 0.003;

export interface Comparison {
  readonly id: string;
  readonly name: string;
  readonly old: number | undefined;
  readonly now: number | undefined;
  /** now / old */
  readonly ratio: number | undefined;
  readonly outcome: "same" | "slower" | "faster" | "new" | "gone" | "failed";
}

/** Row by row in the new order. `whole`: everything was measured, so that what the baseline has besides is gone. */
export function compare(old: Pick<Results, "rows">, now: Pick<Results, "rows">, whole: boolean, tolerance = TOLERANCE): readonly Comparison[] {
  const before = new Map(old.rows.flatMap((r) => (r.yards === undefined ? [] : [[r.id, r.yards] as const])));
  const timed = now.rows.filter((r) => r.yards !== undefined || r.error !== undefined);
  const compared = timed.map((row): Comparison => {
    const was = before.get(row.id);
    const ratio = was !== undefined && row.yards !== undefined ? row.yards / was : undefined;
    const near = Math.abs((row.yards ?? 0) - (was ?? 0)) <= FLOOR;
    const outcome = row.error !== undefined ? "failed" : ratio === undefined ? "new" : near ? "same" : ratio > tolerance ? "slower" : ratio < 1 / tolerance ? "faster" : "same";
    return { id: row.id, name: row.name, old: was, now: row.yards, ratio, outcome };
  });
  const gone = old.rows.filter((r) => whole && r.yards !== undefined && !timed.some((n) => n.id === r.id));
  return [...compared, ...gone.map((r): Comparison => ({ id: r.id, name: r.name, old: r.yards, now: undefined, ratio: undefined, outcome: "gone" }))];
}

/** What must be measured again before it may be called slower. */
export const suspects = (list: readonly Comparison[]): ReadonlySet<string> => new Set(list.filter((c) => c.outcome === "slower").map((c) => c.id));

/** The better of two measurements of a row: a busy machine makes work slower, never faster. */
export const better = (first: Row, second: Row): Row => ((second.yards ?? Number.POSITIVE_INFINITY) < (first.yards ?? Number.POSITIVE_INFINITY) ? second : first);

export const regressed = (list: readonly Comparison[]): boolean => list.some((c) => c.outcome === "slower" || c.outcome === "failed" || c.outcome === "gone");
