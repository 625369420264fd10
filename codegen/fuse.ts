/**
 * Decides which values get buffers and which operations share a kernel.
 *
 * A *root* is an operation that needs a loop nest of its own (contract, reduce, fold, inverse) or a value that must be in
 * memory (operand of a contraction, graph result, costly value with several readers). Elementwise work joins the kernel
 * of the value it follows where that saves a trip through memory; everything else is recomputed inside its readers.
 */
import type { Graph, Node, Value } from "../ir/graph.js";
import { only, producers, users } from "../ir/graph.js";
import { OPS } from "../ir/ops/index.js";
import type { OpName } from "../ir/ops/names.js";
import { sameShape } from "../ir/type.js";
import type { Limits } from "./kernel.js";

export interface Group {
  readonly root: Node;
  /** Values this kernel computes besides the root's, all of the root's result shape. */
  readonly nodes: Node[];
  /** Results that others read: these are stored. Filled at the end. */
  readonly stored: Value[];
}

export interface Fusion {
  /** In dispatch order. */
  readonly groups: readonly Group[];
  readonly groupOf: ReadonlyMap<Value, Group>;
}

const ROOTS: ReadonlySet<OpName> = new Set<OpName>(["contract", "reduce_sum", "reduce_max", "reduce_argmax", "fold", "inverse"]);
const MOVES: ReadonlySet<OpName> = new Set<OpName>(["reshape", "permute", "broadcast", "pad", "slice", "window", "concat"]);
/** Reading a value through up to this many operations is cheaper than storing and loading it. */
const CHEAP = 3;

export function fuse(graph: Graph, limits: Limits, forced: ReadonlySet<Value>): Fusion {
  const producer = producers(graph);
  const readers = users(graph);
  const results = new Set(graph.results.map((r) => r.value));
  const groupOf = new Map<Value, Group>();
  const groups: Group[] = [];
  const needed = new Set<Value>([...forced, ...results]);
  for (const node of graph.nodes)
    if (node.op === "contract" || node.op === "inverse") for (const v of node.inputs) needed.add(base(v, producer));

  /** Values with buffers that an inline expression of `value` reads. */
  const leaves = memo((value: Value): ReadonlySet<Value> => {
    const node = producer.get(value);
    if (!node || groupOf.has(value)) return new Set(value.name.startsWith("run.") ? [] : [value]);
    return new Set(node.inputs.flatMap((v) => [...leaves(v)]));
  }, (value) => groupOf.has(value));
  const cost = (value: Value): number => {
    const node = producer.get(value);
    if (!node || groupOf.has(value)) return 0;
    return node.inputs.reduce((total, v) => total + cost(v), OPS[node.op].elementwise || node.op === "uniform" ? WEIGHT[node.op] ?? 1 : 0);
  };
  const groupLeaves = (group: Group): Set<Value> => {
    const own = new Set([...group.root.results, ...group.nodes.map(only)]);
    return new Set([group.root, ...group.nodes].flatMap((n) => n.inputs.flatMap((v) => (own.has(v) ? [] : [...leaves(v)]))).filter((v) => !own.has(v)));
  };
  /** Does `value` (computed inline or stored) wait for `group`? */
  const waitsFor = (value: Value, group: Group): boolean => {
    const seen = new Set<Group>();
    const visit = (v: Value): boolean => [...leaves(v)].some((leaf) => {
      const g = groupOf.get(leaf);
      if (!g || seen.has(g)) return false;
      if (g === group) return true;
      seen.add(g);
      return [...groupLeaves(g)].some(visit);
    });
    return visit(value);
  };
  const open = (node: Node): Group => {
    const group: Group = { root: node, nodes: [], stored: [] };
    groups.push(group);
    for (const r of node.results) groupOf.set(r, group);
    return group;
  };
  const others = (value: Value, group: Group): Node[] =>
    [...new Set(readers.get(value))].filter((n) => n !== group.root && !group.nodes.includes(n));

  /** Elementwise nodes between `node` and values of `group`, if all else can be had before the group runs. */
  const path = (node: Node, group: Group): Node[] | undefined => {
    const taken: Node[] = [];
    const visit = (n: Node): boolean => {
      for (const input of n.inputs) {
        if (groupOf.get(input) === group || !waitsFor(input, group)) continue;
        const from = producer.get(input);
        if (groupOf.has(input) || !from || !OPS[from.op].elementwise || !sameShape(input.type.shape, only(node).type.shape)) return false;
        if (!taken.includes(from) && !visit(from)) return false;
      }
      if (!taken.includes(n)) taken.push(n);
      return true;
    };
    return visit(node) ? taken : undefined;
  };
  const join = (node: Node, group: Group): boolean => {
    if (group.root.op === "inverse" || !sameShape((group.root.results[0] as Value).type.shape, only(node).type.shape)) return false;
    const taken = path(node, group);
    if (!taken) return false;
    if (isSymmetric(group.root) && taken.some((n) => n.inputs.some((v) => ![...leaves(v)].every((leaf) => groupOf.get(leaf) === group)))) return false;
    const before = group.nodes.length;
    group.nodes.push(...taken);
    const stores = [group.root, ...group.nodes].filter((n) => needed.has(only(n)) || others(only(n), group).length > 0).length;
    if (groupLeaves(group).size + stores + 1 > limits.storageBuffers) {
      group.nodes.length = before;
      return false;
    }
    for (const n of taken) groupOf.set(only(n), group);
    return true;
  };

  for (const node of graph.nodes) {
    // a fold that only another fold reads is part of its sum
    const readersOfFold = node.op === "fold" ? new Set(readers.get(only(node))) : undefined;
    if (readersOfFold?.size === 1 && [...readersOfFold].every((n) => n.op === "fold") && !needed.has(only(node))) continue;
    if (ROOTS.has(node.op)) {
      open(node);
      continue;
    }
    const value = only(node);
    const must = needed.has(value);
    if (MOVES.has(node.op) || !OPS[node.op].elementwise) {
      if (must && !(node.op === "constant" && !results.has(value) && !forced.has(value))) open(node);
      continue;
    }
    const readerCount = new Set(readers.get(value) ?? []).size;
    if (must || (readerCount > 1 && cost(value) > CHEAP) || leaves(value).size > limits.storageBuffers - 3) {
      const candidates = [...new Set([...leaves(value)].map((v) => groupOf.get(v)).filter((g): g is Group => g !== undefined))];
      const found = candidates.sort((a, b) => groups.indexOf(b) - groups.indexOf(a)).some((g) => join(node, g));
      if (!found) open(node);
      continue;
    }
    // the only reader of a value that nobody else needs: compute it where the value is made
    for (const input of node.inputs) {
      const group = groupOf.get(input);
      if (!group || needed.has(input) || others(input, group).length > 1) continue;
      if (join(node, group)) break;
    }
  }

  for (const group of groups) {
    const made = [...group.root.results, ...group.nodes.map(only)];
    group.stored.push(...made.filter((v) => results.has(v) || (forced.has(v) && v !== group.root.results[0]) || others(v, group).length > 0 || group.root.op === "inverse"));
    if (group.stored.length === 0) group.stored.push(made[made.length - 1] as Value);
  }
  return { groups: order(groups, groupLeaves, groupOf), groupOf };
}

/** Operations that cost more than one elementary step to recompute. */
const WEIGHT: Partial<Record<OpName, number>> = { exp: 3, log: 3, tanh: 5, sigmoid: 4, softplus: 6, erf: 8, sin: 8, cos: 8, pow: 6, uniform: 6, div: 2, sqrt: 2 };

/** Both operands are one value and exchanging the output's halves exchanges them. */
export const isSymmetric = (node: Node): boolean => node.op === "contract" && node.inputs[0] === node.inputs[1] && symmetricLabels(node) !== undefined;

/** Pairs of output labels (of left only, of right only) that mirror each other; undefined if the product is not symmetric. */
export function symmetricLabels(node: Node): (readonly [string, string])[] | undefined {
  const [, left, right, out] = /^(\w*),(\w*)->(\w*)$/.exec(String(node.attrs.spec)) ?? [];
  if (left === undefined || right === undefined || out === undefined || node.inputs[0] !== node.inputs[1]) return undefined;
  const pairs: [string, string][] = [];
  for (let k = 0; k < left.length; k++) {
    const [a, b] = [left[k] as string, right[k] as string];
    if (a === b) continue;
    if (!out.includes(a) || !out.includes(b) || right.includes(a) || left.includes(b)) return undefined;
    pairs.push([a, b]);
  }
  return pairs.length > 0 ? pairs : undefined;
}

/** The value at the far end of a chain of movement. */
export function base(value: Value, producer: ReadonlyMap<Value, Node>): Value {
  let at = value;
  for (let node = producer.get(at); node && MOVES.has(node.op) && node.op !== "concat"; node = producer.get(at)) at = node.inputs[0] as Value;
  return at;
}

/** Topological order of groups; earlier-opened first where free. */
function order(groups: readonly Group[], reads: (g: Group) => Set<Value>, groupOf: ReadonlyMap<Value, Group>): Group[] {
  const out: Group[] = [];
  const state = new Map<Group, "open" | "done">();
  const visit = (group: Group): void => {
    if (state.get(group) === "done") return;
    if (state.get(group) === "open") throw new Error("fusion made a cycle");
    state.set(group, "open");
    for (const leaf of reads(group)) {
      const g = groupOf.get(leaf);
      if (g && g !== group) visit(g);
    }
    state.set(group, "done");
    out.push(group);
  };
  groups.forEach(visit);
  return out;
}

function memo<T>(f: (value: Value) => T, stale: (value: Value) => boolean): (value: Value) => T {
  const known = new Map<Value, { result: T; stored: boolean }>();
  return (value) => {
    const hit = known.get(value);
    if (hit && hit.stored === stale(value)) return hit.result;
    const result = f(value);
    known.set(value, { result, stored: stale(value) });
    return result;
  };
}
