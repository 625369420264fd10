/** Casts. The IR has one type for all floats and one for all integers: what a narrower type would drop is dropped by arithmetic. */
import type { Value } from "../../../ir/graph.js";
import type { Context, ImportOp } from "../context.js";
import { type OnnxType, onnxType } from "../model.js";
import { irType } from "../tensor.js";
import { rounded } from "./bits.js";
import { castTo, like } from "./common.js";

/** Integers of 8 and 16 bits: how many numbers there are, and the smallest. */
const NARROW: Partial<Readonly<Record<OnnxType, readonly [number, number]>>> = { int8: [256, -128], uint8: [256, 0], int16: [65536, -32768], uint16: [65536, 0] };

/** Integers wrapped to a narrower type: x modulo `count`, from `low` on. */
function wrapped(c: Context, x: Value, [count, low]: readonly [number, number]): Value {
  const n = like(c, count, x);
  const from = c.emit("sub", [x, like(c, low, x)]);
  const rest = c.emit("sub", [from, c.emit("mul", [c.emit("div", [from, n]), n])]);
  const digit = c.emit("select", [c.emit("lt", [rest, like(c, 0, rest)]), c.emit("add", [rest, n]), rest]);
  return c.emit("add", [digit, like(c, low, x)]);
}

/** Input 0 as an ONNX type. */
function converted(c: Context, to: Exclude<OnnxType, "string">): Value {
  const x = c.x(0);
  const from = x.type.dtype;
  if (to === "float16" || to === "bfloat16") return half(c, castTo(c, x, "f32"), to);
  if ((to === "uint32" || to === "uint64") && from === "i32" && !c.numbers(0)?.data.every((n) => n >= 0))
    throw c.refuse(`integers to ${to} are not supported`, "kfacc computes with signed integers of 32 bits; export them as int64");
  // as a comparison, which is true of NaN on every adapter
  if (to === "bool" && from === "f32") return c.emit("ne", [x, like(c, 0, x)]);
  const y = castTo(c, x, irType(to));
  const narrow = NARROW[to];
  return narrow && from !== "bool" ? wrapped(c, y, narrow) : y;
}

/** Rounded; but a weight stays itself, so that it is trained as one: half-precision models are computed in float32 throughout. */
function half(c: Context, x: Value, to: "float16" | "bfloat16"): Value {
  // of values in the graph only weights have known numbers
  if (x.name !== "" && c.numbers(0)) {
    c.host.note(`${c.where}: the weight "${c.node.inputs[0]}" is not rounded to ${to}; kfacc computes in float32`);
    return x;
  }
  return rounded(c, x, to);
}

const cast: ImportOp = (c) => {
  const to = onnxType(c.int("to"));
  if (to === undefined || to === "string") throw c.refuse(`to ${to ?? `data type ${c.int("to")}`} is not supported`);
  return converted(c, to);
};

/** To the type of input 1; of a computed value only the IR's is known, which has one for all floats. */
const castLike: ImportOp = (c) => {
  const to = c.storedType(1);
  return to === undefined || to === "string" ? castTo(c, c.x(0), c.dtype(1)) : converted(c, to);
};

export const castOps: Readonly<Record<string, ImportOp>> = { Cast: cast, CastLike: castLike };
