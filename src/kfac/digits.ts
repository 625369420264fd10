/**
 * Axes as digits. A view of row-major data is, per axis, a list of digits (count, stride): element (i, j, …) lies at offset + Σ of its
 * digits' strides. Reshapes regroup digits, permutes reorder axes, slices move the offset; what is none of these is no such view.
 */
import type { Node } from "../../ir/graph.js";
import { intsAttr } from "../../ir/op.js";
import { size } from "../../ir/type.js";

export interface Digit {
  readonly count: number;
  readonly stride: number;
  /** The axis of the starting value that it is a part of; `stride` is in that axis where `startAxes` made the view. */
  readonly axis: number;
}

/** Per axis, the slowest digit first; digits of one are left out. */
export interface DigitView {
  readonly offset: number;
  readonly axes: readonly (readonly Digit[])[];
}

/** Strides in the data of a tensor of this shape. */
export const startFlat = (shape: readonly number[]): DigitView => ({
  offset: 0, axes: shape.map((count, axis) => (count === 1 ? [] : [{ count, stride: size(shape.slice(axis + 1)), axis }])),
});

/** Strides inside each axis of its own. */
export const startAxes = (shape: readonly number[]): DigitView => ({
  offset: 0, axes: shape.map((count, axis) => (count === 1 ? [] : [{ count, stride: 1, axis }])),
});

/** Takes digits worth `count` from the end of `from`, splitting the last if need be; undefined where the borders do not meet. */
function take(from: Digit[], count: number): Digit[] | undefined {
  const taken: Digit[] = [];
  for (let need = count; need > 1; ) {
    const last = from.pop();
    if (!last) return undefined;
    if (need % last.count === 0) {
      taken.unshift(last);
      need /= last.count;
    } else if (last.count % need === 0) {
      taken.unshift({ ...last, count: need });
      from.push({ ...last, count: last.count / need, stride: last.stride * need });
      need = 1;
    } else return undefined;
  }
  return taken;
}

/** The view after one more node; undefined if that is no reshape, permute or slice of digits. */
export function through(view: DigitView, node: Node): DigitView | undefined {
  switch (node.op) {
    case "permute": return { ...view, axes: intsAttr(node.attrs, "perm").map((k) => view.axes[k] as readonly Digit[]) };
    case "reshape": {
      const digits = view.axes.flat();
      const axes: Digit[][] = [];
      for (const extent of [...intsAttr(node.attrs, "shape")].reverse()) {
        const made = take(digits, extent);
        if (!made) return undefined;
        axes.unshift(made);
      }
      return digits.length === 0 ? { ...view, axes } : undefined;
    }
    case "slice": {
      const [start, count, stride] = ["start", "size", "stride"].map((name) => intsAttr(node.attrs, name)) as [number[], number[], number[]];
      let { offset } = view;
      const axes: Digit[][] = [];
      for (const [k, digits] of view.axes.entries()) {
        const extent = digits.reduce((n, d) => n * d.count, 1);
        const [s, n, step] = [start[k] as number, count[k] as number, stride[k] as number];
        if (n === extent && step === 1) {
          axes.push([...digits]);
          continue;
        }
        const only = digits[0];
        if (digits.length !== 1 || !only) return undefined;
        offset += s * only.stride;
        axes.push(n === 1 ? [] : [{ ...only, count: n, stride: only.stride * step }]);
      }
      return { offset, axes };
    }
    default: return undefined;
  }
}

/** Through a chain of nodes, from the one nearest to the start. */
export const throughAll = (view: DigitView, nodes: readonly Node[]): DigitView | undefined =>
  nodes.reduce<DigitView | undefined>((v, n) => v && through(v, n), view);

/** Two lists of digits of equal extent cut at common borders; undefined where these do not meet. */
export function pairDigits(a: readonly Digit[], b: readonly Digit[]): (readonly [Digit, Digit])[] | undefined {
  const [left, right] = [[...a], [...b]];
  const pairs: (readonly [Digit, Digit])[] = [];
  for (;;) {
    const [l, r] = [left.pop(), right.pop()];
    if (!l && !r) return pairs;
    if (!l || !r) return undefined;
    const count = Math.min(l.count, r.count);
    if (l.count % count !== 0 || r.count % count !== 0) return undefined;
    pairs.unshift([{ ...l, count }, { ...r, count }]);
    if (l.count > count) left.push({ ...l, count: l.count / count, stride: l.stride * count });
    if (r.count > count) right.push({ ...r, count: r.count / count, stride: r.stride * count });
  }
}

/** [count, stride] with the fastest first; neighbours that count on are one. */
export function merged(digits: readonly Digit[]): (readonly [number, number])[] {
  const out: [number, number][] = [];
  for (const d of [...digits].reverse()) {
    const last = out[out.length - 1];
    if (last && last[0] * last[1] === d.stride) last[0] *= d.count;
    else out.push([d.count, d.stride]);
  }
  return out;
}

/** Least and greatest place that a view touches. */
export function extent(view: DigitView): readonly [number, number] {
  const steps = view.axes.flat().map((d) => (d.count - 1) * d.stride);
  const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, view.offset);
  return [sum(steps.map((s) => Math.min(0, s))), sum(steps.map((s) => Math.max(0, s)))];
}
