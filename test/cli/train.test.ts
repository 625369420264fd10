/** The built program on a device: a run can be stopped, lost, or short of disk, and nothing is lost. */
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { listAdapters } from "../../runtime/adapter.node.js";
import { decode } from "../../runtime/safetensors.js";
import { parseNpz } from "../../src/data/npz.js";
import { build, built, digitsCsv, model } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "kfacc-train-"));
const at = (name: string): string => join(folder, name);
const kfacc = (...argv: string[]) => built(argv, { cwd: folder });
const lines = (name: string): Record<string, unknown>[] =>
  existsSync(at(name)) ? readFileSync(at(name), "utf8").trim().split("\n").flatMap((l) => (l === "" ? [] : [JSON.parse(l) as Record<string, unknown>])) : [];
const DATA = ["--loss", "softmax-ce", "--data", "data.csv"];
const MLP = model("mlp_tanh_ce");

beforeAll(() => {
  build();
  writeFileSync(at("data.csv"), digitsCsv(150));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe("train", () => {
  // 135 examples to train on: 9 steps an epoch, the last one short
  const RUN = ["train", MLP, ...DATA, "--batch", "16", "--epochs", "4", "--seed", "3"];

  it("writes the trained model, a line per step, a picture, and learns", async () => {
    const { code, out, err } = await kfacc(...RUN, "--out", "full.onnx", "--history", "full.jsonl", "--plot", "full.svg");
    expect(err).not.toMatch(/hint/);
    expect(code).toBe(0);
    expect(out).toMatch(/^layer .*\n/);
    const steps = lines("full.jsonl").filter((l) => "loss" in l);
    expect(steps.map((l) => l.step)).toEqual(Array.from({ length: 36 }, (_, k) => k + 1));
    expect(Object.keys(steps[0] as object)).toEqual(["step", "epoch", "examples", "loss", "lr", "damping", "seconds"]);
    expect(steps.at(-1)).toMatchObject({ examples: 540 });
    const evals = lines("full.jsonl").filter((l) => "eval" in l);
    expect(evals).toHaveLength(4);
    expect((evals.at(-1) as { eval: { accuracy: number } }).eval.accuracy).toBeGreaterThan(0.8);
    expect(readFileSync(at("full.svg"), "utf8")).toMatch(/^<svg/);
    // the checkpoint nobody asked for is gone once the model is written
    expect(existsSync(at("mlp_tanh_ce.checkpoint.safetensors"))).toBe(false);
    // everything but the weights is as it was
    expect(readFileSync(at("full.onnx")).length).toBe(readFileSync(MLP).length);
  });

  it("stopped by Ctrl-C amid an epoch and resumed ends in the same bits as without", async () => {
    const stopped = await built([...RUN, "--out", "cut.onnx", "--history", "cut.jsonl", "--checkpoint", "cut.st"], { cwd: folder, interrupt: () => lines("cut.jsonl").length >= 6 });
    expect(stopped.code).toBe(130);
    expect(stopped.err).toMatch(/interrupted: stopped after step \d+ of 36\n {2}hint: go on with --resume cut\.st/);
    expect(existsSync(at("cut.onnx"))).toBe(false);
    const { metadata } = decode(readFileSync(at("cut.st")));
    expect(Number(metadata.step)).toBeLessThan(36);
    // no option is repeated: the checkpoint has them
    const resumed = await kfacc("train", MLP, "--data", "data.csv", "--resume", "cut.st", "--out", "cut.onnx", "--history", "cut.jsonl");
    expect(resumed.err).not.toMatch(/hint/);
    expect(resumed.code).toBe(0);
    expect(readFileSync(at("cut.onnx")).equals(readFileSync(at("full.onnx")))).toBe(true);
    const timeless = (name: string) => lines(name).map(({ seconds: _, ...rest }) => rest);
    expect(timeless("cut.jsonl")).toEqual(timeless("full.jsonl"));
  });

  it("that diverges exits with 4 and keeps the last good checkpoint", async () => {
    const { code, err } = await kfacc("train", MLP, ...DATA, "--optimizer", "sgd", "--lr", "1e6", "--batch", "16", "--epochs", "9", "--checkpoint", "lost.st", "--out", "lost.onnx");
    expect(code).toBe(4);
    expect(err).toMatch(/diverged: .*\n {2}at step \d+\n {2}hint: lower --lr.*the last good checkpoint \(step \d+\) is lost\.st/);
    expect(existsSync(at("lost.onnx"))).toBe(false);
    const { tensors } = decode(readFileSync(at("lost.st")));
    expect(Object.entries(tensors).filter(([name, t]) => name.startsWith("param/") && !(t.data as Float32Array).every(Number.isFinite))).toEqual([]);
  });

  it.runIf(existsSync("/dev/full"))("on a full disk loses no weights: they are in the checkpoint, which the error names", async () => {
    symlinkSync("/dev/full", at("full-disk.onnx"));
    const { code, err } = await kfacc("train", MLP, ...DATA, "--batch", "32", "--epochs", "1", "--out", "full-disk.onnx");
    expect(code).toBe(1);
    expect(err).toMatch(/cannot-write: cannot write: the disk is full\n.*\n.*--resume (\S+) /);
    const file = (/--resume (\S+) /.exec(err) as RegExpExecArray)[1] as string;
    const again = await kfacc("train", MLP, "--data", "data.csv", "--resume", file, "--out", "elsewhere.onnx", "--json");
    expect(again.code).toBe(0);
    expect(JSON.parse(again.out)).toMatchObject({ steps: 5, out: "elsewhere.onnx" });
    expect(existsSync(at("elsewhere.onnx"))).toBe(true);
  });

  it.runIf(existsSync("/dev/full"))("with a history that cannot be written goes on, and says so in the end", async () => {
    const { code, err, out } = await kfacc("train", MLP, ...DATA, "--batch", "32", "--epochs", "1", "--history", "/dev/full", "--out", "despite.onnx");
    expect(err).toMatch(/cannot-write: .*\n {2}at file "\/dev\/full"/);
    expect(out).toMatch(/trained model in despite\.onnx/);
    expect(existsSync(at("despite.onnx"))).toBe(true);
    expect(code).toBe(1);
  });
});

describe("evaluate and predict", () => {
  it("give the same for a model, for its module with those weights, and for any count of examples", async () => {
    expect((await kfacc("compile", MLP, "--loss", "softmax-ce", "--batch", "16", "-o", "module")).code).toBe(0);
    const [one, other] = await Promise.all([kfacc("evaluate", "full.onnx", ...DATA, "--json"), kfacc("evaluate", "module", "--data", "data.csv", "-w", "full.onnx", "--json", "--batch", "7")]);
    const metrics = JSON.parse(one.out) as { accuracy: number; count: number; loss: number };
    expect(metrics.count).toBe(150);
    expect(metrics.accuracy).toBeGreaterThan(0.8);
    // sums over batches of 64 and of 16 round differently: 150 losses near 1, float32
    expect(JSON.parse(other.out)).toMatchObject({ accuracy: metrics.accuracy, count: 150 });
    expect((JSON.parse(other.out) as typeof metrics).loss).toBeCloseTo(metrics.loss, 4);
    expect((await kfacc("predict", "full.onnx", "--data", "data.csv", "-o", "p.npz")).code).toBe(0);
    const output = parseNpz(readFileSync(at("p.npz")), "p.npz").get("output");
    expect(output?.shape).toEqual([150, 10]);
    const hits = Array.from({ length: 150 }, (_, n) => {
      const row = [...(output?.data.subarray(n * 10, n * 10 + 10) ?? [])];
      return Number(row.indexOf(Math.max(...row)) === n % 10);
    });
    expect(hits.reduce((a, b) => a + b, 0) / 150).toBeCloseTo(metrics.accuracy, 6);
  });
});

describe("without a device", () => {
  it("exits with 3 and says what there could be", async ({ skip }) => {
    const absent = (await listAdapters()).find((r) => r.refusal !== undefined);
    if (!absent) return skip("every way leads to a device here");
    const { code, err } = await built(["evaluate", MLP, ...DATA, "--json"], { cwd: folder, env: { KFACC_ADAPTER: absent.kind } });
    expect(code).toBe(3);
    expect(JSON.parse(err)).toMatchObject({ code: "no-adapter", hint: expect.stringContaining("SwiftShader") as string });
  });
});
