/** Forms of opsets before 7, against what they say in words. */
import { describe, expect, it } from "vitest";
import { importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { type AttrSpec, buildModel, floats, INT64, ints, type NodeSpec, node, type TensorSpec } from "../support/onnx-model.js";
import { runImported } from "../support/onnx-run.js";

const X = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

function run(only: NodeSpec, initializers: Record<string, TensorSpec>, shape: readonly number[] = [2, 3, 2], opset = 6): { shape: readonly number[]; data: number[] } {
  const model = importModel(loadModel(buildModel({ opset, inputs: { x: shape }, outputs: ["y"], initializers, nodes: [only] })), { mode: "eval", batchAxis: { x: -1 } });
  const { y } = runImported(model, { x: { shape, data: Float32Array.from(X.slice(0, shape.reduce((a, b) => a * b, 1))) } });
  return { shape: y?.shape ?? [], data: [...(y?.data ?? [])] };
}
const op = (name: string, inputs: readonly string[], attrs: Readonly<Record<string, AttrSpec>> = {}): NodeSpec => node(name, inputs, ["y"], attrs);
const b = floats([3], [100, 200, 300]);

describe("before opset 7", () => {
  it("an operand is placed by `axis`, not from the right", () => {
    const placed = [101, 102, 203, 204, 305, 306, 107, 108, 209, 210, 311, 312];
    expect(run(op("Add", ["x", "b"], { broadcast: 1, axis: 1 }), { b }).data).toEqual(placed);
    expect(run(op("Add", ["x", "b"], { broadcast: 1, axis: -2 }), { b }).data).toEqual(placed);
  });
  it("without `axis` it is placed from the right", () =>
    expect(run(op("Sub", ["x", "b"], { broadcast: 1 }), { b: floats([2], [1, 2]) }).data).toEqual([0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10]));
  it("an axis at which it does not fit is named", () => expect(() => run(op("Add", ["x", "b"], { broadcast: 1, axis: 3 }), { b })).toThrow(/\[3\] does not fit at axis 3 of 3 dimensions/));
  it("PRelu's slope stands for the channels", () =>
    expect(run(op("PRelu", ["n", "b"]), { n: floats([1, 3, 2], [-1, 2, -3, 4, -5, 6]), b }).data).toEqual([-100, 2, -600, 4, -1500, 6]));
  it("Reshape has its shape, Pad its amounts, Cast its type in attributes", () => {
    expect(run(op("Reshape", ["x"], { shape: [0, -1] }), {}, undefined, 1)).toEqual({ shape: [2, 6], data: X });
    expect(run(op("Pad", ["x"], { paddings: [0, 1, 0, 0] }), {}, [2, 2], 1).data).toEqual([0, 1, 2, 0, 3, 4]);
    expect(run(op("Cast", ["x"], { to: "INT64" }), {}, [2], 1).data).toEqual([1, 2]);
    expect(() => run(op("Cast", ["x"], { to: "COMPLEX64" }), {}, [2], 1)).toThrow(/to "COMPLEX64" is not supported/);
  });
  it("Tile repeats along one axis", () =>
    expect(run(op("Tile", ["x", "n", "axis"]), { n: ints(2), axis: { dims: [1], type: INT64, int64s: [1] } }, [2, 2], 1).data).toEqual([1, 2, 1, 2, 3, 4, 3, 4]));
});
