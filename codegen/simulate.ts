/**
 * Runs one entry of a plan on float64 arrays through its buffers: what a device would do, if kernels were exact. A slot
 * that is reused too early, a copy to the wrong place or a late update shows as a wrong number.
 */
import { evaluate } from "../ir/evaluate.js";
import type { Graph, Value } from "../ir/graph.js";
import { type NdArray, ndarray } from "../ir/ndarray.js";
import { size } from "../ir/type.js";
import type { Plan, PlanEntry } from "../runtime/artifact.js";
import { leavesOf, ownersOf, producerOf } from "./check.js";
import type { LoweredGraph, Work } from "./lower.js";

/**
 * Results by name. Memory that nothing wrote is NaN, as is what a work has written only in part.
 *
 * @param bindings every parameter and input of the entry's graph by name, the run-time knobs (`run.lr` …) among them.
 */
export function simulate(plan: Plan, name: string, low: LoweredGraph, bindings: Readonly<Record<string, NdArray>>): Record<string, NdArray> {
  const entry = plan.entries[name] as PlanEntry;
  const memory = new Map<number, Float64Array>();
  const state = new Map(plan.buffers.flatMap((b, k) => (b.kind === "state" ? [[b.name, k] as const] : [])));
  for (const { value } of [...low.graph.params, ...low.graph.inputs])
    if (low.buffers.has(value)) memory.set((entry.inputs[value.name] ?? state.get(value.name)) as number, (bindings[value.name] as NdArray).data.slice());

  const owners = ownersOf(plan, entry.steps, low, (message, k) => { throw new Error(`step ${k} of "${name}" ${message}`); });
  const seen = new Map<Work, Map<Value, Float64Array>>();
  entry.steps.forEach((step, k) => {
    if ("from" in step) {
      memory.set(step.to, (memory.get(step.from) ?? new Float64Array(step.bytes / 4).fill(Number.NaN)).slice());
      return;
    }
    const work = owners[k] as Work;
    const read = seen.get(work) ?? new Map<Value, Float64Array>();
    seen.set(work, read);
    // a work of several values (inverses in lockstep) may finish them at different dispatches
    const finished = (id: number, value: Value): boolean => !entry.steps.some((later, l) => l > k && owners[l] === work && !("from" in later) && later.buffers.some((b, at) => b === id && later.values[at] === value.name && plan.kernels[later.kernel]?.bindings[at] === "read_write"));
    for (const leaf of leavesOf(work, low)) {
      const at = step.buffers.findIndex((id, b) => id >= 0 && (step.values[b] === leaf.name || updates(work, low, step.values[b] as string, leaf)));
      // a work of several dispatches updates element after element: each finds its own elements as they were
      if (at >= 0 && !(read.has(leaf) && step.values[at] !== leaf.name)) read.set(leaf, (memory.get(step.buffers[at] as number) ?? undefinedMemory(leaf)).slice(0, size(leaf.type.shape)));
    }
    let made: Record<string, NdArray> | undefined;
    step.buffers.forEach((id, b) => {
      if (plan.kernels[step.kernel]?.bindings[b] !== "read_write") return;
      const value = work.group.stored.find((v) => v.name === step.values[b]);
      made ??= value && finished(id, value) ? evaluateWork(work, low, read, bindings) : undefined;
      memory.set(id, value ? ((finished(id, value) ? made?.[value.name]?.data : undefined) ?? undefinedMemory(value)) : new Float64Array(0));
    });
  });

  return Object.fromEntries(low.graph.results.map((r) => {
    const id = (entry.outputs[r.name] ?? state.get(r.name)) as number;
    return [r.name, ndarray(r.value.type.dtype, r.value.type.shape, (memory.get(id) ?? undefinedMemory(r.value)).slice(0, size(r.value.type.shape)))];
  }));
}

const undefinedMemory = (v: Value): Float64Array => new Float64Array(size(v.type.shape)).fill(Number.NaN);

/** The written value shares `leaf`'s buffer: an update in place. */
const updates = (work: Work, low: LoweredGraph, written: string, leaf: Value): boolean => {
  const value = work.group.stored.find((v) => v.name === written);
  return value !== undefined && value !== leaf && low.buffers.get(value) === low.buffers.get(leaf);
};

/** The part of the graph that a work computes, on what it read. */
function evaluateWork(work: Work, low: LoweredGraph, read: ReadonlyMap<Value, Float64Array>, bindings: Readonly<Record<string, NdArray>>): Record<string, NdArray> {
  const leaves = leavesOf(work, low);
  const producer = producerOf(low);
  const needed = new Set<unknown>([work.group.root, ...work.group.nodes]);
  const inputs = new Map<Value, NdArray>();
  const visit = (v: Value): void => {
    const node = producer.get(v);
    if (leaves.has(v)) inputs.set(v, ndarray(v.type.dtype, v.type.shape, read.get(v) ?? undefinedMemory(v)));
    else if (!node) inputs.set(v, bindings[v.name] as NdArray);
    else if (!needed.has(node)) {
      needed.add(node);
      node.inputs.forEach(visit);
    }
  };
  for (const n of [work.group.root, ...work.group.nodes]) n.inputs.forEach(visit);
  const graph: Graph = {
    name: "work", params: [], inputs: [...inputs.keys()].map((value) => ({ value })),
    nodes: low.graph.nodes.filter((n) => needed.has(n)),
    results: work.group.stored.map((value) => ({ name: value.name, value })),
  };
  return evaluate(graph, Object.fromEntries([...inputs].map(([v, data]) => [v.name, data])));
}
