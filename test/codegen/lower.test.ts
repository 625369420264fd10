/** Whole graphs through lowering and plan on an adapter: random ones, and the views and contractions that are easy to get wrong. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { PORTABLE } from "../../codegen/limits.js";
import { planProgram } from "../../codegen/plan.js";
import { Builder } from "../../ir/builder.js";
import { evaluate, evaluateAll } from "../../ir/evaluate.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { OPS } from "../../ir/ops/index.js";
import { runPasses } from "../../ir/pass.js";
import { CANONICAL } from "../../ir/passes/index.js";
import { print } from "../../ir/print.js";
import { f32 } from "../../ir/type.js";
import { nullDevice } from "../../runtime/adapter.node.js";
import { Program } from "../../runtime/program.js";
import { testDevice } from "../support/gpu.js";
import { bindings, graphs } from "../support/graphs.js";
import { random, relative, runPoisoned, tensor, withState } from "../support/models.js";

const device = testDevice();

/** The graph with every value rounded to f32: what any device loses. */
function rounded(graph: Graph, given: Readonly<Record<string, NdArray>>): Map<Value, NdArray> {
  const known = new Map<Value, NdArray>([...graph.params, ...graph.inputs].map((p) => [p.value, given[p.value.name] as NdArray]));
  for (const node of graph.nodes) {
    const made = OPS[node.op].evaluate(node.inputs.map((v) => known.get(v) as NdArray), node.attrs, node.results.map((r) => r.type));
    node.results.forEach((r, k) => known.set(r, { ...(made[k] as NdArray), data: r.type.dtype === "f32" ? (made[k] as NdArray).data.map(Math.fround) : (made[k] as NdArray).data }));
  }
  return known;
}

/** Graphs that f32 can compute: no huge values, and rounding each step changes no result by much. Seeded, so the choice is the same everywhere. */
function* tame(seed: number, count: number): Generator<{ graph: Graph; given: Record<string, NdArray>; state: ReadonlySet<string>; spread: ReadonlyMap<Value, number> }> {
  const next = random(seed);
  let made = 0;
  for (const free of fc.sample(graphs(), { numRuns: 4 * count, seed })) {
    const { graph, state } = withState(free, (n) => Math.floor(((next() + 1) / 2) * n) % n);
    const given = bindings(graph, seed);
    const [exact, near] = [evaluateAll(graph, given), rounded(graph, given)];
    const spread = new Map([...exact].map(([v, x]) => [v, relative((near.get(v) as NdArray).data, x.data)] as const));
    const fits = [...exact.values()].every((x) => x.data.every((v) => Math.abs(v) < 1e4)) && [...spread.values()].every((d) => d < 1e-4);
    if (!fits) continue;
    yield { graph, given, state, spread };
    if (++made === count) return;
  }
}

describe("random graphs", () => {
  const SEED = 77;
  it("on the adapter give what they mean, within what f32 loses", async () => {
    let ran = 0;
    for (const { graph, given, state, spread } of tame(SEED, 60)) {
      const { results } = await runPoisoned(device().device, graph, given, state);
      const want = evaluate(graph, given);
      for (const r of graph.results) {
        const error = relative((results[r.name] as NdArray).data, (want[r.name] as NdArray).data);
        const allowed = r.value.type.dtype === "f32" ? 2e-5 + 50 * (spread.get(r.value) as number) : 0;
        if (!(error <= allowed)) throw new Error(`seed ${SEED}, graph ${ran}: result ${r.name} = %${r.value.name} is off by ${error}, allowed ${allowed}\n${print(graph)}\ngot ${results[r.name]?.data}\nwant ${want[r.name]?.data}`);
      }
      ran++;
    }
    expect(ran).toBe(60);
  }, 120_000);

  it("compile on the null backend, whose limits are the portable ones", async () => {
    const opened = await nullDevice();
    try {
      for (const graph of fc.sample(graphs(), { numRuns: 40, seed: SEED + 1 })) {
        const { plan, sources } = planProgram([{ name: "main", graph }], new Set(), PORTABLE);
        const program = await Program.create(opened.device, plan, sources);
        for (const k of plan.kernels) expect(k.bindings.filter((b) => b !== "run").length).toBeLessThanOrEqual(PORTABLE.storageBuffers);
        await program.dispose();
      }
    } finally {
      await opened.close();
    }
  });
});

/** One graph on the device against its meaning. */
async function check(inputs: Readonly<Record<string, readonly number[]>>, build: (b: Builder, v: Readonly<Record<string, Value>>) => Readonly<Record<string, Value>>, tolerance = 1e-5): Promise<{ steps: number }> {
  const b = new Builder("g");
  const values = Object.fromEntries(Object.entries(inputs).map(([name, shape]) => [name, b.input(name, f32(...shape))]));
  const graph = b.finish(Object.entries(build(b, values)).map(([name, value]) => ({ name, value })));
  const next = random(Object.keys(inputs).length + 40);
  const given = Object.fromEntries(Object.entries(inputs).map(([name, shape]) => [name, tensor(shape, next)]));
  const { results, plan } = await runPoisoned(device().device, graph, given);
  for (const [name, want] of Object.entries(evaluate(graph, given))) {
    const error = relative((results[name] as NdArray).data, want.data);
    if (!(error <= tolerance)) throw new Error(`${name} is off by ${error}\n${print(graph)}\ngot ${results[name]?.data}\nwant ${want.data}`);
  }
  return { steps: plan.entries.main?.steps.length ?? 0 };
}

describe("views", () => {
  it("permute, slice, pad, window and reshape one after the other are one kernel", async () => {
    const { steps } = await check({ x: [4, 2, 3] }, (b, { x }) => {
      const a = b.emit("permute", [x as Value], { perm: [1, 2, 0] });
      const c = b.emit("slice", [a], { start: [1, 0, 3], size: [2, 3, 2], stride: [-1, 1, -2] });
      const d = b.emit("pad", [c], { low: [0, 1, 0], high: [1, 0, 2], value: -1 });
      const e = b.emit("window", [d], { axis: 1, count: 3, taps: 2, stride: 2, dilation: 1, offset: -1, divisor: 1 });
      return { y: b.emit("reshape", [e], { shape: [3, 6, 4] }) };
    });
    expect(steps).toBe(1);
  });

  it("a reshape splits an iteration axis where the strides ask for it", async () => {
    await check({ x: [6, 4] }, (b, { x }) => ({ y: b.emit("reshape", [b.emit("permute", [x as Value], { perm: [1, 0] })], { shape: [24] }), z: b.emit("neg", [b.emit("reshape", [b.emit("permute", [b.emit("reshape", [x as Value], { shape: [2, 3, 4] })], { perm: [1, 2, 0] })], { shape: [6, 4] })]) }));
  });

  it("a window of a zero-stuffed window keeps both divisions", async () => {
    const stuffed = { count: 9, taps: 1, stride: 1, dilation: 1, offset: 0, divisor: 2 };
    await check({ x: [5, 3] }, (b, { x }) => {
      const once = b.emit("reshape", [b.emit("window", [x as Value], { axis: 0, ...stuffed })], { shape: [9, 3] });
      return { y: b.emit("window", [once], { axis: 0, count: 20, taps: 2, stride: 1, dilation: 3, offset: -2, divisor: 3 }), z: b.emit("pad", [once], { low: [1, 0], high: [0, 1], value: 7 }) };
    });
  });

  it("two stuffed axes merged by a reshape and padded", async () => {
    await check({ x: [2, 3] }, (b, { x }) => {
      const a = b.emit("window", [x as Value], { axis: 0, count: 3, taps: 1, stride: 1, dilation: 1, offset: 0, divisor: 2 });
      const c = b.emit("window", [a], { axis: 2, count: 5, taps: 1, stride: 1, dilation: 1, offset: 0, divisor: 2 });
      const merged = b.emit("reshape", [c], { shape: [15] });
      return { y: b.emit("pad", [merged], { low: [2], high: [1], value: 3 }), z: b.emit("exp", [b.emit("slice", [merged], { start: [14], size: [8], stride: [-2] })]) };
    });
  });

  it("concatenations along every axis, of parts that are views and expressions", async () => {
    await check({ x: [2, 3], y: [2, 3] }, (b, v) => Object.fromEntries([0, 1].map((axis) => [`axis${axis}`, b.emit("concat", [v.x as Value, b.emit("tanh", [v.y as Value]), b.emit("slice", [v.x as Value], { start: [1, 2], size: [2, 3], stride: [-1, -1] })], { axis })])));
  });
});

describe("values without elements", () => {
  it("take no kernel, and what is made from them is what nothing adds up to", async () => {
    const b = new Builder("g");
    const [x, none] = [b.input("x", f32(2, 3)), b.input("none", f32(0, 3))];
    const graph = runPasses(b.finish([
      { name: "nothing", value: b.emit("tanh", [none]) },
      { name: "sum", value: b.emit("reduce_sum", [none], { axes: [0] }) },
      { name: "product", value: b.emit("contract", [x, none], { spec: "ik,jk->ij" }) },
      { name: "summed", value: b.emit("contract", [none, none], { spec: "ki,kj->ij" }) },
      { name: "joined", value: b.emit("concat", [none, x, none], { axis: 0 }) },
      { name: "padded", value: b.emit("pad", [none], { low: [1, 0], high: [0, 1], value: 2 }) },
    ]), CANONICAL);
    const given = { x: tensor([2, 3], random(1)), none: ndarray("f32", [0, 3], []) };
    const { results } = await runPoisoned(device().device, graph, given);
    const want = evaluate(graph, given);
    for (const name of Object.keys(want)) expect([...(results[name] as NdArray).data].map(Math.fround), name).toEqual([...(want[name] as NdArray).data].map(Math.fround));
    expect(graph.nodes.map((n) => n.op).sort()).toEqual(["broadcast", "broadcast", "broadcast", "constant", "constant", "contract", "tanh"]);
  });
});

describe("contractions", () => {
  const SPECS: readonly (readonly [string, readonly number[], readonly number[]])[] = [
    ["ni,oi->no", [5, 7], [3, 7]], ["in,io->on", [7, 5], [7, 3]], ["i,i->", [9], [9]], ["i,j->ij", [3], [5]], [",ij->ji", [], [3, 2]],
    ["bij,bjk->bik", [2, 3, 5], [2, 5, 4]], ["abc,cd->a", [2, 3, 4], [4, 2]], ["ab,ab->ab", [3, 5], [3, 5]], ["abcd,befd->afce", [2, 3, 4, 5], [3, 2, 3, 5]], ["ij,k->k", [4, 3], [6]],
  ];
  for (const [spec, left, right] of SPECS)
    it(spec, async () => {
      await check({ l: left, r: right }, (b, { l, r }) => ({ y: b.emit("contract", [l as Value, r as Value], { spec }) }));
    });

  for (const n of [1, 2, 3, 5, 7, 63, 65])
    it(`of ${n} × ${n} matrices, with themselves, with a column of ones, with bias and relu`, async () => {
      await check({ x: [n, n], w: [n, n], c: [n] }, (b, { x, w, c }) => {
        const ones = (v: Value) => b.emit("pad", [v], { low: [0, 0], high: [0, 1], value: 1 });
        const y = b.emit("contract", [x as Value, w as Value], { spec: "ni,oi->no" });
        return {
          plain: b.emit("relu", [b.emit("add", [y, b.emit("broadcast", [c as Value], { shape: [n, n], axes: [1] })])]),
          gram: b.emit("contract", [x as Value, x as Value], { spec: "ny,nz->yz" }),
          homogeneous: b.emit("contract", [ones(x as Value), ones(x as Value)], { spec: "ny,nz->yz" }),
          gradient: b.emit("contract", [w as Value, ones(x as Value)], { spec: "no,ni->oi" }),
        };
      });
    });

  it("operands padded by something else than zeros or one column of ones go through memory", async () => {
    await check({ x: [3, 4], w: [5, 6] }, (b, { x, w }) => {
      const two = b.emit("pad", [x as Value], { low: [0, 1], high: [0, 1], value: 2 });
      const both = b.emit("pad", [x as Value], { low: [1, 0], high: [0, 2], value: 1 });
      const summed = b.emit("pad", [x as Value], { low: [0, 0], high: [0, 2], value: 1 });
      return { two: b.emit("contract", [two, w as Value], { spec: "ni,oi->no" }), both: b.emit("contract", [both, w as Value], { spec: "ni,oi->no" }), summed: b.emit("contract", [summed, w as Value], { spec: "ni,oi->no" }) };
    });
  });

  it("an operand that nothing but ones is summed against is a sum, and of ones alone a number", async () => {
    const one = (b: Builder, shape: readonly number[]) => b.emit("broadcast", [b.scalar(1)], { shape, axes: [] });
    await check({ x: [3, 4] }, (b, { x }) => ({ sum: b.emit("contract", [x as Value, one(b, [4])], { spec: "ni,i->n" }), count: b.emit("contract", [one(b, [3, 4]), one(b, [5, 4])], { spec: "ni,oi->no" }) }));
  });

  it("a convolution, its two gradients, and its patches' products, strided, padded and dilated", async () => {
    for (const g of [{ stride: 1, dilation: 1, offset: -1 }, { stride: 2, dilation: 1, offset: -1 }, { stride: 1, dilation: 2, offset: -2 }, { stride: 3, dilation: 2, offset: 0 }]) {
      const out = Math.floor((9 - 2 * g.offset - 2 * g.dilation - 1) / g.stride) + 1;
      await check({ x: [2, 3, 9, 9], w: [4, 3, 3, 3], y: [2, 4, out, out] }, (b, { x, w, y }) => {
        const slide = (v: Value, axis: number) => b.emit("window", [v], { axis, count: out, taps: 3, divisor: 1, ...g });
        const view = slide(slide(x as Value, 2), 4);
        const back = b.emit("contract", [y as Value, w as Value], { spec: "nohw,ocij->nchiwj" });
        const fold = (v: Value, axis: number) => b.emit("fold", [v], { axis, size: 9, divisor: 1, ...g });
        return {
          forward: b.emit("contract", [view, w as Value], { spec: "nchiwj,ocij->nohw" }), weight: b.emit("contract", [y as Value, view], { spec: "nohw,nchiwj->ocij" }),
          input: fold(fold(back, 4), 2), factor: b.emit("contract", [view, view], { spec: "nchiwj,ndhkwl->cijdkl" }),
        };
      }, 2e-5);
    }
  });

  it("a result that updates the state it is computed from reads every old element first", async () => {
    const b = new Builder("g");
    const [w, x] = [b.param("w", f32(5, 5)), b.input("x", f32(5, 5))];
    const turned = b.emit("permute", [w], { perm: [1, 0] });
    const graph = b.finish([{ name: "w", value: b.emit("add", [b.emit("contract", [w, x], { spec: "ij,jk->ik" }), turned]) }]);
    const next = random(50);
    const given = { w: tensor([5, 5], next), x: tensor([5, 5], next) };
    const { results } = await runPoisoned(device().device, graph, given, new Set(["w"]));
    expect(relative((results.w as NdArray).data, (evaluate(graph, given).w as NdArray).data)).toBeLessThan(1e-6);
  });

  it("inverses of a batch, damped, and the flag of the one that has none", async () => {
    const b = new Builder("g");
    const [m, d] = [b.input("m", f32(3, 2, 2)), b.input("d", f32(3))];
    const [inverse, clean] = b.node("inverse", [m, d]).results as [Value, Value];
    const graph = b.finish([{ name: "inverse", value: inverse }, { name: "clean", value: clean }, { name: "product", value: b.emit("contract", [inverse, m], { spec: "bij,bjk->bik" }) }]);
    const given = { m: ndarray("f32", [3, 2, 2], [2, 0.5, 0.5, 1, 1, 2, 2, 1, 4, 1, 1, 3]), d: ndarray("f32", [3], [0.5, 0.25, 0]) };
    const { results } = await runPoisoned(device().device, graph, given);
    expect([...(results.clean as NdArray).data]).toEqual([1, 0, 1]);
    const want = evaluate(graph, given);
    for (const part of [[0, 4], [8, 12]] as const) expect(relative((results.inverse as NdArray).data.slice(...part), (want.inverse as NdArray).data.slice(...part))).toBeLessThan(1e-5);
    expect(relative((results.product as NdArray).data.slice(8), [1, 0, 0, 1])).toBeLessThan(1e-5);
  });
});
