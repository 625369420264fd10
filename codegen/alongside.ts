/**
 * Groups that a contraction's kernel computes on its way: sums of one of its operands over what it sums over (the gradient of a bias beside
 * that of its weight), and maxima over stretches of its result (pooling), which then need not be in memory before it is pooled.
 */
import { type Graph, isKnob, type Node, type Value } from "../ir/graph.js";
import { intsAttr, stringAttr } from "../ir/op.js";
import { parseSpec } from "../ir/ops/reduction.js";
import { size } from "../ir/type.js";
import { isSymmetric } from "./fuse.js";
import type { Fusion, Group, Parts } from "./group.js";
import type { Limits } from "./kernel.js";

/** Elements of a stretch that one invocation holds: 2 × 2 and 3 × 3 windows; long reductions want more invocations. */
const LARGEST_STRETCH = 16;

export interface Merging {
  readonly graph: Graph;
  readonly producer: ReadonlyMap<Value, Node>;
  readonly limits: Limits;
  /** Result → what it overwrites. */
  readonly inPlace: ReadonlyMap<Value, Value>;
  /** Values that must be in memory, or that were found to bind too many buffers with another group's. */
  readonly forced: ReadonlySet<Value>;
}

export const alongside = (fusion: Fusion, how: Merging): Fusion => new Merger(fusion, how).run();

/** Values in memory that a group reads. */
export function readsOf(group: Group, producer: ReadonlyMap<Value, Node>, groupOf: ReadonlyMap<Value, Group>): ReadonlySet<Value> {
  const nodes = [group.root, ...group.nodes];
  const own = new Set(nodes.flatMap((n) => n.results));
  const found = new Set<Value>();
  const seen = new Set<Value>();
  const visit = (v: Value): void => {
    if (own.has(v) || seen.has(v) || isKnob(v)) return;
    seen.add(v);
    const node = producer.get(v);
    if (!node || groupOf.has(v)) found.add(v);
    else node.inputs.forEach(visit);
  };
  for (const n of nodes) n.inputs.forEach(visit);
  return found;
}

class Merger {
  readonly #groupOf: Map<Value, Group>;
  /** Places of the groups in an order in which each finds what it reads. */
  readonly #at: Map<Group, number>;
  readonly #reads = new Map<Group, ReadonlySet<Value>>();
  readonly #results: ReadonlySet<Value>;

  readonly #how: Merging;

  constructor(fusion: Fusion, how: Merging) {
    this.#how = how;
    this.#groupOf = new Map(fusion.groupOf);
    this.#at = new Map(fusion.groups.map((g, k) => [g, k]));
    this.#results = new Set(how.graph.results.map((r) => r.value));
  }

  run(): Fusion {
    const groups = [...this.#at.keys()];
    const isHost = (g: Group): boolean => g.root.op === "contract" && !isSymmetric(g.root) && size((g.root.results[0] as Value).type.shape) > 0;
    const readers = new Map<Value, Group[]>();
    for (const g of groups) if (isMaximum(g.root)) for (const v of this.#readsOf(g)) listed(readers, v).push(g);
    for (const g of groups.filter(isHost)) if (readers.has(g.stored[0] as Value)) this.#maxima(g, groups);
    const operands = new Map<Value, Group[]>();
    const add = (g: Group): void => { for (const v of g.root.inputs) listed(operands, source(v, this.#how.producer)).push(g); };
    [...this.#at.keys()].filter(isHost).forEach(add);
    for (const g of groups) {
      const beside = g.root.op === "reduce_sum" ? operands.get(source(g.root.inputs[0] as Value, this.#how.producer)) : undefined;
      const made = beside && this.#sum(g, beside.filter((host) => this.#at.has(host)));
      if (made) add(made);
    }
    return { groups: [...this.#at].sort(([, a], [, b]) => a - b).map(([g]) => g), groupOf: this.#groupOf };
  }

  #readsOf(group: Group): ReadonlySet<Value> {
    const known = this.#reads.get(group) ?? readsOf(group, this.#how.producer, this.#groupOf);
    this.#reads.set(group, known);
    return known;
  }

  /** All that these groups read, `inner` apart, is there when the earliest of them runs: then they can run together in its place. */
  #together(groups: readonly Group[], inner?: Value): boolean {
    const first = Math.min(...groups.map((g) => this.#at.get(g) as number));
    return groups.every((g) => [...this.#readsOf(g)].every((v) => {
      const from = this.#groupOf.get(v);
      return v === inner || from === undefined || (this.#at.get(from) as number) < first;
    }));
  }

  #fits(stored: readonly Value[], groups: readonly Group[]): boolean {
    const own = new Set(groups.flatMap((g) => [g.root, ...g.nodes]).flatMap((n) => n.results));
    const read = new Set(groups.flatMap((g) => [...this.#readsOf(g)]).filter((v) => !own.has(v)));
    const fresh = stored.filter((v) => !read.has(this.#how.inPlace.get(v) as Value));
    return read.size + fresh.length <= this.#how.limits.storageBuffers;
  }

  #replace(old: readonly Group[], main: Group, stored: readonly Value[], parts: Parts): Group {
    const members = [parts.main, ...parts.sums.map((s) => s.group), ...parts.maxima];
    const nodes = members.flatMap((g) => [g.root, ...g.nodes]).filter((n) => n !== main.root);
    const made: Group = { root: main.root, nodes, stored: [...stored], parts };
    this.#at.set(made, Math.min(...old.map((g) => this.#at.get(g) as number)));
    for (const g of old) {
      this.#at.delete(g);
      this.#reads.delete(g);
    }
    for (const n of [main.root, ...nodes]) for (const r of n.results) if (this.#groupOf.has(r)) this.#groupOf.set(r, made);
    return made;
  }

  /** A sum of an operand of one of these contractions, over all that it sums over. */
  #sum(group: Group, hosts: readonly Group[]): Group | undefined {
    const x = group.root.inputs[0] as Value;
    const axes = intsAttr(group.root.attrs, "axes");
    if (this.#how.producer.get(x)?.op === "pad" || group.stored.some((v) => this.#how.forced.has(v))) return undefined;
    const sides = [0, 1] as const;
    for (const host of hosts) {
      const { left, right, out } = parseSpec(stringAttr(host.root.attrs, "spec"));
      const summed = new Set([...left, ...right].filter((label) => !out.includes(label)));
      const operand = sides.find((side) => {
        const y = host.root.inputs[side] as Value;
        return sameMemory(x, y, this.#how.producer) && matches(side === 0 ? left : right, y.type.shape, summed, out, x.type.shape, axes);
      });
      if (operand === undefined) continue;
      const stored = [...host.stored, ...group.stored];
      const mine = this.#readsOf(group);
      // what both read, one might overwrite while the other still reads it
      const shared = [...this.#readsOf(host)].some((v) => v !== source(x, this.#how.producer) && mine.has(v));
      if (shared || !this.#fits(stored, [host, group]) || !this.#together([host, group])) continue;
      const parts = host.parts ?? { main: host, sums: [], maxima: [] };
      return this.#replace([host, group], host, stored, { ...parts, sums: [...parts.sums, { group, operand }] });
    }
    return undefined;
  }

  /** Maxima that are all that is read of a contraction's result. */
  #maxima(host: Group, groups: readonly Group[]): void {
    const [z] = host.stored;
    if (!z || host.stored.length !== 1 || this.#results.has(z) || this.#how.forced.has(z)) return;
    if (host.root.inputs.some((v) => this.#how.producer.get(v)?.op === "pad")) return;
    const found = groups.filter((g) => g !== host && this.#at.has(g) && this.#readsOf(g).has(z));
    const [first] = found;
    if (!first || !found.every((g) => isMaximum(g.root) && g.parts === undefined && sameStretch(g.root, first.root) && onlyThrough(g, z, this.#how.producer)) || !this.#together([host, ...found], z)) return;
    const stretches = stretchesOf(first.root, z, this.#how.producer);
    if (!stretches) return;
    const stored = found.flatMap((g) => g.stored);
    if (!this.#fits(stored, [host, ...found])) return;
    this.#replace([host, ...found], host, stored, { main: host, sums: [], maxima: found });
  }
}

function listed(map: Map<Value, Group[]>, key: Value): Group[] {
  const list = map.get(key) ?? [];
  map.set(key, list);
  return list;
}

const isMaximum = (node: Node): boolean => node.op === "reduce_max" || node.op === "reduce_argmax";

/** The same elements in the same order: one value, but for reshapes. */
const sameMemory = (x: Value, y: Value, producer: ReadonlyMap<Value, Node>): boolean => source(x, producer) === source(y, producer);

function source(v: Value, producer: ReadonlyMap<Value, Node>): Value {
  const node = producer.get(v);
  return node?.op === "reshape" ? source(node.inputs[0] as Value, producer) : v;
}

/** All that the contraction sums over is in the operand, and the reduction keeps and sums the same stretches of its memory. */
function matches(labels: string, shape: readonly number[], summed: ReadonlySet<string>, out: string, reducedShape: readonly number[], axes: readonly number[]): boolean {
  if ([...summed].some((label) => !labels.includes(label)) || [...labels].some((label) => !summed.has(label) && !out.includes(label))) return false;
  const mine = runs(shape, (k) => summed.has(labels[k] as string));
  const theirs = runs(reducedShape, (k) => axes.includes(k));
  return mine.join() === theirs.join();
}

/** Stretches of axes: those that are kept one by one, those that are summed together. */
function runs(shape: readonly number[], reduced: (axis: number) => boolean): string[] {
  const list: string[] = [];
  let open = 1;
  const close = (): void => {
    if (open > 1) list.push(`sum ${open}`);
    open = 1;
  };
  shape.forEach((n, k) => {
    if (reduced(k)) open *= n;
    else {
      close();
      list.push(`${n}`);
    }
  });
  close();
  return list;
}

const sameStretch = (a: Node, b: Node): boolean =>
  a.inputs[0] === b.inputs[0] && intsAttr(a.attrs, "axes").join() === intsAttr(b.attrs, "axes").join();

/** Nothing in the group but the root's own input reads z. */
function onlyThrough(group: Group, z: Value, producer: ReadonlyMap<Value, Node>): boolean {
  const own = new Set([group.root, ...group.nodes].flatMap((n) => n.results));
  const seen = new Set<Value>();
  const reads = (v: Value): boolean => {
    if (v === z) return true;
    if (own.has(v) || seen.has(v)) return false;
    seen.add(v);
    return (producer.get(v)?.inputs ?? []).some(reads);
  };
  return !group.nodes.some((n) => n.inputs.some(reads));
}

/** Per axis of z the digits that a reshape makes of it, outermost first; `reduced` ones are within a stretch. */
export type Stretches = readonly (readonly { readonly size: number; readonly axis: number; readonly reduced: boolean }[])[];

/** How the maximum's input is z with axes cut in digits; undefined where it is anything else, or where a stretch is long. */
export function stretchesOf(maximum: Node, z: Value, producer: ReadonlyMap<Value, Node>): Stretches | undefined {
  let at = maximum.inputs[0] as Value;
  const { shape } = at.type;
  while (at !== z) {
    const node = producer.get(at);
    if (node?.op !== "reshape") return undefined;
    at = node.inputs[0] as Value;
  }
  const axes = intsAttr(maximum.attrs, "axes");
  if (axes.reduce((n, a) => n * (shape[a] as number), 1) > LARGEST_STRETCH) return undefined;
  let next = 0;
  const found = z.type.shape.map((size) => {
    const digits: { size: number; axis: number; reduced: boolean }[] = [];
    for (let made = 1; next < shape.length && made < size; next++) {
      made *= shape[next] as number;
      digits.push({ size: shape[next] as number, axis: next, reduced: axes.includes(next) });
    }
    while (next < shape.length && shape[next] === 1 && digits.length === 0) digits.push({ size: 1, axis: next, reduced: axes.includes(next++) });
    return digits;
  });
  const whole = found.every((digits, k) => digits.reduce((n, d) => n * d.size, 1) === z.type.shape[k]);
  return whole && next === shape.length ? found : undefined;
}
