import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import { evaluateAll } from "../../ir/evaluate.js";
import { type ExampleAxis, exampleMarks, type Mark, requireExamples } from "../../ir/examples.js";
import type { Graph, Value } from "../../ir/graph.js";
import { values } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { parse } from "../../ir/parse.js";
import { print } from "../../ir/print.js";
import { size } from "../../ir/type.js";
import { bindings, graphs, PATIENCE } from "../support/graphs.js";

/** Position along outer · N · inner of a flat index → the example number. */
function exampleAt(shape: readonly number[], mark: ExampleAxis, flat: number): number {
  const along = Math.floor(flat / size(shape.slice(mark.axis + 1))) % (shape[mark.axis] as number);
  const n = (shape[mark.axis] as number) / (mark.outer * mark.inner);
  return Math.floor(along / mark.inner) % n;
}

/** Other numbers for one example of every marked input. */
function disturb(graph: Graph, given: Readonly<Record<string, NdArray>>, example: number): Record<string, NdArray> {
  const changed = graph.inputs.map(({ value, examples }) => {
    const { dtype, shape, data } = given[value.name] as NdArray;
    if (examples === undefined) return [value.name, given[value.name] as NdArray];
    const other = data.map((v, k) => (exampleAt(shape, { axis: examples, outer: 1, inner: 1 }, k) === example ? v + 1.5 : v));
    return [value.name, ndarray(dtype, shape, other)];
  });
  return { ...given, ...Object.fromEntries(changed) };
}

const spell = (mark: Mark | undefined): string =>
  mark === undefined ? "none" : "lost" in mark ? `lost: ${mark.why}` : `${mark.axis}${mark.outer * mark.inner === 1 ? "" : ` (${mark.outer} · N · ${mark.inner})`}`;

/** The marks of the values of a graph over %x: f32[6, 4, 10], N = 6, and %w: f32[10, 3]. */
function marks(text: string): Record<string, string> {
  const graph = parse(`graph g { param %w: f32[10, 3] = file input %x: f32[6, 4, 10] examples 0 input %t: f32[4, 6] examples 1 ${text} return }`);
  const found = exampleMarks(graph);
  return Object.fromEntries(graph.nodes.flatMap((n) => n.results).map((v) => [v.name, spell(found.get(v))]));
}

describe("example marks", () => {
  it("another example changes only its own digit of a marked axis, and nothing that is unmarked", () => {
    fc.assert(fc.property(graphs(), fc.nat(1000), fc.integer({ min: 0, max: 1 }), (graph, seed, example) => {
      const given = bindings(graph, seed);
      const [before, after] = [evaluateAll(graph, given), evaluateAll(graph, disturb(graph, given, example))];
      const found = exampleMarks(graph);
      for (const value of values(graph)) {
        const mark = found.get(value);
        if (mark && "lost" in mark) continue;
        const [a, b] = [before.get(value) as NdArray, after.get(value) as NdArray];
        a.data.forEach((v, k) => {
          if (Object.is(v, b.data[k]) || (mark && exampleAt(a.shape, mark, k) === example)) return;
          throw new Error(`seed ${seed}: %${value.name} at ${k} depends on example ${example}, marked ${spell(mark)}\n${print(graph)}`);
        });
      }
    }), { ...PATIENCE, seed: 61, numRuns: 300 });
  });

  it("a mark follows permutations, repetitions, slices and windows of other axes", () => {
    expect(marks(`
      %p = permute(%x) {perm = [2, 0, 1]}
      %b = broadcast(%p) {shape = [10, 2, 6, 4], axes = [0, 2, 3]}
      %s = slice(%p) {start = [9, 0, 0], size = [10, 6, 4], stride = [-1, 1, 1]}
      %w0 = window(%p) {axis = 0, count = 8, taps = 3, stride = 1, dilation = 1, offset = 0, divisor = 1}
      %f = fold(%w0) {axis = 0, size = 10, stride = 1, dilation = 1, offset = 0, divisor = 1}
      %e = tanh(%f)
      %r = reduce_sum(%b) {axes = [0, 3]}
      %c = constant() {value = 2, dtype = "f32"}
      %k = neg(%w)`)).toEqual({ p: "1", b: "2", s: "1", w0: "2", f: "1", e: "1", r: "1", c: "none", k: "none" });
  });

  it("a reshape may merge examples with other axes and split them again", () => {
    expect(marks(`
      %rows = reshape(%x) {shape = [24, 10]}
      %y = contract(%rows, %w) {spec = "ri,io->ro"}
      %back = reshape(%y) {shape = [6, 4, 3]}
      %t1 = permute(%x) {perm = [1, 0, 2]}
      %time = reshape(%t1) {shape = [24, 10]}
      %both = reshape(%t1) {shape = [240]}
      %half = reshape(%x) {shape = [3, 80]}`)).toEqual({
      rows: "0 (1 · N · 4)", y: "0 (1 · N · 4)", back: "0", t1: "1", time: "0 (4 · N · 1)", both: "0 (4 · N · 10)",
      half: "lost: it splits the example axis",
    });
  });

  it("one example keeps its axis: a batch of one is treated as any other", () => {
    const graph = parse("graph g { input %x: f32[1, 1, 8] examples 1 %y = reshape(%x) {shape = [1, 1, 2, 4]} return y = %y }");
    const y = graph.results[0]?.value as Value;
    expect(requireExamples(exampleMarks(graph), y)).toMatchObject({ outer: 1, inner: 1 });
  });

  it("whole batches may be joined and taken apart", () => {
    expect(marks(`
      %d = concat(%x, %x) {axis = 0}
      %s = slice(%d) {start = [6, 0, 0], size = [6, 4, 10], stride = [1, 1, 1]}
      %part = slice(%d) {start = [3, 0, 0], size = [6, 4, 10], stride = [1, 1, 1]}
      %every = slice(%d) {start = [0, 0, 0], size = [6, 4, 10], stride = [2, 1, 1]}
      %rows = reshape(%x) {shape = [24, 10]}
      %t1 = permute(%x) {perm = [1, 0, 2]}
      %time = reshape(%t1) {shape = [24, 10]}
      %mixed = concat(%rows, %time) {axis = 0}
      %side = concat(%x, %x) {axis = 2}`)).toEqual({
      every: "lost: it takes some examples only", rows: "0 (1 · N · 4)", t1: "1", time: "0 (4 · N · 1)", mixed: "lost: it appends something else to the examples",
      d: "0 (2 · N · 1)", s: "0", part: "lost: it takes some examples only", side: "0",
    });
  });

  it("a contraction keeps a label that is in the output, in one operand or in both", () => {
    expect(marks(`
      %one = contract(%x, %w) {spec = "nti,io->ton"}
      %two = contract(%x, %t) {spec = "nti,tn->ni"}
      %sum = contract(%x, %t) {spec = "nti,tn->ti"}
      %gram = contract(%x, %x) {spec = "nti,mti->nm"}
      %dw = contract(%x, %w) {spec = "nti,io->o"}`)).toEqual({
      one: "2", two: "0", sum: "lost: it sums over examples", gram: "lost: it combines every example with every other", dw: "lost: it sums over examples",
    });
  });

  it("what mixes examples loses them, and everything after it stays lost", () => {
    expect(marks(`
      %r = reduce_max(%x) {axes = [0]}
      %after = neg(%r)
      %p = pad(%x) {low = [0, 0, 1], high = [0, 0, 0], value = 0}
      %q = pad(%x) {low = [1, 0, 0], high = [0, 0, 0], value = 0}
      %w0 = window(%x) {axis = 0, count = 5, taps = 2, stride = 1, dilation = 1, offset = 0, divisor = 1}
      %u = slice(%x) {start = [5, 0, 0], size = [6, 4, 10], stride = [-1, 1, 1]}
      %s = slice(%x) {start = [0, 0, 0], size = [6, 4, 6], stride = [1, 1, 1]}
      %tr = permute(%t) {perm = [1, 0]}
      %sq = slice(%x) {start = [0, 0, 0], size = [6, 4, 1], stride = [1, 1, 1]}
      %m = reshape(%sq) {shape = [6, 4]}
      %ok = add(%m, %tr)
      %g = contract(%m, %m) {spec = "nt,no->nto"}
      %x1 = slice(%t) {start = [0, 0], size = [4, 4], stride = [1, 1]}`)).toEqual({
      r: "lost: it reduces the example axis", after: "lost: it reduces the example axis", p: "0", q: "lost: it pads the example axis",
      w0: "lost: it slides over the example axis", u: "lost: it takes some examples only", s: "0", tr: "0", sq: "0", m: "0", ok: "0", g: "0",
      x1: "lost: it takes some examples only",
    });
  });

  it("operands that carry examples along different axes are refused by the node that joins them", () => {
    const graph = parse(`graph g { input %x: f32[3, 3] examples 0
      %p = permute(%x) {perm = [1, 0]} %y = add(%x, %p) @ "Add \\"/skip\\"" %z = neg(%y) return z = %z }`);
    const found = exampleMarks(graph);
    const z = graph.results[0]?.value as Value;
    try {
      requireExamples(found, z);
      expect.unreachable();
    } catch (e) {
      expect(e).toBeInstanceOf(CompileError);
      expect(e).toMatchObject({
        code: "examples-lost", message: "the examples of %z cannot be followed: its operands carry examples along different axes",
        where: 'node %y = add(%x, %p) : f32[3, 3] @ "Add \\"/skip\\""',
      });
    }
    expect(requireExamples(found, graph.inputs[0]?.value as Value)).toEqual({ axis: 0, outer: 1, inner: 1 });
  });

  it("a value without examples is not one with", () => {
    const graph = parse("graph g { param %w: f32[2] = zeros %y = neg(%w) return y = %y }");
    expect(() => requireExamples(exampleMarks(graph), graph.results[0]?.value as Value)).toThrow("%y does not depend on examples");
  });
});
