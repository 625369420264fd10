/** Rows picked by computed indices, and the sum that undoes it. */
import type { Value } from "../graph.js";
import { empty, type NdArray } from "../ndarray.js";
import { intAttr, mismatch, type OpDef } from "../op.js";
import type { Type } from "../type.js";
import type { INDEXING } from "./names.js";

/** B, the second operand's N, and the extents that x has there; undefined: the types do not fit. */
function extents([x, index]: readonly Type[]): readonly [number, number, number, number] | undefined {
  if (x?.shape.length !== 3 || index?.shape.length !== 2 || index.dtype !== "i32" || x.shape[0] !== index.shape[0]) return undefined;
  return [...(x.shape as [number, number, number]), index.shape[1] as number];
}

export const indexingOps: Record<(typeof INDEXING)[number], OpDef> = {
  gather: {
    name: "gather", doc: "rows by index: out[b, n, i] = x[b, index[b, n], i]; zero where the index is none of x's rows",
    arity: 2, attrs: {},
    infer(inputs) {
      const [b, , i, n] = extents(inputs) ?? [];
      if (b === undefined) throw mismatch("gather", inputs, "takes x [b, rows, i] and an i32 index [b, n]");
      return [{ dtype: (inputs[0] as Type).dtype, shape: [b, n as number, i as number] }];
    },
    vjp: ({ inputs: [x, index], ct, emit }) => [emit("scatter", [ct, index as Value], { rows: (x as Value).type.shape[1] as number }), undefined],
    evaluate([x, index], _attrs, [t]) {
      const out = empty(t as Type);
      eachRow(x as NdArray, index as NdArray, (x as NdArray).shape[1] as number, (row, place, i) => { out.data[place + i] = (x as NdArray).data[row + i] as number; });
      return [out];
    },
  },
  scatter: {
    name: "scatter", doc: "sums by index: out[b, r, i] = Σ of x[b, n, i] over the n with index[b, n] = r, of `rows` rows",
    arity: 2, attrs: { rows: "int" },
    infer(inputs, attrs) {
      const x = inputs[0] as Type;
      const [b, n, i, m] = extents(inputs) ?? [];
      if (b === undefined || n !== m || x.dtype === "bool") throw mismatch("scatter", inputs, "takes numbers [b, n, i] and an i32 index [b, n]");
      const rows = intAttr(attrs, "rows");
      if (rows < 0) throw mismatch("scatter", inputs, `cannot make ${rows} rows`);
      return [{ dtype: x.dtype, shape: [b, rows, i as number] }];
    },
    vjp: ({ inputs: [, index], ct, emit }) => [emit("gather", [ct, index as Value]), undefined],
    evaluate([x, index], attrs, [t]) {
      const out = empty(t as Type);
      eachRow(out, index as NdArray, intAttr(attrs, "rows"), (row, place, i) => { out.data[row + i] = (out.data[row + i] as number) + ((x as NdArray).data[place + i] as number); });
      return [out];
    },
  },
};

/** Visits (first element of the indexed row of `table`, first element of place [b, n], i) for every index that is a row. */
function eachRow(table: NdArray, index: NdArray, rows: number, visit: (row: number, place: number, i: number) => void): void {
  const [, n] = index.shape as [number, number];
  const width = table.shape[2] as number;
  index.data.forEach((r, k) => {
    if (!(r >= 0 && r < rows)) return;
    const row = (Math.floor(k / n) * rows + r) * width;
    for (let i = 0; i < width; i++) visit(row, k * width, i);
  });
}
