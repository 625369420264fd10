/**
 * Reductions: one thread sums (or compares) its outputs' elements in a fixed order; few outputs with many elements are
 * split over the threads of a workgroup, or over many with a second pass, so that the result never depends on timing.
 */
import { CompileError } from "../../ir/error.js";
import type { Point } from "../address.js";
import { bindingsOf, declare, freeBuffers, laneBuffers } from "../bindings.js";
import { Body } from "../body.js";
import { emitExpr, emitStore } from "../expr.js";
import type { Affine, Axis, Bound, Buffer, Expr, Kernel, Limits, Lowered, ReduceSpec, Store } from "../kernel.js";
import { MAX_TRIPS } from "../limits.js";
import { isNan, literal, vectorOf } from "../wgsl.js";
import { lowerTogether } from "./reduce-together.js";
import { decode, grid, identifier, indicesOf, lowest, mapIndices, mapStores, mergeAxes, product, WORKGROUP } from "./iterate.js";

/** A thread of a conditional sum takes up to this many neighbours. */
const MAX_BLOCK = 16;
/** Unroll reductions up to this many elements (pooling windows). */
const UNROLL = 16;
/** Below this many threads a long sum is split. */
const ENOUGH_THREADS = 512;
/** A second dispatch costs more than a sum up to here, if a workgroup's worth of them run side by side. */
const SERIAL = 256;

export function lowerReduce(spec: ReduceSpec, limits: Limits): Lowered {
  const outer = mergeAxes(spec.axes, [...spec.stores.flatMap((s) => [s.address, ...indicesOf(s.value)]), ...indicesOf(spec.value), ...whenIndices(spec)]);
  const inner = mergeAxes(spec.reduction, [...indicesOf(spec.value), ...whenIndices(spec)]);
  const to = new Map([...outer.to, ...inner.to]);
  const value = mapIndices(spec.value, to);
  const stores = mapStores(spec.stores, to);
  const outputs = product(outer.axes);
  const length = product(inner.axes);
  const merged: ReduceSpec = { ...spec, axes: outer.axes, reduction: inner.axes, value, ...whenOf(spec, (e) => mapIndices(e, to)), stores };
  if (outputs >= WORKGROUP && length <= SERIAL) return { kernels: [serial(merged, limits)], scratch: [] };
  if (spec.combine !== "argmax" && !spec.when && outputs < ENOUGH_THREADS && length >= 64) {
    const kernel = lowerTogether(merged);
    if (kernel) return { kernels: [kernel], scratch: [] };
  }
  if (spec.combine !== "argmax" && ((outputs < ENOUGH_THREADS && length >= 64) || length > MAX_TRIPS)) {
    const split = splitFactor(inner.axes, outputs) ?? (length > MAX_TRIPS ? raggedSplit(inner.axes) : undefined);
    if (split) return twoPasses(merged, split.axis, split.parts, limits);
  }
  if (length > MAX_TRIPS) throw new CompileError("too-large", `a reduction over ${length} elements exceeds the ${MAX_TRIPS} loop steps one thread may take`, undefined, "reduce the batch or the tensor");
  return { kernels: [serial(merged, limits)], scratch: [] };
}

const whenIndices = (spec: ReduceSpec): readonly Affine[] => (spec.when ? [...indicesOf(spec.when)] : []);
const whenOf = (spec: ReduceSpec, f: (e: Expr) => Expr): { when?: Expr } => (spec.when ? { when: f(spec.when) } : {});

/** How to cut a reduction axis: the divisor nearest twice the square root of the length, if it leaves both passes work they can do. */
function splitFactor(axes: readonly Axis[], outputs: number): { axis: Axis; parts: number } | undefined {
  const length = product(axes);
  const wanted = Math.min(Math.sqrt(length) * 2, Math.ceil((ENOUGH_THREADS * 2) / outputs));
  let best: { axis: Axis; parts: number } | undefined;
  for (const axis of axes)
    for (let parts = 2; parts <= axis.size; parts++)
      if (axis.size % parts === 0 && parts < length && Math.max(parts, length / parts) <= MAX_TRIPS && (!best || Math.abs(Math.log(parts / wanted)) < Math.abs(Math.log(best.parts / wanted)))) best = { axis, parts };
  return best;
}

/** No divisor will do (a prime length): the longest axis in parts of which the last is short. */
function raggedSplit(axes: readonly Axis[]): { axis: Axis; parts: number } | undefined {
  const axis = axes.reduce((a, b) => (b.size > a.size ? b : a));
  const rest = Math.ceil(Math.sqrt(axis.size));
  const parts = Math.ceil(axis.size / rest);
  return rest * (product(axes) / axis.size) <= MAX_TRIPS ? { axis, parts } : undefined;
}

function twoPasses(spec: ReduceSpec, axis: Axis, parts: number, limits: Limits): Lowered {
  const part: Axis = { name: `${axis.name}p`, size: parts };
  const rest: Axis = { name: `${axis.name}q`, size: Math.ceil(axis.size / parts) };
  const beyond: Bound[] = parts * rest.size > axis.size ? [{ expr: { at: 0, by: new Map([[part, rest.size], [rest, 1]]) }, low: 0, high: axis.size }] : [];
  const guarded = (e: Expr): Expr => (beyond.length === 0 ? e : { kind: "masked", dtype: e.dtype, bounds: beyond, quotients: [], inner: e, fill: spec.combine === "sum" ? 0 : lowest(e.dtype) });
  const { when: _, ...unconditional } = spec;
  const to = new Map([[axis, { at: 0, by: new Map([[part, rest.size], ...(rest.size > 1 ? [[rest, 1] as const] : [])]) }]]);
  const dtype = spec.value.dtype === "i32" || spec.value.dtype === "u32" ? spec.value.dtype : "f32";
  const partials: Buffer = { name: "partials", dtype, elements: product(spec.axes) * parts };
  // partials [part, outputs…]: the second pass then reads neighbours side by side
  let unit = product(spec.axes);
  const by = new Map<Axis, number>([[part, unit]]);
  for (const a of spec.axes) {
    unit /= a.size;
    by.set(a, unit);
  }
  const address = { at: 0, by };
  const first = serial({
    ...spec, label: `${spec.label}: partial sums`, axes: [part, ...spec.axes], reduction: spec.reduction.flatMap((a) => (a === axis ? (rest.size > 1 ? [rest] : []) : [a])),
    value: guarded(mapIndices(spec.value, to)), ...whenOf(spec, (e) => guarded(mapIndices(e, to))), stores: [{ buffer: partials, address, value: { kind: "acc", dtype } }],
  }, limits);
  const second = serial({
    ...unconditional, reduction: [part],
    value: { kind: "load", dtype, access: { buffer: partials, address, bounds: [], quotients: [], fill: 0 } },
  }, limits);
  return { kernels: [first, second], scratch: [partials] };
}

function serial(spec: ReduceSpec, limits: Limits): Kernel {
  const last = spec.axes[spec.axes.length - 1];
  const operand: Store[] = [spec.value, ...(spec.when ? [spec.when] : [])].map((value) => ({ buffer: OPERAND, address: { at: 0, by: new Map() }, value }));
  const lanes = last && !spec.when && spec.combine !== "argmax" && useLanes(spec, last) ? last : undefined;
  const vec4 = lanes
    ? new Set([...laneBuffers([...spec.stores, ...operand], lanes, true)])
    : new Set<Buffer>();
  const used = freeBuffers(spec.stores);
  const read = freeBuffers(operand);
  const bindings = bindingsOf([...read.loads, ...used.loads, ...used.stores], new Set(used.stores), used.run || read.run);

  const block = spec.when && last && !whenIndices(spec).some((i) => i.by.has(last)) ? blockOf(last.size) : 1;
  const step = (axis: Axis): number => (axis === lanes ? 4 : axis === last ? block : 1);
  const counts = spec.axes.map((axis) => ({ axis, count: axis.size / step(axis), scale: step(axis) }));
  const threads = counts.reduce((n, c) => n * c.count, 1);
  const { workgroups, thread } = grid(threads, limits);
  const body = new Body();
  body.push(`let thread = ${thread};`);
  body.push(`if (thread >= ${threads}u) { return; }`);
  const spelled = decode(counts, "thread", (line) => body.push(line));
  const points = spec.when
    ? accumulateWhere(body, spec, spec.when, spelled, block)
    : [{ axis: (a: Axis) => spelled.get(a) ?? 0, acc: accumulate(body, spec, spelled, lanes, vec4), ...(lanes ? { lanes } : {}) }];
  // every value before any store: a second store must not see what the first one wrote
  for (const point of points) for (const store of spec.stores) emitExpr(body, store.value, point, vec4);
  for (const point of points) for (const store of spec.stores) emitStore(body, store, point, vec4);
  return {
    name: `reduce_${spec.combine}_${product(spec.axes)}x${product(spec.reduction)}`,
    wgsl: `// ${spec.label}: ${spec.combine} over ${product(spec.reduction)}, ${threads} thread${threads === 1 ? "" : "s"}${lanes ? " of 4 lanes" : ""}
${declare(bindings, vec4)}
${body.prelude()}
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(global_invocation_id) id: vec3u) {
${body.lines.join("\n")}
}
`.replace("\n\n", "\n"),
    bindings, workgroups,
  };
}

/** How many neighbours along the last axis one thread sums: they share the condition. */
function blockOf(size: number): number {
  for (let n = Math.min(MAX_BLOCK, size); n > 1; n--) if (size % n === 0) return n;
  return 1;
}

/** Loops in which only elements where `when` holds are read and added; one accumulator for each of the block's places. */
function accumulateWhere(body: Body, spec: ReduceSpec, when: Expr, spelled: Map<Axis, string | number>, block: number): Point[] {
  const last = spec.axes[spec.axes.length - 1];
  const { dtype } = spec.value;
  const accs = Array.from({ length: block }, (_, j) => `acc${j}`);
  for (const acc of accs) body.push(`var ${acc}: ${dtype} = ${literal(dtype, 0)};`);
  const values = new Map(spelled);
  const at = (j: number): Point => {
    const base = last && (spelled.get(last) ?? 0);
    const place = j === 0 || base === undefined ? base : typeof base === "number" ? base + j : `(${base} + ${j})`;
    return { axis: (a) => (a === last && place !== undefined ? place : (values.get(a) ?? 0)) };
  };
  const outside = body.indent;
  for (const [k, axis] of spec.reduction.entries()) {
    const name = `${identifier(axis.name)}_r${k}`;
    body.push(`for (var ${name}: i32 = 0; ${name} < ${axis.size}; ${name}++) {`);
    body.indent += "  ";
    values.set(axis, name);
  }
  body.push(`if (${emitExpr(body, when, at(0), new Set())}) {`);
  body.indent += "  ";
  accs.forEach((acc, j) => body.push(`${acc} += ${emitExpr(body, spec.value, at(j), new Set())};`));
  for (let depth = spec.reduction.length; depth >= 0; depth--) {
    body.indent = outside + "  ".repeat(depth);
    body.push("}");
  }
  return accs.map((acc, j) => ({ ...at(j), acc }));
}

/** Stands for "the value that is reduced" where only its reads matter. */
const OPERAND: Buffer = { name: "", dtype: "f32", elements: 0 };

const useLanes = (spec: ReduceSpec, last: Axis): boolean =>
  last.size % 4 === 0 && spec.stores.every((s) => s.address.by.get(last) === 1)
  && product(spec.axes) >= 4 * WORKGROUP && [...indicesOf(spec.value)].some((i) => i.by.get(last) === 1);

/** Emits the loops; returns the accumulator's name. */
function accumulate(body: Body, spec: ReduceSpec, spelled: Map<Axis, string | number>, lanes: Axis | undefined, vec4: ReadonlySet<Buffer>): string {
  const { dtype } = spec.value;
  const wide = lanes ? vectorOf(dtype) : dtype;
  const splat = (text: string) => (lanes ? `${wide}(${text})` : text);
  const start = literal(dtype, spec.combine === "sum" ? 0 : lowest(dtype));
  if (spec.combine !== "sum" && dtype === "f32") body.bits = true;
  body.push(`var acc: ${wide} = ${splat(start)};`);
  if (spec.combine === "argmax") body.push("var best: i32 = 0;");
  const unrolled = product(spec.reduction) <= UNROLL;
  const values = new Map(spelled);
  const inside = (position: string) => {
    const point: Point = { axis: (a) => values.get(a) ?? 0, ...(lanes ? { lanes } : {}) };
    const x = emitExpr(body, spec.value, point, vec4);
    switch (spec.combine) {
      case "sum": body.push(`acc += ${x};`); break;
      // a NaN must win and stay, or it would be hidden
      case "max": body.push(`acc = select(acc, ${x}, (${x} > acc)${dtype === "f32" ? ` | ${isNan(wide, x)}` : ""});`); break;
      case "argmax": body.push(`if (${x} > acc) { acc = ${x}; best = ${position}; }`); break;
      default: spec.combine satisfies never;
    }
  };
  const loops = (k: number, position: string): void => {
    const axis = spec.reduction[k];
    if (!axis) {
      inside(position);
      return;
    }
    // a number where all loops are unrolled
    const place = (value: string | number) => (/^\d+$/.test(position) && typeof value === "number" ? `${Number(position) * axis.size + value}` : position === "0" ? `${value}` : `(${position}) * ${axis.size} + ${value}`);
    if (unrolled) {
      for (let i = 0; i < axis.size; i++) {
        values.set(axis, i);
        loops(k + 1, place(i));
      }
      return;
    }
    const name = `${identifier(axis.name)}_r${k}`;
    body.push(`for (var ${name}: i32 = 0; ${name} < ${axis.size}; ${name}++) {`);
    const indent = body.indent;
    body.indent += "  ";
    values.set(axis, name);
    loops(k + 1, place(name));
    body.indent = indent;
    body.push("}");
  };
  loops(0, "0");
  return spec.combine === "argmax" ? "best" : "acc";
}

