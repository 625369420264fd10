/** Kernels of row sweeps on an adapter: softmax and its loss, normalisation, several reductions of one shape, NaN, ragged sizes, and what must not join. */
import { describe, expect, it } from "vitest";
import { fuse } from "../../codegen/fuse.js";
import { PORTABLE } from "../../codegen/limits.js";
import { planProgram } from "../../codegen/plan.js";
import { Builder, broadcast } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { parse } from "../../ir/parse.js";
import { f32 } from "../../ir/type.js";
import { nullDevice } from "../../runtime/adapter.node.js";
import { Program } from "../../runtime/program.js";
import { testDevice } from "../support/gpu.js";
import { random, runPoisoned, tensor } from "../support/models.js";

const device = testDevice();

const kernels = (text: string): string[] =>
  fuse(parse(`graph g {\n${text}\n}`), PORTABLE, new Set()).groups
    .map((g) => `${[g.root, ...g.nodes].map((n) => n.op).join(" → ")}: ${g.stored.map((v) => `%${v.name}`).join(" ")}`);

const dispatches = (graph: Graph): number => planProgram([{ name: "main", graph }], new Set(), PORTABLE).plan.entries.main?.steps.length ?? 0;

async function same(graph: Graph, given: Readonly<Record<string, NdArray>>, tolerance: number): Promise<void> {
  const { results } = await runPoisoned(device().device, graph, given);
  for (const [name, want] of Object.entries(evaluate(graph, given))) {
    const got = (results[name] as NdArray).data;
    want.data.forEach((w, k) => {
      if (!(Object.is(got[k], w) || Math.abs((got[k] as number) - w) <= tolerance * Math.max(1, Math.abs(w)))) throw new Error(`${name}[${k}] is ${got[k]}, not ${w}`);
    });
  }
}

/** A graph of x [rows, cols] whose last axis is reduced. */
function rowsGraph(shape: readonly number[], build: (b: Builder, x: Value, tools: { wide: (v: Value) => Value; sum: (v: Value) => Value; max: (v: Value) => Value }) => Readonly<Record<string, Value>>): Graph {
  const b = new Builder("g");
  const x = b.input("x", f32(...shape));
  const axis = shape.length - 1;
  const lead = shape.slice(0, -1).map((_, k) => k);
  const tools = {
    wide: (v: Value) => broadcast(b.emit, v, shape, lead),
    sum: (v: Value) => b.emit("reduce_sum", [v], { axes: [axis] }),
    max: (v: Value) => b.emit("reduce_max", [v], { axes: [axis] }),
  };
  return b.finish(Object.entries(build(b, x, tools)).map(([name, value]) => ({ name, value })));
}

const softmax = (shape: readonly number[]): Graph => rowsGraph(shape, (b, x, { wide, sum, max }) => {
  const e = b.emit("exp", [b.emit("sub", [x, wide(max(x))])]);
  const total = sum(e);
  return { softmax: b.emit("div", [e, wide(total)]), logTotal: b.emit("log", [total]) };
});

const layerNorm = (shape: readonly number[]): Graph => rowsGraph(shape, (b, x, { wide, sum }) => {
  const n = b.emit("broadcast", [b.scalar(shape[shape.length - 1] as number)], { shape: shape.slice(0, -1), axes: [] });
  const centred = b.emit("sub", [x, wide(b.emit("div", [sum(x), n]))]);
  const variance = b.emit("div", [sum(b.emit("mul", [centred, centred])), n]);
  const small = b.emit("broadcast", [b.scalar(1e-3)], { shape: shape.slice(0, -1), axes: [] });
  return { y: b.emit("div", [centred, wide(b.emit("sqrt", [b.emit("add", [variance, small])]))]), variance };
});

describe("row sweeps", () => {
  const CROSS_ENTROPY = `
    input %z: f32[32, 10]
    input %t: i32[32]
    %m = reduce_max(%z) {axes = [1]}
    %mb = broadcast(%m) {shape = [32, 10], axes = [0]}
    %d = sub(%z, %mb)
    %e = exp(%d)
    %s = reduce_sum(%e) {axes = [1]}
    %k = iota() {shape = [32, 10], axis = 1}
    %tb = broadcast(%t) {shape = [32, 10], axes = [0]}
    %hit = eq(%k, %tb)
    %zero = constant() {value = 0, dtype = "f32"}
    %zeros = broadcast(%zero) {shape = [32, 10], axes = []}
    %picked = select(%hit, %d, %zeros)
    %p = reduce_sum(%picked) {axes = [1]}
    %l = log(%s)
    %loss = sub(%l, %p)
    %sb = broadcast(%s) {shape = [32, 10], axes = [0]}
    %soft = div(%e, %sb)
    %one = cast(%hit) {dtype = "f32"}
    %g = sub(%soft, %one)`;

  it("the loss of every example and its gradient are one kernel, which stores nothing else", () => {
    const [made, ...more] = kernels(`${CROSS_ENTROPY}\n return loss = %loss, g = %g`);
    expect(more).toEqual([]);
    expect(made).toMatch(/^reduce_max → .*reduce_sum.*reduce_sum.*: %loss %g$/);
  });

  it("what a kernel elsewhere reads of a row is stored", () => {
    expect(kernels(`${CROSS_ENTROPY}\n %c = reduce_sum(%e) {axes = [0]}\n return loss = %loss, g = %g, c = %c`).map((k) => k.replace(/^.*:/, ""))).toEqual([" %e %loss %g", " %c"]);
  });

  it("a row's number must stay with its row: turned or sliced, it is another kernel's", () => {
    const text = (move: string) => `
      input %x: f32[9, 9]
      %m = reduce_max(%x) {axes = [1]}
      ${move}
      %d = sub(%x, %b)
      return d = %d`;
    expect(kernels(text("%b = broadcast(%m) {shape = [9, 9], axes = [0]}"))).toEqual(["reduce_max → sub: %d"]);
    expect(kernels(text("%b = broadcast(%m) {shape = [9, 9], axes = [1]}"))).toHaveLength(2);
    expect(kernels(text("%s = slice(%m) {start = [8], size = [9], stride = [-1]}\n %b = broadcast(%s) {shape = [9, 9], axes = [0]}"))).toHaveLength(2);
    expect(kernels(text("%k = broadcast(%m) {shape = [9, 9], axes = [0]}\n %b = permute(%k) {perm = [1, 0]}"))).toHaveLength(2);
  });

  it("an axis of size 1 in the reduced one's place keeps the row", () => {
    expect(kernels(`
      input %x: f32[4, 9]
      %m = reduce_max(%x) {axes = [1]}
      %k = reshape(%m) {shape = [4, 1]}
      %c = exp(%k)
      %f = reshape(%c) {shape = [4]}
      %b = broadcast(%f) {shape = [4, 9], axes = [0]}
      %d = sub(%x, %b)
      return c = %c, d = %d`)).toEqual(["reduce_max → exp → sub: %c %d"]);
  });

  it("other axes, or few long rows, are not swept by one thread each", () => {
    const text = (rows: number, cols: number, axis: number) => `
      input %x: f32[${rows}, ${cols}]
      %m = reduce_max(%x) {axes = [${axis}]}
      %b = broadcast(%m) {shape = [${rows}, ${cols}], axes = [${1 - axis}]}
      %d = sub(%x, %b)
      return d = %d`;
    expect(kernels(text(9, 9, 0))).toHaveLength(2);
    expect(kernels(text(8, 5000, 1))).toHaveLength(2);
    expect(kernels(text(8, 64, 1))).toHaveLength(1);
    expect(kernels(text(512, 768, 1))).toHaveLength(1);
  });

  it("a reduction that waits for another kernel of the rows does not join them", () => {
    expect(kernels(`
      input %x: f32[16, 8]
      input %w: f32[8, 8]
      %m = reduce_max(%x) {axes = [1]}
      %b = broadcast(%m) {shape = [16, 8], axes = [0]}
      %d = sub(%x, %b)
      %y = contract(%d, %w) {spec = "ni,ij->nj"}
      %s = reduce_sum(%y) {axes = [1]}
      return s = %s`)).toEqual(["reduce_max → sub: %d", "contract: %y", "reduce_sum: %s"]);
  });

  it("more rows' values than a kernel may bind are parted", () => {
    const b = new Builder("g");
    const x = b.input("x", f32(16, 8));
    const inputs = Array.from({ length: 9 }, (_, k) => b.input(`y${k}`, f32(16, 8)));
    const m = b.emit("reduce_max", [x], { axes: [1] });
    const graph = b.finish(inputs.map((y, k) => ({ name: `r${k}`, value: b.emit("mul", [y, b.emit("sub", [x, broadcast(b.emit, m, [16, 8], [0])])]) })));
    const { plan } = planProgram([{ name: "main", graph }], new Set(), PORTABLE);
    for (const k of plan.kernels) expect(k.bindings.filter((kind) => kind !== "run").length).toBeLessThanOrEqual(PORTABLE.storageBuffers);
  });

  for (const rows of [1, 3, 65])
    for (const cols of [2, 3, 5, 7, 8, 10, 63, 64])
      it(`softmax and normalisation of ${rows} rows of ${cols}`, async () => {
        const x = tensor([rows, cols], random(rows * 100 + cols), 3);
        expect(dispatches(softmax([rows, cols]))).toBe(1);
        await same(softmax([rows, cols]), { x }, 3e-6);
        expect(dispatches(layerNorm([rows, cols]))).toBe(1);
        await same(layerNorm([rows, cols]), { x }, 1e-5);
      });

  for (const cols of [65, 127, 256, 1000])
    it(`rows of ${cols} are read again by every sweep`, async () => {
      for (const shape of [[70, cols], [5, 13, cols]]) {
        const x = tensor(shape, random(cols), 3);
        for (const graph of [softmax(shape), layerNorm(shape)]) {
          expect(dispatches(graph)).toBe(1);
          await same(graph, { x }, 2e-5);
        }
      }
    });

  it("the whole loss, its classes out of range included, is two kernels", async () => {
    const graph = parse(`graph g {${CROSS_ENTROPY}\n %all = reduce_sum(%loss) {axes = [0]}\n return loss = %loss, g = %g, all = %all\n}`);
    expect(dispatches(graph)).toBe(2);
    const t = ndarray("i32", [32], Float64Array.from({ length: 32 }, (_, k) => (k === 3 ? -1 : k === 7 ? 10 : k % 10)));
    await same(graph, { z: tensor([32, 10], random(5), 20), t }, 1e-5);
  });

  it("huge logits neither overflow nor vanish", async () => {
    const data = Float64Array.from({ length: 24 }, (_, k) => Math.fround([1e30, -1e30, 88, -3e38, 3e38, 0][k % 6] as number));
    await same(softmax([4, 6]), { x: ndarray("f32", [4, 6], data) }, 1e-6);
  });

  for (const cols of [6, 8, 80])
    it(`a NaN stays in its row of ${cols} and is in all of it`, async () => {
      const shape = [70, cols];
      const x = tensor(shape, random(3));
      x.data[2 * cols + 1] = Number.NaN;
      x.data[4 * cols + cols - 1] = Number.NaN;
      const { results } = await runPoisoned(device().device, softmax(shape), { x });
      const bad = new Set([...(results.softmax as NdArray).data].flatMap((v, k) => (Number.isNaN(v) ? [Math.floor(k / cols)] : [])));
      expect([...bad]).toEqual([2, 4]);
      expect([...(results.softmax as NdArray).data.slice(2 * cols, 3 * cols)].every(Number.isNaN)).toBe(true);
      const most = rowsGraph(shape, (_b, v, { max, sum }) => ({ max: max(v), sum: sum(v) }));
      const { results: r } = await runPoisoned(device().device, most, { x });
      for (const name of ["max", "sum"]) expect([...(r[name] as NdArray).data].flatMap((v, k) => (Number.isNaN(v) ? [k] : []))).toEqual([2, 4]);
    });

  it("sums, maxima and places of maxima of two axes, integers too, with ties", async () => {
    for (const dtype of ["f32", "i32"] as const)
      for (const shape of [[6, 3, 5], [70, 9, 12]] as const) {
        const b = new Builder("g");
        const x = b.input("x", { dtype, shape });
        const at = { axes: [1, 2] };
        const most = b.emit("reduce_max", [x], at);
        const above = b.emit("sub", [x, broadcast(b.emit, most, shape, [0])]);
        const graph = b.finish([
          { name: "most", value: most }, { name: "where", value: b.emit("reduce_argmax", [x], at) }, { name: "sum", value: b.emit("reduce_sum", [above], at) }, { name: "above", value: above },
        ]);
        expect(dispatches(graph)).toBe(1);
        const next = random(11);
        const data = Float64Array.from({ length: shape[0] * shape[1] * shape[2] }, () => Math.floor(6 * next()));
        await same(graph, { x: ndarray(dtype, shape, data) }, 0);
      }
  });

  it("over a view that is turned, padded and mirrored, with an update in place", async () => {
    const b = new Builder("g");
    const x = b.input("x", f32(5, 6));
    const w = b.input("w", f32(6, 7));
    const turned = b.emit("permute", [b.emit("slice", [x], { start: [4, 0], size: [5, 6], stride: [-1, 1] })], { perm: [1, 0] });
    const view = b.emit("pad", [turned], { low: [0, 1], high: [0, 1], value: 0.5 });
    const y = b.emit("add", [view, w]);
    const m = b.emit("reduce_max", [y], { axes: [1] });
    const e = b.emit("exp", [b.emit("sub", [y, broadcast(b.emit, m, [6, 7], [0])])]);
    const s = b.emit("reduce_sum", [e], { axes: [1] });
    const graph = b.finish([{ name: "w", value: b.emit("div", [e, broadcast(b.emit, s, [6, 7], [0])]) }, { name: "s", value: s }]);
    const given = { x: tensor([5, 6], random(21)), w: tensor([6, 7], random(22)) };
    const { results } = await runPoisoned(device().device, graph, given, new Set(["w"]));
    const want = evaluate(graph, given);
    for (const name of ["w", "s"]) (want[name] as NdArray).data.forEach((v, k) => { expect(Math.abs(((results[name] as NdArray).data[k] as number) - v)).toBeLessThan(3e-6); });
  });

  it("compile where no device is", async () => {
    const opened = await nullDevice();
    try {
      for (const graph of [softmax([3, 5]), softmax([128, 1000]), layerNorm([64, 768]), layerNorm([2, 9, 16])]) {
        const { plan, sources } = planProgram([{ name: "main", graph }], new Set(), PORTABLE);
        await (await Program.create(opened.device, plan, sources)).dispose();
      }
    } finally {
      await opened.close();
    }
  });
});
