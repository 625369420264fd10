/**
 * The entries of a program as graphs over named state.
 *
 *   front[.stats]       forward, backward; gradient sums, with .stats the running curvature
 *   gradients[.stats]   the same, added to what earlier batches left: the seam for accumulation and several devices
 *   absorb              statistics of the accumulated batches become part of the running curvature
 *   refresh             damped inverses of every layer (eigenbases come from the host)
 *   refresh/<layer>     those of one, where they are spread over steps
 *   scale               EKFAC: the scalings of a batch in new eigenbases
 *   back                precondition, norm constraint, update
 *   step                front and back in one graph where nothing can happen between them (SGD, Adam; K-FAC: whole.ts)
 *   evaluate, predict
 *
 * `.masked` variants take a weight per example (0 for the padding of a short batch).
 * State: parameters by their own names, grad/…, stat/…, kfac/…, opt/….
 * kfac/<param>/D is the diagonal Fisher of a parameter without a layer (src/kfac/diagonal.ts).
 */
import { Builder, broadcast, reshape, sumAll } from "../../ir/builder.js";
import type { Graph, GraphResult, Value } from "../../ir/graph.js";
import { layerClean } from "../../runtime/refresh.js";
import type { Layer } from "../kfac/layer.js";
import * as matrices from "../kfac/matrices.js";
import * as pre from "../kfac/precondition.js";
import { buildBack } from "./back.js";
import { buildFront, type FrontForm, type FrontResult } from "./front.js";
import { headLosses, targetInputs } from "./heads.js";
import { inversesTogether } from "./inverses.js";
import { correct, labelled } from "./loss.js";
import { diagonalParams, diagonalSlot, evaluationOf, finish, layersOf, layerSlot, prune, type StepModel } from "./step-model.js";
import { Knobs } from "./update.js";

/** F + (S/count − F)·blend. */
function blended(b: Builder, knobs: Knobs, old: Value, sum: Value, blend = "emaBlend"): Value {
  const mean = b.emit("div", [sum, knobs.over(sum, "count")]);
  return b.emit("add", [old, b.emit("mul", [b.emit("sub", [mean, old]), knobs.over(old, blend)])]);
}

/** A part of a layer's running curvature: its state's shape. Scalings are stored next to padded eigenbases. */
const partShape = (layer: Layer, part: string): number[] =>
  part === "F" ? matrices.blockShape(layer) : part === "S" ? pre.storedShape(layer) : matrices.factorShape(layer, part as "A" | "G");

function blendedPart(b: Builder, knobs: Knobs, layer: Layer, part: string, sum: Value): Value {
  const shape = partShape(layer, part);
  return blended(b, knobs, b.input(layerSlot(layer, part), { dtype: "f32", shape }), pre.padded(b, sum, shape), part === "S" ? "scaleBlend" : "emaBlend");
}

const blendedDiagonal = (b: Builder, knobs: Knobs, p: Value, sum: Value): Value => blended(b, knobs, b.input(diagonalSlot(p), p.type), sum);

/** The running curvature after a batch's statistics, by slot. */
export function runningCurvature(b: Builder, knobs: Knobs, front: FrontResult): Record<string, Value> {
  const results: Record<string, Value> = {};
  for (const [layer, parts] of front.stats) for (const [part, sum] of Object.entries(parts)) results[layerSlot(layer, part)] = blendedPart(b, knobs, layer, part, sum);
  for (const [p, sum] of front.squares) results[diagonalSlot(p)] = blendedDiagonal(b, knobs, p, sum);
  return results;
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
  if (!form.accumulate) Object.assign(results, runningCurvature(b, knobs, front));
  else {
    for (const [layer, parts] of front.stats) for (const [part, sum] of Object.entries(parts)) results[`stat/${layer.name}/${part}`] = added(`stat/${layer.name}/${part}`, sum);
    for (const [p, sum] of front.squares) results[`stat/${p.name}/D`] = added(`stat/${p.name}/D`, sum);
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
      const shape = part === "S" ? matrices.matrixShape(layer) : partShape(layer, part);
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
  const made = layersOf(m).map((layer) => refreshed(b, knobs, m, layer));
  const results = Object.assign({}, ...made.map((r) => r.results)) as Record<string, Value>;
  return inversesTogether(finish(b, { ...results, clean: joined(b, made.map((r) => r.clean)), pi: joined(b, made.map((r) => r.pi)) }));
}

/** The same of one layer, where inverses are spread over steps; its `clean` has the layer's name. */
export function layerRefreshGraph(m: StepModel, layer: Layer): Graph {
  const b = new Builder("refresh");
  const { results, clean } = refreshed(b, new Knobs(b), m, layer);
  return inversesTogether(finish(b, { ...results, [layerClean(layer.name)]: clean }));
}

/** A layer's new inverses by slot, `clean` [1] and `pi` [groups]. */
function refreshed(b: Builder, knobs: Knobs, m: StepModel, layer: Layer): { readonly results: Readonly<Record<string, Value>>; readonly clean: Value; readonly pi: Value } {
  const slot = (part: string, shape: readonly number[]) => b.input(layerSlot(layer, part), { dtype: "f32", shape });
  const one = (count: number) => broadcast(b.emit, b.scalar(1), [count], []);
  if (!invertsOnDevice(m, layer)) return { results: {}, clean: one(1), pi: one(layer.groups) };
  const lambda = b.emit("mul", [knobs.get("damping"), reshape(b.emit, slot("scale", [1]), [])]);
  if (layer.form === "block") {
    const made = pre.refreshedBlock(b, layer, slot("F", matrices.blockShape(layer)), slot("Finv", matrices.blockShape(layer)), lambda);
    return { results: { [layerSlot(layer, "Finv")]: made.Finv }, clean: made.clean, pi: one(layer.groups) };
  }
  const state = (side: "A" | "G") => slot(side, matrices.factorShape(layer, side));
  const old = (side: "A" | "G") => slot(`${side}inv`, pre.inverseShape(layer, side));
  const made = pre.refreshed(b, layer, { A: state("A"), G: state("G") }, { A: old("A"), G: old("G") }, lambda);
  return { results: { [layerSlot(layer, "Ainv")]: made.Ainv, [layerSlot(layer, "Ginv")]: made.Ginv }, clean: made.clean, pi: made.pi };
}

const joined = (b: Builder, list: readonly Value[]): Value => (list.length === 1 ? (list[0] as Value) : b.emit("concat", list, { axis: 0 }));

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
export function evaluateGraph(model: StepModel): Graph {
  const m = evaluationOf(model);
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
  return prune({ ...evaluationOf(m).graph, results: outputs.map((o) => ({ name: `out/${o.name}`, value: o.value })) });
}
