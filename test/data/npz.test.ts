import { zipSync } from "fflate";
import { describe, expect, test } from "vitest";
import { CompileError } from "../../ir/error.js";
import { npzNames, parseNpy, parseNpz } from "../../src/data/npz.js";
import { npy } from "./support.js";

/**
 * Written by NumPy itself: np.savez_compressed(f2=[1.5,-2,6e-8], f4=arange(12).reshape(2,3,2) in Fortran order, f8=[[1e300],[pi]],
 * be=int32 [1,-2] big-endian, i8=[-(2**53)+1,7], u8=[2**53-1], u1=[[255,0]], i2=[-300], b1=[True,False], s=5.0, txt=["a","bc"])
 */
const NUMPY = [
  "UEsDBC0AAAAIAAAAIQBvfIWM//////////8GABQAZjIubnB5AQAQAIYAAAAAAAAASgAAAAAAAACb7BfqGxDJyFDGUK2eklqcXKRupaBuk2akrqOgnpZfVFKUmBefX5SSCh",
  "J3S8wpTgWKF2ckFqQC+RrGOpo6CrUKFAAuBjuGA4wMAFBLAwQtAAAACAAAACEAYjlAqf//////////BgAUAGY0Lm5weQEAEACwAAAAAAAAAGgAAAAAAAAAm+wX6hsQychQ",
  "xlCtnpJanFykbqWgbpNmoq6joJ6WX1RSlJgXn1+UkgoSDykqTQUKF2ckFqQCuRpGOgrGOgpGmjoKtQpkAi4GMDjgACRA2JGBoQFIK4BoewaGB0C2AxALAPkLgLSBIwBQSw",
  "MELQAAAAgAAAAhANSgfUj//////////wYAFABmOC5ucHkBABAAkAAAAAAAAABXAAAAAAAAAJvsF+obEMnIUMZQrZ6SWpxcpG6loG6TZqGuo6Cell9UUpSYF59flJIKEndL",
  "zClOBYoXZyQWpAL5GkY6CoaaOgq1CmQDrjmlDB02T8zrJHRdQn4rcjoAAFBLAwQtAAAACAAAACEAWdT6Wf//////////BgAUAGJlLm5weQEAEACIAAAAAAAAAE0AAAAAAA",
  "AAm+wX6hsQychQxlCtnpJanFykbqWgbpdpoq6joJ6WX1RSlJgXn1+UkgoSd0vMKU4FihdnJBakAvkaRjqaOgq1ChQALgYGBsb/////AwBQSwMELQAAAAgAAAAhAFLzUd//",
  "/////////wYAFABpOC5ucHkBABAAkAAAAAAAAABNAAAAAAAAAJvsF+obEMnIUMZQrZ6SWpxcpG6loG6TaaGuo6Cell9UUpSYF59flJIKEndLzClOBYoXZyQWpAL5GkY6mj",
  "oKtQoUAC5GBhB48J+dAQIAUEsDBC0AAAAIAAAAIQAT1aRN//////////8GABQAdTgubnB5AQAQAIgAAAAAAAAASQAAAAAAAACb7BfqGxDJyFDGUK2eklqcXKRupaBuU2qh",
  "rqOgnpZfVFKUmBefX5SSChJ3S8wpTgWKF2ckFqQC+RqGOpo6CrUKFACu/2AgzwAAUEsDBC0AAAAIAAAAIQCDr9V///////////8GABQAdTEubnB5AQAQAIIAAAAAAAAASA",
  "AAAAAAAACb7BfqGxDJyFDGUK2eklqcXKRupaBeU2qorqOgnpZfVFKUmBefX5SSChJ3S8wpTgWKF2ckFqQC+RqGOgpGmjoKtQpkA67/DABQSwMELQAAAAgAAAAhAAaGe7H/",
  "/////////wYAFABpMi5ucHkBABAAggAAAAAAAABGAAAAAAAAAJvsF+obEMnIUMZQrZ6SWpxcpG6loG6TaaSuo6Cell9UUpSYF59flJIKEndLzClOBYoXZyQWpAL5GoY6mj",
  "oKtQoUAK4r/wBQSwMELQAAAAgAAAAhAO4Zu13//////////wYAFABiMS5ucHkBABAAggAAAAAAAABGAAAAAAAAAJvsF+obEMnIUMZQrZ6SWpxcpG6loF6TZKiuo6Cell9U",
  "UpSYF59flJIKEndLzClOBYoXZyQWpAL5GkY6mjoKtQoUAC5GBgBQSwMELQAAAAgAAAAhAGSm+Nn//////////wUAFABzLm5weQEAEACIAAAAAAAAAEcAAAAAAAAAm+wX6h",
  "sQychQxlCtnpJanFykbqWgbpNmoa6joJ6WX1RSlJgXn1+UkgoSd0vMKU4FihdnJBakAvkamjoKtQoUAS4GMBBxAABQSwMELQAAAAgAAAAhAHBHbZb//////////wcAFAB0",
  "eHQubnB5AQAQAJAAAAAAAAAATQAAAAAAAACb7BfqGxDJyFDGUK2eklqcXKRupaBuE2qkrqOgnpZfVFKUmBefX5SSChJ3S8wpTgWKF2ckFqQC+RpGOpo6CrUKFACuRAYISA",
  "LiZCAGAFBLAQItAy0AAAAIAAAAIQBvfIWMSgAAAIYAAAAGAAAAAAAAAAAAAACAAQAAAABmMi5ucHlQSwECLQMtAAAACAAAACEAYjlAqWgAAACwAAAABgAAAAAAAAAAAAAA",
  "gAGCAAAAZjQubnB5UEsBAi0DLQAAAAgAAAAhANSgfUhXAAAAkAAAAAYAAAAAAAAAAAAAAIABIgEAAGY4Lm5weVBLAQItAy0AAAAIAAAAIQBZ1PpZTQAAAIgAAAAGAAAAAA",
  "AAAAAAAACAAbEBAABiZS5ucHlQSwECLQMtAAAACAAAACEAUvNR300AAACQAAAABgAAAAAAAAAAAAAAgAE2AgAAaTgubnB5UEsBAi0DLQAAAAgAAAAhABPVpE1JAAAAiAAA",
  "AAYAAAAAAAAAAAAAAIABuwIAAHU4Lm5weVBLAQItAy0AAAAIAAAAIQCDr9V/SAAAAIIAAAAGAAAAAAAAAAAAAACAATwDAAB1MS5ucHlQSwECLQMtAAAACAAAACEABoZ7sU",
  "YAAACCAAAABgAAAAAAAAAAAAAAgAG8AwAAaTIubnB5UEsBAi0DLQAAAAgAAAAhAO4Zu11GAAAAggAAAAYAAAAAAAAAAAAAAIABOgQAAGIxLm5weVBLAQItAy0AAAAIAAAA",
  "IQBkpvjZRwAAAIgAAAAFAAAAAAAAAAAAAACAAbgEAABzLm5weVBLAQItAy0AAAAIAAAAIQBwR22WTQAAAJAAAAAHAAAAAAAAAAAAAACAATYFAAB0eHQubnB5UEsFBgAAAA",
  "ALAAsAPAIAALwFAAAAAA==",
].join("");
const numpy = new Uint8Array(Buffer.from(NUMPY, "base64"));

const refusal = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    if (error instanceof CompileError && error.code === "bad-data" && error.where?.includes("f.npz") && error.hint)
      return `${error.message} | ${error.where}`;
    throw error;
  }
  return "accepted";
};

describe("an archive that NumPy wrote", () => {
  test("lists its arrays without unpacking them", () => {
    expect(npzNames(numpy, "f.npz")).toEqual(["f2", "f4", "f8", "be", "i8", "u8", "u1", "i2", "b1", "s", "txt"]);
  });

  test("gives every numeric type, both byte orders, and Fortran order as rows", () => {
    const arrays = parseNpz(numpy, "f.npz", (name) => name !== "txt");
    const got = Object.fromEntries([...arrays].map(([name, { shape, data }]) => [name, [shape, data]]));
    expect(got).toEqual({
      f2: [[3], Float32Array.of(1.5, -2, 2 ** -24)],
      f4: [[2, 3, 2], Float32Array.from(Array(12).keys())],
      f8: [[2, 1], Float64Array.of(1e300, Math.PI)],
      be: [[2], Int32Array.of(1, -2)],
      i8: [[2], Float64Array.of(-(2 ** 53) + 1, 7)],
      u8: [[1], Float64Array.of(2 ** 53 - 1)],
      u1: [[1, 2], Uint8Array.of(255, 0)],
      i2: [[1], Int16Array.of(-300)],
      b1: [[2], Int8Array.of(1, 0)],
      s: [[], Float64Array.of(5)],
    });
  });

  test("is refused only where it holds text", () => {
    expect(refusal(() => parseNpz(numpy, "f.npz"))).toContain(`elements of type '<U2' are not numbers kfacc reads | f.npz, array "txt"`);
  });
});

describe("a damaged archive is refused, with the reason", () => {
  const one = (bytes: Uint8Array, level: 0 | 9 = 0): Uint8Array => zipSync({ "x.npy": bytes }, { level });
  const good = npy("<f4", [2, 3], new Float32Array(6));
  test("cut anywhere", () => {
    const whole = one(good, 9);
    for (let n = 0; n < whole.length; n += 7)
      expect(
        refusal(() => parseNpz(whole.subarray(0, n), "f.npz")),
        `cut at ${n}`,
      ).not.toBe("accepted");
  });

  test.each([
    ["a cut array", good.subarray(0, -4), "truncated: [2, 3] takes 24 bytes, 20 are there"],
    ["a cut header", good.subarray(0, 40), "truncated inside its header"],
    ["too many bytes", npy("<f4", [2, 2], new Float32Array(6)), "too long"],
    ["something else", new TextEncoder().encode("hello, this is text"), "not a .npy array"],
    ["a shape beyond all memory", npy("<f4", [1e15, 1e15], new Float32Array(6)), "truncated"],
    ["Python objects", npy("|O", [1], new Float32Array(2)), "type '|O'"],
    ["integers beyond 2^53", npy("<i8", [2], BigInt64Array.of(1n, 2n ** 60n)), "element 1 is an integer beyond 2^53"],
  ])("%s", (_, bytes, reason) => {
    expect(refusal(() => parseNpz(one(bytes), "f.npz"))).toContain(reason);
    expect(refusal(() => parseNpy(bytes, "f.npz"))).toContain(reason);
  });

  test("an entry that claims more than deflate can pack is not believed", () => {
    const whole = one(good, 9);
    const central = new TextDecoder("latin1").decode(whole).lastIndexOf("PK\x01\x02");
    new DataView(whole.buffer, whole.byteOffset).setUint32(central + 24, 0xf0000000, true);
    expect(refusal(() => parseNpz(whole, "f.npz"))).toContain("claims 4026531840 bytes");
  });
});
