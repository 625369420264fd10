/** Sampling an image at computed places: GridSample, AffineGrid. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import { size, strides } from "../../../ir/type.js";
import { type Context, type ImportOp, scaledAxes } from "../context.js";
import { broadcast, castTo, cut, like, plus, reshape, times } from "./common.js";

/**
 * An interpolation reads elements floor(x) + first, … of an axis; element j counts Σ_p powers[p][j] · t^p, t = x − floor(x).
 * Written in t, its derivative where t = 0 is that of the element on the right, not 0.
 */
interface Kernel {
  readonly first: number;
  readonly powers: readonly (readonly number[])[];
}

/** Slope of the cubic at distance 1. Source: ONNX GridSample, "cubic". */
const A = -0.75;

const KERNELS: Readonly<Record<string, Kernel>> = {
  nearest: { first: 0, powers: [[1]] },
  linear: { first: 0, powers: [[1, 0], [-1, 1]] },
  cubic: { first: -1, powers: [[0, 1, 0, 0], [A, 0, -A, 0], [-2 * A, -(A + 3), 2 * A + 3, A], [A, A + 2, -(A + 2), -A]] },
};

type Padding = "zeros" | "border" | "reflection";

/** What one axis of the image contributes: which element (f32, whole) each tap reads, how much it counts, whether it is there. */
interface Taps {
  readonly at: Value;
  readonly weight: Value | undefined;
  readonly inside: Value | undefined;
}

/** Flat positions beyond this are not exact in f32. */
const MAX_POSITIONS = 2 ** 24;

function options(c: Context): { kernel: Kernel; nearest: boolean; padding: Padding; align: boolean } {
  const mode = c.text("mode", c.opset < 20 ? "bilinear" : "linear").replace(/^bi(?=linear|cubic)/, "");
  const padding = c.text("padding_mode", "zeros");
  const kernel = KERNELS[mode];
  if (!kernel) throw c.refuse(`mode "${mode}" is not supported`, "linear, nearest and cubic are");
  if (padding !== "zeros" && padding !== "border" && padding !== "reflection") throw c.refuse(`padding_mode "${padding}" is not supported`);
  return { kernel, nearest: mode === "nearest", padding, align: c.int("align_corners", 0) !== 0 };
}

/** Elements of an axis of n, and which of them a place beyond its ends stands for. */
function padded(c: Context, at: Value, n: number, padding: Padding, align: boolean): { at: Value; inside?: Value } {
  if (padding === "zeros") return { at, inside: c.emit("and", [c.emit("ge", [at, like(c, 0, at)]), c.emit("le", [at, like(c, n - 1, at)])]) };
  const clamp = (v: Value): Value => c.emit("min", [c.emit("max", [v, like(c, 0, v)]), like(c, n - 1, v)]);
  if (padding === "border") return { at: clamp(at) };
  const [low, range] = align ? [0, n - 1] : [-0.5, n];
  if (range === 0) return { at: like(c, 0, at) };
  // there and back: after an odd number of ranges the way is backwards
  const distance = c.emit("abs", [plus(c, at, -low)]);
  const turns = c.emit("floor", [times(c, distance, 1 / range)]);
  const rest = c.emit("sub", [distance, times(c, turns, range)]);
  const odd = c.emit("sub", [turns, times(c, c.emit("floor", [times(c, turns, 0.5)]), 2)]);
  const back = c.emit("gt", [odd, like(c, 0.5, odd)]);
  const reflected = c.emit("select", [back, plus(c, c.emit("neg", [rest]), range + low), plus(c, rest, low)]);
  return { at: clamp(c.emit("round", [reflected])) };
}

/** Σ_p powers[p][j] · t^p over all taps j of axis k. */
function weights(c: Context, t: Value, { powers }: Kernel, k: number, axis: number): Value {
  const { shape } = t.type;
  const table = (p: number): Value => broadcast(c, c.host.table(`${c.node.outputs[0]}.weights${k}.${p}`, { dtype: "f32", shape: [shape[axis] as number], data: Float64Array.from(powers[p] as number[]) }), shape, [axis]);
  let made = table(powers.length - 1);
  for (let p = powers.length - 2; p >= 0; p--) made = c.emit("add", [c.emit("mul", [made, t]), table(p)]);
  return made;
}

/** Axis k of the image: x [N, P] in elements, for a box of taps [N, .. taps of each axis .., P]. */
function tapsOf(c: Context, x: Value, n: number, k: number, box: readonly number[], o: ReturnType<typeof options>): Taps {
  const ends = [0, box.length - 1];
  const base = o.nearest ? c.emit("round", [x]) : c.emit("floor", [x]);
  const offset = castTo(c, c.emit("iota", [], { shape: [...box], axis: k + 1 }), "f32");
  const at = c.emit("add", [broadcast(c, base, box, ends), plus(c, offset, o.kernel.first)]);
  const weight = o.nearest ? undefined : weights(c, broadcast(c, c.emit("sub", [x, base]), box, ends), o.kernel, k, k + 1);
  const { at: found, inside } = padded(c, at, n, o.padding, o.align);
  return { at: found, weight, inside };
}

/** Coordinate d of the grid [N, P, D], −1…1, in elements of an axis of n. */
function denormalized(c: Context, grid: Value, d: number, n: number, align: boolean): Value {
  const one = reshape(c, cut(c, grid, 2, d, 1), grid.type.shape.slice(0, 2));
  return align ? times(c, plus(c, one, 1), (n - 1) / 2) : plus(c, times(c, plus(c, one, 1), n / 2), -0.5);
}

const product = (c: Context, op: "mul" | "and", list: readonly (Value | undefined)[]): Value | undefined =>
  list.reduce((a, b) => (a && b ? c.emit(op, [a, b]) : (a ?? b)));

/**
 * x [N, C, ..spatial], grid [N, ..places, D] with the last spatial axis first: out [N, C, ..places].
 *
 * All elements that any place reads are gathered at once, [N, taps · P, C], and summed with their weights.
 */
function gridSample(c: Context): Value {
  const o = options(c);
  const [shape, gridShape] = [c.shape(0), c.shape(1)];
  const spatial = shape.slice(2);
  const [n, channels] = shape as [number, number];
  const places = gridShape.slice(1, -1);
  if (spatial.length < 1 || gridShape.length !== shape.length || gridShape.at(-1) !== spatial.length || gridShape[0] !== n)
    throw new CompileError("shape-mismatch", `GridSample: a grid [${gridShape}] for [${shape}]`, c.where);
  if (c.dtype(0) !== "f32" || c.dtype(1) !== "f32") throw c.refuse("only images and grids of floats are supported");
  if (size(spatial) > MAX_POSITIONS) throw c.refuse(`an image of ${size(spatial)} elements is too large`);
  if (spatial.length > 2 && o.kernel.powers.length > 2) throw c.refuse("cubic interpolation is supported over one or two axes");
  const count = size(places);
  const grid = reshape(c, c.x(1), [n, count, spatial.length]);
  const each = (o.kernel.powers[0] as number[]).length;
  const box = [n, ...spatial.map(() => each), count];
  const taps = spatial.map((m, k) => tapsOf(c, denormalized(c, grid, spatial.length - 1 - k, m, o.align), m, k, box, o));
  const step = strides(spatial);
  const flat = taps.map(({ at }, k) => times(c, at, step[k] as number)).reduce((a, b) => c.emit("add", [a, b]));
  const inside = product(c, "and", taps.map((t) => t.inside));
  const total = size(box.slice(1));
  const index = castTo(c, inside ? c.emit("select", [inside, flat, like(c, -1, flat)]) : flat, "i32");
  const image = c.emit("permute", [reshape(c, c.x(0), [n, channels, size(spatial)])], { perm: [0, 2, 1] });
  const read = c.emit("gather", [image, reshape(c, index, [n, total])]);
  const weight = product(c, "mul", taps.map((t) => t.weight));
  const weighted = weight ? c.emit("mul", [read, broadcast(c, reshape(c, weight, [n, total]), [n, total, channels], [0, 1])]) : read;
  const summed = total === count ? weighted : c.emit("reduce_sum", [reshape(c, weighted, [n, total / count, count, channels])], { axes: [1] });
  return reshape(c, c.emit("permute", [summed], { perm: [0, 2, 1] }), [n, channels, ...places]);
}

/** theta [N, D, D + 1] applied to every place of an image of that size: [N, ..spatial, D], last spatial axis first. */
function affineGrid(c: Context): Value {
  const [n, , ...spatial] = c.ints(1) as [number, number, ...number[]];
  const theta = c.x(0);
  const d = spatial.length;
  const batch = theta.type.shape[0] as number;
  const follows = scaledAxes(theta.type.shape, c.oldShape(0)).includes(0) && n === c.oldShape(0)?.[0];
  if (theta.type.shape.length !== 3 || theta.type.shape[1] !== d || theta.type.shape[2] !== d + 1 || (n !== batch && !follows))
    throw new CompileError("shape-mismatch", `AffineGrid: matrices [${theta.type.shape}] for size [${c.ints(1)}]`, c.where);
  const align = c.int("align_corners", 0) !== 0;
  if (align && spatial.includes(1)) throw c.refuse("align_corners along an axis of one element has no meaning");
  const count = size(spatial);
  const step = strides(spatial);
  const at = (place: number, k: number): number => {
    const m = spatial[k] as number;
    const i = Math.floor(place / (step[k] as number)) % m;
    return align ? (2 * i) / (m - 1) - 1 : (2 * i + 1) / m - 1;
  };
  const base = Float64Array.from({ length: count * (d + 1) }, (_, flat) => {
    const j = flat % (d + 1);
    return j === d ? 1 : at(Math.floor(flat / (d + 1)), d - 1 - j);
  });
  const places = c.host.table(`${c.node.outputs[0]}.places`, { dtype: "f32", shape: [count, d + 1], data: base });
  return reshape(c, c.emit("contract", [theta, places], { spec: "nik,pk->npi" }), [batch, ...spatial, d]);
}

export const gridOps: Readonly<Record<string, ImportOp>> = { GridSample: gridSample, AffineGrid: affineGrid };
