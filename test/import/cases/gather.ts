/** Elements picked by known and computed indices. */
import { caseList } from "../../support/op-case.js";
import { BOOL, INT64, ints, type TensorSpec } from "../../support/onnx-model.js";

const { cases, add } = caseList();
export { cases as gatherCases };

const whole = (dims: readonly number[], ...values: number[]): TensorSpec => ({ dims, type: INT64, int64s: values });
const bool = (...values: number[]): TensorSpec => ({ dims: [values.length], type: BOOL, int32s: values });
/** Computed indices are below 3 when numbers are: |v| < 3. */
const computed = { inputTypes: { 1: INT64 }, scale: 3 };
/** An irregular walk, too long for slices. */
const walk = Array.from({ length: 23 }, (_, k) => (k * k * 5) % 7 - (k % 2 ? 7 : 0));

add("Gather", [11], [[2, 7, 3]], { stored: [ints(...walk)], attrs: { axis: 1 } });
add("Gather", [13], [[7, 3]], { stored: [ints(...walk)] });
add("Gather", [13], [[2, 4, 3]], { stored: [whole([2, 2], 0, -1, 2, 2)], attrs: { axis: -2 } });
for (const axis of [0, 1, 2]) add("Gather", [7, 13], [[3, 3, 4], [2, 2]], { attrs: { axis }, ...computed });
add("Gather", [13], [[3, 3, 4], []], { attrs: { axis: 1 }, ...computed });
for (const axis of [0, 1, -1]) add("GatherElements", [11, 13], [[3, 3, 4], axis === 0 ? [5, 2, 4] : [2, 3, 3]], { attrs: { axis }, ...computed });
add("GatherElements", [13], [[3, 4]], { stored: [whole([2, 4], 0, -1, 2, 1, 1, 1, -3, 0)] });
for (const batch_dims of [0, 1]) {
  add("GatherND", [12, 13], [[3, 3, 4], [3, 2, 2]], { attrs: { batch_dims }, inputTypes: { 1: INT64 }, scale: 3 });
  add("GatherND", [13], [[3, 3, 4], [3, 5, 1]], { attrs: { batch_dims }, inputTypes: { 1: INT64 }, scale: 3 });
}
add("GatherND", [13], [[2, 3, 4]], { stored: [whole([3, 3], 0, -1, 2, 1, 1, -4, 1, 0, 0)] });
// indices that count along the first axis themselves
add("GatherND", [13], [[2, 3, 4]], { stored: [whole([2, 2, 2], 0, 2, 0, 0, 1, 1, 1, -1)] });
add("Compress", [9, 11], [[4, 3]], { stored: [bool(1, 0, 1)], attrs: { axis: 0 } });
add("Compress", [11], [[2, 5]], { stored: [bool(0, 1, 1, 0, 1)], attrs: { axis: -1 } });
add("Compress", [11], [[2, 5]], { stored: [bool(1, 0, 0, 1, 1, 1)] });
add("ReverseSequence", [10], [[4, 3, 2]], { stored: [ints(1, 4, 2)] });
add("ReverseSequence", [10], [[3, 4], [3]], { attrs: { batch_axis: 0, time_axis: 1 }, inputTypes: { 1: INT64 }, scale: 3, shift: 0 });
