/** The gradient of a model's loss against differences of the loss: in float64, and on a device. */
import { PORTABLE } from "../../codegen/limits.js";
import { planProgram } from "../../codegen/plan.js";
import { Builder, sumAll } from "../../ir/builder.js";
import { cotangents } from "../../ir/grad.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { runPasses } from "../../ir/pass.js";
import { AFTER_GRADIENTS } from "../../ir/passes/index.js";
import { Program } from "../../runtime/program.js";
import { type Head, headLosses, headSeeds, targetInputs } from "../../src/train/heads.js";
import type { StepModel } from "../../src/train/step-model.js";
import { random } from "../support/models.js";
import { toHost } from "../support/run-graph.js";
import { evaluateFast } from "./shuffled.js";

type Named = Readonly<Record<string, NdArray>>;

export interface Derivative {
  /** |difference − reverse mode|, beside the size of the sum's terms. */
  readonly error: number;
  readonly seed: number;
}

/** Steps as parts of a tensor's own size: few kinks lie that near. */
const STEPS_F64 = [1e-6, 1e-7];
/** Steps as parts of the loss, which should move by more than its roundings and not so far that kinks are met. */
const STEPS_DEVICE = [1e-3, 1e-4, 1e-2];
const SEEDS = [1, 2, 3];
const GOOD_F64 = 1e-6;
const GOOD_DEVICE = 2e-2;

const GRAD = "grad/";

interface LossGraphs {
  readonly loss: Graph;
  readonly gradient: Graph;
  /** What the losses start from, by the names of inputs of `fromLogits`, which makes the loss of them. */
  readonly logits: Graph;
  readonly fromLogits: Graph;
  readonly trained: readonly Value[];
}

/** The summed loss, and its derivative in every trained parameter. */
export function lossGraphs(m: StepModel): LossGraphs {
  const trained = m.graph.params.filter((p) => p.trainable).map((p) => p.value);
  const build = (withGradient: boolean): Graph => {
    const b = Builder.from(m.graph);
    const targets = targetInputs(b, m.heads);
    const loss = { name: "loss", value: sumAll(b.emit, headLosses(b, m.heads, targets).total) };
    if (!withGradient) return runPasses(b.finish([loss]), AFTER_GRADIENTS);
    const found = cotangents(b, headSeeds(b, m.heads, targets), trained);
    return runPasses(b.finish([...found].map(([v, ct]) => ({ name: GRAD + v.name, value: ct }))), AFTER_GRADIENTS);
  };
  const name = (h: Head): string => `logits/${h.output}`;
  const logits = runPasses({ ...m.graph, results: m.heads.map((h) => ({ name: name(h), value: h.loss.z })) }, AFTER_GRADIENTS);
  const b = new Builder("loss");
  const heads = m.heads.map((h): Head => ({ ...h, loss: { ...h.loss, z: b.input(name(h), h.loss.z.type, 0) } }));
  const fromLogits = b.finish([{ name: "loss", value: sumAll(b.emit, headLosses(b, heads, targetInputs(b, heads)).total) }]);
  return { loss: build(false), gradient: build(true), logits, fromLogits, trained };
}

const norm = (a: ArrayLike<number>): number => Math.sqrt(Array.prototype.reduce.call(a, (s: unknown, x: unknown) => (s as number) + (x as number) ** 2, 0) as number);
/** Size of a tensor's elements: what a step is a part of. Zeros have none of their own. */
const scaleOf = (w: NdArray): number => norm(w.data) / Math.sqrt(Math.max(1, w.data.length)) || 0.1;

/** Along directions drawn from a seed. The first seed whose difference meets no kink serves; the best is told. */
export function derivativeF64(graphs: LossGraphs, at: Named): Derivative {
  const gradient = evaluateFast(graphs.gradient, at);
  const loss = (moved: Named): number => (evaluateFast(graphs.loss, { ...at, ...moved }).loss as NdArray).data[0] as number;
  let best: Derivative = { error: Number.POSITIVE_INFINITY, seed: 0 };
  for (const seed of SEEDS)
    for (const step of STEPS_F64) {
      const along = graphs.trained.filter((v) => gradient[GRAD + v.name]).map((v) => {
        const [next, scale] = [random(seed + v.name.length), scaleOf(at[v.name] as NdArray)];
        return { v, d: Float64Array.from((at[v.name] as NdArray).data, () => scale * next()) };
      });
      const found = compare(along, gradient, at, step, loss);
      if (found < best.error) best = { error: found, seed };
      if (best.error <= GOOD_F64) return best;
    }
  return best;
}

/** Trained weights moved by a twentieth of their tensors' own size, seeded. */
export function nearby(graphs: LossGraphs, at: Named): Named {
  const next = random(29);
  return { ...at, ...Object.fromEntries(graphs.trained.map((v) => {
    const w = at[v.name] as NdArray;
    const scale = scaleOf(w) / 20;
    return [v.name, ndarray("f32", v.type.shape, w.data.map((x) => Math.fround(x + scale * next())))];
  })) };
}

interface Along {
  readonly v: Value;
  readonly d: Float64Array;
}

const moveBy = (along: readonly Along[], at: Named, h: number): Named =>
  Object.fromEntries(along.map(({ v, d }) => [v.name, ndarray("f32", v.type.shape, (at[v.name] as NdArray).data.map((x, k) => x + h * (d[k] as number)))]));

/** Σ of gradient · direction, and the length of its terms taken as one vector. */
function project(along: readonly Along[], gradient: Named): { readonly sum: number; readonly size: number } {
  let [sum, squares] = [0, 0];
  for (const { v, d } of along) (gradient[GRAD + v.name] as NdArray).data.forEach((g, k) => {
    const term = g * (d[k] as number);
    sum += term;
    squares += term * term;
  });
  return { sum, size: Math.sqrt(squares) };
}

function compare(along: readonly Along[], gradient: Named, at: Named, h: number, loss: (moved: Named) => number): number {
  const { sum, size } = project(along, gradient);
  const difference = (loss(moveBy(along, at, h)) - loss(moveBy(along, at, -h))) / (2 * h);
  return Math.abs(difference - sum) / Math.max(size, Math.abs(sum), Number.MIN_VALUE);
}

/**
 * The same on a device, against the device's own gradient and along it: a step h should move the loss by h of itself. The weights are rounded to
 * float32, so what is compared is the loss between the two points that there really are.
 */
export async function derivativeDevice(device: GPUDevice, graphs: LossGraphs, at: Named): Promise<Derivative & { readonly gradient: Named }> {
  const state = new Set(graphs.gradient.params.map((p) => p.value.name));
  const { plan, sources } = planProgram([{ name: "logits", graph: graphs.logits }, { name: "gradient", graph: graphs.gradient }], state, PORTABLE);
  const program = await Program.create(device, plan, sources);
  try {
    const write = (named: Named): void => { for (const [name, a] of Object.entries(named)) if (program.hasBuffer(name)) program.write(name, toHost(a)); };
    write(at);
    program.submit(["gradient"]);
    const names = graphs.gradient.results.map((r) => r.name);
    const arrays = await program.read(names);
    const gradient: Named = Object.fromEntries(graphs.gradient.results.map((r, k) => [r.name, ndarray("f32", r.value.type.shape, Float64Array.from(arrays[k] as Float32Array))]));
    const moving = graphs.trained.filter((v) => gradient[GRAD + v.name]);
    const whole = norm(moving.map((v) => norm((gradient[GRAD + v.name] as NdArray).data)));
    const at32 = (h: number): Named => Object.fromEntries(moving.map((v) => [v.name, ndarray("f32", v.type.shape, (at[v.name] as NdArray).data.map((x, k) => Math.fround(x + h * ((gradient[GRAD + v.name] as NdArray).data[k] as number))))]));
    // a sum of thousands of squares in float32 hides what a small step changes: the device makes the logits, float64 the loss
    const loss = async (moved: Named): Promise<number> => {
      write(moved);
      program.submit(["logits"]);
      const { results } = graphs.logits;
      const made = await program.read(results.map((r) => r.name));
      const logits = Object.fromEntries(results.map((r, k) => [r.name, ndarray("f32", r.value.type.shape, Float64Array.from(made[k] as Float32Array))]));
      return (evaluateFast(graphs.fromLogits, { ...at, ...logits }).loss as NdArray).data[0] as number;
    };
    const start = Math.abs(await loss(Object.fromEntries(moving.map((v) => [v.name, at[v.name] as NdArray])))) || 1;
    let best = whole === 0 ? 0 : Number.POSITIVE_INFINITY;
    for (const part of STEPS_DEVICE) {
      if (best <= GOOD_DEVICE / 10) break;
      const h = (part * start) / whole ** 2;
      const [before, after] = [at32(-h), at32(h)];
      const difference = (await loss(after)) - (await loss(before));
      const predicted = moving.reduce((sum, v) => sum + (gradient[GRAD + v.name] as NdArray).data.reduce((s, g, k) => s + g * (((after[v.name] as NdArray).data[k] as number) - ((before[v.name] as NdArray).data[k] as number)), 0), 0);
      const error = Math.abs(difference - predicted) / Math.max(Math.abs(predicted), Number.MIN_VALUE);
      if (error < best) best = error;
    }
    return { error: best, seed: SEEDS[0] as number, gradient };
  } finally {
    await program.dispose();
  }
}
