/**
 * The entries of a training program as graphs over named state.
 *
 *   front[.stats]       forward, backward; gradients (and running factors) of one batch
 *   gradients[.stats]   the same, added to what earlier batches left; `absorb` then moves the statistics into the factors
 *   refresh             damped inverses of every layer
 *   back                precondition, norm constraint, update
 *   step                front and back in one graph where nothing can happen between them (SGD, Adam)
 *   evaluate, predict
 *
 * `.masked` variants take a weight per example (0 for the padding of a short batch).
 * State: parameters by their own names, grad/…, stat/…, kfac/…, opt/….
 */
import { Builder, broadcast, reshape, sumAll } from "../../ir/builder.js";
import { type ExampleAxis, exampleMarks, type Mark, requireExamples } from "../../ir/examples.js";
import { cotangents } from "../../ir/grad.js";
import { type Graph, type GraphResult, type Node, producers, type Value } from "../../ir/graph.js";
import { vmap } from "../../ir/vmap.js";
import * as factors from "../kfac/factors.js";
import { type FisherOptions, fisherColumns } from "../kfac/fisher.js";
import type { Layer, Registration } from "../kfac/layer.js";
import * as pre from "../kfac/precondition.js";
import { correct, derivative, type Loss, perExample, targetType } from "./loss.js";
import { adamUpdate, Knobs, momentumUpdate, type WeightDecayMode } from "./update.js";

export type OptimizerKind = "kfac" | "sgd" | "adam";

export interface StepModel {
  /** Canonical forward graph; `loss.z` and the layers' values are its own. */
  readonly graph: Graph;
  readonly loss: Loss;
  readonly registration: Registration;
  readonly optimizer: OptimizerKind;
  readonly fisher: FisherOptions;
  readonly weightDecayMode: WeightDecayMode;
  /** Where the examples of the graph's values are, where that is known better than the graph tells (one example fits many axes). */
  readonly marks?: ReadonlyMap<Value, Mark>;
}

export interface FrontForm {
  readonly stats: boolean;
  readonly masked: boolean;
  readonly accumulate: boolean;
}

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
  const covered = new Set(layersOf(m).flatMap((l) => [l.weight, ...(l.bias ? [l.bias] : [])]));
  return m.graph.params.filter((p) => p.trainable && !covered.has(p.value)).map((p) => p.value);
}

export const gradientSlot = (name: string): string => `grad/${name}`;
export const layerSlot = (layer: Layer, part: string): string => `kfac/${layer.name}/${part}`;

interface FrontResult {
  readonly lossSum: Value;
  /** Sum over examples, by slot: matrices for layers, tensors for plain parameters. */
  readonly gradients: ReadonlyMap<string, Value>;
  /** Sums over examples of A and G·N. */
  readonly stats: ReadonlyMap<Layer, { readonly A: Value; readonly G: Value }>;
}

function buildFront(b: Builder, m: StepModel, knobs: Knobs, { stats, masked }: FrontForm): FrontResult {
  const { loss } = m;
  const { emit } = b;
  const target = b.input("target", targetType(loss), 0);
  const n = loss.z.type.shape[0] as number;
  const weight = masked ? b.input("weight", { dtype: "f32", shape: [n] }, 0) : undefined;
  const zMark: ExampleAxis = { axis: 0, outer: 1, inner: 1 };
  const weigh = (v: Value, w: Value | undefined, mark: ExampleAxis) => (w ? factors.scaleExamples(b, v, w, mark) : v);

  const losses = perExample(b, loss, target);
  const lossSum = sumAll(emit, weight ? emit("mul", [losses, weight]) : losses);
  const raw = derivative(b, loss, target);
  const seed = weigh(raw, weight, zMark);
  const layers = layersOf(m);
  const plain = plainParams(m);
  const wanted = [...layers.map((l) => l.output.value), ...plain];

  const start = b.nodes.length;
  const cts = cotangents(b, new Map([[loss.z, seed]]), wanted);
  const backward = b.nodes.slice(start);
  const root = weight && stats ? emit("sqrt", [weight]) : undefined;
  const key = () => [knobs.get("seed"), knobs.get("step")] as const;
  const columns = stats && layers.length > 0
    ? (fisherColumns(b, loss, m.fisher, key) ?? (root ? { vectors: reshape(emit, raw, [1, ...raw.type.shape]), samples: 1 } : undefined))
    : undefined;

  // the gradient's cotangent and the Fisher's columns go back together
  const gradientOf = new Map<Value, Value>(cts);
  let fisherOf = (layer: Layer): Value | undefined => cts.get(layer.output.value);
  let samples = 1;
  if (columns) {
    samples = columns.samples;
    const vectors = weigh(columns.vectors, root, { ...zMark, axis: 1 });
    const stacked = emit("concat", [reshape(emit, seed, [1, ...seed.type.shape]), vectors], { axis: 0 });
    const map = vmap(emit, backward, new Map([[seed, stacked]]));
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
      const carries = v === seed || !node || (mark !== undefined && !("lost" in mark));
      const one = carries ? takeColumns(b, whole, 0, 1, true) : emit(node.op, node.inputs.map(first), node.attrs);
      made.set(v, one);
      return one;
    };
    for (const [v, ct] of cts) gradientOf.set(v, first(ct));
    const count = columns.vectors.type.shape[0] as number;
    fisherOf = (layer) => {
      const ct = cts.get(layer.output.value);
      const whole = ct && map.get(ct);
      return whole && takeColumns(b, whole, 1, count, false);
    };
  }

  const gradients = new Map<string, Value>();
  for (const layer of layers) {
    const ct = gradientOf.get(layer.output.value);
    if (ct) gradients.set(gradientSlot(layer.name), factors.gradientSum(b, layer, ct));
  }
  for (const p of plain) gradients.set(gradientSlot(p.name), gradientOf.get(p) ?? broadcast(emit, b.scalar(0), p.type.shape, []));

  const statistics = new Map<Layer, { A: Value; G: Value }>();
  if (stats) {
    const marks = m.marks ?? exampleMarks(m.graph, { sharedSums: true });
    const producer = producers(m.graph);
    const weightSum = weight && sumAll(emit, weight);
    for (const layer of layers) {
      const ct = fisherOf(layer);
      if (!ct) continue;
      const A = root && weightSum
        ? factors.weightedInputFactorSum(b, layer, factors.throughViews(b, layer.input.value, producer, (x) => factors.scaleExamples(b, x, root, requireExamples(marks, x))), root, requireExamples(marks, layer.input.value), weightSum)
        : factors.inputFactorSum(b, layer);
      statistics.set(layer, { A, G: factors.outputFactorSum(b, layer, ct, samples) });
    }
  }
  return { lossSum, gradients, stats: statistics };
}

function takeColumns(b: Builder, v: Value, start: number, count: number, squeeze: boolean): Value {
  const shape = v.type.shape;
  const cut = b.emit("slice", [v], { start: shape.map((_, k) => (k === 0 ? start : 0)), size: shape.map((n, k) => (k === 0 ? count : n)), stride: shape.map(() => 1) });
  return squeeze ? reshape(b.emit, cut, shape.slice(1)) : cut;
}

/** F + (S/count − F)·blend. */
function blended(b: Builder, knobs: Knobs, old: Value, sum: Value): Value {
  const mean = b.emit("div", [sum, knobs.over(sum, "count")]);
  return b.emit("add", [old, b.emit("mul", [b.emit("sub", [mean, old]), knobs.over(old, "emaBlend")])]);
}

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
  for (const [layer, { A, G }] of front.stats)
    for (const [part, sum] of [["A", A], ["G", G]] as const) {
      const slot = layerSlot(layer, part);
      if (form.accumulate) results[`stat/${layer.name}/${part}`] = added(`stat/${layer.name}/${part}`, sum);
      else results[slot] = blended(b, knobs, b.input(slot, sum.type), sum);
    }
  return finish(b, results);
}

/** Statistics that `gradients.stats` left become part of the running factors. */
export function absorbGraph(m: StepModel): Graph {
  const b = new Builder("absorb");
  const knobs = new Knobs(b);
  const results: Record<string, Value> = {};
  for (const layer of layersOf(m))
    for (const [part, d] of [["A", layer.dA], ["G", layer.dG]] as const) {
      const t = { dtype: "f32" as const, shape: [d, d] };
      const slot = layerSlot(layer, part);
      results[slot] = blended(b, knobs, b.input(slot, t), b.input(`stat/${layer.name}/${part}`, t));
    }
  return finish(b, results);
}

/** New inverses of all layers; `clean` [layers] says which were taken over, `pi` [layers] is for reports. */
export function refreshGraph(m: StepModel): Graph {
  const b = new Builder("refresh");
  const knobs = new Knobs(b);
  const results: Record<string, Value> = {};
  const clean: Value[] = [];
  const pis: Value[] = [];
  for (const layer of layersOf(m)) {
    const square = (part: string, d: number) => b.input(layerSlot(layer, part), { dtype: "f32", shape: [d, d] });
    const [rowsA, rowsG] = [pre.storedRows(layer.dA), pre.storedRows(layer.dG)];
    const scale = b.input(layerSlot(layer, "scale"), { dtype: "f32", shape: [1] });
    const lambda = b.emit("mul", [knobs.get("damping"), reshape(b.emit, scale, [])]);
    const made = pre.refreshed(b, square("A", layer.dA), square("G", layer.dG), square("Ainv", rowsA), square("Ginv", rowsG), lambda);
    results[layerSlot(layer, "Ainv")] = made.Ainv;
    results[layerSlot(layer, "Ginv")] = made.Ginv;
    clean.push(made.clean);
    pis.push(reshape(b.emit, made.pi, [1]));
  }
  results.clean = joined(b, clean);
  results.pi = joined(b, pis);
  return finish(b, results);
}

const joined = (b: Builder, list: readonly Value[]): Value => (list.length === 1 ? (list[0] as Value) : b.emit("concat", list, { axis: 0 }));

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
  const layers = layersOf(m);
  const directions = layers.map((layer) => {
    const [rowsA, rowsG] = [pre.storedRows(layer.dA), pre.storedRows(layer.dG)];
    const M = pre.padded(b, decay(mean(gradients(gradientSlot(layer.name), [layer.dG, layer.dA])), factors.asMatrix(b, layer)), rowsG, rowsA);
    const square = (part: string, d: number) => b.input(layerSlot(layer, part), { dtype: "f32", shape: [d, d] });
    const P = pre.preconditioned(b, M, square("Ainv", rowsA), square("Ginv", rowsG));
    return { layer, P, product: pre.inner(b, P, M) };
  });
  if (directions.length > 0) {
    const nu = pre.klScale(b, directions.map((d) => d.product), knobs.get("lr"), knobs.get("klClip"));
    results.nu = reshape(emit, nu, [1]);
    for (const { layer, P } of directions) {
      const parts = factors.fromMatrix(b, layer, P);
      const back = (view: Value, part: Value, param: Value) => (cotangents(b, new Map([[view, part]]), [param]).get(param) ?? part);
      apply(layer.weight, pre.scaled(b, back(layer.weightView, parts.weight, layer.weight), nu));
      if (layer.bias && layer.biasView && parts.bias) apply(layer.bias, pre.scaled(b, back(layer.biasView, parts.bias, layer.bias), nu));
    }
  }
  for (const p of plainParams(m)) apply(p, decay(mean(gradients(gradientSlot(p.name), p.type.shape)), p));
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
  const front = buildFront(b, m, knobs, { stats: false, masked, accumulate: false });
  const results = buildBack(b, m, knobs, (slot) => front.gradients.get(slot) as Value);
  return finish(b, { lossSum: front.lossSum, ...results });
}

/** Weighted sums of loss and of correct predictions over one batch, and the loss of each example. */
export function evaluateGraph(m: StepModel): Graph {
  const b = Builder.from(m.graph);
  const target = b.input("target", targetType(m.loss), 0);
  const losses = perExample(b, m.loss, target);
  const weight = b.input("weight", losses.type, 0);
  const total = (v: Value) => sumAll(b.emit, b.emit("mul", [v, weight]));
  const hits = correct(b, m.loss, target);
  return finish(b, { lossSum: total(losses), losses, ...(hits ? { correctSum: total(hits) } : {}) });
}

/** The model's own outputs. */
export function predictGraph(m: StepModel, outputs: readonly GraphResult[]): Graph {
  return prune({ ...m.graph, results: outputs.map((o) => ({ name: `out/${o.name}`, value: o.value })) });
}
