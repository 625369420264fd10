/** Pass 6: one kernel of a contraction as WGSL: thread digits, accumulators, loop nest with one peeled tail, stores. */
import type { Point } from "../../address.js";
import { bindingsOf, declare, freeBuffers, laneBuffers } from "../../bindings.js";
import { Body as Lines } from "../../body.js";
import { emitExpr, emitStore } from "../../expr.js";
import type { Affine, Axis, Buffer, ContractSpec, Kernel, Store } from "../../kernel.js";
import { loopNest, printBody, spellSum } from "./print.js";
import { internal, type Problem, RESERVED } from "./problem.js";
import { type AxisLayout, type Digit, layOut, levelSize, product, type Schedule } from "./schedule.js";
import { type Accumulator, accumulators, bodyOf, tables, tilePosition, type Widths, widths } from "./terms.js";

/** Spelling of the split digits for a first pass, whose stores address partial sums by them. */
export type SplitAxes = ReadonlyMap<Axis, string>;

/** What the parts of one kernel's text share. */
interface Printing {
  readonly problem: Problem;
  readonly schedule: Schedule;
  readonly stores: readonly Store[];
  readonly splits: SplitAxes;
  readonly layout: readonly AxisLayout[];
  readonly accs: readonly Accumulator[];
  readonly lanes: Axis | undefined;
  readonly vec4: ReadonlySet<Buffer>;
  /** Rows of tiles in the triangle; 1 where one tile holds it all, 0 without symmetry. */
  readonly tiles: number;
  /** Prefix of local names, chosen so that no buffer is shadowed. */
  readonly local: string;
}

export function emitKernel(problem: Problem, schedule: Schedule, stores: readonly Store[], splits: SplitAxes): Kernel {
  const layout = layOut(problem, schedule, "whole");
  const width = widths(problem, layout);
  const tiles = problem.pairs.length === 0 ? 0 : product(problem.pairs.map(([i]) => levelSize(schedule, problem.axes[i] as Axis, "thread")));
  const accs = accumulators(problem, layout, tiles === 1);
  const lanes = problem.pairs.length === 0 ? laneAxis(problem, schedule, stores) : undefined;
  const operands = new Map([[problem.left?.buffer, width.left], [problem.right?.buffer, width.right]]);
  const vec4 = new Set([...(lanes ? laneBuffers(stores, lanes, true) : [])].filter((buffer) => !operands.has(buffer)));
  for (const [buffer, w] of operands) if (buffer && w === 4) vec4.add(buffer);
  const free = freeBuffers(stores);
  const bound = [...operands.keys(), ...free.loads, ...free.stores].filter((buffer) => buffer !== undefined);
  const taken = bound.find((buffer) => RESERVED.includes(buffer.name));
  if (taken) throw internal(problem.spec, `no buffer can be called "${taken.name}"`);
  const local = bound.some((buffer) => /^[abcq]_?\d*(_at\d*|_0)?$/.test(buffer.name)) ? "v_" : "";
  const p: Printing = { problem, schedule, stores, splits, layout, accs, lanes, vec4, tiles, local };
  const bindings = bindingsOf(bound, new Set(free.stores), free.run);
  const declarations = [...operands].reduce(
    (text, [buffer, w]) => (buffer && w === 2 ? text.replace(` ${buffer.name}: array<f32>`, ` ${buffer.name}: array<vec2f>`) : text),
    declare(bindings, vec4),
  );
  const dispatch = dispatchOf(p);
  const finish = finishFunction(p);
  const main = mainFunction(p, dispatch, width);
  const wgsl = [`// ${describe(problem.spec)}`, `// ${spellSchedule(problem, schedule)}`, declarations, finish, main, ""].filter((part, i) => part !== "" || i === 5).join("\n");
  return { name: kernelName(problem.spec), wgsl, bindings, workgroups: dispatch.workgroups };
}

const kernelName = (spec: ContractSpec): string =>
  `contract_${[...spec.output, ...spec.reduction].map((axis) => axis.size).filter((size) => size > 1).join("x") || "1"}`;

function describe(spec: ContractSpec): string {
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
  for (const axis of problem.spec.output) {
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

/** `fn finish(acc, axes…)`: the epilogue and the stores of one element, or of four neighbours along the lane axis. */
function finishFunction({ problem, stores, splits, lanes, vec4 }: Printing): string {
  const body = new Lines();
  const names = new Map<Axis, string>(splits);
  for (const [a, axis] of problem.spec.output.entries()) if (axis.size > 1) names.set(axis, problem.names[a] ?? axis.name);
  const point: Point = { axis: (axis) => names.get(axis) ?? 0, acc: "acc", ...(lanes && { lanes }) };
  // Every value before any store: a second store must not see what the first one wrote.
  for (const store of stores) emitExpr(body, store.value, point, vec4);
  for (const store of stores) {
    emitStore(body, store, point, vec4);
    if (problem.pairs.length > 0) emitStore(body, { ...store, address: mirrored(store.address, problem) }, point, vec4);
  }
  const parameters = [`acc: ${lanes ? "vec4f" : "f32"}`, ...[...names.values()].map((name) => `${name}: i32`)];
  return [body.prelude(), `fn finish(${parameters.join(", ")}) {`, ...body.lines, "}"].filter((line) => line !== "").join("\n");
}

function mirrored(address: Affine, problem: Problem): Affine {
  const swap = new Map<Axis, Axis>();
  for (const [i, j] of problem.spec.symmetric ?? []) swap.set(i, j).set(j, i);
  return { at: address.at, by: new Map([...address.by].map(([axis, c]) => [swap.get(axis) ?? axis, c])) };
}

function mainFunction(p: Printing, dispatch: Dispatch, width: Widths): string {
  const { problem, schedule, accs, local } = p;
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
  lines.push(...loopNest(problem, schedule, main, tail), ...printStores(p));
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

/** Calls of `finish`, each guarded where its element may lie beyond a ragged axis or below the diagonal. */
function printStores({ problem, accs, layout, lanes, splits, tiles, local }: Printing): string[] {
  const outputs = problem.spec.output;
  const lines: string[] = [];
  for (let a = 0; a < outputs.length; a++) {
    const digits = layout[a]?.digits ?? [];
    if (digits.length > 0) lines.push(`  let ${problem.names[a]}_0 = ${spellSum(digits.map((d) => [d.name, d.weight] as const), 0)};`);
  }
  const spell = (a: number, pin: number): string => {
    const value = layout[a]?.values[pin] ?? 0;
    return (layout[a]?.digits.length ?? 0) === 0 ? `${value}` : value === 0 ? `${problem.names[a]}_0` : `${problem.names[a]}_0 + ${value}`;
  };
  const laneNumber = lanes === undefined ? -1 : outputs.indexOf(lanes);
  const strides = outputs.map((_, a) => product(layout.slice(a + 1, outputs.length).map((axis) => axis.values.length)));
  let open = "";
  for (const acc of accs) {
    if (laneNumber >= 0 && (acc.pins[laneNumber] ?? 0) % 4 !== 0) continue;
    const conditions = outputs.flatMap((axis, a) => {
      const pin = acc.pins[a] ?? 0;
      return (layout[a]?.reach[pin] ?? 0) < (layout[a]?.span ?? 0) ? [`${spell(a, pin)} < ${axis.size}`] : [];
    });
    if (tiles > 1 && tilePosition(problem, layout, acc.pins, 0) > tilePosition(problem, layout, acc.pins, 1)) conditions.push("tile_i != tile_j");
    const condition = conditions.join(" && ");
    if (condition !== open) {
      if (open !== "") lines.push("  }");
      if (condition !== "") lines.push(`  if (${condition}) {`);
      open = condition;
    }
    const value = laneNumber < 0 ? `${local}c${acc.index}` : `vec4f(${[0, 1, 2, 3].map((k) => `${local}c${acc.index + k * (strides[laneNumber] ?? 1)}`).join(", ")})`;
    const where = outputs.flatMap((axis, a) => (axis.size > 1 ? [spell(a, acc.pins[a] ?? 0)] : []));
    lines.push(`  ${condition === "" ? "" : "  "}finish(${[value, ...splits.values(), ...where].join(", ")});`);
  }
  if (open !== "") lines.push("  }");
  return lines;
}
