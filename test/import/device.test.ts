/** Every op's forward and backward pass as kernels on an adapter, against the float64 meaning of the same graph. */
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import { cotangents } from "../../ir/grad.js";
import type { Graph, GraphResult, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { runPasses } from "../../ir/pass.js";
import { AFTER_GRADIENTS } from "../../ir/passes/index.js";
import { size } from "../../ir/type.js";
import { importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { testDevice } from "../support/gpu.js";
import { runPoisoned } from "../support/models.js";
import { modelOf, spellCase } from "../support/op-case.js";
import { bindingsOf, random, seeded } from "../support/onnx-run.js";
import { CASES } from "./cases/index.js";

const device = testDevice();

const renamed = (graph: Graph): GraphResult[] => graph.results.map((r) => ({ name: `out/${r.name}`, value: r.value }));

/** Results, and the gradients of a random weighting of them; names that no input has, so that nothing is updated in place. */
function withGradients(graph: Graph, at: Record<string, NdArray>, seed: number): Graph {
  const b = Builder.from(graph);
  const results = renamed(graph);
  const seeds = new Map<Value, Value>();
  graph.results.forEach(({ value }, k) => {
    if (value.type.dtype !== "f32" || seeds.has(value)) return;
    const weight = b.input(b.fresh("weight"), value.type);
    at[weight.name] = ndarray("f32", value.type.shape, Float64Array.from(random(size(value.type.shape), seed + 11 * k)));
    seeds.set(value, weight);
  });
  const wanted = [...graph.params.filter((p) => p.trainable), ...graph.inputs].map((p) => p.value).filter((v) => v.type.dtype === "f32");
  const found = cotangents(b, seeds, wanted);
  return runPasses(b.finish([...results, ...[...found].map(([v, ct]) => ({ name: `grad/${v.name}`, value: ct }))]), AFTER_GRADIENTS);
}

/** float32 rounding of a few dozen operations, relative to the largest number of the tensor. */
const CLOSE = 2e-5;

function expectClose(name: string, got: NdArray, want: NdArray): void {
  const scale = want.data.reduce((top, v) => (Number.isFinite(v) ? Math.max(top, Math.abs(v)) : top), 1);
  want.data.forEach((w, k) => {
    const v = got.data[k] as number;
    if (!(Object.is(v, w) || v === w || Math.abs(v - w) <= CLOSE * scale)) expect.fail(`${name}[${k}] is ${v}, not ${w}`);
  });
}

describe("on an adapter, every op gives what it means, and so does its gradient", () => {
  CASES.forEach((c, k) => {
    it(`${spellCase(c)} (case ${k})`, async () => {
      const imported = importModel(loadModel(modelOf(c, c.opsets.at(-1) as number)), { mode: "eval" });
      const at = bindingsOf(imported, seeded(imported.graph, k + 1, c.scale ?? 1, c.shift ?? 0));
      // the device has float32 numbers: give the oracle the same
      for (const [name, a] of Object.entries(at)) at[name] = ndarray(a.dtype, a.shape, a.data.map(Math.fround));
      const graph = c.noGradient === undefined ? withGradients(imported.graph, at, k + 1) : runPasses({ ...imported.graph, results: renamed(imported.graph) }, AFTER_GRADIENTS);
      const { results } = await runPoisoned(device().device, graph, at);
      const want = evaluate(graph, at);
      for (const name of Object.keys(want)) expectClose(name, results[name] as NdArray, want[name] as NdArray);
    });
  });
});
