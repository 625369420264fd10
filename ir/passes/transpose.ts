/**
 * fold → window: the gradient of a sliding window, which scatters, becomes a gather. This is what makes a convolution's input
 * gradient (and a transposed convolution) a contraction, and average pooling's backward pass a reduction.
 *
 *   fold     out[h] = Σ x[i, j] over i·stride + j·dilation + offset = h·divisor
 *   so, for each h and j, i = (h·divisor − j·dilation − offset) / stride where that is exact and in range:
 *   the fold is Σ_j of a window over axis i with count = h, stride′ = divisor, dilation′ = −dilation, offset′ = −offset,
 *   divisor′ = stride, of any x whose dependence on i and on j can be told apart.
 */
import type { Attrs, Node, Value } from "../graph.js";
import { intAttr, intsAttr } from "../op.js";
import { OPS } from "../ops/index.js";
import { size } from "../type.js";
import { freeLabel, specOf, spellSpec } from "./contraction.js";
import type { Rule, Rules, Scope } from "./rewrite.js";

interface Fold {
  readonly x: Value;
  readonly axis: number;
  /** Extent of the result's axis. */
  readonly extent: number;
  readonly stride: number;
  readonly dilation: number;
  readonly offset: number;
  readonly divisor: number;
}

const foldOf = ({ inputs, attrs }: Node): Fold => ({
  x: inputs[0] as Value, axis: intAttr(attrs, "axis"), extent: intAttr(attrs, "size"),
  stride: intAttr(attrs, "stride"), dilation: intAttr(attrs, "dilation"), offset: intAttr(attrs, "offset"), divisor: intAttr(attrs, "divisor"),
});

/** Attributes of the window over the `i` axis (now at `axis`) with one tap per `j`; undefined where i moves nothing. */
function transposed({ stride, dilation, offset, divisor, extent }: Fold, axis: number, taps: number): Attrs | undefined {
  if (stride === 0 || taps === 0) return undefined;
  const sign = Math.sign(stride);
  // + 0 turns -0 into 0, which prints
  return { axis, count: extent, taps, stride: sign * divisor, dilation: -sign * dilation + 0, offset: -sign * offset + 0, divisor: Math.abs(stride) };
}

const resultShape = (node: Node): readonly number[] => (node.results[0] as Value).type.shape;
const without = (shape: readonly number[], axis: number): number[] => shape.filter((_, k) => k !== axis);

/** A fold of one tap is a window of one tap; so is a fold of one position, seen from the taps. */
const ofOne: Rule = (node, { emit }) => {
  const f = foldOf(node);
  const { shape } = f.x.type;
  const [byTap, byPosition] = [shape[f.axis + 1] === 1, shape[f.axis] === 1];
  const attrs = byTap ? transposed(f, f.axis, 1) : byPosition ? transposed({ ...f, stride: f.dilation, dilation: f.stride }, f.axis, 1) : undefined;
  if (!attrs) return undefined;
  const x = emit("reshape", [f.x], { shape: without(shape, byTap ? f.axis + 1 : f.axis) });
  return emit("reshape", [emit("window", [x], attrs)], { shape: resultShape(node) });
};

/** Positions in one operand, taps in the other: window the one with the positions and sum over taps. */
const ofContract: Rule = (node, scope) => {
  const f = foldOf(node);
  const made = scope.producer(f.x);
  if (made?.op !== "contract" || !scope.single(f.x)) return undefined;
  const spec = specOf(made);
  const [i, j] = [spec.out[f.axis] as string, spec.out[f.axis + 1] as string];
  const [l, r] = made.inputs as [Value, Value];
  const apart = (mine: string, other: string): boolean => mine.includes(i) && !other.includes(i) && other.includes(j) && !mine.includes(j);
  const inLeft = apart(spec.left, spec.right);
  if (!inLeft && !apart(spec.right, spec.left)) return undefined;
  const h = freeLabel(spec);
  const labels = inLeft ? spec.left : spec.right;
  const attrs = transposed(f, labels.indexOf(i), f.x.type.shape[f.axis + 1] as number);
  if (h === undefined || !attrs) return undefined;
  const windowed = scope.emit("window", [inLeft ? l : r], attrs);
  const out = spec.out.replace(`${i}${j}`, h);
  const its = labels.replace(i, `${h}${j}`);
  return inLeft
    ? scope.emit("contract", [windowed, r], { spec: spellSpec({ left: its, right: spec.right, out }) })
    : scope.emit("contract", [l, windowed], { spec: spellSpec({ left: spec.left, right: its, out }) });
};

/** A value that is the same for every tap: the sum over taps of its window. */
const ofRepeated: Rule = (node, scope) => {
  const f = foldOf(node);
  const attrs = transposed(f, f.axis, f.x.type.shape[f.axis + 1] as number);
  const y = attrs && withoutAxis(f.x, f.axis + 1, scope);
  return y && scope.emit("reduce_sum", [scope.emit("window", [y], attrs)], { axes: [f.axis + 1] });
};

/** A reshape that leaves positions and taps alone can be done after the fold. */
const ofReshape: Rule = (node, { emit, producer }) => {
  const f = foldOf(node);
  const made = producer(f.x);
  if (made?.op !== "reshape") return undefined;
  const y = made.inputs[0] as Value;
  const axis = sameAxis(f.x.type.shape, f.axis, y.type.shape);
  if (axis === undefined || y.type.shape[axis + 1] !== f.x.type.shape[f.axis + 1]) return undefined;
  return emit("reshape", [emit("fold", [y], { ...node.attrs, axis })], { shape: resultShape(node) });
};

/** A window along another axis can slide after the fold. */
const ofWindow: Rule = (node, { emit, producer }) => {
  const f = foldOf(node);
  const made = producer(f.x);
  if (made?.op !== "window") return undefined;
  const at = intAttr(made.attrs, "axis");
  if (at === f.axis || at === f.axis + 1 || at + 1 === f.axis) return undefined;
  const y = emit("fold", [made.inputs[0] as Value], { ...node.attrs, axis: at < f.axis ? f.axis - 1 : f.axis });
  return emit("window", [y], { ...made.attrs, axis: at < f.axis ? at : at - 1 });
};

/** Cotangents that meet at one window (two convolutions of one value) are folded one by one, where that makes contractions of them. */
const ofSum: Rule = (node, scope) => {
  const x = node.inputs[0] as Value;
  const made = scope.producer(x);
  const foldable = (v: Value): boolean => {
    const by = scope.producer(v);
    return scope.single(v) && (by?.op === "contract" || (by?.op === "add" && by.inputs.every(foldable)));
  };
  if (made?.op !== "add" || !scope.single(x) || !made.inputs.every(foldable)) return undefined;
  return scope.emit("add", made.inputs.map((v) => scope.emit("fold", [v], node.attrs)));
};

/** The axis of a reshape's operand that is the same as `axis` of its result: as large, and with as many elements before it. */
function sameAxis(shape: readonly number[], axis: number, from: readonly number[]): number | undefined {
  if (size(shape) === 0) return undefined;
  const before = size(shape.slice(0, axis));
  const found = from.findIndex((n, k) => n === shape[axis] && size(from.slice(0, k)) === before);
  return found < 0 ? undefined : found;
}

/** Work that must not be done twice: taken apart only where nobody else reads it. */
const HEAVY = new Set<string>(["reduce_sum", "reduce_max"]);

/** The value with one axis left out, if it is the same all along that axis for a reason that can be read off the graph. */
function withoutAxis(value: Value, axis: number, scope: Scope, seen = new Map<Value, Map<number, Value | undefined>>()): Value | undefined {
  const made = scope.producer(value);
  if (!made || (HEAVY.has(made.op) && !scope.single(value))) return undefined;
  const known = seen.get(value) ?? new Map<number, Value | undefined>();
  seen.set(value, known);
  if (!known.has(axis)) known.set(axis, leaveOut(made, axis, scope, (v, a) => withoutAxis(v, a, scope, seen)));
  return known.get(axis);
}

function leaveOut(made: Node, axis: number, { emit }: Scope, inner: (v: Value, axis: number) => Value | undefined): Value | undefined {
  const x = made.inputs[0] as Value;
  const { attrs } = made;
  const lower = (list: readonly number[]): number[] => list.filter((a) => a !== axis).map((a) => (a > axis ? a - 1 : a));
  if (OPS[made.op].elementwise) {
    const all = made.inputs.map((v) => inner(v, axis));
    return all.every((v) => v !== undefined) ? emit(made.op, all, attrs) : undefined;
  }
  switch (made.op) {
    case "broadcast": {
      const axes = intsAttr(attrs, "axes");
      const y = axes.includes(axis) ? inner(x, axes.indexOf(axis)) : x;
      return y && emit("broadcast", [y], { shape: without(resultShape(made), axis), axes: lower(axes) });
    }
    case "permute": {
      const perm = intsAttr(attrs, "perm");
      const own = perm[axis] as number;
      const y = inner(x, own);
      return y && emit("permute", [y], { perm: without(perm, axis).map((a) => (a > own ? a - 1 : a)) });
    }
    case "reshape": {
      const own = sameAxis(resultShape(made), axis, x.type.shape);
      const y = own === undefined ? undefined : inner(x, own);
      return y && emit("reshape", [y], { shape: without(resultShape(made), axis) });
    }
    case "window": {
      const at = intAttr(attrs, "axis");
      if (axis === at || axis === at + 1) return undefined;
      const y = inner(x, axis > at ? axis - 1 : axis);
      return y && emit("window", [y], { ...attrs, axis: axis < at ? at - 1 : at });
    }
    case "reduce_sum":
    case "reduce_max": {
      const axes = intsAttr(attrs, "axes");
      const own = x.type.shape.map((_, a) => a).filter((a) => !axes.includes(a))[axis] as number;
      const y = inner(x, own);
      return y && emit(made.op, [y], { axes: axes.map((a) => (a > own ? a - 1 : a)) });
    }
    default:
      return undefined;
  }
}

export const TRANSPOSE_RULES: Rules = {
  fold: [ofContract, ofReshape, ofWindow, ofOne, ofRepeated, ofSum],
};
