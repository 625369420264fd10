/** Per-example gradients: the batch's backward graph with its sums undone, against the same model run with each example alone. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Builder, broadcast, full, reshape } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import { exampleMarks } from "../../ir/examples.js";
import { cotangents } from "../../ir/grad.js";
import type { Graph, GraphInput, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { runPasses } from "../../ir/pass.js";
import { AFTER_GRADIENTS } from "../../ir/passes/index.js";
import { perExample } from "../../ir/per-example.js";
import { f32, i32, size } from "../../ir/type.js";
import { verify } from "../../ir/verify.js";
import { vmap } from "../../ir/vmap.js";
import { PATIENCE } from "../support/graphs.js";
import { labels, random, tensor } from "../support/models.js";

/** float64 against float64, sums in another order: at most a few thousand terms of size one. */
const CLOSE = 1e-11;
const [T, D] = [3, 4];

/** A step of a model: [n, T, D] → [n, T, D], with parameters of its own. */
type Block = (b: Builder, x: Value, name: string) => Value;

const repeat = (b: Builder, v: Value, x: Value, axes: readonly number[]): Value => broadcast(b.emit, v, x.type.shape, axes);
const constant = (b: Builder, x: Value, value: number): Value => full(b, x.type, value);
const count = (x: Value): number => x.type.shape[0] as number;

function normed(b: Builder, x: Value): Value {
  const mean = b.emit("mul", [b.emit("reduce_sum", [x], { axes: [2] }), full(b, f32(count(x), T), 1 / D)]);
  const centred = b.emit("sub", [x, repeat(b, mean, x, [0, 1])]);
  const spread = b.emit("reduce_sum", [b.emit("mul", [centred, centred])], { axes: [2] });
  const root = b.emit("sqrt", [b.emit("add", [spread, full(b, spread.type, 0.5)])]);
  return b.emit("div", [centred, repeat(b, root, x, [0, 1])]);
}

const BLOCKS: Readonly<Record<string, Block>> = {
  dense(b, x, name) {
    const y = b.emit("contract", [x, b.param(`${name}.w`, f32(D, D))], { spec: "nti,oi->nto" });
    return b.emit("tanh", [b.emit("add", [y, repeat(b, b.param(`${name}.b`, f32(D)), y, [2])])]);
  },
  /** Examples and positions are one axis inside: the example is its outer digit. */
  denseOverRows(b, x, name) {
    const y = b.emit("contract", [reshape(b.emit, x, [count(x) * T, D]), b.param(`${name}.w`, f32(D, D))], { spec: "ri,io->ro" });
    return reshape(b.emit, b.emit("add", [y, repeat(b, b.param(`${name}.b`, f32(D)), y, [1])]), x.type.shape);
  },
  /** A trained table, looked up by all examples at once: its gradient is a sum by index over rows of all of them. */
  gathered(b, x, name) {
    const first = reshape(b.emit, b.emit("slice", [x], { start: [0, 0, 0], size: [count(x), T, 1], stride: [1, 1, 1] }), [1, count(x) * T]);
    const index = b.emit("cast", [b.emit("abs", [b.emit("add", [first, first])])], { dtype: "i32" });
    const rows = b.emit("gather", [reshape(b.emit, b.param(`${name}.w`, f32(3, D)), [1, 3, D]), index]);
    return b.emit("add", [x, reshape(b.emit, rows, x.type.shape)]);
  },
  /** Positions before examples: the example is the inner digit. */
  denseTimeMajor(b, x, name) {
    const rows = reshape(b.emit, b.emit("permute", [x], { perm: [1, 0, 2] }), [T * count(x), D]);
    const y = b.emit("contract", [b.param(`${name}.w`, f32(D, D)), rows], { spec: "io,ri->ro" });
    const z = b.emit("add", [y, repeat(b, b.param(`${name}.b`, f32(D)), y, [1])]);
    return b.emit("permute", [reshape(b.emit, z, [T, count(x), D])], { perm: [1, 0, 2] });
  },
  /** Feature and position in front, the example in the middle digit of one axis. */
  gainOverAll(b, x, name) {
    const flat = reshape(b.emit, b.emit("permute", [x], { perm: [1, 0, 2] }), [T * count(x) * D]);
    const gained = b.emit("mul", [flat, repeat(b, b.param(`${name}.gain`, f32()), flat, [])]);
    return b.emit("permute", [reshape(b.emit, gained, [T, count(x), D])], { perm: [1, 0, 2] });
  },
  conv(b, x, name) {
    const patches = b.emit("window", [x], { axis: 1, count: T, taps: 3, stride: 1, dilation: 1, offset: -1, divisor: 1 });
    return b.emit("relu", [b.emit("contract", [patches, b.param(`${name}.w`, f32(D, D, 3))], { spec: "ntki,oik->nto" })]);
  },
  pooled(b, x, name) {
    const windows = b.emit("window", [BLOCKS.dense?.(b, x, name) as Value], { axis: 1, count: T, taps: 2, stride: 1, dilation: 1, offset: 0, divisor: 1 });
    return b.emit("reduce_max", [windows], { axes: [2] });
  },
  norm(b, x, name) {
    const scaled = b.emit("mul", [normed(b, x), repeat(b, b.param(`${name}.scale`, f32(D)), x, [2])]);
    return b.emit("add", [scaled, repeat(b, b.param(`${name}.shift`, f32(D)), x, [2])]);
  },
  position: (b, x, name) => b.emit("add", [x, repeat(b, b.param(`${name}.pos`, f32(T, D)), x, [1, 2])]),
  attention(b, x, name) {
    const [wq, wk] = [b.param(`${name}.q`, f32(2, D)), b.param(`${name}.k`, f32(2, D))];
    const q = b.emit("contract", [x, wq], { spec: "nti,hi->nth" });
    const k = b.emit("contract", [x, wk], { spec: "nti,hi->nth" });
    const p = b.emit("sigmoid", [b.emit("contract", [q, k], { spec: "nth,nsh->nts" })]);
    return b.emit("contract", [p, x], { spec: "nts,nsi->nti" });
  },
  /** One weight, as it is and transposed, and a bias used twice. */
  tied(b, x, name) {
    const [w, bias] = [b.param(`${name}.w`, f32(D, D)), b.param(`${name}.b`, f32(D))];
    const y = b.emit("tanh", [b.emit("add", [b.emit("contract", [x, w], { spec: "nti,oi->nto" }), repeat(b, bias, x, [2])])]);
    return b.emit("add", [b.emit("contract", [y, w], { spec: "nto,oi->nti" }), repeat(b, bias, x, [2])]);
  },
  /** Slices, joins, padding, clipping and products of parameters, before they meet examples. */
  views(b, x, name) {
    const [p, q] = [b.param(`${name}.p`, f32(3, D)), b.param(`${name}.q`, f32(D, 2))];
    const top = b.emit("slice", [p], { start: [2, 0], size: [2, D], stride: [-1, 1] });
    const bottom = b.emit("relu", [b.emit("permute", [q], { perm: [1, 0] })]);
    const joined = b.emit("concat", [b.emit("mul", [top, top]), bottom], { axis: 0 });
    const padded = b.emit("pad", [b.emit("slice", [joined], { start: [0, 1], size: [D, D - 1], stride: [1, 1] })], { low: [0, 1], high: [0, 0], value: 0.5 });
    const scale = b.emit("add", [b.emit("mul", [padded, padded]), constant(b, padded, 1)]);
    return b.emit("contract", [x, b.emit("div", [padded, scale])], { spec: "nti,oi->nto" });
  },
  /** A weight divided by its own norm: what follows the sum reduces and repeats. */
  normalisedWeight(b, x, name) {
    const w = b.param(`${name}.w`, f32(D, D));
    const norm = b.emit("sqrt", [b.emit("reduce_sum", [b.emit("mul", [w, w])], { axes: [1] })]);
    return b.emit("contract", [x, b.emit("div", [w, repeat(b, norm, w, [0])])], { spec: "nti,oi->nto" });
  },
  /** A window over a parameter: its cotangent is folded after the sum. */
  slidingWeight(b, x, name) {
    const w = b.emit("window", [b.param(`${name}.w`, f32(2 * D - 1))], { axis: 0, count: D, taps: D, stride: 1, dilation: 1, offset: 0, divisor: 1 });
    return b.emit("contract", [x, w], { spec: "nti,oi->nto" });
  },
};

interface Model {
  readonly graph: Graph;
  /** Marked seeds per value, and the cotangents of parameters. */
  readonly b: Builder;
  readonly start: number;
  readonly seed: Value;
  readonly cts: ReadonlyMap<Value, Value>;
}

/** x = a look-up of tokens plus numbers, blocks, and a weighted half square as loss. */
function model(blocks: readonly string[], n: number): Model {
  const b = new Builder("m");
  const ids = b.input("ids", i32(n, T), 0);
  const shape = [n, T, 5];
  const hot = b.emit("cast", [b.emit("eq", [b.emit("iota", [], { shape, axis: 2 }), broadcast(b.emit, ids, shape, [0, 1])])], { dtype: "f32" });
  const looked = b.emit("contract", [hot, b.param("table", f32(5, D))], { spec: "ntv,vd->ntd" });
  let x = b.emit("add", [looked, b.input("x", f32(n, T, D), 0)]);
  blocks.forEach((kind, k) => { x = (BLOCKS[kind] as Block)(b, x, `${kind}${k}`); });
  const start = b.nodes.length;
  const seed = b.emit("sub", [x, b.input("t", x.type, 0)]);
  const cts = cotangents(b, new Map([[x, seed]]), b.params.map((p) => p.value));
  return { graph: b.finish([]), b, start, seed, cts };
}

function given(graph: Graph, seed: number): Record<string, NdArray> {
  const next = random(seed);
  return Object.fromEntries([...graph.params, ...graph.inputs].map(({ value: { name, type } }) =>
    [name, type.dtype === "i32" ? labels(type.shape, 5, next) : tensor(type.shape, next)]));
}

/** The numbers of one example, as a batch of its own. */
function alone(inputs: readonly GraphInput[], all: Readonly<Record<string, NdArray>>, n: number): Record<string, NdArray> {
  return { ...all, ...Object.fromEntries(inputs.map(({ value }) => {
    const { dtype, shape, data } = all[value.name] as NdArray;
    const per = size(shape.slice(1));
    return [value.name, ndarray(dtype, [1, ...shape.slice(1)], data.slice(n * per, (n + 1) * per))];
  })) };
}

const named = (map: ReadonlyMap<Value, Value>, cts: ReadonlyMap<Value, Value>) =>
  [...cts].map(([p, ct]) => ({ name: p.name, value: map.get(ct) as Value }));

function furthest(got: ArrayLike<number>, want: ArrayLike<number>): number {
  let [most, scale] = [0, 1e-3];
  for (let k = 0; k < want.length; k++) scale = Math.max(scale, Math.abs(want[k] as number));
  for (let k = 0; k < want.length; k++) most = Math.max(most, Math.abs((got[k] as number) - (want[k] as number)) / scale);
  return got.length === want.length ? most : Number.POSITIVE_INFINITY;
}

/** Gradients [n, ..] of the batch's examples, each run alone. */
function oracle(blocks: readonly string[], batch: Model, all: Readonly<Record<string, NdArray>>, n: number): Map<string, number[]> {
  const one = model(blocks, 1);
  const graph = one.b.finish([...one.cts].map(([p, value]) => ({ name: p.name, value })));
  const rows = Array.from({ length: n }, (_, k) => evaluate(graph, alone(batch.graph.inputs, all, k)));
  return new Map([...one.cts.keys()].map((p) => [p.name, rows.flatMap((r) => [...(r[p.name] as NdArray).data])]));
}

function check(blocks: readonly string[], n: number, seed: number): void {
  const m = model(blocks, n);
  const { b, cts } = m;
  const apart = perExample(b, b.nodes.slice(m.start), exampleMarks(b.finish([])), [...cts.values()]);
  const graph = b.finish(named(apart, cts));
  verify(graph);
  const all = given(m.graph, seed);
  const want = oracle(blocks, m, all, n);
  const got = evaluate(graph, all);
  for (const [p, numbers] of want) {
    expect((got[p] as NdArray).shape, p).toEqual([n, ...(m.graph.params.find((x) => x.value.name === p)?.value.type.shape ?? [])]);
    if (!(furthest((got[p] as NdArray).data, numbers) < CLOSE)) throw new Error(`seed ${seed}, ${blocks.join(" → ")}, ${n} examples: gradients of ${p} differ`);
  }
}

describe("per-example gradients", () => {
  for (const kind of Object.keys(BLOCKS))
    it(`of ${kind} are those of each example alone`, () => check([kind, "dense"], 2, 7));

  it("of random chains of blocks are those of each example alone", () => {
    const kinds = Object.keys(BLOCKS);
    fc.assert(fc.property(fc.array(fc.constantFrom(...kinds), { minLength: 1, maxLength: 4 }), fc.integer({ min: 1, max: 4 }), fc.nat(1000), check), { ...PATIENCE, seed: 5, numRuns: 40 });
  });

  it("mean the same after the passes that every program goes through", () => {
    const kinds = Object.keys(BLOCKS);
    const m = model(kinds, 2);
    const apart = perExample(m.b, m.b.nodes.slice(m.start), exampleMarks(m.b.finish([])), [...m.cts.values()]);
    const graph = m.b.finish(named(apart, m.cts));
    const all = given(m.graph, 3);
    const [before, after] = [evaluate(graph, all), evaluate(runPasses(graph, AFTER_GRADIENTS, { verify: true }), all)];
    for (const { name } of graph.results) expect(furthest((after[name] as NdArray).data, (before[name] as NdArray).data), name).toBeLessThan(CLOSE);
  });

  it("of some of the examples are those rows of all", () => {
    for (const kind of [...Object.keys(BLOCKS)]) {
      const m = model([kind], 4);
      const backward = m.b.nodes.slice(m.start);
      const marks = exampleMarks(m.b.finish([]));
      const whole = perExample(m.b, backward, marks, [...m.cts.values()]);
      const part = perExample(m.b, backward, marks, [...m.cts.values()], { range: { start: 1, count: 2 } });
      const all = given(m.graph, 3);
      const [a, p] = [whole, part].map((map) => evaluate(m.b.finish(named(map, m.cts)), all)) as [Record<string, NdArray>, Record<string, NdArray>];
      for (const name of Object.keys(a)) {
        const { data } = a[name] as NdArray;
        expect((p[name] as NdArray).data, `${kind} ${name}`).toEqual(data.slice(data.length / 4, (3 * data.length) / 4));
      }
    }
  });

  it("come with stacked columns in either order: [n, k, ..] from a stacked graph, [k, n, ..] stacked afterwards", () => {
    const [n, k] = [2, 3];
    for (const kind of Object.keys(BLOCKS)) {
      const m = model([kind, "denseOverRows"], n);
      const { b } = m;
      const backward = b.nodes.slice(m.start);
      const columns = b.input("columns", { ...m.seed.type, shape: [k, ...m.seed.type.shape] }, 1);
      const wanted = [...m.cts.values()];
      const after = perExample(b, backward, exampleMarks(b.finish([])), wanted);
      const outside = vmap(b.emit, b.nodes.slice(m.start), new Map([[m.seed, columns]]));
      const from = b.nodes.length;
      const stacked = vmap(b.emit, backward, new Map([[m.seed, columns]]));
      const inside = perExample(b, b.nodes.slice(from), exampleMarks(b.finish([])), wanted.map((v) => stacked.get(v) as Value));
      const results = [...m.cts].flatMap(([p, ct]) => [
        { name: `kn ${p.name}`, value: outside.get(after.get(ct) as Value) as Value },
        { name: `nk ${p.name}`, value: b.emit("permute", [inside.get(stacked.get(ct) as Value) as Value], { perm: [1, 0, ...p.type.shape.map((_, axis) => axis + 2)] }) },
        { name: `sum ${p.name}`, value: stacked.get(ct) as Value },
      ]);
      const graph = b.finish(results);
      const got = evaluate(graph, given(graph, 11));
      for (const { name } of m.cts.keys()) {
        const [kn, nk, sum] = ["kn", "nk", "sum"].map((w) => got[`${w} ${name}`] as NdArray) as [NdArray, NdArray, NdArray];
        expect(furthest(kn.data, nk.data), `${kind} ${name}`).toBeLessThan(CLOSE);
        const per = sum.data.length / k;
        const total = sum.data.map((_, i) => Array.from({ length: n }, (_, e) => kn.data[(Math.floor(i / per) * n + e) * per + (i % per)] as number).reduce((x, y) => x + y));
        expect(furthest(total, sum.data), `${kind} ${name}`).toBeLessThan(CLOSE);
      }
    }
  });

  it("of a parameter with a row per example are that row alone", () => {
    const b = new Builder("g");
    const p = b.param("p", f32(3, 2));
    const start = b.nodes.length;
    const z = b.emit("tanh", [b.emit("mul", [p, b.input("x", f32(3, 2), 0)])]);
    const cts = cotangents(b, new Map([[z, b.input("ct", z.type, 0)]]), [p]);
    const ct = cts.get(p) as Value;
    const rows = perExample(b, b.nodes.slice(start), exampleMarks(b.finish([])), [ct]).get(ct) as Value;
    const got = evaluate(b.finish([{ name: "rows", value: rows }, { name: "sum", value: ct }]), given(b.finish([]), 2));
    const [r, s] = [(got.rows as NdArray).data, (got.sum as NdArray).data];
    r.forEach((v, i) => { expect(v).toBe(Math.floor(i / 6) === Math.floor((i % 6) / 2) ? s[i % 6] : 0); });
  });

  it("take batch statistics as constants where marks share sums, and are refused with the node where they do not", () => {
    const build = () => {
      const b = new Builder("bn");
      const x = b.emit("mul", [b.input("x", f32(4, 3), 0), broadcast(b.emit, b.param("w", f32(3)), [4, 3], [1])]);
      b.origin = "BatchNorm \"/bn\"";
      const mean = b.emit("reduce_sum", [x], { axes: [0] });
      b.origin = undefined;
      const start = b.nodes.length;
      const z = b.emit("tanh", [b.emit("sub", [x, broadcast(b.emit, mean, [4, 3], [1])])]);
      const w = b.params[0]?.value as Value;
      const ct = cotangents(b, new Map([[z, b.input("ct", z.type, 0)]]), [w]).get(w) as Value;
      return { b, ct, backward: b.nodes.slice(start) };
    };
    const { b, ct, backward } = build();
    const rows = perExample(b, backward, exampleMarks(b.finish([]), { sharedSums: true }), [ct]).get(ct) as Value;
    const got = evaluate(b.finish([{ name: "rows", value: rows }, { name: "sum", value: ct }]), given(b.finish([]), 2));
    const total = [0, 1, 2].map((j) => [0, 1, 2, 3].reduce((s, n) => s + ((got.rows as NdArray).data[n * 3 + j] as number), 0));
    expect(furthest(total, (got.sum as NdArray).data)).toBeLessThan(CLOSE);
    const again = build();
    expect(() => perExample(again.b, again.backward, exampleMarks(again.b.finish([])), [again.ct]))
      .toThrow(expect.objectContaining({ code: "examples-lost", where: expect.stringContaining("/bn") }));
  });

  it("are refused where an op is not linear in the sum, and where there is no sum", () => {
    const b = new Builder("g");
    const x = b.input("x", f32(4, 3), 0);
    const sum = b.emit("reduce_sum", [x], { axes: [0] });
    const curved = b.emit("exp", [sum]);
    const shifted = b.emit("add", [sum, broadcast(b.emit, b.scalar(1), [3], [])]);
    const product = b.emit("mul", [sum, b.emit("neg", [sum])]);
    const p = b.param("p", f32(3));
    const free = b.emit("exp", [p]);
    const below = b.emit("div", [p, sum]);
    const edged = b.emit("pad", [sum], { low: [1], high: [0], value: 1 });
    const apart = b.emit("contract", [x, x], { spec: "ni,mj->ij" });
    const chosen = b.emit("select", [b.emit("gt", [p, free]), sum, p]);
    const marks = exampleMarks(b.finish([]));
    for (const [v, why] of [
      [curved, /"exp" is not linear/], [shifted, /"add" is not linear/], [product, /"mul" is not linear/],
      [below, /"div" is not linear/], [edged, /"pad" is not linear/], [chosen, /"select" is not linear/], [apart, /"contract" is not linear/], [free, /not a sum over examples/],
    ] as const)
      expect(() => perExample(b, b.nodes, marks, [v])).toThrow(why);
  });
});
