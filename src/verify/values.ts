/** Float64 evaluation of graphs a part at a time, seeded numbers, and norms. */
import type { Builder } from "../../ir/builder.js";
import { Builder as GraphBuilder } from "../../ir/builder.js";
import { cotangents, downstream } from "../../ir/grad.js";
import type { Graph, Node, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { stringAttr } from "../../ir/op.js";
import { OPS } from "../../ir/ops/index.js";
import { labelSizes, parseSpec } from "../../ir/ops/reduction.js";
import { size, type Type } from "../../ir/type.js";

export type Known = ReadonlyMap<Value, NdArray>;

/** Numbers in [0, 1) from a seed, the same on every machine (a Weyl sequence through a 32-bit finaliser). */
export function uniforms(seed: number): () => number {
  let state = (Math.imul(seed >>> 0, 0x9e3779b1) + 0x7f4a7c15) >>> 0;
  const word = (): number => {
    state = (state + 0x9e3779b9) >>> 0;
    let x = state;
    x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    return (x ^ (x >>> 16)) >>> 0;
  };
  return () => (word() * 2 ** 21 + (word() >>> 11)) / 2 ** 53;
}

/** Standard normal numbers (Box–Muller). */
export function normals(seed: number): () => number {
  const next = uniforms(seed);
  return () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
}

export const filled = (t: Type, of: (k: number) => number): NdArray => ndarray(t.dtype, t.shape, Float64Array.from({ length: size(t.shape) }, (_, k) => of(k)));

/** Computes `wanted` from what is known; returns everything known then. */
export function evaluateFrom(nodes: readonly Node[], known: Known, wanted: readonly Value[]): Map<Value, NdArray> {
  const out = new Map(known);
  const needed = new Set<Value>(wanted.filter((v) => !out.has(v)));
  const plan: Node[] = [];
  for (let k = nodes.length - 1; k >= 0; k--) {
    const node = nodes[k] as Node;
    if (!node.results.some((r) => needed.has(r) && !out.has(r))) continue;
    plan.push(node);
    for (const v of node.inputs) if (!out.has(v)) needed.add(v);
  }
  for (const node of plan.reverse()) {
    const results = OPS[node.op].evaluate(node.inputs.map((v) => out.get(v) as NdArray), node.attrs, node.results.map((r) => r.type));
    node.results.forEach((r, k) => out.set(r, results[k] as NdArray));
  }
  return out;
}

/** Multiplications and element moves of nodes, in seconds of this evaluator on a slow machine: orders of magnitude only. */
export function secondsOf(nodes: readonly Node[]): number {
  let total = 0;
  for (const node of nodes) {
    const out = node.results.reduce((n, r) => n + size(r.type.shape), 0);
    if (node.op === "contract") {
      const [l, r] = node.inputs as [Value, Value];
      const sizes = labelSizes(parseSpec(stringAttr(node.attrs, "spec")), l.type.shape, r.type.shape);
      total += (sizes ? [...sizes.values()].reduce((p, n) => p * n, 1) : 0) * 4e-9 + out * 1e-7;
    } else if (node.op !== "reshape") total += Math.max(out, ...node.inputs.map((v) => size(v.type.shape))) * 1.5e-7;
  }
  return total;
}

/** Reverse mode through a graph whose forward values are known: seeds at some values, cotangents of others. */
export class Backward {
  readonly #nodes: readonly Node[];
  readonly #seeds: ReadonlyMap<Value, Value>;
  readonly #cts: ReadonlyMap<Value, Value>;
  readonly #base: Known;
  /** Of one call of `run`. */
  readonly seconds: number;

  /** @param from values that get seeds. Those of `wanted` that no seed reaches have cotangent 0. */
  constructor(graph: Graph, forward: Known, from: readonly Value[], wanted: readonly Value[]) {
    const b: Builder = GraphBuilder.from(graph);
    const start = b.nodes.length;
    this.#seeds = new Map([...new Set(from)].map((v, k) => [v, b.input(`seed${k}`, v.type)] as const));
    this.#cts = cotangents(b, new Map(this.#seeds), wanted);
    this.#nodes = b.nodes.slice(start);
    const moving = downstream(this.#nodes, [...this.#seeds.values()]);
    const still = this.#nodes.filter((n) => !n.results.some((r) => moving.has(r)));
    this.#base = evaluateFrom(still, forward, still.flatMap((n) => n.results));
    this.seconds = secondsOf(this.#nodes);
  }

  run(seeds: ReadonlyMap<Value, NdArray>, wanted: readonly Value[]): Map<Value, NdArray> {
    const known = new Map(this.#base);
    for (const [v, input] of this.#seeds) known.set(input, seeds.get(v) ?? filled(v.type, () => 0));
    const cts = wanted.flatMap((v) => this.#cts.get(v) ?? []);
    const made = evaluateFrom(this.#nodes, known, cts);
    return new Map(wanted.map((v) => {
      const ct = this.#cts.get(v);
      return [v, ct ? (made.get(ct) as NdArray) : filled(v.type, () => 0)];
    }));
  }
}

export const norm = (a: ArrayLike<number>): number => {
  let s = 0;
  for (let k = 0; k < a.length; k++) s += (a[k] as number) ** 2;
  return Math.sqrt(s);
};

/** ‖got − want‖ / ‖want‖ (absolute where want is 0); NaN and a wrong length count as infinite. */
export function relativeError(got: ArrayLike<number>, want: ArrayLike<number>): number {
  if (got.length !== want.length) return Number.POSITIVE_INFINITY;
  let [d, n] = [0, 0];
  for (let k = 0; k < want.length; k++) {
    d += ((got[k] as number) - (want[k] as number)) ** 2;
    n += (want[k] as number) ** 2;
  }
  const e = n === 0 ? Math.sqrt(d) : Math.sqrt(d / n);
  return Number.isNaN(e) ? Number.POSITIVE_INFINITY : e;
}
