/** Plain float64 arrays with a shape: what the evaluator computes on. Integers and booleans are exact in float64. */
import { type DType, size, type Type } from "./type.js";

export interface NdArray {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export const ndarray = (dtype: DType, shape: readonly number[], data: ArrayLike<number>): NdArray => {
  const array = data instanceof Float64Array ? data : Float64Array.from(data);
  if (array.length !== size(shape)) throw new Error(`${array.length} numbers for shape [${shape}]`);
  return { dtype, shape, data: array };
};

export const empty = (t: Type): NdArray => ({ dtype: t.dtype, shape: t.shape, data: new Float64Array(size(t.shape)) });

/** Calls `visit(index, flat)` for every index of a shape in row-major order. The index array is reused. */
export function eachIndex(shape: readonly number[], visit: (index: readonly number[], flat: number) => void): void {
  const total = size(shape);
  const index = new Array<number>(shape.length).fill(0);
  for (let flat = 0; flat < total; flat++) {
    visit(index, flat);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis] = (index[axis] as number) + 1;
      if ((index[axis] as number) < (shape[axis] as number)) break;
      index[axis] = 0;
    }
  }
}
