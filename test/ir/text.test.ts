import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { CompileError } from "../../ir/error.js";
import type { Graph, Node } from "../../ir/graph.js";
import { parse } from "../../ir/parse.js";
import { KEYWORDS, print, spellNumber } from "../../ir/print.js";
import { f32 } from "../../ir/type.js";
import { graphs, PATIENCE } from "../support/graphs.js";

const golden = (name: string): string => readFileSync(new URL(`../golden/${name}`, import.meta.url), "utf8");

/** code: message | where */
function refusal(text: string, file?: string): string {
  try {
    parse(text, file);
  } catch (e) {
    if (e instanceof CompileError) return `${e.code}: ${e.message} | ${e.where}`;
    throw e;
  }
  return "accepted";
}

describe("text", () => {
  it("the golden graph reads and prints back byte for byte", () => {
    const text = golden("mlp.kir");
    const graph = parse(text);
    expect(print(graph)).toBe(text);
    expect(graph.params.map((p) => p.trainable)).toEqual([true, false, true, true]);
    expect(graph.params[3]?.source).toEqual({ kind: "values", values: [1, -0, 1e-45] });
    expect(graph.nodes[0]?.origin).toBe('Gemm "/fc/Gemm"');
    expect(graph.inputs.map((i) => i.examples)).toEqual([0, 0, undefined]);
  });

  it("every well-typed graph survives the round trip, structure and all", () => {
    fc.assert(fc.property(graphs(), (graph) => {
      const again = parse(print(graph));
      expect(print(again)).toBe(print(graph));
      expect(again).toEqual(graph);
    }), { ...PATIENCE, seed: 71, numRuns: 150 });
  });

  it("every float64 survives, so a golden number is the number", () => {
    fc.assert(fc.property(fc.double(), (value) => {
      const b = new Builder("g");
      b.node("constant", [], { value, dtype: "f32" });
      const back = parse(print(b.finish([]))).nodes[0]?.attrs["value"];
      expect(Object.is(back, value)).toBe(true);
    }), { ...PATIENCE, seed: 72, numRuns: 500, examples: [[-0], [Number.NaN], [-Infinity], [5e-324], [1.7976931348623157e308], [1e21], [1e-7]] });
    expect([-0, Infinity, Number.NaN, 1e21].map(spellNumber)).toEqual(["-0", "inf", "nan", "1e+21"]);
  });

  it("any string can be a name: of values, results, graphs and origins", () => {
    const names = fc.uniqueArray(fc.oneof(fc.string({ unit: "binary" }), fc.string(), fc.constantFrom<string>(...KEYWORDS, "%x", "a b", "\"", "#")), { minLength: 4, maxLength: 4 });
    fc.assert(fc.property(names, ([graph, x, y, out]) => {
      const b = new Builder(graph as string);
      const input = b.input(x as string, f32(2), 0);
      b.origin = out as string;
      const node = b.node("neg", [input], {}, [], [y]);
      const made = b.finish([{ name: out as string, value: node.results[0] as NonNullable<typeof node.results[0]> }]);
      expect(parse(print(made))).toEqual(made);
    }), { ...PATIENCE, seed: 73, numRuns: 300 });
  });

  it("regions are graphs inside a node, with names of their own", () => {
    const b = new Builder("body");
    const s = b.input("x", f32(2));
    const body = b.finish([{ name: "next", value: b.emit("neg", [s]) }]);
    const o = new Builder("outer");
    const x = o.input("x", f32(2));
    const node: Node = o.node("neg", [x], {}, [body, { ...body, name: "other" }]);
    const graph: Graph = o.finish([{ name: "y", value: node.results[0] as typeof x }]);
    expect(print(graph)).toBe(golden("regions.kir"));
    expect(parse(print(graph))).toEqual(graph);
  });

  it("spaces, line ends and comments mean nothing", () => {
    const text = "graph g{input %x:f32[2]examples 0 # the batch\r\n%y=neg(%x)return y=%y}";
    expect(print(parse(text))).toBe("graph g {\n  input %x: f32[2] examples 0\n  %y = neg(%x) : f32[2]\n  return y = %y\n}\n");
  });

  it("a syntax error says where and what was expected", () => {
    const cases: [string, string][] = [
      ["", 'syntax: expected "graph", found the end of the text | line 1, column 1'],
      ["graph g {\n", 'syntax: expected a node, a param, an input or "return", found the end of the text | line 2, column 1'],
      ["graph g {\n  input %x f32[2]\n  return }", 'syntax: expected ":", found "f32" | line 2, column 12'],
      ["graph g { input %x: f32[2 return }", 'syntax: expected "," or "]", found "return" | line 1, column 27'],
      ["graph g { $ return }", 'syntax: unexpected character "$" | line 1, column 11'],
      ["graph g { input %\"\\q\": f32[] return }", 'syntax: bad escape in "\\q" | line 1, column 17'],
      ["graph g { return } x", 'syntax: expected the end of the text, found "x" | line 1, column 20'],
      ["graph g { %a = conv() return }", 'syntax: there is no operation "conv" | line 1, column 16'],
      ["graph g { input %x: f64[2] return }", 'syntax: there is no element type "f64" | line 1, column 21'],
      ["graph g { input %x: f32[1.5] return }", "syntax: an extent is a whole number, not 1.5 | line 1, column 21"],
      ["graph g { param %x: f32[2] = he return }", "syntax: he takes one number, the seed | line 1, column 30"],
      ["graph g { param %x: f32[2] = values(1) return }", "syntax: values takes 2 numbers, got 1 | line 1, column 30"],
      ["graph g { %a = iota() {axis = 0, axis = 1} return }", 'syntax: attribute "axis" is given twice | line 1, column 34'],
    ];
    for (const [text, wanted] of cases) expect(refusal(text)).toBe(wanted);
    expect(refusal("graph", "net.kir")).toBe("syntax: expected a name or a string, found the end of the text | net.kir, line 1, column 6");
  });

  it("a graph that reads but makes no sense is refused at its line", () => {
    const cases: [string, string][] = [
      ["%y = neg(%x)", "invalid-graph: %x is not defined before its use | line 3, column 10"],
      ["%i = neg(%i)", "invalid-graph: %i is defined twice | line 3, column 1"],
      ["%y = neg(%i) : f32[3]", "invalid-graph: neg gives f32[2], not f32[3] | line 3, column 16"],
      ["%y = add(%i)", "invalid-graph: add takes 2 inputs, got 1 | line 3, column 6"],
      ["%y, %z = neg(%i)", "invalid-graph: neg has 1 results, 2 are named | line 3, column 10"],
      ["%y = reshape(%i) {shape = [3]}", "shape-mismatch: reshape(f32[2]): cannot become [3] | line 3, column 6"],
      ["%y = reshape(%i)", 'bad-attribute: reshape needs the attribute "shape" (ints) | line 3, column 6'],
      ["%y = neg(%i) {axis = 0}", 'bad-attribute: neg has no attribute "axis" | line 3, column 6'],
      ["%y = neg(%i) shared", 'syntax: "shared" belongs in patterns | line 3, column 6'],
    ];
    for (const [line, wanted] of cases) expect(refusal(`graph g {\n  input %i: f32[2]\n${line}\n  return }`)).toBe(wanted);
    expect(refusal("graph g { input %i: f32[2] examples 1 return }")).toBe("invalid-graph: %i has no axis 1 to carry examples | line 1, column 17");
    expect(refusal("graph g { input %i: f32[2] return a = %i, a = %i }")).toBe('invalid-graph: result "a" is returned twice | line 1, column 43');
  });
});
