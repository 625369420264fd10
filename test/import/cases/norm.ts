/** Normalisations beside the first ones of basic.ts. */
import { type AttrSpec, floats, type TensorSpec } from "../../support/onnx-model.js";
import { caseList } from "../../support/op-case.js";

const { cases, add } = caseList();
export { cases as normCases };

const f = (float: number): AttrSpec => ({ float });
const per = (dims: readonly number[], from = 0.5): TensorSpec => floats(dims, Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, k) => from + k / 4));
const MS = "com.microsoft";

for (const opset of [7, 8, 9, 14, 15]) add("BatchNormalization", [opset], [[2, 3, 4]], { stored: [per([3]), per([3], -1), per([3], 0.1), per([3], 0.7)] });
for (const axis of [0, 1, 2, -1, -2]) {
  const rest = [2, 3, 4].slice(axis < 0 ? 3 + axis : axis);
  add("LayerNormalization", [17], [[2, 3, 4]], { stored: [per(rest), per(rest, -1)], attrs: { axis, epsilon: f(1e-2) }, results: 3 });
  add("RMSNormalization", [23], [[2, 3, 4]], { stored: [per(rest)], attrs: { axis, epsilon: f(1e-2) } });
}
add("LayerNormalization", [17], [[2, 3, 4]], { stored: [per([4])], attrs: { stash_type: 1 } });
// a scale that is broadcast over the axes normalised
add("LayerNormalization", [17], [[2, 3, 4]], { stored: [per([4]), per([3, 1], -1)], attrs: { axis: 1 } });
for (const shape of [[2, 3, 5], [2, 3, 4, 2], [1, 3, 2, 2, 2]]) add("InstanceNormalization", [7, 22], [shape], { stored: [per([3]), per([3], -1)], attrs: { epsilon: f(1e-3) } });
add("GroupNormalization", [18], [[2, 4, 5]], { stored: [per([2]), per([2], -1)], attrs: { num_groups: 2 } });
for (const [groups, shape] of [[1, [2, 4, 3, 2]], [4, [2, 4, 3]], [2, [1, 4, 2, 2, 2]]] as const) add("GroupNormalization", [21], [shape], { stored: [per([4]), per([4], -1)], attrs: { num_groups: groups } });
for (const size of [1, 3, 5]) add("LRN", [7, 13], [[2, 5, 3, 3]], { attrs: { size, alpha: f(0.5), beta: f(0.75), bias: f(1.5) } });
add("LRN", [13], [[2, 5, 2, 2]], { attrs: { size: 3 }, scale: 10 });
for (const p of [1, 2]) for (const axis of [0, -1]) add("LpNormalization", [7, 22], [[3, 5]], { attrs: { p, axis } });
add("LpNormalization", [22], [], { stored: [floats([2, 3], [0, 0, 0, 3, 0, 4])], noGradient: "the direction of nothing jumps" });
add("MeanVarianceNormalization", [9, 13], [[2, 3, 2, 4]]);
for (const axes of [[1], [-1, 0], [0, 1, 2, 3]]) add("MeanVarianceNormalization", [9, 13], [[2, 3, 2, 4]], { attrs: { axes } });
for (const axis of [-1, 1]) add("SimplifiedLayerNormalization", [17], [[2, 3, 4]], { stored: [per(axis < 0 ? [4] : [3, 4])], attrs: { axis, epsilon: f(1e-2) } });
add("SkipLayerNormalization", [17], [[2, 3, 4], [2, 3, 4]], { stored: [per([4]), per([4], -1)], domain: MS });
add("SkipLayerNormalization", [17], [[2, 3, 4], [3, 4]], { stored: [per([4]), per([4], -1), per([4], 2)], attrs: { epsilon: f(1e-2) }, domain: MS, results: 1 });
add("SkipSimplifiedLayerNormalization", [17], [[2, 3, 4], [2, 3, 4]], { stored: [per([4])], attrs: { epsilon: f(1e-2) }, domain: MS });
add("SkipSimplifiedLayerNormalization", [17], [[2, 3, 4], [2, 3, 4]], { stored: [per([4]), per([4], 2)], domain: MS });
