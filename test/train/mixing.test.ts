/** Models whose examples depend on each other inside a batch, as batch normalisation makes them in training. */
import { expect, test } from "vitest";
import { Builder, broadcast, contract } from "../../ir/builder.js";
import { prepareBatch } from "../../runtime/tensors.js";
import { COMPILE_DEFAULTS, compile, type CompileOptions, type ForwardModel } from "../../src/compile.js";
import { runTraining } from "../../src/session.js";
import { Trainer } from "../../runtime/trainer.js";
import { testDevice } from "../support/gpu.js";

const device = testDevice();

/** x → dense, minus its mean over the examples if `centred`. */
const model = (centred: boolean) => (n: number): ForwardModel => {
  const b = new Builder("mixing");
  b.origin = "the centring";
  const h = contract(b.emit, "ni,oi->no", b.input("x", { dtype: "f32", shape: [n, 3] }, 0), b.param("w", { dtype: "f32", shape: [2, 3] }));
  const mean = b.emit("mul", [b.emit("reduce_sum", [h], { axes: [0] }), broadcast(b.emit, b.scalar(1 / n), [2], [])]);
  const value = centred ? b.emit("sub", [h, broadcast(b.emit, mean, h.type.shape, [1])]) : h;
  return { name: "mixing", graph: b.finish([{ name: "z", value }]), outputs: [{ name: "z", value }], weights: new Map([["w", { shape: [2, 3], data: Float32Array.of(1, -2, 3, 0.5, 1, -1) }]]) };
};
const options = (more: Partial<CompileOptions> = {}): CompileOptions => ({ ...COMPILE_DEFAULTS, loss: "softmax-ce", batches: [4], ...more });
const batch = (n: number) => ({ x: { shape: [n, 3], data: Float32Array.from({ length: 3 * n }, (_, k) => Math.sin(k)) }, target: { shape: [n], data: new Int32Array(n) } });

test("a short batch of examples that are mixed is refused by node: its padding would count", () => {
  const { artifact } = compile(model(true), options());
  expect(artifact.mixes).toBe("the centring");
  expect(() => prepareBatch(artifact, batch(3), { target: true })).toThrow(/mixes the examples of a batch in the centring: 3 examples cannot be padded to 4/);
  expect(() => prepareBatch(artifact, { ...batch(4), weight: Float32Array.of(1, 1, 1, 2) }, { target: true })).toThrow(/cannot have weights/);
  expect(prepareBatch(artifact, batch(4), { target: true }).count).toBe(4);
});

test("independent examples are padded as before", () => {
  const { artifact, notes } = compile(model(false), options());
  expect(artifact.mixes).toBeNull();
  expect(notes).toEqual([]);
  expect(prepareBatch(artifact, batch(3), { target: true }).count).toBe(3);
});

test("the exact Fisher of mixed examples is refused, the sampled one is not", () => {
  expect(() => compile(model(true), options({ fisher: { kind: "exact", samples: 1 } }))).toThrow(/exact Fisher is a sum over examples/);
  expect(compile(model(true), options()).notes.join()).toMatch(/only whole batches of 4/);
});

test("training leaves the rest of an epoch out and says how much it counted", async () => {
  const c = compile(model(true), options());
  const trainer = await Trainer.create(device().device, c.artifact, c.sources, Object.fromEntries(c.weights));
  try {
    const { x, target } = batch(11);
    const examples = { count: 11, inputs: { x: { shape: [3], data: x.data } }, target: { shape: [], data: target.data } };
    const run = (e: typeof examples) => runTraining({ trainer, train: { examples: e }, validation: { examples: e }, options: { batch: 4, epochs: 2, seed: 1 } });
    const result = await run(examples);
    expect([result.steps, result.examples, result.validation?.count]).toEqual([4, 16, 8]);
    await expect(run({ ...examples, count: 3 })).rejects.toThrow(/less than one batch of 4/);
  } finally {
    await trainer.dispose();
  }
});
