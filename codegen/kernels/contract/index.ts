/**
 * The one generator of contractions: out[output] = epilogue(Σ_reduction left · right), for any affine operands.
 * search.ts chooses a schedule by counted cost, place.ts and terms.ts unroll it, emit.ts prints it.
 */
import { CompileError } from "../../../ir/error.js";
import { freeBuffers } from "../../bindings.js";
import type { Affine, Axis, Buffer, ContractSpec, Kernel, Limits, Lowered, Store } from "../../kernel.js";
import { MAX_SOURCE } from "../../limits.js";
import { emitKernel, laneAxis } from "./emit.js";
import { epilogues, type Problem, problemOf } from "./problem.js";
import { levelSize, type Schedule } from "./schedule.js";
import { search } from "./search.js";

export type { Level, Schedule } from "./schedule.js";

/** The cheapest legal schedule and its estimated cost (arbitrary units, comparable between schedules of one spec). */
export function chooseSchedule(spec: ContractSpec, limits: Limits): { schedule: Schedule; cost: number } {
  return searchFor(problemOf(spec, limits)).best;
}

/**
 * Kernels that compute `spec`: one, or a first pass over a split reduction and a second one with the stores.
 *
 * @throws CompileError "too-large" if the stores alone need more storage buffers than a kernel may bind.
 */
export function lowerContract(spec: ContractSpec, limits: Limits): Lowered {
  return lowerProblem(problemOf(spec, limits), true);
}

function lowerProblem(problem: Problem, allowSplit: boolean): Lowered {
  for (const { schedule } of searchFor(problem, allowSplit).ranked) {
    const lowered = lowerWith(problem, schedule);
    if (lowered.kernels.every((kernel) => kernel.wgsl.length <= MAX_SOURCE)) return lowered;
  }
  throw new CompileError("too-large", "the epilogue does not fit into one kernel", `contraction "${problem.spec.label}"`);
}

function searchFor(problem: Problem, allowSplit = true) {
  const { spec, limits } = problem;
  const operands = new Set([spec.left, spec.right].flatMap((side) => (side === "one" ? [] : [side.buffer])));
  const free = freeBuffers(epilogues(spec));
  const count = (buffers: readonly Buffer[]) => new Set([...buffers, ...free.loads, ...free.stores]).size;
  const tooMany = count([...operands]) > limits.storageBuffers;
  if (tooMany && (!allowSplit || count([]) + 1 > limits.storageBuffers)) {
    throw new CompileError("too-large", `needs ${count([])} storage buffers beside its operands; the device binds ${limits.storageBuffers}`, `contraction "${spec.label}"`);
  }
  return search(problem, tooMany, allowSplit);
}

/** Lowers with a given schedule, for tests and measurements. */
export function lowerWith(problem: Problem, schedule: Schedule): Lowered {
  const { spec } = problem;
  if (!schedule.twoPass) return { kernels: [emitKernel(problem, schedule, { stores: spec.stores, sums: problem.sums.map((sum) => sum.stores), ...(spec.pool && { pool: spec.pool }) }, new Map())], scratch: [] };
  const { partials, store, sums, second, splits } = partialSums(problem, schedule);
  const summing = problem.sums.filter((sum) => sum.side !== undefined);
  const first = emitKernel({ ...problem, sums: summing, loaded: new Set(), stored: new Set([partials]) }, schedule, { stores: [store], sums: sums.map((s) => [s]) }, splits);
  const rest = lowerProblem(problemOf(second, problem.limits), false);
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
