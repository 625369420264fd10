/** Stored tensors to numbers and back, for every element type and storage. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import { decodeTensorProto } from "../../src/import/onnx.js";
import { asI32, decodeTensor, encodeRaw, narrowBrain, narrowHalf, widenBrain, widenHalf } from "../../src/import/tensor.js";
import { BFLOAT16, BOOL, DOUBLE, FLOAT16, INT64, tensorProto, type TensorSpec } from "../support/onnx-model.js";
import onnxProto from "onnx-proto";

const none = (): Uint8Array => { throw new Error("no external data"); };
const stored = (t: TensorSpec) => decodeTensorProto(onnxProto.onnx.TensorProto.encode(tensorProto("t", t)).finish());
const decoded = (t: TensorSpec) => decodeTensor(stored(t), none);
const bytesOf = (view: ArrayBufferView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

/** [type code, the values 1, 2, 3 raw] */
const RAW: readonly [string, number, ArrayBufferView][] = [
  ["float", 1, Float32Array.of(1, 2, 3)], ["double", DOUBLE, Float64Array.of(1, 2, 3)], ["float16", FLOAT16, Uint16Array.of(0x3c00, 0x4000, 0x4200)],
  ["bfloat16", BFLOAT16, Uint16Array.of(0x3f80, 0x4000, 0x4040)], ["int64", INT64, BigInt64Array.of(1n, 2n, 3n)], ["uint64", 13, BigUint64Array.of(1n, 2n, 3n)],
  ["int32", 6, Int32Array.of(1, 2, 3)], ["uint32", 12, Uint32Array.of(1, 2, 3)], ["int16", 5, Int16Array.of(1, 2, 3)], ["uint16", 4, Uint16Array.of(1, 2, 3)],
  ["int8", 3, Int8Array.of(1, 2, 3)], ["uint8", 2, Uint8Array.of(1, 2, 3)],
];

describe("decoding", () => {
  for (const [name, type, data] of RAW)
    it(`raw ${name}`, () => {
      expect([...decoded({ dims: [3], type, raw: bytesOf(data) }).data]).toEqual([1, 2, 3]);
    });

  it("raw bytes may lie at any address", () => {
    const bytes = bytesOf(Float32Array.of(1.5, -2));
    for (let shift = 0; shift < 4; shift++) {
      const wide = new Uint8Array(16);
      wide.set(bytes, shift);
      const raw = wide.subarray(shift, shift + 8);
      expect([...decodeTensor({ ...stored({ dims: [2], raw: bytes }), raw }, none).data]).toEqual([1.5, -2]);
      expect([...decodeTensor({ ...stored({ dims: [2], raw: bytes }), raw: Buffer.from(wide).subarray(shift, shift + 8) as unknown as Uint8Array }, none).data]).toEqual([1.5, -2]);
    }
  });

  it("typed lists", () => {
    expect([...decoded({ dims: [2], floats: [1.5, 2] }).data]).toEqual([1.5, 2]);
    expect([...decoded({ dims: [2], type: DOUBLE, doubles: [0.1, 2] }).data]).toEqual([0.1, 2]);
    expect([...decoded({ dims: [2], type: INT64, int64s: [-7, 2 ** 40] }).data]).toEqual([-7, 2 ** 40]);
    expect([...decoded({ dims: [2], type: 6, int32s: [-7, 8] }).data]).toEqual([-7, 8]);
    expect([...decoded({ dims: [2], type: FLOAT16, int32s: [0x3c00, 0xc000] }).data]).toEqual([1, -2]);
    expect([...decoded({ dims: [2], type: BFLOAT16, int32s: [0x3f80, 0xc000] }).data]).toEqual([1, -2]);
    expect(decoded({ dims: [2], type: BOOL, int32s: [1, 0] })).toMatchObject({ dtype: "bool", data: [1, 0] });
  });

  it("sizes that lie are refused before anything is allocated", () => {
    for (const t of [{ dims: [3], floats: [1, 2] }, { dims: [2 ** 40], raw: new Uint8Array(4) }, { dims: [-1], raw: new Uint8Array(4) }, { dims: [2], raw: new Uint8Array(7) }])
      expect(() => decoded(t)).toThrowError(CompileError);
  });

  it("integers of the graph must fit in 32 bits", () => {
    expect(() => asI32([2 ** 31], "t")).toThrowError(/does not fit/);
    asI32([2 ** 31 - 1, -(2 ** 31)], "t");
  });
});

describe("half precision", () => {
  it("every half survives the way to a number and back", () => {
    for (let h = 0; h < 0x10000; h++) {
      if ((h & 0x7c00) === 0x7c00 && (h & 0x3ff) !== 0) continue; // NaN keeps no payload
      if (narrowHalf(widenHalf(h)) !== h) expect.fail(`half ${h.toString(16)} became ${narrowHalf(widenHalf(h)).toString(16)}`);
    }
  });

  it("a number becomes the nearest half, ties to even", () => {
    fc.assert(fc.property(fc.integer({ min: 0, max: 0x7bfe }), fc.double({ min: 0, max: 1, noNaN: true }), (h, t) => {
      const [a, b] = [widenHalf(h), widenHalf(h + 1)];
      const x = a + (b - a) * t;
      const got = narrowHalf(x);
      const middle = (a + b) / 2;
      return got === (x < middle ? h : x > middle ? h + 1 : h % 2 === 0 ? h : h + 1);
    }), { seed: 7 });
    expect(narrowHalf(65519.99)).toBe(0x7bff);
    expect(narrowHalf(65520)).toBe(0x7c00);
    expect(narrowHalf(-0)).toBe(0x8000);
  });

  it("every bfloat16 survives, and a float32 becomes the nearest one", () => {
    for (let b = 0; b < 0x10000; b++) {
      if ((b & 0x7f80) === 0x7f80 && (b & 0x7f) !== 0) continue;
      if (narrowBrain(widenBrain(b)) !== b) expect.fail(`bfloat16 ${b.toString(16)}`);
    }
    expect(narrowBrain(1 + 2 ** -8)).toBe(0x3f80); // a tie: to even
    expect(narrowBrain(1 + 3 * 2 ** -8)).toBe(0x3f82);
    expect(narrowBrain(Math.fround(1 + 2 ** -8 + 2 ** -20))).toBe(0x3f81);
  });

  it("encoding gives little-endian bytes of the stored type", () => {
    const x = Float32Array.of(1, -2.5);
    expect([...encodeRaw(x, "float")]).toEqual([...bytesOf(x)]);
    expect([...encodeRaw(x, "double")]).toEqual([...bytesOf(Float64Array.of(1, -2.5))]);
    expect([...encodeRaw(x, "float16")]).toEqual([0x00, 0x3c, 0x00, 0xc1]);
    expect([...encodeRaw(x, "bfloat16")]).toEqual([0x80, 0x3f, 0x20, 0xc0]);
  });
});
