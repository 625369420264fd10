/** Pooling undone, and patches summed into an image. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import { sameShape, size } from "../../../ir/type.js";
import type { Context, ImportOp } from "../context.js";
import { broadcast, castTo, like, reshape, sum, times } from "./common.js";
import { entries } from "./sliding.js";

/** Indices, −1 where a later element of the row has the same: i32[rows, m]. */
function lastOfEach(c: Context, index: Value): Value {
  const [rows, m] = index.type.shape as [number, number];
  const shape = [rows, m, m];
  const place = (axis: number): Value => c.emit("iota", [], { shape, axis });
  const again = c.emit("and", [c.emit("eq", [broadcast(c, index, shape, [0, 1]), broadcast(c, index, shape, [0, 2])]), c.emit("gt", [place(2), place(1)])]);
  const later = sum(c, castTo(c, again, "i32"), [2]);
  return c.emit("select", [c.emit("gt", [later, like(c, 0, later)]), like(c, -1, index), index]);
}

/**
 *   x, index [n, c, o…]   y [n, c, h…]: x at the places that the indices count through all of y, else 0
 *
 * Where windows overlap, places may be given twice: the last one counts.
 */
function maxUnpool(c: Context): Value {
  const x = c.x(0);
  const [n, channels, ...counts] = x.type.shape as [number, number, ...number[]];
  const rank = counts.length;
  const taps = entries(c, "kernel_shape", rank, 1);
  const [strides, pads] = [entries(c, "strides", rank, 1), entries(c, "pads", 2 * rank, 0)];
  const extents = counts.map((m, d) => (m - 1) * (strides[d] as number) + (taps[d] as number) - (pads[d] as number) - (pads[rank + d] as number));
  if (!sameShape(c.shape(1), x.type.shape) || extents.some((e) => e < 0)) throw new CompileError("shape-mismatch", `MaxUnpool: indices [${c.shape(1)}] for [${x.type.shape}] into [${extents}]`, c.where);
  if (c.has(2) && !sameShape(c.ints(2).slice(-rank), extents))
    throw c.refuse(`output_shape [${c.ints(2)}] where kernel and strides make [${extents}] is not supported`, "whether the indices count in the one or the other is read both ways");
  const [rows, m, area] = [n * channels, size(counts), size(extents)];
  const first = times(c, c.emit("iota", [], { shape: [rows, m], axis: 0 }), area);
  const index = c.emit("sub", [reshape(c, castTo(c, c.x(1), "i32"), [rows, m]), first]);
  const own = strides.some((s, d) => s < (taps[d] as number)) ? lastOfEach(c, index) : index;
  const made = c.emit("scatter", [reshape(c, x, [rows, m, 1]), own], { rows: area });
  return reshape(c, made, [n, channels, ...extents]);
}

/**
 *   x [n, c · k…, l…]   y [n, c, h…] = Σ of the patches' elements over each place: a window's transpose
 */
function col2Im(c: Context): Value {
  const x = c.x(0);
  const [image, block] = [c.ints(1), c.ints(2)];
  const rank = image.length;
  const [strides, dilations, pads] = [entries(c, "strides", rank, 1), entries(c, "dilations", rank, 1), entries(c, "pads", 2 * rank, 0)];
  const counts = image.map((h, d) => Math.floor((h + (pads[d] as number) + (pads[rank + d] as number) - ((block[d] as number) - 1) * (dilations[d] as number) - 1) / (strides[d] as number)) + 1);
  const [n, columns, patches] = x.type.shape as [number, number, number];
  const channels = columns / size(block);
  if (x.type.shape.length !== 3 || block.length !== rank || !Number.isInteger(channels) || patches !== size(counts))
    throw new CompileError("shape-mismatch", `Col2Im: [${x.type.shape}] is not of patches [${block}] at [${counts}] places`, c.where);
  const split = reshape(c, x, [n, channels, ...block, ...counts]);
  const pairs = image.flatMap((_, d) => [2 + rank + d, 2 + d]);
  const view = c.emit("permute", [split], { perm: [0, 1, ...pairs] });
  // from the last axis on, so that the others keep their places
  return [...image.keys()].reduceRight((part, d) => c.emit("fold", [part], {
    axis: 2 + 2 * d, size: image[d] as number, stride: strides[d] as number, dilation: dilations[d] as number, offset: -(pads[d] as number), divisor: 1,
  }), view);
}

export const unpoolOps: Readonly<Record<string, ImportOp>> = { MaxUnpool: maxUnpool, Col2Im: col2Im };
