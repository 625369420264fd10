/**
 * How a weight that is used at several positions is treated (Eschenhagen et al. 2023).
 *
 *   expand   every position is a row of its own: exact where positions have separate losses and never mix
 *   reduce   ā averaged and g summed over an example's positions first: exact where outputs reach the loss only through their sum or mean
 *
 * The automatic rule: reduce if from every site on, only linear steps that treat all positions alike lie between the site's output and
 * a sum over all its positions; else expand.
 */
import type { Node, Value } from "../../ir/graph.js";
import { intsAttr } from "../../ir/op.js";
import { type DigitView, startAxes, through } from "./digits.js";
import type { Sharing } from "./layer.js";
import type { Candidate, Scene } from "./sites.js";

export const autoSharing = (scene: Scene, sites: readonly Candidate[]): Sharing => (sites.every((c) => onlySummed(scene, c)) ? "reduce" : "expand");

function onlySummed(scene: Scene, c: Candidate): boolean {
  const mark = scene.marks.get(c.output.value);
  if (c.T === 1) return true;
  if (!mark || "lost" in mark || mark.outer !== 1 || mark.inner !== 1) return false;
  const positions = new Set(c.output.positions.filter((k) => k !== mark.axis && (c.output.value.type.shape[k] as number) > 1));
  let view: DigitView | undefined = startAxes(c.output.value.type.shape);
  for (let at = c.output.value; ; ) {
    const readers: readonly Node[] = scene.readers.get(at) ?? [];
    const node: Node | undefined = readers[0];
    if (!node || !view || readers.length !== 1 || scene.returned.has(at)) return false;
    const next = node.results[0] as Value;
    switch (node.op) {
      case "reshape": case "permute": view = through(view, node); break;
      case "neg": break;
      case "add": case "sub": if (node.inputs[0] === node.inputs[1]) return false; break;
      case "mul": if (!constantOnly(scene, node.inputs.find((v) => v !== at))) return false; break;
      case "div": if (node.inputs[0] !== at || !constantOnly(scene, node.inputs[1])) return false; break;
      case "reduce_sum": {
        const axes = intsAttr(node.attrs, "axes");
        const summed = axes.flatMap((k) => view?.axes[k] ?? []);
        for (const d of summed) if (d.count === c.output.value.type.shape[d.axis]) positions.delete(d.axis);
        if (positions.size === 0) return true;
        view = { ...view, axes: view.axes.filter((_, k) => !axes.includes(k)) };
        break;
      }
      default: return false;
    }
    at = next;
  }
}

/** One number everywhere. */
function constantOnly(scene: Scene, value: Value | undefined): boolean {
  let node = value && scene.producer.get(value);
  while (node && node.op === "broadcast" && node.inputs[0]?.type.shape.length === 0) node = scene.producer.get(node.inputs[0] as Value);
  return node?.op === "constant";
}
