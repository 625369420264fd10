/** What a contraction's kernel computes on its way: sums of an operand, and maxima of its result. */
import { describe, expect, it } from "vitest";
import { Builder, broadcast, contract, reshape } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Graph, Value } from "../../ir/graph.js";
import type { NdArray } from "../../ir/ndarray.js";
import { runPasses } from "../../ir/pass.js";
import { AFTER_GRADIENTS } from "../../ir/passes/index.js";
import { PORTABLE } from "../../codegen/limits.js";
import { planProgram } from "../../codegen/plan.js";
import { testDevice } from "../support/gpu.js";
import { patches, random, relative, runPoisoned, tensor } from "../support/models.js";

const device = testDevice();
const STATE = new Set(["w", "b"]);

/** Values of graph.params and inputs: seeded, whole numbers of thirds so that maxima have ties. */
const data = (graph: Graph, seed: number): Record<string, NdArray> => {
  const next = random(seed);
  return Object.fromEntries([...graph.params, ...graph.inputs].map(({ value }) => [value.name, { ...tensor(value.type.shape, next), data: tensor(value.type.shape, next).data.map((x) => Math.round(x * 3) / 2) }]));
};

const updated = (b: Builder, old: Value, gradient: Value): Value => b.emit("sub", [old, b.emit("mul", [gradient, broadcast(b.emit, b.scalar(0.25), gradient.type.shape, [])])]);

/** w − ¼·gᵀx and b − ¼·Σ g over n examples. `mixed`: b's step also has the sum of w's. */
function dense(n: number, o: number, i: number, { mixed = false, axes = [0] } = {}): Graph {
  const b = new Builder("dense");
  const [x, g] = [b.input("x", { dtype: "f32", shape: [n, i] }), b.input("g", { dtype: "f32", shape: [n, o] })];
  const [w, bias] = [b.input("w", { dtype: "f32", shape: [o, i] }), b.input("b", { dtype: "f32", shape: axes.includes(0) ? [o] : [n] })];
  const dw = contract(b.emit, "no,ni->oi", g, x);
  const sum = b.emit("reduce_sum", [g], { axes });
  const db = mixed ? b.emit("add", [sum, b.emit("reduce_sum", [dw], { axes: [1] })]) : sum;
  return b.finish([{ name: "w", value: updated(b, w, dw) }, { name: "b", value: updated(b, bias, db) }]);
}

/** Weight and bias gradients of a k × k convolution of [n, c, y, x] images. */
function conv(n: number, c: number, o: number, y: number, x: number, k: number): Graph {
  const b = new Builder("conv");
  const image = b.input("x", { dtype: "f32", shape: [n, c, y, x] });
  const g = b.input("g", { dtype: "f32", shape: [n, o, y - k + 1, x - k + 1] });
  const [w, bias] = [b.input("w", { dtype: "f32", shape: [o, c, k, k] }), b.input("b", { dtype: "f32", shape: [o] })];
  const dw = contract(b.emit, "nodf,ncdefg->oceg", g, patches(b, image, k));
  return b.finish([{ name: "w", value: updated(b, w, dw) }, { name: "b", value: updated(b, bias, b.emit("reduce_sum", [g], { axes: [0, 2, 3] })) }]);
}

/** Convolution, bias, maximum over py × px stretches, relu, and where the maxima are. `also`: the unpooled map is a result, too. */
function pooled(n: number, o: number, py: number, px: number, { also = false, relu = "after" as "after" | "before", rows = 3, columns = 2 } = {}): Graph {
  const b = new Builder("pooled");
  const [y, x] = [py * rows, px * columns];
  const image = b.input("x", { dtype: "f32", shape: [n, 2, y + 2, x + 2] });
  const [w, bias] = [b.input("w", { dtype: "f32", shape: [o, 2, 3, 3] }), b.input("b", { dtype: "f32", shape: [o] })];
  const s = contract(b.emit, "ncdefg,oceg->nodf", patches(b, image, 3), w);
  const z = b.emit("add", [s, broadcast(b.emit, bias, s.type.shape, [1])]);
  const act = relu === "before" ? b.emit("relu", [z]) : z;
  const cut = reshape(b.emit, act, [n, o, rows, py, columns, px]);
  const most = b.emit("reduce_max", [cut], { axes: [3, 5] });
  const out = relu === "after" ? b.emit("relu", [most]) : most;
  const results = [{ name: "out", value: out }];
  if (relu === "after") results.push({ name: "at", value: b.emit("reduce_argmax", [cut], { axes: [3, 5] }) });
  if (also) results.push({ name: "map", value: act });
  return b.finish(results);
}

/** xᵀx per group of rows with a column of ones, as factors have it. */
function factors(groups: number, n: number, i: number): Graph {
  const b = new Builder("factors");
  const x = b.input("x", { dtype: "f32", shape: [groups, n, i] });
  const wide = b.emit("pad", [x], { low: [0, 0, 0], high: [0, 0, 1], value: 1 });
  return b.finish([{ name: "a", value: contract(b.emit, "gni,gnj->gij", wide, wide) }]);
}

async function check(graph: Graph, seed: number): Promise<void> {
  const given = data(graph, seed);
  const { results } = await runPoisoned(device().device, graph, given, STATE);
  const want = evaluate(graph, given);
  for (const r of graph.results) {
    // halves and quarters: float32 sums of them are exact
    const error = relative((results[r.name] as NdArray).data, (want[r.name] as NdArray).data);
    if (error !== 0) throw new Error(`seed ${seed}: ${r.name} is off by ${error}`);
  }
}

const specs = (graph: Graph) => planProgram([{ name: "main", graph }], STATE, PORTABLE).lowered.get("main")?.work.flatMap((w) => w.specs) ?? [];
/** Loop nests: what else runs in one dispatch side by side does not matter here. */
const works = (graph: Graph): number => specs(graph).length;

describe("a bias's gradient", () => {
  it("is a sum in the kernel of its weight's gradient, both updated in place", () => {
    for (const graph of [dense(12, 7, 9), conv(3, 2, 5, 9, 8, 3)]) {
      expect(works(graph)).toBe(1);
      expect(planProgram([{ name: "main", graph }], STATE, PORTABLE).plan.entries.main?.steps.every((s) => "kernel" in s)).toBe(true);
    }
  });

  it("is right for ragged sizes and for sums that take two passes", async () => {
    for (const [k, size] of ([[1, 1, 1], [2, 3, 5], [7, 63, 2], [65, 5, 63], [3000, 3, 4], [33, 64, 65]] as [number, number, number][]).entries()) await check(dense(...size), k);
    for (const [k, size] of ([[1, 1, 1, 3, 3, 3], [3, 2, 5, 9, 8, 3], [40, 1, 6, 20, 20, 5], [2, 3, 7, 6, 13, 1]] as [number, number, number, number, number, number][]).entries()) await check(conv(...size), 10 + k);
  });

  it("stays apart where it needs the weight's, or sums something else", async () => {
    expect(works(dense(12, 7, 9, { mixed: true }))).toBeGreaterThan(1);
    expect(works(dense(12, 7, 9, { axes: [1] }))).toBe(2);
    await check(dense(12, 7, 9, { mixed: true }), 20);
    await check(dense(12, 7, 9, { axes: [1] }), 21);
  });
});

describe("a column of ones", () => {
  it("is the sum of the other side, its corner a count, for every group", async () => {
    expect(works(factors(3, 5, 4))).toBe(1);
    for (const [k, size] of ([[1, 5, 4], [3, 5, 4], [2, 1, 1], [3, 2000, 5], [2, 33, 63], [5, 7, 16]] as [number, number, number][]).entries()) await check(factors(...size), 80 + k);
  });
});

describe("pooling", () => {
  it("happens in the convolution's kernel: the map is never in memory", () => {
    const { lowered, plan } = planProgram([{ name: "main", graph: pooled(2, 5, 2, 2) }], STATE, PORTABLE);
    expect(lowered.get("main")?.work.flatMap((w) => w.specs).length).toBe(1);
    expect(plan.buffers.filter((b) => b.kind === "slot")).toEqual([]);
  });

  it("gives maxima and the first of their places, for all stretches and ragged sizes", async () => {
    for (const [k, size] of ([[1, 1, 2, 2], [3, 5, 2, 2], [2, 4, 3, 3], [2, 8, 4, 4], [5, 3, 1, 2], [2, 3, 2, 1]] as [number, number, number, number][]).entries()) await check(pooled(...size), 30 + k);
    await check(pooled(3, 4, 2, 2, { rows: 7, columns: 8 }), 40);
    await check(pooled(3, 6, 2, 2, { rows: 12, columns: 12 }), 41);
  });

  it("leaves the map in memory where somebody else reads it, and long stretches to a reduction of their own", async () => {
    expect(works(pooled(2, 5, 2, 2, { also: true }))).toBeGreaterThan(1);
    expect(works(pooled(2, 5, 5, 5))).toBeGreaterThan(1);
    await check(pooled(2, 5, 2, 2, { also: true }), 50);
    await check(pooled(2, 5, 5, 5), 51);
  });

  it("keeps NaN: a diverged run must show", async () => {
    const graph = pooled(1, 1, 2, 2);
    const given = data(graph, 60);
    const x = given.x as NdArray;
    const { results } = await runPoisoned(device().device, graph, { ...given, x: { ...x, data: x.data.map((v, k) => (k === 0 ? Number.NaN : v)) } }, STATE);
    expect(Number.isNaN((results.out as NdArray).data[0])).toBe(true);
    expect(Number.isNaN((results.out as NdArray).data[5])).toBe(false);
  });

  it("comes before relu, where the map after relu has no other reader", async () => {
    const graph = runPasses(pooled(2, 5, 2, 2, { relu: "before" }), AFTER_GRADIENTS, { verify: true });
    const ops = graph.nodes.map((n) => n.op);
    expect(ops.indexOf("relu")).toBeGreaterThan(ops.indexOf("reduce_max"));
    expect(works(graph)).toBe(1);
    await check(graph, 70);
    const kept = runPasses(pooled(2, 5, 2, 2, { relu: "before", also: true }), AFTER_GRADIENTS, { verify: true }).nodes.map((n) => n.op);
    expect(kept.indexOf("relu")).toBeLessThan(kept.indexOf("reduce_max"));
  });
});
