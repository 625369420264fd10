/** Layers with a state that is carried from position to position: linear attention, and the short causal convolution before it. */
import { CompileError } from "../../../ir/error.js";
import type { Value } from "../../../ir/graph.js";
import type { Context, ImportOp, Result } from "../context.js";
import { checkExamples, mismatch } from "./attention.js";
import { add, along, broadcast, like, reshape, times } from "./common.js";
import { windows } from "./sliding.js";

/** A recurrence is written out: longer ones would be programs of tens of thousands of kernels. */
const MAX_STEPS = 512;

/** Sizes: batch, heads of keys, query heads for each, positions, features of keys and of values. */
interface Sizes {
  readonly b: number;
  readonly h: number;
  readonly g: number;
  readonly t: number;
  readonly d: number;
  readonly m: number;
}

function sizesOf(c: Context): Sizes {
  const [heads, h] = [c.int("q_num_heads"), c.int("kv_num_heads")];
  const [b, t, width] = c.shape(0) as [number, number, number];
  const [, , keys] = c.shape(1);
  const [, , values] = c.shape(2);
  const d = width / heads;
  if (c.shape(0).length !== 3 || h < 1 || heads % h !== 0 || !Number.isInteger(d) || keys !== h * d || !Number.isInteger((values ?? 0.5) / h))
    throw mismatch(c, `[${c.shape(0)}], [${c.shape(1)}] and [${c.shape(2)}] are not those of ${heads} and ${h} heads`);
  return { b, h, g: heads / h, t, d, m: (values as number) / h };
}

/** Input i as [b, t, h, n], or with one number for all heads [b, t, 1, 1] spread over them. */
function perHead(c: Context, i: number, { b, t, h }: Sizes, allowed: readonly number[]): Value {
  const x = c.x(i);
  const width = x.type.shape[2] ?? 0;
  if (x.type.shape.length !== 3 || x.type.shape[0] !== b || x.type.shape[1] !== t || !allowed.includes(width)) throw mismatch(c, `input ${i} is [${x.type.shape}]`);
  if (width === 1 && h > 1) return broadcast(c, reshape(c, x, [b, t]), [b, t, h, 1], [0, 1]);
  return reshape(c, x, [b, t, h, width / h]);
}

/** Position k of [b, t, …] as [b, …]. */
function at(c: Context, x: Value, k: number): Value {
  const { shape } = x.type;
  const [b, t, ...rest] = shape as [number, number, ...number[]];
  const part = t === 1 ? x : c.emit("slice", [x], { start: shape.map((_, axis) => (axis === 1 ? k : 0)), size: [b, 1, ...rest], stride: shape.map(() => 1) });
  return reshape(c, part, [b, ...rest]);
}

interface Operands {
  readonly q: Value;
  readonly k: Value;
  readonly v: Value;
  /** e^decay. */
  readonly keep: Value | undefined;
  readonly beta: Value | undefined;
  /** What reads the old value: k, but for an erase gate. */
  readonly erase: Value;
}

/**
 * S ← e^decay · S;  S ← S + k ⊗ (v, or beta · (v − Sᵀk));  o = scale · Sᵀq, at each position in turn.
 *
 *   q [b, t, h·g·d]   k [b, t, h·d]   v [b, t, h·m]   S [b, h, d, m]   o [b, t, h·g·m]
 */
function linearAttention(c: Context): readonly Result[] {
  checkExamples(c, [0, 1, 2, 3, 4, 5, 6]);
  const rule = c.text("update_rule", "gated_delta");
  if (!["linear", "gated", "delta", "gated_delta"].includes(rule)) throw c.refuse(`update_rule "${rule}" is not supported`);
  const s = sizesOf(c);
  const { b, h, g, t, d, m } = s;
  const [gated, delta] = [rule.startsWith("gated"), rule.endsWith("delta")];
  if (gated !== c.has(4) || delta !== c.has(5) || (c.has(6) && !delta))
    throw new CompileError("bad-model", `LinearAttention: update_rule "${rule}" does not go with the inputs given`, c.where);
  const scale = c.float("scale", 0) || 1 / Math.sqrt(d);
  const k = perHead(c, 1, s, [h * d]);
  const all: Operands = {
    q: times(c, reshape(c, c.x(0), [b, t, h, g, d]), scale), k, v: perHead(c, 2, s, [h * m]),
    keep: gated ? c.emit("exp", [perHead(c, 4, s, [h, h * d])]) : undefined,
    beta: delta ? perHead(c, 5, s, [h, 1]) : undefined,
    erase: c.has(6) ? c.emit("mul", [k, perHead(c, 6, s, [h * d])]) : k,
  };
  const first = c.has(3) ? c.x(3) : undefined;
  if (first && first.type.shape.join() !== [b, h, d, m].join()) throw mismatch(c, `the past state is [${first.type.shape}], not [${[b, h, d, m]}]`);
  const { outputs, state } = rule === "linear" ? atOnce(c, all, s, first) : stepwise(c, all, s, first);
  return [reshape(c, outputs, [b, t, h * g * m]), state];
}

/** Nothing is forgotten: attention without a softmax to all that came before. */
function atOnce(c: Context, { q, k, v }: Operands, { b, h, g, t }: Sizes, first: Value | undefined): { outputs: Value; state: Value } {
  const scores = c.emit("contract", [q, k], { spec: "bthgd,bshd->bhgts" });
  const shape = [b, h, g, t, t];
  const seen = c.emit("le", [c.emit("iota", [], { shape, axis: 4 }), c.emit("iota", [], { shape, axis: 3 })]);
  const now = c.emit("contract", [c.emit("select", [seen, scores, like(c, 0, scores)]), v], { spec: "bhgts,bshm->bthgm" });
  const written = c.emit("contract", [k, v], { spec: "bthd,bthm->bhdm" });
  if (!first) return { outputs: now, state: written };
  return { outputs: c.emit("add", [now, c.emit("contract", [q, first], { spec: "bthgd,bhdm->bthgm" })]), state: c.emit("add", [first, written]) };
}

function stepwise(c: Context, all: Operands, s: Sizes, first: Value | undefined): { outputs: Value; state: Value } {
  const { b, h, g, t, d, m } = s;
  if (t < 1 || t > MAX_STEPS) throw c.refuse(`a recurrence over ${t} positions is not supported`, `it is written out step by step, so that at most ${MAX_STEPS} are`);
  const outputs: Value[] = [];
  let state = first;
  for (let step = 0; step < t; step++) {
    const now = (x: Value): Value => at(c, x, step);
    if (state && all.keep) {
      const keep = now(all.keep); // [b, h, d], or [b, h, 1] for all features of a head
      const single = keep.type.shape[2] === 1 && d > 1;
      state = c.emit("mul", [state, single ? broadcast(c, reshape(c, keep, [b, h]), [b, h, d, m], [0, 1]) : broadcast(c, keep, [b, h, d, m], [0, 1, 2])]);
    }
    let value = now(all.v);
    if (all.beta) {
      if (state) value = c.emit("sub", [value, c.emit("contract", [state, now(all.erase)], { spec: "bhdm,bhd->bhm" })]);
      value = c.emit("mul", [value, broadcast(c, reshape(c, now(all.beta), [b, h]), [b, h, m], [0, 1])]);
    }
    const written = c.emit("contract", [now(all.k), value], { spec: "bhd,bhm->bhdm" });
    state = state ? c.emit("add", [state, written]) : written;
    outputs.push(reshape(c, c.emit("contract", [now(all.q), state], { spec: "bhgd,bhdm->bhgm" }), [b, 1, h * g * m]));
  }
  return { outputs: outputs.length === 1 ? (outputs[0] as Value) : c.emit("concat", outputs, { axis: 1 }), state: state as Value };
}

/**
 * y[·, c, p] = activation(Σ_i w[c, 0, i] · x[·, c, p − (taps − 1) + i] + bias[c]), with the past state before x's first position.
 *
 *   x [b, c, n]   w [c, 1, taps]   past, present [b, c, taps − 1]
 */
function causalConv(c: Context): readonly Result[] {
  checkExamples(c, [0, 3]);
  const [x, w] = [c.x(0), c.x(1)];
  const [b, channels, n] = x.type.shape as [number, number, number];
  const taps = w.type.shape[2] ?? 0;
  if (x.type.shape.length !== 3 || taps < 1 || w.type.shape.join() !== [channels, 1, taps].join()) throw mismatch(c, `[${x.type.shape}] and weight [${w.type.shape}]`);
  const before = taps - 1;
  if (c.has(3) && c.shape(3).join() !== [b, channels, before].join()) throw mismatch(c, `the past state is [${c.shape(3)}], not [${[b, channels, before]}]`);
  const whole = before === 0 ? x : c.has(3) ? c.emit("concat", [c.x(3), x], { axis: 2 }) : c.emit("pad", [x], { low: [0, 0, before], high: [0, 0, 0], value: 0 });
  const view = windows(c, whole, [{ extent: n + before, taps, stride: 1, dilation: 1, low: 0, high: 0, count: n }], 2);
  const product = c.emit("contract", [view, reshape(c, w, [channels, taps])], { spec: "nchi,ci->nch" });
  const y = c.has(2) ? add(c, product, along(c, c.x(2), product.type.shape, 1)) : product;
  const kind = c.text("activation", "none");
  if (!["none", "", "silu", "swish"].includes(kind)) throw c.refuse(`activation "${kind}" is not supported`);
  const made = kind === "silu" || kind === "swish" ? c.emit("mul", [y, c.emit("sigmoid", [y])]) : y;
  return [made, c.emit("slice", [whole], { start: [0, 0, n], size: [b, channels, before], stride: [1, 1, 1] })];
}

export const linearAttentionOps: Readonly<Record<string, ImportOp>> = {
  LinearAttention: linearAttention, CausalConvWithState: causalConv,
};
