/** Which operations share a kernel, as text: the roots and what joined them, in dispatch order. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { fuse } from "../../codegen/fuse.js";
import type { Limits } from "../../codegen/kernel.js";
import { PORTABLE } from "../../codegen/limits.js";
import { producers, type Value } from "../../ir/graph.js";
import { parse } from "../../ir/parse.js";
import { print } from "../../ir/print.js";
import { graphs, PATIENCE } from "../support/graphs.js";

/** `contract → add → relu: %z` per kernel. */
const kernels = (text: string, limits: Limits = PORTABLE): string[] =>
  fuse(parse(`graph g {\n${text}\n}`), limits, new Set()).groups
    .map((g) => `${[g.root, ...g.nodes].map((n) => n.op).join(" → ")}: ${g.stored.map((v) => `%${v.name}`).join(" ")}`);

describe("fusion", () => {
  it("a layer is one kernel: product, bias and activation", () => {
    expect(kernels(`
      input %x: f32[4, 3]
      param %w: f32[5, 3] = file
      param %b: f32[5] = file
      %y = contract(%x, %w) {spec = "ni,oi->no"}
      %c = broadcast(%b) {shape = [4, 5], axes = [1]}
      %z = add(%y, %c)
      %h = relu(%z)
      return out = %h
    `)).toEqual(["contract → add → relu: %h"]);
  });

  it("an activation that two kernels read is stored once, with the product it follows", () => {
    expect(kernels(`
      input %x: f32[4, 3]
      param %w: f32[5, 3] = file
      %y = contract(%x, %w) {spec = "ni,oi->no"}
      %h = tanh(%y)
      %s = reduce_sum(%h) {axes = [0]}
      %m = reduce_max(%h) {axes = [1]}
      return sum = %s, max = %m
    `)).toEqual(["contract → tanh: %h", "reduce_sum: %s", "reduce_max: %m"]);
  });

  it("cheap work before a reduction is done inside it; its readers of the same shape follow in it", () => {
    expect(kernels(`
      input %x: f32[4, 3]
      %q = mul(%x, %x)
      %s = reduce_sum(%q) {axes = [1]}
      %r = sqrt(%s)
      return norm = %r
    `)).toEqual(["reduce_sum → sqrt: %r"]);
  });

  it("movement is nobody's kernel unless it is a result, and then its readers join it", () => {
    const body = `
      input %x: f32[4, 3]
      %t = permute(%x) {perm = [1, 0]}
      %p = pad(%t) {low = [0, 1], high = [0, 0], value = 0}
      %e = exp(%p)`;
    expect(kernels(`${body}\n return out = %e`)).toEqual(["exp: %e"]);
    expect(kernels(`${body}\n return out = %e, view = %p`)).toEqual(["pad → exp: %p %e"]);
  });

  it("an operation that waits for a kernel through a third one does not join it", () => {
    // %d needs the sum, and the sum needs %h: joining them would be a circle
    expect(kernels(`
      input %x: f32[4, 3]
      param %w: f32[3, 3] = file
      %h = contract(%x, %w) {spec = "ni,oi->no"}
      %s = reduce_sum(%h) {axes = [0]}
      %b = broadcast(%s) {shape = [4, 3], axes = [1]}
      %d = sub(%h, %b)
      return out = %d
    `)).toEqual(["contract: %h", "reduce_sum: %s", "sub: %d"]);
  });

  it("the product of a value with itself takes on only what needs nothing else: half of it is computed", () => {
    const text = (rest: string) => `
      input %x: f32[8, 3]
      input %old: f32[3, 3]
      %a = contract(%x, %x) {spec = "ny,nz->yz"}
      ${rest}
      return a = %r`;
    expect(kernels(text("%r = mul(%a, %a)"))).toEqual(["contract → mul: %r"]);
    expect(kernels(text("%r = add(%a, %old)"))).toEqual(["contract: %a", "add: %r"]);
  });

  it("a kernel never binds more buffers than the limit, whatever that is", () => {
    const inputs = Array.from({ length: 12 }, (_, k) => `input %x${k}: f32[6]`).join("\n");
    const sums = Array.from({ length: 11 }, (_, k) => `%s${k} = add(${k === 0 ? "%x0" : `%s${k - 1}`}, %x${k + 1})`).join("\n");
    for (const storageBuffers of [4, 8]) {
      const made = kernels(`${inputs}\n${sums}\nreturn out = %s10`, { ...PORTABLE, storageBuffers });
      expect(made.length).toBeGreaterThan(1);
      expect(made[made.length - 1]).toMatch(/: %s10$/);
    }
  });

  it("on random graphs: every result is stored, every value is made once, and kernels stand in order", () => {
    fc.assert(fc.property(graphs(), (graph) => {
      const { groups, groupOf } = fuse(graph, PORTABLE, new Set());
      const producer = producers(graph);
      const stored = new Set<Value>(groups.flatMap((g) => g.stored));
      const inputs = new Set([...graph.params, ...graph.inputs].map((p) => p.value));
      const what = print(graph);
      for (const r of graph.results) expect(inputs.has(r.value) || stored.has(r.value), `${r.name} of ${what}`).toBe(true);
      const made = groups.flatMap((g) => [g.root, ...g.nodes]);
      expect(new Set(made).size, what).toBe(made.length);
      const done = new Set<Value>();
      for (const g of groups) {
        const own = new Set([g.root, ...g.nodes].flatMap((n) => n.results));
        const reads = (v: Value): void => {
          if (own.has(v) || inputs.has(v)) return;
          if (groupOf.has(v)) expect(done.has(v), `%${v.name} of ${what}`).toBe(true);
          else producer.get(v)?.inputs.forEach(reads);
        };
        for (const n of [g.root, ...g.nodes]) n.inputs.forEach(reads);
        for (const v of g.stored) done.add(v);
      }
    }), { ...PATIENCE, seed: 41, numRuns: 200 });
  });
});
