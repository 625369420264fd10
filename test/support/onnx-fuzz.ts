/**
 * Random ONNX graphs, as exporters write them. The same seed makes the same graph whatever the batch: sizes are known as numbers or as
 * multiples of the batch, so that a file with another batch, or with a symbol for it, can be made too.
 */
import { type AttrSpec, buildModel, type ModelSpec, type NodeSpec, type TensorSpec } from "./onnx-model.js";
import { random } from "./onnx-run.js";

export interface FuzzOptions {
  readonly seed: number;
  readonly batch: number;
  /** The batch is a symbol of the file: no constant may spell it. */
  readonly symbolic: boolean;
  readonly nodes?: number;
}

/** n, or n times the batch. */
interface Dim { readonly n: number; readonly b: boolean }
interface T { readonly name: string; readonly dims: readonly Dim[] }

const N = (n: number): Dim => ({ n, b: false });
const same = (a: Dim, b: Dim): boolean => a.n === b.n && a.b === b.b;
const total = (dims: readonly Dim[]): Dim => ({ n: dims.reduce((p, d) => p * d.n, 1), b: dims.some((d) => d.b) });
const one = (d: Dim): boolean => d.n === 1 && !d.b;

class Gen {
  readonly nodes: NodeSpec[] = [];
  readonly stored: Record<string, TensorSpec> = {};
  readonly values: T[] = [];
  #state: number;
  #next = 0;
  readonly opset: number;
  constructor(readonly o: FuzzOptions) {
    this.#state = (o.seed * 2654435761 + 99991) >>> 0;
    for (let k = 0; k < 5; k++) this.roll(2);
    this.opset = 7 + this.roll(15);
  }
  roll(n: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * n);
  }
  chance(percent: number): boolean { return this.roll(100) < percent; }
  pick<E>(list: readonly E[]): E { return list[this.roll(list.length)] as E; }
  fresh(): string { return `t${this.#next++}`; }
  size(d: Dim): number { return d.b ? d.n * this.o.batch : d.n; }
  node(op: string, inputs: readonly string[], attrs: Record<string, AttrSpec> = {}, outs = 1): string {
    return this.many(op, inputs, attrs, outs)[0] as string;
  }
  many(op: string, inputs: readonly string[], attrs: Record<string, AttrSpec> = {}, outs = 1): string[] {
    const outputs = Array.from({ length: outs }, () => this.fresh());
    this.nodes.push({ op, inputs, outputs, attrs });
    return outputs;
  }
  /** Stored numbers, spelled in one of the ways of exporters. */
  tensor(t: TensorSpec): string {
    const way = this.roll(4);
    if (way === 0) return this.node("Constant", [], { value: { tensor: t } });
    const name = this.fresh();
    this.stored[name] = t;
    return way === 1 ? this.node("Identity", [name]) : name;
  }
  ints(values: readonly number[]): string { return this.tensor({ dims: [values.length], type: 7, int64s: values }); }
  whole(value: number): string { return this.tensor({ dims: [], type: 7, int64s: [value] }); }
  scalar(value: number): string { return this.tensor({ dims: this.chance(70) ? [] : [1], floats: [value] }); }
  /** Random weights; sometimes as a view of what is stored. */
  weight(dims: readonly number[], scale = 1, shift = 0): string {
    const data = (n: number): number[] => [...random(n, this.o.seed * 31 + this.#next)].map((v) => v * scale + shift);
    const n = dims.reduce((a, b) => a * b, 1);
    const way = this.roll(8);
    if (way === 0 && dims.length === 2) return this.node("Transpose", [this.tensor({ dims: [...dims].reverse(), floats: data(n) })], this.chance(50) ? { perm: [1, 0] } : {});
    if (way === 1 && dims.length > 0) return this.node("Reshape", [this.tensor({ dims: [n], floats: data(n) }), this.ints(this.chance(50) ? dims : [-1, ...dims.slice(1)])]);
    if (way === 2) return this.node("Cast", [this.tensor({ dims, type: 11, doubles: data(n).map(Math.fround) })], { to: 1 });
    if (way === 3) return this.unsqueezed(this.squeezed(this.tensor({ dims: [1, ...dims], floats: data(n) }), [0]), [0], dims.length, true);
    return this.tensor({ dims, floats: data(n) });
  }
  unsqueezed(x: string, axes: readonly number[], _rank: number, undo = false): string {
    if (undo) return x;
    return this.opset < 13 ? this.node("Unsqueeze", [x], { axes }) : this.node("Unsqueeze", [x, this.ints(axes)]);
  }
  squeezed(x: string, axes: readonly number[]): string {
    return this.opset < 13 ? this.node("Squeeze", [x], { axes }) : this.node("Squeeze", [x, this.ints(axes)]);
  }
  out(name: string, dims: readonly Dim[]): void { this.values.push({ name, dims }); }
  any(test: (t: T) => boolean = () => true): T | undefined {
    const fit = this.values.filter(test);
    // the newest most often, so that graphs grow long
    return fit.length === 0 ? undefined : this.chance(65) ? fit.at(-1) : this.pick(fit);
  }
  /** A count of elements along an axis of x, computed as exporters do: int64[] or int64[1]. */
  dimOf(x: T, axis: number, flat: boolean): string {
    const shape = this.node("Shape", [x.name]);
    const way = this.roll(this.opset >= 15 ? 4 : this.opset >= 10 ? 3 : 2);
    if (way === 3) {
      const part = this.node("Shape", [x.name], { start: axis, ...(axis + 1 < x.dims.length ? { end: axis + 1 } : {}) });
      return flat ? part : this.squeezed(part, [0]);
    }
    if (way === 2) {
      const end = axis + 1 < x.dims.length ? axis + 1 : Number.MAX_SAFE_INTEGER;
      const part = this.node("Slice", [shape, this.ints([axis]), this.ints([end]), this.ints([0])]);
      const cast = this.chance(30) ? this.node("Cast", [this.node("Cast", [part], { to: 6 })], { to: 7 }) : part;
      return flat ? cast : this.squeezed(cast, [0]);
    }
    if (flat && way === 1) return this.node("Gather", [shape, this.ints([this.chance(50) ? axis : axis - x.dims.length])], { axis: 0 });
    const scalar = this.node("Gather", [shape, this.whole(axis)], { axis: 0 });
    return flat ? this.unsqueezed(scalar, [0], 0) : scalar;
  }
  /** A size as int64[1]: literal, or from the shape of x. */
  sizeOf(d: Dim, x: T): string {
    const literal = this.chance(50);
    if (!d.b && literal) return this.ints([d.n]);
    if (d.b && !this.o.symbolic && literal) return this.ints([this.size(d)]);
    let at = x.dims.findIndex((e) => same(e, d));
    if (at >= 0) return this.dimOf(x, at, true);
    at = x.dims.findIndex((e) => e.b === d.b && d.n % e.n === 0);
    if (at >= 0) return this.node("Mul", [this.dimOf(x, at, true), this.ints([d.n / (x.dims[at] as Dim).n])]);
    at = x.dims.findIndex((e) => e.b === d.b && e.n % d.n === 0);
    if (at >= 0) return this.node("Div", [this.dimOf(x, at, true), this.ints([(x.dims[at] as Dim).n / d.n])]);
    return d.b ? "" : this.ints([d.n]);
  }
  /** A shape as int64[rank]. `copied`: 0 and −1 are allowed. */
  shapeInput(wanted: readonly Dim[], x: T, copied: boolean): string | undefined {
    const open = copied && this.chance(60) ? this.roll(Math.max(1, wanted.length)) : -1;
    if (wanted.length > 0 && !wanted.some((d, k) => d.b && k !== open) && this.chance(50))
      return this.ints(wanted.map((d, k) => (k === open ? -1 : copied && x.dims[k] && same(x.dims[k] as Dim, d) && this.chance(30) ? 0 : d.n)));
    const parts = wanted.map((d, k) => {
      if (k === open) return this.ints([-1]);
      if (copied && x.dims[k] && same(x.dims[k] as Dim, d) && this.chance(25)) return this.ints([0]);
      return this.sizeOf(d, x);
    });
    if (parts.length === 0) return this.ints([]);
    return parts.includes("") ? undefined : this.node("Concat", parts, { axis: 0 });
  }
}

type Step = (g: Gen) => void;
const axisName = (g: Gen, axis: number, rank: number): number => (g.opset >= 11 && g.chance(40) ? axis - rank : axis);

const UNARY: readonly (readonly [string, number, Record<string, AttrSpec>?])[] = [
  ["Relu", 7], ["Tanh", 7], ["Sigmoid", 7], ["Neg", 7], ["Abs", 7], ["Softplus", 7], ["Erf", 9], ["LeakyRelu", 7, { alpha: { float: 0.2 } }], ["Elu", 7], ["HardSigmoid", 7],
  ["Softsign", 7], ["Sin", 7], ["Cos", 7], ["HardSwish", 14], ["Mish", 18], ["Celu", 12], ["ThresholdedRelu", 10, { alpha: { float: 0.3 } }], ["Selu", 7], ["Gelu", 20], ["Identity", 7],
  ["Sinh", 9], ["Atan", 7], ["Shrink", 9], ["Hardmax", 7],
];

const unary: Step = (g) => {
  const x = g.any() as T;
  const [op, since, attrs] = g.pick(UNARY);
  if (since > g.opset || (op === "Hardmax" && x.dims.length < 2) || op === "Hardmax") return;
  g.out(g.node(op, [x.name], attrs), x.dims);
};
const safe: Step = (g) => {
  const x = g.any() as T;
  const y = g.node("Add", [g.node("Abs", [x.name]), g.scalar(1)]);
  g.out(g.node(g.pick(["Log", "Sqrt", "Reciprocal"]), [y]), x.dims.length === 0 ? [] : x.dims);
};
/** A shape that broadcasts to dims. */
const partial = (g: Gen, dims: readonly Dim[]): number[] => {
  const from = g.roll(dims.length + 1);
  return dims.slice(from).map((d) => (d.b || g.chance(30) ? 1 : d.n));
};
const binary: Step = (g) => {
  const x = g.any() as T;
  const y = g.chance(50) ? g.any((t) => t.dims.length === x.dims.length && t.dims.every((d, k) => same(d, x.dims[k] as Dim) || one(d))) : undefined;
  const other = y?.name ?? g.weight(partial(g, x.dims), 0.7, 0.1);
  const op = g.pick(["Add", "Sub", "Mul", "Min", "Max", "Sum", "Mean", "PRelu", "Div"]);
  if ((op === "Min" || op === "Max" || op === "Sum" || op === "Mean") && g.opset < 8) return;
  if (op === "PRelu" || op === "Div") {
    const safeOther = g.node("Add", [g.node("Abs", [other]), g.scalar(0.5)]);
    return g.out(g.node(op, [x.name, safeOther]), x.dims.length === 0 ? [] : x.dims);
  }
  const swap = g.chance(40);
  const more = ["Min", "Max", "Sum", "Mean"].includes(op) && g.chance(30) ? [x.name] : [];
  g.out(g.node(op, swap ? [other, x.name, ...more] : [x.name, other, ...more]), x.dims);
};
const where: Step = (g) => {
  if (g.opset < 9) return;
  const x = g.any() as T;
  const way = g.roll(3);
  const limit = way === 0 ? g.scalar(0.1) : g.weight(partial(g, x.dims));
  let mask = g.node(g.pick(["Less", "Greater", ...(g.opset >= 12 ? ["LessOrEqual", "GreaterOrEqual"] : [])]), [x.name, limit]);
  if (g.chance(30)) mask = g.node("Not", [mask]);
  if (g.chance(20)) mask = g.node("And", [mask, g.node("Cast", [g.node("Cast", [mask], { to: 1 })], { to: 9 })]);
  g.out(g.node("Where", [mask, g.chance(50) ? g.scalar(-1.5) : g.weight(partial(g, x.dims)), x.name]), x.dims);
};
const clip: Step = (g) => {
  const x = g.any() as T;
  if (g.opset < 11) return g.out(g.node("Clip", [x.name], g.chance(50) ? { min: { float: -0.5 }, max: { float: 0.6 } } : { max: { float: 0.4 } }), x.dims);
  const [low, high] = [g.chance(70) ? g.tensor({ dims: [], floats: [-0.4] }) : "", g.chance(70) ? g.tensor({ dims: [], floats: [0.5] }) : ""];
  g.out(g.node("Clip", high === "" ? (low === "" ? [x.name] : [x.name, low]) : [x.name, low, high]), x.dims);
};
const softmax: Step = (g) => {
  const x = g.any((t) => t.dims.length > 0);
  if (!x) return;
  const op = g.pick(["Softmax", "LogSoftmax", "Softmax"]);
  const axis = g.roll(x.dims.length);
  g.out(g.node(op, [x.name], g.chance(20) && x.dims.length > 1 ? {} : { axis: axisName(g, axis, x.dims.length) }), x.dims);
};
const REDUCE = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceProd"];
function reduced(g: Gen, op: string, x: T, axes: readonly number[], keep: boolean): string {
  const named = axes.map((a) => axisName(g, a, x.dims.length));
  const asInput = g.opset >= (op === "ReduceSum" ? 13 : 18);
  const attrs = keep && g.chance(50) ? {} : { keepdims: Number(keep) };
  if (axes.length === x.dims.length && g.chance(50)) return g.node(op, [x.name], attrs);
  return asInput ? g.node(op, [x.name, g.ints(named)], attrs) : g.node(op, [x.name], { axes: named, ...attrs });
}
const reduce: Step = (g) => {
  const x = g.any((t) => t.dims.length > 0);
  if (!x) return;
  const axes = x.dims.flatMap((d, k) => (g.chance(d.b ? 8 : 40) ? [k] : []));
  if (axes.length === 0) return;
  const keep = g.chance(50);
  const op = g.pick(REDUCE);
  g.out(reduced(g, op, x, axes, keep), x.dims.flatMap((d, k) => (axes.includes(k) ? (keep ? [N(1)] : []) : [d])));
};
const layerNorm: Step = (g) => {
  const x = g.any((t) => t.dims.length > 1 && !(t.dims.at(-1) as Dim).b);
  if (!x) return;
  const [rank, n] = [x.dims.length, (x.dims.at(-1) as Dim).n];
  if (g.opset >= 17 && g.chance(50)) return g.out(g.node("LayerNormalization", [x.name, g.weight([n]), ...(g.chance(70) ? [g.weight([n])] : [])], { axis: g.chance(50) ? -1 : rank - 1, epsilon: { float: 1e-2 } }), x.dims);
  const m = reduced(g, "ReduceMean", x, [rank - 1], true);
  const d = g.node("Sub", [x.name, m]);
  const v = reduced(g, "ReduceMean", { name: g.node("Pow", [d, g.scalar(2)]), dims: x.dims }, [rank - 1], true);
  const y = g.node("Div", [d, g.node("Sqrt", [g.node("Add", [v, g.scalar(0.01)])])]);
  g.out(g.node("Add", [g.node("Mul", [y, g.weight([n])]), g.weight([n])]), x.dims);
};
const matmul: Step = (g) => {
  const x = g.any((t) => t.dims.length > 0 && !(t.dims.at(-1) as Dim).b);
  if (!x) return;
  const [n, o] = [(x.dims.at(-1) as Dim).n, 1 + g.roll(5)];
  const rest = x.dims.slice(0, -1);
  const w = g.weight(x.dims.length > 2 && g.chance(15) ? [1, n, o] : [n, o], 1 / Math.sqrt(n));
  const y = g.node("MatMul", [x.name, w]);
  g.out(g.chance(60) ? g.node("Add", g.chance(50) ? [y, g.weight([o])] : [g.weight([o]), y]) : y, [...rest, N(o)]);
};
const gemm: Step = (g) => {
  const x = g.any((t) => t.dims.length === 2 && !(t.dims[1] as Dim).b);
  if (!x) return;
  const [n, o] = [(x.dims[1] as Dim).n, 1 + g.roll(5)];
  const transB = g.roll(2);
  const bias = g.roll(4);
  const w = g.weight(transB ? [o, n] : [n, o], 1 / Math.sqrt(n));
  const c = bias === 0 && g.opset >= 11 ? [] : [g.weight(bias === 1 ? [1, o] : bias === 2 && g.opset >= 9 ? [1] : [o])];
  g.out(g.node("Gemm", [x.name, w, ...c], { ...(transB ? { transB } : {}), ...(g.chance(20) ? { alpha: { float: 0.5 }, beta: { float: 2 } } : {}) }), [x.dims[0] as Dim, N(o)]);
};
/** q·kᵀ of two values or one, as attention writes it. */
const scores: Step = (g) => {
  const x = g.any((t) => t.dims.length >= 2 && t.dims.length <= 4 && t.dims.slice(-2).every((d) => !d.b));
  if (!x) return;
  const rank = x.dims.length;
  const perm = [...Array.from({ length: rank - 2 }, (_, k) => k), rank - 1, rank - 2];
  const t = g.node("Transpose", [x.name], { perm });
  const [rows, width] = [x.dims.at(-2) as Dim, x.dims.at(-1) as Dim];
  const scale = g.chance(50) ? g.node("Sqrt", [g.node("Cast", [g.dimOf(x, rank - 1, false)], { to: 1 })]) : g.scalar(Math.sqrt(width.n));
  const s = g.node("Softmax", [g.node("Div", [g.node("MatMul", [x.name, t]), scale])], { axis: g.opset >= 13 ? -1 : rank - 1 });
  g.out(g.chance(30) ? s : g.node("MatMul", [s, x.name]), [...x.dims.slice(0, -2), rows, g.nodes.at(-1)?.op === "MatMul" ? width : rows]);
};
const transpose: Step = (g) => {
  const x = g.any((t) => t.dims.length > 1);
  if (!x) return;
  const perm = x.dims.map((_, k) => k);
  if (g.chance(70) && x.dims.length > 2) {
    const [a, b] = [1 + g.roll(perm.length - 1), 1 + g.roll(perm.length - 1)];
    [perm[a], perm[b]] = [perm[b] as number, perm[a] as number];
  } else for (let k = perm.length - 1; k > 0; k--) {
    const j = g.roll(k + 1);
    [perm[k], perm[j]] = [perm[j] as number, perm[k] as number];
  }
  g.out(g.node("Transpose", [x.name], { perm }), perm.map((k) => x.dims[k] as Dim));
};
/** x.view of merged and split axes. */
const reshape: Step = (g) => {
  const x = g.any() as T;
  const dims: Dim[] = [];
  for (let k = 0; k < x.dims.length; k++) {
    const d = x.dims[k] as Dim;
    const last = dims.at(-1);
    if (last && g.chance(35) && !(last.b && d.b)) dims[dims.length - 1] = total([last, d]);
    else if (d.n % 2 === 0 && g.chance(30)) dims.push(...(d.b || g.chance(50) ? [{ n: d.n / 2, b: d.b }, N(2)] : [N(2), N(d.n / 2)]));
    else dims.push(d);
  }
  if (g.chance(15)) dims.splice(g.roll(dims.length + 1), 0, N(1));
  const target = g.shapeInput(dims, x, true);
  if (target !== undefined && dims.length <= 5 && dims.length > 0) g.out(g.node("Reshape", [x.name, target]), dims);
};
const flatten: Step = (g) => {
  const x = g.any((t) => t.dims.length > 0);
  if (!x) return;
  const axis = g.roll(x.dims.length + 1);
  const [a, b] = [x.dims.slice(0, axis), x.dims.slice(axis)];
  g.out(g.node("Flatten", [x.name], axis === 1 && g.chance(50) ? {} : { axis: g.opset >= 11 && axis < x.dims.length && g.chance(30) ? axis - x.dims.length : axis }), [total(a), total(b)]);
};
const unsqueeze: Step = (g) => {
  const x = g.any((t) => t.dims.length < 5);
  if (!x) return;
  const at = g.roll(x.dims.length + 1);
  g.out(g.unsqueezed(x.name, [axisName(g, at, x.dims.length + 1)], 0), [...x.dims.slice(0, at), N(1), ...x.dims.slice(at)]);
};
const squeeze: Step = (g) => {
  const x = g.any((t) => t.dims.some(one));
  if (!x) return;
  const axes = x.dims.flatMap((d, k) => (one(d) && g.chance(60) ? [k] : []));
  if (axes.length === 0) return;
  g.out(g.squeezed(x.name, axes.map((a) => axisName(g, a, x.dims.length))), x.dims.filter((_, k) => !axes.includes(k)));
};
const expand: Step = (g) => {
  const x = g.any((t) => t.dims.some(one) || t.dims.length < 4);
  if (!x || g.opset < 8) return;
  const dims = [...(x.dims.length < 4 && g.chance(30) ? [N(2)] : []), ...x.dims.map((d) => (one(d) && g.chance(60) ? N(1 + g.roll(3)) : d))];
  const shift = dims.length - x.dims.length;
  const spelled = dims.map((d, k) => (k >= shift && same(d, x.dims[k - shift] as Dim) && (d.b || g.chance(30)) && g.chance(60) ? N(1) : d));
  const target = g.shapeInput(spelled, x, false);
  if (target !== undefined) g.out(g.node("Expand", [x.name, target]), dims);
};
/** A stored row repeated for every example (class token, positions, initial states). */
const perExample: Step = (g) => {
  const x = g.any((t) => t.dims.length >= 2 && t.dims.length <= 4 && (t.dims[0] as Dim).b && (t.dims[0] as Dim).n === 1 && !t.dims.slice(1).some((d) => d.b));
  if (!x || g.opset < 9) return;
  const way = g.roll(3);
  const dims = x.dims.map((d, k) => (k === 1 ? N(1) : d));
  let made: string;
  if (way === 0) {
    const target = g.shapeInput(g.chance(40) ? dims.map((d, k) => (k > 0 && g.roll(2) ? N(1) : d)) : dims, x, false);
    if (target === undefined) return;
    made = g.node("Expand", [g.weight([1, 1, ...dims.slice(2).map((d) => d.n)]), target]);
  } else if (way === 1) {
    const target = g.shapeInput(dims, x, false);
    if (target === undefined) return;
    made = g.node("ConstantOfShape", [target], { value: { tensor: { dims: [1], floats: [0.25] } } });
  } else {
    const repeats = g.shapeInput(dims.map((d, k) => (k === 0 ? d : N(1))), x, false);
    if (repeats === undefined) return;
    made = g.node("Tile", [g.weight([1, 1, ...dims.slice(2).map((d) => d.n)]), repeats]);
  }
  if (g.chance(60)) g.out(g.node("Concat", g.chance(50) ? [made, x.name] : [x.name, made], { axis: 1 }), x.dims.map((d, k) => (k === 1 ? N(d.n + 1) : d)));
  else g.out(g.node("Add", [made, x.name]), x.dims);
};
const tile: Step = (g) => {
  const x = g.any((t) => t.dims.length > 0 && total(t.dims).n < 60);
  if (!x) return;
  const repeats = x.dims.map((d) => (d.b ? (g.chance(5) ? 2 : 1) : g.chance(40) ? 2 : 1));
  g.out(g.node("Tile", [x.name, g.ints(repeats)]), x.dims.map((d, k) => ({ n: d.n * (repeats[k] as number), b: d.b })));
};
const concat: Step = (g) => {
  const x = g.any((t) => t.dims.length > 0);
  if (!x) return;
  const axis = g.roll(x.dims.length);
  if ((x.dims[axis] as Dim).b && g.chance(80)) return;
  const y = g.values.filter((t) => t.dims.length === x.dims.length && t.dims.every((d, k) => (k === axis ? d.b === (x.dims[k] as Dim).b : same(d, x.dims[k] as Dim))));
  const other = g.pick(y);
  g.out(g.node("Concat", [x.name, other.name], { axis: g.opset >= 11 ? axisName(g, axis, x.dims.length) : axis }), x.dims.map((d, k) => (k === axis ? { n: d.n + (other.dims[k] as Dim).n, b: d.b } : d)));
};
const split: Step = (g) => {
  const x = g.any((t) => t.dims.some((d) => !d.b && d.n > 1));
  if (!x) return;
  const axis = g.pick(x.dims.flatMap((d, k) => (!d.b && d.n > 1 ? [k] : [])));
  const n = (x.dims[axis] as Dim).n;
  const way = g.roll(3);
  const parts = way === 0 ? [1, n - 1] : way === 1 && n % 2 === 0 ? [n / 2, n / 2] : g.opset >= 18 ? [Math.ceil(n / 2), n - Math.ceil(n / 2)] : [n - 1, 1];
  const implicit = (parts[0] === parts[1] && g.chance(50)) || (g.opset >= 18 && parts[0] === Math.ceil(n / 2) && g.chance(50));
  const attrs = { axis: g.opset >= 11 ? axisName(g, axis, x.dims.length) : axis };
  const names = implicit ? g.many("Split", [x.name], { ...attrs, ...(g.opset >= 18 ? { num_outputs: 2 } : {}) }, 2)
    : g.opset >= 13 ? g.many("Split", [x.name, g.ints(parts)], attrs, 2) : g.many("Split", [x.name], { ...attrs, split: parts }, 2);
  names.forEach((name, k) => g.out(name, x.dims.map((d, a) => (a === axis ? N(parts[k] as number) : d))));
};
const slice: Step = (g) => {
  const x = g.any((t) => t.dims.some((d) => !d.b));
  if (!x) return;
  const free = x.dims.flatMap((d, k) => (d.b ? [] : [k]));
  const axes = free.filter(() => g.chance(60));
  if (axes.length === 0) return;
  const reversed = g.opset >= 10 && g.chance(20);
  const ranges = axes.map((axis) => {
    const n = (x.dims[axis] as Dim).n;
    const from = g.roll(n);
    const to = from + 1 + g.roll(n - from);
    const step = g.opset >= 10 ? 1 + g.roll(2) : 1;
    if (reversed) return { from: g.chance(50) ? -1 : 2 ** 31 - 1, to: -(2 ** 40), step: -1, count: n };
    const end = to === n && g.chance(60) ? (g.chance(50) ? 2 ** 53 - 1 : 2 ** 31 - 1) : to < n && g.chance(40) ? to - n : to;
    return { from: from > 0 && g.chance(30) ? from - n : from, to: end, step, count: Math.ceil((to - from) / step) };
  });
  const dims = x.dims.map((d, k) => (axes.includes(k) ? N((ranges[axes.indexOf(k)] as { count: number }).count) : d));
  const [starts, ends, steps] = [ranges.map((r) => r.from), ranges.map((r) => r.to), ranges.map((r) => r.step)];
  if (g.opset < 10) return g.out(g.node("Slice", [x.name], { starts, ends, axes }), dims);
  const named = g.ints(axes.map((a) => axisName(g, a, x.dims.length)));
  g.out(g.node("Slice", [x.name, g.ints(starts), g.ints(ends), named, ...(steps.some((s) => s !== 1) || g.chance(50) ? [g.ints(steps)] : [])]), dims);
};
const pad: Step = (g) => {
  const x = g.any((t) => t.dims.length > 0);
  if (!x) return;
  const mode = g.pick(["constant", "constant", "reflect", "edge"]);
  const most = (d: Dim): number => (d.b ? 0 : mode === "reflect" ? Math.min(2, d.n - 1) : 2);
  const [low, high] = [x.dims.map((d) => g.roll(most(d) + 1)), x.dims.map((d) => g.roll(most(d) + 1))];
  const pads = [...low, ...high];
  const dims = x.dims.map((d, k) => (d.b ? d : N(d.n + (low[k] as number) + (high[k] as number))));
  if (total(dims).n > 400) return;
  const attrs: Record<string, AttrSpec> = mode === "constant" && g.chance(50) ? {} : { mode };
  if (g.opset < 11) return g.out(g.node("Pad", [x.name], { ...attrs, pads, ...(g.chance(50) ? { value: { float: 0.5 } } : {}) }), dims);
  g.out(g.node("Pad", [x.name, g.ints(pads), ...(mode === "constant" && g.chance(60) ? [g.tensor({ dims: [], floats: [0.5] })] : [])], attrs), dims);
};
const gather: Step = (g) => {
  const x = g.any((t) => t.dims.some((d) => !d.b));
  if (!x) return;
  const axis = g.pick(x.dims.flatMap((d, k) => (d.b ? [] : [k])));
  const n = (x.dims[axis] as Dim).n;
  const scalar = g.chance(40);
  const index = Array.from({ length: scalar ? 1 : 1 + g.roll(4) }, () => g.roll(n) - (g.opset >= 11 && g.chance(30) ? n : 0));
  const name = scalar ? g.whole(index[0] as number) : g.ints(index);
  g.out(g.node("Gather", [x.name, name], { axis: axisName(g, axis, x.dims.length) }), [...x.dims.slice(0, axis), ...(scalar ? [] : [N(index.length)]), ...x.dims.slice(axis + 1)]);
};
/** Embedding rows looked up by the place of the largest element. */
const lookUp: Step = (g) => {
  const x = g.any((t) => t.dims.length >= 2 && !(t.dims.at(-1) as Dim).b && (t.dims.at(-1) as Dim).n > 1);
  if (!x) return;
  const n = (x.dims.at(-1) as Dim).n;
  const index = g.node("ArgMax", [x.name], { axis: x.dims.length - 1, keepdims: 0 });
  g.out(g.node("Gather", [g.weight([n, 3]), index]), [...x.dims.slice(0, -1), N(3)]);
};
const gatherElements: Step = (g) => {
  if (g.opset < 11) return;
  const x = g.any((t) => t.dims.length >= 2 && !(t.dims.at(-1) as Dim).b && (t.dims.at(-1) as Dim).n > 1);
  if (!x) return;
  const index = g.node("ArgMax", [x.name], { axis: -1, keepdims: 1 });
  g.out(g.node("GatherElements", [x.name, index], { axis: g.chance(50) ? -1 : x.dims.length - 1 }), [...x.dims.slice(0, -1), N(1)]);
};
const topK: Step = (g) => {
  if (g.opset < 10) return;
  const x = g.any((t) => t.dims.length >= 1 && t.dims.some((d) => !d.b && d.n > 1));
  if (!x) return;
  const axis = g.pick(x.dims.flatMap((d, k) => (!d.b && d.n > 1 ? [k] : [])));
  const k = 1 + g.roll((x.dims[axis] as Dim).n);
  const [values] = g.many("TopK", [x.name, g.ints([k])], { axis: axisName(g, axis, x.dims.length), ...(g.opset >= 11 ? { largest: g.roll(2) } : {}) }, 2);
  g.out(values as string, x.dims.map((d, a) => (a === axis ? N(k) : d)));
};
const cumSum: Step = (g) => {
  if (g.opset < 11) return;
  const x = g.any((t) => t.dims.length >= 1 && t.dims.some((d) => !d.b));
  if (!x) return;
  const axis = g.pick(x.dims.flatMap((d, k) => (d.b ? [] : [k])));
  g.out(g.node("CumSum", [x.name, g.whole(axisName(g, axis, x.dims.length))], { ...(g.chance(30) ? { exclusive: 1 } : {}), ...(g.chance(30) ? { reverse: 1 } : {}) }), x.dims);
};
const image = (g: Gen): T | undefined => g.any((t) => (t.dims.length === 3 || t.dims.length === 4) && t.dims.slice(1).every((d) => !d.b));
function sliding(g: Gen, x: T): { attrs: Record<string, AttrSpec>; kernel: number[]; out: number[] } | undefined {
  const spatial = x.dims.slice(2).map((d) => d.n);
  const kernel = spatial.map((n) => 1 + g.roll(Math.min(3, n)));
  const strides = spatial.map(() => 1 + g.roll(2));
  const auto = g.chance(25);
  if (auto) return { attrs: { kernel_shape: kernel, strides, auto_pad: g.pick(["SAME_UPPER", "SAME_LOWER"]) }, kernel, out: spatial.map((n, d) => Math.ceil(n / (strides[d] as number))) };
  const low = kernel.map((k) => g.roll(k));
  const high = kernel.map((k) => g.roll(k));
  const out = spatial.map((n, d) => Math.floor((n + (low[d] as number) + (high[d] as number) - (kernel[d] as number)) / (strides[d] as number)) + 1);
  if (out.some((n) => n < 1)) return undefined;
  return { attrs: { kernel_shape: kernel, strides, pads: [...low, ...high] }, kernel, out };
}
const conv: Step = (g) => {
  const x = image(g);
  if (!x) return;
  const s = sliding(g, x);
  if (!s) return;
  const c = (x.dims[1] as Dim).n;
  const group = g.chance(30) ? c : 1;
  const o = group === 1 ? 1 + g.roll(4) : c * (1 + g.roll(2));
  g.out(g.node("Conv", [x.name, g.weight([o, c / group, ...s.kernel], 0.4), ...(g.chance(60) ? [g.weight([o])] : [])], { ...s.attrs, ...(group === 1 ? {} : { group }) }), [x.dims[0] as Dim, N(o), ...s.out.map(N)]);
};
const convTranspose: Step = (g) => {
  const x = image(g);
  if (!x || total(x.dims.slice(1)).n > 60) return;
  const c = (x.dims[1] as Dim).n;
  const o = 1 + g.roll(3);
  const strides = x.dims.slice(2).map(() => 1 + g.roll(2));
  const kernel = strides.map((st) => st + g.roll(2));
  const pads = kernel.map((k) => Number(k > 1 && g.chance(30)));
  const out = x.dims.slice(2).map((d, k) => (d.n - 1) * (strides[k] as number) + (kernel[k] as number) - 2 * (pads[k] as number));
  if (out.some((n) => n < 1)) return;
  g.out(g.node("ConvTranspose", [x.name, g.weight([c, o, ...kernel], 0.4), ...(g.chance(50) ? [g.weight([o])] : [])], { strides, pads: [...pads, ...pads], kernel_shape: kernel }), [x.dims[0] as Dim, N(o), ...out.map(N)]);
};
const pool: Step = (g) => {
  const x = image(g);
  if (!x) return;
  const op = g.pick(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"]);
  if (op.startsWith("Global")) return g.out(g.node(op, [x.name]), [...x.dims.slice(0, 2), ...x.dims.slice(2).map(() => N(1))]);
  const s = sliding(g, x);
  if (!s) return;
  const count = op === "AveragePool" && g.chance(40) ? { count_include_pad: 1 } : {};
  g.out(g.node(op, [x.name], { ...s.attrs, ...count }), [...x.dims.slice(0, 2), ...s.out.map(N)]);
};
const batchNorm: Step = (g) => {
  const x = g.any((t) => t.dims.length >= 2 && !(t.dims[1] as Dim).b);
  if (!x) return;
  const c = (x.dims[1] as Dim).n;
  g.out(g.node("BatchNormalization", [x.name, g.weight([c]), g.weight([c]), g.weight([c]), g.weight([c], 0.4, 1)]), x.dims);
};
const instanceNorm: Step = (g) => {
  const x = image(g);
  if (!x) return;
  const c = (x.dims[1] as Dim).n;
  g.out(g.node("InstanceNormalization", [x.name, g.weight([c]), g.weight([c])], { epsilon: { float: 0.1 } }), x.dims);
};
/** As PyTorch writes GroupNorm before opset 21: a view to [N, groups, −1], InstanceNormalization, a view back. */
const groupNorm: Step = (g) => {
  const x = image(g);
  if (!x || (x.dims[1] as Dim).n % 2 !== 0) return;
  const c = (x.dims[1] as Dim).n;
  const flat = g.node("Reshape", [x.name, g.ints([0, 2, -1])]);
  const norm = g.node("InstanceNormalization", [flat, g.tensor({ dims: [2], floats: [1, 1] }), g.tensor({ dims: [2], floats: [0, 0] })], { epsilon: { float: 0.1 } });
  const back = g.node("Reshape", [norm, g.node("Shape", [x.name])]);
  const ones = x.dims.slice(2).map(() => 1);
  g.out(g.node("Add", [g.node("Mul", [back, g.weight([c, ...ones])]), g.weight([c, ...ones])]), x.dims);
};
const resize: Step = (g) => {
  if (g.opset < 11) return;
  const x = image(g);
  if (!x || total(x.dims.slice(1)).n > 60) return;
  const mode = g.pick(["nearest", "linear"]);
  const spatial = x.dims.slice(2).map((d) => d.n * (1 + g.roll(2)) + (g.chance(20) ? 1 : 0));
  const coordinates = mode === "nearest" ? "asymmetric" : g.pick(["half_pixel", "align_corners", "pytorch_half_pixel", "asymmetric"]);
  const attrs: Record<string, AttrSpec> = { mode, coordinate_transformation_mode: coordinates, ...(mode === "nearest" ? { nearest_mode: "floor" } : {}) };
  const dims = [...x.dims.slice(0, 2), ...spatial.map(N)];
  const none = g.opset >= 13 || g.chance(50) ? "" : g.tensor({ dims: [0], floats: [] });
  const whole = spatial.every((n, k) => n % (x.dims[k + 2] as Dim).n === 0);
  if (whole && g.chance(40)) {
    const factors = spatial.map((n, k) => n / (x.dims[k + 2] as Dim).n);
    if (g.chance(30)) { // computed scales, as Keras and Paddle write them
      const part = g.node("Concat", [g.tensor({ dims: [2], floats: [1, 1] }), g.tensor({ dims: [factors.length], floats: factors })], { axis: 0 });
      return g.out(g.node("Resize", [x.name, none, part], attrs), dims);
    }
    return g.out(g.node("Resize", [x.name, none, g.tensor({ dims: [spatial.length + 2], floats: [1, 1, ...factors] })], attrs), dims);
  }
  const shape = g.node("Slice", [g.node("Shape", [x.name]), g.ints([0]), g.ints([2]), g.ints([0])]);
  g.out(g.node("Resize", [x.name, none, none === "" ? "" : g.tensor({ dims: [0], floats: [] }), g.node("Concat", [shape, g.ints(spatial)], { axis: 0 })], attrs), dims);
};
const blocks: Step = (g) => {
  const x = g.any((t) => t.dims.length === 4 && t.dims.slice(1).every((d) => !d.b) && ((t.dims[1] as Dim).n % 4 === 0 || t.dims.slice(2).every((d) => d.n % 2 === 0)));
  if (!x) return;
  const [n, c, h, w] = x.dims as [Dim, Dim, Dim, Dim];
  if (c.n % 4 === 0) return g.out(g.node("DepthToSpace", [x.name], { blocksize: 2, ...(g.opset >= 11 && g.chance(50) ? { mode: "CRD" } : {}) }), [n, N(c.n / 4), N(h.n * 2), N(w.n * 2)]);
  g.out(g.node("SpaceToDepth", [x.name], { blocksize: 2 }), [n, N(c.n * 4), N(h.n / 2), N(w.n / 2)]);
};
const einsum: Step = (g) => {
  if (g.opset < 12) return;
  const x = g.any((t) => t.dims.length >= 2 && t.dims.length <= 4 && !(t.dims.at(-1) as Dim).b);
  if (!x) return;
  const labels = "bhqd".slice(0, x.dims.length);
  const last = labels.at(-1) as string;
  const o = 1 + g.roll(3);
  const to = g.chance(50) ? `${labels.slice(0, -1)}o` : `o${labels.slice(0, -1)}`;
  const rest = x.dims.slice(0, -1);
  g.out(g.node("Einsum", [x.name, g.weight([(x.dims.at(-1) as Dim).n, o])], { equation: `${labels},${last}o->${to}` }), to.startsWith("o") ? [N(o), ...rest] : [...rest, N(o)]);
};
const trilu: Step = (g) => {
  if (g.opset < 14) return;
  const x = g.any((t) => t.dims.length >= 2 && t.dims.slice(-2).every((d) => !d.b));
  if (!x) return;
  g.out(g.node("Trilu", [x.name, ...(g.chance(50) ? [g.whole(g.roll(3) - 1)] : [])], { upper: g.roll(2) }), x.dims);
};
/** A causal mask of computed size. */
const causal: Step = (g) => {
  if (g.opset < 11) return;
  const x = g.any((t) => t.dims.length >= 2 && t.dims.slice(-2).every((d) => !d.b));
  if (!x) return;
  const rank = x.dims.length;
  const [rows, columns] = [g.dimOf(x, rank - 2, false), g.dimOf(x, rank - 1, false)];
  const [zero, step] = [g.whole(0), g.whole(1)];
  const i = g.unsqueezed(g.node("Range", [zero, rows, step]), [1], 0);
  const j = g.unsqueezed(g.node("Range", [zero, columns, step]), [0], 0);
  const mask = g.node("Less", [i, j]);
  g.out(g.node("Where", [mask, g.scalar(-3), x.name]), x.dims);
};
/** x + positions: an embedding of 0, 1, 2, … */
const positions: Step = (g) => {
  if (g.opset < 11) return;
  const x = g.any((t) => t.dims.length >= 2 && t.dims.slice(-2).every((d) => !d.b));
  if (!x) return;
  const [rows, width] = x.dims.slice(-2) as [Dim, Dim];
  const ids = g.node("Range", [g.whole(0), g.dimOf(x, x.dims.length - 2, false), g.whole(1)]);
  const table = g.weight([rows.n + 2, width.n]);
  g.out(g.node("Add", [x.name, g.chance(50) ? g.node("Gather", [table, ids]) : g.node("Slice", [table, g.ints([0]), g.dimOf(x, x.dims.length - 2, true), g.ints([0])])]), x.dims);
};
const mixed: Step = (g) => {
  const x = g.any((t) => t.dims.length === 2 && (t.dims[0] as Dim).b && !(t.dims[1] as Dim).b);
  if (!x) return;
  // mean over the examples, taken away again
  g.out(g.node("Sub", [x.name, reduced(g, "ReduceMean", x, [0], true)]), x.dims);
};
const scatterND: Step = (g) => {
  if (g.opset < 11) return;
  const x = g.any((t) => t.dims.length >= 1 && t.dims.length <= 3 && !t.dims.some((d) => d.b));
  if (!x) return;
  const n = (x.dims[0] as Dim).n;
  const at = g.roll(n);
  g.out(g.node("ScatterND", [x.name, g.tensor({ dims: [1, 1], type: 7, int64s: [at] }), g.weight([1, ...x.dims.slice(1).map((d) => d.n)])]), x.dims);
};
const oneHot: Step = (g) => {
  if (g.opset < 9) return;
  const x = g.any((t) => t.dims.length >= 2 && t.dims.length <= 3 && !(t.dims.at(-1) as Dim).b && (t.dims.at(-1) as Dim).n > 1);
  if (!x) return;
  const n = (x.dims.at(-1) as Dim).n;
  const index = g.node("ArgMax", [x.name], { axis: x.dims.length - 1, keepdims: 0 });
  const hot = g.node("OneHot", [index, g.whole(n), g.tensor({ dims: [2], floats: g.chance(50) ? [0, 1] : [0.1, 0.8] })]);
  g.out(g.node("Mul", [hot, x.name]), x.dims);
};
const toFloatSize: Step = (g) => {
  const x = g.any((t) => t.dims.some((d) => !d.b));
  if (!x) return;
  const axis = x.dims.findIndex((d) => !d.b);
  g.out(g.node("Div", [x.name, g.node("Cast", [g.dimOf(x, axis, false)], { to: 1 })]), x.dims);
};
const dropout: Step = (g) => {
  const x = g.any() as T;
  g.out(g.node("Dropout", [x.name]), x.dims);
};

const STEPS: readonly (readonly [Step, number])[] = [
  [unary, 8], [safe, 2], [binary, 8], [where, 3], [clip, 2], [softmax, 4], [reduce, 6], [layerNorm, 3], [matmul, 5], [gemm, 4], [scores, 4], [transpose, 6], [reshape, 9], [flatten, 3], [unsqueeze, 3],
  [squeeze, 3], [expand, 4], [perExample, 5], [tile, 2], [concat, 4], [split, 4], [slice, 5], [pad, 3], [gather, 4], [lookUp, 2], [gatherElements, 1], [topK, 2], [cumSum, 2], [conv, 5], [convTranspose, 2],
  [pool, 4], [batchNorm, 3], [instanceNorm, 1], [groupNorm, 2], [resize, 3], [blocks, 2], [einsum, 2], [trilu, 1], [causal, 2], [positions, 2], [mixed, 1], [scatterND, 1], [oneHot, 1], [toFloatSize, 1], [dropout, 1],
];
const WEIGHTED = STEPS.flatMap(([step, weight]) => new Array<Step>(weight).fill(step));

export interface Fuzzed { readonly spec: ModelSpec; readonly bytes: Uint8Array; readonly opset: number }

export function fuzzModel(o: FuzzOptions): Fuzzed {
  const g = new Gen(o);
  const rank = 1 + g.roll(4);
  const dims: Dim[] = [{ n: 1, b: true }, ...Array.from({ length: rank }, () => N(g.pick([1, 2, 3, 4, 4, 5, 6])))];
  const names = g.chance(25) ? ["x", "z"] : ["x"];
  const inputs = Object.fromEntries(names.map((name) => [name, dims.map((d) => (d.b ? (o.symbolic ? "N" : o.batch) : d.n))]));
  for (const name of names) g.out(name, dims);
  const wanted = 3 + g.roll(o.nodes ?? 8);
  for (let tries = 0; tries < 60 && g.values.length < wanted + names.length; tries++) {
    const before = g.values.length;
    g.pick(WEIGHTED)(g);
    const made = g.values.at(-1) as T;
    if (g.values.length > before && (total(made.dims).n > 600 || made.dims.length > 5)) g.values.length = before;
  }
  const last = g.values.at(-1) as T;
  const outputs = [last.name === "x" || last.name === "z" ? g.node("Identity", [last.name]) : last.name];
  const more = g.values.length > 3 && g.chance(30) ? g.values[g.values.length - 2] : undefined;
  if (more && !names.includes(more.name) && more.name !== outputs[0]) outputs.push(more.name);
  const spec: ModelSpec = { opset: g.opset, inputs, outputs, nodes: g.nodes, initializers: g.stored };
  return { spec, bytes: buildModel(spec), opset: g.opset };
}
