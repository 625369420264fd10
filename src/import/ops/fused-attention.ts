/** Attention as onnxruntime's optimiser writes it: projections and biases inside the node, masks of whole numbers. */
import type { Value } from "../../../ir/graph.js";
import type { Context, ImportOp, Result } from "../context.js";
import { after, attend, checkExamples, extent, type Labelled, type Mask, mismatch, ordered, type Sizes, withHeads } from "./attention.js";
import { add, along, broadcast, like, spread } from "./common.js";

/** Columns start … start + count of the last axis. */
function columns(c: Context, x: Value, start: number, count: number): Value {
  const { shape } = x.type;
  const last = shape.length - 1;
  return c.emit("slice", [x], { start: shape.map((_, k) => (k === last ? start : 0)), size: shape.map((n, k) => (k === last ? count : n)), stride: shape.map(() => 1) });
}

/** A number that is added where a mask of whole numbers is 0: [b] counts of keys, [b, t], or [b, s, t]. */
function paddingBias(c: Context, i: number, { b, s, t }: Sizes, shape: readonly number[]): Value {
  const m = c.x(i);
  const dims = m.type.shape;
  if (m.type.dtype !== "i32") throw c.refuse(`a mask of ${m.type.dtype} is not supported`);
  const axes = dims.length === 1 && dims[0] === b ? [0] : dims.join() === [b, t].join() ? [0, 3] : dims.join() === [b, s, t].join() ? [0, 2, 3] : undefined;
  if (!axes) throw c.refuse(`a mask [${dims}] is not supported`, `give one of [${b}], [${b}, ${t}] or [${b}, ${s}, ${t}]`);
  const wide = broadcast(c, m, shape, axes);
  const out = axes.length === 1 ? c.emit("ge", [c.emit("iota", [], { shape: [...shape], axis: 3 }), wide]) : c.emit("eq", [wide, like(c, 0, wide)]);
  const none = broadcast(c, c.scalar(0), shape, []);
  return c.emit("select", [out, broadcast(c, c.scalar(c.float("mask_filter_value", -10000)), shape, []), none]);
}

/** `places`: which inputs the mask and the bias of the scores are; `past`: how many keys come before the block of queries. */
function fused(c: Context, q: Labelled, k: Labelled, v: Labelled, places: { readonly mask: number; readonly bias: number }, past = 0): { y: Value } {
  const maskOf = (sizes: Sizes, shape: readonly number[]): Mask => {
    const terms = [...(c.has(places.bias) ? [spread(c, c.x(places.bias), shape)] : []), ...(c.has(places.mask) ? [paddingBias(c, places.mask, sizes, shape)] : [])];
    const causal = c.int("unidirectional", 0) !== 0;
    if (causal && sizes.t !== past + sizes.s) throw c.refuse(`unidirectional with ${sizes.s} queries and ${sizes.t - past} keys is not supported`);
    const row = (): Value => add(c, c.emit("iota", [], { shape: [...shape], axis: 2 }), c.scalar(past, "i32"));
    return {
      keep: causal ? c.emit("le", [c.emit("iota", [], { shape: [...shape], axis: 3 }), row()]) : undefined,
      bias: terms.length === 0 ? undefined : terms.reduce((a, b) => c.emit("add", [a, b])),
    };
  };
  const scale = c.float("scale", 0) || 1 / Math.sqrt(extent(q, "d"));
  return attend(c, q, k, v, scale, 0, maskOf);
}

function without(c: Context, inputs: readonly number[], what: string): void {
  if (inputs.some((i) => c.has(i))) throw c.refuse(`${what} is not supported`, "export the model without onnxruntime's optimisations");
}

/** Inputs: query, key, value [b, n, heads · size], bias of the three, key mask, bias of scores, past key, past value. */
function multiHead(c: Context): readonly Result[] {
  checkExamples(c, [0, 1, 2, 6, 7]);
  without(c, [8, 9], "a shared cache");
  if (!c.has(1) || !c.has(2) || c.shape(0).length !== 3 || c.shape(1).length > 4) throw c.refuse("packed keys and values are not supported", "export the model without onnxruntime's optimisations");
  let from = 0;
  const [query, key, value] = [0, 1, 2].map((i) => {
    const x = c.x(i);
    if (!c.has(3)) return x;
    const { shape } = x.type;
    if (shape.length !== 3) throw c.refuse(`a bias for input ${i} of [${shape}] is not supported`);
    const part = columns(c, c.x(3), from, shape[2] as number);
    from += shape[2] as number;
    return c.emit("add", [x, along(c, part, shape, 2)]);
  }) as [Value, Value, Value];
  const k = after(c, withHeads(c, key, "num_heads", "t", "d"), 6, "d");
  const v = after(c, withHeads(c, value, "num_heads", "t", "e"), 7, "e");
  const { y } = fused(c, withHeads(c, query, "num_heads", "s", "d"), k, v, { mask: 4, bias: 5 }, c.has(6) ? c.shape(6)[2] : 0);
  return c.wants(1) || c.wants(2) ? [y, ordered(c, k, "bhtd").value, ordered(c, v, "bhte").value] : [y];
}

/** Inputs: x [b, s, c], weight [c, all], bias [all], key mask, past, bias of scores. */
function selfAttention(c: Context): readonly Result[] {
  checkExamples(c, [0]);
  without(c, [4, 6], "a past state");
  if (c.int("do_rotary", 0) !== 0) throw c.refuse("do_rotary is not supported");
  const all = c.emit("contract", [c.x(0), c.x(1)], { spec: "bsc,co->bso" });
  const projected = c.has(2) ? c.emit("add", [all, along(c, c.x(2), all.type.shape, 2)]) : all;
  const width = all.type.shape[2] as number;
  const given = c.intList("qkv_hidden_sizes") ?? [];
  const sizes = given.length === 0 ? [width / 3, width / 3, width / 3] : given;
  if (sizes.length !== 3 || sizes.reduce((a, b) => a + b) !== width || !sizes.every(Number.isInteger)) throw mismatch(c, `${width} features are not queries, keys and values of [${sizes}]`);
  const [hq, hk, hv] = sizes as [number, number, number];
  const q = withHeads(c, columns(c, projected, 0, hq), "num_heads", "s", "d");
  const k = withHeads(c, columns(c, projected, hq, hk), "num_heads", "t", "d");
  const v = withHeads(c, columns(c, projected, hq + hk, hv), "num_heads", "t", "e");
  return [fused(c, q, k, v, { mask: 3, bias: 5 }).y];
}

export const fusedAttentionOps: Readonly<Record<string, ImportOp>> = {
  "com.microsoft.MultiHeadAttention": multiHead,
  "com.microsoft.Attention": selfAttention,
};
