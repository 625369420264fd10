/** The first ops of the importer, at the opsets at which their form changed. */
import { caseList } from "../../support/op-case.js";
import { type AttrSpec, BOOL, floats, INT64, ints, type TensorSpec } from "../../support/onnx-model.js";

const { cases, add } = caseList();
export { cases as basicCases };

const f = (float: number): AttrSpec => ({ float });
const bool = (...values: number[]): TensorSpec => ({ dims: [values.length], type: BOOL, int32s: values });
const one = (value: number): TensorSpec => ({ dims: [], floats: [value] });

for (const op of ["Add", "Sub", "Mul", "Div"]) {
  add(op, [7, 14], [[2, 3, 4], [3, 1]], { shift: 1.5 });
  add(op, [13], [[2, 1, 4], [2, 3, 4]], { shift: 1.5 });
}
for (const [op, scale, shift] of [["Neg", 1, 0], ["Abs", 1, 0], ["Sign", 1, 0], ["Exp", 1, 0], ["Erf", 2, 0], ["Sin", 3, 0], ["Cos", 3, 0], ["Floor", 4, 0], ["Ceil", 4, 0],
  ["Round", 4, 0], ["Sqrt", 1, 1.5], ["Log", 1, 1.5], ["Reciprocal", 1, 1.5], ["Relu", 2, 0], ["Tanh", 3, 0], ["Sigmoid", 4, 0], ["Softplus", 4, 0], ["Softsign", 4, 0],
  ["Elu", 3, 0], ["Selu", 3, 0], ["Celu", 3, 0], ["LeakyRelu", 3, 0], ["ThresholdedRelu", 3, 0], ["HardSigmoid", 4, 0], ["HardSwish", 4, 0], ["Shrink", 2, 0], ["Mish", 3, 0]] as const)
  add(op, [op === "Mish" ? 18 : op === "HardSwish" ? 14 : op === "Round" ? 11 : 13], [[3, 5]], { scale, shift });
add("LeakyRelu", [7], [[3, 5]], { attrs: { alpha: f(0.3) } });
add("Elu", [7], [[3, 5]], { attrs: { alpha: f(0.7) } });
add("Celu", [13], [[3, 5]], { attrs: { alpha: f(2) }, scale: 3 });
add("HardSigmoid", [7], [[3, 5]], { attrs: { alpha: f(0.3), beta: f(0.4) }, scale: 4 });
add("PRelu", [7, 16], [[2, 3, 4]], { stored: [floats([3, 1], [0.1, 0.2, -0.3])] });
add("Gelu", [20], [[3, 5]], { scale: 3 });
add("Gelu", [20], [[3, 5]], { scale: 3, attrs: { approximate: "tanh" } });
add("Gelu", [17], [[3, 5]], { scale: 3, domain: "com.microsoft" });
add("Swish", [24], [[3, 5]], { scale: 3, attrs: { alpha: f(1.5) } });
for (const exponent of [2, 3, 0.5, -1, -0.5, 1, 1.7]) add("Pow", [7, 13], [[2, 3]], { stored: [one(exponent)], shift: 1.5 });
add("Pow", [13], [[2, 3], [3]], { shift: 1.5 });
add("Clip", [7], [[3, 4]], { attrs: { min: f(-0.5), max: f(0.25) } });
add("Clip", [11, 13], [[3, 4]], { stored: [one(-0.5), one(0.25)] });
add("Clip", [13], [[3, 4]], { stored: ["", one(0.25)] });
for (const op of ["Min", "Max", "Sum", "Mean"]) add(op, [8, 13], [[2, 3], [3], [2, 1]]);
add("Mod", [13], [[3, 4], [4]], { attrs: { fmod: 1 }, scale: 5, shift: 7 });
for (const op of ["Less", "Greater"]) add(op, [9, 13], [[2, 3], [3]], { gives: BOOL });
add("Equal", [11, 13], [], { stored: [floats([2, 2], [1, 2, 3, 4]), floats([2], [1, 4])], gives: BOOL });
for (const op of ["LessOrEqual", "GreaterOrEqual"]) add(op, [16], [[2, 3], [3]], { gives: BOOL });

for (const rank of [2, 3, 4]) for (const op of ["Softmax", "LogSoftmax"]) add(op, [11, 13], [[2, 3, 4, 2].slice(0, rank)], { scale: 3 });
add("Softmax", [11, 13], [[2, 3, 4]], { attrs: { axis: 2 } });
add("Softmax", [13], [[2, 3, 4]], { attrs: { axis: -2 } });

for (const op of ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"]) {
  const byInput = op === "ReduceSum" ? 13 : 18;
  add(op, [11], [[2, 3, 4]], { attrs: { axes: [1, -1], keepdims: 0 }, shift: 1.5 });
  add(op, [11], [[2, 3, 4]], { shift: 1.5 });
  add(op, [byInput], [[2, 3, 4]], { stored: [ints(-2)], shift: 1.5 });
  add(op, [18], [[2, 3, 4]], { attrs: { noop_with_empty_axes: 1 }, shift: 1.5 });
}
for (const op of ["ArgMax", "ArgMin"]) add(op, [11, 13], [[2, 3, 4]], { attrs: { axis: 1, keepdims: 0 }, gives: INT64 });

for (const [transA, transB] of [[0, 0], [1, 0], [0, 1], [1, 1]] as const)
  add("Gemm", [7, 13], [transA ? [4, 3] : [3, 4], transB ? [5, 4] : [4, 5]], { attrs: { transA, transB }, stored: [floats([5], [1, 2, 3, 4, 5])] });
for (const dims of [[3, 1], [1, 5], [1], [3, 5], []]) {
  const count = dims.reduce((a, b) => a * b, 1);
  add("Gemm", [11], [[3, 4], [4, 5]], { attrs: { alpha: f(0.5), beta: f(-2) }, stored: [floats(dims, Array.from({ length: count }, (_, k) => k - 2))] });
}
add("Gemm", [11], [[3, 4], [4, 5]]);
for (const [a, b] of [[[3, 4], [4, 5]], [[2, 3, 4], [4, 5]], [[2, 3, 4], [2, 4, 5]], [[2, 2, 3, 4], [2, 2, 4, 5]], [[2, 1, 3, 4], [3, 4, 5]], [[1, 3, 4], [2, 4, 5]],
  [[4], [4, 5]], [[3, 4], [4]], [[4], [4]], [[2, 3, 4], [4]], [[3, 4], [2, 4, 5]]] as const) add("MatMul", [9, 13], [a, b]);
for (const equation of ["ij,jk->ik", "bij,bjk->bik", "bij,bkj"]) add("Einsum", [13], equation.startsWith("ij") ? [[3, 4], [4, 2]] : equation === "bij,bkj" ? [[2, 3, 4], [2, 5, 4]] : [[2, 3, 4], [2, 4, 5]], { attrs: { equation } });

const per = (n: number, from = 0.5): TensorSpec => floats([n], Array.from({ length: n }, (_, k) => from + k / 4));
for (const shape of [[2, 3], [2, 3, 4], [2, 3, 4, 2]]) add("BatchNormalization", [9, 15], [shape], { stored: [per(3), per(3, -1), per(3, 0.1), per(3, 0.7)], attrs: { epsilon: f(1e-3) } });
add("LayerNormalization", [17], [[2, 3, 4]], { stored: [per(4), per(4, -1)] });
add("LayerNormalization", [17], [[2, 3, 4]], { stored: [floats([3, 4], Array.from({ length: 12 }, (_, k) => k / 3))], attrs: { axis: 1 } });
add("InstanceNormalization", [7, 13], [[2, 3, 5]], { stored: [per(3), per(3, -1)] });
add("GroupNormalization", [21], [[2, 4, 5]], { stored: [per(4), per(4, -1)], attrs: { num_groups: 2 } });
add("RMSNormalization", [23], [[2, 3, 4]], { stored: [per(4)] });
add("LRN", [13], [[2, 5, 3, 3]], { attrs: { size: 3, alpha: f(0.5), beta: f(0.75), bias: f(1.5) } });
add("LpNormalization", [11], [[2, 5]], { attrs: { p: 2, axis: 1 } });

for (const axis of [0, 1, 2, -1]) add("Flatten", [11, 13], [[2, 3, 4]], { attrs: { axis } });
add("Reshape", [7, 13], [[2, 3, 4]], { stored: [ints(0, -1, 2)] });
add("Transpose", [7, 13], [[2, 3, 4]]);
add("Transpose", [13], [[2, 3, 4]], { attrs: { perm: [1, 2, 0] } });
add("Squeeze", [11], [[2, 1, 4, 1]], { attrs: { axes: [1, -1] } });
add("Squeeze", [13], [[2, 1, 4, 1]], { stored: [ints(1, -1)] });
add("Squeeze", [13], [[2, 1, 4, 1]]);
add("Unsqueeze", [11], [[2, 4]], { attrs: { axes: [0, 2] } });
add("Unsqueeze", [13], [[2, 4]], { stored: [ints(1, -1)] });
add("Expand", [8, 13], [[2, 1, 4]], { stored: [ints(3, 1)] });
add("Tile", [13], [[2, 3]], { stored: [ints(1, 2)] });
add("DepthToSpace", [11], [[2, 8, 2, 3]], { attrs: { blocksize: 2, mode: "CRD" } });
add("DepthToSpace", [11], [[2, 8, 2, 3]], { attrs: { blocksize: 2 } });
add("SpaceToDepth", [13], [[2, 2, 4, 6]], { attrs: { blocksize: 2 } });
add("Resize", [13], [[2, 2, 2, 3]], { stored: ["", floats([4], [1, 1, 2, 3])], attrs: { mode: "nearest", coordinate_transformation_mode: "asymmetric", nearest_mode: "floor" } });
add("Upsample", [9], [[2, 2, 2, 3]], { stored: [floats([4], [1, 1, 2, 2])], attrs: { mode: "nearest" } });
add("Concat", [7, 13], [[2, 3], [2, 1], [2, 2]], { attrs: { axis: -1 } });
add("Slice", [9], [[4, 5]], { attrs: { starts: [1, -3], ends: [9, -1], axes: [0, 1] } });
add("Slice", [10, 13], [[4, 5]], { stored: [ints(-1, 0), ints(-9, 5), ints(0, 1), ints(-1, 2)] });
add("Split", [11], [[2, 6]], { attrs: { axis: 1, split: [1, 2, 3] }, results: 3 });
add("Split", [13], [[2, 6]], { attrs: { axis: 1 }, stored: [ints(4, 2)], results: 2 });
add("Split", [18], [[2, 7]], { attrs: { axis: -1, num_outputs: 3 }, results: 3 });
add("Pad", [7], [[2, 3]], { attrs: { pads: [0, 1, 1, 2], value: f(0.5) } });
add("Pad", [11, 13], [[2, 3]], { stored: [ints(0, -1, 1, 2), one(0.5)] });
add("Pad", [18], [[2, 3]], { stored: [ints(1, 2), one(0.5), ints(-1)] });
add("Gather", [7, 13], [[3, 4]], { stored: [{ dims: [], type: INT64, int64s: [-1] }], attrs: { axis: 1 } });
add("Gather", [13], [[3, 4]], { stored: [ints(2, 0, 2)] });
add("Gather", [13], [[3, 6]], { stored: [ints(1, 3, 5)], attrs: { axis: -1 } });
add("Trilu", [14], [[2, 3, 4]], { stored: [{ dims: [], type: INT64, int64s: [1] }], attrs: { upper: 0 } });
add("Where", [9, 16], [], { stored: [bool(1, 0, 1), floats([2, 3], [1, 2, 3, 4, 5, 6]), one(9)] });
for (const op of ["And", "Or", "Xor"]) add(op, [7], [], { stored: [bool(1, 0, 1, 0), bool(1, 1, 0, 0)], gives: BOOL });
add("Not", [7], [], { stored: [bool(1, 0)], gives: BOOL });
add("Identity", [7, 13], [[2, 3]]);
add("Dropout", [7], [[2, 3]]);
add("Dropout", [13], [[2, 3]], { stored: [one(0.5)] });
add("Cast", [9, 13], [[2, 3]], { attrs: { to: INT64 }, scale: 9, gives: INT64 });
add("CastLike", [15], [[2, 3]], { stored: [ints(1)], scale: 9, gives: INT64 });
add("Shape", [7, 13], [[2, 3]], { gives: INT64 });
add("Shape", [15], [[2, 3, 4]], { attrs: { start: -2 }, gives: INT64 });
add("Size", [13], [[2, 3]], { gives: INT64 });
add("ConstantOfShape", [9], [], { stored: [ints(2, 3)], attrs: { value: { tensor: floats([1], [0.5]) } } });
add("Range", [11], [], { stored: [one(1), one(2), one(0.25)] });
add("OneHot", [11], [[2, 3]], { takes: INT64, scale: 4, stored: [ints(4), floats([2], [0.5, 2])], attrs: { axis: 1 } });
add("ReduceProd", [13], [], { stored: [floats([3], [2, 3, 4])], attrs: { keepdims: 0 } });
add("Constant", [12], [], { attrs: { value_floats: { floats: [1, 2] } } });
for (const value of [floats([2, 2], [1, 2, 3, 4]), { dims: [2], floats: [5, 6] }]) add("Constant", [7], [], { attrs: { value: { tensor: value } } });
