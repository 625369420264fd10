/** What an inversion is asked for. */
import type { Buffer } from "../kernel.js";

/** Matrices of one size in one buffer. */
export interface InverseBatch {
  readonly n: number;
  readonly batch: number;
  /** [batch, n, n] symmetric, row-major. The mean of both halves is inverted. */
  readonly matrix: Buffer;
  /** [batch] added to the diagonal. */
  readonly damping: Buffer;
  /** [batch, n, n], another buffer than `matrix`. */
  readonly inverse: Buffer;
  /** [batch] f32: 1 = clean, 0 = a pivot was not positive, too small or non-finite, or the result has a non-finite value. */
  readonly status: Buffer;
}

/** Matrices of any sizes, inverted together. */
export interface InverseSpec {
  readonly kind: "inverse";
  readonly label: string;
  readonly batches: readonly InverseBatch[];
}
