/** Types of values: an element type and a static shape. Spelled `f32[2, 3]`; a scalar is `f32[]`. */

export type DType = "f32" | "f16" | "i32" | "u32" | "bool";
export const DTYPES: readonly DType[] = ["f32", "f16", "i32", "u32", "bool"];

export interface Type {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

export const type = (dtype: DType, shape: readonly number[]): Type => ({ dtype, shape });
export const f32 = (...shape: number[]): Type => type("f32", shape);
export const i32 = (...shape: number[]): Type => type("i32", shape);

/** Number of elements; 1 for a scalar. */
export const size = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1);

/** Row-major strides in elements. */
export function strides(shape: readonly number[]): number[] {
  const out = new Array<number>(shape.length);
  for (let axis = shape.length - 1, step = 1; axis >= 0; axis--) {
    out[axis] = step;
    step *= shape[axis] as number;
  }
  return out;
}

export const sameShape = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((n, axis) => n === b[axis]);

export const sameType = (a: Type, b: Type): boolean => a.dtype === b.dtype && sameShape(a.shape, b.shape);

export const spellShape = (shape: readonly number[]): string => `[${shape.join(", ")}]`;
export const spellType = (t: Type): string => `${t.dtype}${spellShape(t.shape)}`;
