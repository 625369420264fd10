/** Dead code elimination. */
import type { Node, Value } from "../graph.js";
import type { Pass } from "../pass.js";

/** Parameters and inputs stay, used or not: they are the graph's signature. */
export const dce: Pass = {
  name: "dce",
  doc: "Every node is needed by a result.",
  run(graph) {
    const needed = new Set<Value>(graph.results.map((r) => r.value));
    const kept: Node[] = [];
    for (const node of [...graph.nodes].reverse()) {
      if (!node.results.some((r) => needed.has(r))) continue;
      for (const input of node.inputs) needed.add(input);
      kept.push(withRegions(node));
    }
    return kept.length === graph.nodes.length && kept.every((n, k) => n === graph.nodes[graph.nodes.length - 1 - k])
      ? graph
      : { ...graph, nodes: kept.reverse() };
  },
};

function withRegions(node: Node): Node {
  const regions = node.regions.map((region) => dce.run(region));
  return regions.every((region, k) => region === node.regions[k]) ? node : { ...node, regions };
}
