/** Reduction kernels on an adapter: every set of axes, one or two passes, ties, NaN, ragged sizes, and folds (sums over windows). */
import { describe, expect, it } from "vitest";
import { PORTABLE } from "../../codegen/limits.js";
import { planProgram } from "../../codegen/plan.js";
import { Builder } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { type DType, f32, size } from "../../ir/type.js";
import { testDevice } from "../support/gpu.js";
import { random, runPoisoned, tensor } from "../support/models.js";

const device = testDevice();
const OPS = ["reduce_sum", "reduce_max", "reduce_argmax"] as const;

const graphOf = (shape: readonly number[], build: (b: Builder, x: Value) => Readonly<Record<string, Value>>, dtype: DType = "f32"): Graph => {
  const b = new Builder("g");
  const x = b.input("x", { dtype, shape });
  return b.finish(Object.entries(build(b, x)).map(([name, value]) => ({ name, value })));
};

async function same(graph: Graph, x: NdArray, tolerance: number): Promise<void> {
  const { results } = await runPoisoned(device().device, graph, { x });
  for (const [name, want] of Object.entries(evaluate(graph, { x }))) {
    const got = (results[name] as NdArray).data;
    want.data.forEach((w, k) => {
      if (!(Object.is(got[k], w) || Math.abs((got[k] as number) - w) <= tolerance * Math.max(1, Math.abs(w)))) throw new Error(`${name}[${k}] is ${got[k]}, not ${w}`);
    });
  }
}

/** Rounding of a sum of n numbers of at most 1, in whatever order. */
const sumError = (n: number): number => 2 ** -23 * Math.max(4, Math.sqrt(n) * 4);

describe("sum, max and argmax", () => {
  const SHAPE = [3, 4, 2, 5];
  const subsets = Array.from({ length: 15 }, (_, mask) => [0, 1, 2, 3].filter((axis) => (mask + 1) & (1 << axis)));
  it("over every set of axes of a tensor of four", async () => {
    const x = tensor(SHAPE, random(1));
    for (const op of OPS) await same(graphOf(SHAPE, (b, v) => Object.fromEntries(subsets.map((axes) => [`${op} ${axes}`, b.emit(op, [v], { axes })]))), x, sumError(120));
  });

  it("over a view that is permuted, padded, strided and mirrored", async () => {
    const x = tensor([5, 6], random(2));
    await same(graphOf([5, 6], (b, v) => {
      const turned = b.emit("permute", [b.emit("slice", [v], { start: [4, 0], size: [3, 6], stride: [-2, 1] })], { perm: [1, 0] });
      const padded = b.emit("pad", [turned], { low: [1, 0], high: [0, 2], value: 0.5 });
      return Object.fromEntries(OPS.flatMap((op) => [[`${op} rows`, b.emit(op, [padded], { axes: [1] })], [`${op} all`, b.emit(op, [padded], { axes: [0, 1] })]]));
    }), x, sumError(40));
  });

  for (const n of [1, 2, 3, 5, 7, 16, 17, 63, 64, 65, 127, 257])
    it(`of ${n} elements: alone, along rows, along columns`, async () => {
      const x = tensor([n, 3], random(n));
      await same(graphOf([n, 3], (b, v) => Object.fromEntries(OPS.flatMap((op) => [
        [`${op} all`, b.emit(op, [v], { axes: [0, 1] })], [`${op} down`, b.emit(op, [v], { axes: [0] })], [`${op} across`, b.emit(op, [v], { axes: [1] })],
      ]))), x, sumError(3 * n));
    });

  it("of one long row takes two passes, of a long prime one", async () => {
    for (const [n, kernels] of [[40_000, 2], [4099, 1]] as const) {
      const x = tensor([n], random(n));
      const graph = graphOf([n], (b, v) => ({ sum: b.emit("reduce_sum", [b.emit("mul", [v, v])], { axes: [0] }) }));
      expect(planProgram([{ name: "main", graph }], new Set(), PORTABLE).plan.entries.main?.steps.length).toBe(kernels);
      await same(graph, x, sumError(n));
      await same(graphOf([n], (b, v) => ({ max: b.emit("reduce_max", [v], { axes: [0] }) })), x, 0);
    }
  });

  it("sums of small whole numbers are exact in one pass and in two, floats and integers", async () => {
    const next = random(9);
    for (const dtype of ["f32", "i32", "u32"] as const) {
      const x = ndarray(dtype, [4, 1024], Float64Array.from({ length: 4096 }, () => Math.floor(50 * (next() + (dtype === "u32" ? 1 : 0)))));
      await same(graphOf([4, 1024], (b, v) => ({ rows: b.emit("reduce_sum", [v], { axes: [1] }), all: b.emit("reduce_sum", [v], { axes: [0, 1] }), max: b.emit("reduce_max", [v], { axes: [1] }), arg: b.emit("reduce_argmax", [v], { axes: [1] }) }), dtype), x, 0);
    }
  });

  it("a row of a prime length beyond what a thread may loop is cut into parts of which the last is short", async () => {
    const x = ndarray("f32", [100_003], Float64Array.from({ length: 100_003 }, (_, k) => (k % 7) - 3));
    await same(graphOf([100_003], (b, v) => ({ sum: b.emit("reduce_sum", [v], { axes: [0] }), most: b.emit("reduce_max", [v], { axes: [0] }) })), x, 0);
  });

  it("an argmax longer than a thread may loop is refused, not cut short", () => {
    const graph = graphOf([100_003], (b, v) => ({ first: b.emit("reduce_argmax", [v], { axes: [0] }) }));
    expect(() => planProgram([{ name: "main", graph }], new Set(), PORTABLE)).toThrow(/exceeds the \d+ loop steps/);
  });

  it("of equal maxima the first in row-major order is chosen", async () => {
    for (const n of [5, 64, 300]) {
      const x = ndarray("f32", [2, n, 2], Float64Array.from({ length: 4 * n }, (_, k) => [3, 7, 7, 1, 7][k % 5] as number));
      await same(graphOf([2, n, 2], (b, v) => ({ middle: b.emit("reduce_argmax", [v], { axes: [1] }), ends: b.emit("reduce_argmax", [v], { axes: [0, 2] }), all: b.emit("reduce_argmax", [v], { axes: [0, 1, 2] }) })), x, 0);
    }
  });

  it("NaN is the maximum wherever it stands, in one pass and in two, and never the argument", async () => {
    for (const n of [5, 40, 4096])
      for (const at of [0, 1, n >> 1, n - 1]) {
        const x = tensor([n], random(n + at));
        x.data[at] = Number.NaN;
        const { results } = await runPoisoned(device().device, graphOf([n], (b, v) => ({ max: b.emit("reduce_max", [v], { axes: [0] }), sum: b.emit("reduce_sum", [v], { axes: [0] }), ...(n < 4096 ? { arg: b.emit("reduce_argmax", [v], { axes: [0] }) } : {}) })), { x });
        expect([results.max?.data[0], results.sum?.data[0]], `NaN at ${at} of ${n}`).toEqual([Number.NaN, Number.NaN]);
        if (results.arg) expect(results.arg.data[0]).not.toBe(at);
      }
  });

  it("infinities: a row of -∞ has that maximum, and +∞ wins", async () => {
    const low = Number.NEGATIVE_INFINITY;
    const x = ndarray("f32", [3, 4], [low, low, low, low, 1, Number.POSITIVE_INFINITY, 2, low, Math.fround(-3e38), low, low, Math.fround(-3.2e38)]);
    await same(graphOf([3, 4], (b, v) => ({ max: b.emit("reduce_max", [v], { axes: [1] }), arg: b.emit("reduce_argmax", [v], { axes: [1] }) })), x, 0);
  });

  it("work before and after the reduction joins it: one kernel", async () => {
    const x = tensor([70, 33], random(4));
    const graph = graphOf([70, 33], (b, v) => {
      const mean = b.emit("mul", [b.emit("reduce_sum", [b.emit("exp", [v])], { axes: [1] }), b.emit("broadcast", [b.scalar(1 / 33)], { shape: [70], axes: [] })]);
      return { y: b.emit("log", [mean]) };
    });
    expect(planProgram([{ name: "main", graph }], new Set(), PORTABLE).plan.entries.main?.steps.length).toBe(1);
    await same(graph, x, 1e-5);
  });

  it("many outputs in lanes of four, with an epilogue that reads another tensor", async () => {
    const b = new Builder("g");
    const [x, y] = [b.input("x", f32(6, 512)), b.input("y", f32(512))];
    const graph = b.finish([{ name: "z", value: b.emit("mul", [b.emit("reduce_sum", [x], { axes: [0] }), y]) }, { name: "m", value: b.emit("reduce_max", [x], { axes: [0] }) }]);
    const next = random(6);
    const given = { x: tensor([6, 512], next), y: tensor([512], next) };
    const { results } = await runPoisoned(device().device, graph, given);
    for (const [name, w] of Object.entries(evaluate(graph, given))) w.data.forEach((v, k) => expect(Math.abs((results[name] as NdArray).data[k] as number - v)).toBeLessThan(1e-5));
  });
});

describe("folds: sums over what windows read", () => {
  const geometries = [
    { stride: 1, dilation: 1, offset: 0, divisor: 1 }, { stride: 2, dilation: 1, offset: -1, divisor: 1 }, { stride: 1, dilation: 2, offset: -2, divisor: 1 },
    { stride: 3, dilation: 1, offset: 1, divisor: 1 }, { stride: 1, dilation: -1, offset: 2, divisor: 2 }, { stride: -2, dilation: 1, offset: 5, divisor: 1 },
  ];
  it("with strides, dilations, offsets, stuffing and mirrored steps", async () => {
    const x = tensor([2, 4, 3, 2], random(7));
    await same(graphOf([2, 4, 3, 2], (b, v) => Object.fromEntries(geometries.map((g, k) => [`g${k}`, b.emit("fold", [v], { axis: 1, size: 7, ...g })]))), x, sumError(12));
  });

  it("of folds are one kernel, and equal to one after the other", async () => {
    for (const g of geometries) {
      const shape = [2, 3, 3, 4, 2];
      const graph = graphOf(shape, (b, v) => ({ y: b.emit("fold", [b.emit("fold", [v], { axis: 3, size: 6, ...g })], { axis: 1, size: 5, stride: 2, dilation: 1, offset: -1, divisor: 1 }) }));
      await same(graph, tensor(shape, random(8)), sumError(size(shape)));
    }
  });

  it("read through a window again", async () => {
    const shape = [3, 3, 2];
    await same(graphOf(shape, (b, v) => {
      const folded = b.emit("fold", [v], { axis: 0, size: 5, stride: 2, dilation: 1, offset: -1, divisor: 1 });
      return { y: b.emit("window", [folded], { axis: 0, count: 4, taps: 2, stride: 1, dilation: 2, offset: -1, divisor: 1 }), z: b.emit("relu", [folded]) };
    }), tensor(shape, random(10)), 1e-6);
  });
});
