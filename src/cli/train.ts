/** `train`. */
import { rm } from "node:fs/promises";
import { CompileError } from "../../ir/error.js";
import { RuntimeFault } from "../../runtime/artifact.js";
import { parameters } from "../../runtime/load.js";
import { decode } from "../../runtime/safetensors.js";
import type { Trainer } from "../../runtime/trainer.js";
import { type Compiled, compile, orphanInfo, prepareFor, signature } from "../compile.js";
import { layerInfo } from "../kfac/layer.js";
import { splitExamples } from "../data/split.js";
import { readFileOr, writeAtomic } from "../files.js";
import type { OpenModel } from "../model.js";
import { type Given, Settings } from "../options.js";
import { linePlot } from "../plot.js";
import { type Progress, startProgress } from "../progress.js";
import { runTraining, type EvalRecord, type LayersRecord, type StepRecord, type TrainingOptions, type TrainingResult } from "../session.js";
import { writeTrained } from "../trained.js";
import { drownedLayers, explainTable } from "./explain.js";
import { asFault, type Io, requireWritable } from "./io.js";
import { CheckpointFile, freeName, History } from "./keep.js";
import { openData, withTrainer } from "./program.js";
import { batchesOf, compileOptions, openFor, runScalars } from "./setup.js";
import { shaped, targetFor } from "./shape.js";
import { layersJson, layerTable } from "./table.js";
import { spellMetrics } from "./use.js";

/** Flags that say where things are, not what the run is: a checkpoint does not carry them. */
const PLACES = new Set(["data", "resume", "weights-only", "out", "history", "plot", "checkpoint", "json", "debug"]);

const SILENT: Progress = { update: () => {}, note: () => {}, stop: () => {} };

export async function trainCommand(path: string, given: Settings, io: Io): Promise<void> {
  given.required("data");
  const from = given.text("resume");
  if (from === undefined && given.on("weights-only")) throw new CompileError("usage", "--weights-only goes with --resume");
  const bytes = from === undefined ? undefined : await readFileOr("missing-data", from, "check --resume");
  const whole = given.on("weights-only") ? undefined : bytes;
  // what kernels are shaped for is part of the run: it goes on with it on whatever device (before there was a choice: software)
  const stored = whole ? withStored(given, whole) : given;
  const s = stored.has("for") ? stored : new Settings({ ...stored.given, for: whole ? "software" : await targetFor(stored) });

  const model = await openFor(path, s);
  const out = checkOut(s.text("out"), model);
  const explicit = s.text("checkpoint") ?? (whole ? from : undefined);
  const keep = new CheckpointFile(explicit ?? freeName(`${model.name}.checkpoint`, ".safetensors"));
  for (const file of [out, s.text("history"), s.text("plot"), explicit ?? (out === undefined ? keep.path : undefined)]) if (file !== undefined) await requireWritable(file);

  // the data are checked before the compiler sets to work
  const { options: settings } = await shaped(compileOptions(s), s, io, true);
  const first = prepareFor(model.forward, model.forward(settings.batches[0] as number), settings.batches[0] as number, settings);
  if (!io.json) io.out(`${layerTable(first.registration.layers.map(layerInfo), orphanInfo(first.registration, first.optimizer), first.graph.params.map((p) => p.value))}\n`);
  const data = await openData(signature(first), s, io, { labels: true, split: "train" });
  const compiled = compile(model.forward, settings);
  const { artifact } = compiled;
  for (const n of [...model.notes, ...compiled.notes]) io.note(`note: ${n}`);
  const options = trainingOptions(s);
  const explains = s.on("explain") || s.has("explain-every");
  if (explains && artifact.optimizer !== "kfac") io.note(`note: --explain says nothing with --optimizer ${artifact.optimizer}: it has no curvature`);
  const split = splitExamples(data.count, data.count < 2 && !s.has("val") ? 0 : s.number("val"), options.seed);
  const weights = bytes && !whole ? parameters(artifact, bytes, `file "${from}"`) : Object.fromEntries(compiled.weights);

  const stop = new AbortController();
  const program = { artifact, sources: compiled.sources, weights };
  let progress = SILENT;
  const onEvent = (e: { layer: string; factor: number; step: number }): void => { progress.note(`note: step ${e.step}: damping of "${e.layer}" raised to ${e.factor} times`); };
  const started = whole ? Number(decode(whole, "checkpoint").metadata.step) : 0;
  const history = s.has("history") ? new History(s.text("history") as string, started) : undefined;
  const curve = new Curve();
  const warned = new Set<string>();
  const ignore = listen(stop, (text) => progress.note(text));
  let result: TrainingResult | undefined;
  try {
    result = await withTrainer(program, io, { seed: options.seed, run: runScalars(s), onEvent }, async (trainer) => {
      const perEpoch = split.train.length;
      const total = options.steps === undefined ? options.epochs * perEpoch : examplesIn(options.steps, perEpoch, options.batch);
      if (!io.json) progress = startProgress({ total, done: examplesIn(started, perEpoch, options.batch), label: "training" });
      const done = await runTraining({
        trainer, options, signal: stop.signal, train: { examples: data, pool: split.train },
        ...(split.val.length > 0 ? { validation: { examples: data, pool: split.val } } : {}),
        ...(whole ? { resume: whole } : {}),
        extra: { flags: JSON.stringify(storedFlags(s)) },
        hooks: {
          onStep: (r) => { history?.add(stepLine(r)); curve.step(r); progress.update(r.examples, r.loss); },
          onEvaluate: (r) => { history?.add(evalLine(r)); curve.evaluation(r); progress.note(`epoch ${r.epoch}, step ${r.step}: validation ${spellMetrics(r)}${r.best ? " (best)" : ""}`); },
          ...(explains ? { onLayers: (r: LayersRecord) => explainLayers(r, { history, warned, note: (text) => progress.note(text) }) } : {}),
          onCheckpoint: (state, step) => (step === 0 ? keep.hold(state, step) : keep.write(state, step)),
        },
      });
      progress.stop();
      if (out !== undefined) await finishOut(trainer, compiled, model, out, keep);
      return done;
    });
  } catch (e) {
    progress.stop();
    throw await withCheckpoint(e, keep);
  } finally {
    ignore();
    history?.close();
    if (s.has("plot")) await writeAtomic(s.text("plot") as string, curve.svg(model.name)).catch((e: unknown) => { keep.failure ??= e; });
  }
  await conclude(result, { out, explicit, keep, history, io, artifact });
}

/** Flags of the run that the checkpoint belongs to, under those given now. */
function withStored(given: Settings, bytes: Uint8Array): Settings {
  const text = decode(bytes, "checkpoint").metadata.flags;
  if (text === undefined) return given;
  try {
    return new Settings({ ...(JSON.parse(text) as Given), ...given.given });
  } catch {
    throw new RuntimeFault("bad-checkpoint", 'metadata "flags" is damaged', "checkpoint");
  }
}

const storedFlags = (s: Settings): Given => Object.fromEntries(Object.entries(s.given).filter(([name]) => !PLACES.has(name)));

function checkOut(out: string | undefined, model: OpenModel): string | undefined {
  if (out === undefined || out.endsWith(".safetensors")) return out;
  if (!out.endsWith(".onnx")) throw new CompileError("bad-option", `"${out}" ends in neither .onnx nor .safetensors`, "--out");
  if (!model.loaded) throw new CompileError("bad-option", "only a model that came from a .onnx file can be written as one", "--out", "use --out weights.safetensors");
  return out;
}

export function trainingOptions(s: Settings): TrainingOptions {
  const [steps, evaluateEvery, checkpointEvery, explainEvery] = ["steps", "eval-every", "checkpoint-every", "explain-every"].map((name) => s.optionalNumber(name));
  return {
    batch: batchesOf(s)[0] as number, epochs: s.number("epochs"), seed: s.number("seed"), shuffle: s.on("shuffle"), keepBest: s.on("keep-best"),
    schedule: { kind: s.text("lr-schedule") as "constant", warmup: s.number("warmup"), end: s.number("lr-end"), every: s.number("lr-step"), gamma: s.number("lr-gamma") },
    dampingDecay: s.number("damping-decay"),
    ...(steps === undefined ? {} : { steps }), ...(evaluateEvery === undefined ? {} : { evaluateEvery }), ...(checkpointEvery === undefined ? {} : { checkpointEvery }), ...(explainEvery === undefined ? {} : { explainEvery }),
  };
}

/** Examples visited after some steps: the last batch of an epoch is short. */
function examplesIn(steps: number, perEpoch: number, batch: number): number {
  const stepsPerEpoch = Math.ceil(perEpoch / batch);
  return Math.floor(steps / stepsPerEpoch) * perEpoch + Math.min(perEpoch, (steps % stepsPerEpoch) * batch);
}

/** The first Ctrl-C lets the step end and keeps a checkpoint; a second one ends the process. */
function listen(stop: AbortController, say: (text: string) => void): () => void {
  const onSignal = (): void => {
    if (stop.signal.aborted) process.exit(130);
    stop.abort();
    say("stopping; a checkpoint is kept (Ctrl-C again stops at once)");
  };
  const signals = ["SIGINT", "SIGTERM"] as const;
  for (const name of signals) process.on(name, onSignal);
  return () => { for (const name of signals) process.off(name, onSignal); };
}

/** Writes the model; where that fails, says how to get it out of the checkpoint. */
async function finishOut(trainer: Trainer, compiled: Compiled, model: OpenModel, out: string, keep: CheckpointFile): Promise<void> {
  const weights = await trainer.weights();
  try {
    await writeTrained(model, compiled, weights, out);
  } catch (e) {
    const safe = await keep.secure();
    const fault = asFault(e);
    throw new CompileError(fault.code, fault.message, fault.where, `${fault.hint ?? ""}${safe ? `; nothing is lost: the same command with --resume ${safe.file} and another --out writes it` : ""}`);
  }
}

/** The same error, naming the checkpoint that was kept. */
async function withCheckpoint(e: unknown, keep: CheckpointFile): Promise<unknown> {
  const fault = asFault(e);
  if (fault.hint?.includes("--resume ")) return e;
  const safe = await keep.secure();
  if (!safe) return e;
  const hint = fault.code === "interrupted" ? `go on with --resume ${safe.file}` : `${fault.hint ? `${fault.hint}; ` : ""}the last good checkpoint (step ${safe.step}) is ${safe.file}`;
  const made = new CompileError(fault.code, fault.message, fault.where, hint);
  if (e instanceof Error && e.stack) made.stack = e.stack;
  return made;
}

/** A table and warnings on standard error, a line of history. */
function explainLayers({ step, epoch, layers }: LayersRecord, to: { readonly history: History | undefined; readonly warned: Set<string>; note(text: string): void }): void {
  to.history?.add({ kind: "layers", step, epoch, layers });
  to.note(`layers at step ${step}\n${explainTable(layers)}`);
  for (const warning of drownedLayers(layers, to.warned)) to.note(`warning: ${warning}`);
}

const stepLine = ({ step, epoch, examples, loss, lr, damping, seconds }: StepRecord): object => ({ step, epoch, examples, loss, lr, damping, seconds: Number(seconds.toFixed(4)) });
const evalLine = ({ step, epoch, loss, accuracy, count, best }: EvalRecord): object => ({ step, epoch, eval: { loss, ...(accuracy === undefined ? {} : { accuracy }), count }, best });

/** The losses of this process, for the picture. */
class Curve {
  readonly #train = { x: [] as number[], y: [] as number[] };
  readonly #val = { x: [] as number[], y: [] as number[] };

  step(r: StepRecord): void {
    this.#train.x.push(r.step);
    this.#train.y.push(r.loss);
  }

  evaluation(r: EvalRecord): void {
    this.#val.x.push(r.step);
    this.#val.y.push(r.loss);
  }

  svg(title: string): string {
    const series = [{ name: "training", ...this.#train }, ...(this.#val.x.length > 0 ? [{ name: "validation", ...this.#val }] : [])];
    return linePlot({ title, xLabel: "step", yLabel: "loss", logY: [...this.#train.y, ...this.#val.y].every((v) => v > 0), series });
  }
}

interface Ending {
  readonly out: string | undefined;
  readonly explicit: string | undefined;
  readonly keep: CheckpointFile;
  readonly history: History | undefined;
  readonly io: Io;
  readonly artifact: Compiled["artifact"];
}

async function conclude(result: TrainingResult, { out, explicit, keep, history, io, artifact }: Ending): Promise<void> {
  const kept = out === undefined || explicit !== undefined;
  const safe = kept ? await keep.secure() : undefined;
  if (!kept) await rm(keep.path, { force: true });
  if (io.json) io.out(JSON.stringify({ ...result, ...(out === undefined ? {} : { out }), ...(safe ? { checkpoint: safe.file } : {}), ...layersJson(artifact.layers, artifact.orphans) }));
  else {
    io.out(`${result.steps} steps, ${result.examples} examples in ${result.seconds.toFixed(1)} s; training loss ${result.loss.toPrecision(4)}`);
    if (result.validation) io.out(`validation ${spellMetrics(result.validation)}${result.bestStep === undefined ? "" : ` (the weights of step ${result.bestStep})`}`);
    if (out !== undefined) io.out(`trained model in ${out}`);
    if (safe) io.out(`checkpoint in ${safe.file}${out === undefined ? "; with --resume and --out trained.onnx it becomes a model" : ""}`);
  }
  const failure = history?.failure ?? keep.failure;
  if (failure !== undefined) throw failure;
}
