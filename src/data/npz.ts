/**
 * NumPy's .npz: a zip of .npy arrays.
 * Source of the format: NumPy Enhancement Proposal 1, "A Simple File Format for NumPy Arrays" (versions 1.0 to 3.0).
 */
import { unzipSync } from "fflate";
import { CompileError } from "../../ir/error.js";
import { fromHalf } from "../../runtime/safetensors.js";
import type { RawArray } from "./idx.js";

/** Deflate packs 258 bytes into no fewer than 2 bits: an entry that claims more than this ratio lies. */
const MAX_RATIO = 1032;
/** Bytes all arrays of a file may take unpacked. */
const MAX_UNPACKED = 2 ** 32;
/** Entries an archive may list; a damaged directory can claim four thousand million. */
const MAX_ENTRIES = 65535;

type Reader = (view: DataView, at: number, little: boolean) => number;

/** By kind and bytes per element. 64-bit integers are read as float64; beyond 2^53 they are refused. */
const TYPES: Readonly<Record<string, readonly [make: (n: number) => RawArray["data"], read: Reader]>> = {
  f2: [(n) => new Float32Array(n), (v, at, little) => fromHalf(v.getUint16(at, little))],
  f4: [(n) => new Float32Array(n), (v, at, little) => v.getFloat32(at, little)],
  f8: [(n) => new Float64Array(n), (v, at, little) => v.getFloat64(at, little)],
  i1: [(n) => new Int8Array(n), (v, at) => v.getInt8(at)],
  i2: [(n) => new Int16Array(n), (v, at, little) => v.getInt16(at, little)],
  i4: [(n) => new Int32Array(n), (v, at, little) => v.getInt32(at, little)],
  i8: [(n) => new Float64Array(n), (v, at, little) => Number(v.getBigInt64(at, little))],
  u1: [(n) => new Uint8Array(n), (v, at) => v.getUint8(at)],
  u2: [(n) => new Uint16Array(n), (v, at, little) => v.getUint16(at, little)],
  u4: [(n) => new Uint32Array(n), (v, at, little) => v.getUint32(at, little)],
  u8: [(n) => new Float64Array(n), (v, at, little) => Number(v.getBigUint64(at, little))],
  b1: [(n) => new Int8Array(n), (v, at) => (v.getUint8(at) === 0 ? 0 : 1)],
};

/**
 * The arrays of a .npz by name, those that `wanted` asks for.
 *
 * @throws CompileError "bad-data" if the archive or an array is damaged, truncated or of a type without numbers.
 */
export function parseNpz(bytes: Uint8Array, where: string, wanted: (name: string) => boolean = () => true): ReadonlyMap<string, RawArray> {
  const bad = (message: string): CompileError => new CompileError("bad-data", message, where, "write it again with numpy.savez");
  let total = 0;
  let entries = 0;
  let files: Readonly<Record<string, Uint8Array>>;
  try {
    files = unzipSync(bytes, {
      filter: ({ name, size, originalSize }) => {
        if (++entries > MAX_ENTRIES) throw bad("its directory is damaged");
        if (!name.endsWith(".npy") || !wanted(name.slice(0, -4))) return false;
        total += originalSize;
        if (size > bytes.length || originalSize > size * MAX_RATIO + 64 || total > MAX_UNPACKED)
          throw bad(`entry "${name}" claims ${originalSize} bytes unpacked from ${size}`);
        return true;
      },
    });
  } catch (cause) {
    if (cause instanceof CompileError) throw cause;
    throw bad(`not a readable .npz: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
  return new Map(
    Object.entries(files).map(([file, content]) => [file.slice(0, -4), parseNpy(content, `${where}, array "${file.slice(0, -4)}"`)]),
  );
}

/** The names of the arrays in a .npz, without unpacking any. */
export function npzNames(bytes: Uint8Array, where: string): readonly string[] {
  const names: string[] = [];
  parseNpz(bytes, where, (name) => {
    names.push(name);
    return false;
  });
  return names;
}

/**
 * One .npy array, row-major.
 *
 *   \x93NUMPY major minor · header length (u16; u32 from version 2) · a Python dict as text · elements
 */
export function parseNpy(bytes: Uint8Array, where: string): RawArray {
  const bad = (message: string, hint = "write it again with numpy.savez"): CompileError =>
    new CompileError("bad-data", message, where, hint);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 12 || view.getUint32(0) !== 0x934e554d || view.getUint16(4) !== 0x5059) throw bad("not a .npy array");
  const wide = view.getUint8(6) >= 2;
  const start = wide ? 12 + view.getUint32(8, true) : 10 + view.getUint16(8, true);
  if (start > bytes.length) throw bad("truncated inside its header");
  const header = new TextDecoder().decode(bytes.subarray(wide ? 12 : 10, start));
  const descr = /'descr':\s*'([<>|=])([a-zA-Z]\d*)/.exec(header);
  const dims = /'shape':\s*\(([\d,\sL]*)\)/.exec(header)?.[1];
  const fortran = /'fortran_order':\s*(True|False)/.exec(header)?.[1];
  if (dims === undefined || fortran === undefined) throw bad("its header cannot be read");
  const type = TYPES[descr?.[2] ?? ""];
  if (type === undefined)
    throw bad(
      `elements of type ${/'descr':\s*('[^']*'|\[.{0,40})/.exec(header)?.[1] ?? "?"} are not numbers kfacc reads`,
      "use float16/32/64, an integer type or bool; map names to class numbers first",
    );
  const shape = dims.split(",").flatMap((part) => (part.trim() === "" ? [] : [Number.parseInt(part, 10)]));
  const count = shape.reduce((product, n) => product * n, 1);
  const width = Number(descr?.[2]?.slice(1));
  const there = bytes.length - start;
  if (there !== count * width)
    throw bad(
      `${there < count * width ? "truncated" : "too long"}: [${shape.join(", ")}] takes ${count * width} bytes, ${there} are there`,
    );

  const [make, read] = type;
  const data = make(count);
  const little = descr?.[1] !== ">";
  for (let i = 0; i < count; i++) data[i] = read(view, start + i * width, little);
  if (width === 8 && descr?.[2] !== "f8") {
    const at = (data as Float64Array).findIndex((v) => !Number.isSafeInteger(v));
    if (at >= 0) throw bad(`element ${at} is an integer beyond 2^53`, "use a smaller type");
  }
  return { shape, data: fortran === "True" ? rowMajor(shape, data, make(count)) : data, where };
}

/** Column-major elements into row-major order. */
function rowMajor(shape: readonly number[], from: RawArray["data"], to: RawArray["data"]): RawArray["data"] {
  const index = shape.map(() => 0);
  const step = shape.map((_, axis) => shape.slice(0, axis).reduce((product, n) => product * n, 1));
  let at = 0;
  for (let flat = 0; flat < to.length; flat++) {
    to[flat] = from[at] as number;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis] = (index[axis] as number) + 1;
      at += step[axis] as number;
      if ((index[axis] as number) < (shape[axis] as number)) break;
      at -= (index[axis] as number) * (step[axis] as number);
      index[axis] = 0;
    }
  }
  return to;
}
