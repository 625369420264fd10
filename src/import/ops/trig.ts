/** Circular and hyperbolic functions and their inverses, of the few that the IR has; accurate near 0 and at the ends of their domains. */
import type { Value } from "../../../ir/graph.js";
import type { Context, ImportOp } from "../context.js";
import { like, plus, times } from "./common.js";

type Curve = (c: Context, x: Value) => Value;

const square: Curve = (c, x) => c.emit("mul", [x, x]);
const root: Curve = (c, x) => c.emit("sqrt", [x]);
const onePlus: Curve = (c, x) => plus(c, x, 1);
const oneMinus: Curve = (c, x) => c.emit("sub", [like(c, 1, x), x]);
const quotient = (c: Context, x: Value, y: Value): Value => c.emit("div", [x, y]);

/** f of |x| with the sign of x, for an odd function f: its derivative at 0 is that from the right. */
const odd = (f: Curve): Curve => (c, x) => {
  const negative = c.emit("lt", [x, like(c, 0, x)]);
  const y = f(c, c.emit("select", [negative, c.emit("neg", [x]), x]));
  return c.emit("select", [negative, c.emit("neg", [y]), y]);
};

/** Twice the angle of the half chord: x / (1 + √(1 − x²)), as (1 − x)(1 + x), which is exact at both ends. */
const asin: Curve = (c, x) => times(c, c.emit("atan", [quotient(c, x, onePlus(c, root(c, c.emit("mul", [oneMinus(c, x), onePlus(c, x)]))))]), 2);
const acos: Curve = (c, x) => times(c, c.emit("atan", [quotient(c, root(c, oneMinus(c, x)), root(c, onePlus(c, x)))]), 2);

/** From halves, so that it is finite as far as the result is. */
function cosh(c: Context, x: Value): Value {
  const side = (half: number): Value => {
    const e = c.emit("exp", [times(c, x, half)]);
    return c.emit("mul", [times(c, e, 0.5), e]);
  };
  return c.emit("add", [side(0.5), side(-0.5)]);
}

const sinh: Curve = (c, x) => c.emit("mul", [c.emit("tanh", [x]), cosh(c, x)]);

/** log(x + √(x² + 1)) for x ≥ 0, as log(1 + x + x²/(1 + √(x² + 1))). */
function asinhOfPositive(c: Context, x: Value): Value {
  const large = c.emit("gt", [x, like(c, 1e9, x)]);
  const small = c.emit("select", [large, like(c, 0, x), x]);
  const over = quotient(c, square(c, small), onePlus(c, root(c, onePlus(c, square(c, small)))));
  const near = c.emit("log1p", [c.emit("add", [small, over])]);
  return c.emit("select", [large, far(c, x, large), near]);
}

/** log 2x, which is asinh and acosh of what is so large that the rest is lost in rounding. */
function far(c: Context, x: Value, large: Value): Value {
  return plus(c, c.emit("log", [c.emit("select", [large, x, like(c, 1, x)])]), Math.LN2);
}

/** log(1 + t + √t·√(t + 2)) with t = x − 1: the first root says what is outside the domain. */
function acosh(c: Context, x: Value): Value {
  const large = c.emit("gt", [x, like(c, 1e9, x)]);
  const t = c.emit("sub", [c.emit("select", [large, like(c, 2, x), x]), like(c, 1, x)]);
  const near = c.emit("log1p", [c.emit("add", [t, c.emit("mul", [root(c, t), root(c, plus(c, t, 2))])])]);
  return c.emit("select", [large, far(c, x, large), near]);
}

const atanhOfPositive: Curve = (c, x) => times(c, c.emit("log1p", [quotient(c, times(c, x, 2), oneMinus(c, x))]), 0.5);

const curve = (f: Curve): ImportOp => (c) => f(c, c.x(0));

export const trigOps: Readonly<Record<string, ImportOp>> = {
  Sin: curve((c, x) => c.emit("sin", [x])), Cos: curve((c, x) => c.emit("cos", [x])),
  Tan: curve((c, x) => quotient(c, c.emit("sin", [x]), c.emit("cos", [x]))),
  Asin: curve(asin), Acos: curve(acos), Atan: curve((c, x) => c.emit("atan", [x])),
  Sinh: curve(sinh), Cosh: curve(cosh),
  Asinh: curve(odd(asinhOfPositive)), Acosh: curve(acosh), Atanh: curve(odd(atanhOfPositive)),
};
