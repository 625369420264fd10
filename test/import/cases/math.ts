/** Arithmetic, comparison and logic: every element type the IR holds, the ends of the functions' domains, NaN and infinities. */
import { caseList } from "../../support/op-case.js";
import { type AttrSpec, BOOL, floats, INT64, ints, type TensorSpec } from "../../support/onnx-model.js";

const { cases, add } = caseList();
export { cases as mathCases };

const f = (float: number): AttrSpec => ({ float });
const one = (value: number): TensorSpec => ({ dims: [], floats: [value] });
const whole = (value: number): TensorSpec => ({ dims: [], type: INT64, int64s: [value] });
const bool = (...values: number[]): TensorSpec => ({ dims: [values.length], type: BOOL, int32s: values });
const row = (...values: number[]): TensorSpec => floats([values.length], values);
const integers = { takes: INT64, gives: INT64, scale: 9 } as const;

for (const op of ["Add", "Sub", "Mul", "Div"]) {
  add(op, [7, 13, 14], [[2, 3]], { ...integers, stored: [ints(-3, 2, 5)] });
  add(op, [14], [[], [3]], { shift: 1.5 });
  add(op, [14], [[]], { shift: 1.5, stored: [one(2)] });
}
for (const op of ["Neg", "Abs", "Sign"]) add(op, [13], [], { stored: [ints(-3, 0, 5)], gives: INT64 });
add("Sign", [13], [], { stored: [row(-2, -0, 0, 3, Number.POSITIVE_INFINITY)], noGradient: "it jumps at 0" });
for (const op of ["Sqrt", "Exp", "Log", "Reciprocal", "Sin"]) add(op, [7], [[2]], { shift: 1.5 });
for (const op of ["Floor", "Ceil", "Round"]) add(op, [op === "Round" ? 11 : 13], [], { stored: [row(-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.7)], noGradient: "it jumps" });

add("Tan", [7], [[3, 5]]);
for (const op of ["Asin", "Acos", "Atanh"]) add(op, [op === "Atanh" ? 9 : 7], [[3, 5]], { scale: 0.9 });
for (const op of ["Atan", "Sinh", "Cosh", "Asinh"]) add(op, [op === "Atan" ? 7 : 9, 22], [[3, 5]], { scale: 6 });
add("Acosh", [9], [[3, 5]], { scale: 3, shift: 4.1 });
const ends = { noGradient: "these are ends and kinks" };
const INFINITIES = [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY, Number.NaN];
add("Asin", [7], [], { stored: [row(-1, 1, 0, 1.5, Number.NaN)], ...ends });
add("Acos", [7], [], { stored: [row(-1, 1, 0, -1.5, Number.NaN)], ...ends });
add("Atan", [7], [], { stored: [row(0, 1e-20, 1e20, ...INFINITIES)], ...ends });
add("Asinh", [9], [], { stored: [row(0, 1e-10, 1e12, -3e38, ...INFINITIES)], ...ends });
add("Acosh", [9], [], { stored: [row(1, 0.5, -3, 1e12, 3e38, Number.POSITIVE_INFINITY, Number.NaN)], ...ends });
add("Atanh", [9], [], { stored: [row(0, 1, -1, 0.99999, -0.99999, 1.5, Number.NaN)], ...ends });
for (const op of ["Sinh", "Cosh"]) add(op, [9], [], { stored: [row(0, 80, ...INFINITIES)], ...ends });

for (const exponent of [0, 4, -2, -3, 2.5]) add("Pow", [7, 15], [[2, 3]], { stored: [one(exponent)], shift: 1.5 });
add("Pow", [13], [], { stored: [row(-2, -1.5, 0, 3), one(3)] });
add("Pow", [13], [[2, 3]], { stored: [row(2, 2, 2)] });
add("Pow", [13], [[2, 1]], { stored: [row(2, 2, 2)], shift: 1.5 });
add("Pow", [13], [[3]], { stored: [ints(2, 3, -1)], shift: 1.5 });
add("Pow", [13], [[2, 3]], { ...integers, stored: [whole(3)] });
add("Pow", [13], [[2, 3]], { ...integers, stored: [ints(0, 5, 9)] });
add("Pow", [13], [[3], [3]], { ...integers, scale: 8 });
add("Pow", [13], [[3], [3]], { inputTypes: { 0: INT64 }, outputTypes: [INT64], scale: 3, shift: 4 });
add("Pow", [13], [], { stored: [ints(0, 1, -1, -1, -2, 7, 0), ints(0, 41, 40, 41, 23, 3, 5)], gives: INT64 });
add("Pow", [13], [], { stored: [ints(7, 5, 2, 3), row(3, 3, 0.5, -1)], gives: INT64 });
add("Pow", [13], [], { stored: [row(0, 0, 0, 2, -8), row(0, 2, 0.5, 0, 3)], noGradient: "powers of 0" });
add("Pow", [13], [], { stored: [floats([3], [0, 0, -0]), floats([3], [-0.5, -2, -1])], noGradient: "poles" });

for (const fmod of [0, 1]) {
  add("Mod", [10, 13], [[2, 6]], { ...integers, attrs: { fmod }, stored: [ints(3, -3, 2, -7, 1, -1)] });
  add("Mod", [13], [], { attrs: { fmod }, stored: [ints(-7, 7, -7, 7, -6, 0), ints(3, 3, -3, -3, 3, -3)], gives: INT64 });
}
add("Mod", [13], [], { attrs: { fmod: 1 }, stored: [row(-5.3, 5.3, -5.3, 5.3, 0, 0.3), row(2, -2, -2, 2, 3, 0.1)], noGradient: "it jumps" });
add("Mod", [13], [], { attrs: { fmod: 1 }, stored: [row(5, 5, Number.NaN, Number.POSITIVE_INFINITY), row(Number.POSITIVE_INFINITY, 0, 2, 2)], noGradient: "of no numbers" });
add("Mod", [13], [[3, 4]], { attrs: { fmod: 1 }, scale: 5, stored: [one(0.7)] });

for (const op of ["Min", "Max"]) {
  add(op, [12, 13], [[2, 3], [3]], { ...integers, stored: [whole(4)] });
  add(op, [13], [[2, 3]]);
  add(op, [13], [], { stored: [row(1, Number.NaN, 2), row(Number.NaN, 1, 3)], noGradient: "of no numbers" });
}
for (const op of ["Sum", "Mean"]) add(op, [8, 13], [[2, 3]]);
add("Sum", [13], [[], [3], [2, 1]]);

const bounds = (min: number, max: number): (TensorSpec | "")[] => [one(min), one(max)];
add("Clip", [13], [[3, 4]], { stored: bounds(0.5, -0.25) });
add("Clip", [11], [[3, 4]]);
add("Clip", [7], [[3, 4]]);
add("Clip", [7], [[3, 4]], { attrs: { min: f(0.1) } });
add("Clip", [13], [[3, 4]], { stored: bounds(-3.4028234663852886e38, 0.25) });
add("Clip", [13], [[3, 4]], { stored: [one(3.4028234663852886e38)] });
add("Clip", [13], [[3, 4]], { stored: ["", one(Number.NEGATIVE_INFINITY)], noGradient: "there is no finite value" });
add("Clip", [13], [[3, 4], [], []], {});
add("Clip", [13], [[3, 4], []], {});
add("Clip", [12, 13], [[3, 4]], { ...integers, stored: [whole(2), whole(6)] });
add("Clip", [13], [[3, 4]], { ...integers, stored: ["", { dims: [], raw: new Uint8Array([255, 255, 255, 255, 255, 255, 255, 127]), type: INT64 }] });
add("Clip", [13], [[3, 4], [], []], integers);
add("Clip", [13], [], { stored: [row(Number.NaN, -5, 5, Number.POSITIVE_INFINITY), ...bounds(-1, 1)], noGradient: "of no numbers" });

for (const [op, opset] of [["Less", 9], ["Greater", 9], ["LessOrEqual", 12], ["GreaterOrEqual", 12], ["Equal", 11]] as const) {
  add(op, [opset, 16], [[3, 4], [4]], { takes: INT64, gives: BOOL, scale: 3 });
  add(op, [16], [], { stored: [row(1, Number.NaN, 2, Number.POSITIVE_INFINITY), row(1, Number.NaN, 3, Number.POSITIVE_INFINITY)], gives: BOOL });
}
add("Equal", [7, 13], [[2, 3], [3]], { takes: BOOL, gives: BOOL });
add("Equal", [13], [[2, 3]], { takes: BOOL, gives: BOOL, stored: [bool(1, 0, 1)] });
for (const op of ["And", "Or", "Xor"]) {
  add(op, [7], [[2, 3], [3]], { takes: BOOL, gives: BOOL });
  add(op, [7], [[], [3]], { takes: BOOL, gives: BOOL });
}
add("Not", [7], [[2, 3]], { takes: BOOL, gives: BOOL });
add("Where", [9, 16], [[2, 1], [3], [2, 3]], { inputTypes: { 0: BOOL } });
add("Where", [16], [[2, 1], [3], []], { inputTypes: { 0: BOOL, 1: INT64, 2: INT64 }, outputTypes: [INT64], scale: 4 });
add("Where", [16], [[2, 3]], { stored: [row(Number.NaN, 1, 2), one(Number.NEGATIVE_INFINITY)], inputTypes: { 0: BOOL }, noGradient: "of no numbers" });

add("IsNaN", [9, 20], [], { stored: [row(1, 0, -3e38, ...INFINITIES, 1e-40)], gives: BOOL });
add("IsNaN", [13], [[2, 3]], { gives: BOOL });
for (const attrs of [{}, { detect_negative: 0 }, { detect_positive: 0 }, { detect_positive: 0, detect_negative: 0 }])
  add("IsInf", [10, 20], [], { stored: [row(1, 0, -3e38, ...INFINITIES)], attrs, gives: BOOL });
