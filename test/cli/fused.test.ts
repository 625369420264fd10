import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { runPasses } from "../../ir/pass.js";
import { CANONICAL } from "../../ir/passes/index.js";
import { parse } from "../../ir/parse.js";
import { print } from "../../ir/print.js";
import { printFused } from "../../src/cli/fused.js";
import { openModel } from "../../src/model.js";

const mlp = fileURLToPath(new URL("../fixtures/models/mlp_softmax_out.onnx", import.meta.url));

test("the fused print names a kernel or 'inlined' for every node, and still parses to the same graph", async () => {
  const graph = runPasses((await openModel(mlp)).forward(4).graph, CANONICAL);
  const text = printFused(graph);
  expect(print(parse(text))).toBe(print(graph));
  const nodes = text.split("\n").filter((line) => / = \w+\(/.test(line));
  expect(nodes).toHaveLength(graph.nodes.length);
  for (const line of nodes) expect(line).toMatch(/ {2}# (kernel \d+|inlined where it is read)$/);
});

test("bias and activation are computed in the contraction's own kernel", async () => {
  const graph = runPasses((await openModel(mlp)).forward(4).graph, CANONICAL);
  const kernels = (op: string): string[] => printFused(graph).split("\n").filter((line) => line.includes(` = ${op}(`)).map((line) => line.replace(/^.*# /, ""));
  expect(kernels("relu")).toEqual([kernels("contract")[0]]);
  expect(kernels("add")).toEqual(kernels("contract"));
});
