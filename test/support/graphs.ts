/**
 * Random well-typed graphs over every op, with small shapes, and inputs to run them on. A graph is built from a stream of choices, so
 * fast-check shrinks it by shortening the stream.
 *
 * Passes reorder float64 sums. To compare results at 1e-12 all the same, two facts are tracked for each value: a bound of its
 * magnitude (nothing overflows, so no NaN comes from 0 · inf), and whether it is computed exactly (small integers and
 * halves): only exact values go into ops with jumps (floor, comparisons, argmax …), where a rounding error would be seen whole.
 */
import fc from "fast-check";
import { Builder } from "../../ir/builder.js";
import type { Attrs, Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { OPS } from "../../ir/ops/index.js";
import type { OpName } from "../../ir/ops/names.js";
import { type DType, sameType, size, type Type, type } from "../../ir/type.js";

const MAX_ELEMENTS = 96;
const MAX_EXACT = 2 ** 40;
const MAX_BOUND = 1e60;
const NAMES = ["x", "fc.weight", "onnx::MatMul_8", "/fc/Gemm_output_0", "graph", "a b", "quote\"d", "π", "0", "\\", "line\nbreak"];

interface Fact {
  readonly exact: boolean;
  readonly bound: number;
}
type Pick = (n: number) => number;

class Maker {
  readonly b = new Builder("random");
  readonly pool: Value[] = [];
  readonly facts = new Map<Value, Fact>();
  readonly pick: Pick;
  constructor(pick: Pick) {
    this.pick = pick;
  }

  one<T>(list: readonly T[]): T {
    return list[this.pick(list.length)] as T;
  }
  fact(v: Value): Fact {
    return this.facts.get(v) as Fact;
  }
  keep(v: Value, fact: Fact): Value {
    this.facts.set(v, { exact: fact.exact && fact.bound <= MAX_EXACT, bound: fact.bound });
    this.pool.push(v);
    return v;
  }
  /** A node of one result, if its facts allow it. */
  make(op: OpName, inputs: readonly Value[], attrs: Attrs, fact: Fact): Value | undefined {
    const t = OPS[op].infer(inputs.map((v) => v.type), attrs, [])[0] as Type;
    if (size(t.shape) > MAX_ELEMENTS || t.shape.length > 7 || !(fact.bound <= MAX_BOUND)) return undefined;
    return this.keep(this.b.emit(op, inputs, attrs), fact);
  }
  value(fits: (v: Value) => boolean = () => true): Value | undefined {
    const list = this.pool.filter(fits);
    // later values are likelier, so that chains form
    return list.length === 0 ? undefined : list[Math.max(this.pick(list.length), this.pick(list.length))];
  }
  float(exact = false): Value | undefined {
    return this.value((v) => v.type.dtype === "f32" && (!exact || this.fact(v).exact));
  }
  /** A value of the type: another one, itself, or a number everywhere. */
  partner(x: Value): Value {
    const other = this.value((v) => sameType(v.type, x.type));
    if (other && this.pick(3) > 0) return other;
    const value = x.type.dtype === "bool" ? this.pick(2) : this.one([0, 1, -1, 2, 0.5, -0].filter((n) => x.type.dtype === "f32" || n >= 1 || Object.is(n, 0)));
    const c = this.keep(this.b.emit("constant", [], { value, dtype: x.type.dtype }), { exact: true, bound: Math.abs(value) });
    return x.type.shape.length === 0 ? c : (this.make("broadcast", [c], { shape: x.type.shape, axes: [] }, this.fact(c)) as Value);
  }
  shape(): number[] {
    const out = Array.from({ length: this.pick(4) }, () => 1 + this.pick(3));
    return out;
  }
}

type Step = (m: Maker) => void;

const SMOOTH: readonly OpName[] = ["tanh", "sigmoid", "softplus", "erf", "sin", "cos", "atan"];
const JUMPS: readonly OpName[] = ["sign", "floor", "ceil", "round"];
const COMPARES: readonly OpName[] = ["lt", "le", "gt", "ge", "eq", "ne"];

const STEPS: Readonly<Record<string, Step>> = {
  smooth(m) {
    const x = m.float();
    if (x) m.make(m.one(SMOOTH), [x], {}, { exact: false, bound: Math.max(1, m.fact(x).bound + 1) });
  },
  /** exp, log, sqrt, 1/x and powers, of operands inside their domain. */
  domain(m) {
    const x = m.float();
    const safe = x && m.make("sigmoid", [x], {}, { exact: false, bound: 1 });
    const away = safe && m.make("add", [safe, m.b.emit("broadcast", [m.b.scalar(1)], { shape: safe.type.shape, axes: [] })], {}, { exact: false, bound: 2 });
    if (!away) return;
    const op = m.one<OpName>(["exp", "log", "sqrt", "reciprocal", "pow", "div", "expm1", "log1p"]);
    const fact = { exact: false, bound: 8 };
    if (op === "pow") m.make(op, [away, away], {}, fact);
    else if (op === "div") m.make(op, [x, away], {}, { ...fact, bound: m.fact(x).bound });
    else m.make(op, [away], {}, fact);
  },
  linear(m) {
    const x = m.float();
    if (x) m.make(m.one<OpName>(["neg", "abs", "relu", "detach"]), [x], {}, m.fact(x));
  },
  jump(m) {
    const x = m.float(true);
    if (x) m.make(m.one(JUMPS), [x], {}, { exact: true, bound: m.fact(x).bound + 1 });
  },
  /** Taken apart into bits and put together again; of whole numbers that nothing is differentiated by. */
  bits(m) {
    const index = m.value((v) => v.type.dtype === "i32" && m.fact(v).exact && m.fact(v).bound < 1e6);
    const x = index && m.make("cast", [index], { dtype: "f32" }, m.fact(index));
    const word = x && m.make("bits", [x], {}, { exact: true, bound: 2 ** 31 });
    if (x && word) m.make("from_bits", [word], {}, m.fact(x));
  },
  binary(m) {
    const x = m.value((v) => v.type.dtype === "f32" || v.type.dtype === "i32");
    if (!x) return;
    const pair = [x, m.partner(x)];
    if (m.pick(2)) pair.reverse();
    const [f, g] = pair.map((v) => m.fact(v)) as [Fact, Fact];
    const op = m.one<OpName>(["add", "sub", "mul", "max", "min", "add", "sub", "mul"]);
    const bound = op === "mul" ? f.bound * g.bound : f.bound + g.bound;
    if (x.type.dtype === "i32" && bound > 1e6) return;
    m.make(op, pair, {}, { exact: f.exact && g.exact, bound });
  },
  compare(m) {
    const x = m.value((v) => m.fact(v).exact && v.type.dtype !== "bool");
    if (!x) return;
    const y = m.partner(x);
    if (m.fact(y).exact) m.make(m.one(COMPARES), [x, y], {}, { exact: true, bound: 1 });
  },
  logic(m) {
    const x = m.value((v) => v.type.dtype === "bool");
    if (!x) return;
    if (m.pick(3) === 0) m.make("not", [x], {}, m.fact(x));
    else m.make(m.one<OpName>(["and", "or", "eq", "ne"]), [x, m.partner(x)], {}, m.fact(x));
  },
  select(m) {
    const c = m.value((v) => v.type.dtype === "bool");
    const x = c && m.value((v) => v.type.dtype === "f32" && v.type.shape.join() === c.type.shape.join());
    if (!c || !x) return;
    const y = m.partner(x);
    const [f, g] = [m.fact(x), m.fact(y)];
    m.make("select", m.pick(2) ? [c, x, y] : [c, y, x], {}, { exact: f.exact && g.exact, bound: Math.max(f.bound, g.bound) });
  },
  cast(m) {
    const x = m.value((v) => m.fact(v).exact && m.fact(v).bound < 1e6);
    if (x) m.make("cast", [x], { dtype: m.one<DType>(["f32", "i32", "bool"]) }, { exact: true, bound: m.fact(x).bound + 1 });
  },
  source(m) {
    const shape = [1 + m.pick(3), ...m.shape()];
    const [k0, k1] = m.pool.filter((v) => v.type.dtype === "u32");
    if (m.pick(2)) m.make("iota", [], { shape, axis: m.pick(shape.length) }, { exact: true, bound: 3 });
    else if (k0 && k1) m.make("uniform", [k0, k1], { shape, stream: m.pick(3) }, { exact: false, bound: 1 });
  },
  reshape(m) {
    const x = m.value();
    if (!x) return;
    const to = [...x.type.shape];
    const at = m.pick(to.length + 1);
    const way = m.pick(4);
    if (way === 0) to.splice(at, 0, 1);
    else if (way === 1 && to.includes(1)) to.splice(to.indexOf(1), 1);
    else if (way === 2 && at + 1 < to.length) to.splice(at, 2, (to[at] as number) * (to[at + 1] as number));
    else if (at < to.length && (to[at] as number) % 2 === 0) to.splice(at, 1, 2, (to[at] as number) / 2);
    m.make("reshape", [x], { shape: to }, m.fact(x));
  },
  permute(m) {
    const x = m.value((v) => v.type.shape.length > 1);
    if (!x) return;
    const left = x.type.shape.map((_, axis) => axis);
    const perm = x.type.shape.map(() => left.splice(m.pick(left.length), 1)[0] as number);
    m.make("permute", [x], { perm }, m.fact(x));
  },
  broadcast(m) {
    const x = m.value();
    if (!x) return;
    const shape: number[] = [];
    const axes: number[] = [];
    for (const n of x.type.shape) {
      if (m.pick(3) === 0) shape.push(1 + m.pick(3));
      axes.push(shape.length);
      shape.push(n);
    }
    if (m.pick(2)) shape.push(1 + m.pick(3));
    m.make("broadcast", [x], { shape, axes }, m.fact(x));
  },
  pad(m) {
    const x = m.float();
    if (!x) return;
    const amount = (): number[] => x.type.shape.map(() => (m.pick(3) === 0 ? 1 + m.pick(2) : 0));
    m.make("pad", [x], { low: amount(), high: amount(), value: m.one([0, 0, 2]) }, { ...m.fact(x), bound: m.fact(x).bound + 2 });
  },
  slice(m) {
    const x = m.value((v) => v.type.shape.length > 0);
    if (!x) return;
    const cut = x.type.shape.map((n) => {
      const start = m.pick(n);
      const stride = m.one([1, 1, 2, -1]);
      const most = stride > 0 ? Math.floor((n - 1 - start) / stride) + 1 : start + 1;
      return m.pick(3) === 0 ? { start, count: most - m.pick(most), stride } : { start: 0, count: n, stride: 1 };
    });
    m.make("slice", [x], { start: cut.map((c) => c.start), size: cut.map((c) => c.count), stride: cut.map((c) => c.stride) }, m.fact(x));
  },
  window(m) {
    const x = m.value((v) => v.type.dtype === "f32" && v.type.shape.length > 0);
    if (!x) return;
    const axis = m.pick(x.type.shape.length);
    m.make("window", [x], { axis, count: 1 + m.pick(4), taps: 1 + m.pick(3), ...steps(m) }, m.fact(x));
  },
  fold(m) {
    const x = m.value((v) => v.type.dtype === "f32" && v.type.shape.length > 1);
    if (!x) return;
    const axis = m.pick(x.type.shape.length - 1);
    m.make("fold", [x], { axis, size: 1 + m.pick(5), ...steps(m) }, { ...m.fact(x), bound: m.fact(x).bound * 12 });
  },
  concat(m) {
    const x = m.value((v) => v.type.shape.length > 0);
    if (!x) return;
    const parts = [x, m.partner(x), x].slice(0, 1 + m.pick(3));
    const facts = parts.map((v) => m.fact(v));
    m.make("concat", parts, { axis: m.pick(x.type.shape.length) }, { exact: facts.every((f) => f.exact), bound: Math.max(...facts.map((f) => f.bound)) });
  },
  reduce(m) {
    const x = m.value((v) => v.type.dtype === "f32" && v.type.shape.length > 0);
    if (!x) return;
    const axes = x.type.shape.map((_, axis) => axis).filter(() => m.pick(2));
    if (axes.length === 0) return;
    const { exact, bound } = m.fact(x);
    const op = m.one<OpName>(exact ? ["reduce_sum", "reduce_max", "reduce_argmax"] : ["reduce_sum", "reduce_max"]);
    m.make(op, [x], { axes }, { exact, bound: Math.max(bound, 1) * size(x.type.shape) });
  },
  contract,
  /** fold of a fresh contraction or repetition: what the gradient of a window looks like. */
  scatter(m) {
    contract(m);
    STEPS["fold"]?.(m);
    if (m.pick(2)) STEPS["permute"]?.(m);
    STEPS["fold"]?.(m);
  },
  /** Rows by index: one table, or a table per row of the index; indices outside it now and then. */
  rows(m) {
    const x = m.value((v) => v.type.dtype === "f32" && v.type.shape.length === 3);
    const index = x && m.value((v) => v.type.dtype === "i32" && v.type.shape.length === 2 && v.type.shape[0] === x.type.shape[0]);
    if (!x || !index) return;
    if (m.pick(2)) m.make("gather", [x, index], {}, m.fact(x));
    else if (index.type.shape[1] === x.type.shape[1]) m.make("scatter", [x, index], { rows: 1 + m.pick(4) }, { ...m.fact(x), bound: m.fact(x).bound * MAX_ELEMENTS });
    else m.make("gather", [x, index], {}, m.fact(x));
  },
  /** A table and an index for it, made on purpose: seldom is there one by chance. */
  table(m) {
    const x = m.value((v) => v.type.dtype === "f32" && v.type.shape.length > 0);
    if (!x) return;
    const [b, ...rest] = x.type.shape as [number, ...number[]];
    const rows = rest[0] ?? 1;
    const flat = m.make("reshape", [x], { shape: [b, rows, rest.slice(1).reduce((a, n) => a * n, 1)] }, m.fact(x));
    const n = m.pick(2) ? rows : 1 + m.pick(3);
    const along = m.make("iota", [], { shape: [b, n], axis: m.pick(2) }, { exact: true, bound: 4 });
    const one = along && m.partner(along);
    if (flat && along && one) m.make(m.one<OpName>(["sub", "add", "mul"]), [along, one], {}, { exact: true, bound: 16 });
    STEPS.rows?.(m);
  },
  inverse(m) {
    const x = m.value((v) => v.type.dtype === "f32" && v.type.shape.length === 2 && m.fact(v).bound < 10);
    if (!x) return;
    const n = x.type.shape[0] as number;
    const gram = m.b.emit("contract", [x, x], { spec: "ik,jk->ij" });
    const one = m.b.emit("broadcast", [m.b.scalar(1)], { shape: [1], axes: [] });
    const [inverse, clean] = m.b.node("inverse", [m.b.emit("reshape", [gram], { shape: [1, n, n] }), one]).results as [Value, Value];
    m.keep(inverse, { exact: false, bound: 1 });
    m.keep(clean, { exact: true, bound: 1 });
  },
};

function steps(m: Maker) {
  return { stride: m.one([1, 1, 2, 3, -1]), dilation: m.one([1, 1, 2, -1]), offset: m.pick(5) - 2, divisor: m.one([1, 1, 2]) };
}

/** Labels are shared where sizes agree and the dice say so; every label may stay or be summed. */
function contract(m: Maker): void {
  const [l, r] = [m.float(), m.float()];
  if (!l || !r) return;
  const left = [..."abcdefgh"].slice(0, l.type.shape.length);
  const free = [..."ijklmnop"];
  const taken = new Set<string>();
  const right = r.type.shape.map((n) => {
    const same = left.find((label, k) => l.type.shape[k] === n && !taken.has(label));
    const label = same !== undefined && m.pick(2) ? same : (free.shift() as string);
    taken.add(label);
    return label;
  });
  const left2 = [...new Set([...left, ...right])];
  const out: string[] = [];
  while (left2.length > 0) {
    const label = left2.splice(m.pick(left2.length), 1)[0] as string;
    if (m.pick(3) > 0) out.push(label);
  }
  const [f, g] = [m.fact(l), m.fact(r)];
  m.make("contract", [l, r], { spec: `${left.join("")},${right.join("")}->${out.join("")}` },
    { exact: f.exact && g.exact, bound: f.bound * g.bound * MAX_ELEMENTS });
}

function build(choices: readonly number[], only: readonly string[]): Graph {
  let at = 0;
  const m = new Maker((n) => (at < choices.length ? (choices[at++] as number) % n : 0));
  const name = (): string => m.one(NAMES);
  m.keep(m.b.param(name(), type("f32", m.shape())), { exact: true, bound: 3 });
  m.keep(m.b.param(name(), type("f32", [2, 3]), { kind: "values", values: [1, -0, 3e-310, Number.POSITIVE_INFINITY, -1.5, 1 / 3] }, false), { exact: true, bound: 3 });
  m.keep(m.b.input(name(), type("f32", [3, 1, 2]), 0), { exact: true, bound: 3 });
  m.keep(m.b.input(name(), type("f32", [m.one([3, 3, 2]), ...m.shape()]), 0), { exact: true, bound: 3 });
  if (m.pick(3) === 0) for (const key of ["k0", "k1"]) m.keep(m.b.input(key, type("u32", [])), { exact: true, bound: 3 });
  while (at < choices.length) {
    if (m.pick(4) === 0) m.b.origin = m.one(["Conv \"/conv\"", "Gemm"]);
    STEPS[m.one(only)]?.(m);
  }
  // what nobody reads is a result, and sometimes what somebody does
  const read = new Set(m.b.nodes.flatMap((n) => n.inputs));
  const last = m.pool.filter((v, k) => !read.has(v) || k === m.pool.length - 1 || m.pick(12) === 1).slice(-12);
  return m.b.finish(last.map((value, k) => ({ name: k === 0 ? "out" : `"${k}"`, value })));
}

/** Random graphs; `only` names the kinds of steps (default: all of them). */
export const graphs = (only: readonly string[] = Object.keys(STEPS)): fc.Arbitrary<Graph> =>
  fc.array(fc.nat(2 ** 16), { minLength: 8, maxLength: 400, size: "max" }).map((choices) => build(choices, only));

/** Shrinking a failure stops after this long: the best found so far is reported. A passing run takes a tenth of it. */
export const PATIENCE = { interruptAfterTimeLimit: 20_000 } as const;

/** Small whole numbers for every parameter and input, from a seed. */
export function bindings(graph: Graph, seed: number): Record<string, NdArray> {
  let state = seed >>> 0;
  const next = (n: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
  return Object.fromEntries([...graph.params, ...graph.inputs].map(({ value }) => {
    const { dtype, shape } = value.type;
    const draw = (): number => (dtype === "bool" ? next(2) : dtype === "f32" ? next(13) / 2 - 3 : next(4));
    return [value.name, ndarray(dtype, shape, Array.from({ length: size(shape) }, draw))];
  }));
}

/** Largest difference relative to the largest magnitude of a (at least 1); NaN and infinities must agree in place. */
export function difference(a: NdArray, b: NdArray): number {
  const scale = a.data.reduce((most, v) => (Number.isFinite(v) ? Math.max(most, Math.abs(v)) : most), 1);
  return a.data.reduce((most, v, k) => {
    const w = b.data[k] as number;
    if (Object.is(v, w) || v === w) return most;
    return Math.max(most, Number.isFinite(v) && Number.isFinite(w) ? Math.abs(v - w) / scale : Number.POSITIVE_INFINITY);
  }, 0);
}
