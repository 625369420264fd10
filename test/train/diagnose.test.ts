/** What the trainer says about each layer, against dense matrices and against the step that was really made. */
import { describe, expect, it } from "vitest";
import type { NdArray } from "../../ir/ndarray.js";
import type { LayerDiagnosis } from "../../runtime/diagnose.js";
import { eigenvalues } from "../../runtime/eigen.js";
import { toMatrix } from "../../runtime/matrix.js";
import type { Batch, Tensor } from "../../runtime/tensors.js";
import { Trainer, type TrainerOptions } from "../../runtime/trainer.js";
import { compile, type Compiled, type CompileOptions } from "../../src/compile.js";
import { net } from "../kfac/support.js";
import { testDevice } from "../support/gpu.js";
import { kron, options, random, tensor } from "../support/models.js";
import { toHost } from "../support/run-graph.js";

const device = testDevice();
const B = 8;

/** A layer with a bias whose sides are no multiple of four, one in groups, a block layer, and a parameter without a layer. */
const model = net((m) => {
  const h = m.tanh(m.add(m.layerNorm(m.dense(m.input("x", [2, 6]), 5, { name: "first" }), { name: "norm" }), m.param("pos", [2, 5])));
  return m.dense(m.flatten(m.tanh(m.conv2d(m.reshape(h, [2, 5, 1]), 4, [2, 1], { groups: 2, name: "grouped" }))), 3, { name: "last" });
});
const build = (more: Partial<CompileOptions> = {}): Compiled =>
  compile(model, options({ loss: "half-sse", verify: false, batches: [B], fisher: { kind: "empirical", samples: 1 }, fallback: "diagonal", ...more }));

const tensorOf = (a: NdArray): Tensor => ({ shape: a.shape, data: toHost(a) as Float32Array | Int32Array });
const batch = (seed: number, count = B): Batch => {
  const next = random(seed);
  return { x: tensorOf(tensor([count, 2, 6], next)), target: tensorOf(tensor([count, 3], next)) };
};

async function withTrainer<T>(c: Compiled, more: TrainerOptions, use: (t: Trainer) => Promise<T>): Promise<T> {
  const t = await Trainer.create(device().device, c.artifact, c.sources, Object.fromEntries(c.weights), more);
  try {
    return await use(t);
  } finally {
    await t.dispose();
  }
}

const read = async (t: Trainer, name: string): Promise<Float64Array> => Float64Array.from((await t.task(() => t.program.read([name])))[0] as Float32Array);
const norm = (v: ArrayLike<number>): number => Math.sqrt(Array.from(v).reduce((s, x) => s + x * x, 0));
const inner = (a: ArrayLike<number>, b: ArrayLike<number>): number => Array.from(a).reduce((s, x, k) => s + x * (b[k] as number), 0);
const range = (n: number): number[] => Array.from({ length: n }, (_, k) => k);

/** All eigenvalues of a layer's blocks, from dense matrices. */
async function spectrum(t: Trainer, name: string): Promise<number[]> {
  const l = t.layers.find((layer) => layer.name === name);
  if (!l) return [...(await read(t, `kfac/${name}/D`))];
  const square = (data: Float64Array, d: number, g: number): Float64Array => data.slice(g * d * d, (g + 1) * d * d);
  const n = l.dG * l.dA;
  if (l.form === "block") {
    const F = await read(t, `kfac/${name}/F`);
    return range(l.groups).flatMap((g) => [...eigenvalues(n, square(F, n, g))]);
  }
  const [A, G] = [await read(t, `kfac/${name}/A`), await read(t, `kfac/${name}/G`)];
  return range(l.groups).flatMap((g) => [...eigenvalues(n, kron(square(G, l.dG, g), l.dG, square(A, l.dA, g), l.dA))]);
}

for (const inverse of ["pi", "eig", "ekfac"] as const)
  describe(`diagnose(), damping by ${inverse}`, () => {
    const c = build({ inverse });
    const run = { lr: 1, momentum: 0, klClip: 1e-3, damping: 0.02 };

    it("tells the step that was made: its length, its angle to the gradient, what the norm constraint made of it", async () => {
      await withTrainer(c, { run }, async (t) => {
        for (const seed of [1, 2]) t.step(batch(seed));
        const before = await t.weights();
        t.step(batch(3, 5));
        const after = await t.weights();
        const found = await t.diagnose();
        expect(found.map((d) => [d.layer, d.form])).toEqual([["first.weight", inverse], ["norm.weight", "block"], ["grouped.weight", inverse], ["last.weight", inverse], ["pos", "diagonal"]]);
        const moved = Object.fromEntries(Object.entries(before).map(([name, w]) => [name, { shape: w.shape, data: Float64Array.from(w.data, (v, k) => v - (after[name]?.data[k] as number)) }]));
        for (const d of found) {
          const layer = t.layers.find((l) => l.name === d.layer);
          const step = layer ? toMatrix(layer, moved) : (moved[d.layer]?.data as Float64Array);
          const gradient = (await read(t, `grad/${d.layer}`)).map((g) => g / 5);
          // the weights are of size 1 and a step of size 1e-2 is a difference of float32 numbers
          expect(d.nu * d.directionNorm / norm(step), d.layer).toBeCloseTo(1, 3);
          expect(d.gradientNorm / norm(gradient), d.layer).toBeCloseTo(1, 10);
          expect(d.cosine, d.layer).toBeCloseTo(inner(step, gradient) / norm(step) / norm(gradient), 3);
          expect(d.nu).toBeLessThan(1);
          expect(d.lambda).toBe(0.02);
        }
      });
    });

    it("tells the spectrum of every block", async () => {
      await withTrainer(c, { run, host: { inversePeriod: 1 } }, async (t) => {
        for (const seed of [1, 2, 3]) t.step(batch(seed));
        for (const d of await t.diagnose()) {
          const kronecker = t.layers.some((l) => l.name === d.layer && l.form === "kronecker");
          const values = (inverse === "ekfac" && kronecker ? await scalings(t, d.layer) : await spectrum(t, d.layer)).sort((a, b) => a - b);
          const n = values.length;
          const total = values.reduce((a, b) => a + b, 0);
          const top = values[n - 1] as number;
          expect(d.dimension, d.layer).toBe(n);
          expect(d.largestEigenvalue / top, d.layer).toBeCloseTo(1, 5);
          expect(d.effectiveRank / (total ** 2 / values.reduce((s, x) => s + x * x, 0)), d.layer).toBeCloseTo(1, 5);
          const median = ((values[(n - 1) >> 1] as number) + (values[n >> 1] as number)) / 2;
          // factors are float32 numbers, and so is S: 2⁻²⁴ of the largest eigenvalue is noise
          expect(Math.abs(d.medianEigenvalue - Math.max(0, median)), d.layer).toBeLessThan(1e-6 * top);
          expect(d.share, d.layer).toBe(d.medianEigenvalue / 0.02);
        }
        if (inverse === "pi") {
          const pis = await read(t, "pi");
          let at = 0;
          for (const d of (await t.diagnose()).filter((x) => x.form !== "diagonal")) {
            const groups = t.layers.find((l) => l.name === d.layer)?.groups as number;
            const own = [...pis.slice(at, at + groups)].sort((a, b) => a - b);
            if (d.pi !== null) expect(d.pi, d.layer).toBeCloseTo(((own[(groups - 1) >> 1] as number) + (own[groups >> 1] as number)) / 2, 4);
            else expect(d.form).toBe("block");
            at += groups;
          }
        } else expect((await t.diagnose()).every((d) => d.pi === null)).toBe(true);
      });
    });

    it("changes no bit of the training, and counts the steps that an inverse has been in use, over a checkpoint too", async () => {
      const host = { inversePeriod: 3 };
      const ages: (readonly (number | null)[])[] = [];
      const asked = await withTrainer(c, { run, host }, async (t) => {
        for (const k of range(7)) {
          t.step(batch(k));
          ages.push((await t.diagnose()).map((d) => d.age));
        }
        return t.save();
      });
      expect(ages).toEqual([0, 1, 2, 0, 1, 2, 0].map((age) => [age, age, age, age, 0]));
      const half = await withTrainer(c, { run, host }, async (t) => {
        for (const k of range(5)) t.step(batch(k));
        return t.save();
      });
      await withTrainer(c, { run, host, seed: 9 }, async (t) => {
        await t.restore(half);
        await expect(t.diagnose()).rejects.toThrow(/no gradient of a step/);
        t.step(batch(5));
        expect((await t.diagnose()).map((d) => d.age)).toEqual(ages[5]);
        t.step(batch(6));
        expect(await t.save()).toEqual(asked);
      });
    });
  });

/** EKFAC's S without the padding. */
async function scalings(t: Trainer, name: string): Promise<number[]> {
  const l = t.layers.find((layer) => layer.name === name) as (typeof t.layers)[number];
  const [rows, columns] = (t.program.buffer(`kfac/${name}/S`).info.shape as number[]).slice(-2) as [number, number];
  const S = await read(t, `kfac/${name}/S`);
  return range(l.groups).flatMap((g) => range(l.dG).flatMap((o) => [...S.slice((g * rows + o) * columns, (g * rows + o) * columns + l.dA)]));
}

describe("diagnose()", () => {
  const refusal = async (c: Compiled, use: (t: Trainer) => void): Promise<unknown> => withTrainer(c, {}, async (t) => {
    use(t);
    return t.diagnose().catch((e: unknown) => e);
  });

  it("is refused where there is nothing of a step to explain", async () => {
    const c = build();
    expect(await refusal(build({ optimizer: "sgd" }), (t) => { t.step(batch(1)); })).toMatchObject({ code: "bad-option", message: "a program for sgd has no curvature to explain" });
    expect(await refusal(c, () => {})).toMatchObject({ code: "bad-option", message: "there is no gradient of a step to explain" });
    expect(await refusal(c, (t) => { t.step(batch(1)); t.gradients(batch(2)); })).toMatchObject({ code: "bad-option", message: "diagnose() between gradients() and update()" });
    expect(await refusal(c, (t) => { t.step(batch(1)); void t.fisher.estimate([batch(2)]); })).toMatchObject({ code: "bad-option", message: "there is no gradient of a step to explain" });
  });

  it("is of the step before it, whatever is enqueued after it, and of accumulated batches as of one", async () => {
    await withTrainer(build(), {}, async (t) => {
      t.step(batch(1));
      const first = t.diagnose();
      t.gradients(batch(2, 3));
      t.gradients(batch(3));
      const open = first.then((d) => d.length);
      t.update();
      const second = await t.diagnose();
      expect(await open).toBe(5);
      for (const d of second) {
        const gradient = (await read(t, `grad/${d.layer}`)).map((g) => g / (B + 3));
        expect(d.gradientNorm / norm(gradient), d.layer).toBeCloseTo(1, 10);
      }
    });
  });
});

describe("a diagonal Fisher on a device", () => {
  const only = net((m) => m.tanh(m.add(m.input("x", [2, 6]), m.param("p", [2, 6]))));
  it("moves a model without any layer, accumulated batches too", async () => {
    const c = compile(only, options({ loss: "half-sse", verify: false, batches: [B], fisher: { kind: "exact", samples: 1 }, fallback: "diagonal" }));
    expect(c.artifact.layers).toEqual([]);
    const given = (seed: number): Batch => ({ ...batch(seed), target: tensorOf(tensor([B, 2, 6], random(seed + 50), 0.1)) });
    await withTrainer(c, { run: { lr: 0.5, momentum: 0, klClip: 0, damping: 1e-3 } }, async (t) => {
      const losses: Promise<number>[] = [];
      for (const k of range(6)) losses.push(t.step(given(k % 2)).loss);
      const D = await read(t, "kfac/p/D");
      expect(Math.min(...D)).toBeGreaterThan(0);
      t.gradients(given(0));
      t.gradients(given(1));
      losses.push(t.update().loss);
      expect(await read(t, "kfac/p/D")).not.toEqual(D);
      const all = await Promise.all(losses);
      expect(all[4]).toBeLessThan((all[0] as number) * 0.9);
      const [d] = (await t.diagnose()) as [LayerDiagnosis];
      expect(d).toMatchObject({ layer: "p", form: "diagonal", dimension: 12, nu: 1, age: 0 });
    });
  });
});
