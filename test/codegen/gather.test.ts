/** Rows by computed index on an adapter: tables that are views, indices outside the table, and the sums that undo it. */
import { describe, expect, it } from "vitest";
import { sortsPlaces } from "../../codegen/kernels/scatter-spec.js";
import { Builder } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { size } from "../../ir/type.js";
import { testDevice } from "../support/gpu.js";
import { random, runPoisoned, tensor } from "../support/models.js";

const device = testDevice();

/** A table as it lies in memory → the table [b, rows, width] that is looked up. */
type View = (b: Builder, x: Value) => Value;

const indices = (b: number, n: number, rows: number, seed: number): NdArray => {
  const u = random(seed);
  return ndarray("i32", [b, n], Array.from({ length: b * n }, () => Math.floor(u() * 0.5 * (rows + 2) + 0.5 * (rows + 2)) - 1));
};

async function same(shape: readonly number[], view: View, n: number, build: (b: Builder, table: Value, index: Value) => Value = (b, t, i) => b.emit("gather", [t, i])): Promise<Graph> {
  const b = new Builder("g");
  const x = b.input("x", { dtype: "f32", shape });
  const table = view(b, x);
  const [batch, rows] = table.type.shape as [number, number];
  const index = b.input("index", { dtype: "i32", shape: [batch, n] });
  const graph = b.finish([{ name: "y", value: build(b, table, index) }]);
  const data = { x: tensor(shape, random(size(shape))), index: indices(batch, n, rows, 7) };
  const { results } = await runPoisoned(device().device, graph, data);
  const want = (evaluate(graph, data).y as NdArray).data;
  expect((results.y as NdArray).data.length).toBe(want.length);
  want.forEach((w, k) => {
    const got = results.y?.data[k] as number;
    if (!(Math.abs(got - w) <= 2 ** -20 * Math.max(1, Math.abs(w)))) expect.fail(`y[${k}] is ${got}, not ${w}`);
  });
  return graph;
}

const plain: View = (_b, x) => x;

describe("gather", () => {
  for (const [b, rows, width, n] of [[1, 1, 1, 1], [1, 5, 3, 7], [2, 3, 4, 65], [3, 64, 8, 5], [1, 7, 63, 2], [2, 65, 1, 63]] as const)
    it(`takes ${n} of ${rows} rows of ${width}, ${b} tables`, async () => void (await same([b, rows, width], plain, n)));

  it("reads a table through a permutation, with no buffer for it", async () => {
    await same([2, 3, 4, 5], (b, x) => b.emit("reshape", [b.emit("permute", [x], { perm: [0, 2, 3, 1] })], { shape: [2, 20, 3] }), 9);
    await same([3, 2, 5], (b, x) => b.emit("permute", [x], { perm: [1, 2, 0] }), 4);
  });
  it("reads a table that is a padded, strided, repeated or computed value", async () => {
    await same([2, 3, 4], (b, x) => b.emit("pad", [x], { low: [0, 1, 0], high: [0, 2, 3], value: 0 }), 9);
    await same([2, 9, 4], (b, x) => b.emit("slice", [x], { start: [0, 8, 0], size: [2, 5, 2], stride: [1, -2, 2] }), 9);
    await same([3, 4], (b, x) => b.emit("broadcast", [x], { shape: [5, 3, 4], axes: [1, 2] }), 6);
    await same([2, 3, 4], (b, x) => b.emit("tanh", [x]), 6);
    await same([1, 12, 1], (b, x) => b.emit("reduce_sum", [b.emit("window", [x], { axis: 1, count: 5, taps: 3, stride: 2, dilation: 1, offset: 0, divisor: 1 })], { axes: [2] }), 6);
  });
  it("computes the index where it is read, and a gather of a gather", async () => {
    await same([2, 6, 4], plain, 8, (b, t, i) => b.emit("gather", [t, b.emit("add", [i, i])]));
    await same([2, 6, 4], plain, 8, (b, t, i) => b.emit("gather", [b.emit("gather", [t, i]), b.emit("sub", [i, b.emit("broadcast", [b.scalar(1, "i32")], { shape: [2, 8], axes: [] })])]));
  });
  it("feeds a contraction", async () => {
    await same([2, 6, 4], plain, 8, (b, t, i) => b.emit("contract", [b.emit("gather", [t, i]), t], { spec: "bni,bmi->bnm" }));
  });
});

describe("scatter", () => {
  for (const [b, n, width, rows] of [[1, 1, 1, 1], [1, 5, 3, 7], [2, 65, 4, 3], [3, 5, 8, 64], [1, 2, 63, 7], [1, 300, 5, 6]] as const)
    it(`sums ${n} rows of ${width} into ${rows}, ${b} tables`, async () =>
      void (await same([b, n, width], plain, n, (g, t, i) => g.emit("scatter", [t, i], { rows }))));
  // above the size at which places are sorted by row first
  for (const [b, n, width, rows] of [[1, 2000, 1, 2000], [3, 700, 17, 600], [2, 1500, 33, 1031], [1, 3000, 16, 1025], [1, 64, 48, 30_000]] as const)
    it(`sorts ${n} places of ${width} into ${rows} rows, ${b} tables`, async () => {
      const graph = await same([b, n, width], plain, n, (g, t, i) => g.emit("scatter", [t, i], { rows }));
      expect(graph.nodes.every(sortsPlaces)).toBe(true);
    });
  it("sorts places of views, with work before and behind", async () => {
    await same([300, 8, 3], (b, x) => b.emit("permute", [x], { perm: [2, 0, 1] }), 300, (b, t, i) => {
      const index = b.emit("add", [i, i]);
      return b.emit("tanh", [b.emit("scatter", [b.emit("mul", [t, t]), index], { rows: 3000 })]);
    });
    await same([2, 9, 300], (b, x) => b.emit("permute", [b.emit("pad", [x], { low: [0, 1, 0], high: [0, 0, 0], value: 0 })], { perm: [0, 2, 1] }), 300,
      (b, t, i) => b.emit("scatter", [t, i], { rows: 4000 }));
  });
  it("sorts places that all go to one row, and adds them in order: equal runs are equal to the bit", async () => {
    const b = new Builder("g");
    const [x, index] = [b.input("x", { dtype: "f32", shape: [1, 4000, 5] }), b.input("index", { dtype: "i32", shape: [1, 4000] })];
    const graph = b.finish([{ name: "y", value: b.emit("scatter", [x, index], { rows: 700 }) }]);
    const data = { x: tensor([1, 4000, 5], random(3)), index: ndarray("i32", [1, 4000], new Float64Array(4000).fill(699)) };
    const runs = [await runPoisoned(device().device, graph, data), await runPoisoned(device().device, graph, data)].map((r) => [...(r.results.y as NdArray).data]);
    expect(runs[0]).toEqual(runs[1]);
    // four thousand additions one after the other
    (evaluate(graph, data).y as NdArray).data.forEach((w, k) => { expect(Math.abs((runs[0]?.[k] as number) - w)).toBeLessThanOrEqual(4000 * 2 ** -24 * 64); });
  });
  it("sums more rows than one thread may loop over, into many and into few", async () => {
    await same([1, 60_001, 1], plain, 60_001, (b, t, i) => b.emit("scatter", [t, i], { rows: 600 }));
    await same([1, 60_001, 3], plain, 60_001, (b, t, i) => b.emit("scatter", [t, i], { rows: 2 }));
  });
  it("sums a value that is computed in place, with work behind the sum", async () => {
    await same([2, 6, 4], plain, 6, (b, t, i) => b.emit("tanh", [b.emit("scatter", [b.emit("mul", [t, t]), i], { rows: 5 })]));
  });
});
