/**
 * A K-FAC step as one graph, for steps between whose halves nothing happens: no new inverses, no accumulation, no decay added to gradients.
 *
 *   step[.stats]   front and back; directions of layers with few rows are made of rows (kfac/lowrank.ts), their gradients are never formed
 *   expose         gradient sums of those layers from the rows that the last step left, for whoever asks
 *
 * It is compiled where that saves a good part of the step's arithmetic. State: rows/<layer>/{a, g}@<batch>.
 */
import { Builder } from "../../ir/builder.js";
import type { Graph, Value } from "../../ir/graph.js";
import { gradientSum } from "../kfac/factors.js";
import type { Layer, Site } from "../kfac/layer.js";
import { gradientWork, type LayerRows, savedWork } from "../kfac/lowrank.js";
import { buildBack } from "./back.js";
import { buildFront } from "./front.js";
import { runningCurvature } from "./step.js";
import { examplesOf, finish, gradientSlot, layersOf, type StepModel } from "./step-model.js";
import { Knobs } from "./update.js";

/** A second form of every step is kernels to compile: it has to save at least this part of what directions cost. */
const WORTH = 0.1;

/** Layers whose directions are made of rows; none where it is not worth it. */
export function rowLayers(m: StepModel): readonly Layer[] {
  if (m.inverse !== "pi") return [];
  const layers = layersOf(m).filter((layer) => savedWork(layer) > 0);
  const sum = (list: readonly Layer[], of: (layer: Layer) => number): number => list.reduce((n, layer) => n + of(layer), 0);
  return sum(layers, savedWork) >= WORTH * sum(layersOf(m), gradientWork) ? layers : [];
}

/** Where a step leaves the rows of its layers: layers that read one value share it. */
function rowSlots(m: StepModel): ReadonlyMap<Layer, { readonly site: Site; readonly a: string; readonly g: string }> {
  const known = new Map<Value, string>();
  return new Map(rowLayers(m).map((layer) => {
    const site = layer.sites[0] as Site;
    const slot = (part: string): string => `rows/${layer.name}/${part}@${examplesOf(m)}`;
    const a = known.get(site.input.value) ?? slot("a");
    known.set(site.input.value, a);
    return [layer, { site, a, g: slot("g") }] as const;
  }));
}

export function wholeGraph(m: StepModel, stats: boolean, masked: boolean): Graph {
  const b = Builder.from(m.graph);
  const knobs = new Knobs(b);
  const front = buildFront(b, m, knobs, { stats, scaling: false, masked, accumulate: false });
  const slots = rowSlots(m);
  const rows = new Map([...slots].flatMap(([layer, { site }]): (readonly [Layer, LayerRows])[] => {
    const cotangent = front.cotangents.get(site);
    return cotangent ? [[layer, { site, cotangent }]] : [];
  }));
  const results: Record<string, Value> = { lossSum: front.lossSum, ...runningCurvature(b, knobs, front) };
  const unformed = new Set([...rows.keys()].map((layer) => gradientSlot(layer.name)));
  for (const [slot, sum] of front.gradients) if (!unformed.has(slot)) results[slot] = sum;
  for (const [layer, { site, cotangent }] of rows) {
    const { a, g } = slots.get(layer) as { a: string; g: string };
    results[a] = site.input.value;
    results[g] = cotangent;
  }
  Object.assign(results, buildBack(b, m, knobs, (slot) => front.gradients.get(slot) as Value, { undecayed: true, rows }));
  for (const { param, value } of m.updates ?? []) results[param.name] = value;
  return finish(b, results);
}

export function exposeGraph(m: StepModel): Graph {
  const b = new Builder("expose");
  const inputs = new Map<string, Value>();
  const input = (slot: string, like: Value): Value => {
    const made = inputs.get(slot) ?? b.input(slot, like.type);
    inputs.set(slot, made);
    return made;
  };
  const results: Record<string, Value> = {};
  for (const [layer, { site, a, g }] of rowSlots(m))
    results[gradientSlot(layer.name)] = gradientSum(b, layer, new Map([[site, input(g, site.output.value)]]), new Map([[site, input(a, site.input.value)]]));
  return finish(b, results);
}
