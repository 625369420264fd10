/** Second moments by distance on an adapter: as accurate as the patches' own, symmetric to the bit, and few kernels. */
import { describe, expect, it } from "vitest";
import { PORTABLE } from "../../codegen/limits.js";
import { lowerGraph } from "../../codegen/lower.js";
import { Builder, broadcast } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Graph } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { autocorrelate } from "../../ir/passes/autocorrelation.js";
import { eigenvalues } from "../../runtime/eigen.js";
import { testDevice } from "../support/gpu.js";
import { patches, random, runPoisoned } from "../support/models.js";

const device = testDevice();

interface Filter {
  readonly n: number;
  readonly c: number;
  readonly extent: number;
  readonly k: number;
  readonly pad: number;
  readonly ones?: boolean;
}

/** A running average of A, as a statistics step has it. */
function averaged({ n, c, extent, k, pad, ones = false }: Filter): Graph {
  const b = new Builder("factor");
  const x = b.input("x", { dtype: "f32", shape: [n, c, extent, extent] });
  const view = patches(b, x, k, { pad });
  const positions = view.type.shape[2] as number;
  let rows = b.emit("reshape", [b.emit("permute", [view], { perm: [0, 2, 4, 1, 3, 5] })], { shape: [n, positions, positions, c * k * k] });
  if (ones) rows = b.emit("pad", [rows], { low: [0, 0, 0, 0], high: [0, 0, 0, 1], value: 1 });
  const A = b.emit("contract", [rows, rows], { spec: "abcy,abcz->yz" });
  const old = b.input("old", A.type);
  const half = broadcast(b.emit, b.scalar(0.5), A.type.shape, []);
  return b.finish([{ name: "A", value: b.emit("mul", [b.emit("add", [A, old]), half]) }]);
}

const correlated = (graph: Graph): Graph => autocorrelate(graph, { sum: 0, wide: 0 });

/** Pixels by (random number, row, column, last). Borders a thousand times larger are what the subtraction likes least. */
const IMAGES: Readonly<Record<string, (u: number, y: number, x: number, last: number) => number>> = {
  random: (u) => u,
  rectified: (u) => Math.max(0, u),
  constant: () => 1.1,
  smooth: (u, y, x) => 1 + 0.01 * y + 0.02 * x + 1e-4 * u,
  "large at a corner": (u, y, x) => (y + x === 0 ? 1e3 : 1) * u,
  "large at the border": (u, y, x, last) => (y === 0 || x === 0 || y === last || x === last ? 1e3 : 1) * u,
};

function given({ n, c, extent, k, ones }: Filter, pixel: (typeof IMAGES)[string], seed: number): Record<string, NdArray> {
  const u = random(seed);
  const m = c * k * k + (ones ? 1 : 0);
  const pixels = Float64Array.from({ length: n * c * extent * extent }, (_, at) => Math.fround(pixel(u(), Math.floor(at / extent) % extent, at % extent, extent - 1)));
  return { x: ndarray("f32", [n, c, extent, extent], pixels), old: ndarray("f32", [m, m], new Float64Array(m * m)) };
}

describe("second moments by distance on an adapter", () => {
  for (const filter of [{ n: 4, c: 3, extent: 12, k: 3, pad: 1 }, { n: 3, c: 2, extent: 13, k: 3, pad: 0, ones: true }, { n: 2, c: 1, extent: 28, k: 5, pad: 0 }, { n: 2, c: 2, extent: 16, k: 5, pad: 2, ones: true }] satisfies Filter[])
    for (const [name, pixel] of Object.entries(IMAGES).filter(([image]) => filter.k === 3 || ["random", "constant", "large at the border"].includes(image)))
      it(`${filter.k}×${filter.k}, padding ${filter.pad}, ${filter.extent} wide, ${name}`, async () => {
        const graph = averaged(filter);
        const seed = 5;
        const data = given(filter, pixel, seed);
        const want = (evaluate(graph, data).A as NdArray).data;
        const { results } = await runPoisoned(device().device, correlated(graph), data);
        const got = results.A as NdArray;
        const m = got.shape[0] as number;
        const largest = want.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
        // a sum of P products in f32 is off by √P rounding errors of what it adds up, which is not more than the trace
        const tolerance = Math.sqrt(filter.n * filter.extent ** 2) * 2 ** -24;
        got.data.forEach((v, at) => {
          if (!(Math.abs(v - (want[at] as number)) <= tolerance * largest)) throw new Error(`seed ${seed}: A[${Math.floor(at / m)}, ${at % m}] is ${v}, not ${want[at]}`);
          expect(v).toBe(got.data[(at % m) * m + Math.floor(at / m)]);
        });
        // what damping has to make up for: rounding errors of the largest eigenvalue
        const values = eigenvalues(m, Float64Array.from(got.data));
        expect(Math.min(...values)).toBeGreaterThan(-tolerance * Math.max(...values));
      });

  it("has a kernel for each sum and one that assembles and averages", () => {
    const graph = correlated(averaged({ n: 4, c: 16, extent: 12, k: 3, pad: 1 }));
    expect(lowerGraph(graph, PORTABLE).work.flatMap((w) => w.specs).map((spec) => spec.kind)).toEqual(["contract", "contract", "contract", "map"]);
  });
});
