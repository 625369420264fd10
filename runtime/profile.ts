/**
 * Where the time of a compiled program goes: every dispatch of an entry, measured on a device with random data. By the device's timestamps
 * where it has them, else each dispatch alone by the host's clock. Browser-safe.
 */
import { HOST_DEFAULTS, type Plan, type PlanEntry, type PlanStep, RuntimeFault } from "./artifact.js";
import type { OpenDevice } from "./device.js";
import type { ModuleData } from "./load.js";
import { randomBatch } from "./profile-batch.js";
import { type Clock, submitCost, timestamps, together, type Watch, wallClock } from "./profile-clock.js";
import { apart, entriesOfStep, partsOf, type StepPart, writes } from "./profile-plan.js";
import { Trainer } from "./trainer.js";

export interface ProfileOptions {
  /** Names of the plan's entries, or those without their `@batch`; default: what training runs. */
  readonly entries?: readonly string[];
  /** One of the compiled ones; default: the largest. */
  readonly batch?: number;
  /** Measurements of each dispatch; their median counts. Default 5. */
  readonly repeat?: number;
  /** Default: timestamps where the device has them. */
  readonly clock?: Clock;
  /** Of the random data. Default 0. */
  readonly seed?: number;
  readonly onEntry?: (name: string, dispatches: number) => void;
}

export interface StepTime {
  /** Index into the plan's kernels; undefined for a copy. */
  readonly kernel: number | undefined;
  readonly values: readonly string[];
  readonly workgroups: readonly number[];
  /** As the compiler counted; undefined in plans that do not say. */
  readonly work: { readonly flops: number; readonly bytes: number } | undefined;
  readonly ms: number;
}

export interface EntryTime {
  readonly entry: string;
  /** Runs per training step; undefined if it was asked for by name. */
  readonly perStep: number | undefined;
  /** In the order in which they run. */
  readonly steps: readonly StepTime[];
  /** Milliseconds of the whole entry in one submit, by the host's clock. */
  readonly together: number;
  /** Named results that hold a number that is not finite: the data were no good, or a kernel is wrong. */
  readonly nonFinite: readonly string[];
}

export interface Profile {
  readonly batch: number;
  readonly clock: Clock;
  /** Of the step that came first. */
  readonly loss: number;
  readonly entries: readonly EntryTime[];
}

/**
 * One training step first, on the same data: statistics, inverses and momentum are such as training has.
 *
 * @throws RuntimeFault "bad-option" for an entry, batch or clock that is not there; "device-lost", "out-of-memory", "diverged"
 */
export async function profile(open: OpenDevice, { artifact, sources, weights }: ModuleData, options: ProfileOptions = {}): Promise<Profile> {
  const batch = options.batch ?? Math.max(...artifact.batches);
  if (!artifact.batches.includes(batch)) throw new RuntimeFault("bad-option", `the program is not compiled for a batch of ${batch}`, "batch", `one of ${artifact.batches.join(", ")}`);
  const ticks = open.features.includes("timestamp-query");
  const { repeat = 5, seed = 0, clock = ticks ? "timestamps" : "wall" } = options;
  if (clock === "timestamps" && !ticks) throw new RuntimeFault("bad-option", `${open.name} has no timestamps`, "clock", "measure by the wall clock");
  const wanted = options.entries ? options.entries.map((name) => [entryNamed(artifact.plan, name, batch), undefined] as const) : entriesOfStep(artifact, batch, { ...HOST_DEFAULTS, ...artifact.host });
  const parts = new Map(wanted.map(([name]) => [name, partsOf(artifact.plan, name, sources)]));
  const trainer = await Trainer.create(open.device, { ...artifact, plan: apart(artifact.plan, parts) }, sources, weights, { seed });
  const watch = watching(trainer, open);
  try {
    const loss = await trainer.step(randomBatch(artifact, batch, seed)).loss;
    await trainer.program.prepare([...parts].flatMap(([name, list]) => [name, ...list.flatMap((p) => [p.run, p.save, p.restore, ...(p.rewind ? [p.rewind] : [])])]));
    fillInputs(trainer, batch);
    const cost = await submitCost(watch);
    const entries: EntryTime[] = [];
    let used = clock;
    for (const [name, perStep] of wanted) {
      options.onEntry?.(name, parts.get(name)?.length ?? 0);
      const { steps, whole, by } = await measure(watch, name, parts.get(name) as readonly StepPart[], used, repeat, cost);
      used = by;
      entries.push({ entry: name, perStep, together: whole, nonFinite: await nonFinite(trainer, artifact.plan.entries[name] as PlanEntry), steps });
    }
    return { batch, clock: used, loss, entries };
  } catch (e) {
    watch.alive();
    throw e;
  } finally {
    await trainer.dispose().catch(() => {});
  }
}

/** Whole, and step by step; by the wall clock if the device's turns out to stand still. */
async function measure(watch: Watch, name: string, parts: readonly StepPart[], clock: Clock, repeat: number, cost: number): Promise<{ steps: StepTime[]; whole: number; by: Clock }> {
  const { program } = watch;
  program.device.pushErrorScope("validation");
  // compiles what is compiled late, and leaves every buffer as the entry makes it
  program.submit([name]);
  const whole = await together(watch, [name], repeat, cost);
  const ticked = clock === "timestamps" ? await timed(watch, parts, repeat, cost) : undefined;
  const ms = ticked ?? (await wallClock(watch, parts, repeat, cost));
  const refused = await program.device.popErrorScope();
  // a dispatch that the device refuses seems infinitely fast
  if (refused) throw new RuntimeFault("internal", `the device refuses a dispatch: ${refused.message}`, `entry "${name}"`, "please report this with the model");
  return { whole, by: ticked ? "timestamps" : "wall", steps: parts.map(({ step }, k) => stepTime(step, ms[k] as number)) };
}

/** @throws RuntimeFault "bad-option" */
function entryNamed(plan: Plan, name: string, batch: number): string {
  const found = [name, `${name}@${batch}`].find((n) => plan.entries[n]);
  if (!found) throw new RuntimeFault("bad-option", `the program has no entry "${name}"`, "entry", `one of ${Object.keys(plan.entries).join(", ")}`);
  return found;
}

function watching(trainer: Trainer, open: OpenDevice): Watch {
  let reason: string | undefined;
  void open.lost.then((info) => { reason = info.message || info.reason; });
  return {
    program: trainer.program,
    alive: () => { if (reason !== undefined || open.isGone()) throw new RuntimeFault("device-lost", `the GPU device was lost while a kernel was measured: ${reason ?? "closed"}`, open.name, "try a smaller batch"); },
  };
}

/** Steps of this size leave weights as they are to the bit, however often an update is measured. */
const STANDSTILL = 1e-12;

/** Gives the knobs of a step, and what `step` does not write: weights of examples, and vectors to multiply with. */
function fillInputs({ artifact, program, run, state }: Trainer, batch: number): void {
  program.writeRun({ ...run, lr: STANDSTILL, count: batch, keep: 0, emaBlend: 1 - run.emaDecay, scaleBlend: 1 - run.emaDecay, correction1: 1, correction2: 1, seed: state.seed, step: state.stepCount });
  const own = new Set([...artifact.inputs, ...(artifact.targets ?? [artifact.target])].map((t) => `${t.name}@${batch}`));
  for (const b of program.plan.buffers)
    if (b.kind === "input" && b.dtype === "f32" && b.name.endsWith(`@${batch}`) && !own.has(b.name)) program.write(b.name, new Float32Array(b.bytes / 4).fill(1));
}

/** Dispatches by the device's clock, copies (outside of passes) by the host's. */
async function timed(watch: Watch, parts: readonly StepPart[], repeat: number, cost: number): Promise<number[] | undefined> {
  const ms = await timestamps(watch, parts.flatMap(({ step, run }) => ("kernel" in step ? [run] : [])), repeat);
  if (!ms) return undefined;
  const made: number[] = [];
  for (const { step, run } of parts) made.push("kernel" in step ? (ms.shift() as number) : await together(watch, [run], repeat, cost));
  return made;
}

function stepTime(step: PlanStep, ms: number): StepTime {
  if ("kernel" in step) return { kernel: step.kernel, values: step.values, workgroups: step.workgroups, work: step.work, ms };
  return { kernel: undefined, values: [step.value], workgroups: [], work: { flops: 0, bytes: 2 * step.bytes }, ms };
}

/** Of the buffers with names that the entry writes. Scratch may hold whole numbers, whose bits can be those of a NaN. */
async function nonFinite({ program }: Trainer, entry: PlanEntry): Promise<string[]> {
  const { plan } = program;
  const named = [...new Set(entry.steps.flatMap((s) => writes(plan, s).map((b) => plan.buffers[b]?.name as string)))].filter((n) => program.buffer(n).info.kind !== "slot" && program.buffer(n).info.dtype === "f32");
  const bad: string[] = [];
  for (const name of named) {
    const [values] = await program.read([name]);
    if (values?.some((v) => !Number.isFinite(v))) bad.push(name);
  }
  return bad;
}
