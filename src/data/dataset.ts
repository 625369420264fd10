/** A data set fitted to a model: whatever the file, arrays of the model's inputs and targets, checked. */
import { basename, dirname } from "node:path";
import { CompileError } from "../../ir/error.js";
import { type DType, size, spellShape } from "../../ir/type.js";
import type { ExampleArray, Examples } from "../../runtime/batches.js";
import { kindOf, readFileOr } from "../files.js";
import { parseCsv } from "./csv.js";
import { classLabels, fit, fits, type LabelSpec, placeOf, textLabels } from "./fit.js";
import { findIdxPair, idxPairOf, isIdxImages, parseIdx, type RawArray, readMaybeGzip } from "./idx.js";
import { npzNames, parseNpz } from "./npz.js";

export interface InputSpec {
  readonly name: string;
  /** Of one example: the examples axis is removed. */
  readonly shape: readonly number[];
  readonly dtype: DType;
}

export interface DataOptions {
  readonly inputs: readonly InputSpec[];
  /** What the loss wants; absent: targets are not read. */
  readonly labels?: LabelSpec | undefined;
  /** Target column(s) of a .csv, target array of a .npz. */
  readonly target?: string | undefined;
  /** Multiplies float inputs. Default: 1/255 for images of bytes, else 1. */
  readonly scale?: number | undefined;
  /** Which half of a folder or file that holds both. Default "train". */
  readonly split?: "train" | "test" | undefined;
  /** Names of the classes 0, 1, … as an earlier data set had them, so that text labels get the same numbers. */
  readonly classNames?: readonly string[] | undefined;
}

export interface Dataset extends Examples {
  readonly source: string;
  /** What was decided on the user's behalf, to be said aloud. */
  readonly notes: readonly string[];
  readonly classNames?: readonly string[];
}

/** Arrays as the file has them, paired with the inputs they are for. */
interface Loaded {
  readonly inputs: readonly (readonly [InputSpec, RawArray])[];
  readonly target?: RawArray | undefined;
  readonly texts?: readonly string[] | undefined;
  readonly classNames?: readonly string[] | undefined;
}

const FORMATS = "a folder with IDX files (MNIST), an IDX images file, a .npz or a .csv (.csv.gz)";

/**
 * Opens a data set for a model.
 *
 * @throws CompileError "missing-data" if the path is not there, "bad-option" for an unknown format, target or scale,
 *   "bad-data" if the contents do not fit the model or are damaged; `where` names the file and example, line or column.
 */
export async function openDataset(path: string, options: DataOptions): Promise<Dataset> {
  if (options.scale !== undefined && !(Number.isFinite(options.scale) && options.scale !== 0))
    throw new CompileError("bad-option", `${options.scale} is not a usable factor`, "--scale", "e.g. --scale 0.00392 for bytes");
  return assemble(path, await load(path, options), options);
}

async function load(path: string, options: DataOptions): Promise<Loaded> {
  const kind = await kindOf(path);
  if (kind === undefined) throw new CompileError("missing-data", "no such file or folder", `--data "${path}"`, `data are ${FORMATS}`);
  if (kind === "folder" || isIdxImages(basename(path))) return loadIdx(path, kind === "folder", options);
  if (path.endsWith(".npz")) return loadNpz(path, options);
  if (/\.(csv|tsv)(\.gz)?$/.test(path)) return loadCsv(path, options);
  throw new CompileError("bad-option", "unknown data format", `--data "${path}"`, `data are ${FORMATS}`);
}

/** The model's only input, for formats that hold one. */
function onlyInput({ inputs }: DataOptions, where: string): InputSpec {
  const [input, ...others] = inputs;
  if (input !== undefined && others.length === 0) return input;
  throw new CompileError(
    "bad-data",
    `this format holds one input, the model has ${inputs.length}`,
    where,
    `use a .npz with arrays named ${inputs.map((i) => i.name).join(", ")}`,
  );
}

async function loadIdx(path: string, folder: boolean, options: DataOptions): Promise<Loaded> {
  const input = onlyInput(options, `--data "${path}"`);
  const pair = folder ? await findIdxPair(path, options.split ?? "train") : await idxPairOf(dirname(path), basename(path));
  const read = async (file: string): Promise<RawArray> => parseIdx(await readMaybeGzip(file), `file "${file}"`);
  const target = options.labels !== undefined && pair.labels !== undefined ? await read(pair.labels) : undefined;
  if (options.labels?.kind === "classes" && target === undefined)
    throw new CompileError(
      "missing-data",
      "no labels beside the images",
      `file "${pair.images}"`,
      "put the …-labels-idx1-ubyte file (or .gz) of the same prefix there",
    );
  return { inputs: [[input, await read(pair.images)]], target };
}

async function loadNpz(path: string, options: DataOptions): Promise<Loaded> {
  const where = `file "${path}"`;
  const bytes = await readFileOr("missing-data", path);
  const names = npzNames(bytes, where);
  const split = options.split ?? "train";
  const pick = (what: string, candidates: readonly string[]): string => {
    const found = candidates.find((name) => names.includes(name));
    if (found !== undefined) return found;
    throw new CompileError(
      "bad-data",
      `no array for ${what}`,
      where,
      `it holds ${names.join(", ") || "no arrays"}; expected ${candidates.join(" or ")}`,
    );
  };
  const chosen = options.inputs.map(({ name }) =>
    pick(`input "${name}"`, options.inputs.length === 1 ? [name, "x", "X", `x_${split}`, `X_${split}`] : [name]),
  );
  if (options.target !== undefined && !names.includes(options.target))
    throw new CompileError("bad-option", `no array "${options.target}"`, `--target, ${where}`, `it holds ${names.join(", ")}`);
  const candidates = options.target === undefined ? ["y", "Y", `y_${split}`, "target"] : [options.target];
  const optional = options.labels?.kind === "values" && !candidates.some((name) => names.includes(name));
  const target = options.labels === undefined || optional ? undefined : pick("the target", candidates);
  const arrays = parseNpz(bytes, where, (name) => name === target || chosen.includes(name));
  const array = (name: string): RawArray => {
    const raw = arrays.get(name) as RawArray; // unpacked, since listed
    if (raw.shape.length > 0) return raw;
    throw new CompileError("bad-data", "a single number, without an axis of examples", raw.where, "the first axis counts examples");
  };
  return {
    inputs: options.inputs.map((input, i) => [input, array(chosen[i] as string)] as const),
    target: target === undefined ? undefined : array(target),
  };
}

async function loadCsv(path: string, options: DataOptions): Promise<Loaded> {
  const where = `file "${path}"`;
  const input = onlyInput(options, where);
  const { labels } = options;
  const wanted = size(input.shape);
  const table = parseCsv(await readMaybeGzip(path), where, {
    target: options.target,
    text: labels?.kind !== "values",
    // Without labels to read, a column too many is the target of another day; without a column too many, inputs are targets.
    targets: (columns) =>
      labels === undefined
        ? Math.min(1, Math.max(0, columns - wanted))
        : labels.kind === "values" && columns === wanted
          ? 0
          : size(labels.shape ?? []),
  });
  const { features, targets, columns, featureColumns, lines } = table;
  const [count, width] = [features.shape[0] as number, features.shape[1] as number];
  if (width !== wanted) {
    const index = columns[0] === "" && width === wanted + 1;
    const hint = index ? "the first column has no name: write the file without an index" : "check --target and the model";
    throw new CompileError(
      "bad-data",
      `${columns.length} columns are ${width} inputs and ${columns.length - width} targets; input "${input.name}" takes ${wanted}`,
      where,
      hint,
    );
  }
  const cell = (flat: number): string =>
    `${where}, line ${lines[Math.floor(flat / width)]}, column "${columns[featureColumns[flat % width] as number]}"`;
  const line = (flat: number): string => `${where}, line ${lines[Math.floor(flat / (targets.shape[1] as number))]}`;
  return {
    inputs: [[input, { ...features, shape: [count, ...input.shape], at: cell }]],
    target: labels === undefined || targets.shape[1] === 0 ? undefined : { ...targets, at: line },
    texts: table.texts,
    classNames: table.classNames,
  };
}

function assemble(path: string, loaded: Loaded, options: DataOptions): Dataset {
  const { labels } = options;
  const [first, ...others] = [...loaded.inputs.map(([, raw]) => raw), ...(loaded.target === undefined ? [] : [loaded.target])];
  const count = first?.shape[0] ?? 0;
  if (first === undefined || count === 0)
    throw new CompileError("bad-data", "the data set is empty", first?.where ?? path, "it needs at least one example");
  for (const other of others)
    if (other.shape[0] !== count)
      throw new CompileError(
        "bad-data",
        `${other.shape[0]} examples, ${count} in ${first.where}`,
        other.where,
        "every array needs the same count of examples",
      );

  const notes: string[] = [];
  const inputs = loaded.inputs.map(([spec, raw]) => [spec.name, toInput(raw, spec, options.scale, notes)] as const);
  const dataset = { count, inputs: Object.fromEntries(inputs), source: path, notes };
  if (labels === undefined) return dataset;
  if (labels.kind === "classes") {
    if (loaded.target === undefined) throw new CompileError("bad-data", "no labels", first.where, "name the target with --target");
    const named = loaded.texts === undefined ? undefined : textLabels(loaded.target, loaded.texts, labels.count, options.classNames, notes);
    const classNames = named?.names ?? loaded.classNames;
    return { ...dataset, target: classLabels(named?.raw ?? loaded.target, labels, notes), ...(classNames && { classNames }) };
  }
  const { target } = loaded;
  const only = inputs.length === 1 ? inputs[0]?.[1] : undefined;
  // An autoencoder's data come without targets, or with labels of another shape.
  const reconstructs =
    only !== undefined && size(only.shape) === size(labels.shape) && (target === undefined || !fits(target.shape.slice(1), labels.shape));
  if (target === undefined && !reconstructs)
    throw new CompileError(
      "bad-data",
      "no targets",
      first.where,
      `the loss takes targets of ${spellShape(labels.shape)} per example; name them with --target`,
    );
  if (reconstructs) notes.push("the inputs are the targets (an autoencoder): no others fit the loss");
  const values: ExampleArray = reconstructs
    ? { shape: labels.shape, data: Float32Array.from(only.data) }
    : fit(target as RawArray, "the target", labels.shape, "f32", 1);
  const [low, high] = labels.range ?? [-Infinity, Infinity];
  const outside = values.data.findIndex((v) => v < low || v > high);
  if (outside >= 0) {
    const raw = reconstructs ? (loaded.inputs[0] as (typeof loaded.inputs)[number])[1] : (target as RawArray);
    throw new CompileError(
      "bad-data",
      `target ${values.data[outside]} is outside [${low}, ${high}]`,
      placeOf(raw, outside),
      reconstructs ? "scale the inputs with --scale" : "check the targets and the loss",
    );
  }
  return { ...dataset, target: values };
}

/** Above this, untouched inputs are worth a word: first layers are initialised for inputs near 1. */
const LARGE = 20;

function toInput(raw: RawArray, { name, shape, dtype }: InputSpec, scale: number | undefined, notes: string[]): ExampleArray {
  const integer = dtype !== "f32" && dtype !== "f16";
  if (integer && scale !== undefined && scale !== 1)
    throw new CompileError("bad-option", `input "${name}" takes integers, which are not scaled`, "--scale", "leave --scale out");
  const rank = (dims: readonly number[]): number => dims.filter((n) => n !== 1).length;
  const image = raw.data instanceof Uint8Array && Math.max(rank(raw.shape.slice(1)), rank(shape)) >= 2;
  const factor = integer ? 1 : (scale ?? (image ? 1 / 255 : 1));
  const input = fit(raw, `input "${name}"`, shape, dtype, factor);
  if (scale === undefined && image && !integer) notes.push(`input "${name}": bytes times 1/255 (--scale changes it)`);
  let largest = 0;
  if (!integer && scale === undefined) for (const v of input.data) largest = Math.max(largest, Math.abs(v));
  if (largest > LARGE)
    notes.push(
      `input "${name}" reaches ${largest}: training is easier with values near 1, e.g. --scale ${Number((1 / largest).toPrecision(3))}`,
    );
  return input;
}
