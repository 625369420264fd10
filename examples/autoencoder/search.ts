/**
 * Random searches with as many trials for every optimiser, judged by the loss of the held-back digits at the end of a run:
 *
 *   npx tsx examples/autoencoder/search.ts [trials] [--only kfac,sgd]
 *
 * Learning rate and momentum for all, damping and norm constraint for K-FAC and EKFAC. Writes search.json (every trial) after each, and goes
 * on from there when started again; hyperparameters.json holds the best of each.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openDevice, writeAtomic } from "kfacc";
import { BATCH, type OptimizerName, OPTIMIZERS, PERIODS, SEARCH_STEPS } from "./plan.js";
import { compiled, FOLDER, HELD_BACK, loadDigits, type Settings, train } from "./training.js";

interface Trial {
  readonly settings: Settings;
  /** Of the held-back digits at the end; null: the run diverged. */
  readonly loss: number | null;
  readonly squaredError: number | null;
  readonly seconds: number | null;
}
interface Search {
  readonly batch: number;
  readonly steps: typeof SEARCH_STEPS;
  readonly adapter: string;
  readonly trials: Partial<Record<OptimizerName, Trial[]>>;
}

const FILE = join(FOLDER, "search.json");

/** A small counter-based generator: trial k is the same whatever came before. */
function draw(trial: number, knob: number): number {
  let x = 0x51ed270b ^ (trial * 0x9e3779b1) ^ (knob * 0x85ebca6b);
  for (let k = 0; k < 3; k++) {
    x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
    x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  }
  return ((x ^ (x >>> 16)) >>> 0) / 4294967296;
}

const logUniform = (u: number, low: number, high: number): number => Number((low * (high / low) ** u).toPrecision(3));

/** 1 − momentum, the same range for all: momentum up to 0.999. */
const inertia = (t: number): number => logUniform(draw(t, 0), 0.001, 0.3);

/**
 * Drawn is the rate a constant gradient would reach, lr / (1 − momentum): drawn apart, most pairs with much momentum would diverge and
 * the search would be of little momentum only.
 */
const rate = (t: number, low: number, high: number): { readonly lr: number; readonly momentum: number } => {
  const rest = inertia(t);
  return { lr: Number((logUniform(draw(t, 1), low, high) * rest).toPrecision(3)), momentum: Number((1 - rest).toFixed(4)) };
};

const secondOrder = (optimizer: "kfac" | "ekfac") => (t: number): Settings => ({
  optimizer, ...rate(t, 0.1, 10), damping: logUniform(draw(t, 2), 0.1, 100), klClip: logUniform(draw(t, 3), 0.03, 30), ...PERIODS,
});
/** K-FAC and EKFAC try the same settings. */
const CANDIDATES: Record<OptimizerName, (trial: number) => Settings> = {
  kfac: secondOrder("kfac"), ekfac: secondOrder("ekfac"),
  sgd: (t) => ({ optimizer: "sgd", ...rate(t, 0.01, 1) }),
};

const { values, positionals } = parseArgs({ options: { only: { type: "string" } }, allowPositionals: true });
const trials = Number(positionals[0] ?? 8);
const wanted = OPTIMIZERS.filter((name) => values.only === undefined || values.only.split(",").includes(name));

const opened = await openDevice();
try {
  const before = await readFile(FILE, "utf8").then((text) => JSON.parse(text) as Search, () => undefined);
  const same = before?.batch === BATCH && JSON.stringify(before.steps) === JSON.stringify(SEARCH_STEPS);
  const found: Search = { batch: BATCH, steps: SEARCH_STEPS, adapter: opened.kind, trials: same ? before.trials : {} };
  const digits = await loadDigits();
  console.log(`search on ${opened.name}: ${trials} trials each, judged on ${HELD_BACK} held-back training digits`);
  for (const optimizer of wanted) {
    const list = found.trials[optimizer] ?? [];
    found.trials[optimizer] = list;
    for (let t = list.length; t < trials; t++) {
      const settings = CANDIDATES[optimizer](t);
      const trial = await tried(settings, digits);
      list.push(trial);
      console.log(JSON.stringify(trial));
      await writeAtomic(FILE, `${JSON.stringify(found, null, 1)}\n`);
    }
  }
  const best = OPTIMIZERS.flatMap((name) => {
    const [first] = [...(found.trials[name] ?? [])].sort((a, b) => (a.loss ?? Infinity) - (b.loss ?? Infinity));
    return first ? [[name, first.settings] as const] : [];
  });
  await writeAtomic(join(FOLDER, "hyperparameters.json"), `${JSON.stringify(Object.fromEntries(best), null, 2)}\n`);
} finally {
  await opened.close();
}

async function tried(settings: Settings, digits: Awaited<ReturnType<typeof loadDigits>>): Promise<Trial> {
  try {
    const { loss, squaredError, seconds } = (await train(opened, compiled(settings), digits, SEARCH_STEPS[settings.optimizer], 1, false)).final;
    return { settings, loss, squaredError, seconds };
  } catch (e) {
    if ((e as { code?: string }).code !== "diverged") throw e;
    return { settings, loss: null, squaredError: null, seconds: null };
  }
}
