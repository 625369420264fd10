/** Pass 6: one kernel of a contraction as WGSL: thread digits, accumulators, loop nest with one peeled tail, stores. */
import type { Point } from "../../address.js";
import { bindingsOf, declare, freeBuffers, laneBuffers } from "../../bindings.js";
import { Body as Lines } from "../../body.js";
import { emitExpr, emitStore } from "../../expr.js";
import type { Affine, Axis, Buffer, ContractSpec, Expr, Kernel, Pool, Store } from "../../kernel.js";
import { isNan } from "../../wgsl.js";
import { loopNest, printBody, spellSum } from "./print.js";
import { internal, type Problem, RESERVED } from "./problem.js";
import { type AxisLayout, type Digit, layOut, levelSize, product, type Schedule } from "./schedule.js";
import { type Accumulator, accumulators, bodyOf, sumAccumulators, tables, tilePosition, type Widths, widths } from "./terms.js";

/** Spelling of the split digits for a first pass, whose stores address partial sums by them. */
export type SplitAxes = ReadonlyMap<Axis, string>;

/** What a kernel stores: its own results, those of the further sums, and whether the former are maxima of several accumulators. */
export interface Results {
  readonly stores: readonly Store[];
  /** By further sum of the problem. */
  readonly sums: readonly (readonly Store[])[];
  readonly pool?: Pool;
}

/** What the parts of one kernel's text share. */
interface Printing {
  readonly problem: Problem;
  readonly schedule: Schedule;
  readonly results: Results;
  readonly splits: SplitAxes;
  readonly layout: readonly AxisLayout[];
  readonly accs: readonly Accumulator[];
  readonly sumAccs: readonly Accumulator[];
  readonly lanes: Axis | undefined;
  readonly vec4: ReadonlySet<Buffer>;
  /** Rows of tiles in the triangle; 1 where one tile holds it all, 0 without symmetry. */
  readonly tiles: number;
  /** Prefix of local names, chosen so that no buffer is shadowed. */
  readonly local: string;
}

export function emitKernel(problem: Problem, schedule: Schedule, results: Results, splits: SplitAxes): Kernel {
  const layout = layOut(problem, schedule, "whole");
  const width = widths(problem, layout);
  const tiles = problem.pairs.length === 0 ? 0 : product(problem.pairs.map(([i]) => levelSize(schedule, problem.axes[i] as Axis, "thread")));
  const stores = [...results.stores, ...results.sums.flat()];
  const lanes = problem.pairs.length === 0 ? laneAxis(problem, schedule, results.stores) : undefined;
  const vec4 = new Set([...(lanes ? laneBuffers(stores, lanes, true) : [])].filter((buffer) => !width.has(buffer)));
  for (const [buffer, w] of width) if (w === 4) vec4.add(buffer);
  const free = freeBuffers([...stores, ...(results.pool ? results.stores.slice(0, 1).map((store) => ({ ...store, value: (results.pool as Pool).value })) : [])]);
  const bound = [...width.keys(), ...free.loads, ...free.stores];
  const taken = bound.find((buffer) => RESERVED.includes(buffer.name));
  if (taken) throw internal(problem.spec, `no buffer can be called "${taken.name}"`);
  const local = bound.some((buffer) => /^[abcq]_?\d*(_at\d*|_0)?$/.test(buffer.name)) ? "v_" : "";
  const accs = accumulators(problem, layout, tiles === 1);
  const p: Printing = { problem, schedule, results, splits, layout, accs, sumAccs: sumAccumulators(problem, layout), lanes, vec4, tiles, local };
  const bindings = bindingsOf(bound, new Set(free.stores), free.run);
  const declarations = [...width].reduce(
    (text, [buffer, w]) => (w === 2 ? text.replace(` ${buffer.name}: array<f32>`, ` ${buffer.name}: array<vec2f>`) : text),
    declare(bindings, vec4),
  );
  const dispatch = dispatchOf(p);
  const finish = finishFunctions(p);
  const main = mainFunction(p, dispatch, width);
  const wgsl = [`// ${describe(problem.spec)}`, `// ${spellSchedule(problem, schedule)}`, declarations, finish, main, ""].filter((part, i) => part !== "" || i === 5).join("\n");
  return { name: kernelName(problem.spec), wgsl, bindings, workgroups: dispatch.workgroups };
}

export const kernelName = (spec: ContractSpec): string =>
  `contract_${[...spec.output, ...spec.reduction].map((axis) => axis.size).filter((size) => size > 1).join("x") || "1"}`;

export function describe(spec: ContractSpec): string {
  const shape = (axes: readonly Axis[]) => axes.map((axis) => `${axis.name} ${axis.size}`).join(", ");
  const factors = [spec.left, spec.right].flatMap((side) => (side === "one" ? [] : [side.buffer.name]));
  const targets = [...new Set(spec.stores.map((store) => store.buffer.name))].join(", ");
  return `${spec.label.replace(/\s+/g, " ")}: ${targets} from out[${shape(spec.output)}] = Σ[${shape(spec.reduction)}] ${factors.join(" · ") || "1"}${spec.symmetric?.length ? ", symmetric" : ""}`;
}

export const spellSchedule = (problem: Problem, schedule: Schedule): string =>
  `schedule: ${problem.axes
    .flatMap((axis, a) => {
      const levels = (schedule.levels.get(axis) ?? []).filter((level) => level.size > 1);
      return levels.length === 0 ? [] : [`${problem.names[a]} ${levels.map((level) => `${level.kind} ${level.size}`).join(" × ")}`];
    })
    .join(", ")}`;

/** The output axis whose accumulators are stored four at a time: the one with the most stores contiguous along it. */
export function laneAxis(problem: Problem, schedule: Schedule, stores: readonly Store[]): Axis | undefined {
  let best: Axis | undefined;
  let most = 0;
  for (const [a, axis] of problem.spec.output.entries()) {
    if (problem.pooled.has(a)) continue;
    const inner = schedule.levels.get(axis)?.at(-1);
    if (axis.size % 4 !== 0 || inner?.kind !== "register" || inner.size % 4 !== 0) continue;
    const wide = laneBuffers(stores, axis, true);
    const count = stores.filter((store) => wide.has(store.buffer)).length;
    if (count > most) [best, most] = [axis, count];
  }
  return best;
}

interface Dispatch {
  readonly threads: number;
  readonly workgroups: readonly [number, number, number];
  /** Thread digits from slowest to fastest; the triangle's tile number is called `tile`. */
  readonly digits: readonly { readonly name: string; readonly size: number }[];
}

function dispatchOf({ problem, schedule, layout, tiles }: Printing): Dispatch {
  const paired = new Set(problem.pairs.flat());
  const of = (keep: (digit: Digit, axis: number) => boolean) =>
    layout.flatMap((axis, a) => axis.digits.filter((digit) => keep(digit, a)).map(({ name, size }) => ({ name, size })));
  const digits = [...of((digit) => digit.kind === "split"), ...of((digit, a) => digit.kind === "thread" && !paired.has(a))];
  if (tiles > 1) digits.push({ name: "tile", size: (tiles * (tiles + 1)) / 2 });
  const threads = product(digits.map((digit) => digit.size));
  const groups = Math.ceil(threads / schedule.workgroup);
  const rows = Math.ceil(groups / problem.limits.workgroupsPerDimension);
  return { threads, digits, workgroups: [Math.ceil(groups / rows), rows, 1] };
}

/**
 * `fn finish(acc, axes…)`: the epilogue and the stores of one element, or of four neighbours along the lane axis; of a maximum: of the
 * accumulators it is taken over. `fn finish_1(acc, axes…)`: the same of the first further sum.
 */
function finishFunctions(p: Printing): string {
  const { problem, results, splits, lanes } = p;
  const body = new Lines();
  const outputs = [...problem.spec.output.entries()].filter(([, axis]) => axis.size > 1);
  const names = (absent: (a: number) => boolean) => new Map<Axis, string>([...splits, ...outputs.filter(([a]) => !absent(a)).map(([a, axis]) => [axis, problem.names[a] ?? axis.name] as const)]);
  const own = names((a) => results.pool !== undefined && problem.pooled.has(a));
  const type = lanes ? "vec4f" : "f32";
  const accs = results.pool ? [...poolPins(results.pool).keys()].map((k) => `acc${k}`) : ["acc"];
  const point: Point = { axis: (axis) => own.get(axis) ?? 0, acc: "acc", ...(results.pool && { position: "position" }), ...(lanes && { lanes }) };
  body.indent = "";
  body.push(`fn finish(${[...accs.map((acc) => `${acc}: ${type}`), ...[...own.values()].map((name) => `${name}: i32`)].join(", ")}) {`);
  body.indent = "  ";
  if (results.pool) printMaximum(body, results.pool, results.stores, point, type, p.vec4);
  printEpilogue(body, p, results.stores, point, problem.pairs.length > 0);
  for (const [k, stores] of results.sums.entries()) {
    const { side, absent } = problem.sums[k] as Problem["sums"][number];
    const there = names((a) => absent.includes(a));
    body.indent = "";
    body.push("}");
    body.push(`fn finish_${k + 1}(${[...(side ? ["acc: f32"] : []), ...[...there.values()].map((name) => `${name}: i32`)].join(", ")}) {`);
    body.indent = "  ";
    printEpilogue(body, p, stores, { axis: (axis) => there.get(axis) ?? 0, acc: "acc" }, false);
  }
  return [body.prelude(), ...body.lines, "}"].filter((line) => line !== "").join("\n");
}

/** Every value before any store: a second store must not see what the first one wrote. */
export function printEpilogue(body: Lines, { problem, vec4 }: Pick<Printing, "problem" | "vec4">, stores: readonly Store[], point: Point, mirror: boolean): void {
  for (const store of stores) emitExpr(body, store.value, point, vec4);
  for (const store of stores) {
    emitStore(body, store, point, vec4);
    if (mirror) emitStore(body, { ...store, address: mirrored(store.address, problem) }, point, vec4);
  }
}

/** Digits of the pooled axes, row-major. */
const poolPins = (pool: Pool): number[][] => pool.axes.reduce<number[][]>((pins, axis) => pins.flatMap((head) => Array.from({ length: axis.size }, (_, k) => [...head, k])), [[]]);

/** `acc`, the maximum of the pooled values, and `position`, which of them is the first to have it. */
function printMaximum(body: Lines, pool: Pool, stores: readonly Store[], point: Point, type: string, vec4: ReadonlySet<Buffer>): void {
  const wide = point.lanes !== undefined;
  const values = poolPins(pool).map((pins, k) => {
    const at: Point = { ...point, acc: `acc${k}`, axis: (axis) => (pool.axes.includes(axis) ? (pins[pool.axes.indexOf(axis)] ?? 0) : point.axis(axis)) };
    return body.let("pooled", type, emitExpr(body, pool.value, at, vec4));
  });
  const placed = usesPosition(stores);
  body.push(`var acc = ${values[0]};`);
  if (placed) body.push(`var position = ${wide ? "vec4i(0)" : "0"};`);
  for (const [k, value] of values.entries()) {
    if (k === 0) continue;
    if (placed) body.push(`position = select(position, ${wide ? `vec4i(${k})` : k}, ${value} > acc);`);
    // a NaN must win and stay, or it would be hidden
    body.push(`acc = select(acc, ${value}, (${value} > acc) | ${isNan(type, value)});`);
  }
}

function usesPosition(stores: readonly Store[]): boolean {
  const seen = new Set<Expr>();
  const uses = (e: Expr): boolean => {
    if (seen.has(e)) return false;
    seen.add(e);
    switch (e.kind) {
      case "acc": return e.dtype === "i32";
      case "op": return e.args.some(uses);
      case "cast": return uses(e.arg);
      case "masked": return uses(e.inner);
      case "gather": return uses(e.row);
      default: return false;
    }
  };
  return stores.some((store) => uses(store.value));
}

function mirrored(address: Affine, problem: Problem): Affine {
  const swap = new Map<Axis, Axis>();
  for (const [i, j] of problem.spec.symmetric ?? []) swap.set(i, j).set(j, i);
  return { at: address.at, by: new Map([...address.by].map(([axis, c]) => [swap.get(axis) ?? axis, c])) };
}

function mainFunction(p: Printing, dispatch: Dispatch, width: Widths): string {
  const { problem, schedule, local } = p;
  const accs = [...p.accs, ...p.sumAccs.filter((acc) => problem.sums[acc.sum ?? -1]?.side)];
  const lines: string[] = [];
  const [columns, rows] = dispatch.workgroups;
  lines.push(`  let thread = i32(id.x)${rows > 1 ? ` + i32(id.y) * ${columns * schedule.workgroup}` : ""};`);
  if (dispatch.threads !== columns * rows * schedule.workgroup) lines.push(`  if (thread >= ${dispatch.threads}) { return; }`);
  let below = dispatch.threads;
  for (const [i, digit] of dispatch.digits.entries()) {
    const above = below;
    below /= digit.size;
    const shifted = below === 1 ? "thread" : `thread / ${below}`;
    lines.push(`  let ${digit.name} = ${i === 0 || above === dispatch.threads ? shifted : below === 1 ? `thread % ${digit.size}` : `(${shifted}) % ${digit.size}`};`);
  }
  if (p.tiles > 1) lines.push(...triangle(p));
  for (let i = 0; i < accs.length; i += 8) lines.push(`  ${accs.slice(i, i + 8).map((acc) => `var ${local}c${acc.index} = 0.0f;`).join(" ")}`);
  const body = (kind: "main" | "tail") => bodyOf(problem, tables(problem, layOut(problem, schedule, kind), width), accs);
  const main = printBody(problem, body("main"), local);
  const tail = schedule.peel === undefined ? undefined : printBody(problem, body("tail"), local);
  lines.push(...loopNest(problem, schedule, main, tail), ...printStores(p), ...printSums(p));
  return [`@compute @workgroup_size(${schedule.workgroup})`, "fn main(@builtin(global_invocation_id) id: vec3u) {", ...lines, "}"].join("\n");
}

/** Tile number → (row tile ≤ column tile), by the closed formula with one correction for the square root's rounding. */
function triangle({ problem, layout, tiles }: Printing): string[] {
  const lines = [
    "  var tile_j = i32((sqrt(8.0f * f32(tile) + 1.0f) - 1.0f) * 0.5f);",
    "  if (tile_j * (tile_j + 1) / 2 > tile) { tile_j--; }",
    "  if ((tile_j + 1) * (tile_j + 2) / 2 <= tile) { tile_j++; }",
    "  let tile_i = tile - tile_j * (tile_j + 1) / 2;",
  ];
  for (const side of [0, 1] as const) {
    const digits = problem.pairs.flatMap((pair) => (layout[pair[side]]?.digits ?? []).filter((digit) => digit.kind === "thread"));
    let below = tiles;
    for (const [i, digit] of digits.entries()) {
      below /= digit.size;
      const from = side === 0 ? "tile_i" : "tile_j";
      lines.push(`  let ${digit.name} = ${below === 1 ? from : `${from} / ${below}`}${i === 0 ? "" : ` % ${digit.size}`};`.replace(/= (\S+ \/ \d+) %/, "= ($1) %"));
    }
  }
  return lines;
}

/** An element's coordinate along an output axis: the run-time part, which `printStores` declares, and the accumulator's own. */
function spellCoordinate({ problem, layout }: Printing, a: number, pin: number): string {
  const value = layout[a]?.values[pin] ?? 0;
  return (layout[a]?.digits.length ?? 0) === 0 ? `${value}` : value === 0 ? `${problem.names[a]}_0` : `${problem.names[a]}_0 + ${value}`;
}

/** Where an accumulator may lie beyond the end of a ragged axis. */
const withinAxes = (p: Printing, acc: Accumulator, axes: readonly number[]): string[] =>
  axes.flatMap((a) => {
    const pin = acc.pins[a] ?? 0;
    return (p.layout[a]?.reach[pin] ?? 0) < (p.layout[a]?.span ?? 0) ? [`${spellCoordinate(p, a, pin)} < ${p.problem.axes[a]?.size}`] : [];
  });

/** Calls of `finish`, each guarded where its element may lie beyond a ragged axis or below the diagonal. */
function printStores(p: Printing): string[] {
  const { problem, accs, layout, lanes, splits, tiles, local } = p;
  const { pool } = p.results;
  const outputs = problem.spec.output;
  const lines: string[] = [];
  for (let a = 0; a < outputs.length; a++) {
    const digits = layout[a]?.digits ?? [];
    if (digits.length > 0) lines.push(`  let ${problem.names[a]}_0 = ${spellSum(digits.map((d) => [d.name, d.weight] as const), 0)};`);
  }
  const laneNumber = lanes === undefined ? -1 : outputs.indexOf(lanes);
  const strides = outputs.map((_, a) => product(layout.slice(a + 1, outputs.length).map((axis) => axis.values.length)));
  const pooled = pool === undefined ? [] : pool.axes.map((axis) => outputs.indexOf(axis));
  const offsets = pool === undefined ? [0] : poolPins(pool).map((pins) => pins.reduce((at, pin, k) => at + pin * (strides[pooled[k] ?? 0] ?? 0), 0));
  const kept = outputs.flatMap((axis, a) => (axis.size > 1 && !pooled.includes(a) ? [a] : []));
  const guarded = new Guarded(lines);
  for (const acc of accs) {
    if (laneNumber >= 0 && (acc.pins[laneNumber] ?? 0) % 4 !== 0) continue;
    if (pooled.some((a) => acc.pins[a] !== 0)) continue;
    const conditions = withinAxes(p, acc, kept);
    if (tiles > 1 && tilePosition(problem, layout, acc.pins, 0) > tilePosition(problem, layout, acc.pins, 1)) conditions.push("tile_i != tile_j");
    const values = offsets.map((offset) => laneNumber < 0 ? `${local}c${acc.index + offset}` : `vec4f(${[0, 1, 2, 3].map((k) => `${local}c${acc.index + offset + k * (strides[laneNumber] ?? 1)}`).join(", ")})`);
    guarded.push(conditions, `finish(${[...values, ...splits.values(), ...kept.map((a) => spellCoordinate(p, a, acc.pins[a] ?? 0))].join(", ")});`);
  }
  guarded.end();
  return lines;
}

/** Calls of the further sums' `finish_…`, by the invocations at 0 along the axes that do not matter to them. */
function printSums(p: Printing): string[] {
  const { problem, layout, splits, tiles, local, sumAccs } = p;
  const paired = new Set(problem.pairs.flat());
  const lines: string[] = [];
  const guarded = new Guarded(lines);
  const outputs = [...problem.spec.output.keys()];
  for (const [sum, { side, absent }] of problem.sums.entries()) {
    const first = absent.flatMap((a) => (paired.has(a) || (layout[a]?.digits.length ?? 0) === 0 ? [] : [`${problem.names[a]}_0 == 0`]));
    // a row of a symmetric product meets every column tile from the diagonal on: the diagonal one stores
    if (tiles > 1) first.push([...paired].every((a) => absent.includes(a)) ? "tile_j == 0" : "tile_i == tile_j");
    const kept = outputs.filter((a) => (problem.axes[a]?.size ?? 1) > 1 && !absent.includes(a));
    for (const acc of sumAccs.filter((acc) => acc.sum === sum))
      guarded.push([...first, ...withinAxes(p, acc, kept)], `finish_${sum + 1}(${[...(side ? [`${local}c${acc.index}`] : []), ...splits.values(), ...kept.map((a) => spellCoordinate(p, a, acc.pins[a] ?? 0))].join(", ")});`);
  }
  guarded.end();
  return lines;
}

/** Lines under conditions; neighbours under the same one share its `if`. */
class Guarded {
  readonly #lines: string[];
  #open = "";

  constructor(lines: string[]) {
    this.#lines = lines;
  }

  push(conditions: readonly string[], line: string): void {
    const condition = conditions.join(" && ");
    if (condition !== this.#open) {
      this.end();
      if (condition !== "") this.#lines.push(`  if (${condition}) {`);
      this.#open = condition;
    }
    this.#lines.push(`  ${condition === "" ? "" : "  "}${line}`);
  }

  end(): void {
    if (this.#open !== "") this.#lines.push("  }");
    this.#open = "";
  }
}
