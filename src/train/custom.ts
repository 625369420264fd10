/**
 * Losses that a model file brings itself: a formula, and the factor of its output Fisher.
 *
 *   // Poisson regression with a log link: t ~ Poisson(eᶻ), −log p = eᶻ − t·z + log t!, F = eᶻ per output
 *   const poisson = {
 *     name: "poisson",
 *     perExample: (ops, z, t) => ops.sub(ops.exp(z), ops.mul(t, z)),
 *     fisher: { factor: (ops, z) => ops.diagonal(ops.exp(ops.mul(z, 0.5))) },
 *   };
 *   m.output("rate", m.dense(h, 1), { loss: poisson });
 *
 * The derivative comes from the formula. `mc` has no targets to draw then: it draws signs for the factor's columns, which is
 * curvature propagation (Martens, Sutskever & Swersky 2012) and has the same expectation.
 */
import { type Builder, broadcast, broadcasting, permute, reshape, sum } from "../../ir/builder.js";
import { CompileError } from "../../ir/error.js";
import { cotangents } from "../../ir/grad.js";
import type { Value } from "../../ir/graph.js";
import type { UNARY } from "../../ir/ops/names.js";
import { sameShape, size, spellShape, type Type } from "../../ir/type.js";

export interface CustomLoss {
  readonly kind: "custom";
  /** For messages and reports. */
  readonly name: string;
  /** What the data bring, of one example; default: floats of the output's shape. */
  readonly target?: { readonly dtype: "f32" | "i32"; readonly shape: readonly number[] };
  /** z [N, …output], target [N, …target] → [N], or any shape with the examples first: the rest is summed. Up to a constant −log p(t | z). */
  readonly perExample: (ops: LossOps, z: Value, target: Value) => Value;
  /** Without it, only `--fisher empirical` can be used. */
  readonly fisher?: {
    /** Vectors [columns, N, …output] with Σ v vᵀ = F = E_t[∂l/∂z ∂l/∂zᵀ] of each example. */
    readonly factor: (ops: LossOps, z: Value) => Value;
  };
}

type Operand = Value | number;
type Unary = Exclude<(typeof UNARY)[number], "not">;

/** What formulas are written in. Shapes broadcast as in NumPy: axes align at the right, and axes of 1 are repeated. */
export class LossOps {
  readonly #b: Builder;
  /** Results of `diagonal`, and what they are the diagonals of. */
  readonly #diagonals = new Map<Value, Value>();

  constructor(b: Builder) {
    this.#b = b;
  }

  #value(x: Operand, like: Value | undefined): Value {
    return typeof x === "number" ? this.#b.scalar(x, like?.type.dtype ?? "f32") : x;
  }

  #join(op: "add" | "sub" | "mul" | "div" | "pow" | "max" | "min" | "lt" | "le" | "gt" | "ge" | "eq", x: Operand, y: Operand): Value {
    const like = [x, y].find((v) => typeof v !== "number");
    return broadcasting(this.#b.emit, op, [this.#value(x, like), this.#value(y, like)]);
  }

  readonly add = (x: Operand, y: Operand): Value => this.#join("add", x, y);
  readonly sub = (x: Operand, y: Operand): Value => this.#join("sub", x, y);
  readonly mul = (x: Operand, y: Operand): Value => this.#join("mul", x, y);
  readonly div = (x: Operand, y: Operand): Value => this.#join("div", x, y);
  readonly pow = (x: Operand, y: Operand): Value => this.#join("pow", x, y);
  readonly max = (x: Operand, y: Operand): Value => this.#join("max", x, y);
  readonly min = (x: Operand, y: Operand): Value => this.#join("min", x, y);
  readonly less = (x: Operand, y: Operand): Value => this.#join("lt", x, y);
  readonly lessEqual = (x: Operand, y: Operand): Value => this.#join("le", x, y);
  readonly greater = (x: Operand, y: Operand): Value => this.#join("gt", x, y);
  readonly greaterEqual = (x: Operand, y: Operand): Value => this.#join("ge", x, y);
  readonly equal = (x: Operand, y: Operand): Value => this.#join("eq", x, y);

  /** x where the condition holds, else y. */
  where(condition: Value, x: Operand, y: Operand): Value {
    const like = [x, y].find((v) => typeof v !== "number");
    return broadcasting(this.#b.emit, "select", [condition, this.#value(x, like), this.#value(y, like)]);
  }

  /** Any function of one number: "exp", "log", "sqrt", "tanh", "sigmoid", "softplus", "abs", "erf" … */
  map(f: Unary, x: Value): Value {
    return this.#b.emit(f, [x]);
  }
  readonly exp = (x: Value): Value => this.map("exp", x);
  readonly log = (x: Value): Value => this.map("log", x);
  readonly sqrt = (x: Value): Value => this.map("sqrt", x);
  readonly neg = (x: Value): Value => this.map("neg", x);
  readonly square = (x: Value): Value => this.mul(x, x);

  /** Whole numbers as floats. */
  float(x: Value): Value {
    return this.#b.emit("cast", [x], { dtype: "f32" });
  }

  /** Sum over axes of the value (0 are the examples), which `keep` leaves as axes of 1. */
  sum(x: Value, axes: readonly number[], keep = false): Value {
    return this.#reduced("reduce_sum", x, axes, keep);
  }
  /** The largest over axes. */
  largest(x: Value, axes: readonly number[], keep = false): Value {
    return this.#reduced("reduce_max", x, axes, keep);
  }

  #reduced(op: "reduce_sum" | "reduce_max", x: Value, axes: readonly number[], keep: boolean): Value {
    const up = axes.map((axis) => (axis < 0 ? axis + x.type.shape.length : axis)).sort((a, b) => a - b);
    const made = up.length === 0 ? x : this.#b.emit(op, [x], { axes: up });
    return keep ? reshape(this.#b.emit, made, x.type.shape.map((n, axis) => (up.includes(axis) ? 1 : n))) : made;
  }

  reshape(x: Value, shape: readonly number[]): Value {
    return reshape(this.#b.emit, x, shape);
  }
  transpose(x: Value, perm: readonly number[]): Value {
    return permute(this.#b.emit, x, perm);
  }
  concat(list: readonly Value[], axis: number): Value {
    return this.#b.emit("concat", list, { axis });
  }
  slice(x: Value, start: readonly number[], extent: readonly number[]): Value {
    return this.#b.emit("slice", [x], { start, size: extent, stride: start.map(() => 1) });
  }
  /** The index along an axis, as a float, of x's shape. */
  index(x: Value, axis: number): Value {
    return this.float(this.#b.emit("iota", [], { shape: x.type.shape, axis }));
  }

  /** d [N, …] → the columns of diag(d) of each example, [size of …, N, …]: column k is d at number k and 0 elsewhere. */
  diagonal(d: Value): Value {
    const [n, ...rest] = d.type.shape as [number, ...number[]];
    const k = size(rest);
    const shape = [k, n, k];
    const { emit } = this.#b;
    const here = emit("eq", [emit("iota", [], { shape, axis: 0 }), emit("iota", [], { shape, axis: 2 })]);
    const flat = broadcast(emit, reshape(emit, d, [n, k]), shape, [1, 2]);
    const zero = broadcast(emit, this.#b.scalar(0, d.type.dtype), shape, []);
    const made = reshape(emit, emit("select", [here, flat, zero]), [k, n, ...rest]);
    this.#diagonals.set(made, d);
    return made;
  }

  /** @internal What `made` is the diagonal of. */
  diagonalOf(made: Value): Value | undefined {
    return this.#diagonals.get(made);
  }
}

const where = (loss: CustomLoss): string => `loss "${loss.name}"`;

export const customTarget = (loss: CustomLoss, z: Value): Type => {
  const [n, ...rest] = z.type.shape as [number, ...number[]];
  return { dtype: loss.target?.dtype ?? "f32", shape: [n, ...(loss.target?.shape ?? rest)] };
};

/** The formula, [N]. @throws CompileError "bad-model" if it is not one number (or several) per example. */
export function customPerExample(b: Builder, loss: CustomLoss, z: Value, target: Value): Value {
  const made = loss.perExample(new LossOps(b), z, target);
  if (made.type.dtype !== "f32" || made.type.shape[0] !== z.type.shape[0])
    throw new CompileError("bad-model", `perExample gives ${made.type.dtype}${spellShape(made.type.shape)}, not floats with the ${z.type.shape[0]} examples first`, where(loss), "sum over the other axes only");
  return sum(b.emit, made, made.type.shape.map((_, axis) => axis).slice(1));
}

/** ∂l_n/∂z by reverse mode. */
export function customDerivative(b: Builder, loss: CustomLoss, z: Value, target: Value): Value {
  const l = customPerExample(b, loss, z, target);
  const found = l === z ? undefined : cotangents(b, new Map([[l, broadcast(b.emit, b.scalar(1), l.type.shape, [])]]), [z]).get(z);
  if (!found) throw new CompileError("bad-model", "perExample does not depend on the output", where(loss));
  return found;
}

export interface Factor {
  /** [columns, …z] */
  readonly vectors: Value;
  /** The vectors are the columns of the diagonal matrix of this, [N, …]. */
  readonly diagonal: Value | undefined;
}

/** @throws CompileError "bad-option" if the loss gives no factor, "bad-model" if its shape is wrong. */
export function customFactor(b: Builder, loss: CustomLoss, z: Value): Factor {
  if (!loss.fisher) throw new CompileError("bad-option", "the loss gives no factor of its Fisher", where(loss), "add fisher: { factor }, or use --fisher empirical");
  const ops = new LossOps(b);
  const vectors = loss.fisher.factor(ops, z);
  if (!sameShape(vectors.type.shape.slice(1), z.type.shape) || vectors.type.dtype !== "f32")
    throw new CompileError("bad-model", `fisher.factor gives ${vectors.type.dtype}${spellShape(vectors.type.shape)}, not f32[columns, ${z.type.shape.join(", ")}]`, where(loss), "ops.diagonal(d) makes the columns of a diagonal matrix");
  return { vectors, diagonal: ops.diagonalOf(vectors) };
}
