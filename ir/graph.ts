/**
 * The graph: typed, immutable SSA without effects.
 *
 * Values are compared by identity. A node's results are values that no other node produces. Nodes stand in
 * topological order: every input is a parameter, a graph input, or a result of an earlier node.
 */
import type { OpName } from "./ops/names.js";
import type { Type } from "./type.js";

export type Attr = number | string | boolean | readonly number[];
export type Attrs = Readonly<Record<string, Attr>>;

export interface Value {
  /** Unique inside its graph; printed as `%name`. */
  readonly name: string;
  readonly type: Type;
}

export interface Node {
  readonly op: OpName;
  readonly inputs: readonly Value[];
  readonly attrs: Attrs;
  /** Sub-graphs with their own inputs and results (first user: `scan`). They may not see outer values. */
  readonly regions: readonly Graph[];
  readonly results: readonly Value[];
  /** The user's name for where this came from, e.g. `Conv "/conv1/Conv"`; for error messages only. */
  readonly origin?: string;
}

/** Where a parameter's first value comes from. `file` = the tensor of that name stored beside the graph. */
export type Source =
  | { readonly kind: "file" }
  | { readonly kind: "zeros" }
  | { readonly kind: "ones" }
  | { readonly kind: "he" | "glorot"; readonly seed: number }
  | { readonly kind: "values"; readonly values: readonly number[] };

export interface Param {
  readonly value: Value;
  readonly source: Source;
  /** False: a constant tensor (frozen weight, table) that no optimiser touches. */
  readonly trainable: boolean;
}

export interface GraphInput {
  readonly value: Value;
  /** The axis that carries examples; absent: this input has none (a scalar knob, a table). */
  readonly examples?: number;
}

export interface GraphResult {
  readonly name: string;
  readonly value: Value;
}

export interface Graph {
  readonly name: string;
  readonly params: readonly Param[];
  readonly inputs: readonly GraphInput[];
  readonly nodes: readonly Node[];
  readonly results: readonly GraphResult[];
}

/** Inputs called run.… are the program's knobs (learning rate, seed …), not data. */
export const isKnob = (value: Value): boolean => value.name.startsWith("run.");

/** The single result of a node that has one. */
export function only(node: Node): Value {
  if (node.results.length !== 1) throw new Error(`node "${node.op}" has ${node.results.length} results`);
  return node.results[0] as Value;
}

/** value → the node that produces it (absent for parameters and inputs). */
export function producers(graph: Graph): Map<Value, Node> {
  const map = new Map<Value, Node>();
  for (const node of graph.nodes) for (const result of node.results) map.set(result, node);
  return map;
}

/** value → the nodes that read it, in order, once per use. Uses as graph results are not counted. */
export function users(graph: Graph): Map<Value, Node[]> {
  const map = new Map<Value, Node[]>();
  for (const node of graph.nodes)
    for (const input of node.inputs) {
      const list = map.get(input);
      if (list) list.push(node);
      else map.set(input, [node]);
    }
  return map;
}

/** Every value that a graph names: parameters, inputs, results of nodes. */
export function* values(graph: Graph): Generator<Value> {
  for (const p of graph.params) yield p.value;
  for (const i of graph.inputs) yield i.value;
  for (const n of graph.nodes) yield* n.results;
}
