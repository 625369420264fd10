/** Inverses whose work is spread over steps: the same inverses, a part at a time. */
import { describe, expect, it } from "vitest";
import { testDevice } from "../support/gpu.js";
import type { Batch, Tensor } from "../../runtime/tensors.js";
import type { TrainerEvent } from "../../runtime/reactions.js";
import { Trainer, type TrainerOptions } from "../../runtime/trainer.js";
import { compile, type Compiled, type CompileOptions } from "../../src/compile.js";
import { labels, mlp, options, random, tensor } from "../support/models.js";
import type { NdArray } from "../../ir/ndarray.js";
import { toHost } from "../support/run-graph.js";

const device = testDevice();
const PERIOD = 6;
const B = 8;
// A of 101 and 71 rows, G of 70: blocked inverses, several dispatches each; and a small one
const build = (more: Partial<CompileOptions> = {}): Compiled =>
  compile(mlp([100, 70, 5]), options({ loss: "softmax-ce", verify: false, batches: [B], fisher: { kind: "exact", samples: 1 }, host: { spreadInverses: true, inversePeriod: PERIOD }, ...more }));
const spread = build();

const tensorOf = (a: NdArray): Tensor => ({ shape: a.shape, data: toHost(a) as Float32Array | Int32Array });
const batch = (seed: number): Batch => {
  const next = random(seed);
  return { x: tensorOf(tensor([B, 100], next)), target: tensorOf(labels([B], 5, next)) };
};

async function withTrainer<T>(use: (t: Trainer) => Promise<T>, more: TrainerOptions = {}, c = spread): Promise<T> {
  const t = await Trainer.create(device().device, c.artifact, c.sources, Object.fromEntries(c.weights), more);
  try {
    return await use(t);
  } finally {
    await t.dispose();
  }
}

const inversesOf = async (t: Trainer): Promise<Record<string, unknown>> => {
  const names = t.layers.flatMap((l) => [`kfac/${l.name}/Ainv`, `kfac/${l.name}/Ginv`]);
  const arrays = await t.task(() => t.program.read(names));
  return Object.fromEntries(names.map((n, k) => [n, arrays[k]]));
};

describe("inverses spread over steps", () => {
  it("are after a whole cycle, with factors that stay, those that one refresh makes, to the bit", async () => {
    const inversesAfterCycle = (spreadInverses: boolean) => withTrainer(async (t) => {
      t.run.lr = 0;
      t.step(batch(1));
      await t.finish();
      const before = await inversesOf(t);
      t.run.damping = 0.5;
      for (let k = 1; k <= PERIOD; k++) t.step(batch(1));
      await t.finish();
      expect(t.state.invertedAt.every((s) => s > 0 && s <= PERIOD), `${t.state.invertedAt}`).toBe(true);
      const made = await inversesOf(t);
      expect(made).not.toEqual(before);
      return made;
    }, { host: { spreadInverses } });
    expect(await inversesAfterCycle(true)).toEqual(await inversesAfterCycle(false));
  });

  it("do some of the work at every step, and never all of it after the first", async () => {
    await withTrainer(async (t) => {
      const seen: string[][] = [];
      const submit = t.program.submit.bind(t.program);
      t.program.submit = (entries, ...more) => {
        seen.push(entries.map((e) => (typeof e === "string" ? e : `${e.entry}[${e.from}:${e.to}]`)));
        submit(entries, ...more);
      };
      for (let k = 0; k <= 2 * PERIOD; k++) t.step(batch(k));
      await t.finish();
      const steps = seen.slice(2); // the first: front, refresh, back
      const parts = steps.map((entries) => entries.filter((e) => e.startsWith("refresh/")));
      expect(seen.slice(0, 3).flat().filter((e) => e === "refresh")).toEqual(["refresh"]);
      expect(steps.flat()).not.toContain("refresh");
      const working = parts.filter((p) => p.length > 0);
      expect(working.length).toBe(2 * PERIOD);
      expect(working.slice(PERIOD), "every cycle is cut alike").toEqual(working.slice(0, PERIOD));
    });
  });

  it("go on where a checkpoint was written, in the middle of a layer's inverse", async () => {
    const steps = 2 * PERIOD + 3;
    for (const at of [PERIOD + 2, PERIOD + 4]) {
      const whole = await withTrainer(async (t) => {
        for (let k = 0; k < steps; k++) t.step(batch(k));
        await t.finish();
        return [await t.weights(), await inversesOf(t)];
      });
      const bytes = await withTrainer(async (t) => {
        for (let k = 0; k < at; k++) t.step(batch(k));
        const saved = await t.save();
        expect(t.state.refreshAt, "under way").toBeGreaterThan(0);
        return saved;
      });
      const resumed = await withTrainer(async (t) => {
        // what another run left in the scratch must not matter
        for (let k = 0; k < 4; k++) t.step(batch(100 + k));
        await t.restore(bytes);
        for (let k = at; k < steps; k++) t.step(batch(k));
        await t.finish();
        return [await t.weights(), await inversesOf(t)];
      });
      expect(resumed, `saved after ${at} steps`).toEqual(whole);
    }
  });

  it("are all made anew when a pivot fails, with more damping, and then spread again", async () => {
    const events: TrainerEvent[] = [];
    await withTrainer(async (t) => {
      t.step(batch(0));
      // eight examples in 100 dimensions: nothing but λ makes A invertible
      t.run.damping = 1e-18;
      for (let k = 1; k <= PERIOD; k++) t.step(batch(k));
      await t.finish();
      expect(events.length).toBeGreaterThan(0);
      t.run.damping = 0.03;
      for (let k = 0; k < 2 * PERIOD; k++) t.step(batch(k));
      await t.finish();
      expect(Math.min(...t.state.invertedAt)).toBeGreaterThan(PERIOD);
    }, { onEvent: (e) => events.push(e) });
  });

  it("need a program compiled for it, and inverses that the device makes", async () => {
    const plain = build({ host: { inversePeriod: PERIOD } });
    expect(Object.keys(plain.artifact.plan.entries).filter((e) => e.startsWith("refresh/"))).toEqual([]);
    await withTrainer(async (t) => {
      const { loss } = t.step(batch(0));
      await expect(loss).rejects.toThrow(/cannot spread its inverses/);
    }, { host: { spreadInverses: true } }, plain);
    expect(() => build({ inverse: "eig" })).toThrow(/eigenbases are made on the host/);
  });

  it("keep what is under way in memory that no other entry touches", () => {
    const { plan } = spread.artifact;
    const own = new Set(plan.buffers.flatMap((b, k) => (b.name.startsWith("kfac/refresh/") ? [k] : [])));
    expect(own.size).toBeGreaterThan(0);
    for (const [name, { steps }] of Object.entries(plan.entries))
      for (const step of steps)
        for (const id of "from" in step ? [step.from, step.to] : step.buffers)
          if (plan.buffers[id]?.kind === "slot") expect(own.has(id), `${name}: ${plan.buffers[id]?.name}`).toBe(name.startsWith("refresh/"));
  });
});
