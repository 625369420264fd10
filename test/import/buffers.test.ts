/** Stored tensors that no training step may touch, though nothing in a file says so; and weights that look like them. */
import { describe, expect, it } from "vitest";
import { importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { buildModel, floats, ints, INT64, type ModelSpec, node, type TensorSpec } from "../support/onnx-model.js";
import { random } from "../support/onnx-run.js";

const w = (...dims: number[]): TensorSpec => floats(dims, [...random(dims.reduce((a, b) => a * b, 1), 3)]);
const trained = (spec: ModelSpec): string[] =>
  importModel(loadModel(buildModel(spec)), { mode: "train" }).graph.params.filter((p) => p.trainable).map((p) => p.value.name).sort();

/** y = op of a linear layer's result and the tensor "t". */
const behind = (op: string, t: TensorSpec, width = 4, attrs = {}): ModelSpec => ({
  inputs: { x: ["N", 4] }, outputs: ["y"], initializers: { w: w(4, width), t },
  nodes: [node("MatMul", ["x", "w"], ["h"]), node(op, ["h", "t"], ["y"], attrs)],
});
const onScores = (t: TensorSpec): ModelSpec => ({
  inputs: { x: ["N", 3, 4] }, outputs: ["y"], initializers: { w: w(4, 4), t },
  nodes: [node("MatMul", ["x", "w"], ["h"]), node("Transpose", ["h"], ["k"], { perm: [0, 2, 1] }), node("MatMul", ["h", "k"], ["s"]), node("Add", ["s", "t"], ["m"]), node("Softmax", ["m"], ["y"], { axis: -1 })],
});

describe("stored tensors that are not trained", () => {
  const triangle = (off: number, on = 0): number[] => [on, off, off, on, on, off, on, on, on];
  it.each([["−∞", -Infinity], ["−1e9", -1e9], ["−1e4", -1e4], ["−100, as Swin has it", -100]])("a mask of %s", (_, off) => {
    expect(trained(onScores(floats([1, 3, 3], triangle(off))))).toEqual(["w"]);
  });
  it("a mask that attention takes", () => {
    expect(trained({
      opset: 23, inputs: { q: ["N", 3, 4] }, outputs: ["y"], initializers: { w: w(4, 4), t: floats([3, 3], triangle(-Infinity)) },
      nodes: [node("MatMul", ["q", "w"], ["k"]), node("Attention", ["k", "q", "q", "t"], ["y"], { q_num_heads: 2, kv_num_heads: 2 })],
    })).toEqual(["w"]);
  });
  it("but not a bias of positions that happens to be large", () => {
    expect(trained(onScores(floats([3, 3], [0, -100, -50.3, 1, 0, -60, 2, 3, 0])))).toEqual(["t", "w"]);
  });
  it("zeros and ones that mask a matrix; but not the zeros and ones of a bias", () => {
    expect(trained({ ...behind("Mul", floats([4, 4], [1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1])), inputs: { x: [4, 4] } })).toEqual(["w"]);
    expect(trained(behind("Add", floats([4], [0, 1, 1, 0])))).toEqual(["t", "w"]);
  });
  it("scales of a Resize that are joined from parts", () => {
    expect(trained({
      opset: 13, inputs: { x: ["N", 2, 4, 4] }, outputs: ["y"], initializers: { w: w(2, 2, 3, 3), one: floats([2], [1, 1]), two: floats([2], [2, 2]) },
      nodes: [node("Conv", ["x", "w"], ["h"]), node("Concat", ["one", "two"], ["s"], { axis: 0 }), node("Resize", ["h", "", "s"], ["y"], { mode: "linear" })],
    })).toEqual(["w"]);
  });
  it("a factor of computed sizes", () => {
    expect(trained({
      opset: 13, inputs: { x: ["N", 2, 4, 4] }, outputs: ["y"], initializers: { w: w(2, 2, 3, 3), f: floats([1], [2]), a: ints(0), b: ints(2), c: ints(4) },
      nodes: [node("Conv", ["x", "w"], ["h"]), node("Shape", ["h"], ["all"]), node("Slice", ["all", "b", "c", "a"], ["hw"]), node("Cast", ["hw"], ["real"], { to: 1 }), node("Mul", ["real", "f"], ["more"]),
        node("Floor", ["more"], ["floor"]), node("Cast", ["floor"], ["sizes"], { to: 7 }), node("Slice", ["all", "a", "b", "a"], ["nc"]), node("Concat", ["nc", "sizes"], ["to"], { axis: 0 }), node("Resize", ["h", "", "", "to"], ["y"], { mode: "linear" })],
    })).toEqual(["w"]);
  });
  it("bounds and what is compared with", () => {
    expect(trained(behind("Max", w(4)))).toEqual(["w"]);
    expect(trained({
      inputs: { x: ["N", 4] }, outputs: ["y"], initializers: { w: w(4, 4), t: w(4) },
      nodes: [node("MatMul", ["x", "w"], ["h"]), node("Less", ["h", "t"], ["m"]), node("Cast", ["m"], ["f"], { to: 1 }), node("Mul", ["h", "f"], ["y"])],
    })).toEqual(["w"]);
  });
  it("mean and deviation of the model's input; but not what a later layer subtracts", () => {
    expect(trained({
      inputs: { x: ["N", 3, 4, 4] }, outputs: ["y"], initializers: { mean: w(1, 3, 1, 1), std: w(1, 3, 1, 1), w: w(2, 3, 3, 3), late: w(2, 1, 1) },
      nodes: [node("Sub", ["x", "mean"], ["c"]), node("Div", ["c", "std"], ["n"]), node("Conv", ["n", "w"], ["h"]), node("Sub", ["h", "late"], ["y"])],
    })).toEqual(["late", "w"]);
  });
  it("frequencies of rotary positions; but not the weights of a network of sines", () => {
    expect(trained({
      inputs: { x: ["N", 3, 8], positions: ["N", 3] }, types: { positions: INT64 }, outputs: ["y"], initializers: { f: w(1, 4), w: w(8, 8), ax: ints(2) },
      nodes: [node("MatMul", ["x", "w"], ["h"]), node("Cast", ["positions"], ["p"], { to: 1 }), node("Unsqueeze", ["p", "ax"], ["p3"]), node("MatMul", ["p3", "f"], ["a"]), node("Concat", ["a", "a"], ["aa"], { axis: 2 }),
        node("Cos", ["aa"], ["cos"]), node("Mul", ["h", "cos"], ["y"])],
    })).toEqual(["w"]);
    expect(trained({ inputs: { x: ["N", 4] }, outputs: ["y"], initializers: { w: w(4, 4) }, nodes: [node("MatMul", ["x", "w"], ["h"]), node("Sin", ["h"], ["y"])] })).toEqual(["w"]);
  });
  it("a grid of cells that is added to boxes, and anchors that they are multiplied by", () => {
    const grid = Array.from({ length: 32 }, (_, k) => Math.floor(k / 8) - 0.5);
    expect(trained({ ...behind("Add", floats([4, 8], grid), 8), inputs: { x: [4, 4] } })).toEqual(["w"]);
    expect(trained({ ...behind("Mul", floats([4, 8], grid.map((v) => 2 * v + 11)), 8), inputs: { x: [4, 4] } })).toEqual(["w"]);
  });
  it("one over the deviation of the model's input", () => {
    expect(trained({ inputs: { x: ["N", 4] }, outputs: ["y"], initializers: { mean: w(4), inverse: w(4), w: w(4, 2) }, nodes: [node("Sub", ["x", "mean"], ["c"]), node("Mul", ["c", "inverse"], ["n"]), node("MatMul", ["n", "w"], ["y"])] })).toEqual(["w"]);
  });
  it("boxes of a detector: few numbers, many times", () => {
    const boxes = Array.from({ length: 400 }, (_, k) => (0.5 + (k % 10)) / 9.3);
    expect(trained({ ...behind("Add", floats([100, 4], boxes)), inputs: { x: [100, 4] } })).toEqual(["w"]);
  });
  it("sines and cosines of positions, also as rows that are looked up; but not learned positions, nor zeros before any training", () => {
    const table = (f: (angle: number, k: number) => number): TensorSpec => floats([6, 4], Array.from({ length: 24 }, (_, at) => f(Math.floor(at / 4) * 10 ** -((at % 4) >> 1), at % 4)));
    const looked = (t: TensorSpec): ModelSpec => ({
      inputs: { x: ["N", 3, 4], ids: ["N", 3] }, types: { ids: INT64 }, outputs: ["y"], initializers: { w: w(4, 4), t },
      nodes: [node("MatMul", ["x", "w"], ["h"]), node("Gather", ["t", "ids"], ["r"]), node("Mul", ["h", "r"], ["y"])],
    });
    for (const t of [table((a) => Math.cos(a)), table((a) => Math.sin(a)), table((a, k) => (k % 2 ? Math.cos(a) : Math.sin(a)))]) {
      expect(trained(looked(t))).toEqual(["w"]);
      expect(trained({ ...behind("Add", t), inputs: { x: [6, 4] } })).toEqual(["w"]);
    }
    for (const t of [w(6, 4), table(() => 0)]) expect(trained(looked(t))).toEqual(["t", "w"]);
  });
  it("a scale of ones and a shift of zeros are weights that have not been trained yet", () => {
    expect(trained(behind("Mul", floats([32], new Array(32).fill(1)), 32))).toEqual(["t", "w"]);
    expect(trained(behind("Add", floats([32], new Array(32).fill(0)), 32))).toEqual(["t", "w"]);
  });
});

describe("a Constant is a weight where an initialiser would be", () => {
  it("of normalisation and a learned slope", () => {
    const constant = (name: string) => node("Constant", [], [name], { value: { tensor: w(4) } });
    expect(trained({
      inputs: { x: ["N", 4] }, outputs: ["y"], initializers: { w: w(4, 4) },
      nodes: [constant("g"), constant("b"), constant("slope"), node("MatMul", ["x", "w"], ["h"]), node("LayerNormalization", ["h", "g", "b"], ["n"]), node("PRelu", ["n", "slope"], ["y"])],
    })).toEqual(["b", "g", "slope", "w"]);
  });
});
