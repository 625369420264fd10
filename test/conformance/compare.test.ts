/** The comparisons that conformance runs rest on: each accepts what is equal and refuses what is not. */
import { describe, expect, it } from "vitest";
import type { Fixture, FixtureTensor } from "./fixture.js";
import { Scorecard } from "./report.js";
import { apart, eigenvalues, rebuilt, spectralError } from "./spectra.js";

const tensor = (name: string, data: readonly number[], more: Partial<FixtureTensor> = {}): [string, FixtureTensor] =>
  [name, { name, shape: [data.length], integers: false, data: Float64Array.from(data), f32err: 0, noise: false, ...more }];
const fixture = (...tensors: [string, FixtureTensor][]): Fixture => ({
  name: "f", folder: "", graphOnly: false, batch: 1, damping: 0, fisher: [], loss: "half-sse", inputName: "x", ops: [], layers: [], initializers: [], trajectories: {}, tensors: new Map(tensors),
});

describe("a family", () => {
  const judged = (got: readonly number[], more: Partial<FixtureTensor> = {}) => {
    const card = new Scorecard(fixture(tensor("A/w", [3, 4], more), tensor("A/v", [10, 0])));
    card.compare("A/v", [10, 0]);
    card.compare("A/w", got);
    return card.rows()[0]?.verdict;
  };
  it("passes up to 1e-5 or 30 times the error of float32, and not beyond", () => {
    expect(judged([3, 4.00004])).toBe("passed");
    expect(judged([3, 4.00007])).toBe("failed");
    expect(judged([3, 4.00007], { f32err: 1e-6 })).toBe("passed");
    expect(judged([3, Number.NaN])).toBe("failed");
    expect(judged([3, 4, 5])).toBe("failed");
  });
  it("compares noise with the size of its neighbours", () => {
    expect(judged([3, 4.00009], { noise: true })).toBe("passed");
    expect(judged([3, 4.00011], { noise: true })).toBe("failed");
  });
  it("fails where a tensor of it was left out, and is skipped where all were; inputs are no family", () => {
    const card = new Scorecard(fixture(tensor("A/w", [1]), tensor("A/v", [1]), tensor("G.emp/w", [1]), tensor("input", [1])));
    card.compare("A/w", [1]);
    expect(card.rows().map((r) => [r.family, r.verdict])).toEqual([["A", "failed"], ["G.emp", "skipped"]]);
  });
});

/** Rotation of the plane. */
const rotation = (angle: number): Float64Array => Float64Array.of(Math.cos(angle), -Math.sin(angle), Math.sin(angle), Math.cos(angle));
const symmetric = (U: Float64Array, values: readonly number[]): Float64Array => rebuilt(1, 2, Float64Array.from(values), U);

describe("spectra", () => {
  const [UA, UG] = [rotation(0.3), rotation(1.1)];
  const want = { A: symmetric(UA, [1, 2]), G: symmetric(UG, [0.5, 3]), s: Float64Array.of(1, 2, 3, 4) };
  const sizes = { groups: 1, dA: 2, dG: 2 };
  it("scalings in the same bases are compared entry by entry", () => {
    expect(spectralError(sizes, { UA, UG, s: want.s }, want)).toBeLessThan(1e-7);
    expect(spectralError(sizes, { UA, UG, s: Float64Array.of(1, 2, 3, 4.3) }, want)).toBeCloseTo(0.3 / Math.sqrt(30), 6);
  });
  it("signs and the order of the basis do not matter; another basis does", () => {
    const swapped = Float64Array.from(UA, (_, k) => -(UA[k ^ 1] as number));
    expect(spectralError(sizes, { UA: swapped, UG, s: Float64Array.of(2, 1, 4, 3) }, want)).toBeLessThan(1e-7);
    expect(spectralError(sizes, { UA: rotation(0.4), UG, s: want.s }, want)).toBeGreaterThan(0.01);
  });
  it("a basis of a repeated eigenvalue with equal scalings may be any", () => {
    const repeated = { A: symmetric(UA, [2, 2]), G: want.G, s: Float64Array.of(1, 1, 3, 3) };
    expect(spectralError(sizes, { UA: rotation(2), UG, s: repeated.s }, repeated)).toBeLessThan(1e-7);
  });
  it("eigenvalues come from the basis; a wrong basis does not rebuild the matrix", () => {
    expect([...eigenvalues(1, 2, want.A, UA).sorted]).toEqual([expect.closeTo(1, 12), expect.closeTo(2, 12)]);
    expect([...eigenvalues(1, 2, want.A, rotation(0.5)).sorted]).not.toEqual([expect.closeTo(1, 3), expect.closeTo(2, 3)]);
  });
  it("eigenvalues are apart or not, per group", () => {
    expect(apart(2, Float64Array.of(1, 2, 0.1, 0.5))).toBe(true);
    expect(apart(2, Float64Array.of(1, 2, 0.5, 0.5002))).toBe(false);
  });
});
