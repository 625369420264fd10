/** Verification with several losses, a formula of the model's own, unlabelled positions and given data. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import type { Io } from "../../src/cli/io.js";
import { verifyCommand } from "../../src/cli/verify.js";
import { type Given, Settings } from "../../src/options.js";
import { derivative, losses } from "../../src/verify/loss.js";
import type { VerifyReport } from "../../src/verify/report.js";
import { testDevice } from "../support/gpu.js";
import { dsl, failures, MODELS, verify } from "./models.js";

const device = testDevice();

const twoHeads = dsl("heads", (m) => {
  const h = m.tanh(m.dense(m.input("x", [4]), 5, { name: "trunk" }));
  m.output("value", m.dense(h, 2, { name: "v" }), { loss: "half-sse", weight: 0.25 });
  return m.output("class", m.dense(h, 3, { name: "c" }), { loss: "softmax-ce" });
});

describe("losses", () => {
  it("on two outputs with weights, whichever the Fisher", async () => {
    for (const kind of ["exact", "mc", "empirical"] as const) {
      const r = await verify(twoHeads, { fisher: { kind, samples: 1 } }, { device: device() });
      expect(failures(r), kind).toEqual([]);
      expect(r.loss).toBe("half-sse on value, softmax-ce on class");
      expect(r.layers.every((l) => l.checks.some((c) => c.name === "G" && c.verdict === "passed"))).toBe(true);
    }
  });

  it("of the model's own are taken at their word, and their derivative is checked by differences", async () => {
    const poisson = dsl("poisson", (m) => m.output("rate", m.dense(m.tanh(m.dense(m.input("x", [3]), 4)), 2), {
      loss: { name: "poisson", perExample: (ops, z, t) => ops.sub(ops.exp(z), ops.mul(t, z)), fisher: { factor: (ops, z) => ops.diagonal(ops.exp(ops.mul(z, 0.5))) } },
    }));
    const r = await verify(poisson, { fisher: { kind: "exact", samples: 1 } }, { device: device() });
    expect(failures(r)).toEqual([]);
  });

  it("with positions that have no label", async () => {
    const forward = MODELS["positions with losses of their own"] as typeof twoHeads;
    const target = ndarray("i32", [3, 4], [0, 1, -100, 2, 1, -100, -100, 0, 2, 2, 1, 0]);
    for (const kind of ["exact", "mc", "empirical"] as const) {
      const r = await verify(forward, { fisher: { kind, samples: 1 } }, { targets: { target }, device: device() });
      expect(failures(r), kind).toEqual([]);
    }
  });
});

describe("plain losses", () => {
  it("have the derivatives of their values", () => {
    const z = ndarray("f32", [2, 3, 2], Float64Array.from({ length: 12 }, (_, k) => Math.sin(3 * k + 1)));
    const real = ndarray("f32", [2, 3, 2], Float64Array.from({ length: 12 }, (_, k) => (k * 5) % 2));
    const labels = ndarray("i32", [2, 2], [0, 2, -1, 1]);
    for (const kind of ["softmax-ce", "half-sse", "bernoulli-ce", "mse"] as const) {
      const shape = { kind, axis: 1 };
      const t = kind === "softmax-ce" ? labels : real;
      const total = (at: NdArray): number => losses(shape, at, t).reduce((a, b) => a + b, 0);
      const moved = (k: number, h: number): NdArray => ({ ...z, data: z.data.map((x, i) => (i === k ? x + h : x)) });
      derivative(shape, z, t).data.forEach((d, k) => {
        expect((total(moved(k, 1e-5)) - total(moved(k, -1e-5))) / 2e-5, `${kind} at ${k}`).toBeCloseTo(d, 8);
      });
    }
  });
});

describe("kfacc verify", () => {
  const command = async (path: string, given: Given, json = true) => {
    const [said, noted]: [string[], string[]] = [[], []];
    const io: Io = { json, out: (t) => { said.push(t); }, note: (t) => { noted.push(t); } };
    const code = await verifyCommand(path, new Settings(given), io);
    return { code, said: said.join("\n"), noted: noted.join("\n") };
  };
  const mlp = "test/fixtures/models/mlp_softmax_out.onnx";

  it("prints a row per layer, and the loss that stands in where none is known", async () => {
    const known = await command(mlp, {}, false);
    expect(known.code).toBe(0);
    expect(known.said).toMatch(/m\.fc\.0\.weight +dense .* passed/);
    expect(known.said).toContain("2 layers, 0 parameters without one: 2 passed, 0 failed");
    const unknown = await command("test/fixtures/models/linreg_mse.onnx", { batch: "2" }, false);
    expect(unknown.noted).toContain("verified with half-sse");
    expect(unknown.said).toContain("2 examples, seed 0, loss half-sse");
  });

  it("writes its report as JSON", async () => {
    const { code, said } = await command(mlp, { fisher: "exact", seed: 7 });
    const report = JSON.parse(said) as VerifyReport;
    expect([code, report.passed, report.batch, report.seed, report.fisher, report.loss]).toEqual([0, true, 4, 7, "exact", "softmax-ce"]);
    expect(report.layers.map((l) => l.verdict)).toEqual(["passed", "passed"]);
    expect(report.layers[0]?.checks.find((c) => c.name === "gpu A")?.error).toBeLessThan(1e-5);
  });

  it("takes the first examples of a data set", async () => {
    const folder = await mkdtemp(join(tmpdir(), "verify-"));
    try {
      const file = join(folder, "data.csv");
      const rows = Array.from({ length: 5 }, (_, n) => [...Array.from({ length: 12 }, (_, k) => Math.sin(n * 12 + k).toFixed(3)), n % 5].join(","));
      await writeFile(file, `${[...Array.from({ length: 12 }, (_, k) => `x${k}`), "label"].join(",")}\n${rows.join("\n")}\n`);
      expect((await command(mlp, { data: file, fisher: "empirical" })).code).toBe(0);
      await expect(command(mlp, { data: file, batch: "6" })).rejects.toMatchObject({ code: "bad-data" });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
