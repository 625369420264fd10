/** Graphs become work: groups of operations in order, each with the kernel specifications that compute it. */
import { CompileError } from "../ir/error.js";
import { type Graph, isKnob, type Node, only, producers, type Value } from "../ir/graph.js";
import { intAttr } from "../ir/op.js";
import { OPS } from "../ir/ops/index.js";
import { size } from "../ir/type.js";
import { alongside, readsOf } from "./alongside.js";
import { fuse } from "./fuse.js";
import type { Fusion, Group, Parts } from "./group.js";
import type { Spec } from "./group-context.js";
import type { Buffer, Limits } from "./kernel.js";
import { lowerGroup } from "./lower-group.js";
import { placeUpdates } from "./updates.js";
import { bufferFor, NeedsBuffer } from "./view.js";

export type { Spec } from "./group-context.js";

/** One unit of work: its values, and the specs that compute them in order (a peeled contraction has several). */
export interface Work {
  readonly group: Group;
  readonly specs: readonly Spec[];
}

export interface LoweredGraph {
  readonly graph: Graph;
  readonly work: readonly Work[];
  /** Where every parameter, input and stored value lives. A value updated in place shares its buffer with the input. */
  readonly buffers: ReadonlyMap<Value, Buffer>;
  /** Results that could not be written in place: copied after the last dispatch. */
  readonly copies: readonly { readonly from: Value; readonly to: Value }[];
}

/**
 * @param inPlace result value → parameter or input whose buffer it overwrites.
 * @throws CompileError "internal" if a view cannot be resolved even from buffers of its own.
 */
export function lowerGraph(graph: Graph, limits: Limits, inPlace: ReadonlyMap<Value, Value> = new Map()): LoweredGraph {
  const nested = { ...graph, nodes: nestConcats(graph.nodes) };
  const forced = new Set<Value>(inverseOperands(nested));
  for (;;) {
    const made = lowerOnce(nested, limits, inPlace, forced);
    if (!(made instanceof Set)) return made;
    for (const value of made) {
      if (forced.has(value)) throw new CompileError("internal", `view of "${value.name}" cannot be resolved`);
      forced.add(value);
    }
  }
}

/** An inverse reads memory as it is: what movement makes for it, but for reshapes, has a buffer from the start. */
function inverseOperands(graph: Graph): Value[] {
  const producer = producers(graph);
  const source = (v: Value): Value => {
    const node = producer.get(v);
    return node?.op === "reshape" ? source(node.inputs[0] as Value) : v;
  };
  return graph.nodes.flatMap((node) => (node.op === "inverse" ? node.inputs.map(source).filter((v) => OPS[producer.get(v)?.op ?? "add"].movement) : []));
}

/** Inputs of one concat that a kernel reads directly; more become a tree, so that no kernel needs more bindings than there are. */
const CONCAT_WIDTH = 4;

function nestConcats(nodes: readonly Node[]): Node[] {
  return nodes.flatMap((node): Node[] => {
    if (node.op !== "concat" || node.inputs.length <= CONCAT_WIDTH) return [node];
    const axis = intAttr(node.attrs, "axis");
    const made: Node[] = [];
    let level: readonly Value[] = node.inputs;
    while (level.length > CONCAT_WIDTH) {
      const next: Value[] = [];
      for (let k = 0; k < level.length; k += CONCAT_WIDTH) {
        const part = level.slice(k, k + CONCAT_WIDTH);
        if (part.length === 1) {
          next.push(part[0] as Value);
          continue;
        }
        const first = (part[0] as Value).type;
        const extent = part.reduce((n, v) => n + (v.type.shape[axis] as number), 0);
        const value: Value = { name: `${only(node).name}.part${made.length}`, type: { ...first, shape: first.shape.map((n, a) => (a === axis ? extent : n)) } };
        made.push({ ...node, inputs: part, results: [value] });
        next.push(value);
      }
      level = next;
    }
    return [...made, { ...node, inputs: level }];
  });
}

/** The lowered graph, or the values that need buffers of their own before it can be one. */
function lowerOnce(graph: Graph, limits: Limits, inPlace: ReadonlyMap<Value, Value>, forced: ReadonlySet<Value>): LoweredGraph | Set<Value> {
  const producer = producers(graph);
  const fusion = alongside(fuse(graph, limits, forced), { graph, producer, limits, inPlace, forced });
  const wide = new Set(fusion.groups.flatMap((group) => tooWide(group, producer, fusion, limits)));
  if (wide.size > 0) return wide;
  const buffers = new Map<Value, Buffer>();
  for (const { value } of [...graph.params, ...graph.inputs])
    if (!isKnob(value)) buffers.set(value, bufferFor(value, value.name));
  const { groups, direct } = placeUpdates(fusion, producer, inPlace, new Set(graph.results.map((r) => r.value)));
  const copies: { from: Value; to: Value }[] = [];
  for (const group of groups)
    for (const v of group.stored) {
      const target = inPlace.get(v);
      if (target && direct.has(v)) buffers.set(v, buffers.get(target) as Buffer);
      else {
        buffers.set(v, bufferFor(v, v.name));
        if (target) copies.push({ from: v, to: target });
      }
    }
  // a result that is itself an input or parameter (nothing computed) is copied too
  for (const [from, to] of inPlace) if (!fusion.groupOf.has(from) && from !== to) copies.push({ from, to });
  const needed = new Set(groups.flatMap((group) => (group.parts && bindsTooMany(group, producer, fusion, buffers, limits) ? mergedValues(group.parts) : [])));
  if (needed.size > 0) return needed;
  const work = groups.flatMap((group) => {
    try {
      // a value without elements takes no work
      if (group.stored.every((v) => size(v.type.shape) === 0)) return [{ group, specs: [] }];
      return [{ group, specs: lowerGroup({ group, producer, buffers }) }];
    } catch (e) {
      if (!(e instanceof NeedsBuffer)) throw e;
      needed.add(e.value);
      return [];
    }
  });
  return needed.size > 0 ? needed : { graph, work, buffers, copies };
}

/** A merged kernel was to overwrite its inputs, and cannot. */
function bindsTooMany(group: Group, producer: ReadonlyMap<Value, Node>, fusion: Fusion, buffers: ReadonlyMap<Value, Buffer>, limits: Limits): boolean {
  const bound = new Set([...readsOf(group, producer, fusion.groupOf), ...group.stored].map((v) => buffers.get(v)));
  return bound.size > limits.storageBuffers;
}

const mergedValues = ({ main, sums, maxima }: Parts): readonly Value[] => [...sums.flatMap((s) => s.group.stored), ...(maxima.length > 0 ? main.stored : [])];

/** What is read inside a group reaches it through few enough buffers: else the widest parts that fit must become values of their own, until it does. */
function tooWide(group: Group, producer: ReadonlyMap<Value, Node>, fusion: Fusion, limits: Limits): readonly Value[] {
  if (group.parts) return []; // what it binds was counted when its parts came together
  const own = new Set<Value>([...group.root.results, ...group.nodes.map(only)]);
  const parted = new Set<Value>();
  const stored = (v: Value): boolean => !own.has(v) && (!producer.has(v) || fusion.groupOf.has(v) || parted.has(v));
  const fits = (): boolean => {
    const seen = new Set<Value>();
    let count = 0;
    const visit = (v: Value): void => {
      if (seen.has(v)) return;
      seen.add(v);
      if (!stored(v)) producer.get(v)?.inputs.forEach(visit);
      else if (!isKnob(v)) count++;
    };
    own.forEach(visit);
    return count + group.stored.length + 1 <= limits.storageBuffers;
  };
  while (!fits()) {
    const leaves = new Map<Value, ReadonlySet<Value>>();
    const leavesOf = (v: Value): ReadonlySet<Value> => {
      const known = leaves.get(v);
      if (known) return known;
      const set = stored(v) ? new Set(isKnob(v) ? [] : [v]) : new Set((producer.get(v)?.inputs ?? []).flatMap((x) => [...leavesOf(x)]));
      leaves.set(v, set);
      return set;
    };
    own.forEach(leavesOf);
    const parts = [...leaves].filter(([v, set]) => !own.has(v) && set.size > 1 && set.size + 2 <= limits.storageBuffers);
    const widest = parts.sort((a, b) => b[1].size - a[1].size)[0];
    // contractions and reductions bring few operands of their own: with nothing to part off, the device's real limit decides
    if (!widest) break;
    parted.add(widest[0]);
  }
  return [...parted];
}
