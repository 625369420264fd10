/** Elementwise operations: one scalar formula each, with its derivative. All inputs have the same shape. */
import type { Value } from "../graph.js";
import { empty, type NdArray } from "../ndarray.js";
import { type Emit, mismatch, type OpDef, stringAttr, type VjpContext } from "../op.js";
import { DTYPES, type DType, sameShape, type Type } from "../type.js";
import type { BINARY, COMPARE, LOGIC, UNARY } from "./names.js";

type Vjp = (c: VjpContext) => readonly (Value | undefined)[];

const like = (emit: Emit, value: number, v: Value): Value =>
  emit("broadcast", [emit("constant", [], { value, dtype: v.type.dtype })], { shape: v.type.shape, axes: [] });

/** erf to full float64 precision: Taylor series near 0, continued fraction of erfc beyond. */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 2.5) {
    let term = a;
    let total = a;
    for (let n = 1; n < 200 && Math.abs(term) > 1e-18 * total; n++) {
      term *= (-a * a) / n;
      total += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * total) / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / (Math.sqrt(Math.PI) * (a + fraction)));
}

/** Round half to even, as ONNX and WGSL do. */
const roundEven = (x: number): number => {
  const r = Math.round(x);
  return Math.abs(x % 1) === 0.5 && r % 2 !== 0 ? r - 1 : r;
};

const FLOAT: readonly DType[] = ["f32", "f16"];
const NUMBER: readonly DType[] = ["f32", "f16", "i32", "u32"];
const SIGNED: readonly DType[] = ["f32", "f16", "i32"];
const ANY: readonly DType[] = DTYPES;

function unary(
  name: (typeof UNARY)[number], doc: string, dtypes: readonly DType[], f: (x: number) => number, vjp: Vjp, result?: DType,
): OpDef {
  return {
    name, doc, arity: 1, attrs: {}, elementwise: true, vjp,
    infer(inputs) {
      const x = inputs[0] as Type;
      if (!dtypes.includes(x.dtype)) throw mismatch(name, inputs, `takes ${dtypes.join(" or ")}`);
      return [result ? { dtype: result, shape: x.shape } : x];
    },
    evaluate([x], _attrs, [t]) {
      const out = empty(t as Type);
      const from = (x as NdArray).data;
      const wrap = WRAP[(t as Type).dtype] ?? ((v: number) => v);
      for (let k = 0; k < from.length; k++) out.data[k] = wrap(f(from[k] as number));
      return [out];
    },
  };
}

const zero: Vjp = () => [undefined];

const word = new DataView(new ArrayBuffer(4));
/** The 32 bits of the float32 nearest to x, as a signed integer; and back. */
function bitsOf(x: number): number {
  word.setFloat32(0, x);
  return word.getInt32(0);
}
function fromBits(bits: number): number {
  word.setInt32(0, bits);
  return word.getFloat32(0);
}

/** Derivatives are written from the output where that frees the input (tanh, sigmoid, relu, exp, sqrt). */
export const unaryOps: Record<(typeof UNARY)[number], OpDef> = {
  neg: unary("neg", "-x", SIGNED, (x) => -x, ({ ct, emit }) => [emit("neg", [ct])]),
  abs: unary("abs", "|x|", NUMBER, Math.abs, ({ inputs: [x], ct, emit }) => [emit("mul", [ct, emit("sign", [x as Value])])]),
  sign: unary("sign", "-1, 0 or 1", SIGNED, Math.sign, zero),
  exp: unary("exp", "e^x", FLOAT, Math.exp, ({ output, ct, emit }) => [emit("mul", [ct, output])]),
  log: unary("log", "natural logarithm", FLOAT, Math.log, ({ inputs: [x], ct, emit }) => [emit("div", [ct, x as Value])]),
  sqrt: unary("sqrt", "square root", FLOAT, Math.sqrt, ({ output, ct, emit }) => [
    emit("mul", [ct, emit("div", [like(emit, 0.5, output), output])]),
  ]),
  reciprocal: unary("reciprocal", "1 / x", FLOAT, (x) => 1 / x, ({ output, ct, emit }) => [
    emit("neg", [emit("mul", [ct, emit("mul", [output, output])])]),
  ]),
  tanh: unary("tanh", "hyperbolic tangent", FLOAT, Math.tanh, ({ output, ct, emit }) => [
    emit("mul", [ct, emit("sub", [like(emit, 1, output), emit("mul", [output, output])])]),
  ]),
  sigmoid: unary("sigmoid", "1 / (1 + e^-x)", FLOAT, (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x))),
    ({ output, ct, emit }) => [emit("mul", [ct, emit("mul", [output, emit("sub", [like(emit, 1, output), output])])])]),
  relu: unary("relu", "x where x > 0, else 0", FLOAT, (x) => (x > 0 || Number.isNaN(x) ? x : 0), ({ output, ct, emit }) => [
    emit("select", [emit("gt", [output, like(emit, 0, output)]), ct, like(emit, 0, ct)]),
  ]),
  softplus: unary("softplus", "log(1 + e^x)", FLOAT, (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
    ({ inputs: [x], ct, emit }) => [emit("mul", [ct, emit("sigmoid", [x as Value])])]),
  erf: unary("erf", "2/√π ∫₀ˣ e^-t² dt", FLOAT, erf, ({ inputs: [x], ct, emit }) => {
    const gauss = emit("exp", [emit("neg", [emit("mul", [x as Value, x as Value])])]);
    return [emit("mul", [ct, emit("mul", [gauss, like(emit, 2 / Math.sqrt(Math.PI), gauss)])])];
  }),
  sin: unary("sin", "sine of radians", FLOAT, Math.sin, ({ inputs: [x], ct, emit }) => [emit("mul", [ct, emit("cos", [x as Value])])]),
  cos: unary("cos", "cosine of radians", FLOAT, Math.cos, ({ inputs: [x], ct, emit }) => [
    emit("neg", [emit("mul", [ct, emit("sin", [x as Value])])]),
  ]),
  atan: unary("atan", "inverse tangent, in (-π/2, π/2)", FLOAT, Math.atan, ({ inputs: [x], ct, emit }) => [
    emit("div", [ct, emit("add", [emit("mul", [x as Value, x as Value]), like(emit, 1, x as Value)])]),
  ]),
  // these two keep the relative accuracy near 0 that e^x - 1 and log(1 + x) lose in float32
  expm1: unary("expm1", "e^x - 1", FLOAT, Math.expm1, ({ output, ct, emit }) => [emit("mul", [ct, emit("add", [output, like(emit, 1, output)])])]),
  log1p: unary("log1p", "log(1 + x)", FLOAT, Math.log1p, ({ inputs: [x], ct, emit }) => [emit("div", [ct, emit("add", [x as Value, like(emit, 1, x as Value)])])]),
  floor: unary("floor", "largest integer ≤ x", FLOAT, Math.floor, zero),
  ceil: unary("ceil", "smallest integer ≥ x", FLOAT, Math.ceil, zero),
  round: unary("round", "nearest integer, half to even", FLOAT, roundEven, zero),
  not: unary("not", "logical not", ["bool"], (x) => (x === 0 ? 1 : 0), zero),
  detach: unary("detach", "x, with derivative zero", ANY, (x) => x, zero),
  bits: unary("bits", "the 32 bits of x, as a signed integer", ["f32"], bitsOf, zero, "i32"),
  from_bits: unary("from_bits", "the float of which x is the 32 bits", ["i32"], fromBits, zero, "f32"),
};

function binary(
  name: (typeof BINARY)[number] | (typeof COMPARE)[number] | (typeof LOGIC)[number],
  doc: string, dtypes: readonly DType[], f: (x: number, y: number) => number,
  vjp: Vjp, options: { commutative?: true; result?: DType; integer?: (x: number, y: number) => number } = {},
): OpDef {
  return {
    name, doc, arity: 2, attrs: {}, elementwise: true, vjp,
    ...(options.commutative ? { commutative: true as const } : {}),
    infer(inputs) {
      const [x, y] = inputs as [Type, Type];
      if (x.dtype !== y.dtype || !sameShape(x.shape, y.shape)) throw mismatch(name, inputs, "inputs must have one type");
      if (!dtypes.includes(x.dtype)) throw mismatch(name, inputs, `takes ${dtypes.join(" or ")}`);
      return [{ dtype: options.result ?? x.dtype, shape: x.shape }];
    },
    evaluate([x, y], _attrs, [t]) {
      const out = empty(t as Type);
      const [a, b] = [(x as NdArray).data, (y as NdArray).data];
      const wrap = WRAP[(x as NdArray).dtype];
      const g = (wrap && options.integer) ?? f;
      for (let k = 0; k < a.length; k++) out.data[k] = (wrap ?? ((v: number) => v))(g(a[k] as number, b[k] as number));
      return [out];
    },
  };
}

/** Integers wrap at 32 bits. */
const WRAP: Partial<Record<DType, (x: number) => number>> = { i32: (x) => x | 0, u32: (x) => x >>> 0 };
const none: Vjp = () => [undefined, undefined];

/** Ties: each operand gets half, so that the sum of both is right whichever way x = y is reached. */
const extremum = (op: "gt" | "lt"): Vjp => ({ inputs, ct, emit }) => {
  const [x, y] = inputs as [Value, Value];
  const half = emit("mul", [ct, like(emit, 0.5, ct)]);
  const tie = emit("eq", [x, y]);
  const side = (a: Value, b: Value) => emit("select", [tie, half, emit("select", [emit(op, [a, b]), ct, like(emit, 0, ct)])]);
  return [side(x, y), side(y, x)];
};

export const binaryOps: Record<(typeof BINARY)[number] | (typeof COMPARE)[number] | (typeof LOGIC)[number], OpDef> = {
  add: binary("add", "x + y", NUMBER, (x, y) => x + y, ({ ct }) => [ct, ct], { commutative: true }),
  sub: binary("sub", "x - y", NUMBER, (x, y) => x - y, ({ ct, emit }) => [ct, emit("neg", [ct])]),
  mul: binary("mul", "x · y", NUMBER, (x, y) => x * y, ({ inputs: [x, y], ct, emit }) => [
    emit("mul", [ct, y as Value]), emit("mul", [ct, x as Value]),
  ], { commutative: true, integer: Math.imul }),
  div: binary("div", "x / y (integers: towards zero)", NUMBER, (x, y) => x / y, ({ inputs: [, y], output, ct, emit }) => {
    const dx = emit("div", [ct, y as Value]);
    return [dx, emit("neg", [emit("mul", [dx, output])])];
  }),
  max: binary("max", "the larger", NUMBER, Math.max, extremum("gt"), { commutative: true }),
  min: binary("min", "the smaller", NUMBER, Math.min, extremum("lt"), { commutative: true }),
  pow: binary("pow", "x^y", FLOAT, (x, y) => x ** y, ({ inputs, output, ct, emit }) => {
    const [x, y] = inputs as [Value, Value];
    const lowered = emit("pow", [x, emit("sub", [y, like(emit, 1, y)])]);
    // log x only where x > 0: elsewhere the exponent has no derivative
    const log = emit("select", [emit("gt", [x, like(emit, 0, x)]), emit("log", [x]), like(emit, 0, x)]);
    // x^0 is 1 everywhere, at 0 too, where 0 · x^-1 is no number
    const slope = emit("select", [emit("eq", [y, like(emit, 0, y)]), like(emit, 0, y), emit("mul", [y, lowered])]);
    return [emit("mul", [ct, slope]), emit("mul", [ct, emit("mul", [output, log])])];
  }),
  lt: binary("lt", "x < y", NUMBER, (x, y) => Number(x < y), none, { result: "bool" }),
  le: binary("le", "x ≤ y", NUMBER, (x, y) => Number(x <= y), none, { result: "bool" }),
  gt: binary("gt", "x > y", NUMBER, (x, y) => Number(x > y), none, { result: "bool" }),
  ge: binary("ge", "x ≥ y", NUMBER, (x, y) => Number(x >= y), none, { result: "bool" }),
  eq: binary("eq", "x = y", ANY, (x, y) => Number(x === y), none, { result: "bool", commutative: true }),
  ne: binary("ne", "x ≠ y", ANY, (x, y) => Number(x !== y), none, { result: "bool", commutative: true }),
  and: binary("and", "both", ["bool"], (x, y) => Number(x !== 0 && y !== 0), none, { commutative: true }),
  or: binary("or", "either", ["bool"], (x, y) => Number(x !== 0 || y !== 0), none, { commutative: true }),
};

export const select: OpDef = {
  name: "select",
  doc: "x where the condition holds, else y",
  arity: 3, attrs: {}, elementwise: true,
  infer(inputs) {
    const [c, x, y] = inputs as [Type, Type, Type];
    if (c.dtype !== "bool" || x.dtype !== y.dtype || !sameShape(x.shape, y.shape) || !sameShape(c.shape, x.shape))
      throw mismatch("select", inputs, "takes bool, T, T of one shape");
    return [x];
  },
  vjp: ({ inputs: [c], ct, emit }) => [
    undefined,
    emit("select", [c as Value, ct, like(emit, 0, ct)]),
    emit("select", [c as Value, like(emit, 0, ct), ct]),
  ],
  evaluate([c, x, y], _attrs, [t]) {
    const out = empty(t as Type);
    const [k, a, b] = [(c as NdArray).data, (x as NdArray).data, (y as NdArray).data];
    for (let i = 0; i < a.length; i++) out.data[i] = (k[i] !== 0 ? a[i] : b[i]) as number;
    return [out];
  },
};

export const cast: OpDef = {
  name: "cast",
  doc: "x as another element type (to integers: towards zero; to bool: x ≠ 0)",
  arity: 1, attrs: { dtype: "string" }, elementwise: true,
  infer([x], attrs) {
    const dtype = stringAttr(attrs, "dtype") as DType;
    if (!DTYPES.includes(dtype)) throw mismatch("cast", [x as Type], `no element type "${dtype}"`);
    return [{ dtype, shape: (x as Type).shape }];
  },
  vjp: ({ inputs: [x], ct, emit }) => {
    const from = (x as Value).type.dtype;
    return [FLOAT.includes(from) && FLOAT.includes(ct.type.dtype) ? emit("cast", [ct], { dtype: from }) : undefined];
  },
  evaluate([x], _attrs, [t]) {
    const out = empty(t as Type);
    const to = (t as Type).dtype;
    const f = to === "bool" ? (v: number) => Number(v !== 0) : to === "i32" || to === "u32" ? Math.trunc : (v: number) => v;
    (x as NdArray).data.forEach((v, k) => { out.data[k] = f(v); });
    return [out];
  },
};
