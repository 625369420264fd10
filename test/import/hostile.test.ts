/** Files made to hurt: each ends in a CompileError that says what and where, at once, before anything large is allocated. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import { importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { concat, delimited, varint } from "../../src/import/wire.js";
import { buildModel, floats, INT64, ints, type ModelSpec, node, type NodeSpec, type TensorSpec } from "../support/onnx-model.js";
import { random } from "../support/onnx-run.js";

/** Seconds: a hundred thousand nodes take four on one core; machines that test are busy. */
const PATIENCE = 60;
const LARGE = 2 ** 29;
const N = 100_000;

/** What a file comes to: "ok" or its code. Fails on any other exception, and on half a gigabyte of arrays. */
function fate(file: string | Uint8Array): string {
  const before = process.memoryUsage().arrayBuffers;
  try {
    importModel(loadModel(file), { mode: "eval" });
    return "ok";
  } catch (e) {
    if (!(e instanceof CompileError)) throw e;
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(LARGE);
    return e.code;
  }
}
const net: ModelSpec = {
  inputs: { x: ["N", 4] }, outputs: ["y"], initializers: { w: floats([4, 3], [...random(12, 1)]), b: floats([3], [1, 2, 3]) },
  nodes: [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["y"])],
};
const made = (change: Partial<ModelSpec>): Uint8Array => buildModel({ ...net, ...change });
const weight = (w: TensorSpec): Uint8Array => made({ initializers: { ...net.initializers, w } });
/** A model with one more field in its graph. */
const graphPlus = (...extra: readonly Uint8Array[]): Uint8Array => {
  const bytes = buildModel({ ...net, outputs: [], nodes: [], initializers: {} });
  return concat([bytes, delimited(7, concat(extra))]); // protobuf merges the two graphs
};
const text = (s: string): Uint8Array => new TextEncoder().encode(s);

describe("sizes that lie", () => {
  const cases: Readonly<Record<string, TensorSpec>> = {
    "2^40 elements of nothing": { dims: [2 ** 40], raw: new Uint8Array(0) },
    "a product beyond 2^53": { dims: [2 ** 30, 2 ** 30, 2 ** 30], raw: new Uint8Array(4) },
    "a product that is 0 modulo 2^64": { dims: [2 ** 32, 2 ** 32], raw: new Uint8Array(0) },
    "2^31 elements": { dims: [2 ** 31], raw: new Uint8Array(0) },
    "a negative axis": { dims: [-4, -3], raw: new Uint8Array(48) },
    "less raw data than the shape": { dims: [4, 3], raw: new Uint8Array(44) },
    "more raw data than the shape": { dims: [4, 3], raw: new Uint8Array(49) },
    "raw data of half an element": { dims: [4, 3], raw: new Uint8Array(46) },
    "too short a list": { dims: [4, 3], floats: [1, 2, 3] },
    "a list of another type": { dims: [4, 3], int32s: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12] },
    "no data at all": { dims: [4, 3] },
  };
  for (const [name, w] of Object.entries(cases)) it(name, () => expect(fate(weight(w))).toBe("bad-model"));

  it("a protobuf length beyond the file, or beyond any memory", () => {
    for (const length of [200, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 40, 2 ** 53])
      for (const number of [7, 8, 20]) expect(fate(concat([buildModel(net), Uint8Array.from([...varint(number * 8 + 2), ...varint(length)])])), `field ${number}, ${length}`).toBe("bad-model");
  });
  it("a packed list whose length lies", () => {
    const tensor = concat([delimited(1, Uint8Array.of(4, 3)), Uint8Array.of(16, 1), delimited(8, text("w")), Uint8Array.from([...varint(4 * 8 + 2), ...varint(2 ** 30)])]);
    expect(fate(graphPlus(delimited(5, tensor)))).toBe("bad-model");
  });
  it("an axis of no size", () => {
    expect(["ok", "bad-model", "shape-mismatch"]).toContain(fate(made({ inputs: { x: [0, 4] } })));
    expect(["ok", "bad-model", "shape-mismatch"]).toContain(fate(weight({ dims: [4, 0], raw: new Uint8Array(0) })));
  });
});

describe("constants that nobody can hold are refused before they are made", () => {
  const huge = (nodes: readonly NodeSpec[], initializers: Readonly<Record<string, TensorSpec>> = {}): string => fate(made({ initializers, nodes }));
  const scalar = (n: number): TensorSpec => ({ dims: [], type: INT64, int64s: [n] });
  const one = { one: floats([1], [1]) };
  const use = node("Add", ["x", "c"], ["y"]);
  for (const n of [2 ** 27, 2 ** 31, 2 ** 40, 2 ** 52]) {
    it(`ConstantOfShape of ${n}`, () => expect(huge([node("ConstantOfShape", ["s"], ["c"]), use], { s: ints(n) })).not.toBe("ok"));
    it(`Expand to ${n}`, () => expect(huge([node("Expand", ["one", "s"], ["c"]), use], { ...one, s: ints(n) })).not.toBe("ok"));
    it(`Tile to ${n}`, () => expect(huge([node("Tile", ["one", "s"], ["c"]), use], { ...one, s: ints(n) })).not.toBe("ok"));
    it(`Range to ${n}`, () => expect(huge([node("Range", ["a", "s", "d"], ["i"]), node("Cast", ["i"], ["c"], { to: 1 }), use], { a: scalar(0), d: scalar(1), s: scalar(n) })).not.toBe("ok"));
    if (n < 2 ** 31) continue; // a value that is not computed at import takes no memory yet: the device's limits are asked later
    it(`Expand of an example to ${n}`, () => expect(huge([node("Expand", ["x", "s"], ["y"])], { s: ints(n, 1, 4) })).not.toBe("ok"));
    it(`Tile of an example ${n} times`, () => expect(huge([node("Tile", ["x", "s"], ["y"])], { s: ints(1, n) })).not.toBe("ok"));
    it(`Pad by ${n}`, () => expect(huge([node("Pad", ["x", "s"], ["y"])], { s: ints(0, 0, 0, n) })).not.toBe("ok"));
  }
});

describe("names", () => {
  it("used twice are refused, whatever they name", () => {
    const twice = delimited(5, concat([delimited(1, Uint8Array.of(1)), Uint8Array.of(16, 1), delimited(8, text("w")), delimited(9, new Uint8Array(4))]));
    expect(fate(graphPlus(twice, twice))).toBe("bad-model");
    expect(fate(made({ outputs: ["y", "y"] }))).toBe("bad-model");
    const input = delimited(11, delimited(1, text("x")));
    expect(fate(concat([buildModel(net), delimited(7, input)]))).toBe("bad-model");
    expect(fate(made({ nodes: [node("Split", ["x"], ["y", "y"], { axis: 1 })] }))).toBe("bad-model");
    expect(fate(made({ nodes: [...net.nodes, node("Relu", ["x"], ["x"])] }))).toBe("bad-model");
  });
  it("with control characters, of objects' own properties, or very long, are names like others", () => {
    for (const name of ["\u0000", "\u001b[2J", "a\nb", "__proto__", "constructor", "toString", "💥".repeat(10_000), "w w", "%", "\ufffd"]) {
      const spec = { ...net, initializers: { [name === "__proto__" ? "proto" : name]: floats([4, 3], [...random(12, 1)]) }, nodes: [node("MatMul", ["x", name === "__proto__" ? "proto" : name], ["y"])] };
      expect(fate(buildModel(spec)), JSON.stringify(name.slice(0, 20))).toBe("ok");
    }
    for (const op of ["constructor", "__proto__", "toString", ""])
      expect(fate(made({ nodes: [node("Constant", [], ["c"], { value_floats: { floats: [1, 2, 3, 4] } }), node(op, ["c"], ["d"]), node("Add", ["x", "c"], ["y"]), node("Relu", ["d"], ["z"])], outputs: ["y", "z"] })), op).toBe("unsupported-op");
  });
});

describe("versions and types", () => {
  it("an opset that is missing, given twice, none, or from the future", () => {
    const bare = buildModel(net);
    const opset = (version: number): Uint8Array => delimited(8, Uint8Array.from([16, ...varint(version)]));
    expect(fate(concat([bare, opset(17)]))).toBe("ok");
    expect(fate(concat([bare, opset(13)]))).toBe("bad-model");
    expect(fate(made({ opset: 0 }))).toBe("unsupported-op");
    expect(fate(made({ opset: 2 ** 40 }))).not.toBe("internal");
    expect(fate(concat([delimited(7, new Uint8Array(0))]))).toBe("bad-model");
  });
  it("element types that do not exist, and those without numbers", () => {
    for (const type of [0, 8, 14, 15, 17, 23, 99, 2 ** 31 - 1]) expect(["unsupported-op", "bad-model"], `type ${type}`).toContain(fate(weight({ dims: [4, 3], type, raw: new Uint8Array(48) })));
    for (const type of [0, 8, 99]) expect(["unsupported-op", "bad-model"], `input of type ${type}`).toContain(fate(made({ types: { x: type } })));
  });
});

describe("shapes of graphs", () => {
  it("no nodes: an output that is an input, or a weight", () => {
    expect(fate(made({ nodes: [], outputs: ["x"] }))).toBe("ok");
    expect(fate(made({ nodes: [], outputs: ["w"] }))).toBe("ok");
    expect(fate(made({ nodes: [], outputs: ["y"] }))).toBe("bad-model");
  });
  it("a node that reads itself, and a ring of a thousand", () => {
    expect(fate(made({ nodes: [node("Add", ["y", "x"], ["y"])] }))).toBe("bad-model");
    expect(fate(made({ outputs: ["v0"], nodes: Array.from({ length: 1000 }, (_, k) => node("Add", ["x", `v${(k + 1) % 1000}`], [`v${k}`])) }))).toBe("bad-model");
  });
  it("views of names left out do not go round", () => expect(fate(made({ nodes: [node("Identity", [""], [""]), ...net.nodes] }))).not.toBe("internal"));

  it("sub-graphs ten thousand deep", () => {
    const deep = (levels: number): Uint8Array => {
      // graph { node { attribute { g: graph { … } } } }: lengths are computed from the inside, the bytes written once
      const heads: Uint8Array[] = [];
      let length = 0;
      for (let k = 0; k < levels; k++)
        for (const number of [6, 5, 1]) { // g, attribute, node
          const head = Uint8Array.from([number * 8 + 2, ...varint(length)]);
          heads.push(head);
          length += head.length;
        }
      return concat([buildModel(net), delimited(7, concat(heads.reverse()))]);
    };
    for (const levels of [10, 100, 10_000, 100_000]) expect(["bad-model", "unsupported-op"], `${levels} levels`).toContain(fate(deep(levels)));
  });

  const chain = (op: string, first: string, last: string): NodeSpec[] => Array.from({ length: N }, (_, k) => node(op, [k === 0 ? first : `v${k - 1}`], [k === N - 1 ? last : `v${k}`]));
  const quick = (name: string, spec: () => Partial<ModelSpec>): void =>
    it(`a hundred thousand nodes: ${name}`, () => {
      const bytes = made(spec());
      const start = performance.now();
      expect(fate(bytes)).toBe("ok");
      expect((performance.now() - start) / 1000).toBeLessThan(PATIENCE);
    }, 2 * PATIENCE * 1000);
  quick("in a chain", () => ({ nodes: chain("Relu", "x", "y") }));
  quick("in a chain of views of a weight", () => ({ nodes: [...chain("Identity", "w", "v"), node("MatMul", ["x", "v"], ["y"])] }));
  quick("side by side, all read by one", () => {
    const wide = Array.from({ length: N }, (_, k) => node("Relu", ["x"], [`v${k}`]));
    return { nodes: [...wide, node("Sum", wide.map((n) => n.outputs[0] as string), ["y"])] };
  });
  quick("each twice read by the next", () => ({ nodes: Array.from({ length: N }, (_, k) => node("Add", [k ? `v${k - 1}` : "x", k ? `v${k - 1}` : "x"], [k === N - 1 ? "y" : `v${k}`])) }));
  quick("constants added behind a long chain of views", () => ({
    outputs: Array.from({ length: N / 4 }, (_, k) => `a${k}`),
    nodes: [
      ...Array.from({ length: N / 2 }, (_, k) => node("Identity", [k === 0 ? "x" : `i${k - 1}`], [`i${k}`])),
      ...Array.from({ length: N / 4 }, (_, k) => [node("Constant", [], [`c${k}`], { value_floats: { floats: [1, 2, 3, 4] } }), node("Add", [`i${N / 2 - 1}`, `c${k}`], [`a${k}`])]).flat(),
    ],
  }));
});

describe("external data", () => {
  const folder = mkdtempSync(join(tmpdir(), "kfacc-hostile-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const home = join(folder, "home");
  mkdirSync(join(home, "sub"), { recursive: true });
  for (const file of [join(home, "w.bin"), join(folder, "secret.bin"), join(home, "sub", "w.bin")]) writeFileSync(file, new Uint8Array(48));
  symlinkSync(join(folder, "secret.bin"), join(home, "link.bin"));
  symlinkSync(folder, join(home, "up"));
  symlinkSync("loop.bin", join(home, "loop.bin"));
  const load = (external: Readonly<Record<string, string>>): string => {
    writeFileSync(join(home, "net.onnx"), weight({ dims: [4, 3], external }));
    return fate(join(home, "net.onnx"));
  };
  it("inside the folder is read", () => {
    expect(load({ location: "w.bin" })).toBe("ok");
    expect(load({ location: "sub/w.bin" })).toBe("ok");
    expect(load({ location: "./sub/../w.bin" })).toBe("ok");
  });
  for (const location of ["../secret.bin", join(folder, "secret.bin"), "link.bin", "up/secret.bin", "", ".", "..", "sub", "sub/../../secret.bin", "C:\\w.bin", "C:w.bin", "\\\\host\\share\\w.bin", "w.bin\u0000.txt", "\u0000", "loop.bin", "file:///etc/passwd", "/dev/zero"])
    it(`is refused at ${JSON.stringify(location)}`, () => expect(["bad-model", "missing-data"]).toContain(load({ location })));
  for (const rest of [{ offset: "48" }, { offset: "49", length: "0" }, { offset: "9007199254740991", length: "48" }, { length: "9007199254740993" }, { offset: "-1" }, { offset: "1e3" }, { length: "NaN" }, { length: "0x30", offset: "1" }, { offset: "0.5" }, { length: "47" }])
    it(`is refused with ${JSON.stringify(rest)}`, () => expect(load({ location: "w.bin", ...rest })).toBe("bad-model"));
});
