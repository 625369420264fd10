/** Prints scalar expressions and stores as WGSL statements, one value or four neighbouring lanes at a time. */
import { RUN_FIELDS } from "../runtime/artifact.js";
import { boundMatters, shiftAffine } from "./affine.js";
import type { Access, Affine, Axis, Binding, Bound, Buffer, Expr, Quotient, ScalarType, Store } from "./kernel.js";
import { BITS, type Helper, helperText, literal, needsBits, SPELL, vectorOf } from "./wgsl.js";

/** Statements of a function body under construction. */
export class Body {
  readonly lines: string[] = [];
  readonly helpers = new Set<string>();
  bits = false;
  hash = false;
  indent = "  ";
  readonly #known: Map<string, string> | undefined;
  #next = 0;

  /** @param share equal texts are one value: right where there is one scope and loads mean what memory held at its start. */
  constructor(options: { readonly share?: boolean } = {}) {
    this.#known = options.share ? new Map() : undefined;
  }

  push(line: string): void {
    this.lines.push(this.indent + line);
  }

  /** Declares a value under a fresh name and returns the name. */
  let(prefix: string, type: string, text: string): string {
    const key = `${type} ${text}`;
    const known = this.#known?.get(key);
    if (known !== undefined) return known;
    const name = `${prefix}${this.#next++}`;
    this.push(`let ${name}: ${type} = ${text};`);
    this.#known?.set(key, name);
    return name;
  }

  /** Functions and private variables that the body uses; goes before `main`. */
  prelude(): string {
    return [this.bits ? BITS : "", this.hash ? HASH : "", helperText(this.helpers)].filter(Boolean).join("\n");
  }
}

const HASH = `fn mix32(v: u32) -> u32 {
  var x = v;
  x = (x ^ (x >> 16u)) * 0x7feb352du;
  x = (x ^ (x >> 15u)) * 0x846ca68bu;
  return x ^ (x >> 16u);
}
fn uniform_at(index: u32, key0: u32, key1: u32, stream: u32) -> f32 {
  let a = mix32(index + key0 * 0x9e3779b9u);
  let b = mix32(a ^ key1);
  let c = mix32(b + stream * 0x85ebca6bu);
  return (f32(c >> 9u) + 0.5f) * 1.1920928955078125e-7f;
}`;

export interface Point {
  /** Spelling of each axis: an i32 WGSL expression, or a number known when the kernel is written. */
  readonly axis: (axis: Axis) => string | number;
  /** If set: this axis's spelling is the first of 4 consecutive values and every value is a vec4. */
  readonly lanes?: Axis;
  /** Spelling of the accumulator (vec4 with lanes). */
  readonly acc?: string;
}

/** An i32 expression. */
export function spellAffine(a: Affine, axis: (axis: Axis) => string | number): string {
  let at = a.at;
  const terms: string[] = [];
  for (const [x, k] of a.by) {
    const value = axis(x);
    if (typeof value === "number") at += k * value;
    else if (k === 1) terms.push(value);
    else terms.push(`${value} * ${k < 0 ? `(${k})` : k}`);
  }
  if (terms.length === 0) return `${at}`;
  const text = terms.join(" + ");
  const whole = at === 0 ? text : at > 0 ? `${text} + ${at}` : `${text} - ${-at}`;
  return terms.length === 1 && at === 0 && /^[A-Za-z_]\w*$/.test(text) ? text : `(${whole})`;
}

const memos = new WeakMap<Point, Map<Body, Map<Expr, string>>>();
function memoOf(body: Body, point: Point): Map<Expr, string> {
  const perBody = memos.get(point) ?? new Map<Body, Map<Expr, string>>();
  memos.set(point, perBody);
  const memo = perBody.get(body) ?? new Map<Expr, string>();
  perBody.set(body, memo);
  return memo;
}

const wide = (dtype: ScalarType, point: Point): string => (point.lanes ? vectorOf(dtype) : dtype);
const splat = (dtype: ScalarType, value: number, point: Point): string =>
  point.lanes ? `${vectorOf(dtype)}(${literal(dtype, value)})` : literal(dtype, value);

/** The same point with the lane axis moved by `lane` and computed as a scalar. */
const laneOf = (point: Point, lane: number): Point => ({
  axis: (axis) => {
    const base = point.axis(axis);
    if (axis !== point.lanes || lane === 0) return base;
    return typeof base === "number" ? base + lane : `(${base} + ${lane})`;
  },
  ...(point.acc === undefined ? {} : { acc: `${point.acc}[${lane}]` }),
});

/**
 * Emits statements computing `expr` and returns a WGSL expression for it. Shared sub-expressions of one point are
 * computed once.
 */
export function emitExpr(body: Body, expr: Expr, point: Point, vec4: ReadonlySet<Buffer>): string {
  const memo = memoOf(body, point);
  const known = memo.get(expr);
  if (known !== undefined) return known;
  const made = write(body, expr, point, vec4);
  memo.set(expr, made);
  return made;
}

function write(body: Body, expr: Expr, point: Point, vec4: ReadonlySet<Buffer>): string {
  switch (expr.kind) {
    case "const":
      if (expr.dtype === "f32" && needsBits(expr.value)) body.bits = true;
      return splat(expr.dtype, expr.value, point);
    case "run":
      return point.lanes ? `${vectorOf(expr.dtype)}(run.${expr.name})` : `run.${expr.name}`;
    case "acc":
      return point.acc ?? "acc";
    case "index": {
      const base = spellAffine(expr.index, point.axis);
      if (!point.lanes) return base;
      const k = expr.index.by.get(point.lanes) ?? 0;
      return k === 0 ? `vec4i(${base})` : `(vec4i(${base}) + vec4i(0, ${k}, ${2 * k}, ${3 * k}))`;
    }
    case "uniform": {
      body.hash = true;
      const key = expr.key.map((k) => emitExpr(body, k, point.lanes ? laneOf(point, 0) : point, vec4));
      const one = (p: Point) => `uniform_at(u32(${spellAffine(expr.index, p.axis)}), ${key.join(", ")}, ${expr.stream}u)`;
      return body.let("u", wide("f32", point), point.lanes ? `vec4f(${[0, 1, 2, 3].map((k) => one(laneOf(point, k))).join(", ")})` : one(point));
    }
    case "cast": {
      const inner = emitExpr(body, expr.arg, point, vec4);
      if (expr.arg.dtype === expr.dtype) return inner;
      return expr.dtype === "bool" ? `(${inner} != ${splat(expr.arg.dtype, 0, point)})` : `${wide(expr.dtype, point)}(${inner})`;
    }
    case "op": {
      const dtype = (expr.op === "select" ? expr.args[1] : expr.args[0])?.dtype ?? expr.dtype;
      const simple = power(body, expr, point, vec4);
      if (simple) return simple;
      const args = expr.args.map((a) => emitExpr(body, a, point, vec4));
      const text = SPELL[expr.op](args, {
        dtype,
        splat: (value) => splat(dtype, value, point),
        helper: (name: Helper) => {
          const full = `${name}_${point.lanes ? "v" : "s"}`;
          body.helpers.add(full);
          return full;
        },
      });
      return body.let("t", wide(expr.dtype, point), text);
    }
    case "load": return emitLoad(body, expr.access, expr.dtype, point, vec4);
    case "masked": {
      if (point.lanes && expr.quotients.some((q) => q.expr.by.has(point.lanes as Axis)))
        return gather(body, expr, point, vec4);
      const inner = emitExpr(body, expr.inner, point, vec4);
      const condition = guard(expr.bounds, expr.quotients, point);
      return condition === undefined ? inner : body.let("m", wide(expr.dtype, point), `select(${splat(expr.dtype, expr.fill, point)}, ${inner}, ${condition})`);
    }
    default: return expr satisfies never;
  }
}

/** x², x³, √x and 1/x where the exponent is known: exact, unlike exp2(y·log2 x). */
function power(body: Body, expr: Expr & { kind: "op" }, point: Point, vec4: ReadonlySet<Buffer>): string | undefined {
  const exponent = expr.args[1];
  if (expr.op !== "pow" || exponent?.kind !== "const" || ![0.5, -1, 1, 2, 3, 4].includes(exponent.value)) return undefined;
  const x = body.let("p", wide("f32", point), emitExpr(body, expr.args[0] as Expr, point, vec4));
  switch (exponent.value) {
    case 0.5: return `sqrt(${x})`;
    case -1: return `(${splat("f32", 1, point)} / ${x})`;
    case 1: return x;
    case 2: return `(${x} * ${x})`;
    case 3: return `(${x} * ${x} * ${x})`;
    default: return `((${x} * ${x}) * (${x} * ${x}))`;
  }
}

/** A vec4 of four scalar evaluations: the general way, for what does not move by whole lanes. */
function gather(body: Body, expr: Expr, point: Point, vec4: ReadonlySet<Buffer>): string {
  const lanes = [0, 1, 2, 3].map((k) => emitExpr(body, expr, laneOf(point, k), vec4));
  return body.let("g", vectorOf(expr.dtype), `${vectorOf(expr.dtype)}(${lanes.join(", ")})`);
}

/** Condition under which an access exists; undefined = always. With lanes it is a vec4<bool>, or a bool where lanes agree. */
function guard(bounds: readonly Bound[], quotients: readonly Quotient[], point: Point): string | undefined {
  const parts: string[] = [];
  for (const b of bounds) {
    if (!boundMatters(b)) continue;
    const text = spellAffine(shiftAffine(b.expr, -b.low), point.axis);
    const k = point.lanes ? (b.expr.by.get(point.lanes) ?? 0) : 0;
    if (/^-?\d+$/.test(text)) {
      // known now, and not to be spelled: WGSL refuses to convert a negative constant
      const holds = [0, 1, 2, 3].map((lane) => Number(text) + k * lane >= 0 && Number(text) + k * lane < b.high - b.low);
      if (holds.every((h) => h)) continue;
      parts.push(k === 0 ? "(false)" : `vec4<bool>(${holds.join(", ")})`);
      continue;
    }
    // one unsigned comparison: negative numbers become huge
    parts.push(k === 0
      ? `(u32(${text}) < ${b.high - b.low}u)`
      : `(vec4u(vec4i(${text}) + vec4i(0, ${k}, ${2 * k}, ${3 * k})) < vec4u(${b.high - b.low}u))`);
  }
  for (const q of quotients) parts.push(`(${spellAffine(q.expr, point.axis)} % ${q.divisor} == 0)`);
  if (parts.length === 0) return undefined;
  if (!point.lanes) return parts.join(" && ").replace(/^(.*)$/, parts.length > 1 ? "($1)" : "$1");
  return `(${parts.map((p) => (p.includes("vec4") ? p : `vec4<bool>${p}`)).join(" & ")})`;
}

/** Address as an i32 expression, quotients divided out. */
function addressOf(access: Access, point: Point): string {
  const base = spellAffine(access.address, point.axis);
  const parts = access.quotients.map((q) => `${spellAffine(q.expr, point.axis)} / ${q.divisor} * ${q.stride}`);
  return parts.length === 0 ? base : `(${[base, ...parts].join(" + ")})`;
}

/** One element at an i32 address. A constant one is kept inside the buffer: WGSL refuses it otherwise, even where a guard discards the value. */
function element(buffer: Buffer, address: string, vec4: ReadonlySet<Buffer>): string {
  const known = /^-?\d+$/.test(address) ? Math.min(Math.max(Number(address), 0), Math.max(buffer.elements - 1, 0)) : undefined;
  if (known !== undefined) return vec4.has(buffer) ? `${buffer.name}[${known >> 2}][${known & 3}]` : `${buffer.name}[${known}]`;
  return vec4.has(buffer) ? `${buffer.name}[${address} >> 2u][${address} & 3]` : `${buffer.name}[${address}]`;
}

/** address + shift, as one number where it is known. */
const moved = (address: string, shift: number): string =>
  shift === 0 ? address : /^-?\d+$/.test(address) ? `${Number(address) + shift}` : `(${address} + ${shift})`;

/** Booleans are stored as u32. */
const fromStored = (dtype: ScalarType, buffer: Buffer, text: string, lanes: boolean): string =>
  dtype === "bool" && buffer.dtype !== "f32" ? `(${text} != ${lanes ? "vec4u(0u)" : "0u"})` : text;

function emitLoad(body: Body, access: Access, dtype: ScalarType, point: Point, vec4: ReadonlySet<Buffer>): string {
  const { buffer } = access;
  const type = wide(dtype, point);
  if (!point.lanes) {
    const value = fromStored(dtype, buffer, element(buffer, addressOf(access, point), vec4), false);
    const condition = guard(access.bounds, access.quotients, point);
    return body.let("x", type, condition === undefined ? value : `select(${literal(dtype, access.fill)}, ${value}, ${condition})`);
  }
  const lanes = point.lanes;
  if (access.quotients.some((q) => q.expr.by.has(lanes)))
    return gather(body, { kind: "load", dtype, access }, point, vec4);
  const k = access.address.by.get(lanes) ?? 0;
  const address = addressOf(access, point);
  const stored: ScalarType = buffer.dtype;
  const at = (lane: number) => element(buffer, moved(address, lane * k), vec4);
  const value = k === 0
    ? `${vectorOf(stored)}(${at(0)})`
    : k === 1 && vec4.has(buffer) && aligned(access.address, lanes)
      ? `${buffer.name}[${address} >> 2u]`
      : `${vectorOf(stored)}(${[0, 1, 2, 3].map(at).join(", ")})`;
  const condition = guard(access.bounds, access.quotients, point);
  const whole = fromStored(dtype, buffer, value, true);
  return body.let("x", type, condition === undefined ? whole : `select(${splat(dtype, access.fill, point)}, ${whole}, ${condition})`);
}

const aligned = (address: Affine, lanes: Axis): boolean =>
  address.at % 4 === 0 && [...address.by].every(([axis, k]) => axis === lanes || k % 4 === 0);

/** Writes the store's value (a whole vec4 where the buffer allows it). */
export function emitStore(body: Body, store: Store, point: Point, vec4: ReadonlySet<Buffer>): void {
  const { buffer } = store;
  const raw = emitExpr(body, store.value, point, vec4);
  const toStored = (text: string, lanes: boolean) =>
    store.value.dtype === "bool" ? `select(${lanes ? "vec4u(0u), vec4u(1u)" : "0u, 1u"}, ${text})` : text;
  const address = spellAffine(store.address, point.axis);
  if (!point.lanes) {
    body.push(`${element(buffer, address, vec4)} = ${toStored(raw, false)};`);
    return;
  }
  const k = store.address.by.get(point.lanes) ?? 0;
  if (k === 1 && vec4.has(buffer) && aligned(store.address, point.lanes)) {
    body.push(`${buffer.name}[${address} >> 2u] = ${toStored(raw, true)};`);
    return;
  }
  const value = body.let("s", vectorOf(store.value.dtype), raw);
  for (let lane = 0; lane < 4; lane++) {
    body.push(`${element(buffer, moved(address, lane * k), vec4)} = ${toStored(`${value}[${lane}]`, false)};`);
  }
}

/** Calls `visit` for every access (loads and stores) of the stores' expressions. */
function eachAccess(stores: readonly Store[], visit: (buffer: Buffer, address: Affine, quotients: readonly Quotient[], isStore: boolean) => void, run?: () => void): void {
  const seen = new Set<Expr>();
  const walk = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    switch (e.kind) {
      case "load": visit(e.access.buffer, e.access.address, e.access.quotients, false); break;
      case "run": run?.(); break;
      case "op": e.args.forEach(walk); break;
      case "cast": walk(e.arg); break;
      case "masked": walk(e.inner); break;
      case "uniform": e.key.forEach(walk); break;
      default: break;
    }
  };
  for (const s of stores) {
    visit(s.buffer, s.address, [], true);
    walk(s.value);
  }
}

/**
 * Buffers that may be declared array<vec4>: along `lanes` every access is contiguous and 4-aligned, or does not move.
 * `lanesAligned`: the lane axis only takes multiples of 4 as first lane.
 */
export function laneBuffers(stores: readonly Store[], lanes: Axis, lanesAligned: boolean): Set<Buffer> {
  const yes = new Set<Buffer>();
  const no = new Set<Buffer>();
  eachAccess(stores, (buffer, address, quotients, isStore) => {
    const k = address.by.get(lanes) ?? 0;
    if (k === 1 && aligned(address, lanes) && !quotients.some((q) => q.expr.by.has(lanes))) yes.add(buffer);
    else if (k !== 0 || isStore) no.add(buffer);
  });
  if (!lanesAligned) return new Set();
  return new Set([...yes].filter((b) => !no.has(b)));
}

/** What the stores read and write, in order of first appearance; `run`: they use a run-time knob. */
export function freeBuffers(stores: readonly Store[]): { loads: Buffer[]; stores: Buffer[]; run: boolean } {
  const loads = new Set<Buffer>();
  const written = new Set<Buffer>();
  let run = false;
  eachAccess(stores, (buffer, _address, _quotients, isStore) => { (isStore ? written : loads).add(buffer); }, () => { run = true; });
  return { loads: [...loads], stores: [...written], run };
}

/** Bindings for buffers in the given order (read_write where stored), then the run block. */
export function bindingsOf(buffers: Iterable<Buffer>, stored: ReadonlySet<Buffer>, run: boolean): Binding[] {
  const list: Binding[] = [...new Set(buffers)].map((buffer) => ({ kind: "buffer", buffer, access: stored.has(buffer) ? "read_write" : "read" }));
  return run ? [...list, { kind: "run" }] : list;
}

/** WGSL declarations of a kernel's bindings, group 0, in order. */
export function declare(bindings: readonly Binding[], vec4: ReadonlySet<Buffer>): string {
  const run = bindings.some((b) => b.kind === "run")
    ? [`struct Run { ${RUN_FIELDS.map((f) => `${f.name}: ${f.dtype}`).join(", ")} }`]
    : [];
  return [...run, ...bindings.map((b, k) => {
    if (b.kind === "run") return `@group(0) @binding(${k}) var<uniform> run: Run;`;
    const element = vec4.has(b.buffer) ? vectorOf(b.buffer.dtype) : b.buffer.dtype;
    return `@group(0) @binding(${k}) var<storage, ${b.access}> ${b.buffer.name}: array<${element}>;`;
  })].join("\n");
}
