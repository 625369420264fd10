/**
 * The diagonal Fisher of parameters without a layer, against gradients of each example alone: those come from the masked gradient entry with a
 * weight of 1 for one example and 0 for all others. At half-sse, targets of one less than an output make that output's Jacobian the gradient.
 */
import { describe, expect, it } from "vitest";
import { Builder, broadcast } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import { cotangents } from "../../ir/grad.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { f32, size } from "../../ir/type.js";
import { compile, type CompileOptions, orphanInfo } from "../../src/compile.js";
import { squareSums } from "../../src/kfac/diagonal.js";
import { diagonalParams, prune } from "../../src/train/step-model.js";
import { custom, type Forward, HostRun, labels, options, random, relative, tensor } from "../support/models.js";
import { inputsOf, Lab, net } from "./support.js";

const N = 4;
/** float64 against float64, sums in another order. */
const CLOSE = 1e-11;
const range = (n: number): number[] => Array.from({ length: n }, (_, k) => k);
const data = (x: NdArray | undefined): Float64Array => (x as NdArray).data;
const oneHot = (n: number, k: number): NdArray => ndarray("f32", [n], Float64Array.from(range(n), (j) => Number(j === k)));

const MODELS: Readonly<Record<string, { readonly forward: Forward; readonly params: readonly string[]; readonly skip?: readonly string[] }>> = {
  "a positional embedding": {
    forward: net((m) => m.dense(m.flatten(m.tanh(m.add(m.dense(m.input("x", [3, 4]), 5), m.param("pos", [3, 5])))), 3)),
    params: ["pos"],
  },
  "the bias of a transposed use of a tied weight": {
    forward: net((m) => {
      const w = m.param("w", [3, 4]);
      const h = m.tanh(m.matmul(m.input("x", [4]), m.transpose(w)));
      return m.add(m.matmul(h, w), m.param("c", [4]));
    }),
    params: ["c"], skip: [],
  },
  "scalars": {
    forward: net((m) => m.mul(m.tanh(m.param("s", [])), m.tanh(m.add(m.dense(m.input("x", [3, 4]), 5, { bias: false }), m.param("t", []))))),
    params: ["s", "t"],
  },
  "a dense layer that is none": { forward: net((m) => m.dense(m.tanh(m.dense(m.input("x", [4]), 5, { name: "fc" })), 3)), params: ["fc.weight", "fc.bias"], skip: ["fc.weight"] },
  "a convolution that is none": {
    forward: net((m) => m.dense(m.flatten(m.tanh(m.conv2d(m.input("x", [2, 4, 4]), 3, 3, { name: "c" }))), 3)),
    params: ["c.weight", "c.bias"], skip: ["c.weight"],
  },
};

const skipped = (names: readonly string[] = []): Partial<CompileOptions> => ({ fallback: "diagonal", layerOverride: Object.fromEntries(names.map((n) => [n, "skip"] as const)) });

describe.each(Object.entries(MODELS))("%s", (_, { forward, params, skip }) => {
  const lab = (more: Partial<CompileOptions> = {}): Lab => new Lab(forward, N, { ...skipped(skip), ...more });

  it("is listed as moved by a diagonal Fisher, and plainly without the option", () => {
    const updates = (m: Lab): string[] => orphanInfo(m.m.registration, "kfac").map((o) => `${o.param} ${o.update}`);
    expect(updates(lab())).toEqual(params.map((p) => `${p} diagonal Fisher`));
    expect(updates(lab({ fallback: "plain" }))).toEqual(params.map((p) => `${p} sgd-momentum`));
  });

  const gradients = (l: Lab, inputs: Readonly<Record<string, NdArray>>, n: number): Record<string, NdArray> => l.stats({ ...inputs, weight: oneHot(N, n) }, 1, { stats: false });

  it("empirical: the mean of squared gradients of single examples, weighted where examples have weights", () => {
    const l = lab();
    const inputs = { ...inputsOf(l.m, 11), target: tensor(l.m.heads[0]?.loss.z.type.shape as number[], random(12)) };
    const weights = [0.5, 0, 2, 1];
    for (const [w, given, count] of [[[1, 1, 1, 1], {}, N], [weights, { weight: ndarray("f32", [N], weights) }, 3.5]] as const) {
      const stats = l.stats({ ...inputs, ...given }, count);
      for (const p of params) {
        const each = range(N).map((n) => data(gradients(l, inputs, n)[`grad/${p}`]));
        const expected = each[0]?.map((_v, k) => range(N).reduce((s, n) => s + ((w[n] as number) * (each[n]?.[k] as number) ** 2) / count, 0)) as Float64Array;
        expect(relative(data(stats[`kfac/${p}/D`]), expected), p).toBeLessThan(CLOSE);
        expect(Math.max(...expected), p).toBeGreaterThan(1e-6);
      }
    }
  });

  it("exact: the sum of squared derivatives of all outputs", () => {
    const l = lab({ fisher: { kind: "exact", samples: 1 } });
    const inputs = inputsOf(l.m, 13);
    const shape = l.m.heads[0]?.loss.z.type.shape as number[];
    const stats = l.stats({ ...inputs, target: tensor(shape, random(14)) }, N);
    const z = l.predict(inputs);
    const outputs = size(shape.slice(1));
    for (const p of params) {
      const expected = new Float64Array(data(stats[`kfac/${p}/D`]).length);
      for (const k of range(outputs)) {
        const target = ndarray("f32", shape, z.data.map((v, at) => v - Number(at % outputs === k)));
        for (const n of range(N)) data(gradients(l, { ...inputs, target }, n)[`grad/${p}`]).forEach((g, at) => { expected[at] = (expected[at] as number) + g ** 2 / N; });
      }
      expect(relative(data(stats[`kfac/${p}/D`]), expected), p).toBeLessThan(CLOSE);
    }
  });

  it("moves by ∇/(D + λ), and the norm constraint counts it", () => {
    const c = compile(forward, options({ loss: "half-sse", fisher: { kind: "empirical", samples: 1 }, ...skipped(skip) }));
    const run = new HostRun(c, { damping: 0.01, klClip: 0, momentum: 0, lr: 0.1, weightDecay: 0 });
    const z = c.model.heads[0]?.loss.z.type.shape as number[];
    run.front({ ...inputsOf(c.model, 15), target: tensor(z, random(16)) }, N);
    const before = Object.fromEntries(params.map((p) => [p, run.get(p)]));
    const directions = params.map((p) => run.get(`grad/${p}`).map((g, k) => g / N / ((run.get(`kfac/${p}/D`)[k] as number) + Math.fround(0.01))));
    const free = run.run("back", {}, { count: N, lr: 0 });
    expect(data(free["stat/nu"])[0]).toBe(1);
    run.run("back", {}, { count: N });
    params.forEach((p, k) => {
      const moved = run.get(p).map((v, at) => ((before[p]?.[at] as number) - v) / Math.fround(0.1));
      expect(relative(moved, directions[k] as Float64Array), p).toBeLessThan(1e-9);
    });
    // Σ⟨P, ∇⟩ with and without these parameters, from ν = √(κ/(lr²·Σ))
    const total = (of: Readonly<Record<string, NdArray>>): number => 1e-12 / (data(of["stat/nu"])[0] as number) ** 2;
    const tiny = { count: N, klClip: 1e-12, lr: 1 };
    const all = total(run.run("back", {}, tiny));
    const own = params.reduce((s, p, k) => s + run.get(`grad/${p}`).reduce((sum, g, at) => sum + (g / N) * ((directions[k] as Float64Array)[at] as number), 0), 0);
    for (const p of params) run.state[`grad/${p}`] = ndarray("f32", (run.state[`grad/${p}`] as NdArray).shape, run.get(`grad/${p}`).map(() => 0));
    const without = total(run.run("back", {}, tiny));
    expect(all - without).toBeGreaterThan(0);
    expect((all - without) / own).toBeCloseTo(1, 5);
  });
});

describe("a diagonal Fisher", () => {
  const positions = MODELS["a positional embedding"] as (typeof MODELS)[string];

  it("of batches that were accumulated is that of one batch", () => {
    const c = compile(positions.forward, options({ loss: "half-sse", fisher: { kind: "empirical", samples: 1 }, batches: [2 * N, N], ...skipped() }));
    const z = [2 * N, 3];
    const whole = { ...inputsOf(c.model, 21), target: tensor(z, random(22)) };
    const half = (k: number): Record<string, NdArray> => Object.fromEntries(Object.entries(whole).map(([name, x]) => {
      const per = x.data.length / 2;
      return [name, ndarray(x.dtype, [N, ...x.shape.slice(1)], x.data.slice(k * per, (k + 1) * per))];
    }));
    const [one, two] = [new HostRun(c), new HostRun(c)];
    one.run(`front.stats@${2 * N}`, whole, { count: 2 * N });
    for (const k of [0, 1]) two.run(`gradients.stats@${N}`, half(k), { count: N, keep: k });
    two.run("absorb", {}, { count: 2 * N });
    expect(relative(two.get("kfac/pos/D"), one.get("kfac/pos/D"))).toBeLessThan(CLOSE);
    // and later statistics blend in as A and G do
    const before = one.get("kfac/pos/D");
    const other = { ...inputsOf(c.model, 23), target: tensor(z, random(24)) };
    two.run(`front.stats@${2 * N}`, other, { count: 2 * N, emaBlend: 1 });
    one.run(`front.stats@${2 * N}`, other, { count: 2 * N, emaBlend: 0.25 });
    expect(relative(one.get("kfac/pos/D"), before.map((d, k) => d + 0.25 * ((two.get("kfac/pos/D")[k] as number) - d)))).toBeLessThan(CLOSE);
  });

  it("with sampled targets and several samples is the mean over samples", () => {
    const l = new Lab(positions.forward, N, { ...skipped(), loss: "softmax-ce", fisher: { kind: "mc", samples: 2 } });
    const inputs = inputsOf(l.m, 31);
    const next = random(32);
    const drawn = labels([N], 3, next);
    // both samples are given the same targets: the diagonal is the empirical one of those
    const stats = l.stats({ ...inputs, target: labels([N], 3, next), mcTargets: drawn, mcGiven: ndarray("i32", [1], [1]) }, N);
    const same = new Lab(positions.forward, N, { ...skipped(), loss: "softmax-ce" }).stats({ ...inputs, target: drawn }, N);
    expect(relative(data(stats["kfac/pos/D"]), data(same["kfac/pos/D"]))).toBeLessThan(CLOSE);
  });

  it("is the same however many examples go at once", () => {
    const { m } = new Lab((MODELS["a convolution that is none"] as (typeof MODELS)[string]).forward, N, { ...skipped(["c.weight"]) });
    const sums = (limit: number) => {
      const b = Builder.from(m.graph);
      const seeds = new Map(m.heads.map((h) => [h.loss.z, b.input("seed", h.loss.z.type, 0)] as const));
      const start = b.nodes.length;
      const params = diagonalParams(m);
      const found = cotangents(b, seeds, params);
      const made = squareSums(b, { nodes: b.nodes.slice(start), seeds: [...seeds.values()], cotangents: found }, params, undefined, limit);
      const graph = prune(b.finish([...made].map(([v, value]) => ({ name: v.name, value }))));
      const next = random(51);
      return { nodes: graph.nodes.length, of: evaluate(graph, Object.fromEntries([...graph.params, ...graph.inputs].map(({ value }) => [value.name, tensor(value.type.shape, next)]))) };
    };
    const [whole, sliced] = [sums(2 ** 24), sums(120)];
    expect(sliced.nodes).toBeGreaterThan(whole.nodes);
    for (const p of ["c.weight", "c.bias"]) expect(relative(data(sliced.of[p]), data(whole.of[p])), p).toBeLessThan(CLOSE);
  });

  it("is not made where the gradient of one example cannot be told: the parameter says why and moves plainly", () => {
    const mixed: Forward = custom("mixed", 5, (b, n) => {
      const x = b.input("x", f32(n, 3), 0);
      const h = b.emit("tanh", [b.emit("mul", [x, broadcast(b.emit, b.emit("exp", [b.param("p", f32(3))]), [n, 3], [1])])]);
      const y = b.emit("contract", [b.emit("contract", [x, x], { spec: "ni,mi->nm" }), h], { spec: "nm,mo->no" });
      return b.emit("add", [y, broadcast(b.emit, b.param("q", f32(3)), [n, 3], [1])]);
    });
    const c = compile(mixed, options({ loss: "half-sse", fisher: { kind: "empirical", samples: 1 }, ...skipped() }));
    const [p, q] = ["p", "q"].map((name) => c.artifact.orphans.find((o) => o.param === name));
    expect(p?.update).toBe("sgd-momentum");
    expect(p?.reason).toMatch(/; no diagonal Fisher: the gradient of one example cannot be told from .* at /);
    expect(q?.update).toBe("diagonal Fisher");
    expect(c.artifact.plan.buffers.filter((b) => b.name.endsWith("/D")).map((b) => b.name)).toEqual(["kfac/q/D", "stat/q/D"]);
  });

  it("of a batch whose examples are mixed is made of each example's own rows, behind the statistics of the batch", () => {
    // z_n = h_n − mean of h, h_n = tanh(s) ⊙ x_n
    const centred: Forward = custom("centred", 6, (b, n) => {
      const x = b.input("x", f32(n, 3), 0);
      const h = b.emit("mul", [x, broadcast(b.emit, b.emit("tanh", [b.param("s", f32(3))]), [n, 3], [1])]);
      const mean = b.emit("mul", [b.emit("reduce_sum", [h], { axes: [0] }), broadcast(b.emit, b.scalar(1 / n), [3], [])]);
      return b.emit("sub", [h, broadcast(b.emit, mean, [n, 3], [1])]);
    });
    const l = new Lab(centred, N, skipped());
    const inputs = inputsOf(l.m, 61);
    const target = tensor([N, 3], random(62));
    const stats = l.stats({ ...inputs, target }, N);
    const [x, s, z] = [data(inputs.x), data(l.params.s), l.predict(inputs).data];
    const seed = z.map((v, k) => v - (target.data[k] as number));
    const expected = Float64Array.from(range(3), (k) => {
      const mean = range(N).reduce((sum, n) => sum + (seed[n * 3 + k] as number), 0) / N;
      return range(N).reduce((sum, n) => sum + (((seed[n * 3 + k] as number) - mean) * (x[n * 3 + k] as number) * (1 - Math.tanh(s[k] as number) ** 2)) ** 2, 0) / N;
    });
    expect(relative(data(stats["kfac/s/D"]), expected)).toBeLessThan(CLOSE);
  });

  it("of single examples one after the other is that of the batch", () => {
    const c = compile(positions.forward, options({ loss: "half-sse", fisher: { kind: "exact", samples: 1 }, batches: [N, 1], ...skipped() }));
    const whole: Record<string, NdArray> = { ...inputsOf(c.model, 71), target: tensor([N, 3], random(72)) };
    const [all, each] = [new HostRun(c), new HostRun(c)];
    all.run(`front.stats@${N}`, whole, { count: N });
    for (const n of range(N)) {
      const one = Object.fromEntries(Object.entries(whole).map(([name, x]) => [name, ndarray(x.dtype, [1, ...x.shape.slice(1)], x.data.slice((n * x.data.length) / N, ((n + 1) * x.data.length) / N))]));
      each.run("gradients.stats@1", one, { count: 1, keep: Number(n > 0) });
    }
    each.run("absorb", {}, { count: N });
    expect(relative(each.get("kfac/pos/D"), all.get("kfac/pos/D"))).toBeLessThan(CLOSE);
  });
});
