/** Dense linear algebra that is one routine on the machine. */
import { empty, type NdArray } from "../ndarray.js";
import { mismatch, type OpDef } from "../op.js";
import type { Type } from "../type.js";

/**
 * Inverses of symmetric positive definite matrices with a shift on the diagonal; one or more batches, each of a size of its own.
 *
 *   m [b, n, n], damping [b], …   →   (m + damping·I)⁻¹ [b, n, n],  clean [b]: 1, or 0 where a pivot was not positive, …
 */
export const inverse: OpDef = {
  name: "inverse", doc: "(m + damping·I)⁻¹ of symmetric positive definite matrices, and 1 where clean, 0 where a pivot failed",
  arity: -1, attrs: {},
  infer(inputs) {
    if (inputs.length % 2 !== 0) throw mismatch("inverse", inputs, "takes pairs of f32[b, n, n] and f32[b]");
    for (let k = 0; k < inputs.length; k += 2) {
      const [m, damping] = inputs.slice(k, k + 2) as [Type, Type];
      const [b, n, columns] = m.shape;
      if (m.shape.length !== 3 || n !== columns || damping.shape.length !== 1 || damping.shape[0] !== b || m.dtype !== "f32" || damping.dtype !== "f32")
        throw mismatch("inverse", inputs, "takes pairs of f32[b, n, n] and f32[b]");
    }
    return inputs;
  },
  evaluate(inputs, _attrs, results) {
    return results.flatMap((t, k) => (k % 2 === 0 ? inverses(inputs[k] as NdArray, inputs[k + 1] as NdArray, t, results[k + 1] as Type) : []));
  },
};

function inverses(m: NdArray, damping: NdArray, t: Type, s: Type): [NdArray, NdArray] {
  const out = empty(t);
  const clean = empty(s);
  const [batch, n] = t.shape as [number, number];
  for (let b = 0; b < batch; b++) {
    const made = invertSpd(m.data.subarray(b * n * n, (b + 1) * n * n), n, damping.data[b] as number);
    clean.data[b] = made ? 1 : 0;
    if (made) out.data.set(made, b * n * n);
  }
  return [out, clean];
}

/** Gauss–Jordan in float64 without pivoting (right for SPD); undefined if a pivot is not positive and finite. */
function invertSpd(source: Float64Array, n: number, shift: number): Float64Array | undefined {
  const a = Float64Array.from(source);
  for (let i = 0; i < n; i++) a[i * n + i] = (a[i * n + i] as number) + shift;
  for (let k = 0; k < n; k++) {
    const pivot = a[k * n + k] as number;
    if (!(pivot > 0) || !Number.isFinite(pivot)) return undefined;
    for (let i = 0; i < n; i++) {
      if (i === k) continue;
      const factor = (a[i * n + k] as number) / pivot;
      for (let j = 0; j < n; j++) if (j !== k) a[i * n + j] = (a[i * n + j] as number) - factor * (a[k * n + j] as number);
      a[i * n + k] = -factor;
    }
    for (let j = 0; j < n; j++) if (j !== k) a[k * n + j] = (a[k * n + j] as number) / pivot;
    a[k * n + k] = 1 / pivot;
  }
  for (let i = 0; i < n; i++)
    for (let j = 0; j < i; j++) a[i * n + j] = a[j * n + i] = ((a[i * n + j] as number) + (a[j * n + i] as number)) / 2;
  return a;
}
