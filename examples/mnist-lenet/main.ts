/**
 * `npm start`: LeNet-5 exported by PyTorch, trained on the real MNIST digits with K-FAC and with SGD-momentum on as many examples;
 * prints how soon each reached 95 % and 97 %, and writes the loss curves.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { layerTable, linePlot, makeFolder, openDevice, startProgress, summary, table, writeAtomic } from "kfacc";
import { BATCH, compiled, FOLDER, HELD_BACK, loadDigits, type Outcome, type Settings, train } from "./demo.js";
import { STEPS, THRESHOLDS } from "./plan.js";

const NAMES = { kfac: "K-FAC", sgd: "SGD-momentum" } as const;
const OUT = join("out", "mnist-lenet");

async function main(): Promise<void> {
  const opened = await openDevice();
  try {
    for (const note of opened.notes) console.log(note);
    console.log(`running on ${opened.kind}: ${opened.name}`);
    const chosen = JSON.parse(await readFile(join(FOLDER, "hyperparameters.json"), "utf8")) as Record<"kfac" | "sgd", Settings>;
    const digits = await loadDigits();
    console.log(`${digits.pool.length} training digits, ${digits.heldBack.length} held back, ${digits.test.count} test digits\n`);
    const outcomes: Partial<Record<"kfac" | "sgd", Outcome>> = {};
    for (const optimizer of ["kfac", "sgd"] as const) {
      const settings = chosen[optimizer];
      const c = await compiled(settings);
      if (optimizer === "kfac") console.log(`${layerTable(c.artifact.layers, c.artifact.orphans, c.model.graph.params.map((p) => p.value))}\n`);
      console.log(`${NAMES[optimizer]}: ${Object.entries(settings).filter(([k]) => k !== "optimizer").map(([k, v]) => `${k} ${v}`).join(", ")}`);
      for (const line of summary(c)) console.log(`  ${line}`);
      const progress = startProgress({ total: STEPS * BATCH, label: NAMES[optimizer] });
      try {
        outcomes[optimizer] = await train(opened, c, digits, STEPS, 1, true, { onStep: (r) => progress.update(r.examples, r.loss), note: (text) => progress.note(text) });
      } finally {
        progress.stop();
      }
    }
    report(outcomes as Record<"kfac" | "sgd", Outcome>);
    await curves(outcomes as Record<"kfac" | "sgd", Outcome>);
  } finally {
    await opened.close();
  }
}

function report(outcomes: Record<"kfac" | "sgd", Outcome>): void {
  const rows: (string | number)[][] = [];
  for (const optimizer of ["kfac", "sgd"] as const) {
    const o = outcomes[optimizer];
    for (const threshold of THRESHOLDS) {
      const hit = o.judged.find((j) => (j.accuracy ?? 0) >= threshold);
      rows.push([NAMES[optimizer], `${threshold * 100} %`, ...(hit ? [`${hit.step}`, `${hit.examples}`, hit.seconds.toFixed(1)] : ["not reached", "", ""])]);
    }
  }
  console.log(`\nfirst reached on the ${HELD_BACK} held-back digits, judged every 50 steps:\n${table(["optimizer", "accuracy", "steps", "examples", "seconds"], rows)}`);
  for (const optimizer of ["kfac", "sgd"] as const) {
    const o = outcomes[optimizer];
    console.log(`${NAMES[optimizer]} after ${o.steps.length} steps (${o.steps.length * BATCH} examples, ${o.seconds.toFixed(1)} s): ${percent(o.test?.accuracy)} of the 10,000 test digits right, test loss ${o.test?.loss.toFixed(4)}`);
  }
}

const percent = (x: number | undefined): string => `${((x ?? 0) * 100).toFixed(2)} %`;

/** Mean of the last 20 losses: single batches of 64 jump too much to compare by eye. */
function smooth(losses: readonly number[]): number[] {
  return losses.map((_, k) => {
    const window = losses.slice(Math.max(0, k - 19), k + 1);
    return window.reduce((a, b) => a + b, 0) / window.length;
  });
}

async function curves(outcomes: Record<"kfac" | "sgd", Outcome>): Promise<void> {
  await makeFolder("out");
  await makeFolder(OUT);
  for (const [file, xLabel, x] of [["loss-steps.svg", "steps", "step"], ["loss-examples.svg", "examples", "examples"]] as const) {
    const series = (["kfac", "sgd"] as const).map((optimizer) => {
      const { steps } = outcomes[optimizer];
      return { name: NAMES[optimizer], x: steps.map((s) => s[x]), y: smooth(steps.map((s) => s.loss)) };
    });
    await writeAtomic(join(OUT, file), linePlot({ title: "LeNet-5 on MNIST: training loss (mean of 20 steps)", xLabel, yLabel: "loss", logY: true, series }));
  }
  console.log(`curves: ${join(OUT, "loss-steps.svg")}, ${join(OUT, "loss-examples.svg")}`);
}

await main();
