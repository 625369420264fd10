/** Losses of class numbers. */
import { caseList } from "../../support/op-case.js";
import { floats, INT64 } from "../../support/onnx-model.js";

const { cases, add } = caseList();
export { cases as lossCases };

const weight = floats([3], [0.5, 2, 1.25]);
for (const op of ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
  for (const d of [[], [4], [2, 3], [2, 1, 2]])
    for (const reduction of ["none", "mean", "sum"]) {
      const shapes = [[5, 3, ...d], [5, ...d]];
      // the seeded classes are 0 to 2
      const rest = { inputTypes: { 1: INT64 }, scale: 3 };
      add(op, [12, 13], shapes, { ...rest, attrs: { reduction } });
      if (d.length === 2) continue;
      add(op, [13], shapes, { ...rest, attrs: { reduction }, stored: [weight] });
      add(op, [13], shapes, { ...rest, attrs: { reduction, ignore_index: 1 } });
      add(op, [13], shapes, { ...rest, attrs: { reduction, ignore_index: 1 }, stored: [weight] });
      add(op, [13], shapes, { ...rest, attrs: { reduction, ignore_index: -7 }, stored: [weight] });
    }
for (const reduction of ["none", "mean"])
  add("SoftmaxCrossEntropyLoss", [12, 13], [[4, 3, 2], [4, 2]], { inputTypes: { 1: INT64 }, scale: 3, attrs: { reduction, ignore_index: 0 }, stored: [weight], results: 2 });
