/** The epilogue of a contraction as functions of its kernel: what becomes of one accumulator, or of those a maximum is taken over. */
import type { Point } from "../../address.js";
import { Body as Lines } from "../../body.js";
import { emitExpr, emitStore } from "../../expr.js";
import type { Affine, Axis, Buffer, Expr, Pool, Store } from "../../kernel.js";
import { isNan } from "../../wgsl.js";
import type { Printing } from "./printing.js";
import type { Problem } from "./problem.js";

/**
 * `fn finish(acc, axes…)`: the epilogue and the stores of one element, or of four neighbours along the lane axis; of a maximum: of the
 * accumulators it is taken over. `fn finish_1(acc, axes…)`: the same of the first further sum.
 */
export function finishFunctions(p: Printing): string {
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
export const poolPins = (pool: Pool): number[][] => pool.axes.reduce<number[][]>((pins, axis) => pins.flatMap((head) => Array.from({ length: axis.size }, (_, k) => [...head, k])), [[]]);

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
