/** The training loop as a function: what it hands to its hooks, and what survives a device that goes away. */
import { describe, expect, it } from "vitest";
import { openDevice } from "../../runtime/adapter.node.js";
import { decode } from "../../runtime/safetensors.js";
import { Trainer } from "../../runtime/trainer.js";
import { COMPILE_DEFAULTS, type Compiled, compile } from "../../src/compile.js";
import { openModel } from "../../src/model.js";
import { evaluatePart, type Part, runTraining, type TrainingOptions } from "../../src/session.js";
import { CONSTANT, rateAt } from "../../src/train/schedule.js";
import { withDevice } from "../support/gpu.js";
import { model } from "./support.js";

const COUNT = 44;
const part: Part = {
  examples: {
    count: COUNT,
    inputs: { input: { shape: [64], data: Float32Array.from({ length: COUNT * 64 }, (_, k) => Math.sin(k * 0.7)) } },
    target: { shape: [], data: Int32Array.from({ length: COUNT }, (_, n) => n % 10) },
  },
};
const OPTIONS: TrainingOptions = { batch: 8, epochs: 3, seed: 5 }; // 6 steps an epoch, the last of 4 examples

const compiled = async (): Promise<Compiled> => compile((await openModel(model("mlp_tanh_ce"))).forward, { ...COMPILE_DEFAULTS, loss: "softmax-ce", batches: [8] });

const trainerOn = (device: GPUDevice, c: Compiled): Promise<Trainer> =>
  Trainer.create(device, c.artifact, c.sources, Object.fromEntries(c.weights), { seed: 5, host: { inversePeriod: 4 } });

/** Labelled with what the untrained model says: what is learnt makes them less likely, so an early validation is the best. */
async function contraryTo(trainer: Trainer): Promise<Part> {
  const { input } = part.examples.inputs;
  const { output } = await trainer.predict({ input: { shape: [COUNT, 64], data: (input as { data: Float32Array }).data } });
  const labels = Array.from({ length: COUNT }, (_, n) => {
    const row = [...(output as { data: Float32Array }).data.subarray(10 * n, 10 * n + 10)];
    return row.indexOf(Math.max(...row));
  });
  return { examples: { ...part.examples, target: { shape: [], data: Int32Array.from(labels) } } };
}

const bits = async (trainer: Trainer): Promise<string> =>
  Object.entries(await trainer.weights()).map(([name, t]) => `${name} ${Buffer.from(t.data.buffer, t.data.byteOffset, t.data.byteLength).toString("base64")}`).join("\n");

describe("runTraining", () => {
  it("resumed from any of its checkpoints ends in the same bits, the best weights included", async () => {
    const c = await compiled();
    await withDevice(async ({ device }) => {
      const kept = new Map<number, Uint8Array>();
      const whole = await trainerOn(device, c);
      const contrary = await contraryTo(whole);
      const run = { train: part, validation: contrary, options: { ...OPTIONS, checkpointEvery: 5, schedule: { ...CONSTANT, kind: "cosine" as const, end: 0.1 } } };
      const result = await runTraining({ ...run, trainer: whole, hooks: { onCheckpoint: (bytes, step) => { kept.set(step, bytes); } } });
      expect([...kept.keys()]).toEqual([0, 5, 10, 15, 18]);
      expect(result.bestStep).toBeLessThan(10); // resuming from 10 has to remember it
      for (const step of [5, 10, 18]) {
        const again = await trainerOn(device, c);
        const losses: number[] = [];
        const resumed = await runTraining({ ...run, trainer: again, resume: kept.get(step) as Uint8Array, hooks: { onStep: (r) => losses.push(r.step) } });
        expect(losses, `steps after ${step}`).toEqual(Array.from({ length: 18 - step }, (_, k) => step + 1 + k));
        expect(resumed.validation, `from step ${step}`).toEqual(result.validation);
        expect(await bits(again), `from step ${step}`).toBe(await bits(whole));
        await again.dispose();
      }
      await whole.dispose();
    });
  });

  it("resumed takes the knobs it is given now, not those of the checkpoint", async () => {
    const c = await compiled();
    await withDevice(async ({ device }) => {
      const [first, second] = [await trainerOn(device, c), await trainerOn(device, c)];
      let bytes: Uint8Array | undefined;
      await runTraining({ trainer: first, train: part, options: { ...OPTIONS, steps: 2 }, hooks: { onCheckpoint: (b) => { bytes = b; } } });
      second.run.momentum = 0.5;
      await runTraining({ trainer: second, train: part, options: { ...OPTIONS, steps: 4 }, resume: bytes as Uint8Array });
      expect(second.run.momentum).toBe(0.5);
      expect(second.stepCount).toBe(4);
      await first.dispose();
      await second.dispose();
    });
  });

  it("visits every example once an epoch and ends with the weights that did best", async () => {
    const c = await compiled();
    await withDevice(async ({ device }) => {
      const trainer = await trainerOn(device, c);
      const contrary = await contraryTo(trainer);
      const seen: number[] = [];
      const evals: { step: number; loss: number }[] = [];
      const result = await runTraining({
        trainer, train: part, validation: contrary, options: { ...OPTIONS, epochs: 5 }, hooks: { onStep: (r) => seen.push(r.examples), onEvaluate: (r) => evals.push(r) },
      });
      expect(seen.slice(0, 7)).toEqual([8, 16, 24, 32, 40, 44, 52]);
      expect(result.examples).toBe(5 * COUNT);
      expect(evals.map((e) => e.step)).toEqual([6, 12, 18, 24, 30]);
      expect(result.bestStep).toBeLessThan(30);
      expect(await evaluatePart(trainer, contrary)).toEqual(result.validation);
      expect(result.validation?.loss).toBe(evals.find((e) => e.step === result.bestStep)?.loss);
      await trainer.dispose();
    });
  });

  it("ends in device-lost when the device goes, having handed out a state to go on from", async () => {
    const c = await compiled();
    const open = await openDevice();
    const trainer = await trainerOn(open.device, c);
    let last: { step: number; bytes: Uint8Array } | undefined;
    const running = runTraining({
      trainer, train: part, options: { ...OPTIONS, checkpointEvery: 4 },
      hooks: { onStep: (r) => { if (r.step === 7) open.device.destroy(); }, onCheckpoint: (bytes, step) => { last = { step, bytes }; } },
    });
    await expect(running).rejects.toMatchObject({ code: "device-lost" });
    expect(last?.step).toBe(4);
    expect(decode(last?.bytes as Uint8Array).metadata.step).toBe("4");
    await trainer.dispose().catch(() => {});
    await open.close();
  });

  it("stops between two steps when told to, with a checkpoint of that step", async () => {
    const c = await compiled();
    await withDevice(async ({ device }) => {
      const trainer = await trainerOn(device, c);
      const stop = new AbortController();
      let saved = -1;
      const running = runTraining({ trainer, train: part, options: OPTIONS, signal: stop.signal, hooks: { onStep: (r) => { if (r.step === 2) stop.abort(); }, onCheckpoint: (_, step) => { saved = step; } } });
      await expect(running).rejects.toMatchObject({ code: "interrupted" });
      expect(saved).toBe(trainer.stepCount);
      await trainer.dispose();
    });
  });
});

describe("learning rates", () => {
  it("warm up from above 0, start at 1, and end at the fraction asked for", () => {
    const s = { ...CONSTANT, kind: "cosine" as const, warmup: 4, end: 0.2 };
    expect([0, 1, 2, 3].map((k) => rateAt(s, k, 104, 10))).toEqual([0.2, 0.4, 0.6, 0.8]);
    expect(rateAt(s, 4, 104, 10)).toBe(1);
    expect(rateAt(s, 54, 104, 10)).toBeCloseTo(0.6, 12);
    expect(rateAt(s, 104, 104, 10)).toBeCloseTo(0.2, 12);
    expect(rateAt({ ...s, kind: "linear", warmup: 0 }, 26, 104, 10)).toBeCloseTo(0.8, 12);
    expect([9, 10, 19, 20].map((k) => rateAt({ ...CONSTANT, kind: "step", every: 1, gamma: 0.5 }, k, 99, 10))).toEqual([1, 0.5, 0.5, 0.25]);
  });
});
