/**
 * Per-example gradients. A parameter's cotangent is a sum over examples: some node of the backward graph reduces the example axis away
 * (a reduction over it, a contraction that sums its label), and what follows is linear. Here that sum is undone: the summing node is
 * made again with the examples kept as leading axis, and what follows is replayed over that axis.
 *
 *   dense, T = 1   no,ni->oi   becomes   no,ni->noi          bias   Σ over [n, t] of [n, t, o]   becomes   Σ over t: [n, o]
 */
import { type Builder, broadcast, full, permute, reshape, sum } from "./builder.js";
import { CompileError } from "./error.js";
import type { ExampleAxis, Mark } from "./examples.js";
import { type Node, producers, type Value } from "./graph.js";
import { intsAttr, stringAttr } from "./op.js";
import { parseSpec } from "./ops/reduction.js";
import { spellValue } from "./print.js";
import { spellNode } from "./verify.js";
import { vmap } from "./vmap.js";

export interface PerExampleOptions {
  /** Only these examples; default all. */
  readonly range?: { readonly start: number; readonly count: number };
}

/**
 * For each wanted cotangent [..shape] the value [n, ..shape] whose sum over n is it; appended to `b`.
 *
 * Only the last sum on the way is undone. With marks of `exampleMarks(graph, { sharedSums: true })` an example's gradient is thus the
 * part of its own rows, as if sums over the batch (batch normalisation's statistics) were constants.
 *
 * Values that already carry a leading column axis (by `vmap`) stay stacked behind the examples: [n, k, ..shape]. The marks must be
 * those of the stacked graph. Seeds must be marked: a seed made of constants is no sum over examples. (Or stack afterwards: `vmap` over
 * `backward` and the nodes made here gives [k, n, ..shape].)
 *
 * @param backward the nodes between the seeds and the wanted cotangents, in order.
 * @throws CompileError "examples-lost" naming the node where the sum over examples cannot be undone.
 */
export function perExample(b: Builder, backward: readonly Node[], marks: ReadonlyMap<Value, Mark>, wanted: readonly Value[], options: PerExampleOptions = {}): Map<Value, Value> {
  const producer = new Map(backward.flatMap((node) => node.results.map((r) => [r, node] as const)));
  const first = [...marks].find((entry): entry is [Value, ExampleAxis] => carries(entry[1]));
  const n = first ? extentOf(first[0], first[1]) : 0;
  const range = options.range ?? { start: 0, count: n };
  const c: Context = { b, marks, producer, all: producers(b.finish([])), sums: sumsOver(backward, marks), made: new Map(), n, ...range };
  const origin = b.origin;
  const result = new Map(wanted.map((v) => [v, apart(c, v)]));
  b.origin = origin;
  return result;
}

/**
 * Where the gradient of one example is an outer product g aᵀ (a weight used once per example), its square is g² (a²)ᵀ, and the sum of
 * squares over examples is a contraction of squares: nothing of the size [n, ..shape] is made. Returns how to make that sum from
 * the backward graph stacked by `vmap` (over columns too), or undefined if the gradient is no outer product.
 */
export function outerSquare(b: Builder, backward: readonly Node[], marks: ReadonlyMap<Value, Mark>, wanted: Value): ((stacked: ReadonlyMap<Value, Value>) => Value) | undefined {
  const producer = new Map(backward.flatMap((node) => node.results.map((r) => [r, node] as const)));
  const after: Node[] = [];
  let node = producer.get(wanted);
  for (; node && (node.op === "reshape" || node.op === "permute"); node = producer.get(node.inputs[0] as Value)) after.unshift(node);
  if (node?.op !== "contract") return undefined;
  const { left, right, out } = parseSpec(stringAttr(node.attrs, "spec"));
  const sides = node.inputs.map((v, k) => ({ v, labels: k === 0 ? left : right, mark: marks.get(v) }));
  const summed = new Set([...(left + right)].filter((label) => !out.includes(label)));
  // only the examples are summed, and both operands have them as an axis of their own
  const alone = sides.every(({ labels, mark }) => carries(mark) && mark.outer * mark.inner === 1 && summed.has(labels[mark.axis] as string));
  if (!alone || summed.size !== 1) return undefined;
  const column = [..."zyxwvutsrqponmlkjihgfedcba"].find((c) => !(left + right).includes(c)) as string;
  return (stacked) => {
    const squares = sides.map(({ v, labels }) => {
      const s = stacked.get(v) ?? v;
      return { value: b.emit("mul", [s, s]), labels: stacked.has(v) ? column + labels : labels };
    });
    const sum = b.emit("contract", squares.map((s) => s.value), { spec: `${squares.map((s) => s.labels).join()}->${out}` });
    return after.reduce((v, next) => b.emit(next.op, [v], next.attrs), sum);
  };
}

interface Context {
  readonly b: Builder;
  readonly marks: ReadonlyMap<Value, Mark>;
  /** Nodes of the backward graph; nodes of the whole graph. */
  readonly producer: ReadonlyMap<Value, Node>;
  readonly all: ReadonlyMap<Value, Node>;
  /** Values that are computed from a sum over examples. */
  readonly sums: ReadonlySet<Value>;
  readonly made: Map<Value, Value>;
  /** Examples of the batch, and those of them that are wanted. */
  readonly n: number;
  readonly start: number;
  readonly count: number;
}

const carries = (mark: Mark | undefined): mark is ExampleAxis => mark !== undefined && !("lost" in mark);
const markOf = (c: Context, v: Value): ExampleAxis | undefined => {
  const mark = c.marks.get(v);
  return carries(mark) ? mark : undefined;
};
const extentOf = (v: Value, { axis, outer, inner }: ExampleAxis): number => (v.type.shape[axis] as number) / (outer * inner);

function sumsOver(backward: readonly Node[], marks: ReadonlyMap<Value, Mark>): Set<Value> {
  const sums = new Set<Value>();
  for (const node of backward)
    if (node.inputs.some((v) => sums.has(v) || carries(marks.get(v)))) for (const r of node.results) if (!carries(marks.get(r))) sums.add(r);
  return sums;
}

function refuse(v: Value, why: string, node: Node | undefined): CompileError {
  return new CompileError("examples-lost", `the gradient of one example cannot be told from %${v.name}: ${why}`, node && spellNode(node));
}

/** v with its sum over examples undone: [count, ..shape]. */
function apart(c: Context, v: Value): Value {
  const known = c.made.get(v);
  if (known) return known;
  const node = c.producer.get(v);
  if (node) c.b.origin = node.origin;
  // the sum over one example is that example's part, wherever its axis of size 1 may be
  const made = c.n === 1 ? reshape(c.b.emit, v, [1, ...v.type.shape]) : apartBy(c, v, node);
  c.made.set(v, made);
  return made;
}

function apartBy(c: Context, v: Value, node: Node | undefined): Value {
  const mark = markOf(c, v);
  if (mark) return separated(c, v, mark);
  if (!node) throw refuse(v, "it is not computed by the backward graph", undefined);
  const unknown = c.marks.get(v);
  // lost in the model itself, not by the sum that is to be undone
  if (unknown && "lost" in unknown && !unknown.lost.results.some((r) => c.producer.has(r))) throw refuse(v, unknown.why, unknown.lost);
  if (!c.sums.has(v)) throw refuse(v, "it is not a sum over examples", node);
  const summed = node.op === "reduce_sum" ? reduced(c, node) : node.op === "contract" ? contracted(c, node) : node.op === "scatter" ? scattered(c, node) : undefined;
  return summed ?? replayed(c, v, node);
}

/** The value with its example axis as digits outer, n, inner (those of size 1 are left out), and where n is. Only the wanted examples. */
function digits(c: Context, v: Value, mark: ExampleAxis): { readonly value: Value; readonly axis: number; readonly added: number } {
  const { axis, outer, inner } = mark;
  const { shape } = v.type;
  const split = [...(outer > 1 ? [outer] : []), c.n, ...(inner > 1 ? [inner] : [])];
  const value = reshape(c.b.emit, v, [...shape.slice(0, axis), ...split, ...shape.slice(axis + 1)]);
  const at = axis + (outer > 1 ? 1 : 0);
  return { value: cut(c, value, at), axis: at, added: split.length - 1 };
}

function cut(c: Context, v: Value, axis: number): Value {
  if (c.count === c.n) return v;
  const { shape } = v.type;
  return c.b.emit("slice", [v], { start: shape.map((_, k) => (k === axis ? c.start : 0)), size: shape.map((m, k) => (k === axis ? c.count : m)), stride: shape.map(() => 1) });
}

/** A sum over the example axis (and others): over the others. */
function reduced(c: Context, node: Node): Value | undefined {
  const x = node.inputs[0] as Value;
  const mark = markOf(c, x);
  const axes = intsAttr(node.attrs, "axes");
  if (!mark || !axes.includes(mark.axis)) return undefined;
  const { value, axis, added } = digits(c, x, mark);
  const moved = axes.flatMap((a) => (a < mark.axis ? [a] : a > mark.axis ? [a + added] : Array.from({ length: added + 1 }, (_, k) => a + k)));
  const front = permute(c.b.emit, value, [axis, ...value.type.shape.map((_, k) => k).filter((k) => k !== axis)]);
  // examples are in front now: what stood before them has moved up by one
  return sum(c.b.emit, front, moved.filter((a) => a !== axis).map((a) => (a < axis ? a + 1 : a)));
}

/** A contraction that sums the examples' label: it stays, in front of the others. Other digits of a merged axis are still summed. */
function contracted(c: Context, node: Node): Value | undefined {
  const spec = parseSpec(stringAttr(node.attrs, "spec"));
  const [l, r] = node.inputs as [Value, Value];
  const [ml, mr] = [markOf(c, l), markOf(c, r)];
  const [cl, cr] = [ml && spec.left[ml.axis], mr && spec.right[mr.axis]];
  const label = cl ?? cr;
  const mark = ml ?? mr;
  if (label === undefined || !mark || spec.out.includes(label)) return undefined;
  if (ml && mr && (cl !== cr || ml.outer !== mr.outer || ml.inner !== mr.inner)) return undefined;
  for (const [v, marked] of [[l, ml], [r, mr]] as const) if (!marked) requireConstant(c, node, v);
  const free = [..."zyxwvutsrqponmlkjihgfedcbaZYXWVUTSRQPONMLKJIHGFEDCBA"].filter((f) => !(spec.left + spec.right).includes(f));
  const names = [...(mark.outer > 1 ? [free[1]] : []), free[0], ...(mark.inner > 1 ? [free[2]] : [])].join("");
  const side = (v: Value, labels: string): readonly [Value, string] => {
    const axis = labels.indexOf(label);
    return axis < 0 ? [v, labels] : [digits(c, v, { ...mark, axis }).value, labels.replace(label, names)];
  };
  const [[left, ll], [right, rl]] = [side(l, spec.left), side(r, spec.right)];
  return c.b.emit("contract", [left, right], { spec: `${ll},${rl}->${free[0]}${spec.out}` });
}

/** A sum by index over rows of all examples: each example's rows are a table of their own. */
function scattered(c: Context, node: Node): Value | undefined {
  const [x, index] = node.inputs as [Value, Value];
  const mark = markOf(c, x) ?? markOf(c, index);
  if (mark?.axis !== 1) return undefined;
  for (const v of node.inputs) if (!markOf(c, v)) requireConstant(c, node, v);
  const front = (v: Value): Value => {
    const { value, axis } = digits(c, v, mark);
    const moved = permute(c.b.emit, value, [axis, ...value.type.shape.map((_, k) => k).filter((k) => k !== axis)]);
    const [b, ...rest] = v.type.shape as [number, number, ...number[]];
    return reshape(c.b.emit, moved, [c.count * b, (rest[0] as number) / c.n, ...rest.slice(1)]);
  };
  const made = c.b.emit("scatter", [front(x), front(index)], node.attrs);
  return reshape(c.b.emit, made, [c.count, ...(node.results[0] as Value).type.shape]);
}

/** Examples on an axis of their own although the value has one already: element (m, …, n, …) is v's where m = n, else 0. */
function separated(c: Context, v: Value, mark: ExampleAxis): Value {
  const { emit } = c.b;
  const { value, axis } = digits({ ...c, start: 0, count: c.n }, v, mark);
  const shape = [c.n, ...value.type.shape];
  const own = emit("eq", [emit("iota", [], { shape, axis: 0 }), emit("iota", [], { shape, axis: axis + 1 })]);
  const rows = emit("select", [own, broadcast(emit, value, shape, value.type.shape.map((_, k) => k + 1)), full(c.b, { dtype: v.type.dtype, shape }, 0)]);
  return cut(c, reshape(emit, rows, [c.n, ...v.type.shape]), 0);
}

/** A node that is linear in what comes from a sum over examples, once for every example. */
function replayed(c: Context, v: Value, node: Node): Value {
  const moving = node.inputs.map((x) => c.sums.has(x) || markOf(c, x) !== undefined);
  node.inputs.forEach((x, k) => { if (!moving[k]) requireConstant(c, node, x); });
  if (!linear(c, node, moving)) throw refuse(v, `"${node.op}" is not linear in it`, node);
  const stacked = new Map(node.inputs.flatMap((x, k) => (moving[k] ? [[x, apart(c, x)] as const] : [])));
  c.b.origin = node.origin;
  return vmap(c.b.emit, [node], stacked).get(v) as Value;
}

/** @throws CompileError "examples-lost" if v depends on examples in a way that cannot be followed, or is itself a sum over them. */
function requireConstant(c: Context, node: Node, v: Value): void {
  const mark = c.marks.get(v);
  if (mark && "lost" in mark && !c.sums.has(v)) throw refuse(v, mark.why, mark.lost);
  if (c.sums.has(v)) throw new CompileError("examples-lost", `the gradient of one example cannot be told: ${spellValue(v)} is a sum over examples, multiplied by another`, spellNode(node));
}

/** Is the node's result a linear function of the operands that move? */
function linear(c: Context, node: Node, moving: readonly boolean[]): boolean {
  const others = node.inputs.filter((_, k) => !moving[k]);
  const alone = moving.filter(Boolean).length === 1;
  switch (node.op) {
    case "neg": case "reshape": case "permute": case "broadcast": case "slice": case "window": case "fold": case "reduce_sum": return true;
    case "pad": return node.attrs.value === 0;
    case "cast": return node.attrs.dtype === "f32" || node.attrs.dtype === "f16";
    case "add": case "sub": case "concat": return others.every((v) => isZero(c, v));
    case "mul": case "contract": return alone;
    case "gather": case "scatter": case "div": return alone && moving[0] === true;
    case "select": return !moving[0] && node.inputs.slice(1).every((v, k) => moving[k + 1] || isZero(c, v));
    default: return false;
  }
}

function isZero(c: Context, v: Value): boolean {
  const node = c.all.get(v);
  if (!node) return false;
  if (node.op === "constant") return node.attrs.value === 0;
  return ["broadcast", "reshape", "permute", "slice", "neg"].includes(node.op) && isZero(c, node.inputs[0] as Value);
}
