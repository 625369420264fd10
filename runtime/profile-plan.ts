/** What of a plan a profile runs: the entries of training, and their steps apart from each other. Browser-safe. */
import type { Artifact, HostOptions, Plan, PlanBuffer, PlanEntry, PlanStep } from "./artifact.js";
import type { Part } from "./profile-clock.js";
import { duties, invertsOnDevice } from "./reactions.js";
import { checkedKnobs, newHostState } from "./state.js";
import { wholeStep } from "./stepping.js";

/** Steps that are looked at, if the periods repeat later than that. */
const CYCLE = 1000;

/** What training runs with these periods, once it has got going: entries in the order in which they first come, and how often per step. */
export function entriesOfStep(artifact: Artifact, batch: number, host: HostOptions): readonly (readonly [entry: string, perStep: number])[] {
  const cycle = Math.min(CYCLE, (host.factorPeriod * host.inversePeriod) / gcd(host.factorPeriod, host.inversePeriod));
  const first = Math.ceil(host.burnIn / cycle) * cycle;
  const run = checkedKnobs(artifact.run);
  const counts = new Map<string, number>();
  for (let step = first; step < first + cycle; step++) {
    const core = { artifact, host, state: { ...newHostState(artifact, 0), stepCount: step, statSteps: 1, inverted: true } };
    const { stats, refresh } = duties(core);
    const name = `${stats ? ".stats" : ""}@${batch}`;
    const fresh = refresh && artifact.layers.length > 0;
    const halves = [`front${name}`, ...(fresh && invertsOnDevice(core) ? ["refresh"] : []), ...(fresh && artifact.plan.entries[`scale@${batch}`] ? [`scale@${batch}`] : []), "back"];
    for (const entry of wholeStep(core, `step${name}`, refresh, run) ? [`step${name}`] : halves) counts.set(entry, (counts.get(entry) ?? 0) + 1);
  }
  return [...counts].map(([entry, count]) => [entry, count / cycle]);
}

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

export interface StepPart extends Part {
  readonly step: PlanStep;
  /** Buffers that `rewind` copies back. */
  readonly positions: readonly number[];
}

/** One per step of the entry, in order. @param sources WGSL of the plan's kernels */
export const partsOf = (plan: Plan, name: string, sources: readonly string[]): StepPart[] => (plan.entries[name] as PlanEntry).steps.map((step, k) => {
  const run = `${name}#${k}`;
  const held = positions(step, sources);
  return { step, run, save: `${run} save`, restore: `${run} restore`, rewind: held.length > 0 ? `${run} rewind` : undefined, positions: held };
});

/** The plan with the parts as entries of their own, and room for what a step writes. */
export function apart(plan: Plan, parts: ReadonlyMap<string, readonly StepPart[]>): Plan {
  const kept: number[] = [];
  const bytes = (b: number): number => (plan.buffers[b] as PlanBuffer).bytes;
  const made = [...parts.values()].flat().flatMap(({ step, run, save, restore, rewind, positions: held }): [string | undefined, readonly PlanStep[]][] => {
    const written = writes(plan, step);
    written.forEach((b, i) => { kept[i] = Math.max(kept[i] ?? 0, bytes(b)); });
    const copies = (list: readonly number[], back: boolean) => list.map((b): PlanStep => {
      const copy = plan.buffers.length + written.indexOf(b);
      return { from: back ? copy : b, to: back ? b : copy, bytes: bytes(b), value: "kept" };
    });
    return [[run, [step]], [save, copies(written, false)], [restore, copies(written, true)], [rewind, copies(held, true)]];
  });
  return {
    ...plan, buffers: [...plan.buffers, ...kept.map((size, i): PlanBuffer => ({ name: `kept ${i}`, kind: "slot", bytes: size, dtype: "f32" }))],
    entries: { ...plan.entries, ...Object.fromEntries(made.filter(([name]) => name !== undefined).map(([name, steps]) => [name, { steps, inputs: {}, outputs: {} }])) },
  };
}

/** Buffers that a step may write. */
export const writes = (plan: Plan, step: PlanStep): number[] =>
  "kernel" in step ? [...new Set(step.buffers.filter((_, at) => plan.kernels[step.kernel]?.bindings[at] === "read_write"))] : [step.to];

/**
 * Those among them that hold no values of the model but where a sequence of kernels stands: what a second run would take for the third's.
 * They are told by their type, as values are arrays of f32 and i32.
 */
function positions(step: PlanStep, sources: readonly string[]): number[] {
  if (!("kernel" in step)) return [];
  const types = (sources[step.kernel] as string).matchAll(/@binding\((\d+)\)\s*var<storage, read_write>\s*\w+\s*:\s*([^;]+);/g);
  const own = [...types].filter(([, , type]) => !/^array<(f32|i32|vec[234][fi]|vec[234]<[fi]32>)>$/.test((type as string).trim()));
  return [...new Set(own.map(([, at]) => step.buffers[Number(at)] as number))];
}
