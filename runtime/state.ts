/** The numbers a trainer keeps on the host, and how they go into a checkpoint. */
import { type Artifact, type HostOptions, type LayerInfo, RUN_KNOBS, type RunScalars, RuntimeFault } from "./artifact.js";
import type { Program } from "./program.js";
import type { Prepared } from "./tensors.js";

/** What a step left to be read: its loss, and which inverses of a refresh are clean. */
export interface Pending {
  readonly step: number;
  readonly refreshed: boolean;
  /** Per layer: what its damping was multiplied with. */
  readonly scales: readonly number[];
  /** `clean` per layer: 1, 0 where a pivot failed, UNMADE where the step did not finish its inverse. */
  readonly values: Promise<{ readonly loss: number; readonly clean: readonly number[] }>;
}

export const UNMADE = -1;

/** What checkpoints and the Fisher API need of a trainer. */
export interface TrainerCore {
  readonly artifact: Artifact;
  readonly program: Program;
  readonly layers: readonly LayerInfo[];
  readonly run: RunScalars;
  readonly host: HostOptions;
  readonly state: HostState;
  pending: Pending[];
  /** Gradients have been added up and no update has taken them. */
  readonly accumulating: boolean;
  /** Examples of the step whose gradient sums grad/… hold; undefined: they hold nothing, or sums of something else. */
  gradientCount: number | undefined;
  /** The entry that makes those of grad/… that the step did not form from the rows that it left; undefined: all are there. */
  gradientEntry: string | undefined;
  /** Writes a batch into the input buffers of its size. */
  upload(prepared: Prepared): void;
  /** Runs in order with the steps. */
  task<T>(work: () => Promise<T>): Promise<T>;
}

export interface HostState {
  stepCount: number;
  seed: number;
  /** Debias weight of the running factors and how many statistics went into them. */
  emaWeight: number;
  statSteps: number;
  /** EKFAC: debias weight of the scalings in the eigenbases of now. */
  scaleWeight: number;
  /** Per layer: factor by which a failed inverse raised the damping. */
  readonly scales: number[];
  /** Per layer: the step that made the inverse (or eigenbasis) in use, as far as the host has heard; -1: none yet. */
  readonly invertedAt: number[];
  /** Every layer has had a clean inverse. */
  inverted: boolean;
  /** Inverses are to be made at the next step whatever the period says. */
  redo: boolean;
  /** Steps of the layers' refreshes that have run, where they are spread (refresh.ts); -1: none is under way. */
  refreshAt: number;
}

export const newHostState = (artifact: Artifact, seed: number): HostState => ({
  stepCount: 0, seed, emaWeight: 0, statSteps: 0, scaleWeight: 0, scales: artifact.layers.map(() => 1), invertedAt: artifact.layers.map(() => -1), inverted: false, redo: false, refreshAt: -1,
});

/** A checked copy of the knobs; assignment outside the range throws. */
export function checkedKnobs(given: Partial<RunScalars>): RunScalars {
  const values = new Map<string, number>(RUN_KNOBS.map((k) => [k.name, k.default]));
  const target = {} as RunScalars;
  for (const knob of RUN_KNOBS)
    Object.defineProperty(target, knob.name, {
      enumerable: true,
      get: () => values.get(knob.name),
      set: (value: number) => {
        const [low, high] = knob.range;
        if (typeof value !== "number" || !(value >= low && value <= high))
          throw new RuntimeFault("bad-option", `${knob.name} must be between ${low} and ${high} (${knob.unit}), got ${value}`, `run.${knob.name}`, knob.doc);
        values.set(knob.name, value);
      },
    });
  for (const [name, value] of Object.entries(given)) {
    if (!values.has(name)) throw new RuntimeFault("bad-option", `there is no run-time knob "${name}"`, "run", `one of ${[...values.keys()].join(", ")}`);
    (target as Record<string, number>)[name] = value as number;
  }
  return target;
}

/**
 * Weight of new statistics in the running average.
 *
 * Debiased: w ← d·w + 1, F ← F + (x − F)/w with d = 1 during burn-in. Otherwise the first statistics are the start value and
 * later ones blend in with 1 − d.
 */
export function nextBlend(state: HostState, decay: number, burnIn: number, debias: boolean): number {
  const first = state.statSteps === 0;
  state.statSteps++;
  if (!debias) return first ? 1 : 1 - decay;
  const d = state.stepCount < burnIn ? 1 : decay;
  state.emaWeight = d * state.emaWeight + 1;
  return 1 / state.emaWeight;
}

/** Weight of EKFAC's scalings of one batch in their running average, which starts anew with the eigenbases. */
export function nextScaleBlend(state: HostState, decay: number, debias: boolean): number {
  const first = state.scaleWeight === 0;
  state.scaleWeight = debias ? decay * state.scaleWeight + 1 : 1;
  return debias ? 1 / state.scaleWeight : first ? 1 : 1 - decay;
}
