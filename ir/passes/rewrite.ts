/** Local rewriting to a fixpoint: what `fold`, `canonicalize` and `undetach` are made of. */
import type { Attrs, Graph, Node, Value } from "../graph.js";
import { users } from "../graph.js";
import type { Emit } from "../op.js";
import { OPS } from "../ops/index.js";
import type { OpName } from "../ops/names.js";
import type { Type } from "../type.js";
import { cse } from "./cse.js";
import { dce } from "./dce.js";

export interface Scope {
  /** Appends a node and returns its result; the rules are tried on it first, so what comes back is already rewritten. */
  readonly emit: Emit;
  /** The node that makes a value; undefined for parameters and inputs. */
  readonly producer: (value: Value) => Node | undefined;
  /** At most one use: a rule that re-makes the value elsewhere does not duplicate its work. */
  readonly single: (value: Value) => boolean;
}

/**
 * Looks at one node of one result, whose inputs are rewritten already, and returns a value that equals its result, or undefined.
 * A rule never returns a node that it or another rule turns back.
 */
export type Rule = (node: Node, scope: Scope) => Value | undefined;

/** Rules by the op they look at; "any" is tried after those. */
export type Rules = Partial<Record<OpName | "any", readonly Rule[]>>;

/** A safety net, far above what graphs need (2 or 3): rules that undo each other stop here. */
const MAX_ROUNDS = 50;

/** Equal nodes are one and unused ones are gone between rounds, so that "the same value" and "used once" mean it. */
function tidy(graph: Graph): Graph {
  if (TIDY.has(graph)) return graph;
  const made = cse.run(dce.run(graph));
  TIDY.add(made);
  return made;
}
/** Graphs that a pass left tidy: the next pass need not look. */
const TIDY = new WeakSet<Graph>();

/** Applies the rules until none fits. Parameters, inputs and untouched nodes keep their identity; results keep their names. */
export function rewrite(graph: Graph, rules: Rules): Graph {
  let current = tidy(graph);
  if (!rules.any && !current.nodes.some((node) => rules[node.op])) return current;
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const made = new Rewriter(current, rules).run();
    if (sameGraph(made, current)) return current;
    const next = tidy(made);
    if (sameGraph(next, current)) return current;
    current = next;
  }
  return current;
}

const sameGraph = (a: Graph, b: Graph): boolean =>
  a.nodes.length === b.nodes.length && a.nodes.every((n, k) => n === b.nodes[k]) && a.results.every((r, k) => r.value === b.results[k]?.value);

/** A value under construction: named when the round ends. */
interface Draft {
  name: string;
  readonly type: Type;
}

class Rewriter implements Scope {
  readonly #nodes: Node[] = [];
  readonly #made = new Map<Value, Node>();
  readonly #images = new Map<Value, Value>();
  readonly #uses = new Map<Value, number>();
  readonly #drafts = new Set<Value>();
  readonly #graph: Graph;
  readonly #rules: Rules;
  #origin: string | undefined;

  constructor(graph: Graph, rules: Rules) {
    this.#graph = graph;
    this.#rules = rules;
    for (const [value, list] of users(graph)) this.#use(value, list.length);
    for (const { value } of graph.results) this.#use(value, 1);
  }

  #use(value: Value, times: number): void {
    this.#uses.set(value, (this.#uses.get(value) ?? 0) + times);
  }

  readonly producer = (value: Value): Node | undefined => this.#made.get(value);
  readonly single = (value: Value): boolean => (this.#uses.get(value) ?? 0) <= 1;

  readonly emit: Emit = (op, inputs, attrs = {}) => {
    const types = OPS[op].infer(inputs.map((v) => v.type), attrs, []);
    const draft: Draft = { name: "", type: types[0] as Type };
    return this.#settle(op, inputs, attrs, draft, undefined);
  };

  /** The value of a node after all rules; appends the node if none fits. */
  #settle(op: OpName, inputs: readonly Value[], attrs: Attrs, result: Draft | Value, old: Node | undefined): Value {
    const origin = this.#origin === undefined ? {} : { origin: this.#origin };
    const node: Node = old ?? { op, inputs, attrs, regions: [], results: [result], ...origin };
    for (const rule of [...(this.#rules[op] ?? []), ...(this.#rules.any ?? [])]) {
      const better = rule(node, this);
      if (better) return better;
    }
    if (!old) this.#drafts.add(result);
    this.#append(node);
    return result;
  }

  #append(node: Node): void {
    this.#nodes.push(node);
    for (const result of node.results) this.#made.set(result, node);
  }

  #image = (value: Value): Value => this.#images.get(value) ?? value;

  run(): Graph {
    for (const node of this.#graph.nodes) this.#visit(node);
    this.#name();
    const { name, params, inputs, results } = this.#graph;
    return { name, params, inputs, nodes: this.#nodes, results: results.map((r) => ({ name: r.name, value: this.#image(r.value) })) };
  }

  #visit(node: Node): void {
    const inputs = node.inputs.map(this.#image);
    const same = inputs.every((v, k) => v === node.inputs[k]);
    this.#origin = node.origin;
    if (node.results.length !== 1 || node.regions.length > 0) {
      this.#append(same ? node : { ...node, inputs });
      return;
    }
    const result = node.results[0] as Value;
    const fresh = same ? undefined : { ...node, inputs };
    const better = this.#settle(node.op, inputs, node.attrs, result, fresh ?? node);
    if (better === result) return;
    this.#images.set(result, better);
    // a little too many (the replaced use is counted still), until the next round counts again
    this.#use(better, this.#uses.get(result) ?? 0);
    if (this.#drafts.has(better) && better.name === "") (better as Draft).name = result.name;
  }

  /** Values made inside rules get names that no value has. */
  #name(): void {
    const taken = new Set<string>([...this.#graph.params, ...this.#graph.inputs].map(({ value }) => value.name));
    for (const node of this.#graph.nodes) for (const r of node.results) taken.add(r.name);
    let next = 0;
    for (const draft of this.#drafts) {
      if (draft.name !== "") continue;
      while (taken.has(`v${next}`)) next++;
      (draft as Draft).name = `v${next++}`;
    }
  }
}
