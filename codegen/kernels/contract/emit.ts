/** Pass 6: one kernel of a contraction as WGSL: thread digits, accumulators, loop nest with one peeled tail, stores. */
import { bindingsOf, declare, freeBuffers, laneBuffers } from "../../bindings.js";
import type { Axis, ContractSpec, Kernel, Pool, Store } from "../../kernel.js";
import { finishFunctions } from "./finish.js";
import { loopNest, printBody } from "./print.js";
import type { Printing, Results, SplitAxes } from "./printing.js";
import { internal, type Problem, RESERVED } from "./problem.js";
import { type Digit, layOut, levelSize, product, type Schedule } from "./schedule.js";
import { printStores, printSums } from "./stores.js";
import { accumulators, bodyOf, sumAccumulators, tables, type Widths, widths } from "./terms.js";

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
