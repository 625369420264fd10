/** Sampling at computed places, inside the image and outside. */
import { caseList } from "../../support/op-case.js";
import { ints } from "../../support/onnx-model.js";

const { cases, add } = caseList();
export { cases as gridCases };

for (const padding_mode of ["zeros", "border", "reflection"]) for (const align_corners of [0, 1]) {
  // |grid| < 1.5: a third of the places are outside
  const rest = { scale: 1.5 };
  add("GridSample", [16], [[2, 2, 3, 4], [2, 3, 2, 2]], { attrs: { mode: "bilinear", padding_mode, align_corners }, ...rest });
  add("GridSample", [16], [[2, 1, 4, 5], [2, 2, 3, 2]], { attrs: { mode: "bicubic", padding_mode, align_corners }, ...rest });
  add("GridSample", [20, 22], [[2, 2, 3, 4], [2, 3, 2, 2]], { attrs: { mode: "linear", padding_mode, align_corners }, ...rest });
  add("GridSample", [20], [[1, 2, 3, 4], [1, 3, 2, 2]], { attrs: { mode: "cubic", padding_mode, align_corners }, ...rest });
  add("GridSample", [16, 20], [[1, 2, 3, 4], [1, 3, 5, 2]], { attrs: { mode: "nearest", padding_mode, align_corners }, ...rest });
  for (const mode of ["linear", "nearest"]) add("GridSample", [20], [[1, 2, 2, 3, 4], [1, 2, 2, 3, 3]], { attrs: { mode, padding_mode, align_corners }, ...rest });
}
for (const align_corners of [0, 1]) {
  add("AffineGrid", [20], [[2, 2, 3]], { stored: [ints(2, 3, 4, 5)], attrs: { align_corners } });
  add("AffineGrid", [20], [[2, 3, 4]], { stored: [ints(2, 3, 2, 4, 5)], attrs: { align_corners } });
}
