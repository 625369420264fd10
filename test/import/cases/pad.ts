/** Padding in every mode, opset by opset; also by more than the tensor is long, and by less than nothing. */
import { caseList } from "../../support/op-case.js";
import { floats, ints } from "../../support/onnx-model.js";

const { cases, add } = caseList();
export { cases as padCases };

for (const mode of ["reflect", "edge"]) {
  add("Pad", [7], [[2, 3, 4]], { attrs: { mode, pads: [0, 1, 2, 0, 2, 3] } });
  add("Pad", [11, 13, 18, 21], [[2, 3, 4]], { attrs: { mode }, stored: [ints(0, 0, 2, 0, 1, 1)] });
}
for (const mode of ["reflect", "edge", "wrap"]) {
  const opset = mode === "wrap" ? 19 : 18;
  add("Pad", [opset], [[2, 3, 4]], { attrs: { mode }, stored: [ints(1, 2, 2, 1), "", ints(-1, 1)] });
  add("Pad", [opset], [[2, 5, 4]], { attrs: { mode }, stored: [ints(0, -1, 1, 0, 2, 0)] });
}
add("Pad", [19], [[3, 2]], { attrs: { mode: "wrap" }, stored: [ints(0, 2, 0, 1)] });
add("Pad", [21], [[2, 3]], { stored: [ints(1, -1), floats([1], [0.5]), ints(0)] });
add("Pad", [13], [[2, 3]], { stored: [ints(0, 0, 0, 0)] });
