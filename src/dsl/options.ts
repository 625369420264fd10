/** Options of layers. */
import type { CustomLoss } from "../train/custom.js";
import type { LossKind } from "../train/loss.js";
import type { Init } from "./record.js";

/** A formula of one's own and the factor of its Fisher; see the example in train/custom.ts. */
export type LossFormula = Omit<CustomLoss, "kind">;
export type Loss = LossKind | "cross-entropy" | "bce" | LossFormula;

export interface OutputOptions {
  /** On logits for "softmax-ce" and "bernoulli-ce". */
  readonly loss?: Loss;
  /** Factor of this output's loss in the total, ≥ 0. Default 1. */
  readonly weight?: number;
}

export interface Named {
  /** Parameters are called `name.weight` and `name.bias`. Default: the kind and a running number, as `dense1`. */
  readonly name?: string;
}
export interface DenseOptions extends Named {
  /** Default true, beginning at 0. */
  readonly bias?: boolean;
  /** Of the weight; default "he". */
  readonly init?: Init;
}
export interface WindowOptions extends Named {
  readonly stride?: number | readonly number[];
  /** "same": ⌈extent / stride⌉ positions. A number or one per axis: zeros on both sides. Two per axis: all befores, then all afters. Default 0. */
  readonly pad?: "same" | "valid" | number | readonly number[];
  readonly dilation?: number | readonly number[];
}
export interface ConvOptions extends WindowOptions, DenseOptions {
  readonly groups?: number;
}
export interface ConvTransposeOptions extends ConvOptions {
  /** Positions more at the end of each axis, below the stride. Default 0. */
  readonly outputPad?: number | readonly number[];
}
export interface PoolOptions extends WindowOptions {
  /** Average pooling divides by the taps inside the input only, unless this is set. */
  readonly countPad?: boolean;
}
export interface NormOptions extends Named {
  /** Added to the variance; default 1e-5. */
  readonly epsilon?: number;
}
export interface BatchNormOptions extends NormOptions {
  /** Share of the running statistics that a step keeps; default 0.9. */
  readonly momentum?: number;
  /** Always the stored statistics, never the batch's; default false. */
  readonly frozen?: boolean;
}
export interface ParamOptions {
  /** Default "glorot". */
  readonly init?: Init;
  /** Default true. */
  readonly trainable?: boolean;
}
