/** Models of every layer kind, small enough for float64, and one-line ways to verify them. */
import { type Builder, broadcast } from "../../ir/builder.js";
import type { Value } from "../../ir/graph.js";
import { f32 } from "../../ir/type.js";
import { COMPILE_DEFAULTS, type CompileOptions } from "../../src/compile.js";
import { model, toForward } from "../../src/dsl/index.js";
import type { ModelBuilder } from "../../src/dsl/index.js";
import type { VerifyOptions } from "../../src/verify/verify.js";
import { verifyModel } from "../../src/verify/verify.js";
import { custom, dense, type Forward } from "../support/models.js";

type Build = Parameters<typeof model>[1];

export const dsl = (name: string, build: Build): Forward => {
  const made = model(name, build, { seed: 3 });
  return (batch) => {
    const forward = toForward(made, batch);
    // biases begin at 0 there: anything else tells more
    let k = 1;
    const weights = new Map([...forward.weights].map(([param, w]) => [param, { shape: w.shape, data: w.data.map((x) => Math.fround(x + 0.2 * Math.sin(k++))) }] as const));
    return { ...forward, weights };
  };
};

const out = (m: ModelBuilder, x: Parameters<ModelBuilder["flatten"]>[0]) => m.output("y", m.dense(m.flatten(x), 3, { name: "head" }), { loss: "softmax-ce" });

export const MODELS: Readonly<Record<string, Forward>> = {
  "dense": dsl("dense", (m) => m.output("y", m.dense(m.tanh(m.dense(m.input("x", [4]), 5)), 3), { loss: "softmax-ce" })),
  "conv: stride, asymmetric padding, dilation": dsl("conv", (m) =>
    out(m, m.tanh(m.conv2d(m.input("x", [2, 7, 6]), 3, [3, 2], { stride: [2, 1], pad: [1, 0, 2, 1], dilation: [1, 2], name: "c" })))),
  "grouped conv": dsl("grouped", (m) => out(m, m.tanh(m.conv2d(m.input("x", [4, 5, 5]), 6, 3, { groups: 2, pad: 1, name: "c" })))),
  "depthwise conv": dsl("depthwise", (m) => out(m, m.tanh(m.conv2d(m.input("x", [3, 5, 4]), 3, 3, { groups: 3, name: "c" })))),
  "transposed conv": dsl("convT", (m) => out(m, m.tanh(m.convTranspose2d(m.input("x", [2, 3, 3]), 3, 3, { stride: 2, name: "c" })))),
  "sequence dense": dsl("sequence", (m) => out(m, m.tanh(m.dense(m.input("x", [4, 3]), 5, { name: "s" })))),
  "positions with losses of their own": dsl("tokens", (m) => m.output("y", m.transpose(m.dense(m.tanh(m.dense(m.input("x", [4, 3]), 5)), 3), [1, 0]), { loss: "softmax-ce" })),
  "mean over positions": dsl("mean", (m) => m.output("y", m.globalAvgPool(m.conv2d(m.input("x", [2, 4, 4]), 3, 3, { name: "c" })), { loss: "half-sse" })),
  "layer normalisation": dsl("norm", (m) => out(m, m.layerNorm(m.dense(m.input("x", [4]), 5, { name: "s" }), { name: "n" }))),
  "embedding": dsl("embedding", (m) => out(m, m.tanh(m.embedding(m.input("x", [4], { dtype: "i32" }), 7, 5, { name: "e" })))),
  "tied": custom("tied", 5, (b: Builder, n: number): Value => {
    // y = W tanh(Wᵀ tanh(W x)): one weight at three sites, once the other way round
    const w = b.param("w", f32(4, 3));
    const bias = b.param("b", f32(4));
    const add = (v: Value): Value => b.emit("add", [v, broadcast(b.emit, bias, v.type.shape, [1])]);
    const one = b.emit("tanh", [add(b.emit("contract", [b.input("x", f32(n, 3), 0), w], { spec: "ni,oi->no" }))]);
    const two = b.emit("tanh", [b.emit("contract", [one, w], { spec: "no,oi->ni" })]);
    return add(b.emit("contract", [two, w], { spec: "ni,oi->no" }));
  }),
  "tied square": custom("tied", 7, (b: Builder, n: number): Value => {
    const w = b.param("w", f32(3, 3));
    const one = b.emit("tanh", [b.emit("contract", [b.input("x", f32(n, 3), 0), w], { spec: "ni,oi->no" })]);
    return b.emit("contract", [one, w], { spec: "no,oi->ni" });
  }),
  "square": custom("square", 8, (b: Builder, n: number): Value => dense(b, b.emit("tanh", [dense(b, b.input("x", f32(n, 4), 0), "fc0", 4, false)]), "fc1", 4, false)),
  "a parameter without a layer": custom("orphan", 6, (b: Builder, n: number): Value => {
    const h = dense(b, b.input("x", f32(n, 3), 0), "fc0", 4);
    const power = b.emit("exp", [b.param("rate", f32(4))]);
    return dense(b, b.emit("mul", [h, broadcast(b.emit, power, h.type.shape, [1])]), "fc1", 2);
  }),
  "linear net": dsl("linear", (m) => m.output("y", m.dense(m.dense(m.input("x", [3]), 4), 2), { loss: "half-sse" })),
};



export const verify = (forward: Forward, compile: Partial<CompileOptions> = {}, more: Partial<VerifyOptions> = {}) =>
  verifyModel(forward, { compile: { ...COMPILE_DEFAULTS, ...compile }, batch: 3, seed: 1, ...more });

/** Names of the failed checks, with their layer. */
export const failures = (r: Awaited<ReturnType<typeof verifyModel>>): string[] => [
  ...r.layers.flatMap((l) => l.checks.filter((c) => c.verdict === "failed").map((c) => `${l.name}: ${c.name} (${c.error}; ${c.note})`)),
  ...r.orphans.flatMap((o) => o.checks.filter((c) => c.verdict === "failed").map((c) => `${o.param}: ${c.name} (${c.error}; ${c.note})`)),
  ...r.checks.filter((c) => c.verdict === "failed").map((c) => `model: ${c.name} (${c.note})`),
];
