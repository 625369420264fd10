/**
 * A diagonal Fisher for parameters that belong to no layer (`--fallback diagonal`).
 *
 *   D = (1/(N·samples)) Σ_n Σ_columns (∇_n p)²          direction: ∇ / (D + λ)
 *
 * Exact per number of the parameter, whatever the graph does with it, as long as the gradient of one example can be told. The average runs as
 * A and G do, and the norm constraint counts these directions with those of the layers.
 */
import { Builder } from "../../ir/builder.js";
import { CompileError } from "../../ir/error.js";
import { exampleMarks, type Mark } from "../../ir/examples.js";
import { cotangents } from "../../ir/grad.js";
import type { Graph, Node, Value } from "../../ir/graph.js";
import { outerSquare, perExample } from "../../ir/per-example.js";
import { size } from "../../ir/type.js";
import { vmap } from "../../ir/vmap.js";
import type { Orphan, Registration } from "./layer.js";

export const FALLBACKS = ["plain", "diagonal"] as const;
/** What moves a parameter without a layer: its gradient, or its gradient over a diagonal Fisher. */
export type Fallback = (typeof FALLBACKS)[number];

/** Elements that per-example gradients of one parameter may have at once; more examples go one slice after the other. */
const LIMIT = 2 ** 24;

/** A backward graph in a builder. */
export interface Backward {
  readonly nodes: readonly Node[];
  /** Cotangents that it starts from, [N, ..]. */
  readonly seeds: readonly Value[];
  /** Parameter → cotangent. */
  readonly cotangents: ReadonlyMap<Value, Value>;
}

/** How values of the backward graph look with the Fisher's columns in front; undefined: the value is the same for all. */
export interface Stacked {
  readonly count: number;
  readonly of: (v: Value) => Value | undefined;
}

/** Every seed counts as a value with examples in front: one made of constants has no mark of its own. */
function marksOf(b: Builder, seeds: readonly Value[]): Map<Value, Mark> {
  const graph = b.finish([]);
  const nodes = graph.nodes.filter((n) => !n.results.some((r) => seeds.includes(r)));
  return exampleMarks({ ...graph, nodes, inputs: [...graph.inputs, ...seeds.map((value) => ({ value, examples: 0 }))] }, { sharedSums: true });
}

/**
 * Σ_n Σ_columns (∇_n p)² of each parameter, of its shape. Without `stacked` the backward graph's own cotangent is the only column.
 *
 * @throws CompileError "examples-lost" where `followed` would give a reason
 */
export function squareSums(b: Builder, backward: Backward, params: readonly Value[], stacked?: Stacked, limit = LIMIT): Map<Value, Value> {
  const marks = marksOf(b, backward.seeds);
  const n = backward.seeds[0]?.type.shape[0] ?? 1;
  const known = new Map<Value, Value | undefined>();
  const of = (v: Value): Value | undefined => {
    if (!known.has(v)) known.set(v, stacked?.of(v));
    return known.get(v);
  };
  const inputsOf = (nodes: readonly Node[]): Map<Value, Value> =>
    new Map(nodes.flatMap((node) => node.inputs).flatMap((v) => {
      const s = of(v);
      return s ? [[v, s] as const] : [];
    }));
  const sums = new Map<Value, Value>();
  for (const p of params) {
    const ct = backward.cotangents.get(p);
    if (!ct) continue;
    const direct = outerSquare(b, backward.nodes, marks, ct);
    if (direct) {
      sums.set(p, direct(inputsOf(backward.nodes.filter((node) => node.op === "contract"))));
      continue;
    }
    const apart = (range?: { start: number; count: number }) => {
      const from = b.nodes.length;
      const value = perExample(b, backward.nodes, marks, [ct], range ? { range } : {}).get(ct) as Value;
      return { value, nodes: b.nodes.slice(from) };
    };
    const whole = apart();
    const width = Math.max(size(whole.value.type.shape), ...whole.nodes.map((node) => size(node.results[0]?.type.shape ?? []))) * (stacked?.count ?? 1);
    const chunk = Math.max(1, Math.min(n, Math.floor((limit * n) / width)));
    const parts = chunk >= n ? [whole] : Array.from({ length: Math.ceil(n / chunk) }, (_, k) => apart({ start: k * chunk, count: Math.min(chunk, n - k * chunk) }));
    sums.set(p, parts.map(({ value, nodes }) => {
      const each = vmap(b.emit, nodes, inputsOf(nodes)).get(value) ?? of(value) ?? value;
      // columns, if there are any, and examples
      const axes = each.type.shape.length > value.type.shape.length ? [0, 1] : [0];
      return b.emit("reduce_sum", [b.emit("mul", [each, each])], { axes });
    }).reduce((x, y) => b.emit("add", [x, y])));
  }
  return sums;
}

/** Orphans whose gradient can be told example by example are marked; the others say why not. @param roots values that losses start from */
export function withDiagonals(graph: Graph, roots: readonly Value[], registration: Registration): Registration {
  const b = Builder.from(graph);
  const params = graph.params.map((p) => p.value).filter((v) => registration.orphans.some((o) => o.param === v.name));
  const seeds = new Map([...new Set(roots)].map((z) => [z, b.input(`u/${z.name}`, z.type, 0)] as const));
  const start = b.nodes.length;
  const found = cotangents(b, seeds, params);
  const backward: Backward = { nodes: b.nodes.slice(start), seeds: [...seeds.values()], cotangents: found };
  const orphans = registration.orphans.map((o): Orphan => {
    const param = params.find((v) => v.name === o.param);
    if (!param || !found.has(param)) return o;
    try {
      squareSums(b, backward, [param]);
      return { ...o, diagonal: true };
    } catch (e) {
      if (!(e instanceof CompileError && e.code === "examples-lost")) throw e;
      return { ...o, reason: `${o.reason}; no diagonal Fisher: ${e.message}${e.where ? ` at ${e.where}` : ""}` };
    }
  });
  return { ...registration, orphans };
}
