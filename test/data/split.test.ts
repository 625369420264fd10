import { expect, test } from "vitest";
import { CompileError } from "../../ir/error.js";
import { permutation } from "../../runtime/batches.js";
import { splitExamples } from "../../src/data/split.js";

test("every example is on exactly one side, and the sides have the sizes asked for", () => {
  for (const [count, fraction, held] of [
    [1000, 0.1, 100],
    [10, 0.25, 3],
    [10, 0.01, 1],
    [3, 0.99, 2],
    [5, 0, 0],
  ] as const) {
    const { train, val } = splitExamples(count, fraction, 7);
    expect([val.length, [...train, ...val].sort((a, b) => a - b)], `${count} × ${fraction}, seed 7`).toEqual([
      held,
      [...Array(count).keys()],
    ]);
  }
});

test("the same seed always holds out the same examples, another seed others", () => {
  expect(splitExamples(100, 0.1, 3)).toEqual(splitExamples(100, 0.1, 3));
  expect(splitExamples(100, 0.1, 3).val).not.toEqual(splitExamples(100, 0.1, 4).val);
});

test("the held-out examples are not the first ones of the first epoch: the two draw from different streams", () => {
  const first = permutation(100, 3, 0).slice(0, 10).sort();
  expect(splitExamples(100, 0.1, 3).val).not.toEqual(first);
});

test("both sides are drawn from the whole file, which may be sorted by class", () => {
  const { val } = splitExamples(1000, 0.1, 5);
  // 100 of 1000 in each half: 50 ± 5 sigma of the hypergeometric, sigma = 4.7.
  expect(Math.abs(val.filter((i) => i < 500).length - 50), "seed 5").toBeLessThan(24);
});

test.each([
  [10, 1],
  [10, -0.1],
  [10, Number.NaN],
  [1, 0.5],
])("%d examples cannot be split at %d", (count, fraction) => {
  expect(() => splitExamples(count, fraction, 1)).toThrow(expect.objectContaining({ code: "bad-option" }));
  expect(() => splitExamples(count, fraction, 1)).toThrow(CompileError);
});
