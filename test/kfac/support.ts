/**
 * For tests of layers: small models from either front end, the table of what was registered as text, statistics of one batch in float64,
 * and the same statistics by explicit loops over rows.
 */
import { evaluate } from "../../ir/evaluate.js";
import type { Graph } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { parse } from "../../ir/parse.js";
import { runPasses } from "../../ir/pass.js";
import { CANONICAL } from "../../ir/passes/index.js";
import { size } from "../../ir/type.js";
import { type CompileOptions, type ForwardModel, prepare } from "../../src/compile.js";
import { type ModelBuilder, model } from "../../src/dsl/index.js";
import { toForward } from "../../src/dsl/model.js";
import { type Layer, type Registration, layerInfo } from "../../src/kfac/layer.js";
import { register, type RegisterOptions } from "../../src/kfac/register.js";
import type { FrontForm } from "../../src/train/front.js";
import { frontGraph } from "../../src/train/step.js";
import type { StepModel } from "../../src/train/step-model.js";
import { bind, type Forward, options, random, tensor } from "../support/models.js";

type Tensor = ReturnType<ModelBuilder["input"]>;

/** A model in the DSL; `build` returns its output. Weights are random, so that no scale is 1 and no bias 0. */
export function net(build: (m: ModelBuilder) => Tensor, seed = 1): Forward {
  const definition = model("net", (m) => m.output("y", build(m)));
  return (batch) => shaken(toForward(definition, batch), seed);
}

function shaken(forward: ForwardModel, seed: number): ForwardModel {
  const weights = new Map([...forward.weights].map(([name, w], k) => {
    const fixed = /mean|variance/.test(name) || !forward.graph.params.find((p) => p.value.name === name)?.trainable;
    const next = random(seed * 100 + k);
    return [name, fixed ? w : { shape: w.shape, data: Float32Array.from(w.data, () => 0.8 * next()) }] as const;
  }));
  return { ...forward, weights };
}

/** A model from text: parameters, inputs and nodes of a graph that returns `y`. */
export const kir = (text: string): Graph => runPasses(parse(`graph g { ${text} }`), CANONICAL, { verify: true });

/** Layers and orphans of a text graph, as `spell` does. */
export const table = (text: string, more: RegisterOptions = {}): string[] => spell(register(kir(text), more));
export const tableOf = (forward: Forward, more: Partial<CompileOptions> = {}): string[] =>
  spell(prepare(forward(2), options({ loss: "half-sse", ...more })).registration);

/**
 * One line per layer: `fc.weight dense 4→3 +fc.bias T1`, with `4→3×2` for two groups; `diag(A)`, `block` and `reduce` where they apply; then
 * every site but a single plain one. One line per orphan: `x: why`.
 */
export const spell = ({ layers, orphans }: Registration): string[] => [...layers.map(spellLayer), ...orphans.map((o) => `${o.param}: ${o.reason}`)];

export function spellLayer(l: Layer): string {
  const info = layerInfo(l);
  const inputs = l.dA - (l.bias ? 1 : 0);
  const diagonal = (["A", "G"] as const).filter((s) => l.sides[s] === "diagonal");
  const site = (s: Layer["sites"][0]): string => `${s.transposed ? "transposed" : "plain"}${s.ones ? " +bias" : ""} T${s.T}`;
  const plain = l.sites.length === 1 && !l.sites[0]?.transposed;
  return [
    info.name, info.kind, `${inputs}→${l.dG}${l.groups > 1 ? `×${l.groups}` : ""}`, ...(info.params.bias ? [`+${info.params.bias}`] : []), `T${l.T}`,
    ...(l.form === "block" ? ["block"] : []), ...(l.sharing === "reduce" ? ["reduce"] : []), ...(diagonal.length > 0 ? [`diag(${diagonal.join("")})`] : []),
    ...(plain ? [] : [`[${l.sites.map(site).join(", ")}]`]),
  ].join(" ");
}

/** Numbers for every input of a model but targets and weights; whole numbers below `below`. */
export function inputsOf(m: StepModel, seed: number, below = 3): Record<string, NdArray> {
  const next = random(seed);
  return Object.fromEntries(m.graph.inputs.map(({ value: { name, type } }) => [name, type.dtype === "i32"
    ? ndarray("i32", type.shape, Float64Array.from({ length: size(type.shape) }, () => Math.min(below - 1, Math.floor(((next() + 1) / 2) * below))))
    : tensor(type.shape, next)]));
}

/** Statistics and gradients of batches through the entry graph that a program runs. */
export class Lab {
  readonly m: StepModel;
  readonly params: Readonly<Record<string, NdArray>>;
  readonly #graphs = new Map<string, Graph>();

  constructor(forward: Forward, batch: number, more: Partial<CompileOptions> = {}) {
    const source = forward(batch);
    this.m = prepare(source, options({ loss: "half-sse", fisher: { kind: "empirical", samples: 1 }, ...more }));
    this.params = Object.fromEntries([...source.weights].map(([name, w]) => [name, ndarray("f32", w.shape, w.data)]));
  }

  get layers(): readonly Layer[] {
    return this.m.registration.layers;
  }

  layer(name: string): Layer {
    const found = this.layers.find((l) => l.name === name);
    if (!found) throw new Error(`no layer "${name}" among ${spell(this.m.registration).join("; ")}`);
    return found;
  }

  /** Means over `count` examples: `kfac/…` and sums `grad/…`. `weight` makes it the masked form. */
  stats(inputs: Readonly<Record<string, NdArray>>, count: number, form: Partial<FrontForm> = {}): Record<string, NdArray> {
    const full = { stats: true, scaling: false, masked: "weight" in inputs, accumulate: false, ...form };
    const key = JSON.stringify(full);
    const graph = this.#graphs.get(key) ?? frontGraph(this.m, full);
    this.#graphs.set(key, graph);
    return evaluate(graph, bind(graph, { ...this.params, ...inputs }, { emaBlend: 1, scaleBlend: 1, count }));
  }

  /** The model's first output. */
  predict(inputs: Readonly<Record<string, NdArray>>, params: Readonly<Record<string, NdArray>> = this.params): NdArray {
    const graph = { ...this.m.graph, results: this.m.graph.results.slice(0, 1) };
    return Object.values(evaluate(graph, { ...params, ...inputs }))[0] as NdArray;
  }
}

/** One row of a layer: what an example brings at one position of one site. Lengths: every a alike, every g alike. */
export interface Row {
  readonly example: number;
  readonly group?: number;
  readonly site?: number;
  /** With the 1 of the bias. */
  readonly a: readonly number[];
  /** Of each Fisher column one. */
  readonly g: readonly (readonly number[])[];
  /** Cotangent of the gradient; default: the only column. */
  readonly d?: readonly number[];
}

export interface Expected {
  readonly A: Float64Array;
  readonly G: Float64Array;
  readonly gradient: Float64Array;
}

/** A, G and the sum of gradients of rows by their formulas; `weights` by example. */
export function fromRows(rows: readonly Row[], { examples, groups = 1, reduce = false, weights }: { examples: number; groups?: number; reduce?: boolean; weights?: readonly number[] }): Expected {
  const w = (n: number): number => weights?.[n] ?? 1;
  const total = Array.from({ length: examples }, (_, n) => w(n)).reduce((x, y) => x + y);
  const first = rows[0] as Row;
  const [dA, dG] = [first.a.length, (first.g[0] as readonly number[]).length];
  const A = new Float64Array(groups * dA * dA);
  const G = new Float64Array(groups * dG * dG);
  const gradient = new Float64Array(groups * dG * dA);
  const add = (into: Float64Array, at: number, left: readonly number[], right: readonly number[], by: number): void =>
    left.forEach((l, i) => { right.forEach((r, j) => { into[at + i * right.length + j] = (into[at + i * right.length + j] as number) + by * l * r; }); });
  for (const r of rows) add(gradient, (r.group ?? 0) * dG * dA, r.d ?? (r.g[0] as readonly number[]), r.a, w(r.example));
  // positions of an example at one site in one group
  const bags = new Map<string, Row[]>();
  for (const r of rows) bags.set(`${r.example} ${r.group ?? 0} ${r.site ?? 0}`, [...(bags.get(`${r.example} ${r.group ?? 0} ${r.site ?? 0}`) ?? []), r]);
  const positions = [...bags.values()].filter((b) => b[0]?.example === 0 && (b[0]?.group ?? 0) === 0).reduce((n, b) => n + (reduce ? 1 : b.length), 0);
  const sum = (lists: readonly (readonly number[])[]): number[] => (lists[0] as readonly number[]).map((_, k) => lists.reduce((s, l) => s + (l[k] as number), 0));
  for (const bag of bags.values()) {
    const { example, group = 0 } = bag[0] as Row;
    const merged: { a: readonly number[]; g: readonly (readonly number[])[] }[] = reduce
      ? [{ a: sum(bag.map((r) => r.a)).map((x) => x / bag.length), g: (bag[0] as Row).g.map((_, c) => sum(bag.map((r) => r.g[c] as readonly number[]))) }]
      : bag;
    for (const { a, g } of merged) {
      add(A, group * dA * dA, a, a, w(example) / total);
      for (const v of g) add(G, group * dG * dG, v, v, w(example) / (total * positions));
    }
  }
  return { A, G, gradient };
}

/** The main diagonal of each group's square. */
export const diagonals = (m: Float64Array, d: number): Float64Array =>
  Float64Array.from({ length: m.length / d }, (_, k) => m[Math.floor(k / d) * d * d + (k % d) * (d + 1)] as number);

/** Examples of some inputs by number, one after the other. */
export const pickExamples = (inputs: Readonly<Record<string, NdArray>>, which: readonly number[]): Record<string, NdArray> =>
  Object.fromEntries(Object.entries(inputs).map(([name, x]) => {
    const per = size(x.shape.slice(1));
    return [name, ndarray(x.dtype, [which.length, ...x.shape.slice(1)], which.flatMap((n) => [...x.data.slice(n * per, (n + 1) * per)]))];
  }));
