import { describe, expect, it } from "vitest";
import { Builder, sumAll } from "../../ir/builder.js";
import { CompileError, spellError } from "../../ir/error.js";
import { evaluate } from "../../ir/evaluate.js";
import { exampleMarks } from "../../ir/examples.js";
import { cotangents } from "../../ir/grad.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { verify } from "../../ir/verify.js";
import { COMPILE_DEFAULTS, prepare } from "../../src/compile.js";
import { type ModelBuilder, model, type Tensor, toForward } from "../../src/dsl/index.js";
import { numbers, run } from "./support.js";

/** Shapes per example of what `build` returns. */
const shapeOf = (build: (m: ModelBuilder) => Tensor): readonly number[] => {
  let shape: readonly number[] = [];
  const made = model("t", (m) => {
    const y = build(m);
    ({ shape } = y);
    return m.output("y", y);
  });
  const { graph } = toForward(made, 3);
  verify(graph);
  expect(graph.results[0]?.value.type.shape).toEqual([3, ...shape]);
  return shape;
};

const refusal = (build: (m: ModelBuilder) => Tensor): string => {
  try {
    model("net", (m) => m.output("y", build(m)));
  } catch (e) {
    if (e instanceof CompileError) return spellError(e);
    throw e;
  }
  return "accepted";
};

describe("shapes", () => {
  const image = (m: ModelBuilder) => m.input("x", [4, 9, 8]);
  const cases: [string, (m: ModelBuilder) => Tensor, number[]][] = [
    ["dense", (m) => m.dense(m.input("x", [7]), 5), [5]],
    ["dense over the last axis", (m) => m.dense(m.input("x", [3, 7]), 5, { bias: false }), [3, 5]],
    ["conv1d", (m) => m.conv1d(m.input("x", [2, 10]), 3, 4, { stride: 2 }), [3, 4]],
    ["conv2d", (m) => m.conv2d(image(m), 6, [3, 2], { stride: [2, 1], pad: 1 }), [6, 5, 9]],
    ["conv2d same", (m) => m.conv2d(image(m), 6, 3, { stride: 2, pad: "same" }), [6, 5, 4]],
    ["conv2d dilated", (m) => m.conv2d(image(m), 6, 3, { dilation: 3, pad: "valid" }), [6, 3, 2]],
    ["conv2d grouped", (m) => m.conv2d(image(m), 6, 3, { groups: 2, pad: [0, 1, 2, 3] }), [6, 9, 10]],
    ["conv3d", (m) => m.conv3d(m.input("x", [1, 5, 6, 7]), 2, [2, 3, 4]), [2, 4, 4, 4]],
    ["convTranspose2d", (m) => m.convTranspose2d(image(m), 3, 2, { stride: 2 }), [3, 18, 16]],
    ["maxPool", (m) => m.maxPool(image(m), 2), [4, 4, 4]],
    ["avgPool overlapping", (m) => m.avgPool(image(m), 3, { stride: 2, pad: 1 }), [4, 5, 4]],
    ["globalAvgPool", (m) => m.globalAvgPool(image(m)), [4]],
    ["globalMaxPool", (m) => m.globalMaxPool(image(m)), [4]],
    ["flatten", (m) => m.flatten(image(m)), [288]],
    ["reshape", (m) => m.reshape(image(m), [36, -1, 2]), [36, 4, 2]],
    ["transpose", (m) => m.transpose(image(m), [2, 0, 1]), [8, 4, 9]],
    ["transpose reversed", (m) => m.transpose(image(m)), [8, 9, 4]],
    ["concat", (m) => m.concat([image(m), m.input("z", [4, 2, 8])], 1), [4, 11, 8]],
    ["a smaller value is repeated over the axes before it", (m) => m.add(image(m), m.input("z", [8])), [4, 9, 8]],
    ["a parameter of higher rank", (m) => m.mul(m.input("z", [8]), m.param("p", [5, 8])), [5, 8]],
    ["matmul with a parameter", (m) => m.matmul(m.input("x", [3, 7]), m.param("w", [7, 2])), [3, 2]],
    ["matmul of a vector with a parameter", (m) => m.matmul(m.input("x", [7]), m.param("w", [7, 2])), [2]],
    ["matmul of two values", (m) => m.matmul(m.input("x", [3, 7]), m.input("z", [7, 2])), [3, 2]],
    ["mean over an axis", (m) => m.mean(image(m), 0), [9, 8]],
    ["sum over the last axes, kept", (m) => m.sum(image(m), [-1, -2], true), [4, 1, 1]],
    ["max over everything", (m) => m.reshape(m.max(image(m)), [1]), [1]],
    ["softmax", (m) => m.softmax(m.input("x", [5])), [5]],
    ["batchNorm", (m) => m.batchNorm(image(m), { frozen: true }), [4, 9, 8]],
    ["layerNorm", (m) => m.layerNorm(image(m)), [4, 9, 8]],
    ["embedding", (m) => m.embedding(m.input("x", [6], { dtype: "i32" }), 20, 3), [6, 3]],
  ];
  it.each(cases)("%s", (_name, build, shape) => {
    expect(shapeOf(build)).toEqual(shape);
  });

  it("examples stay apart in every layer, whatever the batch", () => {
    for (const [name, build] of cases) {
      const made = model(name, (m) => m.output("y", build(m)));
      for (const batch of [1, 2, 8]) {
        const { graph } = toForward(made, batch);
        expect([name, exampleMarks(graph).get(graph.results[0]?.value as Value)]).toEqual([name, { axis: 0, outer: 1, inner: 1 }]);
      }
    }
  });

  it("a batch of examples gives what each gives alone", () => {
    for (const [name, build] of cases) {
      const made = model(name, (m) => m.output("y", build(m)));
      const [one, three] = [toForward(made, 1), toForward(made, 3)];
      const inputs = three.graph.inputs.map(({ value: v }, k) => [v.name, numbers(v.type.shape, 11 + k, v.type.dtype as "f32" | "i32", 20)] as const);
      const whole = run(three, Object.fromEntries(inputs)).y as NdArray;
      const each = whole.data.length / 3;
      for (let n = 0; n < 3; n++) {
        const part = run(one, Object.fromEntries(inputs.map(([input, a]) => {
          const size = a.data.length / 3;
          return [input, ndarray(a.dtype, [1, ...a.shape.slice(1)], a.data.slice(n * size, (n + 1) * size))];
        }))).y as NdArray;
        // the same float64 sums in the same order
        expect([name, [...part.data]]).toEqual([name, [...whole.data.slice(n * each, (n + 1) * each)]]);
      }
    }
  });
});

describe("values", () => {
  /** y of one example x through an activation. */
  const through = (f: (m: ModelBuilder, x: Tensor) => Tensor, x: readonly number[]): number[] => {
    const made = toForward(model("t", (m) => m.output("y", f(m, m.input("x", [x.length])))), 1);
    return [...(run(made, { x: ndarray("f32", [1, x.length], x) }).y as NdArray).data];
  };
  const sigma = (x: number): number => 1 / (1 + Math.exp(-x));
  const plus = (x: number): number => Math.log1p(Math.exp(x));

  it.each<[string, (m: ModelBuilder, x: Tensor) => Tensor, (x: number) => number]>([
    ["relu", (m, x) => m.relu(x), (x) => Math.max(0, x)],
    ["tanh", (m, x) => m.tanh(x), Math.tanh],
    ["sigmoid", (m, x) => m.sigmoid(x), sigma],
    ["softplus", (m, x) => m.softplus(x), plus],
    ["softsign", (m, x) => m.softsign(x), (x) => x / (1 + Math.abs(x))],
    ["mish", (m, x) => m.mish(x), (x) => x * Math.tanh(plus(x))],
    ["elu", (m, x) => m.elu(x, 0.5), (x) => (x > 0 ? x : 0.5 * Math.expm1(x))],
    ["celu", (m, x) => m.celu(x, 2), (x) => (x > 0 ? x : 2 * Math.expm1(x / 2))],
    ["selu", (m, x) => m.selu(x), (x) => 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * Math.expm1(x))],
    ["leakyRelu", (m, x) => m.leakyRelu(x), (x) => (x > 0 ? x : 0.01 * x)],
    ["swish", (m, x) => m.swish(x), (x) => x * sigma(x)],
    ["hardSigmoid", (m, x) => m.hardSigmoid(x), (x) => Math.min(1, Math.max(0, x / 6 + 0.5))],
    ["hardSwish", (m, x) => m.hardSwish(x), (x) => x * Math.min(1, Math.max(0, x / 6 + 0.5))],
    // tabulated: Φ(1) = 0.8413447460685429, Φ(−2) = 0.02275013194817921
    ["gelu", (m, x) => m.gelu(x), (x) => ({ 0: 0, 1: 0.8413447460685429, "-2": -0.04550026389635842, 4: 4 * 0.9999683287581669 })[x] as number],
    ["arithmetic with numbers", (m, x) => m.sub(1, m.div(m.mul(m.add(x, 3), 2), -4)), (x) => 1 + ((x + 3) * 2) / 4],
    ["maximum, minimum, neg, abs", (m, x) => m.neg(m.minimum(m.maximum(m.abs(x), 1), 3)), (x) => -Math.min(3, Math.max(1, Math.abs(x)))],
    ["pow", (m, x) => m.pow(x, 2), (x) => x * x],
  ])("%s is its formula", (_name, f, formula) => {
    const x = [0, 1, -2, 4];
    through(f, x).forEach((y, k) => {
      expect(y).toBeCloseTo(formula(x[k] as number), 12);
    });
  });

  it("examples stay with their row where a vector meets a matrix", () => {
    const made = toForward(model("t", (m) => m.output("y", m.add(m.input("a", [2]), m.input("b", [2, 2])))), 2);
    const a = ndarray("f32", [2, 2], [10, 20, 30, 40]);
    const b = ndarray("f32", [2, 2, 2], [1, 2, 3, 4, 5, 6, 7, 8]);
    expect([...(run(made, { a, b }).y as NdArray).data]).toEqual([11, 22, 13, 24, 35, 46, 37, 48]);
  });
});

describe("derivatives", () => {
  it("of a small convolutional net agree with finite differences", () => {
    const made = toForward(model("small", (m) => {
      const x = m.input("x", [2, 7, 6]);
      let h = m.tanh(m.conv2d(x, 3, 3, { pad: "same", stride: 2 }));
      h = m.add(h, m.conv2d(h, 3, 3, { pad: 1, groups: 3, bias: false }));
      h = m.swish(m.batchNorm(m.avgPool(h, 2, { stride: 1, pad: [0, 0, 1, 1] }), { frozen: true }));
      const gate = m.sigmoid(m.dense(m.globalAvgPool(h), 3));
      h = m.mul(h, m.reshape(gate, [3, 1, 1]));
      return m.output("y", m.logSoftmax(m.dense(m.flatten(h), 4)));
    }, { seed: 3 }), 2);
    const b = Builder.from(made.graph);
    const y = made.graph.results[0]?.value as Value;
    // every output with a weight of its own
    const weights = b.input("c", y.type);
    const loss = sumAll(b.emit, b.emit("mul", [y, weights]));
    const trainable = made.graph.params.filter((p) => p.trainable).map((p) => p.value);
    const one = b.scalar(1);
    const grads = cotangents(b, new Map([[loss, one]]), trainable);
    const graph: Graph = b.finish([{ name: "loss", value: loss }, ...trainable.map((v) => ({ name: v.name, value: grads.get(v) as Value }))]);
    const at: Record<string, NdArray> = { x: numbers([2, 2, 7, 6], 1), c: numbers([2, 4], 2) };
    // biases and scales begin at 0 and 1: numbers of no symmetry say more
    for (const [k, p] of made.graph.params.entries()) {
      const around = numbers(p.value.type.shape, 100 + k);
      const low = p.value.name.endsWith("variance") || p.value.name.includes("weights") ? 1.5 : 0;
      at[p.value.name] = ndarray("f32", around.shape, around.data.map((v) => v + low));
    }
    const exact = evaluate(graph, at);
    const lossAt = (): number => evaluate(graph, at).loss?.data[0] as number;
    // central differences err by h²·f‴/6 + 1e-16/h: about 1e-10 at h = 1e-5
    const h = 1e-5;
    for (const v of trainable) {
      const data = (at[v.name] as NdArray).data;
      for (const k of new Set([0, data.length >> 1, data.length - 1])) {
        const before = data[k] as number;
        data[k] = before + h;
        const up = lossAt();
        data[k] = before - h;
        const down = lossAt();
        data[k] = before;
        expect([v.name, Math.abs((up - down) / (2 * h) - (exact[v.name]?.data[k] as number)) < 1e-8]).toEqual([v.name, true]);
      }
    }
    expect(trainable.map((v) => v.name)).toContain("dense2.bias");
  });
});

describe("names, heads and losses", () => {
  it("layers are numbered by kind, and a given name is used", () => {
    const { graph, weights } = toForward(model("t", (m) => {
      let h = m.dense(m.input("x", [4]), 4);
      h = m.dense(m.relu(h), 4, { name: "middle", init: "glorot" });
      return m.output("y", m.dense(h, 2, { bias: false }));
    }, { seed: 5 }), 2);
    expect(graph.params.map((p) => `${p.value.name} ${p.source.kind}`)).toEqual([
      "dense1.weight he", "dense1.bias zeros", "middle.weight glorot", "middle.bias zeros", "dense2.weight he"]);
    expect([...weights.keys()]).toEqual(graph.params.map((p) => p.value.name));
    expect(graph.params[0]?.source).toEqual({ kind: "he", seed: 5 });
    expect([...new Set(graph.nodes.map((n) => n.origin))]).toEqual(["dense1", "relu1", "middle", "dense2"]);
  });

  it("no value inside takes the name of a parameter or input", () => {
    const { graph } = toForward(model("t", (m) => m.output("y", m.add(m.relu(m.input("x", [4])), m.param("v0", [4])))), 2);
    expect(graph.params[0]?.value.name).toBe("v0");
    verify(graph);
  });

  it("softmax, logSoftmax and sigmoid at the end imply the loss, and it is taken from their logits", () => {
    for (const [head, loss] of [["softmax", "softmax-ce"], ["logSoftmax", "softmax-ce"], ["sigmoid", "bernoulli-ce"]] as const) {
      const made = toForward(model("t", (m) => m.output("p", m[head](m.dense(m.input("x", [4]), 3)))), 2);
      const prepared = prepare(made, COMPILE_DEFAULTS);
      expect([head, prepared.heads[0]?.loss.kind, prepared.graph.results.some((r) => r.value === prepared.heads[0]?.loss.z)]).toEqual([head, loss, true]);
    }
  });

  it("the loss of an output is kept, by its own name", () => {
    const net = (loss: "softmax-ce" | "cross-entropy" | "mse" | "bce") => model("t", (m) => m.output("z", m.dense(m.input("x", [4]), 3), { loss }));
    expect((["softmax-ce", "cross-entropy", "mse", "bce"] as const).map((l) => toForward(net(l), 1).loss)).toEqual(["softmax-ce", "softmax-ce", "mse", "bernoulli-ce"]);
  });

  it("a recorded model is plain data: a copy of it is the same model", () => {
    const made = model("t", (m) => m.output("y", m.dense(m.avgPool(m.input("x", [1, 5]), 3, { stride: 1, pad: 1 }), 2)));
    const copy = { ...structuredClone({ ...made, [Symbol.for("kfacc.model")]: undefined }), [Symbol.for("kfacc.model")]: 2 } as typeof made;
    expect(toForward(copy, 4)).toEqual(toForward(made, 4));
    expect(() => toForward({ ...made, [Symbol.for("kfacc.model")]: 3 } as typeof made, 4)).toThrow(/another version/);
  });
});

describe("errors point at the layer", () => {
  it.each<[string, (m: ModelBuilder) => Tensor, string]>([
    ["an image without channels", (m) => m.conv2d(m.input("x", [28, 28]), 3, 5),
      'shape-mismatch: takes [channels, extent, extent] of each example, got [28, 28]\n  at layer "conv1" of model "net"\n  hint: add the channels: m.reshape(x, [1, ...])'],
    ["a kernel larger than the image", (m) => m.conv2d(m.input("x", [1, 4, 4]), 3, 5, { name: "stem" }),
      'shape-mismatch: Conv: a kernel reaching over 5 does not fit in 4 + 0 + 0\n  at layer "stem" of model "net"'],
    ["a residual of another shape", (m) => { const x = m.input("x", [8]); return m.add(x, m.dense(x, 9)); },
      'shape-mismatch: [8] and [9] do not broadcast together\n  at layer "add1" of model "net"'],
    ["a reshape that loses elements", (m) => m.reshape(m.input("x", [28, 28]), [28, 27]),
      'shape-mismatch: [28, 28] cannot become [28, 27]\n  at layer "reshape1" of model "net"\n  hint: the examples are not part of the shape'],
    ["an axis beyond the last", (m) => m.softmax(m.input("x", [4]), 1),
      'bad-attribute: no axis 1 in [4]\n  at layer "softmax1" of model "net"\n  hint: the examples are not among the axes'],
    ["an order that counts the examples", (m) => m.transpose(m.input("x", [4, 5]), [0, 2, 1]),
      'bad-attribute: no axis 2 in [4, 5]\n  at layer "transpose1" of model "net"\n  hint: the examples are not among the axes'],
    ["a name used twice", (m) => m.dense(m.dense(m.input("x", [4]), 4, { name: "a" }), 4, { name: "a" }),
      'bad-option: the name "a" is taken\n  at layer "a" of model "net"\n  hint: give it another one'],
    ["no units", (m) => m.dense(m.input("x", [4]), 0), 'bad-option: units must be a whole number ≥ 1, got 0\n  at layer "dense1" of model "net"'],
    ["a shape with an open axis", (m) => m.input("x", [-1, 4]),
      'bad-option: a shape is a list of whole numbers > 0, got [-1,4]\n  at layer "x" of model "net"\n  hint: leave the examples out'],
    ["channels that do not split", (m) => m.conv2d(m.input("x", [3, 4, 4]), 4, 1, { groups: 2 }),
      'bad-attribute: 3 channels and 4 filters do not split into 2 groups\n  at layer "conv1" of model "net"'],
    ["a stride for another rank", (m) => m.maxPool(m.input("x", [3, 4, 4]), 2, { stride: [1, 1, 1] }),
      'bad-attribute: stride has 3 entries for 2 axes\n  at layer "maxPool1" of model "net"'],
    ["floats as rows of a table", (m) => m.embedding(m.input("x", [3]), 5, 2),
      'shape-mismatch: takes whole numbers\n  at layer "embedding1" of model "net"\n  hint: declare the input with { dtype: "i32" }'],
    ["something that is no value", (m) => m.relu(3 as unknown as Tensor),
      'bad-model: got number instead of a value of the model\n  at layer "relu1" of model "net"\n  hint: use what m.input, m.dense and the others return'],
    ["a matrix product that does not fit", (m) => m.matmul(m.input("x", [3, 4]), m.param("w", [3, 4])),
      'shape-mismatch: [3, 4] and [3, 4] cannot be multiplied\n  at layer "matmul1" of model "net"\n  hint: it takes [..., n, i] and [..., i, o]'],
    ["an unknown loss", (m) => m.output("z", m.input("x", [4]), { loss: "hinge" as "mse" }),
      'bad-option: no loss "hinge"\n  at layer "z" of model "net"\n  hint: one of softmax-ce, half-sse, bernoulli-ce, mse'],
    ["an unknown initialisation", (m) => m.dense(m.input("x", [4]), 2, { init: "lecun" as "he" }),
      'bad-option: no initialisation "lecun"\n  at layer "dense1.weight" of model "net"\n  hint: he, glorot, zeros, ones or a list of numbers'],
  ])("%s", (_name, build, message) => {
    expect(refusal(build)).toBe(message);
  });

  it("a value of another model is refused", () => {
    let foreign: Tensor | undefined;
    model("other", (m) => {
      foreign = m.input("x", [4]);
      return m.output("y", foreign);
    });
    expect(refusal((m) => m.relu(foreign as Tensor))).toMatch(/^bad-model: got a value of another model\n/);
  });

  it("a model without an output is refused", () => {
    expect(() => model("net", (m) => { m.input("x", [1]); return undefined; })).toThrow(/no output/);
  });
});
