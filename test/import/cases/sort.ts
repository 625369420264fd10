/** The largest in order, running sums, and ops whose results have as many elements as known data say. */
import { floats, INT64, ints, type TensorSpec } from "../../support/onnx-model.js";
import { caseList } from "../../support/op-case.js";

const { cases, add } = caseList();
export { cases as sortCases };

const both = { results: 2, outputTypes: [1, INT64] };
add("TopK", [7], [[2, 5]], { ...both, attrs: { k: 3 } });
add("TopK", [7], [[4, 3]], { ...both, attrs: { k: 2, axis: 0 } });
add("TopK", [10, 11], [[2, 5, 3]], { ...both, stored: [ints(3)], attrs: { axis: 1 } });
for (const largest of [0, 1]) for (const axis of [0, 1, -1]) add("TopK", [11], [[4, 3, 4]], { ...both, stored: [ints(2)], attrs: { axis, largest } });
add("TopK", [11], [[2, 5]], { ...both, stored: [ints(5)] });
// equal ones: the first in x comes first
for (const largest of [0, 1]) add("TopK", [11], [], { ...both, stored: [floats([2, 6], [1, 2, 1, 2, 0, 1, 3, 3, 3, 3, 3, 3]), ints(4)], attrs: { largest }, noGradient: "equal elements: a kink" });
add("TopK", [11], [[2, 6]], { stored: [ints(4)], takes: INT64, scale: 3, results: 2, gives: INT64 });

const axis = (value: number): TensorSpec => ({ dims: [], type: INT64, int64s: [value] });
for (const [op, opsets] of [["CumSum", [11, 14]], ["CumProd", [26]]] as const) for (const exclusive of [0, 1]) for (const reverse of [0, 1])
  for (const [shape, at] of [[[5], 0], [[2, 4, 3], 1], [[2, 3], -1]] as const) add(op, opsets, [shape], { stored: [axis(at)], attrs: { exclusive, reverse } });
add("CumSum", [14], [[2, 4]], { stored: [axis(1)], takes: INT64, gives: INT64, scale: 9 });

add("NonZero", [9, 13], [], { stored: [floats([2, 3], [1, 0, 2, 0, 0, 3])], gives: INT64 });
const repeated = floats([2, 4], [3, 1, 3, 2, 1, 1, 4, 3]);
for (const sorted of [0, 1]) add("Unique", [11], [], { stored: [repeated], attrs: { sorted }, results: 4, outputTypes: [1, INT64, INT64, INT64] });
