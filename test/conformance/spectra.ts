/** Comparing what is written in eigenbases, which are not unique. All in float64, matrices row-major, eigenvectors as columns. */
import { eigen } from "../../runtime/eigen.js";

/** Smallest distance of neighbouring eigenvalues, relative to the largest, at which their vectors are told apart in float32. */
const APART = 1e-3;

/** Whether all eigenvalues of every group are apart; values [groups, d] ascending. */
export function apart(groups: number, values: Float64Array): boolean {
  const d = values.length / groups;
  return Array.from({ length: groups }, (_, g) => values.subarray(g * d, (g + 1) * d))
    .every((v) => v.every((x, k) => k === 0 || x - (v[k - 1] as number) > APART * (v[d - 1] as number)));
}

/** aᵀ·b for a, b [n, n]. */
function crossed(n: number, a: Float64Array, b: Float64Array): Float64Array {
  const out = new Float64Array(n * n);
  for (let k = 0; k < n; k++)
    for (let i = 0; i < n; i++) {
      const x = a[k * n + i] as number;
      for (let j = 0; j < n; j++) out[i * n + j] = (out[i * n + j] as number) + x * (b[k * n + j] as number);
    }
  return out;
}

const transposed = (n: number, a: Float64Array): Float64Array => Float64Array.from(a, (_, k) => a[(k % n) * n + Math.floor(k / n)] as number);
const times = (n: number, a: Float64Array, b: Float64Array): Float64Array => crossed(n, transposed(n, a), b);
const part = (a: Float64Array, g: number, size: number): Float64Array => a.subarray(g * size, (g + 1) * size);

/** uᵀ·A·u of every column, per group. */
export function eigenvalues(groups: number, d: number, A: Float64Array, U: Float64Array): { readonly inOrder: Float64Array; readonly sorted: Float64Array } {
  const inOrder = new Float64Array(groups * d);
  const sorted = new Float64Array(groups * d);
  for (let g = 0; g < groups; g++) {
    const [a, u] = [part(A, g, d * d), part(U, g, d * d)];
    const au = times(d, a, u);
    for (let k = 0; k < d; k++) for (let i = 0; i < d; i++) inOrder[g * d + k] = (inOrder[g * d + k] as number) + (u[i * d + k] as number) * (au[i * d + k] as number);
    sorted.set(inOrder.slice(g * d, (g + 1) * d).sort(), g * d);
  }
  return { inOrder, sorted };
}

/** U·diag(values)·Uᵀ, per group. */
export function rebuilt(groups: number, d: number, values: Float64Array, U: Float64Array): Float64Array {
  const out = new Float64Array(groups * d * d);
  for (let g = 0; g < groups; g++) {
    const u = part(U, g, d * d);
    const scaled = Float64Array.from(u, (x, k) => x * (values[g * d + (k % d)] as number));
    out.set(times(d, scaled, transposed(d, u)), g * d * d);
  }
  return out;
}

/** The orthogonal matrix next to one that float32 has rounded: two Newton–Schulz steps, u·(3I − uᵀu)/2. */
function orthogonal(d: number, u: Float64Array): Float64Array {
  let x = u;
  for (let round = 0; round < 2; round++) {
    const gram = crossed(d, x, x);
    x = times(d, x, Float64Array.from(gram, (v, k) => ((k % (d + 1) === 0 ? 3 : 0) - v) / 2));
  }
  return x;
}

/**
 * ‖U s Uᵀ − V t Vᵀ‖ / ‖V t Vᵀ‖ with U = U_G ⊗ U_A, V = V_G ⊗ V_A: expanded, so that nothing of size (dG·dA)² is made.
 * V are eigenbases of `want`'s factors. Ascending order is not needed, nor that bases agree in sign.
 */
export function spectralError(
  { groups, dA, dG }: { readonly groups: number; readonly dA: number; readonly dG: number },
  got: { readonly UA: Float64Array; readonly UG: Float64Array; readonly s: Float64Array },
  want: { readonly A: Float64Array; readonly G: Float64Array; readonly s: Float64Array },
): number {
  let [difference, norm] = [0, 0];
  for (let g = 0; g < groups; g++) {
    const overlap = (d: number, U: Float64Array, F: Float64Array): Float64Array =>
      crossed(d, orthogonal(d, part(U, g, d * d)), eigen(d, part(F, g, d * d).slice()).vectors).map((x) => x * x);
    const [PA, PG] = [overlap(dA, got.UA, want.A), overlap(dG, got.UG, want.G)];
    const [s, t] = [part(got.s, g, dG * dA), part(want.s, g, dG * dA)];
    // PG·t·PAᵀ: the scalings of V as seen from U
    const half = new Float64Array(dG * dA);
    for (let i = 0; i < dG; i++) for (let k = 0; k < dG; k++) for (let j = 0; j < dA; j++) half[i * dA + j] = (half[i * dA + j] as number) + (PG[i * dG + k] as number) * (t[k * dA + j] as number);
    for (let i = 0; i < dG; i++)
      for (let j = 0; j < dA; j++) {
        let seen = 0;
        for (let l = 0; l < dA; l++) seen += (half[i * dA + l] as number) * (PA[j * dA + l] as number);
        const [x, y] = [s[i * dA + j] as number, t[i * dA + j] as number];
        difference += x * x + y * y - 2 * x * seen;
        norm += y * y;
      }
  }
  return Math.sqrt(Math.max(0, difference) / (norm || 1));
}
