/**
 * WGSL shared by the inverse kernels: the block sweep on 4×4 tiles held in registers.
 *
 * Sweeping block K of a symmetric S, with S_KK = L·Lᵀ, D = L⁻¹ and Y_I = S_IK·Dᵀ (I ≠ K), Y_K = −Dᵀ:
 *
 *   S_IJ ← S_IJ − Y_I·Y_Jᵀ        with S_IK, S_KJ and S_KK taken as 0 on the right
 *
 * After every block is swept S = −A⁻¹ (Goodnight 1979, written with Cholesky factors of the pivot blocks so that each
 * update is symmetric and of one sign). Only tiles on or below the diagonal are kept: n³/2 multiply-adds, the flops of
 * Cholesky and inverse, with one uniform step instead of three phases.
 *
 * A tile is a mat4x4f whose *columns are the rows of the tile*, so `tile[r][c]` reads as written on paper.
 */

/** Rows and columns of a tile: one mat4x4f. */
export const TILE = 4;

/** Unit roundoff of f32. A pivot below n · ROUNDOFF · (its original diagonal entry) holds no correct digit. */
export const ROUNDOFF = 2 ** -24;

/** Tiles on or below the diagonal of a grid of t × t. */
export const lowerTiles = (t: number): number => (t * (t + 1)) / 2;

/**
 * `lowerTile(f, t)`: (row, column) of the f-th tile on or below the diagonal, 0 ≤ f < t(t+1)/2, without a root: row h+y and
 * row h−1−y together fill one line of 2h+1 tiles (h = ⌊t/2⌋).
 */
export const LOWER_TILE = `fn lowerTile(f: u32, t: u32) -> vec2u {
  let half = t / 2u;
  let width = 2u * half + 1u;
  let y = f / width;
  let x = f % width;
  if (x <= half + y) { return vec2u(half + y, x); }
  return vec2u(half - 1u - y, 2u * half - x);
}
`;

/** NaN compares and `max` cannot be trusted on every driver: test the bits. */
export const FINITE = `fn finite4(v: vec4f) -> bool { return all((bitcast<vec4u>(v) & vec4u(0x7f800000u)) != vec4u(0x7f800000u)); }
`;

/** WGSL of the 4×4 unit matrix. */
export const UNIT = "mat4x4f(1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)";

/** `factor(a, least)`: D = L⁻¹ (an ordinary mat4x4f, column by column) of the 4×4 tile a = L·Lᵀ, reading its lower half. */
export const FACTOR = `struct Factor { inv: mat4x4f, good: bool }
fn factor(a: mat4x4f, least: vec4f) -> Factor {
  // a = U·diag(p)·Uᵀ with a unit U first: one rounding less per pivot than with square roots
  let p0 = a[0][0];
  let q0 = 1.0 / p0;
  let u10 = a[1][0] * q0;
  let u20 = a[2][0] * q0;
  let u30 = a[3][0] * q0;
  let p1 = a[1][1] - a[1][0] * u10;
  let q1 = 1.0 / p1;
  let c21 = a[2][1] - a[2][0] * u10;
  let c31 = a[3][1] - a[3][0] * u10;
  let u21 = c21 * q1;
  let u31 = c31 * q1;
  let p2 = a[2][2] - a[2][0] * u20 - c21 * u21;
  let c32 = a[3][2] - a[3][0] * u20 - c31 * u21;
  let v32 = c32 / p2;
  let p3 = a[3][3] - a[3][0] * u30 - c31 * u31 - c32 * v32;
  let m20 = u21 * u10 - u20;
  let m31 = v32 * u21 - u31;
  let m30 = u31 * u10 - v32 * m20 - u30;
  let p = vec4f(p0, p1, p2, p3);
  let d = 1.0 / sqrt(p);
  let good = finite4(p) && all(p > least);
  let first = d * vec4f(1.0, -u10, m20, m30);
  let second = d * vec4f(0.0, 1.0, -u21, m31);
  return Factor(mat4x4f(first, second, d * vec4f(0.0, 0.0, 1.0, -v32), d * vec4f(0.0, 0.0, 0.0, 1.0)), good);
}
`;

/** Module-scope variables of `tileSweep` for t tiles a side. */
export const tileSweepMemory = (t: number): string => `var<workgroup> panel: array<mat4x4f, ${2 * t}>; // block column of two steps in turn
var<workgroup> least: array<vec4f, ${t}>; // smallest acceptable pivots
`;

/**
 * Statements that sweep a t×t grid of tiles, one lower tile per invocation, in one workgroup. Expects `tile: vec2u` (row,
 * column), `holds: bool` (this invocation has a tile), `var c: mat4x4f` (its tile), `var good: bool`, and `least` filled
 * by the diagonal tiles (before any barrier). One barrier per 4 columns: the pivot's factor is recomputed by everyone.
 *
 * mode "inverse": c becomes the tile of −S⁻¹. mode "factor": c becomes the tile of L⁻¹ where S = L·Lᵀ (rows above
 * the pivot are final, so the left factor of the pivot row is −I and the right one +Dᵀ). The last row takes part in every
 * step, so its `good` covers all pivots.
 */
export function tileSweep(t: number, mode: "inverse" | "factor"): string {
  const whole = mode === "inverse";
  return `  if (holds && tile.y == 0u) { panel[tile.x] = c; }
  workgroupBarrier();
  for (var k = 0u; k < ${t}u; k++) {
    let at = (k & 1u) * ${t}u;
    let next = ${t}u - at;
    if (holds${whole ? "" : " && tile.x >= k"}) {
      let pivot = factor(panel[at + k], least[k]);
      good = good && pivot.good;
      var yi = pivot.inv * panel[at + tile.x];
      var yj = pivot.inv * panel[at + tile.y];
      if (tile.x == k) { yi = ${whole ? "pivot.inv" : UNIT} * -1.0; }
      if (tile.y == k) { yj = pivot.inv${whole ? " * -1.0" : ""}; }
      if (tile.x == k || tile.y == k) { c = mat4x4f(); }
      c = c - transpose(yj) * yi;
      if (tile.y == k + 1u || tile.x == k + 1u) {
        var p = c;
        if (tile.y != k + 1u) { p = transpose(c); }
        panel[next + select(tile.y, tile.x, tile.y == k + 1u)] = p;
      }
    }
    workgroupBarrier();
  }
`;
}
