/** Shapes, slices and joins beyond the first forms: negative steps, huge bounds, opset by opset. */
import { caseList } from "../../support/op-case.js";
import { floats, INT64, ints, type TensorSpec } from "../../support/onnx-model.js";

const { cases, add } = caseList();
export { cases as shapeCases };

const scalar = (value: number): TensorSpec => ({ dims: [], type: INT64, int64s: [value] });
/** Exporters write 2^63 − 1 for "to the end". */
const END = Number.MAX_SAFE_INTEGER;

add("Reshape", [7, 14, 25], [[2, 4, 3]], { stored: [ints(0, 2, -1)] });
add("Reshape", [14], [[2, 3]], { stored: [ints(3, 2)], attrs: { allowzero: 1 } });
add("Flatten", [7], [[2, 3, 4]], { attrs: { axis: 3 } });
add("Flatten", [13], [[2, 3, 4]], { attrs: { axis: -2 } });
add("Squeeze", [7], [[1, 3, 1, 2]], { attrs: { axes: [0, 2] } });
add("Squeeze", [7, 21], [[1, 3, 1, 2]]);
add("Unsqueeze", [7], [[3, 2]], { attrs: { axes: [0, 3] } });
add("Unsqueeze", [21], [[3, 2]], { stored: [ints(3, 0, -3)] });
add("Transpose", [21], [[2, 3, 1, 4]], { attrs: { perm: [3, 1, 0, 2] } });
add("Expand", [8], [[3, 1]], { stored: [ints(2, 1, 4)] });
add("Expand", [13], [[1]], { stored: [ints(1, 1)] });
add("Tile", [7, 13], [[2, 3, 1]], { stored: [ints(2, 1, 3)] });
add("Tile", [13], [[2, 3]], { stored: [ints(1, 1)] });
add("DepthToSpace", [7], [[1, 8, 2, 3]], { attrs: { blocksize: 2 } });
add("SpaceToDepth", [7], [[1, 2, 4, 6]], { attrs: { blocksize: 2 } });
add("Concat", [7], [[2, 3], [4, 3]], { attrs: { axis: 0 } });
add("Concat", [13], [[2, 2, 3], [2, 1, 3]], { attrs: { axis: 1 }, stored: [{ dims: [2, 0, 3], floats: [] }] });
add("Split", [7], [[5, 2]], { attrs: { split: [2, 3] }, results: 2 });
add("Split", [7, 13], [[6, 2]], { results: 3 });
add("Split", [13, 18], [[2, 5]], { attrs: { axis: -1 }, stored: [ints(0, 5)], results: 2 });
add("Split", [18], [[7]], { attrs: { num_outputs: 4 }, results: 4 });
add("Slice", [7], [[4, 5]], { attrs: { starts: [-3], ends: [END] } });
add("Slice", [10, 13], [[5, 7]], { stored: [ints(-2, END), ints(-END, 1), ints(1, 0), ints(-2, -1)] });
add("Slice", [13], [[5, 7]], { stored: [ints(1), ints(END), ints(-1), ints(3)] });
add("Slice", [13], [[5, 7]], { stored: [ints(4), ints(2), ints(0)], noGradient: "nothing to differentiate" });
for (const upper of [0, 1]) for (const k of [-2, 0, 1, 9]) add("Trilu", [14], [[2, 3, 5]], { stored: [scalar(k)], attrs: { upper } });
add("Trilu", [14], [[4, 3]]);
add("OneHot", [9, 11], [], { stored: [ints(1, -1, 7, -9), scalar(4), floats([2], [0.5, 2])] });
add("OneHot", [11], [[3, 2]], { takes: INT64, scale: 4, stored: [ints(4), floats([2], [0, 1])], attrs: { axis: -2 }, noGradient: "indices have no derivative" });
for (const [shape, target, axes] of [[[5, 4], [3, 7], undefined], [[4, 6], [7, 3], undefined], [[2, 7, 4], [4], [1]], [[2, 6, 4], [5, 9], [-1, 1]]] as const)
  add("CenterCropPad", [18], [shape], { stored: [ints(...target)], ...(axes ? { attrs: { axes: [...axes] } } : {}) });
