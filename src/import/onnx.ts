/** Reads .onnx files into checked plain data. Everything a damaged or hostile file can do ends here, in a CompileError. */
import { readFileSync } from "node:fs";
import { dirname } from "node:path";
import onnxProto from "onnx-proto";
import { CompileError } from "../../ir/error.js";
import { checkGraph } from "./check.js";
import { checkExternal, externalReader } from "./external.js";
import { inlined } from "./functions.js";
import type { Dim, ExternalRef, Loaded, OnnxAttr, OnnxNode, OnnxTensor, OnnxValue } from "./model.js";
import { visitTensors } from "./schema.js";
import { checkStorage } from "./tensor.js";
import { type WeightInputs, withWeights } from "./weightless.js";

const { onnx } = onnxProto; // a CommonJS package: the named import fails in Node
type Proto<K extends "TensorProto" | "AttributeProto" | "NodeProto" | "ValueInfoProto"> = InstanceType<(typeof onnx)[K]>;

/** Forms below opset 7 are read by legacy.ts. */
export const OLDEST_OPSET = 1;

export interface LoadOptions {
  /** Folder of external data; default: that of the file. */
  readonly baseDir?: string;
  /** Inputs that serve as weights become weights (weightless.ts); default: they stay inputs. */
  readonly weightInputs?: WeightInputs;
}

/** What reading a file has to say about it. */
export interface LoadedFile extends Loaded {
  readonly notes: readonly string[];
}

/**
 * Reads a model from a file or from its bytes. With `weightInputs`, `bytes` may be others than those of the file.
 *
 * @throws CompileError "missing-data" (no such file, external data absent), "bad-model" (not ONNX, empty, truncated, cyclic,
 *   undefined or duplicate names, sizes that lie, external data outside the folder), "unsupported-op" (opset below 7).
 */
export function loadModel(from: string | Uint8Array, options: LoadOptions = {}): LoadedFile {
  const file = typeof from === "string" ? from : undefined;
  const bytes = typeof from === "string" ? readModelFile(from) : from;
  try {
    const baseDir = options.baseDir ?? (file === undefined ? undefined : dirname(file));
    const loaded = decode(bytes, file, baseDir);
    const grown = options.weightInputs && withWeights(bytes, loaded.graph, options.weightInputs);
    return grown ? { ...decode(grown.bytes, file, baseDir), notes: [grown.note] } : { ...loaded, notes: [] };
  } catch (e) {
    if (!(e instanceof CompileError) || file === undefined) throw e;
    throw new CompileError(e.code, e.message, e.where === undefined ? `file "${file}"` : `${e.where}, file "${file}"`, e.hint);
  }
}

function readModelFile(path: string): Uint8Array {
  try {
    const file = readFileSync(path);
    return new Uint8Array(file.buffer, file.byteOffset, file.byteLength);
  } catch (e) {
    throw new CompileError("missing-data", `cannot read the model: ${(e as NodeJS.ErrnoException).code ?? String(e)}`, `file "${path}"`);
  }
}

function decode(bytes: Uint8Array, file: string | undefined, baseDir: string | undefined): Loaded {
  if (bytes.length === 0) throw new CompileError("bad-model", "the file is empty", undefined, "fetch or export it again");
  let model: InstanceType<typeof onnx.ModelProto>;
  try {
    visitTensors(bytes, () => undefined); // writing back walks these bytes: what that could not read is better refused now
    model = onnx.ModelProto.decode(bytes); // reads lengths modulo 2^32
  } catch {
    throw notOnnx(bytes);
  }
  if (!model.graph) throw notOnnx(bytes);
  const standard = model.opsetImport.filter((o) => isStandard(o.domain ?? "")).map((o) => num(o.version));
  const opset = standard[0];
  if (opset === undefined || standard.some((v) => v !== opset))
    throw new CompileError("bad-model", opset === undefined ? "the file names no opset of the standard operators" : "the file names two opsets of the standard operators",
      undefined, "it is truncated, or not a model for inference");
  if (opset < OLDEST_OPSET)
    throw new CompileError("unsupported-op", `opset ${opset} is older than ${OLDEST_OPSET}`, undefined, "convert it with onnx.version_converter to opset 13 or later");
  const { graph } = model;
  if ((graph.sparseInitializer ?? []).length > 0)
    throw new CompileError("unsupported-op", "sparse initialisers are not supported", undefined, "store the weights densely");

  const initializers = new Map<string, OnnxTensor>();
  for (const t of graph.initializer ?? []) {
    const made = tensor(t as Proto<"TensorProto">);
    if (initializers.has(made.name)) throw new CompileError("bad-model", `two initialisers are called "${made.name}"`);
    checkStorage(made);
    checkExternal(baseDir, made);
    initializers.set(made.name, made);
  }
  const inputs = (graph.input ?? []).map((v) => valueInfo(v as Proto<"ValueInfoProto">));
  const outputs = (graph.output ?? []).map((v) => valueInfo(v as Proto<"ValueInfoProto">));
  const nodes = inlined(bytes, model, { node, attribute, tensor }, [...initializers.keys(), ...inputs.map((v) => v.name)], OLDEST_OPSET);
  const checked = checkGraph({ name: graph.name ?? "", inputs, outputs, initializers, nodes });
  return { file, bytes, opset, producer: `${model.producerName ?? ""} ${model.producerVersion ?? ""}`.trim(), graph: checked, external: externalReader(baseDir) };
}

const isStandard = (domain: string): boolean => domain === "" || domain === "ai.onnx";

function notOnnx(bytes: Uint8Array): CompileError {
  const head = Buffer.from(bytes.subarray(0, 256)).toString("latin1");
  if (head.startsWith("version https://git-lfs"))
    return new CompileError("bad-model", "this is a Git LFS pointer, not the model", undefined, "run: git lfs pull");
  const text = /^[\t\n\r\x20-\x7e]+$/.test(head);
  return new CompileError("bad-model", text ? "this is a text file, not an ONNX model" : "not an ONNX model, or a damaged or truncated one", undefined,
    "fetch or export the file again");
}

/** int64 fields arrive as Long objects. */
const num = (v: unknown): number => (typeof v === "number" ? v : v ? (v as { toNumber(): number }).toNumber() : 0);
const nums = (list: readonly unknown[] | null | undefined): number[] => (list ?? []).map(num);
const text = (bytes: Uint8Array | null | undefined): string => Buffer.from(bytes ?? []).toString("utf8");

function tensor(t: Proto<"TensorProto">): OnnxTensor {
  const typed = [t.floatData, t.int32Data, t.int64Data, t.uint64Data, t.doubleData].some((list) => list.length > 0);
  return {
    name: t.name, dims: nums(t.dims), type: t.dataType,
    raw: Object.hasOwn(t, "rawData") && !(typed && t.rawData.length === 0) ? t.rawData : undefined,
    floats: t.floatData, int32s: t.int32Data, int64s: nums(t.int64Data), uint64s: nums(t.uint64Data), doubles: t.doubleData,
    strings: t.stringData.length,
    external: t.dataLocation === 1 ? externalRef(t) : undefined,
  };
}

function externalRef(t: Proto<"TensorProto">): ExternalRef {
  const entries = new Map(t.externalData.map((e) => [e.key ?? "", e.value ?? ""]));
  const count = (key: string): number | undefined => {
    const given = entries.get(key);
    if (given === undefined) return undefined;
    const n = Number(given);
    if (!Number.isSafeInteger(n) || n < 0) throw new CompileError("bad-model", `external data with ${key} "${given}"`, `tensor "${t.name}"`);
    return n;
  };
  return { location: entries.get("location") ?? "", offset: count("offset") ?? 0, length: count("length") };
}

function attribute(a: Proto<"AttributeProto">): OnnxAttr {
  const made = a.t ? tensor(a.t as Proto<"TensorProto">) : undefined;
  if (made) checkStorage(made);
  return {
    name: a.name,
    // proto3 leaves out zeros: the attribute's type says which field was meant
    f: Object.hasOwn(a, "f") || a.type === 1 ? a.f : undefined,
    i: Object.hasOwn(a, "i") || a.type === 2 ? num(a.i) : undefined,
    s: Object.hasOwn(a, "s") || a.type === 3 ? text(a.s) : undefined,
    t: made,
    floats: a.floats, ints: nums(a.ints), strings: a.strings.map(text),
    opaque: !!a.g || a.graphs.length > 0 || a.tensors.length > 0 || !!a.sparseTensor,
  };
}

function node(n: Proto<"NodeProto">): OnnxNode {
  const domain = isStandard(n.domain) ? "" : n.domain;
  return {
    name: n.name, op: n.opType, domain, inputs: n.input, outputs: n.output,
    attrs: new Map(n.attribute.map((a) => [a.name ?? "", attribute(a as Proto<"AttributeProto">)])),
  };
}

function valueInfo(v: Proto<"ValueInfoProto">): OnnxValue {
  const t = v.type?.tensorType;
  const dims = t?.shape?.dim?.map((d): Dim => {
    if (Object.hasOwn(d, "dimValue") && d.dimValue !== null) {
      const n = num(d.dimValue);
      return n > 0 ? n : undefined; // some exporters write 0 or -1 for "any"
    }
    return d.dimParam ? d.dimParam : undefined;
  });
  return { name: v.name, type: t?.elemType ?? 0, dims };
}

/** Decodes one serialised TensorProto (a file of test data, a slice of a model). */
export function decodeTensorProto(bytes: Uint8Array): OnnxTensor {
  try {
    return tensor(onnx.TensorProto.decode(bytes));
  } catch {
    throw new CompileError("bad-model", "not a serialised tensor, or a damaged one");
  }
}
