/** Constants, shapes as numbers, casts. */
import { caseList } from "../../support/op-case.js";
import { type AttrSpec, BOOL, DOUBLE, floats, INT64, ints, type TensorSpec } from "../../support/onnx-model.js";

const { cases, add } = caseList();
export { cases as constantCases };

const [FLOAT, UINT8, INT8, UINT16, INT16, INT32] = [1, 2, 3, 4, 5, 6];
const one = (value: number): TensorSpec => ({ dims: [], floats: [value] });
const whole = (value: number): TensorSpec => ({ dims: [], type: INT64, int64s: [value] });
const row = (...values: number[]): TensorSpec => floats([values.length], values);

for (const to of [FLOAT, DOUBLE, INT32, INT64, UINT8, INT8, UINT16, INT16, BOOL]) {
  add("Cast", [9, 13], [[2, 3]], { attrs: { to }, gives: to, scale: 3, shift: 4 });
  add("Cast", [13], [[2, 3]], { attrs: { to }, takes: INT64, gives: to, scale: 4 });
  add("Cast", [13], [[2, 3]], { attrs: { to }, takes: BOOL, gives: to });
  add("Cast", [19], [[]], { attrs: { to }, gives: to, scale: 3, shift: 4 });
}
for (const to of [INT8, UINT8, INT16, UINT16]) add("Cast", [13], [], { attrs: { to }, stored: [ints(-1, 127, 128, 255, 256, -129, 32768, 65537, -70000)], gives: to });
add("Cast", [13], [], { attrs: { to: INT64 }, stored: [row(-2.9, 2.9, -0.5, 0.5, 1e6)], gives: INT64 });
add("Cast", [13], [], { attrs: { to: BOOL }, stored: [row(-2.9, 0, -0, 0.1, Number.NaN)], gives: BOOL });
add("CastLike", [15, 19], [[2, 3]], { stored: [row(1)], takes: INT64, gives: FLOAT, scale: 5 });
add("CastLike", [15], [[2, 3], [1]], { inputTypes: { 1: BOOL }, outputTypes: [BOOL] });

for (const attrs of [{ value_float: { float: 0.5 } }, { value_floats: { floats: [0.5] } }, { value: { tensor: floats([], [2.5]) } }, { value: { tensor: floats([0, 3], []) } }, { value: { tensor: floats([2, 2, 1], [1, 2, 3, 4]) } }] as Record<string, AttrSpec>[])
  add("Constant", [13], [], { attrs });
for (const attrs of [{ value_int: 3 }, { value_ints: [1, 2] }, { value: { tensor: ints(-3, 4) } }] as Record<string, AttrSpec>[]) add("Constant", [13], [], { attrs, gives: INT64 });
add("Constant", [13], [], { attrs: { value: { tensor: { dims: [2], type: BOOL, int32s: [1, 0] } } }, gives: BOOL });
add("ConstantOfShape", [9], [], { stored: [ints(2, 3)] });
add("ConstantOfShape", [9], [], { stored: [{ dims: [0], type: INT64, int64s: [] }] });
add("ConstantOfShape", [9], [], { stored: [ints(2, 0)], attrs: { value: { tensor: ints(7) } }, gives: INT64 });
for (const attrs of [{ start: 1 }, { end: -1 }, { start: -9, end: 9 }, { start: 2, end: 1 }, { start: -2, end: 2 }] as Record<string, AttrSpec>[]) add("Shape", [15, 19], [[2, 3, 4]], { attrs, gives: INT64 });
add("Shape", [13], [[]], { gives: INT64 });
add("Size", [7, 13], [[]], { gives: INT64 });
add("Size", [13], [], { stored: [ints(1, 2, 3)], gives: INT64 });
for (const [start, limit, delta] of [[0, 5, 2], [5, 0, -2], [3, 3, 1], [0, -3, 1]] as const) {
  add("Range", [11], [], { stored: [whole(start), whole(limit), whole(delta)], gives: INT64 });
  add("Range", [11], [], { stored: [one(start), one(limit), one(delta / 4)] });
}
for (const k of [0, 1, -2, 9]) add("EyeLike", [9], [[3, 4]], { attrs: { k } });
add("EyeLike", [9, 22], [[3, 2]], { attrs: { dtype: INT64 }, gives: INT64 });
add("EyeLike", [9], [[3, 2]], { takes: INT64, gives: INT64 });
add("Identity", [13], [[2]], { takes: INT64, gives: INT64 });
add("Identity", [13], [[2]], { takes: BOOL, gives: BOOL });
add("Identity", [13], [[]]);
