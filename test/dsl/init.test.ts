import { describe, expect, it } from "vitest";
import { fans, initialValues } from "../../src/dsl/init.js";

const moments = (a: Float32Array) => {
  const mean = a.reduce((s, v) => s + v, 0) / a.length;
  return { mean, variance: a.reduce((s, v) => s + (v - mean) ** 2, 0) / a.length };
};

describe("first weights", () => {
  it("fans count the taps of a kernel", () => {
    expect([fans([6, 4, 5, 3]), fans([256, 784]), fans([7])]).toEqual([{ fanIn: 60, fanOut: 90 }, { fanIn: 784, fanOut: 256 }, { fanIn: 7, fanOut: 7 }]);
  });

  it("he is normal with variance 2 / fanIn", () => {
    const a = initialValues("w", [200, 100], { kind: "he", seed: 1 });
    const { mean, variance } = moments(a);
    // of n = 20000 normal numbers: mean ± σ/√n, variance ± σ²·√(2/n); five of each
    const sigma = Math.sqrt(2 / 100);
    expect(Math.abs(mean)).toBeLessThan((5 * sigma) / Math.sqrt(20000));
    expect(Math.abs(variance / sigma ** 2 - 1)).toBeLessThan(5 * Math.sqrt(2 / 20000));
    // 0.27 % lie beyond 3σ: uniform or truncated numbers have none there
    const far = a.filter((v) => Math.abs(v) > 3 * sigma).length;
    expect(Math.abs(far - 54)).toBeLessThan(5 * Math.sqrt(54));
  });

  it("glorot is uniform up to √(6 / (fanIn + fanOut))", () => {
    const a = initialValues("w", [100, 200], { kind: "glorot", seed: 1 });
    const bound = Math.sqrt(6 / 300);
    const { mean, variance } = moments(a);
    expect(Math.max(...a.map(Math.abs))).toBeLessThanOrEqual(Math.fround(bound));
    expect(Math.max(...a.map(Math.abs))).toBeGreaterThan(0.999 * bound);
    expect(Math.abs(mean)).toBeLessThan((5 * bound) / Math.sqrt(3 * 20000));
    expect(Math.abs(variance / (bound ** 2 / 3) - 1)).toBeLessThan(5 * Math.sqrt(0.8 / 20000));
  });

  it("seed and name decide, and nothing else", () => {
    const make = (name: string, seed: number, n = 10) => [...initialValues(name, [n, 3], { kind: "he", seed })];
    expect(make("a", 1)).toEqual(make("a", 1));
    expect(make("a", 1)).not.toEqual(make("b", 1));
    expect(make("a", 1)).not.toEqual(make("a", 2));
    expect(make("a", 1)).not.toEqual(make("a", 1 + 2 ** 32));
    expect(new Set(make("a", 1)).size).toBe(30);
  });

  it("numbers that are written out, zeros and ones", () => {
    expect([...initialValues("a", [2], { kind: "values", values: [1.5, -2] })]).toEqual([1.5, -2]);
    expect([...initialValues("a", [2], { kind: "zeros" }), ...initialValues("a", [], { kind: "ones" })]).toEqual([0, 0, 1]);
    expect(() => initialValues("a", [3], { kind: "values", values: [1] })).toThrow(/1 values for \[3\]/);
    expect(() => initialValues("a", [3], { kind: "file" })).toThrow(/stored beside the graph/);
  });
});
