/** Ops that lengthen or crop tensors at their ends: Pad, CenterCropPad. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import { type Context, type ImportOp, scaledAxes } from "../context.js";
import { cut } from "./common.js";
import { pick } from "./pick.js";

/** How many elements to put before and after each axis; negative: to cut. */
interface Amounts {
  readonly low: readonly number[];
  readonly high: readonly number[];
}

/** Amounts: attribute before opset 11. */
function amounts(c: Context): Amounts {
  const rank = c.shape(0).length;
  const given = c.opset < 11 ? (c.intList("pads") ?? []) : c.ints(1);
  const axes = c.opset >= 18 && c.has(3) ? c.ints(3).map((axis) => c.axis(axis, rank)) : c.shape(0).map((_, axis) => axis);
  if (given.length !== 2 * axes.length) throw new CompileError("bad-model", `Pad: ${given.length} amounts for ${axes.length} axes`, c.where);
  const [low, high] = [new Array<number>(rank).fill(0), new Array<number>(rank).fill(0)];
  axes.forEach((axis, k) => {
    low[axis] = given[k] as number;
    high[axis] = given[axes.length + k] as number;
  });
  return { low, high };
}

/** Cuts what is negative, then pads with one number. */
function resized(c: Context, x: Value, { low, high }: Amounts, value: number): Value {
  const cropped = crop(c, x, { low, high });
  const [before, after] = [low.map((n) => Math.max(0, n)), high.map((n) => Math.max(0, n))];
  return [...before, ...after].every((n) => n === 0) ? cropped : c.emit("pad", [cropped], { low: before, high: after, value });
}

function crop(c: Context, x: Value, { low, high }: Amounts): Value {
  let made = x;
  x.type.shape.forEach((n, axis) => {
    const [l, h] = [Math.max(0, -(low[axis] as number)), Math.max(0, -(high[axis] as number))];
    if (l + h > n) throw new CompileError("shape-mismatch", `${c.node.op}: ${l + h} of ${n} elements of axis ${axis} are cut`, c.where);
    made = cut(c, made, axis, l, n - l - h);
  });
  return made;
}

const modulo = (i: number, n: number): number => ((i % n) + n) % n;

/** The element that stands at place i of an axis of n, also before and after it. */
const SOURCES: Readonly<Record<string, (i: number, n: number) => number>> = {
  edge: (i, n) => Math.min(Math.max(i, 0), n - 1),
  wrap: modulo,
  // there and back without the ends twice
  reflect(i, n) {
    const at = n === 1 ? 0 : modulo(i, 2 * (n - 1));
    return Math.min(at, 2 * (n - 1) - at);
  },
};

function pad(c: Context): Value {
  const both = amounts(c);
  const { low, high } = both;
  const mode = c.text("mode", "constant");
  for (const axis of scaledAxes(c.shape(0), c.oldShape(0)))
    if (low[axis] !== 0 || high[axis] !== 0) throw c.lost(`axis ${axis} is padded, which carries the examples`);
  if (mode === "constant") return resized(c, c.x(0), both, c.opset < 11 ? c.float("value", 0) : c.number(2, 0));
  const source = SOURCES[mode];
  if (!source) throw c.refuse(`mode "${mode}" is not supported`, "constant, reflect, edge and wrap are");
  let x = crop(c, c.x(0), both);
  x.type.shape.forEach((n, axis) => {
    const [before, after] = [Math.max(0, low[axis] as number), Math.max(0, high[axis] as number)];
    if (before + after === 0) return;
    if (n === 0) throw new CompileError("shape-mismatch", `Pad: nothing along axis ${axis} to pad with`, c.where);
    x = pick(c, x, axis, Array.from({ length: before + n + after }, (_, i) => source(i - before, n)));
  });
  return x;
}

/** Crops what is too long and pads with zeros what is too short, as much at both ends (one more at the end if odd). */
function centerCropPad(c: Context): Value {
  const shape = c.shape(0);
  const old = c.oldShape(0);
  const target = c.ints(1);
  const axes = c.intList("axes")?.map((axis) => c.axis(axis, shape.length)) ?? shape.map((_, axis) => axis);
  if (target.length !== axes.length) throw new CompileError("bad-model", `CenterCropPad: ${target.length} sizes for ${axes.length} axes`, c.where);
  const [low, high] = [shape.map(() => 0), shape.map(() => 0)];
  axes.forEach((axis, k) => {
    const more = (target[k] as number) - (shape[axis] as number);
    if (scaledAxes(shape, old).includes(axis)) {
      if (target[k] !== old?.[axis] && more !== 0) throw c.lost(`axis ${axis} is cut or padded, which carries the examples`);
      return;
    }
    low[axis] = Math.trunc(more / 2);
    high[axis] = more - Math.trunc(more / 2);
  });
  return resized(c, c.x(0), { low, high }, 0);
}

export const padOps: Readonly<Record<string, ImportOp>> = { Pad: pad, CenterCropPad: centerCropPad };
