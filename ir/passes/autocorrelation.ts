/**
 * A filter's second moments by autocorrelation. For a filter that moves one element at a time,
 *
 *   A[k, k'] = Σ_{o in 0..count−1} x[o + k·d] · x[o + k'·d]
 *
 * is, summed over all o instead, a function R[k' − k] of the taps' distance alone: 25 numbers instead of 81 for a pair of channels under a
 * 3×3 filter. The positions that this counts too many lie within one filter's width of the border, and there few taps see anything:
 *
 *   Σ_in = Σ_all − Σ_out                     one axis
 *   Σ_in Σ_in = Σ_all Σ_all − Σ_out Σ_all − Σ_in Σ_out    two, and so on
 *
 * R is symmetric (R[c, c', j] = R[c', c, −j]), so half of it is summed. All of it is exact in real arithmetic. In float32 the difference is
 * good to rounding errors of Σ_all, which is at most the trace: every element is seen by some tap, and its square stands on the diagonal.
 */
import type { Graph, Value } from "../graph.js";
import { floatAttr, intsAttr } from "../op.js";
import type { Pass } from "../pass.js";
import { LETTERS, specOf, spellSpec } from "./contraction.js";
import { MOVEMENT_RULES } from "./movement.js";
import { type Atom, type Patches, patchesOf, type Slide } from "./patches.js";
import { type Rule, rewrite, type Scope } from "./rewrite.js";
import { uniform } from "./uniform.js";

/** Which positions of a filter a sum runs over: its own, those beside the border, or all integers. */
type Range = "in" | "out" | "all";
type Ranges = ReadonlyMap<Slide, Range>;

/** What speaks against correlating, in multiply-adds of one contraction of patches. */
export interface Price {
  /** Of every sum that replaces it: dispatches, and its part in the assembly. */
  readonly sum: number;
  /** Of reading rows further than they are long: a multiply-add of a correlation along them costs 1 + wide · (taps − 1) / size. */
  readonly wide: number;
}

/**
 * Measured on a software adapter: under 3×3 filters a multiply-add costs 1.5, 1.8 and 3 times as much with rows of 28, 16 and 8. What is
 * chosen at these prices took 0.4 to 0.7 of the time of the contraction of patches; correlating along one of two axes was never best.
 */
const PRICE: Price = { sum: 1_000_000, wide: 7 };

/** Positions before and after the filter's own at which it still sees an element: `reach` on either side, and how many taps do. */
function outside({ size, count, taps, dilation, offset }: Slide): { reach: number; seeing: number } {
  const reach = Math.max(0, (taps - 1) * dilation + offset, size - offset - count);
  return { reach, seeing: Math.min(taps, Math.ceil(reach / dilation)) };
}

/**
 * Every element is seen by some tap, so that what is taken away again is not more than what stands on the diagonal; and the borders are a
 * small part of the whole.
 */
const able = ({ size, count, taps, dilation, offset }: Slide): boolean =>
  offset <= 0 && count - 1 + (taps - 1) * dilation + offset >= size - 1 && size >= 4 * (taps - 1) * dilation;

/** Multiply-adds of one sum. */
function work(p: Patches, ranges: Ranges): number {
  const sizes = (atoms: readonly Atom[]): number => atoms.reduce((n, a) => n * (a.kind === "whole" ? a.size : 1), 1);
  let [sums, features, offsets, sides] = [sizes(p.batch) * sizes(p.summed), sizes(p.features), 0, 1];
  for (const s of p.slides) {
    const range = ranges.get(s) ?? "in";
    const { reach, seeing } = outside(s);
    if (range === "all") offsets = offsets === 0 ? s.taps : offsets * (2 * s.taps - 1);
    else features *= range === "in" ? s.taps : seeing;
    if (range === "out") sides = 2;
    sums *= range === "in" ? s.count : range === "out" ? reach : s.size;
  }
  return sums * sides * (offsets > 0 ? features ** 2 * offsets : (features * (features + 1)) / 2);
}

/** Σ_in of some filters as a first sum and those to take away from it. */
function parts(chosen: readonly Slide[]): Ranges[] {
  const made: Ranges[] = [new Map(chosen.map((s) => [s, "all"]))];
  for (const [k, s] of chosen.entries())
    if (outside(s).reach > 0) made.push(new Map(chosen.map((t, j) => [t, j < k ? "in" : j === k ? "out" : "all"])));
  return made;
}

/** The filters along which to correlate, if that is less work. */
function choice(p: Patches, price: Price): readonly Slide[] | undefined {
  const chosen = p.core.type.dtype === "f32" ? p.slides.filter(able) : [];
  if (chosen.length === 0) return undefined;
  const last = p.slides.reduce((a, b) => (b.axis > a.axis ? b : a));
  const each = (ranges: Ranges): number => (ranges.get(last) === "all" ? 1 + (price.wide * (last.taps - 1)) / last.size : 1);
  const cost = parts(chosen).reduce((n, ranges) => n + work(p, ranges) * each(ranges) + price.sum, 0);
  return cost < work(p, new Map()) ? chosen : undefined;
}

/** A value whose axes are named: `a2` the core's axis 2, `p2` `k2` positions and taps of the filter along it, `e2` its two ends, `d2` a distance of taps. */
interface Named {
  readonly value: Value;
  readonly ids: readonly string[];
}

/** The core as one side of a sum reads it. */
function side(p: Patches, ranges: Ranges, right: boolean, { emit }: Scope): Named {
  let value = p.core;
  const ids = p.core.type.shape.map((_, axis) => `a${axis}`);
  let first = true;
  // reshapes that the ends of a filter become cannot stand below a window that reaches beyond them
  const order = (["all", "in", "out"] as const).flatMap((range) => p.slides.filter((s) => (ranges.get(s) ?? "in") === range));
  for (const s of order) {
    const axis = ids.indexOf(`a${s.axis}`);
    const { dilation, taps, offset, count, size } = s;
    const slide = (at: number, w: { count: number; taps: number; stride: number; dilation: number; offset: number }) => { value = emit("window", [value], { axis: at, ...w, divisor: 1 }); };
    switch (ranges.get(s) ?? "in") {
      case "in":
        slide(axis, { count, taps, stride: 1, dilation, offset });
        ids.splice(axis, 1, `p${s.axis}`, `k${s.axis}`);
        break;
      case "out": {
        // position −reach + p with the last taps, position count + p with the first ones
        const { reach, seeing } = outside(s);
        const low = (taps - seeing) * dilation + offset - reach;
        slide(axis, { count: 2, taps: reach + (seeing - 1) * dilation, stride: count + offset - low, dilation: 1, offset: low });
        slide(axis + 1, { count: reach, taps: seeing, stride: 1, dilation, offset: 0 });
        ids.splice(axis, 1, `e${s.axis}`, `p${s.axis}`, `k${s.axis}`);
        break;
      }
      case "all":
        if (!right) break;
        // distances of one sign are enough along the first axis
        slide(axis, first ? { count: size, taps, stride: 1, dilation, offset: 0 } : { count: size, taps: 2 * taps - 1, stride: 1, dilation, offset: (1 - taps) * dilation });
        ids.splice(axis + 1, 0, `d${s.axis}`);
        first = false;
    }
  }
  return { value, ids };
}

/** One sum, with axes [batch.., features.., features'..] as `p.features` has them. */
function sum(p: Patches, ranges: Ranges, scope: Scope): Value {
  const { emit } = scope;
  const is = (range: Range) => p.slides.filter((s) => (ranges.get(s) ?? "in") === range);
  const [all, out] = [is("all"), is("out")];
  const [l, r] = [side(p, ranges, false, scope), side(p, ranges, true, scope)];
  const own = p.features.map(idOf).filter((id) => l.ids.includes(id));
  const primed = (id: string): string => (own.includes(id) ? `${id}'` : id);
  const distances = all.map((s) => `d${s.axis}`);
  const made = [...p.batch.map(idOf), ...out.map((s) => `e${s.axis}`), ...own, ...own.map(primed), ...distances];
  const letters = new Map([...new Set([...l.ids, ...r.ids.map(primed)])].map((id, k) => [id, LETTERS[k] as string]));
  const spell = (ids: readonly string[]): string => ids.map((id) => letters.get(id)).join("");
  const spec = spellSpec({ left: spell(l.ids), right: spell(r.ids.map(primed)), out: spell(made) });
  const sums: Named = { value: emit("contract", [l.value, r.value], { spec }), ids: made };
  const spread = all.length > 0 ? unfold(sums, own, all, scope) : sums;
  const placed = out.reduce((n, s) => place(n, s, scope), spread);
  const wanted = [...p.batch.map(idOf), ...p.features.map(idOf), ...p.features.map((a) => `${idOf(a)}'`)];
  return emit("permute", [placed.value], { perm: wanted.map((id) => placed.ids.indexOf(id)) });
}

const idOf = ({ kind, axis }: Atom): string => `${kind === "whole" ? "a" : kind === "position" ? "p" : "k"}${axis}`;

/** Sums by half of the distances [.., own, own', distances] as sums by pairs of taps: R[c, c', −j] = R[c', c, j], and R[k' − k] for k and k'. */
function unfold({ value, ids }: Named, own: readonly string[], all: readonly Slide[], { emit }: Scope): Named {
  const rank = ids.length - all.length;
  const fixed = value.type.shape.slice(0, rank);
  const others = all.slice(1).reduce((n, s) => n * (2 * s.taps - 1), 1);
  const start = (others - 1) / 2;
  const count = (all[0] as Slide).taps * others - start;
  const flat = emit("reshape", [value], { shape: [...fixed, start + count] });
  const cut = (v: Value, from: number, n: number, step: number): Value =>
    emit("slice", [v], { start: [...fixed.map(() => 0), from], size: [...v.type.shape.slice(0, -1), n], stride: [...fixed.map(() => 1), step] });
  const half = cut(flat, start, count, 1);
  const before = rank - 2 * own.length;
  const exchanged = [...Array(before).keys(), ...own.map((_, k) => before + own.length + k), ...own.map((_, k) => before + k), rank];
  const mirrored = cut(emit("permute", [half], { perm: exchanged }), count - 1, count - 1, -1);
  let whole = emit("concat", [mirrored, half], { axis: rank });
  whole = emit("reshape", [whole], { shape: [...fixed, ...all.map((s) => 2 * s.taps - 1)] });
  const named = ids.slice(0, rank);
  for (const { taps, axis } of all) {
    whole = emit("window", [whole], { axis: named.length, count: taps, taps, stride: -1, dilation: 1, offset: taps - 1, divisor: 1 });
    named.push(`k${axis}`, `k${axis}'`);
  }
  return { value: whole, ids: named };
}

/** The two ends of a filter added up: before its positions the last taps see something, after them the first ones. */
function place({ value, ids }: Named, s: Slide, { emit }: Scope): Named {
  const at = ids.indexOf(`e${s.axis}`);
  const blind = s.taps - outside(s).seeing;
  const { shape } = value.type;
  const end = (e: number): Value => {
    const one = emit("slice", [value], { start: shape.map((_, k) => (k === at ? e : 0)), size: shape.map((n, k) => (k === at ? 1 : n)), stride: shape.map(() => 1) });
    if (blind === 0) return one;
    const amounts = ids.map((id) => (id === `k${s.axis}` || id === `k${s.axis}'` ? blind : 0));
    const none = amounts.map(() => 0);
    return emit("pad", [one], { low: e === 0 ? amounts : none, high: e === 0 ? none : amounts, value: 0 });
  };
  const both = emit("add", [end(0), end(1)]);
  return { value: emit("reshape", [both], { shape: both.type.shape.filter((_, k) => k !== at) }), ids: ids.filter((_, k) => k !== at) };
}

/** A contraction of patches with themselves. */
const moments = (price: Price): Rule => (node, scope) => {
  const [l, r] = node.inputs as [Value, Value];
  if (l !== r) return undefined;
  const p = patchesOf(l, specOf(node), scope.producer);
  const chosen = p && choice(p, price);
  if (!p || !chosen) return undefined;
  const [first, ...rest] = parts(chosen).map((ranges) => sum(p, ranges, scope)) as [Value, ...Value[]];
  const total = rest.reduce((a, b) => scope.emit("sub", [a, b]), first);
  const axes = [...p.batch.map(idOf), ...p.features.map(idOf), ...p.features.map((a) => `${idOf(a)}'`)];
  const order = p.out.flatMap(({ atoms, side: of }) => atoms.map((a) => `${idOf(a)}${of === "right" ? "'" : ""}`));
  const moved = scope.emit("permute", [total], { perm: order.map((id) => axes.indexOf(id)) });
  return scope.emit("reshape", [moved], { shape: (node.results[0] as Value).type.shape });
};

/** The same with a last feature of ones: it is the patches' sum, and their number. */
const homogeneous = (price: Price): Rule => (node, scope) => {
  const [l, r] = node.inputs as [Value, Value];
  const made = scope.producer(l);
  if (l !== r || made?.op !== "pad" || floatAttr(made.attrs, "value") !== 1) return undefined;
  const spec = specOf(node);
  const inner = made.inputs[0] as Value;
  const padded = inner.type.shape.flatMap((n, k) => (n === l.type.shape[k] ? [] : [k]));
  const [axis, ...more] = padded as [number, ...number[]];
  const [y, z] = [spec.left[axis] as string, spec.right[axis] as string];
  const features = [...spec.left].filter((label, k) => label !== spec.right[k]);
  if (more.length > 0 || features.length !== 1 || !spec.out.endsWith(y + z) || intsAttr(made.attrs, "low")[axis] !== 0 || intsAttr(made.attrs, "high")[axis] !== 1) return undefined;
  const p = patchesOf(inner, spec, scope.producer);
  if (!p || !choice(p, price)) return undefined;
  const { emit } = scope;
  const main = emit("contract", [inner, inner], { spec: spellSpec(spec) });
  const lead = main.type.shape.slice(0, -2);
  const n = inner.type.shape[axis] as number;
  const summed = [...spec.left].filter((label) => !spec.out.includes(label));
  const counts = summed.map((label) => inner.type.shape[spec.left.indexOf(label)] as number);
  const ones = uniform(scope, { ...inner.type, shape: counts }, 1);
  const border = emit("contract", [inner, ones], { spec: spellSpec({ left: spec.left, right: summed.join(""), out: spec.out.slice(0, -1) }) });
  const corner = uniform(scope, { ...inner.type, shape: [...lead, 1, 1] }, counts.reduce((a, b) => a * b, 1));
  const rows = emit("concat", [main, emit("reshape", [border], { shape: [...lead, n, 1] })], { axis: lead.length + 1 });
  const last = emit("concat", [emit("reshape", [border], { shape: [...lead, 1, n] }), corner], { axis: lead.length + 1 });
  return emit("concat", [rows, last], { axis: lead.length });
};

/** Every second moment for which it pays at these prices. */
export const autocorrelate = (graph: Graph, price: Price): Graph => rewrite(graph, { ...MOVEMENT_RULES, contract: [homogeneous(price), moments(price)] });

export const autocorrelation: Pass = {
  name: "autocorrelation",
  doc: "Second moments of overlapping patches are made of correlations by distance, where that saves work.",
  run: (graph) => autocorrelate(graph, PRICE),
};
