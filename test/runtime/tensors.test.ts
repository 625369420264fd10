/** Batches of several targets, weights and positions without a label. */
import { describe, expect, it } from "vitest";
import { type Artifact, RuntimeFault } from "../../runtime/artifact.js";
import { asBatch, batchAt } from "../../runtime/batches.js";
import { type Batch, cutExamples, prepareBatch, type Tensor } from "../../runtime/tensors.js";

const one = { name: "target", dtype: "i32", shape: [2] } as const;
const TARGETS = [
  { ...one, name: "target/main", output: "main", classes: 3, loss: "softmax-ce", weight: 1 },
  { name: "target/aux", dtype: "f32", shape: [], output: "aux", classes: null, loss: "mse", weight: 0.5 },
] as const;
const artifact = (targets?: Artifact["targets"]): Artifact => ({
  batches: [4], mixes: null, inputs: [{ name: "x", dtype: "f32", shape: [1], examples: 0 }], outputs: [{ name: "main", dtype: "f32", shape: [3, 2], examples: 0 }],
  target: one, classes: 3, loss: "softmax-ce", ...(targets ? { targets } : {}),
}) as unknown as Artifact;
const f = (shape: readonly number[], ...data: number[]): Tensor => ({ shape, data: Float32Array.from(data) });
const i = (shape: readonly number[], ...data: number[]): Tensor => ({ shape, data: Int32Array.from(data) });
const x = f([2, 1], 7, 8);
const main = i([2, 2], 0, -100, 2, 1);
const aux = f([2], 0.5, 1.5);
const prepared = (batch: Batch, targets: Artifact["targets"] = TARGETS) => prepareBatch(artifact(targets), batch, { target: true });
const says = (run: () => unknown): string => {
  try {
    run();
  } catch (e) {
    if (e instanceof RuntimeFault) return `${e.message} | ${e.where} | ${e.hint}`;
    throw e;
  }
  return "accepted";
};

describe("targets of several outputs", () => {
  it("come by output name and go to their graph inputs, padded", () => {
    const p = prepared({ x, target: { main, aux }, weight: Float32Array.of(2, 0.5) });
    expect(Object.fromEntries([...p.arrays].map(([name, data]) => [name, [...data]]))).toEqual({ x: [7, 8, 0, 0], "target/main": [0, -100, 2, 1, 0, 0, 0, 0], "target/aux": [0.5, 1.5, 0, 0] });
    expect([[...(p.weight ?? [])], p.weightSum]).toEqual([[2, 0.5, 0, 0], 2.5]);
    expect([...(prepared({ x, target: { main, aux }, mcTargets: { main, aux } }).mcArrays?.keys() ?? [])]).toEqual(["mcTargets/main", "mcTargets/aux"]);
  });
  it("one too few, one for all, or one of a wrong shape is refused by name", () => {
    expect(says(() => prepared({ x, target: { main } }))).toMatch(/"target\/aux" is missing from the batch/);
    expect(says(() => prepared({ x, target: main }))).toMatch(/target is one tensor, 2 outputs have a loss \| target \| pass {"main", "aux"}/);
    expect(says(() => prepared({ x, target: { main, aux: f([2, 1], 1, 2) } }))).toMatch(/"target\/aux" has shape \[2, 1\], the model takes \[2\]/);
    expect(says(() => prepared({ x, target: { main: i([2, 2], 0, 1, 3, 1), aux } }))).toMatch(/label 3 is outside 0 … 2 \| target of example 1/);
  });
  it("of one output is a tensor, or a record of one", () => {
    for (const target of [main, { main }]) expect([...(prepareBatch(artifact(), { x, target }, { target: true }).arrays.get("target") ?? [])].slice(0, 4)).toEqual([0, -100, 2, 1]);
  });
});

it("examples cut from a batch keep their targets and weights", () => {
  expect(cutExamples(artifact(TARGETS), { x, target: { main, aux }, weight: Float32Array.of(2, 0.5) }, 1, 1)).toEqual({ x: f([1, 1], 8), target: { main: i([1, 2], 2, 1), aux: f([1], 1.5) }, weight: Float32Array.of(0.5) });
});

it("batches gathered in an order keep each example's targets and weight", () => {
  const examples = { count: 3, inputs: { x: { shape: [1], data: Float32Array.of(1, 2, 3) } }, targets: { main: { shape: [2], data: Int32Array.of(0, 1, 2, 0, 1, 2) } }, weight: Float32Array.of(0.1, 0.2, 0.5) };
  expect(asBatch(batchAt(examples, Uint32Array.of(2, 0, 1), 0, 2))).toEqual({ x: f([2, 1], 3, 1), target: { main: i([2, 2], 1, 2, 0, 1) }, weight: Float32Array.of(0.5, 0.1) });
});
