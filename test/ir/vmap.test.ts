/** Mapping recorded nodes over a leading axis: whole graphs against a loop over the columns (single ops: ops.test.ts). */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { print } from "../../ir/print.js";
import { f32, size } from "../../ir/type.js";
import { verify } from "../../ir/verify.js";
import { vmap } from "../../ir/vmap.js";
import { bindings, difference, graphs, PATIENCE } from "../support/graphs.js";

describe("vmap", () => {
  it("of a random graph is a loop over the columns", () => {
    let compared = 0;
    fc.assert(fc.property(graphs().filter((g) => !g.nodes.some((n) => n.op === "inverse")), fc.nat(1000), fc.integer({ min: 1, max: 3 }), (graph, seed, columns) => {
      const floats = [...graph.params, ...graph.inputs].map((p) => p.value).filter((v) => v.type.dtype === "f32");
      const chosen = floats.filter((_, k) => (seed >> k) & 1);
      if (chosen.length === 0) return;
      const b = Builder.from(graph);
      const stacks = new Map(chosen.map((v, k) => [v, b.input(`stack ${k}`, { ...v.type, shape: [columns, ...v.type.shape] })] as const));
      const map = vmap(b.emit, graph.nodes, stacks);
      const results = graph.results.filter((r) => map.has(r.value) && !stacks.has(r.value));
      const stacked = b.finish(results.map((r) => ({ name: r.name, value: map.get(r.value) as Value })));
      verify(stacked);
      const each = Array.from({ length: columns }, (_, s) => bindings(graph, seed + s));
      const first = each[0] as Record<string, NdArray>;
      const given = { ...first, ...Object.fromEntries(chosen.map((v, k) => [`stack ${k}`, ndarray("f32", [columns, ...v.type.shape], each.flatMap((x) => [...(x[v.name] as NdArray).data]))])) };
      const got = evaluate(stacked, given);
      each.forEach((x, s) => {
        const want = evaluate({ ...graph, results }, { ...first, ...Object.fromEntries(chosen.map((v) => [v.name, x[v.name] as NdArray])) });
        for (const r of results) {
          const n = size(r.value.type.shape);
          const column = ndarray(r.value.type.dtype, r.value.type.shape, (got[r.name] as NdArray).data.slice(s * n, (s + 1) * n));
          compared++;
          if (!(difference(want[r.name] as NdArray, column) < 1e-12)) throw new Error(`seed ${seed}, column ${s}: result ${r.name} differs\n${print(graph)}`);
        }
      });
    }), { ...PATIENCE, seed: 31, numRuns: 150 });
    expect(compared).toBeGreaterThan(200);
  });

  it("touches only what depends on a stacked value", () => {
    const b = new Builder("g");
    const [x, y] = [b.input("x", f32(2)), b.input("y", f32(2))];
    const free = b.emit("exp", [y]);
    const mixed = b.emit("mul", [x, free]);
    const before = b.nodes.length;
    const map = vmap(b.emit, [...b.nodes], new Map([[x, b.input("s", f32(3, 2))]]));
    expect(map.has(free)).toBe(false);
    expect(map.get(mixed)?.type.shape).toEqual([3, 2]);
    // one repetition of exp(y), one product
    expect(b.nodes.slice(before).map((n) => n.op)).toEqual(["broadcast", "mul"]);
  });

  it("of nothing is nothing, and an op that cannot be mapped is named", () => {
    const b = new Builder("g");
    const [m, d] = [b.input("m", f32(1, 2, 2)), b.input("d", f32(1))];
    b.node("inverse", [m, d]);
    expect(vmap(b.emit, b.nodes, new Map()).size).toBe(0);
    const inverse = b.nodes.map((n) => ({ ...n, results: n.results.slice(0, 1) }));
    expect(() => vmap(b.emit, inverse, new Map([[m, b.input("s", f32(3, 1, 2, 2))]]))).toThrow(/"inverse" cannot be mapped/);
  });
});
