/** Shapes nobody tuned for: one example, prime lengths, kernels with many values. Each of these once went wrong. */
import { describe, expect, it } from "vitest";
import { PORTABLE } from "../../codegen/limits.js";
import { planProgram } from "../../codegen/plan.js";
import { broadcast, Builder, sumAll } from "../../ir/builder.js";
import { CompileError } from "../../ir/error.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Graph } from "../../ir/graph.js";
import type { NdArray } from "../../ir/ndarray.js";
import { f32 } from "../../ir/type.js";
import { type Compiled, compile } from "../../src/compile.js";
import { testDevice } from "../support/gpu.js";
import { bind, convnet, custom, defaultFields, dense, type Forward, HostRun, labels, mlp, options, random, relative, runPoisoned, tensor } from "../support/models.js";

const device = testDevice();

/** x [n, 3, 4] → dense on every position → dense of the whole: n, positions and features all fit one reshape when n is 1. */
const sequence: Forward = custom("sequence", 5, (b, batch) => {
  const h = b.emit("tanh", [dense(b, b.input("x", f32(batch, 3, 4), 0), "fc0", 5)]);
  return dense(b, b.emit("reshape", [h], { shape: [batch, 15] }), "fc1", 3);
});

/** Every position divided by its own length, as LayerNorm does: repeated along the features, one example's lengths have lost their axis of examples. */
const normed: Forward = custom("normed", 6, (b, batch) => {
  const h = dense(b, b.input("x", f32(batch, 3, 4), 0), "fc0", 5);
  const length = b.emit("exp", [b.emit("reduce_sum", [b.emit("mul", [h, h])], { axes: [2] })]);
  const spread = broadcast(b.emit, b.emit("reshape", [length], { shape: [batch, 3, 1] }), [batch, 3, 1, 5], [0, 1, 2]);
  const unit = b.emit("div", [h, b.emit("reshape", [spread], { shape: [batch, 3, 5] })]);
  const both = b.emit("tanh", [dense(b, unit, "fc1", 5)]);
  return dense(b, b.emit("reshape", [both], { shape: [batch, 15] }), "fc2", 3);
});

const MODELS: Readonly<Record<string, Forward>> = { mlp: mlp([4, 5, 3]), convnet: convnet(), sequence, normed };
const registered = (c: Compiled): string[] => [
  ...c.artifact.layers.map((l) => [l.kind, l.name, l.params.bias, l.T, l.dA, l.dG].join(" ")), ...c.artifact.orphans.map((o) => `${o.param}: ${o.reason}`),
];

describe("a batch of one", () => {
  const make = (model: Forward, batches: readonly number[]) => compile(model, options({ loss: "softmax-ce", fisher: { kind: "exact", samples: 1 }, batches }));

  it.each(Object.keys(MODELS))("registers the layers, biases and positions of any other batch: %s", (name) => {
    const model = MODELS[name] as Forward;
    expect(registered(make(model, [1]))).toEqual(registered(make(model, [3])));
  });

  it("keeps its biases where the model cannot be made for two", () => {
    const fixed: Forward = (n) => {
      if (n !== 1) throw new CompileError("examples-lost", "the file fixes one example");
      return (MODELS.mlp as Forward)(n);
    };
    expect(registered(make(fixed, [1]))).toEqual(registered(make(MODELS.mlp as Forward, [3])));
  });

  it.each(Object.keys(MODELS))("has the gradient and factors of three examples of which one counts: %s", (name) => {
    const c = make(MODELS[name] as Forward, [3, 1]);
    const next = random(31);
    const shape = c.artifact.inputs[0]?.shape ?? [];
    const x = tensor([3, ...shape], next);
    const target = labels([3], 3, next);
    const cut = (a: NdArray): NdArray => ({ ...a, shape: [1, ...a.shape.slice(1)], data: a.data.slice(0, a.data.length / 3) });
    const weight: NdArray = { dtype: "f32", shape: [3], data: Float64Array.of(1, 0, 0) };
    const three = new HostRun(c).run("front.stats.masked@3", { x, target, weight });
    for (const [entry, more] of [["front.stats@1", {}], ["front.stats.masked@1", { weight: cut(weight) }]] as const) {
      const one = new HostRun(c).run(entry, { x: cut(x), target: cut(target), ...more });
      for (const [slot, value] of Object.entries(one)) expect(relative(value.data, (three[slot] as NdArray).data), `${entry}: ${slot}`).toBeLessThan(1e-12);
    }
  });
});

describe("statistics of the batch", () => {
  /** x → dense → minus its mean over the examples, as batch normalisation in training does → dense */
  const centred: Forward = custom("centred", 8, (b, batch) => {
    const h = dense(b, b.input("x", f32(batch, 4), 0), "fc0", 5, false);
    const mean = b.emit("reduce_sum", [b.emit("mul", [h, broadcast(b.emit, b.scalar(1 / batch), h.type.shape, [])])], { axes: [0] });
    return dense(b, b.emit("tanh", [b.emit("sub", [h, broadcast(b.emit, mean, h.type.shape, [1])])]), "fc1", 3);
  });
  const c = compile(centred, options({ loss: "softmax-ce", fisher: { kind: "empirical", samples: 1 } }));

  it("leave the layers before and behind them layers", () => {
    expect(registered(c)).toEqual(["dense fc0.weight  1 4 5", "dense fc1.weight fc1.bias 1 6 3"]);
  });

  it("make G from what all losses together say of each example's row", () => {
    // example n's input is the n-th unit vector: column n of the weight's gradient is its row g
    const x: NdArray = { dtype: "f32", shape: [4, 4], data: Float64Array.from({ length: 16 }, (_, k) => Number(k % 5 === 0)) };
    const run = new HostRun(c, { count: 4 }).run("front.stats@4", { x, target: labels([4], 3, random(9)) });
    const [W, G] = ["grad/fc0.weight", "kfac/fc0.weight/G"].map((slot) => (run[slot] as NdArray).data) as [Float64Array, Float64Array];
    const outer = Float64Array.from({ length: 25 }, (_, k) => [0, 1, 2, 3].reduce((sum, n) => sum + (W[Math.floor(k / 5) * 4 + n] as number) * (W[(k % 5) * 4 + n] as number) / 4, 0));
    expect(relative(G, outer)).toBeLessThan(1e-12);
  });
});

/** A graph on the device against the evaluator; f32 sums of n random terms lose at most a few √n·2⁻²⁴. */
async function expectSame(graph: Graph, given: Readonly<Record<string, NdArray>>, allowed = 1e-5): Promise<void> {
  const fields = { ...defaultFields(), seed: 7, step: 3 };
  const wanted = evaluate(graph, bind(graph, given, fields));
  const { results } = await runPoisoned(device().device, graph, given, new Set(), fields);
  for (const [name, value] of Object.entries(wanted)) expect(relative((results[name] as NdArray).data, value.data), name).toBeLessThan(allowed);
}

const noise = (b: Builder, ...shape: number[]) => {
  const key = ["seed", "step"].map((name) => b.input(`run.${name}`, { dtype: "u32", shape: [] }));
  return b.emit("uniform", key, { shape, stream: 1 });
};

describe("kernels", () => {
  it("guard random numbers whose place is known to lie outside", async () => {
    const b = new Builder("joined");
    const x = b.input("x", f32(1, 3));
    const y = sumAll(b.emit, b.emit("concat", [x, noise(b, 1, 3)], { axis: 0 }));
    await expectSame(b.finish([{ name: "y", value: y }]), { x: tensor([1, 3], random(1)) });
  });

  it("declare no value under the name of a type, however many values come before it", () => {
    for (let depth = 20; depth < 45; depth++) {
      const b = new Builder("chain");
      let v = b.input("x", f32(2, 5));
      for (let k = 0; k < depth; k++) v = b.emit(k % 2 ? "abs" : "neg", [v]);
      const graph = b.finish([{ name: "y", value: b.emit("add", [v, noise(b, 2, 5)]) }]);
      const { sources } = planProgram([{ name: "main", graph }], new Set(), PORTABLE);
      expect(sources.join("\n"), `after ${depth} values`).not.toMatch(/\b(let|var) ([fiu](16|32)|bool|vec\d\w?)\b/);
    }
  });

  it.each([["reduce_sum", 65537], ["reduce_max", 65537], ["reduce_sum", 2 * 104729]] as const)("%s over %i elements, which no few threads divide", async (op, n) => {
    const b = new Builder("long");
    const x = b.input("x", f32(2, n));
    await expectSame(b.finish([{ name: "y", value: b.emit(op, [x], { axes: [1] }) }]), { x: tensor([2, n], () => -0.6 + 0.3 * draw()) });
  });
  const draw = random(3);

  it("fill with infinity where a tensor is padded with it", async () => {
    const b = new Builder("padded");
    const x = b.input("x", f32(3));
    const padded = b.emit("pad", [x], { low: [1], high: [2], value: Number.NEGATIVE_INFINITY });
    await expectSame(b.finish([{ name: "y", value: b.emit("exp", [padded]) }]), { x: tensor([3], random(4)) });
  });

  it("stay within the device's bindings where several sums of many tensors overflow at once", async () => {
    const b = new Builder("wide");
    const given: Record<string, NdArray> = {};
    const sums = [0, 1, 2].map((s) => Array.from({ length: 11 }, (_, k) => {
      const name = `x${s}_${k}`;
      given[name] = tensor([6], random(50 + 11 * s + k));
      return b.emit("tanh", [b.input(name, f32(6))]);
    }).reduce((p, q) => b.emit("add", [b.emit("sin", [p]), q])));
    const graph = b.finish(sums.map((value, k) => ({ name: `y${k}`, value })));
    const { plan } = planProgram([{ name: "main", graph }], new Set(), PORTABLE);
    for (const k of plan.kernels) expect(k.bindings.filter((kind) => kind !== "run").length, k.name).toBeLessThanOrEqual(PORTABLE.storageBuffers);
    await expectSame(graph, given);
  });
});
