/** Constants, shapes as numbers, and ops that pass their input on. */
import { CompileError } from "../../../ir/error.js";
import type { NdArray } from "../../../ir/ndarray.js";
import { type DType, size } from "../../../ir/type.js";
import { type Context, type ImportOp, scaledAxes } from "../context.js";
import { MAX_FOLDED } from "../fold.js";
import { type ExternalRef, type OnnxNode, type OnnxTensor, onnxType } from "../model.js";
import { countElements, decodeTensor, irType, numericType } from "../tensor.js";

const known = (dtype: DType, shape: readonly number[], data: readonly number[]): NdArray => ({ dtype, shape, data: Float64Array.from(data) });

/** A Constant node's numbers (not trainable ones: those stay parameters, see roles.ts). */
function constant(c: Context): NdArray {
  const { attrs } = c.node;
  const t = attrs.get("value")?.t;
  if (t) {
    const { dtype, shape, data } = decodeTensor(t, c.host.external);
    return { dtype, shape, data: Float64Array.from(data) };
  }
  const one = attrs.get("value_float")?.f;
  if (one !== undefined) return known("f32", [], [one]);
  const whole = attrs.get("value_int")?.i;
  if (whole !== undefined) return known("i32", [], [whole]);
  const floats = attrs.get("value_floats")?.floats;
  if (floats) return known("f32", [floats.length], floats);
  const ints = attrs.get("value_ints")?.ints;
  if (ints) return known("i32", [ints.length], ints);
  throw c.refuse("constants of strings or sparse tensors are not supported");
}

/** One number at every place; a shape that spells the file's batch follows the new one. */
function filled(c: Context): NdArray {
  const spelled = c.ints(0);
  const { rebind } = c.host;
  const old = c.oldResult(0);
  const shape = spelled.map((n, axis) => (rebind && old && axis === 0 && spelled.length > 1 && n === old[0] && n === rebind.from && n > 1 ? rebind.to : n));
  const t = c.node.attrs.get("value")?.t;
  const fill = t ? decodeTensor(t, c.host.external) : { dtype: "f32" as const, data: [0] };
  if (shape.some((n) => n < 0) || size(shape) > MAX_FOLDED) throw new CompileError("bad-model", `ConstantOfShape: impossible shape [${shape}]`, c.where);
  return { dtype: fill.dtype, shape, data: new Float64Array(size(shape)).fill(fill.data[0] ?? 0) };
}

function shape(c: Context): NdArray {
  const all = c.shape(0);
  const at = (name: string, fallback: number): number => {
    const i = c.int(name, fallback);
    return Math.min(all.length, Math.max(0, i < 0 ? i + all.length : i));
  };
  const part = all.slice(at("start", 0), at("end", all.length));
  return known("i32", [part.length], part);
}

/** start, start + delta, … below limit. */
function range(c: Context): NdArray {
  const [start, limit, delta] = [c.number(0, 0), c.number(1, 0), c.number(2, 1)];
  const count = Math.max(0, Math.ceil((limit - start) / delta));
  if (!Number.isFinite(count) || count > MAX_FOLDED) throw new CompileError("bad-model", `Range: from ${start} to ${limit} by ${delta}`, c.where);
  return known(c.dtype(0), [count], Array.from({ length: count }, (_, k) => start + k * delta));
}

/** Ones on a diagonal of a matrix, zeros elsewhere; the input gives the shape and, without a type of its own, the type. */
function eyeLike(c: Context): NdArray {
  const dims = c.shape(0);
  if (dims.length !== 2) throw new CompileError("bad-model", `EyeLike: [${dims}] is no matrix`, c.where);
  if (scaledAxes(dims, c.oldShape(0)).length > 0) throw c.lost("one side of its matrix counts the examples");
  const [rows, columns] = dims as [number, number];
  if (rows * columns > MAX_FOLDED) throw new CompileError("too-large", `EyeLike: a constant of [${dims}]`, c.where);
  const named = c.node.attrs.get("dtype")?.i;
  const stored = named === undefined ? undefined : onnxType(named);
  if (stored === "string" || (named !== undefined && stored === undefined)) throw c.refuse(`of data type ${named} is not supported`);
  const k = c.int("k", 0);
  const data = Array.from({ length: rows * columns }, (_, at) => Number(at % columns === Math.floor(at / columns) + k));
  return known(stored ? irType(stored) : c.dtype(0), dims, data);
}

export const constantOps: Readonly<Record<string, ImportOp>> = {
  Constant: constant,
  ConstantOfShape: filled,
  Shape: shape,
  Size: (c) => known("i32", [], [size(c.shape(0))]),
  Range: range,
  EyeLike: eyeLike,
  Identity: (c) => c.x(0),
};

/** A float tensor that a node's attributes spell; its numbers are made when they are read. */
const bareTensor = (name: string, dims: readonly number[], numbers: () => Float32Array): OnnxTensor => ({
  name, dims, type: 1, floats: [], int32s: [], int64s: [], uint64s: [], doubles: [], strings: 0, external: undefined,
  get raw() {
    return new Uint8Array(numbers().buffer);
  },
});

/**
 * The float tensor of a Constant or ConstantOfShape node, for one that is a weight; undefined for other types.
 * `numbers` gives the shape that a ConstantOfShape reads.
 */
export function constantTensor(node: OnnxNode, numbers: (name: string) => ArrayLike<number>, external: (ref: ExternalRef) => Uint8Array): OnnxTensor | undefined {
  const name = node.outputs[0] ?? "";
  const t = node.attrs.get("value")?.t;
  if (t && irType(numericType(t)) !== "f32") return undefined;
  if (node.op === "Constant") {
    const floats = node.attrs.get("value_floats")?.floats ?? [];
    return t ?? (floats.length > 0 ? bareTensor(name, [floats.length], () => Float32Array.from(floats)) : undefined);
  }
  const fill = t ? (decodeTensor(t, external).data[0] ?? 0) : 0;
  const dims = Array.from(numbers(node.inputs[0] ?? ""));
  const made = bareTensor(name, dims, () => new Float32Array(size(dims)).fill(fill));
  countElements(made); // refuses impossible shapes before anything is allocated
  return made;
}
