/** Opens a model of any kind (.onnx, .kir, .ts/.js DSL file) as something that can be made for any batch size. */
import { extname } from "node:path";
import { CompileError } from "../ir/error.js";
import type { ForwardModel } from "./compile.js";
import { type Imported, importModel, type ImportOptions } from "./import/import.js";
import { loadModel } from "./import/onnx.js";
import type { Loaded } from "./import/model.js";

export interface OpenOptions {
  readonly shapes?: NonNullable<ImportOptions["shapes"]>;
  readonly batchAxis?: NonNullable<ImportOptions["batchAxis"]>;
  readonly freeze?: readonly string[];
  readonly outputs?: readonly string[];
  /** Default "train": BatchNormalization nodes exported for training use the statistics of the batch. */
  readonly mode?: ImportOptions["mode"];
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

/** @throws CompileError "missing-data", "bad-model", "unsupported-op" … */
export async function openModel(path: string, options: OpenOptions = {}): Promise<OpenModel> {
  const kind = extname(path).toLowerCase();
  switch (kind) {
    case ".onnx": return openOnnx(path, options);
    case ".kir": return (await import("./kir.js")).openKir(path);
    case ".ts": case ".js": case ".mjs": case ".mts": return (await import("./dsl/open.js")).openDsl(path);
    default: throw new CompileError("bad-model", `cannot tell what kind of model "${path}" is`, path, "use a .onnx, .kir, .ts or .js file");
  }
}

function openOnnx(path: string, options: OpenOptions): OpenModel {
  const loaded = loadModel(path);
  const at = (batch: number | undefined): Imported => importModel(loaded, { mode: "train", ...options, ...(batch === undefined ? {} : { batch }) });
  const first = at(undefined);
  const name = path.replace(/^.*[/\\]/, "").replace(/\.onnx$/i, "");
  return {
    path, name, fileBatch: first.batch, notes: first.notes, loaded,
    forward: (batch) => {
      const made = at(batch);
      return { name, graph: made.graph, outputs: made.outputs, weights: made.weights };
    },
  };
}
