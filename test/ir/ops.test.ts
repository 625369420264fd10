/**
 * Every operation, three ways: its float64 meaning against a formula written down here, its derivative against central differences,
 * and its mapping over a leading axis against a loop. A new op without a case does not typecheck.
 */
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { CompileError } from "../../ir/error.js";
import { evaluate } from "../../ir/evaluate.js";
import { cotangents } from "../../ir/grad.js";
import type { Attrs, Graph, Value } from "../../ir/graph.js";
import { eachIndex, type NdArray, ndarray } from "../../ir/ndarray.js";
import { OPS } from "../../ir/ops/index.js";
import { OP_NAMES, type OpName } from "../../ir/ops/names.js";
import { type DType, f32, size, strides, type Type } from "../../ir/type.js";
import { vmap } from "../../ir/vmap.js";
import { random } from "../support/models.js";

interface Operand {
  readonly type: Type;
  /** From a number in (−1, 1) to the operand's domain, away from kinks. */
  readonly draw: (u: number, k: number) => number;
}
interface Case {
  readonly operands: readonly Operand[];
  readonly attrs?: Attrs;
  /** The first result, element by element. */
  readonly want: (...inputs: readonly At[]) => number[];
  /** The derivative is not compared: steps and detach have another one on purpose. */
  readonly flat?: true;
}
/** Element of an operand at an index. */
type At = (...index: readonly number[]) => number;

const any = (u: number): number => 2 * u;
const positive = (u: number): number => 1.2 + u;
/** At least 0.1 from 0. */
const nonzero = (u: number): number => (u < 0 ? u - 0.1 : u + 0.1);
/** Away from whole and half numbers, where floor, round … jump. */
const between = (u: number, k: number): number => (k % 5) - 2 + 0.25 + 0.1 * u;
const whole = (u: number): number => Math.floor(4 * u);
const flag = (u: number): number => Number(u > 0);

const operand = (shape: readonly number[], draw: Operand["draw"] = any, dtype: DType = "f32"): Operand => ({ type: { dtype, shape }, draw });
/** Elements of a shape, by index, in row-major order. */
function tab(shape: readonly number[], f: (...index: number[]) => number): number[] {
  const out: number[] = [];
  eachIndex(shape, (index) => { out.push(f(...index)); });
  return out;
}

const S = [2, 3] as const;
const unary = (f: (x: number) => number, draw: Operand["draw"] = any, flat?: true): Case[] =>
  [{ operands: [operand(S, draw)], want: (x) => tab(S, (i, j) => f(x(i, j))), ...(flat ? { flat } : {}) }];
const binary = (f: (x: number, y: number) => number, a: Operand["draw"] = any, b: Operand["draw"] = a): Case[] =>
  [{ operands: [operand(S, a), operand(S, b)], want: (x, y) => tab(S, (i, j) => f(x(i, j), y(i, j))) }];
const integers = (f: (x: number, y: number) => number, draw: Operand["draw"] = whole, other: Operand["draw"] = draw): Case[] =>
  [{ operands: [operand(S, draw, "i32"), operand(S, other, "i32")], want: (x, y) => tab(S, (i, j) => f(x(i, j), y(i, j))) }];
const compare = (f: (x: number, y: number) => boolean): Case[] => [
  ...binary((x, y) => Number(f(x, y))), ...integers((x, y) => Number(f(x, y)), (u) => Math.floor(2 * u)),
];
const logic = (f: (x: boolean, y: boolean) => boolean): Case[] =>
  [{ operands: [operand([8], (_, k) => k & 1, "bool"), operand([8], (_, k) => (k >> 1) & 1, "bool")], want: (x, y) => tab([8], (i) => Number(f(x(i) !== 0, y(i) !== 0))) }];

/** ∫₀ˣ of a smooth function by Simpson's rule. */
function integral(f: (t: number) => number, x: number): number {
  const n = 2000;
  let total = 0;
  for (let k = 0; k <= n; k++) total += (k === 0 || k === n ? 1 : k % 2 ? 4 : 2) * f((k / n) * x);
  return (total * x) / n / 3;
}
const larger = (x: number, y: number): number => (x + y + Math.abs(x - y)) / 2;
const smaller = (x: number, y: number): number => (x + y - Math.abs(x - y)) / 2;
/** Whole division of non-negative numbers by counting. */
const truncated = (x: number, y: number): number => Math.sign(x) * Math.sign(y) * Math.floor(Math.abs(x) / Math.abs(y));

const range = (n: number): number[] => Array.from({ length: n }, (_, k) => k);
const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);
const argmax = (list: readonly number[]): number => list.indexOf(Math.max(...list));

/** x[i·stride + j·dilation + offset over divisor], 0 where there is none. */
const taken = (x: (at: number) => number, extent: number, at: number, divisor: number): number =>
  at % divisor === 0 && at / divisor >= 0 && at / divisor < extent ? x(at / divisor) : 0;
const windows = [
  { count: 3, taps: 2, stride: 1, dilation: 1, offset: 0, divisor: 1 },
  { count: 3, taps: 3, stride: 2, dilation: 2, offset: -3, divisor: 1 },
  { count: 5, taps: 2, stride: 1, dilation: -1, offset: 1, divisor: 2 },
  { count: 4, taps: 1, stride: -1, dilation: 1, offset: 3, divisor: 1 },
] as const;

const CASES: Readonly<Record<OpName, readonly Case[]>> = {
  neg: unary((x) => 0 - x), abs: unary((x) => (x < 0 ? 0 - x : x), nonzero), sign: unary((x) => (x > 0 ? 1 : -1), nonzero),
  exp: unary((x) => Math.E ** x), log: unary((x) => 2 * Math.atanh((x - 1) / (x + 1)), positive), sqrt: unary((x) => x ** 0.5, positive), reciprocal: unary((x) => x ** -1, nonzero),
  tanh: unary((x) => (Math.exp(x) - Math.exp(-x)) / (Math.exp(x) + Math.exp(-x))),
  sigmoid: unary((x) => 0.5 * (1 + Math.tanh(x / 2)), (u) => 20 * u),
  relu: unary((x) => (x + Math.abs(x)) / 2, nonzero),
  softplus: unary((x) => Math.log(1 + Math.exp(x)), (u) => 8 * u),
  erf: unary((x) => (2 / Math.sqrt(Math.PI)) * integral((t) => Math.exp(-t * t), x), (u, k) => (k % 2 ? 4 : 1) * u),
  sin: unary((x) => Math.cos(x - Math.PI / 2)), cos: unary((x) => 1 - 2 * Math.sin(x / 2) ** 2),
  atan: unary((x) => 2 * Math.asin(x / Math.hypot(x, 1 + Math.hypot(1, x))), (u) => 6 * u),
  expm1: unary((x) => 2 * Math.exp(x / 2) * Math.sinh(x / 2)), log1p: unary((x) => integral((t) => 1 / (1 + t), x), (u) => 0.8 * u),
  bits: unary((x) => new Int32Array(Float32Array.of(x).buffer)[0] as number, any, true),
  from_bits: [{ operands: [operand([4], (_, k) => [0x3f800000, 0x40490fdb, -0x40800000, 0][k] as number, "i32")], want: () => [1, Math.fround(Math.PI), -1, 0] }],
  floor: unary((x) => x - (((x % 1) + 1) % 1), between), ceil: unary((x) => -Math.floor(-x), between),
  round: [...unary((x) => Math.floor(x + 0.5), between), { operands: [operand([6], (_, k) => k - 2.5)], want: () => [-2, -2, -0, 0, 2, 2], flat: true }],
  not: [{ operands: [operand(S, flag, "bool")], want: (x) => tab(S, (i, j) => (x(i, j) === 0 ? 1 : 0)) }],
  detach: unary((x) => x, any, true),
  add: [...binary((x, y) => x - -y), ...integers((x, y) => x - -y)], sub: [...binary((x, y) => x + -y), ...integers((x, y) => x + -y)],
  mul: [...binary((x, y) => x / (1 / y), nonzero), ...integers((x, y) => x * y)],
  div: [...binary((x, y) => x * y ** -1, any, nonzero), ...integers(truncated, (u) => Math.floor(20 * u), (u) => Math.floor(4 * u) || 3)],
  max: [...binary(larger), ...integers(larger)], min: [...binary(smaller), ...integers(smaller)],
  pow: binary((x, y) => Math.exp(y * Math.log(x)), positive, any),
  lt: compare((x, y) => y > x), le: compare((x, y) => !(x > y)), gt: compare((x, y) => y < x), ge: compare((x, y) => !(x < y)),
  eq: compare((x, y) => !(x < y || x > y)), ne: compare((x, y) => x < y || x > y),
  and: logic((x, y) => x && y), or: logic((x, y) => x || y),
  select: [{ operands: [operand(S, flag, "bool"), operand(S), operand(S)], want: (c, x, y) => tab(S, (i, j) => c(i, j) * x(i, j) + (1 - c(i, j)) * y(i, j)) }],
  cast: [
    { operands: [operand(S, (u) => 5 * u)], attrs: { dtype: "i32" }, want: (x) => tab(S, (i, j) => Math.sign(x(i, j)) * Math.floor(Math.abs(x(i, j))) + 0), flat: true },
    { operands: [operand(S, whole, "i32")], attrs: { dtype: "bool" }, want: (x) => tab(S, (i, j) => (x(i, j) === 0 ? 0 : 1)) },
    { operands: [operand(S, flag, "bool")], attrs: { dtype: "f32" }, want: (x) => tab(S, (i, j) => x(i, j)) },
    { operands: [operand(S)], attrs: { dtype: "f16" }, want: (x) => tab(S, (i, j) => x(i, j)) },
  ],
  constant: [{ operands: [], attrs: { value: -2.5, dtype: "f32" }, want: () => [-2.5] }],
  gather: [{ operands: [operand([2, 3, 2]), operand([2, 4], (_, k) => [2, 0, -1, 1, 3, 2, 0, 2][k] as number, "i32")],
    want: (x, index) => tab([2, 4, 2], (b, n, i) => (index(b, n) < 0 || index(b, n) > 2 ? 0 : x(b, index(b, n), i))) }],
  scatter: [{ operands: [operand([2, 4, 2]), operand([2, 4], (_, k) => [2, 0, -1, 1, 3, 2, 0, 2][k] as number, "i32")], attrs: { rows: 3 },
    want: (x, index) => tab([2, 3, 2], (b, r, i) => sum(range(4).filter((n) => index(b, n) === r).map((n) => x(b, n, i)))) }],
  iota: [{ operands: [], attrs: { shape: [2, 3, 2], axis: 1 }, want: () => tab([2, 3, 2], (_i, j) => j) }],
  uniform: [{ operands: [operand([], () => 7, "u32"), operand([], () => 9, "u32")], attrs: { shape: [3, 2], stream: 2 }, want: () => range(6).map((k) => hashed(k, 7, 9, 2)) }],
  reshape: [{ operands: [operand([2, 3, 2])], attrs: { shape: [4, 3] }, want: (x) => range(12).map((k) => x(Math.floor(k / 6), Math.floor(k / 2) % 3, k % 2)) }],
  permute: [{ operands: [operand([2, 3, 4])], attrs: { perm: [2, 0, 1] }, want: (x) => tab([4, 2, 3], (i, j, k) => x(j, k, i)) }],
  broadcast: [
    { operands: [operand([2, 3])], attrs: { shape: [2, 4, 3], axes: [0, 2] }, want: (x) => tab([2, 4, 3], (i, _j, k) => x(i, k)) },
    { operands: [operand([])], attrs: { shape: [2, 2], axes: [] }, want: (x) => tab([2, 2], () => x()) },
  ],
  pad: [{ operands: [operand([2, 3])], attrs: { low: [1, 0], high: [0, 2], value: 1.5 }, want: (x) => tab([3, 5], (i, j) => (i >= 1 && j < 3 ? x(i - 1, j) : 1.5)) }],
  slice: [
    { operands: [operand([4, 5])], attrs: { start: [1, 0], size: [2, 5], stride: [1, 1] }, want: (x) => tab([2, 5], (i, j) => x(i + 1, j)) },
    { operands: [operand([4, 5])], attrs: { start: [3, 0], size: [2, 3], stride: [-2, 2] }, want: (x) => tab([2, 3], (i, j) => x(3 - 2 * i, 2 * j)) },
  ],
  window: windows.map((w): Case => ({
    operands: [operand([2, 4, 2])], attrs: { axis: 1, ...w },
    want: (x) => tab([2, w.count, w.taps, 2], (a, i, j, b) => taken((h) => x(a, h, b), 4, i * w.stride + j * w.dilation + w.offset, w.divisor)),
  })),
  fold: windows.map(({ count: n, taps, ...w }): Case => ({
    operands: [operand([2, n, taps, 2])], attrs: { axis: 1, size: 4, ...w },
    want: (x) => tab([2, 4, 2], (a, h, b) => sum(range(n).flatMap((i) => range(taps).map((j) => (i * w.stride + j * w.dilation + w.offset === h * w.divisor ? x(a, i, j, b) : 0))))),
  })),
  concat: [{ operands: [operand([2, 1]), operand([2, 3]), operand([2, 2])], attrs: { axis: 1 }, want: (x, y, z) => tab([2, 6], (i, j) => (j < 1 ? x(i, j) : j < 4 ? y(i, j - 1) : z(i, j - 4))) }],
  reduce_sum: [
    { operands: [operand([2, 3, 4])], attrs: { axes: [0, 2] }, want: (x) => tab([3], (j) => sum(tab([2, 4], (i, k) => x(i, j, k)))) },
    { operands: [operand([2, 3])], attrs: { axes: [0, 1] }, want: (x) => [sum(tab([2, 3], (i, j) => x(i, j)))] },
  ],
  reduce_max: [{ operands: [operand([2, 3, 4])], attrs: { axes: [0, 2] }, want: (x) => tab([3], (j) => Math.max(...tab([2, 4], (i, k) => x(i, j, k)))) }],
  reduce_argmax: [
    { operands: [operand([2, 3, 4])], attrs: { axes: [0, 2] }, want: (x) => tab([3], (j) => argmax(tab([2, 4], (i, k) => x(i, j, k)))), flat: true },
    { operands: [operand([2, 4], (_, k) => k % 2)], attrs: { axes: [1] }, want: () => [1, 1], flat: true },
  ],
  contract: [
    { operands: [operand([2, 3]), operand([4, 3])], attrs: { spec: "ni,oi->no" }, want: (x, w) => tab([2, 4], (n, o) => sum(range(3).map((i) => x(n, i) * w(o, i)))) },
    { operands: [operand([2, 3, 2]), operand([2, 2])], attrs: { spec: "bij,bk->kbi" }, want: (x, y) => tab([2, 2, 3], (k, b, i) => sum(range(2).map((j) => x(b, i, j) * y(b, k)))) },
    { operands: [operand([2, 3]), operand([])], attrs: { spec: "ab,->b" }, want: (x, y) => tab([3], (b) => sum(range(2).map((a) => x(a, b))) * y()) },
  ],
  inverse: [{
    operands: [operand([2, 2, 2], (u, k) => (k % 4 === 0 || k % 4 === 3 ? 2 + u : 0.5)), operand([2], (u) => 0.3 + 0.2 * u)],
    want: (m, d) => tab([2, 2, 2], (b, i, j) => {
      const [p, q, r] = [m(b, 0, 0) + d(b), m(b, 0, 1), m(b, 1, 1) + d(b)];
      return (i !== j ? -q : i === 0 ? r : p) / (p * r - q * q);
    }),
  }],
};

/** The counter-based generator once more, on BigInt. */
function hashed(index: number, key0: number, key1: number, stream: number): number {
  const M = (1n << 32n) - 1n;
  const mix = (v: bigint): bigint => {
    let x = v & M;
    x = ((x ^ (x >> 16n)) * 0x7feb352dn) & M;
    x = ((x ^ (x >> 15n)) * 0x846ca68bn) & M;
    return x ^ (x >> 16n);
  };
  const a = mix(BigInt(index) + BigInt(key0) * 0x9e3779b9n);
  const c = mix(mix(a ^ BigInt(key1)) + BigInt(stream) * 0x85ebca6bn);
  return (Number(c >> 9n) + 0.5) / 2 ** 23;
}

const SEED = 11;
const inputsOf = (c: Case, seed: number): NdArray[] => {
  const next = random(seed);
  return c.operands.map(({ type: { dtype, shape }, draw }) => ndarray(dtype, shape, range(size(shape)).map((k) => draw(next(), k))));
};
const at = ({ shape, data }: NdArray): At => (...index) => data[strides(shape).reduce((flat, s, k) => flat + s * (index[k] as number), 0)] as number;
const bound = (inputs: readonly NdArray[]): Record<string, NdArray> => Object.fromEntries(inputs.map((x, k) => [`x${k}`, x]));

/** The op alone. `output` is its first result. */
function graphOf(op: OpName, c: Case): { b: Builder; inputs: Value[]; output: Value } {
  const b = new Builder(op);
  const inputs = c.operands.map((o, k) => b.input(`x${k}`, o.type));
  return { b, inputs, output: b.node(op, inputs, c.attrs ?? {}).results[0] as Value };
}
const graphWith = (b: Builder, value: Value): Graph => b.finish([{ name: "y", value }]);
const dataOf = (graph: Graph, inputs: readonly NdArray[]): Float64Array => (evaluate(graph, bound(inputs)).y as NdArray).data;

function near(got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number, what: string): void {
  expect(got.length, what).toBe(want.length);
  for (let k = 0; k < want.length; k++) {
    const [g, w] = [got[k] as number, want[k] as number];
    if (!(Math.abs(g - w) <= tolerance * (1 + Math.abs(w)))) throw new Error(`${what}: element ${k} is ${g}, not ${w} (seed ${SEED})`);
  }
}

for (const op of OP_NAMES)
  describe(op, () => {
    CASES[op].forEach((c, number) => {
      const name = `case ${number + 1}`;
      it(`${name}: evaluate gives what the formula says`, () => {
        const { b, output } = graphOf(op, c);
        const inputs = inputsOf(c, SEED);
        // Simpson's rule and cancelling logarithms are good to 1e-11
        near(dataOf(graphWith(b, output), inputs), c.want(...inputs.map(at)), 1e-10, op);
      });

      if (OPS[op].vjp && !c.flat && c.operands.some((o) => o.type.dtype === "f32"))
        it(`${name}: the derivative agrees with central differences`, () => derivative(op, c));

      if (c.operands.some((o) => o.type.dtype === "f32") && op !== "inverse")
        it(`${name}: mapped over a leading axis it is a loop`, () => mapped(op, c));
    });
  });

function derivative(op: OpName, c: Case): void {
  const { b, inputs, output } = graphOf(op, c);
  const seed = b.input("seed", output.type);
  const forward = graphWith(b, output);
  const wanted = inputs.filter((v) => v.type.dtype === "f32");
  const found = cotangents(b, new Map([[output, seed]]), wanted);
  const given = inputsOf(c, SEED + 1);
  const weights = inputsOf({ operands: [operand(output.type.shape)], want: () => [] }, SEED + 2)[0] as NdArray;
  const floats = output.type.dtype === "f32" || output.type.dtype === "f16";
  const value = (x: readonly NdArray[]): number => sum([...dataOf({ ...forward, inputs: forward.inputs.filter((i) => i.value !== seed) }, x)].map((y, k) => y * (weights.data[k] as number)));
  for (const v of wanted) {
    const k = inputs.indexOf(v);
    const ct = found.get(v);
    const got = ct ? (evaluate(b.finish([{ name: "y", value: ct }]), { ...bound(given), seed: weights }).y as NdArray).data : new Float64Array(size(v.type.shape));
    const h = 1e-5;
    const want = range(got.length).map((e) => {
      const moved = (by: number) => given.map((x, i) => (i === k ? ndarray(x.dtype, x.shape, x.data.map((y, j) => (j === e ? y + by : y))) : x));
      return floats ? (value(moved(h)) - value(moved(-h))) / (2 * h) : 0;
    });
    // central differences err by h² times the third derivative (< 1e3 here) and by rounding, 1e-16/h
    near(got, want, 1e-7, `${op}, operand ${k}`);
  }
}

/** All non-empty sets of float operands are stacked in turn. */
function mapped(op: OpName, c: Case): void {
  const floats = c.operands.flatMap((o, k) => (o.type.dtype === "f32" ? [k] : []));
  const columns = 3;
  for (let mask = 1; mask < 1 << floats.length; mask++) {
    const stacked = floats.filter((_, k) => mask & (1 << k));
    const { b, inputs, output } = graphOf(op, c);
    const stacks = new Map(stacked.map((k) => [inputs[k] as Value, b.input(`s${k}`, { ...(inputs[k] as Value).type, shape: [columns, ...(inputs[k] as Value).type.shape] })] as const));
    const made = vmap(b.emit, [...b.nodes], stacks).get(output) as Value;
    expect(made.type, `${op} with operands ${stacked} stacked`).toEqual({ ...output.type, shape: [columns, ...output.type.shape] });
    const samples = range(columns).map((s) => inputsOf(c, SEED + 5 + s));
    const plain = samples[0] as NdArray[];
    const given = {
      ...bound(plain),
      ...Object.fromEntries(stacked.map((k) => [`s${k}`, ndarray("f32", [columns, ...(plain[k] as NdArray).shape], samples.flatMap((x) => [...(x[k] as NdArray).data]))])),
    };
    const got = (evaluate(b.finish([{ name: "y", value: made }]), given).y as NdArray).data;
    const single = graphOf(op, c);
    const want = samples.flatMap((x) => [...dataOf(graphWith(single.b, single.output), plain.map((p, k) => (stacked.includes(k) ? (x[k] as NdArray) : p)))]);
    near(got, want, 1e-12, `${op} with operands ${stacked} stacked`);
  }
}

describe("ties and ends", () => {
  const gradientAt = (op: OpName, xs: readonly number[][], attrs: Attrs = {}): number[][] => {
    const b = new Builder("g");
    const inputs = xs.map((x, k) => b.input(`x${k}`, f32(x.length)));
    const y = b.emit(op, inputs, attrs);
    const seed = b.emit("broadcast", [b.scalar(1)], { shape: y.type.shape, axes: [] });
    const found = cotangents(b, new Map([[y, seed]]), inputs);
    const graph = b.finish(inputs.map((v, k) => ({ name: `d${k}`, value: found.get(v) as Value })));
    const out = evaluate(graph, bound(xs.map((x) => ndarray("f32", [x.length], x))));
    return inputs.map((_, k) => [...(out[`d${k}`] as NdArray).data]);
  };

  it("relu is flat at 0, max and min share a tie, and the first of equal maxima takes all", () => {
    expect(gradientAt("relu", [[-1, 0, 2]])).toEqual([[0, 0, 1]]);
    expect(gradientAt("max", [[1, 2, 3], [1, 3, 2]])).toEqual([[0.5, 0, 1], [0.5, 1, 0]]);
    expect(gradientAt("min", [[1, 2, 3], [1, 3, 2]])).toEqual([[0.5, 1, 0], [0.5, 0, 1]]);
    expect(gradientAt("reduce_max", [[1, 4, 4]], { axes: [0] })).toEqual([[0, 1, 0]]);
  });

  it("x² has its derivative at negative x, and x^y none with respect to y there; x^0 is flat, at 0 too", () => {
    expect(gradientAt("pow", [[-3], [2]])).toEqual([[-6], [0]]);
    expect(gradientAt("pow", [[0], [0]])).toEqual([[0], [0]]);
  });

  const apply = (op: OpName, xs: readonly number[][], dtype: DType, attrs: Attrs = {}): number[] => {
    const b = new Builder("g");
    const y = b.emit(op, xs.map((x, k) => b.input(`x${k}`, { dtype, shape: [x.length] })), attrs);
    return [...dataOf(b.finish([{ name: "y", value: y }]), xs.map((x) => ndarray(dtype, [x.length], x)))];
  };

  it("integers wrap at 32 bits, as they do on a device", () => {
    const [low, high] = [-(2 ** 31), 2 ** 31 - 1];
    expect(apply("add", [[high, 5], [1, -7]], "i32")).toEqual([low, -2]);
    expect(apply("mul", [[high, 46341, 123456789], [high, 46341, 987654321]], "i32")).toEqual([1, -2147479015, -67153019]);
    expect(apply("sub", [[0, 3], [1, 1]], "u32")).toEqual([2 ** 32 - 1, 2]);
    expect(apply("mul", [[4294967295], [4294967295]], "u32")).toEqual([1]);
    expect(apply("neg", [[low, 3, 0]], "i32")).toEqual([low, -3, 0]);
    expect(apply("abs", [[low, -3]], "i32")).toEqual([low, 3]);
  });

  it("NaN passes through max, min, relu and reduce_max, and never wins argmax", () => {
    expect(apply("max", [[Number.NaN, 1], [1, Number.NaN]], "f32")).toEqual([Number.NaN, Number.NaN]);
    expect(apply("relu", [[Number.NaN, -1]], "f32")).toEqual([Number.NaN, 0]);
    expect(apply("reduce_max", [[1, Number.NaN, 2]], "f32", { axes: [0] })).toEqual([Number.NaN]);
    expect(apply("reduce_argmax", [[1, Number.NaN, 2]], "f32", { axes: [0] })).toEqual([2]);
  });

  it("types that a machine has no operation for are refused", () => {
    const refused = (op: OpName, dtypes: readonly DType[], attrs: Attrs = {}) => {
      const b = new Builder("g");
      expect(() => b.emit(op, dtypes.map((dtype, k) => b.input(`x${k}`, { dtype, shape: [2] })), attrs), `${op}(${dtypes})`).toThrow(CompileError);
    };
    refused("neg", ["u32"]);
    refused("sign", ["u32"]);
    for (const op of ["reduce_sum", "reduce_max", "reduce_argmax"] as const) refused(op, ["bool"], { axes: [0] });
    refused("exp", ["i32"]);
    refused("add", ["bool", "bool"]);
    refused("contract", ["bool", "bool"], { spec: "a,a->a" });
    refused("window", ["f32"], { axis: 0, count: 2, taps: 1, stride: 1, dilation: 1, offset: 0, divisor: 0 });
  });
});
