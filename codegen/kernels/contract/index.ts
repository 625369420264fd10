/**
 * The one generator of contractions: out[output] = epilogue(Σ_reduction left · right), for any affine operands.
 * search.ts chooses a schedule by counted cost, place.ts and terms.ts unroll it, emit.ts prints it.
 */
import { CompileError } from "../../../ir/error.js";
import { freeBuffers } from "../../bindings.js";
import { canonicalize } from "../../canonical.js";
import type { Affine, Axis, Buffer, ChosenSchedule, ContractSpec, Kernel, Limits, Lowered, Store } from "../../kernel.js";
import { MAX_SOURCE } from "../../limits.js";
import { emitKernel, laneAxis } from "./emit.js";
import { epilogues, type Problem, problemOf } from "./problem.js";
import { levelSize, type Schedule } from "./schedule.js";
import { Counter, costOf } from "./cost.js";
import { type Remembered, scheduleOf, search } from "./search.js";
import { lowerTiled, tilings } from "./tiled.js";

export type { Level, Schedule } from "./schedule.js";

/** The cheapest legal schedule and its estimated cost (arbitrary units, comparable between schedules of one spec). */
export function chooseSchedule(spec: ContractSpec, limits: Limits): { schedule: Schedule; cost: number } {
  return searchFor(problemOf(spec, limits)).best;
}

/**
 * Kernels that compute `spec`: one, or a first pass over a split reduction and a second one with the stores.
 *
 * @throws CompileError "too-large" if the stores alone need more storage buffers than a kernel may bind.
 * @param remembered searches of problems of equal shape, and this one when it returns
 */
export function lowerContract(spec: ContractSpec, limits: Limits, remembered: Remembered = new Map()): Lowered {
  const chosen = limits.schedules?.get(canonicalize(spec).key);
  if (chosen?.family === "rows") return lowerRowsAs(spec, limits, chosen, remembered);
  if (chosen?.family === "tiled" || limits.target === "gpu") {
    const rest = (inner: ContractSpec, allowSplit: boolean) => lowerProblem(problemOf(inner, limits), allowSplit, remembered);
    const tiled = lowerTiled(spec, limits, rest, chosen);
    if (tiled) return tiled;
    if (chosen) throw unfit(spec);
  }
  return lowerProblem(problemOf(spec, limits), true, remembered);
}

/** Register tiles as chosen. @throws CompileError "bad-data" where the choice is none for this contraction. */
function lowerRowsAs(spec: ContractSpec, limits: Limits, { tile, split }: ChosenSchedule & { family: "rows" }, remembered: Remembered): Lowered {
  const problem = problemOf(spec, limits);
  const fits = [tile, split].every((list) => list.length === problem.axes.length);
  const schedule = fits ? scheduleOf(problem, { tile, split }, bindsTooMany(problem)) : undefined;
  if (schedule === undefined || costOf(new Counter(problem), schedule).cost === Infinity) throw unfit(spec);
  return lowerWith(problem, schedule, remembered);
}

const unfit = (spec: ContractSpec): CompileError => new CompileError("bad-data", "a stored schedule does not fit its contraction", `contraction "${spec.label}"`, "measure again with kfacc compile --tune");

function lowerProblem(problem: Problem, allowSplit: boolean, remembered: Remembered): Lowered {
  for (const { schedule } of searchFor(problem, allowSplit, remembered).ranked) {
    const lowered = lowerWith(problem, schedule, remembered);
    if (lowered.kernels.every((kernel) => kernel.wgsl.length <= MAX_SOURCE)) return lowered;
  }
  throw new CompileError("too-large", "the epilogue does not fit into one kernel", `contraction "${problem.spec.label}"`);
}

function searchFor(problem: Problem, allowSplit = true, remembered: Remembered = new Map()) {
  const { spec, limits } = problem;
  const tooMany = bindsTooMany(problem);
  const beside = boundBy(spec, false);
  if (tooMany && (!allowSplit || beside + 1 > limits.storageBuffers)) {
    throw new CompileError("too-large", `needs ${beside} storage buffers beside its operands; the device binds ${limits.storageBuffers}`, `contraction "${spec.label}"`);
  }
  return search(problem, tooMany, allowSplit, remembered);
}

/** Storage buffers of one kernel that computes all of it, with or without the operands. */
function boundBy(spec: ContractSpec, operands: boolean): number {
  const free = freeBuffers(epilogues(spec));
  const sides = operands ? [spec.left, spec.right].flatMap((side) => (side === "one" ? [] : [side.buffer])) : [];
  return new Set([...sides, ...free.loads, ...free.stores]).size;
}

const bindsTooMany = ({ spec, limits }: Problem): boolean => boundBy(spec, true) > limits.storageBuffers;

/** What a measurement may choose from: the best schedules of each family by cost model or rules, `most` of the target's own. */
export function candidates(spec: ContractSpec, limits: Limits, most: number): readonly ChosenSchedule[] {
  const problem = problemOf(spec, limits);
  const gpu = limits.target === "gpu";
  const rows = searchFor(problem).ranked.slice(0, gpu ? Math.ceil(most / 2) : most).map(({ schedule }): ChosenSchedule => ({
    family: "rows",
    tile: problem.axes.map((axis) => levelSize(schedule, axis, "register", "unroll")),
    split: problem.axes.map((axis) => levelSize(schedule, axis, "split")),
  }));
  return [...rows, ...tilings(spec, limits, gpu ? most : 1).map((tiling): ChosenSchedule => ({ family: "tiled", ...tiling }))];
}

/** Lowers with a given schedule, for tests and measurements. */
export function lowerWith(problem: Problem, schedule: Schedule, remembered: Remembered = new Map()): Lowered {
  const { spec } = problem;
  if (!schedule.twoPass) return { kernels: [emitKernel(problem, schedule, { stores: spec.stores, sums: problem.sums.map((sum) => sum.stores), ...(spec.pool && { pool: spec.pool }) }, new Map())], scratch: [] };
  const { partials, store, sums, second, splits } = partialSums(problem, schedule);
  const summing = problem.sums.filter((sum) => sum.side !== undefined);
  const first = emitKernel({ ...problem, sums: summing, loaded: new Set(), stored: new Set([partials]) }, schedule, { stores: [store], sums: sums.map((s) => [s]) }, splits);
  const rest = lowerProblem(problemOf(second, problem.limits), false, remembered);
  return { kernels: [named(first, "parts"), ...rest.kernels.map((kernel) => named(kernel, "total"))], scratch: [partials, ...rest.scratch] };
}

const named = (kernel: Kernel, suffix: string): Kernel => ({ ...kernel, name: `${kernel.name}_${suffix}` });

/** The buffer between two passes, [splits…, outputs…] with rows padded to 4, its store, and the sum over it as a contraction. */
function partialSums(problem: Problem, schedule: Schedule) {
  const { spec } = problem;
  const parts: Axis[] = [];
  const splits = new Map<Axis, string>();
  for (const [a, axis] of problem.axes.entries()) {
    const size = levelSize(schedule, axis, "split");
    if (a < problem.outputs || size === 1) continue;
    const part = { name: `${problem.names[a]}_s`, size };
    parts.push(part);
    splits.set(part, part.name);
  }
  const innermost = problem.pairs.length === 0 ? laneAxis(problem, schedule, spec.stores) : undefined;
  const row = [...spec.output.filter((axis) => axis !== innermost && axis.size > 1), ...(innermost ? [innermost] : [])];
  const region = (axes: readonly Axis[], at: number) => {
    const by = new Map<Axis, number>();
    let stride = 1;
    for (const axis of [...parts, ...axes].toReversed()) {
      if (axis.size > 1) by.set(axis, stride);
      stride = stride === 1 ? Math.ceil(axis.size / 4) * 4 : stride * axis.size;
    }
    return { address: { at, by } satisfies Affine, end: at + Math.ceil(stride / 4) * 4 };
  };
  const main = region(row, 0);
  let end = main.end;
  const addresses = problem.sums.flatMap(({ side, absent }) => {
    if (side === undefined) return [];
    const made = region(spec.output.filter((axis, a) => axis.size > 1 && !absent.includes(a)), end);
    end = made.end;
    return [made.address];
  });
  const partials: Buffer = { name: "partials", dtype: "f32", elements: end };
  const store = (address: Affine): Store => ({ buffer: partials, address, value: { kind: "acc", dtype: "f32" } });
  const access = (address: Affine) => ({ buffer: partials, address, bounds: [], quotients: [], fill: 0 });
  let next = 0;
  const second: ContractSpec = {
    ...spec, label: `${spec.label}, sum of parts`, reduction: parts, left: access(main.address), right: "one",
    ...(spec.sums && { sums: spec.sums.map((sum) => (sum.of === "none" ? sum : { ...sum, of: access(addresses[next++] as Affine) })) }),
  };
  return { partials, store: store(main.address), sums: addresses.map(store), second, splits };
}
