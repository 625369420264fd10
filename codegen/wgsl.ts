/** Spelling of numbers, types and scalar operations in WGSL, and the few functions kernels bring along. */
import type { ScalarOp, ScalarType } from "./kernel.js";

/** A literal of the given type. Infinities and NaN come from bits that the compiler cannot fold. */
export function literal(dtype: ScalarType, value: number): string {
  switch (dtype) {
    case "bool": return value === 0 ? "false" : "true";
    case "i32": return value === -2147483648 ? "(-2147483647 - 1)" : `${Math.trunc(value)}`;
    case "u32": return `${value >>> 0}u`;
    case "f32": {
      const rounded = Math.fround(value);
      if (Number.isNaN(rounded)) return "bitcast<f32>(NAN_BITS)";
      if (!Number.isFinite(rounded)) return rounded > 0 ? "bitcast<f32>(INF_BITS)" : "(-bitcast<f32>(INF_BITS))";
      const text = Object.is(rounded, -0) ? "-0.0" : `${rounded}`;
      return /[.e]/.test(text) ? `${text}f` : `${text}.0f`;
    }
    default: return dtype satisfies never;
  }
}

export const needsBits = (value: number): boolean => !Number.isFinite(Math.fround(value));
export const BITS = "var<private> INF_BITS: u32 = 0x7f800000u;\nvar<private> NAN_BITS: u32 = 0x7fc00000u;";

export const vectorOf = (dtype: ScalarType): string => ({ f32: "vec4f", i32: "vec4i", u32: "vec4u", bool: "vec4<bool>" })[dtype];

/** The unsigned, or signed, integers of T's width. */
const bitsOf = (T: string, sign: "u" | "i" = "u"): string => (T === "f32" ? `${sign}32` : `vec4${sign}`);
/** True where x is NaN. On the bits: drivers take comparisons of floats for ordered ones and drop `x != x`. */
export const isNan = (T: string, x: string): string => `((bitcast<${bitsOf(T)}>(${x}) & ${bitsOf(T)}(0x7fffffffu)) > ${bitsOf(T)}(0x7f800000u))`;

/** A variable that holds the bits of NaN: the compiler refuses to fold a constant one. */
const nanOf = (name: string): string => `var<private> ${name}_nan: u32 = 0x7fc00000u;`;

/** Sine and cosine: quadrant reduction and polynomials, because the built-in ones are off by 3e-3 on one software adapter. `shift` quadrants are added. */
const trig = (T: string, name: string, shift: number): string => `fn ${name}(x: ${T}) -> ${T} {
  let k = round(x * 0.63661977237f);
  // π/2 in three parts: products with the first two are exact while k < 2^13
  let r = ((x - k * 1.5703125f) - k * 4.837512969970703125e-4f) - k * 7.5497899548918822e-8f;
  let z = r * r;
  let s = r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
  let c = 1.0f - 0.5f * z + z * z * (4.1666645683e-2f + z * (-1.3887316255e-3f + z * 2.4433157118e-5f));
  let n = k + ${shift}.0f;
  let q = n - 4.0f * floor(n * 0.25f);
  let even = select(-s, s, q < ${T}(0.5f));
  let odd = select(-c, c, q < ${T}(1.5f));
  let is_odd = ((q > ${T}(0.5f)) & (q < ${T}(1.5f))) | (q > ${T}(2.5f));
  return select(even, odd, is_odd);
}`;

/** Functions a kernel brings along where WGSL's own are inaccurate or undefined; `T` is f32 or vec4f. NaN passes through all of them. */
export const HELPERS = {
  // by the bits of a negative number that is no NaN: drivers make a maximum of `x <= 0`, and that hides NaN
  relu: (T: string, name: string) => `fn ${name}(x: ${T}) -> ${T} {
  return select(x, ${T}(0.0f), bitcast<${bitsOf(T, "i")}>(x) <= ${bitsOf(T, "i")}(-8388608));
}`,
  // one software adapter makes Infinity of exp(NaN), log |x| of a negative x and -88 of log 0
  exp: (T: string, name: string) => `fn ${name}(x: ${T}) -> ${T} {
  return select(exp(x), x, ${isNan(T, "x")});
}`,
  log: (T: string, name: string) => `${nanOf(name)}
var<private> ${name}_inf: u32 = 0xff800000u;
fn ${name}(x: ${T}) -> ${T} {
  let ends = select(${T}(bitcast<f32>(${name}_nan)), ${T}(bitcast<f32>(${name}_inf)), x == ${T}(0.0f));
  return select(select(log(x), ends, x <= ${T}(0.0f)), x, ${isNan(T, "x")});
}`,
  max: (T: string, name: string) => `fn ${name}(x: ${T}, y: ${T}) -> ${T} {
  return select(max(x, y), x + y, ${isNan(T, "x")} | ${isNan(T, "y")});
}`,
  min: (T: string, name: string) => `fn ${name}(x: ${T}, y: ${T}) -> ${T} {
  return select(min(x, y), x + y, ${isNan(T, "x")} | ${isNan(T, "y")});
}`,
  // relative accuracy near 0 by a polynomial; no overflow
  tanh: (T: string, name: string) => `fn ${name}(x: ${T}) -> ${T} {
  let z = x * x;
  let small = x + x * z * ((((-5.70498872745e-3f * z + 2.06390887954e-2f) * z - 5.37397155531e-2f) * z + 1.33314422036e-1f) * z - 3.33332819422e-1f);
  let a = select(abs(x), ${T}(15.0f), abs(x) > ${T}(15.0f));
  let large = sign(x) * (1.0f - 2.0f / (exp(2.0f * a) + 1.0f));
  return select(select(large, small, abs(x) < ${T}(0.625f)), x, ${isNan(T, "x")});
}`,
  // log(1 + t) = 2·artanh(t / (2 + t)): relative accuracy where t is small, too
  softplus: (T: string, name: string) => `fn ${name}(x: ${T}) -> ${T} {
  let t = exp(-abs(x));
  let s = t / (2.0f + t);
  let z = s * s;
  let series = 1.0f + z * (0.33333333333f + z * (0.2f + z * (0.14285714286f + z * (0.11111111111f + z * (0.090909090909f + z * 0.076923076923f)))));
  return max(x, ${T}(0.0f)) + 2.0f * s * series;
}`,
  // Taylor near 0; beyond, a Chebyshev fit of erfc with relative error 1.2e-7
  erf: (T: string, name: string) => `fn ${name}(x: ${T}) -> ${T} {
  let z = x * x;
  let small = 1.1283791671f * x * (1.0f - z * (0.33333333333f - z * (0.1f - z * (0.023809523810f - z * (4.6296296296e-3f - z * (7.5757575758e-4f - z * 1.0683760684e-4f))))));
  let a = abs(x);
  let t = 1.0f / (1.0f + 0.5f * a);
  let p = -1.26551223f + t * (1.00002368f + t * (0.37409196f + t * (0.09678418f + t * (-0.18628806f + t * (0.27886807f + t * (-1.13520398f + t * (1.48851587f + t * (-0.82215223f + t * 0.17087277f))))))));
  let large = sign(x) * (1.0f - t * exp(p - z));
  return select(large, small, a < ${T}(0.5f));
}`,
  // a polynomial below tan(π/8), the two upper ranges folded onto it; WGSL grants its own 4096 ulp
  atan: (T: string, name: string) => `fn ${name}(x: ${T}) -> ${T} {
  let a = abs(x);
  let middle = a > ${T}(0.41421356237f);
  let high = a > ${T}(2.4142135624f);
  let t = select(select(a, (a - 1.0f) / (a + 1.0f), middle), -1.0f / a, high);
  let z = t * t;
  let p = t + t * z * (-0.33332949f + z * (0.1997771f + z * (-0.13877679f + z * 0.08053722f)));
  let y = select(select(p, p + 0.78539816340f, middle), p + 1.5707963268f, high);
  return select(select(y, -y, x < ${T}(0.0f)), x, ${isNan(T, "x")});
}`,
  // Taylor near 0; `far` is e^x - 1 as it stands
  expm1: (T: string, name: string) => `fn ${name}(x: ${T}, far: ${T}) -> ${T} {
  let near = x + x * x * (0.5f + x * (0.16666666667f + x * (4.1666666667e-2f + x * (8.3333333333e-3f + x * (1.3888888889e-3f + x * (1.9841269841e-4f + x * 2.4801587302e-5f))))));
  return select(far, near, abs(x) < ${T}(0.5f));
}`,
  // 2·artanh(x / (2 + x)) while 1 + x is within a factor 2 of 1; `far` is log(1 + x) as it stands
  log1p: (T: string, name: string) => `fn ${name}(x: ${T}, far: ${T}) -> ${T} {
  let s = x / (2.0f + x);
  let z = s * s;
  let near = 2.0f * s * (1.0f + z * (0.33333333333f + z * (0.2f + z * (0.14285714286f + z * (0.11111111111f + z * (0.090909090909f + z * 0.076923076923f))))));
  return select(far, near, (x > ${T}(-0.5f)) & (x < ${T}(1.0f)));
}`,
  // functions, so that no compiler sees the bits of a constant NaN and refuses them
  bits: (T: string, name: string) => `fn ${name}(x: ${T}) -> ${bitsOf(T, "i")} {
  return bitcast<${bitsOf(T, "i")}>(x);
}`,
  from_bits: (T: string, name: string) => `fn ${name}(x: ${bitsOf(T, "i")}) -> ${T} {
  return bitcast<${T}>(x);
}`,
  sin: (T: string, name: string) => trig(T, name, 0),
  cos: (T: string, name: string) => trig(T, name, 1),
  // pow of a negative base is defined for whole exponents only
  pow: (T: string, name: string) => `${nanOf(name)}
fn ${name}(x: ${T}, y: ${T}) -> ${T} {
  let r = pow(abs(x), y);
  let odd = abs(y - 2.0f * floor(y * 0.5f)) > ${T}(0.5f);
  let negative = x < ${T}(0.0f);
  let signed = select(select(r, -r, negative & odd), ${T}(bitcast<f32>(${name}_nan)), negative & (floor(y) != y));
  let zero = select(signed, ${T}(0.0f), (x == ${T}(0.0f)) & (y > ${T}(0.0f)));
  let pole = select(zero, ${T}(1.0f) / select(abs(x), x, odd), (x == ${T}(0.0f)) & (y < ${T}(0.0f)));
  let whole = select(pole, ${T}(1.0f), y == ${T}(0.0f));
  return select(whole, x + y, ${isNan(T, "x")} | ${isNan(T, "y")});
}`,
} as const;
export type Helper = keyof typeof HELPERS;

/** Helpers by name (`tanh_s` for scalars, `tanh_v` for vec4f) as program text. */
export const helperText = (names: Iterable<string>): string =>
  [...names].sort().map((name) => HELPERS[name.slice(0, -2) as Helper](name.endsWith("_v") ? "vec4f" : "f32", name)).join("\n");

type Spell = (args: readonly string[], c: { readonly dtype: ScalarType; readonly splat: (value: number) => string; readonly helper: (name: Helper) => string }) => string;
const infix = (sign: string): Spell => ([a, b]) => `(${a} ${sign} ${b})`;
const call = (name: string): Spell => (args) => `${name}(${args.join(", ")})`;
const helped = (name: Helper): Spell => (args, c) => `${c.helper(name)}(${args.join(", ")})`;

/** How each scalar operation is written. `dtype` is the operands' element type. A missing row does not typecheck. */
export const SPELL: Record<ScalarOp, Spell> = {
  neg: ([a]) => `(-${a})`,
  abs: call("abs"), sign: call("sign"), exp: helped("exp"), log: helped("log"), sqrt: call("sqrt"),
  reciprocal: ([a], c) => `(${c.splat(1)} / ${a})`,
  tanh: helped("tanh"), softplus: helped("softplus"), erf: helped("erf"), sin: helped("sin"),
  cos: helped("cos"), atan: helped("atan"), bits: helped("bits"), from_bits: helped("from_bits"),
  expm1: ([a], c) => `${c.helper("expm1")}(${a}, ${c.helper("exp")}(${a}) - ${c.splat(1)})`,
  log1p: ([a], c) => `${c.helper("log1p")}(${a}, ${c.helper("log")}(${c.splat(1)} + ${a}))`,
  sigmoid: ([a], c) => `(${c.splat(1)} / (${c.splat(1)} + ${c.helper("exp")}(-${a})))`,
  relu: helped("relu"),
  floor: call("floor"), ceil: call("ceil"), round: call("round"),
  not: ([a]) => `(!${a})`,
  detach: ([a]) => `${a}`,
  add: infix("+"), sub: infix("-"), mul: infix("*"), div: infix("/"),
  max: (args, c) => (c.dtype === "f32" ? helped : call)("max")(args, c), min: (args, c) => (c.dtype === "f32" ? helped : call)("min")(args, c), pow: helped("pow"),
  lt: infix("<"), le: infix("<="), gt: infix(">"), ge: infix(">="), eq: infix("=="),
  // one software adapter takes `!=` for an ordered comparison, false of NaN
  ne: ([a, b], c) => (c.dtype === "f32" ? `(!(${a} == ${b}))` : `(${a} != ${b})`),
  and: infix("&"), or: infix("|"),
  select: ([c, a, b]) => `select(${b}, ${a}, ${c})`,
};
