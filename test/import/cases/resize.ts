/** Resize and Upsample: every mode, coordinate rule and rounding, up and down. */
import { caseList } from "../../support/op-case.js";
import { type AttrSpec, floats, ints } from "../../support/onnx-model.js";

const { cases, add } = caseList();
export { cases as resizeCases };

const text = (coordinate_transformation_mode: string, rest: Record<string, AttrSpec> = {}): Record<string, AttrSpec> => ({ coordinate_transformation_mode, ...rest });
/** Opset 11 has no input left out: empty ones instead. */
const none = floats([0], []);
const by = (...scales: number[]) => [none, floats([scales.length], scales)];
const to = (...sizes: number[]) => [none, none, ints(...sizes)];

for (const rule of ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]) {
  const opsets = rule === "half_pixel_symmetric" ? [19] : [11, 13, 18];
  for (const sizes of [[1, 2, 7, 5], [1, 2, 3, 9], [1, 2, 2, 1]]) {
    add("Resize", opsets, [[1, 2, 4, 6]], { stored: to(...sizes), attrs: text(rule, { mode: "linear" }) });
    add("Resize", opsets, [[1, 2, 4, 6]], { stored: to(...sizes), attrs: text(rule, { mode: "cubic" }) });
    for (const nearest_mode of ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
      add("Resize", opsets.slice(-1), [[1, 2, 4, 6]], { stored: to(...sizes), attrs: text(rule, { mode: "nearest", nearest_mode }) });
  }
}
add("Resize", [11], [[1, 1, 4, 6]], { stored: to(1, 1, 7, 3), attrs: text("tf_half_pixel_for_nn") });
add("Resize", [10], [[1, 2, 3, 4]], { stored: [floats([4], [1, 1, 2, 1.5])], attrs: { mode: "linear" } });
add("Resize", [10], [[1, 2, 3, 4]], { stored: [floats([4], [1, 1, 2, 0.6])], attrs: { mode: "nearest" } });
add("Resize", [13], [[1, 1, 3, 3]], { stored: by(1, 1, 5 / 3, 2 / 3), attrs: text("asymmetric", { nearest_mode: "floor" }) });
add("Resize", [13, 19], [[2, 2, 4, 5]], { stored: by(1, 1, 2, 3), attrs: { mode: "nearest" } });
add("Resize", [13], [[1, 1, 4, 4]], { stored: by(1, 1, 0.8, 0.8), attrs: { mode: "cubic", cubic_coeff_a: { float: -0.5 }, exclude_outside: 1 } });
add("Resize", [13], [[1, 2, 5]], { stored: ["", "", ints(1, 2, 8)], attrs: { mode: "linear" } });
add("Resize", [13], [[1, 1, 3, 4, 2]], { stored: to(1, 1, 5, 2, 3), attrs: { mode: "linear" } });
for (const mode of ["linear", "cubic"]) for (const exclude_outside of [0, 1])
  for (const sizes of [[1, 1, 3, 4], [1, 1, 9, 5]]) add("Resize", [18], [[1, 1, 7, 8]], { stored: to(...sizes), attrs: { mode, antialias: 1, exclude_outside } });
for (const keep_aspect_ratio_policy of ["not_larger", "not_smaller", "stretch"])
  add("Resize", [18], [[1, 1, 2, 4]], { stored: to(7, 8), attrs: { mode: "nearest", keep_aspect_ratio_policy, axes: [2, 3] } });
for (const roi of [[0, 0, 0.4, 0.6, 1, 1, 0.6, 0.8], [0, 0, -0.3, 0.2, 1, 1, 0.7, 1.4]]) for (const mode of ["linear", "nearest", "cubic"])
  add("Resize", [13, 19], [[1, 1, 4, 4]], { stored: [floats([8], roi), none, ints(1, 1, 3, 5)], attrs: text("tf_crop_and_resize", { mode, extrapolation_value: { float: 10 } }) });
for (const mode of ["nearest", "linear"]) {
  add("Upsample", [7], [[1, 2, 2, 3]], { attrs: { mode, scales: { floats: [1, 1, 2, 3] } } });
  add("Upsample", [9], [[1, 2, 3, 2]], { stored: [floats([4], [1, 1, 1.5, 2])], attrs: { mode } });
}
