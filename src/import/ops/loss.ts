/** Losses of class numbers: NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import { sameShape } from "../../../ir/type.js";
import type { Context, ImportOp } from "../context.js";
import { along, castTo, like, mean, restore, sum } from "./common.js";

/** Scores' classes are along this axis. */
const CLASSES = 1;

/** Where a score is that of its target's class, and the target is not to be ignored: [n, c, d…]. */
interface Targets {
  readonly hot: Value;
  /** Which targets count, [n, d…]; undefined: all. */
  readonly counted: Value | undefined;
}

function targets(c: Context, shape: readonly number[]): Targets {
  const target = castTo(c, c.x(1), "i32");
  if (shape.length < 2 || !sameShape(target.type.shape, shape.filter((_, axis) => axis !== CLASSES)))
    throw new CompileError("shape-mismatch", `${c.node.op}: targets [${target.type.shape}] for scores [${shape}]`, c.where);
  const classes = c.emit("iota", [], { shape: [...shape], axis: CLASSES });
  const hot = c.emit("eq", [restore(c, target, shape, [CLASSES]), classes]);
  if (!c.node.attrs.has("ignore_index")) return { hot, counted: undefined };
  const counted = c.emit("ne", [target, like(c, c.int("ignore_index"), target)]);
  return { hot: c.emit("and", [hot, restore(c, counted, shape, [CLASSES])]), counted };
}

/** The number of the target's class, by comparison: 0 where the target is ignored. */
const picked = (c: Context, hot: Value, of: Value): Value => sum(c, c.emit("select", [hot, of, like(c, 0, of)]), [CLASSES]);

/** Weights of the targets' classes, [n, d…]; they are numbers of the loss, not of the model: nothing trains them. */
function weights(c: Context, { hot, counted }: Targets): Value | undefined {
  if (!c.has(2)) return counted && castTo(c, counted, "f32");
  const { shape } = hot.type;
  if (c.shape(2).length !== 1 || c.shape(2)[0] !== shape[CLASSES]) throw new CompileError("shape-mismatch", `${c.node.op}: weights [${c.shape(2)}] for ${shape[CLASSES]} classes`, c.where);
  const known = c.numbers(2);
  const w = known ? c.host.table(`${c.node.outputs[0]}.weight`, known) : c.x(2);
  return picked(c, hot, along(c, c.emit("detach", [w]), shape, CLASSES));
}

/**
 *   scores [n, c, d…]   targets i32[n, d…]   weight [c]
 *   loss[n, d…] = −weight[t] · scores[n, t, d…], 0 where t is ignored; the mean is one weighted by weight[t]
 */
function likelihood(c: Context, scores: Value): Value {
  const t = targets(c, scores.type.shape);
  const weight = weights(c, t);
  const each = c.emit("neg", [picked(c, t.hot, scores)]);
  const loss = weight ? c.emit("mul", [each, weight]) : each;
  const axes = [...loss.type.shape.keys()];
  const reduction = c.text("reduction", "mean");
  if (reduction === "none") return loss;
  if (reduction === "sum") return sum(c, loss, axes);
  if (reduction !== "mean") throw new CompileError("bad-model", `${c.node.op}: no reduction "${reduction}"`, c.where);
  return weight ? c.emit("div", [sum(c, loss, axes), sum(c, weight, axes)]) : mean(c, loss, axes);
}

/** log softmax over the classes, shifted by the largest score. */
function logProbabilities(c: Context, x: Value): Value {
  const { shape } = x.type;
  if (shape.length < 2) throw new CompileError("shape-mismatch", `${c.node.op}: scores [${shape}] without classes`, c.where);
  const top = c.emit("detach", [c.emit("reduce_max", [x], { axes: [CLASSES] })]);
  const shifted = c.emit("sub", [x, restore(c, top, shape, [CLASSES])]);
  const total = c.emit("log", [sum(c, c.emit("exp", [shifted]), [CLASSES])]);
  const out = c.emit("sub", [shifted, restore(c, total, shape, [CLASSES])]);
  c.host.heads.set(out, { kind: "log-softmax", axis: CLASSES, logits: x });
  return out;
}

function crossEntropy(c: Context): readonly Value[] {
  const scores = logProbabilities(c, c.x(0));
  return [likelihood(c, scores), scores];
}

export const lossOps: Readonly<Record<string, ImportOp>> = {
  NegativeLogLikelihoodLoss: (c) => likelihood(c, c.x(0)),
  SoftmaxCrossEntropyLoss: crossEntropy,
};
