/**
 * The whole pipeline on one page:
 *
 *   forward graph → canonical → registered → entries (graphs over state) → canonical again → kernels, slots → artifact
 */
import { createHash } from "node:crypto";
import { checkPlan } from "../codegen/check.js";
import { planProgram, type EntryGraph, type Planned } from "../codegen/plan.js";
import { PORTABLE } from "../codegen/limits.js";
import type { ChosenSchedule, Limits, Target } from "../codegen/kernel.js";
import { CompileError } from "../ir/error.js";
import { type Graph, type GraphResult, isKnob, type Param, type Value } from "../ir/graph.js";
import { exampleMarks } from "../ir/examples.js";
import { runPasses, type Pass } from "../ir/pass.js";
import { AFTER_GRADIENTS, CANONICAL } from "../ir/passes/index.js";
import { size } from "../ir/type.js";
import { type Artifact, ARTIFACT_VERSION, type HostOptions, HOST_DEFAULTS, type OrphanInfo, type RunScalars, type TargetInfo, type TensorInfo } from "../runtime/artifact.js";
import { layerRefresh } from "../runtime/refresh.js";
import { type Fallback, withDiagonals } from "./kfac/diagonal.js";
import { columnCount, type FisherOptions } from "./kfac/fisher.js";
import { type LayerKindName, layerInfo, mapLayer, type Registration, type Sharing } from "./kfac/layer.js";
import { INVERSES, type InverseForm } from "./kfac/precondition.js";
import { register, requireNoOrphans } from "./kfac/register.js";
import { diagonalGraph, fvpGraph } from "./train/curvature.js";
import { type Head, type HeadSpec, pickHeads } from "./train/heads.js";
import { type LossKind, type LossSpec, lossName, targetType } from "./train/loss.js";
import { rebatched } from "./rebatch.js";
import { absorbGraph, backGraph, evaluateGraph, frontGraph, invertsOnDevice, layerRefreshGraph, predictGraph, refreshGraph, scaleGraph, stepGraph } from "./train/step.js";
import { exposeGraph, rowLayers, wholeGraph } from "./train/whole.js";
import { diagonalParams, type EvaluationModel, evaluationOf, type OptimizerKind, type StepModel } from "./train/step-model.js";
import type { WeightDecayMode } from "./train/update.js";

/** What a front end (ONNX, DSL, .kir) hands over. The graph has one shape; `forward(batch)` makes it for another batch size. */
export interface ForwardModel {
  readonly name: string;
  readonly graph: Graph;
  readonly outputs: readonly ModelOutput[];
  readonly weights: ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: Float32Array }>;
  /** The loss that the model's author named for the first output. */
  readonly loss?: LossSpec;
  /** Losses that the model's author named, by output. */
  readonly losses?: readonly HeadSpec[];
  /** Outputs as evaluation and prediction compute them, where that is another graph: no dropout, running statistics. Its parameters are among `weights`. */
  readonly evaluation?: Pick<ForwardModel, "graph" | "outputs">;
  /** What a training step writes into parameters that are not trained. */
  readonly updates?: readonly { readonly param: string; readonly value: Value }[];
}

export interface ModelOutput {
  readonly name: string;
  readonly value: Value;
  /** The output is this function of `logits`. */
  readonly head?: { readonly kind: "softmax" | "log-softmax" | "sigmoid"; readonly axis: number; readonly logits: Value };
}

export interface CompileOptions {
  /** Loss on the first output. */
  readonly loss?: LossKind;
  /** Losses on several outputs; goes before `loss`. */
  readonly losses?: readonly HeadSpec[];
  readonly optimizer: OptimizerKind;
  readonly batches: readonly number[];
  readonly fisher: FisherOptions;
  readonly weightDecayMode: WeightDecayMode;
  readonly register?: readonly LayerKindName[];
  readonly layerOverride?: Readonly<Record<string, "dense" | "skip">>;
  readonly maxFactor?: number;
  /** By layer name, `*` for all: positions of a shared weight. Default: the automatic rule of kfac/sharing.ts. */
  readonly sharing?: Readonly<Record<string, Sharing | "auto">>;
  /** How damping enters the inverse. Default "pi". */
  readonly inverse?: InverseForm;
  readonly strict?: boolean;
  /** What moves parameters without a layer: their gradient, or their gradient over a diagonal Fisher. Default "plain". */
  readonly fallback?: Fallback;
  /** Entries for the exact and the empirical Fisher's diagonal. Default false. */
  readonly fisherDiagonal?: boolean;
  readonly host?: Partial<HostOptions>;
  readonly run?: Partial<RunScalars>;
  readonly limits?: Limits;
  /** What kernels are shaped for: adapters that compute on the CPU (default), or GPUs. Both run on both. */
  readonly target?: Target;
  /** Schedules of contractions that were measured, by canonical key: of `kfacc compile --tune`. */
  readonly schedules?: ReadonlyMap<string, ChosenSchedule>;
  readonly verify?: boolean;
  /** Called after each pass with the stage's name (`forward`, or an entry's) and the graph. */
  readonly onPass?: (stage: string, pass: Pass, graph: Graph) => void;
}

export const COMPILE_DEFAULTS = {
  optimizer: "kfac", batches: [64], fisher: { kind: "mc", samples: 1 }, weightDecayMode: "l2",
} as const satisfies CompileOptions;

export interface Compiled {
  readonly artifact: Artifact;
  readonly sources: readonly string[];
  readonly weights: ForwardModel["weights"];
  readonly planned: Planned;
  /** Entry graphs as they were lowered, by entry name. */
  readonly graphs: ReadonlyMap<string, Graph>;
  readonly model: StepModel;
  readonly notes: readonly string[];
}

/** The limits that a program of these options is lowered with. */
export const limitsOf = ({ limits, target, schedules }: Pick<CompileOptions, "limits" | "target" | "schedules">): Limits =>
  ({ ...(limits ?? PORTABLE), ...(target ? { target } : {}), ...(schedules ? { schedules } : {}) });

const LOGITS = "·logits/";
const UPDATE = "·update/";

/**
 * @param forward makes the forward graph for a batch size; parameters must not depend on it.
 * @throws CompileError for anything the user can mend.
 */
export function compile(forward: (batch: number) => ForwardModel, options: CompileOptions): Compiled {
  if (options.host?.spreadInverses && options.inverse !== undefined && options.inverse !== "pi")
    throw new CompileError("bad-option", "eigenbases are made on the host, all at once: they cannot be spread over steps", "--spread-inverses", "leave it out, or use --inverse pi");
  const batches = [...new Set(options.batches)].sort((a, b) => b - a);
  const notes: string[] = [];
  const entries: EntryGraph[] = [];
  const graphs = new Map<string, Graph>();
  let first: { model: StepModel; source: ForwardModel } | undefined;
  for (const batch of batches) {
    const source = forward(batch);
    const model = prepareFor(forward, source, batch, options, notes);
    if (options.strict) requireNoOrphans(model.registration.orphans);
    first ??= { model, source };
    const mixed = mixingNode(model);
    if (mixed !== null && options.optimizer === "kfac" && options.fisher.kind === "exact")
      throw new CompileError("bad-option", "the exact Fisher is a sum over examples, which this model mixes", mixed, "use --fisher mc or empirical, or export the model for inference");
    if (mixed !== null && batch === batches[0]) notes.push(`the examples of a batch are mixed in ${mixed}: only whole batches of ${batch} are trained on${mixingNode(evaluationOf(model)) === null ? "" : " and evaluated"}, the rest is left out`);
    requireSameLayers(first.model, model, batches[0] as number, batch);
    const diagonal = (options.fisherDiagonal ?? false) && batch === batches[0];
    if (mixed !== null && diagonal) throw new CompileError("bad-option", "the Fisher's diagonal is a sum over examples, which this model mixes", mixed, "leave out --fisher-diagonal, or export the model for inference");
    for (const [name, graph] of entryGraphs(model, source, options, batch === batches[0], diagonal)) {
      const full = name.startsWith("=") ? name.slice(1) : `${name}@${batch}`;
      const done = runPasses(graph, AFTER_GRADIENTS, passOptions(options, full));
      graphs.set(full, done);
      entries.push({ name: full, graph: done, suffix: name.startsWith("=") ? "" : `@${batch}`, ...(name.startsWith("=refresh/") ? { apart: "kfac/refresh/" } : {}) });
    }
  }
  if (!first) throw new CompileError("bad-option", "no batch size given", "--batch", "e.g. --batch 64");
  const planned = planProgram(entries, stateNames(first.model, graphs), limitsOf(options));
  checkPlan(planned.plan, planned.lowered);
  const artifact = makeArtifact(first.model, first.source, options, batches, planned);
  return { artifact, sources: planned.sources, weights: first.source.weights, planned, graphs, model: first.model, notes };
}

/** Factors are state of all batch sizes. @throws CompileError "examples-lost" where another size is registered otherwise. */
function requireSameLayers(a: StepModel, b: StepModel, large: number, small: number): void {
  const key = (m: StepModel): string => [...m.registration.layers.map((l) => `${l.name} ${l.bias?.param.name} ${l.sharing} ${l.groups} ${l.T} ${l.dA} ${l.dG}`), ...m.registration.orphans.map((o) => `${o.param} ${o.diagonal}`)].join();
  if (a.optimizer === "kfac" && key(a) !== key(b))
    throw new CompileError("examples-lost", `with ${small} example${small === 1 ? "" : "s"} the model has other layers than with ${large}`, undefined, `leave out the batch of ${small}: shorter batches are padded`);
}

const passOptions = (options: CompileOptions, stage: string) => ({
  ...(options.verify ? { verify: true } : {}),
  ...(options.onPass ? { after: (pass: Pass, graph: Graph) => options.onPass?.(stage, pass, graph) } : {}),
});

/** `prepare` for a batch size: a batch of one is told from two examples where that can be done. */
export const prepareFor = (forward: (batch: number) => ForwardModel, source: ForwardModel, batch: number, options: CompileOptions, notes: string[] = []): StepModel =>
  (batch === 1 ? prepareOne(forward, source, options, notes) : undefined) ?? prepare(source, options, notes);

/**
 * The node that mixes the examples of a batch (batch normalisation in training), or null. Then an example's loss depends on the others:
 * a batch cannot be padded, and the exact Fisher is not a sum over examples.
 */
function mixingNode(m: EvaluationModel): string | null {
  const marks = exampleMarks(m.graph);
  const mark = m.heads.map((h) => h.loss.z).filter((z) => (z.type.shape[0] ?? 0) > 1).map((z) => marks.get(z)).find((found) => found && "lost" in found);
  return mark && "lost" in mark ? (mark.lost.origin ?? mark.lost.op) : null;
}

/** Outputs and logits as named results of a canonical graph, and the heads on it. */
function canonicalForward(source: Pick<ForwardModel, "graph" | "outputs">, picked: readonly Head[], updates: NonNullable<ForwardModel["updates"]>, options: CompileOptions, stage: string): { graph: Graph; heads: readonly Head[]; result: (name: string) => Value } {
  const results: GraphResult[] = [
    ...source.outputs.map((o) => ({ name: o.name, value: o.value })),
    ...picked.map((h) => ({ name: LOGITS + h.output, value: h.loss.z })), ...updates.map((u) => ({ name: UPDATE + u.param, value: u.value })),
  ];
  const graph = runPasses({ ...source.graph, results }, CANONICAL, passOptions(options, stage));
  const result = (name: string): Value => graph.results.find((r) => r.name === name)?.value as Value;
  return { graph, result, heads: picked.map((h): Head => ({ ...h, loss: { ...h.loss, z: result(LOGITS + h.output) } })) };
}

/** The same losses on the model as evaluation computes it. */
function evaluationModel(source: ForwardModel, options: CompileOptions): { evaluation?: EvaluationModel } {
  const { evaluation } = source;
  if (!evaluation) return {};
  const picked = pickHeads({ ...source, ...evaluation }, lossesOf(options), []);
  const { graph, heads } = canonicalForward(evaluation, picked, [], options, "evaluation");
  return { evaluation: { graph, heads } };
}

const lossesOf = (options: CompileOptions): readonly HeadSpec[] | undefined => options.losses ?? (options.loss ? [{ kind: options.loss }] : undefined);

/** Canonical forward graph, loss and layers. */
export function prepare(source: ForwardModel, options: CompileOptions, notes: string[] = []): StepModel {
  const updates = source.updates ?? [];
  const { graph, heads, result } = canonicalForward(source, pickHeads(source, lossesOf(options), notes), updates, options, "forward");
  const found = register(graph, {
    ...(options.register ? { kinds: options.register } : {}),
    ...(options.layerOverride ? { override: options.layerOverride } : {}),
    ...(options.maxFactor === undefined ? {} : { maxFactor: options.maxFactor }),
    ...(options.sharing ? { sharing: options.sharing } : {}),
    maxBytes: (options.limits ?? PORTABLE).bindingBytes, roots: heads.map((h) => h.loss.z),
  });
  const registration = options.fallback === "diagonal" && options.optimizer === "kfac" ? withDiagonals(graph, heads.map((h) => h.loss.z), found) : found;
  if (!graph.params.some((p) => p.trainable)) throw new CompileError("bad-model", "the model has no trainable parameter", source.name, "check that its weights are initializers or Constant tensors");
  const written = updates.map((u) => ({ param: graph.params.find((p) => p.value.name === u.param)?.value as Value, value: result(UPDATE + u.param) }));
  return { graph, heads, ...evaluationModel(source, options), updates: written, registration, optimizer: options.optimizer, fisher: options.fisher, inverse: options.inverse ?? INVERSES[0], weightDecayMode: options.weightDecayMode };
}

/**
 * The model for a single example, made from the one for two: with one example the graph does not say which of its axes of size 1
 * carries them, nor that a bias is repeated. undefined where that cannot be: then the graph of one example has to do.
 */
function prepareOne(forward: (batch: number) => ForwardModel, one: ForwardModel, options: CompileOptions, notes: string[]): StepModel | undefined {
  const said: string[] = [];
  try {
    const two = prepare(forward(2), options, said);
    const { graph, values, marks } = rebatched(two.graph, 1);
    const of = (v: Value): Value => {
      const made = values.get(v);
      if (!made) throw new CompileError("examples-lost", `"${v.name}" has no counterpart`);
      return made;
    };
    const shapes = new Map(graph.results.map((r) => [r.name, r.value.type.shape.join()]));
    if (one.outputs.some((o) => shapes.get(o.name) !== o.value.type.shape.join())) return undefined;
    const layers = two.registration.layers.map((l) => mapLayer(l, of));
    notes.push(...said);
    return { ...two, ...evaluationModel(one, options), graph, marks, heads: two.heads.map((h) => ({ ...h, loss: { ...h.loss, z: of(h.loss.z) } })), updates: (two.updates ?? []).map((u) => ({ param: of(u.param), value: of(u.value) })), registration: { ...two.registration, layers } };
  } catch (e) {
    if (e instanceof CompileError && e.code === "examples-lost") return undefined;
    throw e;
  }
}

function* entryGraphs(m: StepModel, source: ForwardModel, options: CompileOptions, largest: boolean, diagonal: boolean): Generator<readonly [string, Graph]> {
  const outputs = evaluationOf(m).graph.results.filter((r) => source.outputs.some((o) => o.name === r.name));
  const kfac = m.optimizer === "kfac";
  const rows = rowLayers(m).length > 0;
  for (const masked of [false, true]) {
    const tail = masked ? ".masked" : "";
    if (!kfac) yield [`step${tail}`, stepGraph(m, masked)];
    for (const stats of kfac ? [false, true] : [false]) {
      const name = `${stats ? ".stats" : ""}${tail}`;
      const scaling = stats && m.inverse === "ekfac";
      if (kfac) yield [`front${name}`, frontGraph(m, { stats, scaling, masked, accumulate: false })];
      yield [`gradients${name}`, frontGraph(m, { stats, scaling, masked, accumulate: true })];
      // short batches are rare: they take the halves
      if (rows && !masked) yield [`step${name}`, wholeGraph(m, stats, masked)];
    }
    if (kfac && m.inverse === "ekfac" && m.registration.layers.some((l) => l.form === "kronecker")) yield [`scale${tail}`, scaleGraph(m, masked)];
  }
  if (rows) yield ["expose", exposeGraph(m)];
  // state does not depend on the batch: these exist once ("=" keeps their name bare)
  if (largest) {
    if (kfac && (m.registration.layers.length > 0 || diagonalParams(m).length > 0)) {
      yield ["=absorb", absorbGraph(m)];
      if (m.registration.layers.some((l) => invertsOnDevice(m, l))) yield ["=refresh", refreshGraph(m)];
      if (options.host?.spreadInverses) for (const layer of m.registration.layers) yield [`=${layerRefresh(layer.name)}`, layerRefreshGraph(m, layer)];
    }
    yield ["=back", backGraph(m)];
  }
  if (largest) {
    yield ["fvp", fvpGraph(m, "exact", { masked: true, ignored: true })];
    yield ["fvp.empirical", fvpGraph(m, "empirical", { masked: true, ignored: true })];
  }
  if (diagonal) {
    yield ["diagonal", diagonalGraph(m, "exact", { masked: true, ignored: true })];
    yield ["diagonal.empirical", diagonalGraph(m, "empirical", { masked: true, ignored: true })];
  }
  yield ["evaluate", evaluateGraph(m)];
  yield ["predict", predictGraph(m, outputs)];
}

/** Parameters of the training graph, and those that only evaluation reads (frozen running statistics). */
function paramsOf(m: StepModel): readonly Param[] {
  const own = new Set(m.graph.params.map((p) => p.value.name));
  return [...m.graph.params, ...evaluationOf(m).graph.params.filter((p) => !own.has(p.value.name))];
}

function stateNames(m: StepModel, graphs: ReadonlyMap<string, Graph>): Set<string> {
  const names = new Set(paramsOf(m).map((p) => p.value.name));
  for (const g of graphs.values())
    for (const name of [...g.inputs.map((i) => i.value.name), ...g.results.map((r) => r.name)])
      if (/^(grad|stat|kfac|opt|rows)\//.test(name)) names.add(name);
  return names;
}

export const orphanInfo = (r: Registration, optimizer: OptimizerKind): OrphanInfo[] =>
  r.orphans.map(({ param, reason, diagonal }) => ({ param, reason, update: diagonal ? "diagonal Fisher" : optimizer === "adam" ? "adam" : "sgd-momentum" }));

function tensorInfo(name: string, t: { dtype: string; shape: readonly number[] }, examples: number | undefined): TensorInfo & { examples: number | null } {
  return { name, dtype: t.dtype === "i32" ? "i32" : "f32", shape: t.shape.filter((_, k) => k !== examples), examples: examples ?? null };
}

/** What a program takes, known before anything is compiled: enough to open its data. */
export function signature(m: StepModel): Pick<Artifact, "inputs" | "target" | "targets" | "classes" | "loss"> {
  const targets = m.heads.map((h): TargetInfo => {
    const { name, dtype, shape } = tensorInfo(h.target, targetType(h.loss), 0);
    return { name, dtype, shape, output: h.output, classes: h.loss.kind === "softmax-ce" ? (h.loss.z.type.shape[h.loss.axis] as number) : null, loss: lossName(h.loss), weight: h.weight };
  });
  const first = targets[0] as TargetInfo;
  return {
    inputs: m.graph.inputs.filter((i) => !isKnob(i.value)).map((i) => tensorInfo(i.value.name, i.value.type, i.examples)),
    target: { name: first.name, dtype: first.dtype, shape: first.shape }, targets, classes: first.classes, loss: first.loss,
  };
}

function makeArtifact(m: StepModel, source: ForwardModel, options: CompileOptions, batches: readonly number[], planned: Planned): Artifact {
  const hash = createHash("sha256").update(JSON.stringify(planned.plan)).update(planned.sources.join("\0")).digest("hex").slice(0, 16);
  const host = { ...HOST_DEFAULTS, ...options.host };
  for (const [name, low] of [["factorPeriod", 1], ["inversePeriod", 1], ["burnIn", 0], ["readbackLag", 0]] as const)
    if (!Number.isInteger(host[name]) || host[name] < low) throw new CompileError("bad-option", `${name} must be a whole number ≥ ${low}, got ${host[name]}`);
  // an output that is one value for the whole batch (batch normalisation's statistics) has no axis of examples
  const marks = (m.evaluation ? undefined : m.marks) ?? exampleMarks(evaluationOf(m).graph, { sharedSums: true });
  const exampleAxis = (v: Value): number | undefined => (v.type.shape.length > 0 && marks.has(v) ? 0 : undefined);
  return {
    version: ARTIFACT_VERSION, name: source.name, hash, plan: planned.plan, batches,
    ...signature(m),
    outputs: evaluationOf(m).graph.results.filter((r) => !r.name.startsWith(LOGITS) && !r.name.startsWith(UPDATE)).map((r) => tensorInfo(r.name, r.value.type, exampleAxis(r.value))),
    params: paramsOf(m).map((p) => ({ name: p.value.name, shape: p.value.type.shape, dtype: "f32" as const, trainable: p.trainable, ...(m.updates?.some((u) => u.param === p.value) ? { updated: true } : {}) })),
    layers: m.registration.layers.map(layerInfo), orphans: orphanInfo(m.registration, m.optimizer),
    optimizer: m.optimizer, fisher: m.fisher, inverse: m.inverse, weightDecayMode: m.weightDecayMode, ...(options.target === "gpu" ? { compiledFor: "gpu" as const } : {}), mixes: mixingNode(m), evaluationMixes: mixingNode(evaluationOf(m)), host, run: options.run ?? {},
  };
}

/** One line per figure that `kfacc compile` prints. */
export function summary(c: Compiled): string[] {
  const { plan } = c.artifact;
  const batch = c.artifact.batches[0] as number;
  const count = (name: string) => plan.entries[name]?.steps.length ?? 0;
  const mb = (n: number) => `${(n / 1e6).toFixed(1)} MB`;
  const params = c.artifact.params.reduce((n, p) => n + size(p.shape), 0);
  const lines = [...(c.artifact.compiledFor === "gpu" ? ["kernels shaped for a GPU"] : []), `${params} parameters in ${c.artifact.layers.length} layers${c.artifact.orphans.length ? `, ${c.artifact.orphans.length} tensors without a layer` : ""}; batch ${c.artifact.batches.join(", ")}`,
    `${plan.kernels.length} kernels`];
  if (c.artifact.optimizer === "kfac") {
    const step = (stats: string) => count(`step${stats}@${batch}`) || count(`front${stats}@${batch}`) + count("back");
    lines.push(`dispatches per step: ${step("")} plain, ${step(".stats")} with statistics, +${count("refresh")} with new inverses`);
    const columns = columnCount(c.model.heads, c.model.fisher);
    if (columns > 64) lines.push(`the ${c.model.fisher.kind} Fisher sends ${columns} columns back per example: consider --fisher mc`);
  } else lines.push(`dispatches per step: ${count(`step@${batch}`)}`);
  lines.push(`memory ${mb(c.planned.memory.planned)} planned, ${mb(c.planned.memory.everyTensor)} if every tensor had its own buffer`);
  return lines;
}
