/**
 * Eigenvalues of symmetric tridiagonal matrices by the implicitly shifted QL iteration, in float64: the second half of `eigen.ts`.
 *
 * Rotations of eigenvectors are written down and applied later, many sweeps to four rows of U at a time: one operand of a
 * rotation is the result of the last and stays in a register.
 * Source: Golub & Van Loan, "Matrix Computations", sections 8.3.3 to 8.3.5.
 */

/** Diagonalizes T (diagonal d [n], couplings e [n]) in place, unsorted, and U ← U·(the rotations) if U [n, n] is given. */
export type QlIteration = (n: number, d: Float64Array, e: Float64Array, u: Float64Array | undefined) => void;

/**
 * Rotations waiting to be applied to the columns of U. A sweep rotates columns (i, i + 1) for i = from − 1 down to `to`:
 * u_{i+1} ← s·u_i + c·u_{i+1}, u_i ← c·u_i − s·u_{i+1}.
 */
interface Waiting {
  readonly cosines: Float64Array;
  readonly sines: Float64Array;
  count: number;
  /** from, to of each sweep. */
  readonly sweeps: number[];
}

/** Refers to nothing outside: its source text is what a worker runs. */
export function qlIteration(): QlIteration {
  const EPSILON = 2 ** -52;
  const DEFERRED = 1 << 15; // rotations kept before they are applied: 512 KiB, which stays in a second-level cache

  /** Applies the waiting sweeps to U [n, n], four rows at a time, interleaved in a small buffer. */
  function rotate(n: number, u: Float64Array, waiting: Waiting): void {
    const four = new Float64Array(4 * n);
    const { cosines, sines, sweeps } = waiting;
    for (let r = 0; r < n; r += 4) {
      const rows = Math.min(4, n - r);
      for (let k = 0; k < rows; k++) for (let j = 0, x = (r + k) * n; j < n; j++) four[4 * j + k] = u[x + j] as number;
      let at = 0;
      for (let sweep = 0; sweep < sweeps.length; sweep += 2) {
        const to = (sweeps[sweep + 1] as number) * 4;
        let y = (sweeps[sweep] as number) * 4;
        let f0 = four[y] as number;
        let f1 = four[y + 1] as number;
        let f2 = four[y + 2] as number;
        let f3 = four[y + 3] as number;
        for (; y > to; y -= 4, at++) {
          const c = cosines[at] as number;
          const s = sines[at] as number;
          const a0 = four[y - 4] as number;
          const a1 = four[y - 3] as number;
          const a2 = four[y - 2] as number;
          const a3 = four[y - 1] as number;
          four[y] = s * a0 + c * f0;
          four[y + 1] = s * a1 + c * f1;
          four[y + 2] = s * a2 + c * f2;
          four[y + 3] = s * a3 + c * f3;
          f0 = c * a0 - s * f0;
          f1 = c * a1 - s * f1;
          f2 = c * a2 - s * f2;
          f3 = c * a3 - s * f3;
        }
        four[y] = f0;
        four[y + 1] = f1;
        four[y + 2] = f2;
        four[y + 3] = f3;
      }
      for (let k = 0; k < rows; k++) for (let j = 0, x = (r + k) * n; j < n; j++) u[x + j] = four[4 * j + k] as number;
    }
    waiting.count = 0;
    sweeps.length = 0;
  }

  /**
   * What counts as zero between i and i + 1: EPSILON times the norm of the part of T that holds both. Parts are separated by
   * couplings far below rounding: the matrix was block diagonal there, and a small block keeps its own accuracy, while the
   * rounding noise of a matrix without full rank (about EPSILON times its norm) is not taken apart.
   */
  function thresholds(n: number, d: Float64Array, e: Float64Array): Float64Array {
    const out = new Float64Array(n);
    for (let start = 0, end = 0; start < n; start = end) {
      let norm = 0;
      for (end = start; end < n; end++) {
        const coupling = Math.abs(e[end] as number);
        norm = Math.max(norm, Math.abs(d[end] as number), coupling);
        if (end + 1 === n || coupling <= EPSILON * EPSILON * (Math.abs(d[end] as number) + Math.abs(d[end + 1] as number))) {
          end++;
          break;
        }
      }
      out.fill(EPSILON * norm, start, end);
      if (end < n && Math.abs(e[end - 1] as number) > 0) e[end - 1] = 0;
    }
    return out;
  }

  /** Diagonalizes T (d, e) in place by QL sweeps with Wilkinson's shift, and U ← U·(the rotations) if U is given. */
  function iterate(n: number, d: Float64Array, e: Float64Array, u: Float64Array | undefined): void {
    const waiting: Waiting = { cosines: new Float64Array(u ? DEFERRED + n : 0), sines: new Float64Array(u ? DEFERRED + n : 0), count: 0, sweeps: [] };
    const negligible = thresholds(n, d, e);
    let budget = 60 * n + 60; // two sweeps an eigenvalue are usual
    for (let l = 0; l < n; l++) {
      for (;;) {
        let m = l;
        while (m < n - 1 && Math.abs(e[m] as number) > (negligible[m] as number)) m++;
        if (m === l) break;
        if (budget-- === 0) throw new Error("the QL iteration does not converge");
        sweep(d, e, l, m, u ? waiting : undefined);
        if (u && waiting.count > DEFERRED) rotate(n, u, waiting);
      }
      e[l] = 0;
    }
    if (u && waiting.count > 0) rotate(n, u, waiting);
  }

  /**
   * One QL sweep over rows l..m of T: T ← GᵀTG, where the first rotation is that of QL on T − shift·I and the others chase the
   * entry it leaves outside the band up to row l. `bulge` is the part of row i + 1 that the next rotation must turn away.
   */
  function sweep(d: Float64Array, e: Float64Array, l: number, m: number, waiting: Waiting | undefined): void {
    const half = ((d[l + 1] as number) - (d[l] as number)) / (2 * (e[l] as number));
    const root = Math.sqrt(half * half + 1);
    // d_l − shift = e_l / (half ± root): the eigenvalue of the leading 2 × 2 block that is closer to d_l
    let pivot = (d[m] as number) - (d[l] as number) + (e[l] as number) / (half + (half >= 0 ? root : -root));
    let c = 1;
    let s = 1;
    let moved = 0; // what the last rotation has added to the diagonal entry above it
    let i = m - 1;
    for (; i >= l; i--) {
      const bulge = s * (e[i] as number);
      const kept = c * (e[i] as number);
      const length = Math.sqrt(bulge * bulge + pivot * pivot);
      e[i + 1] = length;
      if (length === 0) break; // both underflowed: T falls apart here
      s = bulge / length;
      c = pivot / length;
      const below = (d[i + 1] as number) - moved;
      const mixed = ((d[i] as number) - below) * s + 2 * c * kept;
      moved = s * mixed;
      d[i + 1] = below + moved;
      pivot = c * mixed - kept;
      if (waiting) {
        waiting.cosines[waiting.count] = c;
        waiting.sines[waiting.count++] = s;
      }
    }
    if (waiting) waiting.sweeps.push(m, i + 1);
    if (i >= l) d[i + 1] = (d[i + 1] as number) - moved;
    else {
      d[l] = (d[l] as number) - moved;
      e[l] = pivot;
    }
    e[m] = 0;
  }

  return iterate;
}
