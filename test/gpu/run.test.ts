/** Runs on an adapter, seen from outside: what must not show in the numbers, and what must. (The trainer itself: test/train.) */
import { describe, expect, it } from "vitest";
import type { Batch } from "../../runtime/tensors.js";
import { Trainer, type TrainerOptions } from "../../runtime/trainer.js";
import { type Compiled, compile } from "../../src/compile.js";
import { testDevice } from "../support/gpu.js";
import { convnet, type Forward, labels, mlp, options, programs, random, relative, tensor } from "../support/models.js";

const device = testDevice();
const B = 6;
const make = (forward: Forward, more: Parameters<typeof options>[0] = {}): Compiled => compile(forward, options({ verify: false, loss: "softmax-ce", batches: [B], ...more }));

async function withTrainer<T>(c: Compiled, use: (t: Trainer) => Promise<T>, settings: TrainerOptions = {}): Promise<T> {
  const trainer = await Trainer.create(device().device, c.artifact, c.sources, Object.fromEntries(c.weights), settings);
  try {
    return await use(trainer);
  } finally {
    await trainer.dispose();
  }
}

/** A batch of class numbers or of numbers; `change` may spoil its inputs. */
function batch(c: Compiled, seed: number, change: (x: Float32Array) => void = () => {}): Batch {
  const next = random(seed);
  const x = tensor([B, ...(c.artifact.inputs[0]?.shape ?? [])], next);
  const data = Float32Array.from(x.data);
  change(data);
  const t = c.artifact.classes === null ? tensor([B, ...c.artifact.target.shape], next) : labels([B], c.artifact.classes, next);
  return { x: { shape: x.shape, data }, target: { shape: t.shape, data: t.dtype === "i32" ? Int32Array.from(t.data) : Float32Array.from(t.data) } };
}

const bits = async (t: Trainer): Promise<string> => JSON.stringify(Object.entries(await t.weights()).map(([name, w]) => [name, ...w.data]));

describe("a run's numbers", () => {
  const c = make(mlp([4, 8, 3]));

  it("do not depend on which losses are awaited, with steps and accumulated updates mixed", async () => {
    const run = (patient: boolean) => withTrainer(c, async (t) => {
      for (let k = 0; k < 7; k++) {
        const data = batch(c, 90 + k);
        if (k % 2) t.gradients(data);
        const { loss } = k % 2 ? t.update() : t.step(data);
        if (patient) await loss;
      }
      return bits(t);
    }, { seed: 5, host: { inversePeriod: 3, factorPeriod: 3 } });
    expect(await run(false)).toBe(await run(true));
  });

  it("do not depend on evaluations and predictions between the steps", async () => {
    const run = (look: boolean) => withTrainer(c, async (t) => {
      for (let k = 0; k < 4; k++) {
        t.step(batch(c, 110 + k));
        if (look) await Promise.all([t.evaluate([batch(c, 120)]), t.predict({ x: { shape: [2, 4], data: new Float32Array(8) } }), t.fisher.factors()]);
      }
      return bits(t);
    });
    expect(await run(true)).toBe(await run(false));
  });

  it("sample anew in every batch of an accumulated step: two equal batches are not one counted twice", async () => {
    const factors = (times: number) => withTrainer(c, async (t) => {
      for (let k = 0; k < times; k++) t.gradients(batch(c, 80));
      await t.update().loss;
      return (await t.fisher.factors())["fc1.weight"]?.G.data ?? [];
    }, { seed: 1 });
    expect(relative(await factors(2), await factors(1))).toBeGreaterThan(1e-3);
  });

  it("are of the weights that were set, and a tensor handed in may be changed afterwards", async () => {
    await withTrainer(c, async (t) => {
      const mine = Float32Array.of(0.5, -1, 2, 3, 4, 5, 6, 7);
      t.setWeights({ "fc0.bias": { shape: [8], data: mine } });
      mine.fill(9);
      expect([...((await t.weights())["fc0.bias"]?.data ?? [])]).toEqual([0.5, -1, 2, 3, 4, 5, 6, 7]);
      expect(() => t.setWeights({ nobody: { shape: [1], data: Float32Array.of(1) } })).toThrow(/no parameter "nobody"/);
      expect(() => t.setWeights({ "fc0.bias": { shape: [4], data: new Float32Array(4) } })).toThrow(/is \[8\], got 4/);
    });
  });
});

describe("NaN in one input reaches the loss", () => {
  const poison = (x: Float32Array): void => { x[7] = Number.NaN; };
  const CASES: readonly (readonly [string, () => Compiled])[] = [
    ["relu and softmax", () => make(mlp([4, 5, 3], "relu"))],
    ["tanh and a sum of squares", () => make(mlp([4, 5, 3], "tanh"), { loss: "half-sse" })],
    ["convolutions, relu, softmax", () => make(convnet())],
    ["tanh and sigmoid", () => make(mlp([4, 5, 3]), { loss: "bernoulli-ce" })],
  ];
  for (const [name, compiled] of CASES)
    it(`through ${name}: no kernel makes a number of it`, async () => {
      const c = compiled();
      await withTrainer(c, async (t) => {
        expect(await t.step(batch(c, 1)).loss).toBeGreaterThan(0);
        expect(await t.step(batch(c, 2, poison)).loss).toBeNaN();
        await expect(t.finish()).rejects.toMatchObject({ code: "diverged", where: "step 1" });
      });
    });
});

describe("every kind of program", () => {
  it("learns: the loss of one batch falls while it is trained on it", async () => {
    for (const [name, compiled] of Object.entries(programs())) {
      const c = compiled();
      const n = c.artifact.batches[0] as number;
      const { x, target } = batch(c, 7) as { x: { shape: number[]; data: Float32Array }; target: { shape: number[]; data: Float32Array | Int32Array } };
      const cut = <D extends Float32Array | Int32Array>(t: { shape: readonly number[]; data: D }) => ({ shape: [n, ...t.shape.slice(1)], data: t.data.slice(0, (t.data.length / B) * n) as D });
      const data: Batch = { x: cut(x), target: c.artifact.loss === "bernoulli-ce" ? { ...cut(target), data: cut(target).data.map(Math.abs) as Float32Array } : cut(target) };
      await withTrainer(c, async (t) => {
        const losses = await Promise.all(Array.from({ length: 12 }, () => t.step(data).loss));
        expect(losses[11], name).toBeLessThan(0.9 * (losses[0] as number));
      }, { run: { lr: c.artifact.optimizer === "adam" ? 0.03 : 0.1, momentum: 0.5, klClip: 0.05 } });
    }
  });
});
