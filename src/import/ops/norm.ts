/** Normalisations: normalised x, times a scale, plus a shift. */
import type { Value } from "../../../ir/graph.js";
import type { Context, ImportOp, Result } from "../context.js";
import { add, along, mean, mul, plus, reshape, restore, spread, standardize, sum, times } from "./common.js";

/** scale and shift per channel (axis 1). */
const perChannel = (c: Context, x: Value, scale: Value, shift: Value): Value =>
  c.emit("add", [c.emit("mul", [x, along(c, scale, x.type.shape, 1)]), along(c, shift, x.type.shape, 1)]);

/** Whether the file asks for the statistics of the batch: an attribute since opset 14, more outputs before. */
const wantsBatch = (c: Context): boolean =>
  c.opset >= 14 ? c.int("training_mode", 0) !== 0 : c.node.outputs.filter((name) => name !== "").length > 1;

/**
 * y = (x − mean) / √(variance + ε) · scale + shift, over channels (axis 1).
 *
 * With the stored statistics, or in training with those of the batch (population variance); then the running statistics become
 * `old·momentum + batch·(1 − momentum)`: the further outputs, and what a training step leaves in the stored tensors.
 */
function batchNorm(c: Context): readonly Result[] {
  const x = c.x(0);
  const epsilon = c.float("epsilon", 1e-5);
  if (wantsBatch(c) && c.host.mode === "train") {
    const axes = x.type.shape.flatMap((_, axis) => (axis === 1 ? [] : [axis]));
    const s = standardize(c, x, axes, epsilon);
    c.host.differs?.();
    const momentum = c.float("momentum", 0.9);
    const running = (k: number, i: number, now: Value): Result => {
      const stored = c.running(i);
      if (stored === undefined && !c.wants(k)) return now;
      const next = c.emit("add", [times(c, c.x(i), momentum), times(c, now, 1 - momentum)]);
      if (stored !== undefined) c.host.update?.(stored, next);
      return next;
    };
    return [perChannel(c, s.y, c.x(1), c.x(2)), running(1, 3, s.mean), running(2, 4, s.variance)];
  }
  const inverse = c.emit("reciprocal", [c.emit("sqrt", [plus(c, c.x(4), epsilon)])]);
  const centered = c.emit("sub", [x, along(c, c.x(3), x.type.shape, 1)]);
  const y = perChannel(c, c.emit("mul", [centered, along(c, inverse, x.type.shape, 1)]), c.x(1), c.x(2));
  return wantsBatch(c) ? [y, c.x(3), c.x(4)] : [y];
}

/** Over the axes from `axis` on; the optional outputs are the mean and 1/√(variance + ε). */
function layerNorm(c: Context): readonly Result[] {
  const x = c.x(0);
  const { shape } = x.type;
  const axis = c.axis(c.int("axis", -1), shape.length);
  const axes = shape.flatMap((_, k) => (k >= axis ? [k] : []));
  const s = standardize(c, x, axes, c.float("epsilon", 1e-5));
  const scaled = mul(c, s.y, c.x(1));
  const kept = shape.map((n, k) => (k >= axis ? 1 : n));
  return [c.has(2) ? add(c, scaled, c.x(2)) : scaled, ...[s.mean, s.inverse].map((v) => reshape(c, v, kept))];
}

/** x / √(mean(x²) + ε) · scale, over the axes from `axis` on. */
function rmsNorm(c: Context): Value {
  const x = c.x(0);
  const { shape } = x.type;
  const axis = c.axis(c.int("axis", -1), shape.length);
  const axes = shape.flatMap((_, k) => (k >= axis ? [k] : []));
  const inverse = c.emit("reciprocal", [c.emit("sqrt", [plus(c, mean(c, c.emit("mul", [x, x]), axes), c.float("epsilon", 1e-5))])]);
  return mul(c, c.emit("mul", [x, restore(c, inverse, shape, axes)]), c.x(1));
}

/** Per example and channel, over the spatial axes. */
function instanceNorm(c: Context): Value {
  const x = c.x(0);
  const axes = x.type.shape.flatMap((_, axis) => (axis >= 2 ? [axis] : []));
  return perChannel(c, standardize(c, x, axes, c.float("epsilon", 1e-5)).y, c.x(1), c.x(2));
}

/** Per example and group of channels; scale and shift are per channel (since opset 21), per group before. */
function groupNorm(c: Context): Value {
  const x = c.x(0);
  const { shape } = x.type;
  const groups = c.int("num_groups");
  const [n, channels, ...rest] = shape as [number, number, ...number[]];
  const split = reshape(c, x, [n, groups, channels / groups, ...rest]);
  const axes = split.type.shape.flatMap((_, axis) => (axis >= 2 ? [axis] : []));
  const y = standardize(c, split, axes, c.float("epsilon", 1e-5)).y;
  if (c.opset >= 21) return perChannel(c, reshape(c, y, shape), c.x(1), c.x(2));
  return reshape(c, perChannel(c, y, c.x(1), c.x(2)), shape);
}

/** x / (bias + alpha/size · Σ x²)^beta, the sum over `size` neighbouring channels. */
function localResponse(c: Context): Value {
  const x = c.x(0);
  const size = c.int("size");
  const view = c.emit("window", [c.emit("mul", [x, x])], {
    axis: 1, count: x.type.shape[1] as number, taps: size, stride: 1, dilation: 1, offset: -Math.floor((size - 1) / 2), divisor: 1,
  });
  const base = plus(c, times(c, sum(c, view, [2]), c.float("alpha", 1e-4) / size), c.float("bias", 1));
  return c.emit("div", [x, c.emit("pow", [base, spread(c, c.scalar(c.float("beta", 0.75)), x.type.shape)])]);
}

/** Divided by its norm along an axis. */
function lpNorm(c: Context): Value {
  const x = c.x(0);
  const axes = [c.axis(c.int("axis", -1), x.type.shape.length)];
  const norm = c.int("p", 2) === 1 ? sum(c, c.emit("abs", [x]), axes) : c.emit("sqrt", [sum(c, c.emit("mul", [x, x]), axes)]);
  return c.emit("div", [x, restore(c, norm, x.type.shape, axes)]);
}

export const normOps: Readonly<Record<string, ImportOp>> = {
  BatchNormalization: batchNorm, LayerNormalization: layerNorm, RMSNormalization: rmsNorm, InstanceNormalization: instanceNorm,
  GroupNormalization: groupNorm, LRN: localResponse, LpNormalization: lpNorm,
};
