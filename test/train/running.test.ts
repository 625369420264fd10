/** Running statistics of batch normalisation in training: what a step leaves in them, and what keeps them. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { Batch, Tensor } from "../../runtime/tensors.js";
import { Trainer } from "../../runtime/trainer.js";
import { COMPILE_DEFAULTS, compile, type Compiled, type CompileOptions } from "../../src/compile.js";
import { type Imported, importModel, type ImportOptions } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import type { OpenModel } from "../../src/model.js";
import { writeTrained } from "../../src/trained.js";
import { testDevice } from "../support/gpu.js";
import { buildModel, floats, type ModelSpec, node } from "../support/onnx-model.js";
import { random, runOrt } from "../support/onnx-run.js";

const device = testDevice();
const MOMENTUM = 0.8;
const START = { mean: [0.5, -1, 2], v: [1, 2, 3] };
const TRAINING = { training_mode: 1, momentum: { float: MOMENTUM } };

/** x → batch normalisation → dense. `written`: the node names its running outputs, which nothing reads. */
const spec = (written: boolean, more: Partial<ModelSpec> = {}): ModelSpec => ({
  opset: 15, inputs: { x: [4, 3] }, outputs: ["y"],
  initializers: { s: floats([3], [1, 2, 3]), t: floats([3], [0, 1, -1]), mean: floats([3], START.mean), v: floats([3], START.v), w: floats([2, 3], [...random(6, 3)]) },
  nodes: [node("BatchNormalization", ["x", "s", "t", "mean", "v"], written ? ["h", "m2", "v2"] : ["h"], TRAINING), node("Gemm", ["h", "w"], ["y"], { transB: 1 })],
  ...more,
});
const imported = (model: ModelSpec, options: Partial<ImportOptions> = {}): Imported => importModel(loadModel(buildModel(model)), { mode: "train", ...options });
const updated = (m: Imported): string[] => m.updates.map((u) => u.param).sort();

const batch = (seed: number): Batch & { x: Tensor } => ({ x: { shape: [4, 3], data: random(12, seed) }, target: { shape: [4], data: Int32Array.of(0, 1, 1, 0) } });

/** What onnxruntime says the running statistics are after a batch, from some on. */
async function statisticsAfter(seed: number, from: { readonly mean: readonly number[]; readonly v: readonly number[] }): Promise<{ mean: number[]; v: number[] }> {
  const model = spec(true, { outputs: ["y", "m2", "v2"] });
  const bytes = buildModel({ ...model, initializers: { ...model.initializers, mean: floats([3], from.mean), v: floats([3], from.v) } });
  const out = await runOrt(bytes, { x: { shape: [4, 3], data: batch(seed).x.data as Float32Array } });
  return { mean: out.m2?.data as number[], v: out.v2?.data as number[] };
}

const opened = (model: ModelSpec): OpenModel => {
  const loaded = loadModel(buildModel(model));
  const make = () => importModel(loaded, { mode: "train" });
  return { path: "net.onnx", name: "net", fileBatch: 4, notes: [], loaded, forward: () => ({ name: "net", ...make(), evaluation: importModel(loaded, { mode: "eval" }) }) };
};
const compiled = (model: ModelSpec, more: Partial<CompileOptions> = {}): Compiled =>
  compile(opened(model).forward, { ...COMPILE_DEFAULTS, loss: "softmax-ce", batches: [4], ...more });

async function withTrainer(c: Compiled, use: (t: Trainer) => Promise<void>): Promise<void> {
  const t = await Trainer.create(device().device, c.artifact, c.sources, Object.fromEntries(c.weights));
  try {
    await use(t);
  } finally {
    await t.dispose();
  }
}

/** A handful of float32 operations on numbers below 4. */
const CLOSE = 5;
async function expectStatistics(t: Trainer, want: { mean: readonly number[]; v: readonly number[] }): Promise<void> {
  const weights = await t.weights();
  for (const name of ["mean", "v"] as const) want[name].forEach((x, k) => { expect(weights[name]?.data[k], `${name}[${k}]`).toBeCloseTo(x, CLOSE); });
}

describe("import", () => {
  it("a training step updates them whether the exporter wrote the running outputs or left them out", () => {
    for (const written of [true, false]) expect(updated(imported(spec(written)))).toEqual(["mean", "v"]);
    expect(updated(imported(spec(true), { mode: "eval" }))).toEqual([]);
  });
  it("they are not trained", () => {
    expect(imported(spec(false)).graph.params.filter((p) => p.trainable).map((p) => p.value.name)).toEqual(["s", "t", "w"]);
  });
  it("one that is frozen by name stays as it is", () => {
    expect(updated(imported(spec(false), { freeze: ["mean"] }))).toEqual(["v"]);
  });
  it("one behind an Identity is found; one that is computed is not updated, and a note says so", () => {
    const behind = (op: string) => imported(spec(false, {
      nodes: [node(op, ["mean"], ["shared"]), node("BatchNormalization", ["x", "s", "t", "shared", "v"], ["h"], TRAINING), node("Gemm", ["h", "w"], ["y"], { transB: 1 })],
    }));
    expect(updated(behind("Identity"))).toEqual(["mean", "v"]);
    expect(updated(behind("Abs"))).toEqual(["v"]);
    expect(behind("Abs").notes.join()).toMatch(/"shared" is not an initializer and is not updated/);
  });
  it("one that two nodes update, or that is a weight too, is refused by name", () => {
    const twice = spec(false, { nodes: [
      node("BatchNormalization", ["x", "s", "t", "mean", "v"], ["h"], TRAINING), node("BatchNormalization", ["h", "s", "t", "mean", "v"], ["k"], TRAINING), node("Gemm", ["k", "w"], ["y"], { transB: 1 })] });
    expect(() => imported(twice)).toThrow(/"mean" is updated twice/);
    const weight = spec(false, { nodes: [node("Add", ["x", "v"], ["k"]), node("BatchNormalization", ["k", "s", "t", "mean", "v"], ["h"], TRAINING), node("Gemm", ["h", "w"], ["y"], { transB: 1 })] });
    expect(() => imported(weight)).toThrow(/"v" also serves as a weight/);
  });
});

describe("on a device", () => {
  it.each(["kfac", "sgd", "adam"] as const)("%s: every step moves them as onnxruntime does; evaluation and prediction do not", async (optimizer) => {
    await withTrainer(compiled(spec(optimizer === "sgd"), { optimizer, run: { lr: 0.01 } }), async (t) => {
      await t.evaluate([batch(1)]);
      await t.predict({ x: batch(1).x });
      await expectStatistics(t, START);
      await t.step(batch(1)).loss;
      const first = await statisticsAfter(1, START);
      await expectStatistics(t, first);
      await t.step(batch(2)).loss;
      await expectStatistics(t, await statisticsAfter(2, first));
    });
  });

  it("each batch of an accumulated step moves them once", async () => {
    await withTrainer(compiled(spec(false), { run: { lr: 0.01 } }), async (t) => {
      t.gradients(batch(1));
      t.gradients(batch(2));
      await t.update().loss;
      await expectStatistics(t, await statisticsAfter(2, await statisticsAfter(1, START)));
    });
  });

  it("a checkpoint holds them", async () => {
    const c = compiled(spec(false));
    const now = await statisticsAfter(1, START);
    let saved = new Uint8Array();
    await withTrainer(c, async (t) => {
      await t.step(batch(1)).loss;
      saved = new Uint8Array(await t.save());
    });
    await withTrainer(c, async (t) => {
      await t.restore(saved);
      await expectStatistics(t, now);
    });
  });

  it("they are written back into the .onnx file next to the trained weights", async () => {
    const c = compiled(spec(false));
    const folder = mkdtempSync(join(tmpdir(), "kfacc-running-"));
    try {
      await withTrainer(c, async (t) => {
        await t.step(batch(1)).loss;
        await writeTrained(opened(spec(false)), c, await t.weights(), join(folder, "trained.onnx"));
      });
      const { weights } = importModel(loadModel(readFileSync(join(folder, "trained.onnx"))), { mode: "train" });
      const want = await statisticsAfter(1, START);
      for (const name of ["mean", "v"] as const) want[name].forEach((x, k) => { expect(weights.get(name)?.data[k], `${name}[${k}]`).toBeCloseTo(x, CLOSE); });
      expect([...(weights.get("w")?.data ?? [])]).not.toEqual([...random(6, 3)]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

describe("outputs that are one value for the whole batch", () => {
  it("are predicted as evaluation has them, the running statistics, next to those with a row per example", async () => {
    const c = compiled(spec(true, { outputs: ["y", "m2", "v2"] }), { optimizer: "sgd" });
    expect(c.artifact.outputs.map((o) => [o.name, o.examples, o.shape])).toEqual([["y", 0, [2]], ["m2", null, [3]], ["v2", null, [3]]]);
    await withTrainer(c, async (t) => {
      const out = await t.predict({ x: batch(1).x });
      expect(out.m2?.shape).toEqual([3]);
      expect([...(out.m2?.data ?? [])]).toEqual(START.mean);
      expect(out.y?.shape).toEqual([4, 2]);
    });
  });
});
