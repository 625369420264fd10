/** Matrices for the inverse kernels and a float64 answer by Cholesky that shares nothing with them. */

/** Seeded uniform numbers in [0, 1) (Mulberry32). */
export const uniforms = (seed: number): (() => number) => {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
};

/**
 * Symmetric [n, n] of f32 with eigenvalues log-uniform in [1/kappa, 1] (both ends taken when n ≥ 2): a diagonal turned by eight
 * random reflections, A ← A − 2v(Av)ᵀ − 2(Av)vᵀ + 4(vᵀAv)vvᵀ.
 */
export function spd(n: number, kappa: number, seed: number): Float32Array {
  const random = uniforms(seed);
  const a = new Float64Array(n * n);
  for (let i = 0; i < n; i++) a[i * n + i] = kappa ** -(i === 0 ? 0 : i === 1 ? 1 : random());
  for (let turn = 0; turn < 8; turn++) {
    const v = Float64Array.from({ length: n }, () => random() - 0.5);
    const norm = Math.hypot(...v);
    for (let i = 0; i < n; i++) v[i] = at(v, i) / norm;
    const av = new Float64Array(n);
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) av[i] = at(av, i) + at(a, i * n + j) * at(v, j);
    const q = av.reduce((sum, x, i) => sum + x * at(v, i), 0);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        a[i * n + j] = at(a, i * n + j) - 2 * at(v, i) * at(av, j) - 2 * at(av, i) * at(v, j) + 4 * q * at(v, i) * at(v, j);
      }
    }
  }
  const out = new Float32Array(n * n);
  for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) out[i * n + j] = out[j * n + i] = at(a, i * n + j);
  return out;
}

/** (a + damping·I)⁻¹ in float64 by Cholesky: L, L⁻¹, then L⁻ᵀL⁻¹. NaN where a pivot is not positive. */
export function inverse64(a: Float32Array, n: number, damping: number): Float64Array {
  const l = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = at(a, i * n + j) + (i === j ? damping : 0);
      for (let k = 0; k < j; k++) sum -= at(l, i * n + k) * at(l, j * n + k);
      l[i * n + j] = i === j ? Math.sqrt(sum) : sum / at(l, j * n + j);
    }
  }
  const m = new Float64Array(n * n); // L⁻¹, transposed: row j holds column j
  for (let j = 0; j < n; j++) {
    for (let i = j; i < n; i++) {
      let sum = i === j ? 1 : 0;
      for (let k = j; k < i; k++) sum -= at(l, i * n + k) * at(m, j * n + k);
      m[j * n + i] = sum / at(l, i * n + i);
    }
  }
  const out = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = 0;
      for (let k = i; k < n; k++) sum += at(m, i * n + k) * at(m, j * n + k);
      out[i * n + j] = out[j * n + i] = sum;
    }
  }
  return out;
}

/** ‖x − y‖ / ‖y‖ in the Frobenius norm; NaN when x has one. */
export function relativeError(x: ArrayLike<number>, y: ArrayLike<number>): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < y.length; i++) {
    difference += (at(x, i) - at(y, i)) ** 2;
    norm += at(y, i) ** 2;
  }
  return Math.sqrt(difference / norm);
}

const at = (values: ArrayLike<number>, i: number): number => values[i] as number;
