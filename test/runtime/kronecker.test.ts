import { expect, test } from "vitest";
import type { MatrixDigits } from "../../runtime/artifact.js";
import { KroneckerFisher, type KroneckerLayer, type Vector, type VectorResult } from "../../runtime/kronecker.js";
import { fromMatrix, toMatrix } from "../../runtime/matrix.js";
import { Dice } from "../support/contract-fuzz.js";

type Matrix = number[][];
const uniform = (dice: Dice): number => dice.int(2 ** 20) / 2 ** 19 - 1;
const table = (rows: number, columns: number, f: (r: number, c: number) => number): Matrix => Array.from({ length: rows }, (_, r) => Array.from({ length: columns }, (_, c) => f(r, c)));
const at = (m: Matrix, r: number, c: number): number => (m[r] as number[])[c] as number;
const positive = (n: number, dice: Dice): Matrix => {
  const x = table(n, n + 2, () => uniform(dice));
  return table(n, n, (r, c) => (x[r] as number[]).reduce((sum, v, k) => sum + v * at(x, c, k), 0) / n);
};
const plus = (m: Matrix, damping: number): Matrix => m.map((row, r) => row.map((x, c) => x + (r === c ? damping : 0)));
const diag = (values: readonly number[]): Matrix => table(values.length, values.length, (r, c) => (r === c ? (values[r] as number) : 0));

/** Solves m·x = b by Cholesky; also log det m. */
function solve(m: Matrix, b: readonly number[]): { readonly x: number[]; readonly logdet: number } {
  const n = m.length;
  const l = table(n, n, () => 0);
  for (let c = 0; c < n; c++)
    for (let r = c; r < n; r++) {
      let sum = at(m, r, c);
      for (let k = 0; k < c; k++) sum -= at(l, r, k) * at(l, c, k);
      (l[r] as number[])[c] = r === c ? Math.sqrt(sum) : sum / at(l, c, c);
    }
  const x = [...b];
  for (let r = 0; r < n; r++) x[r] = ((x[r] as number) - (l[r] as number[]).slice(0, r).reduce((sum, v, k) => sum + v * (x[k] as number), 0)) / at(l, r, r);
  for (let r = n - 1; r >= 0; r--) {
    let sum = x[r] as number;
    for (let k = r + 1; k < n; k++) sum -= at(l, k, r) * (x[k] as number);
    x[r] = sum / at(l, r, r);
  }
  return { x, logdet: l.reduce((sum, _, k) => sum + 2 * Math.log(at(l, k, k)), 0) };
}

/** Eigenvalues by cyclic Jacobi rotations: another way than the code under test. */
function jacobi(m: Matrix): number[] {
  const a = m.map((row) => [...row]);
  const n = a.length;
  for (let round = 0; round < 30; round++)
    for (let p = 0; p < n; p++)
      for (let q = p + 1; q < n; q++) {
        if (Math.abs(at(a, p, q)) < 1e-300) continue;
        const angle = 0.5 * Math.atan2(2 * at(a, p, q), at(a, q, q) - at(a, p, p));
        const [c, s] = [Math.cos(angle), Math.sin(angle)];
        for (const row of a) [row[p], row[q]] = [c * (row[p] as number) - s * (row[q] as number), s * (row[p] as number) + c * (row[q] as number)];
        const [rp, rq] = [[...(a[p] as number[])], [...(a[q] as number[])]];
        for (let k = 0; k < n; k++) [(a[p] as number[])[k], (a[q] as number[])[k]] = [c * (rp[k] as number) - s * (rq[k] as number), s * (rp[k] as number) + c * (rq[k] as number)];
      }
  return a.map((row, k) => row[k] as number).sort((x, y) => x - y);
}

interface Case {
  readonly layer: KroneckerLayer;
  readonly shapes: Record<string, readonly number[]>;
  /** A and G of each group (block: F, [[1]]), as dense matrices. */
  readonly factors: readonly (readonly [A: Matrix, G: Matrix])[];
  /** Place in the matrix form → parameter and place in its data, written out by hand. */
  readonly place: (g: number, o: number, i: number) => readonly [string, number];
}

const flat = (ms: readonly (Matrix | readonly number[])[]): Float64Array => Float64Array.from(ms.flat(2) as number[]);
const digits = (offset: number, groups: MatrixDigits["groups"], out: MatrixDigits["out"], inner: MatrixDigits["in"]): MatrixDigits => ({ offset, groups, out, in: inner });

function kronecker(layer: Omit<KroneckerLayer, "form" | "sides" | "A" | "G" | "F">, sides: KroneckerLayer["sides"], dice: Dice, rest: Pick<Case, "shapes" | "place">): Case {
  const make = (kind: "full" | "diagonal", n: number): Matrix => (kind === "full" ? positive(n, dice) : diag(Array.from({ length: n }, () => 0.1 + Math.abs(uniform(dice)))));
  const factors = Array.from({ length: layer.groups }, () => [make(sides.A, layer.dA), make(sides.G, layer.dG)] as const);
  const stored = (kind: "full" | "diagonal", m: Matrix): Matrix | number[] => (kind === "full" ? m : m.map((row, k) => row[k] as number));
  return { ...rest, factors, layer: { ...layer, form: "kronecker", sides, A: flat(factors.map(([A]) => stored(sides.A, A))), G: flat(factors.map(([, G]) => stored(sides.G, G))) } };
}

function cases(seed: number): Record<string, Case> {
  const dice = new Dice(seed);
  const full = { A: "full", G: "full" } as const;
  const norm = Array.from({ length: 3 }, () => [positive(2, dice), diag([1])] as const);
  return {
    "dense with a bias, stored [in, out]": kronecker(
      { name: "fc", groups: 1, dA: 4, dG: 2, params: { weight: "fc", bias: "fc.b" }, matrix: { weight: digits(0, [], [[2, 1]], [[3, 2]]), bias: digits(0, [], [[2, 1]], []) } }, full, dice,
      { shapes: { fc: [3, 2], "fc.b": [2] }, place: (_, o, i) => (i === 3 ? ["fc.b", o] : ["fc", i * 2 + o]) }),
    "grouped convolution [2·3, 2, 1, 2] with a bias": kronecker(
      { name: "conv", groups: 2, dA: 5, dG: 3, params: { weight: "conv", bias: "conv.b" }, matrix: { weight: digits(0, [[2, 12]], [[3, 4]], [[2, 1], [2, 2]]), bias: digits(0, [[2, 3]], [[3, 1]], []) } }, full, dice,
      { shapes: { conv: [6, 2, 1, 2], "conv.b": [6] }, place: (g, o, i) => (i === 4 ? ["conv.b", g * 3 + o] : ["conv", (g * 3 + o) * 4 + i]) }),
    "embedding with a diagonal A": kronecker(
      { name: "emb", groups: 1, dA: 6, dG: 3, params: { weight: "emb", bias: null }, matrix: { weight: digits(0, [], [[3, 1]], [[6, 3]]), bias: null } }, { A: "diagonal", G: "full" }, dice,
      { shapes: { emb: [6, 3] }, place: (_, o, i) => ["emb", i * 3 + o] }),
    "a part of a weight, both sides diagonal": kronecker(
      { name: "part", groups: 1, dA: 2, dG: 2, params: { weight: "half", bias: null }, matrix: { weight: digits(4, [], [[2, 2]], [[2, 1]]), bias: null } }, { A: "diagonal", G: "diagonal" }, dice,
      { shapes: { half: [4, 2] }, place: (_, o, i) => ["half", 4 + o * 2 + i] }),
    "norm: a block per channel": {
      layer: { name: "norm", groups: 3, dA: 2, dG: 1, form: "block", sides: full, params: { weight: "scale", bias: "shift" }, F: flat(norm.map(([F]) => F)), matrix: { weight: digits(0, [[3, 1]], [], []), bias: digits(0, [[3, 1]], [], []) } },
      shapes: { scale: [3], shift: [3] }, factors: norm, place: (g, _, i) => [i === 0 ? "scale" : "shift", g],
    },
  };
}

/** F as one matrix in the order (group, out, in): explicit Kronecker products. */
function denseOf({ layer: { dA, dG, groups }, factors }: Case): Matrix {
  const each = dA * dG;
  return table(groups * each, groups * each, (r, c) => {
    const [g, x, y] = [Math.floor(r / each), r % each, c % each];
    if (g !== Math.floor(c / each)) return 0;
    const [A, G] = factors[g] as readonly [Matrix, Matrix];
    return A.length === each ? at(A, x, y) : at(G, Math.floor(x / dA), Math.floor(y / dA)) * at(A, x % dA, y % dA);
  });
}

function order({ layer: { dA, dG, groups }, place }: Case): (readonly [string, number])[] {
  return Array.from({ length: groups * dG * dA }, (_, k) => place(Math.floor(k / (dG * dA)), Math.floor(k / dA) % dG, k % dA));
}
const vectorOf = ({ shapes }: Case, dice: Dice): Vector => Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, { shape, data: Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => uniform(dice)) }]));
const read = (c: Case, v: Vector | VectorResult): number[] => order(c).map(([name, k]) => v[name]?.data[k] as number);
const near = (found: readonly number[], wanted: readonly number[], bound = 1e-11): void => {
  const size = Math.max(...wanted.map(Math.abs));
  expect(Math.max(...found.map((x, k) => Math.abs(x - (wanted[k] as number)))) / size).toBeLessThan(bound);
};
const apply = (m: Matrix, v: readonly number[]): number[] => m.map((row) => row.reduce((sum, x, k) => sum + x * (v[k] as number), 0));

const SEED = 71;
const LAMBDA = 0.07;
for (const [name, c] of Object.entries(cases(SEED))) {
  const F = denseOf(c);
  const fisher = new KroneckerFisher([c.layer], c.shapes);
  const v = vectorOf(c, new Dice(SEED + 1));
  const x = read(c, v);
  const all = { plain: "identity" } as const; // of "part" only one half belongs to a layer

  test(`${name}: a vector goes to its matrix form and back by the digits`, () => {
    const matrix = toMatrix(c.layer, v);
    expect([...matrix]).toEqual(x);
    const out = Object.fromEntries(Object.entries(v).map(([key, { shape, data }]) => [key, { shape, data: new Float64Array(data.length) }]));
    fromMatrix(c.layer, matrix, out);
    expect(read(c, out)).toEqual(x);
  });

  test(`${name}: products and powers agree with the dense matrix`, () => {
    const damped = plus(F, LAMBDA);
    near(read(c, fisher.multiply(v, all)), apply(F, x));
    near(read(c, fisher.multiplyInverse(v, { damping: LAMBDA, ...all })), solve(damped, x).x);
    near(read(c, fisher.power(v, -2, { damping: LAMBDA, ...all })), solve(damped, solve(damped, x).x).x);
    near(read(c, fisher.power(v, 3, all)), apply(F, apply(F, apply(F, x))));
    const twice = fisher.multiplySqrt(fisher.multiplySqrt(v, { damping: LAMBDA, ...all }), { damping: LAMBDA, ...all });
    near(read(c, twice), apply(damped, x));
    const third = fisher.power(fisher.power(v, 1 / 3, { damping: LAMBDA, ...all }), 2 / 3, { damping: LAMBDA, ...all });
    near(read(c, third), apply(damped, x));
  });

  test(`${name}: pi damping is the product of the damped factors' inverses`, () => {
    const wanted = c.factors.flatMap(([A, G], g) => {
      const each = c.layer.dA * c.layer.dG;
      const part = x.slice(g * each, (g + 1) * each);
      if (c.layer.form === "block") return solve(plus(A, LAMBDA), part).x;
      const mean = (m: Matrix): number => m.reduce((sum, row, k) => sum + (row[k] as number), 0) / m.length;
      const pi = Math.sqrt(mean(A) / mean(G));
      const [Ad, Gd] = [plus(A, pi * Math.sqrt(LAMBDA)), plus(G, Math.sqrt(LAMBDA) / pi)];
      return solve(table(each, each, (r, k) => at(Gd, Math.floor(r / c.layer.dA), Math.floor(k / c.layer.dA)) * at(Ad, r % c.layer.dA, k % c.layer.dA)), part).x;
    });
    near(read(c, fisher.multiplyInverse(v, { damping: LAMBDA, form: "pi", ...all })), wanted);
  });

  test(`${name}: eigenvalues, trace, log-determinant, norm, diagonal and the dense matrix`, () => {
    near([...fisher.eigenvalues(c.layer.name)], jacobi(F));
    near([...fisher.eigenvalues(c.layer.name, { damping: 1 })], jacobi(plus(F, 1)));
    near([fisher.trace()], [F.reduce((sum, row, k) => sum + (row[k] as number), 0)]);
    near([fisher.frobenius()], [Math.sqrt(F.flat().reduce((sum, y) => sum + y * y, 0))]);
    near([fisher.logdet({ damping: LAMBDA })], [solve(plus(F, LAMBDA), x).logdet]);
    near(read(c, fisher.diagonal()), F.map((row, k) => row[k] as number), 1e-15);
    near([...fisher.dense(c.layer.name)], F.flat(), 1e-15);
  });

  test(`${name}: samples have mean 0 and covariance (F + λI)⁻¹`, () => {
    const count = 4000;
    const draws = fisher.sample({ damping: LAMBDA, seed: 9, count }).map((draw) => read(c, draw));
    const damped = plus(F, LAMBDA);
    const n = x.length;
    // whitened, the second moments are those of N(0, I): an entry's deviation is 1/√count (√2 on the diagonal); 5 deviations for ≤ 900 entries
    const root = draws.map((d) => read(c, fisher.multiplySqrt(Object.fromEntries(Object.entries(v).map(([key, { shape, data }]) => [key, { shape, data: data.map((_, k) => d[order(c).findIndex(([p, q]) => p === key && q === k)] ?? 0) }])), { damping: LAMBDA, ...all })));
    const limit = (5 * Math.SQRT2) / Math.sqrt(count);
    for (let r = 0; r < n; r++) {
      expect(Math.abs(root.reduce((sum, d) => sum + (d[r] as number), 0) / count)).toBeLessThan(limit);
      for (let k = 0; k <= r; k++) expect(Math.abs(root.reduce((sum, d) => sum + (d[r] as number) * (d[k] as number), 0) / count - (r === k ? 1 : 0))).toBeLessThan(limit);
    }
    // and not only after whitening: E|(F + λ)·d|² is tr(F + λ)
    const sum = draws.reduce((total, d) => total + apply(damped, d).reduce((s, y) => s + y * y, 0), 0) / count;
    const wanted = damped.reduce((t, row, k) => t + (row[k] as number), 0);
    expect(Math.abs(sum / wanted - 1)).toBeLessThan((5 * Math.SQRT2) / Math.sqrt(count));
    expect(fisher.sample({ damping: LAMBDA, seed: 9, count: 2 }).map((d) => read(c, d))).toEqual(draws.slice(0, 2));
    expect(fisher.sample({ damping: LAMBDA, seed: 10, count: 1 }).map((d) => read(c, d))).not.toEqual(draws.slice(0, 1));
  });
}

const some = (...names: string[]): { readonly fisher: KroneckerFisher; readonly found: Case[] } => {
  const found = names.map((name) => Object.entries(cases(SEED)).find(([key]) => key.startsWith(name))?.[1] as Case);
  return { found, fisher: new KroneckerFisher(found.map((c) => c.layer), Object.assign({}, ...found.map((c) => c.shapes)) as Record<string, readonly number[]>) };
};

test("several layers: totals are sums over all of them, and bases made beside the main thread are the same", async () => {
  const { fisher, found } = some("dense", "grouped", "norm");
  const wanted = found.map((c) => new KroneckerFisher([c.layer], c.shapes));
  await fisher.prepare({ workers: 1 });
  near([fisher.trace()], [wanted.reduce((sum, f) => sum + f.trace(), 0)]);
  near([fisher.logdet({ damping: 1 })], [wanted.reduce((sum, f) => sum + f.logdet({ damping: 1 }), 0)]);
  near([fisher.frobenius()], [Math.hypot(...wanted.map((f) => f.frobenius()))]);
  expect(fisher.eigenvalues("conv")).toEqual(wanted[1]?.eigenvalues("conv"));
});

test("a parameter without a layer is refused by name, or left as it is when that is asked for", () => {
  const { fisher, found: [c] } = some("dense");
  const v = { ...vectorOf(c as Case, new Dice(3)), position: { shape: [2], data: Float64Array.of(4, 5) } };
  expect(() => fisher.multiply(v)).toThrow(/the Fisher of the parameter "position" is unknown: it belongs to no layer/);
  expect([...(fisher.power(v, -1, { damping: 1, plain: "identity" })["position"]?.data ?? [])]).toEqual([4, 5]);
  const { fisher: parted } = some("a part");
  expect(() => parted.multiply({ half: { shape: [4, 2], data: new Float64Array(8) } })).toThrow(/a part of it belongs to no layer/);
  expect(() => fisher.multiply({ fc: { shape: [3, 2], data: new Float64Array(6) } })).toThrow(/needs the parameter "fc.b"/);
});

test("what cannot be done is refused with a reason", () => {
  const layer: KroneckerLayer = { name: "zero", groups: 1, dA: 65, dG: 64, form: "kronecker", sides: { A: "diagonal", G: "diagonal" }, params: { weight: "w", bias: null }, matrix: { weight: digits(0, [], [[64, 65]], [[65, 1]]), bias: null }, A: new Float64Array(65), G: new Float64Array(64) };
  const shapes = { w: [64, 65] };
  const fisher = new KroneckerFisher([layer], shapes);
  const v = { w: { shape: [64, 65], data: new Float64Array(64 * 65).fill(2) } };
  expect(() => fisher.dense("zero")).toThrow(/4160 rows; at most 4096/);
  expect(() => fisher.dense("other")).toThrow(/no layer "other"/);
  expect(() => fisher.multiplyInverse(v, { damping: 0 })).toThrow(/"zero" with damping 0 is singular/);
  expect(fisher.multiplyInverse(v, { damping: 4 })["w"]?.data[7]).toBe(0.5);
  expect(fisher.multiplyInverse(v, { damping: 4, form: "pi" })["w"]?.data[7]).toBe(0.5);
  expect(fisher.logdet()).toBe(Number.NEGATIVE_INFINITY);
  // a smallest eigenvalue below the rounding of the largest is noise, not a direction of high certainty
  const noisy = new KroneckerFisher([{ ...layer, A: Float64Array.from({ length: 65 }, (_, k) => (k === 3 ? 1e-17 : 1)), G: new Float64Array(64).fill(1) }], shapes);
  expect(() => noisy.multiplyInverse(v, { damping: 0 })).toThrow(/singular: its eigenvalues reach from 1e-17 to 1/);
  expect(noisy.multiplyInverse(v, { damping: 1e-3 })["w"]?.data[3]).toBeCloseTo(2000, 8);
  expect(() => fisher.multiplySqrt(v, { damping: -1 })).toThrow(/damping must be/);
  expect(() => new KroneckerFisher([{ ...layer, A: new Float64Array(3) }], shapes)).toThrow(/"kfac\/zero\/A" should hold 1 × 65 numbers and holds 3/);
  expect(() => new KroneckerFisher([{ ...layer, G: new Float64Array(64).fill(Number.NaN) }], shapes)).toThrow(/"kfac\/zero\/G" holds a number that is not finite/);
});
