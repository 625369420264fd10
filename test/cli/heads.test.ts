/** Several losses, weights of examples and the choice of what trains, on the command line. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { build, built, cli } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "kfacc-heads-"));
const at = (name: string): string => join(folder, name);
const NET = `
import { model } from "kfacc/dsl";
export default model("net", (m) => {
  const h = m.tanh(m.dense(m.input("x", [4]), 8, { name: "body" }));
  m.output("kind", m.dense(h, 3, { name: "kind" }), { loss: "softmax-ce" });
  return m.output("rate", m.dense(h, 2, { name: "rate" }), { weight: 0.5, loss: {
    name: "poisson",
    perExample: (ops, z, t) => ops.sub(ops.exp(z), ops.mul(t, z)),
    fisher: { factor: (ops, z) => ops.diagonal(ops.exp(ops.mul(z, 0.5))) },
  } });
});
`;
/** Four inputs, a class and two counts that they tell, and a weight: every tenth is 0. */
const csv = (): string => ["a,b,c,d,kind,r0,r1,w", ...Array.from({ length: 120 }, (_, n) => {
  const x = [0, 1, 2, 3].map((k) => Math.sin(n * 12.9898 + k * 78.233)) as [number, number, number, number];
  return [...x.map((v) => v.toFixed(4)), x[0] > 0.3 ? "cat" : x[1] > 0 ? "dog" : "eel", Math.round(Math.exp(x[2] + 1)), Math.round(Math.exp(-x[3])), n % 10 === 0 ? 0 : 1 + (n % 2)].join(",");
})].join("\n");
const TARGETS = ["--target", "kind=kind", "--target", "rate=r0,r1", "--example-weight", "w"];
const data = ["--data", at("d.csv"), ...TARGETS];

beforeAll(() => {
  build();
  writeFileSync(at("net.ts"), NET);
  writeFileSync(at("d.csv"), csv());
});
afterAll(() => rmSync(folder, { recursive: true }));

describe("two losses", () => {
  it("train together, with weights, and each is reported", async () => {
    const run = await built(["train", at("net.ts"), ...data, "--fisher", "cp", "--batch", "16", "--epochs", "6", "--json", "--out", at("w.safetensors")], { cwd: folder });
    expect([run.code, run.err.match(/hint.*/)]).toEqual([0, null]);
    const validation = (JSON.parse(run.out) as { validation: { loss: number; losses: Record<string, number>; accuracy: number } }).validation;
    expect(validation.loss).toBeCloseTo((validation.losses.kind as number) + 0.5 * (validation.losses.rate as number), 5);
    const evaluated = await built(["evaluate", at("net.ts"), ...data, "-w", at("w.safetensors"), "--json"], { cwd: folder });
    const metrics = JSON.parse(evaluated.out) as { count: number; accuracy: number };
    // examples of weight 0 are not counted; a third would be right by chance
    expect(metrics.count).toBe(108);
    expect(metrics.accuracy).toBeGreaterThan(0.7);
    // one loss alone leaves the other's columns out of the inputs
    const alone = await built(["evaluate", at("net.ts"), ...data, "-w", at("w.safetensors"), "--loss-weight", "rate=0", "--json"], { cwd: folder });
    expect(JSON.parse(alone.out)).toMatchObject({ count: 108, accuracy: metrics.accuracy });
  });
});

describe("are refused", () => {
  const compile = (...more: string[]) => cli("compile", at("net.ts"), "-o", at("out"), ...more);
  it.each<[string, () => ReturnType<typeof cli>, RegExp]>([
    ["a loss on an unknown output", () => compile("--loss", "rtae=mse"), /the model has no output "rtae".*its outputs are "kind", "rate"/s],
    ["a weight below 0", () => compile("--loss-weight", "rate=-1"), /"rate=-1" is not OUTPUT=w/],
    ["a loss of no name", () => compile("--loss", "kind=hinge"), /no loss "hinge"/],
    ["a pattern that nothing matches", () => compile("--train", "head.*"), /no parameter matches "head\.\*".*at --train/s],
    ["nothing to train", () => compile("--train", "rate.*", "--freeze", "*"), /nothing is left to train/],
    ["an output without a target", () => cli("train", at("net.ts"), "--data", at("d.csv"), "--target", "kind=kind"), /no columns for output "rate"/],
  ])("%s", async (_name, run, says) => {
    const { code, err } = await run();
    expect(err).toMatch(says);
    expect(code).toBe(2);
  });
});
