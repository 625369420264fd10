/** One form for what means the same, so that patterns and kernels have few shapes to know. */
import type { Value } from "../graph.js";
import { OPS } from "../ops/index.js";
import type { Pass } from "../pass.js";
import { CONTRACTION_RULES } from "./contraction.js";
import { FOLD_RULES } from "./fold.js";
import { MOVEMENT_RULES } from "./movement.js";
import { POOLING_RULES } from "./pooling.js";
import { type Rule, type Rules, rewrite } from "./rewrite.js";
import { TRANSPOSE_RULES } from "./transpose.js";
import { uniformOf } from "./uniform.js";

/** 2 · x is x · 2. */
const constantRight: Rule = (node, scope) => {
  if (!OPS[node.op].commutative) return undefined;
  const [x, y] = node.inputs as [Value, Value];
  return uniformOf(x, scope) !== undefined && uniformOf(y, scope) === undefined ? scope.emit(node.op, [y, x], node.attrs) : undefined;
};

/** Rules of several tables, earlier tables first. */
function join(...tables: readonly Rules[]): Rules {
  const joined: Record<string, Rule[]> = {};
  for (const table of tables)
    for (const [op, rules] of Object.entries(table)) joined[op] = [...(joined[op] ?? []), ...rules];
  return joined;
}

const RULES = join(FOLD_RULES, MOVEMENT_RULES, CONTRACTION_RULES, TRANSPOSE_RULES, POOLING_RULES, { any: [constantRight] });

export const canonicalize: Pass = {
  name: "canonicalize",
  doc: "Chains of movement are one op, contractions have absorbed permutations and gradients of windows, relu follows maxima, constants stand right; nothing is left to fold, share or drop.",
  run: (graph) => rewrite(graph, RULES),
};
