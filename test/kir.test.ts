import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { CompileError, spellError } from "../ir/error.js";
import type { NdArray } from "../ir/ndarray.js";
import { parse } from "../ir/parse.js";
import { runPasses } from "../ir/pass.js";
import { CANONICAL } from "../ir/passes/index.js";
import { print } from "../ir/print.js";
import { verify } from "../ir/verify.js";
import { compile, COMPILE_DEFAULTS, type ForwardModel, prepare } from "../src/compile.js";
import { type ModelBuilder, model, type Tensor, toForward } from "../src/dsl/index.js";
import { openKir, writeKir } from "../src/kir.js";
import { openModel } from "../src/model.js";
import { rebatch } from "../src/rebatch.js";
import { numbers, run } from "./dsl/support.js";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(os.tmpdir(), "kfacc-kir-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const onnx = (name: string) => openModel(join(import.meta.dirname, `fixtures/models/${name}.onnx`));
const written = async ({ graph, weights }: ForwardModel, name: string) => {
  const path = join(folder, `${name}.kir`);
  return { path, files: await writeKir(graph, weights, path), opened: await openKir(path) };
};
const refusal = async (action: () => unknown): Promise<string> => {
  try {
    await action();
  } catch (e) {
    if (e instanceof CompileError) return spellError(e).replaceAll(folder, "…");
    throw e;
  }
  return "accepted";
};

describe("a model that is written as text and read again", () => {
  it("lenet5 compiles to the same program, with the same weights", async () => {
    const opened = await onnx("lenet5");
    const { files, opened: again } = await written(opened.forward(8), "lenet5");
    expect(files.map((f) => f.slice(folder.length + 1))).toEqual(["lenet5.kir", "lenet5.safetensors"]);
    expect([again.name, again.fileBatch]).toEqual(["lenet5", 8]);
    const options = { ...COMPILE_DEFAULTS, loss: "softmax-ce", batches: [8] } as const;
    const [a, b] = [compile((n) => opened.forward(n), options), compile((n) => again.forward(n), options)];
    expect(b.artifact.hash).toBe(a.artifact.hash);
    expect(b.weights).toEqual(a.weights);
  });

  it("outputs that end in softmax, log-softmax or sigmoid are known again", async () => {
    for (const head of ["softmax", "logSoftmax", "sigmoid"] as const) {
      const made = toForward(model(head, (m) => m.output("p", m[head](m.dense(m.input("x", [6]), 3)))), 4);
      const { opened } = await written(made, head);
      for (const passes of [[], CANONICAL]) {
        const graph = runPasses(opened.forward(4).graph, passes);
        const path = join(folder, `${head}-again.kir`);
        await writeKir(graph, made.weights, path);
        const output = (await openKir(path)).forward(4).outputs[0];
        expect([head, output?.head?.kind.replace("-s", "S"), output?.head?.axis]).toEqual([head, head, 1]);
        expect(prepare((await openKir(path)).forward(4), COMPILE_DEFAULTS).heads[0]?.loss.z.type.shape).toEqual([4, 3]);
      }
    }
    const softmax = await onnx("mlp_softmax_out");
    expect((await written(softmax.forward(4), "mlp")).opened.forward(4).outputs[0]?.head?.kind).toBe("softmax");
  });

  it("what is no softmax is not taken for one", async () => {
    const nets: ((m: ModelBuilder, z: Tensor) => Tensor)[] = [
      (_m, z) => z,
      (m, z) => m.div(m.exp(z), m.sum(m.exp(z), 0, true)), // not shifted: its logits would be right, its form is another
      (m, z) => m.div(m.exp(z), m.add(z, 2)),
      (m, z) => { const s = m.sub(z, m.max(z, 0, true)); return m.div(m.exp(s), m.sum(m.exp(m.mul(s, 2)), 0, true)); },
      (m, z) => m.mul(m.sigmoid(z), 2),
    ];
    for (const [k, net] of nets.entries()) {
      const made = toForward(model("t", (m) => m.output("p", net(m, m.dense(m.input("x", [6]), 3)))), 4);
      expect([k, (await written(made, `no-${k}`)).opened.forward(4).outputs[0]?.head]).toEqual([k, undefined]);
    }
  });

  it("without stored weights there is no file beside it, and sources say what the weights are", async () => {
    const made = toForward(model("t", (m) => m.output("y", m.dense(m.input("x", [4]), 3, { init: "glorot" })), { seed: 9 }), 2);
    const { files, opened } = await written(made, "sources");
    expect(files).toHaveLength(1);
    expect(readFileSync(files[0] as string, "utf8")).toContain("param %dense1.weight: f32[3, 4] = glorot(9)");
    expect(opened.forward(2).weights).toEqual(made.weights);
  });
});

describe("another batch than the file's", () => {
  const nets: [string, (m: ModelBuilder) => Tensor][] = [
    ["mlp", (m) => m.softmax(m.dense(m.relu(m.dense(m.input("x", [5]), 4)), 3))],
    ["conv", (m) => m.dense(m.flatten(m.maxPool(m.leakyRelu(m.conv2d(m.input("x", [2, 6, 6]), 4, 3, { pad: 1 })), 2)), 3)],
    ["attention-like", (m) => { const x = m.input("x", [4, 6]); return m.matmul(m.softmax(m.matmul(x, m.transpose(x))), x); }],
    ["norms", (m) => m.layerNorm(m.transpose(m.batchNorm(m.input("x", [4, 3]), { frozen: true }), [1, 0]))],
    ["channels shuffled", (m) => m.reshape(m.transpose(m.reshape(m.input("x", [4, 2, 2]), [2, 2, 2, 2]), [1, 0, 2, 3]), [4, 2, 2])],
    ["joined", (m) => { const x = m.input("x", [3]); return m.concat([x, m.gelu(x), m.mul(x, m.param("p", [3]))]); }],
    ["embedding", (m) => m.embedding(m.input("x", [4], { dtype: "i32" }), 7, 3)],
  ];
  // 4 is also an extent inside of most of them: only the examples' 4 may change
  it.each(nets)("%s is what the front end makes for it", async (name, net) => {
    const made = model(name, (m) => m.output("y", net(m)));
    for (const passes of [[], CANONICAL]) {
      const at = (batch: number) => runPasses(toForward(made, batch).graph, passes);
      for (const batch of [1, 9]) {
        const moved = rebatch(at(4), batch);
        verify(moved);
        const inputs = Object.fromEntries(moved.inputs.map(({ value: v }) => [v.name, numbers(v.type.shape, 5, v.type.dtype as "f32" | "i32", 7)]));
        const { weights } = toForward(made, batch);
        const [got, want] = [run({ graph: moved, weights }, inputs), run({ graph: at(batch), weights }, inputs)].map((r) => [...(r.y as NdArray).data]);
        expect(got).toEqual(want);
        if (batch > 1 || passes.length === 0) expect(print(moved)).toBe(print(at(batch)));
      }
    }
  });

  it("through a file", async () => {
    const opened = await onnx("lenet5");
    const { opened: again } = await written(opened.forward(8), "rebatched");
    expect(print({ ...again.forward(64).graph, name: "g" })).toBe(print({ ...opened.forward(64).graph, name: "g" }));
  });

  it("is refused at the node that cannot have it", async () => {
    const cases = [
      ["%y = reshape(%x) {shape = [3, 8]}", "it splits the example axis", "node %y = reshape(%x) {shape = [3, 8]} : f32[3, 8]"],
      ["%y = add(%x, %p)", "%p has the number of examples in its shape, and is stored", "node %y = add(%x, %p) : f32[4, 6]"],
      ["%y = reduce_sum(%x) {axes = [0]}", "it reduces the example axis", "node %y = reduce_sum(%x) {axes = [0]} : f32[6]"],
    ];
    for (const [line, why, where] of cases) {
      const graph = parse(`graph g { param %p: f32[4, 6] = zeros input %x: f32[4, 6] examples 0\n${line}\nreturn y = %y }`);
      expect(rebatch(graph, 4)).toBe(graph);
      expect(await refusal(() => rebatch(graph, 5)))
        .toBe(`examples-lost: the batch cannot become 5: ${why}\n  at ${where}\n  hint: keep the graph's batch of 4, or write it again from the model with another one`);
    }
  });
});

describe("what is wrong with a text model is said with its file", () => {
  const text = "graph g { param %w: f32[3, 4] = file input %x: f32[2, 4] examples 0 %y = contract(%x, %w) {spec = \"ni,oi->no\"} return y = %y }\n";
  const file = (name: string, contents: string | Uint8Array) => {
    writeFileSync(join(folder, name), contents);
    return join(folder, name);
  };

  it("no file, syntax, no weights, damaged weights, other shapes", async () => {
    expect(await refusal(() => openKir(join(folder, "none.kir")))).toMatch(/^missing-data: cannot read: no such file or folder\n {2}at file "…\/none\.kir"\n/);
    expect(await refusal(() => openKir(file("bad.kir", "graph g { retur }")))).toMatch(/^syntax: .*\n {2}at file "…\/bad\.kir", line 1, column 11$/);
    const net = file("net.kir", text);
    expect(await refusal(() => openKir(net))).toBe('missing-data: no weights for parameter "w"\n  at file "…/net.safetensors"\n  hint: put the weights there, or give the parameter a source: zeros, ones, he(seed), glorot(seed), values(…)');
    file("net.safetensors", "x");
    expect(await refusal(() => openKir(net))).toMatch(/^bad-model: a safetensors file has at least 8 bytes, this one 1\n {2}at file "…\/net\.safetensors"\n/);
    const other = parse(text.replace("f32[3, 4]", "f32[4, 4]"));
    await writeKir(other, new Map([["w", { shape: [4, 4], data: new Float32Array(16) }]]), join(folder, "other.kir"));
    file("other.kir", text);
    expect(await refusal(() => openKir(join(folder, "other.kir")))).toBe('shape-mismatch: tensor "w" is [4, 4], the graph\'s parameter [3, 4]\n  at file "…/other.safetensors"');
    file("other.kir", text.replaceAll("%w", "%v"));
    expect(await refusal(() => openKir(join(folder, "other.kir")))).toMatch(/^missing-data: it holds no tensor "v"\n {2}at file "…\/other\.safetensors"\n/);
  });

  it("text graphs are named .kir", async () => {
    expect(await refusal(() => writeKir(parse(text.replace("file", "zeros")), new Map(), join(folder, "net.txt")))).toMatch(/^bad-option: text graphs are named \.kir\n/);
  });
});
