/**
 * Preconditioned gradients of layers with few rows, without their gradients.
 *
 *   P = G⁻¹ · (gᵀa/N) · A⁻¹ = YᵀX/N        X = a·A⁻¹ [R, dA]    Y = g·G⁻ᵀ [R, dG]    R rows: examples · positions
 *   ⟨P, ∇W̄⟩ = (1/N²) Σ_rs (X aᵀ)_rs (Y gᵀ)_rs
 *
 * Multiply-adds: R(dA² + dG² + dA·dG) + R²(dA + dG), against R·dA·dG + dA·dG(dA + dG) by way of ∇W̄. Only one side's inverse on rows never pays:
 * then ∇W̄ is needed for the inner product, and what is saved (dG²(dA − R)) is less than that costs wherever not both sides pay. The inner product is
 * known before P is, so that P's own kernel can take ν, momentum and the update along.
 */
import { type Builder, broadcast, contract, reshape, sumAll } from "../../ir/builder.js";
import type { Value } from "../../ir/graph.js";
import { size } from "../../ir/type.js";
import type { Layer, Site } from "./layer.js";
import { sideRows } from "./precondition.js";
import { inputTable, outputTable } from "./tables.js";

/** A layer's rows: a and g at its only site, before any homogeneous 1. */
export interface LayerRows {
  readonly site: Site;
  /** ∂loss/∂(the site's output), summed over nothing. */
  readonly cotangent: Value;
}

export interface RowsDirection {
  /** ⟨P, ∇W̄⟩, a scalar. */
  readonly product: Value;
  /** P · scale in the shapes of the weight's and the bias's views. */
  scaled(scale: Value): { readonly weight: Value; readonly bias: Value | undefined };
}

/** Labels of contractions: row axes, row axes of the other factor, output and input axes. Views with more axes of one role are not taken. */
const ROWS = "abcdefgh";
const OTHERS = "ABCDEFGH";
const OUT = "mnopqr";
const IN = "stuvwx";

/** Rows of a layer's only site: examples times positions. */
const rowsOf = (site: Site): number => size(site.output.positions.map((k) => site.output.value.type.shape[k] as number));

/** Multiply-adds of a layer's direction by way of its gradient, the gradient itself included. */
export function gradientWork(layer: Layer): number {
  const { dA, dG, sites } = layer;
  return layer.groups * (sites.reduce((n, site) => n + rowsOf(site), 0) * dA * dG + dA * dG * (dA + dG));
}

/** Multiply-adds that rows save; 0 where they save none, or the layer is not a plain product with full sides. */
export function savedWork(layer: Layer): number {
  const [site, ...more] = layer.sites;
  const { weight, bias, dA, dG } = layer;
  if (!site || more.length > 0 || site.transposed || layer.form !== "kronecker" || layer.groups > 1 || weight.groups.length > 0 || layer.sides.A !== "full" || layer.sides.G !== "full") return 0;
  if (bias && !site.ones) return 0;
  if (site.output.positions.length > ROWS.length || Math.max(weight.out.length, bias?.counts.length ?? 0) > OUT.length || weight.in.length > IN.length) return 0;
  const R = rowsOf(site);
  return Math.max(0, gradientWork(layer) - R * (dA * dA + dG * dG + dA * dG) - R * R * (dA + dG));
}

/**
 * @param inverses of stored size (`inverseShape`)
 * @param count examples N, a scalar
 */
export function rowsDirection(b: Builder, layer: Layer, { site, cotangent }: LayerRows, inverses: { readonly A: Value; readonly G: Value }, count: Value): RowsDirection {
  const { emit } = b;
  const [a, g] = [inputTable(b, layer, site).value, outputTable(b, layer, site, cotangent).value];
  const rows = a.type.shape.slice(0, -1);
  const [r, s] = [ROWS.slice(0, rows.length), OTHERS.slice(0, rows.length)];
  const width = layer.dA - (layer.bias ? 1 : 0);
  const cut = (v: Value, start: readonly number[], counts: readonly number[]): Value =>
    (v.type.shape.every((n, k) => n === counts[k]) ? v : emit("slice", [v], { start, size: counts, stride: counts.map(() => 1) }));
  const columns = (v: Value, from: number, n: number): Value => cut(v, [...rows.map(() => 0), from], [...rows, n]);
  /** Of a row of the inverse, or of X: what belongs to the homogeneous 1. */
  const last = (v: Value, shape: readonly number[]): Value => reshape(emit, v, shape);

  // the 1 of every row takes the inverse's last row along
  const stored = [sideRows(layer, "A"), sideRows(layer, "G")] as const;
  const plain = contract(emit, `${r}y,yz->${r}z`, a, cut(inverses.A, [0, 0], [width, stored[0]]));
  const X = layer.bias ? emit("add", [plain, broadcast(emit, last(cut(inverses.A, [width, 0], [1, stored[0]]), [stored[0]]), plain.type.shape, [rows.length])]) : plain;
  const Y = contract(emit, `${r}y,zy->${r}z`, g, cut(inverses.G, [0, 0], [stored[1], layer.dG]));
  const [Xa, X1, Yg] = [columns(X, 0, width), layer.bias && last(columns(X, width, 1), rows), columns(Y, 0, layer.dG)];

  const alongA = contract(emit, `${r}z,${s}z->${r}${s}`, Xa, a);
  const kernelA = X1 ? emit("add", [alongA, broadcast(emit, X1, alongA.type.shape, rows.map((_, k) => k))]) : alongA;
  const kernelG = contract(emit, `${r}z,${s}z->${r}${s}`, Yg, g);
  const product = emit("div", [sumAll(emit, emit("mul", [kernelA, kernelG])), emit("mul", [count, count])]);

  const scaled: RowsDirection["scaled"] = (scale) => {
    const factor = emit("div", [scale, count]);
    const times = (v: Value): Value => emit("mul", [v, broadcast(emit, factor, v.type.shape, [])]);
    const { weight, bias } = layer;
    const { shape } = weight.view.type;
    const sizes = (axes: readonly number[]): number[] => axes.map((axis) => shape[axis] as number);
    const label = (axis: number): string => (weight.out.includes(axis) ? OUT[weight.out.indexOf(axis)] : IN[weight.in.indexOf(axis)]) as string;
    const [left, right] = [reshape(emit, Yg, [...rows, ...sizes(weight.out)]), reshape(emit, Xa, [...rows, ...sizes(weight.in)])];
    const made = contract(emit, `${r}${OUT.slice(0, weight.out.length)},${r}${IN.slice(0, weight.in.length)}->${shape.map((_, axis) => label(axis)).join("")}`, left, right);
    if (!bias || !X1) return { weight: times(made), bias: undefined };
    const ordered = bias.perm.map((k) => OUT[k] as string).join("");
    const column = contract(emit, `${r}${OUT.slice(0, bias.counts.length)},${r}->${ordered}`, reshape(emit, Yg, [...rows, ...bias.counts]), X1);
    return { weight: times(made), bias: reshape(emit, times(column), bias.view.type.shape) };
  };
  return { product, scaled };
}
