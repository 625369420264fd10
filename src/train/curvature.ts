/**
 * Curvature of the loss over all trainable parameters, as graphs over named inputs: Fisher-vector products and the Fisher's diagonal.
 * All are sums over examples; the host divides by N. An example's `weight` multiplies its part.
 *
 *   fvp    exact       Σ_n Jᵀ H J v       J = ∂z/∂θ, H = Hessian of the loss at the outputs z (= the Fisher, = the Gauss–Newton matrix)
 *          empirical   Σ_n g_n g_nᵀ v     g_n = ∂l_n/∂θ with the true targets
 *   diag   Σ_n Σ_columns (∇_n θ)²         columns: vectors at z whose outer products sum to H (exact), sampled (mc), ∂l_n/∂z (empirical)
 *
 * Where a model mixes the examples of a batch (batch normalisation in training), fvp is that of the whole batch's J; diag takes the
 * statistics of the batch as constants in the sums it undoes, like every per-example quantity of K-FAC.
 *
 * Several heads are one loss Σ weight·l: H is block diagonal, g_n the gradient of the sum.
 * Sources: Schraudolph 2002 (products with J, H, Jᵀ); Martens & Grosse 2015, section 2.
 */
import { accumulate, Builder, broadcast, full, reshape, times } from "../../ir/builder.js";
import { CompileError } from "../../ir/error.js";
import { exampleMarks } from "../../ir/examples.js";
import { cotangents, downstream } from "../../ir/grad.js";
import type { Graph, Node, Value } from "../../ir/graph.js";
import { OPS } from "../../ir/ops/index.js";
import { outerSquare, perExample } from "../../ir/per-example.js";
import { size } from "../../ir/type.js";
import { vmap } from "../../ir/vmap.js";
import type { Head } from "./heads.js";
import { derivative, exactVectors, type Loss, randomSigns, sampleTargets, signed, signShape, targetType } from "./loss.js";
import { prune } from "./step-model.js";
import { Knobs } from "./update.js";

/** A head, whatever its output is called. */
export type CurvatureHead = Omit<Head, "output">;

export interface CurvatureModel {
  /** Canonical forward graph; the heads' `z` are its own. */
  readonly graph: Graph;
  readonly heads: readonly CurvatureHead[];
}

export type DiagonalKind = "exact" | "empirical" | "mc";

export interface CurvatureForm {
  /** With an input `weight` [N]. */
  readonly masked?: boolean;
  /** Softmax targets below 0 are positions without a loss: then the exact Fisher reads the targets too. */
  readonly ignored?: boolean;
  /** mc: samples per example. Default 1. */
  readonly samples?: number;
  /** Elements that no value of a diagonal may exceed, as far as cutting columns and examples can achieve it. */
  readonly limit?: number;
}

const LIMIT = 2 ** 26;
/** Random streams of sampled columns, apart from those of training steps. */
const STREAM_COLUMNS = 4096;

const trainable = (m: CurvatureModel): Value[] => m.graph.params.filter((p) => p.trainable).map((p) => p.value);

/** Targets and weights as inputs, made on first use. */
class Inputs {
  readonly #b: Builder;
  readonly #targets = new Map<string, Value>();
  readonly #form: CurvatureForm;
  readonly weight: Value | undefined;

  constructor(b: Builder, m: CurvatureModel, form: CurvatureForm) {
    this.#b = b;
    this.#form = form;
    const n = m.heads[0]?.loss.z.type.shape[0] ?? 0;
    this.weight = form.masked ? b.input("weight", { dtype: "f32", shape: [n] }, 0) : undefined;
  }

  target({ loss, target }: CurvatureHead): Value {
    const known = this.#targets.get(target) ?? this.#b.input(target, targetType(loss), 0);
    this.#targets.set(target, known);
    return known;
  }

  /** v [.., n, ..shape of z] with what stands at ignored positions replaced by 0. `lead` axes stand before the examples. */
  keep(v: Value, head: CurvatureHead, lead: number): Value {
    const { kind, axis } = head.loss;
    if (!this.#form.ignored || kind !== "softmax-ce") return v;
    const target = this.target(head);
    const real = this.#b.emit("ge", [target, full(this.#b, target.type, 0)]);
    const axes = v.type.shape.map((_, k) => k).filter((k) => k >= lead && k !== axis + lead);
    return this.#b.emit("select", [broadcast(this.#b.emit, real, v.type.shape, axes), v, full(this.#b, v.type, 0)]);
  }
}

const finish = (b: Builder, m: CurvatureModel, results: ReadonlyMap<string, Value>): Graph => {
  const graph = prune(b.finish([...results].map(([name, value]) => ({ name, value }))));
  const left = graph.inputs.find((i) => i.value.name.startsWith("u/") && !m.graph.inputs.includes(i));
  if (left) throw new CompileError("internal", `"${left.value.name}" stands for a cotangent and must not be read`, `graph "${graph.name}"`);
  return graph;
};

/** v [.., n, ..] with example n multiplied by w [n]. */
const weighed = (b: Builder, v: Value, w: Value | undefined, axis = 0): Value => (w ? b.emit("mul", [v, broadcast(b.emit, w, v.type.shape, [axis])]) : v);

/** A stand-in for a cotangent at each z, to build what is linear in it; nothing that is computed may depend on it in the end. */
const standIns = (b: Builder, heads: readonly CurvatureHead[]): Map<Value, Value> =>
  new Map([...new Set(heads.map((h) => h.loss.z))].map((z) => [z, b.input(`u/${z.name}`, z.type, 0)]));

/** J·v at every z: Jᵀu is linear in u, so J v = ∂⟨v, Jᵀu⟩/∂u. A z that no parameter reaches is absent. */
function tangents(b: Builder, m: CurvatureModel, v: ReadonlyMap<Value, Value>): Map<Value, Value> {
  const u = standIns(b, m.heads);
  const seeds = new Map<Value, Value>();
  for (const [p, ct] of cotangents(b, u, [...v.keys()])) accumulate(b, seeds, ct, v.get(p) as Value);
  const back = cotangents(b, seeds, [...u.values()]);
  return new Map([...u].flatMap(([z, stand]) => (back.has(stand) ? [[z, back.get(stand) as Value] as const] : [])));
}

/** H x with H the Hessian of the loss with respect to z, of every example: the same for all targets. Shape of z. */
export function hessianTimes(b: Builder, loss: Loss, x: Value): Value {
  const { emit } = b;
  const { z, axis } = loss;
  const kept = z.type.shape.map((_, k) => k).filter((k) => k !== axis);
  const over = (v: Value) => broadcast(emit, v, z.type.shape, kept);
  switch (loss.kind) {
    case "half-sse": return x;
    case "mse": return times(b, x, 2 / size(z.type.shape.slice(1)));
    case "bernoulli-ce": {
      const p = emit("sigmoid", [z]);
      return emit("mul", [x, emit("mul", [p, emit("sub", [full(b, p.type, 1), p])])]);
    }
    case "softmax-ce": {
      const powers = emit("exp", [emit("sub", [z, over(emit("reduce_max", [z], { axes: [axis] }))])]);
      const p = emit("div", [powers, over(emit("reduce_sum", [powers], { axes: [axis] }))]);
      const mean = emit("reduce_sum", [emit("mul", [p, x])], { axes: [axis] });
      return emit("mul", [p, emit("sub", [x, over(mean)])]);
    }
    default: {
      // any other loss: H = Σ v vᵀ over its columns
      const vectors = exactVectors(b, loss);
      const columns = [vectors.type.shape[0] as number, z.type.shape[0] as number];
      const flat = (v: Value, lead: readonly number[]) => reshape(emit, v, [...lead, size(z.type.shape.slice(1))]);
      const products = emit("contract", [flat(vectors, columns), flat(x, columns.slice(1))], { spec: "cni,ni->cn" });
      return reshape(emit, emit("contract", [products, flat(vectors, columns)], { spec: "cn,cni->ni" }), z.type.shape);
    }
  }
}

/**
 * Fisher-vector product. Inputs: the model's own, `v/<param>` for every trainable parameter, `target` (empirical, or with `ignored`),
 * `weight` (with `masked`). Results: `fvp/<param>`, the sum over examples.
 */
export function fvpGraph(m: CurvatureModel, kind: "exact" | "empirical", form: CurvatureForm = {}): Graph {
  const b = Builder.from(m.graph);
  const { emit } = b;
  const inputs = new Inputs(b, m, form);
  const params = trainable(m);
  const jv = tangents(b, m, new Map(params.map((p) => [p, b.input(`v/${p.name}`, p.type)])));
  const heads = m.heads.filter((h) => jv.has(h.loss.z));
  const seeds = new Map<Value, Value>();
  if (kind === "exact") {
    for (const head of heads) {
      const product = inputs.keep(hessianTimes(b, head.loss, jv.get(head.loss.z) as Value), head, 0);
      accumulate(b, seeds, head.loss.z, weighed(b, times(b, product, head.weight), inputs.weight));
    }
  } else {
    const raw = heads.map((head) => ({ head, g: times(b, inputs.keep(derivative(b, head.loss, inputs.target(head)), head, 0), head.weight) }));
    // g_nᵀ v, [N]
    const slopes = raw.map(({ head, g }) => {
      const product = emit("mul", [g, jv.get(head.loss.z) as Value]);
      const rest = product.type.shape.map((_, k) => k).slice(1);
      return rest.length === 0 ? product : emit("reduce_sum", [product], { axes: rest });
    });
    const slope = slopes.length > 0 ? weighed(b, slopes.reduce((x, y) => emit("add", [x, y])), inputs.weight) : undefined;
    for (const { head, g } of raw) accumulate(b, seeds, head.loss.z, weighed(b, g, slope));
  }
  const back = cotangents(b, seeds, params);
  return finish(b, m, new Map(params.map((p) => [`fvp/${p.name}`, back.get(p) ?? full(b, p.type, 0)])));
}

/** Vectors at the z of some heads that go back together, [count, ..shape of z]. */
interface Columns {
  readonly vectors: ReadonlyMap<Value, Value>;
  readonly count: number;
}

/** Columns whose squares are summed and then divided by `samples`. */
function columnsOf(b: Builder, m: CurvatureModel, kind: DiagonalKind, inputs: Inputs, samples: number): Columns[] {
  const { emit } = b;
  const lift = (v: Value) => reshape(emit, v, [1, ...v.type.shape]);
  const root = inputs.weight && emit("sqrt", [inputs.weight]);
  const scaled = (v: Value, head: CurvatureHead, factor: number) => weighed(b, times(b, inputs.keep(v, head, 1), factor), root, 1);
  const joint = (vectorOf: (head: CurvatureHead, k: number) => Value, count: number, factor: (weight: number) => number): Columns => {
    const vectors = new Map<Value, Value>();
    m.heads.forEach((head, k) => accumulate(b, vectors, head.loss.z, scaled(vectorOf(head, k), head, factor(head.weight))));
    return { vectors, count };
  };
  switch (kind) {
    case "empirical": return [joint((head) => lift(derivative(b, head.loss, inputs.target(head))), 1, (w) => w)];
    // sampled independently and of mean zero: one column carries all heads
    case "mc": {
      const knobs = new Knobs(b);
      const key = [knobs.get("seed"), knobs.get("step")] as const;
      const draw = (head: CurvatureHead, k: number, s: number) => {
        const stream = STREAM_COLUMNS + 2 * (s * m.heads.length + k);
        // a custom loss says nothing of how to draw targets: random signs on its factor
        return lift(head.loss.kind === "custom" ? signed(b, head.loss, randomSigns(b, signShape(head.loss), key, stream)) : derivative(b, head.loss, sampleTargets(b, head.loss, key, stream)));
      };
      return Array.from({ length: samples }, (_, s) => joint((head, k) => draw(head, k, s), 1, Math.sqrt));
    }
    case "exact": return m.heads.map((head) => {
      const all = exactVectors(b, head.loss);
      return { vectors: new Map([[head.loss.z, scaled(all, head, Math.sqrt(head.weight))]]), count: all.type.shape[0] as number };
    });
    default: return kind satisfies never;
  }
}

/**
 * Diagonal of the Fisher. Inputs: the model's own, `target` (empirical, or with `ignored`), `weight` (with `masked`), `run.seed` and
 * `run.step` (mc). Results: `diag/<param>`, the sum over examples.
 *
 * @throws CompileError "examples-lost" where the gradient of one example cannot be told.
 */
export function diagonalGraph(m: CurvatureModel, kind: DiagonalKind, form: CurvatureForm = {}): Graph {
  const b = Builder.from(m.graph);
  const inputs = new Inputs(b, m, form);
  const params = trainable(m);
  const samples = kind === "mc" ? (form.samples ?? 1) : 1;
  const sums = new Map<Value, Value>();
  for (const columns of columnsOf(b, m, kind, inputs, samples))
    for (const [p, square] of squares(b, m, params, columns, form.limit ?? LIMIT)) accumulate(b, sums, p, square);
  return finish(b, m, new Map(params.map((p) => {
    const total = sums.get(p);
    return [`diag/${p.name}`, total ? times(b, total, 1 / samples) : full(b, p.type, 0)];
  })));
}

/** Σ_n Σ_columns (∇_n p)² of every parameter that the columns reach. */
function squares(b: Builder, m: CurvatureModel, params: readonly Value[], { vectors, count }: Columns, limit: number): Map<Value, Value> {
  const u = standIns(b, m.heads.filter((h) => vectors.has(h.loss.z)));
  const start = b.nodes.length;
  const cts = cotangents(b, u, params);
  const backward = b.nodes.slice(start);
  const marks = exampleMarks(b.finish([]), { sharedSums: true });
  const moving = downstream(backward, [...u.values()]);
  const n = [...u.keys()][0]?.type.shape[0] ?? 0;
  /** How one parameter's square is made from stacked values. */
  const recipes = new Map<Value, (stacked: ReadonlyMap<Value, Value>) => Value>();
  const made: Node[] = [];
  let widest = largest(backward, moving);
  for (const [p, ct] of cts) {
    const direct = outerSquare(b, backward, marks, ct);
    if (direct) {
      recipes.set(p, direct);
      continue;
    }
    const apart = (range?: { start: number; count: number }) => {
      const from = b.nodes.length;
      const value = perExample(b, backward, marks, [ct], range ? { range } : {}).get(ct) as Value;
      return { value, nodes: b.nodes.slice(from) };
    };
    const whole = apart();
    const width = largest(whole.nodes, new Set(whole.nodes.flatMap((x) => x.results)));
    const chunk = Math.max(1, Math.min(n, Math.floor((limit * n) / Math.max(1, width))));
    const parts = chunk >= n ? [whole] : pieces(n, chunk).map(apart);
    for (const part of parts) {
      made.push(...part.nodes);
      widest = Math.max(widest, largest(part.nodes, new Set(part.nodes.flatMap((x) => x.results))));
    }
    recipes.set(p, (stacked) => parts.map(({ value }) => {
      const v = stacked.get(value) as Value;
      return b.emit("reduce_sum", [b.emit("mul", [v, v])], { axes: [0, 1] });
    }).reduce((x, y) => b.emit("add", [x, y])));
  }
  const sums = new Map<Value, Value>();
  for (const piece of pieces(count, Math.max(1, Math.floor(limit / Math.max(1, widest))))) {
    const cut = new Map([...u].map(([z, stand]) => [stand, columnsFrom(b, vectors.get(z) as Value, piece)] as const));
    const stacked = vmap(b.emit, [...backward, ...made], cut);
    for (const [p, recipe] of recipes) accumulate(b, sums, p, recipe(stacked));
  }
  return sums;
}

const pieces = (n: number, chunk: number): { start: number; count: number }[] =>
  Array.from({ length: Math.ceil(n / chunk) }, (_, k) => ({ start: k * chunk, count: Math.min(chunk, n - k * chunk) }));

function columnsFrom(b: Builder, v: Value, { start, count }: { start: number; count: number }): Value {
  const { shape } = v.type;
  if (count === shape[0]) return v;
  return b.emit("slice", [v], { start: shape.map((_, k) => (k === 0 ? start : 0)), size: [count, ...shape.slice(1)], stride: shape.map(() => 1) });
}

/** Elements of the largest value among those; index maps are not stored. */
const largest = (nodes: readonly Node[], among: ReadonlySet<Value>): number =>
  nodes.reduce((most, node) => (OPS[node.op].movement || !node.results.some((r) => among.has(r)) ? most : Math.max(most, size((node.results[0] as Value).type.shape))), 0);
