/**
 * A few training steps of any compiled module on made-up data, the same in a browser and in Node:
 *
 *   node examples/browser/steps.mjs build/ [STEPS]
 */

/** Numbers in [-1, 1), the same for the same seed everywhere: integer arithmetic alone (mulberry32). */
export function noise(seed) {
  let s = seed;
  return () => {
    s = (s + 0x6d2b79f5) | 0;
    let t = Math.imul(s ^ (s >>> 15), s | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1;
  };
}

/** A batch the model can learn: every class has a pattern of its own, and an example is its class's pattern plus noise. */
function madeUpBatch({ inputs, target, classes }, count, seed) {
  const label = (k) => (classes === null ? 0 : k % classes);
  const random = noise(seed);
  const batch = {};
  for (const { name, shape, examples, dtype } of inputs) {
    const full = examples === null ? shape : [...shape.slice(0, examples), count, ...shape.slice(examples)];
    const inner = shape.slice(examples ?? 0).reduce((n, d) => n * d, 1);
    const patterns = Array.from({ length: classes ?? 1 }, (_, c) => {
      const own = noise(1000 + c);
      return Float32Array.from({ length: inner }, own);
    });
    const size = full.reduce((n, d) => n * d, 1);
    const value = (k) => (examples === null ? random() : 0.5 * patterns[label(Math.floor(k / inner) % count)][k % inner] + 0.5 * random());
    batch[name] = { shape: full, data: dtype === "i32" ? new Int32Array(size) : Float32Array.from({ length: size }, (_, k) => value(k)) };
  }
  const shape = [count, ...target.shape];
  const size = shape.reduce((n, d) => n * d, 1);
  const data = target.dtype === "i32" ? Int32Array.from({ length: size }, (_, k) => label(Math.floor((k * count) / size))) : Float32Array.from({ length: size }, () => 0.5 + 0.5 * random());
  return { inputs: batch, target: { shape, data } };
}

/**
 * Trains, predicts and saves.
 *
 * @param load the compiled module's `load`
 * @param plan its plan.json, for the names and shapes of what it takes
 * @returns losses per step, the first output's name and head, the checkpoint's bytes, seconds
 */
export async function run(load, plan, { steps = 20, seed = 1, options = {}, onStep = () => {} } = {}) {
  const started = performance.now();
  const trainer = await load({ seed, ...options });
  const loaded = performance.now();
  const count = trainer.batches[0];
  const losses = [];
  for (let k = 0; k < steps; k++) {
    const { inputs, target } = madeUpBatch(plan, count, seed + k);
    losses.push(await trainer.step({ ...inputs, target }).loss);
    onStep(k + 1, losses[k]);
  }
  const stepped = performance.now();
  const outputs = await trainer.predict(madeUpBatch(plan, count, seed + steps).inputs);
  const checkpoint = await trainer.save();
  await trainer.dispose();
  return { losses, outputs, checkpoint, seconds: { load: (loaded - started) / 1000, steps: (stepped - loaded) / 1000 } };
}

if (globalThis.process?.argv?.[1]?.endsWith("steps.mjs")) {
  const { readFile } = await import("node:fs/promises");
  const { pathToFileURL } = await import("node:url");
  const base = pathToFileURL(`${process.argv[2]}/`);
  const { load } = await import(new URL("index.js", base).href);
  const plan = JSON.parse(await readFile(new URL("plan.json", base), "utf8"));
  await run(load, plan, { steps: Number(process.argv[3] ?? 20), onStep: (k, loss) => console.log(`step ${k}  loss ${loss}`) });
}
