/** Maxima of relu are relu of the maximum: one comparison per window instead of one per element, and what follows a convolution is its maximum. */
import type { Node, Value } from "../graph.js";
import type { OpName } from "../ops/names.js";
import type { Rule, Rules } from "./rewrite.js";

const VIEWS: ReadonlySet<OpName> = new Set<OpName>(["window", "reshape", "permute", "slice"]);

/**
 * max over views of relu(z) = relu of max over the same views of z: relu never falls, and the zeros that a window reads beyond its input are
 * relu of zeros. The gradient goes to the same element, the first largest of z; where none is above zero it is zero either way.
 */
const reluAfterMaximum: Rule = (node, { emit, producer, single }) => {
  const chain: Node[] = [];
  let at = node.inputs[0] as Value;
  let from = producer(at);
  for (; from && VIEWS.has(from.op) && single(at); from = producer(at)) {
    chain.push(from);
    at = from.inputs[0] as Value;
  }
  if (from?.op !== "relu" || !single(at) || at.type.dtype !== "f32") return undefined;
  const viewed = chain.reduceRight((v, view) => emit(view.op, [v], view.attrs), from.inputs[0] as Value);
  return emit("relu", [emit(node.op, [viewed], node.attrs)]);
};

export const POOLING_RULES: Rules = { reduce_max: [reluAfterMaximum] };
