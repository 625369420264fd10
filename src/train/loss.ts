/**
 * Losses: per-example value, its derivative with respect to the logits, and the vectors whose outer products average to the
 * Fisher. Total = (1/N) Σ_n l_n; l_n sums over outputs and positions of an example.
 *
 *   softmax-ce    l = −Σ_pos log softmax(z)[t]          classes along `axis`, targets are class numbers
 *   half-sse      l = ½ Σ (z − t)²                      unit-variance Gaussian (PyTorch's MSELoss divides by the outputs)
 *   bernoulli-ce  l = Σ BCE(σ(z), t)                    t in [0, 1]
 *   mse           l = (1/outputs) Σ (z − t)²            documented alias: half-sse × 2/outputs
 *   custom        a formula of the model file (custom.ts)
 *
 * A target of softmax-ce below 0 (−100, say) marks a position without a label: no loss, no derivative, no column of any Fisher. An
 * example counts in N whether it has such positions or not; a weight of 0 leaves a whole example out.
 */
import { Builder, broadcast, full, permute, reshape } from "../../ir/builder.js";
import { CompileError } from "../../ir/error.js";
import type { Value } from "../../ir/graph.js";
import { size, type Type } from "../../ir/type.js";
import { type CustomLoss, customDerivative, customFactor, customPerExample, customTarget } from "./custom.js";

export const LOSSES = ["softmax-ce", "half-sse", "bernoulli-ce", "mse"] as const;
export type LossKind = (typeof LOSSES)[number];
export const LOSS_ALIASES: Readonly<Record<string, LossKind>> = { "cross-entropy": "softmax-ce", mse: "mse", bce: "bernoulli-ce" };
/** A loss by name, or a model file's own. */
export type LossSpec = LossKind | CustomLoss;
/** cp: curvature propagation, random signs on the columns of a factor of the output Fisher (Martens, Sutskever & Swersky 2012). */
export const FISHER_KINDS = ["mc", "exact", "empirical", "cp"] as const;
export type FisherKind = (typeof FISHER_KINDS)[number];

export interface NamedLoss {
  readonly kind: LossKind;
  /** Logits or values, [N, ...]. */
  readonly z: Value;
  /** Class axis of softmax-ce. */
  readonly axis: number;
}
export interface FormulaLoss extends Omit<NamedLoss, "kind"> {
  readonly kind: "custom";
  readonly custom: CustomLoss;
}
export type Loss = NamedLoss | FormulaLoss;

/** What reports call it. */
export const lossName = (loss: Loss): string => (loss.kind === "custom" ? loss.custom.name : loss.kind);

export function parseLoss(text: string): LossKind {
  const found = LOSSES.find((k) => k === text) ?? LOSS_ALIASES[text];
  if (!found) throw new CompileError("bad-option", `no loss "${text}"`, "--loss", `one of ${[...LOSSES, ...Object.keys(LOSS_ALIASES).filter((a) => a !== "mse")].join(", ")}`);
  return found;
}

/** What the user passes as `target`. */
export function targetType(loss: Loss): Type {
  const { kind, z, axis } = loss;
  if (loss.kind === "custom") return customTarget(loss.custom, z);
  if (kind === "softmax-ce") return { dtype: "i32", shape: z.type.shape.filter((_, k) => k !== axis) };
  return { dtype: "f32", shape: z.type.shape };
}

const perOutput = (z: Value): number => size(z.type.shape.slice(1));

/** e^(z − max), its sum and the max along the class axis. */
function softmaxParts(b: Builder, z: Value, axis: number) {
  const { emit } = b;
  const kept = z.type.shape.map((_, k) => k).filter((k) => k !== axis);
  const back = (v: Value) => broadcast(emit, v, z.type.shape, kept);
  const top = emit("reduce_max", [z], { axes: [axis] });
  const shifted = emit("sub", [z, back(top)]);
  const powers = emit("exp", [shifted]);
  const total = emit("reduce_sum", [powers], { axes: [axis] });
  return { shifted, total, p: emit("div", [powers, back(total)]), back };
}

/** A value per position, repeated along the class axis. */
const overClasses = (b: Builder, z: Value, axis: number, v: Value): Value =>
  broadcast(b.emit, v, z.type.shape, z.type.shape.map((_, k) => k).filter((k) => k !== axis));

/** 1 where the class axis equals the target. */
const oneHot = (b: Builder, z: Value, axis: number, target: Value): Value =>
  b.emit("eq", [b.emit("iota", [], { shape: z.type.shape, axis }), overClasses(b, z, axis, target)]);

const isLabel = (b: Builder, target: Value): Value => b.emit("ge", [target, full(b, target.type, 0)]);

const orZero = (b: Builder, condition: Value, v: Value): Value => b.emit("select", [condition, v, full(b, v.type, 0)]);

const sumPerExample = (b: Builder, v: Value): Value =>
  v.type.shape.length === 1 ? v : b.emit("reduce_sum", [v], { axes: v.type.shape.map((_, k) => k).slice(1) });

const asFloat = (b: Builder, v: Value): Value => b.emit("cast", [v], { dtype: "f32" });

/** l_n, [N]. */
export function perExample(b: Builder, loss: Loss, target: Value): Value {
  const { kind, z, axis } = loss;
  const { emit } = b;
  switch (loss.kind) {
    case "custom": return customPerExample(b, loss.custom, z, target);
    case "softmax-ce": {
      const { shifted, total } = softmaxParts(b, z, axis);
      const picked = emit("reduce_sum", [emit("select", [oneHot(b, z, axis, target), shifted, full(b, z.type, 0)])], { axes: [axis] });
      return sumPerExample(b, orZero(b, isLabel(b, target), emit("sub", [emit("log", [total]), picked])));
    }
    case "half-sse": case "mse": {
      const d = emit("sub", [z, target]);
      const scale = kind === "mse" ? 1 / perOutput(z) : 0.5;
      return sumPerExample(b, emit("mul", [emit("mul", [d, d]), full(b, z.type, scale)]));
    }
    case "bernoulli-ce": return sumPerExample(b, emit("sub", [emit("softplus", [z]), emit("mul", [target, z])]));
    default: return loss satisfies never;
  }
}

/** ∂l_n/∂z, shape of z. Holds for true and for sampled targets. */
export function derivative(b: Builder, loss: Loss, target: Value): Value {
  const { z, axis } = loss;
  const { emit } = b;
  switch (loss.kind) {
    case "custom": return customDerivative(b, loss.custom, z, target);
    case "softmax-ce":
      return orZero(b, overClasses(b, z, axis, isLabel(b, target)), emit("sub", [softmaxParts(b, z, axis).p, asFloat(b, oneHot(b, z, axis, target))]));
    case "half-sse": return emit("sub", [z, target]);
    case "mse": return emit("mul", [emit("sub", [z, target]), full(b, z.type, 2 / perOutput(z))]);
    case "bernoulli-ce": return emit("sub", [emit("sigmoid", [z]), target]);
    default: return loss satisfies never;
  }
}

/** Vectors [columns, ...shape of z], 0 at the positions that the true targets leave out. */
export function withoutIgnored(b: Builder, { kind, z, axis }: Loss, vectors: Value, target: Value): Value {
  if (kind !== "softmax-ce") return vectors;
  const here = overClasses(b, z, axis, isLabel(b, target));
  return orZero(b, broadcast(b.emit, here, vectors.type.shape, z.type.shape.map((_, k) => k + 1)), vectors);
}

/**
 * Targets drawn from the model's own predictive distribution; keyed by seed and step.
 *
 * @throws CompileError "internal" for a custom loss, which says nothing of how to draw (`signed` serves instead)
 */
export function sampleTargets(b: Builder, loss: Loss, key: readonly [Value, Value], stream: number): Value {
  const { kind, z, axis } = loss;
  const { emit } = b;
  const noise = (s: number) => emit("uniform", [...key], { shape: z.type.shape, stream: s });
  switch (loss.kind) {
    case "custom": throw new CompileError("internal", `targets of loss "${loss.custom.name}" cannot be drawn`);
    case "softmax-ce": {
      // the largest of z + Gumbel noise is distributed as softmax(z)
      const gumbel = emit("neg", [emit("log", [emit("neg", [emit("log", [noise(stream)])])])]);
      return emit("reduce_argmax", [emit("add", [z, gumbel])], { axes: [axis] });
    }
    case "half-sse": case "mse": {
      // Box–Muller; the variance that makes the loss a log-likelihood is 1 for half-sse and outputs/2 for mse
      const radius = emit("sqrt", [emit("mul", [emit("log", [noise(stream)]), full(b, z.type, -2)])]);
      const angle = emit("cos", [emit("mul", [noise(stream + 1), full(b, z.type, 2 * Math.PI)])]);
      const spread = kind === "mse" ? Math.sqrt(perOutput(z) / 2) : 1;
      return emit("add", [z, emit("mul", [emit("mul", [radius, angle]), full(b, z.type, spread)])]);
    }
    case "bernoulli-ce": return asFloat(b, emit("lt", [noise(stream), emit("sigmoid", [z])]));
    default: return loss satisfies never;
  }
}

/** Shape of the signs that `signed` takes: one per output and example; for a custom loss one per column and example. */
export function signShape(loss: Loss): readonly number[] {
  if (loss.kind !== "custom") return loss.z.type.shape;
  const factor = scratchFactor(loss);
  return factor.diagonal ? loss.z.type.shape : [factor.vectors.type.shape[0] as number, loss.z.type.shape[0] as number];
}

/** The factor in a graph of its own, for its shape. */
function scratchFactor({ custom, z }: FormulaLoss) {
  const b = new Builder("factor");
  return customFactor(b, custom, b.input("z", z.type));
}

/**
 * B·ε with B Bᵀ the output Fisher of each example; shape of z. For signs ε = ±1 drawn independently, the mean of its outer product
 * is the Fisher. B: softmax diag(√p) − p √pᵀ per position, Gaussian 1, Bernoulli diag √(p(1 − p)), custom its factor's columns.
 * Source: Martens, Sutskever & Swersky 2012, "Estimating the Hessian by back-propagating curvature", section 4.
 *
 * @param signs of shape `signShape(loss)`
 */
export function signed(b: Builder, loss: Loss, signs: Value): Value {
  const { z, axis } = loss;
  const { emit } = b;
  switch (loss.kind) {
    case "custom": {
      const { vectors, diagonal } = customFactor(b, loss.custom, z);
      if (diagonal) return emit("mul", [diagonal, signs]);
      return emit("reduce_sum", [emit("mul", [vectors, broadcast(emit, signs, vectors.type.shape, [0, 1])])], { axes: [0] });
    }
    case "softmax-ce": {
      const { p, back } = softmaxParts(b, z, axis);
      const each = emit("mul", [emit("sqrt", [p]), signs]);
      return emit("sub", [each, emit("mul", [p, back(emit("reduce_sum", [each], { axes: [axis] }))])]);
    }
    case "half-sse": return signs;
    case "mse": return emit("mul", [signs, full(b, z.type, Math.sqrt(2 / perOutput(z)))]);
    case "bernoulli-ce": {
      const p = emit("sigmoid", [z]);
      return emit("mul", [signs, emit("sqrt", [emit("mul", [p, emit("sub", [full(b, z.type, 1), p])])])]);
    }
    default: return loss satisfies never;
  }
}

/** Signs ±1 with equal chances, keyed by seed and step. */
export function randomSigns(b: Builder, shape: readonly number[], key: readonly [Value, Value], stream: number): Value {
  const u = b.emit("uniform", [...key], { shape, stream });
  return b.emit("select", [b.emit("lt", [u, full(b, u.type, 0.5)]), full(b, u.type, -1), full(b, u.type, 1)]);
}

/** Number of columns of the exact Fisher: vectors whose outer products sum to E[g gᵀ]. */
export const exactColumns = (loss: Loss): number =>
  loss.kind === "custom" ? (scratchFactor(loss).vectors.type.shape[0] as number) : perOutput(loss.z);

/**
 * All columns of the exact Fisher (= GGN of these losses), [columns, ...shape of z]: softmax √p_c (p − e_c) per class and position;
 * Gaussian e_k; Bernoulli √(p(1 − p)) e_k.
 */
export function exactVectors(b: Builder, loss: Loss): Value {
  const { kind, z, axis } = loss;
  const { emit } = b;
  if (loss.kind === "custom") return customFactor(b, loss.custom, z).vectors;
  if (kind !== "softmax-ce") {
    const k = perOutput(z);
    const n = z.type.shape[0] as number;
    const rows = [k, n, k];
    const unit = asFloat(b, emit("eq", [emit("iota", [], { shape: rows, axis: 0 }), emit("iota", [], { shape: rows, axis: 2 })]));
    const p = kind === "bernoulli-ce" ? emit("sigmoid", [reshape(emit, z, [n, k])]) : undefined;
    const root = p
      ? broadcast(emit, emit("sqrt", [emit("mul", [p, emit("sub", [full(b, p.type, 1), p])])]), rows, [1, 2])
      : full(b, unit.type, kind === "mse" ? Math.sqrt(2 / k) : 1);
    return reshape(emit, emit("mul", [unit, root]), [k, ...z.type.shape]);
  }
  // classes to the end of the examples: z as [n, c, q] with q positions
  const others = z.type.shape.map((_, k) => k).filter((k) => k !== 0 && k !== axis);
  const perm = [0, axis, ...others];
  const [n, c] = [z.type.shape[0] as number, z.type.shape[axis] as number];
  const q = size(others.map((k) => z.type.shape[k] as number));
  const p = reshape(emit, permute(emit, softmaxParts(b, z, axis).p, perm), [n, c, q]);
  const shape = [c, q, n, c, q];
  const same = (i: number, j: number) => emit("eq", [emit("iota", [], { shape, axis: i }), emit("iota", [], { shape, axis: j })]);
  const root = broadcast(emit, permute(emit, emit("sqrt", [p]), [1, 2, 0]), shape, [0, 1, 2]);
  const centred = emit("sub", [broadcast(emit, p, shape, [2, 3, 4]), asFloat(b, same(0, 3))]);
  const here = emit("select", [same(1, 4), emit("mul", [root, centred]), full(b, { dtype: "f32", shape }, 0)]);
  const permuted = [n, c, ...others.map((k) => z.type.shape[k] as number)];
  const placed = reshape(emit, here, [c * q, ...permuted]);
  return permute(emit, placed, [0, ...z.type.shape.map((_, k) => perm.indexOf(k) + 1)]);
}

/** Correct predictions per example, f32 [N] (fraction of the labelled positions), for losses that have classes. */
export function correct(b: Builder, { kind, z, axis }: Loss, target: Value): Value | undefined {
  if (kind !== "softmax-ce") return undefined;
  const hit = asFloat(b, b.emit("eq", [b.emit("reduce_argmax", [z], { axes: [axis] }), target]));
  const total = sumPerExample(b, hit);
  if (size(hit.type.shape.slice(1)) === 1) return total;
  const labelled = sumPerExample(b, asFloat(b, isLabel(b, target)));
  return b.emit("div", [total, b.emit("max", [labelled, full(b, labelled.type, 1)])]);
}

/** 1 for an example with a labelled position, else 0; f32 [N]. What accuracy divides by; undefined where there is none. */
export function labelled(b: Builder, { kind }: Loss, target: Value): Value | undefined {
  if (kind !== "softmax-ce") return undefined;
  const any = asFloat(b, isLabel(b, target));
  return any.type.shape.length === 1 ? any : b.emit("reduce_max", [any], { axes: any.type.shape.map((_, k) => k).slice(1) });
}
