/**
 * One kernel of the tiled family: a workgroup brings a tile of both operands into its memory, step by step along the reduction, and
 * every thread multiplies rows of the one by columns of the other into registers.
 */
import type { Point } from "../../address.js";
import { bindingsOf, declare, freeBuffers, laneBuffers } from "../../bindings.js";
import { Body } from "../../body.js";
import type { Axis, Kernel, Store } from "../../kernel.js";
import { describe, kernelName } from "./emit.js";
import { printEpilogue } from "./finish.js";
import type { SplitAxes } from "./printing.js";
import { internal, type Problem, RESERVED } from "./problem.js";
import { type Frame, type Layout, layoutOf, type Operand, printLoads } from "./tiled-load.js";
import { type Tiling, threadsOf, tilesOf } from "./tiled-plan.js";
import { type Face, type Roles, storedByFour } from "./tiled-roles.js";
import { axesAt, Scope } from "./tiled-text.js";

/** What the parts of one kernel's text share. */
interface Printing {
  readonly problem: Problem;
  readonly roles: Roles;
  readonly tiling: Tiling;
  readonly stores: readonly Store[];
  readonly splits: SplitAxes;
  readonly rows: Layout | undefined;
  readonly columns: Layout | undefined;
  /** Output axis along which four columns are one store. */
  readonly lanes: Axis | undefined;
  readonly scope: Scope;
}

export function emitTiled(problem: Problem, roles: Roles, tiling: Tiling, stores: readonly Store[], splits: SplitAxes): Kernel {
  const four = storedByFour(roles, problem, stores);
  const layout = (face: Face, lines: number, packable: boolean) => face.side && layoutOf(face.side, face, roles, problem, lines, packable);
  const rows = layout(roles.rows, tiling.rows, true);
  const columns = layout(roles.columns, tiling.columns, four !== undefined);
  const lanes = columns === undefined || columns.packed ? four : undefined;
  const operands = [roles.rows.side?.buffer, roles.columns.side?.buffer].filter((buffer) => buffer !== undefined);
  const vec4 = new Set([...(lanes ? laneBuffers(stores, lanes, true) : [])].filter((buffer) => !operands.includes(buffer)));
  for (const [face, made] of [[roles.rows, rows], [roles.columns, columns]] as const) if (made?.wide && face.side) vec4.add(face.side.buffer);
  const free = freeBuffers(stores);
  const bound = [...operands, ...free.loads, ...free.stores];
  const reserved = bound.find((buffer) => RESERVED.includes(buffer.name));
  if (reserved) throw internal(problem.spec, `no buffer can be called "${reserved.name}"`);
  const scope = new Scope(new Set([...bound.map((buffer) => buffer.name), ...problem.names, ...RESERVED.filter((name) => name !== "thread" && name !== "tile")]), "  ");
  const p: Printing = { problem, roles, tiling, stores, splits, rows, columns, lanes, scope };
  const bindings = bindingsOf(bound, new Set(free.stores), free.run);
  const total = tilesOf(problem, roles, tiling) * tiling.parts;
  const down = Math.ceil(total / problem.limits.workgroupsPerDimension);
  const workgroups = [Math.ceil(total / down), down, 1] as const;
  const finish = finishFunction(p, vec4);
  const main = mainFunction(p, vec4, total, workgroups);
  const wgsl = [`// ${describe(problem.spec)}`, `// ${spellTiling(p)}`, declare(bindings, vec4), finish, main, ""].join("\n");
  return { name: kernelName(problem.spec), wgsl, bindings, workgroups };
}

function spellTiling({ problem, roles, tiling, rows, columns }: Printing): string {
  const names = (axes: readonly number[]) => axes.map((a) => problem.names[a]).join(" × ") || "1";
  const how = (layout: Layout | undefined) => (layout ? `${layout.along === "line" ? "across" : "along"} the tile${layout.wide ? " by vec4" : ""}` : "ones");
  return `schedule: tiles of ${tiling.rows} (${names(roles.rows.axes)}) × ${tiling.columns} (${names(roles.columns.axes)}), ${tiling.depth} deep (${names(roles.depth)})` +
    `${tiling.parts > 1 ? ` in ${tiling.parts} parts` : ""}, ${tiling.perRow} × ${tiling.perColumn} per thread; rows loaded ${how(rows)}, columns ${how(columns)}`;
}

/** `fn finish(acc, axes…)`: the epilogue and the stores of one element, or of four neighbours along the lane axis. */
function finishFunction({ problem, stores, splits, lanes }: Printing, vec4: ReadonlySet<Store["buffer"]>): string {
  const body = new Body();
  const names = new Map<Axis, string>(splits);
  for (const [a, axis] of problem.spec.output.entries()) if (axis.size > 1) names.set(axis, problem.names[a] ?? axis.name);
  const point: Point = { axis: (axis) => names.get(axis) ?? 0, acc: "acc", ...(lanes && { lanes }) };
  printEpilogue(body, { problem, vec4 }, stores, point, problem.pairs.length > 0);
  const parameters = [`acc: ${lanes ? "vec4f" : "f32"}`, ...[...names.values()].map((name) => `${name}: i32`)];
  return [body.prelude(), `fn finish(${parameters.join(", ")}) {`, ...body.lines, "}"].filter((line) => line !== "").join("\n");
}

/** Number of a workgroup's tile, row of tiles, column of tiles, batch and part, as the text calls them. */
interface Place {
  readonly thread: string;
  readonly row: string;
  readonly column: string;
  readonly batch: string;
  readonly part: string;
}

function mainFunction(p: Printing, vec4: ReadonlySet<Store["buffer"]>, total: number, workgroups: readonly [number, number, number]): string {
  const { roles, tiling, scope, problem } = p;
  const [rowsTile, columnsTile] = [scope.name("rows_tile"), scope.name("columns_tile")];
  const tileDeclarations = ([[rowsTile, p.rows], [columnsTile, p.columns]] as const).flatMap(([name, layout]) =>
    layout ? [`var<workgroup> ${name}: array<vec4f, ${layout.stride * tiling.depth}>;`] : []);
  const [group, local] = [scope.name("workgroup"), scope.name("local")];
  const place = placeOf(p, group, local, total, workgroups);
  const [down, across] = [tiling.rows / tiling.perRow, tiling.columns / tiling.perColumn];
  const threadColumn = scope.let("thread_column", across === 1 ? "0" : `${place.thread} % ${across}`);
  const threadRow = scope.let("thread_row", down === 1 ? "0" : across === 1 ? place.thread : `${place.thread} / ${across}`);
  const sums = accumulatorNames(p);
  for (const row of sums) scope.push(row.map((name) => `var ${name} = vec4f();`).join(" "));

  const steps = Math.ceil(roles.deep / tiling.depth);
  const each = Math.ceil(steps / tiling.parts);
  const step = scope.name("step");
  const inner = scope.inner();
  const from = each === 1 && tiling.parts === 1 ? "0" : inner.let("start", `${step} * ${tiling.depth}`);
  const frame: Frame = { problem, roles, vec4, threads: threadsOf(tiling), tileDepth: tiling.depth, thread: place.thread, batch: place.batch, from };
  const operand = (face: Face, layout: Layout | undefined, lines: number, prefix: string, tile: string, first: string): void => {
    if (!face.side || !layout) return;
    const o: Operand = { side: face.side, face, layout, lines, prefix, tile, first };
    printLoads(frame, o, scope, inner);
  };
  operand(roles.rows, p.rows, tiling.rows, "row", rowsTile, place.row);
  operand(roles.columns, p.columns, tiling.columns, "col", columnsTile, place.column);
  inner.push("workgroupBarrier();", ...multiply(p, { rowsTile, columnsTile, threadRow, threadColumn, from, sums, down, across }), "workgroupBarrier();");

  const [low, high] = tiling.parts === 1 ? ["0", `${steps}`] : [`${place.part} * ${each}`, steps === each * tiling.parts ? `${place.part} * ${each} + ${each}` : `min(${place.part} * ${each} + ${each}, ${steps})`];
  const loop = from === "0" ? inner.lines : [`  for (var ${step} = ${low}; ${step} < ${high}; ${step}++) {`, ...inner.lines, "  }"];
  const head = scope.lines.splice(0);
  printStores(p, place, threadRow, threadColumn, sums);
  return [
    ...tileDeclarations,
    `@compute @workgroup_size(${threadsOf(tiling)})`,
    `fn main(@builtin(workgroup_id) ${group}: vec3u, @builtin(local_invocation_index) ${local}: u32) {`,
    ...head, ...loop, ...scope.lines, "}",
  ].join("\n");
}

/** Workgroup number → tile; of a symmetric product only tiles on and above the diagonal. */
function placeOf(p: Printing, group: string, local: string, total: number, workgroups: readonly [number, number, number]): Place {
  const { roles, tiling, scope, problem } = p;
  const tile = scope.let("tile", `i32(${group}.x)${workgroups[1] > 1 ? ` + i32(${group}.y) * ${workgroups[0]}` : ""}`);
  if (total !== workgroups[0] * workgroups[1]) scope.push(`if (${tile} >= ${total}) { return; }`);
  const thread = scope.let("thread", `i32(${local})`);
  const [down, across] = [Math.ceil(roles.rows.size / tiling.rows), Math.ceil(roles.columns.size / tiling.columns)];
  const perBatch = problem.pairs.length > 0 ? (down * (down + 1)) / 2 : down * across;
  const digit = (weight: number, size: number): string => (size === 1 ? "0" : `${weight === 1 ? tile : `${tile} / ${weight}`}${total === weight * size ? "" : ` % ${size}`}`.replace(/^(\S+ \/ \d+) %/, "($1) %"));
  const batch = scope.let("batch", digit(perBatch, roles.batches));
  const part = scope.let("part", digit(perBatch * roles.batches, tiling.parts));
  const scaled = (text: string, by: number) => (text === "0" ? "0" : `${/^\w+$/.test(text) ? text : `(${text})`} * ${by}`);
  if (problem.pairs.length === 0 || down === 1) {
    const row = scope.let("row", scaled(digit(across, down), tiling.rows));
    return { thread, batch, part, row, column: scope.let("column", scaled(digit(1, across), tiling.columns)) };
  }
  // the closed formula with one correction either way for the square root's rounding
  const [n, i, j] = [scope.let("pair", digit(1, perBatch)), scope.name("tile_i"), scope.name("tile_j")];
  scope.push(
    `var ${j} = i32((sqrt(8.0f * f32(${n}) + 1.0f) - 1.0f) * 0.5f);`,
    `if (${j} * (${j} + 1) / 2 > ${n}) { ${j}--; }`,
    `if ((${j} + 1) * (${j} + 2) / 2 <= ${n}) { ${j}++; }`,
    `let ${i} = ${n} - ${j} * (${j} + 1) / 2;`,
  );
  return { thread, batch, part, row: scope.let("row", scaled(i, tiling.rows)), column: scope.let("column", scaled(j, tiling.columns)) };
}

/** By row of the thread, then by vec4 of columns. */
function accumulatorNames({ tiling, scope }: Printing): string[][] {
  return Array.from({ length: tiling.perRow }, (_, r) => Array.from({ length: tiling.perColumn / 4 }, (__, g) => scope.name(`c${r}_${g}`)));
}

interface Multiply {
  readonly rowsTile: string;
  readonly columnsTile: string;
  readonly threadRow: string;
  readonly threadColumn: string;
  readonly from: string;
  readonly sums: readonly (readonly string[])[];
  readonly down: number;
  readonly across: number;
}

function multiply({ roles, tiling, rows, columns, scope }: Printing, m: Multiply): string[] {
  const k = scope.name("slice");
  const quads = (layout: Layout | undefined, tile: string, name: string, at: string, apart: number, count: number): { lines: string[]; names: string[] } => {
    const names = Array.from({ length: count }, (_, g) => scope.name(`${name}${g}`));
    const stride = layout?.stride ?? 0;
    return { names, lines: layout ? names.map((n, g) => `  let ${n} = ${tile}[${k} * ${stride}${at === "0" ? "" : ` + ${at}`}${g === 0 ? "" : ` + ${g * apart}`}];`) : [] };
  };
  const a = quads(rows, m.rowsTile, "a", m.threadRow, m.down, tiling.perRow / 4);
  const b = quads(columns, m.columnsTile, "b", m.threadColumn, m.across, tiling.perColumn / 4);
  const lines = m.sums.flatMap((row, r) => row.map((sum, g) => {
    const left = rows && `${a.names[r >> 2]}.${"xyzw"[r & 3]}`;
    const right = columns && b.names[g];
    return `  ${sum} += ${left && right ? `${left} * ${right}` : (right ?? `vec4f(${left})`)};`;
  }));
  // beyond the reduction the tiles hold zeros: one operand alone must be, too
  const trips = Math.min(roles.deep, tiling.depth);
  return [`for (var ${k} = 0; ${k} < ${trips}; ${k}++) {`, ...a.lines, ...b.lines, ...lines, "}"];
}

/** Calls of `finish`, guarded where rows or columns end within the last tile, and below the diagonal. */
function printStores(p: Printing, place: Place, threadRow: string, threadColumn: string, sums: readonly (readonly string[])[]): void {
  const { problem, roles, tiling, lanes, scope } = p;
  const [down, across] = [tiling.rows / tiling.perRow, tiling.columns / tiling.perColumn];
  const batch = axesAt(roles.batch, place.batch, problem, scope);
  const lineName = (base: string, first: string, thread: string, packed: boolean, quads: number, step: number, index: number): string => {
    const [g, j] = [index >> 2, index & 3];
    const offset = packed ? g * step * 4 + j : g * step + j * quads;
    const parts = [first, thread === "0" ? "0" : packed ? `${thread} * 4` : thread].filter((text) => text !== "0");
    const origin = parts.length === 0 ? "0" : scope.let(`${base}_0`, parts.join(" + "));
    return offset === 0 ? origin : scope.let(`${base}_${offset}`, `${origin} + ${offset}`);
  };
  const columnSteps = lanes ? sums[0]?.map((_, g) => 4 * g) ?? [] : Array.from({ length: tiling.perColumn }, (_, c) => c);
  const columns = columnSteps.map((c) => {
    const name = lineName("column", place.column, threadColumn, p.columns?.packed ?? true, tiling.columns / 4, across, c);
    return { name, axes: axesAt(roles.columns.axes, name, problem, scope), c };
  });
  const [raggedRows, raggedColumns] = [roles.rows.size % tiling.rows !== 0, roles.columns.size % tiling.columns !== 0];
  for (const [r, row] of sums.entries()) {
    const name = lineName("row", place.row, threadRow, p.rows?.packed ?? true, tiling.rows / 4, down, r);
    const inner = raggedRows ? scope.inner() : scope;
    if (raggedRows) scope.push(`if (${name} < ${roles.rows.size}) {`);
    const rowAxes = axesAt(roles.rows.axes, name, problem, inner);
    for (const column of columns) {
      const at = new Map([...batch, ...rowAxes, ...column.axes]);
      const where = problem.spec.output.flatMap((axis, a) => (axis.size > 1 ? [at.get(a) ?? "0"] : []));
      const value = lanes ? row[column.c >> 2] : `${row[column.c >> 2]}.${"xyzw"[column.c & 3]}`;
      const conditions = [...(raggedColumns ? [`${column.name} < ${roles.columns.size}`] : []), ...(problem.pairs.length > 0 ? [`${name} <= ${column.name}`] : [])];
      const call = `finish(${[value, ...[...p.splits.values()].map(() => place.part), ...where].join(", ")});`;
      inner.push(conditions.length === 0 ? call : `if (${conditions.join(" && ")}) { ${call} }`);
    }
    if (raggedRows) {
      scope.lines.push(...inner.lines);
      scope.push("}");
    }
  }
}
