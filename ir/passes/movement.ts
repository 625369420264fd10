/** Chains of movement ops become one; those that move nothing go. Every rule is an equality of index maps. */
import type { Node, Value } from "../graph.js";
import { floatAttr, intAttr, intsAttr } from "../op.js";
import { windowAttrs } from "../ops/movement.js";
import { sameShape, size } from "../type.js";
import type { Rule, Rules, Scope } from "./rewrite.js";
import { uniform, uniformOf } from "./uniform.js";

const operand = (node: Node): Value => node.inputs[0] as Value;
const shapeOf = (node: Node): readonly number[] => operand(node).type.shape;
const resultShape = (node: Node): readonly number[] => (node.results[0] as Value).type.shape;
const ascending = (list: readonly number[]): boolean => list.every((n, k) => k === 0 || n > (list[k - 1] as number));
const notOne = (shape: readonly number[]): number[] => shape.filter((n) => n !== 1);
/** Positions of the axes whose size is not 1. */
const bigAxes = (shape: readonly number[]): number[] => shape.flatMap((n, axis) => (n === 1 ? [] : [axis]));

/** Where the operand's producer is `op`, that node. */
const over = (op: Node["op"], rule: (node: Node, inner: Node, scope: Scope) => Value | undefined): Rule => (node, scope) => {
  const inner = scope.producer(operand(node));
  return inner?.op === op ? rule(node, inner, scope) : undefined;
};

const still: Rule = (node) => (sameShape(shapeOf(node), resultShape(node)) ? operand(node) : undefined);

/** Movement of one number repeated is that number repeated (`pad` and `window` where they add the same number). */
const ofUniform: Rule = (node, scope) => {
  const value = uniformOf(operand(node), scope);
  const inner = scope.producer(operand(node));
  if (value === undefined || (node.op === "broadcast" && inner?.op === "constant")) return undefined;
  if (node.op === "pad" && !Object.is(floatAttr(node.attrs, "value"), value)) return undefined;
  if ((node.op === "window" || node.op === "fold") && !Object.is(value, 0)) return undefined;
  return uniform(scope, (node.results[0] as Value).type, value);
};

const reshapeOfReshape = over("reshape", (node, inner, { emit }) => emit("reshape", [operand(inner)], { shape: resultShape(node) }));

/** A permutation that only moves axes of size 1 is lost in a reshape. */
const reshapeOfPermute = over("permute", (node, inner, { emit }) =>
  ascending(intsAttr(inner.attrs, "perm").filter((axis) => shapeOf(inner)[axis] !== 1))
    ? emit("reshape", [operand(inner)], { shape: resultShape(node) })
    : undefined);

/** Axes of size 1 that a reshape adds to a repeated value, or takes away, are repeated ones. */
const reshapeOfBroadcast = over("broadcast", (node, inner, { emit }) => {
  const [from, to] = [shapeOf(node), resultShape(node)];
  const axes = intsAttr(inner.attrs, "axes");
  if (!sameShape(notOne(from), notOne(to)) || axes.some((axis) => from[axis] === 1)) return undefined;
  const [big, bigTo] = [bigAxes(from), bigAxes(to)];
  return emit("broadcast", [operand(inner)], { shape: to, axes: axes.map((axis) => bigTo[big.indexOf(axis)] as number) });
});

const permuteStill: Rule = (node) => (ascending(intsAttr(node.attrs, "perm")) ? operand(node) : undefined);

const permuteOfPermute = over("permute", (node, inner, { emit }) => {
  const first = intsAttr(inner.attrs, "perm");
  return emit("permute", [operand(inner)], { perm: intsAttr(node.attrs, "perm").map((axis) => first[axis] as number) });
});

/** The smaller tensor is permuted, then repeated. */
const permuteOfBroadcast = over("broadcast", (node, inner, { emit }) => {
  const perm = intsAttr(node.attrs, "perm");
  const places = intsAttr(inner.attrs, "axes").map((axis) => perm.indexOf(axis));
  const order = places.map((_, k) => k).sort((a, b) => (places[a] as number) - (places[b] as number));
  const x = ascending(order) ? operand(inner) : emit("permute", [operand(inner)], { perm: order });
  return emit("broadcast", [x], { shape: resultShape(node), axes: order.map((k) => places[k] as number) });
});

const broadcastOfBroadcast = over("broadcast", (node, inner, { emit }) => {
  const outer = intsAttr(node.attrs, "axes");
  const axes = intsAttr(inner.attrs, "axes").map((axis) => outer[axis] as number);
  return emit("broadcast", [operand(inner)], { shape: resultShape(node), axes });
});

/** Axes of size 1 that were added only to be repeated: [n] → [n, 1] → [n, 1, k] is [n] → [n, 1, k]. */
const broadcastOfReshape = over("reshape", (node, inner, { emit }) => {
  const from = shapeOf(node);
  const big = notOne(from);
  if (big.length === from.length || !sameShape(big, notOne(shapeOf(inner)))) return undefined;
  const axes = intsAttr(node.attrs, "axes").filter((_, k) => from[k] !== 1);
  const x = sameShape(shapeOf(inner), big) ? operand(inner) : emit("reshape", [operand(inner)], { shape: big });
  return emit("broadcast", [x], { shape: resultShape(node), axes });
});

/** Nothing is repeated but axes of size 1. */
const broadcastIsReshape: Rule = (node, scope) =>
  size(shapeOf(node)) === size(resultShape(node)) && uniformOf(operand(node), scope) === undefined && size(resultShape(node)) > 0
    ? scope.emit("reshape", [operand(node)], { shape: resultShape(node) })
    : undefined;

interface Cut {
  readonly start: readonly number[];
  readonly size: readonly number[];
  readonly stride: readonly number[];
}
export const cutOf = (node: Node): Cut => ({
  start: intsAttr(node.attrs, "start"), size: intsAttr(node.attrs, "size"), stride: intsAttr(node.attrs, "stride"),
});
/** A cut of a lower-rank operand: entry k of each list is entry axes[k] of the cut. */
export const cutAxes = (cut: Cut, axes: readonly number[]) => ({
  start: axes.map((axis) => cut.start[axis] as number),
  size: axes.map((axis) => cut.size[axis] as number),
  stride: axes.map((axis) => cut.stride[axis] as number),
});

const sliceStill: Rule = (node) => {
  const cut = cutOf(node);
  const whole = shapeOf(node).every((n, axis) => cut.start[axis] === 0 && cut.size[axis] === n && (n === 1 || cut.stride[axis] === 1));
  return whole ? operand(node) : undefined;
};

const sliceOfSlice = over("slice", (node, inner, { emit }) => {
  const [a, b] = [cutOf(inner), cutOf(node)];
  const start = b.start.map((s, k) => (a.start[k] as number) + s * (a.stride[k] as number));
  return emit("slice", [operand(inner)], { start, size: b.size, stride: b.stride.map((s, k) => s * (a.stride[k] as number)) });
});

const sliceOfBroadcast = over("broadcast", (node, inner, { emit }) => {
  const axes = intsAttr(inner.attrs, "axes");
  const x = emit("slice", [operand(inner)], cutAxes(cutOf(node), axes));
  return emit("broadcast", [x], { shape: resultShape(node), axes });
});

/** A slice that touches nothing that was padded. */
const sliceOfPad = over("pad", (node, inner, { emit }) => {
  const cut = cutOf(node);
  const start = cut.start.map((s, k) => s - (intsAttr(inner.attrs, "low")[k] as number));
  const inside = shapeOf(inner).every((n, k) => {
    const last = (start[k] as number) + ((cut.size[k] as number) - 1) * (cut.stride[k] as number);
    return Math.min(start[k] as number, last) >= 0 && Math.max(start[k] as number, last) < n;
  });
  return inside && size(cut.size) > 0 ? emit("slice", [operand(inner)], { ...cut, start }) : undefined;
});

/** Fewer positions or taps of a window: the same window with other numbers, on a slice of the other axes. */
const sliceOfWindow = over("window", (node, inner, { emit }) => {
  const cut = cutOf(node);
  const { axis, stride, dilation, offset, divisor } = windowAttrs(inner.attrs);
  if (cut.size[axis + 1] === 0) return undefined;
  const n = shapeOf(inner).length;
  const rest = Array.from({ length: n }, (_, k) => (k <= axis ? k : k + 1));
  const others = cutAxes(cut, rest);
  const whole = (list: readonly number[], value: number): number[] => list.map((v, k) => (k === axis ? value : v));
  const x = emit("slice", [operand(inner)], {
    start: whole(others.start, 0), size: whole(others.size, shapeOf(inner)[axis] as number), stride: whole(others.stride, 1),
  });
  return emit("window", [x], {
    axis, count: cut.size[axis] as number, taps: cut.size[axis + 1] as number,
    stride: stride * (cut.stride[axis] as number), dilation: dilation * (cut.stride[axis + 1] as number),
    offset: offset + stride * (cut.start[axis] as number) + dilation * (cut.start[axis + 1] as number), divisor,
  });
});

/** A run of a folded axis is a fold with another origin; other axes are sliced before. */
const sliceOfFold = over("fold", (node, inner, { emit }) => {
  const cut = cutOf(node);
  const axis = intAttr(inner.attrs, "axis");
  if (cut.stride[axis] !== 1) return undefined;
  const from = shapeOf(inner);
  const lists = (list: readonly number[], pair: readonly [number, number]) => [...list.slice(0, axis), ...pair, ...list.slice(axis + 1)];
  const x = emit("slice", [operand(inner)], {
    start: lists(cut.start, [0, 0]), size: lists(cut.size, [from[axis] as number, from[axis + 1] as number]), stride: lists(cut.stride, [1, 1]),
  });
  const offset = intAttr(inner.attrs, "offset") - (cut.start[axis] as number) * intAttr(inner.attrs, "divisor");
  return emit("fold", [x], { ...inner.attrs, size: cut.size[axis] as number, offset });
});

const padOfPad = over("pad", (node, inner, { emit }) => {
  const value = floatAttr(node.attrs, "value");
  if (!Object.is(value, floatAttr(inner.attrs, "value"))) return undefined;
  const sum = (name: string): number[] => intsAttr(node.attrs, name).map((n, k) => n + (intsAttr(inner.attrs, name)[k] as number));
  return emit("pad", [operand(inner)], { low: sum("low"), high: sum("high"), value });
});

/** A window reads 0 outside anyway: zero padding is its offset; what is padded along other axes is padded after. */
const windowOfPad = over("pad", (node, inner, { emit }) => {
  if (!Object.is(floatAttr(inner.attrs, "value"), 0)) return undefined;
  const { axis, divisor, offset } = windowAttrs(node.attrs);
  const [low, high] = [intsAttr(inner.attrs, "low"), intsAttr(inner.attrs, "high")];
  const made = emit("window", [operand(inner)], { ...node.attrs, offset: offset - (low[axis] as number) * divisor });
  const spread = (list: readonly number[]): number[] => list.flatMap((n, k) => (k === axis ? [0, 0] : [n]));
  return emit("pad", [made], { low: spread(low), high: spread(high), value: 0 });
});

/** A step that is never taken is one element; a common factor of the numerator and the divisor is none. */
const windowReduced: Rule = (node, { emit }) => {
  const { axis, taps, stride, dilation, offset, divisor } = windowAttrs(node.attrs);
  const count = intAttr(node.attrs, "count");
  const steps = { stride: count === 1 ? divisor : stride, dilation: taps === 1 ? divisor : dilation };
  const common = [steps.stride, steps.dilation, offset, divisor].reduce(gcd);
  const same = steps.stride === stride && steps.dilation === dilation && common === 1;
  if (same) return undefined;
  return emit("window", [operand(node)], {
    axis, count, taps, stride: steps.stride / common, dilation: steps.dilation / common, offset: offset / common, divisor: divisor / common,
  });
};
const gcd = (a: number, b: number): number => (b === 0 ? Math.abs(a) : gcd(b, a % b));

/** One tap at every position, or one position over every tap: only the shape changes. */
const windowIsReshape: Rule = (node, { emit }) => {
  const { axis, taps, stride, dilation, offset, divisor } = windowAttrs(node.attrs);
  const count = intAttr(node.attrs, "count");
  const extent = shapeOf(node)[axis];
  const still = offset === 0 && ((taps === 1 && stride === divisor && count === extent) || (count === 1 && dilation === divisor && taps === extent));
  return still ? emit("reshape", [operand(node)], { shape: resultShape(node) }) : undefined;
};

export const MOVEMENT_RULES: Rules = {
  reshape: [still, ofUniform, reshapeOfReshape, reshapeOfPermute, reshapeOfBroadcast],
  permute: [permuteStill, ofUniform, permuteOfPermute, permuteOfBroadcast],
  broadcast: [still, ofUniform, broadcastOfBroadcast, broadcastOfReshape, broadcastIsReshape],
  slice: [sliceStill, ofUniform, sliceOfSlice, sliceOfBroadcast, sliceOfPad, sliceOfWindow, sliceOfFold],
  pad: [still, ofUniform, padOfPad],
  window: [ofUniform, windowOfPad, windowReduced, windowIsReshape],
  fold: [ofUniform],
};
