/** Contractions: operands as accesses, symmetric products, and the border that a padding of ones adds. */
import type { Value } from "../ir/graph.js";
import { only } from "../ir/graph.js";
import { intsAttr, stringAttr } from "../ir/op.js";
import { parseSpec } from "../ir/ops/reduction.js";
import { addAffine, constantIndex, scaleAffine, shiftAffine } from "./affine.js";
import { type Stretches, stretchesOf } from "./alongside.js";
import { symmetricLabels } from "./fuse.js";
import type { Group, Parts } from "./group.js";
import { type GroupContext, label, type Spec, storesOf, viewsOf, withSplits } from "./group-context.js";
import type { Access, Affine, Axis, ContractSpec, Expr, MapSpec, Pool, SideSum, Store } from "./kernel.js";
import { asAccess, NeedsBuffer, scalarType } from "./view.js";

/** A stretch of an output label: the main part, or the border that a padding of ones (or another constant) adds. */
interface Piece {
  readonly start: number;
  readonly size: number;
  readonly border: "left" | "right" | undefined;
}

/**
 * A contraction, peeled where an operand is padded with ones (the homogeneous coordinate): a border of one column is a sum of the other
 * operand beside the main product, a wider one a contraction of its own with "one" as that operand; both go into the same buffer.
 */
export function lowerContraction(context: GroupContext): readonly Spec[] {
  const { root } = context.group;
  const spec = parseSpec(stringAttr(root.attrs, "spec"));
  const operands = root.inputs.map((v, k) => peel(v, k === 0 ? spec.left : spec.right, spec.out, context));
  const [l, r] = operands as [Peeled, Peeled];
  const symmetric = symmetricLabels(root);
  const specs: Spec[] = [];
  const rightPieces = pieces(r, "right");
  const borders: (readonly [Piece, Piece])[] = [];
  /** Nothing but borders. */
  const hollow = [l, r].some((p) => p.label !== undefined && p.extent === 0);
  pieces(l, "left").forEach((lp, i) => {
    rightPieces.forEach((rp, j) => {
      if (symmetric && j < i) return; // the mirror image of (j, i), stored with it
      if (isInner(lp) && isInner(rp)) return;
      // one column of ones is a sum of the other operand: the main product's kernel has it at hand
      if (!hollow && alongside(lp) && alongside(rp)) borders.push([lp, rp]);
      else specs.push(withSplits((dim) => contractionPiece(context, spec, [l, r], [lp, rp], symmetric && i !== j ? "mirror" : "plain", symmetric ?? [], [], dim)));
    });
  });
  if (hollow) return specs;
  const inner = [l, r].map((p): Piece => ({ start: p.label === undefined ? 0 : p.low, size: p.label === undefined ? -1 : p.extent, border: undefined })) as [Piece, Piece];
  return [withSplits((dim) => contractionPiece(context, spec, [l, r], inner, symmetric ? "triangle" : "plain", symmetric ?? [], borders, dim)), ...specs];
}

const isInner = (piece: Piece): boolean => piece.border === undefined;
const alongside = (piece: Piece): boolean => isInner(piece) || piece.size === 1;

interface Peeled {
  readonly value: Value;
  readonly labels: string;
  /** Padded label, its low and high border. */
  readonly label: string | undefined;
  readonly low: number;
  readonly high: number;
  readonly extent: number;
}

function peel(value: Value, labels: string, out: string, { producer, buffers }: GroupContext): Peeled {
  const plain: Peeled = { value, labels, label: undefined, low: 0, high: 0, extent: 0 };
  const node = producer.get(value);
  if (node?.op !== "pad" || node.attrs.value === 0 || buffers.has(value)) return plain;
  const [low, high] = [intsAttr(node.attrs, "low"), intsAttr(node.attrs, "high")];
  const axes = low.flatMap((n, k) => (n > 0 || (high[k] as number) > 0 ? [k] : []));
  const axis = axes[0];
  if (axes.length !== 1 || axis === undefined || node.attrs.value !== 1 || !out.includes(labels[axis] as string)) throw new NeedsBuffer(value);
  const inner = node.inputs[0] as Value;
  return { value: inner, labels, label: labels[axis] as string, low: low[axis] as number, high: high[axis] as number, extent: inner.type.shape[axis] as number };
}

function pieces(p: Peeled, side: "left" | "right"): Piece[] {
  if (p.label === undefined) return [{ start: 0, size: -1, border: undefined }];
  const list: Piece[] = [];
  if (p.low > 0) list.push({ start: 0, size: p.low, border: side });
  list.push({ start: p.low, size: p.extent, border: undefined });
  if (p.high > 0) list.push({ start: p.low + p.extent, size: p.high, border: side });
  return list;
}

function contractionPiece(
  context: GroupContext, spec: { left: string; right: string; out: string }, [l, r]: readonly [Peeled, Peeled], [lp, rp]: readonly [Piece, Piece],
  form: "plain" | "triangle" | "mirror", pairs: readonly (readonly [string, string])[], borders: readonly (readonly [Piece, Piece])[], dim: (name: string, size: number) => { axes: Axis[]; index: Affine },
): ContractSpec | MapSpec {
  const { root } = context.group;
  const out = only(root);
  const sizeOf = (name: string): number => {
    if (name === l.label) return lp.size;
    if (name === r.label) return rp.size;
    const [labels, v] = spec.left.includes(name) ? [spec.left, l.value] : [spec.right, r.value];
    return v.type.shape[labels.indexOf(name)] as number;
  };
  const names = [...new Set(spec.left + spec.right)];
  const first = context.group.parts?.maxima[0];
  const cut = first && cutAxes(stretchesOf(first.root, (context.group.parts as Parts).main.stored[0] as Value, context.producer) as Stretches, spec.out, dim);
  const dims = new Map(names.map((name) => [name, cut?.labels.get(name) ?? dim(name, sizeOf(name))] as const));
  const index = (name: string): Affine => (dims.get(name) as { index: Affine }).index;
  const operand = (p: Peeled, piece: Piece): Access | "one" => {
    if (piece.border) return "one";
    const coords = [...p.labels].map(index);
    const views = viewsOf(context, undefined);
    const expr = views.at(p.value, coords);
    if (expr.kind === "const" && expr.value === 1) return "one";
    const access = asAccess(expr);
    if (!access) throw new NeedsBuffer(p.value);
    return access;
  };
  const shift = (name: string): number => (name === l.label ? lp.start : 0) + (name === r.label ? rp.start : 0);
  const coordsFor = (rename: (name: string) => string): Affine[] => [...spec.out].map((name) => shiftAffine(index(rename(name)), shift(rename(name))));
  const views = viewsOf(context, out);
  const left = operand(l, lp);
  const right = operand(r, rp);
  const coords = coordsFor((name) => name);
  const summed = names.filter((name) => !spec.out.includes(name));
  if (left === "one" && right === "one") {
    if (borders.length > 0) throw new NeedsBuffer(root.inputs[r.label === undefined ? 0 : 1] as Value);
    // nothing but ones: the sum is a number known now
    const total = summed.reduce((n, name) => n * sizeOf(name), 1);
    const known = viewsOf(context, out, { kind: "const", dtype: "f32", value: total });
    return { kind: "map", label: label(context), axes: [...spec.out].flatMap((name) => (dims.get(name) as { axes: Axis[] }).axes), stores: storesOf(context, known, coords) };
  }
  const { parts } = context.group;
  const own = (parts?.main ?? context.group).stored;
  const pooled = parts && cut && lowerMaxima(context, parts, cut);
  const stores = pooled?.stores ?? storesOf(context, views, coords, own);
  const partner = new Map(pairs.flatMap(([a, b]) => [[a, b], [b, a]] as const));
  const mirror = (name: string): string => partner.get(name) ?? name;
  if (form === "mirror") stores.push(...storesOf(context, views, coordsFor(mirror), own));
  const sums = borders.map(([lb, rb]): SideSum => {
    const of = isInner(lb) ? left : isInner(rb) ? right : "none";
    if (of === "one") throw new NeedsBuffer(root.inputs[isInner(lb) ? 1 : 0] as Value);
    const total = summed.reduce((n, name) => n * sizeOf(name), 1);
    const seen = viewsOf(context, out, of === "none" ? { kind: "const", dtype: "f32", value: total } : undefined);
    const at = (rename: (name: string) => string): Affine[] => [...spec.out].map((name) => {
      const from = rename(name);
      const border = from === l.label && !isInner(lb) ? lb : from === r.label && !isInner(rb) ? rb : undefined;
      return border ? constantIndex(border.start) : shiftAffine(index(from), shift(from));
    });
    const made = storesOf(context, seen, at((name) => name), own);
    return { of, stores: form === "triangle" && lb.start !== rb.start ? [...made, ...storesOf(context, seen, at(mirror), own)] : made };
  });
  for (const { group, operand } of parts?.sums ?? []) {
    const labels = operand === 0 ? spec.left : spec.right;
    const of = operand === 0 ? left : right;
    const total: Expr = { kind: "const", dtype: "f32", value: summed.reduce((n, name) => n * sizeOf(name), 1) };
    const seen = viewsOf(context, only(group.root), of === "one" ? total : undefined);
    sums.push({ of: of === "one" ? "none" : of, stores: storesOf(context, seen, [...labels].filter((name) => spec.out.includes(name)).map(index), group.stored) });
  }
  return {
    kind: "contract", label: label(context), left, right, stores, ...(sums.length > 0 && { sums }), ...(pooled && { pool: pooled.pool }),
    output: [...spec.out].flatMap((name) => (dims.get(name) as { axes: Axis[] }).axes),
    reduction: summed.flatMap((name) => (dims.get(name) as { axes: Axis[] }).axes),
    ...(form === "triangle" ? triangle(pairs, dims) : {}),
  };
}

type Dim = { axes: Axis[]; index: Affine };

/** Output axes cut as the maximum's input has them: by label, and by axis of that input. */
interface Cut {
  readonly labels: ReadonlyMap<string, Dim>;
  readonly digits: readonly { readonly dim: Dim; readonly reduced: boolean }[];
}

function cutAxes(stretches: Stretches, out: string, dim: (name: string, size: number) => Dim): Cut {
  const labels = new Map<string, Dim>();
  const digits: { dim: Dim; reduced: boolean }[] = [];
  stretches.forEach((parts, k) => {
    const name = out[k] as string;
    let whole: Dim = { axes: [], index: constantIndex(0) };
    parts.forEach((part, q) => {
      const made = dim(`${name}${q}`, part.size);
      whole = { axes: [...whole.axes, ...made.axes], index: addAffine(scaleAffine(whole.index, part.size), made.index) };
      digits[part.axis] = { dim: made, reduced: part.reduced };
    });
    labels.set(name, whole);
  });
  return { labels, digits };
}

/** What is stored of the maxima over stretches of the result, and what they are taken of. */
function lowerMaxima(context: GroupContext, parts: Parts, cut: Cut): { stores: Store[]; pool: Pool } {
  const held = new Map(parts.maxima.map((g) => [only(g.root), { kind: "acc", dtype: scalarType(only(g.root)) }] as const satisfies readonly [Value, Expr]));
  const kept = cut.digits.filter((d) => !d.reduced).map((d) => d.dim.index);
  const stored = viewsOf(context, undefined, undefined, undefined, held);
  const result = viewsOf(context, only(parts.main.root));
  return {
    stores: parts.maxima.flatMap((g) => storesOf(context, stored, kept, g.stored)),
    pool: { axes: cut.digits.flatMap((d) => (d.reduced ? d.dim.axes : [])), value: result.at((parts.maxima[0] as Group).root.inputs[0] as Value, cut.digits.map((d) => d.dim.index)) },
  };
}

/** Axis pairs of a symmetric product, if both sides fell into the same factors. */
function triangle(pairs: readonly (readonly [string, string])[], dims: ReadonlyMap<string, { axes: Axis[] }>): { symmetric?: readonly (readonly [Axis, Axis])[] } {
  const out: (readonly [Axis, Axis])[] = [];
  for (const [a, b] of pairs) {
    const [x, y] = [(dims.get(a) as { axes: Axis[] }).axes, (dims.get(b) as { axes: Axis[] }).axes];
    if (x.length !== y.length || x.some((axis, k) => axis.size !== y[k]?.size)) return {};
    x.forEach((axis, k) => { out.push([axis, y[k] as Axis]); });
  }
  return out.length > 0 ? { symmetric: out } : {};
}
