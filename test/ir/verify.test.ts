import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import type { Graph, Node, Value } from "../../ir/graph.js";
import { parse } from "../../ir/parse.js";
import { verify } from "../../ir/verify.js";
import { f32 } from "../../ir/type.js";
import { graphs, PATIENCE } from "../support/graphs.js";

const good = parse(`graph g {
  param %w: f32[2] = zeros
  input %x: f32[3, 2] examples 0
  %b = broadcast(%w) {shape = [3, 2], axes = [1]}
  %y = add(%x, %b)
  %z = relu(%y)
  return z = %z
}`);

function refusal(graph: Graph): string {
  try {
    verify(graph);
  } catch (e) {
    if (e instanceof CompileError) return `${e.code}: ${e.message} | ${e.where}`;
    throw e;
  }
  return "accepted";
}

const nodeAt = (k: number): Node => good.nodes[k] as Node;
const value = (k: number): Value => nodeAt(k).results[0] as Value;
const replace = (k: number, change: Partial<Node>): Graph => ({ ...good, nodes: good.nodes.map((n, at) => (at === k ? { ...n, ...change } : n)) });

describe("verify", () => {
  it("accepts every well-typed graph", () => {
    expect(refusal(good)).toBe("accepted");
    fc.assert(fc.property(graphs(), verify), { ...PATIENCE, seed: 81, numRuns: 150 });
  });

  it("refuses a use before the definition, naming the node", () => {
    const swapped = { ...good, nodes: [nodeAt(1), nodeAt(0), nodeAt(2)] };
    expect(refusal(swapped)).toBe("invalid-graph: %b is not defined before its use | node %y = add(%x, %b) : f32[3, 2]");
  });

  it("compares values by identity: the same name from another graph is not defined", () => {
    const impostor = { name: "y", type: f32(3, 2) };
    expect(refusal(replace(2, { inputs: [impostor] }))).toMatch(/%y is not defined before its use \| node %z = relu/);
  });

  it("refuses two values of one name and one value defined twice", () => {
    expect(refusal(replace(2, { results: [{ name: "x", type: f32(3, 2) }] }))).toMatch(/invalid-graph: two values are named %x \| node %x = relu/);
    expect(refusal(replace(2, { results: [value(1)] }))).toMatch(/invalid-graph: %y is defined twice/);
    expect(refusal({ ...good, inputs: [...good.inputs, ...good.inputs] })).toMatch(/%x is defined twice \| graph "g"/);
  });

  it("refuses result types and counts that the op record does not infer", () => {
    const wrong = { name: "z", type: f32(3, 3) };
    expect(refusal({ ...replace(2, { results: [wrong] }), results: [] })).toMatch(/invalid-graph: %z is f32\[3, 2\], not f32\[3, 3\] \| node %z/);
    expect(refusal(replace(2, { results: [value(2), { name: "q", type: f32() }] }))).toMatch(/relu has 1 results, not 2/);
    expect(refusal(replace(1, { inputs: [value(0)] }))).toMatch(/add takes 2 inputs, has 1/);
  });

  it("refuses attributes that are missing, unknown or of another kind", () => {
    expect(refusal(replace(0, { attrs: { shape: [3, 2] } }))).toMatch(/invalid-graph: broadcast needs the attribute "axes" \(ints\) \| node %b/);
    expect(refusal(replace(0, { attrs: { shape: [3, 2], axes: 1 } }))).toMatch(/broadcast: "axes" must be ints, got 1/);
    expect(refusal(replace(2, { attrs: { slope: 1 } }))).toMatch(/relu has no attribute "slope"/);
  });

  it("refuses results that are not defined or share a name", () => {
    expect(refusal({ ...good, nodes: good.nodes.slice(0, 2) })).toBe('invalid-graph: result "z" = %z is not defined | graph "g"');
    expect(refusal({ ...good, results: [...good.results, ...good.results] })).toBe('invalid-graph: result "z" is returned twice | graph "g"');
  });

  it("refuses an example axis that the input does not have", () => {
    const x = good.inputs[0]?.value as Value;
    for (const examples of [2, -1, 0.5]) expect(refusal({ ...good, inputs: [{ value: x, examples }] })).toMatch(/input %x: f32\[3, 2\] has no axis/);
  });

  it("a region sees nothing of the graph around it", () => {
    const region = parse("graph body { input %r: f32[3, 2] %s = neg(%r) return s = %s }");
    expect(refusal(replace(2, { regions: [region] }))).toBe("accepted");
    const leak: Graph = { ...region, nodes: region.nodes.map((n) => ({ ...n, inputs: [value(1)] })) };
    expect(refusal(replace(2, { regions: [leak] }))).toMatch(/%y belongs to the graph around this region \| node %s = neg\(%y\)/);
  });
});
