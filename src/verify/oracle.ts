/**
 * The exact quantities of every layer, from the graph as it was imported: rows by probing the nodes that use a weight, cotangents by
 * reverse mode one example at a time, Fisher columns by loops over the outputs. Of the layer only its matrix form is read.
 */
import { type ExampleAxis, exampleMarks } from "../../ir/examples.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { size, strides } from "../../ir/type.js";
import type { LayerInfo } from "../../runtime/artifact.js";
import { type Fit, fit, type Layout } from "./layout.js";
import { inputRows, probe, type Structure } from "./probe.js";
import { dataValues, isSite, liveNodes, type Use, usesOf, viewsBetween } from "./uses.js";
import { Backward, evaluateFrom, filled, type Known } from "./values.js";

/** Rows at one use, in a layer's order: [groups, positions, features]. */
export interface SiteRows {
  readonly where: string;
  readonly transposed: boolean;
  readonly ones: boolean;
  /** Positions of a group, all examples together. */
  readonly positions: number;
  /** Example of each position, [groups, positions]. */
  readonly example: Int32Array;
  /** Rows of the data operand; features: inputs (transposed: outputs). */
  readonly x: Float64Array;
  readonly xFeatures: number;
  readonly yFeatures: number;
  /** Rows of a cotangent of the result; features: outputs (transposed: inputs). */
  y(cotangents: Cotangents): Float64Array;
}

export type Cotangents = ReadonlyMap<Value, NdArray>;

/** A use with what probing found. */
interface ProbedUse {
  readonly use: Use;
  /** Results of equal computations on equal data: one use after common subexpressions are joined. */
  readonly twins: readonly Value[];
  readonly structure: Structure;
  readonly rows: Float64Array;
  /** Of the rows, proven on the node. */
  readonly error: number;
}

export interface OracleHead {
  readonly z: Value;
  readonly weight: number;
}

export class Oracle {
  readonly forward: Known;
  readonly examples: number;
  readonly heads: readonly OracleHead[];
  readonly #graph: Graph;
  readonly #backward: Backward;
  readonly #uses = new Map<Value, Use[]>();
  readonly #probed = new Map<Use, ProbedUse | string>();
  readonly #marks: ReturnType<typeof exampleMarks>;
  readonly #carries: ReadonlySet<Value>;
  readonly #results: readonly Value[];

  constructor(graph: Graph, bindings: Known, heads: readonly OracleHead[], examples: number) {
    this.#graph = graph;
    this.heads = heads;
    this.examples = examples;
    const roots = heads.map((h) => h.z);
    const live = liveNodes(graph, roots);
    this.#carries = dataValues(graph);
    this.#marks = exampleMarks(graph, { sharedSums: true });
    this.forward = evaluateFrom(graph.nodes, bindings, graph.nodes.filter((n) => live.has(n)).flatMap((n) => n.results));
    for (const p of this.params) this.#uses.set(p, usesOf(graph, live, p));
    this.#results = [...new Set([...this.#uses.values()].flat().filter((u) => isSite(u, this.#carries)).map((u) => u.node.results[0] as Value))];
    this.#backward = new Backward(graph, this.forward, roots, [...this.#results, ...this.params]);
  }

  get params(): readonly Value[] {
    return this.#graph.params.filter((p) => p.trainable).map((p) => p.value);
  }

  param(name: string): Value | undefined {
    return this.params.find((p) => p.name === name);
  }

  uses(param: Value): readonly Use[] {
    return this.#uses.get(param) ?? [];
  }

  /** Cotangents of every use's result and every parameter for seeds at the heads. */
  cotangents(seeds: Known): Map<Value, NdArray> {
    return this.#backward.run(seeds, [...this.#results, ...this.params]);
  }

  get seconds(): number {
    return this.#backward.seconds;
  }

  z(head: OracleHead): NdArray {
    return this.forward.get(head.z) as NdArray;
  }

  /** Uses of a weight that multiply data, twins joined. */
  sites(param: Value): readonly Use[] {
    const all = this.uses(param).filter((u) => isSite(u, this.#carries));
    return all.filter((u, k) => !all.slice(0, k).some((v) => this.#twins(u, v)));
  }

  #twins(a: Use, b: Use): boolean {
    if (a.node === b.node || a.node.op !== b.node.op || JSON.stringify(a.node.attrs) !== JSON.stringify(b.node.attrs)) return false;
    const same = (v: Value, w: Value): boolean => {
      const [x, y] = [this.forward.get(v) as NdArray, this.forward.get(w) as NdArray];
      return x.data.length === y.data.length && x.data.some((n) => n !== 0) && x.data.every((n, k) => n === y.data[k]);
    };
    return same(a.other as Value, b.other as Value) && same(a.node.results[0] as Value, b.node.results[0] as Value);
  }

  /** What a use's node is, or why that cannot be told. */
  probed(use: Use, seed: number): ProbedUse | string {
    const known = this.#probed.get(use);
    if (known) return known;
    const made = this.#probe(use, seed);
    this.#probed.set(use, made);
    return made;
  }

  #probe(use: Use, seed: number): ProbedUse | string {
    try {
      const structure = probe(use, seed);
      const { rows, error } = inputRows(use, structure, this.forward.get(use.other as Value) as NdArray, seed + 1);
      const all = this.uses(use.param).filter((u) => isSite(u, this.#carries));
      return { use, structure, rows, error, twins: all.filter((u) => u === use || this.#twins(u, use)).map((u) => u.node.results[0] as Value) };
    } catch (e) {
      return e instanceof Error ? e.message : String(e);
    }
  }

  /** Parameter elements that a use reads. */
  reads(use: Use, seed: number): Set<number> | string {
    const p = this.probed(use, seed);
    return typeof p === "string" ? p : new Set([...p.structure.rowOfW].flatMap((r, k) => (r >= 0 ? [k] : [])));
  }

  /** A use's rows in the order of a layer's matrix form, or why they do not fit it. */
  siteRows(use: Use, layer: Pick<LayerInfo, "matrix" | "params">, layout: Layout, seed: number): SiteRows | string {
    const p = this.probed(use, seed);
    if (typeof p === "string") return p;
    const f = fit(layout, p.structure);
    if (typeof f === "string") return f;
    const example = this.#examplesOf(use.node.results[0] as Value);
    if (typeof example === "string") return example;
    const bias = layer.params.bias === null ? undefined : this.#biasAt(use, layer.params.bias);
    if (bias && layout.biasAt) {
      const wrong = p.structure.rowOfS.some((r, e) => bias[e] !== (layout.biasAt as Int32Array)[f.rowPlace[r] as number]);
      if (f.transposed) return "a bias is added where the weight is used transposed";
      if (wrong) return "the bias is added to other outputs than the layer's matrix says";
    }
    return arrange(p, layout, f, example, bias !== undefined);
  }

  /** The example of every element of a value. */
  #examplesOf(v: Value): Int32Array | string {
    const mark = this.#marks.get(v);
    if (!mark) return "its input does not depend on examples";
    if ("lost" in mark) return `examples cannot be followed in the imported graph: ${mark.why}`;
    const m: ExampleAxis = mark;
    const extent = v.type.shape[m.axis] as number;
    const step = strides(v.type.shape)[m.axis] as number;
    const n = extent / (m.outer * m.inner);
    return Int32Array.from({ length: size(v.type.shape) }, (_, e) => Math.floor((Math.floor(e / step) % extent) / m.inner) % n);
  }

  /** The element of the bias that is added to each element of a use's result; undefined where it is not added to it. */
  #biasAt(use: Use, name: string): Int32Array | undefined {
    const param = this.param(name);
    const s = use.node.results[0] as Value;
    for (const add of param ? this.uses(param) : []) {
      const views = add.role === "bias" && add.other && viewsBetween(this.#graph, s, add.other);
      if (!views) continue;
      // the bias as the numbers 1, 2, …, carried back to s: no axis is looked at
      const numbered = evaluateFrom(add.chain, new Map([[param as Value, filled((param as Value).type, (k) => k + 1)]]), [add.view]).get(add.view) as NdArray;
      if (views.length === 0) return Int32Array.from(numbered.data, (x) => x - 1);
      const graph: Graph = { name: "bias", params: [], inputs: [{ value: s }], nodes: views, results: [] };
      const zero = filled(s.type, () => 0);
      const known = evaluateFrom(views, new Map([[s, zero]]), [add.other as Value]);
      const back = new Backward(graph, known, [add.other as Value], [s]).run(new Map([[add.other as Value, numbered]]), [s]);
      return Int32Array.from((back.get(s) as NdArray).data, (x) => x - 1);
    }
    return undefined;
  }
}

function arrange(p: ProbedUse, layout: Layout, f: Fit, examples: Int32Array, ones: boolean): SiteRows | string {
  const { structure: st } = p;
  const [xFeatures, yFeatures] = f.transposed ? [layout.dG, layout.dIn] : [layout.dIn, layout.dG];
  const placeX = f.columnPlace;
  const placeY = f.rowPlace;
  // positions of each group, in order of appearance
  const groupOf = new Int32Array(st.positions).fill(-1);
  const localOf = new Int32Array(st.positions);
  const counts = new Array<number>(layout.groups).fill(0);
  const exampleOf = new Int32Array(st.positions).fill(-1);
  for (let e = 0; e < st.rowOfS.length; e++) {
    const [pos, group] = [st.positionOfS[e] as number, Math.floor((placeY[st.rowOfS[e] as number] as number) / yFeatures)];
    if (groupOf[pos] === -1) {
      groupOf[pos] = group;
      localOf[pos] = counts[group] as number;
      counts[group] = (counts[group] as number) + 1;
      exampleOf[pos] = examples[e] as number;
    } else if (groupOf[pos] !== group || exampleOf[pos] !== examples[e]) return "outputs of one position belong to different examples or groups";
  }
  const positions = counts[0] as number;
  if (counts.some((c) => c !== positions)) return "its groups have different numbers of positions";
  const at = (pos: number): number => (groupOf[pos] as number) * positions + (localOf[pos] as number);
  const example = new Int32Array(layout.groups * positions);
  for (let pos = 0; pos < st.positions; pos++) example[at(pos)] = exampleOf[pos] as number;
  const x = new Float64Array(layout.groups * positions * xFeatures);
  for (let pos = 0; pos < st.positions; pos++)
    for (let c = 0; c < st.columns; c++) {
      const place = placeX[c] as number;
      if (Math.floor(place / xFeatures) === groupOf[pos]) x[at(pos) * xFeatures + (place % xFeatures)] = p.rows[pos * st.columns + c] as number;
    }
  return {
    where: p.use.node.origin ?? p.use.node.op, transposed: f.transposed, ones, positions, example, x, xFeatures, yFeatures,
    y(cotangents) {
      const out = new Float64Array(layout.groups * positions * yFeatures);
      for (const twin of p.twins) {
        const ct = cotangents.get(twin);
        if (!ct) continue;
        for (let e = 0; e < st.rowOfS.length; e++) {
          const k = at(st.positionOfS[e] as number) * yFeatures + ((placeY[st.rowOfS[e] as number] as number) % yFeatures);
          out[k] = (out[k] as number) + (ct.data[e] as number);
        }
      }
      return out;
    },
  };
}

/** Bindings of a graph's parameters and inputs by name. */
export const bindingsOf = (graph: Graph, named: Readonly<Record<string, NdArray>>): Known =>
  new Map([...graph.params, ...graph.inputs].flatMap(({ value }) => {
    const given = named[value.name];
    return given ? [[value, ndarray(value.type.dtype, value.type.shape, given.data)] as const] : [];
  }));
