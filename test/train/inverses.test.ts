/** Inverses of a graph that become one node. */
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Graph, Value } from "../../ir/graph.js";
import { ndarray } from "../../ir/ndarray.js";
import { f32 } from "../../ir/type.js";
import { verify } from "../../ir/verify.js";
import { inversesTogether } from "../../src/train/inverses.js";
import { spd } from "../support/inverse-oracle.js";

/** Inverses of matrices of these sizes, each used at once, and the inverse of the first one's inverse. */
function graphOf(sizes: readonly number[], again = false): Graph {
  const b = new Builder("inverses");
  const results: { name: string; value: Value }[] = [];
  sizes.forEach((n, k) => {
    const damping = b.emit("exp", [b.input(`d${k}`, f32(1))]);
    const node = b.node("inverse", [b.input(`m${k}`, f32(1, n, n)), damping]);
    const [inverse, clean] = node.results as [Value, Value];
    results.push({ name: `x${k}`, value: b.emit("neg", [inverse]) }, { name: `clean${k}`, value: clean });
    if (again && k === 0) results.push({ name: "again", value: b.node("inverse", [inverse, damping]).results[0] as Value });
  });
  return b.finish(results);
}

const inputs = (sizes: readonly number[]) => Object.fromEntries(sizes.flatMap((n, k) => [
  [`m${k}`, ndarray("f32", [1, n, n], Float64Array.from(spd(n, 10, k)))],
  [`d${k}`, ndarray("f32", [1], Float64Array.of(-k))],
]));

describe("inverses together", () => {
  it("are one node, largest first, that computes what the many did", () => {
    const sizes = [3, 7, 1, 7];
    const graph = graphOf(sizes);
    const merged = inversesTogether(graph);
    verify(merged);
    const nodes = merged.nodes.filter((n) => n.op === "inverse");
    expect(nodes.map((n) => n.inputs.filter((_, k) => k % 2 === 0).map((v) => v.type.shape[1]))).toEqual([[7, 7, 3, 1]]);
    expect(evaluate(merged, inputs(sizes))).toEqual(evaluate(graph, inputs(sizes)));
  });

  it("wait for no other: an inverse of an inverse stays behind", () => {
    const graph = graphOf([3, 4], true);
    const merged = inversesTogether(graph);
    verify(merged);
    expect(merged.nodes.filter((n) => n.op === "inverse").map((n) => n.results.length)).toEqual([4, 2]);
    expect(evaluate(merged, inputs([3, 4]))).toEqual(evaluate(graph, inputs([3, 4])));
  });

  it("are several nodes where their matrices would take more than 32 MB", () => {
    const merged = inversesTogether(graphOf([2500, 100, 2000, 1000]));
    expect(merged.nodes.filter((n) => n.op === "inverse").map((n) => n.inputs.flatMap((v) => v.type.shape[1] ?? []))).toEqual([[2500], [2000, 1000, 100]]);
  });
});
