/** Normalisations: normalised x, times a scale, plus a shift. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import type { Context, ImportOp, Result } from "../context.js";
import { add, along, like, mean, mul, plus, reshape, restore, root, spread, standardize, sum, times } from "./common.js";

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
  if (c.int("spatial", 1) === 0) throw c.refuse("statistics of every place (spatial = 0) are not supported", "export it with opset 9 or later");
  if (x.type.shape.length < 2) throw c.refuse(`an input [${x.type.shape}] without an axis of channels is not supported`);
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
  const axes = trailing(c, shape.length);
  const s = standardize(c, x, axes, c.float("epsilon", 1e-5));
  const scaled = mul(c, s.y, c.x(1));
  return [c.has(2) ? add(c, scaled, c.x(2)) : scaled, ...[s.mean, s.inverse].map((v) => reshape(c, v, ones(shape, axes)))];
}

/** The axes from `axis` on. */
function trailing(c: Context, rank: number): number[] {
  const axis = c.axis(c.int("axis", -1), rank);
  return Array.from({ length: rank - axis }, (_, k) => axis + k);
}

/** x / √(mean(x²) + ε) · scale, over axes; also 1 / √… over the kept ones. */
function byRootMeanSquare(c: Context, x: Value, axes: readonly number[], scale: Value, epsilon: number): { y: Value; inverse: Value } {
  const inverse = c.emit("reciprocal", [c.emit("sqrt", [plus(c, mean(c, c.emit("mul", [x, x]), axes), epsilon)])]);
  return { y: mul(c, c.emit("mul", [x, restore(c, inverse, x.type.shape, axes)]), scale), inverse };
}

/** The optional output is 1 / √…. */
function rmsNorm(c: Context): readonly Value[] {
  const x = c.x(0);
  const { shape } = x.type;
  const axes = trailing(c, shape.length);
  const { y, inverse } = byRootMeanSquare(c, x, axes, c.x(1), c.float("epsilon", 1e-5));
  return [y, reshape(c, inverse, ones(shape, axes))];
}

/** A shape with 1 for the axes given. */
const ones = (shape: readonly number[], axes: readonly number[]): number[] => shape.map((n, k) => (axes.includes(k) ? 1 : n));

/** input + skip + bias, normalised over the last axis; the last output is that sum. */
const skipNorm = (centered: boolean): ImportOp => (c) => {
  const shift = centered ? 3 : -1; // inputs: input, skip, scale, [shift], bias
  const bias = centered ? 4 : 3;
  const sums = add(c, c.x(0), c.x(1));
  const x = c.has(bias) ? add(c, sums, c.x(bias)) : sums;
  const { shape } = x.type;
  const axes = [shape.length - 1];
  const epsilon = c.float("epsilon", 1e-12);
  if (!centered) {
    const { y, inverse } = byRootMeanSquare(c, x, axes, c.x(2), epsilon);
    if (c.wants(1)) throw c.refuse("its output of means is not computed", "no mean is taken");
    return [y, y, reshape(c, inverse, ones(shape, axes)), x];
  }
  const s = standardize(c, x, axes, epsilon);
  const scaled = mul(c, s.y, c.x(2));
  return [c.has(shift) ? add(c, scaled, c.x(shift)) : scaled, ...[s.mean, s.inverse].map((v) => reshape(c, v, ones(shape, axes))), x];
};

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
  if (!(groups >= 1) || channels % groups !== 0) throw new CompileError("shape-mismatch", `GroupNormalization: ${channels} channels in ${groups} groups`, c.where);
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

/** Divided by its norm along an axis; what has none stays 0. */
function lpNorm(c: Context): Value {
  const x = c.x(0);
  const axes = [c.axis(c.int("axis", -1), x.type.shape.length)];
  const p = c.int("p", 2);
  if (p !== 1 && p !== 2) throw c.refuse(`p = ${p} is not supported`, "1 and 2 are");
  const norm = p === 1 ? sum(c, c.emit("abs", [x]), axes) : root(c, sum(c, c.emit("mul", [x, x]), axes));
  const divisor = c.emit("select", [c.emit("eq", [norm, like(c, 0, norm)]), like(c, 1, norm), norm]);
  return c.emit("div", [x, restore(c, divisor, x.type.shape, axes)]);
}

/** (x − mean) / (√variance + 1e-9), over the axes named. */
function meanVariance(c: Context): Value {
  const x = c.x(0);
  const { shape } = x.type;
  const axes = [...new Set((c.intList("axes") ?? [0, 2, 3]).map((axis) => c.axis(axis, shape.length)))].sort((a, b) => a - b);
  const centered = c.emit("sub", [x, restore(c, mean(c, x, axes), shape, axes)]);
  const deviation = root(c, mean(c, c.emit("mul", [centered, centered]), axes));
  return c.emit("div", [centered, restore(c, plus(c, deviation, 1e-9), shape, axes)]);
}

export const normOps: Readonly<Record<string, ImportOp>> = {
  BatchNormalization: batchNorm, LayerNormalization: layerNorm, RMSNormalization: rmsNorm, InstanceNormalization: instanceNorm,
  GroupNormalization: groupNorm, LRN: localResponse, LpNormalization: lpNorm, MeanVarianceNormalization: meanVariance,
  SimplifiedLayerNormalization: rmsNorm,
  "com.microsoft.SkipLayerNormalization": skipNorm(true), "com.microsoft.SkipSimplifiedLayerNormalization": skipNorm(false),
};
