/** Reverse mode: cotangents of any values of a graph under construction. */
import type { Builder } from "./builder.js";
import { CompileError } from "./error.js";
import type { Node, Value } from "./graph.js";
import { OPS } from "./ops/index.js";

/**
 * Appends to `builder` the nodes that carry the cotangents `seeds` (value → cotangent of the same type) back to the
 * values `wanted`, and returns their cotangents. A wanted value that no seed reaches is absent from the result.
 * Only nodes between a wanted value and a seeded one are differentiated.
 *
 * @throws CompileError "not-differentiable" if such a node has no derivative.
 */
export function cotangents(builder: Builder, seeds: ReadonlyMap<Value, Value>, wanted: readonly Value[]): Map<Value, Value> {
  const nodes = [...builder.nodes];
  const active = downstream(nodes, wanted);
  const found = new Map<Value, Value>(seeds);
  const origin = builder.origin;
  for (let k = nodes.length - 1; k >= 0; k--) {
    const node = nodes[k] as Node;
    const output = node.results.find((r) => found.has(r));
    if (!output || !node.inputs.some((v) => active.has(v))) continue;
    const { vjp } = OPS[node.op];
    const ct = found.get(output) as Value;
    if (!vjp || node.results.length > 1)
      throw new CompileError("not-differentiable", `no derivative through "${node.op}"`, node.origin);
    builder.origin = node.origin;
    const back = vjp({ node, inputs: node.inputs, output, ct, emit: builder.emit });
    node.inputs.forEach((input, i) => {
      const mine = back[i];
      if (!mine || !active.has(input)) return;
      const before = found.get(input);
      found.set(input, before ? builder.emit("add", [before, mine]) : mine);
    });
  }
  builder.origin = origin;
  return new Map(wanted.flatMap((v) => (found.has(v) ? [[v, found.get(v) as Value] as const] : [])));
}

/** `from` and everything computed from it. */
export function downstream(nodes: readonly Node[], from: readonly Value[]): Set<Value> {
  const set = new Set<Value>(from);
  for (const node of nodes) if (node.inputs.some((v) => set.has(v))) for (const r of node.results) set.add(r);
  return set;
}
