/** Convolutions: a contraction of a window view with the weight. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import { sameShape } from "../../../ir/type.js";
import type { Context, ImportOp } from "../context.js";
import { along, reshape } from "./common.js";
import { entries, slides, windows } from "./sliding.js";

const POSITIONS = "hwd";
const TAPS = "ijk";

/** Labels of a window view's spatial axes: position and tap in turn. */
const viewLabels = (rank: number): string => Array.from({ length: rank }, (_, d) => `${POSITIONS[d]}${TAPS[d]}`).join("");

function spatialRank(c: Context): number {
  const [x, w] = [c.shape(0), c.shape(1)];
  const rank = x.length - 2;
  if (rank < 1 || rank > 3 || w.length !== rank + 2) throw c.refuse(`input [${x}] with weight [${w}] is not supported`, "1 to 3 spatial axes are");
  const said = c.intList("kernel_shape") ?? [];
  if (said.length > 0 && !sameShape(said, w.slice(2))) throw new CompileError("bad-model", `${c.node.op}: kernel_shape [${said}] with weight [${w}]`, c.where);
  return rank;
}

function withBias(c: Context, y: Value): Value {
  return c.has(2) ? c.emit("add", [y, along(c, c.x(2), y.type.shape, 1)]) : y;
}

/**
 *   x [n, c, h, w]   W [o, c, kh, kw]   y [n, o, ho, wo] = Σ_{c, i, j} x[n, c, window(ho, i), window(wo, j)] · W[o, c, i, j]
 *
 * With groups the channels split as (g, c): a batch label in the contraction.
 */
function conv(c: Context): Value {
  const rank = spatialRank(c);
  const [x, w] = [c.x(0), c.x(1)];
  const [n, channels, ...extents] = x.type.shape as [number, number, ...number[]];
  const [o, perGroup, ...taps] = w.type.shape as [number, number, ...number[]];
  const groups = c.int("group", 1);
  if (groups < 1 || perGroup * groups !== channels || o % groups !== 0)
    throw new CompileError("shape-mismatch", `Conv: input [${x.type.shape}] and weight [${w.type.shape}] do not fit with ${groups} group${groups === 1 ? "" : "s"}`, c.where);
  const geometry = slides(c, extents, taps);
  const [out, tapLabels] = [POSITIONS.slice(0, rank), TAPS.slice(0, rank)];
  if (groups === 1) {
    const spec = `nc${viewLabels(rank)},oc${tapLabels}->no${out}`;
    return withBias(c, c.emit("contract", [windows(c, x, geometry, 2), w], { spec }));
  }
  const split = windows(c, reshape(c, x, [n, groups, perGroup, ...extents]), geometry, 3);
  const weight = reshape(c, w, [groups, o / groups, perGroup, ...taps]);
  const y = c.emit("contract", [split, weight], { spec: `ngc${viewLabels(rank)},goc${tapLabels}->ngo${out}` });
  return withBias(c, reshape(c, y, [n, o, ...geometry.map((s) => s.count)]));
}

/**
 *   x [n, c, h, w]   W [c, o, kh, kw]   y [n, o, ho, wo]: the transpose of a convolution with W.
 *
 * A window over the zero-stuffed input: y[p] = Σ_i x[(p + low − i·dilation) / stride] · W[i].
 */
function convTranspose(c: Context): Value {
  const rank = spatialRank(c);
  const [x, w] = [c.x(0), c.x(1)];
  const [n, channels, ...extents] = x.type.shape as [number, number, ...number[]];
  const [inChannels, perGroup, ...taps] = w.type.shape as [number, number, ...number[]];
  const groups = c.int("group", 1);
  if (groups < 1 || inChannels !== channels || channels % groups !== 0)
    throw new CompileError("shape-mismatch", `ConvTranspose: input [${x.type.shape}] and weight [${w.type.shape}] do not fit`, c.where);
  const [strides, dilations] = [entries(c, "strides", rank, 1), entries(c, "dilations", rank, 1)];
  const [extra, pads] = [entries(c, "output_padding", rank, 0), entries(c, "pads", 2 * rank, 0)];
  const wanted = c.intList("output_shape");
  const auto = c.text("auto_pad", "NOTSET");
  const axes = extents.map((extent, d) => {
    const [stride, dilation, k] = [strides[d] as number, dilations[d] as number, taps[d] as number];
    const whole = stride * (extent - 1) + (extra[d] as number) + (k - 1) * dilation + 1;
    const same = auto === "SAME_UPPER" || auto === "SAME_LOWER";
    const asked = wanted && wanted.length > 0 ? (wanted.at(d - rank) as number) : same ? extent * stride : undefined;
    if (asked === undefined) return { stride, dilation, taps: k, low: auto === "VALID" ? 0 : (pads[d] as number), count: whole - (auto === "VALID" ? 0 : (pads[d] as number) + (pads[rank + d] as number)) };
    const total = Math.max(0, whole - asked);
    return { stride, dilation, taps: k, low: auto === "SAME_UPPER" ? Math.floor(total / 2) : total - Math.floor(total / 2), count: asked };
  });
  const view = (v: Value, first: number): Value => axes.reduce((part, a, d) => c.emit("window", [part], {
    axis: first + 2 * d, count: a.count, taps: a.taps, stride: 1, dilation: -a.dilation, offset: a.low, divisor: a.stride,
  }), v);
  const [out, tapLabels] = [POSITIONS.slice(0, rank), TAPS.slice(0, rank)];
  if (groups === 1) return withBias(c, c.emit("contract", [view(x, 2), w], { spec: `nc${viewLabels(rank)},co${tapLabels}->no${out}` }));
  const split = view(reshape(c, x, [n, groups, channels / groups, ...extents]), 3);
  const weight = reshape(c, w, [groups, channels / groups, perGroup, ...taps]);
  const y = c.emit("contract", [split, weight], { spec: `ngc${viewLabels(rank)},gco${tapLabels}->ngo${out}` });
  return withBias(c, reshape(c, y, [n, perGroup * groups, ...axes.map((a) => a.count)]));
}

export const convOps: Readonly<Record<string, ImportOp>> = { Conv: conv, ConvTranspose: convTranspose };
