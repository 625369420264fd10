/** Operations without tensor inputs, and the random source. */
import { CompileError } from "../error.js";
import { empty, type NdArray } from "../ndarray.js";
import { floatAttr, intAttr, intsAttr, mismatch, type OpDef, stringAttr } from "../op.js";
import { DTYPES, type DType, strides, type Type } from "../type.js";

export const constant: OpDef = {
  name: "constant",
  doc: "a scalar",
  arity: 0, attrs: { value: "float", dtype: "string" },
  infer(_inputs, attrs) {
    floatAttr(attrs, "value");
    const dtype = stringAttr(attrs, "dtype") as DType;
    if (!DTYPES.includes(dtype)) throw new CompileError("bad-attribute", `constant: no element type "${dtype}"`);
    return [{ dtype, shape: [] }];
  },
  vjp: () => [],
  evaluate(_inputs, attrs, [t]) {
    const out = empty(t as Type);
    out.data[0] = floatAttr(attrs, "value");
    return [out];
  },
};

export const iota: OpDef = {
  name: "iota",
  doc: "the index along one axis, as i32",
  arity: 0, attrs: { shape: "ints", axis: "int" },
  infer(_inputs, attrs) {
    const shape = intsAttr(attrs, "shape");
    const axis = intAttr(attrs, "axis");
    if (axis < 0 || axis >= shape.length) throw new CompileError("bad-attribute", `iota: no axis ${axis} in [${shape}]`);
    return [{ dtype: "i32", shape }];
  },
  vjp: () => [],
  evaluate(_inputs, attrs, [t]) {
    const { shape } = t as Type;
    const axis = intAttr(attrs, "axis");
    const step = strides(shape)[axis] as number;
    const out = empty(t as Type);
    for (let k = 0; k < out.data.length; k++) out.data[k] = Math.floor(k / step) % (shape[axis] as number);
    return [out];
  },
};

/** One round of an integer hash on 32 bits (xor-shift, multiply). `codegen` spells the same lines in WGSL. */
export function mix32(value: number): number {
  let x = value >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d) >>> 0;
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b) >>> 0;
  return (x ^ (x >>> 16)) >>> 0;
}

/** Random in (0, 1) with 23 bits, exact in f32: a hash of (element, key, stream), so any element can be made alone. */
export function uniformAt(index: number, key0: number, key1: number, stream: number): number {
  let x = mix32((index + Math.imul(key0, 0x9e3779b9)) >>> 0);
  x = mix32((x ^ (key1 >>> 0)) >>> 0);
  x = mix32((x + Math.imul(stream, 0x85ebca6b)) >>> 0);
  return ((x >>> 9) + 0.5) / 8388608;
}

export const uniform: OpDef = {
  name: "uniform",
  doc: "counter-based random numbers in (0, 1): a hash of element index, key (two u32 scalars) and stream",
  arity: 2, attrs: { shape: "ints", stream: "int" },
  infer(inputs, attrs) {
    for (const t of inputs) if (t.dtype !== "u32" || t.shape.length !== 0) throw mismatch("uniform", inputs, "the key is two u32 scalars");
    intAttr(attrs, "stream");
    return [{ dtype: "f32", shape: intsAttr(attrs, "shape") }];
  },
  vjp: () => [undefined, undefined],
  evaluate([a, b], attrs, [t]) {
    const out = empty(t as Type);
    const [key0, key1] = [(a as NdArray).data[0] as number, (b as NdArray).data[0] as number];
    const stream = intAttr(attrs, "stream");
    for (let k = 0; k < out.data.length; k++) out.data[k] = uniformAt(k, key0, key1, stream);
    return [out];
  },
};
