/** Reverse mode over whole graphs: against finite differences along random directions, and its rules one by one. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { evaluate, evaluateAll } from "../../ir/evaluate.js";
import { cotangents } from "../../ir/grad.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { print } from "../../ir/print.js";
import { f32 } from "../../ir/type.js";
import { verify } from "../../ir/verify.js";
import { graphs, PATIENCE } from "../support/graphs.js";
import { bind, random, tensor } from "../support/models.js";

const isFloat = (v: Value): boolean => v.type.dtype === "f32";

/** Numbers that meet no kink: nothing small and whole. */
function inputs(graph: Graph, seed: number): Record<string, NdArray> {
  const next = random(seed);
  return bind(graph, Object.fromEntries([...graph.params, ...graph.inputs].map(({ value: { name, type } }) => [name, isFloat({ name, type }) ? tensor(type.shape, next, 2) : ndarray(type.dtype, type.shape, [seed % 7])])), {});
}

const plus = (given: Readonly<Record<string, NdArray>>, direction: ReadonlyMap<string, NdArray>, by: number): Record<string, NdArray> =>
  Object.fromEntries(Object.entries(given).map(([name, x]) => {
    const d = direction.get(name);
    return [name, d ? ndarray(x.dtype, x.shape, x.data.map((v, k) => v + by * (d.data[k] as number))) : x];
  }));

const dot = (a: NdArray, b: NdArray): number => a.data.reduce((total, x, k) => total + x * (b.data[k] as number), 0);

describe("gradients of random graphs", () => {
  const smooth = graphs().filter((g) => !g.nodes.some((n) => n.op === "detach" || n.op === "inverse"));

  it("agree with finite differences along random directions", () => {
    let [compared, kinks] = [0, 0];
    fc.assert(fc.property(smooth, fc.nat(1000), (graph, seed) => {
      const given = inputs(graph, seed);
      const all = evaluateAll(graph, given);
      const results = graph.results.filter((r) => isFloat(r.value) && all.get(r.value)?.data.every((x) => Math.abs(x) < 1e4));
      // large intermediate values lose the digits that the difference is made of
      if (results.length === 0 || [...all.values()].some((x) => x.data.some((v) => !(Math.abs(v) < 1e5)))) return;
      const next = random(seed + 1);
      const seeds = results.map((r) => tensor(r.value.type.shape, next));
      const b = Builder.from(graph);
      const wanted = [...graph.params, ...graph.inputs].map((p) => p.value).filter(isFloat);
      const cts = new Map<Value, Value>();
      results.forEach((r, k) => {
        const ct = b.input(`seed${k}`, r.value.type);
        const before = cts.get(r.value);
        cts.set(r.value, before ? b.emit("add", [before, ct]) : ct);
      });
      const found = cotangents(b, cts, wanted);
      const backward = b.finish([...found].map(([v, ct]) => ({ name: v.name, value: ct })));
      verify(backward);
      const got = evaluate(backward, { ...given, ...Object.fromEntries(seeds.map((s, k) => [`seed${k}`, s])) });
      const direction = new Map(wanted.map((v) => [v.name, tensor(v.type.shape, next)] as const));
      const analytic = Object.entries(got).reduce((total, [name, g]) => total + dot(g, direction.get(name) as NdArray), 0);
      const value = (by: number): number => {
        const out = evaluate({ ...graph, results }, plus(given, direction, by));
        return results.reduce((total, r, k) => total + dot(out[r.name] as NdArray, seeds[k] as NdArray), 0);
      };
      const slope = (h: number): number => (value(h) - value(-h)) / (2 * h);
      const [wide, narrow] = [slope(1e-5), slope(5e-6)];
      const scale = 1 + Math.abs(wide) + Math.abs(analytic);
      // two step lengths that disagree tell of a kink between them, not of a wrong derivative
      if (Math.abs(wide - narrow) > 1e-4 * scale) { kinks++; return; }
      compared++;
      if (!(Math.abs(analytic - wide) < 1e-3 * scale)) throw new Error(`seed ${seed}: derivative ${analytic}, difference ${wide}\n${print(graph)}`);
    }), { ...PATIENCE, seed: 23, numRuns: 250 });
    expect(compared).toBeGreaterThan(100);
    expect(kinks).toBeLessThan(compared / 5);
  });
});

describe("reverse mode", () => {
  it("adds up what reaches a value along several ways", () => {
    const b = new Builder("g");
    const x = b.input("x", f32());
    const y = b.emit("add", [b.emit("mul", [x, x]), b.emit("neg", [x])]);
    const ct = cotangents(b, new Map([[y, b.scalar(1)]]), [x]).get(x) as Value;
    expect(evaluate(b.finish([{ name: "d", value: ct }]), { x: ndarray("f32", [], [5]) }).d?.data[0]).toBe(9);
  });

  it("goes past a value that is wanted and has a seed of its own", () => {
    const b = new Builder("g");
    const x = b.input("x", f32());
    const h = b.emit("mul", [x, b.scalar(3)]);
    const y = b.emit("mul", [h, h]);
    const found = cotangents(b, new Map([[y, b.scalar(1)], [h, b.scalar(10)]]), [h, x]);
    const out = evaluate(b.finish([{ name: "h", value: found.get(h) as Value }, { name: "x", value: found.get(x) as Value }]), { x: ndarray("f32", [], [2]) });
    expect([out.h?.data[0], out.x?.data[0]]).toEqual([2 * 6 + 10, 3 * 22]);
  });

  it("leaves out what no seed reaches, and stops at detach", () => {
    const b = new Builder("g");
    const [x, z] = [b.input("x", f32(2)), b.input("z", f32(2))];
    const y = b.emit("mul", [b.emit("detach", [x]), x]);
    b.emit("neg", [z]);
    const found = cotangents(b, new Map([[y, y]]), [x, z]);
    expect(found.has(z)).toBe(false);
    const out = evaluate(b.finish([{ name: "d", value: found.get(x) as Value }]), { x: ndarray("f32", [2], [2, 3]), z: ndarray("f32", [2], [0, 0]) });
    // y·detach(x), not 2·y·x
    expect([...(out.d as NdArray).data]).toEqual([8, 27]);
  });

  it("names the node that has no derivative, and does not mind one off the path", () => {
    const b = new Builder("g");
    const m = b.input("m", f32(1, 2, 2));
    const d = b.input("d", f32(1));
    b.origin = "Inverse \"/inv\"";
    const [inverse] = b.node("inverse", [m, d]).results as [Value, Value];
    b.origin = undefined;
    const y = b.emit("mul", [inverse, inverse]);
    expect(() => cotangents(b, new Map([[y, y]]), [m])).toThrow(/no derivative through "inverse"/);
    expect([...cotangents(b, new Map([[y, y]]), [inverse]).keys()]).toEqual([inverse]);
  });
});
