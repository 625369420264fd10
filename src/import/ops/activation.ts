/** Activation functions, as their formulas. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import type { OpName } from "../../../ir/ops/names.js";
import type { Context, ImportOp } from "../context.js";
import { add, like, mul, plus, restore, spread, sum, times } from "./common.js";

/** A parameter of an activation by its name, or the standard's own where the file gives none. */
type Parameter = (name: string, fallback: number) => number;
type Activation = (c: Context, x: Value, number: Parameter) => Value;

const positive = (c: Context, x: Value): Value => c.emit("gt", [x, like(c, 0, x)]);
const plain = (op: OpName): Activation => (c, x) => c.emit(op, [x]);

/**
 * x where x > 0, else scale·(e^(x/width) − 1): Elu, Selu and Celu. The exponent never sees positive numbers; what it sees instead is not
 * 0, or drivers make a minimum of the choice, and that hides NaN.
 */
function exponential(c: Context, x: Value, scale: number, width: number): Value {
  const right = positive(c, x);
  const left = c.emit("select", [right, like(c, -1, x), x]);
  return c.emit("select", [right, x, times(c, c.emit("expm1", [times(c, left, 1 / width)]), scale)]);
}

const hardSigmoid = (c: Context, x: Value, alpha: number, beta: number): Value => {
  const line = plus(c, times(c, x, alpha), beta);
  return c.emit("min", [c.emit("relu", [line]), like(c, 1, x)]);
};

const swish = (c: Context, x: Value, alpha: number): Value => c.emit("mul", [x, c.emit("sigmoid", [times(c, x, alpha)])]);

const shrink: Activation = (c, x, number) => {
  const [lambda, bias] = [number("lambd", 0.5), number("bias", 0)];
  const high = c.emit("gt", [x, like(c, lambda, x)]);
  const low = c.emit("lt", [x, like(c, -lambda, x)]);
  return c.emit("select", [high, plus(c, x, -bias), c.emit("select", [low, plus(c, x, bias), like(c, 0, x)])]);
};

function selu(c: Context, x: Value, number: Parameter): Value {
  return times(c, exponential(c, x, number("alpha", 1.6732632423543772), 1), number("gamma", 1.0507009873554805));
}

/** One tensor in, one of its shape out, numbers as parameters. */
const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  Relu: plain("relu"), Tanh: plain("tanh"), Softplus: plain("softplus"), Sigmoid: sigmoid,
  LeakyRelu: (c, x, number) => c.emit("select", [positive(c, x), x, times(c, x, number("alpha", 0.01))]),
  Elu: (c, x, number) => exponential(c, x, number("alpha", 1), 1),
  Celu: (c, x, number) => exponential(c, x, number("alpha", 1), number("alpha", 1)),
  Selu: selu,
  ThresholdedRelu: (c, x, number) => c.emit("select", [c.emit("gt", [x, like(c, number("alpha", 1), x)]), x, like(c, 0, x)]),
  HardSigmoid: (c, x, number) => hardSigmoid(c, x, number("alpha", 0.2), number("beta", 0.5)),
  HardSwish: (c, x) => c.emit("mul", [x, hardSigmoid(c, x, 1 / 6, 0.5)]),
  Softsign: (c, x) => c.emit("div", [x, plus(c, c.emit("abs", [x]), 1)]),
  Mish: (c, x) => c.emit("mul", [x, c.emit("tanh", [c.emit("softplus", [x])])]),
  Swish: (c, x, number) => swish(c, x, number("alpha", 1)),
  Shrink: shrink,
};

/** The activation that another op applies to its result, by name; `number` reads that op's attributes for it. */
export function activate(c: Context, x: Value, name: string, number: Parameter): Value {
  const activation = Object.hasOwn(ACTIVATIONS, name) ? ACTIVATIONS[name] : undefined;
  if (!activation) throw c.refuse(`the activation "${name}" is not supported`);
  return activation(c, x, number);
}

function sigmoid(c: Context, x: Value): Value {
  const out = c.emit("sigmoid", [x]);
  c.host.heads.set(out, { kind: "sigmoid", axis: Math.min(1, Math.max(0, x.type.shape.length - 1)), logits: x });
  return out;
}

/** x·Φ(x). `tanh`: with the usual approximation of the normal distribution Φ. */
function gelu(c: Context, x: Value, tanh: boolean): Value {
  const inner = tanh
    ? c.emit("tanh", [times(c, c.emit("add", [x, times(c, c.emit("mul", [c.emit("mul", [x, x]), x]), 0.044715)]), Math.sqrt(2 / Math.PI))])
    : c.emit("erf", [times(c, x, Math.SQRT1_2)]);
  return c.emit("mul", [times(c, x, 0.5), plus(c, inner, 1)]);
}

/** Gelu of x plus the bias of its last axis, if there is one. */
const biased = (tanh: boolean): ImportOp => (c) => gelu(c, c.has(1) ? add(c, c.x(0), c.x(1)) : c.x(0), tanh);

function swiglu(c: Context): Value {
  const [gate, x] = [c.x(0), c.x(1)];
  if (gate.type.shape.join() !== x.type.shape.join()) throw new CompileError("shape-mismatch", `SwiGLU: [${gate.type.shape}] and [${x.type.shape}] must be one shape`, c.where);
  return c.emit("mul", [swish(c, gate, c.float("alpha", 1)), x]);
}

/** The slope is spread to x, never x to the slope. */
function prelu(c: Context): Value {
  const x = c.x(0);
  return c.emit("select", [positive(c, x), x, mul(c, x, spread(c, c.x(1), x.type.shape))]);
}

/** Axes that a softmax normalises over: since opset 13 one axis; before, all from `axis` on, jointly. */
function softmaxAxes(c: Context, rank: number): number[] {
  const axis = c.axis(c.int("axis", c.opset < 13 ? 1 : -1), rank);
  return c.opset < 13 ? Array.from({ length: rank - axis }, (_, k) => axis + k) : [axis];
}

/** Softmax with the usual shift by the largest logit, which has no derivative because the result does not depend on it. */
function softmax(c: Context, log: boolean): Value {
  const x = c.x(0);
  const { shape } = x.type;
  const axes = softmaxAxes(c, shape.length);
  const top = c.emit("detach", [c.emit("reduce_max", [x], { axes })]);
  const shifted = c.emit("sub", [x, restore(c, top, shape, axes)]);
  const powers = c.emit("exp", [shifted]);
  const total = sum(c, powers, axes);
  const out = log
    ? c.emit("sub", [shifted, restore(c, c.emit("log", [total]), shape, axes)])
    : c.emit("div", [powers, restore(c, total, shape, axes)]);
  const real = axes.filter((axis) => shape[axis] !== 1);
  if (real.length <= 1) c.host.heads.set(out, { kind: log ? "log-softmax" : "softmax", axis: real[0] ?? (axes[0] as number), logits: x });
  return out;
}

export const activationOps: Readonly<Record<string, ImportOp>> = {
  ...Object.fromEntries(Object.entries(ACTIVATIONS).map(([name, f]): [string, ImportOp] => [name, (c) => f(c, c.x(0), (key, fallback) => c.float(key, fallback))])),
  PRelu: prelu,
  Gelu: (c) => gelu(c, c.x(0), c.text("approximate", "none") === "tanh"),
  SwiGLU: swiglu,
  Softmax: (c) => softmax(c, false),
  LogSoftmax: (c) => softmax(c, true),
  "com.microsoft.Gelu": (c) => gelu(c, c.x(0), false),
  "com.microsoft.FastGelu": biased(true),
  "com.microsoft.BiasGelu": biased(false),
  "com.microsoft.QuickGelu": (c) => swish(c, c.x(0), c.float("alpha", 1.702)),
};
