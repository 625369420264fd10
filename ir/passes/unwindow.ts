/** Windows that neither overlap nor leave gaps are reshapes: pooling and patch embedding with stride = taps. */
import type { Node, Value } from "../graph.js";
import type { Pass } from "../pass.js";
import { type Rule, rewrite } from "./rewrite.js";

interface Tiling {
  readonly axis: number;
  readonly count: number;
  readonly taps: number;
}

/** Position and tap are two digits of the axis, starting at its first element. */
function tiling(node: Node, count: number, taps: number): Tiling | undefined {
  const { axis, stride, dilation, offset, divisor } = node.attrs as Record<string, number>;
  return stride === taps && dilation === 1 && offset === 0 && divisor === 1 && taps > 1 ? { axis: axis as number, count, taps } : undefined;
}

const windowRule: Rule = (node, { emit }) => {
  const x = node.inputs[0] as Value;
  const t = tiling(node, node.attrs.count as number, node.attrs.taps as number);
  const shape = x.type.shape;
  if (!t || t.count * t.taps > (shape[t.axis] as number)) return undefined;
  const used = shape.map((n, k) => (k === t.axis ? t.count * t.taps : n));
  const cut = used[t.axis] === shape[t.axis] ? x : emit("slice", [x], { start: shape.map(() => 0), size: used, stride: shape.map(() => 1) });
  return emit("reshape", [cut], { shape: (node.results[0] as Value).type.shape });
};

const foldRule: Rule = (node, { emit }) => {
  const x = node.inputs[0] as Value;
  const axis = node.attrs.axis as number;
  const t = tiling(node, x.type.shape[axis] as number, x.type.shape[axis + 1] as number);
  const out = (node.results[0] as Value).type.shape;
  if (!t || t.count * t.taps > (out[axis] as number)) return undefined;
  const whole = emit("reshape", [x], { shape: out.map((n, k) => (k === axis ? t.count * t.taps : n)) });
  const rest = (out[axis] as number) - t.count * t.taps;
  return rest === 0 ? whole : emit("pad", [whole], { low: out.map(() => 0), high: out.map((_, k) => (k === axis ? rest : 0)), value: 0 });
};

export const unwindow: Pass = {
  name: "unwindow",
  doc: "Windows and folds whose stride is their number of taps are reshapes. Run it after registration, which looks for windows.",
  run: (graph) => rewrite(graph, { window: [windowRule], fold: [foldRule] }),
};
