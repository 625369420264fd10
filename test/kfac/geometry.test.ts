/** Statistics of convolutions of any geometry against rows unfolded by hand: float64, explicit loops. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { size } from "../../ir/type.js";
import { toMatrix } from "../../runtime/matrix.js";
import { define, toForward } from "../../src/dsl/model.js";
import { layerInfo } from "../../src/kfac/layer.js";
import { PATIENCE } from "../support/graphs.js";
import { type Forward, random, relative, tensor } from "../support/models.js";
import { diagonals, fromRows, Lab, type Row } from "./support.js";

interface Geometry {
  readonly transposed: boolean;
  readonly groups: number;
  /** Per group. */
  readonly inputs: number;
  readonly outputs: number;
  readonly axes: readonly { readonly extent: number; readonly kernel: number; readonly stride: number; readonly dilation: number; readonly before: number; readonly after: number }[];
  readonly bias: boolean;
  readonly sharing: "expand" | "reduce";
  readonly maxFactor: number;
  readonly weights: readonly number[] | undefined;
  readonly seed: number;
}

const N = 2;
const positions = (g: Geometry): number[] => g.axes.map(({ extent, kernel, stride, dilation, before, after }) => {
  const reach = (kernel - 1) * dilation + 1;
  return g.transposed ? (extent - 1) * stride + reach - before - after : Math.floor((extent + before + after - reach) / stride) + 1;
});

const axis = fc.record({
  extent: fc.integer({ min: 1, max: 5 }), kernel: fc.integer({ min: 1, max: 3 }), stride: fc.integer({ min: 1, max: 3 }), dilation: fc.integer({ min: 1, max: 2 }),
  before: fc.integer({ min: 0, max: 2 }), after: fc.integer({ min: 0, max: 2 }),
});
const geometries: fc.Arbitrary<Geometry> = fc.record({
  transposed: fc.boolean(), groups: fc.integer({ min: 1, max: 3 }), inputs: fc.integer({ min: 1, max: 2 }), outputs: fc.integer({ min: 1, max: 2 }),
  axes: fc.array(axis, { minLength: 1, maxLength: 3 }), bias: fc.boolean(), sharing: fc.constantFrom("expand" as const, "reduce" as const),
  maxFactor: fc.constantFrom(5120, 5120, 1), weights: fc.constantFrom(undefined, [1, 0], [0.25, 1.5]), seed: fc.nat(1000),
}).filter((g) => positions(g).every((n) => n >= 1 && n <= 6) && size(positions(g)) <= 60);

const shapes = (g: Geometry) => {
  const [ci, co] = [g.groups * g.inputs, g.groups * g.outputs];
  const taps = g.axes.map((a) => a.kernel);
  return { x: [ci, ...g.axes.map((a) => a.extent)], weight: g.transposed ? [ci, g.outputs, ...taps] : [co, g.inputs, ...taps], bias: [co], y: [co, ...positions(g)] };
};

function forward(g: Geometry): Forward {
  const s = shapes(g);
  const definition = define({
    name: "conv",
    steps: [
      { kind: "input", name: "x", shape: s.x, dtype: "f32" },
      { kind: "param", name: "w", shape: s.weight, source: { kind: "zeros" }, trainable: true },
      { kind: "param", name: "b", shape: s.bias, source: { kind: "zeros" }, trainable: true },
      {
        kind: "op", op: g.transposed ? "ConvTranspose" : "Conv", layer: "c", inputs: [{ step: 0 }, { step: 1 }, ...(g.bias ? [{ step: 2 }] : [])],
        attrs: {
          strides: g.axes.map((a) => a.stride), dilations: g.axes.map((a) => a.dilation), group: g.groups,
          pads: [...g.axes.map((a) => a.before), ...g.axes.map((a) => a.after)], kernel_shape: g.axes.map((a) => a.kernel),
        },
      },
    ],
    outputs: [{ name: "y", step: 3 }],
  });
  const next = random(g.seed + 1);
  const weights = new Map([["w", s.weight], ["b", s.bias]].map(([name, shape]) => [name as string, { shape: shape as number[], data: Float32Array.from({ length: size(shape as number[]) }, next) }] as const));
  return (batch) => ({ ...toForward(definition, batch), weights });
}

const indices = (shape: readonly number[]): number[][] =>
  shape.reduce<number[][]>((lists, n) => lists.flatMap((l) => Array.from({ length: n }, (_, k) => [...l, k])), [[]]);
const flat = (shape: readonly number[], index: readonly number[]): number => index.reduce((at, i, k) => at * (shape[k] as number) + i, 0);

/** The rows of a convolution and of its cotangent z − t, and what the loops make of the weight's gradient. */
function unfold(g: Geometry, x: NdArray, target: NdArray, w: NdArray, b: NdArray): { rows: Row[]; dw: Float64Array; db: Float64Array } {
  const s = shapes(g);
  const taps = indices(g.axes.map((a) => a.kernel));
  const rows: Row[] = [];
  const [dw, db] = [new Float64Array(w.data.length), new Float64Array(b.data.length)];
  for (let n = 0; n < N; n++)
    for (let group = 0; group < g.groups; group++)
      for (const at of indices(positions(g))) {
        const a: number[] = [];
        for (let c = 0; c < g.inputs; c++)
          for (const tap of taps) {
            const from = g.axes.map((v, k) => {
              const [o, j] = [at[k] as number, tap[k] as number];
              return g.transposed ? (o + v.before - j * v.dilation) / v.stride : o * v.stride + j * v.dilation - v.before;
            });
            const inside = from.every((i, k) => Number.isInteger(i) && i >= 0 && i < (g.axes[k] as { extent: number }).extent);
            a.push(inside ? (x.data[flat([N, ...s.x], [n, group * g.inputs + c, ...from])] as number) : 0);
          }
        const place = (o: number, k: number): number => {
          const [c, tap] = [Math.floor(k / taps.length), taps[k % taps.length] as number[]];
          return flat(s.weight, g.transposed ? [group * g.inputs + c, o, ...tap] : [group * g.outputs + o, c, ...tap]);
        };
        const d = Array.from({ length: g.outputs }, (_, o) => {
          const channel = group * g.outputs + o;
          const z = a.reduce((sum, v, k) => sum + v * (w.data[place(o, k)] as number), g.bias ? (b.data[channel] as number) : 0);
          return z - (target.data[flat([N, ...s.y], [n, channel, ...at])] as number);
        });
        const weight = g.weights?.[n] ?? 1;
        d.forEach((v, o) => {
          a.forEach((u, k) => { dw[place(o, k)] = (dw[place(o, k)] as number) + weight * v * u; });
          db[group * g.outputs + o] = (db[group * g.outputs + o] as number) + weight * v;
        });
        rows.push({ example: n, group, a: g.bias ? [...a, 1] : a, g: [d] });
      }
  return { rows, dw, db };
}

describe("a convolution of any geometry", () => {
  it("has the factors and gradient of its unfolded rows: groups, pads, strides, dilations, transposed, masked, reduced, diagonal", () => {
    let [reduced, diagonal, masked, transposed] = [0, 0, 0, 0];
    fc.assert(fc.property(geometries, (g) => {
      const s = shapes(g);
      const next = random(g.seed);
      const inputs = { x: tensor([N, ...s.x], next), target: tensor([N, ...s.y], next), ...(g.weights ? { weight: ndarray("f32", [N], g.weights) } : {}) };
      const lab = new Lab(forward(g), N, { sharing: { "*": g.sharing }, maxFactor: g.maxFactor });
      const layer = lab.layer("w");
      const { rows, dw, db } = unfold(g, inputs.x, inputs.target, lab.params.w as NdArray, lab.params.b as NdArray);
      const T = size(positions(g));
      expect([layer.groups, layer.T, layer.dG, layer.dA, layer.bias !== undefined]).toEqual([g.groups, T, g.outputs, g.inputs * size(g.axes.map((a) => a.kernel)) + Number(g.bias), g.bias]);
      const reduce = g.sharing === "reduce" && T > 1;
      expect(layer.sharing).toBe(reduce ? "reduce" : "expand");
      const want = fromRows(rows, { examples: N, groups: g.groups, reduce, ...(g.weights ? { weights: g.weights } : {}) });
      const count = (g.weights ?? [1, 1]).reduce((p, q) => p + q);
      const got = lab.stats(inputs, count);
      for (const side of ["A", "G"] as const) {
        const d = side === "A" ? layer.dA : layer.dG;
        expect(layer.sides[side]).toBe(d > g.maxFactor ? "diagonal" : "full");
        expect(relative((got[`kfac/w/${side}`] as NdArray).data, layer.sides[side] === "full" ? want[side] : diagonals(want[side], d)), side).toBeLessThan(1e-11);
      }
      const gradient = (got["grad/w"] as NdArray).data;
      expect(relative(gradient, want.gradient), "gradient").toBeLessThan(1e-11);
      // and the layer says where its numbers are in the parameters
      const tensors = { w: { shape: s.weight, data: dw }, b: { shape: s.bias, data: db } };
      expect(relative(toMatrix(layerInfo(layer), tensors), gradient), "digits").toBeLessThan(1e-11);
      reduced += Number(reduce);
      diagonal += Number(g.maxFactor === 1);
      masked += Number(g.weights !== undefined);
      transposed += Number(g.transposed);
    }), { ...PATIENCE, seed: 71, numRuns: 150 });
    for (const seen of [reduced, diagonal, masked, transposed]) expect(seen).toBeGreaterThan(15);
  });
});
