/**
 * The deep autoencoder on the real MNIST digits, with K-FAC, EKFAC and SGD-momentum:
 *
 *   npx tsx examples/autoencoder/main.ts [--steps N] [--only kfac,sgd]
 *
 * Settings are those that search.ts found. Prints the reconstruction error on held-back digits against steps and seconds, and writes the
 * curves. `--steps` shortens or lengthens every run.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { layerTable, linePlot, makeFolder, openDevice, startProgress, summary, table, writeAtomic } from "kfacc";
import { BATCH, type OptimizerName, OPTIMIZERS, STEPS } from "./plan.js";
import { compiled, FOLDER, HELD_BACK, loadDigits, type Outcome, type Settings, train } from "./training.js";

const NAMES: Record<OptimizerName, string> = { kfac: "K-FAC", ekfac: "EKFAC", sgd: "SGD-momentum" };
const OUT = join("out", "autoencoder");

type Outcomes = ReadonlyMap<OptimizerName, Outcome>;

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { steps: { type: "string" }, only: { type: "string" } } });
  const chosen = JSON.parse(await readFile(join(FOLDER, "hyperparameters.json"), "utf8")) as Partial<Record<OptimizerName, Settings>>;
  if (values.steps !== undefined && !/^[1-9]\d*$/.test(values.steps)) throw new Error(`--steps "${values.steps}" is not a whole number of at least 1`);
  const wanted = values.only?.split(",") ?? OPTIMIZERS;
  const runs = OPTIMIZERS.flatMap((name) => (wanted.includes(name) && chosen[name] ? [chosen[name]] : []));
  const opened = await openDevice();
  try {
    for (const note of opened.notes) console.log(note);
    console.log(`running on ${opened.kind}: ${opened.name}`);
    const digits = await loadDigits();
    console.log(`${digits.pool.length} training digits, ${digits.heldBack.length} held back, ${digits.test.count} test digits\n`);
    const outcomes = new Map<OptimizerName, Outcome>();
    for (const settings of runs) {
      const name = NAMES[settings.optimizer];
      const steps = values.steps === undefined ? STEPS[settings.optimizer] : Number(values.steps);
      const c = compiled(settings);
      if (outcomes.size === 0) console.log(`${layerTable(c.artifact.layers, c.artifact.orphans, c.model.graph.params.map((p) => p.value))}\n`);
      console.log(`${name}: ${Object.entries(settings).filter(([k]) => k !== "optimizer").map(([k, v]) => `${k} ${v}`).join(", ")}`);
      for (const line of summary(c)) console.log(`  ${line}`);
      const progress = startProgress({ total: steps * BATCH, label: name });
      try {
        outcomes.set(settings.optimizer, await train(opened, c, digits, steps, 1, true, { onStep: (step, loss) => progress.update(step * BATCH, loss), note: (text) => progress.note(text) }));
      } finally {
        progress.stop();
      }
    }
    report(outcomes);
    await curves(outcomes);
  } finally {
    await opened.close();
  }
}

function report(outcomes: Outcomes): void {
  const rows = [...outcomes].map(([name, { final, test }]) =>
    [NAMES[name], final.step, final.step * BATCH, final.seconds.toFixed(1), final.loss.toFixed(2), final.squaredError.toFixed(3), test?.loss.toFixed(2) ?? "", test?.squaredError.toFixed(3) ?? ""]);
  console.log(`\nmeans per image: cross-entropy in nats, and Σ over pixels of (reconstruction − image)²; on ${HELD_BACK} held-back and 10,000 test digits\n${table(["optimizer", "steps", "examples", "seconds", "loss", "squared", "test loss", "test squared"], rows)}`);
}

async function curves(outcomes: Outcomes): Promise<void> {
  await makeFolder("out");
  await makeFolder(OUT);
  const title = "Deep autoencoder on MNIST: squared reconstruction error of held-back digits";
  for (const [file, xLabel, x] of [["error-steps.svg", "steps", "step"], ["error-seconds.svg", "seconds", "seconds"]] as const) {
    const series = [...outcomes].map(([name, { judged }]) => ({ name: NAMES[name], x: judged.map((j) => j[x]), y: judged.map((j) => j.squaredError) }));
    await writeAtomic(join(OUT, file), linePlot({ title, xLabel, yLabel: "Σ (reconstruction − image)² per image", logY: true, series }));
  }
  await writeAtomic(join(OUT, "curves.json"), `${JSON.stringify(Object.fromEntries(outcomes), null, 1)}\n`);
  console.log(`curves: ${["error-steps.svg", "error-seconds.svg", "curves.json"].map((file) => join(OUT, file)).join(", ")}`);
}

await main();
