/** Reductions, losses, pools, norms and sorting where a list of cases does not reach: kinks, examples, other batches, refusals. */
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import type { CompileError } from "../../ir/error.js";
import { evaluate } from "../../ir/evaluate.js";
import { exampleMarks } from "../../ir/examples.js";
import { cotangents } from "../../ir/grad.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { type Imported, type ImportOptions, importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { buildModel, floats, INT64, ints, type ModelSpec, node, type NodeSpec } from "../support/onnx-model.js";
import { bindingsOf, type Inputs, random, runImported } from "../support/onnx-run.js";

type Attributes = NonNullable<NodeSpec["attrs"]>;

/** A model of one node with output y. */
const one = (op: string, names: readonly string[], { attrs = {}, ...spec }: Omit<ModelSpec, "outputs" | "nodes"> & { readonly attrs?: Attributes }, options: Partial<ImportOptions> = {}): Imported =>
  importModel(loadModel(buildModel({ opset: 18, ...spec, outputs: ["y"], nodes: [node(op, names, ["y"], attrs)] })), { mode: "train", ...options });
const given = (shape: readonly number[], data: readonly number[]): Inputs[string] => ({ shape, data: Float32Array.from(data) });
const result = (m: Imported, inputs: Inputs): number[] => [...(runImported(m, inputs)["y"] as NdArray).data];
const code = (make: () => unknown): string => {
  try {
    make();
    return "nothing";
  } catch (e) {
    return `${(e as CompileError).code}: ${(e as CompileError).message}`;
  }
};

/** ∂(Σ y)/∂x, to 12 decimals. */
function slope(m: Imported, inputs: Inputs): number[] {
  const b = Builder.from(m.graph);
  const [y, x] = [m.graph.results[0]?.value, m.graph.inputs[0]?.value];
  if (!y || !x) throw new Error("the model has no input or output");
  const seed = b.input(b.fresh("one"), y.type);
  const found = cotangents(b, new Map([[y, seed]]), [x]);
  const { dx } = evaluate(b.finish([{ name: "dx", value: found.get(x) ?? x }]), {
    ...bindingsOf(m, inputs), [seed.name]: ndarray("f32", y.type.shape, new Float64Array(y.type.shape.reduce((a, n) => a * n, 1)).fill(1)),
  });
  return Array.from((dx as NdArray).data, (v) => Number(v.toFixed(12)) + 0);
}

describe("derivatives at the places where a formula divides by zero", () => {
  it("a norm of nothing has none: 0, as PyTorch has it", () => {
    const x = { x: given([2, 2], [0, 0, 3, -4]) };
    const norm = one("ReduceL2", ["x", "a"], { inputs: { x: [2, 2] }, initializers: { a: ints(1) } });
    expect(result(norm, x)).toEqual([0, 5]);
    expect(slope(norm, x)).toEqual([0, 0, 0.6, -0.8]);
  });

  it("nor has a p-norm pool over zeros", () => {
    for (const p of [1, 2, 3]) {
      const m = one("LpPool", ["x"], { inputs: { x: [1, 1, 4] }, attrs: { kernel_shape: [2], strides: [2], p } });
      const x = { x: given([1, 1, 4], [0, 0, 0, 2]) };
      expect(result(m, x)).toEqual([0, 2]);
      expect(slope(m, x)).toEqual([0, 0, 0, 1]);
    }
  });

  it("what has no norm is 0 after LpNormalization, and its derivative is a number", () => {
    for (const p of [1, 2]) {
      const m = one("LpNormalization", ["x"], { inputs: { x: [2, 2] }, attrs: { p, axis: 1 } });
      const x = { x: given([2, 2], [0, 0, 3, 0]) };
      expect(result(m, x)).toEqual([0, 0, 1, 0]);
      expect(slope(m, x).every((v) => Number.isFinite(v))).toBe(true);
    }
  });

  it("a product's slope is the product of the others, with one zero and with two", () => {
    const m = one("ReduceProd", ["x", "a"], { inputs: { x: [3, 5] }, initializers: { a: ints(1) } });
    const x = { x: given([3, 5], [2, 3, 4, 5, 6, 2, 0, 4, 5, 6, 2, 0, 4, 0, 6]) };
    expect(result(m, x)).toEqual([720, 0, 0]);
    expect(slope(m, x)).toEqual([360, 240, 180, 144, 120, 0, 240, 0, 0, 0, 0, 0, 0, 0, 0]);
  });

  it("a running product's slope passes zeros", () => {
    const m = one("CumProd", ["x", "a"], { opset: 26, inputs: { x: [4] }, initializers: { a: { dims: [], type: INT64, int64s: [0] } } });
    const x = { x: given([4], [2, 0, 3, 4]) };
    expect(result(m, x)).toEqual([2, 0, 0, 0]);
    // y = a + ab + abc + abcd
    expect(slope(m, x)).toEqual([1, 2 + 6 + 24, 0, 0]);
  });
});

it("−∞ among the terms of ReduceLogSumExp adds nothing, alone it stays", () => {
  const m = one("ReduceLogSumExp", ["x", "a"], { inputs: { x: [2, 2] }, initializers: { a: ints(1) } });
  expect(result(m, { x: given([2, 2], [-Infinity, 2, -Infinity, -Infinity]) })).toEqual([2, -Infinity]);
});

describe("losses", () => {
  const scores = { inputs: { x: [2, 3], t: [2] }, types: { t: INT64 }, initializers: { w: floats([3], [1, 2, 3]) } };
  it("the weights of classes are no weights of the model", () => {
    const m = one("SoftmaxCrossEntropyLoss", ["x", "t", "w"], scores);
    expect(m.graph.params.filter((p) => p.trainable)).toEqual([]);
    expect(m.graph.params.length).toBe(1);
  });

  it("a mean is over the examples of another batch, too", () => {
    const m = one("SoftmaxCrossEntropyLoss", ["x", "t"], scores, { batch: 4 });
    const x = [...random(12, 3)];
    const nll = [0, 1, 2, 1].map((t, n) => Math.log([0, 1, 2].reduce((sum, k) => sum + Math.exp(x[3 * n + k] as number), 0)) - (x[3 * n + t] as number));
    const [y] = result(m, { x: given([4, 3], x), t: { shape: [4], data: BigInt64Array.of(0n, 1n, 2n, 1n) } });
    expect(y).toBeCloseTo(nll.reduce((a, b) => a + b) / 4, 12);
  });

  it("targets and weights that do not fit the scores are named", () => {
    expect(code(() => one("NegativeLogLikelihoodLoss", ["x", "t"], { ...scores, inputs: { x: [2, 3, 4], t: [2] } }))).toMatch(/^shape-mismatch: .*targets \[2\] for scores \[2,3,4\]/);
    expect(code(() => one("NegativeLogLikelihoodLoss", ["x", "t", "w"], { ...scores, inputs: { x: [2, 5], t: [2] } }))).toMatch(/^shape-mismatch: .*weights \[3\] for 5 classes/);
  });
});

describe("every example stays by itself", () => {
  const kept = (m: Imported): unknown => exampleMarks(m.graph).get(m.graph.results[0]?.value as never);
  const image = { inputs: { x: [2, 2, 4] } };
  const axis = (k: number) => ({ dims: [], type: INT64, int64s: [k] });
  const cases: readonly [string, readonly string[], Parameters<typeof one>[2]][] = [
    ["ReduceProd", ["x", "s"], { ...image, initializers: { s: ints(2) } }],
    ["ReduceL2", ["x", "s"], { ...image, initializers: { s: ints(2) } }],
    ["LpPool", ["x"], { ...image, attrs: { kernel_shape: [2] } }],
    ["TopK", ["x", "s"], { ...image, initializers: { s: ints(2) } }],
    ["CumSum", ["x", "s"], { ...image, initializers: { s: axis(2) } }],
    ["Hardmax", ["x"], image],
    ["ArgMax", ["x"], { ...image, attrs: { axis: 2, select_last_index: 1 } }],
    ["MaxUnpool", ["x", "i"], { inputs: { x: [2, 2, 4], i: [2, 2, 4] }, types: { i: INT64 }, attrs: { kernel_shape: [2], strides: [1] } }],
    ["Col2Im", ["x", "s", "k"], { ...image, initializers: { s: ints(5), k: ints(2) } }],
    ["NegativeLogLikelihoodLoss", ["x", "t"], { inputs: { x: [2, 2, 4], t: [2, 4] }, types: { t: INT64 }, attrs: { reduction: "none" } }],
  ];
  for (const [op, names, spec] of cases)
    it(`through ${op}, and at another batch`, () => {
      expect(kept(one(op, names, spec))).toMatchObject({ axis: 0, outer: 1, inner: 1 });
      const larger = one(op, names, spec, { batch: 6 });
      expect(larger.graph.results[0]?.value.type.shape[0]).toBe(6);
    });

  it("but for ops along the examples, which are refused at another batch", () => {
    for (const [op, initializer] of [["TopK", ints(1)], ["CumSum", axis(0)]] as const)
      expect(code(() => one(op, ["x", "s"], { ...image, initializers: { s: initializer }, attrs: { axis: 0 } }, { batch: 6 }))).toMatch(/^examples-lost: .*carries the examples/);
  });
});

describe("what is not supported is named", () => {
  const refusals: readonly [string, readonly string[], Parameters<typeof one>[2], RegExp][] = [
    ["NonZero", ["x"], { inputs: { x: [2] } }, /depends on the data/],
    ["Unique", ["x"], { inputs: { x: [2] } }, /depends on the data/],
    ["TopK", ["x", "k"], { inputs: { x: [1, 5000] }, initializers: { k: ints(2) } }, /sorting 5000 elements/],
    ["LpNormalization", ["x"], { inputs: { x: [2, 3] }, attrs: { p: 3 } }, /p = 3/],
    ["MaxUnpool", ["x", "i", "s"], { inputs: { x: [1, 1, 2], i: [1, 1, 2] }, types: { i: INT64 }, initializers: { s: ints(1, 1, 5) }, attrs: { kernel_shape: [2], strides: [2] } }, /output_shape \[1,1,5\]/],
    ["ReduceL2", ["x"], { inputs: { x: [2] }, types: { x: INT64 } }, /integers are not supported/],
    ["BatchNormalization", ["x", "v", "v", "v", "v"], { opset: 8, inputs: { x: [2, 3] }, initializers: { v: floats([3], [1, 2, 3]) }, attrs: { spatial: 0 } }, /spatial = 0/],
    ["Conv", ["x", "w"], { inputs: { x: [1, 1, 2, 2, 2, 2] }, initializers: { w: floats([1, 1, 1, 1, 1, 1], [1]) } }, /1 to 3 spatial|is not supported/],
  ];
  for (const [op, names, spec, why] of refusals)
    it(`${op}: ${why.source}`, () => expect(code(() => one(op, names, spec))).toMatch(new RegExp(`^unsupported-op: ${op}: .*(${why.source})`)));
});
