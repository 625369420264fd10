/** What a model file says of its losses, and which of its parameters train. */
import { describe, expect, it } from "vitest";
import { CompileError, spellError } from "../../ir/error.js";
import { openKir, writeKir } from "../../src/kir.js";
import { model, type OutputOptions, toForward } from "../../src/dsl/index.js";
import { type OpenOptions, openModel } from "../../src/model.js";
import { pickHeads } from "../../src/train/heads.js";
import { withFolder } from "../data/support.js";
import { model as onnx } from "../cli/support.js";

const POISSON: OutputOptions["loss"] = { name: "poisson", perExample: (ops, z, t) => ops.sub(ops.exp(z), ops.mul(t, z)), fisher: { factor: (ops, z) => ops.diagonal(ops.exp(ops.mul(z, 0.5))) } };
const net = (a: OutputOptions, b: OutputOptions) => model("net", (m) => {
  const h = m.tanh(m.dense(m.input("x", [4]), 5, { name: "body" }));
  m.output("a", m.dense(h, 3, { name: "head.a" }), a);
  return m.output("b", m.softmax(m.dense(h, 2, { name: "head.b" })), b);
});
const heads = (a: OutputOptions, b: OutputOptions): string => pickHeads(toForward(net(a, b), 2), undefined, []).map((h) => `${h.output}:${h.loss.kind === "custom" ? h.loss.custom.name : h.loss.kind}·${h.weight}`).join(" ");
const refusal = async (run: () => unknown): Promise<string> => {
  try {
    await run();
  } catch (e) {
    if (e instanceof CompileError) return spellError(e);
    throw e;
  }
  return "accepted";
};

describe("losses of a model file", () => {
  it("any output has one, with a weight", () => {
    expect(heads({ loss: "mse", weight: 0.1 }, { loss: "cross-entropy" })).toBe("a:mse·0.1 b:softmax-ce·1");
    expect(heads({ loss: "mse" }, {})).toBe("a:mse·1");
    expect(heads({}, { loss: "softmax-ce" })).toBe("b:softmax-ce·1");
    expect(heads({ loss: POISSON }, { weight: 2 })).toBe("a:poisson·1 b:softmax-ce·2");
  });
  it("that make no sense are refused at the output", async () => {
    expect(await refusal(() => net({ loss: "mse", weight: -1 }, {}))).toMatch(/a weight of -1\n {2}at layer "a"/);
    expect(await refusal(() => net({ loss: { ...POISSON, name: "mse" } as OutputOptions["loss"] & object }, {}))).toMatch(/needs a name of its own/);
    expect(await refusal(() => net({ loss: { name: "empty" } as unknown as OutputOptions["loss"] & object }, {}))).toMatch(/loss "empty" has no function perExample/);
  });
});

describe("which parameters train", () => {
  const trained = async (path: string, options: OpenOptions): Promise<string> => {
    const opened = await openModel(path, options);
    return opened.forward(3).graph.params.filter((p) => p.trainable).map((p) => p.value.name).join(" ");
  };
  const inKir = (run: (path: string) => Promise<void>) => withFolder(async (folder) => {
    const made = toForward(net({ loss: "mse" }, {}), 2);
    const [file] = await writeKir(made.graph, made.weights, `${folder}/net.kir`);
    expect((await openKir(file as string)).name).toBe("net");
    await run(file as string);
  });
  it("those that --train names, without those that --freeze names", () => inKir(async (path) => {
    expect(await trained(path, {})).toBe("body.weight body.bias head.a.weight head.a.bias head.b.weight head.b.bias");
    expect(await trained(path, { train: ["head.*"] })).toBe("head.a.weight head.a.bias head.b.weight head.b.bias");
    expect(await trained(path, { train: ["head.*", "body.bias"], freeze: ["*.bias"] })).toBe("head.a.weight head.b.weight");
    expect(await trained(path, { freeze: ["*.bias"] })).toBe("body.weight head.a.weight head.b.weight");
  }));
  it("in an .onnx file, too, for any batch", async () => {
    const all = (await trained(onnx("mlp_tanh_ce"), {})).split(" ");
    const last = all.at(-1) as string;
    expect(await trained(onnx("mlp_tanh_ce"), { train: [last] })).toBe(last);
    expect(await trained(onnx("mlp_tanh_ce"), { freeze: [last] })).toBe(all.slice(0, -1).join(" "));
  });
  it("a pattern that matches nothing, and nothing left, are refused", () => inKir(async (path) => {
    expect(await refusal(() => openModel(path, { train: ["haed.*"] }))).toMatch(/bad-option: no parameter matches "haed\.\*"\n {2}at --train\n {2}hint: .*body\.weight/);
    expect(await refusal(() => openModel(path, { freeze: ["body.wieght"] }))).toMatch(/no parameter matches "body\.wieght"\n {2}at --freeze/);
    expect(await refusal(() => openModel(path, { train: ["body.*"], freeze: ["*"] }))).toMatch(/nothing is left to train/);
  }));
});
