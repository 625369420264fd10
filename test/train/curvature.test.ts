/**
 * Fisher-vector products and diagonals against a dense Fisher in float64, made of Jacobians of each example alone and output Hessians
 * written out by hand.
 */
import { describe, expect, it } from "vitest";
import { Builder, broadcast, full, reshape } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import { cotangents } from "../../ir/grad.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { runPasses } from "../../ir/pass.js";
import { AFTER_GRADIENTS } from "../../ir/passes/index.js";
import { f32, size } from "../../ir/type.js";
import { verify } from "../../ir/verify.js";
import { type CurvatureForm, type CurvatureHead, type CurvatureModel, diagonalGraph, fvpGraph } from "../../src/train/curvature.js";
import { type Loss, type LossKind, sampleTargets, targetType } from "../../src/train/loss.js";
import { prune } from "../../src/train/step-model.js";
import { testDevice } from "../support/gpu.js";
import { conv, dense, labels, random, tensor } from "../support/models.js";
import { relativeError, runGraph } from "../support/run-graph.js";

/** float64 against float64, sums in another order. */
const CLOSE = 1e-11;

type Given = Record<string, NdArray>;
/** Builds the model for n examples and returns its outputs. */
type Make = (b: Builder, n: number) => readonly Value[];

const MODELS: Readonly<Record<string, Make>> = {
  "dense layers": (b, n) => [dense(b, b.emit("tanh", [dense(b, b.input("x", f32(n, 3), 0), "fc0", 4)]), "fc1", 3)],
  "a convolution and a gain": (b, n) => {
    const y = b.emit("tanh", [conv(b, b.input("x", f32(n, 1, 4, 4), 0), "conv", 2, 3)]);
    const gained = b.emit("mul", [y, broadcast(b.emit, b.param("gain", f32(2)), y.type.shape, [1])]);
    return [dense(b, reshape(b.emit, gained, [n, 8]), "fc", 3, false)];
  },
  // classes on axis 1, two positions behind them
  "positions": (b, n) => {
    const x = b.input("x", f32(n, 2, 3), 0);
    const h = b.emit("tanh", [b.emit("add", [dense(b, x, "fc0", 4), broadcast(b.emit, b.param("pos", f32(2, 4)), [n, 2, 4], [1, 2])])]);
    return [b.emit("permute", [dense(b, h, "fc1", 3)], { perm: [0, 2, 1] })];
  },
  // examples and positions are one axis of the contraction
  "rows": (b, n) => {
    const h = b.emit("tanh", [dense(b, reshape(b.emit, b.input("x", f32(n, 2, 3), 0), [n * 2, 3]), "fc0", 4)]);
    return [dense(b, reshape(b.emit, h, [n, 8]), "fc1", 3)];
  },
  "tied weights": (b, n) => {
    const w = b.param("w", f32(2, 3));
    const h = b.emit("tanh", [b.emit("contract", [b.input("x", f32(n, 3), 0), w], { spec: "ni,oi->no" })]);
    return [b.emit("contract", [h, w], { spec: "no,oi->ni" })];
  },
};
const TWO: Make = (b, n) => {
  const h = b.emit("tanh", [dense(b, b.input("x", f32(n, 3), 0), "body", 4)]);
  return [dense(b, h, "classes", 3), dense(b, h, "values", 2)];
};

interface Made extends CurvatureModel {
  readonly make: Make;
  readonly n: number;
}

function made(make: Make, n: number, kinds: readonly LossKind[], weights: readonly number[] = [1]): Made {
  const b = new Builder("m");
  const heads = make(b, n).map((z, k): CurvatureHead => ({ loss: { kind: kinds[k] as LossKind, z, axis: 1 }, weight: weights[k] as number, target: k === 0 ? "target" : `target/${k}` }));
  return { graph: b.finish([]), heads, make, n };
}

function inputs(m: Made, seed: number): Given {
  const next = random(seed);
  const all: Given = {};
  for (const { value } of [...m.graph.params, ...m.graph.inputs]) all[value.name] = tensor(value.type.shape, next);
  for (const { value } of m.graph.params) all[`v/${value.name}`] = tensor(value.type.shape, next);
  for (const { loss, target } of m.heads) {
    const t = targetType(loss);
    const numbers = tensor(t.shape, next);
    all[target] = t.dtype === "i32" ? labels(t.shape, loss.z.type.shape[1] as number, next) : loss.kind === "bernoulli-ce" ? { ...numbers, data: numbers.data.map((v) => (v + 1) / 2) } : numbers;
  }
  return all;
}

/** Rows [start, start + count) of everything that has examples. */
const rowsOf = (a: NdArray, start: number, count: number): NdArray => {
  const per = size(a.shape.slice(1));
  return ndarray(a.dtype, [count, ...a.shape.slice(1)], a.data.slice(start * per, (start + count) * per));
};

/** Per head: outputs z (flat) and the Jacobian [outputs][parameters, joined], of `count` examples from `start` on, run as one batch. */
function jacobians(m: Made, all: Given, start: number, count: number): { z: number[]; J: number[][] }[] {
  const b = new Builder("one");
  const outputs = m.make(b, count);
  const params = b.params.map((p) => p.value);
  const own: Given = { ...all, ...Object.fromEntries(b.inputs.map(({ value: { name } }) => [name, rowsOf(all[name] as NdArray, start, count)])) };
  return outputs.map((z, h) => {
    const seed = b.input(`seed${h}`, z.type);
    const cts = cotangents(b, new Map([[z, seed]]), params);
    const graph = prune(b.finish([{ name: "z", value: z }, ...params.map((p) => ({ name: p.name, value: cts.get(p) ?? full(b, p.type, 0) }))]));
    const run = (k: number) => {
      const data = new Float64Array(size(z.type.shape));
      data[k] = 1;
      return evaluate(graph, { ...own, [`seed${h}`]: ndarray("f32", z.type.shape, data) });
    };
    const J = Array.from({ length: size(z.type.shape) }, (_, k) => { const r = run(k); return params.flatMap((p) => [...(r[p.name] as NdArray).data]); });
    return { z: [...(run(0).z as NdArray).data], J };
  });
}

/** Hessian of one example's loss at its outputs; classes on axis 1 of [1, C, positions..]. */
function hessian({ kind, z: { type } }: Loss, z: readonly number[]): number[][] {
  const K = z.length;
  const classes = type.shape[1] as number;
  const positions = K / classes;
  const same = (i: number, j: number) => (i === j ? 1 : 0);
  const exp = z.map(Math.exp);
  const total = (i: number) => Array.from({ length: classes }, (_, c) => exp[c * positions + (i % positions)] as number).reduce((a, b) => a + b);
  const p = z.map((_, i) => (exp[i] as number) / total(i));
  const s = z.map((v) => 1 / (1 + Math.exp(-v)));
  return z.map((_, i) => z.map((_, j) => {
    switch (kind) {
      case "softmax-ce": return i % positions === j % positions ? (p[i] as number) * (same(i, j) - (p[j] as number)) : 0;
      case "bernoulli-ce": return same(i, j) * (s[i] as number) * (1 - (s[i] as number));
      case "mse": return (same(i, j) * 2) / K;
      default: return same(i, j);
    }
  }));
}

/** ∂l/∂z of one example, by central differences of the loss written out. */
function slope({ kind, z: { type } }: Loss, z: readonly number[], target: ArrayLike<number>): number[] {
  const classes = type.shape[1] as number;
  const positions = z.length / classes;
  const loss = (at: readonly number[]): number => {
    if (kind !== "softmax-ce") return at.reduce((l, v, i) => {
      const t = target[i] as number;
      return l + (kind === "bernoulli-ce" ? Math.log1p(Math.exp(v)) - t * v : ((v - t) ** 2) * (kind === "mse" ? 1 / at.length : 0.5));
    }, 0);
    return Array.from({ length: positions }, (_, q) => {
      const own = Array.from({ length: classes }, (_, c) => at[c * positions + q] as number);
      return Math.log(own.reduce((t, v) => t + Math.exp(v), 0)) - (own[target[q] as number] as number);
    }).reduce((a, b) => a + b);
  };
  const h = 1e-4;
  const moved = (i: number, by: number) => loss(z.map((v, k) => (k === i ? v + by : v)));
  // fourth order: its error, about h⁴ plus rounding over h, is below SLOPE
  return z.map((_, i) => (8 * (moved(i, h) - moved(i, -h)) - (moved(i, 2 * h) - moved(i, -2 * h))) / (12 * h));
}
const SLOPE = 1e-9;

const plusOuter = (F: readonly number[][], factor: number, x: readonly number[], y: readonly number[]): number[][] =>
  F.map((row, a) => row.map((f, c) => f + factor * (x[a] as number) * (y[c] as number)));

/** The dense Fisher Σ_n w_n F_n over all parameters. `ignored(n, q)`: position q of example n has no loss. */
function fisher(m: Made, all: Given, kind: "exact" | "empirical", weight = (_n: number) => 1, ignored = (_n: number, _q: number) => false): number[][] {
  let F: number[][] = [];
  for (let n = 0; n < m.n; n++) {
    const parts = jacobians(m, all, n, 1);
    const P = parts[0]?.J[0]?.length ?? 0;
    if (F.length === 0) F = Array.from({ length: P }, () => new Array<number>(P).fill(0));
    const g = new Array<number>(P).fill(0);
    parts.forEach(({ z, J }, h) => {
      const { loss, weight: w, target } = m.heads[h] as CurvatureHead;
      const positions = z.length / (loss.z.type.shape[1] as number);
      const on = z.map((_, i) => (ignored(n, i % positions) ? 0 : 1));
      if (kind === "empirical") {
        const given = rowsOf(all[target] as NdArray, n, 1);
        // an ignored class has no number of its own; what stands there does not count
        const t = given.dtype === "i32" ? given.data.map((v) => Math.max(v, 0)) : given.data;
        slope(loss, z, t).forEach((s, i) => { for (let a = 0; a < P; a++) g[a] = (g[a] as number) + w * s * (on[i] as number) * (J[i]?.[a] as number); });
        return;
      }
      const H = hessian(loss, z);
      H.forEach((row, i) => row.forEach((v, j) => {
        if (v !== 0 && on[i] && on[j]) F = plusOuter(F, weight(n) * w * v, J[i] as number[], J[j] as number[]);
      }));
    });
    if (kind === "empirical") F = plusOuter(F, weight(n), g, g);
  }
  return F;
}

const joined = (m: Made, from: Given, prefix: string): number[] => m.graph.params.flatMap((p) => [...(from[`${prefix}/${p.value.name}`] as NdArray).data]);
const run = (graph: Graph, all: Given): Given => { verify(graph); return evaluate(graph, all); };
const product = (F: readonly number[][], v: readonly number[]): number[] => F.map((row) => row.reduce((s, f, k) => s + f * (v[k] as number), 0));
const diagonal = (F: readonly number[][]): number[] => F.map((row, k) => row[k] as number);

/** Both quantities of both kinds against the dense Fisher. */
function compare(m: Made, all: Given, F: (kind: "exact" | "empirical") => number[][], form: CurvatureForm = {}): void {
  for (const kind of ["exact", "empirical"] as const) {
    const dense = F(kind);
    const close = kind === "exact" ? CLOSE : SLOPE;
    expect(relativeError(joined(m, run(fvpGraph(m, kind, form), all), "fvp"), product(dense, joined(m, all, "v"))), `fvp ${kind}`).toBeLessThan(close);
    expect(relativeError(joined(m, run(diagonalGraph(m, kind, form), all), "diag"), diagonal(dense)), `diag ${kind}`).toBeLessThan(close);
  }
}

describe("Fisher-vector products and diagonals are those of the dense Fisher", () => {
  const cases: [string, LossKind][] = [
    ["dense layers", "softmax-ce"], ["dense layers", "half-sse"], ["dense layers", "mse"], ["dense layers", "bernoulli-ce"],
    ["a convolution and a gain", "softmax-ce"], ["positions", "softmax-ce"], ["positions", "mse"], ["rows", "softmax-ce"], ["tied weights", "bernoulli-ce"],
  ];
  for (const [name, kind] of cases)
    it(`of ${name} with ${kind}`, () => {
      const m = made(MODELS[name] as Make, 3, [kind]);
      const all = inputs(m, 1);
      compare(m, all, (fisher_) => fisher(m, all, fisher_));
    });

  it("of a batch of one", () => {
    const m = made(MODELS["a convolution and a gain"] as Make, 1, ["softmax-ce"]);
    const all = inputs(m, 2);
    compare(m, all, (kind) => fisher(m, all, kind));
  });

  it("of two heads: weights are factors of the losses", () => {
    const m = made(TWO, 3, ["softmax-ce", "half-sse"], [0.25, 4]);
    const all = inputs(m, 3);
    compare(m, all, (kind) => fisher(m, all, kind));
  });

  it("of two losses on one output", () => {
    const m = made((b, n) => { const z = (MODELS["dense layers"] as Make)(b, n)[0] as Value; return [z, z]; }, 3, ["softmax-ce", "mse"], [2, 3]);
    const all = inputs(m, 4);
    compare(m, all, (kind) => fisher(m, all, kind));
  });

  it("of weighted examples: a weight multiplies its example's part, 0 leaves it out", () => {
    const m = made(MODELS.positions as Make, 3, ["softmax-ce"]);
    const weight = [0.5, 0, 3];
    const all = { ...inputs(m, 5), weight: ndarray("f32", [3], weight) };
    compare(m, all, (kind) => fisher(m, all, kind, (n) => weight[n] as number), { masked: true });
  });

  it("of targets with ignored positions: those have no part in it", () => {
    const m = made(MODELS.positions as Make, 3, ["softmax-ce"]);
    const target = ndarray("i32", [3, 2], [1, -100, -1, 0, 2, 2]);
    const all = { ...inputs(m, 6), target };
    compare(m, all, (kind) => fisher(m, all, kind, () => 1, (n, q) => (target.data[n * 2 + q] as number) < 0), { ignored: true });
  });

  it("of a model that mixes the batch: the product is that of the whole batch's Jacobian", () => {
    const m = made((b, n) => {
      const x = dense(b, b.input("x", f32(n, 3), 0), "fc0", 3);
      const mean = b.emit("mul", [b.emit("reduce_sum", [x], { axes: [0] }), full(b, f32(3), 1 / n)]);
      const centred = b.emit("tanh", [b.emit("sub", [x, broadcast(b.emit, mean, [n, 3], [1])])]);
      return [dense(b, centred, "fc1", 2)];
    }, 4, ["half-sse"]);
    const all = inputs(m, 7);
    const J = jacobians(m, all, 0, 4)[0]?.J ?? [];
    const v = joined(m, all, "v");
    const Jv = product(J, v);
    const want = v.map((_, a) => J.reduce((s, row, i) => s + (row[a] as number) * (Jv[i] as number), 0));
    expect(relativeError(joined(m, run(fvpGraph(m, "exact"), all), "fvp"), want)).toBeLessThan(CLOSE);
  });
});

describe("what a program reads", () => {
  const m = made(MODELS["dense layers"] as Make, 3, ["softmax-ce"]);
  const names = (graph: Graph) => graph.inputs.map((i) => i.value.name).filter((n) => !n.startsWith("v/"));
  it("no stand-in is left, and targets are read only where they count", () => {
    expect(names(fvpGraph(m, "exact"))).toEqual(["x"]);
    expect(names(fvpGraph(m, "empirical"))).toEqual(["x", "target"]);
    expect(names(fvpGraph(m, "exact", { masked: true }))).toEqual(["x", "weight"]);
    expect(names(diagonalGraph(m, "exact"))).toEqual(["x"]);
    expect(names(diagonalGraph(m, "empirical"))).toEqual(["x", "target"]);
    expect(names(diagonalGraph(m, "mc"))).toEqual(["x", "run.seed", "run.step"]);
  });
  it("every trainable parameter has a result, zeros where the loss does not reach it; frozen ones have none", () => {
    const b = new Builder("m");
    const x = b.input("x", f32(2, 2), 0);
    const frozen = b.param("frozen", f32(2), { kind: "file" }, false);
    b.param("idle", f32(3));
    const z = dense(b, b.emit("mul", [x, broadcast(b.emit, frozen, [2, 2], [1])]), "fc", 2);
    const idle: Made = { graph: b.finish([]), heads: [{ loss: { kind: "half-sse", z, axis: 1 }, weight: 1, target: "target" }], make: () => [], n: 2 };
    const all = inputs(idle, 1);
    for (const [graph, prefix] of [[fvpGraph(idle, "exact"), "fvp"], [diagonalGraph(idle, "exact"), "diag"]] as const) {
      expect(graph.results.map((r) => r.name)).toEqual(["idle", "fc.weight", "fc.bias"].map((p) => `${prefix}/${p}`));
      expect([...(run(graph, all)[`${prefix}/idle`] as NdArray).data]).toEqual([0, 0, 0]);
    }
  });
});

describe("the diagonal", () => {
  it("is the same however columns and examples are cut, and cutting keeps every stored value under the limit", () => {
    for (const name of Object.keys(MODELS)) {
      const m = made(MODELS[name] as Make, 5, ["half-sse"]);
      const all = inputs(m, 8);
      const whole = joined(m, run(diagonalGraph(m, "exact"), all), "diag");
      for (const limit of [400, 150, 60, 1]) {
        const graph = diagonalGraph(m, "exact", { limit });
        expect(relativeError(joined(m, run(graph, all), "diag"), whole), `${name}, limit ${limit}`).toBeLessThan(CLOSE);
        const largest = Math.max(...graph.nodes.filter((n) => n.op === "contract").flatMap((n) => n.results.map((r) => size(r.type.shape))));
        // 60 holds one example's largest gradient and one column's largest cotangent of all these models
        if (limit >= 60) expect(largest, `${name}, limit ${limit}`).toBeLessThanOrEqual(limit);
      }
    }
  });

  it("of a weight used once per example never holds a gradient per example", () => {
    const m = made(MODELS["dense layers"] as Make, 7, ["softmax-ce"]);
    const graph = runPasses(diagonalGraph(m, "exact"), AFTER_GRADIENTS);
    const weights = 7 * 4 * 3;
    for (const n of graph.nodes) if (n.op === "contract") expect(size((n.results[0] as Value).type.shape)).toBeLessThanOrEqual(weights);
  });

  it("mc is the empirical one of sampled targets, averaged over samples", () => {
    const m = made(MODELS.positions as Make, 3, ["softmax-ce"]);
    const u32 = (v: number) => ndarray("u32", [], [v]);
    const all = { ...inputs(m, 9), "run.seed": u32(4), "run.step": u32(7) };
    const drawn = [0, 1].map((s) => {
      const b = Builder.from(m.graph);
      const key = ["run.seed", "run.step"].map((name) => b.input(name, { dtype: "u32", shape: [] })) as [Value, Value];
      return evaluate(b.finish([{ name: "t", value: sampleTargets(b, (m.heads[0] as CurvatureHead).loss, key, 4096 + 2 * s) }]), all).t as NdArray;
    });
    const each = drawn.map((target) => joined(m, run(diagonalGraph(m, "empirical"), { ...all, target }), "diag"));
    const want = (each[0] as number[]).map((v, k) => (v + (each[1]?.[k] as number)) / 2);
    expect(relativeError(joined(m, run(diagonalGraph(m, "mc", { samples: 2 }), all), "diag"), want)).toBeLessThan(CLOSE);
    expect([...(drawn[0] as NdArray).data]).not.toEqual([...(drawn[1] as NdArray).data]);
  });

  it("mc of two weighted heads has the exact one as its mean", () => {
    const m = made(TWO, 8, ["softmax-ce", "half-sse"], [4, 0.25]);
    const all = inputs(m, 10);
    const graph = diagonalGraph(m, "mc", { samples: 20 });
    const want = joined(m, run(diagonalGraph(m, "exact"), all), "diag");
    const mean = want.map(() => 0);
    for (let step = 0; step < 25; step++)
      joined(m, run(graph, { ...all, "run.seed": ndarray("u32", [], [1]), "run.step": ndarray("u32", [], [step]) }), "diag").forEach((v, k) => { mean[k] = (mean[k] as number) + v / 25; });
    // 500 draws for each of 8 examples; the spread of a square is about 1.5 to 3 times its mean: below 5 % for each number, 0.2 is four of them
    mean.forEach((v, k) => { expect(Math.abs(v / (want[k] as number) - 1), `number ${k}`).toBeLessThan(0.2); });
  });
});

describe("on a device", () => {
  const device = testDevice();
  it("products and diagonals are those of float64", async () => {
    for (const name of ["a convolution and a gain", "positions"]) {
      const m = made(MODELS[name] as Make, 3, ["softmax-ce"]);
      const all = inputs(m, 12);
      for (const graph of [fvpGraph(m, "exact"), fvpGraph(m, "empirical"), diagonalGraph(m, "exact"), diagonalGraph(m, "empirical")]) {
        const ready = runPasses(graph, AFTER_GRADIENTS, { verify: true });
        const { results } = await runGraph(device().device, ready, all);
        const want = evaluate(graph, all);
        // f32 rounds at 6e-8; a few hundred terms of mixed sign
        for (const r of graph.results) expect(relativeError((results[r.name] as NdArray).data, (want[r.name] as NdArray).data), `${name} ${r.name}`).toBeLessThan(2e-5);
      }
    }
  });
});
