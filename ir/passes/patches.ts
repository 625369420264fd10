/** Contractions of a windowed value with itself, taken apart: which axes of which windows are summed, and which are features. */
import type { Node, Value } from "../graph.js";
import { intAttr, intsAttr } from "../op.js";
import { windowAttrs } from "../ops/movement.js";
import type { Spec } from "../ops/reduction.js";
import type { Scope } from "./rewrite.js";

/** Positions 0 … count − 1 of a filter that moves one element at a time: tap k of position o reads element o + k·dilation + offset. */
export interface Slide {
  /** Axis of the core that it moves along, and that axis's size. */
  readonly axis: number;
  readonly size: number;
  readonly count: number;
  readonly taps: number;
  readonly dilation: number;
  readonly offset: number;
}

/** A core axis without a filter, or the positions or the taps of one. */
export interface Atom {
  readonly axis: number;
  readonly kind: "whole" | "position" | "tap";
  readonly size: number;
}

/** A value as a view of `core`: each of its axes is a row-major product of atoms. Axes of size 1 are left out. */
interface Layout {
  readonly core: Value;
  readonly slides: readonly Slide[];
  readonly axes: readonly (readonly Atom[])[];
}

/** out[batch.., left features.., right features..] = Σ over the summed atoms of view · view. */
export interface Patches {
  readonly core: Value;
  /** Filters whose positions are summed and whose taps are features. */
  readonly slides: readonly Slide[];
  readonly batch: readonly Atom[];
  readonly summed: readonly Atom[];
  readonly features: readonly Atom[];
  /** The contraction's output axes: their atoms, and whether they are of the left or the right copy (batch: left). */
  readonly out: readonly { readonly atoms: readonly Atom[]; readonly side: "left" | "right" }[];
}

const whole = (core: Value): Layout => ({
  core, slides: [], axes: core.type.shape.map((size, axis) => (size === 1 ? [] : [{ axis, kind: "whole", size }])),
});

function layoutOf(value: Value, producer: Scope["producer"]): Layout {
  const node = producer(value);
  const inner = node && (node.op === "permute" || node.op === "reshape" || node.op === "window") ? layoutOf(node.inputs[0] as Value, producer) : undefined;
  if (!node || !inner) return whole(value);
  if (node.op === "permute") return { ...inner, axes: intsAttr(node.attrs, "perm").map((axis) => inner.axes[axis] as readonly Atom[]) };
  const axes = node.op === "reshape" ? merged(inner.axes.flat(), value.type.shape) : undefined;
  if (axes) return { ...inner, axes };
  return (node.op === "window" ? slid(node, inner) : undefined) ?? whole(value);
}

/** Atoms in row-major order as the axes of a shape, if every axis is a product of whole atoms. */
function merged(atoms: readonly Atom[], shape: readonly number[]): Atom[][] | undefined {
  let next = 0;
  const axes = shape.map((size) => {
    const own: Atom[] = [];
    for (let n = 1; n < size; n *= (own[own.length - 1] as Atom).size) {
      const atom = atoms[next++];
      if (!atom) return [];
      own.push(atom);
    }
    return own;
  });
  const fits = axes.every((own, k) => own.reduce((n, atom) => n * atom.size, 1) === shape[k]);
  return fits && next === atoms.length ? axes : undefined;
}

/** One more filter, along an axis of the core that has none yet. */
function slid(node: Node, { core, slides, axes }: Layout): Layout | undefined {
  const { axis: at, taps, stride, dilation, offset, divisor } = windowAttrs(node.attrs);
  const count = intAttr(node.attrs, "count");
  const [atom, ...more] = axes[at] as readonly Atom[];
  if (stride !== 1 || divisor !== 1 || dilation < 1 || taps < 2 || count < 2 || atom?.kind !== "whole" || more.length > 0) return undefined;
  const { axis, size } = atom;
  return {
    core, slides: [...slides, { axis, size, count, taps, dilation, offset }],
    axes: axes.flatMap((own, k) => (k === at ? [[{ axis, kind: "position", size: count } as const], [{ axis, kind: "tap", size: taps } as const]] : [own])),
  };
}

/** The contraction of a value with itself as patches of a core; undefined unless it is symmetric and every filter's positions are summed. */
export function patchesOf(value: Value, spec: Spec, producer: Scope["producer"]): Patches | undefined {
  const { core, slides, axes } = layoutOf(value, producer);
  if (slides.length === 0) return undefined;
  const [batch, summed, features]: Atom[][] = [[], [], []];
  const home = new Map<string, { atoms: readonly Atom[]; side: "left" | "right" }>();
  for (const [k, atoms] of axes.entries()) {
    const [l, r] = [spec.left[k] as string, spec.right[k] as string];
    home.set(l, { atoms, side: "left" });
    if (l !== r) home.set(r, { atoms, side: "right" });
    if (l === r) (spec.out.includes(l) ? batch : summed)?.push(...atoms);
    else if (spec.out.includes(l) && spec.out.includes(r) && !spec.right.includes(l) && !spec.left.includes(r)) features?.push(...atoms);
    else return undefined;
  }
  if (!batch || !summed || !features || batch.some((a) => a.kind !== "whole")) return undefined;
  if (summed.some((a) => a.kind === "tap") || features.some((a) => a.kind === "position")) return undefined;
  return { core, slides, batch, summed, features, out: [...spec.out].map((label) => home.get(label) as { atoms: readonly Atom[]; side: "left" | "right" }) };
}
