/** What a program asks of a data set. */
import type { Artifact } from "../runtime/artifact.js";
import type { DataOptions } from "./data/dataset.js";
import type { LabelSpec } from "./data/fit.js";

export type Signature = Pick<Artifact, "inputs" | "target" | "classes" | "loss">;

/** What the loss wants as targets. */
export function labelsOf(a: Signature): LabelSpec {
  if (a.classes !== null) return { kind: "classes", count: a.classes, shape: a.target.shape };
  return { kind: "values", shape: a.target.shape, ...(a.loss === "bernoulli-ce" ? { range: [0, 1] as const } : {}) };
}

/** For `openDataset`: the program's inputs, and its targets unless they are not needed. */
export const dataSpec = (a: Signature, labels = true): DataOptions => ({
  inputs: a.inputs.map((i) => ({ name: i.name, shape: i.shape, dtype: i.dtype })),
  ...(labels ? { labels: labelsOf(a) } : {}),
});
