/** Arithmetic, comparison and logic, element by element with NumPy broadcasting. */
import { broadcastShape } from "../../../ir/builder.js";
import type { Value } from "../../../ir/graph.js";
import type { OpName } from "../../../ir/ops/names.js";
import type { Context, ImportOp } from "../context.js";
import { elementwise, like, reshape, spread, times } from "./common.js";
import { power } from "./power.js";

const unary = (op: OpName): ImportOp => (c) => c.emit(op, [c.x(0)]);
const binary = (op: OpName): ImportOp => (c) => elementwise(c, op, [c.x(0), c.x(1)]);
const chain = (op: OpName): ImportOp => (c) => c.all().reduce((a, b) => elementwise(c, op, [a, b]));

/** A bound of a Clip, spread to x; undefined where there is none. `open` tells the numbers by which exporters say so. */
function bound(c: Context, x: Value, i: number, name: "min" | "max", open: (n: number) => boolean): Value | undefined {
  const number = c.opset < 11 ? c.node.attrs.get(name)?.f : c.numbers(i)?.data[0];
  if (number === undefined ? !c.has(i) : open(number)) return undefined;
  return c.has(i) ? spread(c, reshape(c, c.x(i), []), x.type.shape) : like(c, number as number, x);
}

/** The lower bound first, so that the upper one holds where they cross. */
function clip(c: Context): Value {
  const x = c.x(0);
  // the ends of the element type; of integers those of 64 bits, too
  const [low, high] = x.type.dtype === "f32" ? [-3.4e38, 3.4e38] : [-(2 ** 31), 2 ** 31 - 1];
  const [min, max] = [bound(c, x, 1, "min", (n) => n <= low), bound(c, x, 2, "max", (n) => n >= high)];
  const raised = min ? c.emit("max", [x, min]) : x;
  return max ? c.emit("min", [raised, max]) : raised;
}

/** log(softmax(x)) is a log-softmax of the same logits. */
function logarithm(c: Context): Value {
  const x = c.x(0);
  const out = c.emit("log", [x]);
  const head = c.host.heads.get(x);
  if (head?.kind === "softmax") c.host.heads.set(out, { ...head, kind: "log-softmax" });
  return out;
}

/** x − y·⌊x/y⌋ (fmod = 0: the remainder has the divisor's sign) or x − y·trunc(x/y) (fmod = 1: the dividend's). */
function modulo(c: Context): Value {
  const shape = broadcastShape(c.shape(0), c.shape(1));
  const [x, y] = [spread(c, c.x(0), shape), spread(c, c.x(1), shape)];
  const zero = like(c, 0, x);
  const dividends = c.int("fmod", 0) !== 0;
  const quotient = c.emit("div", [x, y]);
  const whole = x.type.dtype === "f32" ? truncated(c, quotient) : quotient;
  // nothing to take off is nothing: also where y is infinite
  const rest = c.emit("select", [c.emit("eq", [whole, zero]), x, c.emit("sub", [x, c.emit("mul", [whole, y])])]);
  // of the wrong sign, it is one divisor away: with fmod only by a rounding of the quotient
  const down = (v: Value): Value => c.emit("lt", [v, zero]);
  const wrong = c.emit("and", [c.emit("ne", [rest, zero]), c.emit("ne", [down(rest), down(dividends ? x : y)])]);
  const back = dividends ? c.emit("select", [c.emit("eq", [down(rest), down(y)]), c.emit("neg", [y]), y]) : y;
  return c.emit("select", [wrong, c.emit("add", [rest, back]), rest]);
}

const truncated = (c: Context, x: Value): Value => c.emit("select", [c.emit("lt", [x, like(c, 0, x)]), c.emit("ceil", [x]), c.emit("floor", [x])]);

export const mathOps: Readonly<Record<string, ImportOp>> = {
  Add: binary("add"), Sub: binary("sub"), Mul: binary("mul"), Div: binary("div"), Pow: power, Mod: modulo,
  Neg: unary("neg"), Abs: unary("abs"), Sign: unary("sign"), Sqrt: unary("sqrt"), Exp: unary("exp"), Log: logarithm,
  Reciprocal: unary("reciprocal"), Erf: unary("erf"),
  Floor: unary("floor"), Ceil: unary("ceil"), Round: unary("round"),
  Min: chain("min"), Max: chain("max"), Sum: chain("add"),
  Mean: (c) => times(c, c.all().reduce((a, b) => elementwise(c, "add", [a, b])), 1 / c.count),
  Clip: clip,
  Less: binary("lt"), LessOrEqual: binary("le"), Greater: binary("gt"), GreaterOrEqual: binary("ge"), Equal: binary("eq"),
  Not: unary("not"), And: binary("and"), Or: binary("or"), Xor: binary("ne"),
  Where: (c) => elementwise(c, "select", [c.x(0), c.x(1), c.x(2)]),
};
