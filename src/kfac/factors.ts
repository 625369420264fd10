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
import { type Builder, broadcast, contract, full, permute, reshape, sumAll } from "../../ir/builder.js";
import { type ExampleAxis, type Mark, requireExamples } from "../../ir/examples.js";
import type { Node, Value } from "../../ir/graph.js";
import { size } from "../../ir/type.js";
import type { Layer, Rows, Site } from "./layer.js";

const LETTERS = "abcdefghijklmnopqrstuvwxyz";

export interface Scope {
  readonly b: Builder;
  /** Of the forward graph's values. */
  readonly marks: ReadonlyMap<Value, Mark>;
  readonly producer: ReadonlyMap<Value, Node>;
  /** √w per example, [N], and Σ w: for batches whose examples have weights. Cotangents that come here have √w in them. */
  readonly weights?: { readonly root: Value; readonly sum: Value };
}

/** [groups, rows, columns], or [rows, columns] for one group. */
export const matrixShape = (layer: Layer, rows = layer.dG, columns = layer.dA): number[] => (layer.groups > 1 ? [layer.groups, rows, columns] : [rows, columns]);

/** A factor's state: square, or its diagonal. */
export const factorShape = (layer: Layer, side: "A" | "G"): number[] => {
  const d = side === "A" ? layer.dA : layer.dG;
  return [...(layer.groups > 1 ? [layer.groups] : []), ...(layer.sides[side] === "full" ? [d, d] : [d])];
};

/** Features of a site's rows: [leading.., (groups), positions.., features]. */
interface Table {
  readonly value: Value;
  /** Axes before the positions: Fisher columns, then groups. */
  readonly columns: number;
  readonly grouped: boolean;
}

/** `leading` axes stand before the value's own. */
function tableOf(b: Builder, layer: Layer, value: Value, rows: Rows, leading: number): Table {
  const { shape } = value.type;
  const shifted = (axes: readonly number[]) => axes.map((axis) => axis + leading);
  const lead = Array.from({ length: leading }, (_, k) => k);
  const moved = permute(b.emit, value, [...lead, ...shifted(rows.groups), ...shifted(rows.positions), ...shifted(rows.features)]);
  const grouped = layer.groups > 1;
  const sizes = (axes: readonly number[]) => shifted(axes).map((k) => shape[k] as number);
  const table = reshape(b.emit, moved, [...lead.map((k) => shape[k] as number), ...(grouped ? [layer.groups] : []), ...sizes(rows.positions), size(sizes(rows.features))]);
  return { value: table, columns: leading, grouped };
}

const leadingOf = (value: Value, rows: Rows): number => value.type.shape.length - rows.value.type.shape.length;
const outputTable = (b: Builder, layer: Layer, site: Site, cotangent: Value): Table => tableOf(b, layer, cotangent, site.output, leadingOf(cotangent, site.output));
const inputTable = (b: Builder, layer: Layer, site: Site, value = site.input.value): Table => tableOf(b, layer, value, site.input, 0);

/** Sums over all positions but the example: [leading.., (groups), N, features]. */
function perExample(b: Builder, t: Table, rows: Rows, mark: ExampleAxis): Table {
  const first = t.columns + (t.grouped ? 1 : 0);
  const at = first + rows.positions.indexOf(mark.axis);
  const shape = t.value.type.shape;
  const n = (shape[at] as number) / (mark.outer * mark.inner);
  const split = reshape(b.emit, t.value, [...shape.slice(0, at), mark.outer, n, mark.inner, ...shape.slice(at + 1)]);
  const last = split.type.shape.length - 1;
  const axes = Array.from({ length: last - first }, (_, k) => first + k).filter((k) => k !== at + 1 && split.type.shape[k] !== 1);
  const value = axes.length > 0 ? b.emit("reduce_sum", [split], { axes }) : split;
  return { ...t, value: reshape(b.emit, value, [...shape.slice(0, first), n, shape[shape.length - 1] as number]) };
}

/** One more feature, `last` everywhere. */
function extended(b: Builder, t: Table, last: 0 | 1): Table {
  const low = t.value.type.shape.map(() => 0);
  return { ...t, value: b.emit("pad", [t.value], { low, high: low.map((_, k) => (k === low.length - 1 ? 1 : 0)), value: last }) };
}

/** Σ over Fisher columns and positions of left ⊗ right, per group. Tables of different columns are both summed only where both have them. */
function outer(b: Builder, left: Table, right: Table): Value {
  const labels = (t: Table, last: string): string => {
    const positions = t.value.type.shape.length - t.columns - (t.grouped ? 1 : 0) - 1;
    return `${"C".repeat(t.columns)}${t.grouped ? "G" : ""}${LETTERS.slice(0, positions)}${last}`;
  };
  return contract(b.emit, `${labels(left, "y")},${labels(right, "z")}->${left.grouped ? "G" : ""}yz`, left.value, right.value);
}

/** Σ over Fisher columns and positions of each feature's square, [(groups), features]. */
function squares(b: Builder, t: Table): Value {
  const square = b.emit("mul", [t.value, t.value]);
  const last = square.type.shape.length - 1;
  const axes = square.type.shape.flatMap((_, k) => (k === last || (t.grouped && k === t.columns) ? [] : [k]));
  return b.emit("reduce_sum", [square], { axes });
}

const add = (b: Builder, values: readonly Value[]): Value => values.reduce((x, y) => b.emit("add", [x, y]));
const times = (b: Builder, v: Value, factor: number): Value => (factor === 1 ? v : b.emit("mul", [v, full(b, v.type, factor)]));

/** Σ_n Σ_t g āᵀ over all sites, [(groups), out, in(+1)]. `cotangents` by site. */
export function gradientSum(b: Builder, layer: Layer, cotangents: ReadonlyMap<Site, Value>): Value {
  return add(b, layer.sites.flatMap((site) => {
    const ct = cotangents.get(site);
    if (!ct) return [];
    const [a, g] = [inputTable(b, layer, site), outputTable(b, layer, site, ct)];
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

/** [(groups), n, n]: a block over the dG·dA numbers of a group. */
export const blockShape = (layer: Layer): number[] => matrixShape(layer, layer.dG * layer.dA, layer.dG * layer.dA);

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

/** Elements that a per-example product of a layer may have at once; more examples go one slice after the other. */
const CHUNK = 2 ** 24;

/**
 * EKFAC's scalings, Σ over examples and columns of (U_Gᵀ ∇_n W̄ U_A)², [(groups), dG, dA] (George et al. 2018): ∇_n is summed over an example's
 * positions and sites before squaring.
 *
 * @param UA, UG eigenbases [(groups), d, d], undefined on a diagonal side
 */
export function scalingSums(s: Scope, layer: Layer, columns: ReadonlyMap<Site, Value>, samples: number, UA: Value | undefined, UG: Value | undefined): Value | undefined {
  const { b } = s;
  const sites = layer.sites.filter((site) => columns.has(site));
  if (sites.length === 0) return undefined;
  const turn = (t: Table, U: Value | undefined): Table => {
    if (!U) return t;
    const rank = t.value.type.shape.length;
    const labels = `${"C".repeat(t.columns)}${t.grouped ? "G" : ""}${LETTERS.slice(0, rank - t.columns - (t.grouped ? 1 : 0) - 1)}`;
    return { ...t, value: contract(b.emit, `${labels}y,${t.grouped ? "G" : ""}yz->${labels}z`, t.value, U) };
  };
  const turned = sites.map((site) => {
    const [a, g] = [inputTable(b, layer, site), outputTable(b, layer, site, columns.get(site) as Value)];
    const wide = (t: Table) => (layer.bias ? extended(b, t, site.ones && !site.transposed ? 1 : 0) : t);
    return site.transposed
      ? { site, left: turn(a, UG), right: turn(wide(g), UA), leftRows: site.input, rightRows: site.output }
      : { site, left: turn(g, UG), right: turn(wide(a), UA), leftRows: site.output, rightRows: site.input };
  });
  const only = turned[0] as (typeof turned)[0];
  const label = layer.groups > 1 ? "G" : "";
  if (sites.length === 1 && layer.T === 1) {
    // one row per example: the square of a product is the product of squares
    const square = (t: Table): Table => {
      const value = b.emit("mul", [t.value, t.value]);
      return t.columns > 0 ? { ...t, columns: 0, value: b.emit("reduce_sum", [value], { axes: [0] }) } : { ...t, value };
    };
    return times(b, outer(b, square(only.left), square(only.right)), 1 / samples);
  }
  const placed = turned.map(({ site, left, right, leftRows, rightRows }) => ({
    left: byExample(b, left, leftRows, requireExamples(s.marks, leftRows === site.input ? site.input.value : site.output.value)),
    right: byExample(b, right, rightRows, requireExamples(s.marks, rightRows === site.input ? site.input.value : site.output.value)),
  }));
  const n = (placed[0]?.left.value.type.shape[(placed[0]?.left.columns ?? 0) + (label ? 1 : 0)] ?? 1) as number;
  const lead = Math.max(...placed.map((p) => (p.left.columns + p.right.columns > 0 ? ((p.left.columns ? p.left : p.right).value.type.shape[0] as number) : 1)));
  const chunk = Math.max(1, Math.min(n, Math.floor(CHUNK / (lead * layer.groups * layer.dG * layer.dA))));
  const parts: Value[] = [];
  for (let start = 0; start < n; start += chunk) {
    const cut = (t: Table): Value => {
      const axis = t.columns + (t.grouped ? 1 : 0);
      const { shape } = t.value.type;
      if (chunk === n) return t.value;
      const count = Math.min(chunk, n - start);
      return b.emit("slice", [t.value], { start: shape.map((_, k) => (k === axis ? start : 0)), size: shape.map((d, k) => (k === axis ? count : d)), stride: shape.map(() => 1) });
    };
    const each = add(b, placed.map(({ left, right }) => {
      const c = left.columns + right.columns > 0 ? "C" : "";
      return contract(b.emit, `${"C".repeat(left.columns)}${label}npy,${"C".repeat(right.columns)}${label}npz->${c}${label}nyz`, cut(left), cut(right));
    }));
    const square = b.emit("mul", [each, each]);
    const c = square.type.shape.length - 3 - (label ? 1 : 0);
    parts.push(b.emit("reduce_sum", [square], { axes: [...(c > 0 ? [0] : []), c + (label ? 1 : 0)] }));
  }
  return times(b, add(b, parts), 1 / samples);
}

/** [leading.., (groups), N, positions, features] with an example's positions merged. */
function byExample(b: Builder, t: Table, rows: Rows, mark: ExampleAxis): Table {
  const first = t.columns + (t.grouped ? 1 : 0);
  const { shape } = t.value.type;
  const at = first + rows.positions.indexOf(mark.axis);
  const n = (shape[at] as number) / (mark.outer * mark.inner);
  const split = reshape(b.emit, t.value, [...shape.slice(0, at), mark.outer, n, mark.inner, ...shape.slice(at + 1)]);
  const others = split.type.shape.map((_, k) => k).filter((k) => k !== at + 1);
  const moved = permute(b.emit, split, [...others.slice(0, first), at + 1, ...others.slice(first)]);
  const features = shape[shape.length - 1] as number;
  const positions = size(shape.slice(first, -1)) / n;
  return { ...t, value: reshape(b.emit, moved, [...shape.slice(0, first), n, positions, features]) };
}

/** A per-example vector [N] repeated over a shape whose `mark.axis` carries the examples. */
export function spreadExamples(b: Builder, perExampleValue: Value, shape: readonly number[], mark: ExampleAxis): Value {
  const n = perExampleValue.type.shape[0] as number;
  const split = [...shape.slice(0, mark.axis), mark.outer, n, mark.inner, ...shape.slice(mark.axis + 1)];
  return reshape(b.emit, broadcast(b.emit, perExampleValue, split, [mark.axis + 1]), shape);
}

/** Every example of a value multiplied by its entry of `factors`. */
export const scaleExamples = (b: Builder, value: Value, factors: Value, mark: ExampleAxis): Value =>
  b.emit("mul", [value, spreadExamples(b, factors, value.type.shape, mark)]);

/** x scaled through the chain of linear views that leads from its source; the views are applied again to the scaled source. */
export function throughViews(b: Builder, value: Value, producer: ReadonlyMap<Value, Node>, scale: (source: Value) => Value): Value {
  const node = producer.get(value);
  const linear = node && (["reshape", "permute", "slice", "window", "broadcast"].includes(node.op) || (node.op === "pad" && node.attrs.value === 0));
  if (!node || !linear) return scale(value);
  return b.emit(node.op, [throughViews(b, node.inputs[0] as Value, producer, scale)], node.attrs);
}

/** Traces of square matrices, or sums of diagonals: a scalar, [groups] for several. */
export function trace(b: Builder, layer: Layer, side: "A" | "G", factor: Value): Value {
  const d = side === "A" ? layer.dA : layer.dG;
  const groups = layer.groups > 1 ? [layer.groups] : [];
  if (layer.sides[side] === "diagonal") return groups.length === 0 ? sumAll(b.emit, factor) : b.emit("reduce_sum", [factor], { axes: [1] });
  const flat = reshape(b.emit, factor, [...groups, d * d]);
  const zero = groups.map(() => 0);
  const diagonal = b.emit("slice", [flat], { start: [...zero, 0], size: [...groups, d], stride: [...zero.map(() => 1), d + 1] });
  return b.emit("reduce_sum", [diagonal], { axes: [groups.length] });
}

/** Parameters as the matrix [(groups), out, in(+1)] that ∇W̄ has. */
export function asMatrix(b: Builder, layer: Layer): Value {
  const { emit } = b;
  const { weight, bias } = layer;
  const w = permute(emit, weight.view, [...weight.groups, ...weight.out, ...weight.in]);
  const matrix = reshape(emit, w, matrixShape(layer, layer.dG, layer.dA - (bias ? 1 : 0)));
  if (!bias) return matrix;
  const ordered = reshape(emit, bias.view, bias.perm.map((k) => bias.counts[k] as number));
  const column = permute(emit, ordered, bias.perm.map((_, k) => bias.perm.indexOf(k)));
  return emit("concat", [matrix, reshape(emit, column, matrixShape(layer, layer.dG, 1))], { axis: matrix.type.shape.length - 1 });
}

/** A matrix whose first rows and columns are [(groups), out, in(+1)], as tensors in the shapes of the weight's and the bias's views. */
export function fromMatrix(b: Builder, layer: Layer, matrix: Value): { weight: Value; bias: Value | undefined } {
  const { emit } = b;
  const { weight, bias } = layer;
  const width = layer.dA - (bias ? 1 : 0);
  const first = layer.groups > 1 ? [layer.groups] : [];
  const zero = first.map(() => 0);
  const cut = (start: number, n: number) => {
    const wanted = [...first, layer.dG, n];
    return matrix.type.shape.every((d, k) => d === wanted[k]) ? matrix : emit("slice", [matrix], { start: [...zero, 0, start], size: wanted, stride: wanted.map(() => 1) });
  };
  const { shape } = weight.view.type;
  const axes = [...weight.groups, ...weight.out, ...weight.in];
  const placed = reshape(emit, cut(0, width), axes.map((axis) => shape[axis] as number));
  const made = permute(emit, placed, axes.map((_, axis) => axes.indexOf(axis)));
  const column = bias && permute(emit, reshape(emit, cut(width, 1), bias.counts), bias.perm);
  return { weight: made, bias: bias && column && reshape(emit, column, bias.view.type.shape) };
}
