/** Prints scalar expressions and stores as WGSL statements, one value or four neighbouring lanes at a time. */
import { addressOf, aligned, element, guard, moved, type Point, spellAffine } from "./address.js";
import type { Body } from "./body.js";
import type { Access, Axis, Buffer, Expr, ScalarType, Store } from "./kernel.js";
import { type Helper, literal, needsBits, SPELL, vectorOf } from "./wgsl.js";

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

const spread = (dtype: ScalarType, text: string, point: Point): string => (point.lanes ? `${vectorOf(dtype)}(${text})` : text);

/** The same point with the lane axis moved by `lane` and computed as a scalar. */
const laneOf = (point: Point, lane: number): Point => ({
  axis: (axis) => {
    const base = point.axis(axis);
    if (axis !== point.lanes || lane === 0) return base;
    return typeof base === "number" ? base + lane : `(${base} + ${lane})`;
  },
  ...(point.acc === undefined ? {} : { acc: `${point.acc}[${lane}]` }),
  ...(point.position === undefined ? {} : { position: `${point.position}[${lane}]` }),
  ...(point.folds === undefined ? {} : { folds: point.folds }),
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
      if (expr.fold !== undefined) return spread(expr.dtype, point.folds?.[expr.fold] ?? `fold${expr.fold}`, point);
      return (expr.dtype === "i32" ? point.position : undefined) ?? point.acc ?? "acc";
    case "index": {
      const base = spellAffine(expr.index, point.axis);
      if (!point.lanes) return base;
      const k = expr.index.by.get(point.lanes) ?? 0;
      return k === 0 ? `vec4i(${base})` : `(vec4i(${base}) + vec4i(0, ${k}, ${2 * k}, ${3 * k}))`;
    }
    case "uniform": {
      body.hash = true;
      const key = expr.key.map((k) => emitExpr(body, k, point.lanes ? laneOf(point, 0) : point, vec4));
      // a constant index outside the tensor is one that a guard discards, and WGSL refuses to convert a negative one
      const at = (p: Point) => spellAffine(expr.index, p.axis).replace(/^-\d+$/, "0");
      const one = (p: Point) => `uniform_at(u32(${at(p)}), ${key.join(", ")}, ${expr.stream}u)`;
      return body.let("drawn", wide("f32", point), point.lanes ? `vec4f(${[0, 1, 2, 3].map((k) => one(laneOf(point, k))).join(", ")})` : one(point));
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
    case "load":
      if (expr.dtype === "f32" && needsBits(expr.access.fill)) body.bits = true;
      return emitLoad(body, expr.access, expr.dtype, point, vec4);
    case "gather": return point.lanes ? byLane(body, expr, point, vec4) : emitGather(body, expr, point, vec4);
    case "masked": {
      if (point.lanes && expr.quotients.some((q) => q.expr.by.has(point.lanes as Axis)))
        return byLane(body, expr, point, vec4);
      if (expr.dtype === "f32" && needsBits(expr.fill)) body.bits = true;
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
function byLane(body: Body, expr: Expr, point: Point, vec4: ReadonlySet<Buffer>): string {
  const lanes = [0, 1, 2, 3].map((k) => emitExpr(body, expr, laneOf(point, k), vec4));
  return body.let("g", vectorOf(expr.dtype), `${vectorOf(expr.dtype)}(${lanes.join(", ")})`);
}

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
    return byLane(body, { kind: "load", dtype, access }, point, vec4);
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

/** One element of a row whose number is computed; the address stays inside the table whatever the number is. */
function emitGather(body: Body, { access, dtype, row, rows, stride }: Expr & { kind: "gather" }, point: Point, vec4: ReadonlySet<Buffer>): string {
  const number = body.let("row", "i32", emitExpr(body, row, point, vec4));
  const address = `(${addressOf(access, point)} + clamp(${number}, 0, ${rows - 1}) * ${stride})`;
  const value = fromStored(dtype, access.buffer, element(access.buffer, address, vec4), false);
  const inside = `(u32(${number}) < ${rows}u)`;
  const condition = guard(access.bounds, access.quotients, point);
  return body.let("x", dtype, `select(${literal(dtype, 0)}, ${value}, ${condition === undefined ? inside : `(${inside} && ${condition})`})`);
}

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
