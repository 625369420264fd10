/**
 * IDX: the format of MNIST and its relatives. A folder holds pairs of files, images and labels, possibly gzipped:
 *
 *   train-images-idx3-ubyte  train-labels-idx1-ubyte        t10k-images-idx3-ubyte  t10k-labels-idx1-ubyte
 *
 * Source of the format: LeCun, Cortes and Burges, "The MNIST database", file formats section.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import { CompileError } from "../../ir/error.js";
import { readFileOr } from "../files.js";

/** Numbers as a data file holds them, row-major, before they are fitted to a model. */
export interface RawArray {
  /** Examples first. */
  readonly shape: readonly number[];
  readonly data: Uint8Array | Int8Array | Int16Array | Uint16Array | Int32Array | Uint32Array | Float32Array | Float64Array;
  /** For messages, e.g. `file "x.npz", array "x"`. */
  readonly where: string;
  /** Where element `flat` came from; if absent, `where` and the index of its example. */
  readonly at?: (flat: number) => string;
}

export interface IdxPair {
  readonly images: string;
  readonly labels?: string;
}

/** More than a file read whole can hold; a gzip bomb stops here. */
const MAX_INFLATED = 2 ** 31 - 1;

/** The bytes of a file, unpacked if its name ends in .gz. */
export async function readMaybeGzip(path: string): Promise<Uint8Array> {
  const bytes = await readFileOr("missing-data", path);
  if (!path.endsWith(".gz")) return bytes;
  try {
    const { buffer, byteOffset, byteLength } = await promisify(gunzip)(bytes, { maxOutputLength: MAX_INFLATED });
    return new Uint8Array(buffer, byteOffset, byteLength);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new CompileError(
      "bad-data",
      `cannot be unpacked: ${reason}`,
      `file "${path}"`,
      "the file is damaged or truncated; fetch it again",
    );
  }
}

const isImages = /^(.*?)[-_.]?images?[-_.]idx\d-(?:ubyte|byte|short|int|float|double)(?:\.gz)?$/i;
const isLabels = /^(.*?)[-_.]?labels?[-_.]idx\d-(?:ubyte|byte|short|int)(?:\.gz)?$/i;

/** Whether a file's name is that of an IDX images file. */
export const isIdxImages = (name: string): boolean => isImages.test(name);

/** How a prefix says which half of the data it names. */
const HALF = { train: /(^|[-_.])train$/i, test: /(^|[-_.])(t10k|test)$/i } as const;

/**
 * The pair of files for one half of the data. A folder whose only pair names no half serves as either; so does no name at all.
 *
 * @throws CompileError "missing-data" if there is none, "bad-data" if several could be meant.
 */
export async function findIdxPair(folder: string, split: "train" | "test"): Promise<IdxPair> {
  const where = `folder "${folder}"`;
  const hint = `expected ${split === "train" ? "train" : "t10k"}-images-idx3-ubyte and ${split === "train" ? "train" : "t10k"}-labels-idx1-ubyte (or .gz)`;
  const names = (await readdir(folder)).sort();
  const other = split === "train" ? "test" : "train";
  const images = names.flatMap((name) => {
    const prefix = isImages.exec(name)?.[1];
    return prefix === undefined || HALF[other].test(prefix) ? [] : [{ name, prefix }];
  });
  const named = images.filter(({ prefix }) => HALF[split].test(prefix));
  const found = named.length > 0 ? named : images;
  const prefixes = [...new Set(found.map(({ prefix }) => prefix))];
  if (prefixes.length > 1)
    throw new CompileError(
      "bad-data",
      `several data sets are here: ${prefixes.join(", ")}`,
      where,
      "name one of the images files instead of the folder",
    );
  const first = found[0];
  if (first === undefined) throw new CompileError("missing-data", `no IDX images of the ${split} half`, where, hint);
  return pairOf(folder, first.name, names);
}

/** An images file given by name, with the labels beside it if they are there. */
export async function idxPairOf(folder: string, imagesName: string): Promise<IdxPair> {
  return pairOf(folder, imagesName, (await readdir(folder)).sort());
}

function pairOf(folder: string, imagesName: string, names: readonly string[]): IdxPair {
  const prefix = isImages.exec(imagesName)?.[1];
  const labels = names.find((name) => isLabels.exec(name)?.[1] === prefix);
  return { images: join(folder, imagesName), ...(labels !== undefined && { labels: join(folder, labels) }) };
}

/** Element types by their code in the third byte of the file. All are big-endian. */
const TYPES: Readonly<
  Record<number, readonly [bytes: number, make: (n: number) => RawArray["data"], read: (v: DataView, at: number) => number]>
> = {
  8: [1, (n) => new Uint8Array(n), (v, at) => v.getUint8(at)],
  9: [1, (n) => new Int8Array(n), (v, at) => v.getInt8(at)],
  11: [2, (n) => new Int16Array(n), (v, at) => v.getInt16(at)],
  12: [4, (n) => new Int32Array(n), (v, at) => v.getInt32(at)],
  13: [4, (n) => new Float32Array(n), (v, at) => v.getFloat32(at)],
  14: [8, (n) => new Float64Array(n), (v, at) => v.getFloat64(at)],
};

/**
 * The array in an IDX file. Bytes are a view of the file, other types copies.
 *
 *   0 0 type rank · u32 lengths [rank] · elements, last axis fastest
 *
 * @throws CompileError "bad-data" unless the file is exactly as long as its header says.
 */
export function parseIdx(bytes: Uint8Array, where: string): RawArray {
  const bad = (message: string): CompileError =>
    new CompileError("bad-data", message, where, "the file is damaged or truncated; fetch it again");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [type, rank] = [TYPES[bytes[2] ?? 0], bytes[3] ?? 0];
  if (bytes.length < 4 || bytes[0] !== 0 || bytes[1] !== 0 || type === undefined || rank === 0)
    throw new CompileError(
      "bad-data",
      "not an IDX file: its first bytes are not 0 0 type rank",
      where,
      "check the file; a gzipped one must end in .gz",
    );
  const start = 4 + 4 * rank;
  if (bytes.length < start) throw bad(`truncated inside its header of ${start} bytes`);
  const shape = Array.from({ length: rank }, (_, axis) => view.getUint32(4 + 4 * axis));
  const count = shape.reduce((product, n) => product * n, 1);
  const [width, make, read] = type;
  if (bytes.length - start !== count * width)
    throw bad(
      `${bytes.length - start < count * width ? "truncated" : "too long"}: [${shape.join(", ")}] takes ${count * width} bytes, ${bytes.length - start} are there`,
    );
  if (width === 1 && bytes[2] === 8) return { shape, data: bytes.subarray(start), where };
  const data = make(count);
  for (let i = 0; i < count; i++) data[i] = read(view, start + i * width);
  return { shape, data, where };
}
