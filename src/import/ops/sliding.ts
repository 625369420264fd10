/** Geometry of convolutions and pooling: strides, pads, dilations, auto_pad, ceil_mode. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import type { Context } from "../context.js";

/** One spatial axis. */
export interface Slide {
  readonly extent: number;
  readonly taps: number;
  readonly stride: number;
  readonly dilation: number;
  /** Zeros before and after. */
  readonly low: number;
  readonly high: number;
  /** Output positions. */
  readonly count: number;
}

/** An attribute of so many whole numbers, or as many times the fallback where it is left out. */
export function entries(c: Context, name: string, length: number, fallback: number): readonly number[] {
  const given = c.intList(name) ?? [];
  if (given.length === 0) return new Array<number>(length).fill(fallback);
  if (given.length !== length) throw new CompileError("bad-model", `${c.node.op}: "${name}" has ${given.length} entries, not ${length}`, c.where);
  return given;
}

/** Reads the attributes of Conv and the pools for spatial axes of these extents and kernel sizes. */
export function slides(c: Context, extents: readonly number[], taps: readonly number[]): Slide[] {
  const rank = extents.length;
  const [strides, dilations, pads] = [entries(c, "strides", rank, 1), entries(c, "dilations", rank, 1), entries(c, "pads", 2 * rank, 0)];
  const auto = c.text("auto_pad", "NOTSET");
  const ceil = c.int("ceil_mode", 0) !== 0;
  return extents.map((extent, d) => {
    const [stride, dilation, k] = [strides[d] as number, dilations[d] as number, taps[d] as number];
    if (stride < 1 || dilation < 1 || k < 1) throw new CompileError("bad-model", `${c.node.op}: kernel, stride and dilation must be positive`, c.where);
    const reach = (k - 1) * dilation + 1;
    if (auto === "SAME_UPPER" || auto === "SAME_LOWER") {
      const count = Math.ceil(extent / stride);
      const total = Math.max(0, (count - 1) * stride + reach - extent);
      const small = Math.floor(total / 2);
      const low = auto === "SAME_UPPER" ? small : total - small;
      return { extent, taps: k, stride, dilation, low, high: total - low, count };
    }
    const [low, high] = auto === "VALID" ? [0, 0] : [pads[d] as number, pads[rank + d] as number];
    const room = (extent + low + high - reach) / stride;
    let count = (ceil ? Math.ceil(room) : Math.floor(room)) + 1;
    // a window that begins beyond the padded input is none
    if (ceil && (count - 1) * stride >= extent + low) count--;
    if (room < 0 || count < 1) throw new CompileError("shape-mismatch", `${c.node.op}: a kernel reaching over ${reach} does not fit in ${extent} + ${low} + ${high}`, c.where);
    return { extent, taps: k, stride, dilation, low, high, count };
  });
}

/** Window views of the axes from `first` on: each becomes (position, tap). */
export const windows = (c: Context, x: Value, all: readonly Slide[], first: number): Value =>
  all.reduce((v, s, d) => c.emit("window", [v], {
    axis: first + 2 * d, count: s.count, taps: s.taps, stride: s.stride, dilation: s.dilation, offset: -s.low, divisor: 1,
  }), x);
