/** What each kind of layer keeps, by formulas written out, and what no kind may depend on. In float64. */
import { describe, expect, it } from "vitest";
import { type Builder, broadcast } from "../../ir/builder.js";
import type { Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { f32, size } from "../../ir/type.js";
import { custom, type Forward, random, relative, tensor } from "../support/models.js";
import { diagonals, fromRows, inputsOf, Lab, net, pickExamples, type Row } from "./support.js";
import { fused, type Kind, KINDS, repeated, tied, V } from "./zoo.js";

const range = (n: number): number[] => Array.from({ length: n }, (_, k) => k);
const data = (x: NdArray | undefined): Float64Array => (x as NdArray).data;
const full = (b: Builder, v: Value, shape: readonly number[], axes: readonly number[]) => broadcast(b.emit, v, shape, axes);

/** Statistics that do not depend on how many examples they are a mean of, and sums of gradients. */
const means = (results: Readonly<Record<string, NdArray>>, count: number): [string, Float64Array][] =>
  Object.entries(results).filter(([name]) => /^(kfac|grad)\//.test(name)).map(([name, x]) => [name, name.startsWith("grad/") ? x.data.map((v) => v / count) : x.data]);

describe.each(["empirical", "exact"] as const)("%s Fisher", (kind) => {
  const lab = ([, forward, more]: Kind, batch: number) => new Lab(forward, batch, { fisher: { kind, samples: 1 }, ...more });
  const inputs = (l: Lab): Record<string, NdArray> => {
    const given = inputsOf(l.m, 51, V);
    const [head] = l.m.heads as readonly [Lab["m"]["heads"][0] & object];
    return { ...given, target: tensor(head.loss.z.type.shape, random(52)) };
  };

  it.each(KINDS)("%s: statistics are means over examples, so weights are how often one counts and a batch may be cut anywhere", (...k) => {
    const [three, two] = [lab(k, 3), lab(k, 2)];
    const all = inputs(three);
    // an example alone: twice, in a batch of two
    const alone = range(3).map((n) => new Map(means(two.stats(pickExamples(all, [n, n]), 2), 2)));
    const expected = (weights: readonly number[]) => (name: string): Float64Array => {
      const total = weights.reduce((x, y) => x + y);
      const each = alone.map((one) => one.get(name) as Float64Array);
      return (each[0] as Float64Array).map((_, i) => weights.reduce((sum, w, n) => sum + (w * ((each[n] as Float64Array)[i] as number)) / total, 0));
    };
    const compare = (results: Record<string, NdArray>, count: number, weights: readonly number[], what: string) => {
      const found = means(results, count);
      expect(found.length).toBeGreaterThanOrEqual(three.layers.length * 2);
      // norms of A and G are of the order of 1: sums of a few terms
      for (const [name, x] of found) expect(relative(x, expected(weights)(name)), `${what}: ${name}`).toBeLessThan(1e-10);
    };
    compare(three.stats(all, 3), 3, [1, 1, 1], "whole");
    compare(two.stats(pickExamples(all, [0, 2]), 2), 2, [1, 0, 1], "part");
    for (const weights of [[1, 1, 1], [1, 0, 1], [0, 0, 1], [0.5, 2, 0.25]])
      compare(three.stats({ ...all, weight: ndarray("f32", [3], weights) }, weights.reduce((x, y) => x + y)), weights.reduce((x, y) => x + y), weights, `weights ${weights}`);
  });

  it.each(KINDS)("%s: factors are symmetric, and no direction has a negative square", (...k) => {
    const l = lab(k, 2);
    const got = l.stats(inputs(l), 2);
    const next = random(53);
    for (const [name, { shape, data: F }] of Object.entries(got)) {
      if (!name.startsWith("kfac/")) continue;
      const n = shape[shape.length - 1] as number;
      if (shape[shape.length - 2] !== n || k[2]?.maxFactor) {
        expect(Math.min(...F), name).toBeGreaterThanOrEqual(0);
        continue;
      }
      const scale = Math.max(...F.map(Math.abs));
      for (let at = 0; at < F.length; at += n * n) {
        for (const i of range(n)) for (const j of range(n)) expect(Math.abs((F[at + i * n + j] as number) - (F[at + j * n + i] as number)), name).toBeLessThanOrEqual(1e-14 * scale);
        for (let tries = 0; tries < 5; tries++) {
          const v = range(n).map(next);
          expect(v.reduce((s, x, i) => s + x * v.reduce((r, y, j) => r + y * (F[at + i * n + j] as number), 0), 0), name).toBeGreaterThan(-1e-12 * scale);
        }
      }
    }
  });
});

describe("the rows of", () => {
  it("an embedding are single ones: A counts the tokens per example, on its diagonal", () => {
    const lab = new Lab(net((m) => m.embedding(m.input("x", [3], { dtype: "i32" }), V, 2, { name: "e" })), 2);
    const x = ndarray("i32", [2, 3], [1, 1, 4, 0, 1, 3]);
    const target = tensor([2, 3, 2], random(54));
    const got = lab.stats({ x, target }, 2);
    expect([...data(got["kfac/e.weight/A"])]).toEqual([0.5, 1.5, 0, 0.5, 0.5]);
    const w = data(lab.params["e.weight"]);
    const rows: Row[] = range(6).map((k) => {
      const token = x.data[k] as number;
      return { example: Math.floor(k / 3), a: range(V).map((v) => Number(v === token)), g: [range(2).map((o) => (w[token * 2 + o] as number) - (target.data[k * 2 + o] as number))] };
    });
    const want = fromRows(rows, { examples: 2 });
    expect(relative(data(got["kfac/e.weight/G"]), want.G)).toBeLessThan(1e-13);
    expect(relative(data(got["grad/e.weight"]), want.gradient)).toBeLessThan(1e-13);
  });

  it("a tied embedding are pooled as stored: at the transposed site g rows go to A and input rows to G", () => {
    const [T, D, N] = [3, 4, 2];
    const lab = new Lab(tied(T, D), N);
    const { x } = inputsOf(lab.m, 55, V) as { x: NdArray };
    const inputs = { x, target: tensor([N, T, V], random(56)) };
    const got = lab.stats(inputs, N);
    const E = data(lab.params.E);
    const e = (v: number, d: number): number => E[v * D + d] as number;
    const ids = data(inputs.x);
    const [A, G, gradient] = [new Float64Array(V), new Float64Array(D * D), new Float64Array(D * V)];
    const add = (into: Float64Array, at: number, by: number) => { into[at] = (into[at] as number) + by; };
    ids.forEach((id, k) => {
      const h = range(D).map((d) => Math.tanh(e(id, d)));
      const up = range(V).map((v) => h.reduce((s, x, d) => s + x * e(v, d), 0) - (inputs.target.data[k * V + v] as number));
      const down = range(D).map((d) => (1 - (h[d] as number) ** 2) * up.reduce((s, g, v) => s + g * e(v, d), 0));
      add(A, id, 1 / N);
      for (const v of range(V)) add(A, v, (up[v] as number) ** 2 / N);
      for (const i of range(D)) for (const j of range(D)) add(G, i * D + j, ((down[i] as number) * (down[j] as number) + (h[i] as number) * (h[j] as number)) / (N * 2 * T));
      for (const d of range(D)) add(gradient, d * V + id, down[d] as number);
      for (const d of range(D)) for (const v of range(V)) add(gradient, d * V + v, (h[d] as number) * (up[v] as number));
    });
    expect(relative(data(got["kfac/E/A"]), A)).toBeLessThan(1e-13);
    expect(relative(data(got["kfac/E/G"]), G)).toBeLessThan(1e-13);
    expect(relative(data(got["grad/E"]), gradient)).toBeLessThan(1e-13);
  });

  it("a tied autoencoder likewise, the homogeneous 1 only where the bias is added", () => {
    const lab = new Lab(net((m) => {
      const w = m.param("W", [3, 4]);
      return m.matmul(m.tanh(m.add(m.matmul(m.input("x", [4]), m.transpose(w)), m.param("b", [3]))), w);
    }), 2, {});
    const inputs = { x: tensor([2, 4], random(57)), target: tensor([2, 4], random(58)) };
    const got = lab.stats(inputs, 2);
    const [W, b] = [data(lab.params.W), data(lab.params.b)];
    const rows: Row[] = range(2).flatMap((n): Row[] => {
      const x = range(4).map((i) => inputs.x.data[n * 4 + i] as number);
      const h = range(3).map((o) => Math.tanh(x.reduce((s, v, i) => s + v * (W[o * 4 + i] as number), b[o] as number)));
      const up = range(4).map((i) => h.reduce((s, v, o) => s + v * (W[o * 4 + i] as number), 0) - (inputs.target.data[n * 4 + i] as number));
      const down = h.map((v, o) => (1 - v * v) * up.reduce((s, g, i) => s + g * (W[o * 4 + i] as number), 0));
      return [{ example: n, site: 0, a: [...x, 1], g: [down] }, { example: n, site: 1, a: [...up, 0], g: [h] }];
    });
    const want = fromRows(rows, { examples: 2 });
    expect(lab.layer("W").bias?.param.name).toBe("b");
    expect(relative(data(got["kfac/W/A"]), want.A)).toBeLessThan(1e-13);
    expect(relative(data(got["kfac/W/G"]), want.G)).toBeLessThan(1e-13);
    expect(relative(data(got["grad/W"]), want.gradient)).toBeLessThan(1e-13);
  });

  it("a weight used twice are all in one pool, T counting both uses", () => {
    const lab = new Lab(repeated, 2);
    const inputs = { x: tensor([2, 4], random(59)), target: tensor([2, 4], random(60)) };
    const got = lab.stats(inputs, 2);
    const [w, c] = [data(lab.params.w), data(lab.params.c)];
    const times = (x: readonly number[]) => range(4).map((o) => x.reduce((s, v, i) => s + v * (w[o * 4 + i] as number), 0));
    const rows: Row[] = range(2).flatMap((n): Row[] => {
      const x = range(4).map((i) => inputs.x.data[n * 4 + i] as number);
      const h = times(x).map((v, o) => Math.tanh(v + (c[o] as number)));
      const up = times(h).map((v, i) => v - (inputs.target.data[n * 4 + i] as number));
      const down = h.map((v, o) => (1 - v * v) * up.reduce((s, g, i) => s + g * (w[i * 4 + o] as number), 0));
      return [{ example: n, site: 0, a: [...x, 1], g: [down] }, { example: n, site: 1, a: [...h, 0], g: [up] }];
    });
    const want = fromRows(rows, { examples: 2 });
    for (const [name, x] of [["kfac/w/A", want.A], ["kfac/w/G", want.G], ["grad/w", want.gradient]] as const) expect(relative(data(got[name]), x), name).toBeLessThan(1e-13);
  });

  it("a part of a fused projection are those of a layer of its own", () => {
    const apart: Forward = custom("apart", 6, (b, n) => {
      const x = b.input("x", f32(n, 3, 4), 0);
      const part = (name: string) => {
        const y = b.emit("contract", [x, b.param(name, f32(4, 4))], { spec: "nti,oi->nto" });
        return b.emit("add", [y, full(b, b.param(`${name}c`, f32(4)), [n, 3, 4], [2])]);
      };
      const [q, k, v] = [part("q"), part("k"), part("v")];
      return b.emit("contract", [b.emit("tanh", [b.emit("contract", [q, k], { spec: "nti,nsi->nts" })]), v], { spec: "nts,nsi->nti" });
    });
    const [one, three] = [new Lab(fused, 2), new Lab(apart, 2)];
    const cut = (x: NdArray, k: number, shape: readonly number[]) => ndarray("f32", shape, x.data.slice(k * size(shape), (k + 1) * size(shape)));
    "qkv".split("").forEach((name, k) => Object.assign(three.params, { [name]: cut(one.params.W as NdArray, k, [4, 4]), [`${name}c`]: cut(one.params.c as NdArray, k, [4]) }));
    const inputs = { x: tensor([2, 3, 4], random(61)), target: tensor([2, 3, 4], random(62)) };
    const [a, b] = [one.stats(inputs, 2), three.stats(inputs, 2)];
    "qkv".split("").forEach((name, k) => {
      const mine = `W[${4 * k}:${4 * k + 4}]`;
      for (const [x, y] of [[`kfac/${mine}/A`, `kfac/${name}/A`], [`kfac/${mine}/G`, `kfac/${name}/G`], [`grad/${mine}`, `grad/${name}`]] as const) expect(relative(data(a[x]), data(b[y])), x).toBeLessThan(1e-13);
    });
  });

  it("a diagonal side are the squares that the full side has on its diagonal, for one group and for several", () => {
    for (const groups of [1, 2]) {
      const forward = net((m) => m.tanh(m.conv2d(m.input("x", [4, 4, 4]), 4, 3, { groups, name: "c" })));
      const [whole, main] = [new Lab(forward, 2), new Lab(forward, 2, { maxFactor: 1 })];
      const inputs = { x: tensor([2, 4, 4, 4], random(63)), target: tensor([2, 4, 2, 2], random(64)) };
      const [a, b] = [whole.stats(inputs, 2), main.stats(inputs, 2)];
      const l = whole.layer("c.weight");
      expect(relative(data(b["kfac/c.weight/A"]), diagonals(data(a["kfac/c.weight/A"]), l.dA))).toBeLessThan(1e-13);
      expect(relative(data(b["kfac/c.weight/G"]), diagonals(data(a["kfac/c.weight/G"]), l.dG))).toBeLessThan(1e-13);
      expect(data(b["kfac/c.weight/A"])[l.dA - 1]).toBe(4);
    }
  });
});
