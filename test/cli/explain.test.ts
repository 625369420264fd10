/** `train --explain`: what it prints and keeps, when it warns, and that training does not notice. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { LayerDiagnosis } from "../../runtime/diagnose.js";
import { drownedLayers, explainTable } from "../../src/cli/explain.js";
import { build, built, digitsCsv, model } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "kfacc-explain-"));
const at = (name: string): string => join(folder, name);
const MLP = model("mlp_tanh_ce");
// 135 examples to train on: 9 steps an epoch
const RUN = ["train", MLP, "--loss", "softmax-ce", "--data", "data.csv", "--batch", "16", "--epochs", "2", "--seed", "3"];
const kfacc = (...argv: string[]) => built(argv, { cwd: folder });
type Line = Record<string, unknown> & { readonly layers: readonly LayerDiagnosis[] };
const layerLines = (name: string): Line[] => readFileSync(at(name), "utf8").trim().split("\n").map((l) => JSON.parse(l) as Line).filter((l) => l.kind === "layers");

beforeAll(() => {
  build();
  writeFileSync(at("data.csv"), digitsCsv(150));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe("train --explain", () => {
  it("prints a table and keeps a line of history at each validation and every so many steps, and trains the same bits", async () => {
    const plain = await kfacc(...RUN, "--out", "plain.onnx", "--history", "plain.jsonl");
    expect(plain.code).toBe(0);
    const { code, err } = await kfacc(...RUN, "--explain-every", "4", "--out", "told.onnx", "--history", "told.jsonl");
    expect(code).toBe(0);
    expect(readFileSync(at("told.onnx")).equals(readFileSync(at("plain.onnx")))).toBe(true);
    expect(layerLines("plain.jsonl")).toEqual([]);
    const lines = layerLines("told.jsonl");
    expect(lines.map((l) => [l.step, l.epoch])).toEqual([[4, 0], [8, 0], [9, 1], [12, 1], [16, 1], [18, 2]]);
    const names = (lines[0] as Line).layers.map((d) => d.layer);
    expect(names).toHaveLength(3);
    expect(err.match(/^layers at step \d+\nlayer +damping +λ +π +median/gm)).toHaveLength(6);
    for (const name of names) expect(err.match(new RegExp(`^${name} +pi +0.03 `, "gm")), name).toHaveLength(6);
    expect(err).not.toContain("warning:");
  });

  it("without validation tells at the end, and says that a baseline has nothing to tell", async () => {
    const { err } = await kfacc(...RUN, "--val", "0", "--explain", "--out", "end.onnx");
    expect(err.match(/^layers at step \d+$/gm)).toEqual(["layers at step 20"]);
    const sgd = await kfacc(...RUN, "--optimizer", "sgd", "--explain", "--out", "sgd.onnx");
    expect(sgd.code).toBe(0);
    expect(sgd.err).toMatch(/note: --explain says nothing with --optimizer sgd/);
    expect(sgd.err).not.toMatch(/layers at step/);
  });

  it("warns once per layer where damping leaves nothing of its curvature", async () => {
    const { err } = await kfacc(...RUN, "--damping", "1e4", "--explain", "--out", "drowned.onnx");
    const warnings = err.match(/^warning: .*$/gm) ?? [];
    expect(warnings).toHaveLength(3);
    expect(warnings[0]).toMatch(/^warning: layer ".*": its curvature is drowned by damping \(median eigenvalue \S+, λ 1\.0e4\): lower --damping$/);
  });
});

describe("a warning", () => {
  const one: LayerDiagnosis = {
    layer: "fc", form: "pi", lambda: 0.03, pi: 2, medianEigenvalue: 1e-7, largestEigenvalue: 1e-4, share: 1e-7 / 0.03, effectiveRank: 3.4567, dimension: 20,
    cosine: 0.9999, gradientNorm: 1.5, directionNorm: 50, nu: 1, age: null,
  };
  it("is for small curvature whose step is the gradient's, not for a skewed spectrum that still shapes the step", () => {
    const said = new Set<string>();
    expect(drownedLayers([{ ...one, cosine: 0.9 }, { ...one, share: 0.5 }, { ...one, cosine: null }], said)).toEqual([]);
    expect(drownedLayers([one, { ...one, layer: "other" }], said)).toHaveLength(2);
    expect(drownedLayers([one], said)).toEqual([]);
    expect(drownedLayers([one], new Set())).toEqual(['layer "fc": its curvature is drowned by damping (median eigenvalue 1.0e-7, λ 0.03): lower --damping']);
  });
  it("and the table spell numbers shortly", () => {
    expect(explainTable([one]).split("\n")[1]?.split(/ {2,}/)).toEqual(["fc", "pi", "0.03", "2", "1.0e-7", "1.0e-4", "3.3e-6", "3.46 of 20", "1", "1.5", "50", "1", "–"]);
  });
});
