/**
 * Safetensors: named arrays in one file. Weights, checkpoints and Fisher factors are stored in it.
 *
 *   u64 header length · JSON header {name: {dtype, shape, data_offsets}}, padded with spaces to 8 bytes · data
 *
 * What `encode` writes depends on contents alone, never on insertion order: wider element types first (so every array is
 * aligned to its own elements), then names by code unit; metadata keys sorted. Browser-safe; arrays are little-endian, as
 * is every host of WebGPU.
 */
import { RuntimeFault } from "./artifact.js";

/** Bytes per element. */
const WIDTH = { BOOL: 1, U8: 1, I8: 1, I16: 2, U16: 2, F16: 2, BF16: 2, I32: 4, U32: 4, F32: 4, F64: 8, I64: 8, U64: 8 } as const;

export type SafeDType = keyof typeof WIDTH;

export type TensorData =
  | Uint8Array
  | Int8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array;

export interface SafeTensor {
  readonly dtype: SafeDType;
  readonly shape: readonly number[];
  /** An array of the dtype (F16 and BF16 as their bits), or, for `encode`, its bytes. */
  readonly data: TensorData;
}

export interface SafeFile {
  readonly tensors: Readonly<Record<string, SafeTensor>>;
  readonly metadata: Readonly<Record<string, string>>;
}

/** A longer header is refused before it is parsed: 16 MiB is room for 100 000 tensors, and bounds what JSON can unfold to. */
const MAX_HEADER = 1 << 24;

const METADATA = "__metadata__";

const byCodeUnit = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

const elements = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1);

const bytesOf = (data: ArrayBufferView): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/**
 * The file's bytes.
 *
 * @throws RuntimeFault "internal" if an array's length does not fit its shape, or a tensor is named `__metadata__`.
 */
export function encode(tensors: Readonly<Record<string, SafeTensor>>, metadata: Readonly<Record<string, string>> = {}): Uint8Array {
  const ordered = Object.entries(tensors).sort(([a, s], [b, t]) => WIDTH[t.dtype] - WIDTH[s.dtype] || byCodeUnit(a, b));
  const fields: string[] = [];
  const notes = Object.entries(metadata).sort(([a], [b]) => byCodeUnit(a, b));
  // The text is assembled by hand: an object would move integer-like names to the front.
  if (notes.length > 0) fields.push(`"${METADATA}":{${notes.map(([k, v]) => `${JSON.stringify(k)}:${JSON.stringify(v)}`).join(",")}}`);
  let end = 0;
  for (const [name, { dtype, shape, data }] of ordered) {
    if (name === METADATA) throw new RuntimeFault("internal", `a tensor cannot be named ${METADATA}`);
    if (data.byteLength !== elements(shape) * WIDTH[dtype])
      throw new RuntimeFault("internal", `${data.byteLength} bytes for ${dtype}[${shape.join(", ")}]`, `tensor "${name}"`);
    const begin = end;
    end += data.byteLength;
    fields.push(`${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape.join(",")}],"data_offsets":[${begin},${end}]}`);
  }
  const header = new TextEncoder().encode(`{${fields.join(",")}}`);
  const padded = Math.ceil(header.length / 8) * 8;
  if (padded > MAX_HEADER) throw new RuntimeFault("internal", `a safetensors header of ${padded} bytes`);
  const out = new Uint8Array(8 + padded + end);
  new DataView(out.buffer).setUint32(0, padded, true);
  out.set(header, 8);
  out.fill(0x20, 8 + header.length, 8 + padded);
  let at = 8 + padded;
  for (const [, { data }] of ordered) {
    out.set(bytesOf(data), at);
    at += data.byteLength;
  }
  return out;
}

/**
 * Reads a file. Arrays are views of `file` where alignment allows, copies otherwise. Nothing is allocated on the word of
 * the header: every length is checked against the bytes there are.
 *
 * @throws RuntimeFault "bad-checkpoint" if the file is truncated, its header lies, or arrays overlap or leave gaps.
 */
export function decode(file: Uint8Array, where?: string): SafeFile {
  const bytes = bytesOf(file); // a plain array: the slice() of Node's Buffer would not copy
  const bad = (message: string, place = where): RuntimeFault =>
    new RuntimeFault("bad-checkpoint", message, place, "the file is damaged or was not written completely; use another copy");
  if (bytes.length < 8) throw bad(`a safetensors file has at least 8 bytes, this one ${bytes.length}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint32(4, true) * 2 ** 32 + view.getUint32(0, true);
  if (length > MAX_HEADER) throw bad(`its header claims ${length} bytes; at most ${MAX_HEADER} are read`);
  if (length > bytes.length - 8) throw bad(`truncated: the header claims ${length} bytes, ${bytes.length - 8} are there`);
  const header = parseHeader(bytes.subarray(8, 8 + length));
  if (header === undefined) throw bad("its header is not a JSON object");

  const data = bytes.subarray(8 + length);
  const entries: Entry[] = [];
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(header)) {
    if (name === METADATA) {
      if (!isObject(value) || !Object.values(value).every((v) => typeof v === "string")) throw bad("its metadata are not strings");
      metadata = value as Record<string, string>;
      continue;
    }
    const entry = readEntry(name, value);
    if (typeof entry === "string") throw bad(entry, `${where === undefined ? "" : `${where}, `}tensor "${name.slice(0, 200)}"`);
    entries.push(entry);
  }
  // In order of place, each array must begin where the one before it ended: no overlap, no gap, nothing left over.
  let end = 0;
  for (const { name, begin, end: next } of entries.sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin !== end)
      throw bad(`tensor "${name}" ${begin < end ? "overlaps another" : "leaves a gap before it"} (byte ${begin}, expected ${end})`);
    end = next;
  }
  if (end > data.length) throw bad(`truncated: the tensors take ${end} bytes, ${data.length} are there`);
  if (end < data.length) throw bad(`${data.length - end} bytes after the last tensor`);
  const tensors = entries.map((e): [string, SafeTensor] => [
    e.name,
    { dtype: e.dtype, shape: e.shape, data: typed(e.dtype, data.subarray(e.begin, e.end)) },
  ]);
  return { tensors: Object.fromEntries(tensors), metadata };
}

interface Entry {
  readonly name: string;
  readonly dtype: SafeDType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);

const isLength = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

function parseHeader(bytes: Uint8Array): Record<string, unknown> | undefined {
  if (bytes[0] !== 0x7b) return undefined; // "{", as the format demands
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** One tensor of the header, or a sentence saying what is wrong with it. */
function readEntry(name: string, value: unknown): Entry | string {
  if (!isObject(value)) return "its entry is not an object";
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== "string" || !Object.hasOwn(WIDTH, dtype)) return `unknown dtype ${JSON.stringify(dtype)?.slice(0, 40)}`;
  if (!Array.isArray(shape) || !shape.every(isLength)) return "its shape is not a list of lengths";
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isLength)) return "its data_offsets are not two places";
  const [begin, end] = offsets as [number, number];
  const width = WIDTH[dtype as SafeDType];
  if (end - begin !== elements(shape) * width) return `${end - begin} bytes for ${dtype}[${shape.slice(0, 8).join(", ")}]`;
  return { name, dtype: dtype as SafeDType, shape, begin, end };
}

function typed(dtype: SafeDType, bytes: Uint8Array): TensorData {
  const aligned = bytes.byteOffset % WIDTH[dtype] === 0 ? bytes : bytes.slice();
  const [buffer, at, length] = [aligned.buffer, aligned.byteOffset, aligned.byteLength / WIDTH[dtype]];
  switch (dtype) {
    case "BOOL":
    case "U8":
      return aligned;
    case "I8":
      return new Int8Array(buffer, at, length);
    case "I16":
      return new Int16Array(buffer, at, length);
    case "U16":
    case "F16":
    case "BF16":
      return new Uint16Array(buffer, at, length);
    case "I32":
      return new Int32Array(buffer, at, length);
    case "U32":
      return new Uint32Array(buffer, at, length);
    case "F32":
      return new Float32Array(buffer, at, length);
    case "F64":
      return new Float64Array(buffer, at, length);
    case "I64":
      return new BigInt64Array(buffer, at, length);
    case "U64":
      return new BigUint64Array(buffer, at, length);
    default:
      return dtype satisfies never;
  }
}

/** The value of an IEEE half from its bits. Exact. */
export function fromHalf(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const magnitude =
    exponent === 0 ? fraction * 2 ** -24 : exponent === 31 ? (fraction === 0 ? Infinity : NaN) : (1024 + fraction) * 2 ** (exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

/** A tensor's numbers as float32: F32 itself, others converted (F16 and BF16 exactly; F64 and wide integers rounded). */
export function toFloat32({ dtype, data }: SafeTensor): Float32Array {
  if (data instanceof Float32Array) return data;
  if (dtype === "F16") return Float32Array.from(data as Uint16Array, fromHalf);
  if (dtype === "BF16") return new Float32Array(Uint32Array.from(data as Uint16Array, (bits) => bits << 16).buffer);
  return Float32Array.from(data as ArrayLike<number | bigint>, Number);
}
