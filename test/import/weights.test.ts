/** What an importer has to say of weights: refused, noted once, or nothing. */
import { describe, expect, it } from "vitest";
import { importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { buildModel, floats, FLOAT16, ints, type ModelSpec, node, type TensorSpec } from "../support/onnx-model.js";
import { random } from "../support/onnx-run.js";

const net = (w: TensorSpec, rest: Partial<ModelSpec> = {}): Uint8Array => buildModel({
  inputs: { x: ["N", 2] }, outputs: ["y"], initializers: { w, u: floats([3, 3], [...random(9, 1)]) }, nodes: [node("MatMul", ["x", "w"], ["m"]), node("MatMul", ["m", "u"], ["y"])], ...rest,
});
const notes = (bytes: Uint8Array): string => importModel(loadModel(bytes), { mode: "train" }).notes.join("\n");

describe("a weight that is not finite", () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
    const bytes = net(floats([2, 3], [1, 2, bad, 4, 5, 6]));
    it(`(${bad}) is refused by name to train, but not to evaluate or to stay as it is`, () => {
      expect(() => importModel(loadModel(bytes), { mode: "train" })).toThrowError(expect.objectContaining({ code: "bad-model", message: `element 2 of a weight is ${bad}, so that training cannot begin`, where: 'tensor "w"' }));
      expect(importModel(loadModel(bytes), { mode: "eval" }).weights.get("w")?.data[2]).toBe(bad);
      expect(importModel(loadModel(bytes), { mode: "train", freeze: ["w"] }).graph.params.length).toBe(2);
    });
  }
});

describe("notes", () => {
  it("none for float weights of all kinds of numbers", () => expect(notes(net(floats([2, 3], [1, 2, 3, 4, 5, 6])))).toBe(""));
  it("one for all weights of another float type", () => {
    const half = { dims: [2, 3], type: FLOAT16, int32s: [15360, 2, 3, 4, 5, 6] };
    const u = { dims: [3, 3], type: FLOAT16, int32s: [15360, 2, 3, 4, 5, 6, 7, 8, 9] };
    expect(notes(net(half, { initializers: { w: half, u } }))).toBe('weights stored as float16 are float32 here, and float16 again in --out: 2 ("w", "u")');
  });
  it("one for weights that are one number throughout", () => {
    const light = net(floats([1], [0]), {
      initializers: { s: ints(2, 3), u: floats([3, 3], [...random(9, 1)]) },
      nodes: [node("ConstantOfShape", ["s"], ["w"], { value: { tensor: floats([1], [0.5]) } }), node("MatMul", ["x", "w"], ["m"]), node("MatMul", ["m", "u"], ["y"])],
    });
    expect(notes(light)).toMatch(/^weights that are one number throughout: 1 \("w"\)/);
  });
});

it("a quantised model is refused as such", () => {
  const bytes = net(floats([2, 3], [1, 2, 3, 4, 5, 6]), { nodes: [node("DequantizeLinear", ["x", "w"], ["m"]), node("MatMul", ["m", "u"], ["y"])] });
  expect(() => notes(bytes)).toThrowError(/quantised to integers/);
});

it("a node may have more inputs than a call has arguments", () => {
  const bytes = buildModel({ inputs: { x: ["N", 2] }, outputs: ["y"], nodes: [node("Sum", new Array<string>(200_000).fill("x"), ["y"])] });
  expect(importModel(loadModel(bytes), { mode: "eval" }).graph.results.length).toBe(1);
}, 60_000);
