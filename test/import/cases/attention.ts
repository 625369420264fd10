/** Attention and rotary embedding, in every form that the standard has. */
import { caseList } from "../../support/op-case.js";
import { type AttrSpec, BOOL, floats, INT64, type TensorSpec } from "../../support/onnx-model.js";

const { cases, add } = caseList();
export { cases as attentionCases };

const f = (float: number): AttrSpec => ({ float });
const whole = (dims: readonly number[], int64s: readonly number[]): TensorSpec => ({ dims, type: INT64, int64s });
const truth = (dims: readonly number[], int32s: readonly number[]): TensorSpec => ({ dims, type: BOOL, int32s });

/** Two examples, four query heads on two key heads, three queries, five keys; values have other features than keys. */
const [q, k, v] = [[2, 4, 3, 6], [2, 2, 5, 6], [2, 2, 5, 3]];
const [flatQ, flatK, flatV] = [[2, 3, 24], [2, 5, 12], [2, 5, 6]];
const heads = { q_num_heads: 4, kv_num_heads: 2 };

for (const opset of [23, 24]) {
  add("Attention", [opset], [[2, 2, 3, 4], [2, 2, 3, 4], [2, 2, 3, 4]]);
  add("Attention", [opset], [q, k, v]);
  add("Attention", [opset], [flatQ, flatK, flatV], { attrs: heads });
  add("Attention", [opset], [q, k, v], { attrs: { scale: f(0.7), softcap: f(0.5), is_causal: 1 } });
  add("Attention", [opset], [flatQ, flatK, flatV], { attrs: { ...heads, is_causal: 1 } });
  for (const dims of [[3, 5], [4, 3, 5], [2, 1, 3, 5], [2, 4, 3, 5]]) add("Attention", [opset], [q, k, v, dims]);
  // the second query of the first head may look at nothing
  add("Attention", [opset], [q, k, v], { stored: [truth([3, 5], [1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1])], attrs: { softcap: f(2) } });
  add("Attention", [opset], [q, k, v], { stored: [floats([3, 5], [0, Number.NEGATIVE_INFINITY, 0.5, -1, -3e38, 1, 2, 3, 4, 5, Number.NEGATIVE_INFINITY, 0, 0, 0, 0])], attrs: { is_causal: 1 } });
  add("Attention", [opset], [q, k, v], { stored: ["", floats([2, 2, 2, 6], Array.from({ length: 48 }, (_, n) => Math.sin(n))), floats([2, 2, 2, 3], Array.from({ length: 24 }, (_, n) => Math.cos(n)))], attrs: { is_causal: 1 }, results: 3 });
  add("Attention", [opset], [flatQ, flatK, flatV], { stored: ["", floats([2, 2, 2, 6], Array.from({ length: 48 }, (_, n) => Math.sin(n))), floats([2, 2, 2, 3], Array.from({ length: 24 }, (_, n) => Math.cos(n)))], attrs: heads, results: 3 });
  for (const mode of [0, 1, 3]) add("Attention", [opset], [q, k, v, [3, 5]], { attrs: { qk_matmul_output_mode: mode, softcap: f(0.8) }, results: 4 });
  add("Attention", [opset], [q, k, v, [3, 5]], { attrs: { qk_matmul_output_mode: 2, softcap: f(0.8) }, results: 4 });
}
add("Attention", [24], [q, k, v], { stored: ["", "", "", whole([2], [4, 2])] });
add("Attention", [24], [q, k, v], { stored: ["", "", "", whole([2], [4, 2])], attrs: { is_causal: 1 } });

const table = (dims: readonly number[], phase: number): TensorSpec => floats(dims, Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, n) => Math.sin(n + phase)));
const places = whole([2, 3], [0, 4, 2, 6, 1, 0]);
for (const interleaved of [0, 1]) {
  add("RotaryEmbedding", [23], [[2, 2, 3, 8]], { stored: [table([7, 4], 0), table([7, 4], 2), places], attrs: { interleaved } });
  add("RotaryEmbedding", [23], [[2, 3, 16]], { stored: [table([7, 4], 0), table([7, 4], 2), places], attrs: { interleaved, num_heads: 2 } });
  add("RotaryEmbedding", [23], [[2, 2, 3, 8], [2, 3, 4], [2, 3, 4]], { attrs: { interleaved } });
  add("RotaryEmbedding", [23], [[2, 2, 3, 8], [7, 2], [7, 2], [2, 3]], { attrs: { interleaved, rotary_embedding_dim: 4, num_heads: 2 }, inputTypes: { 3: INT64 }, scale: 4 });
}

const contributed = { domain: "com.microsoft" };
const filled = (...dims: number[]): TensorSpec => table(dims, 1);
const mask32 = (dims: readonly number[], int32s: readonly number[]): TensorSpec => ({ dims, type: 6, int32s });
const [query, key, value] = [[2, 3, 8], [2, 5, 8], [2, 5, 6]];
add("MultiHeadAttention", [17], [query, key, value], { ...contributed, attrs: { num_heads: 2 } });
add("MultiHeadAttention", [17], [query, [2, 2, 5, 4], [2, 2, 5, 4]], { ...contributed, attrs: { num_heads: 2 } });
add("MultiHeadAttention", [17], [query, query, query, [24]], { ...contributed, attrs: { num_heads: 2, unidirectional: 1, scale: f(0.3) } });
add("MultiHeadAttention", [17], [query, key, value, [22]], { ...contributed, attrs: { num_heads: 2 }, stored: [mask32([2, 5], [1, 0, 1, 1, 0, 1, 1, 1, 0, 0]), filled(1, 2, 3, 5)] });
add("MultiHeadAttention", [17], [query, key, key], { ...contributed, attrs: { num_heads: 2 }, stored: ["", mask32([2], [3, 5])] });
add("MultiHeadAttention", [17], [query, query, query], { ...contributed, attrs: { num_heads: 2, unidirectional: 1 }, stored: ["", "", "", filled(2, 2, 4, 4), filled(2, 2, 4, 4)], results: 3 });
for (const unidirectional of [0, 1]) {
  add("Attention", [17], [[2, 3, 5], [5, 24], [24]], { ...contributed, attrs: { num_heads: 2, unidirectional } });
  add("Attention", [17], [[2, 3, 5], [5, 22], [22]], { ...contributed, attrs: { num_heads: 2, unidirectional, qkv_hidden_sizes: [8, 8, 6] }, stored: [mask32([2, 3], [1, 1, 0, 1, 1, 1]), "", filled(2, 2, 3, 3)] });
}
add("Attention", [17], [[2, 3, 5], [5, 24], [24]], { ...contributed, attrs: { num_heads: 4, scale: f(0.5) }, stored: [mask32([2, 3, 3], [1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 0, 1, 0])] });
for (const interleaved of [0, 1]) {
  add("RotaryEmbedding", [17], [[2, 3, 16]], { ...contributed, stored: [places, table([7, 4], 0), table([7, 4], 2)], attrs: { interleaved } });
  add("RotaryEmbedding", [17], [[2, 2, 3, 8]], { ...contributed, stored: [whole([1], [2]), table([7, 4], 0), table([7, 4], 2)], attrs: { interleaved } });
  add("RotaryEmbedding", [17], [[2, 3, 16]], { ...contributed, stored: [places, table([7, 2], 0), table([7, 2], 2)], attrs: { interleaved, num_heads: 2, rotary_embedding_dim: 4 } });
}
