/**
 * Damped inverses and preconditioned gradients, written once over matrices.
 *
 *   π = √((tr A / dim A) / (tr G / dim G)), 1 if a trace is 0
 *   P = (G + (√λ/π)·I)⁻¹ · ∇W̄ · (A + π√λ·I)⁻¹                      Martens & Grosse 2015, sections 4.2 and 6.3
 *   ν = min(1, √(κ / (lr²·|Σ_layers ⟨P, ∇W̄⟩|)))                     the norm constraint; often taken for a bug: it bounds the
 *                                                                  predicted change of the output distribution, not the step length
 */
import { type Builder, broadcast, contract, full, reshape, sumAll } from "../../ir/builder.js";
import type { Value } from "../../ir/graph.js";
import { trace } from "./factors.js";

/**
 * Rows of a stored inverse: a bias makes dimensions odd, and rows that are no multiple of 4 numbers cannot be read four at a time. The
 * extra rows and columns are zeros, so products with them are those of the inverse itself.
 */
export const storedRows = (n: number): number => (n < 16 ? n : Math.ceil(n / 4) * 4);

/** A matrix with zeros added below and to the right. */
export function padded(b: Builder, m: Value, rows: number, columns: number): Value {
  const [r, c] = m.type.shape as [number, number];
  return r === rows && c === columns ? m : b.emit("pad", [m], { low: [0, 0], high: [rows - r, columns - c], value: 0 });
}

/** π of one layer, a scalar. */
export function traceRatio(b: Builder, A: Value, G: Value): Value {
  const { emit } = b;
  const [dA, dG] = [A.type.shape[0] as number, G.type.shape[0] as number];
  const [tA, tG] = [trace(b, A), trace(b, G)];
  const zero = b.scalar(0);
  const positive = emit("and", [emit("gt", [tA, zero]), emit("gt", [tG, zero])]);
  const ratio = emit("div", [emit("mul", [tA, b.scalar(dG)]), emit("mul", [tG, b.scalar(dA)])]);
  return emit("select", [positive, emit("sqrt", [ratio]), b.scalar(1)]);
}

/**
 * New inverses of one layer, taken over only where both are clean; else the old ones stay.
 *
 * @param oldA, oldG inverses in use, [storedRows, storedRows]
 * @param lambda the layer's damping, a scalar
 * @returns Ainv, Ginv, and 1 where clean, [1]
 */
export function refreshed(b: Builder, A: Value, G: Value, oldA: Value, oldG: Value, lambda: Value) {
  const { emit } = b;
  const pi = traceRatio(b, A, G);
  const root = emit("sqrt", [lambda]);
  const invert = (m: Value, damping: Value) => {
    const n = m.type.shape[0] as number;
    const node = b.node("inverse", [reshape(emit, m, [1, n, n]), reshape(emit, damping, [1])]);
    return { inverse: reshape(emit, node.results[0] as Value, [n, n]), clean: node.results[1] as Value };
  };
  const a = invert(A, emit("mul", [pi, root]));
  const g = invert(G, emit("div", [root, pi]));
  const clean = emit("mul", [a.clean, g.clean]);
  const ok = emit("gt", [reshape(emit, clean, []), b.scalar(0)]);
  const keep = (made: Value, old: Value) => {
    const [rows, columns] = old.type.shape as [number, number];
    return emit("select", [broadcast(emit, ok, old.type.shape, []), padded(b, made, rows, columns), old]);
  };
  return { Ainv: keep(a.inverse, oldA), Ginv: keep(g.inverse, oldG), clean, pi };
}

/** G⁻¹ · M · A⁻¹, all of stored size. */
export const preconditioned = (b: Builder, M: Value, Ainv: Value, Ginv: Value): Value =>
  contract(b.emit, "oi,ij->oj", contract(b.emit, "op,pi->oi", Ginv, M), Ainv);

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
export const constantLike = (b: Builder, v: Value, value: number): Value => full(b, v.type, value);
