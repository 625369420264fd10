/**
 * Which axis of each value carries examples. Inputs say it; this analysis carries the mark through every op.
 *
 * A marked axis has size outer · N · inner with the example number as its middle digit, so a reshape may merge examples with
 * other axes ([n, t, d] → [n·t, d]: inner = t) and split them again.
 */
import { CompileError } from "./error.js";
import type { Graph, Node, Value } from "./graph.js";
import { intAttr, intsAttr, stringAttr } from "./op.js";
import { OPS } from "./ops/index.js";
import type { OpName } from "./ops/names.js";
import { parseSpec } from "./ops/reduction.js";
import { spellValue } from "./print.js";
import { size } from "./type.js";
import { spellNode } from "./verify.js";

export interface ExampleAxis {
  readonly axis: number;
  /** shape[axis] = outer · N · inner */
  readonly outer: number;
  readonly inner: number;
}
export interface Lost {
  /** The node after which examples can no longer be told apart. */
  readonly lost: Node;
  readonly why: string;
}
export type Mark = ExampleAxis | Lost;

/**
 * value → where its examples are, or why they are lost. Absent: the value does not depend on examples.
 *
 * @param options sharedSums: what is reduced over all examples (batch normalisation's statistics) counts as not depending on them, so
 *   that the values it is applied to keep their marks. Such values have rows of examples, but the rows are not independent.
 */
export function exampleMarks(graph: Graph, options: { readonly sharedSums?: boolean } = {}): Map<Value, Mark> {
  const marks = new Map<Value, Mark>();
  for (const { value, examples } of graph.inputs)
    if (examples !== undefined) marks.set(value, { axis: examples, outer: 1, inner: 1 });
  for (const node of graph.nodes) {
    const inputs = node.inputs.map((v) => marks.get(v));
    const lost = inputs.find((m): m is Lost => m !== undefined && "lost" in m);
    if (options.sharedSums && sumsExamples(node, inputs[0])) continue;
    const mark = lost ?? follow(node, inputs as (ExampleAxis | undefined)[]);
    if (mark) for (const result of node.results) marks.set(result, typeof mark === "string" ? { lost: node, why: mark } : mark);
  }
  return marks;
}

/** It reduces the whole example axis away. */
const sumsExamples = (node: Node, mark: Mark | undefined): boolean =>
  (node.op === "reduce_sum" || node.op === "reduce_max") && mark !== undefined && !("lost" in mark) && intsAttr(node.attrs, "axes").includes(mark.axis);

/** The example axis of a value. @throws CompileError "examples-lost" naming the node that lost it, or if it has none. */
export function requireExamples(marks: ReadonlyMap<Value, Mark>, value: Value): ExampleAxis {
  const mark = marks.get(value);
  if (!mark) throw new CompileError("examples-lost", `${spellValue(value)} does not depend on examples`, undefined, "mark the input that carries them");
  if ("lost" in mark)
    throw new CompileError("examples-lost", `the examples of ${spellValue(value)} cannot be followed: ${mark.why}`, spellNode(mark.lost));
  return mark;
}

/** The mark of the results, or the reason why it is lost. `inputs` holds the marks of the operands. */
type Rule = (node: Node, inputs: readonly (ExampleAxis | undefined)[]) => ExampleAxis | string | undefined;

function follow(node: Node, inputs: readonly (ExampleAxis | undefined)[]): ExampleAxis | string | undefined {
  if (inputs.every((mark) => mark === undefined)) return undefined;
  if (node.regions.length > 0) return "it has regions";
  const rule = RULES[node.op] ?? (OPS[node.op].elementwise ? agree : undefined);
  return rule ? rule(node, inputs) : `${node.op} mixes examples`;
}

const same = (a: ExampleAxis, b: ExampleAxis): boolean => a.axis === b.axis && a.outer === b.outer && a.inner === b.inner;
const shapeOf = (node: Node): readonly number[] => (node.inputs[0] as Value).type.shape;

/** Number of examples along a marked axis. */
const count = (shape: readonly number[], { axis, outer, inner }: ExampleAxis): number => (shape[axis] as number) / (outer * inner);

const agree: Rule = (_node, inputs) => {
  const marked = inputs.filter((m) => m !== undefined);
  const first = marked[0] as ExampleAxis;
  return marked.every((m) => same(m, first)) ? first : "its operands carry examples along different axes";
};

/** For ops of one marked operand. */
const one = (rule: (node: Node, mark: ExampleAxis) => ExampleAxis | string): Rule => (node, inputs) => rule(node, inputs[0] as ExampleAxis);

const reduce = one((node, mark) => {
  const axes = intsAttr(node.attrs, "axes");
  if (axes.includes(mark.axis)) return "it reduces the example axis";
  return { ...mark, axis: mark.axis - axes.filter((axis) => axis < mark.axis).length };
});

const RULES: Partial<Record<OpName, Rule>> = {
  permute: one((node, mark) => ({ ...mark, axis: intsAttr(node.attrs, "perm").indexOf(mark.axis) })),
  broadcast: one((node, mark) => ({ ...mark, axis: intsAttr(node.attrs, "axes")[mark.axis] as number })),
  reshape: one((node, mark) => reshaped(shapeOf(node), intsAttr(node.attrs, "shape"), mark)),
  pad: one((node, mark) => {
    const amount = (name: string): number => intsAttr(node.attrs, name)[mark.axis] as number;
    return amount("low") === 0 && amount("high") === 0 ? mark : "it pads the example axis";
  }),
  slice: one((node, mark) => {
    const along = (name: string): number => intsAttr(node.attrs, name)[mark.axis] as number;
    const block = count(shapeOf(node), mark) * mark.inner;
    const whole = along("stride") === 1 && along("start") % block === 0 && along("size") % block === 0;
    if (block === 0 || along("size") === 0 || !whole) return "it takes some examples only";
    return { ...mark, outer: along("size") / block };
  }),
  window: one((node, mark) => {
    const axis = intAttr(node.attrs, "axis");
    if (axis === mark.axis) return "it slides over the example axis";
    return axis < mark.axis ? { ...mark, axis: mark.axis + 1 } : mark;
  }),
  fold: one((node, mark) => {
    const axis = intAttr(node.attrs, "axis");
    if (axis === mark.axis || axis + 1 === mark.axis) return "it slides over the example axis";
    return axis < mark.axis ? { ...mark, axis: mark.axis - 1 } : mark;
  }),
  concat(node, inputs) {
    const axis = intAttr(node.attrs, "axis");
    const first = inputs.find((m) => m !== undefined) as ExampleAxis;
    if (first.axis !== axis) return agree(node, inputs);
    // whole batches one after the other: the example number stays a digit of the longer axis
    const n = count((node.inputs[inputs.indexOf(first)] as Value).type.shape, first);
    const fits = inputs.every((m, k) =>
      m !== undefined && m.axis === axis && m.inner === first.inner && count((node.inputs[k] as Value).type.shape, m) === n);
    if (!fits) return "it appends something else to the examples";
    return { ...first, outer: inputs.reduce((sum, m) => sum + (m as ExampleAxis).outer, 0) };
  },
  reduce_sum: reduce,
  reduce_max: reduce,
  reduce_argmax: reduce,
  contract(node, [left, right]) {
    const spec = parseSpec(stringAttr(node.attrs, "spec"));
    const l = left && spec.left[left.axis];
    const r = right && spec.right[right.axis];
    if (left && right && (l !== r || !same({ ...left, axis: 0 }, { ...right, axis: 0 }))) return "it combines every example with every other";
    const axis = spec.out.indexOf((l ?? r) as string);
    return axis < 0 ? "it sums over examples" : { ...((left ?? right) as ExampleAxis), axis };
  },
  gather(_node, [x, index]) {
    // a batch of tables with a batch of indices each, or one table for all examples' indices
    if (x?.axis === 1) return "it picks among the rows of all examples";
    if (x && index) return x.axis === 0 && same(x, index) ? x : "it picks from one example's rows by another's indices";
    return x ?? index;
  },
  scatter(_node, [x, index]) {
    if (x?.axis === 1 || index?.axis === 1) return "it sums rows of all examples";
    if (x && index) return x.axis === 0 && same(x, index) ? x : "it sums one example's rows by another's indices";
    return x ?? index;
  },
  inverse: (node, inputs) => {
    const mark = agree(node, inputs);
    return typeof mark === "object" && mark.axis !== 0 ? "it mixes examples" : mark;
  },
};

/**
 * Finds the example digit again after a reshape: in row-major order it has N values and a step that no reshape changes;
 * it survives if one new axis contains it whole.
 */
function reshaped(from: readonly number[], to: readonly number[], mark: ExampleAxis): ExampleAxis | string {
  const n = count(from, mark);
  const step = mark.inner * size(from.slice(mark.axis + 1));
  const found = to.flatMap((extent, axis) => {
    const below = size(to.slice(axis + 1));
    const whole = step > 0 && step % below === 0 && (below * extent) % (step * n) === 0;
    return whole ? [{ axis, outer: (below * extent) / (step * n), inner: step / below }] : [];
  });
  // one example fits many axes: prefer the one that it would be for any other number of examples, the axis of its own
  return found.find((m) => m.outer === mark.outer && m.inner === mark.inner) ?? found[0] ?? "it splits the example axis";
}
