/** What a program asks of a data set. */
import type { Artifact, TargetInfo } from "../runtime/artifact.js";
import type { DataOptions } from "./data/dataset.js";
import type { LabelSpec } from "./data/fit.js";

export type Signature = Pick<Artifact, "inputs" | "target" | "classes" | "loss" | "targets">;

/** What one loss wants as targets. */
function labels({ dtype, shape, classes, loss }: Pick<TargetInfo, "dtype" | "shape" | "classes" | "loss">): LabelSpec {
  if (classes !== null) return { kind: "classes", count: classes, shape };
  return { kind: "values", shape, ...(loss === "bernoulli-ce" ? { range: [0, 1] as const } : {}), ...(dtype === "i32" ? { dtype } : {}) };
}

/** What the first loss wants as targets. */
export const labelsOf = (a: Signature): LabelSpec => labels({ ...a.target, classes: a.classes, loss: a.loss });

/** For `openDataset`: the program's inputs, and its targets unless they are not needed. */
export const dataSpec = (a: Signature, wanted = true): DataOptions => ({
  inputs: a.inputs.map((i) => ({ name: i.name, shape: i.shape, dtype: i.dtype })),
  ...(a.targets ? { heads: a.targets.map((t) => ({ output: t.output, ...(wanted ? { labels: labels(t) } : {}) })) } : wanted ? { labels: labelsOf(a) } : {}),
});
