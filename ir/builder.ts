/** Builds a graph node by node, inferring types; and the short spellings that every front end and pass uses. */
import { CompileError } from "./error.js";
import type { Attrs, Graph, GraphInput, Node, Param, Source, Value } from "./graph.js";
import type { Emit } from "./op.js";
import { OPS } from "./ops/index.js";
import type { OpName } from "./ops/names.js";
import { type DType, sameShape, size, type Type } from "./type.js";

export class Builder {
  readonly params: Param[] = [];
  readonly inputs: GraphInput[] = [];
  readonly nodes: Node[] = [];
  /** Attached to every node made from now on; for error messages. */
  origin: string | undefined;
  #names = new Set<string>();
  #constants = new Map<string, Value>();
  #next = 0;

  constructor(readonly name: string) {}

  /** Starts from an existing graph; its values keep their identity. Results are not kept. */
  static from(graph: Graph): Builder {
    const builder = new Builder(graph.name);
    for (const { value } of [...graph.params, ...graph.inputs]) builder.#adopt(value);
    builder.params.push(...graph.params);
    builder.inputs.push(...graph.inputs);
    for (const n of graph.nodes) for (const r of n.results) builder.#adopt(r);
    builder.nodes.push(...graph.nodes);
    return builder;
  }

  #adopt(value: Value): void {
    this.#names.add(value.name);
  }

  /** A name not used before; `wanted` itself where free. */
  fresh(wanted?: string): string {
    let name = wanted ?? `v${this.#next++}`;
    while (this.#names.has(name)) name = wanted === undefined ? `v${this.#next++}` : `${wanted}.${this.#next++}`;
    this.#names.add(name);
    return name;
  }

  param(name: string, t: Type, source: Source = { kind: "file" }, trainable = true): Value {
    const value = { name: this.fresh(name), type: t };
    this.params.push({ value, source, trainable });
    return value;
  }

  input(name: string, t: Type, examples?: number): Value {
    const value = { name: this.fresh(name), type: t };
    this.inputs.push(examples === undefined ? { value } : { value, examples });
    return value;
  }

  /** Appends a node; all results. */
  node(op: OpName, inputs: readonly Value[], attrs: Attrs = {}, regions: readonly Graph[] = [], names: readonly (string | undefined)[] = []): Node {
    const def = OPS[op];
    if (def.arity >= 0 && inputs.length !== def.arity)
      throw new CompileError("invalid-graph", `${op} takes ${def.arity} inputs, got ${inputs.length}`, this.origin);
    let types: readonly Type[];
    try {
      types = def.infer(inputs.map((v) => v.type), attrs, regions);
    } catch (e) {
      if (e instanceof CompileError && !e.where && this.origin) throw new CompileError(e.code, e.message, this.origin, e.hint);
      throw e;
    }
    const results = types.map((t, k) => ({ name: this.fresh(names[k]), type: t }));
    const node: Node = { op, inputs, attrs, regions, results, ...(this.origin === undefined ? {} : { origin: this.origin }) };
    this.nodes.push(node);
    return node;
  }

  /** Appends a node with one result and returns it. */
  readonly emit: Emit = (op, inputs, attrs) => this.node(op, inputs, attrs).results[0] as Value;

  /** A scalar constant; equal ones are one value. */
  scalar(value: number, dtype: DType = "f32"): Value {
    const key = `${dtype}:${Object.is(value, -0) ? "-0" : value}`;
    const known = this.#constants.get(key);
    if (known) return known;
    const made = this.emit("constant", [], { value, dtype });
    this.#constants.set(key, made);
    return made;
  }

  finish(results: readonly { name: string; value: Value }[]): Graph {
    return { name: this.name, params: [...this.params], inputs: [...this.inputs], nodes: [...this.nodes], results: [...results] };
  }
}

// Short spellings over an Emit. They add no meaning: each returns what the op records say.

export const reshape = (emit: Emit, x: Value, shape: readonly number[]): Value =>
  sameShape(x.type.shape, shape) ? x : emit("reshape", [x], { shape });

export const permute = (emit: Emit, x: Value, perm: readonly number[]): Value =>
  perm.every((from, to) => from === to) ? x : emit("permute", [x], { perm });

/** Places x's axes at `axes` (ascending) of a larger shape and repeats it along the others. */
export const broadcast = (emit: Emit, x: Value, shape: readonly number[], axes: readonly number[]): Value =>
  sameShape(x.type.shape, shape) ? x : emit("broadcast", [x], { shape, axes });

/** NumPy broadcasting: axes align at the right; axes of size 1 are repeated. Throws `shape-mismatch` if x does not fit. */
export function broadcastTo(emit: Emit, x: Value, shape: readonly number[]): Value {
  const from = x.type.shape;
  const shift = shape.length - from.length;
  const kept: number[] = [];
  for (let axis = 0; axis < from.length; axis++) {
    if (from[axis] === shape[axis + shift]) kept.push(axis);
    else if (from[axis] !== 1) throw new CompileError("shape-mismatch", `[${from}] does not broadcast to [${shape}]`);
  }
  if (shift < 0) throw new CompileError("shape-mismatch", `[${from}] does not broadcast to [${shape}]`);
  if (sameShape(from, shape)) return x;
  const squeezed = reshape(emit, x, kept.map((axis) => from[axis] as number));
  const axes = kept.map((axis) => axis + shift);
  return broadcast(emit, squeezed, shape, axes);
}

/** The shape that both broadcast to (NumPy rules). */
export function broadcastShape(a: readonly number[], b: readonly number[]): number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, axis) => {
    const m = a[axis - (rank - a.length)] ?? 1;
    const n = b[axis - (rank - b.length)] ?? 1;
    if (m !== n && m !== 1 && n !== 1) throw new CompileError("shape-mismatch", `[${a}] and [${b}] do not broadcast together`);
    return m === 1 ? n : m;
  });
}

/** A constant of the given type with every element equal. */
export const full = (b: Builder, t: Type, value: number): Value => broadcast(b.emit, b.scalar(value, t.dtype), t.shape, []);

/** v · factor; v itself where that changes nothing. */
export const times = (b: Builder, v: Value, factor: number): Value => (factor === 1 ? v : b.emit("mul", [v, full(b, v.type, factor)]));

/** Adds to what an earlier contribution left at the same value. */
export function accumulate(b: Builder, into: Map<Value, Value>, at: Value, v: Value): void {
  const before = into.get(at);
  into.set(at, before ? b.emit("add", [before, v]) : v);
}

/** A binary or ternary elementwise op with NumPy broadcasting of its operands. */
export function broadcasting(emit: Emit, op: OpName, inputs: readonly Value[]): Value {
  const shape = inputs.map((v) => v.type.shape).reduce((a, b) => broadcastShape(a, b));
  return emit(op, inputs.map((v) => broadcastTo(emit, v, shape)));
}

/** Einsum of two operands, e.g. `contract(emit, "ni,oi->no", x, w)`. */
export const contract = (emit: Emit, spec: string, left: Value, right: Value): Value => emit("contract", [left, right], { spec });

export const sum = (emit: Emit, x: Value, axes: readonly number[]): Value => (axes.length === 0 ? x : emit("reduce_sum", [x], { axes }));

export const sumAll = (emit: Emit, x: Value): Value => sum(emit, x, x.type.shape.map((_, axis) => axis));

export const elements = (v: Value): number => size(v.type.shape);
