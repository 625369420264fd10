/** Which tensors are trained, what the outputs are, and how another batch is carried through a model's constants. */
import { describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import type { NdArray } from "../../ir/ndarray.js";
import { size } from "../../ir/type.js";
import { type Imported, type ImportOptions, importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { buildModel, floats, INT64, ints, type ModelSpec, node, type NodeSpec, type TensorSpec } from "../support/onnx-model.js";
import { expectAgrees, random, runImported, seeded } from "../support/onnx-run.js";

const w = (dims: readonly number[], seed = 1): TensorSpec => floats(dims, [...random(size(dims), seed)]);
const imported = (spec: ModelSpec, options: Partial<ImportOptions> = {}): Imported => importModel(loadModel(buildModel(spec)), { mode: "train", ...options });
const roles = (m: Imported): string[] => m.graph.params.map((p) => `${p.value.name} ${p.trainable ? "trained" : "fixed"}`);

describe("what is trained", () => {
  it("initialisers are, wherever they are listed; running statistics are not", () => {
    const m = imported({
      inputs: { x: ["N", 4], w: [3, 4] }, outputs: ["y"], initializers: { w: w([3, 4]), s: w([3]), t: w([3]), mean: w([3]), v: floats([3], [1, 2, 3]) },
      nodes: [node("Gemm", ["x", "w"], ["h"], { transB: 1 }), node("BatchNormalization", ["h", "s", "t", "mean", "v"], ["y"])],
    });
    expect(new Set(roles(m))).toEqual(new Set(["w trained", "v fixed", "mean fixed", "s trained", "t trained"]));
    expect(m.graph.inputs.map((i) => i.value.name)).toEqual(["x"]);
  });

  it("single numbers of exporters' arithmetic are constants; a bias of one output is not", () => {
    const m = imported({
      inputs: { x: ["N", 4] }, outputs: ["y"], initializers: { w: w([4, 1]), b: w([1]), eight: floats([1], [8]), eps: { dims: [], floats: [1e-5] } },
      nodes: [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["k"]), node("Div", ["k", "eight"], ["l"]), node("Add", ["l", "eps"], ["y"])],
    });
    expect(roles(m)).toEqual(["w trained", "b trained"]);
  });

  it("a Constant is where it serves as a weight or bias, also through a view; elsewhere it is a table", () => {
    const constant = (name: string, dims: readonly number[]): NodeSpec => node("Constant", [], [name], { value: { tensor: w(dims) } });
    const m = imported({
      inputs: { x: ["N", 4] }, outputs: ["y"],
      nodes: [constant("w", [3, 4]), constant("b", [3]), constant("mask", [3]), node("Transpose", ["w"], ["wt"]), node("MatMul", ["x", "wt"], ["h"]),
        node("Add", ["h", "b"], ["k"]), node("Relu", ["k"], ["r"]), node("Mul", ["r", "mask"], ["y"])],
    });
    expect(roles(m)).toEqual(["w trained", "b trained", "mask fixed"]);
    expect(m.weights.get("w")?.shape).toEqual([3, 4]);
  });

  it("frozen names stay as they are", () => {
    const spec: ModelSpec = { inputs: { x: ["N", 4] }, outputs: ["y"], initializers: { "a.w": w([4, 4]), "b.w": w([4, 4]) }, nodes: [node("MatMul", ["x", "a.w"], ["h"]), node("MatMul", ["h", "b.w"], ["y"])] };
    expect(roles(imported(spec, { freeze: ["a.*"] }))).toEqual(["a.w fixed", "b.w trained"]);
  });

  it("ONNX names win over the names of intermediate values", () => {
    const m = imported({ inputs: { v1: ["N", 4] }, outputs: ["v0"], initializers: { v2: w([4, 4]), v3: w([4]) }, nodes: [node("Relu", ["v1"], ["r"]), node("MatMul", ["r", "v2"], ["h"]), node("Add", ["h", "v3"], ["v0"])] });
    expect([...m.weights.keys()]).toEqual(["v2", "v3"]);
  });
});

describe("heads", () => {
  const head = (op: string, shape: readonly (string | number)[], attrs = {}, opset = 13) => {
    const m = imported({ opset, inputs: { x: shape }, outputs: ["y"], nodes: [node("Tanh", ["x"], ["t"]), node(op, ["t"], ["p"], attrs), node("Identity", ["p"], ["y"])] });
    const h = m.outputs[0]?.head;
    return h && `${h.kind} ${h.axis} ${m.graph.nodes.find((n) => n.results.includes(h.logits))?.op}`;
  };
  it("are seen through Identity", () => {
    expect(head("Softmax", ["N", 4])).toBe("softmax 1 tanh");
    expect(head("LogSoftmax", ["N", 4, 3], { axis: 1 })).toBe("log-softmax 1 tanh");
    expect(head("Sigmoid", ["N", 4])).toBe("sigmoid 1 tanh");
    expect(head("Relu", ["N", 4])).toBeUndefined();
  });
  it("an old softmax over several axes at once is none", () => {
    expect(head("Softmax", ["N", 4, 3], { axis: 1 }, 11)).toBeUndefined();
    expect(head("Softmax", ["N", 4, 1], { axis: 1 }, 11)).toBe("softmax 1 tanh");
  });
  it("log of a softmax is a log-softmax", () => {
    const m = imported({ inputs: { x: ["N", 4] }, outputs: ["y"], nodes: [node("Softmax", ["x"], ["p"]), node("Log", ["p"], ["y"])] });
    expect(m.outputs[0]?.head?.kind).toBe("log-softmax");
  });
});

/** The model at another batch computes for repeated examples what the file computes at its own. */
function expectRebinds(spec: ModelSpec, batch: number): Imported {
  const [before, after] = [imported(spec, { batch: 2 }), imported(spec, { batch })];
  const inputs = seeded(before.graph, 9);
  const repeated = Object.fromEntries(after.graph.inputs.map(({ value: { name, type }, examples }) => {
    if (examples === undefined) return [name, inputs[name] as never];
    expect(examples).toBe(0);
    const one = inputs[name]?.data as Float32Array;
    const each = one.length / 2;
    return [name, { shape: type.shape, data: Float32Array.from({ length: size(type.shape) }, (_, k) => one[k % each] as number) }];
  }));
  const [y, z] = [runImported(before, inputs)["y"] as NdArray, runImported(after, repeated)["y"] as NdArray];
  expect(z.shape).toEqual([batch, ...y.shape.slice(1)]);
  const each = y.data.length / 2;
  z.data.forEach((v, k) => expect(v).toBeCloseTo(y.data[k % each] as number, 10));
  return after;
}

describe("another batch", () => {
  const heads = (first: number): ModelSpec => ({
    inputs: { x: [first < 0 ? "N" : 2, 3, 4] }, outputs: ["y"], initializers: { w: w([4, 4]), split: ints(first < 0 ? 1 : 2, 3, 2, 2), join: ints(first < 0 ? 1 : 2, 3, 4) },
    nodes: [node("MatMul", ["x", "w"], ["q"]), node("Reshape", ["q", "split"], ["h"]), node("Transpose", ["h"], ["t"], { perm: [0, 2, 1, 3] }), node("Transpose", ["h"], ["u"], { perm: [0, 2, 3, 1] }),
      node("MatMul", ["t", "u"], ["s"]), node("Softmax", ["s"], ["a"]), node("MatMul", ["a", "t"], ["o"]), node("Transpose", ["o"], ["p"], { perm: [0, 2, 1, 3] }), node("Reshape", ["p", "join"], ["y"])],
  });
  it("replaces a fixed one, with the Reshape constants that spell it", () => expectRebinds(heads(2), 5));
  it("is bound where the file leaves it open but its constants say 1", () => expectRebinds(heads(-1), 5));

  it("goes through rows of examples and back", () => {
    expectRebinds({
      inputs: { x: [2, 3, 4] }, outputs: ["y"], initializers: { w: w([4, 5]), rows: ints(6, 4), back: ints(2, 3, 5) },
      nodes: [node("Reshape", ["x", "rows"], ["r"]), node("MatMul", ["r", "w"], ["m"]), node("Reshape", ["m", "back"], ["y"])],
    }, 3);
  });

  it("goes through heads merged with it, as attention of older exporters does", () => {
    expectRebinds({
      inputs: { x: [2, 3, 4] }, outputs: ["y"], initializers: { a: ints(2, 3, 2, 2), b: ints(4, 3, 2), c: ints(2, 2, 3, 2), d: ints(2, -1) },
      nodes: [node("Reshape", ["x", "a"], ["r"]), node("Transpose", ["r"], ["t"], { perm: [0, 2, 1, 3] }), node("Reshape", ["t", "b"], ["m"]), node("Transpose", ["m"], ["k"], { perm: [0, 2, 1] }),
        node("MatMul", ["m", "k"], ["s"]), node("MatMul", ["s", "m"], ["o"]), node("Reshape", ["o", "c"], ["p"]), node("Reshape", ["p", "d"], ["y"])],
    }, 5);
  });

  it("repeats an Expand that spells it (a class token)", () => {
    expectRebinds({
      inputs: { x: [2, 3, 4] }, outputs: ["y"], initializers: { token: w([1, 1, 4]), shape: ints(2, 1, 4) },
      nodes: [node("Expand", ["token", "shape"], ["t"]), node("Concat", ["t", "x"], ["y"], { axis: 1 })],
    }, 4);
  });

  it("follows shapes computed from the input", async () => {
    const spec: ModelSpec = {
      inputs: { x: ["N", 3, 4] }, outputs: ["y"], initializers: { zero: { dims: [1], type: INT64, int64s: [0] }, rest: ints(-1) },
      nodes: [node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"]), node("Concat", ["n", "rest"], ["t"], { axis: 0 }), node("Reshape", ["x", "t"], ["y"])],
    };
    expect(imported(spec, { batch: 7 }).graph.results[0]?.value.type.shape).toEqual([7, 12]);
    await expectAgrees(buildModel(spec), 2, 1, 0, { batch: 3 });
  });

  const refused = (nodes: readonly NodeSpec[], initializers: Readonly<Record<string, TensorSpec>>): string => {
    try {
      imported({ inputs: { x: [2, 3] }, outputs: ["y"], initializers, nodes }, { batch: 5 });
      return "none";
    } catch (e) {
      return e instanceof CompileError ? `${e.code} ${e.where}` : String(e);
    }
  };
  it("is refused by node where the examples are taken apart", () => {
    const at = (op: string) => `examples-lost the ${op} node that gives "y" (opset 17)`;
    expect(refused([node("Gather", ["x", "i"], ["y"])], { i: ints(0) })).toBe(at("Gather"));
    expect(refused([node("Slice", ["x", "a", "b"], ["y"])], { a: ints(0), b: ints(1) })).toBe(at("Slice"));
    expect(refused([node("Add", ["x", "b"], ["y"])], { b: w([2, 3]) })).toBe(at("Add"));
    expect(refused([node("Tile", ["x", "r"], ["y"])], { r: ints(2, 1) })).toBe(at("Tile"));
  });
  it("but a Slice of the whole axis takes nothing apart", () => {
    expect(imported({ inputs: { x: [2, 3] }, outputs: ["y"], initializers: { a: ints(0), b: ints(2) }, nodes: [node("Slice", ["x", "a", "b"], ["y"])] }, { batch: 5 }).graph.results[0]?.value.type.shape).toEqual([5, 3]);
  });
});

describe("inputs", () => {
  const two: ModelSpec = { inputs: { x: ["N", 4], knob: [1], z: ["N", 4] }, outputs: ["y"], nodes: [node("Add", ["x", "z"], ["s"]), node("Mul", ["s", "knob"], ["y"])] };
  it("carry examples where they agree with the first one's leading axis", () => {
    const m = imported(two);
    expect(m.graph.inputs.map((i) => i.examples)).toEqual([0, undefined, 0]);
    expect(m.batch).toBeUndefined();
    expect(imported(two, { batch: 3 }).batch).toBe(3);
    expect(imported({ ...two, inputs: { x: [6, 4], knob: [1], z: [6, 4] } }).batch).toBe(6);
  });

  it("with open axes need a shape", () => {
    const open: ModelSpec = { inputs: { x: ["N", "L"] }, outputs: ["y"], nodes: [node("Relu", ["x"], ["y"])] };
    expect(() => imported(open)).toThrowError(expect.objectContaining({ code: "bad-option" }));
    const m = imported(open, { shapes: { x: [4, 9] } });
    expect(m.graph.inputs[0]?.value.type.shape).toEqual([4, 9]);
    expect(m.batch).toBe(4);
    expect(imported(open, { shapes: { x: [4, 9] }, batch: 2 }).graph.inputs[0]?.value.type.shape).toEqual([2, 9]);
  });

  it("may carry examples on another axis", () => {
    const m = imported({ inputs: { x: [5, "N", 4] }, outputs: ["y"], nodes: [node("Relu", ["x"], ["y"])] }, { batchAxis: { x: 1 }, batch: 3 });
    expect(m.graph.inputs[0]).toMatchObject({ examples: 1, value: { type: { shape: [5, 3, 4] } } });
  });
});

describe("batch normalisation exported for training", () => {
  const spec = (opset: number): ModelSpec => ({
    opset, inputs: { x: [4, 3, 2] }, outputs: ["y"], initializers: { s: floats([3], [1, 2, 3]), t: w([3]), mean: w([3], 5), v: floats([3], [1, 2, 3]) },
    nodes: [node("BatchNormalization", ["x", "s", "t", "mean", "v"], ["y", "m2", "v2"], { training_mode: 1, momentum: { float: 0.8 } })],
  });
  it("uses the batch's statistics in training mode", async () => {
    await expectAgrees(buildModel({ ...spec(15), outputs: ["y", "m2", "v2"] }), 3, 1, 0.5, { mode: "train" });
    const m = imported(spec(15));
    expect(m.differs, "evaluation is another graph").toBe(true);
    expect([...m.updates.map((u) => u.param)]).toEqual(["mean", "v"]);
    expect(roles(m)).toEqual(["s trained", "t trained", "mean fixed", "v fixed"]);
  });
  it("and the stored ones in evaluation", () => {
    expect(roles(imported(spec(15), { mode: "eval" })).length).toBe(4);
  });
});
