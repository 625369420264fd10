/** Reasons that say more than "no pattern": a number that is only added, next to a product with a weight, is that weight's bias in spirit. */
import type { Node, Value } from "../../ir/graph.js";
import type { Layer } from "./layer.js";
import { PARAM_VIEWS, type Scene, type Use } from "./sites.js";

const BETWEEN: ReadonlySet<string> = new Set(["reshape", "permute", "add"]);

/** Why a parameter that is only added to the results of products is no bias of theirs; undefined if there is nothing to add. */
export function addedReason(scene: Scene, uses: readonly Use[], layers: readonly Layer[], reasons: ReadonlyMap<Value, string>): string | undefined {
  if (uses.length === 0 || uses.some((u) => u.node.op !== "add")) return undefined;
  for (const use of uses)
    for (const weight of weightsBefore(scene, use)) {
      const layer = layers.find((l) => l.weight.param === weight);
      const at = use.node.origin ?? use.node.op;
      if (layer?.bias && layer.bias.param !== use.param) return `it is added in ${at}, where layer "${layer.name}" has the bias "${layer.bias.param.name}" already`;
      const why = reasons.get(weight);
      if (why !== undefined) return `it is added in ${at} to a product with "${weight.name}", which has no layer: ${why}`;
    }
  return undefined;
}

/** Weights of the products that lie before an addition, with nothing but views and additions between. */
function weightsBefore(scene: Scene, use: Use): Value[] {
  const from = (v: Value, depth: number): Value[] => {
    const node: Node | undefined = scene.producer.get(v);
    if (!node || depth > 8) return [];
    if (node.op === "contract") return node.inputs.flatMap((x) => (parameterOf(scene, x) ?? []));
    return BETWEEN.has(node.op) ? node.inputs.flatMap((x) => from(x, depth + 1)) : [];
  };
  return from(use.node.results[0] as Value, 0);
}

function parameterOf(scene: Scene, value: Value): Value | undefined {
  let at = value;
  for (let node = scene.producer.get(at); node; node = scene.producer.get(at)) {
    if (!PARAM_VIEWS.has(node.op)) return undefined;
    at = node.inputs[0] as Value;
  }
  return scene.trainable.has(at) ? at : undefined;
}
