/** Small models, one for each kind of layer and way of using it. */
import { type Builder, broadcast } from "../../ir/builder.js";
import type { Value } from "../../ir/graph.js";
import { f32 } from "../../ir/type.js";
import type { CompileOptions } from "../../src/compile.js";
import { custom, type Forward } from "../support/models.js";
import { net } from "./support.js";

const full = (b: Builder, v: Value, shape: readonly number[], axes: readonly number[]) => broadcast(b.emit, v, shape, axes);

/** x i32 [n, T] → rows of E [V, D] → tanh → the same E as projection to [n, T, V], with a bias. */
export const V = 5;
export const tied = (T: number, D: number): Forward => custom("tied", 5, (b, n) => {
  const x = b.input("x", { dtype: "i32", shape: [n, T] }, 0);
  const E = b.param("E", f32(V, D));
  const hot = b.emit("cast", [b.emit("eq", [full(b, x, [n, T, V], [0, 1]), b.emit("iota", [], { shape: [n, T, V], axis: 2 })])], { dtype: "f32" });
  const h = b.emit("tanh", [b.emit("contract", [hot, E], { spec: "ntv,vd->ntd" })]);
  return b.emit("contract", [h, E], { spec: "ntd,vd->ntv" });
});

/** A fused projection of three parts with a sliced bias, and products of the parts. */
export const fused: Forward = custom("fused", 6, (b, n) => {
  const x = b.input("x", f32(n, 3, 4), 0);
  const [W, c] = [b.param("W", f32(12, 4)), b.param("c", f32(12))];
  const part = (start: number) => {
    const w = b.emit("slice", [W], { start: [start, 0], size: [4, 4], stride: [1, 1] });
    const y = b.emit("contract", [x, w], { spec: "nti,oi->nto" });
    return b.emit("add", [y, full(b, b.emit("slice", [c], { start: [start], size: [4], stride: [1] }), [n, 3, 4], [2])]);
  };
  const [q, k, v] = [part(0), part(4), part(8)];
  return b.emit("contract", [b.emit("tanh", [b.emit("contract", [q, k], { spec: "nti,nsi->nts" })]), v], { spec: "nts,nsi->nti" });
});

/** One weight twice, its bias at the first use only. */
export const repeated: Forward = custom("repeated", 7, (b, n) => {
  const [w, c] = [b.param("w", f32(4, 4)), b.param("c", f32(4))];
  const h = b.emit("tanh", [b.emit("add", [b.emit("contract", [b.input("x", f32(n, 4), 0), w], { spec: "ni,oi->no" }), full(b, c, [n, 4], [1])])]);
  return b.emit("contract", [h, w], { spec: "ni,oi->no" });
});

/** Outputs are two axes that change places before a bias of its own order is added. */
const turned: Forward = custom("turned", 8, (b, n) => {
  const y = b.emit("contract", [b.input("x", f32(n, 4), 0), b.param("w", f32(2, 3, 4))], { spec: "ni,hdi->nhd" });
  const z = b.emit("permute", [y], { perm: [0, 2, 1] });
  return b.emit("tanh", [b.emit("add", [z, full(b, b.param("c", f32(3, 2)), [n, 3, 2], [1, 2])])]);
});

/** A sequence with time in front, then examples, as recurrent nets have it; its outputs are summed. */
export const timeFirst: Forward = custom("time", 9, (b, n) => {
  const x = b.emit("permute", [b.input("x", f32(n, 3, 4), 0)], { perm: [1, 0, 2] });
  const y = b.emit("contract", [x, b.param("w", f32(2, 4))], { spec: "tni,oi->tno" });
  const z = b.emit("add", [y, full(b, b.param("c", f32(2)), [3, n, 2], [2])]);
  return b.emit("tanh", [b.emit("reduce_sum", [z], { axes: [0] })]);
});

export type Kind = readonly [name: string, forward: Forward, more: Partial<CompileOptions>];
export const KINDS: readonly Kind[] = [
  ["grouped convolution", net((m) => m.dense(m.flatten(m.tanh(m.conv2d(m.input("x", [4, 5, 5]), 6, 3, { groups: 2, stride: 2, pad: 1 }))), 3)), {}],
  ["transposed convolution", net((m) => m.tanh(m.convTranspose2d(m.input("x", [4, 3, 3]), 2, 3, { groups: 2, stride: 2 }))), {}],
  ["reduced sequence", net((m) => m.tanh(m.mean(m.dense(m.input("x", [5, 4]), 3), 0))), {}],
  ["reduced grouped convolution", net((m) => m.tanh(m.globalAvgPool(m.conv2d(m.input("x", [4, 4, 4]), 4, 3, { groups: 2 })))), {}],
  ["diagonal sides", net((m) => m.dense(m.flatten(m.tanh(m.conv2d(m.input("x", [4, 4, 4]), 4, 3, { groups: 2 }))), 3)), { maxFactor: 1 }],
  ["diagonal sides, reduced", net((m) => m.tanh(m.mean(m.dense(m.input("x", [5, 4]), 3), 0))), { maxFactor: 1 }],
  ["embedding and scales of a layer norm", net((m) => m.tanh(m.layerNorm(m.embedding(m.input("x", [3], { dtype: "i32" }), V, 4)))), {}],
  ["scales of a frozen batch norm", net((m) => m.tanh(m.batchNorm(m.conv2d(m.input("x", [2, 4, 4]), 3, 3), { frozen: true }))), {}],
  ["a gain of one number", net((m) => m.tanh(m.mul(m.dense(m.input("x", [3, 4]), 3), m.param("g", [])))), {}],
  ["tied embedding", tied(3, 4), {}],
  ["fused projection", fused, {}],
  ["one weight twice", repeated, {}],
  ["reduced, time in front", timeFirst, {}],
  ["bias in another order", turned, {}],
];
