/**
 * `kfacc verify`: every registered layer against exact float64 quantities from the graph as it was imported.
 *
 * Rows come from probing the nodes that use a weight (probe.ts), cotangents one example at a time, Fisher vectors from plain loops
 * (loss.ts), factors from their definitions (factors.ts); of the compiler only what is to be checked is used.
 */
import { CompileError } from "../../ir/error.js";
import type { Value } from "../../ir/graph.js";
import type { NdArray } from "../../ir/ndarray.js";
import type { OpenDevice } from "../../runtime/device.js";
import { compile, type Compiled, type CompileOptions, type ForwardModel } from "../compile.js";
import { plainParams } from "../train/step-model.js";
import { Claims } from "./claims.js";
import { randomInputs } from "./data.js";
import { deviceChecks, type DeviceState, stepOnDevice } from "./device.js";
import { gradientCheck } from "./gradient.js";
import { checkLayer, EXACT, makePasses, type Passes, programStatistics } from "./layers.js";
import { type Check, compared, held, type LayerReport, type OrphanReport, skipped, verdictOf, type VerifyReport } from "./report.js";
import { lossNames, makeScene, meanLoss, type Scene } from "./scene.js";
import { relativeError, secondsOf } from "./values.js";

export interface VerifyOptions {
  readonly compile: CompileOptions;
  readonly batch: number;
  readonly seed: number;
  /** Of one batch, by name; default: random. */
  readonly inputs?: Readonly<Record<string, NdArray>>;
  /** By target name; default: drawn from the model's own distribution. */
  readonly targets?: Readonly<Record<string, NdArray>>;
  /** Where the program is run once; without it those checks are left out. */
  readonly device?: OpenDevice;
  /** Float64 work that is not begun, in seconds of a slow machine. */
  readonly budget?: number;
  /** Why no device is given. */
  readonly withoutDevice?: string;
  /** Changes the compiled program before it is checked: for tests of the checks. */
  readonly sabotage?: (compiled: Compiled) => Compiled;
}

const BUDGET = 600;

/**
 * @param forward the model for a batch size
 * @throws CompileError for what compiling throws; "too-large" if the work in float64 is beyond the budget.
 */
export async function verifyModel(forward: (batch: number) => ForwardModel, options: VerifyOptions): Promise<VerifyReport> {
  const source = forward(options.batch);
  const made = compile(forward, { ...options.compile, batches: [options.batch] });
  const compiled = options.sabotage?.(made) ?? made;
  const inputs = { ...randomInputs(source.graph, options.seed), ...options.inputs };
  requireAffordable(compiled, source, options);
  const s = makeScene(source, compiled, inputs, options.targets, options.seed);
  const notes = [...made.notes];
  if (s.moved.length > 0) notes.push(`random numbers were added to parameters whose numbers are all equal, which hide errors: ${s.moved.slice(0, 4).join(", ")}${s.moved.length > 4 ? ` and ${s.moved.length - 4} more` : ""}`);
  const { model } = compiled;
  const claims = new Claims(model, s.named, s.heads.map((h) => h.head.loss.z));
  const passes = makePasses(s, claims, options.seed + 11);
  const statistics = model.registration.layers.length > 0 ? programStatistics(s) : undefined;
  const state = options.device && (await stepOnDevice(options.device, s));
  if (!state && options.withoutDevice) notes.push(`no device: ${options.withoutDevice}; nothing was checked on one`);
  const gradients = totals(s, passes);
  const differences = { graph: source.graph, forward: s.oracle.forward, roots: s.heads.map((h) => h.z), loss: (z: ReadonlyMap<Value, NdArray>) => meanLoss(s, z) };
  const slope = (p: Value, name: string, k: number): Check => gradientCheck(differences, p, gradients.get(p) as NdArray, options.seed + 101 + k, name);

  const layers = model.registration.layers.map((layer, k): LayerReport => {
    const { checks, exact } = checkLayer(s, claims, passes, statistics, layer, options.seed + 1000 * (k + 1));
    for (const [param, name] of [[layer.weight.param.name, "weight"], [layer.bias?.param.name, "bias"]] as const) {
      const p = param === undefined ? undefined : s.oracle.param(param);
      if (p) checks.push(slope(p, `differences ${name}`, 2 * k + (name === "bias" ? 1 : 0)));
    }
    if (state) checks.push(...deviceChecks(s, state, exact, model.inverse));
    return { name: layer.name, kind: layer.kind, T: layer.T, groups: layer.groups, dA: layer.dA, dG: layer.dG, sites: layer.sites.length, checks, verdict: verdictOf(checks) };
  });
  const orphans = model.registration.orphans.map((o, k): OrphanReport => {
    const checks = orphanChecks(s, state, gradients, o.param, (p) => slope(p, "differences", 500 + k));
    return { ...o, checks, verdict: verdictOf(checks) };
  });
  const checks = [coverage(s), forwardCheck(s, claims)];
  const passed = [...layers, ...orphans].every((r) => r.verdict !== "failed") && checks.every((c) => c.verdict !== "failed");
  return {
    model: source.name, loss: lossNames(s), fisher: model.fisher.kind, inverse: model.inverse, batch: options.batch, seed: options.seed,
    device: state && options.device ? `${options.device.name} (${options.device.kind})` : null, layers, orphans, checks, notes, passed,
  };
}

/** Mean gradients of all parameters. */
function totals(s: Scene, passes: Passes): Map<Value, NdArray> {
  return new Map(s.oracle.params.map((p) => {
    const parts = passes.gradients.map(({ exact }) => exact.get(p) as NdArray);
    const first = parts[0] as NdArray;
    return [p, { ...first, data: first.data.map((_, k) => parts.reduce((sum, a) => sum + (a.data[k] as number), 0) / s.examples) }] as const;
  }));
}

function orphanChecks(s: Scene, state: DeviceState | undefined, gradients: ReadonlyMap<Value, NdArray>, name: string, slope: (p: Value) => Check): Check[] {
  const p = s.oracle.param(name);
  if (!p) return [held("parameter", false, "the imported graph has no such trainable parameter")];
  const checks = [slope(p)];
  const sum = state?.read.get(`grad/${name}`);
  if (sum) checks.push(compared("gpu gradient", relativeError(sum.map((x) => x / s.examples), (gradients.get(p) as NdArray).data), 1e-4));
  else if (state && plainParams(s.compiled.model).some((q) => q.name === name)) checks.push(skipped("gpu gradient", `the program keeps no "grad/${name}"`));
  return checks;
}

/** Every trainable parameter is in a layer or an orphan, no two layers share an element, and every use is some site's. */
function coverage(s: Scene): Check {
  const { layers, orphans } = s.compiled.model.registration;
  const orphaned = new Set(orphans.map((o) => o.param));
  for (const p of s.oracle.params) {
    const mine = layers.filter((l) => l.weight.param.name === p.name);
    const biased = layers.filter((l) => l.bias?.param.name === p.name);
    if (orphaned.has(p.name)) {
      if (mine.length + biased.length > 0) return held("coverage", false, `"${p.name}" is in a layer and without one`);
      continue;
    }
    if (mine.length + biased.length === 0) return held("coverage", false, `"${p.name}" is in no layer and not listed`);
    if (mine.length > 0 && biased.length > 0) return held("coverage", false, `"${p.name}" is weight and bias`);
    if (mine.length > 0) {
      const uses = s.oracle.uses(p);
      const stray = uses.find((u) => !s.oracle.sites(p).some((q) => q === u || (q.node !== u.node && u.role === "weight")));
      if (stray) return held("coverage", false, `"${p.name}" is also used in ${stray.node.origin ?? stray.node.op}`);
      const sites = mine.reduce((n, l) => n + l.sites.length, 0);
      if (sites !== s.oracle.sites(p).length) return held("coverage", false, `"${p.name}" has ${s.oracle.sites(p).length} uses, ${sites} of them claimed`);
    } else {
      const claimed = biased.reduce((n, l) => n + l.sites.filter((t) => t.ones).length, 0);
      if (claimed !== s.oracle.uses(p).length) return held("coverage", false, `bias "${p.name}" is added at ${s.oracle.uses(p).length} places, ${claimed} of them claimed`);
    }
  }
  return held("coverage", true, `every use of ${s.oracle.params.length} trainable parameters is claimed once, or its parameter is listed`);
}

/** The canonical graph computes what the imported one does. */
function forwardCheck(s: Scene, claims: Claims): Check {
  const error = Math.max(...s.heads.map((h) => {
    const got = claims.value(h.head.loss.z);
    return got ? relativeError(got.data, s.oracle.z(h).data) : Number.POSITIVE_INFINITY;
  }));
  return compared("outputs", error, EXACT, "of the canonical graph against the imported one");
}

function requireAffordable(compiled: Compiled, source: ForwardModel, { batch, budget = BUDGET }: VerifyOptions): void {
  const pass = secondsOf(source.graph.nodes);
  const { fisher, registration } = compiled.model;
  const columns = fisher.kind === "exact" ? compiled.model.heads.reduce((n, h) => n + h.loss.z.type.shape.slice(1).reduce((p, d) => p * d, 1), 0) : 1;
  // backward costs two passes; a difference two of a part of the graph; probing a layer a few of its node
  const passes = 2 * (columns + 2 * (batch + 1)) + 4 * compiled.model.graph.params.length + 10;
  const products = registration.layers.reduce((n, l) => n + batch * l.T * (l.dA ** 2 + columns * l.dG ** 2 + 4 * l.dA * l.dG), 0) * 2e-9;
  const statistics = secondsOf(compiled.graphs.get(`gradients.stats@${batch}`)?.nodes ?? []);
  const total = pass * passes + products + statistics;
  if (total > budget)
    throw new CompileError("too-large", `exact checks of this model in float64 would take about ${Math.ceil(total / 60)} minutes`, source.name,
      `make it smaller: --batch 2${fisher.kind === "exact" ? ", --fisher mc" : ""}, --shape INPUT=… with smaller images, --register for some kinds only, or --output for a part`);
}
