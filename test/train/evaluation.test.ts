/** Training and evaluation that compute different things: dropout, and the statistics of batch normalisation. */
import { describe, expect, it } from "vitest";
import type { Tensor } from "../../runtime/tensors.js";
import { Trainer } from "../../runtime/trainer.js";
import { COMPILE_DEFAULTS, compile, type Compiled, type CompileOptions, type ForwardModel } from "../../src/compile.js";
import { model, toForward } from "../../src/dsl/index.js";
import type { ModelBuilder } from "../../src/dsl/nn.js";
import { importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { testDevice } from "../support/gpu.js";
import { type AttrSpec, BOOL, buildModel, floats, node, type TensorSpec } from "../support/onnx-model.js";
import { random, runOrt } from "../support/onnx-run.js";

const device = testDevice();
const COUNT = 256;
const SHAPE = [4, COUNT];

/** x → dropout → per-feature scale, so that what a step leaves of x can be read off the scale's gradient. */
const dropped = (opset: number, more: { attrs?: Record<string, AttrSpec>; stored?: Record<string, TensorSpec> } = {}): Uint8Array => buildModel({
  opset, inputs: { x: SHAPE }, outputs: ["y"],
  initializers: { s: floats([COUNT], Array.from({ length: COUNT }, () => 1)), ...more.stored },
  nodes: [node("Dropout", ["x", ...Object.keys(more.stored ?? {})], ["d"], more.attrs), node("Mul", ["d", "s"], ["y"])],
});
const MODERN = { r: { dims: [], floats: [0.25] }, t: { dims: [], type: BOOL, int32s: [1] } };

const forwardOf = (bytes: Uint8Array, dropout = true): (() => ForwardModel) => () => {
  const [train, evaluation] = (["train", "eval"] as const).map((mode) => importModel(loadModel(bytes), { mode, dropout }));
  if (!train || !evaluation) throw new Error("unreachable");
  return { name: "net", graph: train.graph, outputs: train.outputs, weights: train.weights, ...(train.differs ? { evaluation } : {}) };
};
const compiled = (forward: (batch: number) => ForwardModel, more: Partial<CompileOptions> = {}): Compiled =>
  compile(forward, { ...COMPILE_DEFAULTS, loss: "half-sse", optimizer: "sgd", batches: [4], ...more });

async function withTrainer<T>(c: Compiled, seed: number, use: (t: Trainer) => Promise<T>): Promise<T> {
  const t = await Trainer.create(device().device, c.artifact, c.sources, Object.fromEntries(c.weights), { seed });
  try {
    return await use(t);
  } finally {
    await t.dispose();
  }
}
const ones: Tensor = { shape: SHAPE, data: new Float32Array(4 * COUNT).fill(1) };
const zeros: Tensor = { shape: SHAPE, data: new Float32Array(4 * COUNT) };

/** How much of each feature of ones a step lets through, summed over examples: the loss is ½ Σ y², so ∂/∂s = Σ y x̂ = Σ x̂². */
async function passed(t: Trainer): Promise<number[]> {
  t.gradients({ x: ones, target: zeros });
  const sums = await t.task(() => t.program.read(["grad/s"]));
  await t.update().loss;
  return [...(sums[0] as Float32Array)];
}

describe("dropout in training", () => {
  it("leaves out the asked share, scales the rest, and draws anew in every step", async () => {
    const c = compiled(forwardOf(dropped(13, { stored: MODERN })), { run: { lr: 1e-9, momentum: 0 } });
    const [first, second] = await withTrainer(c, 1, async (t) => [await passed(t), await passed(t)]);
    // x̂² is (4/3)² or 0; a feature's four examples keep 0 … 4 of them
    for (const v of first as number[]) expect([0, 1, 2, 3, 4].map((k) => (k * 16) / 9).some((w) => Math.abs(v - w) < 1e-4)).toBe(true);
    const kept = (first as number[]).reduce((a, b) => a + b, 0) / (16 / 9);
    // 1024 draws of 0.75: five standard deviations are 70
    expect(Math.abs(kept - 768)).toBeLessThan(70);
    expect(second).not.toEqual(first);
  });

  it("is the same for the same seed, another for another", async () => {
    const c = compiled(forwardOf(dropped(13, { stored: MODERN })), { run: { lr: 1e-9, momentum: 0 } });
    const [a, b, other] = [await withTrainer(c, 7, passed), await withTrainer(c, 7, passed), await withTrainer(c, 8, passed)];
    expect(a).toEqual(b);
    expect(other).not.toEqual(a);
  });

  it.each([
    ["opset 7, which cannot say", dropped(7, { attrs: { ratio: { float: 0.25 } } }), true],
    ["opset 6 with is_test", dropped(6, { attrs: { ratio: { float: 0.25 }, is_test: 1 } }), false],
    ["opset 13 without training_mode", dropped(13), false],
    ["opset 13 with training_mode", dropped(13, { stored: MODERN }), true],
  ] as const)("%s", async (_, bytes, drops) => {
    const c = compiled(forwardOf(bytes), { run: { lr: 1e-9, momentum: 0 } });
    expect((await withTrainer(c, 1, passed)).some((v) => Math.abs(v - 4) > 1e-4)).toBe(drops);
  });

  it("is said aloud where the file cannot tell", () => {
    const notes = (bytes: Uint8Array) => importModel(loadModel(bytes), { mode: "train" }).notes.join();
    expect(notes(dropped(7, { attrs: { ratio: { float: 0.25 } } }))).toMatch(/Dropout leaves activations out in training; --no-dropout/);
    expect(notes(dropped(13, { stored: MODERN }))).toBe("");
  });

  it("can be turned off", async () => {
    const c = compiled(forwardOf(dropped(13, { stored: MODERN }), false));
    expect((await withTrainer(c, 1, passed)).every((v) => v === 4)).toBe(true);
  });

  it("is not there in evaluation and prediction", async () => {
    const c = compiled(forwardOf(dropped(13, { stored: MODERN })));
    await withTrainer(c, 1, async (t) => {
      expect([...((await t.predict({ x: ones })).y?.data ?? [])].every((v) => v === 1)).toBe(true);
      expect((await t.evaluate([{ x: ones, target: zeros }])).loss).toBe(COUNT / 2);
    });
  });

  it("runs under K-FAC, its statistics from the same draw as its gradient", async () => {
    const net = model("net", (m) => m.output("y", m.dense(m.dropout(m.input("x", [64]), 0.5), 2, { name: "d", bias: false })));
    const c = compiled((batch) => toForward(net, batch), { optimizer: "kfac", batches: [8] });
    await withTrainer(c, 3, async (t) => {
      const x = { shape: [8, 64], data: new Float32Array(512).fill(1) };
      await t.step({ x, target: { shape: [8, 2], data: new Float32Array(16).fill(1e3) } }).loss;
      const [A, g] = (await t.task(() => t.program.read(["kfac/d.weight/A", "grad/d.weight"]))) as [Float32Array, Float32Array];
      // inputs that no example kept have neither a row of A nor a gradient
      const seen = Array.from({ length: 64 }, (_, k) => (A[k * 64 + k] as number) > 0);
      const moved = Array.from({ length: 64 }, (_, k) => g[k] !== 0);
      expect(seen).toEqual(moved);
      expect(new Set(Array.from({ length: 64 }, (_, k) => Math.round((A[k * 64 + k] as number) * 2))).size).toBeGreaterThan(2);
    });
  });
});

describe("batch normalisation of a model file", () => {
  const build = (m: ModelBuilder) => m.output("y", m.batchNorm(m.input("x", [3]), { name: "n", momentum: 0.5 }));
  const net = model("net", build);
  const forward = (batch: number): ForwardModel => toForward(net, batch);
  const x: Tensor = { shape: [4, 3], data: random(12, 5) };

  it("trains on the batch's statistics, keeps running ones, and evaluates with those", async () => {
    const c = compiled(forward, { run: { lr: 1e-9, momentum: 0 } });
    expect([c.artifact.mixes === null, c.artifact.evaluationMixes]).toEqual([false, null]);
    await withTrainer(c, 1, async (t) => {
      await t.step({ x, target: { shape: [4, 3], data: new Float32Array(12) } }).loss;
      const { "n.mean": mean, "n.variance": variance } = await t.weights();
      // one example alone: evaluation needs no batch
      const { y } = await t.predict({ x: { shape: [1, 3], data: x.data.slice(0, 3) as Float32Array } });
      for (let k = 0; k < 3; k++) {
        const column = Array.from({ length: 4 }, (_, n) => x.data[3 * n + k] as number);
        const m = column.reduce((a, b) => a + b, 0) / 4;
        const v = column.reduce((a, b) => a + (b - m) ** 2, 0) / 4;
        expect(mean?.data[k]).toBeCloseTo(0.5 * m, 6);
        expect(variance?.data[k]).toBeCloseTo(0.5 + 0.5 * v, 6);
        expect(y?.data[k]).toBeCloseTo(((column[0] as number) - 0.5 * m) / Math.sqrt(0.5 + 0.5 * v + 1e-5), 5);
      }
    });
  });

  it("frozen, it uses what is stored, always", () => {
    const frozen = toForward(model("net", (m) => m.output("y", m.batchNorm(m.input("x", [3]), { frozen: true }))), 4);
    expect(frozen.evaluation).toBeUndefined();
    expect(frozen.updates).toBeUndefined();
  });
});

describe("a model of a file", () => {
  it("evaluates as onnxruntime runs it for inference, although it was exported for training", async () => {
    const spec = (training: number) => buildModel({
      opset: 15, inputs: { x: [4, 3] }, outputs: ["y"],
      initializers: { s: floats([3], [1, 2, 3]), t: floats([3], [0, 1, -1]), mean: floats([3], [0.5, -1, 2]), v: floats([3], [1, 2, 3]), w: floats([2, 3], [...random(6, 3)]) },
      nodes: [node("BatchNormalization", ["x", "s", "t", "mean", "v"], ["h"], { training_mode: training }), node("Gemm", ["h", "w"], ["y"], { transB: 1 })],
    });
    const x: Tensor = { shape: [4, 3], data: random(12, 9) };
    const want = await runOrt(spec(0), { x: { shape: [4, 3], data: x.data as Float32Array } });
    await withTrainer(compiled(forwardOf(spec(1))), 1, async (t) => {
      const { y } = await t.predict({ x });
      want.y?.data.forEach((v, k) => { expect(y?.data[k]).toBeCloseTo(v, 5); });
    });
  });
});
