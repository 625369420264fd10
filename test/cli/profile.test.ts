/** `kfacc profile`: what it says of a small model, and where it refuses. No times are asserted: they are the machine's. */
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Artifact, PlanDispatch, PlanEntry } from "../../runtime/artifact.js";
import { decode, encode, type SafeTensor } from "../../runtime/safetensors.js";
import type { Report } from "../../src/cli/profile-report.js";
import { cli, model } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "kfacc-profile-"));
const at = (...names: string[]): string => join(folder, ...names);
const MLP = [model("mlp_tanh_ce"), "--loss", "softmax-ce"] as const;
const QUICK = ["--repeat", "1"] as const;
const planOf = (name: string): Artifact => JSON.parse(readFileSync(at(name, "plan.json"), "utf8")) as Artifact;

beforeAll(async () => {
  // with weight decay a K-FAC step is always run in halves
  await cli("compile", ...MLP, "--batch", "8,4", "--factor-period", "2", "--inverse-period", "5", "--weight-decay", "0.001", "-o", at("kfac"));
  await cli("compile", ...MLP, "--batch", "8", "--optimizer", "sgd", "-o", at("sgd"));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe("kfacc profile", { timeout: 180_000 }, () => {
  it("says for every kernel of a training step what it took, by the name of its file", async () => {
    const run = await cli("profile", at("kfac"), ...QUICK, "-o", at("report.json"), "--trace", at("trace.json"));
    expect(run.code, run.err).toBe(0);
    const heads = run.out.split("\n").filter((line) => / dispatches[,:]/.test(line)).map((line) => line.replace(/: [\d.]+ ms.*/, ""));
    const count = (entry: string): number => (planOf("kfac").plan.entries[entry] as PlanEntry).steps.length;
    expect(heads).toEqual([
      `front.stats@8: ${count("front.stats@8")} dispatches, 1 of 2 steps`, `refresh: ${count("refresh")} dispatches, 1 of 5 steps`,
      `back: ${count("back")} dispatches, every step`, `front@8: ${count("front@8")} dispatches, 1 of 2 steps`,
    ]);
    expect(run.out).toMatch(/^kernel +runs +ms +share +GFLOP\/s +GB\/s +computes$/m);
    for (const [, file] of run.out.matchAll(/^(\S+\.wgsl) +\d+ +[\d.]+ +[\d.]+ % +\S+ +\S+ +\S/gm)) expect(existsSync(at("kfac", "kernels", file as string)), file).toBe(true);
    expect(run.out).toMatch(/^a step of 8 examples: [\d.]+ ms, [\d.]+ MFLOP, [\d.]+ GFLOP\/s, [\d.]+ GB\/s; together [\d.]+ ms$/m);
    expect(run.err).not.toContain("warning");
  });

  it("gives JSON whose entries, kernels and steps are the plan's, and whose sums are sums", () => {
    const report = JSON.parse(readFileSync(at("report.json"), "utf8")) as Report;
    const { plan } = planOf("kfac");
    const files = new Set(readdirSync(at("kfac", "kernels")).map((f) => `kernels/${f}`));
    expect(Object.keys(report)).toEqual(["model", "device", "clock", "repeat", "batch", "loss", "step", "entries"]);
    expect(report.entries.map((e) => [e.entry, e.perStep])).toEqual([["front.stats@8", 0.5], ["refresh", 0.2], ["back", 1], ["front@8", 0.5]]);
    let [shares, ms] = [0, 0];
    for (const e of report.entries) {
      const steps = (plan.entries[e.entry] as PlanEntry).steps as readonly PlanDispatch[];
      expect(e.steps.map((s) => s.flops)).toEqual(steps.map((s) => s.work?.flops));
      expect(e.flops).toBe(steps.reduce((n, s) => n + (s.work?.flops ?? Number.NaN), 0));
      expect(e.steps.map((s) => Number(s.kernel.match(/\/(\d+)_/)?.[1]))).toEqual(steps.map((s) => s.kernel));
      for (const k of e.kernels) expect(files, k.kernel).toContain(k.kernel);
      expect(e.kernels.reduce((n, k) => n + k.runs, 0)).toBe(steps.length);
      expect(e.kernels.reduce((n, k) => n + k.ms, 0)).toBeCloseTo(e.ms, 9);
      expect(e.nonFinite).toEqual([]);
      shares += e.kernels.reduce((n, k) => n + k.share, 0);
      ms += e.ms * (e.perStep as number);
    }
    expect(shares).toBeCloseTo(1, 9);
    expect(report.step?.ms).toBeCloseTo(ms, 9);
    expect(Number.isFinite(report.loss)).toBe(true);
  });

  it("writes a trace with a track per entry, every dispatch on it in order, one after the other", () => {
    const report = JSON.parse(readFileSync(at("report.json"), "utf8")) as Report;
    const { traceEvents } = JSON.parse(readFileSync(at("trace.json"), "utf8")) as { traceEvents: { name: string; ph: string; pid: number; tid: number; ts: number; dur: number; args: Record<string, unknown> }[] };
    expect(traceEvents.filter((e) => e.name === "thread_name").map((e) => e.args["name"])).toEqual(["front.stats@8, 1 of 2 steps", "refresh, 1 of 5 steps", "back, every step", "front@8, 1 of 2 steps"]);
    const events = traceEvents.filter((e) => e.ph === "X");
    expect(events.map((e) => e.args["file"])).toEqual(report.entries.flatMap((e) => e.steps.map((s) => s.kernel)));
    expect(events.map((e) => e.args["flops"])).toEqual(report.entries.flatMap((e) => e.steps.map((s) => s.flops)));
    expect(events.map((e) => e.tid)).toEqual(report.entries.flatMap((e, k) => e.steps.map(() => k + 1)));
    events.reduce((end, e) => {
      expect(e.ts).toBeCloseTo(end, 6);
      expect(e.dur).toBeGreaterThanOrEqual(0);
      return e.ts + e.dur;
    }, 0);
  });

  it("measures an entry that is asked for, at a batch size that is, by the wall clock", async () => {
    const run = await cli("profile", at("kfac"), ...QUICK, "--entry", "evaluate", "--batch", "4", "--clock", "wall", "--json");
    expect(run.code, run.err).toBe(0);
    const report = JSON.parse(run.out) as Report;
    expect(report).toMatchObject({ batch: 4, clock: "wall", step: null, entries: [{ entry: "evaluate@4", perStep: null }] });
    expect(report.entries[0]?.kernels.reduce((n, k) => n + k.share, 0)).toBeCloseTo(1, 9);
  });

  it("has its page of help", async () => {
    const { out, code } = await cli("help", "profile");
    expect(code).toBe(0);
    for (const word of ["usage: kfacc profile <folder|model>", "--entry", "--repeat", "--clock <timestamps|wall>", "--trace <FILE.json>", "--batch", "--json"]) expect(out).toContain(word);
    expect((await cli("help")).out).toContain("\n  profile <folder|model>");
  });

  it("compiles a model file first, to train it", async () => {
    const run = await cli("profile", ...MLP, ...QUICK, "--batch", "4", "--optimizer", "adam", "--json");
    expect(run.code, run.err).toBe(0);
    expect((JSON.parse(run.out) as Report).entries.map((e) => [e.entry, e.perStep])).toEqual([["step@4", 1]]);
  });

  it("warns of results that are no numbers", async () => {
    cpSync(at("sgd"), at("broken"), { recursive: true });
    const { tensors } = decode(readFileSync(at("sgd", "weights.safetensors")));
    const nan = Object.entries(tensors).map(([name, t]): [string, SafeTensor] => [name, { dtype: "F32", shape: t.shape, data: new Float32Array(t.data.length).fill(Number.NaN) }]);
    writeFileSync(at("broken", "weights.safetensors"), encode(Object.fromEntries(nan)));
    const run = await cli("profile", at("broken"), ...QUICK);
    expect(run.code).toBe(0);
    expect(run.err).toMatch(/warning: the loss on random data is not finite/);
    expect(run.err).toMatch(/warning: step@8 leaves numbers that are not finite in .*lossSum@8/);
  });

  it("says nothing of FLOPs where a plan does not", async () => {
    cpSync(at("sgd"), at("older"), { recursive: true });
    const plan = planOf("sgd");
    for (const { steps } of Object.values(plan.plan.entries)) for (const s of steps) delete (s as { work?: object }).work;
    writeFileSync(at("older", "plan.json"), JSON.stringify(plan));
    const run = await cli("profile", at("older"), ...QUICK);
    expect(run.code, run.err).toBe(0);
    expect(run.out).toMatch(/^a step of 8 examples: [\d.]+ ms; together/m);
    expect(run.out).toMatch(/^\S+\.wgsl +\d+ +[\d.]+ +[\d.]+ % +– +– /m);
  });
});

describe("kfacc profile refuses", () => {
  const refusal = async (code: number, says: RegExp, ...argv: string[]): Promise<void> => {
    const run = await cli("profile", ...argv);
    expect(run.err).toMatch(says);
    expect(run.code).toBe(code);
    expect(run.out).toBe("");
  };
  it("a folder that holds no module", () => refusal(1, /missing-data: .*plan\.json.*kfacc compile/s, folder));
  it("a folder or model that is not there", () => refusal(1, /missing-data: .*absent/s, at("absent.onnx")));
  it("a plan of another version", async () => {
    cpSync(at("sgd"), at("other"), { recursive: true });
    writeFileSync(at("other", "plan.json"), JSON.stringify({ ...planOf("sgd"), version: 0 }));
    await refusal(1, /bad-data: the plan has version 0, this runtime reads \d+.*compile the model again/s, at("other"));
  });
  it("a module without one of its kernels", async () => {
    cpSync(at("sgd"), at("torn"), { recursive: true });
    rmSync(at("torn", "kernels", readdirSync(at("torn", "kernels"))[0] as string));
    await refusal(1, /bad-data: cannot read a file of the module/, at("torn"));
  });
  it("an entry that is none, and a batch size that is not compiled", async () => {
    await refusal(2, /bad-option: the program has no entry "forward".*one of step@8, /s, at("sgd"), "--entry", "forward");
    await refusal(2, /bad-option: the program is not compiled for a batch of 16.*one of 8$/ms, at("sgd"), "--batch", "16");
  });
  it("flags that would make another program than the folder is", () => refusal(2, /bad-option: the folder is compiled.*at --optimizer/s, at("sgd"), "--optimizer", "adam"));
  it("a trace that is no .json, or goes nowhere", async () => {
    await refusal(2, /bad-option: "t\.txt" does not end in \.json\n {2}at --trace/, at("sgd"), "--trace", "t.txt");
    await refusal(1, /cannot-write: its folder does not exist/, at("sgd"), "--trace", at("absent", "t.json"));
  });
  it("no measurement at all", () => refusal(2, /bad-option: "0" is not a whole number/, at("sgd"), "--repeat", "0"));
});
