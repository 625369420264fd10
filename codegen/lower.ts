/** Groups of operations become kernel specifications: iteration axes, accesses, expressions, stores. */
import { CompileError } from "../ir/error.js";
import type { Graph, Node, Value } from "../ir/graph.js";
import { only, producers } from "../ir/graph.js";
import { intAttr, intsAttr, stringAttr } from "../ir/op.js";
import { parseSpec } from "../ir/ops/reduction.js";
import { addAffine, axisIndex, constantIndex, scaleAffine, shiftAffine } from "./affine.js";
import { fuse, type Fusion, type Group, symmetricLabels } from "./fuse.js";
import type { Access, Affine, Axis, Buffer, ContractSpec, Expr, KernelSpec, Limits, MapSpec, Store } from "./kernel.js";
import type { InverseSpec } from "./kernels/inverse.js";
import { asAccess, bufferFor, flat, NeedsBuffer, SplitAxis, Views } from "./view.js";

export type Spec = KernelSpec | InverseSpec;

/** One unit of work: its values, and the specs that compute them in order (a peeled contraction has several). */
export interface Work {
  readonly group: Group;
  readonly specs: readonly Spec[];
}

export interface LoweredGraph {
  readonly graph: Graph;
  readonly work: readonly Work[];
  /** Where every parameter, input and stored value lives. A value updated in place shares its buffer with the input. */
  readonly buffers: ReadonlyMap<Value, Buffer>;
  /** Results that could not be written in place: copied after the last dispatch. */
  readonly copies: readonly { readonly from: Value; readonly to: Value }[];
}

/**
 * @param inPlace result value → parameter or input whose buffer it overwrites.
 * @throws CompileError "internal" if a view cannot be resolved even from buffers of its own.
 */
export function lowerGraph(graph: Graph, limits: Limits, inPlace: ReadonlyMap<Value, Value> = new Map()): LoweredGraph {
  const forced = new Set<Value>();
  const nested = { ...graph, nodes: nestConcats(graph.nodes) };
  for (;;) {
    try {
      return lowerOnce(nested, limits, inPlace, forced);
    } catch (e) {
      if (!(e instanceof NeedsBuffer)) throw e;
      if (forced.has(e.value)) throw new CompileError("internal", `view of "${e.value.name}" cannot be resolved`);
      forced.add(e.value);
    }
  }
}

/** Inputs of one concat that a kernel reads directly; more become a tree, so that no kernel needs more bindings than there are. */
const CONCAT_WIDTH = 4;

function nestConcats(nodes: readonly Node[]): Node[] {
  return nodes.flatMap((node): Node[] => {
    if (node.op !== "concat" || node.inputs.length <= CONCAT_WIDTH) return [node];
    const axis = intAttr(node.attrs, "axis");
    const made: Node[] = [];
    let level: readonly Value[] = node.inputs;
    while (level.length > CONCAT_WIDTH) {
      const next: Value[] = [];
      for (let k = 0; k < level.length; k += CONCAT_WIDTH) {
        const part = level.slice(k, k + CONCAT_WIDTH);
        if (part.length === 1) {
          next.push(part[0] as Value);
          continue;
        }
        const first = (part[0] as Value).type;
        const extent = part.reduce((n, v) => n + (v.type.shape[axis] as number), 0);
        const value: Value = { name: `${only(node).name}.part${made.length}`, type: { ...first, shape: first.shape.map((n, a) => (a === axis ? extent : n)) } };
        made.push({ ...node, inputs: part, results: [value] });
        next.push(value);
      }
      level = next;
    }
    return [...made, { ...node, inputs: level }];
  });
}

function lowerOnce(graph: Graph, limits: Limits, inPlace: ReadonlyMap<Value, Value>, forced: ReadonlySet<Value>): LoweredGraph {
  const fusion = fuse(graph, limits, forced);
  const producer = producers(graph);
  for (const group of fusion.groups) requireBindings(group, producer, fusion, limits);
  const buffers = new Map<Value, Buffer>();
  for (const { value } of [...graph.params, ...graph.inputs])
    if (!value.name.startsWith("run.")) buffers.set(value, bufferFor(value, value.name));
  const { groups, direct } = placeUpdates(fusion, producer, inPlace, new Set(graph.results.map((r) => r.value)));
  const copies: { from: Value; to: Value }[] = [];
  for (const group of groups)
    for (const v of group.stored) {
      const target = inPlace.get(v);
      if (target && direct.has(v)) buffers.set(v, buffers.get(target) as Buffer);
      else {
        buffers.set(v, bufferFor(v, v.name));
        if (target) copies.push({ from: v, to: target });
      }
    }
  // a result that is itself an input or parameter (nothing computed) is copied too
  for (const [from, to] of inPlace) if (!fusion.groupOf.has(from) && from !== to) copies.push({ from, to });
  const work = groups.map((group) => ({ group, specs: lowerGroup({ group, producer, buffers }) }));
  return { graph, work, buffers, copies };
}

/** What is read inside a group reaches it through this many buffers at most; the widest part that fits becomes one of its own. */
function requireBindings(group: Group, producer: ReadonlyMap<Value, Node>, fusion: Fusion, limits: Limits): void {
  const own = new Set<Value>([...group.root.results, ...group.nodes.map(only)]);
  const leaves = new Map<Value, ReadonlySet<Value>>();
  const leavesOf = (v: Value): ReadonlySet<Value> => {
    const known = leaves.get(v);
    if (known) return known;
    const node = producer.get(v);
    const stored = !node || fusion.groupOf.has(v);
    const set = stored && !own.has(v) ? new Set(v.name.startsWith("run.") ? [] : [v]) : new Set((node?.inputs ?? []).flatMap((x) => [...leavesOf(x)]));
    leaves.set(v, set);
    return set;
  };
  const all = new Set([...own].flatMap((v) => [...leavesOf(v)]));
  if (all.size + group.stored.length + 1 <= limits.storageBuffers) return;
  const parts = [...leaves].filter(([v, set]) => !own.has(v) && set.size > 1 && set.size + 2 <= limits.storageBuffers);
  const widest = parts.sort((a, b) => b[1].size - a[1].size)[0];
  // contractions and reductions bring few operands of their own: with nothing to part off, the device's real limit decides
  if (widest) throw new NeedsBuffer(widest[0]);
}

/**
 * Orders groups so that whoever reads an input runs before the group that overwrites it, and says which results may be
 * written in place: only those whose own kernel reads the old value at the same element, and whose old value is no result itself.
 */
function placeUpdates(fusion: Fusion, producer: ReadonlyMap<Value, Node>, inPlace: ReadonlyMap<Value, Value>, results: ReadonlySet<Value>) {
  const reads = (group: Group): Set<Value> => {
    const own = new Set<Value>([...group.root.results, ...group.nodes.map(only)]);
    const found = new Set<Value>();
    const visit = (v: Value): void => {
      if (own.has(v) || found.has(v)) return;
      const node = producer.get(v);
      if (!node || fusion.groupOf.has(v)) found.add(v);
      else node.inputs.forEach(visit);
    };
    for (const n of [group.root, ...group.nodes]) n.inputs.forEach(visit);
    return found;
  };
  const readsOf = new Map(fusion.groups.map((g) => [g, reads(g)] as const));
  const direct = new Set<Value>();
  const before = new Map<Group, Set<Group>>(fusion.groups.map((g) => [g, new Set([...(readsOf.get(g) as Set<Value>)].flatMap((v) => {
    const from = fusion.groupOf.get(v);
    return from && from !== g ? [from] : [];
  }))]));
  const reaches = (from: Group, to: Group, seen = new Set<Group>()): boolean =>
    from === to || [...(before.get(from) as Set<Group>)].some((g) => !seen.has(g) && seen.add(g) && reaches(g, to, seen));
  for (const [result, target] of inPlace) {
    const writer = fusion.groupOf.get(result);
    if (!writer?.stored.includes(result) || results.has(target) || !sameElement(writer, target, producer, fusion)) continue;
    const readers = fusion.groups.filter((g) => g !== writer && readsOf.get(g)?.has(target));
    if (readers.some((g) => reaches(g, writer))) continue;
    for (const g of readers) (before.get(writer) as Set<Group>).add(g);
    direct.add(result);
  }
  const groups: Group[] = [];
  const done = new Set<Group>();
  const visit = (g: Group): void => {
    if (done.has(g)) return;
    done.add(g);
    for (const b of before.get(g) as Set<Group>) visit(b);
    groups.push(g);
  };
  fusion.groups.forEach(visit);
  return { groups, direct };
}

/** The kernel reads `target` only elementwise, never through a view, and never as a contraction's or reduction's operand. */
function sameElement(group: Group, target: Value, producer: ReadonlyMap<Value, Node>, fusion: Fusion): boolean {
  const own = new Set<Value>([...group.root.results, ...group.nodes.map(only)]);
  const fusedRoot = !isElementwise(group.root);
  const clean = (v: Value, moved: boolean, seen: Map<Value, boolean>): boolean => {
    if (v === target) return !moved;
    if (own.has(v) && !moved) return true;
    const node = producer.get(v);
    if (!node || fusion.groupOf.has(v)) return true;
    if (seen.get(v) === moved) return true;
    seen.set(v, moved);
    return node.inputs.every((x) => clean(x, moved || !isElementwise(node), seen));
  };
  return [group.root, ...group.nodes].every((n) => n.inputs.every((v) => clean(v, n === group.root && fusedRoot, new Map())));
}

const MAPPED = new Set(["reshape", "permute", "broadcast", "pad", "slice", "window", "concat", "fold", "contract", "reduce_sum", "reduce_max", "reduce_argmax", "inverse"]);
const isElementwise = (node: Node): boolean => !MAPPED.has(node.op);

interface GroupContext {
  readonly group: Group;
  readonly producer: ReadonlyMap<Value, Node>;
  readonly buffers: ReadonlyMap<Value, Buffer>;
}

/** Retries with axes split where a view asks for it. `axesOf` gives fresh factors for a dimension under the splits so far. */
function withSplits<T>(make: (dim: (name: string, size: number) => { axes: Axis[]; index: Affine }) => T): T {
  const cuts = new Map<string, number[]>();
  for (let tries = 0; tries < 64; tries++) {
    const made = new Map<Axis, { name: string; place: number }>();
    const dim = (name: string, size: number) => {
      const axes: Axis[] = [];
      let index = constantIndex(0);
      let unit = size;
      (cuts.get(name) ?? [size]).forEach((n, place) => {
        unit /= n;
        const axis = { name: (cuts.get(name)?.length ?? 1) > 1 ? `${name}_${place}` : name, size: n };
        axes.push(axis);
        made.set(axis, { name, place });
        index = addAffine(index, scaleAffine(axisIndex(axis), unit));
      });
      return { axes: axes.filter((a) => a.size > 1), index };
    };
    try {
      return make(dim);
    } catch (e) {
      if (!(e instanceof SplitAxis)) throw e;
      const where = made.get(e.axis);
      if (!where) throw e;
      const list = cuts.get(where.name) ?? [e.axis.size];
      list.splice(where.place, 1, e.axis.size / e.inner, e.inner);
      cuts.set(where.name, list);
    }
  }
  throw new CompileError("internal", "axis splits do not settle");
}

function lowerGroup(context: GroupContext): readonly Spec[] {
  const { root } = context.group;
  switch (root.op) {
    case "inverse": return [lowerInverseSpec(context)];
    case "contract": return lowerContraction(context);
    case "reduce_sum": case "reduce_max": case "reduce_argmax": return [lowerReduction(context)];
    case "fold": return [lowerFold(context)];
    default: return [lowerMap(context)];
  }
}

const label = (context: GroupContext): string => {
  const { root, nodes, stored } = context.group;
  const ops = [root, ...nodes].map((n) => n.op);
  const shown = ops.length > 6 ? [...ops.slice(0, 5), "…", ops[ops.length - 1]] : ops;
  return `${shown.join(" → ")} [${(stored[0] as Value).type.shape.join(", ")}]`;
};

/** Values of this kernel are computed in place; all others are read from their buffers. */
function viewsOf({ group, producer, buffers }: GroupContext, acc: Value | undefined, accExpr?: Expr, taps?: ReadonlyMap<Node, Affine>): Views {
  const own = new Set<Value>([...group.root.results, ...group.nodes.map(only)]);
  return new Views({ producer, acc, buffer: (v) => (own.has(v) ? undefined : buffers.get(v)), ...(accExpr ? { accExpr } : {}), ...(taps ? { taps } : {}) });
}

const storesOf = (context: GroupContext, views: Views, coords: readonly Affine[]): Store[] =>
  context.group.stored.map((v) => ({ buffer: context.buffers.get(v) as Buffer, address: flat(v.type.shape, coords), value: views.at(v, coords) }));

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
const COMBINE = { reduce_sum: "sum", reduce_max: "max", reduce_argmax: "argmax" } as const;

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

/** A stretch of an output label: the main part, or the border that a padding of ones (or another constant) adds. */
interface Piece {
  readonly start: number;
  readonly size: number;
  readonly border: "left" | "right" | undefined;
}

/**
 * A contraction, peeled where an operand is padded with ones (the homogeneous coordinate): the padded label's border is a
 * contraction of its own with "one" as that operand, stored into the same buffer.
 */
function lowerContraction(context: GroupContext): readonly Spec[] {
  const { root } = context.group;
  const spec = parseSpec(stringAttr(root.attrs, "spec"));
  const operands = root.inputs.map((v, k) => peel(v, k === 0 ? spec.left : spec.right, spec.out, context));
  const [l, r] = operands as [Peeled, Peeled];
  const symmetric = symmetricLabels(root);
  const specs: Spec[] = [];
  const leftPieces = pieces(l, "left");
  const rightPieces = pieces(r, "right");
  leftPieces.forEach((lp, i) => {
    rightPieces.forEach((rp, j) => {
      if (symmetric && j < i) return; // the mirror image of (j, i), stored with it
      specs.push(withSplits((dim) => contractionPiece(context, spec, [l, r], [lp, rp], symmetric && i !== j ? "mirror" : symmetric && lp.border === undefined ? "triangle" : "plain", symmetric ?? [], dim)));
    });
  });
  return specs;
}

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
  form: "plain" | "triangle" | "mirror", pairs: readonly (readonly [string, string])[], dim: (name: string, size: number) => { axes: Axis[]; index: Affine },
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
  const dims = new Map(names.map((name) => [name, dim(name, sizeOf(name))] as const));
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
    // nothing but ones: the sum is a number known now
    const total = summed.reduce((n, name) => n * sizeOf(name), 1);
    const known = viewsOf(context, out, { kind: "const", dtype: "f32", value: total });
    return { kind: "map", label: label(context), axes: [...spec.out].flatMap((name) => (dims.get(name) as { axes: Axis[] }).axes), stores: storesOf(context, known, coords) };
  }
  const stores = storesOf(context, views, coords);
  if (form === "mirror") {
    const partner = new Map(pairs.flatMap(([a, b]) => [[a, b], [b, a]] as const));
    stores.push(...storesOf(context, views, coordsFor((name) => partner.get(name) ?? name)));
  }
  return {
    kind: "contract", label: label(context), left, right, stores,
    output: [...spec.out].flatMap((name) => (dims.get(name) as { axes: Axis[] }).axes),
    reduction: summed.flatMap((name) => (dims.get(name) as { axes: Axis[] }).axes),
    ...(form === "triangle" ? triangle(pairs, dims) : {}),
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

function lowerInverseSpec({ group, buffers, producer }: GroupContext): InverseSpec {
  const { root } = group;
  const [m, damping] = root.inputs as [Value, Value];
  const [inverse, clean] = root.results as [Value, Value];
  const [batch, n] = m.type.shape as [number, number];
  const of = (v: Value): Buffer => {
    const buffer = buffers.get(v);
    if (buffer) return buffer;
    const node = producer.get(v);
    if (node?.op === "reshape") return of(node.inputs[0] as Value);
    throw new NeedsBuffer(v);
  };
  return { kind: "inverse", label: `inverse [${batch}, ${n}, ${n}]`, n, batch, matrix: of(m), damping: of(damping), inverse: of(inverse), status: of(clean) };
}
