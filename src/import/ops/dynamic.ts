/** Ops whose results have as many elements as the data say: only of numbers known at import. */
import type { NdArray } from "../../../ir/ndarray.js";
import { strides } from "../../../ir/type.js";
import type { Context, ImportOp } from "../context.js";

function known(c: Context): NdArray {
  const x = c.numbers(0);
  if (!x) throw c.refuse("how many elements its result has depends on the data, and shapes must be known when the model is compiled", "mask with Where instead, or cut the model before it");
  return x;
}

const integers = (data: readonly number[]): NdArray => ({ dtype: "i32", shape: [data.length], data: Float64Array.from(data) });

/** Coordinates of the elements that are not 0, one column each. */
function nonZero(c: Context): NdArray {
  const x = known(c);
  const places = Array.from(x.data.keys()).filter((k) => x.data[k] !== 0);
  const step = strides(x.shape);
  const data = x.shape.flatMap((n, axis) => places.map((k) => Math.floor(k / (step[axis] as number)) % n));
  return { dtype: "i32", shape: [x.shape.length, places.length], data: Float64Array.from(data) };
}

/** Different elements of the flat tensor, ascending or as they come; where each is first; which one every element is; how many of each. */
function unique(c: Context): readonly NdArray[] {
  const x = known(c);
  if (c.node.attrs.has("axis")) throw c.refuse("slices along an axis are not supported", "only single elements are");
  const flat = [...x.data];
  if (flat.some((v) => Number.isNaN(v))) throw c.refuse("NaN is not supported");
  const first = new Map<number, number>();
  flat.forEach((v, k) => { if (!first.has(v)) first.set(v, k); });
  const values = [...first.keys()];
  if (c.int("sorted", 1) !== 0) values.sort((a, b) => a - b);
  const number = new Map(values.map((v, k) => [v, k]));
  const inverse = flat.map((v) => number.get(v) as number);
  const counts = values.map(() => 0);
  for (const k of inverse) counts[k] = (counts[k] as number) + 1;
  return [{ dtype: x.dtype, shape: [values.length], data: Float64Array.from(values) },
    integers(values.map((v) => first.get(v) as number)), integers(inverse), integers(counts)];
}

export const dynamicOps: Readonly<Record<string, ImportOp>> = { NonZero: nonZero, Unique: unique };
