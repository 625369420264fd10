/** Losses in float64: value against the formula, derivative and curvature against finite differences, sampling against the distribution. */
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { f32, size } from "../../ir/type.js";
import { correct, derivative, exactColumns, exactVectors, LOSSES, type Loss, type LossKind, parseLoss, perExample, sampleTargets, targetType } from "../../src/train/loss.js";
import { labels, matmul, random, relative, tensor, transpose } from "../support/models.js";

interface Shape {
  readonly what: string;
  readonly shape: readonly number[];
  readonly axis: number;
}
const SHAPES: readonly Shape[] = [
  { what: "[n, c]", shape: [3, 4], axis: 1 },
  { what: "[n, c, h, w]", shape: [2, 3, 2, 2], axis: 1 },
  { what: "[n, t, c]", shape: [2, 3, 4], axis: 2 },
];
const CASES = LOSSES.flatMap((kind) => SHAPES.map((s) => ({ kind, ...s })));

/** Runs `build` on logits and targets. */
function run(kind: LossKind, axis: number, z: NdArray, t: NdArray | undefined, build: (b: Builder, loss: Loss, target: Value) => Value): NdArray {
  const b = new Builder("loss");
  const zv = b.input("z", { dtype: "f32", shape: z.shape });
  const loss: Loss = { kind, z: zv, axis };
  const tv = b.input("t", targetType(loss));
  const y = build(b, loss, tv);
  return evaluate(b.finish([{ name: "y", value: y }]), { z, t: t ?? ndarray(tv.type.dtype, tv.type.shape, new Float64Array(size(tv.type.shape))) }).y as NdArray;
}

const targets = (kind: LossKind, { shape, axis }: Shape, seed: number): NdArray => {
  const next = random(seed);
  if (kind === "softmax-ce") return labels(shape.filter((_, k) => k !== axis), shape[axis] as number, next);
  const t = tensor(shape, next);
  return kind === "bernoulli-ce" ? { ...t, data: t.data.map((x) => (x + 1) / 2) } : t;
};

/** The loss of one example, written out: z and t as functions of (class, position) or flat. */
function formula(kind: LossKind, s: Shape, z: Float64Array, t: Float64Array, n: number): number {
  const per = size(s.shape.slice(1));
  const of = (k: number) => z[n * per + k] as number;
  const want = (k: number) => t[n * per + k] as number;
  const all = Array.from({ length: per }, (_, k) => k);
  if (kind === "half-sse") return all.reduce((sum, k) => sum + 0.5 * (of(k) - want(k)) ** 2, 0);
  if (kind === "mse") return all.reduce((sum, k) => sum + (of(k) - want(k)) ** 2 / per, 0);
  if (kind === "bernoulli-ce") {
    const p = (k: number) => 1 / (1 + Math.exp(-of(k)));
    return all.reduce((sum, k) => sum - want(k) * Math.log(p(k)) - (1 - want(k)) * Math.log(1 - p(k)), 0);
  }
  const classes = s.shape[s.axis] as number;
  const positions = per / classes;
  const at = (c: number, q: number) => (s.axis === 1 ? c * positions + q : q * classes + c);
  let total = 0;
  for (let q = 0; q < positions; q++) {
    const powers = Array.from({ length: classes }, (_, c) => Math.exp(of(at(c, q))));
    total += Math.log(powers.reduce((a, b) => a + b)) - of(at(t[n * positions + q] as number, q));
  }
  return total;
}

describe("value, derivative and curvature", () => {
  for (const s of CASES)
    describe(`${s.kind} on ${s.what}`, () => {
      const { kind, axis, shape } = s;
      const z = tensor(shape, random(4), 2);
      const t = targets(kind, s, 5);
      const per = size(shape.slice(1));
      const gradient = (at: NdArray): Float64Array => run(kind, axis, at, t, derivative).data;
      const moved = (k: number, by: number): NdArray => ({ ...z, data: z.data.map((x, j) => (j === k ? x + by : x)) });

      it("each example's loss is the formula's", () => {
        const got = run(kind, axis, z, t, perExample);
        expect(got.shape).toEqual([shape[0]]);
        got.data.forEach((l, n) => expect(l).toBeCloseTo(formula(kind, s, z.data, t.data, n), 11));
      });

      it("the derivative is the loss's", () => {
        const total = (at: NdArray): number => run(kind, axis, at, t, perExample).data.reduce((a, b) => a + b);
        const want = z.data.map((_, k) => (total(moved(k, 1e-5)) - total(moved(k, -1e-5))) / 2e-5);
        expect(relative(gradient(z), want)).toBeLessThan(1e-8);
      });

      it("the exact vectors' products add up to the loss's curvature, per example", () => {
        const vectors = run(kind, axis, z, undefined, exactVectors);
        const columns = vectors.shape[0] as number;
        expect(columns).toBe(exactColumns({ kind, z: { name: "z", type: f32(...shape) }, axis }));
        const n = shape[0] as number;
        for (let e = 0; e < n; e++) {
          const V = new Float64Array(columns * per);
          for (let c = 0; c < columns; c++) for (let k = 0; k < per; k++) V[c * per + k] = vectors.data[(c * n + e) * per + k] as number;
          const sum = matmul(transpose(V, columns, per), V, per, columns, per);
          const want = new Float64Array(per * per);
          for (let k = 0; k < per; k++) {
            const [up, down] = [gradient(moved(e * per + k, 1e-5)), gradient(moved(e * per + k, -1e-5))];
            for (let j = 0; j < per; j++) want[k * per + j] = ((up[e * per + j] as number) - (down[e * per + j] as number)) / 2e-5;
          }
          expect(relative(sum, want)).toBeLessThan(1e-8);
        }
      });
    });

  it("large logits overflow nowhere", () => {
    const z = ndarray("f32", [2, 3], [1000, 0, -1000, -800, 900, 0]);
    expect([...run("softmax-ce", 1, z, ndarray("i32", [2], [2, 1]), perExample).data]).toEqual([2000, 0]);
    expect([...run("softmax-ce", 1, z, ndarray("i32", [2], [2, 1]), derivative).data]).toEqual([1, 0, -1, 0, 0, 0]);
    expect([...run("bernoulli-ce", 1, z, ndarray("f32", [2, 3], [1, 1, 1, 0, 1, 0.5]), perExample).data].map((x) => x - Math.LN2)).toEqual([1000, 0]);
  });

  it("correct counts the first largest logit, as a fraction of the positions", () => {
    const z = ndarray("f32", [2, 2, 2], [1, 5, 2, 5, 3, 0, 3, 1]);
    expect([...run("softmax-ce", 1, z, ndarray("i32", [2, 2], [1, 0, 0, 1]), (b, l, t) => correct(b, l, t) as Value).data]).toEqual([1, 1]);
    expect([...run("softmax-ce", 1, z, ndarray("i32", [2, 2], [0, 0, 1, 1]), (b, l, t) => correct(b, l, t) as Value).data]).toEqual([0.5, 0.5]);
    const b = new Builder("g");
    const v = b.input("z", f32(2, 2));
    expect(correct(b, { kind: "half-sse", z: v, axis: 1 }, v)).toBeUndefined();
  });

  it("a loss is found by its name or alias, and another is refused with the list", () => {
    expect([parseLoss("bce"), parseLoss("cross-entropy"), parseLoss("mse")]).toEqual(["bernoulli-ce", "softmax-ce", "mse"]);
    expect(() => parseLoss("hinge")).toThrow(/no loss "hinge"/);
  });
});

describe("targets drawn from the model's own distribution", () => {
  /** `rows` draws for the same logits, through one evaluation. */
  function draws(kind: LossKind, logits: readonly number[], rows: number, key: readonly [number, number], stream = 16): Float64Array {
    const b = new Builder("draw");
    const z = b.input("z", f32(rows, logits.length));
    const keys = [b.input("k0", { dtype: "u32", shape: [] }), b.input("k1", { dtype: "u32", shape: [] })] as const;
    const y = sampleTargets(b, { kind, z, axis: 1 }, keys, stream);
    const data = Float64Array.from({ length: rows * logits.length }, (_, k) => logits[k % logits.length] as number);
    return (evaluate(b.finish([{ name: "y", value: y }]), { z: ndarray("f32", [rows, logits.length], data), k0: ndarray("u32", [], [key[0]]), k1: ndarray("u32", [], [key[1]]) }).y as NdArray).data;
  }
  const N = 20_000;
  const LOGITS = [0.3, -1, 2, 0.5, -2.5];
  const softmax = (): number[] => {
    const e = LOGITS.map(Math.exp);
    const total = e.reduce((a, b) => a + b);
    return e.map((x) => x / total);
  };

  it("softmax: counts follow the probabilities (chi-square, 4 degrees of freedom)", () => {
    for (const key of [[0, 0], [1, 0], [0, 1], [12345, 678]] as const) {
      const counts = LOGITS.map(() => 0);
      for (const c of draws("softmax-ce", LOGITS, N, key)) counts[c] = (counts[c] ?? 0) + 1;
      const chi = softmax().reduce((sum, p, c) => sum + ((counts[c] as number) - N * p) ** 2 / (N * p), 0);
      // exceeded by chance once in 2000
      expect(chi, `key ${key}`).toBeLessThan(20);
    }
  });

  it("the mean of sampled g gᵀ is the exact Fisher within standard errors", () => {
    const p = softmax();
    const drawn = draws("softmax-ce", LOGITS, N, [3, 4]);
    for (let i = 0; i < 5; i++)
      for (let j = 0; j < 5; j++) {
        const products = Array.from(drawn, (c) => ((p[i] as number) - Number(c === i)) * ((p[j] as number) - Number(c === j)));
        const mean = products.reduce((a, b) => a + b) / N;
        const error = Math.sqrt(products.reduce((a, x) => a + (x - mean) ** 2, 0) / N / N);
        const exact = (i === j ? (p[i] as number) : 0) - (p[i] as number) * (p[j] as number);
        expect(Math.abs(mean - exact), `${i}, ${j}`).toBeLessThan(5 * error + 1e-12);
      }
  });

  it("half-sse: unit normal around the output; mse: with the variance that makes it a likelihood", () => {
    for (const [kind, variance] of [["half-sse", 1], ["mse", 3 / 2]] as const) {
      const z = [5, 0, -2];
      const drawn = draws(kind, z, N, [7, 8]);
      for (let k = 0; k < 3; k++) {
        const deviations = Array.from({ length: N }, (_, n) => (drawn[n * 3 + k] as number) - (z[k] as number));
        const moment = (power: number) => deviations.reduce((a, x) => a + x ** power, 0) / N;
        expect(Math.abs(moment(1)), kind).toBeLessThan(5 * Math.sqrt(variance / N));
        expect(Math.abs(moment(2) / variance - 1), kind).toBeLessThan(5 * Math.sqrt(2 / N));
        expect(Math.abs(moment(3) / variance ** 1.5), kind).toBeLessThan(5 * Math.sqrt(15 / N));
        expect(Math.abs(moment(4) / variance ** 2 - 3), kind).toBeLessThan(5 * Math.sqrt(96 / N));
      }
      const product = Array.from({ length: N }, (_, n) => ((drawn[n * 3] as number) - 5) * (drawn[n * 3 + 1] as number)).reduce((a, b) => a + b) / N;
      expect(Math.abs(product), `${kind}: outputs are independent`).toBeLessThan((5 * variance) / Math.sqrt(N));
    }
  });

  it("bernoulli-ce: ones as often as the sigmoid says", () => {
    const drawn = draws("bernoulli-ce", [2, -1, 0], N, [9, 10]);
    [2, -1, 0].forEach((z, k) => {
      const p = 1 / (1 + Math.exp(-z));
      const mean = Array.from({ length: N }, (_, n) => drawn[n * 3 + k] as number).reduce((a, b) => a + b) / N;
      expect(Math.abs(mean - p)).toBeLessThan(5 * Math.sqrt((p * (1 - p)) / N));
    });
  });

  it("another seed, step or stream is another sample, unrelated to the first", () => {
    const [first, ...others] = [draws("half-sse", [0], N, [1, 1]), draws("half-sse", [0], N, [2, 1]), draws("half-sse", [0], N, [1, 2]), draws("half-sse", [0], N, [1, 1], 18)] as [Float64Array, ...Float64Array[]];
    for (const other of others) expect(Math.abs(first.reduce((a, x, k) => a + x * (other[k] as number), 0) / N)).toBeLessThan(5 / Math.sqrt(N));
    expect(draws("half-sse", [0], 100, [1, 1])).toEqual(draws("half-sse", [0], 100, [1, 1]));
  });
});
