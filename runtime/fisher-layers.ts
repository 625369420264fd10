/** What an estimate of the Fisher consists of. */
import type { LayerInfo } from "./artifact.js";
import type { KroneckerLayer } from "./kronecker.js";

/** What the numbers of an estimate are; written into its file. */
export const CONVENTIONS = {
  mean: "sums over examples of weight times value, divided by the sum of the weights",
  A: "sum over an example's positions of a·aᵀ; a = a row of the layer's input (convolutions: channel, row, column), with a last 1 where the layer has a bias",
  G: "sum over an example's positions and the Fisher's samples of g·gᵀ, divided by positions and samples; g = derivative of one example's loss by the layer's output",
  reduce: "layers with sharing reduce: a is averaged and g summed over an example's positions first",
  product: "a layer's Fisher maps V to G·V·A; V [out, in] with the bias as last column",
  F: "block layers: sum over samples of u·uᵀ divided by samples; u = derivative of one example's loss by a group's numbers in the order (out, in)",
  stored: "a leading axis where a layer has several groups; a diagonal side as its diagonal",
  matrix: "element (group, out, in) of V is element offset + Σ digit · stride of the parameter; digits are [count, stride], fastest first",
} as const;

export interface EstimateInfo {
  readonly model: string;
  /** data: a mean over a data set at fixed weights · running: a trainer's running average. */
  readonly source: "data" | "running";
  readonly fisher: { readonly kind: string; readonly samples: number };
  readonly losses: readonly { readonly output: string; readonly loss: string; readonly weight: number }[];
  /** Examples, and the sum of their weights; null for running averages. */
  readonly examples: number | null;
  readonly count: number | null;
}

export interface LayerFactors {
  /** [in(+1), in(+1)], or [in(+1)] if diagonal; with a leading axis of groups where there are several. Absent on block layers. */
  readonly A?: { readonly shape: readonly number[]; readonly data: Float64Array };
  /** [out, out], or [out]. */
  readonly G?: { readonly shape: readonly number[]; readonly data: Float64Array };
  /** Block layers: [out·in, out·in] per group. */
  readonly F?: { readonly shape: readonly number[]; readonly data: Float64Array };
}

/** A layer with its factors. */
export type EstimatedLayer = LayerInfo & Pick<KroneckerLayer, "A" | "G" | "F">;

/** [groups, d, d] or [groups, d], without the axis of a single group. */
export function factorShape(l: LayerInfo, part: "A" | "G" | "F"): number[] {
  const d = part === "F" ? l.dG * l.dA : part === "A" ? l.dA : l.dG;
  return [...(l.groups > 1 ? [l.groups] : []), ...(part !== "F" && l.sides[part] === "diagonal" ? [d] : [d, d])];
}

export const partsOf = (l: Pick<LayerInfo, "form">): readonly ("A" | "G" | "F")[] => (l.form === "block" ? ["F"] : ["A", "G"]);
