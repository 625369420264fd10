/** Arithmetic, comparison and logic, element by element with NumPy broadcasting. */
import type { Value } from "../../../ir/graph.js";
import type { OpName } from "../../../ir/ops/names.js";
import type { Context, ImportOp } from "../context.js";
import { elementwise, like, times } from "./common.js";

const unary = (op: OpName): ImportOp => (c) => c.emit(op, [c.x(0)]);
const binary = (op: OpName): ImportOp => (c) => elementwise(c, op, [c.x(0), c.x(1)]);
const chain = (op: OpName): ImportOp => (c) => c.all().reduce((a, b) => elementwise(c, op, [a, b]));

/** Constant powers that every exporter writes become products and roots: cheaper, and differentiable at 0. */
function power(c: Context): Value {
  const x = c.x(0);
  const exponent = c.numbers(1);
  if (exponent && exponent.data.length === 1 && exponent.shape.length <= x.type.shape.length) {
    switch (exponent.data[0]) {
      case 1: return x;
      case 2: return c.emit("mul", [x, x]);
      case 3: return c.emit("mul", [c.emit("mul", [x, x]), x]);
      case 0.5: return c.emit("sqrt", [x]);
      case -1: return c.emit("reciprocal", [x]);
      case -0.5: return c.emit("reciprocal", [c.emit("sqrt", [x])]);
    }
  }
  const float = (v: Value): Value => (v.type.dtype === "f32" ? v : c.emit("cast", [v], { dtype: "f32" }));
  const y = elementwise(c, "pow", [float(x), float(c.x(1))]);
  return y.type.dtype === x.type.dtype ? y : c.emit("cast", [y], { dtype: x.type.dtype });
}

/** Bounds: attributes before opset 11, inputs since. */
function clip(c: Context): Value {
  let x = c.x(0);
  const bound = (i: number, name: string): Value | number | undefined => {
    if (c.opset < 11) return c.node.attrs.get(name)?.f;
    if (!c.has(i)) return undefined;
    const known = c.numbers(i);
    return known && known.data.length === 1 ? known.data[0] : c.x(i);
  };
  for (const [i, name, op] of [[1, "min", "max"], [2, "max", "min"]] as const) {
    const limit = bound(i, name);
    // the largest float32 is how exporters say "no limit"
    if (limit === undefined || (typeof limit === "number" && Math.abs(limit) > 3.4e38)) continue;
    x = typeof limit === "number" ? c.emit(op, [x, like(c, limit, x)]) : elementwise(c, op, [x, limit]);
  }
  return x;
}

/** log(softmax(x)) is a log-softmax of the same logits. */
function logarithm(c: Context): Value {
  const x = c.x(0);
  const out = c.emit("log", [x]);
  const head = c.host.heads.get(x);
  if (head?.kind === "softmax") c.host.heads.set(out, { ...head, kind: "log-softmax" });
  return out;
}

/** Integer remainder with the divisor's sign (fmod=0) or the dividend's (fmod=1). */
function modulo(c: Context): Value {
  const [x, y] = [c.x(0), c.x(1)];
  const float = x.type.dtype === "f32";
  const quotient = elementwise(c, "div", [x, y]);
  if (c.int("fmod", 0) !== 0) {
    const whole = float ? c.emit("cast", [c.emit("cast", [quotient], { dtype: "i32" })], { dtype: "f32" }) : quotient;
    return elementwise(c, "sub", [x, elementwise(c, "mul", [whole, y])]);
  }
  if (float) return elementwise(c, "sub", [x, elementwise(c, "mul", [c.emit("floor", [quotient]), y])]);
  const rest = elementwise(c, "sub", [x, elementwise(c, "mul", [quotient, y])]);
  const zero = like(c, 0, rest);
  // a rest of the other sign than the divisor's is one divisor away
  const wrong = c.emit("lt", [elementwise(c, "mul", [rest, y]), zero]);
  return elementwise(c, "add", [rest, c.emit("select", [wrong, elementwise(c, "add", [zero, y]), zero])]);
}

export const mathOps: Readonly<Record<string, ImportOp>> = {
  Add: binary("add"), Sub: binary("sub"), Mul: binary("mul"), Div: binary("div"), Pow: power, Mod: modulo,
  Neg: unary("neg"), Abs: unary("abs"), Sign: unary("sign"), Sqrt: unary("sqrt"), Exp: unary("exp"), Log: logarithm,
  Reciprocal: unary("reciprocal"), Erf: unary("erf"), Sin: unary("sin"), Cos: unary("cos"),
  Floor: unary("floor"), Ceil: unary("ceil"), Round: unary("round"),
  Min: chain("min"), Max: chain("max"), Sum: chain("add"),
  Mean: (c) => times(c, c.all().reduce((a, b) => elementwise(c, "add", [a, b])), 1 / c.count),
  Clip: clip,
  Less: binary("lt"), LessOrEqual: binary("le"), Greater: binary("gt"), GreaterOrEqual: binary("ge"), Equal: binary("eq"),
  Not: unary("not"), And: binary("and"), Or: binary("or"), Xor: binary("ne"),
  Where: (c) => elementwise(c, "select", [c.x(0), c.x(1), c.x(2)]),
};
