/** Gathers, scatters, padding, resizing and sampling where a list of cases does not reach: examples, other batches, negative computed indices. */
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { CompileError } from "../../ir/error.js";
import { evaluate } from "../../ir/evaluate.js";
import { exampleMarks } from "../../ir/examples.js";
import { cotangents } from "../../ir/grad.js";
import type { Value } from "../../ir/graph.js";
import type { NdArray } from "../../ir/ndarray.js";
import { size } from "../../ir/type.js";
import { type Imported, type ImportOptions, importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { expectGradient } from "../support/gradient.js";
import { buildModel, floats, INT64, ints, type ModelSpec, node, type NodeSpec, type TensorSpec } from "../support/onnx-model.js";
import { bindingsOf, type Inputs, random, runImported, seeded } from "../support/onnx-run.js";

type Attributes = NonNullable<NodeSpec["attrs"]>;

const imported = (spec: ModelSpec, options: Partial<ImportOptions> = {}): Imported => importModel(loadModel(buildModel({ opset: 18, ...spec })), { mode: "train", ...options });
const w = (dims: readonly number[], seed = 1): TensorSpec => floats(dims, [...random(size(dims), seed)]);
const whole = (dims: readonly number[], ...values: number[]): TensorSpec => ({ dims, type: INT64, int64s: values });
const given = (shape: readonly number[], data: readonly number[]): Inputs[string] => ({ shape, data: Float32Array.from(data) });
const indices = (shape: readonly number[], data: readonly number[]): Inputs[string] => ({ shape, data: BigInt64Array.from(data, BigInt) });
/** `y` of a model of one node on x, further inputs and stored tensors. */
const one = (op: string, names: readonly string[], rest: Omit<ModelSpec, "outputs" | "nodes"> & { readonly attrs?: Attributes }): ModelSpec => {
  const { attrs = {}, ...spec } = rest;
  return { ...spec, outputs: ["y"], nodes: [node(op, names, ["y"], attrs)] };
};
const result = (m: Imported, inputs: Inputs): number[] => [...(runImported(m, inputs)["y"] as NdArray).data];

describe("computed indices below zero count from the end", () => {
  const rows = { x: [3, 2], i: [2] };
  const data = { x: given([3, 2], [1, 2, 3, 4, 5, 6]), i: indices([2], [-1, 0]) };
  it("in Gather along the first and another axis", () => {
    expect(result(imported(one("Gather", ["x", "i"], { inputs: rows, types: { i: INT64 } })), data)).toEqual([5, 6, 1, 2]);
    const along = one("Gather", ["x", "i"], { inputs: { x: [2, 3], i: [2] }, types: { i: INT64 }, attrs: { axis: 1 } });
    expect(result(imported(along), { x: given([2, 3], [1, 2, 3, 4, 5, 6]), i: indices([2], [-1, 0]) })).toEqual([3, 1, 6, 4]);
  });
  it("in GatherElements, GatherND and ScatterND", () => {
    expect(result(imported(one("GatherElements", ["x", "i"], { inputs: { x: [3, 2], i: [1, 2] }, types: { i: INT64 } })), { ...data, i: indices([1, 2], [-1, -3]) })).toEqual([5, 2]);
    expect(result(imported(one("GatherND", ["x", "i"], { inputs: { x: [3, 2], i: [1, 2] }, types: { i: INT64 } })), { ...data, i: indices([1, 2], [-2, -1]) })).toEqual([4]);
    expect(result(imported(one("ScatterND", ["x", "i", "u"], { inputs: { x: [3, 2], i: [1, 2], u: [1] }, types: { i: INT64 } })),
      { ...data, i: indices([1, 2], [-1, -2]), u: given([1], [9]) })).toEqual([1, 2, 3, 4, 9, 6]);
  });
});

describe("of updates that meet in a row without a reduction, the last wins", () => {
  for (const known of [true, false])
    it(known ? "where the indices are known" : "where they are computed", () => {
      const m = imported(one("ScatterElements", ["x", "i", "u"], {
        inputs: { x: [3], ...(known ? {} : { i: [3] }), u: [3] }, types: { i: INT64 }, ...(known ? { initializers: { i: ints(1, 0, 1) } } : {}),
      }));
      const at = { x: given([3], [1, 2, 3]), i: indices([3], [1, 0, 1]), u: given([3], [7, 8, 9]) };
      expect(result(m, at)).toEqual([8, 9, 3]);
      expectGradient(m.graph, bindingsOf(m, at), 3);
    });
});

it("a product of updates has its derivative where one of them is zero", () => {
  const m = imported(one("ScatterElements", ["x", "i", "u"], { inputs: { x: [2], i: [3], u: [3] }, types: { i: INT64 }, attrs: { reduction: "mul" } }));
  const at = { x: given([2], [3, 4]), i: indices([3], [1, 1, 1]), u: given([3], [2, 0, 5]) };
  expect(result(m, at)).toEqual([3, 0]);
  expectGradient(m.graph, bindingsOf(m, at), 3);
});

it("a place exactly on an element has the derivative towards the next one", () => {
  const m = imported(one("GridSample", ["x", "g"], { opset: 16, inputs: { x: [1, 1, 1, 3], g: [1, 1, 1, 2] }, attrs: { align_corners: 1 } }));
  const b = Builder.from(m.graph);
  const [y, g] = [m.graph.results[0]?.value as Value, m.graph.inputs[1]?.value as Value];
  const ct = b.emit("broadcast", [b.emit("constant", [], { value: 1, dtype: "f32" })], { shape: [...y.type.shape], axes: [] });
  const back = cotangents(b, new Map([[y, ct]]), [g]).get(g) as Value;
  const graph = b.finish([{ name: "y", value: y }, { name: "back", value: back }]);
  const at = evaluate(graph, bindingsOf(m, { x: given([1, 1, 1, 3], [1, 2, 5]), g: given([1, 1, 1, 2], [0, 0]) }));
  expect([...(at["y"] as NdArray).data]).toEqual([2]);
  // an element is one unit of the grid wide here
  expect(at["back"]?.data[0]).toBe(3);
});

/** Ops of a model with x [2, 3, 4, 5]: each keeps the examples on axis 0. */
const KEEPING: readonly (readonly [string, readonly string[], Readonly<Record<string, TensorSpec>>, Attributes?])[] = [
  ["Resize", ["x", "", "s"], { s: floats([4], [1, 1, 1.5, 2]) }, { mode: "linear" }],
  ["Resize", ["x", "", "", "t"], { t: ints(2, 3, 7, 3) }, { mode: "cubic" }],
  ["Resize", ["x", "", "", "t"], { t: ints(2, 3, 13, 11) }, { mode: "nearest" }],
  ["Pad", ["x", "p"], { p: ints(0, 0, 2, 1, 0, 0, 1, 3) }, { mode: "reflect" }],
  ["Pad", ["x", "p"], { p: ints(0, 1, 0, 1, 0, 0, 1, -1) }, { mode: "edge" }],
  ["CenterCropPad", ["x", "t"], { t: ints(2, 3, 2, 9) }],
  ["Compress", ["x", "k"], { k: { dims: [4], type: 9, int32s: [1, 0, 1, 1] } }, { axis: 2 }],
  ["Gather", ["x", "i"], { i: ints(...Array.from({ length: 20 }, (_, k) => (k * k) % 5)) }, { axis: 3 }],
];

/** The model at another batch computes for repeated examples what the file computes at its own. */
function expectRebinds(spec: ModelSpec, batch: number): void {
  const [before, after] = [imported(spec, { batch: 2 }), imported(spec, { batch })];
  const inputs = seeded(before.graph, 9);
  const repeated = Object.fromEntries(after.graph.inputs.map(({ value: { name, type } }) => {
    const first = inputs[name]?.data as Float32Array;
    return [name, { shape: type.shape, data: Float32Array.from({ length: size(type.shape) }, (_, k) => first[k % (first.length / 2)] as number) }];
  }));
  const [y, z] = [runImported(before, inputs)["y"] as NdArray, runImported(after, repeated)["y"] as NdArray];
  expect(z.shape).toEqual([batch, ...y.shape.slice(1)]);
  z.data.forEach((v, k) => expect(v).toBeCloseTo(y.data[k % (y.data.length / 2)] as number, 10));
  const mark = exampleMarks(after.graph).get(after.graph.results[0]?.value as never);
  expect(mark).toEqual({ axis: 0, outer: 1, inner: 1 });
}

describe("another batch, and the examples at the end, through", () => {
  for (const [op, names, initializers, attrs = {}] of KEEPING)
    it(`${op} ${JSON.stringify(attrs)}`, () => expectRebinds(one(op, names, { inputs: { x: [2, 3, 4, 5] }, initializers, attrs }), 5));
  it("GridSample of images at places of their own", () =>
    expectRebinds(one("GridSample", ["x", "g"], { opset: 20, inputs: { x: [2, 3, 4, 5], g: [2, 3, 3, 2] }, attrs: { padding_mode: "reflection" } }), 3));
  it("AffineGrid and GridSample", () => expectRebinds({
    opset: 20, inputs: { x: [2, 3, 4, 5], m: [2, 2, 3] }, outputs: ["y"], initializers: { size: ints(2, 3, 4, 5) },
    nodes: [node("AffineGrid", ["m", "size"], ["g"]), node("GridSample", ["x", "g"], ["y"])],
  }, 3));
});

describe("examples stay apart through", () => {
  const marked = (spec: ModelSpec): unknown => {
    const m = imported(spec);
    return exampleMarks(m.graph).get(m.graph.results[0]?.value as never);
  };
  const kept = { axis: 0, outer: 1, inner: 1 };
  const typed = { types: { i: INT64 } };
  it("gathers by each example's own indices", () => {
    expect(marked(one("GatherElements", ["x", "i"], { inputs: { x: ["N", 4, 3], i: ["N", 2, 3] }, ...typed, attrs: { axis: 1 } }))).toEqual(kept);
    expect(marked(one("GatherND", ["x", "i"], { inputs: { x: ["N", 4, 3], i: ["N", 2, 1] }, ...typed, attrs: { batch_dims: 1 } }))).toEqual(kept);
    expect(marked(one("ReverseSequence", ["x", "i"], { inputs: { x: ["N", 4, 3], i: ["N"] }, ...typed, attrs: { batch_axis: 0, time_axis: 1 } }))).toEqual(kept);
  });
  it("scatters of all reductions", () => {
    for (const reduction of ["none", "add", "mul", "max", "min"])
      expect(marked(one("ScatterElements", ["x", "i", "u"], { inputs: { x: ["N", 4, 3], i: ["N", 2, 3], u: ["N", 2, 3] }, ...typed, attrs: { axis: 1, reduction } }))).toEqual(kept);
    expect(marked(one("TensorScatter", ["x", "u", "i"], { opset: 24, inputs: { x: ["N", 4, 3], u: ["N", 2, 3], i: ["N"] }, ...typed }))).toEqual(kept);
  });
  it("a ScatterND whose known tuples count along the examples", () => {
    const m = imported(one("ScatterND", ["x", "i", "u"], { inputs: { x: [2, 4, 3], u: [2, 2, 3] }, initializers: { i: whole([2, 2, 2], 0, 1, 0, 2, 1, 1, 1, 2) } }));
    expect(exampleMarks(m.graph).get(m.graph.results[0]?.value as never)).toEqual(kept);
    expect(m.graph.nodes.some((n) => n.op === "gather")).toBe(false);
  });
});

describe("what would take the examples apart is refused", () => {
  const refused = (spec: ModelSpec): string => {
    try {
      imported(spec, { batch: 5 });
      return "none";
    } catch (e) {
      return e instanceof CompileError ? e.code : String(e);
    }
  };
  const x = { inputs: { x: [2, 3] } };
  it("by op", () => {
    expect(refused(one("Resize", ["x", "", "s"], { ...x, initializers: { s: floats([2], [2, 1]) } }))).toBe("examples-lost");
    expect(refused(one("Pad", ["x", "p"], { ...x, initializers: { p: ints(1, 0, 0, 0) }, attrs: { mode: "edge" } }))).toBe("examples-lost");
    expect(refused(one("Compress", ["x", "k"], { ...x, initializers: { k: { dims: [2], type: 9, int32s: [1, 0] } }, attrs: { axis: 0 } }))).toBe("examples-lost");
    expect(refused(one("GatherElements", ["x", "i"], { ...x, initializers: { i: whole([2, 3], 0, 1, 2, 0, 0, 0) }, attrs: { axis: 1 } }))).toBe("examples-lost");
    expect(refused(one("GatherND", ["x", "i"], { ...x, initializers: { i: whole([2, 1], 0, 1) } }))).toBe("examples-lost");
    expect(refused(one("ScatterND", ["x", "i", "u"], { ...x, initializers: { i: whole([1, 2], 0, 1), u: w([1]) } }))).toBe("examples-lost");
    expect(refused(one("GridSample", ["x", "g"], { opset: 16, inputs: { x: [2, 1, 3, 3] }, initializers: { g: w([2, 2, 2, 2]) } }))).toBe("examples-lost");
  });
});

describe("refused by name", () => {
  const message = (spec: ModelSpec): string => {
    try {
      imported(spec);
      return "none";
    } catch (e) {
      return e instanceof CompileError ? `${e.code}: ${e.message}` : String(e);
    }
  };
  it("modes that the standard does not have, and sequences", () => {
    const x = { inputs: { x: [1, 1, 3, 3] } };
    expect(message(one("Pad", ["x", "p"], { ...x, initializers: { p: ints(0, 0, 1, 1, 0, 0, 1, 1) }, attrs: { mode: "mirror" } }))).toMatch(/unsupported-op: Pad: mode "mirror"/);
    expect(message(one("Resize", ["x", "", "s"], { ...x, initializers: { s: floats([4], [1, 1, 2, 2]) }, attrs: { mode: "lanczos" } }))).toMatch(/unsupported-op: Resize: mode "lanczos"/);
    expect(message(one("GridSample", ["x", "g"], { opset: 20, inputs: { x: [1, 1, 2, 2, 2], g: [1, 2, 2, 2, 3] }, attrs: { mode: "cubic" } }))).toMatch(/cubic/);
    expect(message(one("SplitToSequence", ["x"], x))).toMatch(/unsupported-op: .*SplitToSequence/);
    expect(message(one("Gather", ["x", "i"], { ...x, initializers: { i: ints(3) }, attrs: { axis: 2 } }))).toMatch(/shape-mismatch: Gather: index 3/);
  });
});

it("a large interpolation matrix is told about", () => {
  const m = imported(one("Resize", ["x", "", "", "t"], { inputs: { x: [1, 1, 1000] }, initializers: { t: ints(1, 1, 1100) }, attrs: { mode: "linear" } }));
  expect(m.notes.join()).toMatch(/matrix of 1100 × 1000/);
});
