/** Powers: of floats as the formula, of integers exactly. */
import { broadcastShape } from "../../../ir/builder.js";
import type { Value } from "../../../ir/graph.js";
import type { Context } from "../context.js";
import { castTo, like, spread } from "./common.js";

/** x^n for a whole n ≥ 0, by squaring. */
function repeated(c: Context, x: Value, n: number): Value {
  let [out, square]: [Value | undefined, Value] = [undefined, x];
  for (let left = n; left > 0; left = Math.floor(left / 2)) {
    if (left % 2 === 1) out = out ? c.emit("mul", [out, square]) : square;
    if (left > 1) square = c.emit("mul", [square, square]);
  }
  return out ?? like(c, 1, x);
}

/** Powers that exporters write become products and roots: cheaper, exact, and differentiable at 0. */
function known(c: Context, x: Value, n: number): Value | undefined {
  if (Number.isInteger(n) && n >= 0 && n <= (x.type.dtype === "f32" ? 4 : 64)) return repeated(c, x, n);
  if (x.type.dtype !== "f32") return undefined;
  switch (n) {
    case 0.5: return c.emit("sqrt", [x]);
    case -1: return c.emit("reciprocal", [x]);
    case -2: return c.emit("reciprocal", [c.emit("mul", [x, x])]);
    case -0.5: return c.emit("reciprocal", [c.emit("sqrt", [x])]);
    default: return undefined;
  }
}

/** Binary digits of an exponent beyond which only powers of 0, 1 and −1 fit in 32 bits. */
const DIGITS = 5;

/** x^y of integers, digit by digit of y; x^−n is the whole part of 1/xⁿ. */
function ofIntegers(c: Context, x: Value, y: Value): Value {
  const number = (value: number): Value => like(c, value, x);
  const negative = c.emit("lt", [y, number(0)]);
  const whole = c.emit("abs", [y]);
  const half = (v: Value): Value => c.emit("div", [v, number(2)]);
  const digit = (v: Value): Value => c.emit("sub", [v, c.emit("mul", [half(v), number(2)])]);
  // of larger exponents only whether they are odd counts
  const limit = 2 ** DIGITS - 2;
  let left = c.emit("select", [c.emit("gt", [whole, number(limit + 1)]), c.emit("add", [number(limit), digit(whole)]), whole]);
  let [out, square] = [number(1), x];
  for (let k = 0; k < DIGITS; k++) {
    out = c.emit("mul", [out, c.emit("select", [c.emit("eq", [digit(left), number(0)]), number(1), square])]);
    left = half(left);
    square = c.emit("mul", [square, square]);
  }
  const unit = c.emit("eq", [c.emit("abs", [x]), number(1)]);
  return c.emit("select", [negative, c.emit("select", [unit, out, number(0)]), out]);
}

/** A float as an integer, towards zero; what is whole but for rounding counts as whole. */
function towardsZero(c: Context, y: Value): Value {
  const near = c.emit("round", [y]);
  const slack = c.emit("mul", [c.emit("abs", [near]), like(c, 2 ** -18, y)]);
  const whole = c.emit("le", [c.emit("abs", [c.emit("sub", [y, near])]), slack]);
  return castTo(c, c.emit("select", [whole, near, y]), "i32");
}

/** x^y with x's element type. */
export function power(c: Context): Value {
  const shape = broadcastShape(c.shape(0), c.shape(1));
  const [x, y] = [spread(c, c.x(0), shape), spread(c, c.x(1), shape)];
  const exponent = c.numbers(1)?.data;
  const first = exponent?.[0];
  const made = first !== undefined && exponent?.every((n) => n === first) ? known(c, x, first) : undefined;
  if (made) return made;
  if (x.type.dtype === "f32") return c.emit("pow", [x, castTo(c, y, "f32")]);
  if (y.type.dtype === "i32") return ofIntegers(c, x, y);
  return towardsZero(c, c.emit("pow", [castTo(c, x, "f32"), y]));
}
