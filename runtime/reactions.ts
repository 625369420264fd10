/**
 * What the host does about what steps report: a loss that is no number stops the run, a pivot that failed raises its layer's damping.
 * Always a fixed number of steps later, never "when it arrives".
 */
import { type Artifact, RuntimeFault } from "./artifact.js";
import type { HostArray } from "./program.js";
import { spreads } from "./refresh.js";
import { type Pending, type TrainerCore, UNMADE } from "./state.js";

/** Something the trainer did on its own; printed by the command line. */
export interface TrainerEvent {
  readonly kind: "damping-raised";
  readonly layer: string;
  readonly factor: number;
  readonly step: number;
}

export interface Reacting extends TrainerCore {
  /** The dampings in `state.scales` have changed. */
  raised(events: readonly TrainerEvent[]): void;
}

const RAISE = 10;
/** After this many raises (λ × 1e12) a layer's statistics are beyond repair. */
const MAX_RAISES = 12;

/** Whether any parameter has curvature: that of a layer, or a diagonal of its own. */
const hasCurvature = ({ optimizer, plan }: Artifact): boolean => optimizer === "kfac" && plan.buffers.some((b) => b.kind === "state" && /^kfac\/.*\/[AFD]$/.test(b.name));

/** What the next step has to do besides the gradient. */
export function duties({ artifact, host, state }: Pick<TrainerCore, "artifact" | "host" | "state">): { stats: boolean; refresh: boolean } {
  const step = state.stepCount;
  if (!hasCurvature(artifact)) return { stats: false, refresh: false };
  const stats = step % host.factorPeriod === 0 || step < host.burnIn || state.statSteps === 0;
  return { stats, refresh: state.redo || (step % host.inversePeriod === 0 && !spreads({ artifact, host })) };
}

/** Reacts to everything older than `lag` steps. @throws RuntimeFault "diverged" */
export async function settle(t: Reacting, lag: number): Promise<void> {
  while (t.pending.length > lag) {
    const next = t.pending.shift() as Pending;
    const { loss, clean } = await next.values;
    if (!Number.isFinite(loss))
      throw new RuntimeFault("diverged", `the loss is ${loss} at step ${next.step}`, `step ${next.step}`, "lower --lr, raise --damping, or check the data");
    if (next.refreshed) clean.forEach((ok, k) => { if (ok === 1) t.state.invertedAt[k] = next.step; });
    // a refresh that was under way when λ was raised tells nothing about the new λ
    const news = clean.map((ok, k) => (ok !== UNMADE && next.scales[k] === t.state.scales[k] ? ok : 1));
    if (next.refreshed && raise(t, news, next.step)) t.state.redo = true;
  }
}

/** Whether the device has inverses to make; eigenbases come from the host. */
export const invertsOnDevice = ({ artifact }: Pick<TrainerCore, "artifact">): boolean => artifact.plan.entries.refresh !== undefined;

/** Waits until every layer has one clean inverse, raising λ where a pivot fails. @throws RuntimeFault "diverged" */
export async function firstInverses(t: Reacting, fields: Readonly<Record<string, number>>): Promise<void> {
  // ends: every round raises a layer, and a layer can be raised MAX_RAISES times
  while (invertsOnDevice(t)) {
    t.program.writeRun(fields);
    t.program.submit(["refresh"]);
    const [clean] = await t.program.read(["clean"]);
    if (!raise(t, [...(clean as HostArray)], t.state.stepCount)) break;
  }
  t.state.inverted = true;
  t.state.invertedAt.fill(t.state.stepCount);
}

/** Raises the damping of layers whose inverse failed; true if any did. */
function raise(t: Reacting, clean: readonly number[], step: number): boolean {
  const events = clean.flatMap((ok, k): TrainerEvent[] => {
    if (ok === 1) return [];
    const factor = (t.state.scales[k] as number) * RAISE;
    const layer = t.layers[k]?.name ?? "?";
    if (factor > RAISE ** MAX_RAISES)
      throw new RuntimeFault("diverged", `layer "${layer}" cannot be inverted even with damping × ${factor}`, `step ${step}`, "its statistics are not finite: lower the learning rate or check the data");
    t.state.scales[k] = factor;
    return [{ kind: "damping-raised", layer, factor, step }];
  });
  if (events.length > 0) t.raised(events);
  return events.length > 0;
}
