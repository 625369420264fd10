/**
 * Inverse of matrices of any size: the block sweep of inverse-tile.ts with blocks of 32 columns, in a padded copy `sweep`.
 *
 *   load                      sweep ← matrix + damping·I       (padding: a unit diagonal)
 *   panel, update  per block  factor the pivot block, Y; sweep ← sweep − Y·Yᵀ on 8×8 tiles, lower half
 *   finish                    inverse ← −sweep, both halves
 *
 * Neither the block nor n is in the text of the last three (compiling costs more than the index arithmetic): three pipelines
 * serve every block of every matrix. Both numbers are in `progress`, set up by `load`: `panel` reads `next` and copies it
 * to `current`, `update` reads `current` and puts the following block into `next`. No dispatch writes what it reads, so
 * there is no race and no extra dispatch that counts.
 */
import type { Binding, Buffer, Kernel, Lowered } from "../kernel.js";
import type { InverseSpec } from "./inverse-spec.js";
import { FACTOR, FINITE, LOWER_TILE, lowerTiles, ROUNDOFF, TILE, tileSweep, tileSweepMemory, UNIT } from "./inverse-tile.js";

/** Columns swept per pair of dispatches: 8 × 8 tiles, factored by one workgroup in 8 barriers. */
const BLOCK = 32;
const BLOCK_TILES = BLOCK / TILE;
/** Rows and columns of `sweep` that one invocation of `update` owns: 64 accumulators. */
const REACH = 8;
const INVOCATIONS = 64;
/** Row tiles of one workgroup of `panel`; each workgroup factors the pivot block anew, so they should be few. */
const PANEL_TILES = 64;

export function blockedKernels(spec: InverseSpec): Lowered {
  const { n, batch } = spec;
  const size = Math.ceil(n / REACH) * REACH;
  const sweep: Buffer = { name: `${spec.label}_sweep`, dtype: "f32", elements: batch * size * size };
  const y: Buffer = { name: `${spec.label}_panel`, dtype: "f32", elements: batch * BLOCK * size };
  const progress: Buffer = { name: `${spec.label}_progress`, dtype: "u32", elements: 4 };
  const groups = (invocations: number): readonly [number, number, number] => [Math.ceil(invocations / INVOCATIONS), 1, batch];
  const tiles = groups(lowerTiles(size / TILE));
  const load: Kernel = {
    name: `inverse_${n}_load`,
    wgsl: loadText(n, size),
    bindings: [read(spec.matrix), read(spec.damping), write(sweep), write(spec.status), write(progress)],
    workgroups: tiles,
  };
  const panel: Kernel = {
    name: "inverse_panel",
    wgsl: PANEL,
    bindings: [read(spec.matrix), read(spec.damping), read(sweep), write(y), write(spec.status), write(progress)],
    workgroups: [Math.ceil(size / TILE / PANEL_TILES), 1, batch],
  };
  const update: Kernel = {
    name: "inverse_update",
    wgsl: UPDATE,
    bindings: [read(y), write(sweep), write(progress)],
    workgroups: groups(lowerTiles(size / REACH)),
  };
  const finish: Kernel = {
    name: "inverse_finish",
    wgsl: FINISH,
    bindings: [read(sweep), write(spec.inverse), write(spec.status), read(progress)],
    workgroups: tiles,
  };
  const blocks = Array.from({ length: Math.ceil(size / BLOCK) }, () => [panel, update]).flat();
  return { kernels: [load, ...blocks, finish], scratch: [sweep, y, progress] };
}

const read = (buffer: Buffer): Binding => ({ kind: "buffer", buffer, access: "read" });
const write = (buffer: Buffer): Binding => ({ kind: "buffer", buffer, access: "read_write" });

/** Where a sequence stands; the same for all its matrices. */
const PROGRESS = "struct Progress { next: u32, current: u32, n: u32, size: u32 } // blocks; rows of the matrix and of its padded copy";

const MAIN = `@compute @workgroup_size(${INVOCATIONS})
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let b = id.z;`;

const loadText = (n: number, size: number): string => `// sweep[b, ${size}, ${size}] = matrix[b, ${n}, ${n}] + damping[b]·I, lower 4×4 tiles
${PROGRESS}
@group(0) @binding(0) var<storage, read> matrix: array<f32>;
@group(0) @binding(1) var<storage, read> damping: array<f32>;
@group(0) @binding(2) var<storage, read_write> sweep: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> status: array<f32>;
@group(0) @binding(4) var<storage, read_write> progress: Progress;

${LOWER_TILE}
${MAIN}
  if (id.x == 0u) { status[b] = 1.0; }
  if (id.x == 0u && b == 0u) { progress = Progress(0u, 0u, ${n}u, ${size}u); }
  if (id.x >= ${lowerTiles(size / TILE)}u) { return; }
  let tile = lowerTile(id.x, ${size / TILE}u);
  let base = b * ${n * n}u;
  for (var r = 0u; r < 4u; r++) {
    let i = tile.x * 4u + r;
    var v = vec4f();
    for (var s = 0u; s < 4u; s++) {
      let j = tile.y * 4u + s;
      v[s] = f32(i == j);
      if (i < ${n}u && j < ${n}u) {
        v[s] = select(0.0, damping[b], i == j) + (0.5 * matrix[base + i * ${n}u + j] + 0.5 * matrix[base + j * ${n}u + i]);
      }
    }
    sweep[(b * ${size}u + i) * ${size / 4}u + tile.y] = v;
  }
}
`;

const PANEL = `// y[b, ${BLOCK}, size] = Yᵀ of the next block K: Y_I = S_IK·L⁻ᵀ, Y_K = −L⁻ᵀ, where S = sweep and S_KK = L·Lᵀ
${PROGRESS}
@group(0) @binding(0) var<storage, read> matrix: array<f32>;
@group(0) @binding(1) var<storage, read> damping: array<f32>;
@group(0) @binding(2) var<storage, read> sweep: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> status: array<f32>;
@group(0) @binding(5) var<storage, read_write> progress: Progress;

${tileSweepMemory(BLOCK_TILES)}var<workgroup> lower: array<mat4x4f, ${BLOCK_TILES * BLOCK_TILES}>; // L⁻¹ tile by tile, zero above the diagonal

${FINITE}
${FACTOR}
${LOWER_TILE}
${MAIN}
  let n = progress.n;
  let size = progress.size;
  let quads = size / 4u;
  let block = progress.next;
  if (id.x == 0u && b == 0u) { progress.current = block; }
  let first = block * ${BLOCK_TILES}u; // the block's first tile

  // L⁻¹ of the pivot block. Where the last block sticks out of the copy it goes on as a unit diagonal.
  let holds = lane < ${lowerTiles(BLOCK_TILES)}u;
  let tile = lowerTile(select(0u, lane, holds), ${BLOCK_TILES}u);
  var good = true;
  var c = mat4x4f();
  if (first + tile.x < quads) {
    let at = (b * size + (first + tile.x) * 4u) * quads + first + tile.y;
    c = mat4x4f(sweep[at], sweep[at + quads], sweep[at + 2u * quads], sweep[at + 3u * quads]);
  } else if (tile.x == tile.y) {
    c = ${UNIT};
  }
  if (holds && tile.x == tile.y) {
    var smallest = vec4f();
    for (var r = 0u; r < 4u; r++) {
      let i = (first + tile.x) * 4u + r;
      if (i < n) { smallest[r] = f32(n) * ${ROUNDOFF} * (matrix[(b * n + i) * n + i] + damping[b]); }
    }
    least[tile.x] = smallest;
  }
${tileSweep(BLOCK_TILES, "factor")}
  if (group.x == 0u && holds && tile.x == ${BLOCK_TILES - 1}u && tile.y == 0u && !good) { status[b] = 0.0; }
  if (holds) { lower[tile.x * ${BLOCK_TILES}u + tile.y] = c; }
  workgroupBarrier();

  // Tile (i, k) of Y: 4 rows and 4 columns.
  for (var f = lane; f < ${PANEL_TILES * BLOCK_TILES}u; f += ${INVOCATIONS}u) {
    let i = group.x * ${PANEL_TILES}u + f % ${PANEL_TILES}u;
    let k = f / ${PANEL_TILES}u;
    if (i >= quads || first + k >= quads) { continue; }
    var v = mat4x4f();
    if (i - first < ${BLOCK_TILES}u) { // one of the block's own rows (above it the difference wraps)
      v = lower[k * ${BLOCK_TILES}u + i - first] * -1.0;
    } else {
      // Rows below the block lie in its columns; rows above it, transposed, in its rows.
      let below = i > first;
      let step = select(size, 1u, below); // to the block's next tile
      var at = select((b * size + first * 4u) * quads + i, (b * size + i * 4u) * quads + first, below);
      for (var m = 0u; m <= k; m++) {
        var s = mat4x4f(sweep[at], sweep[at + quads], sweep[at + 2u * quads], sweep[at + 3u * quads]);
        if (below) { s = transpose(s); }
        v += s * lower[k * ${BLOCK_TILES}u + m];
        at += step;
      }
    }
    let out = (b * ${BLOCK}u + k * 4u) * quads + i;
    y[out] = v[0];
    y[out + quads] = v[1];
    y[out + 2u * quads] = v[2];
    y[out + 3u * quads] = v[3];
  }
}
`;

const ROWS = Array.from({ length: REACH }, (_, r) => r);

const UPDATE = `// sweep[b, size, size] −= Y·Yᵀ for the current block; one lower 8×8 tile per invocation
${PROGRESS}
@group(0) @binding(0) var<storage, read> y: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> sweep: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> progress: Progress;

${LOWER_TILE}
${MAIN}
  let size = progress.size;
  let quads = size / 4u;
  let block = progress.current;
  if (id.x == 0u && b == 0u) { progress.next = block + 1u; }
  let tile = lowerTile(id.x, size / ${REACH}u);
  if (tile.x >= size / ${REACH}u) { return; }
${ROWS.map((r) => `  var a${r}0 = vec4f(); var a${r}1 = vec4f();`).join("\n")}
  var row = b * ${BLOCK}u * quads + tile.x * 2u;
  var col = b * ${BLOCK}u * quads + tile.y * 2u;
  let depth = min(${BLOCK}u, size - block * ${BLOCK}u);
  for (var k = 0u; k < depth; k++) {
    let i0 = y[row]; let i1 = y[row + 1u];
    let j0 = y[col]; let j1 = y[col + 1u];
${ROWS.map((r) => `    a${r}0 += i${r >> 2}.${"xyzw"[r & 3]} * j0; a${r}1 += i${r >> 2}.${"xyzw"[r & 3]} * j1;`).join("\n")}
    row += quads;
    col += quads;
  }
  // Rows and columns of the block itself start from zero.
  let fresh = tile.x / ${BLOCK / REACH}u == block || tile.y / ${BLOCK / REACH}u == block;
  let keep = select(1.0, 0.0, fresh);
  var at = (b * size + tile.x * ${REACH}u) * quads + tile.y * 2u;
${ROWS.map((r) => `  sweep[at] = keep * sweep[at] - a${r}0; sweep[at + 1u] = keep * sweep[at + 1u] - a${r}1;`).join("\n  at += quads;\n")}
}
`;

const FINISH = `// inverse[b, n, n] = −sweep[b, size, size], both halves from the lower one; status[b] = 0 where not finite
${PROGRESS}
@group(0) @binding(0) var<storage, read> sweep: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> inverse: array<f32>;
@group(0) @binding(2) var<storage, read_write> status: array<atomic<u32>>; // the bits of an f32; 0u is 0.0
@group(0) @binding(3) var<storage, read> progress: Progress;

${FINITE}
${LOWER_TILE}
${MAIN}
  let n = progress.n;
  let size = progress.size;
  let tile = lowerTile(id.x, size / 4u);
  if (tile.x >= size / 4u) { return; }
  let base = b * n * n;
  var good = true;
  for (var r = 0u; r < 4u; r++) {
    let i = tile.x * 4u + r;
    let v = -sweep[(b * size + i) * (size / 4u) + tile.y];
    good = good && finite4(v);
    for (var s = 0u; s < 4u; s++) {
      let j = tile.y * 4u + s;
      if (i >= j && i < n) {
        inverse[base + i * n + j] = v[s];
        inverse[base + j * n + i] = v[s];
      }
    }
  }
  if (!good) { atomicStore(&status[b], 0u); }
}
`;
