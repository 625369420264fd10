/** Convolutions and pooling against onnxruntime, and the spelling that layer patterns rely on. */
import { describe, expect, it } from "vitest";
import type { Graph } from "../../ir/graph.js";
import { spellType } from "../../ir/type.js";
import { importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { type AttrSpec, buildModel, floats, type NodeSpec } from "../support/onnx-model.js";
import { expectGradient } from "../support/gradient.js";
import { bindingsOf, expectAgrees as expectOutputs, random, seeded } from "../support/onnx-run.js";

/** What onnxruntime computes, and the derivative of finite differences. */
async function expectAgrees(model: Uint8Array, seed: number, scale = 1, shift = 0): Promise<void> {
  const made = await expectOutputs(model, seed, scale, shift);
  expectGradient(made.graph, bindingsOf(made, seeded(made.graph, seed, scale, shift)), seed);
}

const weight = (dims: readonly number[], seed: number) => floats(dims, [...random(dims.reduce((a, b) => a * b, 1), seed)]);

function convModel(op: string, x: readonly number[], w: readonly number[], attrs: Readonly<Record<string, AttrSpec>>, bias?: number, opset = 13): Uint8Array {
  return buildModel({
    opset, inputs: { x }, outputs: ["y"], initializers: { w: weight(w, 3), ...(bias ? { b: weight([bias], 4) } : {}) },
    nodes: [{ op, inputs: bias ? ["x", "w", "b"] : ["x", "w"], outputs: ["y"], attrs, name: "conv" }],
  });
}

const CONVS: readonly [string, readonly number[], readonly number[], Readonly<Record<string, AttrSpec>>][] = [
  ["one axis", [2, 3, 9], [4, 3, 3], { strides: [2], pads: [1, 0] }],
  ["two axes", [2, 3, 6, 7], [4, 3, 3, 2], {}],
  ["asymmetric padding, strides, dilations", [2, 2, 9, 8], [3, 2, 3, 2], { pads: [0, 1, 2, 0], strides: [2, 3], dilations: [2, 1] }],
  ["three axes", [1, 2, 4, 5, 4], [3, 2, 2, 3, 2], { pads: [0, 1, 0, 1, 0, 1] }],
  ["1 × 1", [2, 3, 4, 4], [5, 3, 1, 1], {}],
  ["groups", [2, 4, 5, 5], [6, 2, 3, 3], { group: 2, pads: [1, 1, 1, 1] }],
  ["depthwise", [2, 4, 5, 5], [4, 1, 3, 3], { group: 4 }],
  ["SAME_UPPER", [1, 2, 6, 5], [3, 2, 3, 2], { auto_pad: "SAME_UPPER", strides: [2, 2] }],
  ["SAME_LOWER", [1, 2, 6, 5], [3, 2, 3, 2], { auto_pad: "SAME_LOWER", strides: [2, 2] }],
  ["VALID", [1, 2, 6, 5], [3, 2, 3, 2], { auto_pad: "VALID" }],
  ["SAME_LOWER along one axis", [2, 2, 7], [3, 2, 4], { auto_pad: "SAME_LOWER", strides: [3] }],
  ["three axes in groups", [1, 4, 4, 3, 4], [4, 2, 2, 2, 3], { group: 2, strides: [1, 2, 1], pads: [1, 0, 1, 0, 1, 1] }],
  ["a kernel_shape beside the weight's", [1, 2, 5, 5], [3, 2, 3, 2], { kernel_shape: [3, 2], auto_pad: "NOTSET" }],
];

describe("convolutions compute what onnxruntime computes", () => {
  for (const [name, x, w, attrs] of CONVS)
    it(name, async () => {
      await expectAgrees(convModel("Conv", x, w, attrs), 5);
      await expectAgrees(convModel("Conv", x, w, attrs, w[0], 7), 6);
    });

  const TRANSPOSED: typeof CONVS = [
    ["plain", [2, 3, 4, 4], [3, 2, 3, 3], {}],
    ["strides and padding", [2, 3, 4, 3], [3, 2, 3, 2], { strides: [2, 3], pads: [1, 0, 0, 1] }],
    ["output padding and dilations", [1, 2, 4, 4], [2, 2, 3, 3], { strides: [2, 2], output_padding: [1, 1], dilations: [2, 1] }],
    ["groups", [1, 4, 3, 3], [4, 2, 2, 2], { group: 2, strides: [2, 2] }],
    ["one axis", [2, 3, 5], [3, 2, 4], { strides: [3] }],
    ["three axes", [1, 2, 3, 2, 3], [2, 3, 2, 3, 2], { strides: [2, 1, 2], pads: [0, 1, 0, 1, 1, 0] }],
    ["SAME_UPPER", [1, 2, 3, 4], [2, 2, 4, 3], { auto_pad: "SAME_UPPER", strides: [2, 2] }],
    ["SAME_LOWER", [1, 2, 3, 4], [2, 2, 4, 3], { auto_pad: "SAME_LOWER", strides: [2, 2] }],
    ["VALID", [1, 2, 3, 4], [2, 2, 3, 3], { auto_pad: "VALID", strides: [2, 1] }],
    ["an output shape", [1, 2, 3, 3], [2, 2, 3, 3], { strides: [3, 2], output_shape: [8, 6] }],
    ["an output shape larger than the windows reach", [1, 2, 3, 3], [2, 2, 3, 3], { strides: [3, 2], output_shape: [10, 8] }],
    ["an output shape with an odd padding, SAME_UPPER", [1, 2, 3, 3], [2, 2, 3, 3], { strides: [3, 2], output_shape: [8, 6], auto_pad: "SAME_UPPER" }],
    ["groups, dilations and output padding along one axis", [2, 4, 5], [4, 1, 3], { group: 2, strides: [3], dilations: [2], output_padding: [2], pads: [1, 2] }],
  ];
  for (const [name, x, w, attrs] of TRANSPOSED)
    it(`transposed: ${name}`, async () => {
      await expectAgrees(convModel("ConvTranspose", x, w, attrs), 7);
      await expectAgrees(convModel("ConvTranspose", x, w, attrs, (w[1] as number) * Number(attrs["group"] ?? 1)), 8);
    });
});

const pool = (op: string, x: readonly number[], attrs: Readonly<Record<string, AttrSpec>>, opset: number): Uint8Array =>
  buildModel({ opset, inputs: { x }, outputs: ["y"], nodes: [{ op, inputs: ["x"], outputs: ["y"], attrs } satisfies NodeSpec] });

const POOLS: readonly [readonly number[], Readonly<Record<string, AttrSpec>>, number?][] = [
  [[2, 3, 8], { kernel_shape: [3], strides: [2] }],
  [[2, 3, 6, 7], { kernel_shape: [2, 3] }],
  [[2, 3, 6, 7], { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }],
  [[1, 2, 5, 6], { kernel_shape: [2, 2], strides: [2, 2], pads: [0, 1, 1, 0] }],
  [[1, 2, 7, 7], { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 }, 10],
  [[1, 2, 7, 8], { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1], ceil_mode: 1 }, 10],
  [[1, 2, 6, 5], { kernel_shape: [3, 2], strides: [2, 2], auto_pad: "SAME_UPPER" }],
  [[1, 2, 6, 5], { kernel_shape: [3, 2], strides: [2, 2], auto_pad: "SAME_LOWER" }],
  [[1, 2, 4, 4, 5], { kernel_shape: [2, 2, 2], strides: [2, 1, 2] }],
  [[1, 1, 8, 8], { kernel_shape: [2, 3], dilations: [2, 3] }, 19],
];

describe("pooling computes what onnxruntime computes", () => {
  for (const [x, attrs, from] of POOLS) {
    for (const opset of [from ?? 7, 19])
      it(`MaxPool [${x}] ${JSON.stringify(attrs)} (opset ${opset})`, async () => {
        // all negative: padding must not win
        await expectAgrees(pool("MaxPool", x, attrs, opset), 3, 1, -2);
      });
    for (const count_include_pad of [0, 1])
      it(`AveragePool [${x}] ${JSON.stringify(attrs)} ${count_include_pad ? "counting" : "without"} padding`, async () => {
        await expectAgrees(pool("AveragePool", x, { ...attrs, count_include_pad }, 19), 4, 1, 1);
      });
  }
  for (const op of ["GlobalAveragePool", "GlobalMaxPool"])
    it(op, async () => {
      await expectAgrees(pool(op, [2, 3, 4, 5], {}, 7), 5);
      await expectAgrees(pool(op, [2, 3, 4], {}, 13), 6);
    });
});

const spell = (g: Graph): string[] => g.nodes.map((n) => `${n.op} ${Object.entries(n.attrs).map(([k, v]) => `${k}=${v}`).join(" ")} -> ${spellType(n.results[0]?.type as never)}`);

describe("the spelling that patterns match", () => {
  it("a convolution is a window per axis, one contraction, and the bias along axis 1", () => {
    const { graph } = importModel(loadModel(convModel("Conv", [2, 3, 6, 7], [4, 3, 3, 2], { pads: [1, 0, 1, 0], strides: [2, 1] }, 4)), { mode: "train" });
    expect(spell(graph)).toEqual([
      "window axis=2 count=3 taps=3 stride=2 dilation=1 offset=-1 divisor=1 -> f32[2, 3, 3, 3, 7]",
      "window axis=4 count=6 taps=2 stride=1 dilation=1 offset=0 divisor=1 -> f32[2, 3, 3, 3, 6, 2]",
      "contract spec=nchiwj,ocij->nohw -> f32[2, 4, 3, 6]",
      "broadcast shape=2,4,3,6 axes=1 -> f32[2, 4, 3, 6]",
      "add  -> f32[2, 4, 3, 6]",
    ]);
  });

  it("groups are a batch label", () => {
    const { graph } = importModel(loadModel(convModel("Conv", [2, 4, 5, 5], [6, 2, 3, 3], { group: 2 })), { mode: "train" });
    expect(spell(graph).filter((line) => line.startsWith("contract"))).toEqual(["contract spec=ngchiwj,gocij->ngohw -> f32[2, 2, 3, 3, 3]"]);
  });

  it("Gemm takes its transposes into the labels, whatever the bias's rank", () => {
    const gemm = (bias: readonly number[]) => buildModel({
      inputs: { x: [3, 4] }, outputs: ["y"], initializers: { w: weight([1, 4], 1), b: weight(bias, 2) },
      nodes: [{ op: "Gemm", inputs: ["x", "w", "b"], outputs: ["y"], attrs: { transB: 1 } }],
    });
    expect(spell(importModel(loadModel(gemm([1])), { mode: "train" }).graph)).toEqual([
      "contract spec=ni,oi->no -> f32[3, 1]", "broadcast shape=3,1 axes=1 -> f32[3, 1]", "add  -> f32[3, 1]",
    ]);
  });

  it("MatMul keeps leading axes as labels of their own", () => {
    const model = buildModel({ inputs: { x: [2, 3, 4] }, outputs: ["y"], initializers: { w: weight([4, 5], 1) }, nodes: [{ op: "MatMul", inputs: ["x", "w"], outputs: ["y"] }] });
    expect(spell(importModel(loadModel(model), { mode: "train" }).graph)).toEqual(["contract spec=nti,io->nto -> f32[2, 3, 5]"]);
  });
});
