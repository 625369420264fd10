/** Programs of several losses, of masks and of custom losses, in float64 through their entries. */
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { f32, size } from "../../ir/type.js";
import { type Compiled, compile, type CompileOptions, type ForwardModel } from "../../src/compile.js";
import { model, toForward } from "../../src/dsl/index.js";
import type { HeadSpec } from "../../src/train/heads.js";
import { dense, HostRun, labels, options, random, relative, tensor } from "../support/models.js";

const B = 4;
/** x [n, 5] → tanh(fc0) → kind [n, 3] and box [n, 2]; fc0 is behind both. */
function forward(batch: number): ForwardModel {
  const b = new Builder("two");
  const h = b.emit("tanh", [dense(b, b.input("x", f32(batch, 5), 0), "fc0", 4)]);
  const outputs = [{ name: "kind", value: dense(b, h, "kind", 3) }, { name: "box", value: dense(b, h, "box", 2) }];
  const graph = b.finish(outputs);
  const next = random(6);
  return { name: "two", graph, outputs, weights: new Map(graph.params.map((p) => [p.value.name, { shape: p.value.type.shape, data: Float32Array.from({ length: size(p.value.type.shape) }, next) }])) };
}
const KIND: HeadSpec = { output: "kind", kind: "softmax-ce" };
const BOX: HeadSpec = { output: "box", kind: "mse" };
const make = (losses: readonly HeadSpec[], more: Partial<CompileOptions> = {}): HostRun =>
  new HostRun(compile(forward, options({ losses, batches: [B], fisher: { kind: "exact", samples: 1 }, ...more })));
const next = random(12);
const x = tensor([B, 5], next);
const kind = labels([B], 3, next);
const box = tensor([B, 2], next);

describe("a program of two losses", () => {
  const both = make([{ ...KIND, weight: 0.3 }, { ...BOX, weight: 2 }]);
  const [one, other] = [make([KIND]), make([BOX])];
  const got = both.front({ x, "target/kind": kind, "target/box": box }, B);
  const a = one.front({ x, target: kind }, B);
  const c = other.front({ x, target: box }, B);
  const sum = (u: NdArray, v: NdArray): Float64Array => u.data.map((w, k) => 0.3 * w + 2 * (v.data[k] as number));

  it("has the weighted sum of their losses and gradients", () => {
    expect(got.lossSum?.data[0]).toBeCloseTo(sum(a.lossSum as NdArray, c.lossSum as NdArray)[0] as number, 12);
    expect(relative((got["grad/fc0.weight"] as NdArray).data, sum(a["grad/fc0.weight"] as NdArray, c["grad/fc0.weight"] as NdArray))).toBeLessThan(1e-14);
    expect(relative((got["grad/kind.weight"] as NdArray).data, (a["grad/kind.weight"] as NdArray).data.map((v) => 0.3 * v))).toBeLessThan(1e-14);
  });
  it("has the weighted sum of their Fishers where both pass, and its own behind each", () => {
    const G = (run: HostRun, name: string, d: number) => run.square(`kfac/${name}/G`, d);
    const [u, v] = [G(one, "fc0.weight", 4), G(other, "fc0.weight", 4)];
    expect(relative(G(both, "fc0.weight", 4), u.map((w, k) => 0.3 * w + 2 * (v[k] as number)))).toBeLessThan(1e-13);
    expect(relative(G(both, "box.weight", 2), G(other, "box.weight", 2).map((w) => 2 * w))).toBeLessThan(1e-13);
  });
  it("evaluates each loss and the accuracy of the classes", () => {
    const m = both.run(`evaluate@${B}`, { x, "target/kind": kind, "target/box": box, weight: ndarray("f32", [B], [1, 1, 1, 1]) });
    expect(m.lossSum?.data[0]).toBeCloseTo(got.lossSum?.data[0] as number, 12);
    expect([m["lossSum/kind"]?.data[0], m["lossSum/box"]?.data[0]]).toEqual([a.lossSum?.data[0], c.lossSum?.data[0]].map((v) => expect.closeTo(v as number, 12) as number));
    expect(m.labelledSum?.data[0]).toBe(B);
  });
  it("names its targets in the artifact", () => {
    expect(both.compiled.artifact.targets).toEqual([
      { name: "target/kind", output: "kind", dtype: "i32", shape: [], classes: 3, loss: "softmax-ce", weight: 0.3 },
      { name: "target/box", output: "box", dtype: "f32", shape: [2], classes: null, loss: "mse", weight: 2 }]);
  });
});

describe.each(["exact", "mc", "cp", "empirical"] as const)("an example without a label, %s Fisher", (fisher) => {
  it("is one whose weight is 0, but for the count", () => {
    const more = { fisher: { kind: fisher, samples: 2 } } as const;
    const mc = { mcTargets: kind, mcGiven: ndarray("i32", [1], [0]) };
    const [ignored, weighted] = [make([KIND], more), make([KIND], more)];
    const t = (...list: number[]) => ndarray("i32", [B], list);
    const p = ignored.run(`front.stats@${B}`, { x, target: t(0, -100, 2, 1), ...mc }, { count: B, emaBlend: 1 });
    const q = weighted.run(`front.stats.masked@${B}`, { x, target: t(0, 0, 2, 1), weight: ndarray("f32", [B], [1, 0, 1, 1]), ...mc }, { count: B, emaBlend: 1 });
    expect(p.lossSum?.data[0]).toBeCloseTo(q.lossSum?.data[0] as number, 12);
    expect(relative((p["grad/fc0.weight"] as NdArray).data, (q["grad/fc0.weight"] as NdArray).data)).toBeLessThan(1e-14);
    expect(relative(ignored.square("kfac/fc0.weight/G", 4), weighted.square("kfac/fc0.weight/G", 4))).toBeLessThan(1e-13);
    // A holds inputs, which are there with and without a label
    expect(relative(ignored.square("kfac/fc0.weight/A", 6), weighted.square("kfac/fc0.weight/A", 6))).toBeGreaterThan(1e-3);
  });
});

describe("a loss of a model file", () => {
  const net = model("counts", (m) => m.output("log-rate", m.dense(m.tanh(m.dense(m.input("x", [5]), 4)), 2), {
    loss: { name: "poisson", perExample: (ops, z, t) => ops.sub(ops.exp(z), ops.mul(t, z)), fisher: { factor: (ops, z) => ops.diagonal(ops.exp(ops.mul(z, 0.5))) } },
  }));
  const compiled = (fisher: "exact" | "mc" | "cp", samples = 1): Compiled => compile((n) => toForward(net, n), options({ batches: [B], fisher: { kind: fisher, samples } }));
  const counts = ndarray("f32", [B, 2], [0, 1, 2, 3, 1, 0, 4, 2]);

  it("compiles, reports its name, and its last layer's exact G is the mean of diag eᶻ", () => {
    const run = new HostRun(compiled("exact"));
    expect(run.compiled.artifact).toMatchObject({ loss: "poisson", classes: null, target: { dtype: "f32", shape: [2] } });
    const z = run.run(`predict@${B}`, { x })["out/log-rate"] as NdArray;
    run.front({ x, target: counts }, B);
    const mean = [0, 1].map((k) => [0, 1, 2, 3].reduce((a, n) => a + Math.exp(z.data[n * 2 + k] as number) / B, 0)) as [number, number];
    expect(relative(run.square("kfac/dense2.weight/G", 2), Float64Array.of(mean[0], 0, 0, mean[1]))).toBeLessThan(1e-13);
  });
  it("has random signs for mc, which is cp", () => {
    const G = (kind: "mc" | "cp") => {
      const run = new HostRun(compiled(kind, 3));
      run.front({ x, target: counts }, B);
      return run.square("kfac/dense1.weight/G", 4);
    };
    expect(G("mc")).toEqual(G("cp"));
  });
});
