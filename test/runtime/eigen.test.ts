import { resolveObjectURL } from "node:buffer";
import { execFileSync } from "node:child_process";
import { runInNewContext } from "node:vm";
import { afterEach, expect, test, vi } from "vitest";
import { type Eigen, eigen, eigenvalues, kernelText } from "../../runtime/eigen.js";
import { eigenMany, workerText } from "../../runtime/offthread.js";
import { Dice } from "../support/contract-fuzz.js";

const uniform = (seed: number, length: number): Float64Array => {
  const dice = new Dice(seed);
  return Float64Array.from({ length }, () => dice.int(2 ** 20) / 2 ** 19 - 1);
};

/** X·diag(s)·Xᵀ for X [n, k]. */
function weighted(n: number, x: Float64Array, s: readonly number[]): Float64Array {
  const k = s.length;
  const out = new Float64Array(n * n);
  for (let i = 0; i < n; i++)
    for (let j = 0; j <= i; j++) {
      let sum = 0;
      for (let r = 0; r < k; r++) sum += (x[i * k + r] as number) * (s[r] as number) * (x[j * k + r] as number);
      out[i * n + j] = out[j * n + i] = sum;
    }
  return out;
}

function symmetric(n: number, seed: number): Float64Array {
  const x = uniform(seed, n * n);
  for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) x[j * n + i] = x[i * n + j] as number;
  return x;
}

/** Q·diag(s)·Qᵀ for a product Q of a few reflections: a spectrum known beforehand. */
function withSpectrum(s: readonly number[], seed: number): Float64Array {
  const n = s.length;
  let q = Float64Array.from({ length: n * n }, (_, k) => (k % (n + 1) === 0 ? 1 : 0));
  for (let round = 0; round < 3; round++) {
    const v = uniform(seed + round, n);
    const square = v.reduce((sum, x) => sum + x * x, 0);
    const dots = Array.from({ length: n }, (_, j) => v.reduce((sum, x, i) => sum + x * (q[i * n + j] as number), 0));
    q = q.map((x, at) => x - (2 * (v[Math.floor(at / n)] as number) * (dots[at % n] as number)) / square);
  }
  return weighted(n, q, s);
}

/** Largest row sum: at least the spectral norm. */
const norm = (n: number, a: Float64Array): number => Math.max(...Array.from({ length: n }, (_, i) => a.subarray(i * n, i * n + n).reduce((sum, x) => sum + Math.abs(x), 0)));

/** ‖AU − U·diag(s)‖ / ‖A‖ and ‖UᵀU − I‖ in the norm of largest row sums, over √n: row sums exceed spectral norms by up to that. */
function defects(n: number, a: Float64Array, { values, vectors }: Eigen): { readonly residual: number; readonly orthogonality: number } {
  const residual = new Float64Array(n * n);
  const gram = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < n; k++)
      for (let j = 0; j < n; j++) {
        residual[i * n + j] = (residual[i * n + j] as number) + (a[i * n + k] as number) * (vectors[k * n + j] as number);
        gram[k * n + j] = (gram[k * n + j] as number) + (vectors[i * n + k] as number) * (vectors[i * n + j] as number);
      }
    for (let j = 0; j < n; j++) residual[i * n + j] = (residual[i * n + j] as number) - (vectors[i * n + j] as number) * (values[j] as number);
  }
  for (let i = 0; i < n; i++) gram[i * n + i] = (gram[i * n + i] as number) - 1;
  return { residual: norm(n, residual) / Math.sqrt(n) / (norm(n, a) || 1), orthogonality: norm(n, gram) / Math.sqrt(n) };
}

const spread = (n: number, f: (t: number) => number): number[] => Array.from({ length: n }, (_, k) => f(n === 1 ? 0 : k / (n - 1)));

const CASES: readonly (readonly [name: string, n: number, a: Float64Array])[] = [
  ["1 × 1", 1, Float64Array.of(-3)],
  ["1 × 1 zero", 1, Float64Array.of(0)],
  ["2 × 2", 2, Float64Array.of(2, -1, -1, 2)],
  ["zero", 9, new Float64Array(81)],
  ["identity", 7, Float64Array.from({ length: 49 }, (_, k) => (k % 8 === 0 ? 1 : 0))],
  ["all ones", 33, new Float64Array(33 * 33).fill(1)],
  ["random of odd size", 41, symmetric(41, 5)],
  ["random", 160, symmetric(160, 6)],
  ["rank 3 of 200", 200, weighted(200, uniform(7, 600), [1, 5, 0.1])],
  ["graded down to 1e-20", 60, withSpectrum(spread(60, (t) => 10 ** (-20 * t)), 8)],
  ["graded up", 60, withSpectrum(spread(60, (t) => 10 ** (20 * t - 20)), 9)],
  ["clustered", 80, withSpectrum(spread(80, (t) => (t < 0.5 ? 1 : 2) + 1e-14 * t), 10)],
  ["repeated", 50, withSpectrum(spread(50, (t) => Math.round(3 * t)), 11)],
  ["entries about 1e30", 40, symmetric(40, 12).map((x) => x * 1e30)],
  ["entries about 1e-30", 40, symmetric(40, 13).map((x) => x * 1e-30)],
  ["entries about 1e300", 20, symmetric(20, 14).map((x) => x * 1e300)],
  ["entries about 1e-310", 20, symmetric(20, 15).map((x) => x * 1e-310)],
];

for (const [name, n, a] of CASES)
  test(`A = U·diag(s)·Uᵀ within 1e-13·n: ${name}`, () => {
    const found = eigen(n, a);
    const { residual, orthogonality } = defects(n, a, found);
    expect(orthogonality).toBeLessThanOrEqual(1e-13 * n);
    // numbers below 1e-308 have fewer than 53 bits themselves
    if (!name.endsWith("1e-310")) expect(residual).toBeLessThanOrEqual(1e-13 * n);
    expect([...found.values]).toEqual([...found.values].sort((x, y) => x - y));
    for (let j = 0; j < n; j++) {
      const column = Array.from({ length: n }, (_, i) => found.vectors[i * n + j] as number);
      expect(Math.max(...column)).toBe(Math.max(...column.map(Math.abs)));
    }
    expect(eigenvalues(n, a)).toEqual(found.values);
    expect(eigen(n, a)).toEqual(found);
  });

test("the spectrum of the second difference matrix is 2 − 2·cos(kπ/(n + 1))", () => {
  const n = 64;
  const a = Float64Array.from({ length: n * n }, (_, at) => [2, -1][Math.abs(Math.floor(at / n) - (at % n))] ?? 0);
  eigenvalues(n, a).forEach((value, k) => expect(Math.abs(value - (2 - 2 * Math.cos(((k + 1) * Math.PI) / (n + 1))))).toBeLessThan(4 * n * 2 ** -52));
});

test("a block of entries 1e-30 beside one of 1e30 keeps its own eigenvalues", () => {
  const [n, h] = [40, 20];
  const [small, large] = [symmetric(h, 21), symmetric(h, 22)];
  const a = new Float64Array(n * n);
  for (let i = 0; i < h; i++)
    for (let j = 0; j < h; j++) {
      a[i * n + j] = 1e-30 * (small[i * h + j] as number);
      a[(i + h) * n + j + h] = 1e30 * (large[i * h + j] as number);
    }
  const alone = eigenvalues(h, small);
  const found = [...eigenvalues(n, a)].filter((x) => Math.abs(x) < 1e-10);
  expect(found.length).toBe(h);
  found.forEach((x, k) => expect(Math.abs(x * 1e30 - (alone[k] as number))).toBeLessThan(1e-13 * h));
});

test("only the lower triangle is read, and the matrix is left alone", () => {
  const n = 12;
  const a = symmetric(n, 30);
  const half = a.map((x, at) => (at % n > Math.floor(at / n) ? 1e9 : x));
  const before = half.slice();
  expect(eigen(n, half)).toEqual(eigen(n, a));
  expect(half).toEqual(before);
});

test("what is not finite is refused with the name of the matrix and the place", () => {
  const a = symmetric(3, 31);
  a[5] = Number.NaN;
  expect(() => eigen(3, a, "kfac/fc1/A")).toThrow(
    expect.objectContaining({ code: "diverged", where: "kfac/fc1/A", message: 'the matrix "kfac/fc1/A" holds NaN at row 1, column 2' }),
  );
  expect(() => eigen(2, a, "A")).toThrow(/2 × 2 numbers and holds 9/);
});

test("the kernel's text stands alone: it runs in a world that has nothing else", () => {
  const a = symmetric(10, 40);
  const world = { result: undefined as unknown, matrix: a.slice() };
  runInNewContext(`${workerText()} result = answer({ n: 10, a: matrix, vectors: true })[0]`, world);
  const { values, a: vectors } = world.result as { values: Float64Array; a: Float64Array };
  expect([...values]).toEqual([...eigen(10, a).values]);
  expect([...vectors]).toEqual([...eigen(10, a).vectors]);
  expect(kernelText()).not.toMatch(/__vi_|\bimport\b/);
});

const JOBS = [3, 40, 1, 64, 17].map((n, k) => ({ name: `m${k}`, n, data: symmetric(n, 50 + k) }));

test("results of any number of workers are those of one thread, bit for bit", async () => {
  const expected = JOBS.map(({ n, data }) => eigen(n, data));
  for (const workers of [0, 1, 3]) expect(await eigenMany(JOBS, { workers }), `${workers} workers`).toEqual(expected);
  expect(JOBS[3]?.data).toEqual(symmetric(64, 53));
  const [values] = await eigenMany([{ n: 40, data: symmetric(40, 51) }], { workers: 1, vectors: false });
  expect(values?.values).toEqual(expected[1]?.values);
  expect(values?.vectors.length).toBe(0);
});

test("matrices given away are moved to the worker, not copied", async () => {
  const data = symmetric(20, 60);
  const expected = eigen(20, data);
  expect(await eigenMany([{ n: 20, data }], { workers: 1, consume: true })).toEqual([expected]);
  expect(data.length).toBe(0);
});

test("a matrix that is not finite stops everything before it starts", async () => {
  await expect(eigenMany([...JOBS, { name: "bad", n: 1, data: Float64Array.of(Number.POSITIVE_INFINITY) }], { workers: 2 })).rejects.toMatchObject({ code: "diverged", where: "bad" });
});

afterEach(() => vi.unstubAllGlobals());

test("where a browser's worker cannot be made the work is done in place", async () => {
  // idle workers of the tests above are Node's: wait until they have ended
  await new Promise((done) => setTimeout(done, 2200));
  vi.stubGlobal("Worker", class { constructor() { throw new Error("blocked by policy"); } });
  expect(await eigenMany(JOBS, { workers: 2 })).toEqual(JOBS.map(({ n, data }) => eigen(n, data)));
});

test("a browser's worker gets the kernel as a Blob and answers", async () => {
  const urls: string[] = [];
  // a browser's Worker in a few lines: a world with `self` and nothing of Node
  class Fake {
    onmessage: ((event: { data: unknown }) => void) | null = null;
    readonly #self: { onmessage?: (event: { data: unknown }) => void; postMessage: (data: unknown) => void };
    constructor(url: string) {
      urls.push(url);
      this.#self = { postMessage: (data) => queueMicrotask(() => this.onmessage?.({ data })) };
      void resolveObjectURL(url)?.text().then((text) => runInNewContext(text, { self: this.#self, Float64Array }));
    }
    postMessage(data: unknown): void { this.#self.onmessage?.({ data }); }
    terminate(): void {}
  }
  vi.stubGlobal("Worker", Fake);
  expect(await eigenMany(JOBS, { workers: 2 })).toEqual(JOBS.map(({ n, data }) => eigen(n, data)));
  expect(urls.map((url) => url.slice(0, 5))).toEqual(["blob:", "blob:"]);
});

test("under a transpiler that names functions the workers still start, and idle ones let the process end", () => {
  const script = `import { eigenMany } from "./runtime/offthread.ts";
    const data = Float64Array.of(3, 0, 0, 1);
    const [r] = await eigenMany([{ n: 2, data }], { workers: 1, consume: true });
    const done = performance.now();
    process.on("exit", () => console.log(JSON.stringify([...r.values, data.length]), performance.now() - done < 1000));`;
  const out = execFileSync(process.execPath, ["--import", "tsx", "--input-type=module", "-e", script], { encoding: "utf8", timeout: 30_000 });
  expect(out.trim()).toBe("[1,3,0] true");
});
