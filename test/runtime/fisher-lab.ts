/** Models, batches and trainers for tests of the Fisher API. */
import { broadcast, contract } from "../../ir/builder.js";
import type { NdArray } from "../../ir/ndarray.js";
import { f32 } from "../../ir/type.js";
import type { Batch, Tensor } from "../../runtime/tensors.js";
import { Trainer, type TrainerOptions } from "../../runtime/trainer.js";
import { compile, type CompileOptions, type ForwardModel } from "../../src/compile.js";
import { type ModelBuilder, model } from "../../src/dsl/index.js";
import { toForward } from "../../src/dsl/model.js";
import { custom, type Forward, labels, mlp, options, random, tensor } from "../support/models.js";
import { toHost } from "../support/run-graph.js";
import { type Case, rows } from "./dense-fisher.js";

/** float32: 2⁻²⁴ per operation, sums of at most some hundred terms, a few layers deep. */
export const F32 = 2e-5;

/** A trainer of a compiled model (exact Fisher unless `more` says otherwise) for `use`. */
export async function withTrainer<T>(device: GPUDevice, forward: Forward, more: Partial<CompileOptions>, use: (t: Trainer) => Promise<T>, start: TrainerOptions = {}): Promise<T> {
  const c = compile(forward, options({ verify: false, fisher: { kind: "exact", samples: 1 }, ...more }));
  const t = await Trainer.create(device, c.artifact, c.sources, Object.fromEntries(c.weights), start);
  try {
    return await use(t);
  } finally {
    await t.dispose();
  }
}

const host = (a: NdArray): Tensor => ({ shape: a.shape, data: toHost(a) as Float32Array | Int32Array });
/** Examples start … start + count as a batch. */
export const cut = ({ inputs, target, weight }: Case, start: number, count: number): Batch => ({
  ...Object.fromEntries(Object.entries(inputs).map(([name, a]) => [name, host(rows(a, start, count))])), target: host(rows(target, start, count)),
  ...(weight ? { weight: Float32Array.from(weight.slice(start, start + count)) } : {}),
});
export const countOf = (c: Case): number => c.target.shape[0] as number;
export const batchesOf = (c: Case, size: number): Batch[] => Array.from({ length: Math.ceil(countOf(c) / size) }, (_, k) => cut(c, k * size, Math.min(size, countOf(c) - k * size)));

export const numbers = (count: number, seed: number): number[] => { const next = random(seed); return Array.from({ length: count }, next); };

const net = (build: (m: ModelBuilder) => ReturnType<ModelBuilder["input"]>): Forward => {
  const definition = model("net", (m) => m.output("y", build(m)));
  return (batch): ForwardModel => {
    const made = toForward(definition, batch);
    const next = random(31);
    // no scale is 1 and no bias 0
    return { ...made, weights: new Map([...made.weights].map(([name, w]) => [name, { shape: w.shape, data: Float32Array.from(w.data, () => 0.8 * next()) }])) };
  };
};

/** x [n, 3] + position → tied weight there and back: a parameter without a layer, a weight with two sites. */
export const tied: Forward = custom("tied", 5, (b, n) => {
  const x = b.input("x", f32(n, 3), 0);
  const w = b.param("w", f32(2, 3));
  const moved = b.emit("mul", [x, b.emit("exp", [broadcast(b.emit, b.param("position", f32(3)), x.type.shape, [1])])]);
  return contract(b.emit, "no,oi->ni", b.emit("tanh", [contract(b.emit, "ni,oi->no", moved, w)]), w);
});

/** Models in which every weight is used once per example, so that with one example A ⊗ G is the exact block. */
export const ONCE: Readonly<Record<string, Forward>> = {
  "dense layers": mlp([4, 5, 3]),
  "a grouped convolution with one position": net((m) => m.dense(m.tanh(m.flatten(m.conv2d(m.input("x", [4, 2, 2]), 4, 2, { groups: 2 }))), 3)),
  "an embedding and the scales of a norm": net((m) => m.dense(m.tanh(m.layerNorm(m.flatten(m.embedding(m.input("x", [1], { dtype: "i32" }), 5, 4)))), 3)),
};

export function caseOf(forward: Forward, N: number, seed: number, loss: Case["loss"] = "softmax-ce"): Case {
  const next = random(seed);
  const { graph, outputs } = forward(N);
  const inputs = Object.fromEntries(graph.inputs.map(({ value: { name, type } }) => [name, type.dtype === "i32" ? labels(type.shape, 5, next) : tensor(type.shape, next)]));
  const shape = outputs[0]?.value.type.shape as readonly number[];
  return { forward, loss, inputs, target: loss === "softmax-ce" ? labels([N], shape[1] as number, next) : tensor(shape, next) };
}
