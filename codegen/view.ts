/**
 * Values as expressions over a kernel's iteration axes: movement ops vanish into index maps, elementwise ops into scalar
 * expressions, and what has a buffer becomes a load.
 */
import { isKnob, type Node, only, type Value } from "../ir/graph.js";
import { floatAttr, intAttr, intsAttr } from "../ir/op.js";
import { windowAttrs } from "../ir/ops/movement.js";
import { OPS } from "../ir/ops/index.js";
import { size, strides } from "../ir/type.js";
import { addAffine, axisIndex, boundMatters, constantIndex, range, scaleAffine, shiftAffine } from "./affine.js";
import type { Access, Affine, Axis, Bound, Buffer, Expr, Quotient, ScalarOp, ScalarType } from "./kernel.js";

/** Thrown when an axis must be iterated as two: outer × inner, inner of the given size. */
export class SplitAxis {
  constructor(readonly axis: Axis, readonly inner: number) {}
}

/** Thrown when a value cannot be an index map of its source and needs a buffer of its own. */
export class NeedsBuffer {
  constructor(readonly value: Value) {}
}

/** A coordinate that is a quotient: stands for expr / divisor where that is exact. Lives only while a view is resolved. */
type Quotients = Map<Axis, { readonly expr: Affine; readonly divisor: number }>;

export interface ViewContext {
  readonly producer: ReadonlyMap<Value, Node>;
  /** Where the value is stored; undefined = it is computed in place. */
  readonly buffer: (value: Value) => Buffer | undefined;
  /** The kernel's own reduction result, if `value` is it. */
  readonly acc: Value | undefined;
  /** What stands for it, where that is not the running accumulator. */
  readonly accExpr?: Expr;
  /** The kernel's several reduction results: seen at their own row only. */
  readonly held?: ReadonlyMap<Value, Expr>;
  /** The tap that each fold of this kernel is summing at. */
  readonly taps?: ReadonlyMap<Node, Affine>;
}

export const scalarType = (value: Value): ScalarType => (value.type.dtype === "f16" ? "f32" : value.type.dtype);

/** Resolver of one kernel: remembers expressions so that shared ones stay shared. */
export class Views {
  readonly #context: ViewContext;
  readonly #quotients: Quotients = new Map();
  readonly #memo = new Map<Value, { key: string; expr: Expr }[]>();
  readonly #axisIds = new Map<Axis, number>();

  constructor(context: ViewContext) {
    this.#context = context;
  }

  /** `value` at the given coordinates (one affine expression per axis). */
  at(value: Value, coords: readonly Affine[]): Expr {
    const key = coords.map((c) => this.#key(c)).join(";");
    const list = this.#memo.get(value) ?? [];
    this.#memo.set(value, list);
    const known = list.find((entry) => entry.key === key);
    if (known) return known.expr;
    const expr = this.#make(value, coords);
    list.push({ key, expr });
    return expr;
  }

  #key(a: Affine): string {
    const parts = [...a.by].map(([axis, k]) => {
      const id = this.#axisIds.get(axis) ?? this.#axisIds.size;
      this.#axisIds.set(axis, id);
      return `${id}*${k}`;
    });
    return `${parts.sort().join("+")}+${a.at}`;
  }

  #make(value: Value, coords: readonly Affine[]): Expr {
    const dtype = scalarType(value);
    if (value === this.#context.acc) return this.#context.accExpr ?? { kind: "acc", dtype };
    const held = this.#context.held?.get(value);
    if (held) return held;
    if (isKnob(value)) return { kind: "run", dtype: dtype as "f32" | "u32", name: value.name.slice(4) };
    const buffer = this.#context.buffer(value);
    if (buffer) return this.#load(buffer, flat(value.type.shape, coords), dtype);
    const node = this.#context.producer.get(value);
    if (!node) throw new Error(`value "${value.name}" has neither a producer nor a buffer`);
    const x = node.inputs[0] as Value;
    switch (node.op) {
      case "constant": return { kind: "const", dtype, value: floatAttr(node.attrs, "value") };
      case "iota": return { kind: "index", dtype: "i32", index: this.#plain(value, coords[intAttr(node.attrs, "axis")] as Affine) };
      case "uniform":
        return {
          kind: "uniform", dtype: "f32", stream: intAttr(node.attrs, "stream"),
          key: [this.at(x, []), this.at(node.inputs[1] as Value, [])],
          index: this.#plain(value, flat(value.type.shape, coords)),
        };
      case "cast": return { kind: "cast", dtype, arg: this.at(x, coords) };
      case "permute": {
        const perm = intsAttr(node.attrs, "perm");
        return this.at(x, x.type.shape.map((_, axis) => coords[perm.indexOf(axis)] as Affine));
      }
      case "broadcast": return this.at(x, intsAttr(node.attrs, "axes").map((axis) => coords[axis] as Affine));
      case "slice": {
        const [start, stride] = [intsAttr(node.attrs, "start"), intsAttr(node.attrs, "stride")];
        return this.at(x, coords.map((c, k) => shiftAffine(scaleAffine(c, stride[k] as number), start[k] as number)));
      }
      case "pad": {
        const low = intsAttr(node.attrs, "low");
        const inner = coords.map((c, k) => shiftAffine(c, -(low[k] as number)));
        const bounds = inner.map((expr, k) => ({ expr, low: 0, high: x.type.shape[k] as number }));
        return this.#masked(bounds, [], this.at(x, inner), floatAttr(node.attrs, "value"));
      }
      case "gather": return this.#gather(node, coords);
      case "window": return this.#window(node, x, coords);
      case "fold": return this.fold(node, coords);
      case "reshape": return this.#reshape(value, x, coords);
      case "concat": return this.#concat(node, coords, dtype);
      default: {
        if (!OPS[node.op].elementwise) throw new Error(`"${node.op}" has no place inside a kernel`);
        return { kind: "op", dtype, op: node.op as ScalarOp, args: node.inputs.map((v) => this.at(v, coords)) };
      }
    }
  }

  /** The table's element at a row that stands for the computed one: its address must step through the rows evenly. */
  #gather(node: Node, coords: readonly Affine[]): Expr {
    const [x, index] = node.inputs as [Value, Value];
    const [b, n, i] = coords as [Affine, Affine, Affine];
    const rows = x.type.shape[1] as number;
    const axis: Axis = { name: "row", size: rows };
    const table = this.#table(x, [b, axisIndex(axis), i], axis);
    const { address, bounds } = table.access;
    if (bounds.some((bound) => bound.expr.by.has(axis)) || table.access.fill !== 0) throw new NeedsBuffer(x);
    const by = new Map(address.by);
    by.delete(axis);
    return { kind: "gather", dtype: table.dtype, access: { ...table.access, address: { at: address.at, by } }, row: this.at(index, [b, n]), rows, stride: address.by.get(axis) ?? 0 };
  }

  #table(x: Value, coords: readonly Affine[], row: Axis): Expr & { kind: "load" } {
    try {
      const expr = this.at(x, coords);
      if (expr.kind === "load" && !expr.access.quotients.some((q) => q.expr.by.has(row))) return expr;
    } catch (e) {
      if (!(e instanceof SplitAxis) || e.axis !== row) throw e;
    }
    throw new NeedsBuffer(x);
  }

  #window(node: Node, x: Value, coords: readonly Affine[]): Expr {
    const w = windowAttrs(node.attrs);
    const raw = shiftAffine(addAffine(scaleAffine(coords[w.axis] as Affine, w.stride), scaleAffine(coords[w.axis + 1] as Affine, w.dilation)), w.offset);
    return this.through(node, { raw, divisor: w.divisor, extent: x.type.shape[w.axis] as number },
      (at) => [...coords.slice(0, w.axis), at, ...coords.slice(w.axis + 2)]);
  }

  /** What a fold adds at one tap: its input at count = (h·divisor − tap·dilation − offset) / stride. */
  fold(node: Node, coords: readonly Affine[]): Expr {
    const tap = this.#context.taps?.get(node);
    const x = node.inputs[0] as Value;
    if (!tap) throw new NeedsBuffer(node.results[0] as Value);
    const [axis, stride, dilation, offset, divisor] = ["axis", "stride", "dilation", "offset", "divisor"].map((n) => intAttr(node.attrs, n)) as [number, number, number, number, number];
    const sign = Math.sign(stride);
    const raw = shiftAffine(addAffine(scaleAffine(coords[axis] as Affine, divisor * sign), scaleAffine(tap, -dilation * sign)), -offset * sign);
    return this.through(node, { raw, divisor: Math.abs(stride), extent: x.type.shape[axis] as number }, (at) => [...coords.slice(0, axis), at, tap, ...coords.slice(axis + 1)]);
  }

  /** The node's input at the coordinates made from raw / divisor; 0 where that is not exact or not in [0, extent). */
  through(node: Node, at: { raw: Affine; divisor: number; extent: number }, coords: (at: Affine) => Affine[]): Expr {
    const { raw, divisor, extent } = at;
    const x = node.inputs[0] as Value;
    const bound = { expr: raw, low: 0, high: extent * divisor };
    const divides = [raw.at, ...raw.by.values()].every((k) => k % divisor === 0);
    if (divides) {
      const exact = divisor === 1 ? raw : { at: raw.at / divisor, by: new Map([...raw.by].map(([axis, k]) => [axis, k / divisor])) };
      return this.#masked([bound], [], this.at(x, coords(exact)), 0);
    }
    // a quotient of a quotient is no index map: the node's own result must be in memory, then its address takes the outer one
    if ([...raw.by.keys()].some((axis) => this.#quotients.has(axis))) throw new NeedsBuffer(only(node));
    const axis: Axis = { name: "q", size: extent };
    this.#quotients.set(axis, { expr: raw, divisor });
    return this.#masked([bound], [{ expr: raw, divisor, stride: 0 }], this.at(x, coords({ at: 0, by: new Map([[axis, 1]]) })), 0);
  }

  #reshape(value: Value, x: Value, coords: readonly Affine[]): Expr {
    const address = flat(value.type.shape, coords);
    let source = x;
    for (;;) {
      if (source === this.#context.acc) return this.#context.accExpr ?? { kind: "acc", dtype: scalarType(source) };
      const held = this.#context.held?.get(source);
      if (held) return held;
      const buffer = this.#context.buffer(source);
      if (buffer) return this.#load(buffer, address, scalarType(source));
      const node = this.#context.producer.get(source);
      if (node?.op !== "reshape") break;
      source = node.inputs[0] as Value;
    }
    const split = this.#splitFlat(address, source.type.shape);
    if (!split) throw new NeedsBuffer(source);
    return this.at(source, split);
  }

  /** Coordinates of a row-major index, if its terms fall apart at the axis boundaries. */
  #splitFlat(address: Affine, shape: readonly number[]): Affine[] | undefined {
    const out = new Array<Affine>(shape.length);
    let rest = address;
    const step = strides(shape);
    for (let axis = 0; axis < shape.length; axis++) {
      const unit = step[axis] as number;
      if (shape[axis] === 1) {
        out[axis] = constantIndex(0);
        continue;
      }
      if (axis === shape.length - 1) {
        out[axis] = rest;
        const [low, high] = range(rest);
        if (low < 0 || high >= (shape[axis] as number)) return undefined;
        continue;
      }
      const outer = new Map<Axis, number>();
      const inner = new Map<Axis, number>();
      for (const [a, k] of rest.by) (k % unit === 0 ? outer : inner).set(a, k);
      const innerAt = ((rest.at % unit) + unit) % unit;
      const low = { at: innerAt, by: inner };
      const [from, to] = range(low);
      if (from < 0 || to >= unit) {
        for (const [a, k] of inner) {
          const cut = unit / k;
          if (k > 0 && Number.isInteger(cut) && a.size > cut && a.size % cut === 0 && !this.#quotients.has(a)) throw new SplitAxis(a, cut);
        }
        return undefined;
      }
      out[axis] = { at: (rest.at - innerAt) / unit, by: new Map([...outer].map(([a, k]) => [a, k / unit])) };
      rest = low;
    }
    return out;
  }

  #concat(node: Node, coords: readonly Affine[], dtype: ScalarType): Expr {
    const axis = intAttr(node.attrs, "axis");
    let at = 0;
    const parts = node.inputs.map((x): Expr => {
      const inner = coords.map((c, k) => (k === axis ? shiftAffine(c, -at) : c));
      const extent = x.type.shape[axis] as number;
      at += extent;
      return this.#masked([{ expr: inner[axis] as Affine, low: 0, high: extent }], [], this.at(x, inner), 0);
    });
    return parts.reduce((a, b) => ({ kind: "op", dtype, op: dtype === "bool" ? "or" : "add", args: [a, b] }));
  }

  /** Index maps in iota and random numbers cannot hold quotients; give the source a buffer. */
  #plain(value: Value, index: Affine): Affine {
    for (const axis of index.by.keys()) if (this.#quotients.has(axis)) throw new NeedsBuffer(value);
    return index;
  }

  #load(buffer: Buffer, address: Affine, dtype: ScalarType): Expr {
    const access = this.#resolve(address);
    return { kind: "load", dtype, access: { buffer, bounds: [], fill: 0, ...access } };
  }

  /** Takes quotient coordinates out of an address. */
  #resolve(address: Affine): { address: Affine; quotients: Quotient[] } {
    const quotients: Quotient[] = [];
    const by = new Map<Axis, number>();
    for (const [axis, k] of address.by) {
      const q = this.#quotients.get(axis);
      if (q) quotients.push({ ...q, stride: k });
      else by.set(axis, k);
    }
    return { address: { at: address.at, by }, quotients };
  }

  #masked(bounds: readonly Bound[], quotients: readonly Quotient[], inner: Expr, fill: number): Expr {
    const real = bounds.map((b) => this.#exact(b)).filter(boundMatters);
    if (real.length === 0 && quotients.length === 0) return inner;
    if (inner.kind === "load" && inner.access.fill === fill) {
      const known = inner.access.quotients;
      const extra = quotients.filter((q) => !known.some((k) => k.expr === q.expr && k.divisor === q.divisor));
      return { ...inner, access: { ...inner.access, bounds: [...inner.access.bounds, ...real], quotients: [...known, ...extra] } };
    }
    return { kind: "masked", dtype: inner.dtype, bounds: real, quotients, inner, fill };
  }

  /** A bound on a quotient coordinate q = e/d becomes one on e: multiply through by d. */
  #exact(bound: Bound): Bound {
    const axis = [...bound.expr.by.keys()].find((a) => this.#quotients.has(a));
    const q = axis && this.#quotients.get(axis);
    if (!axis || !q) return bound;
    const k = bound.expr.by.get(axis) as number;
    const others = new Map([...bound.expr.by].filter(([a]) => a !== axis));
    const expr = addAffine(scaleAffine({ at: bound.expr.at, by: others }, q.divisor), scaleAffine(q.expr, k));
    return this.#exact({ expr, low: bound.low * q.divisor, high: bound.high * q.divisor });
  }
}

/** Row-major index of coordinates. */
export function flat(shape: readonly number[], coords: readonly Affine[]): Affine {
  const step = strides(shape);
  return coords.reduce((sum, c, k) => addAffine(sum, scaleAffine(c, step[k] as number)), constantIndex(0));
}

/** The expression as a plain access, if it is one (zero outside its bounds). */
export const asAccess = (expr: Expr): Access | undefined => (expr.kind === "load" && expr.access.fill === 0 ? expr.access : undefined);

/** Axes of a shape: one each, named by position; axes of size 1 get none (their coordinate is 0). */
export const shapeAxes = (shape: readonly number[], prefix: string): Axis[] => shape.map((n, k) => ({ name: `${prefix}${k}`, size: n }));

export const bufferFor = (value: Value, name: string): Buffer => ({
  name, elements: size(value.type.shape), dtype: value.type.dtype === "i32" ? "i32" : value.type.dtype === "f32" || value.type.dtype === "f16" ? "f32" : "u32",
});
