/** Second moments of patches from correlations by distance: the same numbers, and only where that is less work. */
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Graph, Value } from "../../ir/graph.js";
import type { NdArray } from "../../ir/ndarray.js";
import { autocorrelate, autocorrelation, type Price } from "../../ir/passes/autocorrelation.js";
import { print } from "../../ir/print.js";
import { size } from "../../ir/type.js";
import { verify } from "../../ir/verify.js";
import { difference } from "../support/graphs.js";
import { random, tensor } from "../support/models.js";

/** Every sum that replaces another is a gain, so that all is rewritten that may be, edges of edges included. */
const ALWAYS: Price = { sum: -1e12, wide: 0 };

interface Filter {
  readonly n?: number;
  /** Channels of a group, and groups. */
  readonly c: number;
  readonly groups?: number;
  /** One entry per spatial axis. */
  readonly image: readonly number[];
  readonly taps: readonly number[];
  readonly pads?: readonly (readonly [number, number])[];
  readonly stride?: number;
  readonly dilation?: number;
  readonly ones?: boolean;
}

/** Σ over examples and positions of patch · patchᵀ, as K-FAC's factors write it. */
function moments({ n = 2, c, groups = 1, image, taps, pads = [], stride = 1, dilation = 1, ones = false }: Filter): Graph {
  const b = new Builder("moments");
  const x = b.input("x", { dtype: "f32", shape: [n, groups * c, ...image] });
  const d = image.length;
  let v: Value = b.emit("reshape", [x], { shape: [n, groups, c, ...image] });
  for (const [s, extent] of image.entries()) {
    const [low, high] = pads[s] ?? [0, 0];
    const count = Math.floor((extent + low + high - ((taps[s] as number) - 1) * dilation - 1) / stride) + 1;
    v = b.emit("window", [v], { axis: 3 + 2 * s, count, taps: taps[s] as number, stride, dilation, offset: -low, divisor: 1 });
  }
  const spatial = image.map((_, s) => 3 + 2 * s);
  v = b.emit("permute", [v], { perm: [1, 0, ...spatial, 2, ...spatial.map((axis) => axis + 1)] });
  v = b.emit("reshape", [v], { shape: [groups, n, ...v.type.shape.slice(2, 2 + d), c * taps.reduce((p, k) => p * k, 1)] });
  const none = v.type.shape.map(() => 0);
  if (ones) v = b.emit("pad", [v], { low: none, high: none.map((_, k) => (k === none.length - 1 ? 1 : 0)), value: 1 });
  const positions = "abcd".slice(0, d + 1);
  return b.finish([{ name: "A", value: b.emit("contract", [v, v], { spec: `G${positions}y,G${positions}z->Gyz` }) }]);
}

const products = (graph: Graph): number => graph.nodes.filter((node) => node.op === "contract").length;

/** Both forms agree in float64: sums of some thousand products of numbers below 1, so some thousand units of 1e-16 of the largest. */
function same(graph: Graph, made: Graph): void {
  verify(made);
  const x = graph.inputs[0]?.value as Value;
  for (const seed of [1, 2]) {
    const given = { x: tensor(x.type.shape, random(seed)) };
    const d = difference(evaluate(graph, given).A as NdArray, evaluate(made, given).A as NdArray);
    if (!(d < 1e-12)) throw new Error(`seed ${seed}: differs by ${d}\n${print(made)}`);
  }
}

describe("second moments by distance are the second moments of patches", () => {
  const filters: readonly (readonly [string, Filter])[] = [
    ["3×3, padding 1", { c: 2, image: [9, 8], taps: [3, 3], pads: [[1, 1], [1, 1]] }],
    ["3×3, no padding", { c: 2, image: [8, 9], taps: [3, 3] }],
    ["3×3, padding 2: no position is left out", { c: 2, image: [8, 8], taps: [3, 3], pads: [[2, 2], [2, 2]] }],
    ["padding on one side", { c: 2, image: [9, 10], taps: [3, 3], pads: [[1, 0], [0, 2]] }],
    ["2×2", { c: 3, image: [5, 6], taps: [2, 2], pads: [[0, 0], [1, 0]] }],
    ["5×5, padding 2", { n: 1, c: 1, image: [17, 16], taps: [5, 5], pads: [[2, 2], [2, 2]] }],
    ["5×5, no padding, one channel", { n: 1, c: 1, image: [16, 17], taps: [5, 5] }],
    ["1×3", { c: 2, image: [4, 9], taps: [1, 3], pads: [[0, 0], [1, 1]] }],
    ["2×4, padding 3 and 1", { c: 1, image: [6, 13], taps: [2, 4], pads: [[1, 1], [3, 1]] }],
    ["one axis", { c: 3, image: [15], taps: [3], pads: [[1, 1]] }],
    ["three axes", { n: 1, c: 1, image: [8, 5, 8], taps: [3, 2, 3], pads: [[1, 1], [0, 0], [0, 1]] }],
    ["dilation 2", { c: 2, image: [17, 16], taps: [3, 3], pads: [[2, 2], [1, 0]], dilation: 2 }],
    ["dilation 3, odd padding", { n: 1, c: 1, image: [24, 25], taps: [3, 3], pads: [[3, 2], [4, 5]], dilation: 3 }],
    ["groups", { c: 2, groups: 3, image: [8, 9], taps: [3, 3], pads: [[1, 1], [1, 1]] }],
    ["depthwise", { c: 1, groups: 4, image: [9, 9], taps: [3, 3], pads: [[1, 1], [0, 0]] }],
  ];
  for (const [name, filter] of filters)
    for (const ones of [false, true])
      it(`${name}${ones ? ", with a bias" : ""}`, () => {
        const graph = moments({ ...filter, ones });
        const made = autocorrelate(graph, ALWAYS);
        expect(print(made)).not.toBe(print(graph));
        same(graph, made);
        expect(print(autocorrelate(made, ALWAYS))).toBe(print(made));
      });

  it("where padding reaches as far as the filter nothing is taken away", () => {
    expect(products(autocorrelate(moments({ c: 2, image: [8, 8], taps: [3, 3], pads: [[2, 2], [2, 2]] }), ALWAYS))).toBe(1);
    expect(products(autocorrelate(moments({ c: 2, image: [8, 8], taps: [3, 3], pads: [[2, 2], [1, 1]] }), ALWAYS))).toBe(2);
  });
});

describe("patches stay patches", () => {
  const stays = (name: string, graph: Graph, price: Price = ALWAYS) =>
    it(name, () => expect(print(autocorrelate(graph, price))).toBe(print(graph)));
  stays("under a filter that skips positions", moments({ c: 2, image: [12, 12], taps: [3, 3], stride: 2 }));
  stays("where the border is a large part of the image", moments({ c: 2, image: [7, 7], taps: [3, 3], pads: [[1, 1], [1, 1]] }));
  stays("where the filter is larger than the image", moments({ c: 2, image: [4, 4], taps: [5, 5], pads: [[2, 2], [2, 2]] }));
  const b = new Builder("cropped");
  const x = b.input("x", { dtype: "f32", shape: [2, 3, 20] });
  const cropped = b.emit("window", [x], { axis: 2, count: 10, taps: 3, stride: 1, dilation: 1, offset: 0, divisor: 1 });
  stays("where some elements are seen by no tap, and might be large", b.finish([{ name: "A", value: b.emit("contract", [cropped, cropped], { spec: "ncok,ndol->ckdl" }) }]));
  const two = new Builder("two");
  const [u, v] = ["u", "v"].map((name) => two.emit("window", [two.input(name, { dtype: "f32", shape: [2, 3, 20] })], { axis: 2, count: 18, taps: 3, stride: 1, dilation: 1, offset: 0, divisor: 1 })) as [Value, Value];
  stays("where the two operands differ", two.finish([{ name: "A", value: two.emit("contract", [u, v], { spec: "ncok,ndol->ckdl" }) }]));
});

describe("correlations are chosen by work", () => {
  const pays = (filter: Filter): boolean => products(autocorrelation.run(moments(filter))) > 1;
  const square = (n: number, c: number, extent: number, taps: number, pad: number): Filter => ({ n, c, image: [extent, extent], taps: [taps, taps], pads: [[pad, pad], [pad, pad]] });
  it("images of many rows: the stages of a residual net but the smallest, a first layer's few channels, wide filters", () => {
    for (const [n, c, extent, taps, pad] of [[32, 16, 28, 3, 1], [32, 16, 32, 3, 1], [32, 32, 16, 3, 1], [64, 3, 32, 3, 1], [32, 3, 32, 7, 3], [32, 16, 16, 5, 2]] as const)
      expect([n, c, extent, taps, pays(square(n, c, extent, taps, pad))]).toEqual([n, c, extent, taps, true]);
  });
  it("not small images, and not little work", () => {
    for (const [n, c, extent, taps, pad] of [[32, 64, 8, 3, 1], [512, 64, 8, 3, 1], [64, 6, 12, 5, 0], [16, 4, 16, 3, 0], [8, 8, 8, 3, 1], [2, 2, 16, 3, 1]] as const)
      expect([n, c, extent, taps, pays(square(n, c, extent, taps, pad))]).toEqual([n, c, extent, taps, false]);
  });
  it("products of the correlation are counted by size: 25 distances, 13 of them summed, instead of 81 pairs of taps", () => {
    const graph = moments(square(32, 16, 28, 3, 1));
    const work = (g: Graph): number => g.nodes.reduce((total, node) => total + (node.op === "contract" ? macs(node.inputs as [Value, Value], node.results[0] as Value, String(node.attrs.spec)) : 0), 0);
    expect(work(autocorrelation.run(graph)) / work(graph)).toBeLessThan(0.2);
  });
});

/** Multiply-adds of a contraction, symmetry not counted. */
function macs([l, r]: readonly [Value, Value], out: Value, spec: string): number {
  const [left, right] = spec.replace(/->.*/, "").split(",") as [string, string];
  const summed = [...new Set(left + right)].filter((label) => !spec.split("->")[1]?.includes(label));
  return size(out.type.shape) * summed.reduce((n, label) => n * ((left.includes(label) ? l.type.shape[left.indexOf(label)] : r.type.shape[right.indexOf(label)]) as number), 1);
}
