/** Scaled dot-product attention: the opset's own Attention, in which heads and positions are labels of contractions. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import { type Context, type ImportOp, type Result, scaledAxes } from "../context.js";
import { broadcast, like, LOWEST, plus, reshape, restore, spread, sum, times } from "./common.js";

/** An operand with a label for each axis: b batch, h key's heads, g query heads per key's head, s and t positions, d and e features. */
export interface Labelled {
  readonly value: Value;
  readonly labels: string;
}

/** Sizes: query heads = h · g. */
export interface Sizes {
  readonly b: number;
  readonly h: number;
  readonly g: number;
  readonly s: number;
  readonly t: number;
}

export const mismatch = (c: Context, message: string): CompileError => new CompileError("shape-mismatch", `${c.node.op}: ${message}`, c.where);

/** [b, n, heads · size] as [b, n, heads, size]; [b, heads, n, size] as it is. `heads`: the attribute that counts them. */
export function withHeads(c: Context, x: Value, heads: string, position: string, feature: string): Labelled {
  if (x.type.dtype !== "f32") throw c.refuse(`an operand of ${x.type.dtype} is not supported`);
  const { shape } = x.type;
  if (shape.length === 4) return { value: x, labels: `bh${position}${feature}` };
  if (shape.length !== 3) throw mismatch(c, `an operand is [${shape}], not of 3 or 4 axes`);
  const [b, n, hidden] = shape as [number, number, number];
  const count = c.int(heads);
  if (count < 1 || hidden % count !== 0) throw mismatch(c, `${hidden} features are not those of ${count} heads`);
  return { value: reshape(c, x, [b, n, count, hidden / count]), labels: `b${position}h${feature}` };
}

export const extent = ({ value, labels }: Labelled, label: string): number => value.type.shape[labels.indexOf(label)] as number;

/** The same with its axes in another order. */
export function ordered(c: Context, x: Labelled, labels: string): Labelled {
  const perm = [...labels].map((label) => x.labels.indexOf(label));
  return { value: perm.every((from, to) => from === to) ? x.value : c.emit("permute", [x.value], { perm }), labels };
}

/** Keys or values with those of earlier steps before them. */
export function after(c: Context, x: Labelled, past: number, feature: string): Labelled {
  if (!c.has(past)) return x;
  const now = ordered(c, x, `bht${feature}`);
  return { ...now, value: c.emit("concat", [c.x(past), now.value], { axis: 2 }) };
}

/** The query heads as groups, one for each head of the keys. */
function grouped(c: Context, q: Labelled, heads: number): Labelled {
  const all = extent(q, "h");
  if (all % heads !== 0) throw mismatch(c, `${all} query heads are no multiple of ${heads} key heads`);
  const axis = q.labels.indexOf("h");
  const shape = q.value.type.shape.flatMap((n, k) => (k === axis ? [heads, all / heads] : [n]));
  return { value: reshape(c, q.value, shape), labels: q.labels.replace("h", "hg") };
}

/** Which positions take part, and what is added to their scores: [b, h · g, s, t]; undefined: all, nothing. */
export interface Mask {
  readonly keep: Value | undefined;
  readonly bias: Value | undefined;
}

function mask(c: Context, sizes: Sizes, shape: readonly number[]): Mask {
  const given = c.has(3) ? givenMask(c, sizes, shape) : { keep: undefined, bias: undefined };
  const conditions = given.keep ? [given.keep] : [];
  const [row, column] = [2, 3].map((axis) => (): Value => c.emit("iota", [], { shape: [...shape], axis })) as [() => Value, () => Value];
  const counts = c.has(6) ? broadcast(c, c.x(6), shape, [0]) : undefined;
  if (c.int("is_causal", 0) !== 0) {
    // a query sees what is not behind it, counted from the keys that precede the block of queries
    const offset = c.has(4) ? (c.shape(4)[2] as number) : 0;
    const last = counts && !c.has(4) ? plus(c, c.emit("add", [row(), counts]), -sizes.s) : plus(c, row(), offset);
    conditions.push(c.emit("le", [column(), last]));
  }
  if (counts) conditions.push(c.emit("lt", [column(), counts]));
  return { keep: conditions.length === 0 ? undefined : conditions.reduce((a, b) => c.emit("and", [a, b])), bias: given.bias };
}

/** Since opset 24 a mask that is narrower than the keys leaves out the rest. −∞ in a mask of numbers leaves out, too. */
function givenMask(c: Context, sizes: Sizes, shape: readonly number[]): Mask {
  const m = c.x(3);
  const wide = (v: Value): Value => {
    const missing = sizes.t - (v.type.shape.at(-1) ?? 1);
    const last = v.type.shape.length - 1;
    const padded = missing > 0 && last >= 0 && c.opset >= 24
      ? c.emit("pad", [v], { low: v.type.shape.map(() => 0), high: v.type.shape.map((_, k) => (k === last ? missing : 0)), value: 0 }) : v;
    return spread(c, padded, shape);
  };
  if (m.type.dtype === "bool") return { keep: wide(m), bias: undefined };
  if (m.type.dtype !== "f32") throw c.refuse(`a mask of ${m.type.dtype} is not supported`, "give a mask of truth values or numbers");
  const keep = c.emit("not", [c.emit("lt", [m, like(c, LOWEST, m)])]);
  return { keep: wide(keep), bias: wide(m) };
}

/** Softmax over the last axis, of those that take part; a row without any is 0. */
function softmaxOf(c: Context, x: Value, keep: Value | undefined): Value {
  const { shape } = x.type;
  const axes = [shape.length - 1];
  const seen = keep ? c.emit("select", [keep, x, like(c, LOWEST, x)]) : x;
  const top = c.emit("detach", [c.emit("reduce_max", [seen], { axes })]);
  const powers = c.emit("exp", [c.emit("sub", [seen, restore(c, top, shape, axes)])]);
  if (!keep) return c.emit("div", [powers, restore(c, sum(c, powers, axes), shape, axes)]);
  const kept = c.emit("select", [keep, powers, like(c, 0, x)]);
  const total = sum(c, kept, axes);
  const safe = c.emit("select", [c.emit("eq", [total, like(c, 0, total)]), like(c, 1, total), total]);
  return c.emit("div", [kept, restore(c, safe, shape, axes)]);
}

/** While rebinding, the examples must be the leading axis, the only one that attention leaves alone. */
export function checkExamples(c: Context, inputs: readonly number[]): void {
  for (const i of inputs)
    if (c.has(i) && scaledAxes(c.shape(i), c.oldShape(i)).some((axis) => axis !== 0)) throw c.lost(`an axis of input ${i} other than the leading one carries the examples`);
}

/** What a query finds: the result, laid out as the query is, and the scores at each of their stages. */
export interface Attended {
  readonly y: Value;
  readonly sizes: Sizes;
  readonly stages: readonly (() => Value)[];
}

/** softmax(scale · Q·Kᵀ, capped, + bias) · V. `cap` 0: none. */
export function attend(c: Context, query: Labelled, k: Labelled, v: Labelled, scale: number, cap: number, maskOf: (sizes: Sizes, shape: readonly number[]) => Mask): Attended {
  const q = grouped(c, query, extent(k, "h"));
  const sizes: Sizes = { b: extent(q, "b"), h: extent(q, "h"), g: extent(q, "g"), s: extent(q, "s"), t: extent(k, "t") };
  const { b, h, g, s, t } = sizes;
  const [split, joined] = [[b, h, g, s, t], [b, h * g, s, t]];
  const products = reshape(c, c.emit("contract", [q.value, k.value], { spec: `${q.labels},${k.labels}->bhgst` }), joined);
  const scores = times(c, products, scale);
  const capped = cap === 0 ? scores : times(c, c.emit("tanh", [times(c, scores, 1 / cap)]), cap);
  const { keep, bias } = maskOf(sizes, joined);
  const biased = bias ? c.emit("add", [capped, bias]) : capped;
  const weights = softmaxOf(c, biased, keep);
  const y = c.emit("contract", [reshape(c, weights, split), v.value], { spec: `bhgst,${v.labels}->${q.labels.replace("d", "e")}` });
  const masked = (): Value => (keep ? c.emit("select", [keep, biased, like(c, Number.NEGATIVE_INFINITY, biased)]) : biased);
  return {
    y: reshape(c, y, query.labels === "bshd" ? [b, s, h * g * extent(v, "e")] : [b, h * g, s, extent(v, "e")]),
    sizes, stages: [() => scores, () => capped, masked, () => weights],
  };
}

/**
 * Y = softmax(scale · Q·Kᵀ, capped, + mask) · V; present key and value; the scores at one of four stages.
 *
 *   Q [b, h·g, s, d] or [b, s, h·g·d]   K [b, h, t, d] or [b, t, h·d]   V [b, h, t, e] or [b, t, h·e]   Y like Q, with e for d
 */
function attention(c: Context): readonly Result[] {
  checkExamples(c, [0, 1, 2, 4, 5]);
  const query = withHeads(c, c.x(0), "q_num_heads", "s", "d");
  const k = after(c, withHeads(c, c.x(1), "kv_num_heads", "t", "d"), 4, "d");
  const v = after(c, withHeads(c, c.x(2), "kv_num_heads", "t", "e"), 5, "e");
  const { y, stages } = attend(c, query, k, v, c.float("scale", 1 / Math.sqrt(extent(query, "d"))), c.float("softcap", 0), (sizes, shape) => mask(c, sizes, shape));
  if (![1, 2, 3].some((output) => c.wants(output))) return [y];
  const mode = c.int("qk_matmul_output_mode", 0);
  const stage = stages[mode];
  if (!stage) throw c.refuse(`qk_matmul_output_mode ${mode} is not supported`);
  return [y, ordered(c, k, "bhtd").value, ordered(c, v, "bhte").value, ...(c.wants(3) ? [stage()] : [])];
}

export const attentionOps: Readonly<Record<string, ImportOp>> = {
  Attention: attention,
};
