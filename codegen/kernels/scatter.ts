/**
 * Sums of rows by index, out[b, r, i] = Σ_{n: index[b, n] = r} value[b, n, i], in time that grows with the places, not with places · rows.
 *
 * A stable counting sort: places are cut into chunks; every chunk counts its rows on its own (no atomics), a pass over the chunks says where
 * each chunk's places of a row begin, a second one where each row begins, and then the places are written in order of (row, place).
 * Each row adds its places in that order, so that equal runs are equal to the bit.
 *
 *   counts [b, chunks, rows]   starts [b, rows + 1 in blocks]   order [b, places]
 */
import { CompileError } from "../../ir/error.js";
import { addressOf, element, guard, type Point } from "../address.js";
import { declare } from "../bindings.js";
import type { Access, Axis, Binding, Buffer, Kernel, Limits, Lowered } from "../kernel.js";
import { MAX_TRIPS } from "../limits.js";
import { grid, WORKGROUP } from "./iterate.js";
import type { ScatterSpec } from "./scatter-spec.js";

/** Rows whose beginnings one thread adds up. */
const BLOCK = 256;
/** Places of one chunk, where memory allows so many chunks; elements of `counts` at most. */
const CHUNK = 64;
const MAX_COUNTS = 2 ** 23;
/** Numbers of a row that one thread adds. */
const WIDEST = 16;

interface Sizes {
  readonly batch: number;
  readonly places: number;
  readonly rows: number;
  readonly chunks: number;
  readonly chunk: number;
  readonly blocks: number;
}

export function lowerScatter(spec: ScatterSpec, limits: Limits): Lowered {
  const [batch, places, { rows }] = [spec.batch.size, spec.places.size, spec];
  const chunks = Math.max(1, Math.min(Math.ceil(places / CHUNK), Math.floor(MAX_COUNTS / (batch * rows))));
  const chunk = Math.ceil(places / chunks);
  const s: Sizes = { batch, places, rows, chunk, chunks: Math.ceil(places / chunk), blocks: Math.ceil(rows / BLOCK) };
  const scratch = (name: string, elements: number): Buffer => ({ name, dtype: "u32", elements });
  const counts = scratch("counts", batch * s.chunks * rows);
  const [totals, starts, blocks, order] = [scratch("totals", batch * rows), scratch("starts", batch * rows), scratch("blocks", batch * s.blocks), scratch("order", batch * places)];
  const all = [counts, totals, starts, blocks, order];
  const large = all.find((b) => b.elements * 4 > limits.bindingBytes);
  if (large || s.blocks > MAX_TRIPS) throw new CompileError("too-large", `a sum of ${places} places into ${batch} × ${rows} rows needs more memory than one binding holds`, spec.label, "use a smaller batch");
  return {
    kernels: [
      zero(spec, s, counts, limits), count(spec, s, counts, limits), chunkStarts(spec, s, counts, totals, limits), blockSums(spec, s, totals, starts, blocks, limits),
      blockStarts(spec, s, blocks, limits), place(spec, s, { counts, starts, blocks, order }, limits), sum(spec, s, { totals, starts, blocks, order }, limits),
    ],
    scratch: all,
  };
}

const read = (buffer: Buffer): Binding => ({ kind: "buffer", buffer, access: "read" });
const write = (buffer: Buffer): Binding => ({ kind: "buffer", buffer, access: "read_write" });

function kernel(name: string, what: string, threads: number, bindings: readonly Binding[], lines: readonly string[], limits: Limits): Kernel {
  const { workgroups, thread } = grid(threads, limits);
  return {
    name,
    wgsl: `// ${what}
${declare(bindings, new Set())}
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(global_invocation_id) id: vec3u) {
  let thread = ${thread};
  if (thread >= ${threads}u) { return; }
${lines.map((line) => `  ${line}`).join("\n")}
}
`,
    bindings, workgroups,
  };
}

/** An access at spelled coordinates; zero (no row: −1) outside its bounds. */
function spell(access: Access, at: ReadonlyMap<Axis, string>, none: string): string {
  const point: Point = { axis: (axis) => at.get(axis) ?? 0 };
  const text = element(access.buffer, addressOf(access, point), new Set());
  const condition = guard(access.bounds, access.quotients, point);
  return condition === undefined ? text : `select(${none}, ${text}, ${condition})`;
}

const name = (part: string, s: Sizes): string => `scatter_${part}_${s.batch}x${s.places}x${s.rows}`;

const zero = (spec: ScatterSpec, s: Sizes, counts: Buffer, limits: Limits): Kernel =>
  kernel(name("zero", s), `${spec.label}: no place counted yet`, counts.elements, [write(counts)], ["counts[thread] = 0u;"], limits);

/** One thread per chunk: its own row of counts. */
function count(spec: ScatterSpec, s: Sizes, counts: Buffer, limits: Limits): Kernel {
  return kernel(name("count", s), `${spec.label}: counts[b, chunk, row], places of each row in chunks of ${s.chunk}`, s.batch * s.chunks, [read(spec.index.buffer), write(counts)], [
    ...eachPlace(spec, s, [`counts[thread * ${s.rows}u + u32(row)] += 1u;`]),
  ], limits);
}

/** Statements of a thread that owns a chunk, for every place whose index is a row. */
function eachPlace(spec: ScatterSpec, s: Sizes, inner: readonly string[]): string[] {
  const at = new Map([[spec.batch, "b"], [spec.places, "n"]]);
  return [
    `let b = i32(thread / ${s.chunks}u);`,
    `let first = i32(thread % ${s.chunks}u) * ${s.chunk};`,
    `for (var n = first; n < min(first + ${s.chunk}, ${s.places}); n++) {`,
    `  let row = ${spell(spec.index, at, "-1")};`,
    `  if (u32(row) < ${s.rows}u) {`,
    ...inner.map((line) => `    ${line}`),
    "  }",
    "}",
  ];
}

/** counts becomes, within each row, how many places come before the chunk's; totals [b, row] are all of them. */
function chunkStarts(spec: ScatterSpec, s: Sizes, counts: Buffer, totals: Buffer, limits: Limits): Kernel {
  return kernel(name("chunks", s), `${spec.label}: counts[b, chunk, row] added up over the chunks before`, s.batch * s.rows, [write(counts), write(totals)], [
    `let base = thread / ${s.rows}u * ${s.chunks * s.rows}u + thread % ${s.rows}u;`,
    "var before = 0u;",
    `for (var k = 0u; k < ${s.chunks}u; k++) {`,
    `  let mine = counts[base + k * ${s.rows}u];`,
    `  counts[base + k * ${s.rows}u] = before;`,
    "  before += mine;",
    "}",
    "totals[thread] = before;",
  ], limits);
}

/** starts [b, row]: places of earlier rows of the same block; blocks [b, block]: all of a block's. */
function blockSums(spec: ScatterSpec, s: Sizes, totals: Buffer, starts: Buffer, blocks: Buffer, limits: Limits): Kernel {
  return kernel(name("starts", s), `${spec.label}: totals[b, row] added up over the rows before, in blocks of ${BLOCK}`, s.batch * s.blocks, [read(totals), write(starts), write(blocks)], [
    `let base = thread / ${s.blocks}u * ${s.rows}u;`,
    `let first = thread % ${s.blocks}u * ${BLOCK}u;`,
    "var before = 0u;",
    `for (var r = first; r < min(first + ${BLOCK}u, ${s.rows}u); r++) {`,
    "  starts[base + r] = before;",
    "  before += totals[base + r];",
    "}",
    "blocks[thread] = before;",
  ], limits);
}

function blockStarts(spec: ScatterSpec, s: Sizes, blocks: Buffer, limits: Limits): Kernel {
  return kernel(name("blocks", s), `${spec.label}: blocks[b, block] added up over the blocks before`, s.batch, [write(blocks)], [
    "var before = 0u;",
    `for (var k = 0u; k < ${s.blocks}u; k++) {`,
    `  let mine = blocks[thread * ${s.blocks}u + k];`,
    `  blocks[thread * ${s.blocks}u + k] = before;`,
    "  before += mine;",
    "}",
  ], limits);
}

const startOf = (s: Sizes, b: string, row: string): string => `starts[${b} * ${s.rows}u + ${row}] + blocks[${b} * ${s.blocks}u + ${row} / ${BLOCK}u]`;

/** order [b, ·]: the places, by row and then as they come. */
function place(spec: ScatterSpec, s: Sizes, { counts, starts, blocks, order }: Readonly<Record<"counts" | "starts" | "blocks" | "order", Buffer>>, limits: Limits): Kernel {
  return kernel(name("place", s), `${spec.label}: order[b, ·], places sorted by row`, s.batch * s.chunks, [read(spec.index.buffer), read(starts), read(blocks), write(counts), write(order)], [
    ...eachPlace(spec, s, [
      `let here = thread * ${s.rows}u + u32(row);`,
      `order[u32(b) * ${s.places}u + ${startOf(s, "u32(b)", "u32(row)")} + counts[here]] = u32(n);`,
      "counts[here] += 1u;",
    ]),
  ], limits);
}

/** One thread adds up to 16 neighbouring numbers of a row over its places. */
function sum(spec: ScatterSpec, s: Sizes, { totals, starts, blocks, order }: Readonly<Record<"totals" | "starts" | "blocks" | "order", Buffer>>, limits: Limits): Kernel {
  const width = spec.width.size;
  const take = Math.min(WIDEST, width);
  const parts = Math.ceil(width / take);
  const { dtype } = spec.value.buffer;
  const ragged = parts * take > width;
  const lanes = Array.from({ length: take }, (_, j) => j);
  const at = (j: number) => new Map([[spec.batch, "b"], [spec.places, "n"], [spec.width, ragged ? `min(i + ${j}, ${width - 1})` : j === 0 ? "i" : `(i + ${j})`]]);
  const zeros = dtype === "f32" ? "0.0" : "0";
  return kernel(name("sum", s), `${spec.label}: out[b, row, ${width}], each row's places added in order`, s.batch * s.rows * parts,
    [read(spec.value.buffer), read(totals), read(starts), read(blocks), read(order), write(spec.result)], [
      `let i = i32(thread % ${parts}u) * ${take};`,
      `let row = thread / ${parts}u % ${s.rows}u;`,
      `let b = i32(thread / ${parts * s.rows}u);`,
      `let first = u32(b) * ${s.places}u + ${startOf(s, "u32(b)", "row")};`,
      `let last = first + totals[u32(b) * ${s.rows}u + row];`,
      ...lanes.map((j) => `var acc${j} = ${dtype}(${zeros});`),
      "for (var k = first; k < last; k++) {",
      "  let n = i32(order[k]);",
      ...lanes.map((j) => `  acc${j} += ${spell(spec.value, at(j), zeros)};`),
      "}",
      `let base = (u32(b) * ${s.rows}u + row) * ${width}u + u32(i);`,
      ...lanes.map((j) => `${ragged ? `if (i + ${j} < ${width}) { ` : ""}${spec.result.name}[base + ${j}u] = acc${j};${ragged ? " }" : ""}`),
    ], limits);
}
