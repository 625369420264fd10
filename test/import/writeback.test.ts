/** Weights written back change their own bytes and nothing else, for every way of storing them. */
import onnxProto from "onnx-proto";
import ort from "onnxruntime-node";
import { describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import type { ExternalRef } from "../../src/import/model.js";
import { importModel } from "../../src/import/import.js";
import { decodeTensorProto, loadModel } from "../../src/import/onnx.js";
import { decodeTensor } from "../../src/import/tensor.js";
import { concat, delimited, rewrite, rewriteInside } from "../../src/import/wire.js";
import { writeWeights } from "../../src/import/writeback.js";
import { BFLOAT16, buildModel, DOUBLE, FLOAT16, floats, ints, type ModelSpec, node, tensorProto, type TensorSpec } from "../support/onnx-model.js";
import { expectAgrees, random } from "../support/onnx-run.js";

const { onnx } = onnxProto;
const old = random(6, 1);
const fresh = random(6, 2);
const raw = (values: ArrayBufferView): Uint8Array => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/** y = x · w, with w as given; a second weight that must stay. */
const net = (w: TensorSpec, rest: Partial<ModelSpec> = {}): Uint8Array => buildModel({
  inputs: { x: ["N", 2] }, outputs: ["y"], initializers: { w, other: floats([3], [7, 8, 9]) },
  nodes: [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "other"], ["y"])], ...rest,
});

/** How many bytes differ between arrays of one length. */
const changed = (a: Uint8Array, b: Uint8Array): number => a.reduce((count, v, k) => count + Number(v !== b[k]), 0);
const numbersOf = (model: Uint8Array, name: string): number[] => {
  const { graph, external } = loadModel(model);
  const t = graph.initializers.get(name) ?? graph.nodes.find((n) => n.outputs[0] === name)?.attrs.get("value")?.t;
  return t ? [...decodeTensor(t, external).data] : [];
};

describe("storage of fixed width is overwritten in place", () => {
  const STORED: readonly [string, TensorSpec, (v: number) => number][] = [
    ["raw float", { dims: [2, 3], raw: raw(old) }, (v) => v],
    ["raw double", { dims: [2, 3], type: DOUBLE, raw: raw(Float64Array.from(old)) }, (v) => v],
    ["raw float16", { dims: [2, 3], type: FLOAT16, raw: raw(Uint16Array.from(old, () => 0x3c00)) }, Number.NaN as never],
    ["raw bfloat16", { dims: [2, 3], type: BFLOAT16, raw: raw(Uint16Array.from(old, () => 0x3f80)) }, Number.NaN as never],
    ["float_data", { dims: [2, 3], floats: [...old] }, (v) => v],
    ["double_data", { dims: [2, 3], type: DOUBLE, doubles: [...old] }, (v) => v],
  ];
  for (const [name, w] of STORED)
    it(name, () => {
      const before = net(w);
      const untouched = before.slice();
      const { model, externalFiles } = writeWeights(before, new Map([["w", fresh]]));
      expect(before, "the given bytes").toEqual(untouched);
      expect(externalFiles.size).toBe(0);
      expect(model.length).toBe(before.length);
      const width = w.type === DOUBLE ? 8 : w.type === FLOAT16 || w.type === BFLOAT16 ? 2 : 4;
      // all bytes that differ lie in one stretch as long as the tensor
      const places = [...before.keys()].filter((k) => before[k] !== model[k]);
      expect(places.length).toBeGreaterThan(5);
      expect((places.at(-1) as number) - (places[0] as number)).toBeLessThan(6 * width);
      const precision = w.type === FLOAT16 ? 2 ** -11 : w.type === BFLOAT16 ? 2 ** -8 : 0;
      numbersOf(model, "w").forEach((v, k) => expect(Math.abs(v - (fresh[k] as number))).toBeLessThanOrEqual(precision * Math.abs(fresh[k] as number)));
      expect(numbersOf(model, "other")).toEqual([7, 8, 9]);
    });

  it("an unpacked list, element by element", () => {
    const tag = Uint8Array.of((4 << 3) | 5);
    const body = concat([
      onnx.TensorProto.encode(tensorProto("w", { dims: [2, 3] })).finish(), ...[...old].flatMap((v) => [tag, raw(Float32Array.of(v))]),
    ]);
    const packed = net({ dims: [2, 3], raw: raw(old) });
    let first = true; // the weight is the first initialiser
    const before = rewrite(packed, 0, packed.length, (f) => (f.number !== 7 ? undefined : rewriteInside(packed, f, (t) => {
      const mine = t.number === 5 && first;
      first &&= !mine;
      return mine ? delimited(5, body) : undefined;
    }))) as Uint8Array;
    expect(numbersOf(before, "w")).toEqual([...old]);
    const { model } = writeWeights(before, new Map([["w", fresh]]));
    expect(model.length).toBe(before.length);
    expect(changed(before, model)).toBeLessThanOrEqual(24);
    expect(numbersOf(model, "w")).toEqual([...fresh]);
  });

  it("the tensor of a Constant node, and its value_floats", () => {
    for (const attrs of [{ value: { tensor: { dims: [6], raw: raw(old) } } }, { value_floats: { floats: [...old] } }]) {
      const before = buildModel({ inputs: { x: [6] }, outputs: ["y"], nodes: [node("Constant", [], ["c"], attrs), node("Add", ["x", "c"], ["y"])] });
      const { model } = writeWeights(before, new Map([["c", fresh]]));
      expect(model.length).toBe(before.length);
      expect(changed(before, model)).toBeLessThanOrEqual(24);
      const value = loadModel(model).graph.nodes[0]?.attrs;
      expect(value?.get("value_floats")?.floats.map(Math.fround) ?? numbersOf(model, "c")).toEqual([...fresh]);
    }
  });
});

describe("storage that changes length is spliced", () => {
  it("float16 and bfloat16 as varints: the same type, all other fields byte for byte", () => {
    for (const type of [FLOAT16, BFLOAT16]) {
      const before = net({ dims: [2, 3], type, int32s: [1, 2, 3, 4, 5, 6] });
      const { model } = writeWeights(before, new Map([["w", fresh]]));
      expect(model.length).not.toBe(before.length);
      expect(numbersOf(model, "w").every((v, k) => Math.abs(v - (fresh[k] as number)) < 0.01)).toBe(true);
      // putting the old list back gives the old bytes: nothing else was touched
      const back = writeWeights(model, new Map([["w", Float32Array.from(numbersOf(before, "w"))]])).model;
      expect(back).toEqual(before);
    }
  });

  it("a ConstantOfShape becomes a Constant, and the model still runs", async () => {
    const before = buildModel({
      inputs: { x: ["N", 2] }, outputs: ["y"], initializers: { s: ints(2, 3) },
      nodes: [node("ConstantOfShape", ["s"], ["w"], { value: { tensor: floats([1], [0.5]) } }), node("MatMul", ["x", "w"], ["y"])],
    });
    expect(importModel(loadModel(before), { mode: "train" }).graph.params.map((p) => [p.value.name, p.trainable])).toEqual([["w", true]]);
    const { model } = writeWeights(before, new Map([["w", fresh]]));
    expect(numbersOf(model, "w")).toEqual([...fresh]);
    const imported = await expectAgrees(model, 3);
    expect(imported.weights.get("w")).toEqual({ shape: [2, 3], data: fresh });
  });

  it("fields that no schema knows are kept", () => {
    const unknown = delimited(999, Uint8Array.of(1, 2, 3));
    const tensor = concat([onnx.TensorProto.encode(tensorProto("w", { dims: [6], type: FLOAT16, int32s: [1, 2, 3, 4, 5, 6] })).finish(), unknown]);
    const before = concat([unknown, delimited(7, concat([unknown, delimited(5, tensor), unknown])), unknown]);
    const { model } = writeWeights(before, new Map([["w", fresh]]));
    const count = (bytes: Uint8Array): number => Buffer.from(bytes).toString("latin1").split(Buffer.from(unknown).toString("latin1")).length - 1;
    expect([count(before), count(model)]).toEqual([5, 5].map(() => count(before)));
    expect(count(model)).toBeGreaterThanOrEqual(4);
  });
});

describe("external data goes to a new file", () => {
  const place = (offset: number, length = 24) => ({ location: "old.bin", offset: `${offset}`, length: `${length}` });
  const file = new Uint8Array(64).map((_, k) => k);
  file.set(raw(old), 8);
  const read = (location: string): Uint8Array => {
    expect(location).toBe("old.bin");
    return file;
  };
  const build = (extra: Readonly<Record<string, TensorSpec>> = {}): Uint8Array => buildModel({
    inputs: { x: ["N", 2] }, outputs: ["y"], initializers: { w: { dims: [2, 3], external: place(8) }, b: { dims: [3], external: place(40, 12) }, ...extra },
    nodes: [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])],
  });
  const entries = (model: Uint8Array): (ExternalRef | undefined)[] => {
    const { graph } = onnx.ModelProto.decode(model);
    return (graph?.initializer ?? []).map((t) => decodeTensorProto(onnx.TensorProto.encode(t).finish()).external);
  };

  it("at the same place, other tensors' bytes beside it, every location renamed", () => {
    const { model, externalFiles } = writeWeights(build(), new Map([["w", fresh]]), { dataName: "new-data.bin", read });
    const wanted = file.slice();
    wanted.set(raw(fresh), 8);
    expect([...externalFiles]).toEqual([["new-data.bin", wanted]]);
    expect(entries(model)).toEqual([{ location: "new-data.bin", offset: 8, length: 24 }, { location: "new-data.bin", offset: 40, length: 12 }]);
    expect(writeWeights(build(), new Map([["w", fresh]]), { dataName: "old.bin", read }).model, "the same name: the same bytes").toEqual(build());
  });

  it("at the end, if another tensor reads the same bytes", () => {
    const { model, externalFiles } = writeWeights(build({ v: { dims: [6], external: place(8) } }), new Map([["w", fresh]]), { dataName: "n", read });
    expect(entries(model).map((e) => e?.offset)).toEqual([64, 40, 8]);
    expect(externalFiles.get("n")?.slice(0, 64)).toEqual(file);
    expect(externalFiles.get("n")?.slice(64)).toEqual(raw(fresh));
  });

  it("a checksum that no longer holds is dropped", () => {
    const before = build({ v: { dims: [6], external: { ...place(8), checksum: "abc" } } });
    expect(Buffer.from(before).includes("checksum")).toBe(true);
    expect(Buffer.from(writeWeights(before, new Map(), { dataName: "n", read }).model).includes("checksum")).toBe(false);
  });

  it("and nothing is written without a way to read it", () => {
    expect(() => writeWeights(build(), new Map([["w", fresh]]))).toThrowError(expect.objectContaining({ code: "missing-data" }));
  });
});

describe("writing back", () => {
  it("refuses unknown names and wrong counts", () => {
    const model = net({ dims: [2, 3], raw: raw(old) });
    expect(() => writeWeights(model, new Map([["nope", fresh]]))).toThrowError(CompileError);
    expect(() => writeWeights(model, new Map([["w", random(5, 1)]]))).toThrowError(expect.objectContaining({ code: "shape-mismatch" }));
  });

  it("leaves the caller's Buffer alone", () => {
    const buffer = Buffer.from(net({ dims: [2, 3], raw: raw(old) }));
    const before = [...buffer];
    writeWeights(buffer as unknown as Uint8Array, new Map([["w", fresh]]));
    expect([...buffer]).toEqual(before);
  });

  it("through a Transpose writes the tensor's own layout", async () => {
    const before = net({ dims: [3, 2], raw: raw(old) }, { nodes: [node("Transpose", ["w"], ["wt"]), node("MatMul", ["x", "wt"], ["m"]), node("Add", ["m", "other"], ["y"])] });
    const first = importModel(loadModel(before), { mode: "train" });
    expect(first.weights.get("w")).toEqual({ shape: [3, 2], data: old });
    const { model } = writeWeights(before, new Map([["w", fresh]]));
    await expectAgrees(model, 4);
    const session = await ort.InferenceSession.create(model);
    const { y } = await session.run({ x: new ort.Tensor("float32", Float32Array.of(1, 0), [1, 2]) });
    expect((y as ort.Tensor).data[1]).toBeCloseTo((fresh[2] as number) + 8, 5);
  });
});
