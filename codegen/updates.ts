/** Which results overwrite their inputs in place, and the order that makes it safe. */
import { type Node, only, type Value } from "../ir/graph.js";
import { size } from "../ir/type.js";
import type { Fusion, Group } from "./group.js";

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
  const groups = scheduled(fusion.groups, before, readsOf, results, fusion);
  return { groups, direct };
}

/**
 * Every group after those it waits for: as they come, but what takes no more memory than it frees as soon as it can run. So statistics of a
 * layer are taken while its cotangents are there, instead of keeping all layers' until the end.
 */
function scheduled(groups: readonly Group[], before: ReadonlyMap<Group, ReadonlySet<Group>>, reads: ReadonlyMap<Group, ReadonlySet<Value>>, results: ReadonlySet<Value>, fusion: Fusion): Group[] {
  const at = new Map(groups.map((g, k) => [g, k] as const));
  const waits = new Map(groups.map((g) => [g, before.get(g)?.size ?? 0] as const));
  const behind = new Map<Group, Group[]>(groups.map((g) => [g, []]));
  for (const g of groups) for (const b of before.get(g) ?? []) behind.get(b)?.push(g);
  /** Groups that still have to read a value that nobody keeps afterwards. */
  const readers = new Map<Value, number>();
  for (const g of groups) for (const v of reads.get(g) ?? []) if (fusion.groupOf.has(v) && !results.has(v)) readers.set(v, (readers.get(v) ?? 0) + 1);
  const growth = (g: Group): number => {
    let bytes = 0;
    for (const v of g.stored) if (!results.has(v)) bytes += size(v.type.shape);
    for (const v of reads.get(g) ?? []) if (readers.get(v) === 1) bytes -= size(v.type.shape);
    return bytes;
  };
  const ready = new Set(groups.filter((g) => waits.get(g) === 0));
  const out: Group[] = [];
  while (ready.size > 0) {
    let [first, free]: (Group | undefined)[] = [];
    const earlier = (g: Group, than: Group | undefined): boolean => than === undefined || (at.get(g) as number) < (at.get(than) as number);
    for (const g of ready) {
      if (earlier(g, first)) first = g;
      if (earlier(g, free) && growth(g) <= 0) free = g;
    }
    const next = (free ?? first) as Group;
    ready.delete(next);
    out.push(next);
    for (const v of reads.get(next) ?? []) if (readers.has(v)) readers.set(v, (readers.get(v) as number) - 1);
    for (const g of behind.get(next) ?? []) {
      const left = (waits.get(g) as number) - 1;
      waits.set(g, left);
      if (left === 0) ready.add(g);
    }
  }
  if (out.length !== groups.length) throw new Error("updates made a cycle");
  return out;
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
