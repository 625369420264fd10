/** The clocks of a profile, on kernels made for them. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDevice } from "../../runtime/adapter.node.js";
import { type Artifact, HOST_DEFAULTS, type Plan } from "../../runtime/artifact.js";
import { Program } from "../../runtime/program.js";
import { profile } from "../../runtime/profile.js";
import { randomBatch } from "../../runtime/profile-batch.js";
import { median, type Part, submitCost, timestamps, type Watch, wallClock } from "../../runtime/profile-clock.js";
import { entriesOfStep } from "../../runtime/profile-plan.js";
import { COMPILE_DEFAULTS, compile } from "../../src/compile.js";
import { openModel } from "../../src/model.js";
import { model } from "../cli/support.js";
import { testDevice } from "../support/gpu.js";

const kernel = (body: string): string => `@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn main() { ${body} }
`;
const SOURCES = [kernel("x[0] = x[0] + 1.0; y[1] = 0.0;"), kernel("y[0] = x[0] + y[1]; if (x[1] == 7.0) { y[2] += 1.0; } x[1] += 1.0; y[3] += 1.0;")];
const PLAN: Plan = {
  kernels: [0, 1].map((k) => ({ name: `k${k}`, bindings: ["read_write", "read_write"] })),
  buffers: ["x", "y", "keptX", "keptY"].map((name) => ({ name, kind: "state", bytes: 16, dtype: "f32", shape: [4] })),
  entries: Object.fromEntries([
    ...[0, 1].map((k) => [`k${k}`, [{ kernel: k, buffers: [0, 1], values: ["x", "y"], workgroups: [1, 1, 1] }]] as const),
    ["save", [{ from: 0, to: 2, bytes: 16, value: "" }, { from: 1, to: 3, bytes: 16, value: "" }]], ["restore", [{ from: 2, to: 0, bytes: 16, value: "" }, { from: 3, to: 1, bytes: 16, value: "" }]],
    ["rewind", [{ from: 2, to: 0, bytes: 16, value: "" }]],
  ].map(([name, steps]) => [name, { steps, inputs: {}, outputs: {} }])),
};
const part = (run: string): Part => ({ run, save: "save", restore: "restore", rewind: undefined });

describe("the clocks", () => {
  const device = testDevice();
  let program: Program;
  beforeAll(async () => { program = await Program.create(device().device, PLAN, SOURCES); });
  afterAll(() => program.dispose());
  const watch = (): Watch => ({ program, alive: () => {} });

  it("leave what a kernel that adds to what it finds would have left after a run in each round", async () => {
    program.write("x", Float32Array.of(5, 0, 0, 0));
    program.write("y", new Float32Array(4));
    const ms = await wallClock(watch(), [part("k0"), part("k1")], 3, await submitCost(watch())); // and a first round that finds out how long it takes
    const [x, y] = await program.read(["x", "y"]);
    expect([x?.[0], y?.[0]]).toEqual([9, 9]);
    expect(ms).toHaveLength(2);
    for (const t of ms) expect(t).toBeLessThan(1000); // milliseconds, not seconds or microseconds of anything
  });

  it("run a kernel that counts its runs as the same run each time, if they are told where it counts", async () => {
    const runs = async (rewind?: string): Promise<{ all: number; atSeven: number }> => {
      program.write("x", Float32Array.of(0, 7, 0, 0));
      program.write("y", new Float32Array(4));
      await wallClock(watch(), [{ run: "k1", save: "save", restore: "rewind", rewind }], 0, 0); // leaves y, which counts them
      const [y] = await program.read(["y"]);
      return { all: y?.[3] as number, atSeven: y?.[2] as number };
    };
    expect((await runs()).atSeven).toBe(2); // the first of those that are timed, and the one that counts
    const { all, atSeven } = await runs("rewind");
    expect(atSeven).toBe(all);
    expect(all).toBeGreaterThan(1);
  });

  it("by timestamps give a figure per dispatch, where the device has timestamps", async () => {
    if (!device().features.includes("timestamp-query")) return expect(() => device().device.createQuerySet({ type: "timestamp", count: 2 })).toThrow();
    const ms = await timestamps(watch(), ["k0", "k1", "k0"], 3);
    expect(ms).toHaveLength(3);
    for (const t of ms ?? []) expect(t).toBeLessThan(1000);
  });

  it("take the middle of what they measure", () => {
    expect([median([3, 1, 2]), median([4, 1, 3, 2]), median([7])]).toEqual([2, 2.5, 7]);
  });
});

const compiled = async () => {
  const c = compile((await openModel(model("mlp_tanh_ce"))).forward, { ...COMPILE_DEFAULTS, loss: "softmax-ce", batches: [4] });
  return { artifact: c.artifact, sources: c.sources, weights: Object.fromEntries(c.weights) };
};

describe("a profile", { timeout: 180_000 }, () => {
  it("ends in device-lost when the device goes", async () => {
    const open = await openDevice();
    const running = profile(open, await compiled(), { repeat: 1, onEntry: (name) => { if (name === "refresh") open.device.destroy(); } });
    await expect(running).rejects.toMatchObject({ code: "device-lost" });
    await open.close();
  });

  it("weighs entries by how often training runs them, in one piece or in halves", async () => {
    const { artifact } = await compiled();
    const { entries } = artifact.plan;
    const halves: Artifact = { ...artifact, plan: { ...artifact.plan, entries: Object.fromEntries(Object.entries(entries).filter(([name]) => !name.startsWith("step"))) } };
    const nothing = { steps: [], inputs: {}, outputs: {} };
    const whole: Artifact = { ...halves, plan: { ...halves.plan, entries: { ...halves.plan.entries, "step@4": nothing, "step.stats@4": nothing } } };
    const shares = (a: Artifact, host: object) => entriesOfStep(a, 4, { ...HOST_DEFAULTS, ...host });
    expect(shares(halves, { factorPeriod: 1, inversePeriod: 10 })).toEqual([["front.stats@4", 1], ["refresh", 0.1], ["back", 1]]);
    expect(shares(halves, { factorPeriod: 4, inversePeriod: 1, burnIn: 7 })).toEqual([["front.stats@4", 0.25], ["refresh", 1], ["back", 1], ["front@4", 0.75]]);
    expect(shares(whole, { factorPeriod: 2, inversePeriod: 4 })).toEqual([["front.stats@4", 0.25], ["refresh", 0.25], ["back", 0.25], ["step@4", 0.5], ["step.stats@4", 0.25]]);
    expect(shares({ ...whole, run: { weightDecay: 1e-4 } }, { factorPeriod: 1, inversePeriod: 10 })).toEqual([["front.stats@4", 1], ["refresh", 0.1], ["back", 1]]);
    expect(shares({ ...halves, optimizer: "sgd" }, {})).toEqual([["step@4", 1]]);
  });

  it("runs on data that depend on the seed alone, with labels among the classes", async () => {
    const { artifact } = await compiled();
    const data = (seed: number, name: string) => [...(randomBatch(artifact, 4, seed)[name] as { data: Float32Array }).data];
    const [name] = artifact.inputs.map((i) => i.name) as [string];
    expect(data(1, name)).toEqual(data(1, name));
    expect(data(1, name)).not.toEqual(data(2, name));
    expect(data(1, name).every((v) => v >= -1 && v < 1)).toBe(true);
    expect(new Set(data(1, name)).size).toBeGreaterThan(200);
    expect(data(1, "target").every((v) => Number.isInteger(v) && v >= 0 && v < 10)).toBe(true);
  });
});
