/**
 * Where a parameter is used in the graph as it was imported: the ways from it through views to the nodes that compute with it.
 * Shares nothing with registration.
 */
import { type Graph, type Node, producers, users, type Value } from "../../ir/graph.js";
import { OPS } from "../../ir/ops/index.js";

export interface Use {
  readonly param: Value;
  /** Views on the way, from the parameter on. */
  readonly chain: readonly Node[];
  /** What the last view gives; the node reads it. */
  readonly view: Value;
  readonly node: Node;
  /** weight: a product with another value · bias: added to another value · other: neither */
  readonly role: "weight" | "bias" | "other";
  /** The other operand of a product or sum. */
  readonly other: Value | undefined;
}

/** Nodes that the given values depend on. */
export function liveNodes(graph: Graph, roots: readonly Value[]): Set<Node> {
  const producer = producers(graph);
  const live = new Set<Node>();
  const queue = [...roots];
  for (let v = queue.pop(); v; v = queue.pop()) {
    const node = producer.get(v);
    if (!node || live.has(node)) continue;
    live.add(node);
    queue.push(...node.inputs);
  }
  return live;
}

/** Every use of a parameter that the roots depend on, in the order of the graph. */
export function usesOf(graph: Graph, live: ReadonlySet<Node>, param: Value): Use[] {
  const readers = users(graph);
  const order = new Map(graph.nodes.map((n, k) => [n, k] as const));
  const from = (view: Value, chain: readonly Node[]): Use[] =>
    [...new Set(readers.get(view) ?? [])].filter((n) => live.has(n)).flatMap((node): Use[] => {
      if (OPS[node.op].movement) return from(node.results[0] as Value, [...chain, node]);
      const other = node.inputs.find((v) => v !== view);
      const alone = node.inputs.length === 2 && other !== undefined && node.inputs.filter((v) => v === view).length === 1;
      const role = !alone ? "other" : node.op === "contract" || node.op === "mul" ? "weight" : node.op === "add" ? "bias" : "other";
      return [{ param, chain, view, node, role, other: alone ? other : undefined }];
    });
  return from(param, []).sort((a, b) => (order.get(a.node) as number) - (order.get(b.node) as number));
}

/** What computes the parameter's role as a weight: not multiplied by a mere number or another parameter, but by what carries data. */
export const isSite = (use: Use, carries: ReadonlySet<Value>): boolean => use.role === "weight" && use.other !== undefined && carries.has(use.other);

/** Values that depend on an input with examples. */
export function dataValues(graph: Graph): Set<Value> {
  const set = new Set<Value>(graph.inputs.filter((i) => i.examples !== undefined).map((i) => i.value));
  for (const node of graph.nodes) if (node.inputs.some((v) => set.has(v))) for (const r of node.results) set.add(r);
  return set;
}

/** The views between a value and the ancestor they start from, or undefined where something else lies between. */
export function viewsBetween(graph: Graph, from: Value, to: Value): Node[] | undefined {
  const producer = producers(graph);
  const chain: Node[] = [];
  for (let v = to; v !== from; ) {
    const node = producer.get(v);
    if (!node || !OPS[node.op].movement) return undefined;
    chain.unshift(node);
    v = node.inputs[0] as Value;
  }
  return chain;
}
