/**
 * Eigen-decomposition of symmetric matrices in float64: A = U·diag(s)·Uᵀ. Browser-safe.
 *
 * Householder reflections make A tridiagonal (`householder.ts`), the implicitly shifted QL iteration makes that diagonal (`ql.ts`).
 * About 1.3·n³ floating-point operations for the eigenvalues, 8·n³ with vectors.
 */
import { RuntimeFault } from "./artifact.js";
import { type Householder, householder } from "./householder.js";
import { type QlIteration, qlIteration } from "./ql.js";

export interface Eigen {
  readonly n: number;
  /** [n], ascending. */
  readonly values: Float64Array;
  /** [n, n] row-major, eigenvectors as columns; the largest component of each is positive. */
  readonly vectors: Float64Array;
}

/** Overwrites `a` [n, n] with eigenvectors if they are wanted (else with scratch); gives the ascending eigenvalues. */
export type EigenKernel = (n: number, a: Float64Array, vectors: boolean) => Float64Array;

/** Refers to nothing but its arguments: see `kernelText`. */
function compose({ tridiagonalize, accumulate }: Householder, iterate: QlIteration): EigenKernel {
  /** Divides a by the power of two that brings its largest entry to [1, 2): exact. Returns that power. */
  function normalize(n: number, a: Float64Array): number {
    let largest = 0;
    for (let r = 0; r < n; r++)
      for (let k = r * n; k <= r * n + r; k++) largest = Math.max(largest, Math.abs(a[k] as number));
    if (largest === 0) return 1;
    const exponent = Math.min(1020, Math.max(-1000, Math.floor(Math.log2(largest))));
    const scale = 2 ** -exponent;
    for (let k = 0; k < n * n; k++) a[k] = (a[k] as number) * scale;
    return 2 ** exponent;
  }

  /** Columns of U into the given order, each with the sign that makes its largest component (the first such) positive. */
  function arrange(n: number, u: Float64Array, order: readonly number[]): void {
    const largest = new Float64Array(n);
    for (let r = 0; r < n; r++)
      for (let j = 0; j < n; j++) if (Math.abs(u[r * n + j] as number) > Math.abs(largest[j] as number)) largest[j] = u[r * n + j] as number;
    const row = new Float64Array(n);
    for (let r = 0; r < n; r++) {
      row.set(u.subarray(r * n, r * n + n));
      for (let j = 0; j < n; j++) {
        const from = order[j] as number;
        u[r * n + j] = (largest[from] as number) < 0 ? -(row[from] as number) : (row[from] as number);
      }
    }
  }

  return (n, a, vectors) => {
    const d = new Float64Array(n);
    const e = new Float64Array(n);
    const scale = normalize(n, a);
    tridiagonalize(n, a, d, e);
    if (vectors) accumulate(n, a);
    iterate(n, d, e, vectors ? a : undefined);
    const order = Array.from(d, (_, k) => k).sort((j, k) => (d[j] as number) - (d[k] as number) || j - k);
    if (vectors) arrange(n, a, order);
    return Float64Array.from(order, (k) => (d[k] as number) * scale);
  };
}

export const eigenKernel: EigenKernel = compose(householder(), qlIteration());

/** An expression whose value is the kernel, for a worker. A transpiler may have put calls of its helper `__name` into it. */
export const kernelText = (): string =>
  `((__name) => (${compose.toString()})((${householder.toString()})(), (${qlIteration.toString()})()))((f) => f)`;

/**
 * Refuses what has no eigen-decomposition here, by name.
 *
 * @throws RuntimeFault "bad-data" unless data is [n, n]; "diverged" if an entry is not finite.
 */
export function checkMatrix(n: number, data: Float64Array, name: string): void {
  if (!Number.isInteger(n) || n < 0 || data.length !== n * n)
    throw new RuntimeFault("bad-data", `the matrix "${name}" should hold ${n} × ${n} numbers and holds ${data.length}`, name);
  for (let k = 0; k < data.length; k++)
    if (!Number.isFinite(data[k])) throw new RuntimeFault("diverged", `the matrix "${name}" holds ${data[k]} at row ${Math.floor(k / n)}, column ${k % n}`, name, "lower the learning rate or raise the damping");
}

/**
 * Eigenvalues and eigenvectors of the symmetric matrix data [n, n], of which the lower triangle is read; data is left alone.
 * ‖AU − U·diag(s)‖ and ‖UᵀU − I‖ are within a small multiple of n·2⁻⁵² of ‖A‖ and 1. Deterministic.
 *
 * @throws RuntimeFault "bad-data", "diverged" (see `checkMatrix`)
 */
export function eigen(n: number, data: Float64Array, name = "matrix"): Eigen {
  checkMatrix(n, data, name);
  const vectors = data.slice();
  return { n, values: eigenKernel(n, vectors, true), vectors };
}

/** The eigenvalues alone, ascending: a fraction of the work. The same bits as `eigen` gives. */
export function eigenvalues(n: number, data: Float64Array, name = "matrix"): Float64Array {
  checkMatrix(n, data, name);
  return eigenKernel(n, data.slice(), false);
}
