/**
 * Models exported without their weights: every weight is an input that nobody will ever give.
 *
 * A float input of fixed shape is such a weight if all its uses, looked at through views, are places of weights (the kernel and bias of a
 * Conv, the right-hand matrix of a Gemm or MatMul, the four tensors of a BatchNormalization …) and another input is left to carry the
 * examples. It becomes an initialiser of the file's bytes, so that all that follows, the writing of trained weights too, finds it as it
 * finds any other. First values: He's normal ones for kernels and matrices, 0 for biases and means, 1 for scales and variances.
 */
import { CompileError } from "../../ir/error.js";
import { initialValues } from "../dsl/init.js";
import { type OnnxGraph, type OnnxNode, type OnnxValue, onnxType, type Use } from "./model.js";
import { Roles } from "./roles.js";
import { MODEL, TENSOR, GRAPH, utf8 } from "./schema.js";
import { encodeRaw, type FloatType, MAX_ELEMENTS } from "./tensor.js";
import { concat, delimited, fields, varint } from "./wire.js";

export interface WeightInputs {
  readonly seed: number;
  /** Inputs that carry data, whatever they look like. */
  readonly except?: readonly string[];
}

type First = "he" | "zeros" | "ones";

const PLACES: Readonly<Record<string, Readonly<Record<number, First>>>> = {
  Conv: { 1: "he", 2: "zeros" }, ConvTranspose: { 1: "he", 2: "zeros" }, Gemm: { 1: "he", 2: "zeros" }, MatMul: { 1: "he" },
  BatchNormalization: { 1: "ones", 2: "zeros", 3: "zeros", 4: "ones" }, LayerNormalization: { 1: "ones", 2: "zeros" },
  GroupNormalization: { 1: "ones", 2: "zeros" }, InstanceNormalization: { 1: "ones", 2: "zeros" }, Gather: { 0: "he" },
  RNN: { 1: "he", 2: "he", 3: "zeros" }, GRU: { 1: "he", 2: "he", 3: "zeros" }, LSTM: { 1: "he", 2: "he", 3: "zeros" },
};
/** A file of protobuf messages ends here. */
const MAX_FILE = 2 ** 31 - 1;

/**
 * The file's bytes with an initialiser for every input that is a weight, and what was done; undefined if there is none.
 *
 * @throws CompileError "too-large" if the file would pass 2 GiB.
 */
export function withWeights(bytes: Uint8Array, graph: OnnxGraph, { seed, except = [] }: WeightInputs): { readonly bytes: Uint8Array; readonly note: string } | undefined {
  const roles = new Roles(graph);
  const found = graph.inputs.flatMap((v) => {
    const first = except.includes(v.name) ? undefined : firstOf(v, roles, graph);
    return first ? [{ v, dims: v.dims as readonly number[], ...first }] : [];
  });
  const names = new Set(found.map((f) => f.v.name));
  if (found.length === 0 || graph.inputs.every((v) => names.has(v.name))) return undefined;
  const main = [...fields(bytes, 0, bytes.length)].find((f) => f.number === MODEL.graph);
  if (!main) return undefined;
  const total = found.reduce((sum, f) => sum + 4 * count(f.dims), bytes.length);
  if (total > MAX_FILE) throw new CompileError("too-large", `with its weights the model would have ${total} bytes`, undefined, "export it with its weights, as external data");
  const made = found.map((f) => delimited(GRAPH.initializer, initializer(f, seed)));
  const grown = delimited(MODEL.graph, concat([bytes.subarray(main.value, main.end), ...made]));
  const list = found.slice(0, 3).map((f) => `"${f.v.name}"`).join(", ");
  return {
    bytes: concat([bytes.subarray(0, main.start), grown, bytes.subarray(main.end)]),
    note: `the file has no weights: ${found.length} of its inputs serve as weights (${list}${found.length > 3 ? ", …" : ""}) and start at random (He, seed ${seed}), biases at 0, scales at 1; `
      + "--batch-axis NAME=0 makes one an input of examples",
  };
}

interface Found {
  readonly v: OnnxValue;
  readonly dims: readonly number[];
  readonly first: First;
  /** Terms of the sums that it weighs. */
  readonly fanIn: number;
}

const count = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1);

function firstOf(v: OnnxValue, roles: Roles, graph: OnnxGraph): { first: First; fanIn: number } | undefined {
  const stored = onnxType(v.type);
  if (stored !== "float" && stored !== "double" && stored !== "float16" && stored !== "bfloat16") return undefined;
  if (!v.dims || v.dims.length === 0 || !v.dims.every((d) => typeof d === "number")) return undefined;
  const dims = v.dims as readonly number[];
  if (!(count(dims) < MAX_ELEMENTS)) return undefined;
  const uses = roles.reached(v.name);
  const firsts = uses.map((use) => placed(use, dims, roles, graph));
  const [use, first] = [uses[0], firsts.find((f) => f === "he") ?? firsts[0]];
  if (!use || !first || firsts.some((f) => f === undefined)) return undefined;
  return { first, fanIn: fanInOf(use.node, use.input, dims, roles.flips(v.name)) };
}

/** What a weight at that place begins as; undefined: it is no place of a weight. */
function placed({ node, input }: Use, dims: readonly number[], roles: Roles, graph: OnnxGraph): First | undefined {
  // a bias that is added to a linear layer's result
  if (node.op === "Add" && dims.length === 1) return roles.isLinear(node.inputs[1 - input] ?? "") ? "zeros" : undefined;
  // a stack of matrices is as likely to be data, and so is a table of another rank
  if ((node.op === "MatMul" || node.op === "Gather") && dims.length !== 2) return undefined;
  // rows that a stored index picks are data; those that the examples pick are a table of embeddings
  if (node.op === "Gather" && graph.initializers.has(node.inputs[1] ?? "")) return undefined;
  return Object.hasOwn(PLACES, node.op) && node.domain === "" ? PLACES[node.op]?.[input] : undefined;
}

function fanInOf(node: OnnxNode, input: number, dims: readonly number[], flipped: boolean): number {
  const [rows, columns] = dims as [number, number | undefined];
  switch (node.op) {
    case "Conv": return count(dims.slice(1));
    case "ConvTranspose": return rows * count(dims.slice(2));
    case "MatMul": case "Gemm": {
      const across = (node.attrs.get("transB")?.i ?? 0) !== 0;
      return input === 1 ? (across !== flipped ? (columns ?? rows) : rows) : 1;
    }
    default: return dims.at(-1) as number;
  }
}

function initializer({ v, dims, first, fanIn }: Found, seed: number): Uint8Array {
  const n = count(dims);
  const values = first === "he" ? initialValues(v.name, [n / Math.max(1, fanIn), fanIn], { kind: "he", seed }) : initialValues(v.name, [n], { kind: first });
  return concat([
    delimited(TENSOR.dims, Uint8Array.from(dims.flatMap(varint))), Uint8Array.from([TENSOR.dataType * 8, v.type]),
    delimited(TENSOR.name, utf8(v.name)), delimited(TENSOR.rawData, encodeRaw(values, onnxType(v.type) as FloatType)),
  ]);
}
