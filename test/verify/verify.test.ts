/** What is right passes, on every layer kind: in float64 against the imported graph, and on a device. */
import { describe, expect, it } from "vitest";
import type { FisherOptions } from "../../src/kfac/fisher.js";
import { testDevice } from "../support/gpu.js";
import { failures, MODELS, verify } from "./models.js";

const device = testDevice();
const kind = (k: FisherOptions["kind"]): FisherOptions => ({ kind: k, samples: 1 });
const lossOf = (name: string) => (["tied", "tied square", "square", "a parameter without a layer"].includes(name) ? { loss: "half-sse" as const } : {});

describe("a correct program passes", () => {
  for (const [name, forward] of Object.entries(MODELS))
    it(`${name}, in float64 and on a device`, { timeout: 60_000 }, async () => {
      const r = await verify(forward, { ...lossOf(name), fisher: kind("exact") }, { device: device() });
      expect(failures(r)).toEqual([]);
      expect(r.passed).toBe(true);
      expect(r.device).not.toBeNull();
      for (const l of r.layers) expect(l.checks.filter((c) => c.verdict === "passed").length, l.name).toBeGreaterThan(9);
    });

  it("with sampled targets, the data's own, and curvature propagation", async () => {
    for (const fisher of ["mc", "empirical"] as const) {
      const r = await verify(MODELS["dense"] as never, { fisher: kind(fisher) }, { device: device() });
      expect(failures(r), fisher).toEqual([]);
      expect(r.layers.flatMap((l) => l.checks).filter((c) => c.name === "gpu G")).toHaveLength(2);
    }
    const cp = await verify(MODELS["dense"] as never, { fisher: kind("cp") }, { device: device() });
    expect(failures(cp)).toEqual([]);
    expect(cp.layers.flatMap((l) => l.checks).filter((c) => c.verdict === "skipped").map((c) => c.name)).toContain("factors");
  });

  it("with damping in the eigenbasis and with EKFAC", { timeout: 60_000 }, async () => {
    for (const inverse of ["eig", "ekfac"] as const)
      for (const name of ["dense", "grouped conv", "tied"]) {
        const r = await verify(MODELS[name] as never, { ...lossOf(name), inverse, fisher: kind("mc") }, { device: device() });
        expect(failures(r), `${inverse}, ${name}`).toEqual([]);
        expect(r.layers[0]?.checks.some((c) => c.name === "gpu direction" && c.verdict === "passed")).toBe(true);
      }
  });
});

describe("what is found", () => {
  it("the kinds are all there: groups, blocks, tied sites, transposition, diagonal sides", async () => {
    const of = async (name: string, layer: string) => (await verify(MODELS[name] as never, { ...lossOf(name) })).layers.find((l) => l.name === layer);
    expect(await of("grouped conv", "c.weight")).toMatchObject({ groups: 2, kind: "conv" });
    expect(await of("depthwise conv", "c.weight")).toMatchObject({ groups: 3, dG: 1 });
    expect(await of("transposed conv", "c.weight")).toMatchObject({ kind: "convT" });
    expect(await of("layer normalisation", "n.weight")).toMatchObject({ kind: "norm", groups: 5 });
    expect(await of("embedding", "e.weight")).toMatchObject({ kind: "embed", T: 4 });
    expect(await of("tied", "w")).toMatchObject({ sites: 3, T: 3 });
  });

  it("A ⊗ G is exact for one example, for a linear net, and for an averaged convolution with reduce, and is held to that", async () => {
    const block = async (name: string, batch: number, layer = 0) => (await verify(MODELS[name] as never, { fisher: kind("exact") }, { batch })).layers[layer]?.checks.find((c) => c.name === "A⊗G");
    expect(await block("dense", 1)).toMatchObject({ verdict: "passed" });
    expect(await block("dense", 3)).toMatchObject({ verdict: "info" });
    expect(await block("linear net", 3)).toMatchObject({ verdict: "passed" });
    expect(await block("mean over positions", 3)).toMatchObject({ verdict: "passed" });
    const expand = await verify(MODELS["mean over positions"] as never, { fisher: kind("exact"), sharing: { "*": "expand" } });
    expect(expand.layers[0]?.checks.find((c) => c.name === "A⊗G")).toMatchObject({ verdict: "info" });
    expect(failures(expand)).toEqual([]);
  });

  it("a parameter without a layer has its gradient checked and its reason told", async () => {
    const r = await verify(MODELS["a parameter without a layer"] as never, { loss: "half-sse" }, { device: device() });
    expect(r.orphans.map((o) => o.param)).toEqual(["rate"]);
    expect(r.orphans[0]?.checks.map((c) => [c.name, c.verdict])).toEqual([["differences", "passed"], ["gpu gradient", "passed"]]);
  });

  it("work beyond the budget is refused with what to shrink", async () => {
    await expect(verify(MODELS["dense"] as never, {}, { budget: 1e-6 })).rejects.toMatchObject({ code: "too-large", hint: expect.stringContaining("--batch") });
  });
});
