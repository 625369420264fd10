/** The few field numbers of onnx.proto that writing back needs, and walks over them in a model's bytes. */
import { type Field, fields, readVarint } from "./wire.js";

export const MODEL = { graph: 7 } as const;
export const GRAPH = { node: 1, initializer: 5 } as const;
export const NODE = { input: 1, output: 2, opType: 4, attribute: 5 } as const;
export const ATTRIBUTE = { name: 1, f: 2, t: 5, g: 6, floats: 7, tensors: 10, graphs: 11, type: 20 } as const;
export const TENSOR = {
  dims: 1, dataType: 2, floatData: 4, int32Data: 5, name: 8, rawData: 9, doubleData: 10, externalData: 13, dataLocation: 14,
} as const;
export const ENTRY = { key: 1, value: 2 } as const;

export const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);

/** The first string of that field number in a message. */
export function textField(bytes: Uint8Array, inside: Field, number: number): string | undefined {
  for (const f of fields(bytes, inside.value, inside.end))
    if (f.number === number && f.wire === 2) return new TextDecoder().decode(bytes.subarray(f.value, f.end));
  return undefined;
}

/** The fields of that number in a message. */
export const fieldsOf = (bytes: Uint8Array, inside: Field, number: number): Field[] =>
  [...fields(bytes, inside.value, inside.end)].filter((f) => f.number === number);

/** The main graph. (Protobuf would merge several; no exporter writes them.) */
export const mainGraphs = (bytes: Uint8Array): Field[] => [...fields(bytes, 0, bytes.length)].filter((f) => f.number === MODEL.graph);

/** Calls `visit` for every TensorProto of a model, sub-graphs included. */
export function visitTensors(bytes: Uint8Array, visit: (f: Field) => void): void {
  const graph = (g: Field): void => {
    for (const f of fields(bytes, g.value, g.end)) {
      if (f.number === GRAPH.initializer) visit(f);
      if (f.number !== GRAPH.node) continue;
      for (const a of fieldsOf(bytes, f, NODE.attribute))
        for (const t of fields(bytes, a.value, a.end)) {
          if (t.number === ATTRIBUTE.t || t.number === ATTRIBUTE.tensors) visit(t);
          if (t.number === ATTRIBUTE.g || t.number === ATTRIBUTE.graphs) graph(t);
        }
    }
  };
  for (const f of mainGraphs(bytes)) graph(f);
}

/** The TensorProto of the initialiser `name`, or of the Constant node that gives it. */
export function findTensor(bytes: Uint8Array, name: string): Field | undefined {
  for (const graph of mainGraphs(bytes))
    for (const f of fields(bytes, graph.value, graph.end)) {
      if (f.number === GRAPH.initializer && textField(bytes, f, TENSOR.name) === name) return f;
      if (f.number === GRAPH.node && textField(bytes, f, NODE.output) === name)
        return fieldsOf(bytes, f, NODE.attribute).flatMap((a) => fieldsOf(bytes, a, ATTRIBUTE.t))[0];
    }
  return undefined;
}

/** Where a tensor's external bytes begin, or undefined if it has none. */
export function externalPlace(bytes: Uint8Array, tensor: Field): { location: string; offset: number } | undefined {
  const kind = fieldsOf(bytes, tensor, TENSOR.dataLocation).at(-1);
  if (!kind || readVarint(bytes, kind.value, kind.end)[0] !== 1) return undefined;
  const entries = new Map(fieldsOf(bytes, tensor, TENSOR.externalData).map((e) => [textField(bytes, e, ENTRY.key), textField(bytes, e, ENTRY.value)]));
  return { location: entries.get("location") ?? "", offset: Number(entries.get("offset") ?? 0) };
}
