/** An ONNX model as plain data: what `onnx.ts` reads and the rest of this room works on. No protobuf object leaves `onnx.ts`. */

/** TensorProto.DataType, as far as kfacc names them. */
export const ONNX_TYPES = {
  1: "float", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
  10: "float16", 11: "double", 12: "uint32", 13: "uint64", 16: "bfloat16",
} as const;
export type OnnxType = (typeof ONNX_TYPES)[keyof typeof ONNX_TYPES];

/** The name of a data type code, or undefined for those without a use here (complex, float8, int4, …). */
export const onnxType = (code: number): OnnxType | undefined => (ONNX_TYPES as Readonly<Record<number, OnnxType>>)[code];

/** Bytes of one element in `raw_data`. */
export const TYPE_BYTES: Readonly<Record<Exclude<OnnxType, "string">, number>> = {
  float: 4, uint8: 1, int8: 1, uint16: 2, int16: 2, int32: 4, int64: 8, bool: 1, float16: 2, double: 8, uint32: 4, uint64: 8, bfloat16: 2,
};

/** Where the bytes of a tensor lie outside the model file. `length` undefined: to the end of the file. */
export interface ExternalRef {
  readonly location: string;
  readonly offset: number;
  readonly length: number | undefined;
}

/** A TensorProto. Exactly one storage is used: `external`, else `raw` if present, else the typed list. */
export interface OnnxTensor {
  readonly name: string;
  readonly dims: readonly number[];
  /** TensorProto.DataType code. */
  readonly type: number;
  /** A view into the file's bytes, usually misaligned. */
  readonly raw: Uint8Array | undefined;
  readonly floats: readonly number[];
  readonly int32s: readonly number[];
  readonly int64s: readonly number[];
  readonly uint64s: readonly number[];
  readonly doubles: readonly number[];
  readonly strings: number;
  readonly external: ExternalRef | undefined;
}

export interface OnnxAttr {
  readonly name: string;
  readonly f: number | undefined;
  readonly i: number | undefined;
  readonly s: string | undefined;
  readonly t: OnnxTensor | undefined;
  readonly floats: readonly number[];
  readonly ints: readonly number[];
  readonly strings: readonly string[];
  /** It holds a sub-graph (If, Loop, Scan) or something else that kfacc never reads. */
  readonly opaque: boolean;
}

export interface OnnxNode {
  readonly name: string;
  readonly op: string;
  /** "" is the standard domain. */
  readonly domain: string;
  /** "" = an optional input left out. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attrs: ReadonlyMap<string, OnnxAttr>;
  /** Version of the standard operators, where it may be another than the model's: in a function. */
  readonly opset?: number;
  /** It comes from a function's body or a branch. What it stores is not in the main graph, so that no weight can be written back. */
  readonly inlined?: true;
  /** Conditions, outermost first, under which it counts. */
  readonly guards?: readonly Guard[];
}

/** The node is in a branch of an If. */
export interface Guard {
  readonly condition: string;
  readonly holds: boolean;
  /** Name of the If. */
  readonly of: string;
}

/** An input of a node at which a tensor stands. */
export interface Use {
  readonly node: OnnxNode;
  readonly input: number;
}

/** One axis: a number, a symbol, or undefined where the file says neither. */
export type Dim = number | string | undefined;

export interface OnnxValue {
  readonly name: string;
  readonly type: number;
  /** undefined: the file gives no rank. */
  readonly dims: readonly Dim[] | undefined;
}

export interface OnnxGraph {
  readonly name: string;
  /** Without those that are initialisers. */
  readonly inputs: readonly OnnxValue[];
  readonly outputs: readonly OnnxValue[];
  readonly initializers: ReadonlyMap<string, OnnxTensor>;
  /** In an order in which every input is defined before its use. */
  readonly nodes: readonly OnnxNode[];
}

/** A checked model with the bytes it came from. */
export interface Loaded {
  /** The file, or undefined if the model was given as bytes. */
  readonly file: string | undefined;
  readonly bytes: Uint8Array;
  readonly opset: number;
  readonly producer: string;
  readonly graph: OnnxGraph;
  /** Reads the bytes of an external tensor; throws "missing-data" or "bad-model". */
  readonly external: (ref: ExternalRef) => Uint8Array;
  /** What reading the file has to say. */
  readonly notes?: readonly string[];
}

/** How a node is called in messages: its name, else what it gives. */
export const spellNode = (node: OnnxNode, opset: number): string =>
  node.name !== "" ? `node "${node.name}" (opset ${node.opset ?? opset})` : `the ${node.op} node that gives "${node.outputs[0] ?? ""}" (opset ${opset})`;
