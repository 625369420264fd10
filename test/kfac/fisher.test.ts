/** The vectors behind G in float64: what is drawn has the expectation of what is exact, for one head and for several. */
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { f32, size } from "../../ir/type.js";
import { columnCount, fisherColumns, type FisherOptions } from "../../src/kfac/fisher.js";
import type { CustomLoss } from "../../src/train/custom.js";
import { type Head, targetInputs } from "../../src/train/heads.js";
import { exactVectors, type Loss, signed, signShape, targetType } from "../../src/train/loss.js";
import { random, relative, tensor } from "../support/models.js";

const POISSON: CustomLoss = {
  kind: "custom", name: "poisson",
  perExample: (ops, z, t) => ops.sub(ops.exp(z), ops.mul(t, z)),
  fisher: { factor: (ops, z) => ops.diagonal(ops.exp(ops.mul(z, 0.5))) },
};
/** The same, without saying that the factor is diagonal. */
const PLAIN: CustomLoss = { ...POISSON, fisher: { factor: (ops, z) => ops.mul(ops.diagonal(ops.exp(ops.mul(z, 0.5))), 1) } };

type Make = (z: Value) => Loss;
const LOSSES: readonly (readonly [string, readonly number[], Make])[] = [
  ["softmax-ce", [3], (z) => ({ kind: "softmax-ce", z, axis: 1 })],
  ["softmax-ce", [2, 2], (z) => ({ kind: "softmax-ce", z, axis: 1 })],
  ["half-sse", [3], (z) => ({ kind: "half-sse", z, axis: 1 })],
  ["mse", [2, 2], (z) => ({ kind: "mse", z, axis: 1 })],
  ["bernoulli-ce", [4], (z) => ({ kind: "bernoulli-ce", z, axis: 1 })],
  ["a custom loss", [3], (z) => ({ kind: "custom", custom: POISSON, z, axis: 1 })],
  ["a custom loss of any factor", [3], (z) => ({ kind: "custom", custom: PLAIN, z, axis: 1 })],
];

/** Σ_columns v vᵀ of one example, columns [c, n, …]. */
function products(v: NdArray, example: number, divisor = 1): Float64Array {
  const [columns, n] = v.shape as [number, number];
  const per = size(v.shape.slice(2));
  const out = new Float64Array(per * per);
  for (let c = 0; c < columns; c++)
    for (let i = 0; i < per; i++)
      for (let j = 0; j < per; j++) out[i * per + j] = (out[i * per + j] as number) + ((v.data[(c * n + example) * per + i] as number) * (v.data[(c * n + example) * per + j] as number)) / divisor;
  return out;
}

function run(shape: readonly number[], z: NdArray, build: (b: Builder, zv: Value) => Value, more: Readonly<Record<string, NdArray>> = {}): NdArray {
  const b = new Builder("fisher");
  const zv = b.input("z", f32(...shape), 0);
  const y = build(b, zv);
  const key = { k0: ndarray("u32", [], [11]), k1: ndarray("u32", [], [5]), mcGiven: ndarray("i32", [1], [0]) };
  const graph = b.finish([{ name: "y", value: y }]);
  const zeros = Object.fromEntries(graph.inputs.filter((i) => i.value.name.startsWith("mcTargets")).map((i) => [i.value.name, ndarray(i.value.type.dtype, i.value.type.shape, new Float64Array(size(i.value.type.shape)))]));
  return evaluate(graph, { z, ...zeros, ...key, ...more }).y as NdArray;
}
const keys = (b: Builder) => {
  const of = (name: string) => b.inputs.find((i) => i.value.name === name)?.value ?? b.input(name, { dtype: "u32", shape: [] });
  return () => [of("k0"), of("k1")] as const;
};
const head = (loss: Loss, name = "", weight = 1): Head => ({ loss, weight, target: name ? `target/${name}` : "target", output: name });

describe.each(LOSSES)("curvature propagation, %s %j", (_name, per, make) => {
  it("the mean over all sign patterns is the exact Fisher", () => {
    const shape = [1, ...per];
    const z = tensor(shape, random(3), 1.5);
    const exact = products(run(shape, z, (b, zv) => exactVectors(b, make(zv))), 0);
    const scratch = new Builder("s");
    const signs = signShape(make(scratch.input("z", f32(...shape))));
    const k = size(signs);
    const mean = new Float64Array(exact.length);
    for (let pattern = 0; pattern < 2 ** k; pattern++) {
      const e = ndarray("f32", signs, Float64Array.from({ length: k }, (_, i) => ((pattern >> i) & 1 ? 1 : -1)));
      const v = run(shape, z, (b, zv) => signed(b, make(zv), b.input("e", f32(...signs))), { e });
      products({ ...v, shape: [1, ...v.shape] }, 0, 2 ** k).forEach((x, i) => { mean[i] = (mean[i] as number) + x; });
    }
    expect(relative(mean, exact)).toBeLessThan(1e-13);
  });

  it.each(["cp", "mc"] as const)("the mean over drawn columns (%s) is the exact Fisher within standard errors, for every example", (kind) => {
    const S = 2000;
    const shape = [2, ...per];
    const z = tensor(shape, random(4), 1.5);
    const drawn = run(shape, z, (b, zv) => fisherColumns(b, [head(make(zv))], { kind, samples: S }, keys(b))?.vectors.get(zv) as Value);
    const exact = run(shape, z, (b, zv) => exactVectors(b, make(zv)));
    expect(drawn.shape).toEqual([S, ...shape]);
    const n = size(per);
    for (const e of [0, 1]) {
      const want = products(exact, e);
      for (let i = 0; i < n; i++)
        for (let j = 0; j < n; j++) {
          const each = Array.from({ length: S }, (_, s) => (drawn.data[(s * 2 + e) * n + i] as number) * (drawn.data[(s * 2 + e) * n + j] as number));
          const mean = each.reduce((a, x) => a + x) / S;
          const error = Math.sqrt(each.reduce((a, x) => a + (x - mean) ** 2, 0) / S / S);
          expect(Math.abs(mean - (want[i * n + j] as number)), `example ${e}, ${i}, ${j}`).toBeLessThan(5 * error + 1e-12);
        }
    }
  });
});

describe("several heads", () => {
  const WEIGHTS = [0.25, 3];
  /** Columns of both heads side by side, [count, n, 3 + 2], from a column of z cut in two. */
  const both = (options: FisherOptions, z: NdArray): NdArray => run([2, 5], z, (b, zv) => {
    const cut = (start: number, extent: number) => b.emit("slice", [zv], { start: [0, start], size: [2, extent], stride: [1, 1] });
    const heads = [head({ kind: "softmax-ce", z: cut(0, 3), axis: 1 }, "a", WEIGHTS[0]), head({ kind: "half-sse", z: cut(3, 2), axis: 1 }, "b", WEIGHTS[1])];
    const made = fisherColumns(b, heads, options, keys(b));
    expect(made?.count).toBe(columnCount(heads, options));
    expect(made?.samples).toBe(options.kind === "exact" ? 1 : options.samples);
    return b.emit("concat", heads.map((h) => made?.vectors.get(h.loss.z) as Value), { axis: 2 });
  });
  const z = tensor([2, 5], random(8), 1.5);
  const p = [...z.data.slice(5, 8)].map(Math.exp);
  const total = p.reduce((a, x) => a + x);
  /** Of example 1: weight times each head's Fisher, nothing between them. */
  const want = Float64Array.from({ length: 25 }, (_, k) => {
    const [i, j] = [Math.floor(k / 5), k % 5];
    if (i < 3 && j < 3) return 0.25 * ((i === j ? (p[i] as number) / total : 0) - ((p[i] as number) * (p[j] as number)) / total ** 2);
    return i === j ? 3 : 0;
  });

  it("exact: their columns one after the other, scaled by √weight, zeros at the others", () => {
    const v = both({ kind: "exact", samples: 1 }, z);
    expect(v.shape).toEqual([5, 2, 5]);
    expect(relative(products(v, 1), want)).toBeLessThan(1e-14);
    expect([...v.data].filter((x, k) => (Math.floor(k / 10) < 3) !== (k % 5 < 3) && x !== 0)).toEqual([]);
  });

  it.each(["mc", "cp"] as const)("%s: one column carries all of them, and they are independent", (kind) => {
    const S = 4000;
    const v = both({ kind, samples: S }, z);
    expect(v.shape).toEqual([S, 2, 5]);
    for (let k = 0; k < 25; k++) {
      const [i, j] = [Math.floor(k / 5), k % 5];
      const each = Array.from({ length: S }, (_, s) => (v.data[(s * 2 + 1) * 5 + i] as number) * (v.data[(s * 2 + 1) * 5 + j] as number));
      const mean = each.reduce((a, x) => a + x) / S;
      const error = Math.sqrt(each.reduce((a, x) => a + (x - mean) ** 2, 0) / S / S);
      expect(Math.abs(mean - (want[k] as number)), `entry ${k}`).toBeLessThan(5 * error + 1e-12);
    }
  });

  it("of one value: their columns are added", () => {
    const v = run([1, 2], tensor([1, 2], random(2)), (b, zv) => {
      const heads = [head({ kind: "half-sse", z: zv, axis: 1 }, "a"), head({ kind: "half-sse", z: zv, axis: 1 }, "b", 4)];
      return fisherColumns(b, heads, { kind: "exact", samples: 1 }, keys(b))?.vectors.get(zv) as Value;
    });
    expect([...products(v, 0)]).toEqual([5, 0, 0, 5]);
  });
});

describe("positions without a label", () => {
  it.each(["mc", "cp", "exact"] as const)("%s: no column has anything there, and the others are as without", (kind) => {
    const z = tensor([2, 3, 2], random(6));
    const columns = (masked: boolean) => run([2, 3, 2], z, (b, zv) => {
      const heads = [head({ kind: "softmax-ce", z: zv, axis: 1 })];
      return fisherColumns(b, heads, { kind, samples: 3 }, keys(b), masked ? targetInputs(b, heads) : undefined)?.vectors.get(zv) as Value;
    }, masked ? { target: ndarray("i32", [2, 2], [0, -1, -100, 2]) } : {});
    const [got, all] = [columns(true), columns(false)];
    all.data.forEach((x, k) => {
      const [position, example] = [k % 2, Math.floor(k / 6) % 2];
      expect(got.data[k]).toBe(position === example ? x : 0);
    });
    expect(got.data.some((x) => x !== 0)).toBe(true);
  });
});

it("a custom loss without a factor is told apart from the others by its error", () => {
  const b = new Builder("g");
  const z = b.input("z", f32(2, 3), 0);
  const { fisher: _, ...bare } = POISSON;
  const loss: Loss = { kind: "custom", custom: bare, z, axis: 1 };
  expect(targetType(loss)).toEqual(f32(2, 3));
  for (const kind of ["mc", "cp", "exact"] as const) expect(() => fisherColumns(b, [head(loss)], { kind, samples: 1 }, keys(b))).toThrow(/gives no factor of its Fisher/);
  expect(fisherColumns(b, [head(loss)], { kind: "empirical", samples: 1 }, keys(b))).toBeUndefined();
});
