/** What `kfacc verify` reports. */

export type Verdict = "passed" | "failed" | "info" | "skipped";

export interface Check {
  readonly name: string;
  readonly verdict: Verdict;
  /** Relative error, where there is one. */
  readonly error: number | null;
  readonly allowed: number | null;
  readonly note: string;
}

export interface LayerReport {
  readonly name: string;
  readonly kind: string;
  readonly T: number;
  readonly groups: number;
  readonly dA: number;
  readonly dG: number;
  readonly sites: number;
  readonly checks: readonly Check[];
  readonly verdict: Verdict;
}

export interface OrphanReport {
  readonly param: string;
  readonly reason: string;
  readonly checks: readonly Check[];
  readonly verdict: Verdict;
}

export interface VerifyReport {
  readonly model: string;
  readonly loss: string;
  readonly fisher: string;
  readonly inverse: string;
  readonly batch: number;
  readonly seed: number;
  /** The device of the checks with "gpu" in their name; null: none was used. */
  readonly device: string | null;
  readonly layers: readonly LayerReport[];
  readonly orphans: readonly OrphanReport[];
  /** Checks of the whole model. */
  readonly checks: readonly Check[];
  readonly notes: readonly string[];
  readonly passed: boolean;
}

export const compared = (name: string, error: number, allowed: number, note = ""): Check => ({
  name, verdict: error <= allowed ? "passed" : "failed", error: Number.isFinite(error) ? error : null, allowed, note: Number.isFinite(error) ? note : [note, "no number, or another shape"].filter(Boolean).join("; "),
});
export const held = (name: string, ok: boolean, note: string): Check => ({ name, verdict: ok ? "passed" : "failed", error: null, allowed: null, note });
export const skipped = (name: string, note: string): Check => ({ name, verdict: "skipped", error: null, allowed: null, note });
export const info = (name: string, error: number, note: string): Check => ({ name, verdict: "info", error, allowed: null, note });

export const verdictOf = (checks: readonly Check[]): Verdict =>
  checks.some((c) => c.verdict === "failed") ? "failed" : checks.some((c) => c.verdict === "passed") ? "passed" : "skipped";
