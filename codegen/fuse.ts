/**
 * Decides which values get buffers and which operations share a kernel.
 *
 * A *root* is an operation that needs a loop nest of its own (contract, reduce, fold, inverse) or a value that must be in
 * memory (operand of a contraction, graph result, costly value with several readers). Elementwise work joins the kernel
 * of the value it follows where that saves a trip through memory; everything else is recomputed inside its readers.
 */
import type { Graph, Node, Value } from "../ir/graph.js";
import { isKnob, only, producers, users } from "../ir/graph.js";
import { OPS } from "../ir/ops/index.js";
import type { OpName } from "../ir/ops/names.js";
import { sameShape, size } from "../ir/type.js";
import { belongs, isReduction, keepsRows, lastOfRows, reductionRows, rowsOf, sweepsRows } from "./fuse-rows.js";
import type { Fusion, Group } from "./group.js";
import type { Limits } from "./kernel.js";
import { sortsPlaces } from "./kernels/scatter-spec.js";

const ROOTS: ReadonlySet<OpName> = new Set<OpName>(["contract", "reduce_sum", "reduce_max", "reduce_argmax", "fold", "scatter", "inverse"]);
const MOVES: ReadonlySet<OpName> = new Set<OpName>(["reshape", "permute", "broadcast", "pad", "slice", "window", "concat"]);
/** Reading a value through up to this many operations is cheaper than storing and loading it. */
const CHEAP = 3;

export function fuse(graph: Graph, limits: Limits, forced: ReadonlySet<Value>): Fusion {
  const refused = new Set<Node>();
  for (;;) {
    const made = fuseOnce(graph, limits, forced, refused);
    if (!(made instanceof Set)) return made;
    for (const node of made) refused.add(node);
  }
}

/** The fusion, or what may not join rows again: with it a kernel would bind too many buffers. */
function fuseOnce(graph: Graph, limits: Limits, forced: ReadonlySet<Value>, refused: ReadonlySet<Node>): Fusion | Set<Node> {
  const producer = producers(graph);
  const readers = users(graph);
  const results = new Set(graph.results.map((r) => r.value));
  const groupOf = new Map<Value, Group>();
  const groups: Group[] = [];
  const needed = new Set<Value>([...forced, ...results]);
  for (const node of graph.nodes)
    if (node.op === "contract" || node.op === "inverse") for (const v of node.inputs) needed.add(base(v, producer));

  // an index that takes arithmetic is computed once, not for every element of a row
  for (const node of graph.nodes)
    if (node.op === "gather" || node.op === "scatter") {
      const at = base(node.inputs[1] as Value, producer);
      const made = producer.get(at);
      if (sortsPlaces(node)) for (const v of node.inputs) needed.add(base(v, producer));
      else if (made && OPS[made.op].elementwise && made.op !== "cast") needed.add(at);
    }

  const place = new Map(graph.nodes.map((n, k) => [n, k] as const));
  /** Values with buffers that an inline expression of `value` reads. */
  const leafCache = new Map<Value, ReadonlySet<Value>>();
  const leaves = (value: Value): ReadonlySet<Value> => {
    const node = producer.get(value);
    if (!node || groupOf.has(value)) return new Set(isKnob(value) ? [] : [value]);
    const known = leafCache.get(value);
    if (known) return known;
    const found = new Set(node.inputs.flatMap((v) => [...leaves(v)]));
    leafCache.set(value, found);
    return found;
  };
  const cost = (value: Value): number => {
    const node = producer.get(value);
    if (!node || groupOf.has(value)) return 0;
    return node.inputs.reduce((total, v) => total + cost(v), OPS[node.op].elementwise || node.op === "uniform" ? WEIGHT[node.op] ?? 1 : 0);
  };
  const readCache = new Map<Group, Set<Value>>();
  const groupLeaves = (group: Group): Set<Value> => {
    const known = readCache.get(group);
    if (known) return known;
    const own = new Set([...group.root.results, ...group.nodes.map(only)]);
    const found = new Set([group.root, ...group.nodes].flatMap((n) => n.inputs.flatMap((v) => (own.has(v) ? [] : [...leaves(v)]))).filter((v) => !own.has(v)));
    readCache.set(group, found);
    return found;
  };
  /** Place of the last node that must run before a group is done: it cannot wait for a group that starts later. */
  const last = new Map<Group, number>();
  const waiting = new Map<Group, Set<Group>>();
  const raise = (group: Group, to: number): void => {
    const open = [group];
    for (let g = open.pop(); g; g = open.pop()) {
      if ((last.get(g) ?? -1) >= to) continue;
      last.set(g, to);
      open.push(...(waiting.get(g) ?? []));
    }
  };
  const link = (group: Group): void => {
    for (const leaf of groupLeaves(group)) {
      const g = groupOf.get(leaf);
      if (!g || g === group) continue;
      const behind = waiting.get(g) ?? new Set();
      waiting.set(g, behind.add(group));
      raise(group, last.get(g) as number);
    }
  };
  /** Values that some groups computed for themselves have become another group's: now those wait for it. */
  const relink = (values: readonly Value[]): void => {
    const affected = new Set<Group>();
    const seen = new Set<Value>();
    const open = [...values];
    for (let v = open.pop(); v; v = open.pop()) {
      if (seen.has(v)) continue;
      seen.add(v);
      leafCache.delete(v);
      for (const n of readers.get(v) ?? [])
        for (const r of n.results) {
          const g = groupOf.get(r);
          if (g) affected.add(g);
          else open.push(r);
        }
    }
    for (const g of affected) readCache.delete(g);
    affected.forEach(link);
  };
  /** Does `value` (computed inline or stored) wait for `group`? */
  const waitsFor = (value: Value, group: Group): boolean => {
    const start = place.get(group.root) as number;
    const seen = new Set<Group>();
    const visit = (read: Iterable<Value>): boolean => {
      for (const leaf of read) {
        const g = groupOf.get(leaf);
        if (!g || seen.has(g) || (last.get(g) as number) < start) continue;
        if (g === group) return true;
        seen.add(g);
        if (visit(groupLeaves(g))) return true;
      }
      return false;
    };
    return visit(leaves(value));
  };
  const open = (node: Node): Group => {
    const group: Group = { root: node, nodes: [], stored: [] };
    groups.push(group);
    for (const r of node.results) groupOf.set(r, group);
    raise(group, place.get(node) as number);
    link(group);
    return group;
  };
  const others = (value: Value, group: Group): Node[] =>
    [...new Set(readers.get(value))].filter((n) => n !== group.root && !group.nodes.includes(n) && !staysInRows(n, group));
  /** Movement that only the rows' own kernel looks through. */
  const staysInRows = (n: Node, group: Group): boolean =>
    rowsOf(group) !== undefined && (n.op === "broadcast" || n.op === "reshape") && !groupOf.has(only(n)) && !needed.has(only(n)) && others(only(n), group).length === 0;

  /** Elementwise nodes between `node` and values of `group`, if all else can be had before the group runs. */
  const path = (node: Node, group: Group): Node[] | undefined => {
    const taken: Node[] = [];
    const rows = rowsOf(group);
    const fits = (v: Value): boolean => sameShape(v.type.shape, (group.root.results[0] as Value).type.shape) || (rows !== undefined && belongs(v, rows));
    const reach = (input: Value): boolean => {
      if (groupOf.get(input) === group || !waitsFor(input, group)) return true;
      const from = producer.get(input);
      if (groupOf.has(input) || !from) return false;
      if (rows && keepsRows(from, rows)) return reach(from.inputs[0] as Value);
      return OPS[from.op].elementwise === true && fits(input) && (taken.includes(from) || visit(from));
    };
    const visit = (n: Node): boolean => {
      if (!n.inputs.every(reach)) return false;
      if (!taken.includes(n)) taken.push(n);
      return true;
    };
    return visit(node) ? taken : undefined;
  };
  /** `node` is a value of the rows that `group` reduces, or another reduction of them. */
  const joinsRows = (node: Node, group: Group): boolean => {
    const rows = rowsOf(group);
    if (!rows || refused.has(node)) return false;
    if (!isReduction(node)) return belongs(only(node), rows);
    const mine = reductionRows(node);
    return mine !== undefined && sameShape(mine.full, rows.full) && sameShape(mine.lead, rows.lead);
  };
  /** The reduction reads something that `group` makes, or reads for every element of a row. */
  const sharesRows = (node: Node, group: Group): boolean => {
    const x = node.inputs[0] as Value;
    const mine = leaves(x);
    const theirs = groupLeaves(group);
    return [...mine].some((v) => groupOf.get(v) === group || (theirs.has(v) && size(v.type.shape) >= size(x.type.shape)));
  };
  const join = (node: Node, group: Group): boolean => {
    if (group.root.op === "inverse" || sortsPlaces(group.root)) return false;
    const same = !isReduction(node) && sameShape((group.root.results[0] as Value).type.shape, only(node).type.shape);
    if (!same && !joinsRows(node, group)) return false;
    const taken = path(node, group);
    if (!taken) return false;
    if (isSymmetric(group.root) && taken.some((n) => n.inputs.some((v) => ![...leaves(v)].every((leaf) => groupOf.get(leaf) === group)))) return false;
    const before = group.nodes.length;
    group.nodes.push(...taken);
    readCache.delete(group);
    // whether rows are read by others is known at the end
    const stores = [group.root, ...group.nodes].filter((n) => needed.has(only(n)) || (!rowsOf(group) && others(only(n), group).length > 0)).length;
    if (groupLeaves(group).size + stores + 1 > limits.storageBuffers) {
      group.nodes.length = before;
      readCache.delete(group);
      return false;
    }
    for (const n of taken) groupOf.set(only(n), group);
    raise(group, Math.max(...taken.map((n) => place.get(n) as number)));
    if (taken.length === 1) link(group);
    else relink(taken.map(only));
    return true;
  };

  for (const node of graph.nodes) {
    // a fold that only another fold reads is part of its sum
    const readersOfFold = node.op === "fold" ? new Set(readers.get(only(node))) : undefined;
    if (readersOfFold?.size === 1 && [...readersOfFold].every((n) => n.op === "fold") && !needed.has(only(node))) continue;
    if (ROOTS.has(node.op)) {
      const rows = isReduction(node) ? reductionRows(node) : undefined;
      const related = rows ? groups.filter((g) => rowsOf(g) !== undefined && sharesRows(node, g)) : [];
      if (!related.reverse().some((g) => join(node, g))) open(node);
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
      const found = candidates.sort((a, b) => (place.get(b.root) as number) - (place.get(a.root) as number)).some((g) => join(node, g));
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
  const wide = new Set(groups.filter((g) => sweepsRows(g) && groupLeaves(g).size + g.stored.length + 1 > limits.storageBuffers).map((g) => lastOfRows(g)));
  return wide.size > 0 ? wide : { groups: order(groups, groupLeaves, groupOf), groupOf };
}

/** Operations that cost more than one elementary step to recompute. */
const WEIGHT: Partial<Record<OpName, number>> = { exp: 3, log: 3, tanh: 5, sigmoid: 4, softplus: 6, erf: 8, sin: 8, cos: 8, atan: 6, expm1: 5, log1p: 5, pow: 6, uniform: 6, div: 2, sqrt: 2 };

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
