/** The end of a contraction's kernel: every accumulator goes to its `finish`, where its element exists. */
import { poolPins } from "./finish.js";
import { spellSum } from "./print.js";
import type { Printing } from "./printing.js";
import { product } from "./schedule.js";
import { type Accumulator, tilePosition } from "./terms.js";

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
export function printStores(p: Printing): string[] {
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
export function printSums(p: Printing): string[] {
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
