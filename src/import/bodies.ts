/** Node lists as a file has them, before functions and branches are put in their place: calls, references to attributes, sub-graphs. */
import onnxProto from "onnx-proto";
import { CompileError } from "../../ir/error.js";
import type { OnnxAttr, OnnxNode, OnnxTensor } from "./model.js";
import { ATTRIBUTE, fieldsOf, GRAPH, MODEL, NODE, textField } from "./schema.js";
import { type Field, fields } from "./wire.js";

const { onnx } = onnxProto;
type Model = InstanceType<(typeof onnx)["ModelProto"]>;
export type NodeProto = InstanceType<(typeof onnx)["NodeProto"]>;
export type AttributeProto = InstanceType<(typeof onnx)["AttributeProto"]>;
type GraphProto = InstanceType<(typeof onnx)["GraphProto"]>;
export type TensorProto = InstanceType<(typeof onnx)["TensorProto"]>;

/** How single messages are read. */
export interface Read {
  readonly node: (n: NodeProto) => OnnxNode;
  readonly attribute: (a: AttributeProto) => OnnxAttr;
  readonly tensor: (t: TensorProto) => OnnxTensor;
}

/** A node of a graph, a function or a branch. */
export interface Step {
  readonly node: OnnxNode;
  /** Tells functions of one name apart. */
  readonly overload: string;
  /** Attributes that are those of the function: own name → the function's. */
  readonly refs: ReadonlyMap<string, string>;
  /** What an If does if its condition holds, and if not. */
  readonly branches: readonly [Branch, Branch] | undefined;
}

export interface Branch {
  readonly steps: readonly Step[];
  readonly outputs: readonly string[];
}

/** A FunctionProto. */
export interface FunctionBody {
  readonly name: string;
  readonly key: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** What attributes are where a call gives none. */
  readonly defaults: ReadonlyMap<string, OnnxAttr>;
  /** Version of the standard operators that the body is written in; undefined: it names none. */
  readonly opset: number | undefined;
  readonly steps: readonly Step[];
}

/** Fields that the compiled protobuf does not know: they came with later versions of the format. */
const FUNCTIONS = 25; // ModelProto
const FUNCTION = { node: 7, attributeProto: 11, overload: 13 } as const;
const NODE_OVERLOAD = 8;

/** Sub-graphs inside of sub-graphs, and functions inside of functions: deeper ones are damage or malice. */
export const MAX_DEPTH = 64;

const standard = (domain: string | null | undefined): string => (domain === "ai.onnx" ? "" : (domain ?? ""));

/** What a call and a function must agree in. */
export const keyOf = (domain: string, name: string, overload: string): string => JSON.stringify([standard(domain), name, overload]);

/** The functions of a model by key, and the nodes of its main graph. @throws bad-model if two functions are called alike. */
export function readBodies(bytes: Uint8Array, model: Model, read: Read): { functions: ReadonlyMap<string, FunctionBody>; steps: readonly Step[] } {
  const functions = new Map<string, FunctionBody>();
  const stored = model.functions.length > 0 ? [...fields(bytes, 0, bytes.length)] : [];
  const places = stored.filter((f) => f.number === FUNCTIONS);
  model.functions.forEach((f, k) => {
    const place = places[k];
    if (place?.wire !== 2) throw new CompileError("bad-model", "a function is damaged", `function "${f.name ?? ""}"`);
    const made = readFunction(bytes, f as InstanceType<(typeof onnx)["FunctionProto"]>, place, read);
    if (functions.has(made.key)) throw new CompileError("bad-model", `two functions are called "${made.name}"`);
    functions.set(made.key, made);
  });
  const nodes = stored.filter((f) => f.number === MODEL.graph).flatMap((g) => fieldsOf(bytes, g, GRAPH.node));
  return { functions, steps: readSteps(bytes, (model.graph?.node ?? []) as NodeProto[], nodes, read, 0) };
}

function readFunction(bytes: Uint8Array, f: InstanceType<(typeof onnx)["FunctionProto"]>, place: Field, read: Read): FunctionBody {
  const defaults = fieldsOf(bytes, place, FUNCTION.attributeProto).map((a) => read.attribute(decodeAttribute(bytes.subarray(a.value, a.end))));
  const opset = f.opsetImport.find((o) => standard(o.domain) === "");
  return {
    name: f.name, key: keyOf(f.domain, f.name, textField(bytes, place, FUNCTION.overload) ?? ""),
    inputs: f.input, outputs: f.output,
    defaults: new Map(defaults.map((a) => [a.name, a])),
    opset: opset && Number(opset.version),
    steps: readSteps(bytes, f.node as NodeProto[], fieldsOf(bytes, place, FUNCTION.node), read, 0),
  };
}

function decodeAttribute(bytes: Uint8Array): AttributeProto {
  try {
    return onnx.AttributeProto.decode(bytes);
  } catch {
    throw new CompileError("bad-model", "a function's attribute is damaged");
  }
}

/** `places`: the nodes' bytes; empty where the model has no functions, so that no node can name an overload. */
function readSteps(bytes: Uint8Array, nodes: readonly NodeProto[], places: readonly Field[], read: Read, depth: number): Step[] {
  if (places.length > 0 && places.length !== nodes.length) throw new CompileError("bad-model", "a list of nodes is damaged");
  if (depth > MAX_DEPTH) throw new CompileError("bad-model", `more than ${MAX_DEPTH} sub-graphs inside each other`);
  return nodes.map((n, k) => {
    const place = places[k];
    const refs = n.attribute.filter((a) => a.refAttrName).map((a) => [a.name ?? "", a.refAttrName as string] as const);
    return {
      node: read.node(n), refs: new Map(refs),
      overload: place ? (textField(bytes, place, NODE_OVERLOAD) ?? "") : "",
      branches: n.opType === "If" && standard(n.domain) === "" ? readBranches(bytes, n, place, read, depth) : undefined,
    };
  });
}

/** Both branches of an If; undefined if one is no sub-graph. */
function readBranches(bytes: Uint8Array, n: NodeProto, place: Field | undefined, read: Read, depth: number): readonly [Branch, Branch] | undefined {
  const attributes = place ? fieldsOf(bytes, place, NODE.attribute) : [];
  const branch = (name: string): Branch | undefined => {
    const k = n.attribute.findIndex((a) => a.name === name);
    const graph = n.attribute[k]?.g as GraphProto | null | undefined;
    if (!graph || graph.sparseInitializer.length > 0) return undefined;
    const at = attributes[k];
    const inner = at ? fieldsOf(bytes, at, ATTRIBUTE.g).flatMap((g) => fieldsOf(bytes, g, GRAPH.node)) : [];
    const stored = graph.initializer.map((t): Step => constantStep(read.tensor(t as TensorProto)));
    return { steps: [...stored, ...readSteps(bytes, graph.node as NodeProto[], inner, read, depth + 1)], outputs: graph.output.map((v) => v.name ?? "") };
  };
  const [yes, no] = [branch("then_branch"), branch("else_branch")];
  return yes && no ? [yes, no] : undefined;
}

/** A branch's own initialiser, as a node: nothing but the branch can read it. */
function constantStep(t: OnnxTensor): Step {
  const value: OnnxAttr = { name: "value", f: undefined, i: undefined, s: undefined, t, floats: [], ints: [], strings: [], opaque: false };
  return { node: { name: "", op: "Constant", domain: "", inputs: [], outputs: [t.name], attrs: new Map([["value", value]]) }, overload: "", refs: new Map(), branches: undefined };
}
