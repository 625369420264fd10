/**
 * The oracle's primitives with long sums done faster, each value dropped after its last use; in float64, or in float32 with the terms of every
 * sum in a random order. What the second loses is what float32 can be blamed for.
 */
import type { Graph, Node, Value } from "../../ir/graph.js";
import { empty, type NdArray } from "../../ir/ndarray.js";
import { OPS } from "../../ir/ops/index.js";
import { labelSizes, parseSpec } from "../../ir/ops/reduction.js";
import { size, strides, type Type } from "../../ir/type.js";
import { random } from "../support/models.js";

type Bindings = Readonly<Record<string, NdArray>>;
type Next = (() => number) | undefined;

/** Results by name. `seed`: round to float32 after each operation and sum in an order of its own; undefined: float64. */
export function evaluateFast(graph: Graph, bindings: Bindings, seed?: number): Record<string, NdArray> {
  const next: Next = seed === undefined ? undefined : random(seed);
  const uses = new Map<Value, number>();
  for (const v of [...graph.nodes.flatMap((n) => n.inputs), ...graph.results.map((r) => r.value)]) uses.set(v, (uses.get(v) ?? 0) + 1);
  const known = new Map<Value, NdArray>();
  for (const { value } of [...graph.params, ...graph.inputs]) {
    if (!uses.has(value)) continue;
    const given = bindings[value.name];
    if (!given || size(given.shape) !== size(value.type.shape)) throw new Error(`"${value.name}" has no value of [${value.type.shape}]`);
    known.set(value, given);
  }
  for (const node of graph.nodes) {
    const results = one(node, node.inputs.map((v) => known.get(v) as NdArray), next);
    node.results.forEach((r, k) => { if (uses.has(r)) known.set(r, rounded(results[k] as NdArray, next)); });
    for (const v of node.inputs) {
      const left = (uses.get(v) as number) - 1;
      uses.set(v, left);
      if (left === 0) known.delete(v);
    }
  }
  return Object.fromEntries(graph.results.map((r) => [r.name, known.get(r.value) as NdArray]));
}

/** Multiplications and additions of all contractions. */
export function flops(graph: Graph): number {
  return graph.nodes.reduce((sum, n) => {
    if (n.op !== "contract") return sum;
    const [l, r] = n.inputs as readonly [Value, Value];
    return sum + 2 * size([...(labelSizes(parseSpec(String(n.attrs.spec)), l.type.shape, r.type.shape) as Map<string, number>).values()]);
  }, 0);
}

function rounded(a: NdArray, next: Next): NdArray {
  if (!next || a.dtype !== "f32") return a;
  const data = new Float64Array(a.data.length);
  for (let k = 0; k < data.length; k++) data[k] = Math.fround(a.data[k] as number);
  return { ...a, data };
}

// fold, a sum of a few terms, keeps the oracle's order: its float32 is then no worse than a kernel's, and the bound only tighter
function one(node: Node, inputs: readonly NdArray[], next: Next): readonly NdArray[] {
  const type = node.results[0]?.type as Type;
  const [x] = inputs as readonly [NdArray];
  switch (node.op) {
    // far below 0 float32 formulas differ by an ulp of 1, as onnxruntime's does; of the exact ones that is the spread
    case "sigmoid": return next ? [{ ...type, data: x.data.map((v) => Math.fround(0.5 * Math.fround(1 + Math.fround(Math.tanh(v / 2))))) }] : OPS.sigmoid.evaluate(inputs, node.attrs, [type]);
    case "contract": return [contract(inputs as readonly [NdArray, NdArray], String(node.attrs.spec), type, next)];
    case "reduce_sum": return [sum(x, node.attrs.axes as readonly number[], type, next)];
    case "permute": {
      const step = strides(x.shape);
      return [pull(x, type, positions(type.shape, (node.attrs.perm as readonly number[]).map((axis) => step[axis] as number)))];
    }
    case "broadcast": {
      const [step, axes] = [strides(x.shape), node.attrs.axes as readonly number[]];
      return [pull(x, type, positions(type.shape, type.shape.map((_, axis) => (axes.includes(axis) ? (step[axes.indexOf(axis)] as number) : 0))))];
    }
    case "window": return [pull(x, type, windowed(x.shape, type.shape, node))];
    case "fold": {
      const out = empty(type);
      windowed(type.shape, x.shape, node).forEach((to, from) => { if (to >= 0) out.data[to] = (out.data[to] as number) + (x.data[from] as number); });
      return [out];
    }
    default: return OPS[node.op].evaluate(inputs, node.attrs, node.results.map((r) => r.type));
  }
}

/** Below this many elements behind it, an element that is none stays none: sums with other axes' positions keep it negative. */
const NONE = -(2 ** 30);

function pull(x: NdArray, type: Type, from: Int32Array): NdArray {
  const out = empty(type);
  for (let k = 0; k < from.length; k++) {
    const at = from[k] as number;
    out.data[k] = at < 0 ? 0 : (x.data[at] as number);
  }
  return out;
}

/** For each element of a window view the element of the tensor under it; negative: none. */
function windowed(whole: readonly number[], view: readonly number[], node: Node): Int32Array {
  const { axis, stride, dilation, offset, divisor } = node.attrs as Readonly<Record<string, number>> & { readonly axis: number };
  const step = strides(whole);
  const [count, taps] = [view[axis] as number, view[axis + 1] as number];
  const table = Int32Array.from({ length: count * taps }, (_, k) => {
    const at = Math.floor(k / taps) * (stride as number) + (k % taps) * (dilation as number) + (offset as number);
    const source = at / (divisor as number);
    return Number.isInteger(source) && source >= 0 && source < (whole[axis] as number) ? source * (step[axis] as number) : NONE;
  });
  const ramp = (n: number, by: number): Int32Array => Int32Array.from({ length: n }, (_, k) => k * by);
  return grid(whole.map((n, k) => (k === axis ? table : ramp(n, step[k] as number))));
}

/** Sums of one entry of each table, the last table fastest. */
function grid(tables: readonly Int32Array[]): Int32Array {
  let out = Int32Array.of(0);
  for (const table of tables) {
    const grown = new Int32Array(out.length * table.length);
    for (let k = 0, to = 0; k < out.length; k++) {
      const base = out[k] as number;
      for (let j = 0; j < table.length; j++) grown[to++] = base + (table[j] as number);
    }
    out = grown;
  }
  return out;
}

/** Flat positions of every index of `shape` in an array with these steps. */
const positions = (shape: readonly number[], steps: readonly number[]): Int32Array =>
  grid(shape.map((n, axis) => Int32Array.from({ length: n }, (_, k) => k * (steps[axis] as number))));

/** An order of n terms. */
function order(n: number, next: Next): Int32Array {
  const out = Int32Array.from({ length: n }, (_, k) => k);
  if (next)
    for (let k = n - 1; k > 0; k--) {
      const other = Math.min(k, Math.floor(((next() + 1) / 2) * (k + 1)));
      [out[k], out[other]] = [out[other] as number, out[k] as number];
    }
  return out;
}

function contract([a, b]: readonly [NdArray, NdArray], text: string, type: Type, next: Next): NdArray {
  const spec = parseSpec(text);
  const sizes = labelSizes(spec, a.shape, b.shape) as Map<string, number>;
  const [outer, inner] = [[...spec.out], [...sizes.keys()].filter((l) => !spec.out.includes(l))];
  const at = (labels: string, x: NdArray, of: readonly string[]): Int32Array => {
    const step = strides(x.shape);
    return positions(of.map((l) => sizes.get(l) as number), of.map((l) => (labels.includes(l) ? (step[labels.indexOf(l)] as number) : 0)));
  };
  const [ao, bo, ai, bi] = [at(spec.left, a, outer), at(spec.right, b, outer), at(spec.left, a, inner), at(spec.right, b, inner)];
  const turn = order(ai.length, next);
  const [ak, bk] = [turn.map((k) => ai[k] as number), turn.map((k) => bi[k] as number)];
  const out = empty(type);
  for (let flat = 0; flat < ao.length; flat++) {
    const [x, y] = [ao[flat] as number, bo[flat] as number];
    let total = 0;
    if (next) for (let k = 0; k < ak.length; k++) total = Math.fround(total + Math.fround((a.data[x + (ak[k] as number)] as number) * (b.data[y + (bk[k] as number)] as number)));
    else for (let k = 0; k < ak.length; k++) total += (a.data[x + (ak[k] as number)] as number) * (b.data[y + (bk[k] as number)] as number);
    out.data[flat] = total;
  }
  return out;
}

function sum(x: NdArray, axes: readonly number[], type: Type, next: Next): NdArray {
  const step = strides(x.shape);
  const kept = x.shape.map((_, axis) => axis).filter((axis) => !axes.includes(axis));
  const at = (of: readonly number[]): Int32Array => positions(of.map((axis) => x.shape[axis] as number), of.map((axis) => step[axis] as number));
  const [outer, inner] = [at(kept), at(axes)];
  const turn = order(inner.length, next).map((k) => inner[k] as number);
  const out = empty(type);
  for (let flat = 0; flat < outer.length; flat++) {
    let total = 0;
    for (const k of turn) {
      total += x.data[(outer[flat] as number) + k] as number;
      if (next) total = Math.fround(total);
    }
    out.data[flat] = total;
  }
  return out;
}
