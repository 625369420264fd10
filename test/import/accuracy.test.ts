/** Functions that are compositions, on an adapter: near 0, at the ends of their domains, and beyond, where float32 is easily wasted. */
import { describe, expect, it } from "vitest";
import type { NdArray } from "../../ir/ndarray.js";
import { ndarray } from "../../ir/ndarray.js";
import { runPasses } from "../../ir/pass.js";
import { CANONICAL } from "../../ir/passes/index.js";
import { importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { testDevice } from "../support/gpu.js";
import { type AttrSpec, BOOL, buildModel, FLOAT16 } from "../support/onnx-model.js";
import { runGraph } from "../support/run-graph.js";

const device = testDevice();
const EPS = 2 ** -23;

async function apply(op: string, values: readonly number[], attrs: Readonly<Record<string, AttrSpec>> = {}, outputType = 1): Promise<Float64Array> {
  const bytes = buildModel({ opset: 20, inputs: { x: [values.length] }, outputs: ["y"], outputType, nodes: [{ op, inputs: ["x"], outputs: ["y"], attrs }] });
  const { graph } = importModel(loadModel(bytes), { mode: "eval", batchAxis: { x: -1 } });
  const { results } = await runGraph(device().device, runPasses(graph, CANONICAL), { x: ndarray("f32", [values.length], values) });
  return (results.y as NdArray).data;
}

const NEAR_0 = [1e-30, 1e-8, 1e-4, 0.01, 0.1, 0.3, 0.45, 0.55].flatMap((x) => [x, -x]);
const FAR = [0.9, 2, 5, 20, 80].flatMap((x) => [x, -x]);

/** op → its meaning, where it is tried, and the relative error that a few roundings and the built-in e^x and log leave. */
const FUNCTIONS: Readonly<Record<string, readonly [(x: number) => number, readonly number[], number]>> = {
  Elu: [(x) => (x > 0 ? x : Math.expm1(x)), [...NEAR_0, ...FAR], 170 * EPS],
  Tan: [Math.tan, [...NEAR_0, 1.5, -1.5], 40 * EPS],
  Asin: [Math.asin, [...NEAR_0, 0.999, -0.999, 1, -1], 12 * EPS],
  Acos: [Math.acos, [...NEAR_0, 0.999, -0.999, 0.999999, 1, -1], 12 * EPS],
  Atan: [Math.atan, [...NEAR_0, ...FAR, 1e30, -1e30], 8 * EPS],
  Sinh: [Math.sinh, [...NEAR_0, ...FAR, 89], 200 * EPS],
  Cosh: [Math.cosh, [...NEAR_0, ...FAR, 89], 200 * EPS],
  Asinh: [Math.asinh, [...NEAR_0, ...FAR, 1e8, 1e12, 3e38, -3e38], 12 * EPS],
  Acosh: [Math.acosh, [1, 1.00001, 1.1, 2, 100, 1e8, 1e12, 3e38], 12 * EPS],
  Atanh: [Math.atanh, [...NEAR_0, 0.9, -0.9, 0.99999, -0.99999], 12 * EPS],
};

describe("composed functions keep relative accuracy on the adapter", () => {
  for (const [op, [meaning, values, relative]] of Object.entries(FUNCTIONS))
    it(op, async () => {
      const x = values.map(Math.fround);
      const y = await apply(op, x);
      x.forEach((v, k) => {
        const want = meaning(v);
        if (!(Math.abs((y[k] as number) - want) <= relative * Math.abs(want))) expect.fail(`${op}(${v}) is ${y[k]}, not ${want}`);
      });
    });

  it("NaN stays NaN, and what is outside a domain becomes it", async () => {
    for (const op of ["Elu", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Celu", "Selu", "Mish", "Gelu", "HardSigmoid", "LeakyRelu", "Softsign"])
      expect((await apply(op, [Number.NaN, 1]))[0], op).toBeNaN();
    for (const op of ["Asin", "Acos", "Atanh"]) expect([...(await apply(op, [1.01, -1.01, 3, -3]))], op).toEqual([Number.NaN, Number.NaN, Number.NaN, Number.NaN]);
    expect([...(await apply("Acosh", [0.99, -0.5, -3, -1e12]))]).toEqual([Number.NaN, Number.NaN, Number.NaN, Number.NaN]);
  });

  it("NaN and infinities are told from numbers", async () => {
    const x = [1, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, 3.4e38, -3.4e38];
    expect([...(await apply("Cast", x, { to: BOOL }, BOOL))]).toEqual([1, 1, 1, 1, 0, 1, 1]);
    expect([...(await apply("IsNaN", x, {}, BOOL))]).toEqual([0, 1, 0, 0, 0, 0, 0]);
    expect([...(await apply("IsInf", x, {}, BOOL))]).toEqual([0, 0, 1, 1, 0, 0, 0]);
    expect([...(await apply("IsInf", x, { detect_negative: 0 }, BOOL))]).toEqual([0, 0, 1, 0, 0, 0, 0]);
  });

  it("float16 is rounded to the last bit", async () => {
    const x = [1 + 2 ** -11, 1 + 3 * 2 ** -11, -0.1, 65519, 65520, -1e30, 2 ** -25, 1.5 * 2 ** -24, Number.NaN, Number.NEGATIVE_INFINITY, 0];
    const y = [1, 1 + 2 ** -9, -0.0999755859375, 65504, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, 2 ** -23, Number.NaN, Number.NEGATIVE_INFINITY, 0];
    expect([...(await apply("Cast", x, { to: FLOAT16 }, FLOAT16))].map((v) => v + 0)).toEqual(y);
  });
});
