/** Dense linear algebra in float64, row-major. */

/** Lower Cholesky factor; undefined where the matrix is not positive definite. */
export function cholesky(a: Float64Array, n: number): Float64Array | undefined {
  const l = new Float64Array(n * n);
  for (let i = 0; i < n; i++)
    for (let j = 0; j <= i; j++) {
      let s = a[i * n + j] as number;
      for (let k = 0; k < j; k++) s -= (l[i * n + k] as number) * (l[j * n + k] as number);
      if (i === j) {
        if (!(s > 0)) return undefined;
        l[i * n + i] = Math.sqrt(s);
      } else l[i * n + j] = s / (l[j * n + j] as number);
    }
  return l;
}

/** a⁻¹ applied to every column of b [n, m], for a symmetric positive definite matrix by its Cholesky factor. */
export function solve(l: Float64Array, n: number, b: Float64Array, m: number): Float64Array {
  const x = b.slice();
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < i; k++) {
      const f = l[i * n + k] as number;
      for (let c = 0; c < m; c++) x[i * m + c] = (x[i * m + c] as number) - f * (x[k * m + c] as number);
    }
    for (let c = 0; c < m; c++) x[i * m + c] = (x[i * m + c] as number) / (l[i * n + i] as number);
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let k = i + 1; k < n; k++) {
      const f = l[k * n + i] as number;
      for (let c = 0; c < m; c++) x[i * m + c] = (x[i * m + c] as number) - f * (x[k * m + c] as number);
    }
    for (let c = 0; c < m; c++) x[i * m + c] = (x[i * m + c] as number) / (l[i * n + i] as number);
  }
  return x;
}

export function matmul(a: ArrayLike<number>, b: ArrayLike<number>, m: number, k: number, n: number): Float64Array {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++)
    for (let p = 0; p < k; p++) {
      const f = a[i * k + p] as number;
      if (f !== 0) for (let j = 0; j < n; j++) out[i * n + j] = (out[i * n + j] as number) + f * (b[p * n + j] as number);
    }
  return out;
}

export function transpose(a: ArrayLike<number>, m: number, n: number): Float64Array {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) out[j * m + i] = a[i * n + j] as number;
  return out;
}

export const traceOf = (a: ArrayLike<number>, n: number): number => {
  let t = 0;
  for (let i = 0; i < n; i++) t += a[i * n + i] as number;
  return t;
};

export const plusDiagonal = (a: Float64Array, n: number, by: number): Float64Array => a.map((x, k) => (k % (n + 1) === 0 ? x + by : x));

/** Upper bound of the largest eigenvalue of a symmetric matrix that is no less than half of it for dense positive ones: the least of trace and norms. */
export function largestBound(a: Float64Array, n: number): number {
  let [frobenius, rows] = [0, 0];
  for (let i = 0; i < n; i++) {
    let row = 0;
    for (let j = 0; j < n; j++) {
      const x = Math.abs(a[i * n + j] as number);
      row += x;
      frobenius += x * x;
    }
    rows = Math.max(rows, row);
  }
  return Math.min(Math.sqrt(frobenius), rows);
}

/** Eigenvalues and eigenvectors (columns) of a symmetric matrix: cyclic Jacobi rotations. */
export function eigen(a: Float64Array, n: number): { readonly values: Float64Array; readonly vectors: Float64Array } {
  const m = a.slice();
  const v = new Float64Array(n * n);
  for (let i = 0; i < n; i++) v[i * n + i] = 1;
  const at = (i: number, j: number): number => m[i * n + j] as number;
  const scale = Math.max(Number.MIN_VALUE, ...m.map(Math.abs));
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0;
    for (let i = 0; i < n; i++) for (let j = i + 1; j < n; j++) off = Math.max(off, Math.abs(at(i, j)));
    if (off <= 1e-17 * scale) break;
    for (let p = 0; p < n; p++)
      for (let q = p + 1; q < n; q++) {
        if (Math.abs(at(p, q)) <= 1e-18 * scale) continue;
        const theta = (at(q, q) - at(p, p)) / (2 * at(p, q));
        const t = Math.sign(theta || 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1);
        const s = t * c;
        for (let k = 0; k < n; k++) {
          const [x, y] = [at(k, p), at(k, q)];
          m[k * n + p] = c * x - s * y;
          m[k * n + q] = s * x + c * y;
        }
        for (let k = 0; k < n; k++) {
          const [x, y] = [at(p, k), at(q, k)];
          m[p * n + k] = c * x - s * y;
          m[q * n + k] = s * x + c * y;
        }
        for (let k = 0; k < n; k++) {
          const [x, y] = [v[k * n + p] as number, v[k * n + q] as number];
          v[k * n + p] = c * x - s * y;
          v[k * n + q] = s * x + c * y;
        }
      }
  }
  return { values: Float64Array.from({ length: n }, (_, i) => at(i, i)), vectors: v };
}
