/** Builds small .onnx models for tests. */
import onnxProto from "onnx-proto";

const { onnx } = onnxProto;

export type AttrSpec = number | string | readonly number[] | { readonly float: number } | { readonly floats: readonly number[] } | { readonly tensor: TensorSpec };

export interface TensorSpec {
  readonly dims: readonly number[];
  /** TensorProto.DataType; default 1, float. */
  readonly type?: number;
  readonly raw?: Uint8Array;
  readonly floats?: readonly number[];
  readonly int32s?: readonly number[];
  readonly int64s?: readonly number[];
  readonly doubles?: readonly number[];
  readonly external?: Readonly<Record<string, string>>;
}

export interface NodeSpec {
  readonly op: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attrs?: Readonly<Record<string, AttrSpec>>;
  readonly name?: string;
  readonly domain?: string;
}

export interface ModelSpec {
  readonly opset?: number;
  readonly inputs: Readonly<Record<string, readonly (number | string)[]>>;
  /** Element types of inputs that are not float. */
  readonly types?: Readonly<Record<string, number>>;
  readonly outputs: readonly string[];
  readonly outputType?: number;
  /** Element types of the outputs, one by one. */
  readonly outputTypes?: readonly number[];
  readonly nodes: readonly NodeSpec[];
  readonly initializers?: Readonly<Record<string, TensorSpec>>;
}

export const INT64 = 7;
export const FLOAT16 = 10;
export const DOUBLE = 11;
export const BFLOAT16 = 16;
export const BOOL = 9;

export const node = (op: string, inputs: readonly string[], outputs: readonly string[], attrs: Readonly<Record<string, AttrSpec>> = {}): NodeSpec => ({ op, inputs, outputs, attrs });

export const floats = (dims: readonly number[], values: readonly number[]): TensorSpec => ({ dims, raw: new Uint8Array(Float32Array.from(values).buffer) });
export const ints = (...values: readonly number[]): TensorSpec => ({ dims: [values.length], type: INT64, int64s: values });

export function tensorProto(name: string, t: TensorSpec): InstanceType<typeof onnx.TensorProto> {
  return onnx.TensorProto.create({
    name, dims: [...t.dims], dataType: t.type ?? 1,
    ...(t.raw ? { rawData: t.raw } : {}), ...(t.floats ? { floatData: [...t.floats] } : {}), ...(t.int32s ? { int32Data: [...t.int32s] } : {}),
    ...(t.int64s ? { int64Data: [...t.int64s] } : {}), ...(t.doubles ? { doubleData: [...t.doubles] } : {}),
    ...(t.external ? { dataLocation: 1, externalData: Object.entries(t.external).map(([key, value]) => ({ key, value })) } : {}),
  });
}

function attribute(name: string, a: AttrSpec): Record<string, unknown> {
  if (typeof a === "number") return { name, type: 2, i: a };
  if (typeof a === "string") return { name, type: 3, s: new TextEncoder().encode(a) };
  if ("float" in a) return { name, type: 1, f: a.float };
  if ("floats" in a) return { name, type: 6, floats: [...a.floats] };
  if ("tensor" in a) return { name, type: 4, t: tensorProto("", a.tensor) };
  return { name, type: 7, ints: [...a] };
}

const valueInfo = (name: string, type: number, dims?: readonly (number | string)[]): Record<string, unknown> => ({
  name, type: { tensorType: { elemType: type, ...(dims ? { shape: { dim: dims.map((d) => (typeof d === "number" ? { dimValue: d } : { dimParam: d })) } } : {}) } },
});

export function buildModel(spec: ModelSpec): Uint8Array {
  const opset = spec.opset ?? 17;
  const made = onnx.ModelProto.encode(onnx.ModelProto.create({
    irVersion: 8, producerName: "test", opsetImport: [{ domain: "", version: opset }, ...(spec.nodes.some((n) => n.domain) ? [{ domain: "com.microsoft", version: 1 }] : [])],
    graph: {
      name: "g",
      input: Object.entries(spec.inputs).map(([name, dims]) => valueInfo(name, spec.types?.[name] ?? 1, dims)),
      output: spec.outputs.map((name, k) => valueInfo(name, spec.outputTypes?.[k] ?? spec.outputType ?? 1)),
      initializer: Object.entries(spec.initializers ?? {}).map(([name, t]) => tensorProto(name, t)),
      node: spec.nodes.map((n) => ({
        opType: n.op, name: n.name ?? "", domain: n.domain ?? "", input: [...n.inputs], output: [...n.outputs],
        attribute: Object.entries(n.attrs ?? {}).map(([name, a]) => attribute(name, a)),
      })),
    },
  })).finish();
  return new Uint8Array(made);
}
