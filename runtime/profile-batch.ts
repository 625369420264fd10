/** A batch of random numbers that a program takes: what a profile runs on. Browser-safe. */
import { type Artifact, targetsOf } from "./artifact.js";
import { philox } from "./batches.js";
import type { Batch, Tensor } from "./tensors.js";

/**
 * `count` examples: floats uniform in [−1, 1), whole numbers below the smallest table that an embedding looks them up in (2 if there is
 * none, so that masks are masks), labels among the classes, other targets in [0, 1). Equal seeds give equal batches.
 */
export function randomBatch(artifact: Artifact, count: number, seed: number): Batch {
  const next = uniform(seed);
  const tables = artifact.layers.flatMap((l) => (l.kind === "embed" ? [l.dA] : []));
  const rows = tables.length > 0 ? Math.min(...tables) : 2;
  const fill = (shape: readonly number[], dtype: "f32" | "i32", value: () => number): Tensor => {
    const length = shape.reduce((n, d) => n * d, 1);
    return { shape, data: (dtype === "i32" ? new Int32Array(length) : new Float32Array(length)).map(value) };
  };
  const inputs = artifact.inputs.map((i): [string, Tensor] => {
    const shape = i.examples === null ? i.shape : [...i.shape.slice(0, i.examples), count, ...i.shape.slice(i.examples)];
    return [i.name, fill(shape, i.dtype, i.dtype === "i32" ? () => Math.floor(next() * rows) : () => 2 * next() - 1)];
  });
  const targets = targetsOf(artifact).map((t): [string, Tensor] => {
    const classes = t.classes;
    return [t.output, fill([count, ...t.shape], t.dtype, classes === null ? (t.dtype === "i32" ? () => 0 : next) : () => Math.floor(next() * classes))];
  });
  return { ...Object.fromEntries(inputs), target: targets.length === 1 ? (targets[0] as [string, Tensor])[1] : Object.fromEntries(targets) };
}

/** Numbers in [0, 1), four from each draw. */
function uniform(seed: number): () => number {
  let [draws, words] = [0, [] as number[]];
  return () => {
    if (words.length === 0) words = philox([draws++, 0, 0, 0], [seed >>> 0, 0]);
    return ((words.pop() as number) >>> 8) * 2 ** -24;
  };
}
