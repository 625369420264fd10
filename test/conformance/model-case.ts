/** One real model: compiled, its outputs against recorded ones, one K-FAC step, its gradient against differences. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { CompileError } from "../../ir/error.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { runPasses } from "../../ir/pass.js";
import { CANONICAL } from "../../ir/passes/index.js";
import { size, type Type } from "../../ir/type.js";
import { RuntimeFault } from "../../runtime/artifact.js";
import type { Tensor } from "../../runtime/tensors.js";
import { Trainer } from "../../runtime/trainer.js";
import { compile, type CompileOptions, COMPILE_DEFAULTS, type Compiled, type ForwardModel } from "../../src/compile.js";
import { importModel } from "../../src/import/import.js";
import { decodeTensorProto, loadModel } from "../../src/import/onnx.js";
import { decodeTensor } from "../../src/import/tensor.js";
import { openModel, type OpenOptions } from "../../src/model.js";
import { targetType } from "../../src/train/loss.js";
import { labels, random, runPoisoned } from "../support/models.js";
import { relativeError } from "../support/run-graph.js";
import { derivativeDevice, derivativeF64, lossGraphs, nearby } from "./model-gradient.js";
import { evaluateFast, flops } from "./shuffled.js";

export interface Entry {
  readonly name: string;
  readonly inputs: readonly { readonly name: string; readonly dtype: string; readonly shape: readonly (number | string | null)[] }[];
  readonly outputs: readonly { readonly name: string }[];
  readonly ops: Readonly<Record<string, number>>;
  readonly training_relevant: boolean;
  readonly why_not: readonly string[];
}

export interface Findings {
  verdict: "passed" | "failed" | "refused";
  why: string[];
  notes: string[];
  flops?: number;
  /** Relative errors: the device against the recorded outputs; float32 with shuffled sums against float64; the recorded outputs against float64. */
  forward?: number;
  shuffled?: number;
  recorded?: number;
  loss?: number;
  layers?: number;
  orphans?: number;
  gradientF64?: number;
  gradientDevice?: number;
  readonly seconds: Record<string, number>;
}

const CLOSE = 1e-4;
const TIMES_SHUFFLED = 30;
const GRADIENT_F64 = 1e-6;
const GRADIENT_DEVICE = 2e-2;
/** What the evaluator on the host can do in seconds. */
const BUDGET_FORWARD = 1e9;
const BUDGET_GRADIENT = 1e8;
/** Above that many operations or parameters, factors of thousands would be inverted on a device without a GPU: then the widest sides are diagonal. */
const HEAVY = 1e9;
const MANY = 5e6;
const HEAVY_FACTOR = 640;

export async function runModel(device: GPUDevice, folder: string, entry: Entry): Promise<Findings> {
  const f: Findings = { verdict: "passed", why: [], notes: [], seconds: {} };
  try {
    await checks(device, folder, entry, f);
    if (f.why.length > 0) f.verdict = "failed";
  } catch (e) {
    // a device that holds no such buffer is no fault of the model's, nor of its reading
    const refusal = (e instanceof CompileError && e.code !== "internal") || (e instanceof RuntimeFault && e.code === "out-of-memory");
    f.verdict = refusal ? "refused" : "failed";
    f.why.push(refusal ? `${e.code}: ${e.message}` : e instanceof Error ? `${e.name}: ${e.message.split("\n")[0]}` : String(e));
    if (!refusal && process.argv.includes("--trace")) console.error(e);
  }
  return f;
}

async function timed<T>(f: Findings, what: string, work: () => T | Promise<T>): Promise<T> {
  const start = performance.now();
  try {
    return await work();
  } finally {
    f.seconds[what] = (performance.now() - start) / 1000;
  }
}

async function checks(device: GPUDevice, folder: string, entry: Entry, f: Findings): Promise<void> {
  const path = join(folder, "model.onnx");
  const given = readTensors(folder, "input", entry.inputs.map((i) => i.name));
  const wanted = readTensors(folder, "output", entry.outputs.map((o) => o.name));
  const shapes = Object.fromEntries([...given].map(([name, a]) => [name, a.shape]));
  const base: OpenOptions = { dropout: false, shapes };
  const opened = await timed(f, "open", () => openModel(path, base));
  // two examples normalised by their own statistics are ±1 whatever they were
  const batch = opened.fileBatch ?? (opened.forward(2).updates ? 8 : 2);
  const forward = (n: number): ForwardModel => {
    // recorded outputs of files exported for training are those of training
    const { evaluation: _, ...made } = opened.forward(n);
    return made;
  };
  const { compiled, cut } = await timed(f, "compile", () => compiledFor(forward, path, base, batch, f));
  f.layers = compiled.artifact.layers.length;
  f.orphans = compiled.artifact.orphans.length;
  const values = bindings(compiled, given);
  await compareOutputs(device, compiled, forward(batch), values, wanted, cut, f);
  const filled = withRandom(compiled, values, f);
  await timed(f, "step", () => oneStep(device, filled.compiled, filled.values, f));
  await gradients(device, filled.compiled, filled.values, f);
}

/** input_K.pb or output_K.pb by the file's names. */
function readTensors(folder: string, kind: string, names: readonly string[]): Map<string, NdArray> {
  return new Map(names.flatMap((name, k) => {
    const file = join(folder, "test_data_set_0", `${kind}_${k}.pb`);
    if (!existsSync(file)) return [];
    const { dtype, shape, data } = decodeTensor(decodeTensorProto(readFileSync(file)), () => new Uint8Array());
    return [[name, { dtype, shape, data: Float64Array.from(data) }] as const];
  }));
}

/** Compiled with the loss that the outputs imply, else half-sse; a model that ends in integers is cut at the last floats before. */
async function compiledFor(forward: (n: number) => ForwardModel, path: string, base: OpenOptions, batch: number, f: Findings): Promise<{ compiled: Compiled; cut: boolean }> {
  const work = flops(forward(batch).graph);
  f.flops = work;
  const heavy = work > HEAVY || [...forward(batch).weights.values()].reduce((n, w) => n + w.data.length, 0) > MANY;
  if (heavy) f.notes.push(`factor sides above ${HEAVY_FACTOR} are diagonal`);
  const options: CompileOptions = { ...COMPILE_DEFAULTS, batches: [batch], ...(heavy ? { maxFactor: HEAVY_FACTOR } : {}) };
  const withLoss = (of: (n: number) => ForwardModel): Compiled => {
    try {
      return compile(of, options);
    } catch (e) {
      if (!(e instanceof CompileError && e.code === "loss-unknown")) throw e;
      return compile(of, { ...options, loss: "half-sse" });
    }
  };
  const made = forward(batch);
  if (made.outputs.every((o) => o.value.type.dtype === "f32" && o.value.type.shape.length > 0)) return { compiled: withLoss(forward), cut: false };
  const outputs = lastFloats(path, base, batch);
  f.notes.push(`trained up to ${outputs.map((o) => `"${o}"`).join(", ")}: the model ends in integers or a scalar`);
  const shorter = await openModel(path, { ...base, outputs });
  return { compiled: withLoss((n) => { const { evaluation: _, ...m } = shorter.forward(n); return m; }), cut: true };
}

/** Names of float values with an axis of examples that the outputs are made of, nearest to them. */
function lastFloats(path: string, base: OpenOptions, batch: number): string[] {
  const loaded = loadModel(path);
  const madeBy = new Map(loaded.graph.nodes.flatMap((n) => n.outputs.map((o) => [o, n] as const)));
  const open = loaded.graph.outputs.map((v) => v.name);
  const tried = new Set<string>();
  for (let name = open.shift(); name !== undefined; name = open.shift()) {
    if (tried.has(name) || !madeBy.has(name)) continue;
    tried.add(name);
    try {
      const { graph, outputs: [o] } = importModel(loaded, { mode: "train", dropout: false, ...(base.shapes ? { shapes: base.shapes } : {}), batch: Math.max(2, batch), outputs: [name] }); // of one example it cannot be told where it is
      if (graph.params.some((p) => p.trainable) && o && o.value.type.dtype === "f32" && o.value.type.shape.length > 1) return [name];
    } catch (e) {
      if (!(e instanceof CompileError)) throw e;
    }
    open.push(...(madeBy.get(name)?.inputs ?? []));
  }
  throw new CompileError("loss-unknown", "no float value with examples leads to the outputs");
}

/** Parameters, recorded inputs (seeded where there are none) and seeded targets. */
function bindings(c: Compiled, given: ReadonlyMap<string, NdArray>): Record<string, NdArray> {
  const next = random(7);
  const floats = (t: Type): NdArray => ndarray(t.dtype, t.shape, Float64Array.from({ length: size(t.shape) }, () => Math.fround(next())));
  const all: Record<string, NdArray> = Object.fromEntries([...c.weights].map(([name, w]) => [name, ndarray("f32", w.shape, w.data)]));
  for (const { value } of c.model.graph.inputs) all[value.name] = given.get(value.name) ?? (value.type.dtype === "f32" ? floats(value.type) : ndarray(value.type.dtype, value.type.shape, new Float64Array(size(value.type.shape))));
  for (const h of c.model.heads) {
    const t = targetType(h.loss);
    const drawn = t.dtype === "i32" ? labels(t.shape, h.loss.z.type.shape[h.loss.axis] as number, next) : floats(t);
    all[h.target] = h.loss.kind === "bernoulli-ce" ? { ...drawn, data: drawn.data.map((x) => (x + 1) / 2) } : drawn;
  }
  return all;
}

/** A model published without weights, each tensor one number throughout, is stepped from random ones (He): from the others nothing could learn. */
function withRandom(compiled: Compiled, values: Readonly<Record<string, NdArray>>, f: Findings): { readonly compiled: Compiled; readonly values: Readonly<Record<string, NdArray>> } {
  const next = random(13);
  const drawn = [...compiled.weights].flatMap(([name, w]) => {
    if (w.shape.length < 2 || w.data.length < 16 || w.data.some((x) => x !== w.data[0])) return [];
    const deviation = Math.sqrt((2 * (w.shape[0] as number)) / w.data.length);
    return [[name, { shape: w.shape, data: Float32Array.from(w.data, () => deviation * Math.sqrt(3) * next()) }] as const];
  });
  if (drawn.length === 0) return { compiled, values };
  f.notes.push(`stepped and differentiated from random weights: ${drawn.length} tensors of the file are one number throughout`);
  return {
    compiled: { ...compiled, weights: new Map([...compiled.weights, ...drawn]) },
    values: { ...values, ...Object.fromEntries(drawn.map(([name, w]) => [name, ndarray("f32", w.shape, w.data)])) },
  };
}

const OUT = "out·";

async function compareOutputs(device: GPUDevice, c: Compiled, model: ForwardModel, values: Readonly<Record<string, NdArray>>, wanted: ReadonlyMap<string, NdArray>, cut: boolean, f: Findings): Promise<void> {
  const graph = runPasses({ ...model.graph, results: model.outputs.map((o) => ({ name: OUT + o.name, value: o.value })) }, CANONICAL);
  const names = model.outputs.map((o) => o.name);
  const named = { ...Object.fromEntries([...model.weights].map(([name, w]) => [name, ndarray("f32", w.shape, w.data)])), ...values };
  const worst = (got: (name: string) => ArrayLike<number> | undefined, want: (name: string) => ArrayLike<number> | undefined): number =>
    Math.max(...names.map((n) => { const [g, w] = [got(n), want(n)]; return g && w && g.length === w.length ? relativeError(g, w) : Number.POSITIVE_INFINITY; }).map((x) => (Number.isNaN(x) ? Number.POSITIVE_INFINITY : x)));
  let exact: Record<string, NdArray> | undefined;
  if ((f.flops ?? 0) <= BUDGET_FORWARD) {
    await timed(f, "evaluate", () => {
      exact = evaluateFast(graph, named);
      const shuffled = evaluateFast(graph, named, 11);
      f.shuffled = worst((n) => shuffled[OUT + n]?.data, (n) => exact?.[OUT + n]?.data);
      if (wanted.size > 0) f.recorded = worst((n) => wanted.get(n)?.data, (n) => exact?.[OUT + n]?.data);
    });
  } else f.notes.push(`not evaluated in float64: ${(f.flops as number).toExponential(1)} flops`);
  const lacks = wanted.size === 0;
  if (lacks) f.notes.push("no recorded outputs: compared with float64");
  if (lacks && !exact) return;
  const got = await timed(f, "forward", () => outputsOf(device, c, graph, named, cut));
  f.forward = worst((n) => got.get(n)?.data, (n) => (lacks ? exact?.[OUT + n]?.data : wanted.get(n)?.data));
  const allowed = Math.max(CLOSE, TIMES_SHUFFLED * (f.shuffled ?? 0));
  if (!(f.forward <= allowed)) f.why.push(`outputs are off by ${f.forward.toExponential(1)}, allowed ${allowed.toExponential(1)}`);
}

/** As the compiled program predicts them; a model that was cut, or has no input with examples, runs by itself. */
async function outputsOf(device: GPUDevice, c: Compiled, graph: Compiled["model"]["graph"], named: Readonly<Record<string, NdArray>>, cut: boolean): Promise<ReadonlyMap<string, { readonly data: ArrayLike<number> }>> {
  if (cut || c.artifact.inputs.every((i) => i.examples === null)) {
    const { results } = await runPoisoned(device, graph, named);
    return new Map(Object.entries(results).map(([name, a]) => [name.slice(OUT.length), a]));
  }
  return withTrainer(device, c, async (t) => new Map(Object.entries(await t.predict(batchOf(c, named)))));
}

const batchOf = (c: Compiled, values: Readonly<Record<string, NdArray>>): Record<string, Tensor> =>
  Object.fromEntries(c.artifact.inputs.map((i) => [i.name, asTensor(values[i.name] as NdArray)]));

const asTensor = (a: NdArray): Tensor => ({ shape: a.shape, data: a.dtype === "i32" ? Int32Array.from(a.data) : Float32Array.from(a.data) });

async function withTrainer<T>(device: GPUDevice, c: Compiled, use: (t: Trainer) => Promise<T>): Promise<T> {
  const trainer = await Trainer.create(device, c.artifact, c.sources, Object.fromEntries(c.weights));
  try {
    return await use(trainer);
  } finally {
    await trainer.dispose();
  }
}

async function oneStep(device: GPUDevice, c: Compiled, values: Readonly<Record<string, NdArray>>, f: Findings): Promise<void> {
  const target = (h: { readonly target: string }): Tensor => asTensor(values[h.target] as NdArray);
  const [only] = c.model.heads;
  const targets = c.model.heads.length === 1 && only ? target(only) : Object.fromEntries(c.model.heads.map((h) => [h.output, target(h)]));
  await withTrainer(device, c, async (t) => {
    f.loss = await t.step({ ...batchOf(c, values), target: targets }).loss;
    await t.finish();
    const after = await t.weights();
    const trained = c.artifact.params.filter((p) => p.trainable).map((p) => p.name);
    const broken = trained.find((name) => after[name]?.data.some((x) => !Number.isFinite(x)));
    if (!Number.isFinite(f.loss)) f.why.push(`the loss is ${f.loss}`);
    if (broken) f.why.push(`after a step "${broken}" is not finite`);
    const moved = trained.filter((name) => { const before = c.weights.get(name)?.data; return after[name]?.data.some((x, k) => x !== before?.[k]); });
    if (moved.length === 0) f.why.push("a step moves no parameter");
    else if (moved.length < trained.length) f.notes.push(`${trained.length - moved.length} of ${trained.length} tensors do not move`);
  });
}

async function gradients(device: GPUDevice, c: Compiled, values: Readonly<Record<string, NdArray>>, f: Findings): Promise<void> {
  const graphs = lossGraphs(c.model);
  if ((f.flops ?? 0) < BUDGET_GRADIENT) {
    let found = await timed(f, "gradient64", () => derivativeF64(graphs, values));
    if (!(found.error <= GRADIENT_F64)) {
      // biases of exactly 0 put ReLUs on their kink
      f.notes.push("float64 differences: at weights moved by a part in twenty, the file's own lie on a kink");
      found = derivativeF64(graphs, nearby(graphs, values));
    }
    f.gradientF64 = found.error;
    if (found.seed > 1) f.notes.push(`float64 differences: seed ${found.seed}`);
    if (!(found.error <= GRADIENT_F64)) f.why.push(`in float64 the gradient is off by ${found.error.toExponential(1)}`);
  } else f.notes.push("gradient not checked in float64");
  let found = await timed(f, "gradient", () => derivativeDevice(device, graphs, values));
  if (!(found.error <= GRADIENT_DEVICE)) {
    f.notes.push("device differences: at weights moved by a part in twenty");
    found = await derivativeDevice(device, graphs, nearby(graphs, values));
  }
  f.gradientDevice = found.error;
  if (!(found.error <= GRADIENT_DEVICE)) f.why.push(`on the device the gradient is off by ${found.error.toExponential(1)}`);
}

