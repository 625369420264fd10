/**
 * Rows of a layer as tables [leading.., (groups), positions.., features], and the sums over them that statistics are made of. `leading` axes
 * (Fisher columns) stand before the value's own; the axis of groups is left out where there is one group.
 */
import { type Builder, broadcast, contract, permute, reshape } from "../../ir/builder.js";
import type { ExampleAxis } from "../../ir/examples.js";
import type { Node, Value } from "../../ir/graph.js";
import { size } from "../../ir/type.js";
import type { Layer, Rows, Site } from "./layer.js";

export const LETTERS = "abcdefghijklmnopqrstuvwxyz";

/** Features of a site's rows: [leading.., (groups), positions.., features]. */
export interface Table {
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
export const outputTable = (b: Builder, layer: Layer, site: Site, cotangent: Value): Table => tableOf(b, layer, cotangent, site.output, leadingOf(cotangent, site.output));
export const inputTable = (b: Builder, layer: Layer, site: Site, value = site.input.value): Table => tableOf(b, layer, value, site.input, 0);

/** Sums over all positions but the example: [leading.., (groups), N, features]. */
export function perExample(b: Builder, t: Table, rows: Rows, mark: ExampleAxis): Table {
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
export function extended(b: Builder, t: Table, last: 0 | 1): Table {
  const low = t.value.type.shape.map(() => 0);
  return { ...t, value: b.emit("pad", [t.value], { low, high: low.map((_, k) => (k === low.length - 1 ? 1 : 0)), value: last }) };
}

/** Σ over Fisher columns and positions of left ⊗ right, per group. Tables of different columns are both summed only where both have them. */
export function outer(b: Builder, left: Table, right: Table): Value {
  const labels = (t: Table, last: string): string => {
    const positions = t.value.type.shape.length - t.columns - (t.grouped ? 1 : 0) - 1;
    return `${"C".repeat(t.columns)}${t.grouped ? "G" : ""}${LETTERS.slice(0, positions)}${last}`;
  };
  return contract(b.emit, `${labels(left, "y")},${labels(right, "z")}->${left.grouped ? "G" : ""}yz`, left.value, right.value);
}

/** Σ over Fisher columns and positions of each feature's square, [(groups), features]. */
export function squares(b: Builder, t: Table): Value {
  const square = b.emit("mul", [t.value, t.value]);
  const last = square.type.shape.length - 1;
  const axes = square.type.shape.flatMap((_, k) => (k === last || (t.grouped && k === t.columns) ? [] : [k]));
  return b.emit("reduce_sum", [square], { axes });
}

export const add = (b: Builder, values: readonly Value[]): Value => values.reduce((x, y) => b.emit("add", [x, y]));

/** [leading.., (groups), N, positions, features] with an example's positions merged. */
export function byExample(b: Builder, t: Table, rows: Rows, mark: ExampleAxis): Table {
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
