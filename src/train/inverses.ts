/**
 * Inverses that do not wait for each other become one node, which the device makes in lockstep: the dispatches of the largest, with all
 * matrices' work in each.
 */
import type { Graph, Node, Value } from "../../ir/graph.js";

/** Elements of the matrices of one node: what they are copied to is alive all at once (32 MB). */
const MOST_TOGETHER = 2 ** 23;

/** The same graph with its independent inverses together, largest first; what needs none of them comes before, the rest after. */
export function inversesTogether(graph: Graph): Graph {
  const behind = new Set<Value>();
  const [early, late, inverses]: [Node[], Node[], Node[]] = [[], [], []];
  for (const node of graph.nodes) {
    const waits = node.inputs.some((v) => behind.has(v));
    if (waits || node.op === "inverse") for (const v of node.results) behind.add(v);
    (waits ? late : node.op === "inverse" ? inverses : early).push(node);
  }
  const groups: Node[][] = [];
  let room = 0;
  for (const node of inverses.toSorted((a, b) => elements(b) - elements(a))) {
    const last = groups[groups.length - 1];
    if (last && elements(node) <= room) last.push(node);
    else {
      groups.push([node]);
      room = MOST_TOGETHER;
    }
    room -= elements(node);
  }
  const merged = groups.map((g): Node => ({ ...(g[0] as Node), inputs: g.flatMap((n) => n.inputs), results: g.flatMap((n) => n.results) }));
  return { ...graph, nodes: [...early, ...merged, ...late] };
}

const elements = (inverse: Node): number => inverse.inputs.reduce((n, v) => n + v.type.shape.reduce((a, d) => a * d, 1), 0);
