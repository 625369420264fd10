/** What is wrong with the input ends in one clear error, the right exit code, and nothing written. No device is needed for it. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ERROR_CODES } from "../../ir/error.js";
import { HOST_DEFAULTS, RUN_KNOBS } from "../../runtime/artifact.js";
import { checkFlag, FLAGS, kebab } from "../../src/options.js";
import { buildModel, floats, node } from "../support/onnx-model.js";
import { cli, digitsCsv, model } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "kfacc-refusals-"));
const at = (name: string): string => join(folder, name);
const before = process.cwd();
beforeAll(() => {
  process.chdir(folder); // a default checkpoint would land here
  const whole = readFileSync(model("mlp_tanh_ce"));
  writeFileSync(at("text.onnx"), "import torch\n");
  writeFileSync(at("cut.onnx"), whole.subarray(0, 2000));
  writeFileSync(at("empty.onnx"), "");
  const w = { dims: [3, 4], external: { location: "absent.bin", offset: "0", length: "48" } };
  writeFileSync(at("external.onnx"), buildModel({ inputs: { x: ["N", 4] }, outputs: ["y"], initializers: { w }, nodes: [node("Gemm", ["x", "w"], ["y"], { transB: 1 })] }));
  writeFileSync(at("unknown.onnx"), buildModel({ inputs: { x: ["N", 4] }, outputs: ["y"], initializers: { w: floats([4, 4], Array(16).fill(1)) }, nodes: [node("MatMul", ["x", "w"], ["h"]), node("NonMaxSuppression", ["h"], ["y"])] }));
  const good = digitsCsv(20);
  writeFileSync(at("good.csv"), good);
  writeFileSync(at("narrow.csv"), "1,2,3\n4,5,6\n");
  writeFileSync(at("label.csv"), good.replace(/,3\n/, ",17\n"));
  writeFileSync(at("nan.csv"), good.replace(/^[^,]*,/, "nan,"));
  writeFileSync(at("void.csv"), "");
});
afterAll(() => {
  process.chdir(before);
  rmSync(folder, { recursive: true });
});

const train = (data: string, ...flags: string[]) => cli("train", model("mlp_tanh_ce"), "--loss", "softmax-ce", "--data", data, ...flags);

interface Case {
  readonly name: string;
  readonly run: () => ReturnType<typeof cli>;
  readonly code: number;
  readonly says: RegExp;
}

const CASES: readonly Case[] = [
  { name: "a file that is no ONNX model", run: () => cli("layers", at("text.onnx")), code: 1, says: /bad-model: this is a text file.*text\.onnx.*hint/s },
  { name: "a truncated model", run: () => cli("layers", at("cut.onnx")), code: 1, says: /bad-model: .*truncated.*cut\.onnx/s },
  { name: "an empty model", run: () => cli("layers", at("empty.onnx")), code: 1, says: /bad-model: the file is empty/ },
  { name: "a model that is not there", run: () => cli("layers", at("absent.onnx")), code: 1, says: /missing-data: .*absent\.onnx/s },
  { name: "external data that is not there", run: () => cli("compile", at("external.onnx"), "--loss", "mse", "-o", at("m")), code: 1, says: /missing-data: .*absent\.bin/s },
  { name: "an unknown operation", run: () => cli("layers", at("unknown.onnx")), code: 1, says: /unsupported-op: .*NonMaxSuppression.*\n {2}at .*\n/s },
  { name: "a loss that nobody named", run: () => cli("compile", model("mlp_tanh_ce"), "-o", at("m")), code: 2, says: /loss-unknown: .*hint: give --loss/s },
  { name: "data of another shape", run: () => train(at("narrow.csv")), code: 1, says: /bad-data: 3 columns are 2 inputs and 1 targets.*takes 64/s },
  { name: "a label out of range", run: () => train(at("label.csv")), code: 1, says: /bad-data: label 17 is not one of the classes 0 … 9\n {2}at .*line \d/s },
  { name: "NaN among the data", run: () => train(at("nan.csv")), code: 1, says: /bad-data: .*nan.*nan\.csv", line 1/s },
  { name: "an empty data set", run: () => train(at("void.csv")), code: 1, says: /bad-data: the file is empty/ },
  { name: "data that are not there", run: () => train(at("absent.csv")), code: 1, says: /missing-data: no such file/ },
  { name: "data left out", run: () => cli("train", model("mlp_tanh_ce"), "--loss", "softmax-ce"), code: 2, says: /usage: --data is missing/ },
  { name: "an unknown flag, with the one that was meant", run: () => train(at("good.csv"), "--epoch", "3"), code: 2, says: /usage: kfacc train has no flag --epoch\n {2}hint: did you mean --epochs\?/ },
  { name: "a flag of another command", run: () => cli("layers", model("mlp_tanh_ce"), "--epochs", "3"), code: 2, says: /--epochs belongs to other commands/ },
  { name: "an unknown command", run: () => cli("trian", model("mlp_tanh_ce")), code: 2, says: /there is no command "trian"\n {2}hint: did you mean "train"\?/ },
  { name: "a flag without its value", run: () => train(at("good.csv"), "--lr", "--json"), code: 2, says: /usage.*--lr needs a value/ },
  { name: "no model", run: () => cli("layers"), code: 2, says: /usage: missing required args/ },
  { name: "a batch of 0", run: () => train(at("good.csv"), "--batch", "0"), code: 2, says: /bad-option: "0".*\n {2}at --batch/ },
  { name: "a batch beyond what an index can hold", run: () => train(at("good.csv"), "--batch", "2000000000"), code: 1, says: /too-large: / },
  { name: "a negative learning rate", run: () => train(at("good.csv"), "--lr", "-0.1"), code: 2, says: /bad-option: "-0\.1" is not a number between 0 and 1000000 \(per step\)\n {2}at --lr/ },
  { name: "an output folder that is not there", run: () => train(at("good.csv"), "--out", at("absent/t.onnx")), code: 1, says: /cannot-write: .*folder does not exist/ },
  { name: "a module where a file is", run: () => cli("compile", model("mlp_tanh_ce"), "--loss", "softmax-ce", "-o", at("good.csv")), code: 1, says: /cannot-write/ },
  { name: "a folder that refuses new folders", run: () => cli("compile", model("mlp_tanh_ce"), "--loss", "softmax-ce", "-o", "/proc/kfacc"), code: 1, says: /cannot-write: cannot create the folder/ },
  { name: "a model of one kind written as another", run: () => train(at("good.csv"), "--out", at("t.pt")), code: 2, says: /ends in neither \.onnx nor \.safetensors/ },
  { name: "a checkpoint that is none", run: () => train(at("good.csv"), "--resume", at("good.csv")), code: 1, says: /bad-checkpoint: / },
  { name: "a checkpoint that is not there", run: () => train(at("good.csv"), "--resume", at("absent.st")), code: 1, says: /missing-data: .*absent\.st/s },
  { name: "a folder without a program", run: () => cli("evaluate", folder, "--data", at("good.csv")), code: 1, says: /missing-data: .*plan\.json.*kfacc compile/s },
  { name: "a pass that is none", run: () => cli("print", model("mlp_tanh_ce"), "--after", "fuze"), code: 2, says: /there is no pass "fuze".*canonicalize/s },
];

describe("kfacc refuses", () => {
  for (const { name, run, code, says } of CASES)
    it(name, async () => {
      const there = readdirSync(folder).sort();
      const outcome = await run();
      expect(outcome.err).toMatch(says);
      expect(outcome.err).not.toMatch(/\n\s+at .*\.(ts|js):\d+/); // a stack trace
      expect(outcome.code).toBe(code);
      expect(readdirSync(folder).sort()).toEqual(there);
    });

  it("in JSON with --json: code, message, where and hint, and nothing else on either stream", async () => {
    const { out, err, code } = await cli("layers", at("empty.onnx"), "--json");
    expect(out).toBe("");
    expect(Object.keys(JSON.parse(err) as object).sort()).toEqual(["code", "hint", "message", "where"]);
    expect(JSON.parse(err)).toMatchObject({ code: "bad-model", where: expect.stringContaining("empty.onnx") as string });
    expect(code).toBe(1);
  });

  it("with a stack trace only for --debug", async () => {
    expect((await cli("layers", at("empty.onnx"), "--debug")).err).toMatch(/\n\s+at .*onnx\.ts:\d+/);
  });
});

describe("flags", () => {
  it("exist for every knob of the runtime and the host, with a unit or range and the default said", async () => {
    const { out } = await cli("train", "--help");
    for (const name of [...RUN_KNOBS.map((k) => k.name), ...Object.keys(HOST_DEFAULTS)]) expect(out, name).toContain(`--${name === "emaDebias" ? "[no-]" : ""}${kebab(name)}`);
    for (const f of FLAGS.filter((f) => f.kind === "number" || f.kind === "integer")) expect(f.range ?? f.unit, f.name).toBeDefined();
    for (const k of RUN_KNOBS) expect(out).toContain(`default ${k.default}`);
  });

  it("take values as they were typed: negative, numeric names, after =", async () => {
    const flag = (name: string) => FLAGS.find((f) => f.name === name) as (typeof FLAGS)[number];
    expect(checkFlag(flag("target"), "007")).toBe("007");
    expect(() => checkFlag(flag("lr"), "")).toThrow(/not a number/);
    expect(() => checkFlag(flag("epochs"), "1.5")).toThrow(/whole number/);
    expect((await train(at("good.csv"), "--target", "-99", "--batch=8")).err).toMatch(/no column "-99"/);
  });

  it("of help list each command, each error code and the exit codes", async () => {
    const { out, code } = await cli("help");
    expect(code).toBe(0);
    for (const name of ["layers", "print", "compile", "train", "evaluate", "predict", "devices"]) expect(out).toContain(`\n  ${name}`);
    const errors = (await cli("help", "errors")).out;
    for (const name of Object.keys(ERROR_CODES)) expect(errors).toContain(name);
  });
});

describe("layers", () => {
  it("prints an unbound batch as N", async () => {
    expect((await cli("layers", model("mlp_tanh_ce"))).out).toContain("[N, 64]");
  });

  it("gives JSON with the initialisers' names and both sides of every factor", async () => {
    const { layers, orphans } = JSON.parse((await cli("layers", model("mlp_tanh_ce"), "--json")).out) as { layers: Record<string, unknown>[]; orphans: unknown[] };
    expect(orphans).toEqual([]);
    expect(layers.map(({ name, kind, params, T, dA, dG }) => ({ name, kind, params, T, dA, dG }))).toEqual([
      { name: "fc.0.weight", kind: "dense", params: { weight: "fc.0.weight", bias: "fc.0.bias" }, T: 1, dA: 65, dG: 32 },
      { name: "fc.1.weight", kind: "dense", params: { weight: "fc.1.weight", bias: "fc.1.bias" }, T: 1, dA: 33, dG: 16 },
      { name: "fc.2.weight", kind: "dense", params: { weight: "fc.2.weight", bias: "fc.2.bias" }, T: 1, dA: 17, dG: 10 },
    ]);
  });

  it("names what is left out, why, and how it moves; --strict makes that an error", async () => {
    const skipped = await cli("layers", model("mlp_tanh_ce"), "--layer", "fc.1.weight=skip", "--json");
    expect((JSON.parse(skipped.out) as { orphans: unknown[] }).orphans[0]).toEqual({ param: "fc.1.weight", reason: "skipped by --layer", update: "sgd-momentum" });
    const strict = await cli("layers", model("mlp_tanh_ce"), "--layer", "fc.1.weight=skip", "--strict");
    expect(strict.code).toBe(1);
    expect(strict.err).toMatch(/orphan-parameter: /);
  });
});
