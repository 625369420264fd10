/** Every way of storing weights: read as onnxruntime reads them, trained values written back so that it reads those, and no other byte changed. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import ort from "onnxruntime-node";
import { afterAll, describe, expect, it } from "vitest";
import type { NdArray } from "../../ir/ndarray.js";
import { readExternalFile } from "../../src/import/external.js";
import { type Imported, importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { concat, delimited } from "../../src/import/wire.js";
import { writeWeights } from "../../src/import/writeback.js";
import { BFLOAT16, buildModel, DOUBLE, FLOAT16, floats, ints, type ModelSpec, node, type NodeSpec, type TensorSpec } from "../support/onnx-model.js";
import { expectAgrees, expectClose, random, runImported, runOrt, seeded } from "../support/onnx-run.js";

const folder = mkdtempSync(join(tmpdir(), "kfacc-storage-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Exact in half precision and bfloat16, too: no storage rounds them. */
const NEW = Float32Array.of(0.5, -1.25, 2, 0.375, -0.75, 1.5);
const OLD = Float32Array.of(1, 2, 3, 4, 5, 6);
const raw = (v: ArrayBufferView): Uint8Array => new Uint8Array(v.buffer, v.byteOffset, v.byteLength);
const HALVES = [0x3c00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600];
const BRAINS = [0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0];

interface Form {
  /** How y = x · w begins; `weight` is what trains (default "w"). */
  readonly w?: TensorSpec;
  readonly nodes?: readonly NodeSpec[];
  readonly initializers?: Readonly<Record<string, TensorSpec>>;
  readonly weight?: string;
  /** Bytes that may change; none outside of one stretch of them. undefined: the length changes. */
  readonly stretch?: number;
}
const widened: readonly NodeSpec[] = [node("Cast", ["w"], ["v"], { to: 1 })];
const FORMS: Readonly<Record<string, Form>> = {
  "raw float": { w: { dims: [2, 3], raw: raw(OLD) }, stretch: 24 },
  "float_data": { w: { dims: [2, 3], floats: [...OLD] }, stretch: 24 },
  "raw double, cast": { w: { dims: [2, 3], type: DOUBLE, raw: raw(Float64Array.from(OLD)) }, nodes: widened, stretch: 48 },
  "double_data, cast": { w: { dims: [2, 3], type: DOUBLE, doubles: [...OLD] }, nodes: widened, stretch: 48 },
  "raw float16, cast": { w: { dims: [2, 3], type: FLOAT16, raw: raw(Uint16Array.from(HALVES)) }, nodes: widened, stretch: 12 },
  "float16 in int32_data, cast": { w: { dims: [2, 3], type: FLOAT16, int32s: HALVES }, nodes: widened },
  "raw bfloat16, cast": { w: { dims: [2, 3], type: BFLOAT16, raw: raw(Uint16Array.from(BRAINS)) }, nodes: widened, stretch: 12 },
  "bfloat16 in int32_data, cast": { w: { dims: [2, 3], type: BFLOAT16, int32s: BRAINS }, nodes: widened },
  "a Constant's raw tensor": { nodes: [node("Constant", [], ["v"], { value: { tensor: { dims: [2, 3], raw: raw(OLD) } } })], weight: "v", stretch: 24 },
  "a Constant's float_data": { nodes: [node("Constant", [], ["v"], { value: { tensor: { dims: [2, 3], floats: [...OLD] } } })], weight: "v", stretch: 24 },
  "a Constant's value_floats, reshaped": { nodes: [node("Constant", [], ["c"], { value_floats: { floats: [...OLD] } }), node("Reshape", ["c", "s"], ["v"])], initializers: { s: ints(2, 3) }, weight: "c", stretch: 24 },
  "a ConstantOfShape": { nodes: [node("ConstantOfShape", ["s"], ["v"], { value: { tensor: floats([1], [0.5]) } })], initializers: { s: ints(2, 3) }, weight: "v" },
  "a ConstantOfShape of a Constant's shape, zeros": { nodes: [node("Constant", [], ["s"], { value: { tensor: ints(2, 3) } }), node("ConstantOfShape", ["s"], ["v"])], weight: "v" },
  "seen through a Transpose": { w: { dims: [3, 2], raw: raw(OLD) }, nodes: [node("Transpose", ["w"], ["v"])], stretch: 24 },
  "seen through a Reshape": { w: { dims: [6], raw: raw(OLD) }, nodes: [node("Reshape", ["w", "s"], ["v"])], initializers: { s: ints(2, 3) }, stretch: 24 },
  "an initialiser that is an input, too": { w: { dims: [2, 3], raw: raw(OLD) }, stretch: 24 },
};

/** Fields that no reader knows, and metadata: after the graph, inside the model. */
const EXTRA = concat([delimited(14, concat([delimited(1, new TextEncoder().encode("author")), delimited(2, new TextEncoder().encode("nobody"))])), delimited(4001, Uint8Array.of(9, 9, 9))]);

function modelOf(name: string, f: Form): Uint8Array {
  const spec: ModelSpec = {
    inputs: { x: ["N", 2], ...(name.endsWith("input, too") ? { w: [2, 3] } : {}) }, outputs: ["y"],
    initializers: { ...(f.w ? { w: f.w } : {}), ...f.initializers, other: floats([3], [7, 8, 9]) },
    nodes: [...(f.nodes ?? [node("Identity", ["w"], ["v"])]), node("MatMul", ["x", "v"], ["m"]), node("Add", ["m", "other"], ["y"])],
  };
  return concat([buildModel(spec), EXTRA]);
}

const contains = (bytes: Uint8Array, part: Uint8Array): boolean => Buffer.from(bytes).includes(Buffer.from(part));

describe("a weight of every storage trains, is written back, and runs in onnxruntime", () => {
  for (const [name, form] of Object.entries(FORMS))
    it(name, async () => {
      const before = modelOf(name, form);
      const weight = form.weight ?? "w";
      const first = await expectAgrees(before);
      expect(first.graph.params.find((p) => p.value.name === weight)?.trainable).toBe(true);
      const { model } = writeWeights(before, new Map([[weight, NEW]]));
      expect((await expectAgrees(model, 2)).weights.get(weight)?.data).toEqual(NEW);
      expect(contains(model, EXTRA), "metadata and unknown fields").toBe(true);
      if (form.stretch !== undefined) {
        expect(model.length).toBe(before.length);
        const places = [...before.keys()].filter((k) => before[k] !== model[k]);
        expect((places.at(-1) as number) - (places[0] as number)).toBeLessThan(form.stretch);
      } else {
        // what is not the weight can be seen from its being there when the old weight is put back, where there was one
        const again = writeWeights(model, new Map([[weight, first.weights.get(weight)?.data as Float32Array]])).model;
        if (form.w) expect(again).toEqual(before);
        else expect((await expectAgrees(again, 3)).weights.get(weight)).toEqual(first.weights.get(weight));
      }
    });
});

describe("external data in several files", () => {
  it("with offsets, one file shared, is read and written as onnxruntime reads it", async () => {
    const shared = new Uint8Array(64).fill(0xaa);
    shared.set(raw(OLD), 16);
    shared.set(raw(Float32Array.of(7, 8, 9)), 40);
    writeFileSync(join(folder, "a.bin"), shared);
    writeFileSync(join(folder, "b.bin"), raw(Float32Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1)));
    const file = join(folder, "net.onnx");
    writeFileSync(file, buildModel({
      inputs: { x: ["N", 2] }, outputs: ["y"],
      initializers: { w: { dims: [2, 3], external: { location: "a.bin", offset: "16", length: "24" } }, b: { dims: [3], external: { location: "a.bin", offset: "40", length: "12" } }, u: { dims: [3, 3], external: { location: "b.bin" } } },
      nodes: [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["n"]), node("MatMul", ["n", "u"], ["y"])],
    }));
    const { model, externalFiles } = writeWeights(loadModel(file).bytes, new Map([["w", NEW]]), { dataName: "new.data", read: (location) => readExternalFile(folder, location) });
    for (const [name, bytes] of externalFiles) writeFileSync(join(folder, name), bytes);
    writeFileSync(join(folder, "new.onnx"), model);
    const wanted = shared.slice();
    wanted.set(raw(NEW), 16);
    expect([...externalFiles].map(([name, bytes]) => [name, [...bytes]])).toEqual([["new.data", [...wanted]], ["new.data.1", [...raw(Float32Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1))]]]);
    const imported = importModel(loadModel(join(folder, "new.onnx")), { mode: "eval" });
    await agrees(imported, join(folder, "new.onnx"));
    expect(imported.weights.get("w")?.data).toEqual(NEW);
  });
});

/** The imported model against onnxruntime on a file (external data is beside it). */
async function agrees(imported: Imported, file: string): Promise<void> {
  const inputs = seeded(imported.graph, 5);
  const session = await ort.InferenceSession.create(file);
  const results = await session.run(Object.fromEntries(Object.entries(inputs).map(([name, v]) => [name, new ort.Tensor("float32", v.data as Float32Array, [...v.shape])])));
  const mine = runImported(imported, inputs);
  for (const [name, t] of Object.entries(results)) expectClose(mine[name] as NdArray, { shape: t.dims, data: [...(t.data as Float32Array)] }, name);
  await session.release();
}

describe("a model exported without its weights", () => {
  const bare: ModelSpec = {
    inputs: {
      x: ["N", 2, 6, 6], k: [8, 2, 3, 3], kb: [8], s: [8], t: [8], m: [8], v: [8], f: [4, 288], fb: [4], w: [4, 3], wb: [3],
    }, outputs: ["y"],
    nodes: [
      node("Conv", ["x", "k", "kb"], ["c"], { pads: [1, 1, 1, 1] }), node("BatchNormalization", ["c", "s", "t", "m", "v"], ["n"]), node("Relu", ["n"], ["r"]), node("Flatten", ["r"], ["l"]),
      node("Gemm", ["l", "f", "fb"], ["g"], { transB: 1 }), node("MatMul", ["g", "w"], ["h"]), node("Add", ["h", "wb"], ["y"]),
    ],
  };
  const load = (spec: ModelSpec, except: readonly string[] = []) => loadModel(buildModel(spec), { weightInputs: { seed: 3, except } });
  const spread = (v: Float32Array): number => Math.sqrt(v.reduce((a, b) => a + b * b, 0) / v.length);

  it("has its weights where its inputs serve as such, and says so", () => {
    const loaded = load(bare);
    expect(loaded.graph.inputs.map((v) => v.name)).toEqual(["x"]);
    expect(loaded.notes.join()).toMatch(/10 of its inputs serve as weights \("k", "kb", "s", …\)/);
    const { weights, graph } = importModel(loaded, { mode: "train", batch: 3 });
    expect(graph.params.filter((p) => p.trainable).map((p) => p.value.name).sort()).toEqual(["f", "fb", "k", "kb", "s", "t", "w", "wb"]);
    for (const zero of ["kb", "t", "m", "fb", "wb"]) expect(weights.get(zero)?.data.every((n) => n === 0), zero).toBe(true);
    for (const one of ["s", "v"]) expect(weights.get(one)?.data.every((n) => n === 1), one).toBe(true);
    // the mean square of n normal numbers is within 4·√(2/n) of the variance: f has 1152, k 144
    expect(Math.abs((spread(weights.get("f")?.data as Float32Array) ** 2 * 288) / 2 - 1)).toBeLessThan(4 * Math.sqrt(2 / 1152));
    expect(Math.abs((spread(weights.get("k")?.data as Float32Array) ** 2 * 18) / 2 - 1)).toBeLessThan(4 * Math.sqrt(2 / 144));
    expect(load(bare).bytes).toEqual(loaded.bytes);
  });

  it("is written with them, so that onnxruntime runs it without being given any", async () => {
    const loaded = load(bare);
    const fresh = random(12, 8);
    const { model } = writeWeights(loaded.bytes, new Map([["w", fresh]]));
    const imported = importModel(loadModel(model), { mode: "eval", batch: 2 });
    const inputs = seeded(imported.graph, 4);
    expect(Object.keys(inputs)).toEqual(["x"]);
    expectClose(runImported(imported, inputs).y as NdArray, (await runOrt(model, inputs)).y as { shape: readonly number[]; data: number[] }, "y");
    expect(imported.weights.get("w")?.data).toEqual(fresh);
  });

  it("keeps as inputs what is asked for, what is used otherwise, and what has open axes", () => {
    expect(load(bare, ["w"]).graph.inputs.map((v) => v.name)).toEqual(["x", "w"]);
    const used: ModelSpec = { inputs: { x: ["N", 4], w: [4, 4], u: ["K", 4] }, outputs: ["y", "z"], nodes: [node("MatMul", ["x", "w"], ["y"]), node("Relu", ["w"], ["r"]), node("MatMul", ["r", "x2"], ["z"]), node("Transpose", ["u"], ["x2"])] };
    expect(load(used).graph.inputs.map((v) => v.name)).toEqual(["x", "w", "u"]);
    expect(load(used).notes).toEqual([]);
    expect(loadModel(buildModel(bare)).graph.inputs.length).toBe(11);
  });
});

describe("shapes from outside", () => {
  const pair: ModelSpec = { inputs: { a: ["N", "L"], b: ["N", "L"], c: ["L"] }, outputs: ["y"], nodes: [node("Add", ["a", "b"], ["s"]), node("Add", ["s", "c"], ["y"])] };
  const shapesOf = (shapes: Record<string, readonly number[]>, batch?: number) => {
    const { graph } = importModel(loadModel(buildModel(pair)), { mode: "eval", shapes, batch });
    return graph.inputs.map((i) => [i.value.name, i.value.type.shape, i.examples]);
  };
  it("one input's shape binds its symbols in all", () => {
    expect(shapesOf({ a: [4, 9] })).toEqual([["a", [4, 9], 0], ["b", [4, 9], 0], ["c", [9], undefined]]);
    expect(shapesOf({ a: [4, 9] }, 6)).toEqual([["a", [6, 9], 0], ["b", [6, 9], 0], ["c", [9], undefined]]);
  });
  it("and two that differ are refused", () => expect(() => shapesOf({ a: [4, 9], b: [4, 8] })).toThrowError(/"L" is 9 in input "a" and 8 in "b"/));
});

describe("outputs", () => {
  const two: ModelSpec = {
    inputs: { x: ["N", 4], z: ["N", 3] }, outputs: ["p", "q"], initializers: { a: floats([4, 3], [...random(12, 1)]), b: floats([3, 3], [...random(9, 2)]) },
    nodes: [node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "b"], ["p"]), node("Add", ["p", "z"], ["q"])],
  };
  it("all, one of several, or a value inside: what they do not need is left out", async () => {
    await expectAgrees(buildModel(two), 2, 1, 0, { batch: 2 });
    const cut = (outputs: readonly string[]) => {
      const { graph } = importModel(loadModel(buildModel(two)), { mode: "eval", outputs });
      return [graph.results.map((r) => r.name), graph.inputs.map((i) => i.value.name), graph.params.map((p) => p.value.name)];
    };
    expect(cut(["p"])).toEqual([["p"], ["x"], ["a", "b"]]);
    expect(cut(["r"])).toEqual([["r"], ["x"], ["a"]]);
    expect(cut(["q", "h"])).toEqual([["q", "h"], ["x", "z"], ["a", "b"]]);
  });
});
