/**
 * Curvature statistics from rows. All scaling of factors is in this file.
 *
 *   A = (1/N) Σ_n Σ_t ā_nt ā_ntᵀ        G = (1/(N·T·samples)) Σ g_nt g_ntᵀ        ∇W̄ = (1/N) Σ_n Σ_t g_nt ā_ntᵀ
 *
 * per group of the layer, over all its sites; ā = [a; 1] where the bias is added. At a transposed site g rows go to A and input rows to G.
 * With `reduce`, ā is first averaged and g summed over an example's positions, and T is the number of sites. Diagonal sides keep
 * Σ ā² and Σ g². Block layers (scales) keep (1/(N·samples)) Σ u uᵀ per group, u = an example's whole gradient.
 *
 * Kernels leave sums over examples; the division by N comes where they are used. Matrices are [groups, rows, columns], without the first axis
 * where there is one group.
 */
import { type Builder, broadcast, contract, full, reshape, times } from "../../ir/builder.js";
import { type Mark, requireExamples } from "../../ir/examples.js";
import type { Node, Value } from "../../ir/graph.js";
import type { Layer, Site } from "./layer.js";
import { blockShape, matrixShape } from "./matrices.js";
import { add, extended, inputTable, LETTERS, outer, outputTable, perExample, scaleExamples, spreadExamples, squares, type Table, throughViews } from "./tables.js";

export interface Scope {
  readonly b: Builder;
  /** Of the forward graph's values. */
  readonly marks: ReadonlyMap<Value, Mark>;
  readonly producer: ReadonlyMap<Value, Node>;
  /** √w per example, [N], and Σ w: for batches whose examples have weights. Cotangents that come here have √w in them. */
  readonly weights?: { readonly root: Value; readonly sum: Value };
}

/** Σ_n Σ_t g āᵀ over all sites, [(groups), out, in(+1)]. `cotangents` by site, and `inputs` that are not the forward graph's own. */
export function gradientSum(b: Builder, layer: Layer, cotangents: ReadonlyMap<Site, Value>, inputs?: ReadonlyMap<Site, Value>): Value {
  return add(b, layer.sites.flatMap((site) => {
    const ct = cotangents.get(site);
    if (!ct) return [];
    const [a, g] = [inputTable(b, layer, site, inputs?.get(site)), outputTable(b, layer, site, ct)];
    if (layer.form === "block") return [reshape(b.emit, stacked(b, scaleParts(b, layer, site, a, g, (t) => overPositions(b, t))), matrixShape(layer))];
    const long = site.transposed ? g : a;
    const wide = layer.bias ? extended(b, long, site.ones ? 1 : 0) : long;
    return [site.transposed ? outer(b, a, wide) : outer(b, g, wide)];
  }));
}

/** A scale's gradient parts: Σ g·x, and Σ g for the bias (0 where this site adds none). */
function scaleParts(b: Builder, layer: Layer, site: Site, a: Table, g: Table, sum: (t: Table) => Value): Value[] {
  const x = g.columns > 0 ? broadcast(b.emit, a.value, g.value.type.shape, a.value.type.shape.map((_, k) => k + g.columns)) : a.value;
  const scale = sum({ ...g, value: b.emit("mul", [g.value, x]) });
  if (!layer.bias) return [scale];
  return [scale, site.ones ? sum(g) : full(b, scale.type, 0)];
}

/** Σ over all positions, [leading.., (groups)]. */
function overPositions(b: Builder, t: Table): Value {
  const first = t.columns + (t.grouped ? 1 : 0);
  const axes = t.value.type.shape.flatMap((_, k) => (k < first ? [] : [k]));
  return b.emit("reduce_sum", [t.value], { axes });
}

/** Values of one shape as the entries of a last axis. */
function stacked(b: Builder, parts: readonly Value[]): Value {
  const columns = parts.map((v) => reshape(b.emit, v, [...v.type.shape, 1]));
  return columns.length === 1 ? (columns[0] as Value) : b.emit("concat", columns, { axis: (columns[0] as Value).type.shape.length - 1 });
}

export type Curvature = { readonly A: Value; readonly G: Value } | { readonly F: Value };

/** @param columns cotangents by site, [columns, ..] or one without that axis; the Fisher is their sum divided by `samples`. */
export function curvatureSums(s: Scope, layer: Layer, columns: ReadonlyMap<Site, Value>, samples: number): Curvature | undefined {
  const { b } = s;
  const sites = layer.sites.filter((site) => columns.has(site));
  if (sites.length === 0) return undefined;
  if (layer.form === "block") {
    const total = add(b, sites.map((site) => exampleGradients(s, layer, site, columns.get(site) as Value)));
    const table: Table = { value: total, columns: total.type.shape.length - 2 - (layer.groups > 1 ? 1 : 0), grouped: layer.groups > 1 };
    const F = layer.dG * layer.dA === 1 ? reshape(b.emit, squares(b, table), blockShape(layer)) : outer(b, table, table);
    return { F: times(b, F, 1 / samples) };
  }
  const positions = layer.sharing === "reduce" ? layer.sites.length : layer.T;
  const parts = sites.map((site) => {
    const ct = columns.get(site) as Value;
    const weighted = s.weights && throughViews(b, site.input.value, s.producer, (x) => scaleExamples(b, x, (s.weights as { root: Value }).root, requireExamples(s.marks, x)));
    let a = inputTable(b, layer, site, weighted ?? site.input.value);
    let g = outputTable(b, layer, site, ct);
    if (layer.sharing === "reduce") {
      const mean = perExample(b, a, site.input, requireExamples(s.marks, site.input.value));
      a = { ...mean, value: times(b, mean.value, 1 / site.T) };
      g = perExample(b, g, site.output, requireExamples(s.marks, site.output.value));
    }
    const [sideA, sideG] = [layer.sides.A, layer.sides.G];
    const ones = layer.bias ? (site.ones && !site.transposed ? 1 : 0) : undefined;
    const count = (a.value.type.shape.slice(0, -1).reduce((n, d) => n * d, 1)) / layer.groups;
    return site.transposed
      ? { A: times(b, second(s, layer, g, sideA, ones, site, count), 1 / samples), G: times(b, second(s, layer, a, sideG, undefined, site, count), 1 / positions) }
      : { A: second(s, layer, a, sideA, ones, site, count), G: times(b, second(s, layer, g, sideG, undefined, site, count), 1 / (positions * samples)) };
  });
  return { A: add(b, parts.map((p) => p.A)), G: add(b, parts.map((p) => p.G)) };
}

/** Σ r rᵀ of a table's rows, or its diagonal. `ones`: a last feature of 1 or 0. `count`: rows per group. */
function second(s: Scope, layer: Layer, t: Table, side: "full" | "diagonal", ones: 0 | 1 | undefined, site: Site, count: number): Value {
  const { b } = s;
  if (side === "diagonal") {
    const main = squares(b, t);
    if (ones === undefined) return main;
    const corner = cornerOf(s, layer, site, ones, count);
    return b.emit("concat", [main, broadcast(b.emit, corner, [...main.type.shape.slice(0, -1), 1], [])], { axis: main.type.shape.length - 1 });
  }
  if (ones === undefined) return outer(b, t, t);
  if (ones === 0 || !s.weights) {
    const wide = extended(b, t, ones);
    return outer(b, wide, wide);
  }
  // rows of √w·a: the column of √w is assembled beside the product, since it is no constant
  const main = outer(b, t, t);
  const k = t.value.type.shape[t.value.type.shape.length - 1] as number;
  const first = t.grouped ? 1 : 0;
  const reduced = layer.sharing === "reduce";
  const mark = requireExamples(s.marks, site.input.value);
  const shape = t.value.type.shape.slice(first, -1);
  const column = spreadExamples(b, s.weights.root, shape, reduced ? { axis: 0, outer: 1, inner: 1 } : { ...mark, axis: site.input.positions.indexOf(mark.axis) });
  const labels = LETTERS.slice(0, shape.length);
  const border = contract(b.emit, `${t.grouped ? "G" : ""}${labels}z,${labels}->${t.grouped ? "G" : ""}z`, t.value, column);
  const [g, rank] = [t.grouped ? [layer.groups] : [], main.type.shape.length];
  const corner = broadcast(b.emit, cornerOf(s, layer, site, 1, count), [...g, 1, 1], []);
  const top = b.emit("concat", [main, reshape(b.emit, border, [...g, k, 1])], { axis: rank - 1 });
  const bottom = b.emit("concat", [reshape(b.emit, border, [...g, 1, k]), corner], { axis: rank - 1 });
  return b.emit("concat", [top, bottom], { axis: rank - 2 });
}

/** Σ 1·1 over a site's rows, a scalar. */
function cornerOf(s: Scope, layer: Layer, site: Site, ones: 0 | 1, count: number): Value {
  if (ones === 0) return s.b.scalar(0);
  if (!s.weights) return s.b.scalar(count);
  return s.b.emit("mul", [s.weights.sum, s.b.scalar(layer.sharing === "reduce" ? 1 : site.T)]);
}

/** A block layer's gradient of each example at one site, [leading.., (groups), N, dA]. */
function exampleGradients(s: Scope, layer: Layer, site: Site, ct: Value): Value {
  const { b } = s;
  const [a, g] = [inputTable(b, layer, site), outputTable(b, layer, site, ct)];
  const mark = requireExamples(s.marks, site.output.value);
  const sum = (t: Table): Value => {
    const each = perExample(b, t, site.output, mark).value;
    return reshape(b.emit, each, each.type.shape.slice(0, -1));
  };
  return stacked(b, scaleParts(b, layer, site, a, g, sum));
}
