/** A data set fitted to a model: whatever the file, arrays of the model's inputs and targets, checked. */
import { readdir } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { CompileError } from "../../ir/error.js";
import { type DType, size } from "../../ir/type.js";
import { batchAt, type ExampleArray, type Examples } from "../../runtime/batches.js";
import { kindOf, readFileOr } from "../files.js";
import { findCifar, holdsCifar, isCifar, readCifar } from "./cifar.js";
import { parseCsv } from "./csv.js";
import { exampleWeights, fit, type LabelSpec } from "./fit.js";
import { findIdxPair, idxPairOf, isIdxImages, parseIdx, type RawArray, readMaybeGzip } from "./idx.js";
import { npzNames, parseNpz } from "./npz.js";
import { fitTarget, type LoadedTarget, targetNames, type TargetSpec } from "./targets.js";

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
  /** Instead of `labels`: every output with a loss. Several give the data set's `targets`, by output. */
  readonly heads?: readonly TargetSpec[] | undefined;
  /** Target column(s) of a .csv, target array of a .npz; for several heads a list of OUTPUT=COLUMN. */
  readonly target?: string | readonly string[] | undefined;
  /** Column of a .csv, array of a .npz with a weight per example. */
  readonly exampleWeight?: string | undefined;
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
  /** One for each head. */
  readonly targets: readonly LoadedTarget[];
  readonly weight?: RawArray | undefined;
}

const headsOf = ({ heads, labels }: DataOptions): readonly TargetSpec[] => heads ?? [{ labels }];

const FORMATS = "a folder with IDX files (MNIST) or CIFAR's .bin files, one such file, a .npz or a .csv (.csv.gz)";

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
  const folder = kind === "folder";
  if (folder ? await isCifarFolder(path) : isCifar(basename(path))) return loadCifar(path, folder, options);
  if (folder || isIdxImages(basename(path))) return loadIdx(path, folder, options);
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

/** What the model's only output wants, for formats that hold one target and no weights. */
function onlyLabels(options: DataOptions, where: string): LabelSpec | undefined {
  const [head, ...others] = headsOf(options) as readonly [TargetSpec, ...TargetSpec[]];
  if (head.labels && others.length > 0) throw new CompileError("bad-data", `this format holds one target, the model takes ${others.length + 1}`, where, "use a .npz");
  if (options.exampleWeight !== undefined) throw new CompileError("bad-option", "this format holds no weights", "--example-weight", "use a .npz or a .csv");
  return head.labels;
}

/** IDX files go before .bin files of whatever kind. */
const isCifarFolder = async (path: string): Promise<boolean> => !(await readdir(path)).some(isIdxImages) && holdsCifar(path);

async function loadCifar(path: string, folder: boolean, options: DataOptions): Promise<Loaded> {
  const input = onlyInput(options, `--data "${path}"`);
  const labels = onlyLabels(options, `--data "${path}"`);
  const read = await readCifar(folder ? await findCifar(path, options.split ?? "train") : [path]);
  return { inputs: [[input, read.images]], targets: [labels ? { raw: read.labels, ...(read.classNames && { classNames: read.classNames }) } : {}] };
}

async function loadIdx(path: string, folder: boolean, options: DataOptions): Promise<Loaded> {
  const input = onlyInput(options, `--data "${path}"`);
  const labels = onlyLabels(options, `--data "${path}"`);
  const pair = folder ? await findIdxPair(path, options.split ?? "train") : await idxPairOf(dirname(path), basename(path));
  const read = async (file: string): Promise<RawArray> => parseIdx(await readMaybeGzip(file), `file "${file}"`);
  const raw = labels !== undefined && pair.labels !== undefined ? await read(pair.labels) : undefined;
  if (labels?.kind === "classes" && raw === undefined)
    throw new CompileError(
      "missing-data",
      "no labels beside the images",
      `file "${pair.images}"`,
      "put the …-labels-idx1-ubyte file (or .gz) of the same prefix there",
    );
  return { inputs: [[input, await read(pair.images)]], targets: [{ raw }] };
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
  const known = (name: string, flag: string): string => {
    if (names.includes(name)) return name;
    throw new CompileError("bad-option", `no array "${name}"`, `${flag}, ${where}`, `it holds ${names.join(", ")}`);
  };
  const heads = headsOf(options);
  const given = targetNames(heads, options.target).heads;
  const targets = heads.map(({ output = "", labels }, k) => {
    const named = given[k];
    if (named !== undefined) known(named, "--target");
    const several = [output, `target/${output}`, `target_${output}`, `y_${output}`];
    const candidates = named !== undefined ? [named] : heads.length > 1 ? several : ["y", "Y", `y_${split}`, "target"];
    const optional = labels?.kind === "values" && !candidates.some((name) => names.includes(name));
    return labels === undefined || optional ? undefined : pick(heads.length > 1 ? `the target of output "${output}"` : "the target", candidates);
  });
  const weight = options.exampleWeight === undefined ? undefined : known(options.exampleWeight, "--example-weight");
  const arrays = parseNpz(bytes, where, (name) => targets.includes(name) || chosen.includes(name) || name === weight);
  const array = (name: string): RawArray => {
    const raw = arrays.get(name) as RawArray; // unpacked, since listed
    if (raw.shape.length > 0) return raw;
    throw new CompileError("bad-data", "a single number, without an axis of examples", raw.where, "the first axis counts examples");
  };
  return {
    inputs: options.inputs.map((input, i) => [input, array(chosen[i] as string)] as const),
    targets: targets.map((name) => ({ raw: name === undefined ? undefined : array(name) })),
    weight: weight === undefined ? undefined : array(weight),
  };
}

async function loadCsv(path: string, options: DataOptions): Promise<Loaded> {
  const where = `file "${path}"`;
  const input = onlyInput(options, where);
  const heads = headsOf(options);
  const { heads: names, unused } = targetNames(heads, options.target);
  const [labels, ...others] = heads.map((h) => h.labels);
  const unnamed = heads.length > 1 ? names.indexOf(undefined) : -1;
  if (unnamed >= 0 && heads[unnamed]?.labels)
    throw new CompileError("bad-option", `no columns for output "${heads[unnamed]?.output}"`, `--target, ${where}`, `name them: --target ${heads[unnamed]?.output}=COLUMN,COLUMN`);
  const wanted = size(input.shape);
  const table = parseCsv(await readMaybeGzip(path), where, {
    target: names[0],
    text: labels?.kind !== "values",
    more: [
      ...others.flatMap((spec, k) => { const target = names[k + 1]; return target === undefined ? [] : [{ target, text: spec?.kind !== "values", flag: "--target" }]; }),
      ...unused.map((target) => ({ target, text: true, flag: "--target" })),
      ...(options.exampleWeight === undefined ? [] : [{ target: options.exampleWeight, text: false, flag: "--example-weight" }]),
    ],
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
  const withLines = (raw: RawArray): RawArray => ({ ...raw, at: (flat) => `${where}, line ${lines[Math.floor(flat / (raw.shape[1] as number))]}` });
  const weight = options.exampleWeight === undefined ? undefined : table.more.at(-1);
  return {
    inputs: [[input, { ...features, shape: [count, ...input.shape], at: cell }]],
    targets: [
      { raw: labels === undefined || targets.shape[1] === 0 ? undefined : withLines(targets), texts: table.texts, classNames: table.classNames },
      ...others.map((spec, k): LoadedTarget => { const group = table.more[k]; return spec && group ? { raw: withLines(group.targets), texts: group.texts } : {}; }),
    ],
    weight: weight && withLines(weight.targets),
  };
}

function assemble(path: string, loaded: Loaded, options: DataOptions): Dataset {
  const present = [...loaded.targets.map((t) => t.raw), loaded.weight].filter((raw) => raw !== undefined);
  const [first, ...others] = [...loaded.inputs.map(([, raw]) => raw), ...present];
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
  const weight = loaded.weight && exampleWeights(loaded.weight);
  const dataset = { count, inputs: Object.fromEntries(inputs), source: path, notes, ...(weight && { weight }) };
  const array = inputs.length === 1 ? inputs[0]?.[1] : undefined;
  const context = { where: first.where, only: array && { array, raw: first }, classNames: options.classNames, notes };
  const heads = headsOf(options);
  const made = heads.flatMap((head, k) => (head.labels ? [{ output: head.output ?? "", ...fitTarget(heads.length > 1 ? head : {}, head.labels, loaded.targets[k] ?? {}, context) }] : []));
  if (made.length === 0) return dataset;
  const classNames = made[0]?.classNames;
  const targets = Object.fromEntries(made.map((m) => [m.output, m.array]));
  const whole = heads.length > 1 ? { ...dataset, targets } : { ...dataset, target: (made[0] as (typeof made)[number]).array };
  return { ...whole, ...weighted(whole, notes), ...(classNames && { classNames }) };
}

/** Without the examples of weight 0: they take part in nothing, and a batch of nothing else could not be averaged. */
function weighted(examples: Examples, notes: string[]): Examples {
  const { weight, count } = examples;
  const kept = Uint32Array.from({ length: count }, (_, k) => k).filter((k) => weight?.[k] !== 0);
  if (kept.length === count) return examples;
  notes.push(`${count - kept.length} of ${count} examples have the weight 0 and are left out`);
  const made = batchAt(examples, kept, 0, kept.length);
  // gathered arrays name the count; those of a data set do not
  const each = (arrays: Readonly<Record<string, ExampleArray>>) => Object.fromEntries(Object.entries(arrays).map(([name, a]) => [name, { ...a, shape: a.shape.slice(1) }]));
  return {
    ...made, inputs: each(made.inputs),
    ...(made.target && { target: { ...made.target, shape: made.target.shape.slice(1) } }), ...(made.targets && { targets: each(made.targets) }),
  };
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
