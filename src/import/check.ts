/** The rules of an ONNX graph: every name defined once, before its use, and no cycle. */
import { CompileError } from "../../ir/error.js";
import type { OnnxGraph, OnnxNode, OnnxValue } from "./model.js";

const bad = (message: string, where?: string): CompileError => new CompileError("bad-model", message, where);
const place = (node: OnnxNode): string => `node "${node.name}" (${node.op})`;

/** The graph with its nodes in an order of definition and with initialisers taken out of the inputs. @throws bad-model */
export function checkGraph(graph: OnnxGraph): OnnxGraph {
  unique(graph.inputs, "input");
  unique(graph.outputs, "output");
  if (graph.outputs.length === 0) throw bad("the graph has no output");
  const inputs = graph.inputs.filter((v) => !graph.initializers.has(v.name));
  const given = new Set([...graph.initializers.keys(), ...inputs.map((v) => v.name)]);
  const madeBy = new Map<string, OnnxNode>();
  for (const node of graph.nodes)
    for (const name of node.outputs) {
      if (name === "") continue;
      if (given.has(name) || madeBy.has(name)) throw bad(`"${name}" is defined twice`, place(node));
      madeBy.set(name, node);
    }
  for (const node of graph.nodes)
    for (const name of node.inputs)
      if (name !== "" && !given.has(name) && !madeBy.has(name)) throw bad(`"${name}" is used but never defined`, place(node));
  for (const v of graph.outputs) if (!given.has(v.name) && !madeBy.has(v.name)) throw bad(`the output "${v.name}" is never defined`);
  return { ...graph, inputs, nodes: inOrder(graph.nodes, madeBy) };
}

function unique(values: readonly OnnxValue[], what: string): void {
  const seen = new Set<string>();
  for (const { name } of values) {
    if (seen.has(name)) throw bad(`two graph ${what}s are called "${name}"`);
    seen.add(name);
  }
}

/** The file's order where it is one (as ONNX demands); else the nearest order of definition. */
function inOrder(nodes: readonly OnnxNode[], madeBy: ReadonlyMap<string, OnnxNode>): readonly OnnxNode[] {
  const waiting = new Map<OnnxNode, number>();
  const readers = new Map<OnnxNode, OnnxNode[]>();
  for (const node of nodes) {
    const sources = node.inputs.flatMap((name) => madeBy.get(name) ?? []);
    waiting.set(node, sources.length);
    for (const source of sources) {
      const list = readers.get(source);
      if (list) list.push(node);
      else readers.set(source, [node]);
    }
  }
  const out: OnnxNode[] = [];
  // an explicit stack: a chain of thousands of nodes must not exhaust the call stack
  const ready = nodes.filter((node) => waiting.get(node) === 0).reverse();
  const done = new Set<OnnxNode>();
  const sorted = nodes.every((node) => {
    const fine = node.inputs.every((name) => !madeBy.has(name) || done.has(madeBy.get(name) as OnnxNode));
    done.add(node);
    return fine;
  });
  if (sorted) return nodes;
  for (let node = ready.pop(); node; node = ready.pop()) {
    out.push(node);
    for (const reader of (readers.get(node) ?? []).reverse()) {
      const left = (waiting.get(reader) as number) - 1;
      waiting.set(reader, left);
      if (left === 0) ready.push(reader);
    }
  }
  if (out.length < nodes.length) {
    const placed = new Set(out);
    throw bad("the graph has a cycle", place(nodes.find((node) => !placed.has(node)) as OnnxNode));
  }
  return out;
}
