/** Stored tensors to numbers and back. */
import { CompileError } from "../../ir/error.js";
import type { DType } from "../../ir/type.js";
import { type ExternalRef, type OnnxTensor, type OnnxType, onnxType, TYPE_BYTES } from "./model.js";

export interface TensorData {
  /** What the IR calls it: all floats are f32, all integers i32. */
  readonly dtype: DType;
  readonly stored: OnnxType;
  readonly shape: readonly number[];
  /**
   * Floats: a Float32Array (double: Float64Array). Integers and booleans: plain numbers; an int64 beyond 2^53 is the nearest
   * number (such values are only ever "as far as possible" in a Slice). `asI32` checks what becomes an element of the IR.
   */
  readonly data: Float32Array | Float64Array | readonly number[];
}

type NumericType = Exclude<OnnxType, "string">;
type Reader = (ref: ExternalRef) => Uint8Array;

/** More elements than this in one tensor is a damaged or hostile file: no buffer on any device holds it. */
export const MAX_ELEMENTS = 2 ** 31;

/** Elements of a tensor. @throws bad-model if a dimension is negative or the product is beyond any device. */
export function countElements(t: OnnxTensor): number {
  const total = t.dims.reduce((product, n) => product * n, 1);
  if (t.dims.some((n) => !Number.isSafeInteger(n) || n < 0) || total >= MAX_ELEMENTS)
    throw new CompileError("bad-model", `a tensor has the impossible shape [${t.dims.join(", ")}]`, `tensor "${t.name}"`);
  return total;
}

/** The element type of a tensor. @throws unsupported-op for strings, complex numbers and types below 8 bits. */
export function numericType(t: OnnxTensor): NumericType {
  const stored = onnxType(t.type);
  if (stored === undefined || stored === "string")
    throw new CompileError("unsupported-op", `tensors of ${stored ?? `data type ${t.type}`} are not supported`, `tensor "${t.name}"`,
      "convert the model to float32 weights");
  return stored;
}

/** The IR's element type for a stored one. */
export const irType = (stored: NumericType): DType =>
  stored === "bool" ? "bool" : stored === "float" || stored === "float16" || stored === "bfloat16" || stored === "double" ? "f32" : "i32";

/** Throws bad-model unless the tensor's storage holds exactly as many elements as its shape says (external data: not looked at). */
export function checkStorage(t: OnnxTensor): void {
  const n = countElements(t);
  const stored = onnxType(t.type);
  if (t.external || stored === undefined) return;
  const held = stored === "string" ? t.strings : t.raw ? t.raw.byteLength / TYPE_BYTES[stored] : typedList(t, stored).length;
  if (held !== n)
    throw new CompileError("bad-model", `shape [${t.dims.join(", ")}] has ${n} elements but the file holds ${held}`, `tensor "${t.name}"`);
}

/** The list of a TensorProto in which a type is kept when it is not raw. */
function typedList(t: OnnxTensor, stored: NumericType): readonly number[] {
  switch (stored) {
    case "float": return t.floats;
    case "double": return t.doubles;
    case "int64": return t.int64s;
    case "uint32": case "uint64": return t.uint64s;
    default: return t.int32s;
  }
}

/** The numbers of a tensor. @throws unsupported-op, bad-model, missing-data. */
export function decodeTensor(t: OnnxTensor, external: Reader): TensorData {
  const stored = numericType(t);
  const n = countElements(t);
  const raw = t.external ? external(t.external) : t.raw;
  if (raw && raw.byteLength !== n * TYPE_BYTES[stored])
    throw new CompileError("bad-model", `shape [${t.dims.join(", ")}] of ${stored} needs ${n * TYPE_BYTES[stored]} bytes, the file has ${raw.byteLength}`,
      `tensor "${t.name}"`);
  if (!raw) checkStorage(t);
  const data = raw ? decodeRaw(raw, stored) : decodeList(typedList(t, stored), stored);
  return { dtype: irType(stored), stored, shape: t.dims, data };
}

function decodeList(list: readonly number[], stored: NumericType): TensorData["data"] {
  switch (stored) {
    case "float": return Float32Array.from(list);
    case "double": return Float64Array.from(list);
    case "float16": return Float32Array.from(list, widenHalf);
    case "bfloat16": return Float32Array.from(list, widenBrain);
    default: return [...list];
  }
}

/** Little-endian bytes to numbers. The bytes may lie at any address: they are copied first. */
export function decodeRaw(raw: Uint8Array, stored: NumericType): TensorData["data"] {
  const { buffer } = new Uint8Array(raw); // not raw.slice(): that of a Buffer is another view of the same bytes
  switch (stored) {
    case "float": return new Float32Array(buffer);
    case "double": return new Float64Array(buffer);
    case "float16": return Float32Array.from(new Uint16Array(buffer), widenHalf);
    case "bfloat16": return Float32Array.from(new Uint16Array(buffer), widenBrain);
    case "int64": return Array.from(new BigInt64Array(buffer), Number);
    case "uint64": return Array.from(new BigUint64Array(buffer), Number);
    case "int32": return Array.from(new Int32Array(buffer));
    case "uint32": return Array.from(new Uint32Array(buffer));
    case "int16": return Array.from(new Int16Array(buffer));
    case "uint16": return Array.from(new Uint16Array(buffer));
    case "int8": return Array.from(new Int8Array(buffer));
    case "uint8": return Array.from(new Uint8Array(buffer));
    case "bool": return Array.from(new Uint8Array(buffer), (v) => Number(v !== 0));
  }
}

/** Float types a weight can be stored in. */
export type FloatType = "float" | "double" | "float16" | "bfloat16";

/** Numbers as the stored type's little-endian bytes; fp16 and bf16 rounded to nearest, ties to even. */
export function encodeRaw(values: Float32Array, stored: FloatType): Uint8Array {
  const typed = stored === "float" ? values.slice() : stored === "double" ? Float64Array.from(values)
    : Uint16Array.from(values, stored === "float16" ? narrowHalf : narrowBrain);
  return new Uint8Array(typed.buffer, typed.byteOffset, typed.byteLength);
}

const bits = new DataView(new ArrayBuffer(4));

/** IEEE half precision bits to a number. */
export function widenHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** A number to IEEE half precision bits: nearest, ties to even; beyond 65504 infinity. */
export function narrowHalf(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const x = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (x >= 65520) return sign | 0x7c00;
  // the spacing of halves around x; below 2^-14 it stays that of the subnormals
  const exponent = x < 2 ** -14 ? -14 : Math.floor(Math.log2(x));
  const steps = roundEven(x / 2 ** (exponent - 10));
  // a carry out of the fraction lands in the exponent by itself
  return sign | ((exponent + 14) * 1024 + steps);
}

const roundEven = (x: number): number => {
  const low = Math.floor(x);
  const rest = x - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? low + 1 : low;
};

/** bfloat16 bits to a number. */
export function widenBrain(brain: number): number {
  bits.setUint32(0, (brain & 0xffff) << 16);
  return bits.getFloat32(0);
}

/** A float32 number to bfloat16 bits: nearest, ties to even. */
export function narrowBrain(value: number): number {
  bits.setFloat32(0, value);
  const u = bits.getUint32(0);
  if (Number.isNaN(value)) return 0x7fc0;
  return ((u + 0x7fff + ((u >>> 16) & 1)) >>> 16) & 0xffff;
}

/** Throws bad-model if an integer does not fit the IR's 32 bits. */
export function asI32(values: ArrayLike<number>, where: string): void {
  for (let k = 0; k < values.length; k++) {
    const v = values[k] as number;
    if (v < -(2 ** 31) || v >= 2 ** 31)
      throw new CompileError("unsupported-op", `the integer ${v} does not fit in 32 bits`, where, "kfacc computes with 32-bit integers");
  }
}
