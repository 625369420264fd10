/** Which results overwrite their inputs in place, and the order that makes it safe. */
import { type Node, only, type Value } from "../ir/graph.js";
import type { Fusion, Group } from "./fuse.js";

/**
 * Orders groups so that whoever reads an input runs before the group that overwrites it, and says which results may be
 * written in place: only those whose own kernel reads the old value at the same element, and whose old value is no result itself.
 */
export function placeUpdates(fusion: Fusion, producer: ReadonlyMap<Value, Node>, inPlace: ReadonlyMap<Value, Value>, results: ReadonlySet<Value>) {
  const reads = (group: Group): Set<Value> => {
    const own = new Set<Value>([...group.root.results, ...group.nodes.map(only)]);
    const found = new Set<Value>();
    const visit = (v: Value): void => {
      if (own.has(v) || found.has(v)) return;
      const node = producer.get(v);
      if (!node || fusion.groupOf.has(v)) found.add(v);
      else node.inputs.forEach(visit);
    };
    for (const n of [group.root, ...group.nodes]) n.inputs.forEach(visit);
    return found;
  };
  const readsOf = new Map(fusion.groups.map((g) => [g, reads(g)] as const));
  const direct = new Set<Value>();
  const before = new Map<Group, Set<Group>>(fusion.groups.map((g) => [g, new Set([...(readsOf.get(g) as Set<Value>)].flatMap((v) => {
    const from = fusion.groupOf.get(v);
    return from && from !== g ? [from] : [];
  }))]));
  const reaches = (from: Group, to: Group, seen = new Set<Group>()): boolean =>
    from === to || [...(before.get(from) as Set<Group>)].some((g) => !seen.has(g) && seen.add(g) && reaches(g, to, seen));
  for (const [result, target] of inPlace) {
    const writer = fusion.groupOf.get(result);
    if (!writer?.stored.includes(result) || results.has(target) || !sameElement(writer, target, producer, fusion)) continue;
    const readers = fusion.groups.filter((g) => g !== writer && readsOf.get(g)?.has(target));
    if (readers.some((g) => reaches(g, writer))) continue;
    for (const g of readers) (before.get(writer) as Set<Group>).add(g);
    direct.add(result);
  }
  const groups: Group[] = [];
  const done = new Set<Group>();
  const visit = (g: Group): void => {
    if (done.has(g)) return;
    done.add(g);
    for (const b of before.get(g) as Set<Group>) visit(b);
    groups.push(g);
  };
  fusion.groups.forEach(visit);
  return { groups, direct };
}

/** The kernel reads `target` only elementwise, never through a view, and never as a contraction's or reduction's operand. */
function sameElement(group: Group, target: Value, producer: ReadonlyMap<Value, Node>, fusion: Fusion): boolean {
  const own = new Set<Value>([...group.root.results, ...group.nodes.map(only)]);
  const clean = (v: Value, moved: boolean, seen: Map<Value, boolean>): boolean => {
    if (v === target) return !moved;
    if (own.has(v) && !moved) return true;
    const node = producer.get(v);
    if (!node || fusion.groupOf.has(v)) return true;
    if (seen.get(v) === moved) return true;
    seen.set(v, moved);
    return node.inputs.every((x) => clean(x, moved || !isElementwise(node), seen));
  };
  return [group.root, ...group.nodes].every((n) => n.inputs.every((v) => clean(v, !isElementwise(n), new Map())));
}

const MAPPED = new Set(["reshape", "permute", "broadcast", "pad", "slice", "window", "concat", "fold", "contract", "reduce_sum", "reduce_max", "reduce_argmax", "gather", "scatter", "inverse"]);
const isElementwise = (node: Node): boolean => !MAPPED.has(node.op);
