/**
 * Where a layer's curvature is the exact Gauss–Newton block, it must be, for every kind. The block comes from central differences of the
 * forward pass alone: half-sse has the Jacobian's square.
 */
import { describe, expect, it } from "vitest";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { eachElement } from "../../runtime/matrix.js";
import type { CompileOptions } from "../../src/compile.js";
import { type Layer, layerInfo } from "../../src/kfac/layer.js";
import { type Forward, kron, random, relative, tensor } from "../support/models.js";
import { inputsOf, Lab, net } from "./support.js";

const range = (n: number): number[] => Array.from({ length: n }, (_, k) => k);
const data = (x: NdArray | undefined): Float64Array => (x as NdArray).data;
/** Truncation ~h², rounding ~1e-16/h: both below 1e-9. */
const STEP = 1e-5;
const CLOSE = 1e-7;

const exact = (forward: Forward, N: number, more: Partial<CompileOptions> = {}): { lab: Lab; inputs: Record<string, NdArray>; stats: Record<string, NdArray> } => {
  const lab = new Lab(forward, N, { fisher: { kind: "exact", samples: 1 }, ...more });
  const inputs = { ...inputsOf(lab.m, 81, 5), target: tensor(lab.m.heads[0]?.loss.z.type.shape as number[], random(82)) };
  return { lab, inputs, stats: lab.stats(inputs, N) };
};

/** Elements of one group in the order (out, in). */
function elements(layer: Layer, group: number): { param: string; place: number }[] {
  const n = layer.dG * layer.dA;
  const found: { param: string; place: number }[] = [];
  eachElement(layerInfo(layer), (at, param, place) => { if (Math.floor(at / n) === group) found[at % n] = { param, place }; });
  return found;
}

const nudged = (params: Readonly<Record<string, NdArray>>, { param, place }: { param: string; place: number }, by: number): Record<string, NdArray> => {
  const old = params[param] as NdArray;
  return { ...params, [param]: ndarray(old.dtype, old.shape, old.data.map((x, k) => (k === place ? x + by : x))) };
};

/** (1/N) Σ_n J_nᵀ J_n over one group's numbers. */
function gaussNewton(lab: Lab, layer: Layer, group: number, inputs: Readonly<Record<string, NdArray>>, N: number): Float64Array {
  const columns = elements(layer, group).map((e) => {
    const [up, down] = [lab.predict(inputs, nudged(lab.params, e, STEP)).data, lab.predict(inputs, nudged(lab.params, e, -STEP)).data];
    return up.map((x, k) => (x - (down[k] as number)) / (2 * STEP));
  });
  return Float64Array.from(columns.flatMap((a) => columns.map((b) => a.reduce((s, x, k) => s + x * (b[k] as number), 0) / N)));
}

/** A layer's block of one group as its statistics have it, in the order (out, in). */
function block(layer: Layer, stats: Readonly<Record<string, NdArray>>, group: number): Float64Array {
  const { name, dA, dG } = layer;
  const part = (which: string, n: number): Float64Array => data(stats[`kfac/${name}/${which}`]).slice(group * n, (group + 1) * n);
  if (layer.form === "block") return part("F", (dA * dG) ** 2);
  const square = (side: "A" | "G", d: number): Float64Array => {
    if (layer.sides[side] === "full") return part(side, d * d);
    const main = part(side, d);
    return Float64Array.from({ length: d * d }, (_, k) => (k % (d + 1) === 0 ? (main[k % d] as number) : 0));
  };
  return kron(square("G", dG), dG, square("A", dA), dA);
}

/** Largest error over the groups of a layer. */
const errorOf = ({ lab, inputs, stats }: ReturnType<typeof exact>, layer: Layer, N: number): number =>
  Math.max(...range(layer.groups).map((g) => relative(block(layer, stats, g), gaussNewton(lab, layer, g, inputs, N))));

describe("A ⊗ G is the exact block of one example with one position", () => {
  const cases: readonly (readonly [string, Forward])[] = [
    ["a convolution as large as its input", net((m) => m.dense(m.tanh(m.flatten(m.conv2d(m.input("x", [2, 3, 3]), 3, 3))), 3))],
    ["in groups", net((m) => m.dense(m.tanh(m.flatten(m.conv2d(m.input("x", [4, 3, 3]), 4, 3, { groups: 2 }))), 3))],
    ["depthwise", net((m) => m.dense(m.tanh(m.flatten(m.conv2d(m.input("x", [3, 2, 2]), 3, 2, { groups: 3 }))), 3))],
    ["transposed", net((m) => m.dense(m.tanh(m.flatten(m.convTranspose2d(m.input("x", [4, 1, 1]), 4, 1, { groups: 2 }))), 3))],
    ["an embedding of one token, A a diagonal", net((m) => m.dense(m.tanh(m.flatten(m.embedding(m.input("x", [1], { dtype: "i32" }), 5, 3))), 3))],
  ];
  it.each(cases)("%s", (_, forward) => {
    const run = exact(forward, 2);
    // two examples are too many; the same twice is one
    const same = Object.fromEntries(Object.entries(run.inputs).map(([name, x]) => [name, ndarray(x.dtype, x.shape, x.data.map((_v, k) => x.data[k % (x.data.length / 2)] as number))]));
    const one = { lab: run.lab, inputs: same, stats: run.lab.stats(same, 2) };
    expect(run.lab.layers.map((l) => l.T)).toEqual([1, 1]);
    for (const layer of run.lab.layers) expect(errorOf(one, layer, 2), layer.name).toBeLessThan(CLOSE);
    expect(errorOf(run, run.lab.layers[0] as Layer, 2)).toBeGreaterThan(1e-3);
  });
});

describe("the block of a scale is exact", () => {
  const conv = (m: Parameters<Parameters<typeof net>[0]>[0]) => m.conv2d(m.input("x", [2, 4, 4]), 3, 3, { name: "c" });
  const cases: readonly (readonly [string, Forward])[] = [
    ["batch norm, frozen, several positions", net((m) => m.dense(m.flatten(m.tanh(m.batchNorm(conv(m), { name: "n", frozen: true }))), 3))],
    ["layer norm over a sequence", net((m) => m.tanh(m.layerNorm(m.dense(m.input("x", [3, 4]), 5), { name: "n" })))],
    ["a gain without a shift", net((m) => m.dense(m.flatten(m.tanh(m.mul(m.tanh(m.input("x", [3, 4])), m.param("n", [4])))), 3))],
    ["one number for all", net((m) => m.dense(m.tanh(m.mul(m.tanh(m.input("x", [4])), m.param("n", []))), 3))],
    ["a gain used twice", net((m) => {
      const g = m.param("n", [4]);
      return m.dense(m.tanh(m.mul(m.tanh(m.mul(m.tanh(m.input("x", [4])), g)), g)), 3);
    })],
    ["a gain used twice, its shift once", net((m) => {
      const g = m.param("n", [4]);
      return m.dense(m.tanh(m.mul(m.tanh(m.add(m.mul(m.tanh(m.input("x", [4])), g), m.param("b", [4]))), g)), 3);
    })],
    ["channels behind a reshape", net((m) => {
      const n = m.tanh(m.input("x", [6, 5]));
      return m.dense(m.flatten(m.tanh(m.add(m.mul(n, m.param("n", [6, 1])), m.param("b", [6, 1])))), 3);
    })],
  ];
  it.each(cases)("%s, any number of examples", (_, forward) => {
    const run = exact(forward, 3);
    const layer = run.lab.layers.find((l) => l.kind === "norm") as Layer;
    expect(layer.form).toBe("block");
    expect(run.lab.m.registration.orphans).toEqual([]);
    expect(errorOf(run, layer, 3)).toBeLessThan(CLOSE);
  });

  it("and on a piecewise linear net, it is the block of the Hessian", () => {
    const forward = net((m) => m.dense(m.relu(m.dense(m.relu(m.layerNorm(m.dense(m.input("x", [4]), 5), { name: "n" })), 4)), 3));
    const { lab, inputs, stats } = exact(forward, 3);
    const layer = lab.layer("n.weight");
    const gradient = (params: Readonly<Record<string, NdArray>>): Float64Array => {
      const at = new Lab(forward, 3, { fisher: { kind: "exact", samples: 1 } });
      Object.assign(at.params, params);
      return data(at.stats(inputs, 3, { stats: false })["grad/n.weight"]);
    };
    for (const g of range(layer.groups)) {
      const hessian = Float64Array.from(elements(layer, g).flatMap((e) => {
        const [up, down] = [gradient(nudged(lab.params, e, STEP)), gradient(nudged(lab.params, e, -STEP))];
        return range(2).map((k) => ((up[g * 2 + k] as number) - (down[g * 2 + k] as number)) / (2 * STEP) / 3);
      }));
      expect(relative(block(layer, stats, g), hessian)).toBeLessThan(CLOSE);
    }
  });
});

describe("a weight at several positions", () => {
  const pooled = (bias: boolean) => net((m) => m.dense(m.mean(m.dense(m.input("x", [3, 4]), 3, { bias, name: "s" }), 0), 2, { name: "head" }));
  for (const bias of [true, false])
    it(`reduce is exact for a linear layer ${bias ? "with" : "without"} bias whose outputs are averaged before the loss, and expand is not`, () => {
      for (const sharing of ["reduce", "expand"] as const) {
        const run = exact(pooled(bias), 4, { sharing: { "*": sharing } });
        const error = errorOf(run, run.lab.layer("s.weight"), 4);
        if (sharing === "reduce") expect(error).toBeLessThan(CLOSE);
        else expect(error).toBeGreaterThan(0.05);
      }
    });

  it("reduce is exact for a convolution that is averaged, in groups too, and the automatic rule finds it", () => {
    for (const groups of [1, 2]) {
      const run = exact(net((m) => m.dense(m.globalAvgPool(m.conv2d(m.input("x", [2, 4, 4]), 4, 3, { groups, name: "c" })), 3)), 4);
      expect(run.lab.layer("c.weight").sharing).toBe("reduce");
      expect(errorOf(run, run.lab.layer("c.weight"), 4)).toBeLessThan(CLOSE);
    }
  });

  it("expand is exact for positions with losses of their own that never mix, and reduce is not", () => {
    for (const sharing of ["reduce", "expand"] as const) {
      const run = exact(net((m) => m.dense(m.dense(m.input("x", [3, 4]), 3, { name: "s" }), 2, { name: "head" })), 4, { sharing: { "*": sharing } });
      for (const layer of run.lab.layers) {
        const error = errorOf(run, layer, 4);
        if (sharing === "expand") expect(error, layer.name).toBeLessThan(CLOSE);
        else expect(error, layer.name).toBeGreaterThan(0.05);
      }
    }
  });

  it("expand is exact for a 1×1 convolution in groups with losses per pixel", () => {
    const run = exact(net((m) => m.conv2d(m.input("x", [4, 2, 2]), 4, 1, { groups: 2, name: "c" })), 3);
    expect(errorOf(run, run.lab.layer("c.weight"), 3)).toBeLessThan(CLOSE);
  });
});
