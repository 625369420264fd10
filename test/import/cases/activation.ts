/** Activations: values far away, NaN, parameters, the fused ones of onnxruntime. */
import { caseList } from "../../support/op-case.js";
import { type AttrSpec, floats, type TensorSpec } from "../../support/onnx-model.js";

const { cases, add } = caseList();
export { cases as activationCases };

const f = (float: number): AttrSpec => ({ float });
const row = (...values: number[]): TensorSpec => floats([values.length], values);
const MICROSOFT = "com.microsoft";

for (const op of ["Elu", "Selu", "Celu", "Softplus", "Softsign", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Mish", "LeakyRelu", "Relu"]) {
  const opset = op === "Mish" ? 18 : op === "HardSwish" ? 14 : op === "Celu" ? 12 : 7;
  add(op, [opset], [[]], { scale: 2 });
  add(op, [opset], [], { stored: [row(-30, -90, 30, 90, Number.NaN)], noGradient: "one is no number" });
}
add("Selu", [7], [[3, 5]], { attrs: { alpha: f(1.1), gamma: f(0.8) }, scale: 3 });
add("Celu", [12], [[3, 5]], { attrs: { alpha: f(0.5) }, scale: 3 });
add("ThresholdedRelu", [10], [[3, 5]], { attrs: { alpha: f(0.4) } });
for (const attrs of [{ lambd: f(0.3), bias: f(0.2) }, { lambd: f(0.3) }]) add("Shrink", [9], [[3, 5]], { attrs });
add("HardSigmoid", [7], [[3, 5]], { attrs: { alpha: f(1), beta: f(0) }, scale: 2 });

for (const slope of [[1], [4], [3, 1], [1, 3, 1], [2, 3, 4], [1, 1, 1]])
  add("PRelu", [7, 9, 16], [[2, 3, 4], slope], { scale: 2 });
add("PRelu", [16], [[2, 3], []]);
add("PRelu", [16], [[3]], { stored: [row(0.1, -0.2, 0)] });
add("PRelu", [7], [[2, 3, 2, 2]], { stored: [floats([3, 1, 1], [0.1, 0.2, -0.3])] });

for (const approximate of ["none", "tanh"]) add("Gelu", [20], [[3, 5]], { attrs: { approximate }, scale: 6 });
add("Gelu", [17], [[]], { domain: MICROSOFT });
for (const op of ["FastGelu", "BiasGelu"]) add(op, [17], [[2, 3, 4], [4]], { domain: MICROSOFT, scale: 2 });
add("FastGelu", [17], [[2, 3, 4]], { domain: MICROSOFT, scale: 2 });
add("QuickGelu", [17], [[3, 5]], { domain: MICROSOFT, scale: 3 });
add("QuickGelu", [17], [[3, 5]], { domain: MICROSOFT, scale: 3, attrs: { alpha: f(1) } });

for (const op of ["Softmax", "LogSoftmax"]) {
  add(op, [7, 11], [[2, 3, 4]], { attrs: { axis: 0 } });
  add(op, [11, 13], [[2, 3, 4]], { attrs: { axis: -1 }, scale: 50 });
  add(op, [13], [[5]], {});
  add(op, [13], [[2, 1]], {});
  add(op, [13], [], { stored: [floats([2, 3], [1, Number.NaN, 2, Number.NEGATIVE_INFINITY, 0, 1])], noGradient: "one is no number" });
}
