/** What is read off the bits of floats: NaN, infinities, and rounding to 16 bits. */
import type { Value } from "../../../ir/graph.js";
import type { Context, ImportOp } from "../context.js";
import { onnxType } from "../model.js";
import { like } from "./common.js";

/** Bits of +∞: greater ones, without their sign, are NaN. */
const INFINITE = 0x7f800000;
const LOWEST = -(2 ** 31);

/** The bits of |x|, as an integer: it grows with |x|. */
function magnitude(c: Context, bits: Value): Value {
  const negative = c.emit("lt", [bits, like(c, 0, bits)]);
  return c.emit("select", [negative, c.emit("sub", [bits, like(c, LOWEST, bits)]), bits]);
}

const isNan: ImportOp = (c) => {
  const size = magnitude(c, c.emit("bits", [c.x(0)]));
  return c.emit("gt", [size, like(c, INFINITE, size)]);
};

const isInf: ImportOp = (c) => {
  const bits = c.emit("bits", [c.x(0)]);
  const is = (number: number): Value => c.emit("eq", [bits, like(c, number, bits)]);
  const [up, down] = [c.int("detect_positive", 1) !== 0, c.int("detect_negative", 1) !== 0];
  if (up && down) return c.emit("or", [is(INFINITE), is(INFINITE + LOWEST)]);
  if (!up && !down) return c.emit("ne", [bits, bits]);
  return is(up ? INFINITE : INFINITE + LOWEST);
};

/** n to the nearest multiple of 2^k, ties to the even one: integers that are not negative. */
function roundBits(c: Context, n: Value, k: number): Value {
  const unit = like(c, 2 ** k, n);
  const whole = c.emit("div", [n, unit]);
  const odd = c.emit("sub", [whole, c.emit("mul", [c.emit("div", [whole, like(c, 2, n)]), like(c, 2, n)])]);
  const up = c.emit("add", [c.emit("add", [n, like(c, 2 ** (k - 1) - 1, n)]), odd]);
  return c.emit("mul", [c.emit("div", [up, unit]), unit]);
}

interface Half {
  /** Bits of a float32's fraction that the type has not. */
  readonly lost: number;
  /** From here on a number is rounded to infinity. */
  readonly infinite: number;
  /** Below, the type has the even spacing `step`. */
  readonly small: number;
  readonly step: number;
}
const HALVES: Readonly<Record<"float16" | "bfloat16", Half>> = {
  float16: { lost: 13, infinite: 65520, small: 2 ** -14, step: 2 ** -24 },
  bfloat16: { lost: 16, infinite: (2 - 2 ** -8) * 2 ** 127, small: 0, step: 0 },
};

/** x to the nearest number of a 16-bit type, ties to even. Its derivative is that of x, as every framework has it. */
export function rounded(c: Context, x: Value, type: "float16" | "bfloat16"): Value {
  const { lost, infinite, small, step } = HALVES[type];
  const bits = c.emit("bits", [x]);
  const size = magnitude(c, bits);
  const sign = c.emit("sub", [bits, size]);
  const finite = c.emit("lt", [c.emit("abs", [x]), like(c, infinite, x)]);
  // NaN keeps its bits; what is no longer finite gets those of infinity
  const nan = c.emit("gt", [size, like(c, INFINITE, size)]);
  const near = c.emit("select", [finite, roundBits(c, c.emit("select", [finite, size, like(c, 0, size)]), lost), c.emit("select", [nan, size, like(c, INFINITE, size)])]);
  let y = c.emit("from_bits", [c.emit("add", [near, sign])]);
  if (small > 0) {
    const fine = c.emit("lt", [c.emit("abs", [x]), like(c, small, x)]);
    const counted = c.emit("mul", [c.emit("round", [c.emit("mul", [x, like(c, 1 / step, x)])]), like(c, step, x)]);
    y = c.emit("select", [fine, counted, y]);
  }
  // where the result is finite, x plus what rounding changes: to the last bit, since the difference is exact
  return c.emit("select", [finite, c.emit("add", [x, c.emit("detach", [c.emit("sub", [y, x])])]), c.emit("detach", [y])]);
}

/** The same bits, read as another type of their width. */
const bitCast: ImportOp = (c) => {
  const to = onnxType(c.int("to"));
  const x = c.x(0);
  if (to === "int32" && x.type.dtype === "f32") return c.emit("bits", [x]);
  if (to === "float" && x.type.dtype === "i32") return c.emit("from_bits", [x]);
  if ((to === "float" && x.type.dtype === "f32") || (to === "int32" && x.type.dtype === "i32")) return x;
  throw c.refuse(`from ${x.type.dtype} to ${to ?? `data type ${c.int("to")}`} is not supported`, "only float and int32 are read as one another");
};

export const bitOps: Readonly<Record<string, ImportOp>> = { IsNaN: isNan, IsInf: isInf, BitCast: bitCast };
