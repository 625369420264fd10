/**
 * ResNet-20 on CIFAR-10, batch normalisation by each batch's own statistics, with K-FAC and SGD-momentum:
 *
 *   npx tsx examples/cifar-resnet/main.ts [--epochs N] [--data DIR] [--only kfac,sgd]
 *
 * Prints losses and accuracy after each epoch and writes the curves. Without the data it says what to fetch, and trains nothing.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { CompileError, layerTable, linePlot, makeFolder, openDevice, RuntimeFault, spellError, startProgress, summary, table, writeAtomic } from "kfacc";
import { BATCH, EPOCHS, OPTIMIZERS, type OptimizerName, SETTINGS, WINDOW } from "./plan.js";
import { compiled, type EpochRecord, loadPictures, type Outcome, type Pictures, PLACES, stepsPerEpoch, train } from "./training.js";

const NAMES: Record<OptimizerName, string> = { kfac: "K-FAC", sgd: "SGD-momentum" };
const OUT = join("out", "cifar-resnet");
const SEED = 1;

type Outcomes = Map<OptimizerName, Outcome>;

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { epochs: { type: "string" }, data: { type: "string" }, only: { type: "string" } } });
  if (values.epochs !== undefined && !/^[1-9]\d*$/.test(values.epochs)) throw new CompileError("bad-option", "not a whole number of at least 1", `--epochs "${values.epochs}"`);
  const wanted = values.only?.split(",") ?? OPTIMIZERS;
  const stranger = wanted.find((name) => !OPTIMIZERS.some((known) => known === name));
  if (stranger !== undefined) throw new CompileError("bad-option", `"${stranger}" is none of ${OPTIMIZERS.join(", ")}`, "--only");
  const pictures = await loadPictures(values.data);
  if (!pictures) return skip();
  const opened = await openDevice();
  try {
    for (const note of opened.notes) console.log(note);
    console.log(`running on ${opened.kind}: ${opened.name}`);
    console.log(`${pictures.folder}: ${pictures.train.count} training images, ${pictures.test.count} test images\n`);
    const outcomes: Outcomes = new Map();
    for (const name of OPTIMIZERS.filter((known) => wanted.includes(known))) outcomes.set(name, await run(opened, name, pictures, Number(values.epochs ?? EPOCHS), outcomes.size === 0));
    report(outcomes);
    await curves(outcomes);
  } finally {
    await opened.close();
  }
}

function skip(): void {
  console.log(`skipped, nothing was trained: CIFAR-10 is in none of ${PLACES.join(", ")}.
Fetch its binary version, https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz (162 MB), and put data_batch_1.bin … data_batch_5.bin and
test_batch.bin into ${PLACES[0]}, or name their folder: --data DIR.`);
}

async function run(opened: Awaited<ReturnType<typeof openDevice>>, name: OptimizerName, pictures: Pictures, epochs: number, first: boolean): Promise<Outcome> {
  const settings = SETTINGS[name];
  const c = compiled(name, settings);
  if (first) console.log(`${layerTable(c.artifact.layers, c.artifact.orphans, c.model.graph.params.map((p) => p.value))}\n`);
  console.log(`${NAMES[name]}: ${Object.entries(settings).map(([k, v]) => `${k} ${v}`).join(", ")}`);
  for (const line of summary(c)) console.log(`  ${line}`);
  const progress = startProgress({ total: epochs * stepsPerEpoch(pictures.train) * BATCH, label: NAMES[name] });
  try {
    return await train(opened, c, settings, pictures, epochs, SEED, {
      onStep: (step, loss) => progress.update(step * BATCH, loss), onEpoch: (record) => progress.note(spellEpoch(record)), note: (text) => progress.note(text),
    });
  } finally {
    progress.stop();
  }
}

const percent = (x: number): string => `${(x * 100).toFixed(1)} %`;

const spellEpoch = (r: EpochRecord): string =>
  `epoch ${r.epoch}: training loss ${r.trainLoss.toFixed(3)} over its batches, ${r.evaluatedLoss.toFixed(3)} after it; test loss ${r.testLoss.toFixed(3)}, accuracy ${percent(r.testAccuracy)}; ${r.seconds.toFixed(0)} s`;

function report(outcomes: Outcomes): void {
  const rows = [...outcomes].flatMap(([name, { epochs }]) =>
    epochs.map((r) => [NAMES[name], r.epoch, r.step, r.seconds.toFixed(0), r.trainLoss.toFixed(3), r.evaluatedLoss.toFixed(3), r.testLoss.toFixed(3), percent(r.testAccuracy)]));
  console.log(`\ntraining loss: mean over the epoch's batches, each before its step; evaluated: training images after the epoch, by running statistics\n${table(["optimizer", "epoch", "steps", "seconds", "training loss", "evaluated", "test loss", "test accuracy"], rows)}`);
}

/** What an earlier run with another --only left. */
async function earlier(): Promise<Outcomes> {
  const text = await readFile(join(OUT, "curves.json"), "utf8").catch(() => "{}");
  return new Map(Object.entries(JSON.parse(text) as Record<OptimizerName, Outcome>)) as Outcomes;
}

async function curves(now: Outcomes): Promise<void> {
  await makeFolder("out");
  await makeFolder(OUT);
  const all = new Map([...(await earlier()), ...now]);
  const outcomes: Outcomes = new Map(OPTIMIZERS.flatMap((name) => (all.has(name) ? [[name, all.get(name) as Outcome] as const] : [])));
  const title = `ResNet-20 on CIFAR-10: training loss, mean of ${WINDOW} batches of ${BATCH}`;
  for (const [file, xLabel, x] of [["loss-steps.svg", "steps", "step"], ["loss-seconds.svg", "seconds", "seconds"]] as const) {
    const series = [...outcomes].map(([name, { curve }]) => ({ name: NAMES[name], x: curve.map((p) => p[x]), y: curve.map((p) => p.loss) }));
    await writeAtomic(join(OUT, file), linePlot({ title, xLabel, yLabel: "cross-entropy, nats", series }));
  }
  await writeAtomic(join(OUT, "curves.json"), `${JSON.stringify(Object.fromEntries(outcomes), null, 1)}\n`);
  console.log(`curves: ${["loss-steps.svg", "loss-seconds.svg", "curves.json"].map((file) => join(OUT, file)).join(", ")}`);
}

try {
  await main();
} catch (e) {
  if (!(e instanceof CompileError || e instanceof RuntimeFault)) throw e;
  console.error(spellError(e));
  process.exitCode = 1;
}
