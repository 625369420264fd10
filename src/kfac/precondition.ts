/**
 * Damped inverses and preconditioned gradients, written once over matrices [(groups), rows, columns].
 *
 *   π = √((tr A / dim A) / (tr G / dim G)), 1 if a trace is 0, per group
 *   pi      P = (G + (√λ/π)·I)⁻¹ · ∇W̄ · (A + π√λ·I)⁻¹                       Martens & Grosse 2015, sections 4.2 and 6.3
 *   eig     P = U_G [(U_Gᵀ ∇W̄ U_A) / (s_G s_Aᵀ + λ)] U_Aᵀ                   the damping exact in the eigenbasis
 *   ekfac   the same with the gradient's second moments there for s_G s_Aᵀ   George et al. 2018
 *   block   vec P = (F + λI)⁻¹ vec ∇W̄, per group
 *   ν = min(1, √(κ / (lr²·|Σ_layers ⟨P, ∇W̄⟩|)))                     the norm constraint; often taken for a bug: it bounds the
 *                                                                  predicted change of the output distribution, not the step length
 */
import { type Builder, broadcast, contract, full, reshape, sumAll } from "../../ir/builder.js";
import type { Value } from "../../ir/graph.js";
import { factorShape, matrixShape, trace } from "./matrices.js";
import type { Layer } from "./layer.js";

export const INVERSES = ["pi", "eig", "ekfac"] as const;
/** How damping enters the inverse. */
export type InverseForm = (typeof INVERSES)[number];

/**
 * Rows of a stored inverse or eigenbasis: a bias makes dimensions odd, and rows that are no multiple of 4 numbers cannot be read four at a
 * time. The extra rows and columns are zeros, so products with them are those of the matrix itself.
 */
const storedRows = (n: number): number => (n < 16 ? n : Math.ceil(n / 4) * 4);

const sideOf = (layer: Layer, side: "A" | "G"): number => (side === "A" ? layer.dA : layer.dG);

/** Rows of a side's stored inverse: diagonal sides have no padding. */
export const sideRows = (layer: Layer, side: "A" | "G"): number => (layer.sides[side] === "full" ? storedRows(sideOf(layer, side)) : sideOf(layer, side));

/** Shape of a stored inverse (or eigenbasis) of one side. */
export const inverseShape = (layer: Layer, side: "A" | "G"): number[] =>
  (layer.sides[side] === "full" ? matrixShape(layer, sideRows(layer, side), sideRows(layer, side)) : factorShape(layer, side));

/** Shape of gradients next to stored inverses. */
export const storedShape = (layer: Layer): number[] => (layer.form === "block" ? matrixShape(layer) : matrixShape(layer, sideRows(layer, "G"), sideRows(layer, "A")));

/** Matrices with zeros added below and to the right. */
export function padded(b: Builder, m: Value, shape: readonly number[]): Value {
  const high = shape.map((n, k) => n - (m.type.shape[k] as number));
  return high.every((n) => n === 0) ? m : b.emit("pad", [m], { low: high.map(() => 0), high, value: 0 });
}

/** π per group: a scalar, [groups] for several. */
function traceRatio(b: Builder, layer: Layer, A: Value, G: Value): Value {
  const { emit } = b;
  const [tA, tG] = [trace(b, layer, "A", A), trace(b, layer, "G", G)];
  const over = (x: number) => full(b, tA.type, x);
  const positive = emit("and", [emit("gt", [tA, over(0)]), emit("gt", [tG, over(0)])]);
  const ratio = emit("div", [emit("mul", [tA, over(layer.dG)]), emit("mul", [tG, over(layer.dA)])]);
  return emit("select", [positive, emit("sqrt", [ratio]), over(1)]);
}

/** Inverses and 1 where all of them are clean, [1]. `damping` is a scalar or [groups]; results have m's shape. */
function inverted(b: Builder, m: Value, damping: Value): { inverse: Value; clean: Value } {
  const n = m.type.shape[m.type.shape.length - 1] as number;
  const groups = m.type.shape.length > 2 ? (m.type.shape[0] as number) : 1;
  const node = b.node("inverse", [reshape(b.emit, m, [groups, n, n]), reshape(b.emit, damping, [groups])]);
  const [inverse, each] = node.results as readonly [Value, Value];
  return { inverse: reshape(b.emit, inverse, m.type.shape), clean: groups === 1 ? each : least(b, each) };
}

/** The least element, [1]. */
const least = (b: Builder, v: Value): Value => reshape(b.emit, b.emit("neg", [b.emit("reduce_max", [b.emit("neg", [v])], { axes: [0] })]), [1]);

/** 1/(diagonal + damping). Clean where every element is a number. */
function invertedDiagonal(b: Builder, diagonal: Value, damping: Value): { inverse: Value; clean: Value } {
  const axes = damping.type.shape.length === 0 ? [] : [0];
  const inverse = b.emit("reciprocal", [b.emit("add", [diagonal, broadcast(b.emit, damping, diagonal.type.shape, axes)])]);
  const sum = sumAll(b.emit, b.emit("abs", [inverse]));
  const clean = b.emit("cast", [b.emit("and", [b.emit("gt", [sum, b.scalar(0)]), b.emit("lt", [sum, b.scalar(3e38)])])], { dtype: "f32" });
  return { inverse, clean: reshape(b.emit, clean, [1]) };
}

/** Values made anew where `clean` [1] is 1, else the old ones. */
function taken(b: Builder, clean: Value, made: Value, old: Value): Value {
  const ok = b.emit("gt", [reshape(b.emit, clean, []), b.scalar(0)]);
  return b.emit("select", [broadcast(b.emit, ok, old.type.shape, []), padded(b, made, old.type.shape), old]);
}

/**
 * New inverses of one layer, taken over only where all are clean; else the old ones stay.
 *
 * @param old inverses in use, of `inverseShape`
 * @param lambda the layer's damping, a scalar
 * @returns Ainv, Ginv, 1 where clean [1], and π [groups]
 */
export function refreshed(b: Builder, layer: Layer, factors: { A: Value; G: Value }, old: { A: Value; G: Value }, lambda: Value) {
  const { emit } = b;
  const pi = traceRatio(b, layer, factors.A, factors.G);
  const root = broadcast(emit, emit("sqrt", [lambda]), pi.type.shape, []);
  const invert = (side: "A" | "G", damping: Value) => (layer.sides[side] === "full" ? inverted : invertedDiagonal)(b, factors[side], damping);
  const a = invert("A", emit("mul", [pi, root]));
  const g = invert("G", emit("div", [root, pi]));
  const clean = emit("mul", [a.clean, g.clean]);
  return { Ainv: taken(b, clean, a.inverse, old.A), Ginv: taken(b, clean, g.inverse, old.G), clean, pi: reshape(emit, pi, [layer.groups]) };
}

/** The damped inverse of a block layer, as `refreshed`. */
export function refreshedBlock(b: Builder, layer: Layer, F: Value, old: Value, lambda: Value) {
  const made = inverted(b, F, broadcast(b.emit, lambda, layer.groups > 1 ? [layer.groups] : [], []));
  return { Finv: taken(b, made.clean, made.inverse, old), clean: made.clean };
}

/** What one side does to M [(g), out, in]: a matrix product, or a product with each row or column. */
function applied(b: Builder, layer: Layer, M: Value, side: "A" | "G", by: Value, spec: string): Value {
  const g = layer.groups > 1 ? "g" : "";
  const rank = M.type.shape.length;
  if (layer.sides[side] === "full") {
    const [left, right, out] = spec.split(/,|->/) as [string, string, string];
    return side === "A" ? contract(b.emit, `${g}${left},${g}${right}->${g}${out}`, M, by) : contract(b.emit, `${g}${left},${g}${right}->${g}${out}`, by, M);
  }
  const axis = side === "A" ? rank - 1 : rank - 2;
  return b.emit("mul", [M, broadcast(b.emit, by, M.type.shape, layer.groups > 1 ? [0, axis] : [axis])]);
}

/** G⁻¹ · M · A⁻¹, all of stored size. */
export const preconditioned = (b: Builder, layer: Layer, M: Value, Ainv: Value, Ginv: Value): Value =>
  applied(b, layer, applied(b, layer, M, "G", Ginv, "op,pi->oi"), "A", Ainv, "oi,ij->oj");

/** U_G [(U_Gᵀ M U_A) / (S + λ)] U_Aᵀ; a diagonal side is its own eigenbasis. All of stored size. */
export function preconditionedEigen(b: Builder, layer: Layer, M: Value, UA: Value | undefined, UG: Value | undefined, S: Value, lambda: Value): Value {
  const turn = (m: Value, side: "A" | "G", U: Value | undefined, spec: string) => (U ? applied(b, layer, m, side, U, spec) : m);
  const inside = turn(turn(M, "G", UG, "po,pi->oi"), "A", UA, "oi,ij->oj");
  const damped = b.emit("add", [S, broadcast(b.emit, lambda, S.type.shape, [])]);
  return turn(turn(quotient(b, inside, damped), "G", UG, "op,pi->oi"), "A", UA, "oi,ji->oj");
}

/** x/y, and 0 where y is 0: padding, and directions without any curvature when nothing is damped. */
export function quotient(b: Builder, x: Value, y: Value): Value {
  const zero = full(b, y.type, 0);
  return b.emit("select", [b.emit("eq", [y, zero]), zero, b.emit("div", [x, y])]);
}

/** (F + λI)⁻¹ vec M per group. */
export function preconditionedBlock(b: Builder, layer: Layer, M: Value, Finv: Value): Value {
  const n = layer.dG * layer.dA;
  const rows = reshape(b.emit, M, [layer.groups, n]);
  const square = reshape(b.emit, Finv, [layer.groups, n, n]);
  // n is small: sums of products rather than a contraction of vectors
  const product = b.emit("mul", [square, broadcast(b.emit, rows, [layer.groups, n, n], [0, 2])]);
  return reshape(b.emit, b.emit("reduce_sum", [product], { axes: [2] }), M.type.shape);
}

/** ν of the norm constraint from Σ⟨P, ∇⟩; 1 where klClip is 0 (off). */
export function klScale(b: Builder, products: readonly Value[], lr: Value, klClip: Value): Value {
  const { emit } = b;
  const total = emit("abs", [products.reduce((x, y) => emit("add", [x, y]))]);
  const size = emit("mul", [emit("mul", [lr, lr]), total]);
  const ratio = emit("sqrt", [emit("div", [klClip, size])]);
  const one = b.scalar(1);
  const clip = emit("and", [emit("gt", [klClip, b.scalar(0)]), emit("gt", [size, klClip])]);
  return emit("select", [clip, ratio, one]);
}

/** ⟨P, M⟩, a scalar. */
export const inner = (b: Builder, P: Value, M: Value): Value => sumAll(b.emit, b.emit("mul", [P, M]));

export const scaled = (b: Builder, v: Value, scalar: Value): Value => b.emit("mul", [v, broadcast(b.emit, scalar, v.type.shape, [])]);

