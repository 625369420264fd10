/** `kfacc fisher` on small models. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { Estimate } from "../../runtime/fisher-estimate.js";
import { decode, encode } from "../../runtime/safetensors.js";
import { npz } from "../../src/cli/use.js";
import { random } from "../support/models.js";
import { cli, model } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "kfacc-fisher-"));
const at = (name: string): string => join(folder, name);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const COUNT = 50;
const next = random(5);
const x = Float32Array.from({ length: COUNT * 64 }, next);
writeFileSync(at("d.npz"), npz({ x: { shape: [COUNT, 64], data: x }, y: { shape: [COUNT], data: Int32Array.from({ length: COUNT }, (_, n) => n % 10) } }));
const MLP = model("mlp_tanh_ce");
const flags = ["--loss", "softmax-ce", "--data", at("d.npz")];

describe("kfacc fisher", () => {
  it("writes factors that are those of the data, and says what they look like", async () => {
    const run = await cli("fisher", MLP, ...flags, "--fisher", "exact", "--damping", "0.5", "--batch", "16", "-o", at("f.safetensors"), "--json");
    expect([run.code, run.err.replace(/^Warning.*\n/gm, "")]).toEqual([0, ""]);
    const report = JSON.parse(run.out) as { examples: number; count: number; fisher: object; layers: { name: string; dA: number; dG: number; traceA: number; trace: number; largest: number; median: number; effectiveRank: number }[]; trace: number; frobenius: number; damping: number; logdet: number; parameters: object; file: string };
    expect(report).toMatchObject({ examples: COUNT, count: COUNT, fisher: { kind: "exact", samples: 1 }, damping: 0.5, parameters: { covered: 2778, uncovered: 0, names: [] }, file: at("f.safetensors") });
    const e = Estimate.load(readFileSync(at("f.safetensors")));
    expect(readdirSync(folder).sort()).toEqual(["d.npz", "f.safetensors"]);
    const A = e.factors()["fc.0.weight"]?.A;
    expect(A?.shape).toEqual([65, 65]);
    // the first layer's A is the second moment of the inputs; float32 sums of 50 terms
    for (const [i, j] of [[0, 0], [3, 40], [63, 63]] as const) {
      const moment = Array.from({ length: COUNT }, (_, n) => (x[n * 64 + i] as number) * (x[n * 64 + j] as number)).reduce((a, b) => a + b) / COUNT;
      expect(Math.abs((A?.data[i * 65 + j] as number) - moment)).toBeLessThan(1e-6);
    }
    expect(A?.data[64 * 65 + 64]).toBe(1);
    expect(report.layers.map((l) => [l.name, l.dA, l.dG])).toEqual([["fc.0.weight", 65, 32], ["fc.1.weight", 33, 16], ["fc.2.weight", 17, 10]]);
    expect([report.trace, report.frobenius, report.logdet]).toEqual([e.trace(), e.frobenius(), await e.logdet({ damping: 0.5 })]);
    const values = await e.eigenvalues("fc.2.weight");
    const last = report.layers[2];
    expect([last?.largest, last?.median]).toEqual([values.at(-1), values[85]]);
    expect(last?.effectiveRank).toBeCloseTo(values.reduce((a, b) => a + b, 0) ** 2 / values.reduce((a, b) => a + b * b, 0), 4);
  });

  it("takes weights from elsewhere and sampled targets from a seed, and prints a table", async () => {
    const zeros = Object.fromEntries(Object.entries(decode(encode({
      "fc.0.weight": { dtype: "F32", shape: [32, 64], data: new Float32Array(2048) }, "fc.0.bias": { dtype: "F32", shape: [32], data: new Float32Array(32) },
      "fc.1.weight": { dtype: "F32", shape: [16, 32], data: new Float32Array(512) }, "fc.1.bias": { dtype: "F32", shape: [16], data: new Float32Array(16) },
      "fc.2.weight": { dtype: "F32", shape: [10, 16], data: new Float32Array(160) }, "fc.2.bias": { dtype: "F32", shape: [10], data: new Float32Array(10) },
    })).tensors));
    writeFileSync(at("zeros.safetensors"), encode(zeros));
    const run = (...more: string[]) => cli("fisher", MLP, ...flags, ...more);
    const table = await run("--weights", at("zeros.safetensors"), "--fisher", "exact", "--register", "dense");
    expect(table.code).toBe(0);
    // no weight: nothing reaches the layers below, and the last one's g gᵀ is that of ten equal classes, trace 1 − 1/10
    expect(table.out).toMatch(/^fc\.0\.weight +dense +65 +32 +\S+ +0\.000 +0\.000/m);
    expect(table.out).toMatch(/^fc\.2\.weight +dense +17 +10 +1\.000 +0\.9000 +0\.9000 +0\.1000/m);
    expect(table.out).toMatch(/exact Fisher over 50 examples: trace 0\.9000.*2778 parameters covered/s);
    const sampled = async (seed: string): Promise<string> => (await run("--seed", seed, "--json")).out;
    const one = await sampled("1");
    expect(await sampled("1")).toBe(one);
    expect(await sampled("2")).not.toBe(one);
  });

  it("says which parameters no layer covers", async () => {
    const run = await cli("fisher", MLP, ...flags, "--layer", "fc.1.weight=skip", "--json");
    expect((JSON.parse(run.out) as { parameters: object }).parameters).toEqual({ covered: 2778 - 528, uncovered: 528, names: ["fc.1.weight", "fc.1.bias"] });
  });

  it("runs from a compiled folder, whose choices are made", async () => {
    expect((await cli("compile", MLP, "--loss", "softmax-ce", "--fisher", "exact", "--batch", "8", "-o", at("module"))).code).toBe(0);
    const [mine, direct] = [await cli("fisher", at("module"), "--data", at("d.npz"), "--json"), await cli("fisher", MLP, ...flags, "--batch", "8", "--fisher", "exact", "--json")];
    expect([mine.code, mine.out]).toEqual([0, direct.out]);
    const refused = await cli("fisher", at("module"), "--data", at("d.npz"), "--fisher", "mc");
    expect([refused.code, refused.err]).toEqual([2, expect.stringMatching(/bad-option: the folder is compiled.*at --fisher/s)]);
    expect((await cli("compile", MLP, "--loss", "softmax-ce", "--optimizer", "sgd", "-o", at("sgd"))).code).toBe(0);
    expect((await cli("fisher", at("sgd"), "--data", at("d.npz"))).err).toMatch(/a program for sgd has no factors/);
  });

  const refusals: readonly [string, readonly string[], number, RegExp][] = [
    ["no data", ["--loss", "softmax-ce"], 2, /--data is missing/],
    ["a file of another kind", [...flags, "-o", at("f.npz")], 2, /does not end in \.safetensors/],
    ["a folder that is not there", [...flags, "-o", at("no/f.safetensors")], 1, /cannot-write/],
    ["a Fisher that is none", [...flags, "--fisher", "diagonal"], 2, /not one of/],
    ["no loss", ["--data", at("d.npz")], 2, /loss-unknown/],
    ["no layer", [...flags, "--layer", "fc.0.weight=skip", "--layer", "fc.1.weight=skip", "--layer", "fc.2.weight=skip"], 2, /the model has no layer/],
  ];
  it.each(refusals)("%s is refused, and nothing is written", async (_, argv, code, says) => {
    const before = readdirSync(folder);
    const run = await cli("fisher", MLP, ...argv);
    expect([run.code, run.err]).toEqual([code, expect.stringMatching(says)]);
    expect(readdirSync(folder)).toEqual(before);
  });
});
