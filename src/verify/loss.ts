/**
 * The losses again, as plain loops over numbers: what the compiler's graphs of them are checked against. l_n is per example, not divided
 * by N; a softmax target below 0 is a position without a label.
 */
import { CompileError } from "../../ir/error.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { size } from "../../ir/type.js";

export type PlainLoss = "softmax-ce" | "half-sse" | "bernoulli-ce" | "mse";

export interface LossShape {
  readonly kind: PlainLoss;
  /** Class axis of softmax-ce. */
  readonly axis: number;
}

interface Position {
  readonly example: number;
  /** Flat index of each class. */
  readonly at: readonly number[];
  /** Flat index into the targets. */
  readonly target: number;
}

/** Positions of softmax-ce: everything but the class axis. */
function positionsOf(z: NdArray, axis: number): Position[] {
  const inner = size(z.shape.slice(axis + 1));
  const classes = z.shape[axis] as number;
  const count = z.data.length / classes;
  const perExample = count / (z.shape[0] as number);
  return Array.from({ length: count }, (_, p) => {
    const base = Math.floor(p / inner) * inner * classes + (p % inner);
    return { example: Math.floor(p / perExample), at: Array.from({ length: classes }, (_, c) => base + c * inner), target: p };
  });
}

const softmax = (z: NdArray, at: readonly number[]): { p: number[]; logSum: number } => {
  const top = Math.max(...at.map((k) => z.data[k] as number));
  const powers = at.map((k) => Math.exp((z.data[k] as number) - top));
  const total = powers.reduce((a, b) => a + b, 0);
  return { p: powers.map((x) => x / total), logSum: Math.log(total) + top };
};
const sigmoid = (x: number): number => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));
const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
const zeros = (z: NdArray): NdArray => ndarray("f32", z.shape, new Float64Array(z.data.length));

/** l_n of every example. */
export function losses({ kind, axis }: LossShape, z: NdArray, target: NdArray): Float64Array {
  const n = z.shape[0] as number;
  const out = new Float64Array(n);
  const per = z.data.length / n;
  const add = (e: number, l: number): void => { out[e] = (out[e] as number) + l; };
  if (kind === "softmax-ce") {
    for (const q of positionsOf(z, axis)) {
      const label = target.data[q.target] as number;
      if (label >= 0) add(q.example, softmax(z, q.at).logSum - (z.data[q.at[label] as number] as number));
    }
    return out;
  }
  z.data.forEach((x, k) => {
    const t = target.data[k] as number;
    const l = kind === "bernoulli-ce" ? softplus(x) - t * x : (kind === "mse" ? 1 / per : 0.5) * (x - t) ** 2;
    add(Math.floor(k / per), l);
  });
  return out;
}

/** ∂l_n/∂z of all examples, shape of z. */
export function derivative({ kind, axis }: LossShape, z: NdArray, target: NdArray): NdArray {
  const out = zeros(z);
  const per = z.data.length / (z.shape[0] as number);
  if (kind === "softmax-ce") {
    for (const q of positionsOf(z, axis)) {
      const label = target.data[q.target] as number;
      if (label < 0) continue;
      const { p } = softmax(z, q.at);
      q.at.forEach((k, c) => { out.data[k] = (p[c] as number) - (c === label ? 1 : 0); });
    }
    return out;
  }
  z.data.forEach((x, k) => {
    const t = target.data[k] as number;
    out.data[k] = kind === "bernoulli-ce" ? sigmoid(x) - t : (kind === "mse" ? 2 / per : 1) * (x - t);
  });
  return out;
}

/** Columns of the exact Fisher at z, in the order outputs are stored; ignored positions are 0 in all. Every column holds all examples. */
export function exactColumns({ kind, axis }: LossShape, z: NdArray, target: NdArray): NdArray[] {
  const n = z.shape[0] as number;
  const per = z.data.length / n;
  const columns = Array.from({ length: per }, () => zeros(z));
  if (kind === "softmax-ce") {
    for (const q of positionsOf(z, axis)) {
      if ((target.data[q.target] as number) < 0) continue;
      const { p } = softmax(z, q.at);
      q.at.forEach((home, c) => {
        const column = columns[home % per] as NdArray;
        q.at.forEach((k, d) => { column.data[k] = Math.sqrt(p[c] as number) * ((p[d] as number) - (c === d ? 1 : 0)); });
      });
    }
    return columns;
  }
  z.data.forEach((x, k) => {
    const p = sigmoid(x);
    (columns[k % per] as NdArray).data[k] = kind === "bernoulli-ce" ? Math.sqrt(p * (1 - p)) : kind === "mse" ? Math.sqrt(2 / per) : 1;
  });
  return columns;
}

/** Targets drawn from the model's own distribution, rounded to f32. `normal` and `uniform` give one number each. */
export function drawTargets({ kind, axis }: LossShape, z: NdArray, uniform: () => number, normal: () => number): NdArray {
  const per = z.data.length / (z.shape[0] as number);
  if (kind === "softmax-ce") {
    const labels = positionsOf(z, axis).map((q) => {
      let left = uniform();
      const { p } = softmax(z, q.at);
      for (let c = 0; c < p.length - 1; c++) {
        left -= p[c] as number;
        if (left < 0) return c;
      }
      return p.length - 1;
    });
    return ndarray("i32", z.shape.filter((_, k) => k !== axis), labels);
  }
  const spread = kind === "mse" ? Math.sqrt(per / 2) : 1;
  return ndarray("f32", z.shape, z.data.map((x) => Math.fround(kind === "bernoulli-ce" ? Number(uniform() < sigmoid(x)) : x + spread * normal())));
}

export function plainLoss(kind: string, where: string): PlainLoss {
  if (kind === "softmax-ce" || kind === "half-sse" || kind === "bernoulli-ce" || kind === "mse") return kind;
  throw new CompileError("bad-option", `loss "${kind}" has no independent formula to verify against`, where, "verify the layers with --loss half-sse: they do not depend on the loss");
}
