/**
 * Symmetric matrices to tridiagonal form by Householder reflections, in float64: the first half of `eigen.ts`.
 *
 * Rows are taken from the last to the first, so all inner loops run along the rows of the lower triangle, and every reflection
 * is applied in the same pass that gathers what the next one needs.
 * Source: Golub & Van Loan, "Matrix Computations", section 8.3.1.
 */

export interface Householder {
  /** A [n, n] (lower triangle) → T = QᵀAQ: d [n] its diagonal, e [n] what couples i and i + 1. Leaves reflections in A's rows. */
  tridiagonalize(n: number, a: Float64Array, d: Float64Array, e: Float64Array): void;
  /** The reflections in A's rows → Q [n, n], in place. */
  accumulate(n: number, a: Float64Array): void;
}

/** Refers to nothing outside: its source text is what a worker runs. Entries are expected below about 2. */
export function householder(): Householder {
  const TINY = 2 ** -500; // beside a largest entry of 1: squares of anything larger do not underflow

  /**
   * The reflection I − v·vᵀ that takes x [m] to (0, …, 0, length), with the sign of `length` that avoids cancellation.
   * Leaves v in both places. Without a reflection (x is in that form already) v = 0 and `some` is false.
   */
  function reflector(m: number, a: Float64Array, at: number, v: Float64Array): { readonly length: number; readonly some: boolean } {
    let largest = 0;
    for (let k = 0; k < m - 1; k++) largest = Math.max(largest, Math.abs(a[at + k] as number));
    const last = a[at + m - 1] as number;
    if (largest < TINY) {
      v.fill(0, 0, m);
      a.fill(0, at, at + m);
      return { length: last, some: false };
    }
    let square = 0;
    for (let k = 0; k < m; k++) square += (a[at + k] as number) * (a[at + k] as number);
    const length = last > 0 ? -Math.sqrt(square) : Math.sqrt(square);
    const scale = 1 / Math.sqrt(square - last * length); // |v|² = 2
    a[at + m - 1] = last - length;
    for (let k = 0; k < m; k++) a[at + k] = v[k] = (a[at + k] as number) * scale;
    return { length, some: true };
  }

  /**
   * One pass over the lower triangle of the leading m rows: a ← a − v·qᵀ − q·vᵀ, and p ← a·w of the new symmetric a.
   * Two rows at a time, so that v, q, w and p are loaded once for both.
   */
  function updateAndMultiply(n: number, m: number, a: Float64Array, v: Float64Array, q: Float64Array, w: Float64Array, p: Float64Array): void {
    p.fill(0, 0, m);
    for (let r = 0; r < m; r += 2) {
      const [v0, q0, w0] = [v[r] as number, q[r] as number, w[r] as number];
      let x = r * n;
      if (r + 1 === m) {
        let own = 0;
        for (let j = 0; j < r; j++, x++) {
          const a0 = (a[x] as number) - v0 * (q[j] as number) - q0 * (v[j] as number);
          a[x] = a0;
          own += a0 * (w[j] as number);
          p[j] = (p[j] as number) + a0 * w0;
        }
        const corner = (a[x] as number) - 2 * v0 * q0;
        a[x] = corner;
        p[r] = (p[r] as number) + own + corner * w0;
        return;
      }
      const [v1, q1, w1] = [v[r + 1] as number, q[r + 1] as number, w[r + 1] as number];
      let y = x + n;
      let own0 = 0;
      let own1 = 0;
      for (let j = 0; j < r; j++, x++, y++) {
        const vj = v[j] as number;
        const qj = q[j] as number;
        const wj = w[j] as number;
        const a0 = (a[x] as number) - v0 * qj - q0 * vj;
        const a1 = (a[y] as number) - v1 * qj - q1 * vj;
        a[x] = a0;
        a[y] = a1;
        own0 += a0 * wj;
        own1 += a1 * wj;
        p[j] = (p[j] as number) + a0 * w0 + a1 * w1;
      }
      const a00 = (a[x] as number) - 2 * v0 * q0;
      const a10 = (a[y] as number) - v1 * q0 - q1 * v0;
      const a11 = (a[y + 1] as number) - 2 * v1 * q1;
      a[x] = a00;
      a[y] = a10;
      a[y + 1] = a11;
      p[r] = (p[r] as number) + own0 + a00 * w0 + a10 * w1;
      p[r + 1] = (p[r + 1] as number) + own1 + a10 * w0 + a11 * w1;
    }
  }

  /**
   * T = QᵀAQ tridiagonal, last row first: d [n] its diagonal, e [n] what couples i and i + 1. Q = H_{n−1}·…·H_2 where
   * H_i = I − v·vᵀ acts on the first i coordinates; v is left in row i of a.
   */
  function tridiagonalize(n: number, a: Float64Array, d: Float64Array, e: Float64Array): void {
    let v = new Float64Array(n);
    let w = new Float64Array(n);
    const q = new Float64Array(n);
    const p = new Float64Array(n);
    let pending = false; // an update v·qᵀ + q·vᵀ that rows 0..i have not seen yet
    for (let i = n - 1; i >= 0; i--) {
      const row = i * n;
      if (pending) for (let j = 0; j <= i; j++) a[row + j] = (a[row + j] as number) - (v[i] as number) * (q[j] as number) - (q[i] as number) * (v[j] as number);
      d[i] = a[row + i] as number;
      if (i === 0) return;
      const { length, some } = reflector(i, a, row, w);
      e[i - 1] = length;
      if (pending || some) updateAndMultiply(n, i, a, v, q, w, p);
      let half = 0;
      for (let j = 0; j < i; j++) half += (w[j] as number) * (p[j] as number) * 0.5;
      for (let j = 0; j < i; j++) q[j] = (p[j] as number) - half * (w[j] as number);
      [v, w] = [w, v];
      pending = some;
      if (!some) {
        v.fill(0);
        q.fill(0);
      }
    }
  }

  /** Turns the reflections left in the rows of a into Q, in place: Q ← (I − v·vᵀ)·Q, and vᵀQ of the next v in the same pass. */
  function accumulate(n: number, a: Float64Array): void {
    const v = new Float64Array(n);
    const w = new Float64Array(n);
    let g = new Float64Array(n); // vᵀQ
    let h = new Float64Array(n); // wᵀQ of the next reflection w
    for (let i = 1; i <= n; i++) {
      // rows and columns 0..i−1: the reflection in row i acts on them (none in row 1); row i − 1 and its column join as unit vectors
      for (let k = 0; k < i; k++) {
        v[k] = i < n ? (a[i * n + k] as number) : 0;
        a[(i - 1) * n + k] = 0;
        a[k * n + i - 1] = 0;
      }
      a[(i - 1) * n + i - 1] = 1;
      if (i === n) return;
      for (let k = 0; k <= i; k++) w[k] = i + 1 < n ? (a[(i + 1) * n + k] as number) : 0;
      g[i - 1] = v[i - 1] as number;
      h.fill(0, 0, i);
      let r = 0;
      for (; r + 3 < i; r += 4) {
        const [v0, v1, v2, v3] = [v[r] as number, v[r + 1] as number, v[r + 2] as number, v[r + 3] as number];
        const [w0, w1, w2, w3] = [w[r] as number, w[r + 1] as number, w[r + 2] as number, w[r + 3] as number];
        const [x0, x1, x2, x3] = [r * n, r * n + n, r * n + 2 * n, r * n + 3 * n];
        for (let j = 0; j < i; j++) {
          const gj = g[j] as number;
          const a0 = (a[x0 + j] as number) - v0 * gj;
          const a1 = (a[x1 + j] as number) - v1 * gj;
          const a2 = (a[x2 + j] as number) - v2 * gj;
          const a3 = (a[x3 + j] as number) - v3 * gj;
          a[x0 + j] = a0;
          a[x1 + j] = a1;
          a[x2 + j] = a2;
          a[x3 + j] = a3;
          h[j] = (h[j] as number) + (w0 * a0 + w1 * a1) + (w2 * a2 + w3 * a3);
        }
      }
      for (; r < i; r++) {
        const [v0, w0, x0] = [v[r] as number, w[r] as number, r * n];
        for (let j = 0; j < i; j++) {
          const a0 = (a[x0 + j] as number) - v0 * (g[j] as number);
          a[x0 + j] = a0;
          h[j] = (h[j] as number) + w0 * a0;
        }
      }
      [g, h] = [h, g];
    }
  }

  return { tridiagonalize, accumulate };
}
