/**
 * From lowered graphs to a plan: which kernel runs when, on which buffers. Values that live only inside one entry share
 * whole-buffer slots; entries never overlap, so they share slots too.
 */
import type { Graph, Value } from "../ir/graph.js";
import type { Plan, PlanBuffer, PlanCopy, PlanEntry, PlanKernel, PlanStep, StoredType } from "../runtime/artifact.js";
import { canonicalize, canonicalizeInverse, canonicalizeScatter } from "./canonical.js";
import type { Buffer, Kernel, Limits, Lowered } from "./kernel.js";
import { lowerContract } from "./kernels/contract/index.js";
import type { Remembered } from "./kernels/contract/search.js";
import { lowerInverse } from "./kernels/inverse.js";
import { lowerMap } from "./kernels/map.js";
import { lowerReduce } from "./kernels/reduce.js";
import { lowerRows } from "./kernels/rows.js";
import { lowerScatter } from "./kernels/scatter.js";
import { lowerGraph, type LoweredGraph, type Spec } from "./lower.js";
import { type Life, shareSlots } from "./slots.js";
import { dispatchWork } from "./plan-work.js";
import type { KernelWork } from "./work.js";

export interface EntryGraph {
  readonly name: string;
  readonly graph: Graph;
  /** Distinguishes the host-written inputs of programs for different batch sizes, e.g. "@64". */
  readonly suffix?: string;
  /** Other entries may run between its steps: it has slots of its own, whose names begin with this, shared only with entries that say the same. */
  readonly apart?: string;
}

export interface Planned {
  readonly plan: Plan;
  /** WGSL of `plan.kernels`, in order; behind them, what their `variants` name. */
  readonly sources: readonly string[];
  readonly lowered: ReadonlyMap<string, LoweredGraph>;
  readonly memory: { readonly planned: number; readonly everyTensor: number };
}

/**
 * @param state names of inputs, parameters and results that outlive an entry: one buffer per name. A result with the name of an
 * input overwrites it.
 */
export function planProgram(entries: readonly EntryGraph[], state: ReadonlySet<string>, limits: Limits): Planned {
  const planner = new Planner(state, limits);
  const lowered = new Map<string, LoweredGraph>();
  const pending: { readonly name: string; readonly entry: Unplaced }[] = [];
  for (const entry of entries) {
    const inputs = new Map([...entry.graph.params, ...entry.graph.inputs].map(({ value }) => [value.name, value] as const));
    const inPlace = new Map<Value, Value>();
    for (const r of entry.graph.results) {
      const target = inputs.get(r.name);
      if (target && state.has(r.name) && !inPlace.has(r.value)) inPlace.set(r.value, target);
    }
    const low = lowerGraph(entry.graph, limits, inPlace);
    lowered.set(entry.name, low);
    pending.push({ name: entry.name, entry: planner.entry(low, entry.suffix ?? "", entry.apart) });
  }
  planner.place(pending.map((p) => p.entry));
  const made = Object.fromEntries(pending.map((p) => [p.name, planner.finished(p.entry)]));
  const { kernels, sources } = planner.texts();
  const plan: Plan = { kernels, buffers: planner.buffers, entries: made };
  const planned = planner.buffers.reduce((n, b) => n + b.bytes, 0);
  return { plan, sources, lowered, memory: { planned, everyTensor: planner.everyTensor } };
}

/** One kernel of a work, with what it binds and counts. */
interface Piece {
  readonly kernel: Kernel;
  /** By binding; undefined: the run block. */
  readonly buffers: readonly (Buffer | undefined)[];
  readonly work: KernelWork;
}

/** One dispatch of an entry. */
interface Unit {
  readonly kernel: number;
  readonly workgroups: readonly [number, number, number];
  readonly bindings: readonly (Buffer | undefined)[];
  readonly work: KernelWork;
}

/** An entry whose short-lived buffers have no slots yet. */
interface Unplaced {
  readonly low: LoweredGraph;
  readonly apart: string;
  readonly units: readonly Unit[];
  /** Buffers with names of their own, in the end also those in slots. */
  readonly place: Map<Buffer, number>;
  readonly inputs: Readonly<Record<string, number>>;
  readonly outputs: Readonly<Record<string, number>>;
  /** Results copied at the end. */
  readonly copies: readonly { readonly from: Buffer; readonly to: number; readonly value: string }[];
}

const bytesOf = (elements: number): number => Math.max(16, Math.ceil(elements / 4) * 16);

/** First and last dispatch of every buffer without a name of its own; what is copied at the end lives until then. */
function lifetimes({ units, place, copies }: Unplaced): Map<Buffer, readonly [number, number]> {
  const found = new Map<Buffer, readonly [number, number]>();
  const use = (b: Buffer, at: number): void => { if (!place.has(b)) found.set(b, [found.get(b)?.[0] ?? at, at]); };
  units.forEach((unit, k) => { for (const b of unit.bindings) if (b) use(b, k); });
  for (const { from } of copies) use(from, units.length);
  return found;
}

class Planner {
  readonly kernels: PlanKernel[] = [];
  readonly #texts: Kernel[] = [];
  readonly buffers: PlanBuffer[] = [];
  everyTensor = 0;
  readonly #state: ReadonlySet<string>;
  readonly #limits: Limits;
  readonly #named = new Map<string, number>();
  readonly #kernelIds = new Map<string, number>();
  readonly #lowerings = new Map<string, Lowered>();
  readonly #searches: Remembered = new Map();
  readonly #work = new WeakMap<Lowered, readonly KernelWork[]>();
  readonly #names = new Set<string>();

  constructor(state: ReadonlySet<string>, limits: Limits) {
    this.#state = state;
    this.#limits = limits;
  }

  entry(low: LoweredGraph, suffix: string, apart = ""): Unplaced {
    const place = new Map<Buffer, number>();
    const inputs: Record<string, number> = {};
    for (const { value } of [...low.graph.params, ...low.graph.inputs]) {
      const buffer = low.buffers.get(value);
      if (!buffer) continue;
      const kind = this.#state.has(value.name) ? "state" : "input";
      const id = this.#name(value.name, kind, buffer, value.type.shape, kind === "input" ? suffix : "");
      place.set(buffer, id);
      if (kind === "input") inputs[value.name] = id;
    }
    const outputs: Record<string, number> = {};
    const extra: { from: Value; to: number; name: string }[] = [];
    for (const r of low.graph.results) {
      const buffer = low.buffers.get(r.value) as Buffer;
      const kind = this.#state.has(r.name) ? "state" : "output";
      const to = this.#name(r.name, kind, buffer, r.value.type.shape, kind === "output" ? suffix : "");
      if (kind === "output") outputs[r.name] = to;
      if (low.copies.some((c) => c.from === r.value && c.to.name === r.name)) continue;
      // a second name of a value whose old content kernels still read is copied at the end, too
      const taken = kind === "state" && [...place].some(([b, id]) => id === to && b !== buffer);
      if (taken || (place.has(buffer) && place.get(buffer) !== to)) extra.push({ from: r.value, to, name: r.name });
      else place.set(buffer, to);
    }
    const units = low.work.flatMap((w) => w.specs.flatMap((spec) => this.#lower(spec))).map(({ kernel, buffers, work }) => ({ kernel: this.#kernel(kernel), workgroups: kernel.workgroups, bindings: buffers, work }));
    const copies = [
      ...low.copies.map((c) => ({ from: low.buffers.get(c.from) as Buffer, to: this.#named.get(c.to.name) as number, value: c.from.name })),
      ...extra.map((e) => ({ from: low.buffers.get(e.from) as Buffer, to: e.to, value: e.from.name })),
    ];
    return { low, apart, units, place, inputs, outputs, copies };
  }

  /** Gives every buffer that lives only inside its entry a slot. */
  place(entries: readonly Unplaced[]): void {
    const lives = new Map<string, Life<{ readonly entry: Unplaced; readonly buffer: Buffer }>[]>();
    entries.forEach((entry, number) => {
      const list = lives.get(entry.apart) ?? [];
      lives.set(entry.apart, list);
      for (const [buffer, [first, last]] of lifetimes(entry)) {
        const bytes = bytesOf(buffer.elements);
        this.everyTensor += bytes;
        list.push({ bytes, entry: number, first, last, what: { entry, buffer } });
      }
    });
    for (const [apart, list] of lives)
      shareSlots(list).forEach((slot, k) => {
        this.buffers.push({ name: `${apart}slot${k}`, kind: "slot", bytes: slot.bytes, dtype: "f32" });
        for (const { entry, buffer } of slot.holds) entry.place.set(buffer, this.buffers.length - 1);
      });
  }

  /** Dispatches in order, then copies. */
  finished({ low, units, place, inputs, outputs, copies }: Unplaced): PlanEntry {
    const steps: PlanStep[] = [];
    // an update in place shares its input's buffer: until it is written, the buffer holds the input
    const valueOf = new Map([...low.buffers].map(([v, b]) => [b, v.name] as const));
    const holds = new Map([...low.graph.params, ...low.graph.inputs].flatMap(({ value }) => {
      const b = low.buffers.get(value);
      return b ? [[b, value.name] as const] : [];
    }));
    for (const unit of units) {
      const uses = this.kernels[unit.kernel]?.bindings ?? [];
      steps.push({
        kernel: unit.kernel, workgroups: unit.workgroups, work: unit.work,
        buffers: unit.bindings.map((b) => (b === undefined ? -1 : (place.get(b) as number))),
        values: unit.bindings.map((b, at) => (b === undefined ? "run" : ((uses[at] === "read" ? holds.get(b) : undefined) ?? valueOf.get(b) ?? `scratch ${b.name}`))),
      });
      unit.bindings.forEach((b, at) => { if (b && uses[at] === "read_write") holds.delete(b); });
    }
    const left = copies.map((c): PlanCopy => ({ from: place.get(c.from) as number, to: c.to, bytes: bytesOf(c.from.elements), value: c.value }));
    // whoever reads a buffer goes before the copy that overwrites it
    while (left.length > 0) {
      const free = left.findIndex((c) => !left.some((other) => other !== c && other.from === c.to));
      steps.push(...left.splice(Math.max(0, free), 1));
    }
    return { steps, inputs, outputs };
  }

  #name(name: string, kind: "state" | "input" | "output", buffer: Buffer, shape: readonly number[], suffix: string): number {
    const key = name + suffix;
    const known = this.#named.get(key);
    if (known !== undefined) return known;
    const bytes = bytesOf(buffer.elements);
    this.buffers.push({ name: key, kind, bytes, dtype: buffer.dtype as StoredType, shape });
    this.everyTensor += bytes;
    this.#named.set(key, this.buffers.length - 1);
    return this.buffers.length - 1;
  }

  #lower(spec: Spec): Piece[] {
    const { key, spec: canonical, original } = spec.kind === "inverse" ? canonicalizeInverse(spec) : spec.kind === "scatter" ? canonicalizeScatter(spec) : canonicalize(spec);
    let lowered = this.#lowerings.get(key);
    if (!lowered) {
      lowered = LOWER[canonical.kind](canonical as never, this.#limits, this.#searches);
      this.#lowerings.set(key, lowered);
      this.#work.set(lowered, dispatchWork(spec, lowered));
    }
    // a remembered lowering names the buffers of the spec it was made from: by name they are this one's too
    const mine = new Map([...original].map(([canonical, b]) => [canonical.name, b] as const));
    const scratch = new Map(lowered.scratch.map((b) => [b, { ...b }] as const));
    const actual = (b: Buffer): Buffer => scratch.get(b) ?? (mine.get(b.name) as Buffer);
    const work = this.#work.get(lowered) as readonly KernelWork[];
    return lowered.kernels.map((kernel, at) => ({ kernel, buffers: kernel.bindings.map((b) => (b.kind === "run" ? undefined : actual(b.buffer))), work: work[at] as KernelWork }));
  }

  /** The kernels with where their variants are; the texts of the kernels, then those of the variants. */
  texts(): { kernels: PlanKernel[]; sources: string[] } {
    const sources = this.#texts.map((k) => k.wgsl);
    const kernels = this.kernels.map((k, i): PlanKernel => {
      const { variants } = this.#texts[i] as Kernel;
      return variants ? { ...k, variants: variants.map(({ feature, wgsl }) => ({ feature, source: sources.push(wgsl) - 1 })) } : k;
    });
    return { kernels, sources };
  }

  #kernel(k: Lowered["kernels"][number]): number {
    // the first line is a comment with the caller's label; equal code below it is one pipeline
    const body = [k.wgsl, ...(k.variants ?? []).map((v) => v.wgsl)].map((text) => text.slice(text.indexOf("\n"))).join("\0");
    const known = this.#kernelIds.get(body);
    if (known !== undefined) return known;
    let name = k.name;
    for (let n = 2; this.#names.has(name); n++) name = `${k.name}_${n}`;
    this.#names.add(name);
    this.kernels.push({ name, bindings: k.bindings.map((b) => (b.kind === "run" ? "run" : b.access)) });
    this.#texts.push(k);
    this.#kernelIds.set(body, this.kernels.length - 1);
    return this.kernels.length - 1;
  }
}

const LOWER = { map: lowerMap, reduce: lowerReduce, rows: lowerRows, contract: lowerContract, inverse: lowerInverse, scatter: lowerScatter } as const;
