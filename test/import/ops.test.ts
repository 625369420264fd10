/** Every op that the importer knows, against onnxruntime and against finite differences, at the opsets at which its form changed. */
import { describe, expect, it } from "vitest";
import { IMPORT_OPS } from "../../src/import/ops/index.js";
import { expectGradient } from "../support/gradient.js";
import { modelOf, spellCase } from "../support/op-case.js";
import { bindingsOf, expectAgrees, seeded } from "../support/onnx-run.js";
import { CASES } from "./cases/index.js";

/** Ops that have a test file of their own: their forms do not fit a list of cases. */
const ELSEWHERE = ["Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "BitCast", "SwiGLU", "LinearAttention", "CausalConvWithState"];

describe("an imported op computes what onnxruntime computes, and its gradient is that of finite differences", () => {
  CASES.forEach((c, k) => {
    for (const opset of c.opsets)
      it(`${spellCase(c)} (opset ${opset}, case ${k})`, async () => {
        const imported = await expectAgrees(modelOf(c, opset), k + 1, c.scale ?? 1, c.shift ?? 0);
        if (c.noGradient === undefined) expectGradient(imported.graph, bindingsOf(imported, seeded(imported.graph, k + 1, c.scale ?? 1, c.shift ?? 0)), k + 1);
      });
  });

  it("and every op in the table is tested", () => {
    const tested = new Set([...CASES.map((c) => (c.domain ? `${c.domain}.${c.op}` : c.op)), ...ELSEWHERE]);
    expect([...IMPORT_OPS.keys()].filter((op) => !tested.has(op))).toEqual([]);
  });
});
