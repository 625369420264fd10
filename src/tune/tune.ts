/** Measures schedules of every contraction of a program on a device, and takes the fastest that computes what the first one does. */
import { canonicalize } from "../../codegen/canonical.js";
import type { Buffer, ChosenSchedule, ContractSpec, Limits, Lowered } from "../../codegen/kernel.js";
import { candidates, lowerContract } from "../../codegen/kernels/contract/index.js";
import { CompileError } from "../../ir/error.js";
import { philox } from "../../runtime/batches.js";
import type { OpenDevice } from "../../runtime/device.js";
import type { Compiled } from "../compile.js";
import { type Loaded, load, race } from "./measure.js";

export interface Tuned {
  readonly key: string;
  readonly label: string;
  /** `rows` × `columns` … as sizes of the result and, behind it, the reduction. */
  readonly shape: string;
  /** Dispatches of the program that it stands for. */
  readonly uses: number;
  /** Milliseconds as the rules would have it, and as chosen. */
  readonly before: number;
  readonly after: number;
  readonly tried: number;
  /** Schedules whose result was another, or which the device refused. */
  readonly wrong: number;
  /** undefined: the rules' own choice is the fastest. */
  readonly chosen: ChosenSchedule | undefined;
}

/** Candidates per family. */
const MOST = 4;
/** Share of the heaviest contraction's work below which another is left as it is. */
const WORTH = 0.01;
/** A choice must gain this much: less is noise. */
const GAIN = 0.97;
/** Largest relative difference in norm that another order of summation explains: √(longest sum) · ε, amplified by what is fused behind. */
const SAME = 1e-3;

/** @param onEach is told each result as it comes. */
export async function tune(open: OpenDevice, compiled: Compiled, limits: Limits, onEach: (t: Tuned, done: number, total: number) => void = () => {}): Promise<readonly Tuned[]> {
  const all = [...contractions(compiled)].map(([key, c]) => ({ key, ...c, work: c.uses * workOf(c.spec) })).sort((a, b) => b.work - a.work || (a.key < b.key ? -1 : 1));
  const worth = all.filter((c) => c.work >= WORTH * (all[0]?.work ?? 0));
  const done: Tuned[] = [];
  for (const { key, spec, uses } of worth) {
    const made = { ...(await tuneOne(open, key, spec, limits)), uses };
    done.push(made);
    onEach(made, done.length, worth.length);
  }
  return done;
}

/** The program's distinct contractions, as often as each is used. */
export function contractions({ planned }: Compiled): Map<string, { readonly spec: ContractSpec; readonly uses: number }> {
  const found = new Map<string, { spec: ContractSpec; uses: number }>();
  for (const { work } of planned.lowered.values()) {
    for (const spec of work.flatMap((w) => w.specs)) {
      if (spec.kind !== "contract") continue;
      const { key, spec: canonical } = canonicalize(spec);
      const known = found.get(key);
      if (known) known.uses++;
      else if (canonical.kind === "contract") found.set(key, { spec: canonical, uses: 1 });
    }
  }
  return found;
}

const workOf = (spec: ContractSpec): number => [...spec.output, ...spec.reduction].reduce((n, axis) => n * axis.size, spec.symmetric?.length ? 0.5 : 1);

async function tuneOne(open: OpenDevice, key: string, spec: ContractSpec, limits: Limits): Promise<Omit<Tuned, "uses">> {
  const { schedules: _, ...plain } = limits;
  const as = (chosen: ChosenSchedule): Lowered => lowerContract(spec, { ...plain, schedules: new Map([[key, chosen]]) });
  const text = (l: Lowered) => l.kernels.map((k) => k.wgsl.slice(k.wgsl.indexOf("\n"))).join();
  const first = lowerContract(spec, plain);
  const others = new Map<string, { lowered: Lowered; chosen: ChosenSchedule }>();
  for (const chosen of candidates(spec, plain, MOST)) {
    const lowered = as(chosen);
    if (text(lowered) !== text(first)) others.set(text(lowered), { lowered, chosen });
  }
  const list: readonly { readonly lowered: Lowered; readonly chosen: ChosenSchedule | undefined }[] = [{ lowered: first, chosen: undefined }, ...others.values()];
  const data = dataFor(first);
  const outputs = [...new Map(first.kernels.flatMap((k) => k.bindings.flatMap((b) => (b.kind === "buffer" && b.access === "read_write" && !first.scratch.includes(b.buffer) ? [[b.buffer.name, b.buffer] as const] : [])))).values()];
  const right: { readonly loaded: Loaded; readonly chosen: ChosenSchedule | undefined }[] = [];
  let want: readonly Uint32Array[] | undefined;
  try {
    for (const { lowered, chosen } of list) {
      const loaded = await load(open, lowered, data);
      const got = await loaded?.results(outputs);
      if (!loaded || !got) continue;
      want ??= got;
      if (same(got, want, outputs)) right.push({ loaded, chosen });
      else loaded.free();
    }
    const [fastest, before] = [{ at: 0, time: Infinity }, right[0]];
    if (!before || before.chosen !== undefined) throw new CompileError("internal", "the device refuses the kernels that the rules choose", `contraction "${spec.label}"`);
    const times = await race(right.map((r) => r.loaded));
    times.forEach((time, at) => { if (time < fastest.time) Object.assign(fastest, { at, time }); });
    const taken = fastest.time < GAIN * (times[0] as number) ? fastest : { at: 0, time: times[0] as number };
    const shape = [spec.output, spec.reduction].map((axes) => axes.map((axis) => axis.size).filter((n) => n > 1).join("×") || "1").join(" Σ ");
    return { key, label: spec.label, shape, before: times[0] as number, after: taken.time, tried: list.length, wrong: list.length - right.length, chosen: right[taken.at]?.chosen };
  } finally {
    for (const { loaded } of right) loaded.free();
  }
}

/** Seeded numbers in [−½, ½) for floats, 0 and 1 for whole ones: indices stay inside whatever they index. */
function dataFor({ kernels, scratch }: Lowered): Map<string, Float32Array | Uint32Array> {
  const buffers = kernels.flatMap((k) => k.bindings.flatMap((b) => (b.kind === "buffer" && !scratch.includes(b.buffer) ? [b.buffer] : [])));
  let draw = 0;
  let words: number[] = [];
  const next = (): number => {
    if (words.length === 0) words = philox([draw++, 0, 0, 0], [1, 0]);
    return ((words.pop() as number) >>> 8) * 2 ** -24;
  };
  const made = (b: Buffer) => (b.dtype === "f32" ? new Float32Array(b.elements).map(() => next() - 0.5) : new Uint32Array(b.elements).map(() => (next() < 0.5 ? 0 : 1)));
  return new Map([...new Map(buffers.map((b) => [b.name, b])).values()].map((b) => [b.name, made(b)]));
}

/** Whether results differ by no more than the order of their sums explains. What is no number must be none in both. */
function same(got: readonly Uint32Array[], want: readonly Uint32Array[], outputs: readonly Buffer[]): boolean {
  return outputs.every((buffer, i) => {
    const [a, b] = [got[i] as Uint32Array, want[i] as Uint32Array];
    if (buffer.dtype !== "f32") return a.reduce((n, x, k) => n + Number(x !== b[k]), 0) <= SAME * a.length;
    const [x, y] = [new Float32Array(a.buffer), new Float32Array(b.buffer)];
    let [difference, norm] = [0, 0];
    for (let k = 0; k < x.length; k++) {
      const [p, q] = [x[k] as number, y[k] as number];
      if (Number.isFinite(p) !== Number.isFinite(q)) return false;
      if (!Number.isFinite(q)) continue;
      difference += (p - q) ** 2;
      norm += q * q;
    }
    return difference <= SAME ** 2 * norm;
  });
}
