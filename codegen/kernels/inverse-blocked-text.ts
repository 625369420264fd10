/** The WGSL of inverse-blocked.ts. */
import { FACTOR, FINITE, LOWER_TILE, lowerTiles, ROUNDOFF, TILE, tileSweep, tileSweepMemory, UNIT } from "./inverse-tile.js";

/** Columns swept per pair of dispatches: 12 × 12 tiles, factored by one workgroup in 12 barriers (the serial part: it grows with the cube). */
export const BLOCK = 48;
const BLOCK_TILES = BLOCK / TILE;
/** Rows and columns of `sweep` that one invocation of `update` owns: 256 accumulators for 32 loaded numbers. */
export const REACH = 16;
export const INVOCATIONS = 64;
export const UPDATE_INVOCATIONS = 32;
/** One lower tile of the pivot block each. */
const PANEL_INVOCATIONS = lowerTiles(BLOCK_TILES);

/** Matrices of one batch: `size` rows of the padded copy; first vec4 of `sweep` and `y`, first of `least`; first ticket and tickets per matrix. */
export interface TableRow {
  readonly n: number;
  readonly batch: number;
  readonly size: number;
  readonly sweep: number;
  readonly y: number;
  readonly least: number;
  readonly ticket: number;
  readonly tickets: number;
}

const TABLE = `struct Matrix { n: u32, size: u32, sweep: u32, y: u32, least: u32, ticket: u32, b: u32, bad: atomic<u32> } // rows, padded rows; where its parts begin
struct Table { next: u32, current: u32, loads: atomic<u32>, stores: atomic<u32>, count: u32, a: u32, b: u32, c: u32, matrices: array<Matrix> }
`;

/** `matrixOf(ticket)`: the last matrix whose first ticket is not beyond. */
const MATRIX_OF = `var<workgroup> drawn: u32;
fn matrixOf(ticket: u32) -> u32 {
  var low = 0u;
  var high = table.count;
  while (high - low > 1u) {
    let middle = (low + high) / 2u;
    if (table.matrices[middle].ticket <= ticket) { low = middle; } else { high = middle; }
  }
  return low;
}
`;

export const setupText = (rows: readonly TableRow[]): string => {
  let first = 0;
  const fills = rows.map((r) => {
    const at = `${2 + 2 * first}u + 2u * b`;
    first += r.batch;
    return `  for (var b = lane; b < ${r.batch}u; b += ${INVOCATIONS}u) { // ${r.n} × ${r.n}
    table[${at}] = vec4u(${r.n}u, ${r.size}u, ${r.sweep}u + b * ${r.size * r.size / 4}u, ${r.y}u + b * ${BLOCK * r.size / 4}u);
    table[${at} + 1u] = vec4u(${r.least}u + b * ${r.size}u, ${r.ticket}u + b * ${r.tickets}u, b, 0u);
  }`;
  });
  return `// where the padded copies of ${first} matrices are
@group(0) @binding(0) var<storage, read_write> table: array<vec4u>;

@compute @workgroup_size(${INVOCATIONS})
fn main(@builtin(local_invocation_index) lane: u32) {
  if (lane == 0u) { table[0] = vec4u(); table[1] = vec4u(${first}u, 0u, 0u, 0u); }
${fills.join("\n")}
}
`;
};

export const LOAD = `// sweep = matrix + damping·I, lower 4×4 tiles, and the smallest acceptable pivots
${TABLE}
@group(0) @binding(0) var<storage, read> matrix: array<f32>;
@group(0) @binding(1) var<storage, read> damping: array<f32>;
@group(0) @binding(2) var<storage, read_write> sweep: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> least: array<f32>;
@group(0) @binding(4) var<storage, read_write> status: array<f32>;
@group(0) @binding(5) var<storage, read_write> table: Table;

${MATRIX_OF}
${LOWER_TILE}
@compute @workgroup_size(${INVOCATIONS})
fn main(@builtin(local_invocation_index) lane: u32) {
  if (lane == 0u) { drawn = atomicAdd(&table.loads, 1u); }
  let ticket = workgroupUniformLoad(&drawn);
  let which = matrixOf(ticket);
  let n = table.matrices[which].n;
  let quads = table.matrices[which].size / 4u;
  let b = table.matrices[which].b;
  let f = (ticket - table.matrices[which].ticket) * ${INVOCATIONS}u + lane;
  if (f == 0u) { status[b] = 1.0; }
  let tile = lowerTile(f, quads);
  if (tile.x >= quads) { return; }
  let base = b * n * n;
  let shift = damping[b];
  for (var r = 0u; r < 4u; r++) {
    let i = tile.x * 4u + r;
    var v = vec4f();
    for (var s = 0u; s < 4u; s++) {
      let j = tile.y * 4u + s;
      v[s] = f32(i == j);
      if (i < n && j < n) { v[s] = select(0.0, shift, i == j) + (0.5 * matrix[base + i * n + j] + 0.5 * matrix[base + j * n + i]); }
      if (i == j) { least[table.matrices[which].least + i] = select(0.0, f32(n) * ${ROUNDOFF} * v[s], i < n); }
    }
    sweep[table.matrices[which].sweep + i * quads + tile.y] = v;
  }
}
`;

export const PANEL = `// y[${BLOCK}, size] = Yᵀ of the next block K: Y_I = S_IK·L⁻ᵀ, Y_K = −L⁻ᵀ, where S = sweep and S_KK = L·Lᵀ
${TABLE}
@group(0) @binding(0) var<storage, read> sweep: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(2) var<storage, read> smallest: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> table: Table;

${tileSweepMemory(BLOCK_TILES)}// L⁻¹ tile by tile, each two rows of tiles as wide as the second: row k begins at lowerRow(k)
var<workgroup> lower: array<mat4x4f, ${2 * (BLOCK_TILES / 2) * (BLOCK_TILES / 2 + 1)}>;
fn lowerRow(k: u32) -> u32 { let p = k / 2u; return (p + k % 2u) * (2u * p + 2u); }

${FINITE}
${FACTOR}
${LOWER_TILE}
@compute @workgroup_size(${PANEL_INVOCATIONS})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let quads = table.matrices[group.z].size / 4u;
  let block = table.next;
  if (lane == 0u && group.x == 0u && group.z == 0u) { table.current = block; }
  let first = block * ${BLOCK_TILES}u; // the block's first tile
  let base = table.matrices[group.z].sweep;

  // L⁻¹ of the pivot block. Where the last block sticks out of the copy it goes on as a unit diagonal.
  let tile = lowerTile(lane, ${BLOCK_TILES}u);
  let holds = true;
  var good = true;
  var c = mat4x4f();
  if (first + tile.x < quads) {
    let at = base + (first + tile.x) * 4u * quads + first + tile.y;
    for (var r = 0u; r < 4u; r++) { c = mat4x4f(c[1], c[2], c[3], sweep[at + r * quads]); }
  } else if (tile.x == tile.y) {
    c = ${UNIT};
  }
  if (tile.x == tile.y) {
    least[tile.x] = vec4f();
    if (first + tile.x < quads) { least[tile.x] = smallest[table.matrices[group.z].least / 4u + first + tile.x]; }
  }
${tileSweep(BLOCK_TILES, "factor")}
  if (tile.x == ${BLOCK_TILES - 1}u && tile.y == 0u && !good) { atomicStore(&table.matrices[group.z].bad, 1u); }
  lower[lowerRow(tile.x) + tile.y] = c;
  if (tile.x == tile.y && tile.x % 2u == 0u) { lower[lowerRow(tile.x) + tile.y + 1u] = mat4x4f(); }
  workgroupBarrier();

  // Two by two tiles of Y: 8 rows and 8 columns.
  let share = (quads / 2u + groups.x - 1u) / groups.x;
  let ybase = table.matrices[group.z].y;
  for (var f = lane; f < share * ${BLOCK_TILES / 2}u; f += ${PANEL_INVOCATIONS}u) {
    let i = (group.x * share + f % share) * 2u;
    let k = f / share * 2u;
    if (i >= quads || first + k >= quads) { continue; }
    var v = mat4x4f(); // rows i, columns k
    var w = mat4x4f(); // rows i + 1
    var v1 = mat4x4f(); // columns k + 1
    var w1 = mat4x4f();
    let own = i - first; // below ${BLOCK_TILES}: two of the block's own rows (above it the difference wraps)
    // Rows below the block lie in its columns; rows above it, transposed, in its rows.
    let below = i > first;
    let step = select(quads * 4u, 1u, below); // to the block's next tile
    let beside = select(1u, quads * 4u, below); // to the next row of Y
    var at = base + select(first * 4u * quads + i, i * 4u * quads + first, below);
    let k0 = lowerRow(k);
    let k1 = lowerRow(k + 1u);
    for (var m = 0u; m <= k + 1u; m++) {
      var s = mat4x4f();
      var t = mat4x4f();
      if (own < ${BLOCK_TILES}u) {
        if (own == m) { s = ${UNIT} * -1.0; }
        if (own + 1u == m) { t = ${UNIT} * -1.0; }
      } else {
        for (var r = 0u; r < 4u; r++) {
          s = mat4x4f(s[1], s[2], s[3], sweep[at + r * quads]);
          t = mat4x4f(t[1], t[2], t[3], sweep[at + beside + r * quads]);
        }
        if (below) { s = transpose(s); t = transpose(t); }
      }
      let l0 = lower[k0 + m];
      let l1 = lower[k1 + m];
      v += s * l0;
      w += t * l0;
      v1 += s * l1;
      w1 += t * l1;
      at += step;
    }
    var out = ybase + k * 4u * quads + i;
    // always the first column, and all move up: fewer stores to compile
    for (var r = 0u; r < 8u; r++) {
      y[out] = v[0];
      y[out + 1u] = w[0];
      v = mat4x4f(v[1], v[2], v[3], v1[0]);
      w = mat4x4f(w[1], w[2], w[3], w1[0]);
      v1 = mat4x4f(v1[1], v1[2], v1[3], vec4f());
      w1 = mat4x4f(w1[1], w1[2], w1[3], vec4f());
      out += quads;
    }
  }
}
`;

const ROWS = Array.from({ length: REACH }, (_, r) => r);
const QUADS = Array.from({ length: REACH / 4 }, (_, q) => q);
/** One text per accumulator vector, a line per row. */
const each = (text: (r: number, q: number) => string, rows: readonly number[] = ROWS): string => rows.map((r) => `    ${QUADS.map((q) => text(r, q)).join(" ")}`).join("\n");

export const UPDATE = `// sweep −= Y·Yᵀ for the current block; one lower ${REACH}×${REACH} tile per invocation
${TABLE}
@group(0) @binding(0) var<storage, read> y: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> sweep: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> table: Table;

${LOWER_TILE}
@compute @workgroup_size(${UPDATE_INVOCATIONS})
fn main(@builtin(global_invocation_id) id: vec3u) {
  let size = table.matrices[id.z].size;
  let quads = size / 4u;
  let block = table.current;
  if (id.x == 0u && id.z == 0u) { table.next = block + 1u; }
  let tile = lowerTile(id.x, size / ${REACH}u);
  if (tile.x >= size / ${REACH}u) { return; }
${each((r, q) => `var a${r}${q} = vec4f();`)}
  var row = table.matrices[id.z].y + tile.x * ${REACH / 4}u;
  var col = table.matrices[id.z].y + tile.y * ${REACH / 4}u;
  let depth = min(${BLOCK}u, size - block * ${BLOCK}u);
  for (var k = 0u; k < depth; k++) {
${QUADS.map((q) => `    let i${q} = y[row + ${q}u]; let j${q} = y[col + ${q}u];`).join("\n")}
${each((r, q) => `a${r}${q} += i${r >> 2}.${"xyzw"[r & 3]} * j${q};`)}
    row += quads;
    col += quads;
  }
  // Rows and columns of the block itself start from zero.
  let fresh = tile.x / ${BLOCK / REACH}u == block || tile.y / ${BLOCK / REACH}u == block;
  let keep = select(1.0, 0.0, fresh);
  var at = table.matrices[id.z].sweep + tile.x * ${REACH}u * quads + tile.y * ${REACH / 4}u;
  // Always the first row, and all move up: code for one row, where compiling the stores of all would take longer than everything else.
  for (var r = 0u; r < ${REACH}u; r++) {
    ${QUADS.map((q) => `sweep[at + ${q}u] = keep * sweep[at + ${q}u] - a0${q};`).join(" ")}
${each((r, q) => `a${r}${q} = a${r + 1}${q};`, ROWS.slice(0, -1))}
    at += quads;
  }
}
`;

export const FINISH = `// inverse = −sweep, both halves from the lower one; status = 0 where a pivot failed or a value is not finite
${TABLE}
@group(0) @binding(0) var<storage, read> sweep: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> inverse: array<f32>;
@group(0) @binding(2) var<storage, read_write> status: array<atomic<u32>>; // the bits of an f32; 0u is 0.0
@group(0) @binding(3) var<storage, read_write> table: Table;

${MATRIX_OF}
${FINITE}
${LOWER_TILE}
@compute @workgroup_size(${INVOCATIONS})
fn main(@builtin(local_invocation_index) lane: u32) {
  if (lane == 0u) { drawn = atomicAdd(&table.stores, 1u); }
  let ticket = workgroupUniformLoad(&drawn);
  let which = matrixOf(ticket);
  let n = table.matrices[which].n;
  let quads = table.matrices[which].size / 4u;
  let b = table.matrices[which].b;
  let tile = lowerTile((ticket - table.matrices[which].ticket) * ${INVOCATIONS}u + lane, quads);
  if (tile.x >= quads) { return; }
  let base = b * n * n;
  var good = atomicLoad(&table.matrices[which].bad) == 0u;
  for (var r = 0u; r < 4u; r++) {
    let i = tile.x * 4u + r;
    let v = -sweep[table.matrices[which].sweep + i * quads + tile.y];
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
