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

/** A row that is about something else than tensors. */
export const statement = (fixture: string, family: string, passed: boolean, why: string): Row =>
  ({ fixture, family, verdict: passed ? "passed" : "failed", tensors: 0, worst: "", error: 0, allowed: 0, why });

/** What a fixture gives rather than asks for. */
const GIVEN = new Set(["input", "target", "mc_target", "traj.input", "traj.target", "fvp.v"]);

const prefixOf = (name: string): string => (name.includes("/") ? name.slice(0, name.indexOf("/")) : name);

/**
 * Every tensor of a fixture that is a result, by family (the name's prefix), and how close it was met.
 * Relative Frobenius ≤ max(1e-5, 30·f32err); noise entries ≤ 1e-5 of the largest norm of their neighbours.
 */
export class Scorecard {
  readonly #families = new Map<string, Family>();

  constructor(readonly fixture: Fixture) {
    for (const t of fixture.tensors.values()) {
      const prefix = prefixOf(t.name);
      if (GIVEN.has(prefix)) continue;
      const family = this.#families.get(prefix) ?? new Family(fixture, prefix);
      this.#families.set(prefix, family);
      family.wanted.add(t.name);
    }
  }

  has(name: string): boolean {
    return this.fixture.tensors.has(name);
  }

  /** @param family where it counts; default: the tensor's own. A tensor that the fixture does not have is not compared. */
  compare(name: string, got: ArrayLike<number>, family = prefixOf(name)): void {
    const want = this.fixture.tensors.get(name);
    if (want) this.#families.get(family)?.compare(want, got);
  }

  /** An error found some other way than number by number. */
  judge(name: string, error: number): void {
    const want = this.fixture.tensors.get(name);
    if (want) this.#families.get(prefixOf(name))?.judge(name, error, allowance(want));
  }

  rows(): Row[] {
    return [...this.#families.values()].map((f) => f.row());
  }
}

const allowance = (t: FixtureTensor): number => Math.max(1e-5, 30 * t.f32err);

class Family {
  readonly wanted = new Set<string>();
  readonly #done = new Set<string>();
  #worst = { name: "", error: 0, allowed: 1, ratio: -1 };

  constructor(readonly fixture: Fixture, readonly name: string) {}

  compare(want: FixtureTensor, got: ArrayLike<number>): void {
    if (got.length !== want.data.length) {
      this.judge(`${want.name} (${got.length} numbers for ${want.data.length})`, Number.POSITIVE_INFINITY, allowance(want));
      return;
    }
    const difference = norm(Float64Array.from(want.data, (x, k) => (got[k] as number) - x));
    if (want.noise) this.judge(want.name, difference, 1e-5 * neighbourhood(this.fixture, want.name));
    else this.judge(want.name, difference / (norm(want.data) || 1), allowance(want));
  }

  judge(name: string, error: number, allowed: number): void {
    this.#done.add(name);
    const counted = Number.isFinite(error) ? error : Number.POSITIVE_INFINITY;
    const ratio = counted / allowed;
    if (!(ratio <= this.#worst.ratio)) this.#worst = { name, error: counted, allowed, ratio };
  }

  row(): Row {
    const { name, error, allowed, ratio } = this.#worst;
    const missed = [...this.wanted].filter((t) => !this.#done.has(t));
    const base = { fixture: this.fixture.name, family: this.name, tensors: this.#done.size, worst: name, error, allowed };
    if (this.#done.size === 0) return { ...base, verdict: "skipped", why: "nothing was compared" };
    if (ratio <= 1 && missed.length > 0) return { ...base, verdict: "failed", why: `not compared: ${missed.join(", ")}` };
    return { ...base, verdict: ratio <= 1 ? "passed" : "failed" };
  }
}

const norm = (a: Float64Array): number => Math.sqrt(a.reduce((sum, x) => sum + x * x, 0));

function neighbourhood(fixture: Fixture, name: string): number {
  const near = [...fixture.tensors.values()].filter((t) => !t.noise && prefixOf(t.name) === prefixOf(name));
  return Math.max(0, ...near.map((t) => norm(t.data)));
}

export const spellRow = (r: Row): string =>
  `${r.verdict.padEnd(7)} ${r.fixture.padEnd(20)} ${r.family.padEnd(22)} ${r.why ?? `${String(r.tensors).padStart(2)} tensors, worst ${r.worst}: ${r.error.toExponential(1)} of ${r.allowed.toExponential(1)}`}`;
