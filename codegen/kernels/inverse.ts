/**
 * Inverses of symmetric positive definite matrices, (matrix + damping·I)⁻¹.
 *
 *   matrix [batch, n, n]   damping [batch]   inverse [batch, n, n]   status [batch]      per batch of a size
 *
 * The error is 0.02–0.1 · ε · κ (up to 0.3 below 16 rows, where it does not average out); the result is symmetric to the bit. `matrix` is only read.
 */
import { CompileError } from "../../ir/error.js";
import type { Limits, Lowered } from "../kernel.js";
import { blockedKernels } from "./inverse-blocked.js";
import { fitsSmall, smallKernel } from "./inverse-small.js";
import type { InverseSpec } from "./inverse-spec.js";

export type { InverseBatch, InverseSpec } from "./inverse-spec.js";

/**
 * Kernels that invert all matrices: one dispatch per batch up to n = 64; all larger ones together, two per 64 columns of the largest,
 * two per batch and one more. The text depends on n alone (and on the batch only past 65,535 small matrices); that of the larger ones does
 * not even depend on n, but for the table of where they are.
 *
 * @throws CompileError "too-large" when a buffer or a grid exceeds the limits.
 */
export function lowerInverse(spec: InverseSpec, limits: Limits): Lowered {
  for (const { n, batch, matrix, inverse } of spec.batches) {
    if (matrix === inverse) throw new CompileError("internal", "an inverse cannot overwrite its matrix", spec.label);
    if (!(Number.isInteger(n) && Number.isInteger(batch) && n >= 1 && batch >= 1)) throw new CompileError("internal", `inverse of ${batch} matrices of ${n}×${n}`, spec.label);
  }
  const small = spec.batches.filter((b) => fitsSmall(b.n, limits));
  const large = spec.batches.filter((b) => !fitsSmall(b.n, limits));
  const blocked = large.length > 0 ? blockedKernels(spec.label, large) : { kernels: [], scratch: [] };
  const lowered = { kernels: [...small.map((b) => smallKernel(b, limits)), ...blocked.kernels], scratch: blocked.scratch };
  for (const buffer of [...spec.batches.flatMap((b) => [b.matrix, b.inverse]), ...lowered.scratch]) {
    const bytes = buffer.elements * 4;
    if (bytes > limits.bindingBytes) throw tooLarge(spec, `needs a buffer of ${bytes} bytes, the device binds ${limits.bindingBytes}`);
  }
  for (const kernel of lowered.kernels) {
    if (kernel.workgroups.some((w) => w > limits.workgroupsPerDimension)) throw tooLarge(spec, `needs ${kernel.workgroups.join(" × ")} workgroups`);
  }
  return lowered;
}

const tooLarge = (spec: InverseSpec, why: string): CompileError =>
  new CompileError(
    "too-large",
    `inverting ${spec.batches.map((b) => `${b.batch} matrices of ${b.n}×${b.n}`).join(", ")} ${why}`,
    spec.label,
    "use a diagonal or smaller factor for this layer",
  );
