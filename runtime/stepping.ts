/**
 * One update on the device: which entries run in which order, and what is read back of them.
 *
 *   [front] → [refresh | new eigenbases, scale] → back      the seams open: new inverses are made with this step's statistics and used by it
 *   [part of a refresh] → …                                 where inverses are spread over steps (refresh.ts)
 *   step                                                    all in one entry, where nothing happens in between
 */
import type { LayerInfo, RunScalars } from "./artifact.js";
import { refreshEigenbases } from "./eigenbases.js";
import type { HostArray } from "./program.js";
import { firstInverses, invertsOnDevice, type Reacting } from "./reactions.js";
import { IDLE, layerClean, nextPart } from "./refresh.js";
import type { Readback } from "./readback.js";
import { nextBlend, nextScaleBlend, type Pending, type TrainerCore, UNMADE } from "./state.js";

export interface Stepping extends Reacting {
  readonly readback: Readback;
  /** What a rejected readback really means. */
  lostOr(e: unknown): Promise<unknown>;
}

/** An update, its batch uploaded and its knobs written. */
export interface Update {
  /** The whole update as one entry; and the entry that makes gradient sums of what it left. Else: */
  readonly whole?: string;
  readonly expose?: string;
  /** What goes before the inverses: `front`, `absorb`, or nothing. */
  readonly front?: string;
  /** New inverses are due. */
  readonly refresh: boolean;
  readonly fields: Readonly<Record<string, number>>;
  /** Buffers to read back, and the mean loss from them. */
  readonly read: readonly string[];
  readonly lossOf: (values: ReadonlyMap<string, HostArray>) => number;
  /** Measures EKFAC's scalings of the batch in new eigenbases. */
  readonly scale?: string;
}

/**
 * Whether a step can be the one entry of that name: nothing may happen between its halves. K-FAC's is compiled where it saves work, for
 * gradients that no decay is added to.
 */
export function wholeStep({ artifact, state }: Pick<TrainerCore, "artifact" | "state">, entry: string, refresh: boolean, run: Readonly<RunScalars>): boolean {
  if (artifact.optimizer !== "kfac") return true;
  return artifact.plan.entries[entry] !== undefined && !refresh && state.inverted && (run.weightDecay === 0 || artifact.weightDecayMode === "decoupled");
}

/** What the uniform block holds besides a batch's own numbers. */
export function runFields({ state }: TrainerCore, run: Readonly<RunScalars>): Record<string, number> {
  const t = state.stepCount + 1;
  return { ...run, correction1: 1 - run.beta1 ** t, correction2: 1 - run.beta2 ** t, seed: state.seed, step: state.stepCount };
}

/** Weights of this step's statistics in the running averages; scalings that a refresh starts anew have none yet. */
export function blends({ artifact, host, state }: TrainerCore, run: Readonly<RunScalars>, stats: boolean, refresh: boolean): { emaBlend: number; scaleBlend: number } {
  const { emaDebias, burnIn } = host;
  const scaled = stats && artifact.inverse === "ekfac" && state.inverted && !refresh;
  return {
    emaBlend: stats ? nextBlend(state, run.emaDecay, burnIn, emaDebias) : 0,
    scaleBlend: scaled ? nextScaleBlend(state, run.emaDecay, emaDebias) : 0,
  };
}

/**
 * Submits an update in one go; the first inverses are awaited, later ones only reported. Eigenbases are always awaited; `scale` then
 * measures EKFAC's scalings of the batch in them.
 */
export async function finishStep(t: Stepping, update: Update): Promise<{ readonly loss: Promise<number> }> {
  const { program, state, artifact, readback } = t;
  const { fields, read } = update;
  const kfac = artifact.optimizer === "kfac" && t.layers.length > 0;
  const first = update.whole ?? update.front;
  const fronts = first ? [first] : [];
  const tail = update.whole ? [] : ["back"];
  const step = state.stepCount;
  const invert = kfac && (update.refresh || !state.inverted);
  const device = invert && invertsOnDevice(t);
  const host = invert && artifact.inverse !== "pi";
  const scales = host && update.scale !== undefined && artifact.plan.entries[update.scale] ? [update.scale] : [];
  if (invert) state.refreshAt = IDLE;
  const { parts, done } = kfac && !invert ? nextPart(t) : { parts: [], done: [] };
  await program.prepare([...parts.map((p) => p.entry), ...fronts, ...(device ? ["refresh"] : []), ...scales, ...tail]);
  if (invert && state.inverted) state.redo = false;
  if (invert && (host || !state.inverted)) {
    program.submit(fronts);
    const again = device && state.inverted;
    if (!again) await firstInverses(t, fields);
    if (host) {
      await refreshEigenbases(t);
      t.layers.forEach((l, k) => { if (l.form === "kronecker") state.invertedAt[k] = step; });
      state.scaleWeight = scales.length > 0 ? 1 : 0;
      program.writeRun({ ...fields, scaleBlend: 1 });
      program.submit(scales);
      program.writeRun(fields);
    }
    push(t, update, step, again, readback.submit([...(again ? ["refresh"] : []), ...tail], [...read, ...(again ? ["clean"] : [])]));
  } else {
    const cleans = done.map((k) => layerClean((t.layers[k] as LayerInfo).name));
    push(t, update, step, device || done.length > 0, readback.submit([...parts, ...fronts, ...(device ? ["refresh"] : []), ...tail], [...read, ...cleans, ...(device ? ["clean"] : [])]));
  }
  state.stepCount++;
  t.gradientCount = fields.count;
  t.gradientEntry = update.whole && update.expose && artifact.plan.entries[update.expose] ? update.expose : undefined;
  // wrapped, so that the chain of tasks does not wait for the readback
  return { loss: (t.pending[t.pending.length - 1] as Pending).values.then((v) => v.loss) };
}

function push(t: Stepping, { lossOf }: Update, step: number, refreshed: boolean, values: Promise<ReadonlyMap<string, HostArray>>): void {
  const ready = values.then(
    (map) => ({ loss: lossOf(map), clean: refreshed ? cleanOf(t, map) : [] }),
    async (e: unknown) => { throw await t.lostOr(e); },
  );
  ready.catch(() => {});
  t.pending.push({ step, refreshed, scales: [...t.state.scales], values: ready });
}

/** What a refresh of all layers, or of some, says of each. */
const cleanOf = (t: Stepping, values: ReadonlyMap<string, HostArray>): number[] => {
  const all = values.get("clean");
  return all ? [...all] : t.layers.map((l) => values.get(layerClean(l.name))?.[0] ?? UNMADE);
};
