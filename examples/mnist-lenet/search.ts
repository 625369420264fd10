/**
 * Searches of equal size for both optimisers, judged on the held-back digits alone: fewest steps to 97 %, then the lower loss at the end:
 *
 *   node dist/examples/mnist-lenet/search.js [trials]
 *
 * Random search over learning rate, damping and norm constraint for K-FAC, learning rate and momentum for SGD. Writes search.json (every trial) and hyperparameters.json (the best of each) beside model.onnx.
 */
import { join } from "node:path";
import { openDevice, writeAtomic } from "kfacc";
import { compiled, FOLDER, HELD_BACK, loadDigits, type Settings, train } from "./demo.js";
import { STEPS, THRESHOLDS } from "./plan.js";

interface Trial {
  readonly settings: Settings;
  /** Steps to the demo's last threshold; null: not reached. */
  readonly reached: number | null;
  readonly accuracy: number;
  readonly loss: number;
}

/** A small counter-based generator: trial k is the same whatever came before. */
function draw(optimizer: string, trial: number, knob: number): number {
  let x = (optimizer === "kfac" ? 0x51ed270b : 0x2545f491) ^ (trial * 0x9e3779b1) ^ (knob * 0x85ebca6b);
  for (let k = 0; k < 3; k++) {
    x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
    x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  }
  return ((x ^ (x >>> 16)) >>> 0) / 4294967296;
}

const logUniform = (u: number, low: number, high: number): number => Number((low * (high / low) ** u).toPrecision(3));

const CANDIDATES: Record<Settings["optimizer"], (trial: number) => Settings> = {
  kfac: (t) => ({ optimizer: "kfac", momentum: 0.9, lr: logUniform(draw("kfac", t, 0), 0.01, 0.3), damping: logUniform(draw("kfac", t, 1), 0.003, 0.3), klClip: logUniform(draw("kfac", t, 2), 0.0003, 0.03) }),
  sgd: (t) => ({ optimizer: "sgd", lr: logUniform(draw("sgd", t, 0), 0.003, 0.3), momentum: Number((1 - logUniform(draw("sgd", t, 1), 0.02, 0.3)).toFixed(3)) }),
};

const trials = Number(process.argv[2] ?? 16);
const digits = await loadDigits();
const opened = await openDevice();
console.log(`search on ${opened.name}: ${trials} trials each, ${STEPS} steps, judged on ${HELD_BACK} held-back training digits`);
const found: Record<string, Trial[]> = { kfac: [], sgd: [] };
try {
  for (const optimizer of ["kfac", "sgd"] as const)
    for (let t = 0; t < trials; t++) {
      const settings = CANDIDATES[optimizer](t);
      let trial: Trial = { settings, reached: null, accuracy: 0, loss: Number.MAX_VALUE };
      try {
        const { final, judged } = await train(opened, await compiled(settings), digits, STEPS, 1, false);
        const hit = judged.find((j) => (j.accuracy ?? 0) >= (THRESHOLDS.at(-1) ?? 1));
        trial = { settings, reached: hit?.step ?? null, accuracy: final.accuracy ?? 0, loss: final.loss };
      } catch (e) {
        if ((e as { code?: string }).code !== "diverged") throw e;
      }
      found[optimizer]?.push(trial);
      console.log(JSON.stringify(trial));
    }
} finally {
  await opened.close();
}
const best = (list: readonly Trial[]): Trial => [...list].sort((a, b) => (a.reached ?? Number.MAX_VALUE) - (b.reached ?? Number.MAX_VALUE) || a.loss - b.loss)[0] as Trial;
await writeAtomic(join(FOLDER, "search.json"), `${JSON.stringify({ steps: STEPS, trials, adapter: opened.kind, ...found }, null, 1)}\n`);
await writeAtomic(join(FOLDER, "hyperparameters.json"), `${JSON.stringify({ kfac: best(found.kfac ?? []).settings, sgd: best(found.sgd ?? []).settings }, null, 2)}\n`);
