/** Elementwise kernels on an adapter: accuracy over wide ranges, what NaN and infinities become, integers, booleans, movement, ragged sizes. */
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import type { OpName } from "../../ir/ops/names.js";
import { type DType, f32 } from "../../ir/type.js";
import { testDevice } from "../support/gpu.js";
import { random, runPoisoned, tensor } from "../support/models.js";

const device = testDevice();

/** Results of a graph on the device and in float64. */
async function both(inputs: Readonly<Record<string, NdArray>>, build: (b: Builder, v: Readonly<Record<string, Value>>) => Readonly<Record<string, Value>>, run: Readonly<Record<string, number>> = {}) {
  const b = new Builder("g");
  const values = Object.fromEntries(Object.entries(inputs).map(([name, x]) => [name, b.input(name, { dtype: x.dtype, shape: x.shape })]));
  const graph = b.finish(Object.entries(build(b, values)).map(([name, value]) => ({ name, value })));
  const { results, sources } = await runPoisoned(device().device, graph, inputs, new Set(), run);
  return { got: results, want: evaluate(graph, { ...inputs, ...Object.fromEntries(Object.entries(run).map(([k, v]) => [`run.${k}`, ndarray("f32", [], [v])])) }), sources };
}

const floats = (...list: number[]): NdArray => ndarray("f32", [list.length], list.map(Math.fround));
const typed = (dtype: DType, ...list: number[]): NdArray => ndarray(dtype, [list.length], list);

/** Every element within `relative` of its size or `absolute`; NaN and infinities in place. */
function close(got: NdArray | undefined, want: NdArray | undefined, relative: number, absolute: number, what: string, at: ArrayLike<number>): void {
  if (!got || !want) throw new Error(`no result ${what}`);
  want.data.forEach((w, k) => {
    const g = got.data[k] as number;
    const fits = Object.is(g, w) || g === w || Math.abs(g - w) <= Math.max(absolute, relative * Math.abs(w)) || (Math.abs(w) > 3.4028234e38 && Math.abs(g) > 3.4e38 && Math.sign(g) === Math.sign(w));
    if (!fits) throw new Error(`${what}(${at[k]}) is ${g}, not ${w}`);
  });
}

const BOTH_SIDES = [1e-20, 1e-8, 1e-4, 0.01, 0.1, 0.3, 0.49, 0.51, 0.62, 0.63, 1, 1.5, 2, 3, 4.9, 5.1, 8.9, 9.1, 14.9, 15.1, 20, 30, 50, 80].flatMap((x) => [x, -x]);
const EPS = 2 ** -23;

/** op → values it is tried on, tolerance relative and absolute. The reason is what the operation does to one rounding of its input or inside. */
const UNARY: readonly (readonly [OpName, readonly number[], number, number])[] = [
  ["neg", BOTH_SIDES, 0, 0], ["abs", BOTH_SIDES, 0, 0], ["sign", [0, ...BOTH_SIDES], 0, 0], ["relu", [0, ...BOTH_SIDES], 0, 0], ["detach", BOTH_SIDES, 0, 0],
  // WGSL grants 3 + 2|x| ulp
  ["exp", [0, ...BOTH_SIDES], 170 * EPS, 1e-37],
  // WGSL grants 2^-21 absolute between 0.5 and 2, 3 ulp elsewhere
  ["log", [1e-30, 1e-8, 0.1, 0.49, 0.9, 1, 1.1, 2.1, 10, 1e4, 1e30], 4 * EPS, 2 ** -21],
  ["sqrt", [0, 1e-30, 1e-8, 0.1, 1, 2, 10, 1e30], 4 * EPS, 0], ["reciprocal", BOTH_SIDES, 3 * EPS, 0],
  ["tanh", [0, ...BOTH_SIDES, 1e4, -1e4], 8 * EPS, 0],
  ["sigmoid", [0, ...BOTH_SIDES], 170 * EPS, 1e-37],
  ["softplus", [0, ...BOTH_SIDES], 170 * EPS, 1e-37],
  ["erf", [0, ...BOTH_SIDES], 8 * EPS, 0],
  // up to 51 quadrants are taken off, each with half an ulp of the product
  ["sin", [0, ...BOTH_SIDES], 0, 8 * EPS], ["cos", [0, ...BOTH_SIDES], 0, 8 * EPS],
  ["atan", [0, ...BOTH_SIDES, 0.41, 0.42, 2.41, 2.42, 1e4, -1e4, 1e30], 4 * EPS, 0],
  // as e^x and log; below 0.5 and between 0.5 and 2 by series: a few roundings
  ["expm1", [0, ...BOTH_SIDES], 170 * EPS, 0], ["log1p", [0, ...BOTH_SIDES.filter((x) => x > -1), -0.51, -0.999, 0.99, 1.01, 1e30], 6 * EPS, 0],
  ["floor", [-2.5, -2, -0.5, 0, 0.5, 2, 2.5, 1e7, -1e7], 0, 0], ["ceil", [-2.5, -2, -0.5, 0, 0.5, 2, 2.5, 1e7], 0, 0],
  ["round", [-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 0.4, 0.6, -0.6, 1e7], 0, 0],
];

describe("accuracy of elementwise operations", () => {
  for (const [op, values, relative, absolute] of UNARY)
    it(`${op}, by lanes and alone`, async () => {
      // a length that is no multiple of four and a view with a gap: the vector form and the scalar form
      const x = floats(...values);
      const { got, want } = await both({ x }, (b, { x: v }) => {
        const y = b.emit(op, [v as Value]);
        return { lanes: y, alone: b.emit(op, [b.emit("slice", [v as Value], { start: [values.length - 1], size: [Math.ceil(values.length / 2)], stride: [-2] })]) };
      });
      close(got.lanes, want.lanes, relative, absolute, op, x.data);
      close(got.alone, want.alone, relative, absolute, op, [...x.data].reverse().filter((_, k) => k % 2 === 0));
    });

  it("sin and cos are within the argument's own rounding up to ten thousand", async () => {
    const next = random(3);
    const x = floats(...Array.from({ length: 400 }, () => 1e4 * next()));
    const { got, want } = await both({ x }, (b, { x: v }) => ({ sin: b.emit("sin", [v as Value]), cos: b.emit("cos", [v as Value]) }));
    close(got.sin, want.sin, 0, 1e4 * EPS, "sin", x.data);
    close(got.cos, want.cos, 0, 1e4 * EPS, "cos", x.data);
  });

  it("pow: whole exponents known beforehand to the last bits, others as exp2(y·log2 x)", async () => {
    const base = [0.1, 0.5, 0.9, 1, 1.1, 2, 3, 10, 50];
    const x = floats(...base, ...base.map((v) => -v));
    const { got, want } = await both({ x, y: floats(...x.data.map((v, k) => (v < 0 ? [2, 3, -1, 0, 5][k % 5] as number : [0.5, 2.5, -1.3, 0, 7][k % 5] as number))) }, (b, { x: v, y }) => {
      const power = (n: number) => b.emit("pow", [v as Value, b.emit("broadcast", [b.scalar(n)], { shape: [18], axes: [] })]);
      return { square: power(2), cube: power(3), fourth: power(4), inverse: power(-1), same: power(1), any: b.emit("pow", [v as Value, y as Value]) };
    });
    for (const name of ["square", "cube", "fourth", "inverse", "same"]) close(got[name], want[name], 4 * EPS, 0, name, x.data);
    // |y·log2 x| < 40: so many ulp
    close(got.any, want.any, 200 * EPS, 0, "pow", x.data);
  });

  it("pow at its ends: 0^0 = 1, 0^y = 0, and no number for a fraction's power of a negative one", async () => {
    const { got } = await both({ x: floats(0, 0, 0, 5, -8, -8, -8), y: floats(0, 2, 0.5, 0, 0.5, 1, 2) }, (b, { x, y }) => ({ z: b.emit("pow", [x as Value, y as Value]) }));
    const z = [...(got.z as NdArray).data];
    expect(z.slice(0, 4)).toEqual([1, 0, 0, 1]);
    expect(z[4]).toBeNaN();
    expect(z[5]).toBeCloseTo(-8, 4);
    expect(z[6]).toBeCloseTo(64, 3);
  });
});

describe("NaN and infinities", () => {
  const special = floats(Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1, Number.NaN, -1, 0, 2);

  it("NaN is never turned into a number", async () => {
    const ops: OpName[] = ["neg", "abs", "exp", "log", "sqrt", "reciprocal", "tanh", "sigmoid", "relu", "softplus", "erf", "sin", "cos", "atan", "expm1", "log1p", "detach"];
    const hidden: string[] = [];
    for (const op of ops) {
      const { got } = await both({ x: special }, (b, { x }) => ({ y: b.emit(op, [x as Value]) }));
      if (!Number.isNaN((got.y as NdArray).data[0]) || !Number.isNaN((got.y as NdArray).data[4])) hidden.push(`${op}: ${(got.y as NdArray).data}`);
    }
    expect(hidden).toEqual([]);
  });

  it("what has no real value is NaN: the logarithm and the root of negative numbers", async () => {
    const x = floats(-1, -1e-30, -1e30, Number.NEGATIVE_INFINITY);
    const { got } = await both({ x }, (b, v) => ({ log: b.emit("log", [v.x as Value]), sqrt: b.emit("sqrt", [v.x as Value]), log1p: b.emit("log1p", [b.emit("sub", [v.x as Value, b.emit("broadcast", [b.scalar(1)], { shape: [4], axes: [] })])]) }));
    for (const op of ["log", "sqrt", "log1p"]) expect([...(got[op] as NdArray).data], op).toEqual([Number.NaN, Number.NaN, Number.NaN, Number.NaN]);
    const zero = await both({ z: floats(0, 0) }, (b, v) => ({ log: b.emit("log", [v.z as Value]), over: b.emit("reciprocal", [v.z as Value]) }));
    expect([...(zero.got.log as NdArray).data, ...(zero.got.over as NdArray).data]).toEqual([Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY]);
  });

  it("max and min with NaN on either side are NaN", async () => {
    const y = floats(1, 1, 1, Number.NaN, Number.NaN, 0, 0, 3);
    const { got, want } = await both({ x: special, y }, (b, v) => ({ max: b.emit("max", [v.x as Value, v.y as Value]), min: b.emit("min", [v.x as Value, v.y as Value]) }));
    for (const op of ["max", "min"]) expect([...(got[op] as NdArray).data], op).toEqual([...(want[op] as NdArray).data]);
  });

  it("infinities saturate where the function does", async () => {
    for (const op of ["tanh", "sigmoid", "relu", "softplus", "erf", "exp", "neg", "abs", "atan", "expm1"] as const) {
      const x = floats(Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1e38, -1e38);
      const { got, want } = await both({ x }, (b, v) => ({ y: b.emit(op, [v.x as Value]) }));
      close(got.y, want.y, 4 * EPS, 1e-37, op, x.data);
    }
  });

  it("select passes what it picks and nothing of what it leaves", async () => {
    const { got, want } = await both({ c: typed("bool", 1, 0, 1, 0, 1, 0, 1, 0), x: special, y: floats(1, 2, 3, 4, 5, Number.NaN, 7, Number.POSITIVE_INFINITY) }, (b, v) => ({ z: b.emit("select", [v.c as Value, v.x as Value, v.y as Value]) }));
    expect([...(got.z as NdArray).data]).toEqual([...(want.z as NdArray).data]);
  });

  it("one NaN logit makes its row of a softmax NaN and no other", async () => {
    const z = ndarray("f32", [3, 4], [1, 2, 3, 4, 1, Number.NaN, 3, 4, 5, 90, -90, 0]);
    const { got, want } = await both({ z }, (b, v) => {
      const back = (x: Value) => b.emit("broadcast", [x], { shape: [3, 4], axes: [0] });
      const e = b.emit("exp", [b.emit("sub", [v.z as Value, back(b.emit("reduce_max", [v.z as Value], { axes: [1] }))])]);
      return { p: b.emit("div", [e, back(b.emit("reduce_sum", [e], { axes: [1] }))]) };
    });
    close(got.p, want.p, 300 * EPS, 1e-37, "softmax", z.data);
  });
});

describe("integers and booleans", () => {
  const [low, high] = [-(2 ** 31), 2 ** 31 - 1];
  const x = typed("i32", 0, 1, -1, 7, -7, high, low, 123456789, -46341);
  const y = typed("i32", 3, 1, -1, 2, 2, 1, 2, 987654321, 46341);

  it("i32 arithmetic wraps and divides towards zero", async () => {
    const { got, want } = await both({ x, y }, (b, v) => Object.fromEntries((["add", "sub", "mul", "div", "max", "min"] as const).map((op) => [op, b.emit(op, [v.x as Value, v.y as Value])])));
    for (const [op, w] of Object.entries(want)) expect([...(got[op] as NdArray).data], op).toEqual([...w.data]);
    const one = await both({ x }, (b, v) => Object.fromEntries((["neg", "abs", "sign"] as const).map((op) => [op, b.emit(op, [v.x as Value])])));
    for (const [op, w] of Object.entries(one.want)) expect([...(one.got[op] as NdArray).data].map((n) => n + 0), op).toEqual([...w.data].map((n) => n + 0));
  });

  it("u32 arithmetic wraps", async () => {
    const u = { x: typed("u32", 0, 1, 4294967295, 7, 65537), y: typed("u32", 1, 2, 4294967295, 3, 65537) };
    const { got, want } = await both(u, (b, v) => Object.fromEntries((["add", "sub", "mul", "div", "max", "min"] as const).map((op) => [op, b.emit(op, [v.x as Value, v.y as Value])])));
    for (const [op, w] of Object.entries(want)) expect([...(got[op] as NdArray).data], op).toEqual([...w.data]);
  });

  it("comparisons of floats, integers and NaN", async () => {
    const ops = ["lt", "le", "gt", "ge", "eq", "ne"] as const;
    for (const [a, c] of [[x, y], [floats(1, 2, -0, Number.POSITIVE_INFINITY, 1.5, Number.NaN, Number.NaN, 1), floats(2, 2, 0, 1e38, -1.5, Number.NaN, 0, Number.NaN)], [typed("u32", 0, 4294967295, 5), typed("u32", 4294967295, 0, 5)]] as const) {
      const { got, want } = await both({ a, c }, (b, v) => Object.fromEntries(ops.map((op) => [op, b.emit(op, [v.a as Value, v.c as Value])])));
      for (const op of ops) expect([...(got[op] as NdArray).data], `${op} of ${a.dtype}`).toEqual([...(want[op] as NdArray).data]);
    }
  });

  it("booleans are stored as 0 and 1, and whatever is not 0 reads as true", async () => {
    const [a, c] = [typed("bool", 0, 1, 0, 1, 7), typed("bool", 0, 0, 1, 1, 1)];
    const { got } = await both({ a, c }, (b, v) => ({
      and: b.emit("and", [v.a as Value, v.c as Value]), or: b.emit("or", [v.a as Value, v.c as Value]), not: b.emit("not", [v.a as Value]),
      eq: b.emit("eq", [v.a as Value, v.c as Value]), ne: b.emit("ne", [v.a as Value, v.c as Value]), joined: b.emit("concat", [v.a as Value, v.c as Value], { axis: 0 }),
    }));
    expect(Object.fromEntries(Object.entries(got).map(([name, r]) => [name, [...r.data]]))).toEqual({
      and: [0, 0, 0, 1, 1], or: [0, 1, 1, 1, 1], not: [1, 0, 1, 0, 0], eq: [1, 0, 0, 1, 1], ne: [0, 1, 1, 0, 0], joined: [0, 1, 0, 1, 1, 0, 0, 1, 1, 1],
    });
  });

  it("casts truncate towards zero, and numbers are true unless 0", async () => {
    const z = floats(2.9, -2.9, 0.5, -0.5, 0, 3, 1e6);
    const { got, want } = await both({ z }, (b, v) => {
      const whole = b.emit("cast", [v.z as Value], { dtype: "i32" });
      const truth = b.emit("cast", [v.z as Value], { dtype: "bool" });
      return { whole, truth, back: b.emit("cast", [whole], { dtype: "f32" }), number: b.emit("cast", [truth], { dtype: "f32" }), count: b.emit("cast", [truth], { dtype: "i32" }) };
    });
    for (const [name, w] of Object.entries(want)) expect([...(got[name] as NdArray).data].map((n) => n + 0), name).toEqual([...w.data].map((n) => n + 0));
  });

  it("bits of floats, NaN and infinities among them, and back", async () => {
    const z = floats(0, -0, 1, -2.5, 3.4e38, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 2 ** -126);
    const { got, want } = await both({ z, n: floats(Number.NaN, 1) }, (b, v) => {
      const word = b.emit("bits", [v.z as Value]);
      return { word, back: b.emit("from_bits", [word]), alone: b.emit("bits", [b.emit("slice", [v.z as Value], { start: [7], size: [4], stride: [-2] })]), nan: b.emit("from_bits", [b.emit("bits", [v.n as Value])]) };
    });
    for (const [name, w] of Object.entries(want)) expect([...(got[name] as NdArray).data], name).toEqual([...w.data]);
  });

  it("random numbers are the ones of the float64 meaning, to the bit, in any view", async () => {
    const key = { k0: ndarray("u32", [], [12345]), k1: ndarray("u32", [], [4294967295]) };
    const { got, want } = await both(key, (b, v) => {
      const u = b.emit("uniform", [v.k0 as Value, v.k1 as Value], { shape: [5, 7], stream: 3 });
      return { u, turned: b.emit("neg", [b.emit("permute", [u], { perm: [1, 0] })]), part: b.emit("slice", [u], { start: [4, 1], size: [3, 3], stride: [-2, 2] }) };
    });
    for (const [name, w] of Object.entries(want)) expect([...(got[name] as NdArray).data], name).toEqual([...w.data]);
  });
});

describe("shapes", () => {
  for (const n of [1, 2, 3, 4, 5, 7, 63, 64, 65, 257])
    it(`${n} elements, in a row and as rows of an odd width`, async () => {
      const next = random(n);
      const [x, y] = [tensor([n], next), tensor([n, 3], next)];
      const { got, want } = await both({ x, y }, (b, v) => ({
        one: b.emit("add", [b.emit("mul", [v.x as Value, v.x as Value]), v.x as Value]),
        two: b.emit("mul", [v.y as Value, b.emit("broadcast", [v.x as Value], { shape: [n, 3], axes: [0] })]),
        wide: b.emit("add", [b.emit("broadcast", [v.x as Value], { shape: [2, n], axes: [1] }), b.emit("broadcast", [b.scalar(0.5)], { shape: [2, n], axes: [] })]),
      }));
      for (const [name, w] of Object.entries(want)) close(got[name], w, 4 * EPS, 1e-7, name, x.data);
    });

  it("an operation of more operands than a kernel can bind is cut into kernels that can", async () => {
    const inputs = Object.fromEntries(Array.from({ length: 19 }, (_, k) => [`x${k}`, tensor([6], random(k))]));
    const { got, want } = await both(inputs, (b, v) => {
      const all = Object.values(v);
      return { sum: all.reduce((a, c) => b.emit("add", [a, c])), joined: b.emit("concat", all, { axis: 0 }), tree: b.emit("tanh", [all.map((x) => b.emit("sin", [x])).reduce((a, c) => b.emit("mul", [a, c]))]) };
    });
    for (const [name, w] of Object.entries(want)) close(got[name], w, 1e-5, 1e-6, name, w.data);
  });

  it("more workgroups than one dimension holds are folded to two", async () => {
    // 65535 workgroups of 64 threads of 4 lanes take 16.8 million elements; a strided store has no lanes
    const b = new Builder("g");
    const i = b.emit("iota", [], { shape: [2100, 2100], axis: 0 });
    const y = b.emit("add", [b.emit("permute", [i], { perm: [1, 0] }), b.emit("mul", [i, b.emit("broadcast", [b.scalar(3, "i32")], { shape: [2100, 2100], axes: [] })])]);
    const graph = b.finish([{ name: "y", value: y }]);
    const { results } = await runPoisoned(device().device, graph, {});
    const data = (results.y as NdArray).data;
    for (const [r, c] of [[0, 0], [2099, 2099], [1, 2099], [2000, 17]] as const) expect(data[r * 2100 + c]).toBe(c + 3 * r);
  });

  it("a parameter is updated in place, and whoever needs its old value still gets it", async () => {
    const b = new Builder("g");
    const w = b.param("w", f32(9));
    const m = b.input("m", f32(9));
    const g = b.input("g", f32(9));
    const lr = b.emit("broadcast", [b.input("run.lr", f32())], { shape: [9], axes: [] });
    const m2 = b.emit("add", [b.emit("mul", [m, lr]), g]);
    const w2 = b.emit("sub", [w, b.emit("mul", [m2, lr])]);
    const graph = b.finish([{ name: "w", value: w2 }, { name: "m", value: m2 }, { name: "turned", value: b.emit("slice", [w], { start: [8], size: [9], stride: [-1] }) }, { name: "norm", value: b.emit("reduce_sum", [b.emit("mul", [w, w])], { axes: [0] }) }]);
    const next = random(5);
    const given = { w: tensor([9], next), m: tensor([9], next), g: tensor([9], next) };
    const { results, plan } = await runPoisoned(device().device, graph, given, new Set(["w", "m"]), { lr: 0.25 });
    const want = evaluate(graph, { ...given, "run.lr": ndarray("f32", [], [0.25]) });
    for (const [name, x] of Object.entries(want)) close(results[name], x, 4 * EPS, 1e-6, name, x.data);
    expect(plan.buffers.filter((x) => x.kind === "slot").length).toBe(0);
  });
});
