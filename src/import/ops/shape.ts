/** Ops that give the same elements another shape or order, or repeat them. */
import { broadcastShape } from "../../../ir/builder.js";
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import { sameShape, size } from "../../../ir/type.js";
import { type Context, type ImportOp, scaledAxes } from "../context.js";
import { reboundShape } from "../rebind.js";
import { reshape, spread } from "./common.js";

/** A Reshape target with 0 (copy) and −1 (what is left) resolved; undefined if it does not fit. */
function resolved(from: readonly number[], target: readonly number[], allowZero: boolean): number[] | undefined {
  const shape = target.map((n, axis) => (n === 0 && !allowZero ? (from[axis] ?? -2) : n));
  const open = shape.indexOf(-1);
  if (open >= 0) {
    const rest = shape.reduce((product, n, axis) => (axis === open ? product : product * n), 1);
    shape[open] = rest === 0 ? 0 : size(from) / rest;
  }
  return shape.every((n) => Number.isInteger(n) && n >= 0) && size(shape) === size(from) ? shape : undefined;
}

function onnxReshape(c: Context): Value {
  const x = c.x(0);
  const now = x.type.shape;
  const raw = c.ints(1);
  const natural = resolved(now, raw, c.int("allowzero", 0) !== 0);
  const [old, target] = [c.oldShape(0), c.oldResult(0)];
  const place = c.host.place(c.node.inputs[0] ?? "");
  if (old && target && place && c.host.rebind && scaledAxes(now, old).length > 0) {
    const { from, to } = c.host.rebind;
    // of a file that leaves its batch open, arithmetic is right for any, and so is what comes behind examples that it has merged; only a
    // literal 1 that stands for an axis of theirs is a trace of an export with one example
    const exact = natural && c.host.rebind.symbolic === true && (old[place.axis] !== from || c.host.fromShapes?.(c.node.inputs[1] ?? "") === true);
    const made = reboundShape(old, place, target, from, to, raw, natural, exact, c.host.rebind.symbolic);
    if (!made) throw c.lost(`the examples of [${now}] cannot be followed into the shape [${raw}]`);
    c.host.setPlace(c.node.outputs[0] ?? "", made.place);
    return reshape(c, x, made.shape);
  }
  if (!natural) throw new CompileError("shape-mismatch", `Reshape: [${now}] cannot become [${raw}]`, c.where);
  return reshape(c, x, natural);
}

function flatten(c: Context): Value {
  const x = c.x(0);
  const { shape } = x.type;
  const axis = c.int("axis", 1);
  const at = axis < 0 ? axis + shape.length : axis;
  if (!(at >= 0 && at <= shape.length)) throw new CompileError("bad-model", `Flatten: no axis ${axis} in ${shape.length} dimensions`, c.where);
  const [old, place] = [c.oldShape(0), c.host.place(c.node.inputs[0] ?? "")];
  if (old && place && scaledAxes(shape, old).length > 0) {
    const inner = place.inner * size(old.slice(place.axis + 1, place.axis < at ? at : undefined));
    c.host.setPlace(c.node.outputs[0] ?? "", { axis: place.axis < at ? 0 : 1, inner });
  }
  return reshape(c, x, [size(shape.slice(0, at)), size(shape.slice(at))]);
}

/** Axes as an attribute before opset 13, as an input since. */
const axesOf = (c: Context): readonly number[] | undefined => (c.opset < 13 ? c.intList("axes") : c.has(1) ? c.ints(1) : undefined);

function squeeze(c: Context): Value {
  const x = c.x(0);
  const { shape } = x.type;
  const named = axesOf(c)?.map((axis) => c.axis(axis, shape.length)) ?? (c.oldShape(0) ?? shape).flatMap((n, axis) => (n === 1 ? [axis] : []));
  for (const axis of named)
    if (shape[axis] !== 1) throw c.host.rebind ? c.lost(`axis ${axis} of [${shape}] is squeezed away`) : new CompileError("shape-mismatch", `Squeeze: axis ${axis} of [${shape}] is not 1`, c.where);
  return reshape(c, x, shape.filter((_, axis) => !named.includes(axis)));
}

function unsqueeze(c: Context): Value {
  const x = c.x(0);
  const axes = axesOf(c) ?? [];
  const rank = x.type.shape.length + axes.length;
  const at = axes.map((axis) => c.axis(axis, rank));
  const rest = [...x.type.shape];
  return reshape(c, x, Array.from({ length: rank }, (_, axis) => (at.includes(axis) ? 1 : (rest.shift() as number))));
}

function transpose(c: Context): Value {
  const x = c.x(0);
  const given = c.intList("perm");
  const perm = given && given.length > 0 ? given : x.type.shape.map((_, axis) => axis).reverse();
  return perm.every((from, to) => from === to) ? x : c.emit("permute", [x], { perm: [...perm] });
}

/** Broadcasting both ways with a target shape; of an operand without examples, an entry that spells the file's batch follows the new one. */
function expand(c: Context): Value {
  const x = c.x(0);
  const target = c.ints(1);
  const old = c.oldResult(0);
  const { rebind } = c.host;
  if (rebind && old) {
    const carried = scaledAxes(x.type.shape, c.oldShape(0)).length > 0;
    const shift = old.length - x.type.shape.length;
    const spelled = target.length === old.length ? target : [...new Array<number>(old.length - target.length).fill(1), ...target];
    const shape = old.map((n, axis) => {
      const mine = axis >= shift ? (x.type.shape[axis - shift] as number) : 1;
      if (mine !== 1) return mine;
      if (spelled[axis] !== n) return spelled[axis] as number; // computed from a shape: already the new one
      return axis === 0 && !carried && n === rebind.from && n > 1 && old.length > 1 ? rebind.to : n;
    });
    return spread(c, x, shape);
  }
  return spread(c, x, broadcastShape(x.type.shape, target));
}

/** The whole tensor repeated along each axis. */
function tile(c: Context): Value {
  const x = c.x(0);
  const { shape } = x.type;
  const repeats = c.ints(1);
  for (const axis of scaledAxes(shape, c.oldShape(0))) if (repeats[axis] !== 1) throw c.lost(`axis ${axis} is repeated`);
  const pairs = shape.flatMap((n, axis) => [repeats[axis] ?? 1, n]);
  const spreadOut = c.emit("broadcast", [x], { shape: pairs, axes: shape.map((_, axis) => 2 * axis + 1) });
  return sameShape(pairs.filter((_, k) => k % 2 === 1), shape) && repeats.every((n) => n === 1) ? x : reshape(c, spreadOut, shape.map((n, axis) => n * (repeats[axis] ?? 1)));
}

/** Blocks of channels become blocks of pixels. */
function depthToSpace(c: Context): Value {
  const x = c.x(0);
  const b = c.int("blocksize");
  const [n, channels, h, w] = x.type.shape as [number, number, number, number];
  const deep = channels / (b * b);
  const columnsFirst = c.text("mode", "DCR") === "CRD";
  const split = reshape(c, x, columnsFirst ? [n, deep, b, b, h, w] : [n, b, b, deep, h, w]);
  return reshape(c, c.emit("permute", [split], { perm: columnsFirst ? [0, 1, 4, 2, 5, 3] : [0, 3, 4, 1, 5, 2] }), [n, deep, h * b, w * b]);
}

function spaceToDepth(c: Context): Value {
  const x = c.x(0);
  const b = c.int("blocksize");
  const [n, channels, h, w] = x.type.shape as [number, number, number, number];
  const split = reshape(c, x, [n, channels, h / b, b, w / b, b]);
  return reshape(c, c.emit("permute", [split], { perm: [0, 3, 5, 1, 2, 4] }), [n, channels * b * b, h / b, w / b]);
}

export const shapeOps: Readonly<Record<string, ImportOp>> = {
  Reshape: onnxReshape, Flatten: flatten, Squeeze: squeeze, Unsqueeze: unsqueeze, Transpose: transpose, Expand: expand, Tile: tile,
  DepthToSpace: depthToSpace, SpaceToDepth: spaceToDepth,
};
