/** A model whose weights are used once each: every further use reads a copy, named as the fixtures name uses. */
import type { Graph, Param, Value } from "../../ir/graph.js";
import type { ForwardModel } from "../../src/compile.js";
import type { Forward } from "./program.js";

/** @param keys names of uses: `W` is the first of W's, `W#1` the second */
export function untied(forward: Forward, keys: readonly string[]): Forward {
  const tied = [...new Set(keys.filter((k) => k.includes("#")).map((k) => k.slice(0, k.indexOf("#"))))];
  return tied.length === 0 ? forward : (batch) => tied.reduce(untie, forward(batch));
}

function untie(model: ForwardModel, name: string): ForwardModel {
  const { graph } = model;
  const param = graph.params.find((p) => p.value.name === name) as Param;
  const copies: Param[] = [];
  let uses = 0;
  const copy = (): Value => {
    const value = { name: `${name}#${uses - 1}`, type: param.value.type };
    copies.push({ ...param, value });
    return value;
  };
  // results keep their identity: outputs of the model point at them
  const nodes: Graph["nodes"] = graph.nodes.map((node) => {
    if (!node.inputs.includes(param.value)) return node;
    uses++;
    const own = uses === 1 ? param.value : copy();
    return { ...node, inputs: node.inputs.map((v) => (v === param.value ? own : v)) };
  });
  const data = model.weights.get(name);
  const weights = new Map([...model.weights, ...copies.map((p) => [p.value.name, data as NonNullable<typeof data>] as const)]);
  return { ...model, graph: { ...graph, params: [...graph.params, ...copies], nodes }, weights };
}
