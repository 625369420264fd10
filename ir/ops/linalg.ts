/** Dense linear algebra that is one routine on the machine. */
import { empty, type NdArray } from "../ndarray.js";
import { mismatch, type OpDef } from "../op.js";
import type { Type } from "../type.js";

/**
 * Inverse of symmetric positive definite matrices with a shift on the diagonal.
 *
 *   m [b, n, n]   damping [b]   →   (m + damping·I)⁻¹ [b, n, n],  clean [b]: 1, or 0 where a pivot was not positive
 */
export const inverse: OpDef = {
  name: "inverse", doc: "(m + damping·I)⁻¹ of symmetric positive definite matrices, and 1 where clean, 0 where a pivot failed",
  arity: 2, attrs: {},
  infer(inputs) {
    const [m, damping] = inputs as [Type, Type];
    const [b, n, k] = m.shape;
    if (m.shape.length !== 3 || n !== k || damping.shape.length !== 1 || damping.shape[0] !== b || m.dtype !== "f32" || damping.dtype !== "f32")
      throw mismatch("inverse", inputs, "takes f32[b, n, n] and f32[b]");
    return [m, damping];
  },
  evaluate([m, damping], _attrs, [t, s]) {
    const out = empty(t as Type);
    const clean = empty(s as Type);
    const [batch, n] = (t as Type).shape as [number, number];
    for (let b = 0; b < batch; b++) {
      const source = (m as NdArray).data.subarray(b * n * n, (b + 1) * n * n);
      const made = invertSpd(source, n, (damping as NdArray).data[b] as number);
      clean.data[b] = made ? 1 : 0;
      if (made) out.data.set(made, b * n * n);
    }
    return [out, clean];
  },
};

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
