/** Movement: every output element is an input element or a constant. Codegen turns these into index maps. */
import type { Attrs, Value } from "../graph.js";
import { eachIndex, empty, type NdArray } from "../ndarray.js";
import { floatAttr, intAttr, intsAttr, mismatch, type OpDef } from "../op.js";
import { size, strides, type Type } from "../type.js";

/** Output by asking, for each output index, which input element (flat) it is; −1 = `fill`. */
function pull(x: NdArray, t: Type, source: (index: readonly number[]) => number, fill = 0): readonly NdArray[] {
  const out = empty(t);
  eachIndex(t.shape, (index, flat) => {
    const from = source(index);
    out.data[flat] = from < 0 ? fill : (x.data[from] as number);
  });
  return [out];
}

const dot = (a: readonly number[], b: readonly number[]): number => a.reduce((total, v, k) => total + v * (b[k] as number), 0);

export const reshape: OpDef = {
  name: "reshape", doc: "the same elements in row-major order under another shape",
  arity: 1, attrs: { shape: "ints" }, movement: true,
  infer(inputs, attrs) {
    const x = inputs[0] as Type;
    const shape = intsAttr(attrs, "shape");
    if (size(shape) !== size(x.shape)) throw mismatch("reshape", inputs, `cannot become [${shape}]`);
    return [{ dtype: x.dtype, shape }];
  },
  vjp: ({ inputs: [x], ct, emit }) => [emit("reshape", [ct], { shape: (x as Value).type.shape })],
  evaluate: ([x], _attrs, [t]) => [{ ...(t as Type), data: (x as NdArray).data }],
};

export const permute: OpDef = {
  name: "permute", doc: "axis k of the result is axis perm[k] of x",
  arity: 1, attrs: { perm: "ints" }, movement: true,
  infer(inputs, attrs) {
    const x = inputs[0] as Type;
    const perm = intsAttr(attrs, "perm");
    if (perm.length !== x.shape.length || [...perm].sort((a, b) => a - b).some((axis, k) => axis !== k))
      throw mismatch("permute", inputs, `[${perm}] is not a permutation of the axes`);
    return [{ dtype: x.dtype, shape: perm.map((axis) => x.shape[axis] as number) }];
  },
  vjp: ({ node, ct, emit }) => {
    const perm = intsAttr(node.attrs, "perm");
    return [emit("permute", [ct], { perm: perm.map((_, axis) => perm.indexOf(axis)) })];
  },
  evaluate([x], attrs, [t]) {
    const from = strides((x as NdArray).shape);
    const step = intsAttr(attrs, "perm").map((axis) => from[axis] as number);
    return pull(x as NdArray, t as Type, (index) => dot(index, step));
  },
};

export const broadcast: OpDef = {
  name: "broadcast", doc: "x's axes placed at `axes` (ascending) of a larger shape, repeated along the others",
  arity: 1, attrs: { shape: "ints", axes: "ints" }, movement: true,
  infer(inputs, attrs) {
    const x = inputs[0] as Type;
    const shape = intsAttr(attrs, "shape");
    const axes = intsAttr(attrs, "axes");
    const fits = axes.length === x.shape.length && axes.every((axis, k) => shape[axis] === x.shape[k] && (k === 0 || axis > (axes[k - 1] as number)));
    if (!fits) throw mismatch("broadcast", inputs, `axes [${axes}] do not place it in [${shape}]`);
    return [{ dtype: x.dtype, shape }];
  },
  vjp: ({ node, ct, emit }) => {
    const kept = intsAttr(node.attrs, "axes");
    const axes = ct.type.shape.map((_, axis) => axis).filter((axis) => !kept.includes(axis));
    return [axes.length === 0 ? ct : emit("reduce_sum", [ct], { axes })];
  },
  evaluate([x], attrs, [t]) {
    const axes = intsAttr(attrs, "axes");
    const from = strides((x as NdArray).shape);
    return pull(x as NdArray, t as Type, (index) => axes.reduce((flat, axis, k) => flat + (index[axis] as number) * (from[k] as number), 0));
  },
};

export const pad: OpDef = {
  name: "pad", doc: "x with low[k] and high[k] elements equal to `value` before and after each axis",
  arity: 1, attrs: { low: "ints", high: "ints", value: "float" }, movement: true,
  infer(inputs, attrs) {
    const x = inputs[0] as Type;
    const [low, high] = [intsAttr(attrs, "low"), intsAttr(attrs, "high")];
    floatAttr(attrs, "value");
    if (low.length !== x.shape.length || high.length !== x.shape.length || [...low, ...high].some((n) => n < 0))
      throw mismatch("pad", inputs, `amounts [${low}], [${high}] must be one non-negative number per axis`);
    return [{ dtype: x.dtype, shape: x.shape.map((n, axis) => n + (low[axis] as number) + (high[axis] as number)) }];
  },
  vjp: ({ node, inputs: [x], ct, emit }) => {
    const shape = (x as Value).type.shape;
    return [emit("slice", [ct], { start: intsAttr(node.attrs, "low"), size: shape, stride: shape.map(() => 1) })];
  },
  evaluate([x], attrs, [t]) {
    const low = intsAttr(attrs, "low");
    const { shape } = x as NdArray;
    const step = strides(shape);
    return pull(x as NdArray, t as Type, (index) => {
      let flat = 0;
      for (let axis = 0; axis < index.length; axis++) {
        const at = (index[axis] as number) - (low[axis] as number);
        if (at < 0 || at >= (shape[axis] as number)) return -1;
        flat += at * (step[axis] as number);
      }
      return flat;
    }, floatAttr(attrs, "value"));
  },
};

export const slice: OpDef = {
  name: "slice", doc: "elements start, start + stride, … (size of them) along each axis; strides may be negative",
  arity: 1, attrs: { start: "ints", size: "ints", stride: "ints" }, movement: true,
  infer(inputs, attrs) {
    const x = inputs[0] as Type;
    const [start, count, stride] = [intsAttr(attrs, "start"), intsAttr(attrs, "size"), intsAttr(attrs, "stride")];
    const fits = [start, count, stride].every((list) => list.length === x.shape.length) && x.shape.every((n, axis) => {
      const first = start[axis] as number;
      const last = first + ((count[axis] as number) - 1) * (stride[axis] as number);
      return count[axis] === 0 || (stride[axis] !== 0 && Math.min(first, last) >= 0 && Math.max(first, last) < n);
    });
    if (!fits) throw mismatch("slice", inputs, `start [${start}], size [${count}], stride [${stride}] leave the tensor`);
    return [{ dtype: x.dtype, shape: count }];
  },
  vjp: ({ node, inputs: [x], ct, emit }) => {
    const { shape } = (x as Value).type;
    const [start, count, stride] = [intsAttr(node.attrs, "start"), intsAttr(node.attrs, "size"), intsAttr(node.attrs, "stride")];
    if (stride.every((s) => s === 1)) {
      const high = shape.map((n, axis) => n - (start[axis] as number) - (count[axis] as number));
      return [emit("pad", [ct], { low: start, high, value: 0 })];
    }
    // along each strided axis: element h of x came from (h − start) / stride where that is exact and in range
    let out = ct;
    for (let axis = 0; axis < shape.length; axis++) {
      const s = stride[axis] as number;
      const n = shape[axis] as number;
      const sign = Math.sign(s);
      const windowed = emit("window", [out], {
        axis, count: n, taps: 1, stride: sign, dilation: 1, offset: -sign * (start[axis] as number), divisor: Math.abs(s),
      });
      out = emit("reshape", [windowed], { shape: out.type.shape.map((m, k) => (k === axis ? n : m)) });
    }
    return [out];
  },
  evaluate([x], attrs, [t]) {
    const step = strides((x as NdArray).shape);
    const [start, stride] = [intsAttr(attrs, "start"), intsAttr(attrs, "stride")];
    return pull(x as NdArray, t as Type, (index) =>
      index.reduce((flat, i, axis) => flat + ((start[axis] as number) + i * (stride[axis] as number)) * (step[axis] as number), 0));
  },
};

export interface WindowAttrs {
  readonly axis: number;
  /** window: positions. fold: not used (the input has it). */
  readonly taps: number;
  readonly stride: number;
  readonly dilation: number;
  readonly offset: number;
  readonly divisor: number;
}

export const windowAttrs = (attrs: Attrs): WindowAttrs => ({
  axis: intAttr(attrs, "axis"), taps: intAttr(attrs, "taps"), stride: intAttr(attrs, "stride"),
  dilation: intAttr(attrs, "dilation"), offset: intAttr(attrs, "offset"), divisor: intAttr(attrs, "divisor"),
});

/** The element a window reads at position i, tap j; −1 where there is none. */
function windowSource(w: WindowAttrs, i: number, j: number, extent: number): number {
  const at = i * w.stride + j * w.dilation + w.offset;
  if (at % w.divisor !== 0) return -1;
  const source = at / w.divisor;
  return source >= 0 && source < extent ? source : -1;
}

/**
 * A sliding window: strided, dilated, padded (offset), over a zero-stuffed axis (divisor), or mirrored (negative steps).
 *
 *   x [.., e, ..]    out [.., count, taps, ..]    out[i, j] = x[(i·stride + j·dilation + offset) / divisor], 0 where none
 */
export const window: OpDef = {
  name: "window", doc: "out[i, j] = x[(i·stride + j·dilation + offset) / divisor] along one axis, 0 where that is no element",
  arity: 1, movement: true,
  attrs: { axis: "int", count: "int", taps: "int", stride: "int", dilation: "int", offset: "int", divisor: "int" },
  infer(inputs, attrs) {
    const x = inputs[0] as Type;
    const w = windowAttrs(attrs);
    const count = intAttr(attrs, "count");
    if (w.axis < 0 || w.axis >= x.shape.length || count < 0 || w.taps < 1 || w.divisor < 1) throw mismatch("window", inputs, "bad attributes");
    return [{ dtype: x.dtype, shape: x.shape.flatMap((n, axis) => (axis === w.axis ? [count, w.taps] : [n])) }];
  },
  vjp: ({ node, inputs: [x], ct, emit }) => {
    const w = windowAttrs(node.attrs);
    const { axis, stride, dilation, offset, divisor } = w;
    return [emit("fold", [ct], { axis, size: (x as Value).type.shape[axis] as number, stride, dilation, offset, divisor })];
  },
  evaluate([x], attrs, [t]) {
    const w = windowAttrs(attrs);
    const { shape } = x as NdArray;
    const step = strides(shape);
    return pull(x as NdArray, t as Type, (index) => {
      const source = windowSource(w, index[w.axis] as number, index[w.axis + 1] as number, shape[w.axis] as number);
      if (source < 0) return -1;
      return step.reduce((flat, s, axis) =>
        flat + s * (axis === w.axis ? source : (index[axis < w.axis ? axis : axis + 1] as number)), 0);
    });
  },
};

/**
 * The transpose of `window`: sums what a window view would have read.
 *
 *   x [.., count, taps, ..]    out [.., size, ..]    out[h] = Σ x[i, j] over i·stride + j·dilation + offset = h·divisor
 */
export const fold: OpDef = {
  name: "fold", doc: "out[h] = Σ x[i, j] over all i·stride + j·dilation + offset = h·divisor: the transpose of window",
  arity: 1,
  attrs: { axis: "int", size: "int", stride: "int", dilation: "int", offset: "int", divisor: "int" },
  infer(inputs, attrs) {
    const x = inputs[0] as Type;
    const axis = intAttr(attrs, "axis");
    const extent = intAttr(attrs, "size");
    for (const name of ["stride", "dilation", "offset"]) intAttr(attrs, name);
    if (axis < 0 || axis + 1 >= x.shape.length || extent < 0 || intAttr(attrs, "divisor") < 1 || intAttr(attrs, "stride") === 0) throw mismatch("fold", inputs, "bad attributes");
    return [{ dtype: x.dtype, shape: [...x.shape.slice(0, axis), extent, ...x.shape.slice(axis + 2)] }];
  },
  vjp: ({ node, inputs: [x], ct, emit }) => {
    const { axis } = windowAttrs({ ...node.attrs, taps: 1 });
    const [count, taps] = [(x as Value).type.shape[axis] as number, (x as Value).type.shape[axis + 1] as number];
    const { stride, dilation, offset, divisor } = node.attrs as Record<string, number>;
    return [emit("window", [ct], { axis, count, taps, stride, dilation, offset, divisor } as Attrs)];
  },
  evaluate([x], attrs, [t]) {
    const w = windowAttrs({ ...attrs, taps: 1 });
    const out = empty(t as Type);
    const step = strides((t as Type).shape);
    const extent = (t as Type).shape[w.axis] as number;
    eachIndex((x as NdArray).shape, (index, flat) => {
      const h = windowSource(w, index[w.axis] as number, index[w.axis + 1] as number, extent);
      if (h < 0) return;
      const to = step.reduce((sum, s, axis) =>
        sum + s * (axis === w.axis ? h : (index[axis < w.axis ? axis : axis + 1] as number)), 0);
      out.data[to] = (out.data[to] as number) + ((x as NdArray).data[flat] as number);
    });
    return [out];
  },
};

export const concat: OpDef = {
  name: "concat", doc: "inputs one after the other along an axis",
  arity: -1, attrs: { axis: "int" },
  infer(inputs, attrs) {
    const axis = intAttr(attrs, "axis");
    const first = inputs[0];
    if (!first || axis < 0 || axis >= first.shape.length) throw mismatch("concat", inputs, `no axis ${axis}`);
    for (const t of inputs)
      if (t.dtype !== first.dtype || t.shape.length !== first.shape.length || t.shape.some((n, k) => k !== axis && n !== first.shape[k]))
        throw mismatch("concat", inputs, `inputs must agree except along axis ${axis}`);
    const extent = inputs.reduce((total, t) => total + (t.shape[axis] as number), 0);
    return [{ dtype: first.dtype, shape: first.shape.map((n, k) => (k === axis ? extent : n)) }];
  },
  vjp: ({ node, inputs, ct, emit }) => {
    const axis = intAttr(node.attrs, "axis");
    let at = 0;
    return inputs.map((x) => {
      const start = x.type.shape.map((_, k) => (k === axis ? at : 0));
      at += x.type.shape[axis] as number;
      return emit("slice", [ct], { start, size: x.type.shape, stride: start.map(() => 1) });
    });
  },
  evaluate(inputs, attrs, [t]) {
    const axis = intAttr(attrs, "axis");
    const out = empty(t as Type);
    const step = strides((t as Type).shape);
    let at = 0;
    for (const x of inputs) {
      const shift = at * (step[axis] as number);
      eachIndex(x.shape, (index, flat) => { out.data[dot(index, step) + shift] = x.data[flat] as number; });
      at += x.shape[axis] as number;
    }
    return [out];
  },
};
