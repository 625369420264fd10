import { describe, expect, test } from "vitest";
import { RuntimeFault } from "../../runtime/artifact.js";
import { decode, encode, fromHalf, type SafeTensor, toFloat32 } from "../../runtime/safetensors.js";

const f32 = (shape: number[], ...data: number[]): SafeTensor => ({ dtype: "F32", shape, data: Float32Array.from(data) });

/** A file with the header's text as given, claiming `length` bytes for it. */
function file(header: string, data = 0, length = new TextEncoder().encode(header).length): Uint8Array {
  const text = new TextEncoder().encode(header);
  const out = new Uint8Array(8 + text.length + data);
  new DataView(out.buffer).setBigUint64(0, BigInt(length), true);
  out.set(text, 8);
  return out;
}

const fault = (bytes: Uint8Array): string => {
  try {
    decode(bytes, "here");
  } catch (error) {
    if (error instanceof RuntimeFault && error.code === "bad-checkpoint" && error.where?.startsWith("here") && error.hint)
      return error.message;
    throw error;
  }
  return "accepted";
};

describe("what is written is read back", () => {
  const tensors: Record<string, SafeTensor> = {
    "b/weight": f32([2, 2], 1, -2, 3.5, NaN),
    "10": { dtype: "I64", shape: [2], data: BigInt64Array.of(-1n, 2n ** 62n) },
    "9": { dtype: "F64", shape: [1], data: Float64Array.of(Math.PI) },
    empty: f32([0, 3]),
    scalar: { dtype: "U8", shape: [], data: Uint8Array.of(7) },
    __proto__x: { dtype: "BF16", shape: [1], data: Uint16Array.of(0x3f80) },
    'quote" and ünïcode': { dtype: "U32", shape: [1], data: Uint32Array.of(4e9) },
  };

  test("every tensor with its type, shape and bits, and the metadata", () => {
    const back = decode(encode(tensors, { step: "12", note: 'a "b"\n' }));
    expect(back.metadata).toEqual({ step: "12", note: 'a "b"\n' });
    expect(Object.keys(back.tensors).sort()).toEqual(Object.keys(tensors).sort());
    for (const [name, tensor] of Object.entries(tensors)) expect(back.tensors[name], name).toEqual(tensor);
  });

  test("also from a Node Buffer at an odd address", () => {
    const bytes = encode(tensors);
    const buffer = Buffer.alloc(bytes.length + 1);
    buffer.set(bytes, 1);
    const odd = buffer.subarray(1) as unknown as Uint8Array; // its slice() does not copy
    expect(decode(odd).tensors["9"]).toEqual(tensors["9"]);
    expect(decode(odd).tensors["b/weight"]).toEqual(tensors["b/weight"]);
  });

  test("a tensor named like an object's innards stays a tensor", () => {
    const back = decode(encode(Object.fromEntries([["__proto__", f32([1], 5)]])));
    expect(Object.hasOwn(back.tensors, "__proto__")).toBe(true);
  });

  test("the bytes do not depend on the order in which tensors and notes were put in", () => {
    const reversed = Object.fromEntries(Object.entries(tensors).reverse());
    expect(encode(reversed, { b: "2", a: "1" })).toEqual(encode(tensors, { a: "1", b: "2" }));
  });

  test("this is the file, byte for byte", () => {
    const bytes = encode({ a: f32([1], 1), b: { dtype: "U8", shape: [2], data: Uint8Array.of(3, 4) } }, { k: "v" });
    const header =
      '{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}';
    expect(new TextDecoder().decode(bytes.subarray(8, -6))).toBe(header.padEnd(Math.ceil(header.length / 8) * 8));
    expect([...bytes.subarray(-6)]).toEqual([0, 0, 0x80, 0x3f, 3, 4]);
    expect(bytes[0]).toBe(Math.ceil(header.length / 8) * 8);
  });

  test("an array that does not fill its shape is a defect of the caller, and said so", () => {
    expect(() => encode({ a: f32([3], 1, 2) })).toThrow("8 bytes for F32[3]");
  });
});

test("halves and bfloats widen exactly", () => {
  expect([0x3c00, 0xc000, 0x7bff, 0x0001, 0x0400, 0x7c00, 0x8000, 0x3555].map(fromHalf)).toEqual([
    1,
    -2,
    65504,
    2 ** -24,
    2 ** -14,
    Infinity,
    -0,
    0.333251953125,
  ]);
  expect(fromHalf(0x7e00)).toBeNaN();
  expect([...toFloat32({ dtype: "BF16", shape: [2], data: Uint16Array.of(0x4049, 0xbf80) })]).toEqual([3.140625, -1]);
  expect([...toFloat32({ dtype: "I64", shape: [1], data: BigInt64Array.of(-3n) })]).toEqual([-3]);
});

describe("a hostile file is refused, with the reason", () => {
  const entry = (offsets: string, rest = '"dtype":"F32","shape":[1]'): string => `{${rest},"data_offsets":${offsets}}`;
  test.each([
    ["cut inside the length", new Uint8Array(5), "at least 8 bytes"],
    ["a header longer than the file", file("{}", 0, 1000), "truncated: the header claims 1000 bytes, 2 are there"],
    ["a header of 2^63 bytes", file("{}", 0, 2 ** 63), "at most 16777216 are read"],
    ["a header of 100 MB that is there", file("{}".padEnd(1 << 25), 0), "at most 16777216 are read"],
    ["JSON that is none", file('{"a":'), "not a JSON object"],
    ["a list", file("[]"), "not a JSON object"],
    ["bytes that are no UTF-8", Uint8Array.of(3, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0xff, 0x7d), "not a JSON object"],
    ["a tower of brackets", file(`{"a":${"[".repeat(1 << 20)}`), "not a JSON object"],
    ["numbers as metadata", file('{"__metadata__":{"a":1}}'), "metadata are not strings"],
    ["an entry that is no object", file('{"a":3}'), "not an object"],
    ["an unknown type", file(`{"a":${entry("[0,4]", '"dtype":"F31","shape":[1]')}}`, 4), "unknown dtype"],
    ["a type of every object", file(`{"a":${entry("[0,4]", '"dtype":"toString","shape":[1]')}}`, 4), "unknown dtype"],
    ["a negative length", file(`{"a":${entry("[0,4]", '"dtype":"F32","shape":[-1]')}}`, 4), "shape is not a list of lengths"],
    ["a broken length", file(`{"a":${entry("[0,4]", '"dtype":"F32","shape":[0.5]')}}`, 4), "shape is not a list of lengths"],
    [
      "a shape that overflows",
      file(`{"a":${entry("[0,4]", '"dtype":"F32","shape":[4294967296,4294967296,4294967296]')}}`, 4),
      "4 bytes for F32",
    ],
    ["a shape larger than its bytes", file(`{"a":${entry("[0,4]", '"dtype":"F32","shape":[2]')}}`, 4), "4 bytes for F32[2]"],
    ["places past the end", file(`{"a":${entry("[0,4]")}}`, 3), "truncated: the tensors take 4 bytes, 3 are there"],
    ["places backwards", file(`{"a":${entry("[4,0]")}}`, 4), "-4 bytes"],
    ["two tensors on the same bytes", file(`{"a":${entry("[0,4]")},"b":${entry("[0,4]")}}`, 4), 'tensor "b" overlaps another'],
    [
      "a tensor inside another",
      file(`{"a":${entry("[0,8]", '"dtype":"F64","shape":[1]')},"b":${entry("[4,8]")}}`, 8),
      'tensor "b" overlaps another',
    ],
    ["bytes nobody owns", file(`{"a":${entry("[4,8]")}}`, 8), 'tensor "a" leaves a gap'],
    ["bytes after the last tensor", file(`{"a":${entry("[0,4]")}}`, 5), "1 bytes after the last tensor"],
  ])("%s", (_, bytes, reason) => expect(fault(bytes)).toContain(reason));

  test("no cut of a good file is accepted, and none crashes", () => {
    const good = encode({ a: f32([3], 1, 2, 3), b: { dtype: "U8", shape: [5], data: new Uint8Array(5) } }, { k: "v" });
    for (let n = 0; n < good.length; n++) expect(fault(good.subarray(0, n)), `cut at ${n}`).not.toBe("accepted");
  });
});
