/**
 * Resize and Upsample: interpolation is linear in the image and apart for each axis, so an axis is a contraction with a
 * constant matrix [new size, old size], and its derivative the contraction with the transposed one. The nearest element
 * is picked instead.
 */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import type { NdArray } from "../../../ir/ndarray.js";
import { size, strides } from "../../../ir/type.js";
import { type Context, type ImportOp, scaledAxes } from "../context.js";
import { like, reshape, spread } from "./common.js";
import { pick } from "./pick.js";

/** How one axis is resized. */
interface Axis {
  readonly axis: number;
  readonly from: number;
  readonly to: number;
  /** Sizes as the coordinates see them: a scale need not give a whole one. */
  readonly width: number;
  readonly scale: number;
  /** tf_crop_and_resize: the part of the axis to enlarge, 0…1. */
  readonly start: number;
  readonly end: number;
}

/** An interpolation matrix with more numbers than this is worth a note. */
const LARGE = 2 ** 20;

/** Place in the old axis of element i of the new one. */
type Coordinate = (a: Axis, i: number) => number;

/** Place i of the new axis counted in old elements, without a rounding where the size is whole. */
const scaled = (a: Axis, i: number): number => (a.width === a.to ? (i * a.from) / a.to : i / a.scale);

const COORDINATES: Readonly<Record<string, Coordinate>> = {
  half_pixel: (a, i) => scaled(a, i + 0.5) - 0.5,
  half_pixel_symmetric: (a, i) => (a.from / 2) * (1 - a.to / a.width) + scaled(a, i + 0.5) - 0.5,
  pytorch_half_pixel: (a, i) => (a.width === 1 ? 0 : scaled(a, i + 0.5) - 0.5),
  align_corners: (a, i) => (a.width === 1 ? 0 : (i * (a.from - 1)) / (a.width - 1)),
  asymmetric: scaled,
  tf_half_pixel_for_nn: (a, i) => scaled(a, i + 0.5),
  tf_crop_and_resize: (a, i) => (a.width === 1 ? 0.5 * (a.start + a.end) * (a.from - 1) : a.start * (a.from - 1) + (i * (a.end - a.start) * (a.from - 1)) / (a.width - 1)),
};

/** From the exact coordinate rounded to f32, so that a scale like 2/3 does not turn a whole one into a little less. */
const NEAREST: Readonly<Record<string, (x: number) => number>> = {
  round_prefer_floor: (x) => Math.ceil(x - 0.5),
  round_prefer_ceil: (x) => Math.floor(x + 0.5),
  floor: Math.floor,
  ceil: Math.ceil,
};

/** Sizes and scales by axis; sizes that a policy has made from one scale keep that scale. */
function axesOf(c: Context): Axis[] {
  const shape = c.shape(0);
  const named = c.opset >= 18 ? c.intList("axes") : undefined;
  const axes = named?.map((axis) => c.axis(axis, shape.length)) ?? shape.map((_, axis) => axis);
  const first = c.node.op === "Upsample" || c.opset < 11 ? 1 : 2;
  const attribute = c.node.op === "Upsample" && c.opset < 9 ? c.node.attrs.get("scales")?.floats : undefined;
  const scales = attribute ?? (c.has(first) && c.shape(first)[0] !== 0 ? c.ints(first) : undefined);
  const sizes = !scales && c.has(3) ? c.ints(3) : undefined;
  const given = scales ?? sizes;
  if (given?.length !== axes.length) throw new CompileError("bad-model", `${c.node.op}: ${given?.length ?? 0} sizes for ${axes.length} axes`, c.where);
  const roi = c.opset >= 11 && c.has(1) && c.shape(1)[0] !== 0 && c.text("coordinate_transformation_mode", "") === "tf_crop_and_resize" ? c.ints(1) : undefined;
  const factors = scales ?? policy(c, sizes as number[], axes);
  return axes.map((axis, k) => {
    const from = shape[axis] as number;
    const factor = factors?.[k];
    // the product in f32, as a scale is stored: 3 · 1.6666666 is 5
    const to = factor === undefined ? keptBatch(c, axis, (sizes as number[])[k] as number) : scales ? Math.floor(Math.fround(from * factor)) : Math.floor(factor * from + 0.5);
    const scale = factor ?? to / from;
    return { axis, from, to, scale, width: factor === undefined ? to : scale * from, start: roi?.[k] ?? 0, end: roi?.[k + axes.length] ?? 1 };
  });
}

/** A size that spells the file's batch follows the new one. */
function keptBatch(c: Context, axis: number, spelled: number): number {
  const [now, old] = [c.shape(0), c.oldShape(0)];
  return scaledAxes(now, old).includes(axis) && spelled === old?.[axis] ? (now[axis] as number) : spelled;
}

/** One scale for all axes that fits inside, or covers, the wanted sizes; undefined where each is stretched to its own. */
function policy(c: Context, sizes: readonly number[], axes: readonly number[]): number[] | undefined {
  const name = c.text("keep_aspect_ratio_policy", "stretch");
  if (name === "stretch") return undefined;
  const ratios = axes.map((axis, k) => (sizes[k] as number) / (c.shape(0)[axis] as number));
  if (name !== "not_larger" && name !== "not_smaller") throw c.refuse(`keep_aspect_ratio_policy "${name}" is not supported`);
  const one = name === "not_larger" ? Math.min(...ratios) : Math.max(...ratios);
  return axes.map(() => one);
}

/** Places along one axis are listed at import. */
const MAX_AXIS = 2 ** 22;

function coordinateOf(c: Context): { name: string; of: Coordinate } {
  const name = c.opset < 11 ? "asymmetric" : c.text("coordinate_transformation_mode", "half_pixel");
  const of = COORDINATES[name];
  if (!of) throw c.refuse(`coordinate_transformation_mode "${name}" is not supported`);
  return { name, of };
}

function resize(c: Context): Value {
  const mode = c.text("mode", "nearest");
  const all = axesOf(c);
  const { name, of } = coordinateOf(c);
  const crops = name === "tf_crop_and_resize";
  const moving = all.filter((a) => a.to !== a.from || a.scale !== 1 || (crops && (a.start !== 0 || a.end !== 1)));
  const examples = scaledAxes(c.shape(0), c.oldShape(0));
  for (const a of moving) {
    if (examples.includes(a.axis)) throw c.lost(`axis ${a.axis} is resized, which carries the examples`);
    if (a.to > MAX_AXIS) throw new CompileError("too-large", `${c.node.op}: axis ${a.axis} becomes ${a.to}`, c.where);
    if (!(a.to >= 1 && a.from >= 1)) throw new CompileError("bad-model", `${c.node.op}: axis ${a.axis} from ${a.from} to ${a.to}`, c.where);
  }
  // what shrinks first, what grows last: fewest operations
  moving.sort((a, b) => a.to / a.from - b.to / b.from);
  let x = c.x(0);
  if (mode !== "nearest" && x.type.dtype !== "f32") throw c.refuse("whole numbers are not interpolated", 'cast them to float before, or use mode "nearest"');
  if (mode === "nearest") for (const a of moving) x = nearest(c, x, a, of);
  else for (const a of moving) x = interpolated(c, x, a, matrix(c, a, mode, of, crops));
  return crops ? extrapolated(c, x, moving, of) : x;
}

function nearest(c: Context, x: Value, a: Axis, of: Coordinate): Value {
  // before opset 11 the rounding was not written down: enlarging took the element before, shrinking the one after
  const rounding = c.opset < 11 ? (a.to < a.from ? "ceil" : "floor") : c.text("nearest_mode", "round_prefer_floor");
  const round = NEAREST[rounding];
  if (!round) throw c.refuse(`nearest_mode "${rounding}" is not supported`);
  const list = Array.from({ length: a.to }, (_, i) => Math.min(Math.max(round(Math.fround(of(a, i))), 0), a.from - 1));
  const repeats = a.to / a.from;
  return Number.isInteger(repeats) && list.every((at, i) => at === Math.floor(i / repeats)) ? repeated(c, x, a.axis, repeats) : pick(c, x, a.axis, list);
}

/** Every element so many times. */
function repeated(c: Context, x: Value, axis: number, times: number): Value {
  const { shape } = x.type;
  const wide = [...shape.slice(0, axis + 1), times, ...shape.slice(axis + 1)];
  const axes = shape.map((_, k) => (k > axis ? k + 1 : k));
  return times === 1 ? x : reshape(c, c.emit("broadcast", [x], { shape: wide, axes }), shape.map((n, k) => (k === axis ? n * times : n)));
}

/** How much an element at a distance (in pixels) counts, and how far that reaches. */
interface Filter {
  readonly reach: number;
  readonly weight: (distance: number) => number;
}

/** Keys' cubic: `a` is its slope at distance 1. Source: Keys 1981, "Cubic convolution interpolation", equation 4 for any a. */
const cubic = (a: number): Filter => ({
  reach: 2,
  weight(distance) {
    const d = Math.abs(distance);
    if (d <= 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0;
  },
});

const LINEAR: Filter = { reach: 1, weight: (d) => Math.max(0, 1 - Math.abs(d)) };

/** out[i] = Σ_k matrix[i, k] · x[k]. Elements beyond the ends are those at the ends, or do not count. */
function matrix(c: Context, a: Axis, mode: string, of: Coordinate, crops: boolean): NdArray {
  const filter = mode === "linear" || mode === "bilinear" ? LINEAR : mode === "cubic" ? cubic(c.float("cubic_coeff_a", -0.75)) : undefined;
  if (!filter) throw c.refuse(`mode "${mode}" is not supported`, "nearest, linear and cubic are");
  // to shrink without aliasing, the filter is as wide as a new pixel
  const s = c.opset >= 18 && c.int("antialias", 0) !== 0 ? Math.min(1, a.scale) : 1;
  const excluded = c.int("exclude_outside", 0) !== 0;
  const data = new Float64Array(a.to * a.from);
  for (let i = 0; i < a.to; i++) {
    const x = of(a, i);
    if (crops && outside(a, x)) continue;
    const taps: [number, number][] = [];
    for (let k = Math.floor(x - filter.reach / s); k <= Math.ceil(x + filter.reach / s); k++)
      if (!excluded || (k >= 0 && k < a.from)) taps.push([Math.min(Math.max(k, 0), a.from - 1), filter.weight((k - x) * s)]);
    const total = taps.reduce((sum, [, w]) => sum + w, 0);
    for (const [k, w] of taps) data[i * a.from + k] = (data[i * a.from + k] as number) + w / total;
  }
  return { dtype: "f32", shape: [a.to, a.from], data };
}

const outside = (a: Axis, x: number): boolean => x < 0 || x > a.from - 1;

function interpolated(c: Context, x: Value, a: Axis, table: NdArray): Value {
  if (table.data.length > LARGE) c.host.note(`${c.where}: axis ${a.axis} is interpolated by a matrix of ${a.to} × ${a.from} numbers`);
  const labels = "abcdefgh".slice(0, x.type.shape.length);
  const label = labels[a.axis] as string;
  const spec = `${labels},o${label}->${labels.replace(label, "o")}`;
  return c.emit("contract", [x, c.host.table(`${c.node.outputs[0]}.axis${a.axis}`, table)], { spec });
}

/** tf_crop_and_resize: what lies outside the image is one number. */
function extrapolated(c: Context, x: Value, axes: readonly Axis[], of: Coordinate): Value {
  const out = axes.map((a) => Array.from({ length: a.to }, (_, i) => outside(a, of(a, i))));
  if (!out.flat().includes(true)) return x;
  const shape = x.type.shape.map((n, axis) => (axes.some((a) => a.axis === axis) ? n : 1));
  const step = strides(shape);
  const beyond = Float64Array.from({ length: size(shape) }, (_, flat) =>
    Number(axes.some((a, k) => out[k]?.[Math.floor(flat / (step[a.axis] as number)) % a.to])));
  const mask = spread(c, c.host.table(`${c.node.outputs[0]}.outside`, { dtype: "bool", shape, data: beyond }), x.type.shape);
  return c.emit("select", [mask, like(c, c.float("extrapolation_value", 0), x), x]);
}

export const resizeOps: Readonly<Record<string, ImportOp>> = { Resize: resize, Upsample: resize };
