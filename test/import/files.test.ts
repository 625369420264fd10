/** Damaged, hostile and merely wrong files end in a CompileError with the right code, quickly. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import { importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { buildModel, floats, type ModelSpec, node } from "../support/onnx-model.js";
import { random } from "../support/onnx-run.js";

const folder = mkdtempSync(join(tmpdir(), "kfacc-onnx-"));
afterAll(() => rmSync(folder, { recursive: true }));

const net: ModelSpec = {
  inputs: { x: ["N", 4] }, outputs: ["y"],
  initializers: { w1: floats([6, 4], [...random(24, 1)]), b1: floats([6], [...random(6, 2)]), w2: { dims: [3, 6], floats: [...random(18, 3)] } },
  nodes: [node("Gemm", ["x", "w1", "b1"], ["h"], { transB: 1 }), node("Relu", ["h"], ["r"]), node("Gemm", ["r", "w2"], ["y"], { transB: 1 })],
};
const codeOf = (f: () => unknown): string => {
  try {
    f();
    return "none";
  } catch (e) {
    if (e instanceof CompileError) return e.code;
    throw e;
  }
};

describe("a damaged file", () => {
  const whole = buildModel(net);
  for (let k = 0; k < 10; k++) {
    const length = Math.floor((whole.length * k) / 10);
    it(`cut after ${length} of ${whole.length} bytes is a bad model`, () => {
      expect(codeOf(() => loadModel(whole.slice(0, length)))).toBe("bad-model");
    });
  }

  it("with any byte changed loads or is refused, and never fails otherwise", () => {
    const noise = random(4 * whole.length, 11);
    for (let at = 0; at < whole.length; at++) {
      const bytes = whole.slice();
      bytes[at] = Math.floor((noise[at] as number) * 128) + 128;
      codeOf(() => importModel(loadModel(bytes), { mode: "eval" })); // throws on anything but a CompileError
    }
  });

  it("says what it is instead", () => {
    const text = new TextEncoder();
    expect(() => loadModel(text.encode("import torch\nprint('hello')\n"))).toThrowError(/text file/);
    expect(() => loadModel(text.encode("version https://git-lfs.github.com/spec/v1\n"))).toThrowError(/Git LFS pointer/);
    expect(() => loadModel(new Uint8Array(0))).toThrowError(/empty/);
    expect(() => loadModel(Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10))).toThrowError(/not an ONNX model/);
    expect(codeOf(() => loadModel(join(folder, "absent.onnx")))).toBe("missing-data");
    expect(codeOf(() => loadModel(folder))).toBe("missing-data");
  });
});

describe("a graph that breaks ONNX's rules is refused", () => {
  const with_ = (change: Partial<ModelSpec>): string => codeOf(() => loadModel(buildModel({ ...net, ...change })));
  it("cycles", () => expect(with_({ nodes: [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])] })).toBe("bad-model"));
  it("undefined inputs", () => expect(with_({ nodes: [node("Add", ["x", "nothing"], ["y"])] })).toBe("bad-model"));
  it("undefined outputs", () => expect(with_({ outputs: ["z"] })).toBe("bad-model"));
  it("no outputs", () => expect(with_({ outputs: [] })).toBe("bad-model"));
  it("names defined twice", () => expect(with_({ nodes: [node("Relu", ["x"], ["y"]), node("Tanh", ["x"], ["y"])] })).toBe("bad-model"));
  it("a result with an initialiser's name", () => expect(with_({ nodes: [node("Relu", ["x"], ["w1"]), node("Relu", ["w1"], ["y"])] })).toBe("bad-model"));
  it("opset 0", () => expect(with_({ opset: 0 })).toBe("unsupported-op"));
  it("sizes that lie", () => expect(with_({ initializers: { ...net.initializers, w1: { dims: [2 ** 30, 2 ** 30], raw: new Uint8Array(16) } } })).toBe("bad-model"));

  it("but an order that is none is put right", () => {
    const { nodes } = loadModel(buildModel({ ...net, nodes: [...net.nodes].reverse() })).graph;
    expect(nodes.map((n) => n.outputs[0])).toEqual(["h", "r", "y"]);
  });

  it("a chain of twenty thousand nodes in reverse order is sorted in bounded time", () => {
    const chain = Array.from({ length: 20_000 }, (_, k) => node("Relu", [k === 0 ? "x" : `v${k - 1}`], [k === 19_999 ? "y" : `v${k}`])).reverse();
    const start = performance.now();
    expect(loadModel(buildModel({ ...net, nodes: chain })).graph.nodes[0]?.inputs).toEqual(["x"]);
    expect(performance.now() - start).toBeLessThan(5000);
  });
});

describe("external data", () => {
  const data = new Uint8Array(Float32Array.from(random(24, 1)).buffer);
  const home = join(folder, "home");
  mkdirSync(home);
  writeFileSync(join(home, "w.bin"), data);
  writeFileSync(join(folder, "secret.bin"), data);
  symlinkSync(join(folder, "secret.bin"), join(home, "link.bin"));
  let count = 0;
  const load = (external: Readonly<Record<string, string>>) => {
    const file = join(home, `${count++}.onnx`);
    writeFileSync(file, buildModel({ ...net, initializers: { ...net.initializers, w1: { dims: [6, 4], external } } }));
    return loadModel(file);
  };

  it("is read from beside the file", () => {
    const { weights } = importModel(load({ location: "w.bin", offset: "0", length: "96" }), { mode: "eval" });
    expect(weights.get("w1")?.data).toEqual(random(24, 1));
  });

  it("must be there", () => expect(codeOf(() => load({ location: "absent.bin" }))).toBe("missing-data"));
  it("must not leave the folder", () => {
    for (const location of ["../secret.bin", join(folder, "secret.bin"), "link.bin", "", "sub/../../secret.bin"]) expect(codeOf(() => load({ location })), location).toBe("bad-model");
  });
  it("must have the right size", () => {
    for (const rest of [{ offset: "4" }, { length: "92" }, { length: "-1" }, { offset: "1e99" }, { offset: "0", length: "97" }])
      expect(codeOf(() => load({ location: "w.bin", ...rest })), JSON.stringify(rest)).toBe("bad-model");
  });
  it("needs a folder when the model is given as bytes", () => {
    const bytes = buildModel({ ...net, initializers: { ...net.initializers, w1: { dims: [6, 4], external: { location: "w.bin" } } } });
    expect(codeOf(() => loadModel(bytes))).toBe("missing-data");
    expect(loadModel(bytes, { baseDir: home }).opset).toBe(17);
  });
});

describe("what cannot be compiled is refused by node", () => {
  it("unknown ops, with the way to cut the model", () => {
    const model = loadModel(buildModel({ ...net, opset: 13, nodes: [node("Relu", ["x"], ["r"]), { ...node("NoSuchOp", ["r"], ["y"]), name: "detect/nz" }] }));
    expect(() => importModel(model, { mode: "eval" })).toThrowError(expect.objectContaining({
      code: "unsupported-op", message: 'ONNX op "NoSuchOp" is not supported', where: 'node "detect/nz" (opset 13)', hint: 'cut the model before it with --output "r"',
    }));
    expect(importModel(model, { mode: "eval", outputs: ["r"] }).graph.results.map((r) => r.name)).toEqual(["r"]);
  });

  it("shapes that do not fit", () => {
    const model = loadModel(buildModel({ ...net, nodes: [{ ...node("MatMul", ["x", "w1"], ["y"]), name: "mm" }] }));
    expect(() => importModel(model, { mode: "eval" })).toThrowError(expect.objectContaining({ where: 'node "mm" (opset 17)' }));
  });

  it("a constant beyond any memory", () => {
    const model = loadModel(buildModel({
      ...net, initializers: { s: { dims: [2], type: 7, int64s: [2 ** 20, 2 ** 20] } }, nodes: [node("ConstantOfShape", ["s"], ["c"]), node("Add", ["x", "c"], ["y"])],
    }));
    expect(codeOf(() => importModel(model, { mode: "eval" }))).toBe("bad-model");
  });
});
