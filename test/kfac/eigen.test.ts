/**
 * The damping forms `eig` and `ekfac` against their formula over dense matrices:
 *
 *   P = U_G [(U_Gᵀ ∇ U_A) / (S + λ)] U_Aᵀ      S = s_G s_Aᵀ, or (1/N) Σ_n (U_Gᵀ ∇_n U_A)² from the gradient of each example
 */
import { describe, expect, it } from "vitest";
import { evaluate } from "../../ir/evaluate.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { f32, size } from "../../ir/type.js";
import { toMatrix } from "../../runtime/matrix.js";
import { Trainer } from "../../runtime/trainer.js";
import { compile } from "../../src/compile.js";
import { type Layer, layerInfo } from "../../src/kfac/layer.js";
import { backGraph, scaleGraph } from "../../src/train/step.js";
import { testDevice } from "../support/gpu.js";
import { bind, custom, defaultFields, type Forward, matmul, options, random, relative, tensor, transpose } from "../support/models.js";
import { toHost } from "../support/run-graph.js";
import { Lab, inputsOf, net, pickExamples } from "./support.js";
import { timeFirst } from "./zoo.js";

const range = (n: number): number[] => Array.from({ length: n }, (_, k) => k);
const data = (x: NdArray | undefined): Float64Array => (x as NdArray).data;

/** Eigenvalues and eigenvectors (as columns) of a symmetric matrix: Jacobi's rotations. */
function jacobi(m: ArrayLike<number>, n: number): { values: Float64Array; vectors: Float64Array } {
  const a = Float64Array.from(m);
  const u = Float64Array.from({ length: n * n }, (_, k) => Number(k % (n + 1) === 0));
  const at = (x: Float64Array, i: number, j: number): number => x[i * n + j] as number;
  for (let sweep = 0; sweep < 60; sweep++)
    for (let p = 0; p < n; p++)
      for (let q = p + 1; q < n; q++) {
        if (Math.abs(at(a, p, q)) < 1e-300) continue;
        const theta = (at(a, q, q) - at(a, p, p)) / (2 * at(a, p, q));
        const t = (theta >= 0 ? 1 : -1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const [c, s] = [1 / Math.sqrt(t * t + 1), t / Math.sqrt(t * t + 1)];
        const turn = (x: Float64Array, i: number, j: number) => {
          const [x1, x2] = [x[i] as number, x[j] as number];
          x[i] = c * x1 - s * x2;
          x[j] = s * x1 + c * x2;
        };
        for (let k = 0; k < n; k++) turn(a, k * n + p, k * n + q);
        for (let k = 0; k < n; k++) turn(a, p * n + k, q * n + k);
        for (let k = 0; k < n; k++) turn(u, k * n + p, k * n + q);
      }
  return { values: Float64Array.from({ length: n }, (_, k) => at(a, k, k)), vectors: u };
}

/** Both bases of one group: the identity on a diagonal side. */
interface Bases { readonly UA: Float64Array; readonly UG: Float64Array; readonly sA: Float64Array; readonly sG: Float64Array }
function basesOf(layer: Pick<Layer, "dA" | "dG" | "sides">, A: Float64Array, G: Float64Array, group: number): Bases {
  const side = (d: number, form: string, all: Float64Array) => form === "full" ? jacobi(all.slice(group * d * d, (group + 1) * d * d), d)
    : { values: all.slice(group * d, (group + 1) * d), vectors: Float64Array.from({ length: d * d }, (_, k) => Number(k % (d + 1) === 0)) };
  const [a, g] = [side(layer.dA, layer.sides.A, A), side(layer.dG, layer.sides.G, G)];
  return { UA: a.vectors, UG: g.vectors, sA: a.values, sG: g.values };
}

/** U_Gᵀ M U_A, and back. */
const inside = ({ UA, UG }: Pick<Bases, "UA" | "UG">, M: ArrayLike<number>, dG: number, dA: number): Float64Array => matmul(matmul(transpose(UG, dG, dG), M, dG, dG, dA), UA, dG, dA, dA);
const outside = ({ UA, UG }: Pick<Bases, "UA" | "UG">, M: ArrayLike<number>, dG: number, dA: number): Float64Array => matmul(matmul(UG, M, dG, dG, dA), transpose(UA, dA, dA), dG, dA, dA);

/** One weight at three sites, its bias at two. */
const repeated: Forward = custom("repeated", 7, (b, n) => {
  const [w, c] = [b.param("w", f32(4, 4)), b.param("c", f32(4))];
  const use = (x: ReturnType<typeof b.input>) => b.emit("contract", [x, w], { spec: "ni,oi->no" });
  const biased = (x: ReturnType<typeof b.input>) => b.emit("tanh", [b.emit("add", [use(x), b.emit("broadcast", [c], { shape: [n, 4], axes: [1] })])]);
  return use(biased(biased(b.input("x", f32(n, 4), 0))));
});
/** Tied autoencoder over 3 positions: a transposed site, T > 1. */
const tied: Forward = net((m) => {
  const w = m.param("W", [3, 4]);
  return m.matmul(m.tanh(m.add(m.matmul(m.input("x", [3, 4]), m.transpose(w)), m.param("b", [3]))), w);
});
const CASES: readonly (readonly [string, Forward, { maxFactor?: number; sharing?: Record<string, "expand" | "reduce"> }])[] = [
  ["one position", net((m) => m.dense(m.tanh(m.dense(m.input("x", [4]), 5)), 3)), {}],
  ["rows of no multiple of four", net((m) => m.tanh(m.dense(m.tanh(m.dense(m.input("x", [17]), 18)), 3))), {}],
  ["many positions", net((m) => m.tanh(m.dense(m.tanh(m.dense(m.input("x", [3, 4]), 5)), 3))), {}],
  ["groups", net((m) => m.tanh(m.conv2d(m.tanh(m.conv2d(m.input("x", [4, 5, 5]), 4, 3, { groups: 2 })), 4, 2, { groups: 4 }))), {}],
  ["transposed, grouped", net((m) => m.tanh(m.convTranspose2d(m.input("x", [4, 3, 3]), 2, 3, { groups: 2, stride: 2 }))), {}],
  ["an embedding, diagonal A", net((m) => m.tanh(m.embedding(m.input("x", [3], { dtype: "i32" }), 5, 4))), {}],
  ["diagonal sides, groups", net((m) => m.tanh(m.conv2d(m.input("x", [4, 4, 4]), 4, 3, { groups: 2 }))), { maxFactor: 2 }],
  ["both sides diagonal", net((m) => m.tanh(m.dense(m.input("x", [3, 4]), 3))), { maxFactor: 1 }],
  ["reduced", net((m) => m.tanh(m.dense(m.input("x", [3, 4]), 3))), { sharing: { "*": "reduce" } }],
  ["many positions, time in front", timeFirst, { sharing: { "*": "expand" } }],
  ["tied the other way round", tied, {}],
  ["one weight three times", repeated, {}],
];
const N = 3;
const LAMBDA = 2 ** -6;

const batchFor = (lab: Lab): Record<string, NdArray> => {
  const shape = lab.m.heads[0]?.loss.z.type.shape as readonly number[];
  return { ...inputsOf(lab.m, 71, 5), target: tensor(shape, random(72)) };
};

/** The gradient of each example as matrices [groups, dG, dA], from batches that hold nothing but that example. */
function perExample(lab: Lab, forward: Forward, more: object, inputs: Readonly<Record<string, NdArray>>, name: string): Float64Array[] {
  const two = new Lab(forward, 2, more);
  Object.assign(two.params, lab.params);
  return range(N).map((n) => data(two.stats(pickExamples(inputs, [n, n]), 2, { stats: false })[`grad/${name}`]).map((x) => x / 2));
}

const cut = (x: Float64Array, group: number, n: number): Float64Array => x.slice(group * n, (group + 1) * n);

/** E[(U_Gᵀ ∇_n U_A)²] of one group. */
const moments = (bases: Pick<Bases, "UA" | "UG">, each: readonly Float64Array[], group: number, dG: number, dA: number): Float64Array => {
  const squares = each.map((g) => inside(bases, cut(g, group, dG * dA), dG, dA).map((x) => x * x));
  return (squares[0] as Float64Array).map((_, k) => squares.reduce((s, q) => s + (q[k] as number), 0) / each.length);
};

/** Blocks [d0, d1] in the corners of [groups, rows, columns]. */
function corners(shape: readonly number[], blocks: readonly Float64Array[], d1: number): NdArray {
  const [rows, columns] = shape.slice(-2) as [number, number];
  const out = new Float64Array(size(shape));
  blocks.forEach((block, g) => block.forEach((x, k) => { out[(g * rows + Math.floor(k / d1)) * columns + (k % d1)] = x; }));
  return ndarray("f32", shape, out);
}

describe.each(["eig", "ekfac"] as const)("%s, in float64", (inverse) => {
  it.each(CASES)("%s: scalings and direction are those of the dense formula", (_, forward, more) => {
    const lab = new Lab(forward, N, { inverse, ...more });
    const inputs = batchFor(lab);
    const stats = lab.stats(inputs, N);
    const state: Record<string, NdArray> = { ...lab.params };
    const back = backGraph(lab.m);
    const shapeOf = (name: string): readonly number[] | undefined => back.inputs.find((i) => i.value.name === name)?.value.type.shape;
    const directions = new Map<Layer, Float64Array>();
    for (const layer of lab.layers.filter((l) => l.form === "kronecker")) {
      const { name, dA, dG, groups } = layer;
      const bases = range(groups).map((g) => basesOf(layer, data(stats[`kfac/${name}/A`]), data(stats[`kfac/${name}/G`]), g));
      for (const [part, d, of] of [["UA", dA, (b: Bases) => b.UA], ["UG", dG, (b: Bases) => b.UG]] as const) {
        const shape = shapeOf(`kfac/${name}/${part}`);
        expect(shape !== undefined).toBe(layer.sides[part === "UA" ? "A" : "G"] === "full");
        if (shape) state[`kfac/${name}/${part}`] = corners(shape, bases.map(of), d);
      }
      const each = perExample(lab, forward, { inverse, ...more }, inputs, name);
      const S = bases.map((b, g) => (inverse === "ekfac" ? moments(b, each, g, dG, dA) : Float64Array.from({ length: dG * dA }, (_unused, k) => (b.sG[Math.floor(k / dA)] as number) * (b.sA[k % dA] as number))));
      state[`kfac/${name}/S`] = corners(shapeOf(`kfac/${name}/S`) as readonly number[], S, dA);
      const gradient = data(stats[`grad/${name}`]);
      state[`grad/${name}`] = stats[`grad/${name}`] as NdArray;
      const P = bases.map((b, g) => outside(b, inside(b, cut(gradient, g, dG * dA), dG, dA).map((x, k) => x / N / ((S[g]?.[k] as number) + LAMBDA)), dG, dA));
      directions.set(layer, Float64Array.from(P.flatMap((p) => [...p])));
    }
    for (const name of Object.keys(stats)) if (name.startsWith("grad/")) state[name] = stats[name] as NdArray;
    if (inverse === "ekfac") {
      const graph = scaleGraph(lab.m, false);
      const made = evaluate(graph, bind(graph, { ...state, ...inputs }, { ...defaultFields(), count: N, scaleBlend: 1 }));
      for (const layer of directions.keys()) expect(relative(data(made[`kfac/${layer.name}/S`]), data(state[`kfac/${layer.name}/S`])), `S of ${layer.name}`).toBeLessThan(1e-10);
    }
    const moved = evaluate(back, bind(back, state, { ...defaultFields(), lr: 1, momentum: 0, klClip: 0, weightDecay: 0, damping: LAMBDA, count: N }));
    for (const [layer, P] of directions) {
      const change = Object.fromEntries([layer.weight.param.name, ...(layer.bias ? [layer.bias.param.name] : [])].map((name) => {
        const [before, after] = [lab.params[name] as NdArray, moved[name] as NdArray];
        return [name, { shape: before.shape, data: before.data.map((x, k) => x - (after.data[k] as number)) }];
      }));
      // division by S + λ ≥ λ and sums of a few terms
      expect(relative(toMatrix(layerInfo(layer), change), P), layer.name).toBeLessThan(1e-10);
    }
  });
});

describe("EKFAC", () => {
  it("is no further from the Fisher block than K-FAC, in Frobenius norm, and further only if the scalings are not the second moments", () => {
    for (const [, forward, more] of CASES.slice(0, 4)) {
      const lab = new Lab(forward, N, more);
      const inputs = batchFor(lab);
      const stats = lab.stats(inputs, N);
      for (const layer of lab.layers) {
        const { name, dA, dG } = layer;
        if (dA * dG > 120) continue;
        for (const group of range(layer.groups)) {
          const each = perExample(lab, forward, more, inputs, name).map((g) => cut(g, group, dG * dA));
          const bases = basesOf(layer, data(stats[`kfac/${name}/A`]), data(stats[`kfac/${name}/G`]), group);
          const n = dG * dA;
          const F = new Float64Array(n * n);
          for (const g of each) for (const i of range(n)) for (const j of range(n)) F[i * n + j] = (F[i * n + j] as number) + ((g[i] as number) * (g[j] as number)) / N;
          /** ‖F − (U_G ⊗ U_A) diag(S) (U_G ⊗ U_A)ᵀ‖². */
          const distance = (S: ArrayLike<number>): number => {
            const columns = range(n).map((k) => outside(bases, Float64Array.from({ length: n }, (_, i) => Number(i === k)), dG, dA));
            let sum = 0;
            for (const i of range(n))
              for (const j of range(n)) {
                const x = columns.reduce((s, c, k) => s + (S[k] as number) * (c[i] as number) * (c[j] as number), 0);
                sum += (x - (F[i * n + j] as number)) ** 2;
              }
            return sum;
          };
          const kfac = Float64Array.from({ length: n }, (_, k) => (bases.sG[Math.floor(k / dA)] as number) * (bases.sA[k % dA] as number));
          const S = moments(bases, each, 0, dG, dA);
          const [k, e] = [distance(kfac), distance(S)];
          expect(e, `${name}, group ${group}`).toBeLessThan(k * (1 - 1e-6));
          expect(distance(S.map((x) => 1.05 * x))).toBeGreaterThan(e);
        }
      }
    }
  });
});

describe.each(["eig", "ekfac"] as const)("%s, on the device", (inverse) => {
  const device = testDevice();
  it.each(CASES)("%s: a step of the trainer is the dense formula's", async (_, forward, more) => {
    const lab = new Lab(forward, N, { inverse, ...more });
    const inputs = batchFor(lab);
    const c = compile(forward, options({ loss: "half-sse", batches: [N], fisher: { kind: "empirical", samples: 1 }, inverse, verify: false, ...more }));
    const t = await Trainer.create(device().device, c.artifact, c.sources, Object.fromEntries(c.weights), { host: { factorPeriod: 1, inversePeriod: 1 } });
    try {
      Object.assign(t.run, { lr: 1, momentum: 0, klClip: 0, weightDecay: 0, damping: LAMBDA });
      const given = Object.fromEntries(Object.entries(inputs).map(([name, x]) => [name, { shape: x.shape, data: toHost(x) as Float32Array | Int32Array }]));
      t.step(given as Parameters<Trainer["step"]>[0]);
      const after = await t.weights();
      const stats = lab.stats(inputs, N);
      for (const l of c.artifact.layers) {
        const layer = lab.layer(l.name);
        const { dA, dG, groups } = layer;
        const gradient = data(stats[`grad/${l.name}`]);
        const each = perExample(lab, forward, { inverse, ...more }, inputs, l.name);
        const stored = async (part: string, d0: number, d1: number): Promise<Float64Array> => {
          const name = `kfac/${l.name}/${part}`;
          const [all] = await t.task(() => t.program.read([name]));
          const [rows, columns] = (t.program.buffer(name).info.shape as number[]).slice(-2) as [number, number];
          return Float64Array.from({ length: groups * d0 * d1 }, (_unused, k) => (all as Float32Array)[(Math.floor(k / (d0 * d1)) * rows + (Math.floor(k / d1) % d0)) * columns + (k % d1)] as number);
        };
        const one = (d: number): Float64Array => Float64Array.from({ length: groups * d * d }, (_unused, k) => Number((k % (d * d)) % (d + 1) === 0));
        const UA = layer.sides.A === "full" ? await stored("UA", dA, dA) : one(dA);
        const UG = layer.sides.G === "full" ? await stored("UG", dG, dG) : one(dG);
        const S = await stored("S", dG, dA);
        const change = Object.fromEntries([l.params.weight, ...(l.params.bias === null ? [] : [l.params.bias])].map((name) => {
          const before = lab.params[name] as NdArray;
          return [name, { shape: before.shape, data: before.data.map((x, k) => x - (after[name]?.data[k] as number)) }];
        }));
        const moved = toMatrix(l, change);
        for (const g of range(groups)) {
          const bases = { UA: cut(UA, g, dA * dA), UG: cut(UG, g, dG * dG) };
          // U is orthogonal and makes the factor diagonal: float32 storage of a float64 decomposition of float32 factors
          for (const [U, d, factor, side] of [[bases.UA, dA, data(stats[`kfac/${l.name}/A`]), "A"], [bases.UG, dG, data(stats[`kfac/${l.name}/G`]), "G"]] as const) {
            if (layer.sides[side] === "diagonal") continue;
            expect(relative(matmul(transpose(U, d, d), U, d, d, d), one(d).slice(0, d * d))).toBeLessThan(1e-5);
            const turned = matmul(matmul(transpose(U, d, d), cut(factor, g, d * d), d, d, d), U, d, d, d);
            expect(Math.max(...turned.map((x, k) => (k % (d + 1) === 0 ? 0 : Math.abs(x))))).toBeLessThan(1e-5 * Math.max(...turned.map(Math.abs)));
          }
          const mine = cut(S, g, dG * dA);
          const spectrum = (side: "A" | "G", d: number) => (layer.sides[side] === "diagonal" ? cut(data(stats[`kfac/${l.name}/${side}`]), g, d)
            : matmul(matmul(transpose(side === "A" ? bases.UA : bases.UG, d, d), cut(data(stats[`kfac/${l.name}/${side}`]), g, d * d), d, d, d), side === "A" ? bases.UA : bases.UG, d, d, d).filter((_unused, k) => k % (d + 1) === 0));
          const [sA, sG] = [spectrum("A", dA), spectrum("G", dG)];
          const want = inverse === "ekfac" ? moments(bases, each, g, dG, dA) : Float64Array.from({ length: dG * dA }, (_unused, k) => (sG[Math.floor(k / dA)] as number) * (sA[k % dA] as number));
          expect(relative(mine, want), `S of ${l.name}`).toBeLessThan(1e-4);
          const P = outside(bases, inside(bases, cut(gradient, g, dG * dA), dG, dA).map((x, k) => x / N / (Math.max(0, want[k] as number) + LAMBDA)), dG, dA);
          // λ is 1/64: an error of S of 1e-6 is one of P of 1e-4
          expect(relative(cut(moved, g, dG * dA), P), `direction of ${l.name}`).toBeLessThan(1e-3);
        }
      }
    } finally {
      await t.dispose();
    }
  });
});
