/**
 * The binary version of CIFAR: records without a header, images of 3 × 32 × 32 bytes, red plane first, each plane row by row.
 *
 *   CIFAR-10   label u8 · image                      data_batch_1.bin … data_batch_5.bin, test_batch.bin, batches.meta.txt
 *   CIFAR-100  coarse label u8 · fine label u8 · image   train.bin, test.bin, fine_label_names.txt; the fine label is taken
 *
 * Files may be gzipped, and go by other names: those with "train" or "test" in them serve that half, and which of the two formats it is is
 * told by the size. Source of the format: Krizhevsky, "The CIFAR-10 dataset", section on the binary version.
 */
import { readdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { CompileError } from "../../ir/error.js";
import { readTextOr } from "../files.js";
import { type RawArray, readMaybeGzip } from "./idx.js";

const IMAGE = [3, 32, 32] as const;
const PIXELS = 3 * 32 * 32;

interface Format {
  readonly name: string;
  /** Bytes before the image, and which of them is the label. */
  readonly head: number;
  readonly label: number;
  readonly classes: number;
  /** The file of class names beside the data, one a line. */
  readonly names: string;
}

const CIFAR10: Format = { name: "CIFAR-10", head: 1, label: 0, classes: 10, names: "batches.meta.txt" };
const CIFAR100: Format = { name: "CIFAR-100", head: 2, label: 1, classes: 100, names: "fine_label_names.txt" };
const FORMATS = [CIFAR10, CIFAR100] as const;
const recordOf = (f: Format): number => f.head + PIXELS;

export interface Cifar {
  /** [count, 3, 32, 32] bytes. */
  readonly images: RawArray;
  /** [count] class numbers. */
  readonly labels: RawArray;
  readonly classNames?: readonly string[];
}

/** Whether a file's name can be that of a CIFAR file. */
export const isCifar = (name: string): boolean => /\.bin(\.gz)?$/i.test(name);

const HALF = { train: /^data_batch|(^|[-_.])train([-_.]|$)/i, test: /(^|[-_.])test([-_.]|$)/i } as const;

/**
 * The files of one half of the data, in the order of their names; one that is there packed and unpacked is taken once. A single file whose
 * name tells no half serves as either.
 *
 * @throws CompileError "missing-data" if there is none, "bad-data" if several could be meant.
 */
export async function findCifar(folder: string, split: "train" | "test"): Promise<readonly string[]> {
  const all = (await readdir(folder)).filter(isCifar);
  const files = all.filter((name) => !(name.endsWith(".gz") && all.includes(name.slice(0, -3))));
  const order = new Intl.Collator("en", { numeric: true }).compare; // data_batch_10 comes after data_batch_9
  const named = files.filter((name) => HALF[split].test(name)).sort(order);
  if (named.length > 0) return named.map((name) => join(folder, name));
  const other = split === "train" ? "test" : "train";
  const unnamed = files.filter((name) => !HALF[other].test(name));
  if (unnamed.length > 1)
    throw new CompileError("bad-data", `which of ${unnamed.sort(order).join(", ")} is the ${split} half?`, `folder "${folder}"`, 'put "train" or "test" into the names, or name one of the files instead of the folder');
  if (unnamed.length === 0)
    throw new CompileError("missing-data", `no CIFAR file of the ${split} half`, `folder "${folder}"`, `expected ${split === "train" ? "data_batch_1.bin … data_batch_5.bin" : "test_batch.bin"} (or .gz)`);
  return unnamed.map((name) => join(folder, name));
}

/** Whether a folder holds files of this format (and no IDX files are looked for). */
export async function holdsCifar(folder: string): Promise<boolean> {
  const names = await readdir(folder);
  if (names.some(isCifar)) return true;
  if (names.includes("data_batch_1")) throw new CompileError("bad-data", "CIFAR-10 as Python pickles, which are programs and not read", `folder "${folder}"`, "fetch the binary version: cifar-10-binary.tar.gz");
  return false;
}

/** A file of the data set and its place in it. */
interface Part {
  readonly path: string;
  readonly where: string;
  readonly bytes: Uint8Array;
  readonly format: Format;
}

/**
 * Files one after the other as one data set.
 *
 * @throws CompileError "missing-data"; "bad-data" for a file that is empty, not a whole number of records, of another format than the first,
 *   or has a label that is no class; `where` names the file and record.
 */
export async function readCifar(paths: readonly string[]): Promise<Cifar> {
  const parts = await Promise.all(paths.map(readPart));
  const { format, where, path } = parts[0] as Part;
  const stray = parts.find((p) => p.format !== format);
  if (stray) throw new CompileError("bad-data", `${stray.format.name} records, ${format.name} in ${where}`, stray.where, "keep the two data sets in folders of their own");
  const places = parts.flatMap((p) => Array.from({ length: p.bytes.length / recordOf(format) }, (_, record) => ({ part: p, record })));
  const [images, labels] = [new Uint8Array(places.length * PIXELS), new Uint8Array(places.length)];
  for (const [n, { part, record }] of places.entries()) {
    const from = record * recordOf(format);
    labels[n] = part.bytes[from + format.label] as number;
    images.set(part.bytes.subarray(from + format.head, from + recordOf(format)), n * PIXELS);
  }
  const placeAt = (n: number): string => `${places[n]?.part.where}, record ${places[n]?.record}`;
  const wrong = labels.findIndex((label) => label >= format.classes);
  if (wrong >= 0) throw new CompileError("bad-data", `label ${labels[wrong]} is not one of ${format.name}'s 0 … ${format.classes - 1}`, placeAt(wrong), "the file is damaged, or of another format");
  const classNames = await namesBeside(path, format);
  return {
    images: { shape: [places.length, ...IMAGE], data: images, where, at: (flat) => placeAt(Math.floor(flat / PIXELS)) },
    labels: { shape: [places.length], data: labels, where, at: placeAt },
    ...(classNames && { classNames }),
  };
}

async function readPart(path: string): Promise<Part> {
  const where = `file "${path}"`;
  const bytes = await readMaybeGzip(path);
  return { path, where, bytes, format: formatOf(bytes.length, basename(path), where) };
}

/** A size that both records divide (every 3073 · 3074 bytes) is settled by the name. */
function formatOf(bytes: number, name: string, where: string): Format {
  if (bytes === 0) throw new CompileError("bad-data", "the file is empty", where, "fetch it again");
  const fitting = FORMATS.filter((f) => bytes % recordOf(f) === 0);
  const chosen = fitting.length > 1 && /cifar-?_?100|^(train|test)\./i.test(name) ? CIFAR100 : fitting[0];
  if (chosen) return chosen;
  throw new CompileError(
    "bad-data", `${bytes} bytes are no whole number of records: of ${FORMATS.map((f) => `${recordOf(f)} bytes (${f.name})`).join(" or ")}`,
    where, "a .bin file is read as the binary version of CIFAR; fetch it again if it is one, a gzipped one must end in .gz",
  );
}

/** Class names from the text file beside the data, if it is there. */
async function namesBeside(path: string, format: Format): Promise<readonly string[] | undefined> {
  const folder = dirname(path);
  if (!(await readdir(folder)).includes(format.names)) return undefined;
  const file = join(folder, format.names);
  const names = (await readTextOr("missing-data", file)).split(/\r?\n/).map((line) => line.trim()).filter((line) => line !== "");
  if (names.length !== format.classes || new Set(names).size !== names.length)
    throw new CompileError("bad-data", `${new Set(names).size} class names, ${format.name} has ${format.classes} classes`, `file "${file}"`, "one name a line, or remove the file");
  return names;
}
