/** Estimates over data sets: what may not matter, what they leave alone, and what is refused. */
import { describe, expect, it } from "vitest";
import { Builder, broadcast, contract } from "../../ir/builder.js";
import type { Value } from "../../ir/graph.js";
import { f32 } from "../../ir/type.js";
import type { Estimate } from "../../runtime/fisher-estimate.js";
import type { VectorResult } from "../../runtime/kronecker.js";
import type { Tensor } from "../../runtime/tensors.js";
import type { Trainer, TrainerOptions } from "../../runtime/trainer.js";
import { compile, type CompileOptions, type ForwardModel } from "../../src/compile.js";
import { testDevice } from "../support/gpu.js";
import { custom, dense, type Forward, labels, mlp, options, random, relative, tensor } from "../support/models.js";
import { apply, type Case, denseFisher, join, split } from "./dense-fisher.js";
import { batchesOf, caseOf, cut, F32, numbers, ONCE, tied, withTrainer as trainOn } from "./fisher-lab.js";

const device = testDevice();
const withTrainer = <T>(forward: Forward, more: Partial<CompileOptions>, use: (t: Trainer) => Promise<T>, start: TrainerOptions = {}): Promise<T> => trainOn(device().device, forward, more, use, start);

const arrays = (e: Estimate): number[] => Object.values(e.factors()).flatMap((f) => [...(f.A?.data ?? []), ...(f.G?.data ?? []), ...(f.F?.data ?? [])]);

describe("an estimate over a data set", () => {
  const c = caseOf(ONCE["a grouped convolution with one position"] as Forward, 70, 15);

  it("is the same however the examples are cut into batches, and its gradient is the mean", async () => {
    await withTrainer(c.forward, { loss: "softmax-ce", batches: [4, 1] }, async (t) => {
      const seen: number[] = [];
      // 70 batches of one example: more than are summed on the device at once
      const single = await t.fisher.estimate(batchesOf(c, 1), { onBatch: ({ examples }) => seen.push(examples) });
      expect(seen).toEqual(Array.from({ length: 70 }, (_, k) => k + 1));
      const whole = await t.fisher.estimate([cut(c, 0, 70)]);
      expect(relative(arrays(single), arrays(whole))).toBeLessThan(F32);
      expect(whole.info).toMatchObject({ examples: 70, count: 70, source: "data", fisher: { kind: "exact", samples: 1 } });
      // halves of the data: the whole is their mean, by counts
      const [a, b] = [await t.fisher.estimate([cut(c, 0, 20)]), await t.fisher.estimate([cut(c, 20, 50)])];
      const mean = (x: ArrayLike<number>, y: ArrayLike<number>): number[] => Array.from(x, (p, k) => (20 * p + 50 * (y[k] as number)) / 70);
      expect(relative(arrays(whole), mean(arrays(a), arrays(b)))).toBeLessThan(F32);
      const g = (e: Estimate): number[] => join(c.forward, e.gradient as VectorResult);
      expect(relative(g(whole), mean(g(a), g(b)))).toBeLessThan(F32);
      // a step of plain descent along that gradient lowers the loss as it says
      const before = await t.evaluate([...batchesOf(c, 4)]);
      const weights = await t.weights();
      const h = 1e-2 / Math.hypot(...g(whole));
      t.setWeights(Object.fromEntries(Object.entries(whole.gradient as VectorResult).map(([name, d]) => [name, { shape: d.shape, data: (weights[name] as Tensor).data.map((w, k) => w - h * (d.data[k] as number)) }])));
      const after = await t.evaluate([...batchesOf(c, 4)]);
      expect((before.loss - after.loss) / (h * g(whole).reduce((s, y) => s + y * y, 0))).toBeCloseTo(1, 1);
    });
  });

  it("weights are how often an example counts", async () => {
    const three = caseOf(c.forward, 3, 16);
    await withTrainer(c.forward, { loss: "softmax-ce" }, async (t) => {
      const weighed = await t.fisher.estimate([cut({ ...three, weight: [2, 0, 1] }, 0, 3)]);
      const repeated = await t.fisher.estimate([cut(three, 0, 1), cut(three, 0, 1), cut(three, 2, 1)]);
      expect(relative(arrays(weighed), arrays(repeated))).toBeLessThan(F32);
      expect([weighed.count, weighed.info.examples]).toEqual([3, 3]);
    });
  });

  it("with sampled targets: the same for the same seed, other draws for each batch and each seed, and their mean is the exact one", async () => {
    const five = caseOf(c.forward, 4, 17);
    const G = (e: Estimate): number[] => e.layers.flatMap((l) => [...(e.factors()[l.name]?.G?.data ?? [])]);
    const exact = await withTrainer(c.forward, { loss: "softmax-ce" }, async (t) => G(await t.fisher.estimate([cut(five, 0, 4)])));
    await withTrainer(c.forward, { loss: "softmax-ce", fisher: { kind: "mc", samples: 1 } }, async (t) => {
      const many = Array.from({ length: 400 }, () => cut(five, 0, 4));
      const [once, again, other, twice, mean] = [await t.fisher.estimate([cut(five, 0, 4)]), await t.fisher.estimate([cut(five, 0, 4)]), await t.fisher.estimate([cut(five, 0, 4)], { seed: 8 }),
        await t.fisher.estimate([cut(five, 0, 4), cut(five, 0, 4)]), await t.fisher.estimate(many)];
      expect(G(again)).toEqual(G(once));
      expect(relative(G(other), G(once))).toBeGreaterThan(1e-2);
      expect(relative(G(twice), G(once))).toBeGreaterThan(1e-2);
      // 1600 draws: an entry's deviation is about 1/40 of its size
      expect(relative(G(mean), exact)).toBeLessThan(0.15);
    }, { seed: 7 });
  });

  it("leaves a training run to the bit as it was", async () => {
    const small = caseOf(c.forward, 12, 18);
    const run = (estimate: boolean, more: Partial<CompileOptions>) => withTrainer(c.forward, { loss: "softmax-ce", fisher: { kind: "mc", samples: 1 }, ...more }, async (t) => {
      for (let k = 0; k < 6; k++) {
        if (k === 4) {
          t.gradients(cut(small, 0, 4));
          t.gradients(cut(small, 4, 3));
          t.update();
        } else t.step(cut(small, (k % 3) * 4, 4));
        if (estimate && k % 2 === 0) {
          await t.fisher.estimate(batchesOf(small, 3));
          await t.fisher.multiply(split(c.forward, numbers(91, 19)), cut(small, 0, 4));
        }
      }
      await t.finish();
      return t.save();
    }, { seed: 5 });
    for (const inverse of ["pi", "ekfac"] as const) expect(await run(true, { inverse })).toEqual(await run(false, { inverse }));
  });
});

/** x → dense, minus a mean over the batch, whose running value is a parameter that training moves. */
const centred = (n: number): ForwardModel => {
  const b = new Builder("centred");
  b.origin = "the centring";
  const h = contract(b.emit, "ni,oi->no", b.input("x", f32(n, 3), 0), b.param("w", f32(2, 3)));
  const running = b.param("running", f32(2), { kind: "file" }, false);
  const mean = b.emit("mul", [b.emit("reduce_sum", [h], { axes: [0] }), broadcast(b.emit, b.scalar(1 / n), [2], [])]);
  const value = b.emit("sub", [h, broadcast(b.emit, mean, h.type.shape, [1])]);
  const next = b.emit("add", [running, mean]);
  return {
    name: "centred", graph: b.finish([{ name: "z", value }]), outputs: [{ name: "z", value }], updates: [{ param: "running", value: next }],
    weights: new Map([["w", { shape: [2, 3], data: Float32Array.of(1, -2, 3, 0.5, 1, -1) }], ["running", { shape: [2], data: Float32Array.of(0.25, 1) }]]),
  };
};

describe("a model that mixes the examples of a batch", () => {
  const c: Case = { forward: centred, loss: "softmax-ce", inputs: { x: tensor([8, 3], random(20)) }, target: labels([8], 2, random(21)) };
  it("has estimates of whole batches, which leave its running statistics alone", async () => {
    await withTrainer(centred, { loss: "softmax-ce", fisher: { kind: "mc", samples: 1 } }, async (t) => {
      const before = await t.weights();
      await t.fisher.estimate(batchesOf(c, 4));
      await expect(t.fisher.estimate(batchesOf(c, 3))).rejects.toThrow(/mixes the examples of a batch in the centring/);
      // the second batch fails after the first has moved them
      await expect(t.fisher.estimate([cut(c, 0, 4), cut(c, 0, 3)])).rejects.toThrow(/mixes/);
      expect(await t.weights()).toEqual(before);
      t.step(cut(c, 0, 4));
      expect(await t.weights()).not.toEqual(before);
      const v = { w: { shape: [2, 3], data: Float64Array.of(1, 2, 3, 4, 5, 6) } };
      await expect(t.fisher.multiply(v, cut(c, 0, 8))).rejects.toThrow(/larger than the compiled 4/);
      expect((await t.fisher.multiply(v, batchesOf(c, 4))).w?.data.length).toBe(6);
    });
    expect(() => compile(centred, options({ loss: "softmax-ce", fisherDiagonal: true }))).toThrow(/diagonal is a sum over examples/);
  });
});

/** x → tanh → kind [n, 3] and box [n, 2]. */
const two: Forward = (n) => {
  const made = custom("two", 26, (b) => {
    const h = b.emit("tanh", [dense(b, b.input("x", f32(n, 4), 0), "body", 3)]);
    return b.emit("concat", [dense(b, h, "kind", 3), dense(b, h, "box", 2)], { axis: 1 });
  })(n);
  const [kind, box] = (made.graph.nodes.at(-1)?.inputs ?? []) as [Value, Value];
  return { ...made, outputs: [{ name: "kind", value: kind }, { name: "box", value: box }] };
};

describe("several losses", () => {
  it("have the weighted sum of their Fishers, and targets by output", async () => {
    const next = random(27);
    const N = 6;
    const c = caseOf(mlp([4, 3]), N, 28);
    const kind = c.target;
    const box = tensor([N, 2], next);
    const x = numbers(35, 29);
    const v = split(two, x);
    const only = (index: number): Forward => (n) => { const m = two(n); return { ...m, outputs: [m.outputs[index] as ForwardModel["outputs"][number]] }; };
    const parts = [denseFisher({ forward: only(0), loss: "softmax-ce", inputs: c.inputs, target: kind }, "exact"), denseFisher({ forward: only(1), loss: "half-sse", inputs: c.inputs, target: box }, "exact")].map((F) => apply(F, x)) as [number[], number[]];
    const wanted = parts[0].map((y, k) => 0.3 * y + 2 * (parts[1][k] as number));
    const batch = { x: cut(c, 0, N).x as Tensor, target: { kind: cut(c, 0, N).target as Tensor, box: { shape: box.shape, data: Float32Array.from(box.data) } } };
    await withTrainer(two, { losses: [{ output: "kind", kind: "softmax-ce", weight: 0.3 }, { output: "box", kind: "half-sse", weight: 2 }] }, async (t) => {
      expect(relative(join(two, await t.fisher.multiply(v, batch)), wanted)).toBeLessThan(F32);
      expect(relative(join(two, await t.fisher.multiply(v, { x: batch.x })), wanted)).toBeLessThan(F32);
      const e = await t.fisher.estimate([batch]);
      expect(e.info.losses).toEqual([{ output: "kind", loss: "softmax-ce", weight: 0.3 }, { output: "box", loss: "half-sse", weight: 2 }]);
      // behind the linear last layer of a half-sse, g gᵀ is I
      expect(relative(e.factors()["box.weight"]?.G?.data ?? [], [2, 0, 0, 2])).toBeLessThan(F32);
    });
  });
});

describe("running averages", () => {
  const c = caseOf(mlp([4, 5, 3]), 4, 22);
  it("are those of the state, and there are none before the first step", async () => {
    await withTrainer(c.forward, { loss: "softmax-ce" }, async (t) => {
      await expect(t.fisher.current()).rejects.toThrow(/no running averages before the first step/);
      t.step(cut(c, 0, 4));
      const [e, state] = [await t.fisher.current(), await t.fisher.factors()];
      expect([e.info.source, e.count, e.gradient]).toEqual(["running", null, undefined]);
      for (const [name, { A, G }] of Object.entries(state)) {
        expect([...(e.factors()[name]?.A?.data ?? [])]).toEqual([...A.data]);
        expect(e.factors()[name]?.G?.shape).toEqual(G.shape);
      }
      // the first statistics are the average: those of this batch, before the step
      expect((await e.multiplyInverse(split(c.forward, numbers(43, 23)), { damping: 1, form: "pi" }))["fc0.bias"]?.data.length).toBe(5);
    });
  });
});

describe("what cannot be done is refused by name", () => {
  const c = caseOf(tied, 4, 24);
  const v = split(tied, numbers(9, 25));
  it("vectors", async () => {
    await withTrainer(tied, { loss: "softmax-ce" }, async (t) => {
      const e = await t.fisher.estimate([cut(c, 0, 4)]);
      expect(e.uncovered).toEqual(["position"]);
      const { position, ...rest } = v;
      for (const refused of [() => t.fisher.multiply(rest, cut(c, 0, 4)), async () => e.multiply({ position: position as VectorResult[string] }, { plain: "identity" })]) await expect(refused()).rejects.toThrow(/lacks the parameter "(position|w)"/);
      const whole = await t.fisher.multiply(rest, cut(c, 0, 4), { missing: "zero" });
      expect(whole).toEqual(await t.fisher.multiply({ ...rest, position: { shape: [3], data: new Float64Array(3) } }, cut(c, 0, 4)));
      expect(() => e.multiply(v)).toThrow(/"position" belongs to no layer/);
      expect(e.multiply(v, { plain: "identity" }).position?.data).toEqual(position?.data);
      expect(Object.keys(e.multiply({}, { missing: "zero" }))).toEqual(["w"]);
      expect(Object.keys(e.multiply(rest))).toEqual(["w"]);
      await expect(t.fisher.multiply({ ...v, other: v.w as VectorResult[string] }, cut(c, 0, 4))).rejects.toThrow(/no trainable parameter "other"/);
      await expect(t.fisher.multiply({ ...v, w: { shape: [3, 2], data: new Float64Array(6) } }, cut(c, 0, 4))).rejects.toThrow(/"w" is \[2, 3\], the vector has 6 numbers of shape \[3, 2\]/);
      await expect(e.multiplyInverse({ ...v, w: { shape: [2, 3], data: new Float64Array(5) } }, { damping: 1, plain: "identity" })).rejects.toThrow(/has 5 numbers/);
    });
  });
  it("data, and moments at which there is nothing to estimate", async () => {
    await withTrainer(tied, { loss: "softmax-ce" }, async (t) => {
      await expect(t.fisher.estimate([])).rejects.toThrow(/the data set is empty/);
      await expect(t.fisher.multiply(v, [])).rejects.toThrow(/no example/);
      await expect(t.fisher.multiply(v, cut(c, 0, 4), { kind: "mc" as "exact" })).rejects.toThrow(/kind must be exact or empirical/);
      await expect(t.fisher.estimate([{ ...cut(c, 0, 4), x: { shape: [4, 2], data: new Float32Array(8) } }])).rejects.toThrow(/"x" has shape \[4, 2\]/);
      t.gradients(cut(c, 0, 4));
      await expect(t.fisher.estimate([cut(c, 0, 4)])).rejects.toThrow(/estimate\(\) between gradients\(\) and update\(\)/);
      t.update();
      expect((await t.fisher.estimate([cut(c, 0, 4)])).count).toBe(4);
      const { w } = await t.weights();
      t.setWeights({ w: { shape: [2, 3], data: new Float32Array(6).fill(Number.NaN) } });
      await expect(t.fisher.estimate([cut(c, 0, 4)])).rejects.toThrow(/"kfac\/w\/[AG]" holds NaN/);
      // and the trainer goes on
      t.setWeights({ w: w as Tensor });
      expect((await t.fisher.estimate([cut(c, 0, 4)])).count).toBe(4);
    });
    await withTrainer(tied, { loss: "softmax-ce", optimizer: "adam" }, async (t) => {
      await expect(t.fisher.estimate([cut(c, 0, 4)])).rejects.toThrow(/a program for adam has no factors/);
      expect(relative(join(tied, await t.fisher.multiply(v, cut(c, 0, 4))), apply(denseFisher(c, "exact"), join(tied, v)))).toBeLessThan(F32);
    });
  });
});
