/** The data, and one run on them. */
import { join } from "node:path";
import { batches, COMPILE_DEFAULTS, CONSTANT, CompileError, compile, type Compiled, evaluatePart, type Examples, openDataset, type openDevice, rateAt, RuntimeFault, type Schedule, toBatch, Trainer } from "kfacc";
import { toForward } from "kfacc/dsl";
import resnet from "./model.js";
import { BATCH, LOOKED_AT, type OptimizerName, type Settings, TEST_IMAGES, TRAIN_IMAGES, WINDOW } from "./plan.js";

const SCHEDULE: Schedule = { ...CONSTANT, kind: "cosine" };
/** Steps whose losses are waited for later, so that the device always has work. */
const IN_FLIGHT = 3;
const PLANE = 32 * 32;
const CHANNELS = 3;

export interface Pictures {
  readonly folder: string;
  readonly train: Examples;
  readonly test: Examples;
}

/** Where the data are looked for when nobody names them. */
export const PLACES = [join("data", "cifar10"), join("..", "shared", "data", "cifar10")] as const;

/**
 * The first images of both halves, each channel with the mean 0 and the deviation 1 of the training images; undefined where there are none.
 *
 * @throws CompileError as `openDataset`; also "missing-data" where `named` is not there.
 */
export async function loadPictures(named: string | undefined): Promise<Pictures | undefined> {
  for (const folder of named === undefined ? PLACES : [named]) {
    const open = async (split: "train" | "test", count: number): Promise<Examples> =>
      first(await openDataset(folder, { inputs: [{ name: "image", shape: [CHANNELS, 32, 32], dtype: "f32" }], labels: { kind: "classes", count: 10 }, split }), count);
    try {
      const [train, test] = [await open("train", TRAIN_IMAGES), await open("test", TEST_IMAGES)];
      normalize(train, test);
      return { folder, train, test };
    } catch (e) {
      if (named !== undefined || !(e instanceof CompileError) || e.code !== "missing-data") throw e;
    }
  }
  return undefined;
}

function first({ inputs, target, count }: Examples, wanted: number): Examples {
  const [{ shape, data }, kept] = [inputs.image as NonNullable<typeof inputs.image>, Math.min(count, wanted)];
  return { count: kept, inputs: { image: { shape, data: data.slice(0, kept * CHANNELS * PLANE) } }, ...(target && { target: { ...target, data: target.data.slice(0, kept) } }) };
}

/** In place; mean and deviation of each channel over the training images, in float64. */
function normalize(train: Examples, test: Examples): void {
  const planes = function* ({ inputs, count }: Examples, channel: number): Generator<Float32Array> {
    const { data } = inputs.image as { readonly data: Float32Array };
    for (let n = 0; n < count; n++) yield data.subarray((n * CHANNELS + channel) * PLANE, (n * CHANNELS + channel + 1) * PLANE);
  };
  for (let channel = 0; channel < CHANNELS; channel++) {
    let [sum, squares] = [0, 0];
    for (const plane of planes(train, channel))
      for (const v of plane) {
        sum += v;
        squares += v * v;
      }
    const mean = sum / (train.count * PLANE);
    const deviation = Math.sqrt(squares / (train.count * PLANE) - mean ** 2);
    for (const half of [train, test]) for (const plane of planes(half, channel)) plane.forEach((v, k) => { plane[k] = (v - mean) / deviation; });
  }
}

export function compiled(optimizer: OptimizerName, settings: Settings): Compiled {
  const { factorPeriod, inversePeriod, warmup: _, ...run } = settings;
  return compile((batch) => toForward(resnet, batch), {
    ...COMPILE_DEFAULTS, optimizer, batches: [BATCH], run,
    host: { ...(factorPeriod === undefined ? {} : { factorPeriod }), ...(inversePeriod === undefined ? {} : { inversePeriod }) },
  });
}

/** A point of the curves: the mean loss of the last `WINDOW` batches, each before its step. */
export interface Point {
  readonly step: number;
  /** Of training alone: without looks at the loss, and without the first step, which compiles kernels. */
  readonly seconds: number;
  readonly loss: number;
}

/** At the end of an epoch. */
export interface EpochRecord {
  readonly epoch: number;
  readonly step: number;
  readonly seconds: number;
  /** Mean over the epoch's batches, each before its step and by its own statistics. */
  readonly trainLoss: number;
  /** Of training images after the epoch, in evaluation mode (by the running statistics). */
  readonly evaluatedLoss: number;
  readonly testLoss: number;
  readonly testAccuracy: number;
}

export interface Outcome {
  readonly settings: Settings;
  readonly curve: readonly Point[];
  readonly epochs: readonly EpochRecord[];
}

export interface Hooks {
  readonly onStep?: (step: number, loss: number) => void;
  readonly onEpoch?: (record: EpochRecord) => void;
  readonly note?: (text: string) => void;
}

const mean = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0) / list.length;

/** Whole batches only: a shorter one would be normalised by the statistics of fewer images. */
export const stepsPerEpoch = (examples: Examples): number => Math.floor(examples.count / BATCH);

/**
 * Trains from the model's first weights, the learning rate falling along a cosine.
 *
 * @throws RuntimeFault "diverged" if a loss is no longer finite.
 */
export async function train(opened: Awaited<ReturnType<typeof openDevice>>, c: Compiled, settings: Settings, { train: data, test }: Pictures, epochs: number, seed: number, hooks: Hooks = {}): Promise<Outcome> {
  const trainer = await Trainer.create(opened.device, c.artifact, c.sources, Object.fromEntries(c.weights), {
    seed, adapter: opened.name, onEvent: (e) => hooks.note?.(`step ${e.step}: damping of ${e.layer} × ${e.factor}, its factors could not be inverted`),
  });
  try {
    const perEpoch = stepsPerEpoch(data);
    const total = epochs * perEpoch;
    const losses: number[] = [];
    const curve: Point[] = [];
    const records: EpochRecord[] = [];
    const inFlight: Promise<number>[] = [];
    let [seconds, started] = [0, performance.now()];
    const now = (): number => seconds + (performance.now() - started) / 1000;
    const report = async (): Promise<void> => {
      const loss = (await inFlight.shift()) as number;
      if (!Number.isFinite(loss)) throw new RuntimeFault("diverged", `the loss is ${loss}`, `step ${losses.length + 1}`);
      losses.push(loss);
      if (losses.length % WINDOW === 0 || losses.length === total) curve.push({ step: losses.length, seconds: now(), loss: mean(losses.slice(-WINDOW)) });
      hooks.onStep?.(losses.length, loss);
    };
    const pool = Uint32Array.from({ length: perEpoch * BATCH }, (_, k) => k);
    for (const { batch, epochDone, next } of batches(data, { size: BATCH, state: { dataSeed: seed, epoch: 0, position: 0 }, pool })) {
      const at = trainer.stepCount;
      trainer.run.lr = settings.lr * rateAt({ ...SCHEDULE, warmup: settings.warmup }, at, total, perEpoch);
      inFlight.push(trainer.step(toBatch(batch)).loss);
      if (inFlight.length > IN_FLIGHT || at === 0) await report();
      if (at === 0) started = performance.now();
      if (!epochDone) continue;
      while (inFlight.length > 0) await report();
      seconds = now();
      const looked = at + 1 === total ? pool : pool.subarray(0, LOOKED_AT);
      const [again, held] = [await evaluatePart(trainer, { examples: data, pool: looked }), await evaluatePart(trainer, { examples: test })];
      const record = { epoch: next.epoch, step: at + 1, seconds, trainLoss: mean(losses.slice(-perEpoch)), evaluatedLoss: again.loss, testLoss: held.loss, testAccuracy: held.accuracy ?? Number.NaN };
      records.push(record);
      hooks.onEpoch?.(record);
      if (at + 1 === total) break;
      started = performance.now();
    }
    await trainer.finish();
    return { settings, curve, epochs: records };
  } finally {
    await trainer.dispose();
  }
}
