/** `print --after fuse`: the graph with comments that say which kernel computes each node. It still parses as `.kir`. */
import { PORTABLE } from "../../codegen/limits.js";
import { lowerGraph } from "../../codegen/lower.js";
import type { Graph, Node } from "../../ir/graph.js";
import { print, spellValue } from "../../ir/print.js";

export function printFused(graph: Graph): string {
  const { work } = lowerGraph(graph, PORTABLE);
  const kernelOf = new Map<string, number>();
  const heads = new Map<string, string>();
  work.forEach(({ group, specs }, k) => {
    const names = [group.root, ...group.nodes].flatMap((n) => n.results.map((r) => r.name));
    for (const name of names) kernelOf.set(name, k);
    const forms = specs.map((s) => ("symmetric" in s && s.symmetric ? "contract (half its tiles)" : s.kind)).join(" + ");
    heads.set(names[0] as string, `  # kernel ${k}: ${forms}, stores ${group.stored.map(spellValue).join(", ")}`);
  });
  const lines = print(graph).trimEnd().split("\n");
  const first = 1 + graph.params.length + graph.inputs.length;
  const comment = (node: Node): string => {
    const k = kernelOf.get(node.results[0]?.name ?? "");
    return k === undefined ? "  # inlined where it is read" : `  # kernel ${k}`;
  };
  const body = graph.nodes.flatMap((node, k) => {
    const head = heads.get(node.results[0]?.name ?? "");
    return [...(head ? [head] : []), `${lines[first + k]}${comment(node)}`];
  });
  return [...lines.slice(0, first), ...body, ...lines.slice(first + graph.nodes.length)].join("\n");
}
