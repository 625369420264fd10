/** Rows written by known and computed indices; duplicates where a reduction says what they mean. */
import { caseList } from "../../support/op-case.js";
import { floats, INT64, type TensorSpec } from "../../support/onnx-model.js";

const { cases, add } = caseList();
export { cases as scatterCases };

const whole = (dims: readonly number[], ...values: number[]): TensorSpec => ({ dims, type: INT64, int64s: values });
const computed = { inputTypes: { 1: INT64 }, scale: 3 };
const reductions = ["none", "add", "mul", "max", "min"] as const;
const opsetOf = (reduction: string): number[] => (reduction === "none" ? [11, 13, 18] : reduction === "add" || reduction === "mul" ? [16, 18] : [18]);
const attr = (reduction: string): Record<string, string> => (reduction === "none" ? {} : { reduction });

for (const reduction of reductions) {
  const opsets = opsetOf(reduction);
  // updates that meet in one row
  add("ScatterElements", opsets, [[3, 4, 3], [2, 4, 3], [2, 4, 3]], { attrs: { axis: 0, ...attr(reduction) }, ...computed });
  add("ScatterElements", opsets, [[3, 4, 3], [2, 3, 3], [2, 3, 3]], { attrs: { axis: -1, ...attr(reduction) }, ...computed });
  add("ScatterND", opsets, [[3, 3, 4], [5, 2], [5, 4]], { attrs: attr(reduction), ...computed });
  add("ScatterND", opsets, [[3, 4], [2, 1], [2, 4]], { attrs: attr(reduction), ...computed });
}
const known = whole([2, 3], 0, -1, 1, 3, 0, 2);
for (const reduction of reductions) {
  const opsets = opsetOf(reduction).slice(-1);
  const update = floats([2, 3], [0.5, -1, 2, 3, -0.25, 0.75]);
  add("ScatterElements", opsets, [[4, 5]], { attrs: { axis: 0, ...attr(reduction) }, stored: [known, update] });
  add("ScatterElements", opsets, [[2, 5]], { attrs: { axis: 1, ...attr(reduction) }, stored: [whole([2, 3], 0, 0, 1, 3, -1, 3), update] });
  add("ScatterND", opsets, [[2, 3, 3]], { attrs: attr(reduction), stored: [whole([2, 2], 0, -1, 1, 1), update] });
  add("ScatterND", opsets, [[4]], { attrs: attr(reduction), stored: [whole([4, 1], 1, 3, 1, 0), floats([4], [1, -2, 3, 4])] });
}
// x[:, 1:3] = u: the tuples count along the first axis themselves, and the rows follow each other
add("ScatterND", [11, 18], [[2, 4, 3]], { stored: [whole([2, 2, 2], 0, 1, 0, 2, 1, 1, 1, 2), floats([2, 2, 3], Array.from({ length: 12 }, (_, k) => k / 8))] });
add("Scatter", [9, 10], [[4, 5]], { attrs: { axis: 1 }, stored: [whole([2, 3], 0, 2, 4, 3, 1, 0), floats([2, 3], [1, 2, 3, 4, 5, 6])] });
for (const mode of ["linear", "circular"]) {
  add("TensorScatter", [24], [[2, 5, 3], [2, 2, 3], [2]], { attrs: { mode }, inputTypes: { 2: INT64 }, scale: 3 });
  add("TensorScatter", [24], [[2, 3, 4, 5], [2, 3, 4, 3]], { attrs: { mode, axis: 3 } });
}
add("TensorScatter", [24], [[2, 5, 3], [2, 2, 3]], { attrs: { mode: "circular", axis: 1 }, stored: [whole([2], 4, 3)] });
