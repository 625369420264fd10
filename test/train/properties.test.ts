/**
 * What a training program computes, on a device: against the float64 evaluation of its own graphs, against formulas written out by
 * hand, and against itself where two ways must lead to one place.
 */
import { describe, expect, it } from "vitest";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { size } from "../../ir/type.js";
import type { RunScalars } from "../../runtime/artifact.js";
import { decode } from "../../runtime/safetensors.js";
import type { Batch, Tensor } from "../../runtime/tensors.js";
import { Trainer, type TrainerOptions } from "../../runtime/trainer.js";
import { compile, type Compiled, type CompileOptions } from "../../src/compile.js";
import { testDevice } from "../support/gpu.js";
import { convnet, type Forward, gained, HostRun, labels, matmul, mlp, options, random, relative, tensor } from "../support/models.js";
import { toHost } from "../support/run-graph.js";

const device = testDevice();

/**
 * Relative to the largest number of a tensor. f32 rounds at 6e-8; sums here have up to a hundred terms, and three steps through inverses
 * of condition ≤ 100 multiply what is left of that.
 */
const CLOSE = 1e-5;

const exact = { kind: "exact", samples: 1 } as const;
const empirical = { kind: "empirical", samples: 1 } as const;
const build = (forward: Forward, more: Partial<CompileOptions>): Compiled => compile(forward, options({ loss: "softmax-ce", verify: false, ...more }));

type Examples = Readonly<Record<"x" | "target", NdArray>>;

function examples({ artifact }: Compiled, count: number, seed: number): Examples {
  const next = random(seed);
  const shape = [count, ...artifact.target.shape];
  return { x: tensor([count, ...(artifact.inputs[0]?.shape ?? [])], next), target: artifact.classes === null ? tensor(shape, next) : labels(shape, artifact.classes, next) };
}

/** The examples at these places, any of them any number of times. */
function pick(from: Examples, places: readonly number[]): Examples {
  const rows = ({ dtype, shape, data }: NdArray): NdArray => {
    const per = size(shape.slice(1));
    return ndarray(dtype, [places.length, ...shape.slice(1)], Float64Array.from(places.flatMap((p) => [...data.subarray(p * per, (p + 1) * per)])));
  };
  return { x: rows(from.x), target: rows(from.target) };
}
const places = (start: number, count: number): number[] => Array.from({ length: count }, (_, k) => start + k);

const tensorOf = (a: NdArray): Tensor => ({ shape: a.shape, data: toHost(a) as Float32Array | Int32Array });
const batchOf = ({ x, target }: Examples, weight?: readonly number[]): Batch =>
  ({ x: tensorOf(x), target: tensorOf(target), ...(weight ? { weight: Float32Array.from(weight) } : {}) });

async function withTrainer<T>(c: Compiled, more: TrainerOptions, use: (t: Trainer) => Promise<T>): Promise<T> {
  const t = await Trainer.create(device().device, c.artifact, c.sources, Object.fromEntries(c.weights), more);
  try {
    return await use(t);
  } finally {
    await t.dispose();
  }
}

interface Trained {
  readonly losses: readonly number[];
  /** Everything a checkpoint holds, by its key there. */
  readonly state: Readonly<Record<string, ArrayLike<number>>>;
}

/** One update per entry; those that are lists are accumulated through the seam. */
const train = (c: Compiled, steps: readonly (Batch | readonly Batch[])[], more: TrainerOptions = {}): Promise<Trained> =>
  withTrainer(c, more, async (t) => {
    const made = steps.map((s) => {
      if (!Array.isArray(s)) return t.step(s as Batch).loss;
      for (const b of s as readonly Batch[]) t.gradients(b);
      return t.update().loss;
    });
    const losses = await Promise.all(made);
    return { losses, state: Object.fromEntries(Object.entries(decode(await t.save()).tensors).map(([k, v]) => [k, v.data as Float32Array])) };
  });

const read = async (t: Trainer, name: string): Promise<Float64Array> =>
  t.task(async () => Float64Array.from((await t.program.read([name]))[0] ?? []));

function expectSame(got: Trained, want: Trained): void {
  expect(Object.keys(got.state)).toEqual(Object.keys(want.state));
  expect(relative(got.losses, want.losses), "losses").toBeLessThan(CLOSE);
  for (const [name, value] of Object.entries(want.state)) expect(relative(got.state[name] ?? [], value), name).toBeLessThan(CLOSE);
}

/** What the k-th statistics weigh in the debiased average: w ← d·w + 1, so 1/w = (1 − d)/(1 − dᵏ⁺¹). */
const blendAt = (k: number, decay: number): number => (1 - decay) / (1 - decay ** (k + 1));

describe("a K-FAC step is the evaluation of its graphs", () => {
  const cases: Readonly<Record<string, () => Compiled>> = {
    "mlp, exact": () => build(mlp([4, 5, 3]), { fisher: exact }),
    "mlp, sampled targets": () => build(mlp([4, 6, 3], "relu"), { fisher: { kind: "mc", samples: 2 } }),
    "convnet, exact": () => build(convnet(), { fisher: exact }),
    "a gain that no layer covers": () => build(gained(), { fisher: empirical, loss: "half-sse", weightDecayMode: "decoupled" }),
  };
  for (const [name, make] of Object.entries(cases))
    it(`${name}: every state buffer after each of three steps`, async () => {
      const c = make();
      const seed = 11;
      const run: Partial<RunScalars> = { weightDecay: 0.01, lr: 0.3 };
      const reference = new HostRun(c, run);
      await withTrainer(c, { seed, run, host: { inversePeriod: 2 } }, async (t) => {
        for (let step = 0; step < 3; step++) {
          const data = examples(c, 4, 20 + step);
          const loss = t.step(batchOf(data)).loss;
          const fields = { count: 4, seed, step, emaBlend: blendAt(step, 0.95) };
          const front = reference.run("front.stats@4", data, fields);
          if (step % 2 === 0) reference.run("refresh", {}, fields);
          reference.run("back", {}, fields);
          expect(await loss).toBeCloseTo((front.lossSum?.data[0] as number) / 4, 5);
          for (const [key, { data: want }] of Object.entries(reference.state)) expect(relative(await read(t, key), want), `step ${step}, ${key}`).toBeLessThan(CLOSE);
        }
        expect(Object.keys(reference.state).filter((k) => /^(grad|kfac|opt)\//.test(k)).length).toBeGreaterThan(6);
      });
    });
});

describe("the seam", () => {
  const sgd = build(mlp([4, 5, 3]), { optimizer: "sgd" });
  it("gradients and update are SGD's step", async () => {
    const steps = [1, 2, 3].map((seed) => batchOf(examples(sgd, 4, seed)));
    const run = { weightDecay: 0.1 };
    expectSame(await train(sgd, steps.map((s) => [s]), { run }), await train(sgd, steps, { run }));
  });

  it("gradients and update are the K-FAC step, with statistics and without", async () => {
    const c = build(mlp([4, 5, 3]), {});
    const steps = [1, 2, 3, 4].map((seed) => batchOf(examples(c, 4, seed)));
    const host = { factorPeriod: 2, inversePeriod: 3 };
    expectSame(await train(c, steps.map((s) => [s]), { host, seed: 5 }), await train(c, steps, { host, seed: 5 }));
  });

  for (const [kind, c] of [["exact", build(mlp([4, 5, 3], "relu"), { fisher: exact, batches: [4, 8] })], ["empirical", build(mlp([4, 5, 3], "relu"), { fisher: empirical, batches: [4, 8] })]] as const)
    for (const split of [[4, 4], [3, 1, 4], [1, 2, 2, 3]])
      it(`batches of ${split.join(" + ")} are one of 8 (${kind} Fisher)`, async () => {
        const whole = [31, 32].map((seed) => examples(c, 8, seed));
        const parts = whole.map((e) => split.map((n, k) => batchOf(pick(e, places(split.slice(0, k).reduce((a, b) => a + b, 0), n)))));
        expectSame(await train(c, parts), await train(c, whole.map((e) => batchOf(e))));
      });

  it("each accumulated batch draws Fisher targets of its own", async () => {
    const c = build(mlp([4, 5, 3]), {});
    const same = batchOf(examples(c, 4, 33));
    const [once, twice] = [await train(c, [same], { seed: 3 }), await train(c, [[same, same]], { seed: 3 })];
    const of = (t: Trained, part: string) => t.state[`kfac/fc1.weight/${part}`] ?? [];
    expect(relative(of(twice, "A"), of(once, "A"))).toBeLessThan(CLOSE);
    expect(relative(of(twice, "G"), of(once, "G"))).toBeGreaterThan(0.01);
  });

  it("steps of 8 and of 4 examples continue each other's state", async () => {
    const [both, eight, four] = [[4, 8], [8], [4]].map((batches) => build(mlp([4, 5, 3]), { optimizer: "sgd", batches })) as [Compiled, Compiled, Compiled];
    const run = { momentum: 0 };
    const [first, second] = [batchOf(examples(both, 8, 1)), batchOf(examples(both, 4, 2))];
    const together = await train(both, [first, second], { run });
    const half = await withTrainer(eight, { run }, async (t) => {
      t.step(first);
      return t.weights();
    });
    await withTrainer(four, { run }, async (t) => {
      t.setWeights(half);
      t.step(second);
      for (const [name, w] of Object.entries(await t.weights())) expect(relative(w.data, together.state[`param/${name}`] ?? []), name).toBeLessThan(CLOSE);
    });
  });
});

describe("examples count by their weight", () => {
  const kinds: Readonly<Record<string, readonly [Forward, Partial<CompileOptions>]>> = {
    "K-FAC, exact Fisher": [mlp([4, 5, 3]), { fisher: exact }],
    "K-FAC, empirical Fisher": [mlp([4, 5, 3]), { fisher: empirical }],
    "K-FAC, exact Fisher, convolutions": [convnet(3, "tanh"), { fisher: exact }],
    SGD: [mlp([4, 5, 3]), { optimizer: "sgd" }],
    Adam: [mlp([4, 5, 3]), { optimizer: "adam" }],
  };
  const run = { lr: 0.02 };
  for (const [name, [forward, more]] of Object.entries(kinds))
    it(`${name}: a short batch, weight 0 and weight 2 are the same examples compiled at their true size`, async () => {
      const padded = build(forward, { ...more, batches: [6] });
      const whole = [41, 42, 43].map((seed) => examples(padded, 3, seed));
      // three examples; the same among others of weight 0; and with the middle one twice
      const true3 = await train(build(forward, { ...more, batches: [3] }), whole.map((e) => batchOf(e)), { run });
      expectSame(await train(padded, whole.map((e) => batchOf(e)), { run }), true3);
      expectSame(await train(padded, whole.map((e) => batchOf(pick(e, [2, 0, 1, 1, 2, 0]), [0, 1, 1, 0, 1, 0])), { run }), true3);
      const true4 = await train(build(forward, { ...more, batches: [4] }), whole.map((e) => batchOf(pick(e, [0, 1, 1, 2]))), { run });
      expectSame(await train(padded, whole.map((e) => batchOf(e, [1, 2, 1])), { run }), true4);
    });
});

describe("running factors", () => {
  const c = build(mlp([4, 5, 3]), { fisher: exact });
  const decay = 0.7;
  /** A of one batch: the mean of x̄ x̄ᵀ, x̄ = [x; 1]. */
  const batchA = ({ x }: Examples): Float64Array => {
    const bar = (n: number, i: number): number => (i === 4 ? 1 : (x.data[n * 4 + i] as number));
    return Float64Array.from({ length: 25 }, (_, k) => places(0, 4).reduce((sum, n) => sum + bar(n, Math.floor(k / 5)) * bar(n, k % 5), 0) / 4);
  };
  for (const { emaDebias, burnIn, factorPeriod, taken } of [
    { emaDebias: true, burnIn: 0, factorPeriod: 1, taken: [0, 1, 2, 3, 4] },
    { emaDebias: true, burnIn: 3, factorPeriod: 1, taken: [0, 1, 2, 3, 4] },
    { emaDebias: true, burnIn: 2, factorPeriod: 4, taken: [0, 1, 4] },
    { emaDebias: false, burnIn: 0, factorPeriod: 1, taken: [0, 1, 2, 3, 4] },
    { emaDebias: false, burnIn: 2, factorPeriod: 3, taken: [0, 1, 3] },
  ])
    it(`debias ${emaDebias}, burn-in ${burnIn}, statistics every ${factorPeriod}: A after five steps is the average by hand`, async () => {
      const data = places(0, 5).map((k) => examples(c, 4, 50 + k));
      let weights: number[] = [];
      for (const step of taken) {
        const kept = emaDebias ? (step < burnIn ? 1 : decay) : decay;
        const fresh = emaDebias || weights.length === 0 ? 1 : 1 - decay;
        weights = [...weights.map((w) => w * kept), fresh];
      }
      const total = weights.reduce((a, b) => a + b, 0);
      const want = new Float64Array(25);
      taken.forEach((step, k) => { batchA(data[step] as Examples).forEach((a, i) => { want[i] = (want[i] as number) + (a * (weights[k] as number)) / total; }); });
      await withTrainer(c, { run: { emaDecay: decay }, host: { emaDebias, burnIn, factorPeriod } }, async (t) => {
        for (const e of data) t.step(batchOf(e));
        expect(relative((await t.fisher.factors())["fc0.weight"]?.A.data ?? [], want)).toBeLessThan(1e-6);
      });
    });
});

describe("the norm constraint", () => {
  const [rows, columns] = [[5, 3], [5, 6]] as const;
  for (const mode of ["l2", "decoupled"] as const)
    for (const [klClip, clips] of [[1e-3, true], [1e6, false], [0, false]] as const)
      it(`klClip ${klClip}, ${mode} decay: ν and the update are the formula's`, async () => {
        const c = build(mlp([4, 5, 3]), { fisher: exact, weightDecayMode: mode });
        const run = { klClip, lr: 0.5, momentum: 0, weightDecay: 0.2 };
        await withTrainer(c, { run }, async (t) => {
          const before = await t.weights();
          t.step(batchOf(examples(c, 4, 60)));
          const after = await t.weights();
          const inverses = await t.fisher.inverses();
          let total = 0;
          const directions = await Promise.all(["fc0", "fc1"].map(async (name, k) => {
            const [out, inputs] = [rows[k] as number, columns[k] as number];
            const of = (w: Readonly<Record<string, Tensor>>) => Float64Array.from({ length: out * inputs }, (_, at) => {
              const [o, i] = [Math.floor(at / inputs), at % inputs];
              return (i === inputs - 1 ? w[`${name}.bias`]?.data[o] : w[`${name}.weight`]?.data[o * (inputs - 1) + i]) as number;
            });
            const W = of(before);
            const M = (await read(t, `grad/${name}.weight`)).map((g, at) => g / 4 + (mode === "l2" ? run.weightDecay * (W[at] as number) : 0));
            const { Ainv, Ginv } = inverses[`${name}.weight`] as { Ainv: Tensor; Ginv: Tensor };
            const P = matmul(matmul(Ginv.data, M, out, out, inputs), Ainv.data, out, inputs, inputs);
            total += P.reduce((sum, p, at) => sum + p * (M[at] as number), 0);
            return { W, P, changed: of(after) };
          }));
          const nu = klClip === 0 ? 1 : Math.min(1, Math.sqrt(klClip / (run.lr ** 2 * Math.abs(total))));
          expect(nu < 1).toBe(clips);
          expect((await read(t, "stat/nu"))[0]).toBeCloseTo(nu, 5);
          for (const { W, P, changed } of directions) {
            const want = W.map((w, at) => w - run.lr * (nu * (P[at] as number) + (mode === "decoupled" ? run.weightDecay * w : 0)));
            expect(relative(changed, want)).toBeLessThan(CLOSE);
          }
        });
      });
});

describe("updates by hand", () => {
  const linear = mlp([3, 2]);
  /** Mean gradient of ½|Wx + b − t|² in W̄ = [W, b], row by row. */
  const gradient = (W: Float64Array, { x, target }: Examples): Float64Array => {
    const out = new Float64Array(8);
    for (let n = 0; n < 4; n++)
      for (let o = 0; o < 2; o++) {
        const bar = [...x.data.subarray(n * 3, n * 3 + 3), 1];
        const g = bar.reduce((sum, v, i) => sum + v * (W[o * 4 + i] as number), 0) - (target.data[n * 2 + o] as number);
        bar.forEach((v, i) => { out[o * 4 + i] = (out[o * 4 + i] as number) + (g * v) / 4; });
      }
    return out;
  };
  const joined = (w: Readonly<Record<string, Tensor>>): Float64Array =>
    Float64Array.from({ length: 8 }, (_, k) => (k % 4 === 3 ? w["fc0.bias"]?.data[Math.floor(k / 4)] : w["fc0.weight"]?.data[Math.floor(k / 4) * 3 + (k % 4)]) as number);

  for (const optimizer of ["sgd", "adam"] as const)
    for (const mode of ["l2", "decoupled"] as const)
      it(`${optimizer} with ${mode} decay: three steps`, async () => {
        const c = build(linear, { optimizer, loss: "half-sse", weightDecayMode: mode });
        const run = { lr: 0.1, momentum: 0.8, weightDecay: 0.3, beta1: 0.7, beta2: 0.95, epsilon: 1e-3 };
        await withTrainer(c, { run }, async (t) => {
          const W = joined(await t.weights());
          const [m, v] = [new Float64Array(8), new Float64Array(8)];
          for (let step = 1; step <= 3; step++) {
            const data = examples(c, 4, 70 + step);
            t.step(batchOf(data));
            gradient(W, data).forEach((raw, k) => {
              const w = W[k] as number;
              const g = mode === "l2" ? raw + run.weightDecay * w : raw;
              const adam = optimizer === "adam";
              m[k] = adam ? run.beta1 * (m[k] as number) + (1 - run.beta1) * g : run.momentum * (m[k] as number) + g;
              v[k] = run.beta2 * (v[k] as number) + (1 - run.beta2) * g * g;
              const direction = adam ? (m[k] as number) / (1 - run.beta1 ** step) / (Math.sqrt((v[k] as number) / (1 - run.beta2 ** step)) + run.epsilon) : (m[k] as number);
              W[k] = w - run.lr * (direction + (mode === "decoupled" ? run.weightDecay * w : 0));
            });
            expect(relative(joined(await t.weights()), W), `step ${step}`).toBeLessThan(CLOSE);
          }
        });
      });
});
