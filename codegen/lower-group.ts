/** One group of operations as kernel specifications. */
import { type Node, only, type Value } from "../ir/graph.js";
import { intAttr, intsAttr } from "../ir/op.js";
import { sameShape } from "../ir/type.js";
import { type GroupContext, label, type Spec, storesOf, viewsOf, withSplits } from "./group-context.js";
import { axisIndex, constantIndex } from "./affine.js";
import { sweepsRows } from "./fuse-rows.js";
import type { Access, Affine, Axis, Buffer, Expr, RowsSpec } from "./kernel.js";
import type { InverseSpec } from "./kernels/inverse-spec.js";
import { type ScatterSpec, sortsPlaces } from "./kernels/scatter-spec.js";
import { lowerContraction } from "./lower-contraction.js";
import { asAccess, flat, NeedsBuffer, scalarType, SplitAxis } from "./view.js";

export function lowerGroup(context: GroupContext): readonly Spec[] {
  const { root } = context.group;
  switch (root.op) {
    case "inverse": return [lowerInverseSpec(context)];
    case "contract": return lowerContraction(context);
    case "reduce_sum": case "reduce_max": case "reduce_argmax": return [sweepsRows(context.group) ? lowerRowSweeps(context) : lowerReduction(context)];
    case "fold": return [lowerFold(context)];
    case "scatter": return [sortsPlaces(root) ? lowerSorted(context) : lowerScatter(context)];
    default: return [lowerMap(context)];
  }
}

function lowerMap(context: GroupContext): Spec {
  const { shape } = only(context.group.root).type;
  return withSplits((dim) => {
    const dims = shape.map((n, k) => dim(`i${k}`, n));
    const views = viewsOf(context, undefined);
    const stores = storesOf(context, views, dims.map((d) => d.index));
    return { kind: "map", label: label(context), axes: dims.flatMap((d) => d.axes), stores };
  });
}

function lowerReduction(context: GroupContext): Spec {
  const { root } = context.group;
  const x = root.inputs[0] as Value;
  const reduced = intsAttr(root.attrs, "axes");
  return withSplits((dim) => {
    const dims = x.type.shape.map((n, k) => dim(`${reduced.includes(k) ? "r" : "i"}${k}`, n));
    const kept = dims.filter((_, k) => !reduced.includes(k));
    const value = viewsOf(context, undefined).at(x, dims.map((d) => d.index));
    const stores = storesOf(context, viewsOf(context, only(root)), kept.map((d) => d.index));
    return {
      kind: "reduce", label: label(context), combine: COMBINE[root.op as keyof typeof COMBINE],
      axes: kept.flatMap((d) => d.axes), reduction: dims.filter((_, k) => reduced.includes(k)).flatMap((d) => d.axes), value, stores,
    };
  });
}
/** Several reductions of the same rows, with values of one element per row or of the rows' own shape. */
function lowerRowSweeps(context: GroupContext): RowsSpec {
  const { root, nodes, stored } = context.group;
  const x = root.inputs[0] as Value;
  const reduced = intsAttr(root.attrs, "axes");
  const reductions = [root, ...nodes].filter((n) => n.op in COMBINE);
  return withSplits((dim) => {
    const dims = x.type.shape.map((n, k) => dim(`${reduced.includes(k) ? "r" : "i"}${k}`, n));
    const all = dims.map((d) => d.index);
    const kept = all.slice(0, all.length - reduced.length);
    const held = new Map(reductions.map((n, fold) => [only(n), { kind: "acc", dtype: scalarType(only(n)), fold } as const] as const));
    const views = viewsOf(context, undefined, undefined, undefined, held);
    const folds = reductions.map((n) => ({ combine: COMBINE[n.op as keyof typeof COMBINE], value: views.at(n.inputs[0] as Value, all) }));
    const store = (v: Value, coords: readonly Affine[]) => ({ buffer: context.buffers.get(v) as Buffer, address: flat(v.type.shape, coords), value: views.at(v, coords) });
    const whole = (v: Value): boolean => sameShape(v.type.shape, x.type.shape);
    return {
      kind: "rows", label: label(context), axes: dims.filter((_, k) => !reduced.includes(k)).flatMap((d) => d.axes), reduction: dims.filter((_, k) => reduced.includes(k)).flatMap((d) => d.axes),
      folds, stores: stored.filter(whole).map((v) => store(v, all)),
      rowStores: stored.filter((v) => !whole(v)).map((v) => store(v, v.type.shape.map((_, k) => kept[k] ?? constantIndex(0)))),
    };
  });
}
const COMBINE = { reduce_sum: "sum", reduce_max: "max", reduce_argmax: "argmax" } as const;

/** The same sum where it pays to sort the places by row first. */
function lowerSorted({ group, buffers, producer }: GroupContext): ScatterSpec {
  const { root } = group;
  const [x, index] = root.inputs as [Value, Value];
  const [b, n, i] = x.type.shape as [number, number, number];
  const [batch, places, width]: Axis[] = [{ name: "b", size: b }, { name: "n", size: n }, { name: "i", size: i }];
  if (!batch || !places || !width) throw new Error("unreachable");
  const views = viewsOf({ group, buffers, producer }, undefined);
  const stored = (v: Value, axes: readonly Axis[]): Access => {
    try {
      const access = asAccess(views.at(v, axes.map(axisIndex)));
      if (access) return access;
    } catch (e) {
      if (!(e instanceof SplitAxis)) throw e;
    }
    throw new NeedsBuffer(v);
  };
  return {
    kind: "scatter", label: `scatter [${b}, ${n}, ${i}] into ${intAttr(root.attrs, "rows")} rows`, batch, places, width, rows: intAttr(root.attrs, "rows"),
    index: stored(index, [batch, places]), value: stored(x, [batch, places, width]), result: buffers.get(only(root)) as Buffer,
  };
}

/** out[b, r, i] = Σ_n x[b, n, i] where index[b, n] = r: every row looks through all indices, in order, so that equal runs are equal. */
function lowerScatter(context: GroupContext): Spec {
  const { root } = context.group;
  const [x, index] = root.inputs as [Value, Value];
  const [batch, n, width] = x.type.shape as [number, number, number];
  return withSplits((dim) => {
    const [b, r, i, k] = [dim("i0", batch), dim("i1", intAttr(root.attrs, "rows")), dim("i2", width), dim("r0", n)];
    const views = viewsOf(context, undefined);
    const here: Expr = { kind: "op", dtype: "bool", op: "eq", args: [views.at(index, [b.index, k.index]), { kind: "index", dtype: "i32", index: r.index }] };
    const value = views.at(x, [b.index, k.index, i.index]);
    const stores = storesOf(context, viewsOf(context, only(root)), [b.index, r.index, i.index]);
    return { kind: "reduce", label: label(context), combine: "sum", axes: [b, r, i].flatMap((d) => d.axes), reduction: k.axes, value, when: here, stores };
  });
}

/**
 * out[h] = Σ_j x[(h·divisor − j·dilation − offset) / stride, j]: a sum over the taps, read through a transposed window. Folds of folds
 * (a two-dimensional window) are one sum over all their taps.
 */
function lowerFold(context: GroupContext): Spec {
  const { root } = context.group;
  const out = only(root);
  const chain: Node[] = [root];
  for (let n = context.producer.get(root.inputs[0] as Value); n?.op === "fold" && !context.buffers.has(only(n)); n = context.producer.get(n.inputs[0] as Value)) chain.push(n);
  return withSplits((dim) => {
    const dims = out.type.shape.map((n, k) => dim(`i${k}`, n));
    const tapDims = chain.map((n, k) => dim(`r${k}`, (n.inputs[0] as Value).type.shape[intAttr(n.attrs, "axis") + 1] as number));
    const taps = new Map(chain.map((n, k) => [n, (tapDims[k] as { index: Affine }).index] as const));
    const views = viewsOf(context, undefined, undefined, taps);
    const value = views.fold(root, dims.map((d) => d.index));
    const stores = storesOf(context, viewsOf(context, out), dims.map((d) => d.index));
    return { kind: "reduce", label: label(context), combine: "sum", axes: dims.flatMap((d) => d.axes), reduction: tapDims.flatMap((d) => d.axes), value, stores };
  });
}

function lowerInverseSpec({ group, buffers, producer }: GroupContext): InverseSpec {
  const { root } = group;
  const of = (v: Value): Buffer => {
    const buffer = buffers.get(v);
    if (buffer) return buffer;
    const node = producer.get(v);
    if (node?.op === "reshape") return of(node.inputs[0] as Value);
    throw new NeedsBuffer(v);
  };
  const batches = Array.from({ length: root.inputs.length / 2 }, (_, k) => {
    const [m, damping, inverse, clean] = [root.inputs[2 * k], root.inputs[2 * k + 1], root.results[2 * k], root.results[2 * k + 1]] as [Value, Value, Value, Value];
    const [batch, n] = m.type.shape as [number, number];
    return { n, batch, matrix: of(m), damping: of(damping), inverse: of(inverse), status: of(clean) };
  });
  return { kind: "inverse", label: `inverse ${batches.map((b) => `[${b.batch}, ${b.n}, ${b.n}]`).join(" ")}`, batches };
}
