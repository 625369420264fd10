/** Estimates without a device: their algebra against dense matrices, their file, and what a file may not say. */
import { describe, expect, it } from "vitest";
import type { LayerInfo } from "../../runtime/artifact.js";
import { Estimate } from "../../runtime/fisher-estimate.js";
import { type EstimatedLayer, type EstimateInfo, factorShape, partsOf } from "../../runtime/fisher-layers.js";
import { decode, encode, type SafeTensor } from "../../runtime/safetensors.js";
import { compile } from "../../src/compile.js";
import { model } from "../../src/dsl/index.js";
import { toForward } from "../../src/dsl/model.js";
import { type Forward, invert, options, random, relative } from "../support/models.js";
import { apply, join, type Matrix, paramsOf, split } from "./dense-fisher.js";

/** float64 against float64, in another order; damped so that condition numbers stay below 100. */
const CLOSE = 1e-11;

const definition = model("net", (m) => {
  const h = m.flatten(m.layerNorm(m.embedding(m.input("x", [2], { dtype: "i32" }), 5, 3)));
  const c = m.conv2d(m.reshape(h, [2, 1, 3]), 4, [1, 2], { groups: 2 });
  return m.output("y", m.dense(m.tanh(m.flatten(c)), 2));
});
const forward: Forward = (batch) => toForward(definition, batch);
const { artifact } = compile(forward, options({ loss: "softmax-ce", verify: false }));
const INFO: EstimateInfo = { model: "net", source: "data", fisher: { kind: "mc", samples: 2 }, losses: [{ output: "y", loss: "softmax-ce", weight: 1 }], examples: 12, count: 10.5 };

/** Factors that are positive definite: R·Rᵀ and 0.1 on the diagonal. */
function factors(l: LayerInfo, next: () => number): EstimatedLayer {
  return { ...l, ...Object.fromEntries(partsOf(l).map((part) => {
    const shape = factorShape(l, part);
    const n = shape.at(-1) as number;
    const full = part === "F" || l.sides[part] === "full";
    const each = (): number[] => {
      if (!full) return Array.from({ length: n }, () => 0.1 + Math.abs(next()));
      const R = Array.from({ length: n }, () => Array.from({ length: n }, next));
      return R.flatMap((a, i) => R.map((b, j) => a.reduce((s, x, k) => s + (x * (b[k] as number)) / n, i === j ? 0.1 : 0)));
    };
    return [part, Float64Array.from(Array.from({ length: l.groups }, each).flat())];
  })) };
}
const next = random(41);
const layers = artifact.layers.map((l) => factors(l, next));
const params = paramsOf(forward);
const estimate = new Estimate(INFO, layers, params);
const P = join(forward, estimate.diagonal()).length;
const x = Array.from({ length: P }, next);
const v = split(forward, x);
const columns = (f: (u: typeof v) => ReturnType<Estimate["multiply"]>): Matrix =>
  Array.from({ length: P }, (_, k) => join(forward, f(split(forward, Array.from({ length: P }, (_, j) => Number(j === k))))));

describe("an estimate of an embedding, a norm, a grouped convolution and a dense layer", () => {
  const F = columns((u) => estimate.multiply(u));
  it("is symmetric, covers every parameter, and has the factors' products as blocks", () => {
    expect(estimate.layers.map((l) => [l.kind, l.form, l.groups])).toEqual([["embed", "kronecker", 1], ["norm", "block", 3], ["conv", "kronecker", 2], ["dense", "kronecker", 1]]);
    expect(estimate.uncovered).toEqual([]);
    expect(relative(F.flat(), F.flatMap((_, i) => F.map((row) => row[i] as number)))).toBeLessThan(CLOSE);
    for (const l of estimate.layers) {
      const dense = estimate.dense(l.name);
      expect(dense.reduce((s, y) => s + y * y, 0)).toBeCloseTo(estimate.frobenius(l.name) ** 2, 8);
    }
    expect(Math.hypot(...estimate.layers.flatMap((l) => [...estimate.dense(l.name)]))).toBeCloseTo(Math.hypot(...F.flat()), 8);
  });
  it("inverts, takes powers and roots, and draws as the dense matrix does", async () => {
    const damping = 0.5;
    const damped = F.map((row, k) => row.map((y, j) => y + (j === k ? damping : 0)));
    const inverse = invert(damped.flat(), P);
    const rowsOf = Array.from({ length: P }, (_, r) => [...inverse.subarray(r * P, (r + 1) * P)]);
    expect(relative(join(forward, await estimate.multiplyInverse(v, { damping })), apply(rowsOf, x))).toBeLessThan(CLOSE);
    expect(relative(join(forward, await estimate.power(v, -2, { damping })), apply(rowsOf, apply(rowsOf, x)))).toBeLessThan(CLOSE);
    expect(relative(join(forward, await estimate.multiplySqrt(await estimate.multiplySqrt(v)), ), apply(F, x))).toBeLessThan(CLOSE);
    const values = (await Promise.all(estimate.layers.map((l) => estimate.eigenvalues(l.name, { damping })))).flatMap((s) => [...s]);
    expect(values.reduce((s, y) => s + Math.log(y), 0)).toBeCloseTo(await estimate.logdet({ damping }), 9);
    expect(values.reduce((s, y) => s + y, 0)).toBeCloseTo(estimate.trace() + P * damping, 9);
    expect(values.reduce((s, y) => s + 1 / y, 0)).toBeCloseTo(rowsOf.reduce((s, row, k) => s + (row[k] as number), 0), 9);
    const [one, two] = [await estimate.sample({ damping, seed: 3 }), await estimate.sample({ damping, seed: 3, count: 2 })];
    expect(two[0]).toEqual(one[0]);
    expect(two[1]).not.toEqual(one[0]);
  });
  it("does not change with what the caller does to v afterwards", async () => {
    const mine = split(forward, x);
    const pending = estimate.multiplyInverse(mine, { damping: 1 });
    for (const t of Object.values(mine)) t.data.fill(0);
    expect(join(forward, await pending)).toEqual(join(forward, await estimate.multiplyInverse(v, { damping: 1 })));
  });
});

describe("the file of an estimate", () => {
  const bytes = estimate.save();
  it("holds the factors under their layers' names, and gives the same estimate to the bit", async () => {
    const { tensors, metadata } = decode(bytes);
    expect(Object.keys(tensors).sort()).toEqual(layers.flatMap((l) => partsOf(l).map((part) => `${l.name}/${part}`)).sort());
    expect(Object.keys(metadata).sort()).toEqual(["conventions", "count", "examples", "fisher", "format", "formatVersion", "layers", "losses", "model", "params", "source"]);
    expect(metadata.conventions).toContain("G·V·A");
    const back = Estimate.load(bytes);
    expect([back.info, back.layers, back.params, back.count]).toEqual([INFO, artifact.layers, params, 10.5]);
    expect(back.factors()).toEqual(estimate.factors());
    expect(back.multiply(v)).toEqual(estimate.multiply(v));
    expect(await back.multiplyInverse(v, { damping: 0.1 })).toEqual(await estimate.multiplyInverse(v, { damping: 0.1 }));
    expect(back.save()).toEqual(bytes);
  });

  const { tensors, metadata } = decode(bytes);
  const altered = (more: Readonly<Record<string, string>>, own: Readonly<Record<string, SafeTensor>> = tensors): Uint8Array => encode(own, { ...metadata, ...more });
  const first = (JSON.parse(metadata.layers as string) as LayerInfo[])[0] as LayerInfo;
  const layer = (change: object): string => JSON.stringify([{ ...first, ...change }]);
  const name = `${first.name}/A`;
  const cases: readonly [string, () => Uint8Array, RegExp][] = [
    ["of half its length", () => bytes.subarray(0, bytes.length / 2), /truncated/],
    ["of weights", () => encode(tensors), /no Fisher estimate/],
    ["of another version", () => altered({ formatVersion: "7" }), /version 7, this runtime reads 1/],
    ["without a description", () => altered({ fisher: "mc" }), /its "fisher" is missing or not readable/],
    ["with a count that is text", () => altered({ count: '"many"' }), /description is not complete/],
    ["with parameters of no shape", () => altered({ params: '[{"name": "w"}]' }), /parameters are not a list of names and shapes/],
    ["with layers that are no list", () => altered({ layers: "{}" }), /layers are not a list/],
    ["with a layer of no sides", () => altered({ layers: layer({ sides: null }) }), /not described completely/],
    ["with digits that count too far", () => altered({ layers: layer({ matrix: { ...first.matrix, weight: { ...first.matrix.weight, in: [[1e9, 1]] } } }) }), /does not fit the parameter/],
    ["with digits that end outside", () => altered({ layers: layer({ matrix: { ...first.matrix, weight: { ...first.matrix.weight, offset: 1e6 } } }) }), /does not fit the parameter/],
    ["with a parameter that is not there", () => altered({ layers: layer({ params: { weight: "other", bias: null } }) }), /does not fit the parameter "other"/],
    ["without a factor", () => altered({}, Object.fromEntries(Object.entries(tensors).filter(([key]) => key !== name))), /is missing, the layer takes F64/],
    ["with a factor of another size", () => altered({}, { ...tensors, [name]: { dtype: "F64", shape: [2], data: new Float64Array(2) } }), /F64\[2\], the layer takes F64\[5\]/],
    ["with a factor that is not finite", () => altered({}, { ...tensors, [name]: { dtype: "F64", shape: [5], data: new Float64Array(5).fill(Number.NaN) } }), /not finite/],
  ];
  it.each(cases)("%s is refused", (_, make, says) => {
    expect(() => Estimate.load(make())).toThrow(says);
  });
});
