/**
 * Replays a plan against the graphs it was made from, and refuses it if any dispatch would read something else than it should.
 *
 * Shares no code with the planner: which values a dispatch must read follows from the graph alone, what a buffer holds follows
 * from the steps before. Cheap (linear in steps and nodes), so every compilation ends with it.
 */
import { CompileError } from "../ir/error.js";
import { type Node, producers, type Value } from "../ir/graph.js";
import { size } from "../ir/type.js";
import type { Plan, PlanCopy, PlanDispatch, PlanEntry } from "../runtime/artifact.js";
import type { LoweredGraph, Work } from "./lower.js";

/** What a plan buffer holds while an entry is replayed. Scratch belongs to one work. */
type Held =
  | { readonly kind: "value"; readonly value: Value; readonly ready: boolean }
  | { readonly kind: "scratch"; readonly label: string; readonly work: Work }
  /** State that this entry neither read nor wrote yet: whatever the last entry left. */
  | { readonly kind: "untouched" };

/** What the dispatches of one work have done so far. */
interface Progress {
  readonly bound: Set<Value>;
  /** Buffer → the last of its dispatches that writes it: complete from there on. */
  readonly lastWrite: Map<number, number>;
  readonly dispatches: number[];
}

/** The label that the planner gives to buffers that hold no value of the graph. */
export const SCRATCH = "scratch ";

/**
 * At each read the buffer holds the value that the step names, complete, and the value that the graph asks for; no dispatch binds a
 * written buffer twice; buffers are large enough; every result arrives; state without a result is left alone.
 *
 * @throws CompileError "internal", naming entry and step.
 */
export function checkPlan(plan: Plan, lowered: ReadonlyMap<string, LoweredGraph>): void {
  for (const name of Object.keys(plan.entries)) if (!lowered.has(name)) throw broken(`there is no graph for entry "${name}"`, name);
  for (const [name, low] of lowered) {
    const entry = plan.entries[name];
    if (!entry) throw broken(`entry "${name}" is missing`, name);
    new Replay(plan, name, entry, low).run();
  }
}

class Replay {
  readonly #plan: Plan;
  readonly #name: string;
  readonly #entry: PlanEntry;
  readonly #low: LoweredGraph;
  readonly #held = new Map<number, Held>();
  readonly #state: ReadonlyMap<string, number>;

  constructor(plan: Plan, name: string, entry: PlanEntry, low: LoweredGraph) {
    this.#plan = plan;
    this.#name = name;
    this.#entry = entry;
    this.#low = low;
    this.#state = new Map(plan.buffers.flatMap((b, k) => (b.kind === "state" ? [[b.name, k] as const] : [])));
  }

  run(): void {
    for (const id of this.#state.values()) this.#held.set(id, { kind: "untouched" });
    for (const { value } of [...this.#low.graph.params, ...this.#low.graph.inputs])
      if (this.#low.buffers.has(value)) this.#held.set(this.#inputBuffer(value), { kind: "value", value, ready: true });
    const { steps } = this.#entry;
    const owners = ownersOf(this.#plan, steps, this.#low, (message, k) => this.#fail(message, k));
    const progress = new Map<Work, Progress>();
    steps.forEach((s, k) => {
      const work = owners[k];
      if (!work || "from" in s) return;
      const p = progress.get(work) ?? { bound: new Set<Value>(), lastWrite: new Map<number, number>(), dispatches: [] };
      progress.set(work, p);
      p.dispatches.push(k);
      eachWrite(this.#plan, s, (id) => p.lastWrite.set(id, k));
    });
    steps.forEach((s, k) => ("from" in s ? this.#copy(s, k) : this.#dispatch(s, k, owners[k] as Work, progress.get(owners[k] as Work) as Progress)));
    for (const work of this.#low.work) this.#complete(work, progress.get(work));
    this.#results();
  }

  #inputBuffer(value: Value): number {
    const id = this.#entry.inputs[value.name] ?? this.#state.get(value.name);
    if (id === undefined) this.#fail(`input "${value.name}" has no buffer`);
    this.#fits(id, value);
    return id;
  }

  #fits(id: number, value: Value, k?: number): void {
    const buffer = this.#plan.buffers[id];
    if (!buffer) this.#fail(`there is no buffer ${id}`, k);
    const bytes = bytesOf(value);
    if (buffer.bytes < bytes) this.#fail(`buffer "${buffer.name}" has ${buffer.bytes} bytes, "${value.name}" needs ${bytes}`, k);
    if (buffer.bytes % 16 !== 0) this.#fail(`buffer "${buffer.name}" of ${buffer.bytes} bytes is not whole vec4s`, k);
  }

  #dispatch(step: PlanDispatch, k: number, work: Work, { bound, lastWrite }: Progress): void {
    const kernel = this.#plan.kernels[step.kernel];
    if (!kernel || kernel.bindings.length !== step.buffers.length || step.values.length !== step.buffers.length) this.#fail("kernel and bindings do not fit", k);
    this.#aliases(step, k);
    const leaves = leavesOf(work, this.#low);
    const own = new Map(work.group.stored.map((v) => [v.name, v] as const));
    step.buffers.forEach((id, at) => {
      if (kernel.bindings[at] !== "read") return;
      const held = this.#held.get(id);
      const label = step.values[at] as string;
      if (!held || held.kind === "untouched") this.#fail(`reads "${label}" from ${this.#spell(id)}, which nothing wrote`, k);
      if (held.kind === "scratch") {
        if (held.work !== work || held.label !== label) this.#fail(`reads "${label}" from ${this.#spell(id)}, which holds ${held.label}`, k);
        return;
      }
      if (held.value.name !== label) this.#fail(`reads "${label}" from ${this.#spell(id)}, which holds "${held.value.name}"`, k);
      // a kernel of several dispatches may read what its own earlier ones wrote
      if (own.get(label) === held.value) return;
      if (!held.ready) this.#fail(`reads "${label}" before it is complete`, k);
      if (!leaves.has(held.value)) this.#fail(`reads "${label}", which "${[...own.keys()].join(", ")}" does not depend on directly`, k);
      bound.add(held.value);
    });
    eachWrite(this.#plan, step, (id, at) => {
      const label = step.values[at] as string;
      const value = own.get(label);
      if (!value) {
        if (this.#plan.buffers[id]?.kind !== "slot") this.#fail(`uses ${this.#spell(id)} as scratch`, k);
        this.#held.set(id, { kind: "scratch", label, work });
        return;
      }
      const old = this.#held.get(id);
      // an update in place reads the old value at the element that it writes
      if (old?.kind === "value" && old.ready && old.value !== value && leaves.has(old.value) && this.#low.buffers.get(old.value) === this.#low.buffers.get(value)) bound.add(old.value);
      this.#mayWrite(id, value, k);
      this.#fits(id, value, k);
      this.#held.set(id, { kind: "value", value, ready: lastWrite.get(id) === k });
    });
  }

  /** WebGPU refuses a buffer bound twice where one binding writes. */
  #aliases(step: PlanDispatch, k: number): void {
    const written = new Set<number>();
    eachWrite(this.#plan, step, (id) => {
      if (written.has(id)) this.#fail(`writes ${this.#spell(id)} through two bindings`, k);
      written.add(id);
    });
    const bindings = this.#plan.kernels[step.kernel]?.bindings ?? [];
    step.buffers.forEach((id, at) => {
      if (bindings[at] === "read" && written.has(id)) this.#fail(`binds ${this.#spell(id)} read and read_write`, k);
      if ((bindings[at] === "run") !== (id < 0)) this.#fail("has the run block in the wrong place", k);
    });
  }

  /** Inputs belong to the host, state to the result of its name, outputs to theirs. */
  #mayWrite(id: number, value: Value, k: number): void {
    const buffer = this.#plan.buffers[id];
    if (!buffer || buffer.kind === "slot") return;
    const allowed = this.#low.graph.results.some((r) => r.value === value && (buffer.kind === "state" ? r.name === buffer.name : this.#entry.outputs[r.name] === id));
    if (!allowed) this.#fail(`writes "${value.name}" over ${this.#spell(id)}`, k);
  }

  #copy(step: PlanCopy, k: number): void {
    const held = this.#held.get(step.from);
    if (held?.kind !== "value" || !held.ready || held.value.name !== step.value)
      this.#fail(`copies "${step.value}" from ${this.#spell(step.from)}, which holds ${held?.kind === "value" ? `"${held.value.name}"${held.ready ? "" : " in part"}` : "something else"}`, k);
    if (step.from === step.to) this.#fail(`copies ${this.#spell(step.from)} onto itself`, k);
    if (step.bytes < size(held.value.type.shape) * 4 || step.bytes % 4 !== 0) this.#fail(`copies ${step.bytes} bytes of "${step.value}"`, k);
    for (const id of [step.from, step.to])
      if (step.bytes > (this.#plan.buffers[id]?.bytes ?? 0)) this.#fail(`copies ${step.bytes} bytes, more than ${this.#spell(id)} holds`, k);
    this.#mayWrite(step.to, held.value, k);
    this.#fits(step.to, held.value, k);
    this.#held.set(step.to, held);
  }

  /** Every dispatch of a work together bound what its kernels load, and its stored values were written. */
  #complete(work: Work, progress: Progress | undefined): void {
    const names = work.group.stored.map((v) => `"${v.name}"`).join(", ");
    const { bound, dispatches } = progress ?? { bound: new Set(), dispatches: [] };
    if (dispatches.length < work.specs.length) this.#fail(`${names} takes at least ${work.specs.length} dispatches, there are ${dispatches.length}`);
    const loaded = loadedBuffers(work);
    for (const leaf of leavesOf(work, this.#low)) {
      const buffer = this.#low.buffers.get(leaf);
      if (buffer && loaded.has(buffer) && !bound.has(leaf)) this.#fail(`${names} is computed without reading "${leaf.name}"`);
    }
  }

  #results(): void {
    const written = new Set<number>();
    for (const r of this.#low.graph.results) {
      const id = this.#entry.outputs[r.name] ?? this.#state.get(r.name);
      if (id === undefined) this.#fail(`result "${r.name}" has no buffer`);
      written.add(id);
      if (size(r.value.type.shape) === 0) continue;
      const held = this.#held.get(id);
      if (held?.kind !== "value" || held.value !== r.value || !held.ready)
        this.#fail(`result "${r.name}" should hold "${r.value.name}" in ${this.#spell(id)}, which holds ${held?.kind === "value" ? `"${held.value.name}"` : "something else"}`);
    }
    for (const { value } of [...this.#low.graph.params, ...this.#low.graph.inputs]) {
      if (!this.#low.buffers.has(value)) continue;
      const id = this.#inputBuffer(value);
      const held = this.#held.get(id);
      if (!written.has(id) && (held?.kind !== "value" || held.value !== value)) this.#fail(`"${value.name}" is destroyed`);
    }
  }

  #spell(id: number): string {
    return id < 0 ? "the run block" : `buffer "${this.#plan.buffers[id]?.name ?? id}"`;
  }

  #fail(message: string, k?: number): never {
    const step = k === undefined ? undefined : this.#entry.steps[k];
    const what = step && ("from" in step ? "copy" : `dispatch of ${this.#plan.kernels[step.kernel]?.name ?? "?"}`);
    throw broken(message, this.#name + (k === undefined ? "" : `, step ${k} (${what})`));
  }
}

const broken = (message: string, where: string): CompileError =>
  new CompileError("internal", `the plan is wrong: ${message}`, `entry ${where}`, "please report this with the model");

/** Memory is whole vec4s of 4-byte elements. */
const bytesOf = (value: Value): number => Math.max(16, Math.ceil((size(value.type.shape) * 4) / 16) * 16);

function eachWrite(plan: Plan, step: PlanDispatch, visit: (id: number, at: number) => void): void {
  step.buffers.forEach((id, at) => { if (plan.kernels[step.kernel]?.bindings[at] === "read_write") visit(id, at); });
}

/**
 * The work that each dispatch belongs to: the one that stores a value which the dispatch names on a written binding; a dispatch that
 * fills scratch only belongs to the next one. Index = step; copies have none.
 */
export function ownersOf(plan: Plan, steps: PlanEntry["steps"], low: LoweredGraph, fail: (message: string, k: number) => never): (Work | undefined)[] {
  const stores = new Map(low.work.flatMap((w) => w.group.stored.map((v) => [v.name, w] as const)));
  const owners: (Work | undefined)[] = steps.map(() => undefined);
  let next: Work | undefined;
  for (let k = steps.length - 1; k >= 0; k--) {
    const step = steps[k];
    if (!step || "from" in step) continue;
    const named = new Set<Work>();
    eachWrite(plan, step, (_id, at) => {
      const label = step.values[at] as string;
      const work = stores.get(label);
      if (work) named.add(work);
      else if (!label.startsWith(SCRATCH)) fail(`writes "${label}", which nothing stores`, k);
    });
    if (named.size > 1) fail("writes values of different works", k);
    next = [...named][0] ?? next;
    if (!next) fail("fills scratch that nobody reads", k);
    owners[k] = next;
  }
  return owners;
}

/** Values in memory that a work reads according to the graph: what its operations reach through everything computed in place. */
export function leavesOf(work: Work, low: LoweredGraph): ReadonlySet<Value> {
  const known = leaves.get(work);
  if (known) return known;
  const producer = producerOf(low);
  const own = new Set<Value>([work.group.root, ...work.group.nodes].flatMap((n) => n.results));
  const found = new Set<Value>();
  const seen = new Set<Value>();
  const visit = (v: Value): void => {
    if (seen.has(v) || own.has(v)) return;
    seen.add(v);
    if (low.buffers.has(v)) found.add(v);
    else producer.get(v)?.inputs.forEach(visit);
  };
  for (const n of [work.group.root, ...work.group.nodes]) n.inputs.forEach(visit);
  leaves.set(work, found);
  return found;
}
const leaves = new WeakMap<Work, ReadonlySet<Value>>();

const producerMaps = new WeakMap<LoweredGraph, ReadonlyMap<Value, Node>>();
export function producerOf(low: LoweredGraph): ReadonlyMap<Value, Node> {
  const known = producerMaps.get(low) ?? producers(low.graph);
  producerMaps.set(low, known);
  return known;
}

/** Buffers that the specs of a work load from: those of its accesses, not those of its stores. */
function loadedBuffers(work: Work): ReadonlySet<object> {
  const found = new Set<object>();
  const seen = new Set<object>();
  const visit = (x: unknown): void => {
    if (typeof x !== "object" || x === null || seen.has(x) || x instanceof Map) return;
    seen.add(x);
    if (Array.isArray(x)) x.forEach(visit);
    else
      for (const [key, y] of Object.entries(x)) {
        const load = (key === "buffer" && "bounds" in x) || key === "matrix" || key === "damping";
        if (load) found.add(y as object);
        else visit(y);
      }
  };
  work.specs.forEach(visit);
  return found;
}
