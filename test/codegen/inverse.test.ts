/** The inverse kernels against a float64 Cholesky, and what they say about matrices that have none. */
import { describe, expect, it } from "vitest";
import type { Buffer } from "../../codegen/kernel.js";
import { blockedKernels } from "../../codegen/kernels/inverse-blocked.js";
import { type InverseBatch, type InverseSpec, lowerInverse } from "../../codegen/kernels/inverse.js";
import { PORTABLE } from "../../codegen/limits.js";
import { inverse64, relativeError, spd } from "../support/inverse-oracle.js";
import { compileOnNull, runKernels, testDevice } from "../support/gpu.js";

const SIZES = [1, 2, 3, 31, 32, 33, 64, 65, 100, 257];
const EPSILON = 2 ** -23;

const buffer = (name: string, elements: number): Buffer => ({ name, dtype: "f32", elements });

const batchOf = (n: number, batch: number, tag = ""): InverseBatch => ({
  n,
  batch,
  matrix: buffer(`matrix${tag}`, batch * n * n),
  damping: buffer(`damping${tag}`, batch),
  inverse: buffer(`inverse${tag}`, batch * n * n),
  status: buffer(`status${tag}`, batch),
});

const specOf = (n: number, batch: number, label = "test"): InverseSpec => ({ kind: "inverse", label, batches: [batchOf(n, batch)] });
const only = (spec: InverseSpec): InverseBatch => spec.batches[0] as InverseBatch;

/** One matrix and what is expected of it. */
interface Case {
  readonly matrix: Float32Array;
  readonly damping: number;
}

describe("on an adapter", () => {
  const device = testDevice();

  const invert = async (n: number, cases: readonly Case[], lower = (spec: InverseSpec) => lowerInverse(spec, PORTABLE)) => {
    const spec = specOf(n, cases.length);
    const batch = only(spec);
    const matrix = new Float32Array(cases.flatMap((c) => [...c.matrix]));
    const results = await runKernels(
      device(),
      lower(spec).kernels,
      new Map([[batch.matrix, matrix], [batch.damping, Float32Array.from(cases, (c) => c.damping)]]),
    );
    expect(results.get(batch.matrix), "the matrix is only read").toEqual(matrix);
    const inverse = results.get(batch.inverse) as Float32Array;
    return { status: [...(results.get(batch.status) as Float32Array)], inverses: cases.map((_, b) => inverse.slice(b * n * n, (b + 1) * n * n)) };
  };

  /**
   * Symmetric to the bit, and within the rounding of the elements plus a tenth of ε·κ; below 16 rows, where errors do not
   * average out, within 3/8: in a 2×2 matrix three roundings (of ε/2) of a₁₀²/a₀₀ ≈ a₁₁ meet a last pivot of about 4·a₁₁/κ.
   */
  const expectInverse = (got: Float32Array, n: number, { matrix, damping }: Case, kappa: number, what: string): void => {
    let asymmetric = 0;
    for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) if (!Object.is(got[i * n + j], got[j * n + i])) asymmetric++;
    expect(asymmetric, `${what}: pairs that differ`).toBe(0);
    const error = relativeError(got, inverse64(matrix, n, damping)) / EPSILON;
    expect(error, `${what}: error in ε`).toBeLessThan(2 + (n < 16 ? 0.375 : 0.1) * kappa);
  };

  for (const n of SIZES) {
    it(`inverts ${n}×${n} matrices of condition 10 to 100,000 to a tenth of ε·κ, alone and three at once`, async () => {
      const kappas = n === 1 ? [1, 1, 1, 1, 1] : [1e1, 1e2, 1e3, 1e4, 1e5];
      const cases = kappas.map((kappa, i) => ({ matrix: spd(n, kappa, n + i), damping: 0 }));
      for (const [i, alone] of cases.slice(0, 2).entries()) {
        const { status, inverses } = await invert(n, [alone]);
        expect(status).toEqual([1]);
        expectInverse(inverses[0] as Float32Array, n, alone, kappas[i] as number, `n ${n}, κ ${kappas[i]}, seed ${n + i}`);
      }
      const three = await invert(n, cases.slice(2));
      expect(three.status).toEqual([1, 1, 1]);
      for (const [i, got] of three.inverses.entries()) expectInverse(got, n, cases[i + 2] as Case, kappas[i + 2] as number, `n ${n}, κ ${kappas[i + 2]}, seed ${n + i + 2}`);
    });
  }

  for (const n of [5, 64, 100]) {
    it(`adds each matrix its own damping (${n}×${n})`, async () => {
      const cases = [0.5, 0.01, 0].map((damping, i) => ({ matrix: spd(n, 100, i), damping }));
      const { status, inverses } = await invert(n, cases);
      expect(status).toEqual([1, 1, 1]);
      for (const [i, got] of inverses.entries()) expectInverse(got, n, cases[i] as Case, 100, `n ${n}, damping ${cases[i]?.damping}`);
    });

    it(`flags the one of three ${n}×${n} matrices that has no inverse and leaves its neighbours right`, async () => {
      const good = spd(n, 100, 7);
      const indefinite = spd(n, 100, 8);
      indefinite[n * n - 1] = -0.1;
      const lastNaN = spd(n, 100, 9);
      lastNaN[n - 1] = Number.NaN; // one half only: (0, n−1) but not (n−1, 0)
      const infinite = spd(n, 100, 9);
      infinite[0] = Number.POSITIVE_INFINITY;
      const singular = spd(n, 100, 10); // the last two rows and columns are equal: a pivot of rounding noise
      for (let i = 0; i < n; i++) singular[i * n + n - 1] = singular[(n - 1) * n + i] = singular[i * n + n - 2] as number;
      singular[n * n - 1] = singular[(n - 2) * n + n - 1] = singular[(n - 1) * n + n - 2] = singular[(n - 2) * n + n - 2] as number;
      const bad = { indefinite, lastNaN, infinite, singular, zero: new Float32Array(n * n) };
      for (const [name, matrix] of Object.entries(bad)) {
        const cases = [good, matrix, good].map((m) => ({ matrix: m, damping: 0 }));
        const { status, inverses } = await invert(n, cases);
        expect(status, `${name} ${n}×${n}`).toEqual([1, 0, 1]);
        for (const i of [0, 2]) expectInverse(inverses[i] as Float32Array, n, cases[i] as Case, 100, `beside ${name}, n ${n}`);
      }
    });

    it(`flags a pivot of rounding noise even where it is positive, but no small diagonal entry (${n}×${n})`, async () => {
      // With damping 1: the identity with [[1, 1], [1, 1 + 2ε]] in its last corner: pivot 2ε < n·ε/2.
      const noise = new Float32Array(n * n);
      noise[n * n - 2] = noise[n * n - 1 - n] = 1;
      noise[n * n - 1] = 2 * EPSILON;
      const graded = new Float32Array(n * n);
      for (let i = 0; i < n; i++) graded[i * n + i] = 2 ** -i;
      const { status, inverses } = await invert(n, [{ matrix: noise, damping: 1 }, { matrix: graded, damping: 0 }]);
      expect(status).toEqual([0, 1]);
      expectInverse(inverses[1] as Float32Array, n, { matrix: graded, damping: 0 }, 1, `graded ${n}×${n}`);
    });

    it(`flags an inverse that overflows though every pivot is positive (${n}×${n})`, async () => {
      const tiny = new Float32Array(n * n);
      for (let i = 0; i < n; i++) tiny[i * n + i] = i === n - 1 ? 2 ** -128 : 1;
      const { status } = await invert(n, [{ matrix: tiny, damping: 0 }]);
      expect(status).toEqual([0]);
    });
  }

  it("inverts matrices of many sizes in one sequence to the same bits as each size alone, and flags the right ones", async () => {
    const sizes = [[97, 1], [30, 2], [200, 2], [65, 3], [144, 1], [97, 2]] as const;
    const batches = sizes.map(([n, batch], k) => batchOf(n, batch, `${k}`));
    const cases = sizes.map(([n, batch], k) => Array.from({ length: batch }, (_, b): Case => ({ matrix: spd(n, 1000, 10 * k + b), damping: 0.01 * (b + 1) })));
    const bad = (cases[3] as Case[])[1] as Case;
    bad.matrix[0] = -1;
    const values = new Map<Buffer, Float32Array>(batches.flatMap((b, k): [Buffer, Float32Array][] => [
      [b.matrix, new Float32Array((cases[k] as Case[]).flatMap((c) => [...c.matrix]))],
      [b.damping, Float32Array.from(cases[k] as Case[], (c) => c.damping)],
    ]));
    const results = await runKernels(device(), lowerInverse({ kind: "inverse", label: "test", batches }, PORTABLE).kernels, values);
    for (const [k, { n, batch, inverse, status }] of batches.entries()) {
      const alone = await invert(n, cases[k] as Case[]);
      expect([...(results.get(status) as Float32Array)], `status of batch ${k}`).toEqual(cases[k]?.map((c) => (c === bad ? 0 : 1)));
      expect(alone.status).toEqual([...(results.get(status) as Float32Array)]);
      for (let b = 0; b < batch; b++) {
        if (cases[k]?.[b] === bad) continue;
        expect((results.get(inverse) as Float32Array).slice(b * n * n, (b + 1) * n * n), `matrix ${b} of batch ${k}`).toEqual(alone.inverses[b]);
      }
    }
  });

  it("does not need a full block: the blocked kernels invert small matrices too", async () => {
    for (const n of [1, 5, 8, 31, 33]) {
      const cases = [1, 2].map((seed) => ({ matrix: spd(n, 100, seed), damping: 0.1 }));
      const { status, inverses } = await invert(n, cases, (spec) => blockedKernels("test", spec.batches));
      expect(status).toEqual([1, 1]);
      for (const [i, got] of inverses.entries()) expectInverse(got, n, cases[i] as Case, 100, `n ${n}, seed ${i + 1}`);
    }
  });

  it("counts matrices along y where x has no room", async () => {
    const cases = [1, 2, 3, 4, 5].map((seed) => ({ matrix: spd(6, 100, seed), damping: 0 }));
    const folded = await invert(6, cases, (spec) => lowerInverse(spec, { ...PORTABLE, workgroupsPerDimension: 3 }));
    expect(folded).toEqual(await invert(6, cases));
  });

  it("gives the same bits twice, and the same bits in a batch as alone", async () => {
    const cases = [1, 2, 3].map((seed) => ({ matrix: spd(100, 1000, seed), damping: 0.001 }));
    const first = await invert(100, cases);
    expect(await invert(100, cases)).toEqual(first);
    expect((await invert(100, [cases[1] as Case])).inverses[0]).toEqual(first.inverses[1]);
  });
});

describe("as text", () => {
  it("is valid WGSL within the portable limits for every size", async () => {
    for (const n of [...SIZES, 785, 1025]) {
      const { kernels } = lowerInverse(specOf(n, 3), PORTABLE);
      await compileOnNull([...new Map(kernels.map((k) => [k.wgsl, k])).values()]);
    }
  });

  it("depends on n alone where matrices are small, and beyond on nothing but the table of where they are", () => {
    const texts = (spec: InverseSpec) => lowerInverse(spec, PORTABLE).kernels.map((k) => k.wgsl);
    expect(texts(specOf(20, 3, "a"))).toEqual(texts(specOf(20, 8, "b")));
    const shared = new Set([...texts(specOf(300, 1)), ...texts(specOf(70, 2)), ...texts(specOf(785, 1))]);
    expect(shared.size, "load, panel, update and finish serve all sizes; a table each").toBe(4 + 3);
  });

  it("takes 64 rows in one dispatch, and more in two per 48 columns and three", () => {
    const dispatches = (...sizes: readonly number[]) => lowerInverse({ kind: "inverse", label: "test", batches: sizes.map((n, k) => batchOf(n, 2, `${k}`)) }, PORTABLE).kernels.length;
    expect([1, 64, 65, 96, 97, 785].map((n) => dispatches(n))).toEqual([1, 1, 7, 7, 9, 37]);
    expect(dispatches(785, 257, 256, 10), "smaller ones cost a load and a finish more, the small ones one").toBe(37 + 2 * 2 + 1);
    expect(lowerInverse(specOf(2, 100_000), PORTABLE).kernels[0]?.workgroups).toEqual([65535, 2, 1]);
  });

  it("gives no workgroups to matrices whose blocks are done", () => {
    const kernels = lowerInverse({ kind: "inverse", label: "test", batches: [batchOf(70, 3, "a"), batchOf(150, 1, "b")] }, PORTABLE).kernels;
    expect(kernels.filter((k) => k.name === "inverse_update").map((k) => k.workgroups[2])).toEqual([4, 4, 1, 1]);
  });

  it("refuses what no buffer can hold and an inverse over its own matrix", () => {
    expect(() => lowerInverse(specOf(6000, 1), PORTABLE)).toThrow(/6000×6000 needs a buffer/);
    const spec = specOf(4, 1);
    expect(() => lowerInverse({ ...spec, batches: [{ ...only(spec), inverse: only(spec).matrix }] }, PORTABLE)).toThrow(/overwrite/);
  });
});
