/** The trainer as a machine: what it repeats to the bit, what it refuses, what it reacts to and when, and how it stops. */
import { describe, expect, it } from "vitest";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { size } from "../../ir/type.js";
import { openDevice } from "../../runtime/adapter.node.js";
import { RuntimeFault } from "../../runtime/artifact.js";
import { decode } from "../../runtime/safetensors.js";
import type { Batch, Tensor } from "../../runtime/tensors.js";
import type { TrainerEvent } from "../../runtime/reactions.js";
import { Trainer, type TrainerOptions } from "../../runtime/trainer.js";
import { compile, type Compiled, type CompileOptions } from "../../src/compile.js";
import { testDevice } from "../support/gpu.js";
import { type Forward, HostRun, labels, mlp, options, random, relative, tensor } from "../support/models.js";
import { toHost } from "../support/run-graph.js";

const device = testDevice();

const build = (forward: Forward, more: Partial<CompileOptions> = {}): Compiled => compile(forward, options({ loss: "softmax-ce", verify: false, ...more }));
const create = (c: Compiled, more: TrainerOptions = {}, on: GPUDevice = device().device): Promise<Trainer> =>
  Trainer.create(on, c.artifact, c.sources, Object.fromEntries(c.weights), more);

async function withTrainer<T>(c: Compiled, more: TrainerOptions, use: (t: Trainer) => Promise<T>): Promise<T> {
  const t = await create(c, more);
  try {
    return await use(t);
  } finally {
    await t.dispose();
  }
}

const B = 4;
const tensorOf = (a: NdArray): Tensor => ({ shape: a.shape, data: toHost(a) as Float32Array | Int32Array });
const plain = build(mlp([4, 5, 3]));
const sgd = build(mlp([4, 5, 3]), { optimizer: "sgd" });
/** Examples for `plain` and `sgd`. */
const batch = (seed: number, count = B): { readonly x: Tensor; readonly target: Tensor } => {
  const next = random(seed);
  return { x: tensorOf(tensor([count, 4], next)), target: tensorOf(labels([count], 3, next)) };
};

/** The fault that `what` throws or rejects with. */
async function faultOf(what: () => unknown): Promise<RuntimeFault> {
  try {
    await what();
  } catch (e) {
    if (e instanceof RuntimeFault) return e;
    throw e;
  }
  throw new Error("nothing was thrown");
}

/** The fault thrown before the call returns. */
function faultAtOnce(what: () => unknown): RuntimeFault {
  try {
    what();
  } catch (e) {
    if (e instanceof RuntimeFault) return e;
    throw e;
  }
  throw new Error("the call returned");
}

describe("the seed", () => {
  const run = (seed: number): Promise<Uint8Array> =>
    withTrainer(plain, { seed }, async (t) => {
      for (let k = 0; k < 4; k++) t.step(batch(k, k === 2 ? 3 : B));
      return t.save();
    });
  it("fixes a run with sampled targets to the bit, and another seed gives another run", async () => {
    const first = await run(7);
    expect(await run(7)).toEqual(first);
    const [mine, other] = [first, await run(8)].map((bytes) => decode(bytes).tensors["param/fc0.weight"]?.data);
    expect(other).not.toEqual(mine);
  });
});

/**
 * Both inputs are the same number, so A of fc0 has two equal rows and no inverse without damping. 16 spread examples keep the other
 * matrices regular: A of fc1 because tanh bends, G of fc1 is I (half-sse), G of fc0 has as many outputs behind it as units.
 */
const twins = build(mlp([2, 2, 3], "tanh", { seed: 4 }), { loss: "half-sse", fisher: { kind: "exact", samples: 1 }, batches: [16] });
const twin = (seed: number): Batch => {
  const next = random(seed);
  const x = Float32Array.from({ length: 32 }, (_, k) => (Math.floor(k / 2) - 7.5) / 4);
  return { x: { shape: [16, 2], data: x }, target: tensorOf(tensor([16, 3], next)) };
};
/** √λ below the rounding of A's entries: adding it changes nothing. Ten raises are far more than enough. */
const TOO_SMALL = 1e-20;

describe("a checkpoint", () => {
  /** Inverses fail from step 4 on until λ is large enough. Reactions are pending at every step but 5: finish() brings them forward. */
  const host = { inversePeriod: 4, readbackLag: 2 };
  const END = 28;
  const drive = (t: Trainer, from: number, to: number): void => {
    for (let k = from; k < to; k++) {
      if (k === 1) t.run.damping = 1e-17;
      t.step(twin(k));
      if (k === 4) void t.finish();
    }
  };

  it("continues to the bit, reactions that were pending included", async () => {
    for (const at of [2, 4, 5, 6, 9, 23]) {
      const events: TrainerEvent[][] = [[], []];
      const whole = await withTrainer(twins, { host, onEvent: (e) => events[0]?.push(e) }, async (t) => {
        drive(t, 0, END);
        return t.save();
      });
      const half = await withTrainer(twins, { host, onEvent: (e) => events[1]?.push(e) }, async (t) => {
        drive(t, 0, at);
        return t.save({ epoch: "3" });
      });
      const metadata = decode(half).metadata;
      expect(JSON.parse(metadata.pending as string)).toHaveLength(at === 5 ? 0 : at === 6 ? 1 : Math.min(at, 3));
      await withTrainer(twins, { host, seed: 99, onEvent: (e) => events[1]?.push(e) }, async (t) => {
        t.step(twin(77));
        expect((await t.restore(half)).epoch).toBe("3");
        expect(t.stepCount).toBe(at);
        drive(t, at, END);
        expect(await t.save(), `saved at step ${at}`).toEqual(whole);
      });
      expect(events[0]?.length).toBeGreaterThan(0);
      expect(events[1]).toEqual(events[0]);
    }
  });

  it("of another program is refused with the differences; its parameters alone may be taken", async () => {
    const adam = build(mlp([4, 5, 3]), { optimizer: "adam" });
    const bytes = await withTrainer(sgd, {}, async (t) => {
      t.step(batch(1));
      return t.save();
    });
    await withTrainer(adam, {}, async (t) => {
      const before = await t.weights();
      const fault = await faultOf(() => t.restore(bytes));
      expect(fault.code).toBe("bad-checkpoint");
      for (const part of ["optimizer: checkpoint sgd, program adam", "planHash", "opt/v/fc0.weight is missing"]) expect(fault.message).toContain(part);
      expect(await t.weights()).toEqual(before);
      await t.restore(bytes, { weightsOnly: true });
      expect((await t.weights())["fc1.weight"]?.data).toEqual(decode(bytes).tensors["param/fc1.weight"]?.data);
      expect(t.stepCount).toBe(0);
    });
    const wider = build(mlp([4, 6, 3]), { optimizer: "sgd" });
    const fault = await withTrainer(wider, {}, (t) => faultOf(() => t.restore(bytes, { weightsOnly: true })));
    expect(fault.message).toContain("param/fc0.weight: checkpoint F32[5,4], program F32[6,4]");
  });

  it("cut short anywhere is refused and changes nothing", async () => {
    await withTrainer(sgd, {}, async (t) => {
      const bytes = await t.save();
      t.step(batch(1));
      const before = await t.save();
      for (const length of [0, 7, 8, 100, bytes.length - 4, bytes.length - 1]) expect((await faultOf(() => t.restore(bytes.slice(0, length)))).code, `${length} bytes`).toBe("bad-checkpoint");
      expect(await t.save()).toEqual(before);
    });
  });
});

describe("a matrix that cannot be inverted", () => {
  const only = (events: readonly TrainerEvent[]): number[] => {
    for (const e of events) expect(e).toMatchObject({ kind: "damping-raised", layer: "fc0.weight" });
    return events.map((e) => e.factor);
  };
  const tenfold = (count: number): number[] => Array.from({ length: count }, (_, k) => 10 ** (k + 1));
  const finite = async (t: Trainer): Promise<void> => {
    for (const w of Object.values(await t.weights())) expect(w.data.every(Number.isFinite)).toBe(true);
  };

  it("at the start holds the first update back until enough damping is found, for that layer alone", async () => {
    const events: TrainerEvent[] = [];
    await withTrainer(twins, { run: { damping: TOO_SMALL }, onEvent: (e) => events.push(e) }, async (t) => {
      const before = await t.weights();
      await t.step(twin(0)).loss;
      const factors = only(events);
      expect(factors.length).toBeGreaterThan(2);
      expect(factors).toEqual(tenfold(factors.length));
      expect(events.every((e) => e.step === 0)).toBe(true);
      for (const { Ainv, Ginv } of Object.values(await t.fisher.inverses())) for (const m of [Ainv, Ginv]) expect(m.data.some((x) => x !== 0)).toBe(true);
      expect((await t.weights())["fc0.weight"]).not.toEqual(before["fc0.weight"]);
      for (let k = 1; k < 6; k++) t.step(twin(k));
      await t.finish();
      await finite(t);
      expect(events).toHaveLength(factors.length);
    });
  });

  it("later keeps the inverse in use and raises once for each failure that it has answered", async () => {
    for (const inversePeriod of [1, 4]) {
      const events: TrainerEvent[] = [];
      await withTrainer(twins, { host: { inversePeriod }, run: { damping: 0.03 }, onEvent: (e) => events.push(e) }, async (t) => {
        t.step(twin(0));
        const first = await t.fisher.inverses();
        for (let k = 1; k < 4; k++) t.step(twin(k));
        const third = await t.fisher.inverses();
        t.run.damping = TOO_SMALL;
        for (let k = 4; k < 7; k++) t.step(twin(k));
        expect((await t.fisher.inverses())["fc0.weight"]).toEqual((inversePeriod === 1 ? third : first)["fc0.weight"]);
        expect((await t.fisher.inverses())["fc1.weight"]).not.toEqual(third["fc1.weight"]);
        expect(events).toEqual([]);
        t.step(twin(7)); // reacts to step 4
        await t.weights();
        expect(events).toEqual([{ kind: "damping-raised", layer: "fc0.weight", factor: 10, step: 4 }]);
        // the answer is tried at once, and takes three steps to be seen to fail
        for (let k = 8; k < 44; k++) t.step(twin(k));
        await t.finish();
        await finite(t);
        const factors = only(events);
        expect(factors).toEqual(tenfold(factors.length));
        events.forEach((e, k) => expect(e.step, `period ${inversePeriod}, event ${k}`).toBe(4 + 3 * k));
        expect((await t.fisher.inverses())["fc0.weight"]).not.toEqual(third["fc0.weight"]);
      });
    }
  });

  it("with any damping stops the run and names the layer", async () => {
    await withTrainer(twins, { run: { damping: 1e-30 } }, async (t) => {
      const fault = await faultOf(() => t.step(twin(0)).loss);
      expect([fault.code, fault.where]).toEqual(["diverged", "step 0"]);
      expect(fault.message).toContain("fc0.weight");
    });
  });
});

describe("a loss that is not a number", () => {
  it("stops the run as many steps later as the lag says, names its step, and every later call rejects with it", async () => {
    for (const readbackLag of [0, 2])
      await withTrainer(plain, { host: { readbackLag } }, async (t) => {
        const bad = batch(1);
        const losses = Array.from({ length: 6 }, (_, k) => t.step(k === 1 ? { ...bad, x: { shape: bad.x.shape, data: Float32Array.from(bad.x.data).fill(Number.NaN, 3, 4) } } : batch(k)).loss);
        const outcomes = await Promise.allSettled(losses);
        expect(outcomes.map((o) => o.status)).toEqual(Array.from({ length: 6 }, (_, k) => (k < 2 + readbackLag ? "fulfilled" : "rejected")));
        const fault = await faultOf(() => t.finish());
        expect([fault.code, fault.where, fault.message]).toEqual(["diverged", "step 1", "the loss is NaN at step 1"]);
        for (const call of [() => t.step(batch(9)).loss, () => t.weights(), () => t.save(), () => t.evaluate([batch(1)]), () => t.predict({ x: batch(1).x })]) expect(await faultOf(call)).toBe(fault);
      });
  });

  it("is seen through the seam too", async () => {
    await withTrainer(sgd, {}, async (t) => {
      const bad = batch(1);
      t.gradients(batch(2));
      t.gradients({ ...bad, x: { shape: bad.x.shape, data: new Float32Array(B * 4).fill(Number.NaN) } });
      t.update();
      expect(await faultOf(() => t.finish())).toMatchObject({ code: "diverged", where: "step 0" });
    });
  });
});

describe("what a batch must be", () => {
  const good = batch(1);
  const x = (shape: readonly number[]): Tensor => ({ shape, data: new Float32Array(size(shape)) });
  const target = (...data: number[]): Tensor => ({ shape: [data.length], data: Int32Array.from(data) });
  const wrong: Readonly<Record<string, readonly [Batch, RegExp]>> = {
    "an input of another shape": [{ ...good, x: x([4, 5]) }, /"x" has shape \[4, 5\], the model takes \[4, 4\]/],
    "an input of another rank": [{ ...good, x: x([4, 2, 2]) }, /the model takes \[4, 4\]/],
    "fewer numbers than its shape": [{ ...good, x: { shape: [4, 4], data: new Float32Array(15) } }, /15 numbers/],
    "no input": [{ target: good.target }, /input "x" is missing/],
    "no target": [{ x: good.x }, /"target" is missing/],
    "fewer targets than examples": [{ ...good, target: target(0, 1, 2) }, /"target" has shape \[3\]/],
    "a label too large": [{ ...good, target: target(0, 1, 3, 2) }, /label 3 is outside 0 … 2/],
    "a label that is no whole number": [{ ...good, target: { shape: [4], data: Float32Array.of(0, 1, 1.5, 2) } }, /1.5/],
    "a label that is not a number": [{ ...good, target: { shape: [4], data: Float32Array.of(0, 1, Number.NaN, 2) } }, /NaN/],
    "no example": [{ x: x([0, 4]), target: target() }, /empty/],
    "more examples than compiled": [{ x: x([5, 4]), target: target(0, 0, 0, 0, 0) }, /larger than the compiled 4/],
    "a weight too few": [{ ...good, weight: Float32Array.of(1, 1, 1) }, /weight/],
    "a negative weight": [{ ...good, weight: Float32Array.of(1, 1, -1, 1) }, /weights must be finite and not negative/],
    "weights that are all 0": [{ ...good, weight: new Float32Array(4) }, /all weights/],
  };
  for (const [name, [bad, message]] of Object.entries(wrong))
    it(`${name} is refused before anything runs`, async () => {
      await withTrainer(sgd, {}, async (t) => {
        for (const call of [() => t.step(bad), () => t.gradients(bad)]) {
          const fault = faultAtOnce(call);
          expect(fault.code).toBe("bad-data");
          expect(fault.message).toMatch(message);
        }
        expect((await faultOf(() => t.evaluate([bad]))).code).toBe("bad-data");
        const before = await t.weights();
        expect(t.step(good).step).toBe(0);
        await t.finish();
        expect(await t.weights()).not.toEqual(before);
      });
    });

  it("step inside an accumulation and update outside one are refused, and harm neither", async () => {
    await withTrainer(sgd, {}, async (t) => {
      expect(faultAtOnce(() => t.update()).code).toBe("bad-option");
      t.gradients(good);
      expect(faultAtOnce(() => t.step(good)).code).toBe("bad-option");
      await t.update().loss;
      const alone = await withTrainer(sgd, {}, async (other) => {
        other.step(good);
        return other.weights();
      });
      for (const [name, w] of Object.entries(await t.weights())) expect(relative(w.data, alone[name]?.data ?? []), name).toBeLessThan(1e-6);
    });
  });

  it("the caller may change a batch as soon as the call returns", async () => {
    const steps = (spoil: boolean): Promise<Record<string, Tensor>> =>
      withTrainer(sgd, {}, async (t) => {
        for (let k = 0; k < 3; k++) {
          const b = { ...batch(k), weight: Float32Array.of(1, 2, 1, 1) };
          t.step(b);
          if (spoil) for (const a of [b.x.data, b.target.data, b.weight]) a.fill(0);
        }
        return t.weights();
      });
    expect(await steps(true)).toEqual(await steps(false));
  });
});

describe("evaluate and predict", () => {
  const counts = [1, B - 1, B, 2 * B + 3];
  const most = Math.max(...counts);
  const all = batch(5, most);
  const first = (t: Tensor, from: number, to: number): Tensor => {
    const per = size(t.shape.slice(1));
    return { shape: [to - from, ...t.shape.slice(1)], data: t.data.slice(from * per, to * per) };
  };
  const reference = new HostRun(build(mlp([4, 5, 3]), { optimizer: "sgd", batches: [most] }));
  const nd = (t: Tensor): NdArray => ndarray(t.data instanceof Float32Array ? "f32" : "i32", t.shape, Float64Array.from(t.data));
  const inputs = { x: nd(all.x), target: nd(all.target) };

  for (const n of counts)
    it(`of ${n} examples, in batches of ${B}, are those of the graph for ${most}`, async () => {
      await withTrainer(sgd, {}, async (t) => {
        const batches = Array.from({ length: Math.ceil(n / B) }, (_, k) => ({ x: first(all.x, k * B, Math.min(n, k * B + B)), target: first(all.target, k * B, Math.min(n, k * B + B)) }));
        const weight = ndarray("f32", [most], Array.from({ length: most }, (_, k) => Number(k < n)));
        const want = reference.run(`evaluate@${most}`, { ...inputs, weight });
        const got = await t.evaluate(batches);
        expect(got.count).toBe(n);
        expect(got.loss).toBeCloseTo((want.lossSum?.data[0] as number) / n, 6);
        expect(got.accuracy).toBe((want.correctSum?.data[0] as number) / n);
        const { y } = await t.predict({ x: first(all.x, 0, n) });
        expect(y?.shape).toEqual([n, 3]);
        expect(relative(y?.data ?? [], reference.run(`predict@${most}`, inputs)["out/y"]?.data.slice(0, n * 3) ?? [])).toBeLessThan(1e-6);
      });
    });

  it("of nothing are refused", async () => {
    await withTrainer(sgd, {}, async (t) => {
      expect((await faultOf(() => t.evaluate([]))).code).toBe("bad-data");
      expect((await faultOf(() => t.predict({ x: { shape: [0, 4], data: new Float32Array(0) } }))).code).toBe("bad-data");
    });
  });
});

describe("a device that goes away", () => {
  it("in the middle of a run is told as such by what is under way and by every later call, and dispose still ends", async () => {
    const opened = await openDevice();
    let closed = 0;
    const t = await create(plain, { onDispose: async () => { closed++; } }, opened.device);
    try {
      await t.step(batch(0)).loss;
      // gone between two steps: the first two are submitted and may or may not have copied their loss, the others never start
      const early = [t.step(batch(1)).loss, t.step(batch(2)).loss];
      const reading = t.task(() => {
        const data = t.program.read(["fc0.weight"]);
        opened.device.destroy();
        return data;
      });
      const late = [t.step(batch(3)).loss, t.step(batch(4)).loss];
      for (const loss of early) await loss.catch((e: unknown) => expect(e).toMatchObject({ name: "RuntimeFault", code: "device-lost" }));
      for (const loss of [reading, ...late]) expect((await faultOf(() => loss)).code).toBe("device-lost");
      for (const call of [() => t.step(batch(9)).loss, () => t.weights(), () => t.finish(), () => t.save()]) expect((await faultOf(call)).code).toBe("device-lost");
    } finally {
      await t.dispose();
      await opened.close();
    }
    expect(closed).toBe(1);
  });
});
