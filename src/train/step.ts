/**
 * The entries of a program as graphs over named state.
 *
 *   front[.stats]       forward, backward; gradient sums, with .stats the running curvature
 *   gradients[.stats]   the same, added to what earlier batches left: the seam for accumulation and several devices
 *   absorb              statistics of the accumulated batches become part of the running curvature
 *   refresh             damped inverses of every layer (eigenbases come from the host)
 *   scale               EKFAC: the scalings of a batch in new eigenbases
 *   back                precondition, norm constraint, update
 *   step                front and back in one graph where nothing can happen between them (SGD, Adam)
 *   evaluate, predict
 *
 * `.masked` variants take a weight per example (0 for the padding of a short batch).
 * State: parameters by their own names, grad/…, stat/…, kfac/…, opt/….
 * kfac/<param>/D is the diagonal Fisher of a parameter without a layer (src/kfac/diagonal.ts).
 */
import { Builder, broadcast, reshape, sumAll } from "../../ir/builder.js";
import { type ExampleAxis, exampleMarks, type Mark } from "../../ir/examples.js";
import { cotangents } from "../../ir/grad.js";
import { type Graph, type GraphResult, type Node, producers, type Value } from "../../ir/graph.js";
import { vmap } from "../../ir/vmap.js";
import { squareSums } from "../kfac/diagonal.js";
import * as factors from "../kfac/factors.js";
import { type FisherColumns, type FisherOptions, fisherColumns } from "../kfac/fisher.js";
import type { Layer, Registration, Site } from "../kfac/layer.js";
import * as pre from "../kfac/precondition.js";
import { type Head, headLosses, headSeeds, targetInputs, times } from "./heads.js";
import { correct, labelled } from "./loss.js";
import { adamUpdate, Knobs, momentumUpdate, type WeightDecayMode } from "./update.js";

export type OptimizerKind = "kfac" | "sgd" | "adam";

export interface StepModel {
  /** Canonical forward graph; the heads' `z` and the layers' values are its own. */
  readonly graph: Graph;
  readonly heads: readonly Head[];
  readonly registration: Registration;
  readonly optimizer: OptimizerKind;
  readonly fisher: FisherOptions;
  readonly inverse: pre.InverseForm;
  readonly weightDecayMode: WeightDecayMode;
  /** What a training step leaves in parameters that are not trained (running statistics of batch normalisation). */
  readonly updates?: readonly { readonly param: Value; readonly value: Value }[];
  /** Where the examples of the graph's values are, where that is known better than the graph tells (one example fits many axes). */
  readonly marks?: ReadonlyMap<Value, Mark>;
}

export interface FrontForm {
  /** Statistics for A, G and F. */
  readonly stats: boolean;
  /** EKFAC's scalings in the eigenbases of now. */
  readonly scaling: boolean;
  readonly masked: boolean;
  readonly accumulate: boolean;
}

const examplesOf = (m: StepModel): number => m.heads[0]?.loss.z.type.shape[0] as number;

const finish = (b: Builder, results: Readonly<Record<string, Value>>): Graph =>
  prune(b.finish(Object.entries(results).map(([name, value]): GraphResult => ({ name, value }))));

/** Drops nodes that no result needs, then parameters and inputs that no node and no result reads. */
export function prune(graph: Graph): Graph {
  const used = new Set<Value>(graph.results.map((r) => r.value));
  const kept: Node[] = [];
  for (const n of [...graph.nodes].reverse()) {
    if (!n.results.some((r) => used.has(r))) continue;
    for (const v of n.inputs) used.add(v);
    kept.push(n);
  }
  return { ...graph, nodes: kept.reverse(), params: graph.params.filter((p) => used.has(p.value)), inputs: graph.inputs.filter((i) => used.has(i.value)) };
}

/** Layers that take part in preconditioning: none for the baselines, which then treat every parameter alike. */
const layersOf = (m: StepModel): readonly Layer[] => (m.optimizer === "kfac" ? m.registration.layers : []);

/** Parameters without a layer, which the plain update trains. */
export function plainParams(m: StepModel): readonly Value[] {
  const covered = new Set(layersOf(m).flatMap((l) => [l.weight.param, ...(l.bias ? [l.bias.param] : [])]));
  return m.graph.params.filter((p) => p.trainable && !covered.has(p.value)).map((p) => p.value);
}

/** Those of them that a diagonal Fisher moves. */
export function diagonalParams(m: StepModel): readonly Value[] {
  const marked = new Set(m.registration.orphans.filter((o) => o.diagonal).map((o) => o.param));
  return m.optimizer === "kfac" ? plainParams(m).filter((p) => marked.has(p.name)) : [];
}

export const gradientSlot = (name: string): string => `grad/${name}`;
export const layerSlot = (layer: Layer, part: string): string => `kfac/${layer.name}/${part}`;
export const diagonalSlot = (param: Value): string => `kfac/${param.name}/D`;

interface FrontResult {
  readonly lossSum: Value;
  /** Sum over examples, by slot: matrices for layers, tensors for plain parameters. */
  readonly gradients: ReadonlyMap<string, Value>;
  /** Sums over examples of what a layer's curvature is made of, by layer and part (A, G, F, S). */
  readonly stats: ReadonlyMap<Layer, Readonly<Record<string, Value>>>;
  /** Sums over examples of squared gradients, of parameters with a diagonal Fisher. */
  readonly squares: ReadonlyMap<Value, Value>;
}

function buildFront(b: Builder, m: StepModel, knobs: Knobs, { stats, masked, scaling }: FrontForm): FrontResult {
  const { heads } = m;
  const { emit } = b;
  const targets = targetInputs(b, heads);
  const weight = masked ? b.input("weight", { dtype: "f32", shape: [examplesOf(m)] }, 0) : undefined;
  const zMark: ExampleAxis = { axis: 0, outer: 1, inner: 1 };
  const weigh = (v: Value, w: Value | undefined, mark: ExampleAxis) => (w ? factors.scaleExamples(b, v, w, mark) : v);

  const losses = headLosses(b, heads, targets).total;
  const lossSum = sumAll(emit, weight ? emit("mul", [losses, weight]) : losses);
  const raw = headSeeds(b, heads, targets);
  const seeds = new Map([...raw].map(([z, v]) => [z, weigh(v, weight, zMark)] as const));
  const layers = layersOf(m);
  const plain = plainParams(m);
  const sites = layers.flatMap((l) => l.sites);
  const wanted = [...sites.map((s) => s.output.value), ...plain];

  const start = b.nodes.length;
  const cts = cotangents(b, seeds, wanted);
  const backward = b.nodes.slice(start);
  const diagonal = stats ? diagonalParams(m) : [];
  const curved = ((stats || scaling) && layers.length > 0) || diagonal.length > 0;
  const root = weight && curved ? emit("sqrt", [weight]) : undefined;
  const key = () => [knobs.get("seed"), knobs.get("step")] as const;
  const own = (): FisherColumns => ({ vectors: new Map([...raw].map(([z, v]) => [z, reshape(emit, v, [1, ...v.type.shape])])), count: 1, samples: 1 });
  const columns = curved ? (fisherColumns(b, heads, m.fisher, key, targets) ?? (root ? own() : undefined)) : undefined;

  // the gradient's cotangent and the Fisher's columns go back together
  const gradientOf = new Map<Value, Value>(cts);
  let fisherOf = (site: Site): Value | undefined => cts.get(site.output.value);
  let samples = 1;
  let stackedOf: ((v: Value) => Value | undefined) | undefined;
  if (columns) {
    samples = columns.samples;
    const stacked = new Map([...seeds].map(([z, seed]) => {
      const vectors = weigh(columns.vectors.get(z) as Value, root, { ...zMark, axis: 1 });
      return [seed, emit("concat", [reshape(emit, seed, [1, ...seed.type.shape]), vectors], { axis: 0 })] as const;
    }));
    const map = vmap(emit, backward, stacked);
    const made = new Map<Value, Value>();
    const marks = exampleMarks(b.finish([]), { sharedSums: true });
    const producer = new Map(backward.flatMap((node) => node.results.map((r) => [r, node] as const)));
    // column 0 of what carries examples; what is parameter-shaped is made again from column 0 of its inputs
    const first = (v: Value): Value => {
      const whole = map.get(v);
      if (!whole) return v;
      const known = made.get(v);
      if (known) return known;
      const mark = marks.get(v);
      const node = producer.get(v);
      const carries = stacked.has(v) || !node || (mark !== undefined && !("lost" in mark));
      const one = carries ? takeColumns(b, whole, 0, 1, true) : emit(node.op, node.inputs.map(first), node.attrs);
      made.set(v, one);
      return one;
    };
    for (const [v, ct] of cts) gradientOf.set(v, first(ct));
    const { count } = columns;
    stackedOf = (v) => {
      const whole = map.get(v);
      return whole && takeColumns(b, whole, 1, count, false);
    };
    fisherOf = (site) => {
      const ct = cts.get(site.output.value);
      return ct && stackedOf?.(ct);
    };
  }

  const bySite = (layer: Layer, of: (site: Site) => Value | undefined): Map<Site, Value> =>
    new Map(layer.sites.flatMap((site) => {
      const ct = of(site);
      return ct ? [[site, ct] as const] : [];
    }));
  const gradients = new Map<string, Value>();
  for (const layer of layers) gradients.set(gradientSlot(layer.name), factors.gradientSum(b, layer, bySite(layer, (s) => gradientOf.get(s.output.value))));
  for (const p of plain) gradients.set(gradientSlot(p.name), gradientOf.get(p) ?? broadcast(emit, b.scalar(0), p.type.shape, []));

  const statistics = new Map<Layer, Readonly<Record<string, Value>>>();
  if (curved) {
    const scope: factors.Scope = {
      b, marks: m.marks ?? exampleMarks(m.graph, { sharedSums: true }), producer: producers(m.graph),
      ...(root && weight ? { weights: { root, sum: sumAll(emit, weight) } } : {}),
    };
    for (const layer of layers) {
      const columnsOf = bySite(layer, fisherOf);
      const sums = stats ? factors.curvatureSums(scope, layer, columnsOf, samples) : {};
      const basis = (side: "A" | "G") => (layer.sides[side] === "full" ? eigenbasis(b, layer, side) : undefined);
      const S = scaling && layer.form === "kronecker" ? factors.scalingSums(scope, layer, columnsOf, samples, basis("A"), basis("G")) : undefined;
      statistics.set(layer, { ...sums, ...(S ? { S } : {}) });
    }
  }
  const squares = new Map<Value, Value>();
  if (diagonal.length > 0) {
    const stacked = columns && stackedOf && { count: columns.count, of: stackedOf };
    for (const [p, sum] of squareSums(b, { nodes: backward, seeds: [...seeds.values()], cotangents: cts }, diagonal, stacked)) squares.set(p, times(b, sum, 1 / samples));
  }
  return { lossSum, gradients, stats: statistics, squares };
}

/** The eigenbasis of one side without the padding it is stored with. */
function eigenbasis(b: Builder, layer: Layer, side: "A" | "G"): Value {
  const stored = b.input(layerSlot(layer, `U${side}`), { dtype: "f32", shape: pre.inverseShape(layer, side) });
  const d = side === "A" ? layer.dA : layer.dG;
  const wanted = factors.matrixShape(layer, d, d);
  return stored.type.shape.every((n, k) => n === wanted[k]) ? stored : b.emit("slice", [stored], { start: wanted.map(() => 0), size: wanted, stride: wanted.map(() => 1) });
}

function takeColumns(b: Builder, v: Value, start: number, count: number, squeeze: boolean): Value {
  const shape = v.type.shape;
  const cut = b.emit("slice", [v], { start: shape.map((_, k) => (k === 0 ? start : 0)), size: shape.map((n, k) => (k === 0 ? count : n)), stride: shape.map(() => 1) });
  return squeeze ? reshape(b.emit, cut, shape.slice(1)) : cut;
}

/** F + (S/count − F)·blend. */
function blended(b: Builder, knobs: Knobs, old: Value, sum: Value, blend = "emaBlend"): Value {
  const mean = b.emit("div", [sum, knobs.over(sum, "count")]);
  return b.emit("add", [old, b.emit("mul", [b.emit("sub", [mean, old]), knobs.over(old, blend)])]);
}

/** A part of a layer's running curvature: its state's shape. Scalings are stored next to padded eigenbases. */
const partShape = (layer: Layer, part: string): number[] =>
  part === "F" ? factors.blockShape(layer) : part === "S" ? pre.storedShape(layer) : factors.factorShape(layer, part as "A" | "G");

function blendedPart(b: Builder, knobs: Knobs, layer: Layer, part: string, sum: Value): Value {
  const shape = partShape(layer, part);
  return blended(b, knobs, b.input(layerSlot(layer, part), { dtype: "f32", shape }), pre.padded(b, sum, shape), part === "S" ? "scaleBlend" : "emaBlend");
}

const blendedDiagonal = (b: Builder, knobs: Knobs, p: Value, sum: Value): Value => blended(b, knobs, b.input(diagonalSlot(p), p.type), sum);

/** `front` or, accumulating, `gradients`. */
export function frontGraph(m: StepModel, form: FrontForm): Graph {
  const b = Builder.from(m.graph);
  const knobs = new Knobs(b);
  const front = buildFront(b, m, knobs, form);
  const results: Record<string, Value> = { lossSum: front.lossSum };
  const added = (slot: string, sum: Value): Value => {
    if (!form.accumulate) return sum;
    const old = b.input(slot, sum.type);
    const zero = broadcast(b.emit, b.scalar(0), sum.type.shape, []);
    const keep = b.emit("gt", [knobs.over(sum, "keep"), zero]);
    return b.emit("add", [b.emit("select", [keep, old, zero]), sum]);
  };
  for (const [slot, sum] of front.gradients) results[slot] = added(slot, sum);
  for (const [layer, parts] of front.stats)
    for (const [part, sum] of Object.entries(parts)) {
      if (form.accumulate) results[`stat/${layer.name}/${part}`] = added(`stat/${layer.name}/${part}`, sum);
      else results[layerSlot(layer, part)] = blendedPart(b, knobs, layer, part, sum);
    }
  for (const [p, sum] of front.squares) {
    if (form.accumulate) results[`stat/${p.name}/D`] = added(`stat/${p.name}/D`, sum);
    else results[diagonalSlot(p)] = blendedDiagonal(b, knobs, p, sum);
  }
  for (const { param, value } of m.updates ?? []) results[param.name] = value;
  return finish(b, results);
}

/** EKFAC's scalings of one batch in the eigenbases of now. */
export function scaleGraph(m: StepModel, masked: boolean): Graph {
  const b = Builder.from(m.graph);
  const knobs = new Knobs(b);
  const front = buildFront(b, m, knobs, { stats: false, scaling: true, masked, accumulate: false });
  const results: Record<string, Value> = {};
  for (const [layer, { S }] of front.stats) if (S) results[layerSlot(layer, "S")] = blendedPart(b, knobs, layer, "S", S);
  return finish(b, results);
}

/** What a layer's running curvature consists of. */
const partsOf = (m: StepModel, layer: Layer): readonly string[] => (layer.form === "block" ? ["F"] : ["A", "G", ...(m.inverse === "ekfac" ? ["S"] : [])]);

/** Statistics that `gradients.stats` left become part of the running curvature. */
export function absorbGraph(m: StepModel): Graph {
  const b = new Builder("absorb");
  const knobs = new Knobs(b);
  const results: Record<string, Value> = {};
  for (const layer of layersOf(m))
    for (const part of partsOf(m, layer)) {
      const shape = part === "S" ? factors.matrixShape(layer) : partShape(layer, part);
      results[layerSlot(layer, part)] = blendedPart(b, knobs, layer, part, b.input(`stat/${layer.name}/${part}`, { dtype: "f32", shape }));
    }
  for (const p of diagonalParams(m)) results[diagonalSlot(p)] = blendedDiagonal(b, knobs, p, b.input(`stat/${p.name}/D`, p.type));
  return finish(b, results);
}

/** Whether the device makes a layer's inverse; else the host makes its eigenbases. */
export const invertsOnDevice = (m: Pick<StepModel, "inverse">, layer: Pick<Layer, "form">): boolean => m.inverse === "pi" || layer.form === "block";

/** New inverses of all layers; `clean` [layers] says which were taken over, `pi` [Σ groups] is for reports. */
export function refreshGraph(m: StepModel): Graph {
  const b = new Builder("refresh");
  const knobs = new Knobs(b);
  const results: Record<string, Value> = {};
  const clean: Value[] = [];
  const pis: Value[] = [];
  const one = (count: number) => broadcast(b.emit, b.scalar(1), [count], []);
  for (const layer of layersOf(m)) {
    const slot = (part: string, shape: readonly number[]) => b.input(layerSlot(layer, part), { dtype: "f32", shape });
    if (!invertsOnDevice(m, layer)) {
      clean.push(one(1));
      pis.push(one(layer.groups));
      continue;
    }
    const lambda = b.emit("mul", [knobs.get("damping"), reshape(b.emit, slot("scale", [1]), [])]);
    if (layer.form === "block") {
      const made = pre.refreshedBlock(b, layer, slot("F", factors.blockShape(layer)), slot("Finv", factors.blockShape(layer)), lambda);
      results[layerSlot(layer, "Finv")] = made.Finv;
      clean.push(made.clean);
      pis.push(one(layer.groups));
      continue;
    }
    const state = (side: "A" | "G") => slot(side, factors.factorShape(layer, side));
    const old = (side: "A" | "G") => slot(`${side}inv`, pre.inverseShape(layer, side));
    const made = pre.refreshed(b, layer, { A: state("A"), G: state("G") }, { A: old("A"), G: old("G") }, lambda);
    results[layerSlot(layer, "Ainv")] = made.Ainv;
    results[layerSlot(layer, "Ginv")] = made.Ginv;
    clean.push(made.clean);
    pis.push(made.pi);
  }
  results.clean = joined(b, clean);
  results.pi = joined(b, pis);
  return finish(b, results);
}

const joined = (b: Builder, list: readonly Value[]): Value => (list.length === 1 ? (list[0] as Value) : b.emit("concat", list, { axis: 0 }));

/** The preconditioned gradient of one layer; M and the result are of stored size. */
function directionOf(b: Builder, m: StepModel, knobs: Knobs, layer: Layer, M: Value): Value {
  const slot = (part: string, shape: readonly number[]) => b.input(layerSlot(layer, part), { dtype: "f32", shape });
  if (layer.form === "block") return pre.preconditionedBlock(b, layer, M, slot("Finv", factors.blockShape(layer)));
  const side = (part: string, s: "A" | "G") => slot(part, pre.inverseShape(layer, s));
  if (m.inverse === "pi") return pre.preconditioned(b, layer, M, side("Ainv", "A"), side("Ginv", "G"));
  const basis = (s: "A" | "G") => (layer.sides[s] === "full" ? side(`U${s}`, s) : undefined);
  const lambda = b.emit("mul", [knobs.get("damping"), reshape(b.emit, slot("scale", [1]), [])]);
  return pre.preconditionedEigen(b, layer, M, basis("A"), basis("G"), slot("S", pre.storedShape(layer)), lambda);
}

/** Directions and updates from gradient sums. */
function buildBack(b: Builder, m: StepModel, knobs: Knobs, gradients: (slot: string, shape: readonly number[]) => Value): Record<string, Value> {
  const { emit } = b;
  const results: Record<string, Value> = {};
  const decay = (gradient: Value, param: Value) =>
    m.weightDecayMode === "l2" ? emit("add", [gradient, emit("mul", [param, knobs.over(param, "weightDecay")])]) : gradient;
  const mean = (sum: Value) => emit("div", [sum, knobs.over(sum, "count")]);
  const apply = (param: Value, direction: Value) => {
    const update = m.optimizer === "adam" ? adamUpdate : momentumUpdate;
    const made = update(b, knobs, param, direction, m.weightDecayMode);
    results[param.name] = made.param;
    Object.assign(results, made.state);
  };
  const directions = layersOf(m).map((layer) => {
    const sum = gradients(gradientSlot(layer.name), factors.matrixShape(layer));
    const M = pre.padded(b, decay(mean(sum), factors.asMatrix(b, layer)), pre.storedShape(layer));
    const P = directionOf(b, m, knobs, layer, M);
    return { layer, P, product: pre.inner(b, P, M) };
  });
  const diagonals = diagonalParams(m).map((param) => {
    const M = decay(mean(gradients(gradientSlot(param.name), param.type.shape)), param);
    const P = pre.quotient(b, M, emit("add", [b.input(diagonalSlot(param), param.type), knobs.over(param, "damping")]));
    return { param, P, product: pre.inner(b, P, M) };
  });
  if (directions.length + diagonals.length > 0) {
    const nu = pre.klScale(b, [...directions, ...diagonals].map((d) => d.product), knobs.get("lr"), knobs.get("klClip"));
    results.nu = reshape(emit, nu, [1]);
    // parts of one parameter are layers apart: their directions are one tensor
    const moves = new Map<Value, Value[]>();
    const move = (param: Value, view: Value, part: Value) => {
      const whole = cotangents(b, new Map([[view, pre.scaled(b, part, nu)]]), [param]).get(param) as Value;
      moves.set(param, [...(moves.get(param) ?? []), whole]);
    };
    for (const { layer, P } of directions) {
      const parts = factors.fromMatrix(b, layer, P);
      move(layer.weight.param, layer.weight.view, parts.weight);
      if (layer.bias && parts.bias) move(layer.bias.param, layer.bias.view, parts.bias);
    }
    for (const [param, all] of moves) apply(param, all.reduce((x, y) => emit("add", [x, y])));
    for (const { param, P } of diagonals) apply(param, pre.scaled(b, P, nu));
  }
  const moved = new Set(diagonals.map((d) => d.param));
  for (const p of plainParams(m)) if (!moved.has(p)) apply(p, decay(mean(gradients(gradientSlot(p.name), p.type.shape)), p));
  return results;
}

export function backGraph(m: StepModel): Graph {
  const b = Builder.from(m.graph);
  const results = buildBack(b, m, new Knobs(b), (slot, shape) => b.input(slot, { dtype: "f32", shape }));
  return finish(b, results);
}

/** front and back in one: for optimisers where nothing may happen in between. */
export function stepGraph(m: StepModel, masked: boolean): Graph {
  const b = Builder.from(m.graph);
  const knobs = new Knobs(b);
  const front = buildFront(b, m, knobs, { stats: false, scaling: false, masked, accumulate: false });
  const results = buildBack(b, m, knobs, (slot) => front.gradients.get(slot) as Value);
  for (const { param, value } of m.updates ?? []) results[param.name] = value;
  return finish(b, { lossSum: front.lossSum, ...results });
}

/**
 * Weighted sums over one batch: the loss, each head's own loss where there are several, and correct predictions of the first head that
 * has classes next to what they are divided by; and the loss of each example.
 */
export function evaluateGraph(m: StepModel): Graph {
  const b = Builder.from(m.graph);
  const targets = targetInputs(b, m.heads);
  const { each, total: losses } = headLosses(b, m.heads, targets);
  const weight = b.input("weight", losses.type, 0);
  const total = (v: Value) => sumAll(b.emit, b.emit("mul", [v, weight]));
  const results: Record<string, Value> = { lossSum: total(losses), losses };
  if (m.heads.length > 1) for (const [head, l] of each) results[`lossSum/${head.output}`] = total(l);
  const classes = m.heads.find((h) => h.loss.kind === "softmax-ce");
  const target = classes && (targets.get(classes) as Value);
  const [hits, counted] = classes && target ? [correct(b, classes.loss, target), labelled(b, classes.loss, target)] : [];
  if (hits && counted) Object.assign(results, { correctSum: total(hits), labelledSum: total(counted) });
  return finish(b, results);
}

/** The model's own outputs. */
export function predictGraph(m: StepModel, outputs: readonly GraphResult[]): Graph {
  return prune({ ...m.graph, results: outputs.map((o) => ({ name: `out/${o.name}`, value: o.value })) });
}
