/** One row per fixture × quantity family: the worst tensor, its error and what it was allowed. */
import type { Fixture, FixtureTensor } from "./fixture.js";

export interface Row {
  readonly fixture: string;
  readonly family: string;
  readonly verdict: "passed" | "failed" | "skipped";
  readonly tensors: number;
  readonly worst: string;
  readonly error: number;
  readonly allowed: number;
  readonly why?: string;
}

/** Relative Frobenius ≤ max(1e-5, 30·f32err); noise entries ≤ 1e-5 of the largest norm of their neighbours. */
export class Family {
  #tensors = 0;
  #worst = { name: "", error: 0, allowed: 1, ratio: -1 };
  constructor(readonly fixture: Fixture, readonly name: string) {}

  compare(name: string, got: ArrayLike<number>): void {
    const want = this.fixture.tensors.get(name);
    if (!want) return;
    this.#tensors++;
    const difference = norm(Float64Array.from(want.data, (x, k) => (got[k] as number) - x));
    const [error, allowed] = want.noise
      ? [difference, 1e-5 * neighbourhood(this.fixture, name)]
      : [difference / (norm(want.data) || 1), Math.max(1e-5, 30 * want.f32err)];
    const sized = got.length === want.data.length && Number.isFinite(error) ? error : Number.POSITIVE_INFINITY;
    const ratio = sized / allowed;
    if (ratio > this.#worst.ratio) this.#worst = { name, error: sized, allowed, ratio };
  }

  row(): Row {
    const { name, error, allowed, ratio } = this.#worst;
    const verdict = this.#tensors === 0 ? "skipped" : ratio <= 1 ? "passed" : "failed";
    return { fixture: this.fixture.name, family: this.name, verdict, tensors: this.#tensors, worst: name, error, allowed };
  }
}

const norm = (a: Float64Array): number => Math.sqrt(a.reduce((sum, x) => sum + x * x, 0));

function neighbourhood(fixture: Fixture, name: string): number {
  const prefix = name.slice(0, name.indexOf("/"));
  const near = [...fixture.tensors.values()].filter((t: FixtureTensor) => !t.noise && t.name.startsWith(`${prefix}/`));
  return Math.max(0, ...near.map((t) => norm(t.data)));
}

export const spellRow = (r: Row): string =>
  `${r.verdict.padEnd(7)} ${r.fixture.padEnd(20)} ${r.family.padEnd(22)} ${r.why ?? `${String(r.tensors).padStart(2)} tensors, worst ${r.worst}: ${r.error.toExponential(1)} of ${r.allowed.toExponential(1)}`}`;
