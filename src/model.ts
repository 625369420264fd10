/** Opens a model of any kind (.onnx, .kir, .ts/.js DSL file) as something that can be made for any batch size. */
import { extname } from "node:path";
import { CompileError } from "../ir/error.js";
import { type NdArray, ndarray } from "../ir/ndarray.js";
import { size } from "../ir/type.js";
import type { ForwardModel } from "./compile.js";
import { type Imported, importModel, type ImportOptions } from "./import/import.js";
import { loadModel } from "./import/onnx.js";
import { type Loaded, onnxType } from "./import/model.js";
import { irType } from "./import/tensor.js";

export interface OpenOptions {
  readonly shapes?: NonNullable<ImportOptions["shapes"]>;
  readonly batchAxis?: NonNullable<ImportOptions["batchAxis"]>;
  /** Parameters that stay as they are; "*" stands for any part of a name. */
  readonly freeze?: readonly string[];
  /** Only these train, unless frozen. */
  readonly train?: readonly string[];
  readonly outputs?: readonly string[];
  /** Of the first weights of a file that has none. */
  readonly seed?: number;
  /** Inputs of a .onnx file that are these numbers, whatever is computed. */
  readonly values?: Readonly<Record<string, readonly number[]>>;
  /** Default "train": nodes exported for training use the statistics of the batch and drop activations out; evaluation does neither. */
  readonly mode?: ImportOptions["mode"];
  /** False: Dropout passes its input on in training, too. */
  readonly dropout?: boolean;
}

export interface OpenModel {
  readonly path: string;
  readonly name: string;
  /** The batch size that the file fixes, if it does. */
  readonly fileBatch: number | undefined;
  readonly notes: readonly string[];
  /** The graph as used in training, for a batch size. */
  forward(batch: number): ForwardModel;
  /** The .onnx file behind it, for writing weights back. */
  readonly loaded?: Loaded;
}

/** @throws CompileError "missing-data", "bad-model", "unsupported-op" …; "bad-option" for a pattern that matches no parameter */
export async function openModel(path: string, options: OpenOptions = {}): Promise<OpenModel> {
  const model = await openAny(path, options);
  return options.freeze || options.train ? selected(model, options) : model;
}

async function openAny(path: string, options: OpenOptions): Promise<OpenModel> {
  const kind = extname(path).toLowerCase();
  switch (kind) {
    case ".onnx": return openOnnx(path, options);
    case ".kir": return (await import("./kir.js")).openKir(path);
    case ".ts": case ".js": case ".mjs": case ".mts": return (await import("./dsl/open.js")).openDsl(path, options);
    default: throw new CompileError("bad-model", `cannot tell what kind of model "${path}" is`, path, "use a .onnx, .kir, .ts or .js file");
  }
}

function openOnnx(path: string, options: OpenOptions): OpenModel {
  const asked = [options.shapes, options.batchAxis, options.values].flatMap((o) => Object.keys(o ?? {}));
  const loaded = loadModel(path, { weightInputs: { seed: options.seed ?? 0, except: asked } });
  const values = Object.fromEntries(Object.entries(options.values ?? {}).map(([input, numbers]) => [input, inputValue(loaded, input, numbers)]));
  const given = { ...options, values };
  const at = (batch: number | undefined): Imported => importModel(loaded, { mode: "train", ...given, ...(batch === undefined ? {} : { batch }) });
  const first = at(undefined);
  const name = path.replace(/^.*[/\\]/, "").replace(/\.onnx$/i, "");
  return {
    path, name, fileBatch: first.batch, notes: first.notes, loaded,
    forward: (batch) => {
      const made = at(batch);
      if (!made.differs) return { name, graph: made.graph, outputs: made.outputs, weights: made.weights };
      const other = importModel(loaded, { ...given, mode: "eval", batch });
      return { name, graph: made.graph, outputs: made.outputs, weights: new Map([...other.weights, ...made.weights]), updates: made.updates, evaluation: { graph: other.graph, outputs: other.outputs } };
    },
  };
}

/** Numbers in the shape and type that the file declares for an input. */
function inputValue(loaded: Loaded, name: string, numbers: readonly number[]): NdArray {
  const declared = loaded.graph.inputs.find((v) => v.name === name);
  const stored = declared && onnxType(declared.type);
  const dtype = stored === undefined || stored === "string" ? "f32" : irType(stored);
  const shape = declared?.dims?.every((d) => typeof d === "number") ? (declared.dims as number[]) : [numbers.length];
  if (size(shape) !== numbers.length) throw new CompileError("bad-option", `${numbers.length} numbers for input "${name}" of [${shape}]`, "--value");
  return ndarray(dtype, shape, numbers);
}

/** The model in which only the parameters asked for are trainable. */
function selected(model: OpenModel, { freeze = [], train }: OpenOptions): OpenModel {
  const { params } = model.forward(model.fileBatch ?? 2).graph;
  const names = params.filter((p) => p.trainable).map((p) => p.value.name);
  const all = params.map((p) => p.value.name);
  for (const [flag, patterns] of [["freeze", freeze], ["train", train ?? []]] as const)
    for (const pattern of patterns)
      if (!all.some(nameMatcher([pattern])))
        throw new CompileError("bad-option", `no parameter matches "${pattern}"`, `--${flag}`, `* stands for any part of a name; the model has ${all.slice(0, LISTED).join(", ")}${all.length > LISTED ? ", …" : ""}`);
  const frozen = nameMatcher(freeze);
  const chosen = train && nameMatcher(train);
  const trains = new Set(names.filter((name) => !frozen(name) && (!chosen || chosen(name))));
  if (trains.size === 0) throw new CompileError("bad-option", "nothing is left to train", train ? "--train" : "--freeze", "--freeze wins over --train; tables and running statistics never train");
  return {
    ...model,
    forward(batch) {
      const made = model.forward(batch);
      return { ...made, graph: { ...made.graph, params: made.graph.params.map((p) => ({ ...p, trainable: trains.has(p.value.name) })) } };
    },
  };
}

/** Names that a message lists. */
const LISTED = 20;

/** Whether a name is one of some patterns, in which "*" stands for anything. */
function nameMatcher(patterns: readonly string[]): (name: string) => boolean {
  const tests = patterns.map((p) => new RegExp(`^${p.split("*").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join(".*")}$`));
  return (name) => tests.some((t) => t.test(name));
}
