/** The oracle: runs a graph in float64, one node at a time, slow and obvious. */
import { CompileError } from "./error.js";
import type { Graph, Value } from "./graph.js";
import type { NdArray } from "./ndarray.js";
import { OPS } from "./ops/index.js";
import { sameShape, spellShape } from "./type.js";

/**
 * Results by name. `bindings` gives every parameter and input by its value name.
 * @throws CompileError "shape-mismatch" if a binding is missing or has another shape.
 */
export function evaluate(graph: Graph, bindings: Readonly<Record<string, NdArray>>): Record<string, NdArray> {
  const all = evaluateAll(graph, bindings);
  return Object.fromEntries(graph.results.map((r) => [r.name, all.get(r.value) as NdArray]));
}

/** Every value of the graph. */
export function evaluateAll(graph: Graph, bindings: Readonly<Record<string, NdArray>>): Map<Value, NdArray> {
  const known = new Map<Value, NdArray>();
  for (const { value } of [...graph.params, ...graph.inputs]) {
    const given = bindings[value.name];
    if (!given || !sameShape(given.shape, value.type.shape))
      throw new CompileError("shape-mismatch", given
        ? `"${value.name}" is ${spellShape(value.type.shape)}, got ${spellShape(given.shape)}`
        : `no value for "${value.name}"`, `graph "${graph.name}"`);
    known.set(value, given);
  }
  for (const node of graph.nodes) {
    const inputs = node.inputs.map((v) => known.get(v) as NdArray);
    const results = OPS[node.op].evaluate(inputs, node.attrs, node.results.map((r) => r.type));
    node.results.forEach((r, k) => known.set(r, results[k] as NdArray));
  }
  return known;
}
