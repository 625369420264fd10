/** Small random data for a graph: normal floats; integers in the range of the table that they index. */
import type { Graph, Node, Value } from "../../ir/graph.js";
import { producers, users } from "../../ir/graph.js";
import { intAttr, intsAttr } from "../../ir/op.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { OPS } from "../../ir/ops/index.js";
import { size } from "../../ir/type.js";
import { normals, uniforms } from "./values.js";

/** Rows of the smallest table that an integer input picks from: look-ups compare it with the positions of an axis. */
export function indexRange(graph: Graph, input: Value): number | undefined {
  const readers = users(graph);
  const producer = producers(graph);
  const seen = new Set<Value>();
  const queue = [input];
  const found: number[] = [];
  for (let v = queue.pop(); v; v = queue.pop()) {
    if (seen.has(v)) continue;
    seen.add(v);
    for (const node of readers.get(v) ?? []) {
      if (node.op === "eq") found.push(...node.inputs.flatMap((other) => (other === v ? [] : (extentOf(other, producer) ?? []))));
      for (const r of node.results) if (r.type.dtype === "i32" || OPS[node.op].movement) queue.push(r);
    }
  }
  return found.length > 0 ? Math.min(...found) : undefined;
}

/** Extent of the axis that an iota counts along, through views. */
function extentOf(value: Value, producer: ReadonlyMap<Value, Node>): number | undefined {
  let node = producer.get(value);
  while (node && OPS[node.op].movement) node = producer.get(node.inputs[0] as Value);
  return node?.op === "iota" ? intsAttr(node.attrs, "shape")[intAttr(node.attrs, "axis")] : undefined;
}

/** Inputs by name, exactly representable in f32. */
export function randomInputs(graph: Graph, seed: number): Record<string, NdArray> {
  return Object.fromEntries(graph.inputs.map(({ value }, k) => {
    const { dtype, shape } = value.type;
    if (dtype === "f32" || dtype === "f16") {
      const next = normals(seed * 1009 + k);
      return [value.name, ndarray(dtype, shape, Float64Array.from({ length: size(shape) }, () => Math.fround(next())))];
    }
    const next = uniforms(seed * 1009 + k);
    const range = dtype === "bool" ? 2 : (indexRange(graph, value) ?? 2);
    return [value.name, ndarray(dtype, shape, Float64Array.from({ length: size(shape) }, () => Math.floor(next() * range)))];
  }));
}
