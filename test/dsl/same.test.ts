/** The same net from ONNX and from TypeScript is the same graph: what is compiled does not depend on how it was written. */
import { join } from "node:path";
import { expect, test } from "vitest";
import { compile, COMPILE_DEFAULTS, type ForwardModel } from "../../src/compile.js";
import { type ModelDefinition, model, toForward } from "../../src/dsl/index.js";
import { openModel } from "../../src/model.js";
import { anonymous } from "./support.js";

const onnx = async (name: string, batch: number): Promise<ForwardModel> =>
  (await openModel(join(import.meta.dirname, `../fixtures/models/${name}.onnx`))).forward(batch);

const mlp = model("mlp", (m) => {
  let h = m.input("x", [64]);
  for (const units of [32, 16]) h = m.tanh(m.dense(h, units));
  return m.output("logits", m.dense(h, 10));
});

const classifier = model("classifier", (m) => m.output("p", m.softmax(m.dense(m.relu(m.dense(m.input("x", [12]), 16)), 5))));

const lenet = model("lenet5", (m) => {
  let h = m.input("image", [1, 28, 28]);
  for (const filters of [6, 16]) h = m.maxPool(m.relu(m.conv2d(h, filters, 5)), 2);
  h = m.flatten(h);
  for (const units of [120, 84]) h = m.relu(m.dense(h, units));
  return m.output("logits", m.dense(h, 10));
});

test.each<[string, ModelDefinition]>([["mlp_tanh_ce", mlp], ["mlp_softmax_out", classifier], ["lenet5", lenet]])("%s prints the same canonical text from both front ends", async (name, definition) => {
  expect(anonymous(toForward(definition, 8).graph)).toBe(anonymous((await onnx(name, 8)).graph));
});

test("lenet5 from both front ends compiles to the same program", async () => {
  const options = { ...COMPILE_DEFAULTS, loss: "softmax-ce", batches: [8] } as const;
  const source = await onnx("lenet5", 8);
  // names of weights are the front end's; everything else must not be
  const params = source.graph.params.map((p) => p.value.name);
  const renamed = model("lenet5", (m) => {
    const layers = [...new Set(params.map((name) => name.slice(0, name.lastIndexOf("."))))];
    const [c1, c2, f1, f2, f3] = layers as [string, string, string, string, string];
    let h = m.input(source.graph.inputs[0]?.value.name as string, [1, 28, 28]);
    h = m.maxPool(m.relu(m.conv2d(h, 6, 5, { name: c1 })), 2);
    h = m.maxPool(m.relu(m.conv2d(h, 16, 5, { name: c2 })), 2);
    h = m.relu(m.dense(m.flatten(h), 120, { name: f1 }));
    h = m.relu(m.dense(h, 84, { name: f2 }));
    return m.output(source.outputs[0]?.name as string, m.dense(h, 10, { name: f3 }));
  });
  const [a, b] = [compile(() => source, options), compile((batch) => toForward(renamed, batch), options)];
  expect(b.sources).toEqual(a.sources);
  expect(b.artifact.hash).toBe(a.artifact.hash);
});
