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

/** Functions a kernel brings along where WGSL's own are inaccurate or undefined; `T` is f32 or vec4f. */
export const HELPERS = {
  // relative accuracy near 0 by a polynomial; no overflow; NaN passes through
  tanh: (T: string, name: string) => `fn ${name}(x: ${T}) -> ${T} {
  let z = x * x;
  let small = x + x * z * ((((-5.70498872745e-3f * z + 2.06390887954e-2f) * z - 5.37397155531e-2f) * z + 1.33314422036e-1f) * z - 3.33332819422e-1f);
  let a = select(abs(x), ${T}(15.0f), abs(x) > ${T}(15.0f));
  let large = sign(x) * (1.0f - 2.0f / (exp(2.0f * a) + 1.0f));
  return select(large, small, abs(x) < ${T}(0.625f));
}`,
  softplus: (T: string, name: string) => `fn ${name}(x: ${T}) -> ${T} {
  return select(x, ${T}(0.0f), x <= ${T}(0.0f)) + log(1.0f + exp(-abs(x)));
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
  // quadrant reduction and polynomials: built-in sine is off by 3e-3 on one software adapter
  sin: (T: string, name: string) => `fn ${name}(x: ${T}) -> ${T} {
  let k = round(x * 0.63661977237f);
  let r = (x - k * 1.5707963705f) + k * 4.3711388287e-8f;
  let z = r * r;
  let s = r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
  let c = 1.0f - 0.5f * z + z * z * (4.1666645683e-2f + z * (-1.3887316255e-3f + z * 2.4433157118e-5f));
  let q = k - 4.0f * floor(k * 0.25f);
  let even = select(-s, s, q < ${T}(0.5f));
  let odd = select(-c, c, q < ${T}(1.5f));
  let is_odd = ((q > ${T}(0.5f)) & (q < ${T}(1.5f))) | (q > ${T}(2.5f));
  return select(even, odd, is_odd);
}`,
  // pow of a negative base is defined for integer exponents
  pow: (T: string, name: string) => `fn ${name}(x: ${T}, y: ${T}) -> ${T} {
  let r = pow(abs(x), y);
  let odd = abs(y - 2.0f * floor(y * 0.5f)) > ${T}(0.5f);
  let signed = select(r, -r, (x < ${T}(0.0f)) & odd);
  return select(signed, ${T}(1.0f), y == ${T}(0.0f));
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
  abs: call("abs"), sign: call("sign"), exp: call("exp"), log: call("log"), sqrt: call("sqrt"),
  reciprocal: ([a], c) => `(${c.splat(1)} / ${a})`,
  tanh: helped("tanh"), softplus: helped("softplus"), erf: helped("erf"), sin: helped("sin"),
  cos: ([a], c) => `${c.helper("sin")}(${a} + ${c.splat(Math.PI / 2)})`,
  sigmoid: ([a], c) => `(${c.splat(1)} / (${c.splat(1)} + exp(-${a})))`,
  // select instead of max: a NaN must stay visible
  relu: ([a], c) => `select(${a}, ${c.splat(0)}, ${a} <= ${c.splat(0)})`,
  floor: call("floor"), ceil: call("ceil"), round: call("round"),
  not: ([a]) => `(!${a})`,
  detach: ([a]) => `${a}`,
  add: infix("+"), sub: infix("-"), mul: infix("*"), div: infix("/"),
  max: call("max"), min: call("min"), pow: helped("pow"),
  lt: infix("<"), le: infix("<="), gt: infix(">"), ge: infix(">="), eq: infix("=="), ne: infix("!="),
  and: infix("&"), or: infix("|"),
  select: ([c, a, b]) => `select(${b}, ${a}, ${c})`,
};
