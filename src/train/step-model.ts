/** What the entries of a program are made from, and how their state is named. */
import type { Builder } from "../../ir/builder.js";
import type { Mark } from "../../ir/examples.js";
import type { Graph, GraphResult, Node, Value } from "../../ir/graph.js";
import type { FisherOptions } from "../kfac/fisher.js";
import type { Layer, Registration } from "../kfac/layer.js";
import type { InverseForm } from "../kfac/precondition.js";
import type { Head } from "./heads.js";
import type { WeightDecayMode } from "./update.js";

export type OptimizerKind = "kfac" | "sgd" | "adam";

export interface StepModel {
  /** Canonical forward graph; the heads' `z` and the layers' values are its own. */
  readonly graph: Graph;
  readonly heads: readonly Head[];
  readonly registration: Registration;
  readonly optimizer: OptimizerKind;
  readonly fisher: FisherOptions;
  readonly inverse: InverseForm;
  readonly weightDecayMode: WeightDecayMode;
  /** What a training step leaves in parameters that are not trained (running statistics of batch normalisation). */
  readonly updates?: readonly { readonly param: Value; readonly value: Value }[];
  /** The forward pass of evaluation and prediction, where it is another one: the same parameters, no dropout, running statistics. */
  readonly evaluation?: EvaluationModel;
  /** Where the examples of the graph's values are, where that is known better than the graph tells (one example fits many axes). */
  readonly marks?: ReadonlyMap<Value, Mark>;
}

export type EvaluationModel = Pick<StepModel, "graph" | "heads">;

/** What evaluation and prediction are made from. */
export const evaluationOf = (m: StepModel): EvaluationModel => m.evaluation ?? m;

export const examplesOf = (m: StepModel): number => m.heads[0]?.loss.z.type.shape[0] as number;

export const finish = (b: Builder, results: Readonly<Record<string, Value>>): Graph =>
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
export const layersOf = (m: StepModel): readonly Layer[] => (m.optimizer === "kfac" ? m.registration.layers : []);

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
