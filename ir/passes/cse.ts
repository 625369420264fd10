/** Common subexpression elimination. */
import type { Attrs, Graph, Node, Value } from "../graph.js";
import { OPS } from "../ops/index.js";
import type { Pass } from "../pass.js";
import { print, spellAttr } from "../print.js";

/** Ops are pure (`uniform` is a function of key, stream and index), so equal nodes are one node. */
export const cse: Pass = {
  name: "cse",
  doc: "No two nodes compute the same: same op, attributes and inputs, in either order where the op is commutative.",
  run(graph) {
    const images = new Map<Value, Value>();
    const image = (v: Value): Value => images.get(v) ?? v;
    const numbers = new Map<Value, number>();
    const number = (v: Value): number => {
      const known = numbers.get(v);
      if (known !== undefined) return known;
      numbers.set(v, numbers.size);
      return numbers.size - 1;
    };
    const seen = new Map<string, Node>();
    const nodes: Node[] = [];
    for (const node of graph.nodes) {
      const inputs = node.inputs.map(image);
      const key = spellKey(node, inputs.map(number));
      const before = seen.get(key);
      if (before) {
        node.results.forEach((r, k) => images.set(r, before.results[k] as Value));
        continue;
      }
      const changed = inputs.some((v, k) => v !== node.inputs[k]);
      const kept = changed ? { ...node, inputs } : node;
      seen.set(key, kept);
      nodes.push(kept);
    }
    if (images.size === 0) return graph;
    return { ...graph, nodes, results: graph.results.map((r) => ({ ...r, value: image(r.value) })) } satisfies Graph;
  },
};

function spellKey(node: Node, inputs: readonly number[]): string {
  const ordered = inputs.length > 1 && OPS[node.op].commutative ? [...inputs].sort((a, b) => a - b) : inputs;
  const regions = node.regions.length > 0 ? `|${node.regions.map(print).join("|")}` : "";
  return `${node.op}|${ordered.join()}|${spellAttrs(node.attrs)}${regions}`;
}

/** Attributes are spelled once: a node keeps them when its inputs change, and every pass asks. */
function spellAttrs(attrs: Attrs): string {
  const known = SPELLED.get(attrs);
  if (known !== undefined) return known;
  const made = Object.keys(attrs).sort().map((name) => `${name}=${spellAttr(attrs[name] ?? [])}`).join("|");
  SPELLED.set(attrs, made);
  return made;
}
const SPELLED = new WeakMap<Attrs, string>();
