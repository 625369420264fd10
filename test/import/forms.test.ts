/** Forms of elementwise ops, casts and constants that the inference engine of ops.test.ts does not have: what the standard says in words. */
import { describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import { type Imported, importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { expectGradient } from "../support/gradient.js";
import { type AttrSpec, BFLOAT16, BOOL, buildModel, FLOAT16, floats, INT64, type TensorSpec } from "../support/onnx-model.js";
import { bindingsOf, runImported } from "../support/onnx-run.js";

const INT32 = 6;
const UINT32 = 12;
interface Given {
  readonly values: readonly number[];
  readonly type?: number;
  readonly shape?: readonly number[];
}
interface Form {
  readonly attrs?: Readonly<Record<string, AttrSpec>>;
  readonly opset?: number;
  readonly gives?: number;
  readonly stored?: readonly TensorSpec[];
}

function run(op: string, inputs: readonly Given[], { attrs, opset = 20, gives, stored = [] }: Form = {}): { data: number[]; model: Imported } {
  const shapes = Object.fromEntries(inputs.map((g, k) => [`x${k}`, g.shape ?? [g.values.length]]));
  const model = importModel(loadModel(buildModel({
    opset, inputs: shapes, outputs: ["y"], ...(gives === undefined ? {} : { outputType: gives }),
    types: Object.fromEntries(inputs.flatMap((g, k) => (g.type === undefined ? [] : [[`x${k}`, g.type]]))),
    initializers: Object.fromEntries(stored.map((t, k) => [`s${k}`, t])),
    nodes: [{ op, inputs: [...Object.keys(shapes), ...stored.map((_, k) => `s${k}`)], outputs: ["y"], ...(attrs ? { attrs } : {}) }],
  })), { mode: "eval", batchAxis: Object.fromEntries(Object.keys(shapes).map((name) => [name, -1])) });
  const bound = Object.fromEntries(inputs.map((g, k) => {
    const data = g.type === undefined || g.type === FLOAT16 || g.type === BFLOAT16 ? Float32Array.from(g.values) : BigInt64Array.from(g.values, BigInt);
    return [`x${k}`, { shape: shapes[`x${k}`] ?? [], data }];
  }));
  if (gives === undefined) expectGradient(model.graph, bindingsOf(model, bound), 1);
  return { data: [...(runImported(model, bound).y?.data ?? [])], model };
}

function refused(make: () => unknown): string {
  try {
    make();
  } catch (e) {
    if (e instanceof CompileError) return `${e.code}: ${e.message}`;
    throw e;
  }
  return "taken";
}

describe("casts to 16 bits", () => {
  // steps at 1: 2^-10 and 2^-7; ties go to the even neighbour
  it("float16 rounds to nearest, ties to even, through subnormals to infinity", () => {
    const pairs: readonly (readonly [number, number])[] = [
      [1 + 2 ** -11, 1], [1 + 3 * 2 ** -11, 1 + 2 ** -9], [1 + 2 ** -11 + 2 ** -20, 1 + 2 ** -10], [-1 - 2 ** -11, -1], [0.1, 0.0999755859375], [2049, 2048], [2051, 2052],
      [65504, 65504], [65519, 65504], [65520, Number.POSITIVE_INFINITY], [-1e30, Number.NEGATIVE_INFINITY], [2 ** -14, 2 ** -14], [2 ** -24, 2 ** -24], [2 ** -25, 0],
      [1.5 * 2 ** -24, 2 ** -23], [-3.3 * 2 ** -24, -3 * 2 ** -24], [0, 0], [Number.NaN, Number.NaN], [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY],
    ];
    expect(run("Cast", [{ values: pairs.map(([x]) => x) }], { attrs: { to: FLOAT16 }, gives: FLOAT16 }).data).toEqual(pairs.map(([, y]) => y));
  });

  it("bfloat16 rounds to nearest, ties to even", () => {
    const pairs: readonly (readonly [number, number])[] = [
      [1 + 2 ** -8, 1], [1 + 3 * 2 ** -8, 1 + 2 ** -6], [1 + 2 ** -8 + 2 ** -20, 1 + 2 ** -7], [-257, -256], [-259, -260], [3.4028234663852886e38, Number.POSITIVE_INFINITY],
      [3.3895e38, 3.3895313892515355e38], [0.1, 0.10009765625], [0, 0], [Number.NaN, Number.NaN], [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY],
    ];
    expect(run("Cast", [{ values: pairs.map(([x]) => x) }], { attrs: { to: BFLOAT16 }, gives: BFLOAT16 }).data).toEqual(pairs.map(([, y]) => y));
  });

  it("CastLike rounds as the type of its second input, where the file names it", () => {
    for (const [type, want] of [[FLOAT16, 2048], [BFLOAT16, 2048], [undefined, 2049]] as const)
      expect(run("CastLike", [{ values: [2049] }, { values: [1], ...(type === undefined ? {} : { type }) }], { gives: type ?? 1 }).data).toEqual([want]);
    expect(run("CastLike", [{ values: [2049] }], { stored: [{ dims: [1], type: FLOAT16, int32s: [0] }], gives: FLOAT16 }).data).toEqual([2048]);
  });
  it("integers are rounded as well, and what was known at import is known", () => {
    expect(run("Cast", [{ values: [2049, 4097], type: INT64 }], { attrs: { to: FLOAT16 }, gives: FLOAT16 }).data).toEqual([2048, 4096]);
    expect(run("Cast", [], { attrs: { to: FLOAT16 }, gives: FLOAT16, stored: [{ dims: [], floats: [2049] }] }).data).toEqual([2048]);
  });

  it("a weight stays itself, which is said", () => {
    const { model } = run("Cast", [], { attrs: { to: FLOAT16 }, stored: [floats([2, 2], [0.1, 0.2, 0.3, 0.4])] });
    expect(model.notes.join()).toMatch(/"s0" is not rounded to float16/);
    expect(model.graph.nodes).toEqual([]);
  });

  it("signed integers are not read as unsigned ones of their width", () =>
    expect(refused(() => run("Cast", [{ values: [-1], type: INT64 }], { attrs: { to: UINT32 }, gives: UINT32 }))).toMatch(/^unsupported-op: Cast: integers to uint32/));
  it("strings and 8-bit floats are refused by name", () => {
    expect(refused(() => run("Cast", [{ values: [1] }], { attrs: { to: 8 } }))).toMatch(/to string/);
    expect(refused(() => run("Cast", [{ values: [1] }], { attrs: { to: 17 } }))).toMatch(/to data type 17/);
  });
});

describe("bits", () => {
  it("float32 as int32 and back", () => {
    expect(run("BitCast", [{ values: [1, -2, 0, 0.1] }], { attrs: { to: INT32 }, opset: 26, gives: INT32 }).data).toEqual([0x3f800000, -0x40000000, 0, 0x3dcccccd]);
    expect(run("BitCast", [{ values: [0x3f800000, -0x40000000], type: INT32 }], { attrs: { to: 1 }, opset: 26, gives: 1 }).data).toEqual([1, -2]);
  });
  it("other types are refused by name", () => expect(refused(() => run("BitCast", [{ values: [1] }], { attrs: { to: INT64 }, opset: 26, gives: INT64 }))).toMatch(/from f32 to int64/));
});

describe("elementwise", () => {
  it("SwiGLU is a·sigmoid(alpha·a)·b", () => {
    const [a, b, alpha] = [[0.5, -1.5, 3], [2, -1, 0.25], 0.5];
    const { data } = run("SwiGLU", [{ values: a }, { values: b }], { attrs: { alpha: { float: alpha } }, opset: 28 });
    a.forEach((x, k) => {
      expect(data[k]).toBeCloseTo((x / (1 + Math.exp(-alpha * x))) * (b[k] as number), 6);
    });
    expect(refused(() => run("SwiGLU", [{ values: a }, { values: [1] }], { opset: 28 }))).toMatch(/^shape-mismatch: SwiGLU/);
  });

  it("Where picks booleans too", () =>
    expect(run("Where", [{ values: [1, 0, 1], type: BOOL }, { values: [1, 1, 0], type: BOOL }, { values: [0], type: BOOL }], { gives: BOOL }).data).toEqual([1, 0, 0]));

  it("a slope of PRelu that is larger than x is refused", () =>
    expect(refused(() => run("PRelu", [{ values: [1, 2] }, { values: [1, 2, 3, 4], shape: [2, 2] }]))).toMatch(/^shape-mismatch/));

  it("a power of integers with a fraction as exponent is cut off, not rounded", () =>
    expect(run("Pow", [{ values: [7, 10, 2, 3], type: INT64 }, { values: [3, 3, 1.5, -1] }], { gives: INT64 }).data).toEqual([343, 1000, 2, 0]));
});
