/**
 * Factor statistics from rows. All scaling of factors is in this file.
 *
 *   A = (1/N) Σ_n Σ_t ā_nt ā_ntᵀ        G = (1/(N·T·columns)) Σ g_nt g_ntᵀ        ∇W̄ = (1/N) Σ_n Σ_t g_nt ā_ntᵀ
 *
 * Kernels leave sums over examples; the division by N comes where they are used. ā = [a; 1] with a bias.
 */
import { type Builder, broadcast, contract, full, permute, reshape, sumAll } from "../../ir/builder.js";
import type { ExampleAxis } from "../../ir/examples.js";
import type { Node, Value } from "../../ir/graph.js";
import { size } from "../../ir/type.js";
import type { Layer, Rows } from "./layer.js";

const LETTERS = "abcdefghijklmnopqrstuvwxyz";

/** Rows as [..leading, ..positions, features]: features merged into one axis. `leading` axes stand before the value's own. */
function toRows(b: Builder, value: Value, rows: Rows, leading: number): Value {
  const shifted = (axes: readonly number[]) => axes.map((axis) => axis + leading);
  const lead = Array.from({ length: leading }, (_, k) => k);
  const perm = [...lead, ...shifted(rows.positions), ...shifted(rows.features)];
  const moved = permute(b.emit, value, perm);
  const kept = leading + rows.positions.length;
  return reshape(b.emit, moved, [...moved.type.shape.slice(0, kept), size(moved.type.shape.slice(kept))]);
}

/** ā: the input rows, with a last column of ones if the layer has a bias. */
export function inputRows(b: Builder, layer: Layer, value = layer.input.value): Value {
  const rows = toRows(b, value, layer.input, 0);
  if (!layer.bias) return rows;
  const low = rows.type.shape.map(() => 0);
  return b.emit("pad", [rows], { low, high: low.map((_, k) => (k === low.length - 1 ? 1 : 0)), value: 1 });
}

/** Σ over all leading axes of left ⊗ right: [.., i], [.., j] → [i, j]. */
function outer(b: Builder, left: Value, right: Value): Value {
  const rank = left.type.shape.length;
  const summed = LETTERS.slice(0, rank - 1);
  return contract(b.emit, `${summed}y,${summed}z->yz`, left, right);
}

/** Σ_n Σ_t g ā ᵀ, [out, in(+1)]. */
export function gradientSum(b: Builder, layer: Layer, cotangent: Value): Value {
  return outer(b, toRows(b, cotangent, layer.output, 0), inputRows(b, layer));
}

/** Σ_n Σ_t ā āᵀ, [in(+1), in(+1)]. */
export function inputFactorSum(b: Builder, layer: Layer): Value {
  const rows = inputRows(b, layer);
  return outer(b, rows, rows);
}

/**
 * Σ_n w_n Σ_t ā āᵀ for examples with weights: from rows of √w·a, with the column of ones assembled beside it, since √w·1 is not a
 * constant.
 *
 * @param scaled the layer's input with every example multiplied by √w
 * @param weightSum Σ_n w_n
 */
export function weightedInputFactorSum(b: Builder, layer: Layer, scaled: Value, root: Value, rootAtInput: ExampleAxis, weightSum: Value): Value {
  const { emit } = b;
  const rows = toRows(b, scaled, layer.input, 0);
  const main = outer(b, rows, rows);
  if (!layer.bias) return main;
  const k = rows.type.shape[rows.type.shape.length - 1] as number;
  // Σ w·a = Σ √w · (√w·a)
  const column = layer.input.positions.indexOf(rootAtInput.axis);
  const spread = spreadExamples(b, root, rows.type.shape.slice(0, -1), { ...rootAtInput, axis: column });
  const labels = LETTERS.slice(0, rows.type.shape.length - 1);
  const border = contract(emit, `${labels}z,${labels}->z`, rows, spread);
  const corner = reshape(emit, emit("mul", [weightSum, b.scalar(layer.T)]), [1, 1]);
  const top = emit("concat", [main, reshape(emit, border, [k, 1])], { axis: 1 });
  const bottom = emit("concat", [reshape(emit, border, [1, k]), corner], { axis: 1 });
  return emit("concat", [top, bottom], { axis: 0 });
}

/** A per-example vector [N] repeated over a shape whose `mark.axis` carries the examples. */
export function spreadExamples(b: Builder, perExample: Value, shape: readonly number[], mark: ExampleAxis): Value {
  const n = perExample.type.shape[0] as number;
  const split = [...shape.slice(0, mark.axis), mark.outer, n, mark.inner, ...shape.slice(mark.axis + 1)];
  return reshape(b.emit, broadcast(b.emit, perExample, split, [mark.axis + 1]), shape);
}

/** Every example of a value multiplied by its entry of `perExample`. */
export const scaleExamples = (b: Builder, value: Value, perExample: Value, mark: ExampleAxis): Value =>
  b.emit("mul", [value, spreadExamples(b, perExample, value.type.shape, mark)]);

/** Σ over columns, examples and positions of g gᵀ / (T · samples): divide by N for G. `cotangents` is [columns, ..] or one column without that axis. */
export function outputFactorSum(b: Builder, layer: Layer, cotangents: Value, samples: number): Value {
  const leading = cotangents.type.shape.length - layer.output.value.type.shape.length;
  const rows = toRows(b, cotangents, layer.output, leading);
  const total = outer(b, rows, rows);
  const scale = 1 / (layer.T * samples);
  return scale === 1 ? total : b.emit("mul", [total, full(b, total.type, scale)]);
}

/** x scaled through the chain of linear views that leads from its source; the views are applied again to the scaled source. */
export function throughViews(b: Builder, value: Value, producer: ReadonlyMap<Value, Node>, scale: (source: Value) => Value): Value {
  const node = producer.get(value);
  const linear = node && (["reshape", "permute", "slice", "window", "broadcast"].includes(node.op) || (node.op === "pad" && node.attrs.value === 0));
  if (!node || !linear) return scale(value);
  return b.emit(node.op, [throughViews(b, node.inputs[0] as Value, producer, scale)], node.attrs);
}

/** The trace of a square matrix. */
export function trace(b: Builder, m: Value): Value {
  const n = m.type.shape[0] as number;
  const flat = reshape(b.emit, m, [n * n]);
  return sumAll(b.emit, b.emit("slice", [flat], { start: [0], size: [n], stride: [n + 1] }));
}

/** Parameters as the matrix [out, in(+1)] that ∇W̄ has. */
export function asMatrix(b: Builder, layer: Layer): Value {
  const { emit } = b;
  const w = permute(emit, layer.weightView, [...layer.outAxes, ...layer.inAxes]);
  const matrix = reshape(emit, w, [layer.dG, layer.dA - (layer.bias ? 1 : 0)]);
  if (!layer.biasView) return matrix;
  return emit("concat", [matrix, reshape(emit, layer.biasView, [layer.dG, 1])], { axis: 1 });
}

/** A matrix whose first rows and columns are [out, in(+1)], as tensors in the axes of the layer's weight view and bias view. */
export function fromMatrix(b: Builder, layer: Layer, matrix: Value): { weight: Value; bias: Value | undefined } {
  const { emit } = b;
  const width = layer.dA - (layer.bias ? 1 : 0);
  const cut = (start: number, n: number) => (matrix.type.shape[0] === layer.dG && matrix.type.shape[1] === n ? matrix : emit("slice", [matrix], { start: [0, start], size: [layer.dG, n], stride: [1, 1] }));
  const shape = layer.weightView.type.shape;
  const axes = [...layer.outAxes, ...layer.inAxes];
  const placed = reshape(emit, cut(0, width), axes.map((axis) => shape[axis] as number));
  const weight = permute(emit, placed, axes.map((_, axis) => axes.indexOf(axis)));
  return { weight, bias: layer.biasView ? reshape(emit, cut(width, 1), layer.biasView.type.shape) : undefined };
}
