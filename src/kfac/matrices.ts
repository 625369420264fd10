/**
 * Layers as matrices [groups, rows, columns], without the first axis where there is one group: the shapes of their curvature, and parameters
 * in the form that ∇W̄ has, and back.
 */
import { type Builder, permute, reshape, sumAll } from "../../ir/builder.js";
import type { Value } from "../../ir/graph.js";
import type { Layer } from "./layer.js";

/** [groups, rows, columns], or [rows, columns] for one group. */
export const matrixShape = (layer: Layer, rows = layer.dG, columns = layer.dA): number[] => (layer.groups > 1 ? [layer.groups, rows, columns] : [rows, columns]);

/** A factor's state: square, or its diagonal. */
export const factorShape = (layer: Layer, side: "A" | "G"): number[] => {
  const d = side === "A" ? layer.dA : layer.dG;
  return [...(layer.groups > 1 ? [layer.groups] : []), ...(layer.sides[side] === "full" ? [d, d] : [d])];
};

/** [(groups), n, n]: a block over the dG·dA numbers of a group. */
export const blockShape = (layer: Layer): number[] => matrixShape(layer, layer.dG * layer.dA, layer.dG * layer.dA);

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
