/** Inverse of small matrices: one workgroup per matrix, one 4×4 tile in registers per invocation, one dispatch. */
import type { InverseBatch } from "./inverse-spec.js";
import type { Kernel, Limits } from "../kernel.js";
import { FACTOR, FINITE, LOWER_TILE, lowerTiles, ROUNDOFF, TILE, tileSweep, tileSweepMemory } from "./inverse-tile.js";

/** 16 tiles a side: 136 invocations. Beyond, one workgroup is too few. */
export const SMALL = 64;

export const fitsSmall = (n: number, limits: Limits): boolean => n <= SMALL && lowerTiles(Math.ceil(n / TILE)) <= limits.invocations;

export function smallKernel(spec: InverseBatch, limits: Limits): Kernel {
  const { n, batch } = spec;
  // Matrices count along x and, past the dimension's limit, along y; the last row may be ragged.
  const across = Math.min(batch, limits.workgroupsPerDimension);
  const down = Math.ceil(batch / across);
  return {
    name: `inverse_${n}`,
    wgsl: smallText(n, down > 1 ? { across, batch } : undefined),
    bindings: [
      { kind: "buffer", buffer: spec.matrix, access: "read" },
      { kind: "buffer", buffer: spec.damping, access: "read" },
      { kind: "buffer", buffer: spec.inverse, access: "read_write" },
      { kind: "buffer", buffer: spec.status, access: "read_write" },
    ],
    workgroups: [across, down, 1],
  };
}

function smallText(n: number, fold: { readonly across: number; readonly batch: number } | undefined): string {
  const t = Math.ceil(n / TILE);
  const invocations = lowerTiles(t);
  const which = fold ? `group.y * ${fold.across}u + group.x;\n  if (b >= ${fold.batch}u) { return; }` : "group.x;";
  return `// inverse[b, ${n}, ${n}] = (matrix[b, ${n}, ${n}] + damping[b]·I)⁻¹, one workgroup per matrix; status[b] = 1 where clean
@group(0) @binding(0) var<storage, read> matrix: array<f32>;
@group(0) @binding(1) var<storage, read> damping: array<f32>;
@group(0) @binding(2) var<storage, read_write> inverse: array<f32>;
@group(0) @binding(3) var<storage, read_write> status: array<f32>;

${tileSweepMemory(t)}var<workgroup> bad: atomic<u32>;

${FINITE}
${FACTOR}
${LOWER_TILE}
@compute @workgroup_size(${invocations})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let b = ${which}
  let base = b * ${n * n}u;
  let tile = lowerTile(lane, ${t}u);
  let row = tile.x * 4u;
  let col = tile.y * 4u;
  let holds = true;
  var good = true;
  var c = mat4x4f();
  for (var r = 0u; r < 4u; r++) {
    for (var s = 0u; s < 4u; s++) {
      let i = row + r;
      let j = col + s;
      c[r][s] = f32(i == j); // padding: a unit diagonal
      if (i < ${n}u && j < ${n}u) {
        c[r][s] = select(0.0, damping[b], i == j) + (0.5 * matrix[base + i * ${n}u + j] + 0.5 * matrix[base + j * ${n}u + i]);
      }
    }
  }
  if (row == col) { least[tile.x] = ${n * ROUNDOFF} * vec4f(c[0][0], c[1][1], c[2][2], c[3][3]); }
${tileSweep(t, "inverse")}
  for (var r = 0u; r < 4u; r++) {
    good = good && finite4(c[r]);
    for (var s = 0u; s < 4u; s++) {
      let i = row + r;
      let j = col + s;
      // On the diagonal the lower half is stored twice, so that the result is symmetric to the bit.
      if (i >= j && i < ${n}u) {
        inverse[base + i * ${n}u + j] = -c[r][s];
        inverse[base + j * ${n}u + i] = -c[r][s];
      }
    }
  }
  if (!good) { atomicStore(&bad, 1u); }
  workgroupBarrier();
  if (lane == 0u) { status[b] = select(1.0, 0.0, atomicLoad(&bad) != 0u); }
}
`;
}
