/** Rotary position embedding: pairs of features turned by an angle that depends on the position. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import type { Context, ImportOp } from "../context.js";
import { checkExamples, mismatch } from "./attention.js";
import { broadcast, reshape } from "./common.js";

/** Elements start, start + stride, … of the last axis. */
function take(c: Context, x: Value, start: number, count: number, stride = 1): Value {
  const { shape } = x.type;
  const last = shape.length - 1;
  if (start === 0 && stride === 1 && count === shape[last]) return x;
  return c.emit("slice", [x], { start: shape.map((_, k) => (k === last ? start : 0)), size: shape.map((n, k) => (k === last ? count : n)), stride: shape.map((_, k) => (k === last ? stride : 1)) });
}

/** Joined along the last axis; a part without elements adds nothing. */
function join(c: Context, parts: readonly Value[]): Value {
  const some = parts.filter((v) => v.type.shape.at(-1) !== 0);
  return some.length === 1 ? (some[0] as Value) : c.emit("concat", some, { axis: (some[0] as Value).type.shape.length - 1 });
}

interface Angles {
  /** f32[b, s, r / 2]. */
  readonly cos: Value;
  readonly sin: Value;
}

/** x[…, d] whose first r features are turned. `axes`: where batch, position and pair are in x's shape. */
function turned(c: Context, x: Value, r: number, interleaved: boolean, { cos, sin }: Angles, axes: readonly number[]): Value {
  const { shape } = x.type;
  const half = r / 2;
  const pairs = [...shape.slice(0, -1), half];
  const head = take(c, x, 0, r);
  const [a, b] = interleaved ? [take(c, head, 0, half, 2), take(c, head, 1, half, 2)] : [take(c, head, 0, half), take(c, head, half, half)];
  const [cosine, sine] = [broadcast(c, cos, pairs, axes), broadcast(c, sin, pairs, axes)];
  const real = c.emit("sub", [c.emit("mul", [cosine, a]), c.emit("mul", [sine, b])]);
  const imaginary = c.emit("add", [c.emit("mul", [sine, a]), c.emit("mul", [cosine, b])]);
  const made = interleaved
    ? reshape(c, join(c, [real, imaginary].map((v) => reshape(c, v, [...pairs, 1]))), head.type.shape)
    : join(c, [real, imaginary]);
  return join(c, [made, take(c, x, r, (shape.at(-1) as number) - r)]);
}

/** Rows of a table [positions, r / 2] by position [b, s]; without positions the table is [b, s, r / 2] itself. */
function rows(c: Context, t: Value, positions: Value | undefined, b: number, s: number, half: number): Value {
  const wrong = (): CompileError => mismatch(c, `a table [${t.type.shape}] for ${b} × ${s} positions and ${half} pairs of features`);
  const width = t.type.shape.at(-1);
  if (width === undefined || width < half) throw wrong();
  const cut = take(c, t, 0, half);
  if (!positions) {
    if (t.type.shape.length !== 3 || t.type.shape[0] !== b || t.type.shape[1] !== s) throw wrong();
    return cut;
  }
  if (t.type.shape.length !== 2 || positions.type.dtype !== "i32" || positions.type.shape.join() !== [b, s].join()) throw wrong();
  return reshape(c, c.emit("gather", [reshape(c, cut, [1, ...cut.type.shape]), reshape(c, positions, [1, b * s])]), [b, s, half]);
}

/** x [b, heads, s, d] or [b, s, heads · d]. `headsOf`: how many heads a flat x has. `positionsOf`: i32[b, s]. */
function rotary(c: Context, tables: readonly [number, number], headsOf: (hidden: number) => number, positionsOf: (b: number, s: number) => Value | undefined): Value {
  const x = c.x(0);
  const { shape } = x.type;
  if (shape.length !== 3 && shape.length !== 4) throw mismatch(c, `input [${shape}] is not of 3 or 4 axes`);
  checkExamples(c, [0]);
  const flat = shape.length === 3;
  const heads = flat ? headsOf(shape[2] as number) : (shape[1] as number);
  const [b, s] = [shape[0] as number, shape[flat ? 1 : 2] as number];
  if (flat && (heads < 1 || (shape[2] as number) % heads !== 0)) throw mismatch(c, `${shape[2]} features are not those of ${heads} heads`);
  const d = flat ? (shape[2] as number) / heads : (shape[3] as number);
  const r = c.int("rotary_embedding_dim", 0) || d;
  if (r > d || r < 2 || r % 2 !== 0) throw new CompileError("bad-model", `${c.node.op}: ${r} of ${d} features cannot be turned in pairs`, c.where);
  const positions = positionsOf(b, s);
  const [cos, sin] = tables.map((i) => rows(c, c.x(i), positions, b, s, r / 2)) as [Value, Value];
  const made = turned(c, flat ? reshape(c, x, [b, s, heads, d]) : x, r, c.int("interleaved", 0) !== 0, { cos, sin }, flat ? [0, 1, 3] : [0, 2, 3]);
  return reshape(c, made, shape);
}

/** Inputs: x, cosines, sines, positions. */
const standard: ImportOp = (c) => rotary(c, [1, 2], () => c.int("num_heads"), () => (c.has(3) ? c.x(3) : undefined));

/** Inputs: x, positions [b, s] or the first position of all [1], cosines, sines. */
const contributed: ImportOp = (c) => {
  if (c.int("is_packed_batching", 0) !== 0 || c.float("scale", 1) !== 1) throw c.refuse("packed batches and a scale are not supported");
  const places = (b: number, s: number): Value => {
    const first = c.x(1);
    if (first.type.shape.length !== 1) return first;
    const shape = [b, s];
    return c.emit("add", [broadcast(c, reshape(c, first, []), shape, []), c.emit("iota", [], { shape, axis: 1 })]);
  };
  return rotary(c, [2, 3], (hidden) => c.int("num_heads", 0) || hidden / (2 * (c.shape(2).at(-1) ?? 1)), places);
};

export const rotaryOps: Readonly<Record<string, ImportOp>> = {
  RotaryEmbedding: standard,
  "com.microsoft.RotaryEmbedding": contributed,
};
