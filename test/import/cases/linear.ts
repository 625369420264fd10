/** Products of matrices and tensors: transposes, stacks, repeated labels, chains of operands. */
import { caseList } from "../../support/op-case.js";
import { type AttrSpec, floats, INT64, type TensorSpec } from "../../support/onnx-model.js";

const { cases, add } = caseList();
export { cases as linearCases };

const f = (float: number): AttrSpec => ({ float });
const MICROSOFT = "com.microsoft";
const filled = (...dims: number[]): TensorSpec => floats(dims, Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, k) => (k % 5) - 2));

for (const [transA, transB] of [[0, 0], [1, 0], [0, 1], [1, 1]] as const)
  add("Gemm", [7, 9, 11, 13], [transA ? [4, 3] : [3, 4], transB ? [5, 4] : [4, 5], [1, 5]], { attrs: { transA, transB, alpha: f(0.5), beta: f(2) } });
for (const c of [[], [1], [5], [3, 1], [1, 1], [3, 5]]) add("Gemm", [7, 11], [[3, 4], [4, 5], c], { attrs: { beta: f(0.25) } });
add("Gemm", [13], [[1, 1], [1, 1]]);
add("Gemm", [11], [], { stored: [filled(2, 0), filled(0, 3), filled(3)] });
add("Gemm", [11], [[3, 4], [4, 5]], { stored: [filled(5)], attrs: { beta: f(0) } });

add("MatMul", [9, 13], [[3, 4], [4, 2]], { takes: INT64, gives: INT64, scale: 5 });
add("MatMul", [13], [[2, 1, 3, 4], [1, 5, 4, 2]]);
add("MatMul", [13], [[4], [2, 3, 4, 5]]);
add("MatMul", [13], [[2, 1, 2, 1, 2], [2, 1, 2, 3]]);
add("MatMul", [13], [[1, 1], [1, 1]]);
for (const [a, b] of [[[0, 4], [4, 2]], [[2, 3, 0], [0, 2]], [[0, 2, 3], [3, 2]]] as const) add("MatMul", [13], [], { stored: [filled(...a), filled(...b)] });

const EINSUMS: readonly (readonly [string, readonly (readonly number[])[]])[] = [
  ["i->i", [[3]]], ["ij->ji", [[2, 3]]], ["ij->", [[2, 3]]], ["ij->j", [[2, 3]]], ["ba", [[2, 3]]], ["ii->i", [[3, 3]]], ["ii", [[3, 3]]], ["iij->j", [[3, 3, 2]]],
  ["ijij->ji", [[2, 3, 2, 3]]], ["iii->i", [[2, 2, 2]]], ["bii->b", [[2, 3, 3]]], ["...ii->...i", [[2, 3, 3]]], ["...->...", [[2, 3]]], ["...ij->...ji", [[2, 3, 4]]],
  ["i,i->", [[3], [3]]], ["i,j->ij", [[2], [3]]], ["i,i->i", [[3], [3]]], ["ij,ij->ij", [[2, 3], [2, 3]]], [",->", [[], []]], [",ij->ij", [[], [2, 3]]],
  ["ij,jk", [[2, 3], [3, 2]]], [" b i j , b j k -> b i k ", [[2, 2, 3], [2, 3, 2]]], ["bhwc,hkc->bhwk", [[2, 2, 3, 4], [2, 5, 4]]], ["bqhd,bkhd->bhqk", [[2, 3, 2, 4], [2, 5, 2, 4]]],
  ["...ij,...jk->...ik", [[2, 3, 4], [2, 4, 2]]], ["...ij,jk->...ik", [[2, 2, 3, 4], [4, 2]]], ["i...,i...->...", [[3, 2], [3, 2]]],
  ["Ab,bA->A", [[2, 3], [3, 2]]], ["ij,kl->il", [[2, 3], [4, 2]]], ["ii,ij->j", [[3, 3], [3, 2]]], ["ij,jj->i", [[2, 3], [3, 3]]],
  ["i,ij,j->", [[2], [2, 3], [3]]], ["ij,jk,kl->il", [[2, 3], [3, 4], [4, 2]]], ["ij,jk,kl", [[2, 3], [3, 4], [4, 2]]], ["bi,bi,bi->b", [[2, 3], [2, 3], [2, 3]]],
  ["a,b,c,d->abcd", [[2], [2], [2], [2]]], ["bij,bjk,kl,l->bi", [[2, 2, 3], [2, 3, 2], [2, 4], [4]]], ["ij,ij,jk->ik", [[2, 3], [2, 3], [3, 2]]],
];
for (const [equation, shapes] of EINSUMS) add("Einsum", [12], shapes, { attrs: { equation } });

for (const [transA, transB] of [[1, 0], [0, 1], [1, 1]] as const)
  for (const stack of [[], [2], [2, 3]]) add("FusedMatMul", [17], [[...stack, ...(transA ? [4, 3] : [3, 4])], [...stack, ...(transB ? [5, 4] : [4, 5])]], { domain: MICROSOFT, attrs: { transA, transB, alpha: f(0.5) } });
add("FusedMatMul", [17], [[2, 3, 4], [4, 5]], { domain: MICROSOFT });
add("FusedMatMul", [17], [[3, 2, 4], [2, 4, 5]], { domain: MICROSOFT, attrs: { transBatchA: 1 } });
add("FusedMatMul", [17], [[2, 3, 4], [5, 2, 4]], { domain: MICROSOFT, attrs: { transBatchB: 1, transB: 1 } });
add("TransposeMatMul", [17], [[4, 3], [4, 5]], { domain: MICROSOFT, attrs: { transA: 1 } });
for (const activation of ["Relu", "Tanh", "Sigmoid"]) add("FusedGemm", [17], [[3, 4], [4, 5], [5]], { domain: MICROSOFT, attrs: { activation } });
add("FusedGemm", [17], [[3, 4], [5, 4], [5]], { domain: MICROSOFT, attrs: { activation: "LeakyRelu", activation_alpha: f(0.3), transB: 1, alpha: f(2) } });
