/**
 * Inverses of matrices of any sizes in lockstep: the block sweep of inverse-tile.ts with blocks of 64 columns, in padded copies `sweep`.
 *
 *   setup                     the table: where each matrix is
 *   load           per batch  sweep ← matrix + damping·I       (padding: a unit diagonal)
 *   panel, update  per block  factor the pivot blocks, Y; sweep ← sweep − Y·Yᵀ on 16×16 tiles, lower half
 *   finish         per batch  inverse ← −sweep, both halves
 *
 * The largest matrix comes first in the table, so that those with blocks left are always its first ones: one that is finished takes no more
 * workgroups. Nothing but `setup` has a size in its text (compiling costs more than the index arithmetic): four pipelines serve every block
 * of every matrix. `load` and `finish` are told which batch is theirs by tickets that their workgroups draw; the block's number
 * is in the table: `panel` reads `next` and copies it to `current`, `update` reads `current` and puts the following block into `next`. No
 * dispatch writes what it reads, so there is no race and no extra dispatch that counts.
 */
import type { Binding, Buffer, Kernel, Lowered } from "../kernel.js";
import { FINISH, LOAD, PANEL, REACH, setupText, type TableRow, UPDATE, UPDATE_INVOCATIONS, BLOCK, INVOCATIONS } from "./inverse-blocked-text.js";
import type { InverseBatch } from "./inverse-spec.js";
import { lowerTiles, TILE } from "./inverse-tile.js";

/** Row tiles of one workgroup of `panel`; each workgroup factors the pivot block anew, so they should be few. */
const PANEL_TILES = 160;

/** Rows of a matrix's padded copy. */
export const sweepRows = (n: number): number => Math.ceil(n / REACH) * REACH;

export function blockedKernels(label: string, given: readonly InverseBatch[]): Lowered {
  const batches = [...given].sort((a, b) => b.n - a.n);
  const rows = tableOf(batches);
  const last = rows[rows.length - 1] as TableRow;
  const count = rows.reduce((n, r) => n + r.batch, 0);
  const end = (r: TableRow, at: keyof TableRow, each: number): number => r[at] + r.batch * each;
  const scratch = (name: string, dtype: "f32" | "u32", elements: number): Buffer => ({ name: `${label}_${name}`, dtype, elements });
  const table = scratch("table", "u32", 8 + 8 * count);
  const sweep = scratch("sweep", "f32", 4 * end(last, "sweep", last.size * last.size / 4));
  const y = scratch("panel", "f32", 4 * end(last, "y", BLOCK * last.size / 4));
  const least = scratch("least", "f32", end(last, "least", last.size));
  const setup: Kernel = { name: "inverse_setup", wgsl: setupText(rows), bindings: [write(table)], workgroups: [1, 1, 1] };
  const load = batches.map((b, k): Kernel => ({
    name: "inverse_load", wgsl: LOAD, bindings: [read(b.matrix), read(b.damping), write(sweep), write(least), write(b.status), write(table)],
    workgroups: tickets(rows[k] as TableRow),
  }));
  const finish = batches.map((b, k): Kernel => ({
    name: "inverse_finish", wgsl: FINISH, bindings: [read(sweep), write(b.inverse), write(b.status), write(table)], workgroups: tickets(rows[k] as TableRow),
  }));
  const largest = (rows[0] as TableRow).size;
  const blocks = Array.from({ length: Math.ceil(largest / BLOCK) }, (_, block): Kernel[] => {
    const active = rows.reduce((n, r) => n + (r.size > block * BLOCK ? r.batch : 0), 0);
    return [
      { name: "inverse_panel", wgsl: PANEL, bindings: [read(sweep), write(y), read(least), write(table)], workgroups: [panelGroups(largest), 1, active] },
      { name: "inverse_update", wgsl: UPDATE, bindings: [read(y), write(sweep), write(table)], workgroups: [Math.ceil(lowerTiles(largest / REACH) / UPDATE_INVOCATIONS), 1, active] },
    ];
  }).flat();
  return { kernels: [setup, ...load, ...blocks, ...finish], scratch: [table, sweep, y, least] };
}

/** An even number beyond one: adapters with two cores share it evenly. */
function panelGroups(size: number): number {
  const least = Math.ceil(size / TILE / PANEL_TILES);
  return least <= 1 && size < 4 * BLOCK ? 1 : 2 * Math.ceil(least / 2);
}

const tickets = (r: TableRow): readonly [number, number, number] => [loadGroups(r.size), r.batch, 1];
const loadGroups = (size: number): number => Math.ceil(lowerTiles(size / TILE) / INVOCATIONS);

/** Where the matrices of each batch are: everything one after the other. */
function tableOf(batches: readonly InverseBatch[]): TableRow[] {
  let at = { sweep: 0, y: 0, least: 0, ticket: 0 };
  return batches.map(({ n, batch }): TableRow => {
    const size = sweepRows(n);
    const row = { n, batch, size, ...at, tickets: loadGroups(size) };
    at = { sweep: at.sweep + batch * size * size / 4, y: at.y + batch * BLOCK * size / 4, least: at.least + batch * size, ticket: at.ticket + batch * row.tickets };
    return row;
  });
}

const read = (buffer: Buffer): Binding => ({ kind: "buffer", buffer, access: "read" });
const write = (buffer: Buffer): Binding => ({ kind: "buffer", buffer, access: "read_write" });
