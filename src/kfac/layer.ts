/**
 * What a registered layer is: per example and position, an input row a and an output cotangent g, at one or more sites.
 * Nothing after registration asks for a layer's kind; the kind is for the table.
 */
import type { Value } from "../../ir/graph.js";
import type { MatrixDigits, LayerInfo } from "../../runtime/artifact.js";

export type LayerKindName = "dense" | "conv" | "convT" | "embed" | "norm";
/** Each kind as documented: how it looks in a graph, and the curvature it gets. */
export const KIND_DOCS: Readonly<Record<LayerKindName, { readonly found: string; readonly curvature: string }>> = {
  dense: { found: "any product with a weight: Gemm, MatMul + Add, any leading axes (sequences, attention projections), weights transposed, reshaped, constant, or sliced (each part is a layer)", curvature: "A ⊗ G" },
  conv: { found: "1-D, 2-D, 3-D, strides, asymmetric and auto pads, dilation, 1×1, bias by a separate Add; with groups or depthwise one exact (A, G) pair per group", curvature: "A ⊗ G over patches" },
  convT: { found: "transposed convolutions, output padding, groups, dilation", curvature: "A ⊗ G over the zero-stuffed input" },
  embed: { found: "Gather of a table", curvature: "diagonal A (token counts) ⊗ G" },
  norm: { found: "scale and shift of Batch-, Layer-, Group-, Instance-, RMS-norm, however spelled; any learned elementwise gain", curvature: "exact 2×2 (or 1×1) Fisher block per channel" },
};
export const LAYER_KINDS = Object.keys(KIND_DOCS) as readonly LayerKindName[];

/**
 * A value's axes by role, each list in the order of the matrix form: as a matrix it is [groups.., positions.., features..] with each
 * role's axes merged. Examples are among the positions.
 */
export interface Rows {
  readonly value: Value;
  readonly groups: readonly number[];
  readonly positions: readonly number[];
  readonly features: readonly number[];
}

/** One use of the weight. */
export interface Site {
  /** The user's name of the node. */
  readonly node: string;
  /** Positions per example. */
  readonly T: number;
  /** The weight is used the other way round than it is stored: here g rows count as rows of A and input rows as rows of G. */
  readonly transposed: boolean;
  /** ā ends in a 1: the layer's bias is added here. */
  readonly ones: boolean;
  readonly input: Rows;
  /** The result of the matched node; its cotangent has the same axes. */
  readonly output: Rows;
}

export type Sharing = "expand" | "reduce";
export type SideForm = "full" | "diagonal";

/** A view of a parameter and which of its axes are groups, outputs and inputs; matrix form [groups, out, in]. */
export interface ParamView {
  readonly param: Value;
  readonly view: Value;
  readonly groups: readonly number[];
  readonly out: readonly number[];
  readonly in: readonly number[];
}

/** A bias as [groups · out] numbers: reshaped to `counts` and permuted by `perm` it is in the order of its view's elements. */
export interface BiasView {
  readonly param: Value;
  readonly view: Value;
  readonly counts: readonly number[];
  readonly perm: readonly number[];
}

export interface Layer {
  /** The weight's name; of a part of a weight: with the range behind it. */
  readonly name: string;
  readonly kind: LayerKindName;
  /** kronecker: A ⊗ G per group · block: one exact Fisher block per group over its out·in numbers. */
  readonly form: "kronecker" | "block";
  /** reduce: ā is averaged and g summed over an example's positions before outer products. */
  readonly sharing: Sharing;
  readonly sides: { readonly A: SideForm; readonly G: SideForm };
  readonly weight: ParamView;
  readonly bias: BiasView | undefined;
  readonly sites: readonly Site[];
  readonly groups: number;
  /** Positions per example, all sites together. */
  readonly T: number;
  /** Inputs, and 1 for the bias. */
  readonly dA: number;
  readonly dG: number;
  /** Where the numbers of the matrix form are in the parameters. */
  readonly matrix: { readonly weight: MatrixDigits; readonly bias: MatrixDigits | null };
}

export interface Orphan {
  readonly param: string;
  readonly reason: string;
  /** A diagonal Fisher moves it. */
  readonly diagonal?: boolean;
}

export interface Registration {
  readonly layers: readonly Layer[];
  readonly orphans: readonly Orphan[];
}

export const layerInfo = (l: Layer): LayerInfo => ({
  name: l.name, kind: l.kind, form: l.form, sharing: l.sharing, sides: l.sides,
  params: { weight: l.weight.param.name, bias: l.bias?.param.name ?? null }, sites: l.sites.length,
  siteDetails: l.sites.map((s) => ({ node: s.node, T: s.T, transposed: s.transposed })),
  T: l.T, groups: l.groups, dA: l.dA, dG: l.dG, matrix: l.matrix,
});

/** The layer with every value exchanged: for graphs that are copies of the one it was found in. */
export const mapLayer = (l: Layer, of: (v: Value) => Value): Layer => ({
  ...l, weight: { ...l.weight, param: of(l.weight.param), view: of(l.weight.view) },
  bias: l.bias && { ...l.bias, param: of(l.bias.param), view: of(l.bias.view) },
  sites: l.sites.map((s) => ({ ...s, input: { ...s.input, value: of(s.input.value) }, output: { ...s.output, value: of(s.output.value) } })),
});
