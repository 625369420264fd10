/** Reductions, and where the largest elements are. */
import { caseList } from "../../support/op-case.js";
import { BOOL, floats, INT64, ints, type TensorSpec } from "../../support/onnx-model.js";

const { cases, add } = caseList();
export { cases as reduceCases };

const REAL = ["ReduceL2", "ReduceLogSum", "ReduceLogSumExp"];
const ALL = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceSumSquare", ...REAL];
/** The opsets at which the axes are an attribute, and then an input. */
const forms = (op: string): { readonly attribute: readonly number[]; readonly input: readonly number[] } =>
  op === "ReduceSum" ? { attribute: [7, 11], input: [13] } : { attribute: [7, 11, 13], input: [18] };
const noAxes: TensorSpec = { dims: [0], type: INT64, int64s: [] };

for (const op of ALL) {
  const { attribute, input } = forms(op);
  add(op, attribute, [[2, 3, 4]], { attrs: { axes: [1], keepdims: 0 }, shift: 1.5 });
  add(op, attribute, [[2, 3, 4]], { shift: 1.5 });
  add(op, input, [[2, 3, 4]], { stored: [ints(-1, 0)], attrs: { keepdims: 0 }, shift: 1.5 });
  add(op, input, [[2, 3, 4]], { stored: [noAxes], shift: 1.5 });
  add(op, input, [[2, 3, 4]], { stored: [noAxes], attrs: { keepdims: 0, noop_with_empty_axes: 0 }, shift: 1.5 });
  add(op, input, [[]], { shift: 1.5 });
}
// axes of 1, of an odd length, of one element: products by halves
for (const shape of [[2, 1], [2, 7], [3, 5, 2]]) add("ReduceProd", [13, 18], [shape], { shift: 0.5 });
add("ReduceProd", [13], [], { stored: [floats([3], [2, 3, 4])], attrs: { keepdims: 0 } });
// large exponents, and values that are all far below zero
add("ReduceLogSumExp", [18], [[2, 5]], { stored: [ints(1)], scale: 300 });
const empty = floats([2, 0, 3], []);
for (const op of ["ReduceSum", "ReduceProd", "ReduceSumSquare", "ReduceL1", "ReduceMax"]) add(op, forms(op).input, [], { stored: [empty, ints(0)] });
for (const op of ["ReduceSum", "ReduceProd", "ReduceSumSquare", "ReduceL1", "ReduceL2"]) add(op, forms(op).input, [], { stored: [empty, ints(1)] });
for (const op of ["ReduceMax", "ReduceMin", "ReduceLogSum", "ReduceLogSumExp"]) add(op, [20], [], { stored: [empty, ints(1)], noGradient: "the result is infinite" });
for (const op of ["ReduceMax", "ReduceMin"]) add(op, [20], [[3, 2, 2]], { stored: [ints(-1)], takes: BOOL, gives: BOOL });
for (const op of ["ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceMean"]) add(op, forms(op).input, [[3, 4]], { stored: [ints(-1)], takes: INT64, gives: INT64, scale: 9 });

const tied: TensorSpec = floats([2, 4], [3, 1, 3, 1, 2, 2, 2, 2]);
for (const op of ["ArgMax", "ArgMin"]) {
  for (const keepdims of [0, 1]) add(op, [7, 11, 13], [[2, 3, 4]], { attrs: { axis: 1, keepdims }, gives: INT64 });
  add(op, [11, 13], [[2, 3, 4]], { attrs: { axis: -1 }, gives: INT64 });
  add(op, [13], [[2, 3, 4]], { gives: INT64 });
  for (const select_last_index of [0, 1]) add(op, [12, 13], [], { stored: [tied], attrs: { axis: 1, select_last_index }, gives: INT64 });
  for (const select_last_index of [0, 1]) add(op, [13], [[4, 3]], { attrs: { axis: 0, select_last_index }, takes: INT64, scale: 2, gives: INT64 });
}
for (const axis of [0, 1, 2, -1]) add("Hardmax", [11, 13], [[2, 3, 4]], { attrs: { axis } });
add("Hardmax", [11, 13], [[3, 4]]);
add("Hardmax", [13], [], { stored: [tied], noGradient: "equal elements: a kink" });
