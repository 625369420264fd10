/**
 * The first half of a step: forward, one backward pass for the gradient and the Fisher's columns together, and sums over examples of
 * gradients and of what curvature is made of.
 */
import { type Builder, broadcast, reshape, sumAll, times } from "../../ir/builder.js";
import { type ExampleAxis, exampleMarks } from "../../ir/examples.js";
import { cotangents } from "../../ir/grad.js";
import { producers, type Value } from "../../ir/graph.js";
import { vmap } from "../../ir/vmap.js";
import { squareSums } from "../kfac/diagonal.js";
import * as factors from "../kfac/factors.js";
import { type FisherColumns, fisherColumns } from "../kfac/fisher.js";
import type { Layer, Site } from "../kfac/layer.js";
import { matrixShape } from "../kfac/matrices.js";
import { inverseShape } from "../kfac/precondition.js";
import { scalingSums } from "../kfac/scaling.js";
import { scaleExamples } from "../kfac/tables.js";
import { headLosses, headSeeds, targetInputs } from "./heads.js";
import { diagonalParams, examplesOf, gradientSlot, layersOf, layerSlot, plainParams, type StepModel } from "./step-model.js";
import type { Knobs } from "./update.js";

export interface FrontForm {
  /** Statistics for A, G and F. */
  readonly stats: boolean;
  /** EKFAC's scalings in the eigenbases of now. */
  readonly scaling: boolean;
  readonly masked: boolean;
  readonly accumulate: boolean;
}

export interface FrontResult {
  readonly lossSum: Value;
  /** Sum over examples, by slot: matrices for layers, tensors for plain parameters. */
  readonly gradients: ReadonlyMap<string, Value>;
  /** Of layers' sites: what their gradients are sums of, next to the sites' inputs. */
  readonly cotangents: ReadonlyMap<Site, Value>;
  /** Sums over examples of what a layer's curvature is made of, by layer and part (A, G, F, S). */
  readonly stats: ReadonlyMap<Layer, Readonly<Record<string, Value>>>;
  /** Sums over examples of squared gradients, of parameters with a diagonal Fisher. */
  readonly squares: ReadonlyMap<Value, Value>;
}

export function buildFront(b: Builder, m: StepModel, knobs: Knobs, { stats, masked, scaling }: FrontForm): FrontResult {
  const { heads } = m;
  const { emit } = b;
  const targets = targetInputs(b, heads);
  const weight = masked ? b.input("weight", { dtype: "f32", shape: [examplesOf(m)] }, 0) : undefined;
  const zMark: ExampleAxis = { axis: 0, outer: 1, inner: 1 };
  const weigh = (v: Value, w: Value | undefined, mark: ExampleAxis) => (w ? scaleExamples(b, v, w, mark) : v);

  const losses = headLosses(b, heads, targets).total;
  const lossSum = sumAll(emit, weight ? emit("mul", [losses, weight]) : losses);
  const raw = headSeeds(b, heads, targets);
  const seeds = new Map([...raw].map(([z, v]) => [z, weigh(v, weight, zMark)] as const));
  const layers = layersOf(m);
  const plain = plainParams(m);
  const sites = layers.flatMap((l) => l.sites);
  const wanted = [...sites.map((s) => s.output.value), ...plain];

  const start = b.nodes.length;
  const cts = cotangents(b, seeds, wanted);
  const backward = b.nodes.slice(start);
  const diagonal = stats ? diagonalParams(m) : [];
  const curved = ((stats || scaling) && layers.length > 0) || diagonal.length > 0;
  const root = weight && curved ? emit("sqrt", [weight]) : undefined;
  const key = () => [knobs.get("seed"), knobs.get("step")] as const;
  const own = (): FisherColumns => ({ vectors: new Map([...raw].map(([z, v]) => [z, reshape(emit, v, [1, ...v.type.shape])])), count: 1, samples: 1 });
  const columns = curved ? (fisherColumns(b, heads, m.fisher, key, targets) ?? (root ? own() : undefined)) : undefined;

  // the gradient's cotangent and the Fisher's columns go back together
  const gradientOf = new Map<Value, Value>(cts);
  let fisherOf = (site: Site): Value | undefined => cts.get(site.output.value);
  let samples = 1;
  let stackedOf: ((v: Value) => Value | undefined) | undefined;
  if (columns) {
    samples = columns.samples;
    const stacked = new Map([...seeds].map(([z, seed]) => {
      const vectors = weigh(columns.vectors.get(z) as Value, root, { ...zMark, axis: 1 });
      return [seed, emit("concat", [reshape(emit, seed, [1, ...seed.type.shape]), vectors], { axis: 0 })] as const;
    }));
    const map = vmap(emit, backward, stacked);
    const made = new Map<Value, Value>();
    const marks = exampleMarks(b.finish([]), { sharedSums: true });
    const producer = new Map(backward.flatMap((node) => node.results.map((r) => [r, node] as const)));
    // column 0 of what carries examples; what is parameter-shaped is made again from column 0 of its inputs
    const first = (v: Value): Value => {
      const whole = map.get(v);
      if (!whole) return v;
      const known = made.get(v);
      if (known) return known;
      const mark = marks.get(v);
      const node = producer.get(v);
      const carries = stacked.has(v) || !node || (mark !== undefined && !("lost" in mark));
      const one = carries ? takeColumns(b, whole, 0, 1, true) : emit(node.op, node.inputs.map(first), node.attrs);
      made.set(v, one);
      return one;
    };
    for (const [v, ct] of cts) gradientOf.set(v, first(ct));
    const { count } = columns;
    stackedOf = (v) => {
      const whole = map.get(v);
      return whole && takeColumns(b, whole, 1, count, false);
    };
    fisherOf = (site) => {
      const ct = cts.get(site.output.value);
      return ct && stackedOf?.(ct);
    };
  }

  const bySite = (layer: Layer, of: (site: Site) => Value | undefined): Map<Site, Value> =>
    new Map(layer.sites.flatMap((site) => {
      const ct = of(site);
      return ct ? [[site, ct] as const] : [];
    }));
  const gradients = new Map<string, Value>();
  const reaching = new Map<Site, Value>();
  for (const layer of layers) {
    const own = bySite(layer, (s) => gradientOf.get(s.output.value));
    for (const [site, ct] of own) reaching.set(site, ct);
    gradients.set(gradientSlot(layer.name), factors.gradientSum(b, layer, own));
  }
  for (const p of plain) gradients.set(gradientSlot(p.name), gradientOf.get(p) ?? broadcast(emit, b.scalar(0), p.type.shape, []));

  const statistics = new Map<Layer, Readonly<Record<string, Value>>>();
  if (curved) {
    const scope: factors.Scope = {
      b, marks: m.marks ?? exampleMarks(m.graph, { sharedSums: true }), producer: producers(m.graph),
      ...(root && weight ? { weights: { root, sum: sumAll(emit, weight) } } : {}),
    };
    for (const layer of layers) {
      const columnsOf = bySite(layer, fisherOf);
      const sums = stats ? factors.curvatureSums(scope, layer, columnsOf, samples) : {};
      const basis = (side: "A" | "G") => (layer.sides[side] === "full" ? eigenbasis(b, layer, side) : undefined);
      const S = scaling && layer.form === "kronecker" ? scalingSums(scope, layer, columnsOf, samples, basis("A"), basis("G")) : undefined;
      statistics.set(layer, { ...sums, ...(S ? { S } : {}) });
    }
  }
  const squares = new Map<Value, Value>();
  if (diagonal.length > 0) {
    const stacked = columns && stackedOf && { count: columns.count, of: stackedOf };
    for (const [p, sum] of squareSums(b, { nodes: backward, seeds: [...seeds.values()], cotangents: cts }, diagonal, stacked)) squares.set(p, times(b, sum, 1 / samples));
  }
  return { lossSum, gradients, cotangents: reaching, stats: statistics, squares };
}

/** The eigenbasis of one side without the padding it is stored with. */
function eigenbasis(b: Builder, layer: Layer, side: "A" | "G"): Value {
  const stored = b.input(layerSlot(layer, `U${side}`), { dtype: "f32", shape: inverseShape(layer, side) });
  const d = side === "A" ? layer.dA : layer.dG;
  const wanted = matrixShape(layer, d, d);
  return stored.type.shape.every((n, k) => n === wanted[k]) ? stored : b.emit("slice", [stored], { start: wanted.map(() => 0), size: wanted, stride: wanted.map(() => 1) });
}

function takeColumns(b: Builder, v: Value, start: number, count: number, squeeze: boolean): Value {
  const shape = v.type.shape;
  const cut = b.emit("slice", [v], { start: shape.map((_, k) => (k === 0 ? start : 0)), size: shape.map((n, k) => (k === 0 ? count : n)), stride: shape.map(() => 1) });
  return squeeze ? reshape(b.emit, cut, shape.slice(1)) : cut;
}
