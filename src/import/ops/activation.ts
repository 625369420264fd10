/** Activation functions, as their formulas. */
import type { Value } from "../../../ir/graph.js";
import type { Context, ImportOp } from "../context.js";
import { like, mul, plus, restore, sum, times } from "./common.js";

const positive = (c: Context, x: Value): Value => c.emit("gt", [x, like(c, 0, x)]);

/** x where x > 0, else scale·(e^(x/width) − 1): Elu, Selu and Celu. The exponent never sees positive numbers. */
function exponential(c: Context, x: Value, scale: number, width: number): Value {
  const right = positive(c, x);
  const left = c.emit("select", [right, like(c, 0, x), x]);
  const curve = times(c, plus(c, c.emit("exp", [times(c, left, 1 / width)]), -1), scale);
  return c.emit("select", [right, x, curve]);
}

const hardSigmoid = (c: Context, x: Value, alpha: number, beta: number): Value => {
  const line = plus(c, times(c, x, alpha), beta);
  return c.emit("min", [c.emit("relu", [line]), like(c, 1, x)]);
};

function gelu(c: Context): Value {
  const x = c.x(0);
  const inner = c.text("approximate", "none") === "tanh"
    ? c.emit("tanh", [times(c, c.emit("add", [x, times(c, c.emit("mul", [c.emit("mul", [x, x]), x]), 0.044715)]), Math.sqrt(2 / Math.PI))])
    : c.emit("erf", [times(c, x, Math.SQRT1_2)]);
  return c.emit("mul", [times(c, x, 0.5), plus(c, inner, 1)]);
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

function sigmoid(c: Context): Value {
  const x = c.x(0);
  const out = c.emit("sigmoid", [x]);
  c.host.heads.set(out, { kind: "sigmoid", axis: Math.min(1, Math.max(0, x.type.shape.length - 1)), logits: x });
  return out;
}

/** The slope broadcasts to x; a slope [c] of older exporters stands for the channels. */
function prelu(c: Context): Value {
  const x = c.x(0);
  return c.emit("select", [positive(c, x), x, mul(c, x, c.x(1))]);
}

export const activationOps: Readonly<Record<string, ImportOp>> = {
  Relu: (c) => c.emit("relu", [c.x(0)]),
  Tanh: (c) => c.emit("tanh", [c.x(0)]),
  Softplus: (c) => c.emit("softplus", [c.x(0)]),
  Sigmoid: sigmoid,
  LeakyRelu: (c) => c.emit("select", [positive(c, c.x(0)), c.x(0), times(c, c.x(0), c.float("alpha", 0.01))]),
  PRelu: prelu,
  Elu: (c) => exponential(c, c.x(0), c.float("alpha", 1), 1),
  Celu: (c) => exponential(c, c.x(0), c.float("alpha", 1), c.float("alpha", 1)),
  Selu: (c) => times(c, exponential(c, c.x(0), c.float("alpha", 1.6732632423543772), 1), c.float("gamma", 1.0507009873554805)),
  ThresholdedRelu: (c) => c.emit("select", [c.emit("gt", [c.x(0), like(c, c.float("alpha", 1), c.x(0))]), c.x(0), like(c, 0, c.x(0))]),
  HardSigmoid: (c) => hardSigmoid(c, c.x(0), c.float("alpha", 0.2), c.float("beta", 0.5)),
  HardSwish: (c) => c.emit("mul", [c.x(0), hardSigmoid(c, c.x(0), 1 / 6, 0.5)]),
  Softsign: (c) => c.emit("div", [c.x(0), plus(c, c.emit("abs", [c.x(0)]), 1)]),
  Gelu: gelu,
  "com.microsoft.Gelu": gelu,
  Mish: (c) => c.emit("mul", [c.x(0), c.emit("tanh", [c.emit("softplus", [c.x(0)])])]),
  Swish: (c) => c.emit("mul", [c.x(0), c.emit("sigmoid", [times(c, c.x(0), c.float("alpha", 1))])]),
  Softmax: (c) => softmax(c, false),
  LogSoftmax: (c) => softmax(c, true),
  Shrink: (c) => {
    const x = c.x(0);
    const lambda = c.float("lambd", 0.5);
    const bias = c.float("bias", 0);
    const high = c.emit("gt", [x, like(c, lambda, x)]);
    const low = c.emit("lt", [x, like(c, -lambda, x)]);
    return c.emit("select", [high, plus(c, x, -bias), c.emit("select", [low, plus(c, x, bias), like(c, 0, x)])]);
  },
};
