/** Products and estimates on a device against a dense float64 Fisher that is made of each example's own Jacobian. */
import { describe, expect, it } from "vitest";
import type { Estimate } from "../../runtime/fisher-estimate.js";
import type { Trainer, TrainerOptions } from "../../runtime/trainer.js";
import type { CompileOptions } from "../../src/compile.js";
import { testDevice } from "../support/gpu.js";
import { type Forward, invert, mlp, relative } from "../support/models.js";
import { apply, blocksOnly, type Case, denseFisher, join, type Matrix, paramsOf, rows, split } from "./dense-fisher.js";
import { batchesOf, caseOf, countOf, cut, F32, numbers, ONCE, tied, withTrainer as trainOn } from "./fisher-lab.js";

const device = testDevice();
const withTrainer = <T>(forward: Forward, more: Partial<CompileOptions>, use: (t: Trainer) => Promise<T>, start: TrainerOptions = {}): Promise<T> => trainOn(device().device, forward, more, use, start);
const flat = (m: Matrix): number[] => m.flat();
const plus = (m: Matrix, damping: number): Matrix => m.map((row, k) => row.map((x, j) => x + (j === k ? damping : 0)));

describe("products with F on batches are those with the dense Fisher", () => {
  const cases: [string, Case][] = [
    ...Object.entries(ONCE).map(([name, f]): [string, Case] => [name, caseOf(f, 7, 3)]),
    ["tied weights and a parameter without a layer", caseOf(tied, 7, 4)],
    ["half-sse", caseOf(mlp([3, 4, 2]), 7, 5, "half-sse")],
  ];
  it.each(cases)("%s: one batch, short batches, batches to cut, and weights", async (_, c) => {
    await withTrainer(c.forward, { loss: c.loss, batches: [4, 2] }, async (t) => {
      const P = paramsOf(c.forward).reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0);
      const x = numbers(P, 6);
      const v = split(c.forward, x);
      const weight = [1, 0.5, 0, 2, 1, 3, 0.25];
      for (const kind of ["exact", "empirical"] as const) {
        const wanted = apply(denseFisher(c, kind), x);
        for (const [what, data] of [["by threes", batchesOf(c, 3)], ["all at once", cut(c, 0, 7)]] as const)
          expect(relative(join(c.forward, await t.fisher.multiply(v, data, { kind })), wanted), `${kind}, ${what}`).toBeLessThan(F32);
        const weighed = { ...c, weight };
        expect(relative(join(c.forward, await t.fisher.multiply(v, batchesOf(weighed, 4), { kind })), apply(denseFisher(weighed, kind), x)), `${kind}, weights`).toBeLessThan(F32);
        // the first piece of four holds nothing that counts
        const late = { ...c, weight: [0, 0, 0, 0, 1, 2, 3] };
        expect(relative(join(c.forward, await t.fisher.multiply(v, cut(late, 0, 7), { kind })), apply(denseFisher(late, kind), x)), `${kind}, late weights`).toBeLessThan(F32);
      }
      // a batch of positions without labels has no Fisher, and leaves nothing behind for the next
      if (c.loss === "softmax-ce") {
        const silent = await t.fisher.multiply(v, { ...cut(c, 0, 3), target: { shape: [3], data: Int32Array.of(-1, -1, -1) } });
        expect(Math.max(...join(c.forward, silent).map(Math.abs))).toBe(0);
      }
      // without targets: the exact Fisher needs none
      const { target: _target, ...bare } = cut(c, 0, 3);
      const three = { ...c, inputs: Object.fromEntries(Object.entries(c.inputs).map(([name, a]) => [name, rows(a, 0, 3)])), target: rows(c.target, 0, 3) };
      expect(relative(join(c.forward, await t.fisher.multiply(v, bare)), apply(denseFisher(three, "exact"), x))).toBeLessThan(F32);
      await expect(t.fisher.multiply(v, bare, { kind: "empirical" })).rejects.toThrow(/"target" is missing/);
    });
  });

  it("the diagonal too, of a program that was compiled for it", async () => {
    const c = caseOf(tied, 7, 8);
    await withTrainer(tied, { loss: "softmax-ce", fisherDiagonal: true, optimizer: "sgd" }, async (t) => {
      for (const kind of ["exact", "empirical"] as const)
        expect(relative(join(tied, await t.fisher.diagonal(batchesOf(c, 3), { kind })), denseFisher(c, kind).map((row, k) => row[k] as number)), kind).toBeLessThan(F32);
    });
    await withTrainer(tied, { loss: "softmax-ce" }, (t) => expect(t.fisher.diagonal(cut(c, 0, 2))).rejects.toThrow(/no entry for the Fisher's diagonal/));
  });
});

/** F of an estimate in the order of the parameters, column by column. */
function matrixOf(forward: Forward, e: Estimate): Matrix {
  const P = paramsOf(forward).reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0);
  return Array.from({ length: P }, (_, k) => join(forward, e.multiply(split(forward, Array.from({ length: P }, (_, j) => Number(j === k))), { plain: "identity" })));
}

describe("an estimate where K-FAC is exact is the dense Fisher's blocks", () => {
  const cases: [string, Case][] = [
    ...Object.entries(ONCE).map(([name, f]): [string, Case] => [`${name}, one example`, caseOf(f, 1, 9)]),
    ["a deep linear net, nine examples", caseOf(mlp([3, 4, 2], "linear"), 9, 10, "half-sse")],
    ["a deep linear net, weights", { ...caseOf(mlp([3, 4, 2], "linear"), 6, 11, "half-sse"), weight: [1, 0.5, 0, 2, 0, 3] }],
  ];
  it.each(cases)("%s: every method", async (_, c) => {
    const { forward } = c;
    await withTrainer(forward, { loss: c.loss, batches: [4, 2] }, async (t) => {
      const e = await t.fisher.estimate(batchesOf(c, 3));
      expect(e.count).toBe(c.weight ? c.weight.reduce((a, b) => a + b) : countOf(c));
      const F = blocksOnly(denseFisher(c, "exact"), forward, e.layers);
      const P = F.length;
      expect(relative(flat(matrixOf(forward, e)), flat(F))).toBeLessThan(F32);
      const x = numbers(P, 12);
      const v = split(forward, x);
      const trace = F.reduce((s, row, k) => s + (row[k] as number), 0);
      const damping = (0.1 * trace) / P;
      const damped = plus(F, damping);
      // an inverse enlarges the error of what it inverts by at most the condition number, here below ‖F‖/λ + 1
      const norm = Math.sqrt(flat(F).reduce((s, y) => s + y * y, 0));
      const kappa = norm / damping + 1;
      const inverse = invert(flat(damped), P);
      const solved = apply(Array.from({ length: P }, (_, r) => [...inverse.subarray(r * P, (r + 1) * P)]), x);
      expect(relative(join(forward, await e.multiplyInverse(v, { damping })), solved), "inverse").toBeLessThan(F32 * kappa);
      expect(relative(join(forward, await e.power(v, -1, { damping })), solved), "power −1").toBeLessThan(F32 * kappa);
      expect(relative(join(forward, await e.power(v, 3)), apply(F, apply(F, apply(F, x)))), "power 3").toBeLessThan(3 * F32);
      const root = await e.multiplySqrt(v, { damping });
      expect(relative(join(forward, await e.multiplySqrt(root, { damping })), apply(damped, x)), "root of root").toBeLessThan(F32);
      expect(relative([e.trace(), e.frobenius()], [trace, norm]), "trace, norm").toBeLessThan(F32);
      expect(e.trace()).toBeCloseTo(e.layers.reduce((s, l) => s + e.trace(l.name), 0), 10);
      expect(relative(join(forward, e.diagonal()), F.map((row, k) => row[k] as number)), "diagonal").toBeLessThan(F32);
      // log det by elimination; each eigenvalue above λ is off by at most F32·norm
      expect(Math.abs((await e.logdet({ damping })) - logdet(damped))).toBeLessThan(P * F32 * kappa);
      for (const l of e.layers) {
        const [values, dense] = [await e.eigenvalues(l.name), e.dense(l.name)];
        const n = l.groups * l.dA * l.dG;
        expect([values.length, dense.length]).toEqual([n, n * n]);
        const own = (k: number) => values.reduce((s, y) => s + y ** k, 0);
        // tr B and tr B² of the layer's own matrix; what float32 made of an eigenvalue 0 may be negative, and counts as 0
        expect(relative([own(1), own(2)], [dense.reduce((s, y, k) => s + (k % (n + 1) === 0 ? y : 0), 0), dense.reduce((s, y) => s + y * y, 0)]), l.name).toBeLessThan(F32);
      }
      // E xᵀ(F + λ)x over draws is P; its deviation over 2000 draws √(2P/2000)
      const draws = await e.sample({ damping, seed: 13, count: 2000 });
      const mean = draws.reduce((s, d) => { const y = join(forward, d); return s + apply(damped, y).reduce((q, z, k) => q + z * (y[k] as number), 0); }, 0) / 2000;
      expect(Math.abs(mean - P)).toBeLessThan(5 * Math.sqrt((2 * P) / 2000) + P * F32 * kappa);
    });
  });

  it("blocks of scales are exact for any number of examples", async () => {
    const forward = ONCE["an embedding and the scales of a norm"] as Forward;
    const c = caseOf(forward, 9, 14);
    await withTrainer(forward, { loss: "softmax-ce" }, async (t) => {
      const e = await t.fisher.estimate(batchesOf(c, 4));
      const norms = e.layers.filter((l) => l.form === "block");
      expect(norms.map((l) => l.groups)).toEqual([4]);
      const F = blocksOnly(denseFisher(c, "exact"), forward, norms);
      const found = blocksOnly(matrixOf(forward, e), forward, norms);
      expect(relative(flat(found), flat(F))).toBeLessThan(F32);
    });
  });
});

function logdet(m: Matrix): number {
  const a = m.map((row) => [...row]);
  return a.reduce((sum, row, k) => {
    for (const other of a.slice(k + 1)) {
      const factor = (other[k] as number) / (row[k] as number);
      for (let j = k; j < a.length; j++) other[j] = (other[j] as number) - factor * (row[j] as number);
    }
    return sum + Math.log(row[k] as number);
  }, 0);
}
