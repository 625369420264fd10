/** Pools beside those of conv.test.ts, their indices, and what undoes them. */
import { type AttrSpec, floats, INT64, ints, type TensorSpec } from "../../support/onnx-model.js";
import { caseList } from "../../support/op-case.js";

const { cases, add } = caseList();
export { cases as poolCases };

type Attrs = Readonly<Record<string, AttrSpec>>;
const GEOMETRY: readonly (readonly [readonly number[], Attrs, number])[] = [
  [[2, 3, 9], { kernel_shape: [3], strides: [2], pads: [1, 0] }, 7],
  [[2, 2, 6, 7], { kernel_shape: [2, 3], strides: [2, 1], pads: [0, 1, 1, 1] }, 7],
  [[1, 2, 6, 5], { kernel_shape: [3, 2], strides: [2, 2], auto_pad: "SAME_UPPER" }, 7],
  [[1, 2, 6, 5], { kernel_shape: [3, 2], strides: [2, 2], auto_pad: "SAME_LOWER" }, 7],
  [[1, 2, 6, 5], { kernel_shape: [3, 2], auto_pad: "VALID" }, 7],
  [[1, 2, 4, 4, 5], { kernel_shape: [2, 2, 2], strides: [2, 1, 2], pads: [1, 0, 0, 0, 1, 1] }, 7],
  [[1, 2, 7, 8], { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 }, 18],
  [[1, 1, 8, 8], { kernel_shape: [2, 3], dilations: [2, 3] }, 18],
];
for (const [shape, attrs, from] of GEOMETRY) {
  for (const p of [1, 2, 3]) add("LpPool", from < 18 ? [11, 18] : [18], [shape], { attrs: { ...attrs, p } });
  add("LpPool", [Math.max(from, 11), 22], [shape], { attrs });
  const withIndices = { results: 2, outputTypes: [1, INT64], shift: -2 };
  add("MaxPool", from < 18 ? [8, 12] : [12], [shape], { ...withIndices, attrs });
  if (attrs["auto_pad"] === undefined) add("MaxPool", from < 18 ? [8, 12] : [12], [shape], { ...withIndices, attrs: { ...attrs, storage_order: 1 } });
}
for (const p of [1, 2, 3]) add("GlobalLpPool", [7, 13], [[2, 3, 4, 2]], { attrs: { p } });
add("GlobalLpPool", [7], [[2, 3, 5]]);
for (const op of ["GlobalAveragePool", "GlobalMaxPool"]) for (const shape of [[2, 3, 5], [2, 3, 2, 4], [2, 1, 2, 2, 3]]) add(op, [7, 13, 22], [shape]);

const index = (dims: readonly number[], ...values: number[]): TensorSpec => ({ dims, type: INT64, int64s: values });
// two examples of one channel of 4 × 4
add("MaxUnpool", [9, 11], [[2, 1, 2, 2]], { stored: [index([2, 1, 2, 2], 5, 2, 12, 15, 16, 23, 24, 27)], attrs: { kernel_shape: [2, 2], strides: [2, 2] } });
add("MaxUnpool", [11], [[1, 2, 3]], { stored: [index([1, 2, 3], 0, 3, 4, 6, 9, 11)], attrs: { kernel_shape: [2], strides: [2] } });
add("MaxUnpool", [11], [[1, 1, 3]], { stored: [index([1, 1, 3], 1, 1, 3), ints(1, 1, 4)], attrs: { kernel_shape: [2], strides: [1] } });

add("Col2Im", [18], [[2, 8, 6]], { stored: [ints(3, 4), ints(2, 2)] });
add("Col2Im", [18], [[1, 12, 9]], { stored: [ints(5, 5), ints(2, 3)], attrs: { strides: [2, 2], pads: [0, 1, 1, 1] } });
add("Col2Im", [18], [[2, 4, 4]], { stored: [ints(5, 6), ints(2, 2)], attrs: { dilations: [1, 2], strides: [2, 3] } });
add("Col2Im", [18], [[2, 6, 5]], { stored: [ints(7), ints(3)] });
add("AveragePool", [7, 10, 11, 19], [[1, 2, 5, 6]], { attrs: { kernel_shape: [3, 2], pads: [1, 0, 1, 1], strides: [2, 2] } });
add("MaxPool", [12], [], { stored: [floats([1, 1, 4], [-1, -2, -3, -4])], attrs: { kernel_shape: [2], pads: [1, 1] } });
