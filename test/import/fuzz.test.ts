/**
 * Damaged models: thousands of seeded changes to the bytes of a dozen small ones. Each must import or be refused by a CompileError that is
 * not "internal", within seconds and without much memory. The failure message has all that is needed to make the case again.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import { importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { buildModel, floats, FLOAT16, ints, type ModelSpec, node } from "../support/onnx-model.js";
import { random } from "../support/onnx-run.js";

/** Cases per file and kind of damage. */
const CASES = 60;
const MAX_SECONDS = 5;
const MAX_BYTES = 2 ** 30;
const FIXTURES = "../shared/fixtures/onnx-models";
/** Only small files of the fixtures: a change to a megabyte of weights is a change to nothing. */
const MAX_FIXTURE = 24_000;
const FIXTURE_CASES = 8;

const w = (dims: readonly number[], seed = 1) => floats(dims, [...random(dims.reduce((a, b) => a * b, 1), seed)]);
const mlp: ModelSpec = {
  inputs: { x: ["N", 6] }, outputs: ["y"], initializers: { w1: w([8, 6]), b1: w([8]), w2: w([3, 8]) },
  nodes: [node("Gemm", ["x", "w1", "b1"], ["h"], { transB: 1, alpha: { float: 1 } }), node("Relu", ["h"], ["r"]), node("Gemm", ["r", "w2"], ["s"], { transB: 1 }), node("Softmax", ["s"], ["y"], { axis: 1 })],
};
const SEEDS: Readonly<Record<string, ModelSpec>> = {
  mlp,
  conv: {
    inputs: { x: ["N", 2, 8, 8] }, outputs: ["y"], initializers: { k: w([4, 2, 3, 3]), b: w([4]), s: w([4], 2), t: w([4], 3), m: w([4], 4), v: floats([4], [1, 2, 3, 4]), f: w([16, 5]) },
    nodes: [
      node("Conv", ["x", "k", "b"], ["c"], { kernel_shape: [3, 3], pads: [1, 1, 1, 1], strides: [2, 2] }), node("BatchNormalization", ["c", "s", "t", "m", "v"], ["n"], { epsilon: { float: 1e-5 } }),
      node("LeakyRelu", ["n"], ["r"], { alpha: { float: 0.1 } }), node("MaxPool", ["r"], ["p"], { kernel_shape: [2, 2], strides: [2, 2] }), node("Flatten", ["p"], ["f1"]), node("MatMul", ["f1", "f"], ["y"]),
    ],
  },
  attention: {
    inputs: { x: [2, 4, 6] }, outputs: ["y"], initializers: { q: w([6, 6]), k: w([6, 6], 2), v: w([6, 6], 3), g: w([6], 4), b: w([6], 5), d: floats([], [2.4]) },
    nodes: [
      node("LayerNormalization", ["x", "g", "b"], ["n"], { axis: -1 }), node("MatMul", ["n", "q"], ["Q"]), node("MatMul", ["n", "k"], ["K"]), node("MatMul", ["n", "v"], ["V"]),
      node("Transpose", ["K"], ["Kt"], { perm: [0, 2, 1] }), node("MatMul", ["Q", "Kt"], ["a"]), node("Div", ["a", "d"], ["e"]), node("Softmax", ["e"], ["p"], { axis: -1 }), node("MatMul", ["p", "V"], ["o"]), node("Add", ["x", "o"], ["y"]),
    ],
  },
  shapes: {
    inputs: { x: [2, 3, 4] }, outputs: ["y", "z"], initializers: { i: ints(1, 0), a: ints(0), b: ints(2), ax: ints(1), target: ints(2, -1), big: ints(3, 2, 12) },
    nodes: [
      node("Slice", ["x", "a", "b", "ax"], ["s"]), node("Reshape", ["s", "target"], ["r"]), node("Gather", ["r", "i"], ["g"], { axis: 1 }), node("Concat", ["g", "r"], ["c"], { axis: 1 }),
      node("Unsqueeze", ["c", "ax"], ["y"]), node("Reshape", ["x", "target"], ["q"]), node("Expand", ["q", "big"], ["z"]),
    ],
  },
  constants: {
    inputs: { x: ["N", 4] }, outputs: ["y"], initializers: { s: ints(4, 3), r0: { dims: [], type: 7, int64s: [0] }, r3: { dims: [], type: 7, int64s: [3] }, r1: { dims: [], type: 7, int64s: [1] } },
    nodes: [
      node("ConstantOfShape", ["s"], ["w"], { value: { tensor: floats([1], [0.5]) } }), node("Constant", [], ["b"], { value_floats: { floats: [1, 2, 3] } }), node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["n"]),
      node("Range", ["r0", "r3", "r1"], ["i"]), node("Cast", ["i"], ["f"], { to: 1 }), node("Mul", ["n", "f"], ["t"]), node("Tile", ["t", "s2"], ["y"]), node("Constant", [], ["s2"], { value_ints: [1, 2] }),
    ],
  },
  half: {
    inputs: { x: [3, 2] }, outputs: ["y"], initializers: { w: { dims: [2, 3], type: FLOAT16, int32s: [1, 2, 15360, 4, 5, 6] }, p: ints(0, 1, 0, 1), d: { dims: [3], type: 11, doubles: [1, 2, 3] }, f: { dims: [3], floats: [1, 2, 3] } },
    nodes: [node("Cast", ["w"], ["w2"], { to: 1 }), node("MatMul", ["x", "w2"], ["m"]), node("Add", ["m", "d"], ["n"]), node("Add", ["n", "f"], ["o"]), node("Pad", ["o", "p"], ["y"])],
  },
  recurrent: {
    inputs: { x: [3, 2, 4] }, outputs: ["y"], initializers: { W: w([1, 12, 4]), R: w([1, 12, 3], 2), B: w([1, 24], 3) },
    nodes: [node("LSTM", ["x", "W", "R", "B"], ["all", "y"], { hidden_size: 3 })],
  },
  reduce: {
    opset: 18, inputs: { x: ["N", 3, 4] }, outputs: ["y"], initializers: { ax: ints(2), sp: ints(1, 2), sc: floats([4], [1, 1, 2, 2]) },
    nodes: [node("ReduceMean", ["x", "ax"], ["m"], { keepdims: 1 }), node("Sub", ["x", "m"], ["c"]), node("Split", ["c", "sp"], ["a", "b"], { axis: 1 }), node("Clip", ["a"], ["a2"]), node("Unsqueeze", ["b", "ax"], ["b4"]), node("Squeeze", ["b4", "ax"], ["b2"]), node("Concat", ["a2", "b2"], ["y"], { axis: 1 })],
  },
  images: {
    inputs: { x: [1, 2, 4, 4] }, outputs: ["y"], initializers: { sc: floats([4], [1, 1, 2, 2]), k: w([2, 2, 2, 2]) },
    nodes: [node("Resize", ["x", "", "sc"], ["r"], { mode: "nearest" }), node("ConvTranspose", ["r", "k"], ["t"], { strides: [2, 2] }), node("AveragePool", ["t"], ["p"], { kernel_shape: [2, 2], strides: [2, 2] }), node("GlobalAveragePool", ["p"], ["y"])],
  },
  einsum: { inputs: { x: [2, 3], z: [3, 4] }, outputs: ["y"], nodes: [node("Einsum", ["x", "z"], ["e"], { equation: "ij,jk->ik" }), node("CumSum", ["e", "a"], ["c"]), node("Constant", [], ["a"], { value_ints: [1] }), node("TopK", ["c", "a"], ["y", "i"])] },
};

/** A generator of whole numbers below n. */
function dice(seed: number): (n: number) => number {
  let state = (seed * 2654435761 + 1) >>> 0;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

type Damage = (bytes: Uint8Array, roll: (n: number) => number, other: Uint8Array) => Uint8Array;
const changed = (bytes: Uint8Array, times: number, roll: (n: number) => number, how: (old: number) => number): Uint8Array => {
  const out = bytes.slice();
  for (let k = 0; k < times; k++) {
    const at = roll(out.length);
    out[at] = how(out[at] as number);
  }
  return out;
};
const SMALL = [0, 1, 2, 3, 4, 7, 8, 10, 16, 127, 128, 254, 255];
const DAMAGES: Readonly<Record<string, Damage>> = {
  "one bit": (b, roll) => changed(b, 1, roll, (v) => v ^ (1 << roll(8))),
  "some bytes": (b, roll) => changed(b, 1 + roll(4), roll, () => roll(256)),
  // small numbers are lengths, counts, types and attributes that make sense: these get further than noise
  "small numbers": (b, roll) => changed(b, 1 + roll(2), roll, () => SMALL[roll(SMALL.length)] as number),
  "cut": (b, roll) => b.slice(0, roll(b.length)),
  "a piece moved": (b, roll) => {
    const [from, to, length] = [roll(b.length), roll(b.length), 1 + roll(40)];
    const out = b.slice();
    out.copyWithin(to, from, Math.min(b.length, from + length));
    return out;
  },
  "a piece of another file": (b, roll, other) => {
    const [at, from, length] = [roll(b.length), roll(other.length), 1 + roll(60)];
    return Uint8Array.from([...b.subarray(0, at), ...other.subarray(from, from + length), ...b.subarray(roll(2) === 0 ? at : Math.min(b.length, at + length))]);
  },
  "a byte more or less": (b, roll) => {
    const at = roll(b.length);
    return Uint8Array.from([...b.subarray(0, at), ...(roll(2) === 0 ? [roll(256)] : []), ...b.subarray(at + roll(2))]);
  },
};

/** "ok" or a code; throws what no reader of a damaged file may throw. */
function outcome(bytes: Uint8Array): string {
  try {
    importModel(loadModel(bytes), { mode: "eval" });
    return "ok";
  } catch (e) {
    if (e instanceof CompileError && e.code !== "internal") return e.code;
    throw e;
  }
}

/** What went wrong with a case, or undefined. */
function trouble(bytes: Uint8Array, counts: Map<string, number>): string | undefined {
  const [start, before] = [performance.now(), process.memoryUsage.rss()];
  try {
    const got = outcome(bytes);
    counts.set(got, (counts.get(got) ?? 0) + 1);
  } catch (e) {
    return e instanceof Error ? (e.stack ?? e.message).split("\n").slice(0, 6).join("\n") : String(e);
  }
  const seconds = (performance.now() - start) / 1000;
  const grown = process.memoryUsage.rss() - before;
  return seconds > MAX_SECONDS ? `it took ${seconds.toFixed(1)} s` : grown > MAX_BYTES ? `it took ${(grown / 2 ** 20).toFixed(0)} MiB` : undefined;
}

function damageAll(name: string, whole: Uint8Array, other: Uint8Array, cases: number): void {
  const counts = new Map<string, number>();
  for (const [kind, damage] of Object.entries(DAMAGES))
    for (let seed = 1; seed <= cases; seed++) {
      const bytes = damage(whole, dice(seed), other);
      const found = trouble(bytes, counts);
      if (found !== undefined) expect.fail(`${name}, ${kind}, seed ${seed} of ${cases}: ${found}\nbase64: ${Buffer.from(bytes).toString("base64").slice(0, 8000)}`);
    }
  // a test that only ever sees one outcome tests little
  expect(counts.size, JSON.stringify([...counts])).toBeGreaterThan(1);
}

it("the models are good before they are damaged", () => {
  for (const [name, spec] of Object.entries(SEEDS)) expect(["ok", "unsupported-op"], name).toContain(outcome(buildModel(spec)));
  for (const name of ["mlp", "conv", "attention", "shapes", "constants", "half", "reduce", "images", "einsum"]) expect(outcome(buildModel(SEEDS[name] as ModelSpec)), name).toBe("ok");
});

describe("a damaged model imports or is refused, whatever was done to it", () => {
  const files = Object.entries(SEEDS).map(([name, spec]) => [name, buildModel(spec)] as const);
  files.forEach(([name, bytes], k) => {
    const other = files[(k + 1) % files.length]?.[1] as Uint8Array;
    it(`${name}: ${CASES * Object.keys(DAMAGES).length} cases`, () => damageAll(name, bytes, other, CASES), 60_000);
  });
});

describe("and so do real files", () => {
  const there = existsSync(FIXTURES);
  const small = there ? readdirSync(FIXTURES).map((n) => join(FIXTURES, n, "model.onnx")).filter((f) => existsSync(f) && statSync(f).size < MAX_FIXTURE) : [];
  it.skipIf(small.length === 0)(`${small.length} files of ${FIXTURES}${there ? "" : " (absent: skipped)"}`, () => {
    const other = buildModel(mlp);
    for (const file of small) damageAll(file, new Uint8Array(readFileSync(file)), other, FIXTURE_CASES);
  }, 120_000);
});
