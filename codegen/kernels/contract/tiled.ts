/**
 * The schedule family for GPUs: tiles in workgroup memory, coalesced loads, 64 accumulators at most. Same problems, same epilogues as the
 * register tiles of the software adapters; what it does not take (few results, maxima in the store) stays with those.
 */
import type { Affine, Axis, Buffer, ContractSpec, Kernel, Limits, Lowered, Store } from "../../kernel.js";
import { freeBuffers } from "../../bindings.js";
import { epilogues, type Problem, problemOf } from "./problem.js";
import { emitTiled } from "./tiled-emit.js";
import { alternatives, isLegal, isWorthTiling, planTiling, type Tiling } from "./tiled-plan.js";
import { type Roles, rolesOf } from "./tiled-roles.js";

/** Lowers what this family leaves: second passes, which no longer split, and further sums that a spec asks for. */
export type LowerRest = (spec: ContractSpec, allowSplit: boolean) => Lowered;

/** Kernels with the given tiling, else the one that the rules choose; undefined where this family, or that tiling, is not for the problem. */
export function lowerTiled(spec: ContractSpec, limits: Limits, rest: LowerRest, chosen?: Tiling | undefined): Lowered | undefined {
  const apart = separated(spec);
  if (apart === undefined) return undefined;
  const problem = problemOf(apart.main, limits);
  const roles = rolesOf(problem, apart.main.stores);
  const tiling = roles && (chosen ?? (isWorthTiling(roles) ? planTiling(problem, roles) : undefined));
  if (!roles || !tiling || !isLegal(problem, roles, tiling)) return undefined;
  const main = lowerTiling(problem, roles, tiling, rest);
  const lowered = main ? [main, ...apart.sums.map((sum) => rest(sum, true))] : [];
  return main && { kernels: lowered.flatMap((l) => l.kernels), scratch: lowered.flatMap((l) => l.scratch) };
}

/** The product alone, and its further sums as contractions with ones; undefined where one's stores touch what the other reads. */
function separated(spec: ContractSpec): { readonly main: ContractSpec; readonly sums: readonly ContractSpec[] } | undefined {
  const { sums = [], ...main } = spec;
  if (spec.pool !== undefined) return undefined;
  const specs: ContractSpec[] = [];
  for (const { of, stores } of sums) {
    if (of === "none") return undefined;
    const moved = [of.address, ...of.bounds.map((b) => b.expr), ...of.quotients.map((q) => q.expr)];
    const output = spec.output.filter((axis) => moved.some((form) => form.by.has(axis)));
    specs.push({ kind: "contract", label: `${spec.label}, its sum of ${of.buffer.name}`, output, reduction: spec.reduction, left: of, right: "one", stores });
  }
  const [written, read] = [(s: ContractSpec) => freeBuffers(s.stores).stores, (s: ContractSpec) => [...boundBy(s)]];
  const clash = (a: ContractSpec, b: ContractSpec) => written(a).some((buffer) => read(b).includes(buffer));
  return specs.some((sum) => clash(main, sum) || clash(sum, main)) ? undefined : { main, sums: specs };
}

const boundBy = (spec: ContractSpec): Set<Buffer> => {
  const { loads, stores } = freeBuffers(epilogues(spec));
  return new Set([...[spec.left, spec.right].flatMap((side) => (side === "one" ? [] : [side.buffer])), ...loads, ...stores]);
};

function lowerTiling(problem: Problem, roles: Roles, tiling: Tiling, rest: LowerRest): Lowered | undefined {
  const { spec, limits } = problem;
  const tooMany = boundBy(spec).size > limits.storageBuffers;
  if (tiling.parts === 1 && !tooMany) return { kernels: [emitTiled(problem, roles, tiling, spec.stores, new Map())], scratch: [] };
  const { partials, store, second, splits } = partialSums(problem, roles, tiling);
  if (partials.elements * 4 > limits.bindingBytes) return undefined;
  const first = emitTiled({ ...problem, loaded: new Set(), stored: new Set([partials]) }, roles, tiling, [store], splits);
  const total = rest(second, false);
  const named = (kernel: Kernel, suffix: string): Kernel => ({ ...kernel, name: `${kernel.name}_${suffix}` });
  return { kernels: [named(first, "parts"), ...total.kernels.map((kernel) => named(kernel, "total"))], scratch: [partials, ...total.scratch] };
}

/** The buffer between two passes, [parts, outputs…] with rows padded to 4, its store, and the sum over it as a contraction. */
function partialSums({ spec, names, axes }: Problem, roles: Roles, tiling: Tiling) {
  const part: Axis = { name: names.includes("part") ? "part_of_sum" : "part", size: tiling.parts };
  const parts = part.size > 1 ? [part] : [];
  const innermost = axes[roles.columns.axes.at(-1) ?? -1];
  const row = [...spec.output.filter((axis) => axis !== innermost && axis.size > 1), ...(innermost ? [innermost] : [])];
  const by = new Map<Axis, number>();
  let stride = 1;
  for (const axis of [...parts, ...row].toReversed()) {
    by.set(axis, stride);
    stride = stride === 1 ? Math.ceil(axis.size / 4) * 4 : stride * axis.size;
  }
  const address: Affine = { at: 0, by };
  const partials: Buffer = { name: "partials", dtype: "f32", elements: stride };
  const store: Store = { buffer: partials, address, value: { kind: "acc", dtype: "f32" } };
  const second: ContractSpec = { ...spec, label: `${spec.label}, sum of parts`, reduction: parts, left: { buffer: partials, address, bounds: [], quotients: [], fill: 0 }, right: "one" };
  return { partials, store, second, splits: new Map(parts.map((axis) => [axis, axis.name])) };
}

/** The problem as this family sees it, where it is one for it. */
export function tiledProblem(spec: ContractSpec, limits: Limits): { readonly problem: Problem; readonly roles: Roles } | undefined {
  const apart = separated(spec);
  const problem = apart && problemOf(apart.main, limits);
  const roles = problem && rolesOf(problem, problem.spec.stores);
  return problem && roles && { problem, roles };
}

/** Tilings worth measuring: the rules' choice first, then other well-filled tiles, each as the rules would split it and with half and twice the parts. */
export function tilings(spec: ContractSpec, limits: Limits, most: number): readonly Tiling[] {
  const found = tiledProblem(spec, limits);
  const first = found && planTiling(found.problem, found.roles);
  if (!found || !first) return [];
  const key = (t: Tiling) => `${t.rows} ${t.columns} ${t.depth} ${t.parts}`;
  const others = alternatives(found.problem, found.roles, first);
  return [...new Map([first, ...others].map((t) => [key(t), t])).values()].slice(0, most);
}
