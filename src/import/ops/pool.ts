/** Pooling: a reduction of a window view over its taps. */
import type { Value } from "../../../ir/graph.js";
import type { DType } from "../../../ir/type.js";
import type { Context, ImportOp } from "../context.js";
import { like, LOWEST, mean, plus, reshape, root, sum, times } from "./common.js";
import { type Slide, slides, windows } from "./sliding.js";

/** Padding that never wins: the most negative number of the type. */
const lowest = (dtype: DType): number => (dtype === "f32" ? LOWEST : -(2 ** 31));

function geometry(c: Context): Slide[] {
  const shape = c.shape(0);
  const taps = c.intList("kernel_shape") ?? [];
  if (shape.length < 3 || taps.length !== shape.length - 2) throw c.refuse(`a kernel of ${taps.length} axes on [${shape}]`);
  return slides(c, shape.slice(2), taps);
}

/** The tap axes of a window view whose spatial axes begin at 2. */
const tapAxes = (all: readonly Slide[]): number[] => all.map((_, d) => 3 + 2 * d);

/** How far the last window reaches beyond the input. */
const reachBeyond = (s: Slide): number => Math.max(0, (s.count - 1) * s.stride + (s.taps - 1) * s.dilation + 1 - s.extent - s.low);

function maxPool(c: Context): readonly Value[] {
  const all = geometry(c);
  let x = c.x(0);
  const high = all.map(reachBeyond);
  if (all.some((s, d) => s.low > 0 || (high[d] as number) > 0))
    x = c.emit("pad", [x], { low: [0, 0, ...all.map((s) => Math.max(0, s.low))], high: [0, 0, ...high], value: lowest(x.type.dtype) });
  const view = windows(c, x, all.map((s) => ({ ...s, low: Math.min(0, s.low) })), 2);
  const y = c.emit("reduce_max", [view], { axes: tapAxes(all) });
  return c.wants(1) ? [y, places(c, all, c.emit("reduce_argmax", [view], { axes: tapAxes(all) }))] : [y];
}

/** Numbers of the elements at a window's taps, counted through the whole input; column-major counts the spatial axes the other way round. */
function places(c: Context, all: readonly Slide[], tap: Value): Value {
  const { shape } = tap.type;
  const count = (axis: number): Value => c.emit("iota", [], { shape: [...shape], axis });
  const push = (number: Value, extent: number, digit: Value): Value => c.emit("add", [times(c, number, extent), digit]);
  let rest = tap;
  const at = [...all].reverse().map((s, k) => {
    const whole = c.emit("div", [rest, like(c, s.taps, rest)]);
    const digit = c.emit("sub", [rest, times(c, whole, s.taps)]);
    rest = whole;
    return plus(c, c.emit("add", [times(c, count(shape.length - 1 - k), s.stride), times(c, digit, s.dilation)]), -s.low);
  }).reverse();
  const order = [...all.keys()];
  if (c.int("storage_order", 0) !== 0) order.reverse();
  return order.reduce((number, d) => push(number, (all[d] as Slide).extent, at[d] as Value), push(count(0), shape[1] as number, count(1)));
}

/** How many of a window's taps count, at each position of one axis. */
function tapCounts(s: Slide, includePad: boolean): number[] {
  const [first, last] = includePad ? [-s.low, s.extent + s.high] : [0, s.extent];
  return Array.from({ length: s.count }, (_, i) => {
    const at = (j: number): number => i * s.stride + j * s.dilation - s.low;
    return Array.from({ length: s.taps }, (_, j) => at(j)).filter((h) => h >= first && h < last).length;
  });
}

function averagePool(c: Context): Value {
  const all = geometry(c);
  const total = sum(c, windows(c, c.x(0), all, 2), tapAxes(all));
  const perAxis = all.map((s) => tapCounts(s, c.int("count_include_pad", 0) !== 0));
  const shape = all.map((s) => s.count);
  const counts = perAxis.reduce<number[]>((done, axis) => done.flatMap((n) => axis.map((m) => n * m)), [1]);
  if (counts.every((n) => n === counts[0])) return times(c, total, 1 / (counts[0] as number));
  const table = c.host.table(`${c.node.outputs[0]}.weights`, { dtype: "f32", shape, data: Float64Array.from(counts, (n) => 1 / n) });
  return c.emit("mul", [total, c.emit("broadcast", [table], { shape: [...total.type.shape], axes: shape.map((_, d) => d + 2) })]);
}

/** (Σ |x|^p)^(1/p), where it is 0 with derivative 0. */
function pNorm(c: Context, x: Value, axes: readonly number[], p: number): Value {
  if (!(p >= 1)) throw c.refuse(`p = ${p} is not supported`, "from 1 on it is");
  if (p === 1) return sum(c, c.emit("abs", [x]), axes);
  if (p === 2) return root(c, sum(c, c.emit("mul", [x, x]), axes));
  const total = sum(c, c.emit("pow", [c.emit("abs", [x]), like(c, p, x)]), axes);
  const nothing = c.emit("eq", [total, like(c, 0, total)]);
  const some = c.emit("select", [nothing, like(c, 1, total), total]);
  return c.emit("select", [nothing, like(c, 0, total), c.emit("pow", [some, like(c, 1 / p, total)])]);
}

/** A float in opset 1. */
const exponent = (c: Context): number => (c.opset < 2 ? c.float("p", 2) : c.int("p", 2));

function lpPool(c: Context): Value {
  const all = geometry(c);
  return pNorm(c, windows(c, c.x(0), all, 2), tapAxes(all), exponent(c));
}

/** Over all spatial axes, which stay as 1. */
function global(c: Context, reduce: (x: Value, axes: readonly number[]) => Value): Value {
  const x = c.x(0);
  const axes = x.type.shape.slice(2).map((_, d) => d + 2);
  return reshape(c, axes.length === 0 ? x : reduce(x, axes), x.type.shape.map((n, axis) => (axis < 2 ? n : 1)));
}

export const poolOps: Readonly<Record<string, ImportOp>> = {
  MaxPool: maxPool,
  AveragePool: averagePool,
  GlobalAveragePool: (c) => global(c, (x, axes) => mean(c, x, axes)),
  GlobalMaxPool: (c) => global(c, (x, axes) => c.emit("reduce_max", [x], { axes: [...axes] })),
  LpPool: lpPool,
  GlobalLpPool: (c) => global(c, (x, axes) => pNorm(c, x, axes, exponent(c))),
};
