/**
 * A training run: batches in order, schedules, validation, the best weights, checkpoints. The command line and the examples
 * are hooks around it; it knows of no files.
 */
import { CompileError } from "../ir/error.js";
import { RuntimeFault } from "../runtime/artifact.js";
import { asBatch, batches, type Examples, inOrder, type OrderState } from "../runtime/batches.js";
import type { LayerDiagnosis } from "../runtime/diagnose.js";
import { decode, encode, type SafeTensor } from "../runtime/safetensors.js";
import type { Batch, Tensor } from "../runtime/tensors.js";
import type { Metrics, Trainer } from "../runtime/trainer.js";
import { CONSTANT, rateAt, type Schedule } from "./train/schedule.js";

export interface TrainingOptions {
  /** Examples per step. */
  readonly batch: number;
  readonly epochs: number;
  /** Total steps; default: those of the epochs. */
  readonly steps?: number;
  readonly seed: number;
  readonly shuffle?: boolean;
  readonly schedule?: Schedule;
  /** Damping is multiplied by this over each epoch. */
  readonly dampingDecay?: number;
  /** End with the weights that did best in validation. Default true. */
  readonly keepBest?: boolean;
  /** Steps; default: at the end of each epoch. */
  readonly evaluateEvery?: number;
  readonly checkpointEvery?: number;
  /** Steps between two diagnoses of the layers, besides those at validations and at the end; only with the hook `onLayers`. */
  readonly explainEvery?: number;
}

/** Some examples of a data set. */
export interface Part {
  readonly examples: Examples;
  /** Which ones; all if absent. */
  readonly pool?: Uint32Array;
}

export interface StepRecord {
  /** Steps done, this one included. */
  readonly step: number;
  readonly epoch: number;
  /** Examples visited since the start of the whole run. */
  readonly examples: number;
  /** Mean over the batch, before the update. */
  readonly loss: number;
  readonly lr: number;
  readonly damping: number;
  /** Since this process began to train. */
  readonly seconds: number;
}

export interface EvalRecord extends Metrics {
  readonly step: number;
  readonly epoch: number;
  /** Better than all before. */
  readonly best: boolean;
}

export interface LayersRecord {
  readonly step: number;
  readonly epoch: number;
  readonly layers: readonly LayerDiagnosis[];
}

export interface TrainingHooks {
  onStep?(record: StepRecord): void;
  onEvaluate?(record: EvalRecord): void;
  /** Asked for at each validation and at the end of the run. Only with K-FAC; training is the same without it. */
  onLayers?(record: LayersRecord): void;
  /** A checkpoint whose numbers are all finite. Awaited. */
  onCheckpoint?(bytes: Uint8Array, step: number): Promise<void> | void;
}

export interface TrainingRun {
  readonly trainer: Trainer;
  readonly train: Part;
  readonly validation?: Part;
  readonly options: TrainingOptions;
  readonly hooks?: TrainingHooks;
  /** Strings put into every checkpoint. */
  readonly extra?: Readonly<Record<string, string>>;
  /** A checkpoint to go on from. */
  readonly resume?: Uint8Array;
  /** Stops between two steps, with a checkpoint. */
  readonly signal?: AbortSignal;
}

export interface TrainingResult {
  readonly steps: number;
  readonly examples: number;
  /** Mean over the last 20 steps; NaN if there were none. */
  readonly loss: number;
  readonly seconds: number;
  /** Of the weights the trainer now holds. */
  readonly validation?: Metrics;
  readonly bestStep?: number;
}

interface Best {
  readonly step: number;
  readonly metrics: Metrics;
  readonly weights: Readonly<Record<string, Tensor>>;
}

/** Steps whose losses are averaged to say how training goes. */
const RECENT = 20;
/** A mean loss of so many times the first one (or 1, if that was less) is no noise any more: the run is lost, if finite. */
const BLOWN_UP = 1e4;

const mean = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0) / list.length;

/** A batch as the trainer takes it. */
export const toBatch = (e: Examples): Batch => asBatch(e);

/**
 * The examples that fill whole batches, where the model mixes a batch's examples and none may be padded; else all of them. Which are left
 * out (fewer than a batch) does not change from epoch to epoch; `Metrics.count` is what was counted.
 */
function wholeBatches(part: Part, size: number, mixes: string | null): Part {
  if (mixes === null) return part;
  const pool = part.pool ?? Uint32Array.from({ length: part.examples.count }, (_, k) => k);
  if (pool.length < size) throw new CompileError("bad-data", `${pool.length} examples are less than one batch of ${size}, and the model mixes the examples of a batch`, mixes, "use a smaller --batch, more data, or --val 0");
  return { examples: part.examples, pool: pool.subarray(0, pool.length - (pool.length % size)) };
}

export async function evaluatePart(trainer: Trainer, part: Part): Promise<Metrics> {
  const size = Math.max(...trainer.batches);
  const { examples, pool } = wholeBatches(part, size, trainer.artifact.evaluationMixes);
  return trainer.evaluate((function* () { for (const e of inOrder(examples, size, pool)) yield toBatch(e); })());
}

/**
 * Trains to the end.
 *
 * @throws RuntimeFault "diverged", "device-lost" …; CompileError "interrupted" after `signal`, the checkpoint handed to the hook.
 */
export async function runTraining(run: TrainingRun): Promise<TrainingResult> {
  const { trainer, options, hooks = {} } = run;
  const train = wholeBatches(run.train, options.batch, trainer.artifact.mixes);
  const count = train.pool?.length ?? train.examples.count;
  if (count === 0) throw new CompileError("bad-data", "the data set is empty", "training", "it needs at least one example");
  const perEpoch = Math.ceil(count / options.batch);
  const total = options.steps ?? options.epochs * perEpoch;
  const base = { ...trainer.run };
  let order: OrderState = { dataSeed: options.seed, epoch: 0, position: 0 };
  let best: Best | undefined;
  if (run.resume) {
    const restored = await restoreSession(trainer, run.resume);
    order = restored.order ?? order;
    best = restored.best;
    // the knobs of the run are the caller's; the checkpoint has them as the schedule had bent them
    Object.assign(trainer.run, base);
  }
  const start = performance.now();
  const seconds = (): number => (performance.now() - start) / 1000;
  const examplesAt = (o: OrderState): number => o.epoch * count + o.position;
  const recent: number[] = [];
  let first: number | undefined;
  const inFlight: { readonly loss: Promise<number>; readonly record: Omit<StepRecord, "loss" | "seconds"> }[] = [];
  let evaluated: { readonly step: number; readonly metrics: Metrics } | undefined;
  let saved = -1;

  const report = async (): Promise<void> => {
    const next = inFlight.shift();
    if (!next) return;
    const loss = await next.loss;
    if (!Number.isFinite(loss)) throw new RuntimeFault("diverged", `the loss is ${loss} at step ${next.record.step}`, `step ${next.record.step}`, "lower --lr, raise --damping, or check the data");
    recent.push(loss);
    if (recent.length > RECENT) recent.shift();
    first ??= loss;
    if (recent.length >= RECENT && mean(recent) > BLOWN_UP * Math.max(1, first))
      throw new RuntimeFault("diverged", `the loss grew from ${first.toPrecision(3)} to ${mean(recent).toPrecision(3)} and stays there`, `step ${next.record.step}`, "lower --lr, raise --damping, or check the data");
    hooks.onStep?.({ ...next.record, loss, seconds: seconds() });
  };
  const drain = async (): Promise<void> => { while (inFlight.length > 0) await report(); };

  let explained = trainer.stepCount;
  const explain = async (epoch: number): Promise<void> => {
    const step = trainer.stepCount;
    if (!hooks.onLayers || trainer.artifact.optimizer !== "kfac" || explained === step) return;
    explained = step;
    await drain();
    hooks.onLayers({ step, epoch, layers: await trainer.diagnose() });
  };

  const evaluate = async (epoch: number): Promise<void> => {
    if (!run.validation) return;
    await drain();
    const metrics = await evaluatePart(trainer, run.validation);
    const step = trainer.stepCount;
    evaluated = { step, metrics };
    const better = !best || isBetter(metrics, best.metrics);
    if (better && options.keepBest !== false) best = { step, metrics, weights: await trainer.weights() };
    hooks.onEvaluate?.({ ...metrics, step, epoch, best: better });
    await explain(epoch);
  };

  const checkpoint = async (): Promise<void> => {
    if (!hooks.onCheckpoint || saved === trainer.stepCount) return;
    await drain();
    const step = trainer.stepCount;
    const bytes = await saveSession(trainer, order, best, run.extra ?? {});
    if (!isHealthy(bytes)) return;
    saved = step;
    await hooks.onCheckpoint(bytes, step);
  };

  if (!run.resume) await checkpoint();
  const source = { size: options.batch, state: order, ...(train.pool ? { pool: train.pool } : {}), ...(options.shuffle === undefined ? {} : { shuffle: options.shuffle }) };
  if (trainer.stepCount < total)
    for (const { batch, next, epochDone } of batches(train.examples, source)) {
      if (run.signal?.aborted) {
        await checkpoint();
        throw new CompileError("interrupted", `stopped after step ${trainer.stepCount} of ${total}`, undefined, "go on with --resume");
      }
      const at = trainer.stepCount;
      trainer.run.lr = base.lr * rateAt(options.schedule ?? CONSTANT, at, total, perEpoch);
      trainer.run.damping = base.damping * (options.dampingDecay ?? 1) ** (at / perEpoch);
      const { loss } = trainer.step(toBatch(batch));
      inFlight.push({ loss, record: { step: at + 1, epoch: order.epoch, examples: examplesAt(order) + batch.count, lr: trainer.run.lr, damping: trainer.run.damping } });
      order = next;
      if (inFlight.length > trainer.host.readbackLag + 1) await report();
      const last = at + 1 >= total;
      const due = (every: number | undefined): boolean => last || (every === undefined ? epochDone : (at + 1) % every === 0);
      if (due(options.evaluateEvery)) await evaluate(next.epoch);
      if (last || (options.explainEvery !== undefined && (at + 1) % options.explainEvery === 0)) await explain(next.epoch);
      if (due(options.checkpointEvery)) await checkpoint();
      if (last) break;
    }
  await drain();
  await trainer.finish();
  trainer.run.lr = base.lr;
  trainer.run.damping = base.damping;
  if (run.validation && evaluated?.step !== trainer.stepCount) await evaluate(order.epoch);
  const keep = options.keepBest !== false ? best : undefined;
  if (keep && keep.step !== trainer.stepCount) trainer.setWeights(keep.weights);
  const validation = keep?.metrics ?? evaluated?.metrics;
  return {
    steps: trainer.stepCount, examples: examplesAt(order), seconds: seconds(),
    loss: mean(recent),
    ...(validation ? { validation } : {}), ...(keep ? { bestStep: keep.step } : {}),
  };
}

/** More correct predictions where there is one loss and it has classes; else, or as many, a lower loss. */
function isBetter(a: Metrics, b: Metrics): boolean {
  if (!Number.isFinite(a.loss)) return false;
  const [x, y] = a.losses ? [0, 0] : [a.accuracy ?? 0, b.accuracy ?? 0];
  return x !== y ? x > y : a.loss < b.loss;
}

/** The trainer's checkpoint, the place in the data, and the best weights so far (`best/<name>`). */
export async function saveSession(trainer: Trainer, order: OrderState, best: Best | undefined, extra: Readonly<Record<string, string>>): Promise<Uint8Array> {
  const place = { dataSeed: String(order.dataSeed), epoch: String(order.epoch), position: String(order.position) };
  const bytes = await trainer.save({ ...extra, ...place, ...(best ? { best: JSON.stringify({ step: best.step, metrics: best.metrics }) } : {}) });
  if (!best) return bytes;
  const { tensors, metadata } = decode(bytes, "checkpoint");
  const kept = Object.entries(best.weights).map(([name, t]): [string, SafeTensor] => [`best/${name}`, { dtype: "F32", shape: t.shape, data: t.data }]);
  return encode({ ...tensors, ...Object.fromEntries(kept) }, metadata);
}

async function restoreSession(trainer: Trainer, bytes: Uint8Array): Promise<{ readonly order: OrderState | undefined; readonly best: Best | undefined }> {
  const metadata = await trainer.restore(bytes);
  const order = { dataSeed: Number(metadata.dataSeed), epoch: Number(metadata.epoch), position: Number(metadata.position) };
  const known = Object.values(order).every((n) => Number.isSafeInteger(n) && n >= 0);
  let best: Best | undefined;
  if (metadata.best) {
    const { tensors } = decode(bytes, "checkpoint");
    const weights = Object.entries(tensors).flatMap(([key, t]) => (key.startsWith("best/") ? [[key.slice(5), { shape: t.shape, data: t.data as Float32Array }] as const] : []));
    best = { ...(JSON.parse(metadata.best) as Omit<Best, "weights">), weights: Object.fromEntries(weights) };
  }
  return { order: known ? order : undefined, best };
}

/** All parameters and all losses on the way are finite: a run can go on from here. */
function isHealthy(bytes: Uint8Array): boolean {
  const { tensors, metadata } = decode(bytes, "checkpoint");
  if ((metadata.pending ?? "").includes('"loss":null')) return false;
  return Object.entries(tensors).every(([key, t]) => !key.startsWith("param/") || (t.data as Float32Array).every(Number.isFinite));
}
