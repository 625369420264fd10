/**
 * New inverses a part at a time: the work of all layers' refreshes in one row, cut into as many parts of about equal cost as there are steps
 * from one refresh to the next. A layer's inverse may take several steps; it is used from the step that finishes it.
 *
 *   step 0              all layers at once
 *   step 1 … P, P+1 …   part (step − 1) mod P goes before the step's other work, with the statistics that the step before left
 *
 * What is under way lives in buffers of its own (a checkpoint holds them), and the host keeps one number: how far it is. When a pivot
 * fails, λ is raised and all layers are inverted anew at the next step; what was under way is dropped until the row begins again.
 */
import type { Artifact, HostOptions, LayerInfo, Plan, PlanEntry, PlanStep } from "./artifact.js";
import { RuntimeFault } from "./artifact.js";
import type { EntryPart } from "./program.js";
import type { TrainerCore } from "./state.js";

/** `HostState.refreshAt` when nothing is under way. */
export const IDLE = -1;

/** The plan's entry that inverts one layer. */
export const layerRefresh = (layer: string): string => `refresh/${layer}`;
/** Its result: 1 where the inverse was taken over. */
export const layerClean = (layer: string): string => `clean/${layer}`;

/** Whether inverses are spread; @throws RuntimeFault "bad-option" where the program was not compiled for it. */
export function spreads({ artifact, host }: { readonly artifact: Artifact; readonly host: HostOptions }): boolean {
  if (!host.spreadInverses || artifact.optimizer !== "kfac" || artifact.plan.entries.refresh === undefined) return false;
  if (artifact.layers.some((l) => artifact.plan.entries[layerRefresh(l.name)] === undefined))
    throw new RuntimeFault("bad-option", "the program cannot spread its inverses over steps", artifact.name, "compile it with --spread-inverses");
  return true;
}

/** Steps of one entry that stay together: where an inverse begins (it reads factors and λ) and where it is taken over. */
interface Row {
  readonly entry: string;
  readonly layer: number;
  /** Steps of the entry, and of all entries before it. */
  readonly steps: number;
  readonly start: number;
}

export interface Schedule {
  readonly rows: readonly Row[];
  readonly total: number;
  /** Part k ends before this step of the whole row; the last is `total`. */
  readonly ends: readonly number[];
}

/** @param period number of parts; some are empty where there is less work than steps */
export function schedule(plan: Plan, layers: readonly Pick<LayerInfo, "name">[], period: number): Schedule {
  const rows: Row[] = [];
  const units: { readonly steps: number; readonly cost: number }[] = [];
  let total = 0;
  layers.forEach(({ name }, layer) => {
    const entry = plan.entries[layerRefresh(name)] as PlanEntry;
    rows.push({ entry: layerRefresh(name), layer, steps: entry.steps.length, start: total });
    total += entry.steps.length;
    for (const unit of unitsOf(plan, entry)) units.push({ steps: unit.length, cost: unit.reduce((n, s) => n + costOf(s), 0) });
  });
  return { rows, total, ends: ends(units, period) };
}

/**
 * The ends, counted in steps, of `parts` runs of units whose largest cost is as small as cutting at the ends of units allows when each run
 * takes as much as its even share of all.
 */
export function ends(units: readonly { readonly steps: number; readonly cost: number }[], parts: number): number[] {
  const all = units.reduce((n, u) => n + u.cost, 0);
  const made: number[] = [];
  let [at, steps, cost] = [0, 0, 0];
  for (let k = 1; k <= parts; k++) {
    const share = (all * k) / parts;
    // a unit belongs to the part in which its middle falls
    for (let unit = units[at]; unit && (k === parts || cost + unit.cost / 2 <= share); unit = units[at]) {
      steps += unit.steps;
      cost += unit.cost;
      at++;
    }
    made.push(steps);
  }
  return made;
}

/** Bytes moved and dispatches in units of arithmetic: about what they cost where a core computes 10 GFLOP/s. */
const PER_BYTE = 2;
const PER_STEP = 400_000;
const costOf = (s: PlanStep): number => PER_STEP + ("from" in s ? PER_BYTE * s.bytes : (s.work?.flops ?? 0) + PER_BYTE * (s.work?.bytes ?? 0));

/**
 * Steps of an entry that must not be cut apart: up to the last that reads state before any is written (factors may change between steps), and
 * from the first that writes it (a layer's two inverses are taken over together).
 */
function unitsOf(plan: Plan, { steps }: PlanEntry): PlanStep[][] {
  const isState = (id: number): boolean => plan.buffers[id]?.kind === "state";
  const writes = (s: PlanStep): boolean => ("from" in s ? isState(s.to) : s.buffers.some((id, at) => isState(id) && plan.kernels[s.kernel]?.bindings[at] === "read_write"));
  const reads = (s: PlanStep): boolean => ("from" in s ? isState(s.from) : s.buffers.some(isState));
  const written = steps.findIndex(writes);
  const tail = written < 0 ? steps.length : written;
  const head = steps.slice(0, tail).findLastIndex(reads) + 1;
  return [steps.slice(0, head), ...steps.slice(head, tail).map((s) => [s]), steps.slice(tail)].filter((unit) => unit.length > 0);
}

/** Parts of entries between two places of the row, and the layers that are done at the second. */
export function between({ rows }: Schedule, from: number, to: number): { readonly parts: readonly EntryPart[]; readonly done: readonly number[] } {
  const touched = rows.filter((r) => r.start < to && r.start + r.steps > from);
  return {
    parts: touched.map((r) => ({ entry: r.entry, from: Math.max(0, from - r.start), to: Math.min(r.steps, to - r.start) })),
    done: touched.filter((r) => r.start + r.steps <= to).map((r) => r.layer),
  };
}

const schedules = new WeakMap<Plan, Map<number, Schedule>>();

/** The part that belongs to this step; moves `state.refreshAt` on. Nothing before the first inverses. */
export function nextPart(t: Pick<TrainerCore, "artifact" | "host" | "layers" | "state">): ReturnType<typeof between> {
  const { state, host, artifact } = t;
  if (!spreads(t) || !state.inverted || state.stepCount === 0) return { parts: [], done: [] };
  const known = schedules.get(artifact.plan) ?? new Map<number, Schedule>();
  schedules.set(artifact.plan, known);
  const made = known.get(host.inversePeriod) ?? schedule(artifact.plan, t.layers, host.inversePeriod);
  known.set(host.inversePeriod, made);
  const phase = (state.stepCount - 1) % host.inversePeriod;
  if (phase === 0) state.refreshAt = 0;
  if (state.refreshAt === IDLE) return { parts: [], done: [] };
  const from = state.refreshAt;
  // another period than that of the run that began it may have put this end behind
  const to = Math.max(from, made.ends[phase] as number);
  state.refreshAt = to === made.total ? IDLE : to;
  return between(made, from, to);
}
