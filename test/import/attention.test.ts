/** Forms of the attention family that onnxruntime does not have, against the standard's text; and what is refused. */
import { describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import type { NdArray } from "../../ir/ndarray.js";
import { type ImportOptions, importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { expectGradient } from "../support/gradient.js";
import { type AttrSpec, BOOL, buildModel, INT64, type ModelSpec, node, type TensorSpec } from "../support/onnx-model.js";
import { bindingsOf, runImported, seeded } from "../support/onnx-run.js";

const importing = (spec: ModelSpec, options: Partial<ImportOptions> = {}) => importModel(loadModel(buildModel(spec)), { mode: "eval", ...options });
const messageOf = (f: () => unknown): string => {
  try {
    f();
    return "none";
  } catch (e) {
    if (e instanceof CompileError) return `${e.code}: ${e.message}`;
    throw e;
  }
};
const qkv = { q: [2, 2, 3, 4], k: [2, 2, 5, 4], v: [2, 2, 5, 4] };
const attention = (rest: Partial<ModelSpec>, extra: readonly string[], attrs: Readonly<Record<string, AttrSpec>> = {}): ModelSpec => ({
  opset: 24, inputs: qkv, outputs: ["y"], nodes: [node("Attention", ["q", "k", "v", ...extra], ["y"], attrs)], ...rest,
});

describe("Attention", () => {
  const wide = (dims: readonly number[], data: readonly number[], bool: boolean): TensorSpec => (bool ? { dims, type: BOOL, int32s: data } : { dims, floats: data });
  for (const bool of [true, false])
    it(`a mask of ${bool ? "truth values" : "numbers"} that is narrower than the keys leaves out the rest (opset 24)`, () => {
      const run = (mask: TensorSpec): NdArray => {
        const made = importing(attention({ initializers: { m: mask } }, ["m"]));
        return runImported(made, seeded(made.graph, 4)).y as NdArray;
      };
      const out = bool ? 0 : Number.NEGATIVE_INFINITY;
      const narrow = run(wide([3, 3], [1, 0, 1, 1, 1, 0, 0, 1, 1], bool));
      const full = run(wide([3, 5], [1, 0, 1, out, out, 1, 1, 0, out, out, 0, 1, 1, out, out], bool));
      expect([...narrow.data]).toEqual([...full.data]);
    });

  it("a row that may look at nothing is 0, and its gradient too, not NaN", () => {
    const made = importing(attention({ initializers: { m: wide([3, 5], [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1], true) } }, ["m"]));
    const at = bindingsOf(made, seeded(made.graph, 4));
    const { y } = runImported(made, seeded(made.graph, 4)) as { y: NdArray };
    expect([...y.data.slice(4, 8)]).toEqual([0, 0, 0, 0]);
    expect(y.data.slice(0, 4).every((v) => v !== 0)).toBe(true);
    expectGradient(made.graph, at, 4);
  });

  it("another batch than the file's is carried through, and another axis of examples is not", () => {
    const flat: ModelSpec = {
      ...attention({}, [], { q_num_heads: 2, kv_num_heads: 1, is_causal: 1 }), inputs: { q: [2, 3, 8], k: [2, 3, 4], v: [2, 3, 4] },
    };
    expect(importing(flat, { batch: 5 }).graph.results[0]?.value.type.shape).toEqual([5, 3, 8]);
    expect(messageOf(() => importing(flat, { batch: 5, batchAxis: { q: 1, k: 1, v: 1 } }))).toMatch(/examples-lost/);
  });

  it("refuses what does not fit", () => {
    const flat = { q: [2, 3, 8], k: [2, 5, 8], v: [2, 5, 8] };
    expect(messageOf(() => importing(attention({ inputs: flat }, [])))).toMatch(/bad-model: .*"q_num_heads"/);
    expect(messageOf(() => importing(attention({ inputs: flat }, [], { q_num_heads: 3, kv_num_heads: 1 })))).toMatch(/shape-mismatch: .*3 heads/);
    expect(messageOf(() => importing(attention({ inputs: { ...qkv, q: [2, 3, 3, 4] } }, [])))).toMatch(/shape-mismatch: .*3 query heads/);
    expect(messageOf(() => importing(attention({ inputs: { ...qkv, m: [3, 5] }, types: { m: INT64 } }, ["m"])))).toMatch(/unsupported-op: .*mask of i32/);
    expect(messageOf(() => importing(attention({ outputs: ["y", "s"], nodes: [node("Attention", ["q", "k", "v"], ["y", "", "", "s"], { qk_matmul_output_mode: 4 })] }, [])))).toMatch(/unsupported-op: .*qk_matmul_output_mode 4/);
  });
});

it("RotaryEmbedding reads as many columns of its tables as it turns pairs", () => {
  const table = (width: number): TensorSpec => ({ dims: [7, width], floats: Array.from({ length: 7 * width }, (_, k) => Math.sin(Math.floor(k / width) + 10 * (k % width))) });
  const run = (width: number): readonly number[] => {
    const made = importing({
      opset: 23, inputs: { x: [2, 2, 3, 8] }, outputs: ["y"], initializers: { t: table(width), p: { dims: [2, 3], type: INT64, int64s: [0, 3, 1, 6, 2, 2] } },
      nodes: [node("RotaryEmbedding", ["x", "t", "t", "p"], ["y"], { rotary_embedding_dim: 4, num_heads: 2 })],
    });
    return [...(runImported(made, seeded(made.graph, 2)).y as NdArray).data];
  };
  expect(run(4)).toEqual(run(2));
});

describe("RotaryEmbedding refuses", () => {
  const rotary = (x: readonly number[], table: readonly number[], attrs: Readonly<Record<string, AttrSpec>>): string =>
    messageOf(() => importing({ opset: 23, inputs: { x, c: table, s: table }, outputs: ["y"], nodes: [node("RotaryEmbedding", ["x", "c", "s"], ["y"], attrs)] }));
  it("tables of another size", () => expect(rotary([2, 3, 8], [2, 4, 2], { num_heads: 2 })).toMatch(/shape-mismatch: .*2 × 3 positions/));
  it("an odd number of features", () => expect(rotary([2, 3, 8], [2, 3, 2], { num_heads: 2, rotary_embedding_dim: 3 })).toMatch(/bad-model: .*3 of 4 features/));
  it("an unknown number of heads", () => expect(rotary([2, 3, 8], [2, 3, 2], {})).toMatch(/bad-model: .*"num_heads"/));
});

/** Element [i, j, …] of a tensor. */
const at = (x: NdArray | undefined, ...index: number[]): number => (x ? (x.data[index.reduce((flat, i, axis) => flat * (x.shape[axis] as number) + i, 0)] as number) : 0);

/** The recurrence as the standard's text has it, one position after the other: outputs and the last state, flat. */
function recurrence(rule: string, x: Readonly<Record<string, NdArray>>, [b, h, g, t, d, m]: readonly [number, number, number, number, number, number], scale: number): { y: number[]; state: number[] } {
  const [y, last]: [number[], number[]] = [new Array(b * t * h * g * m).fill(0), []];
  for (let n = 0; n < b; n++)
    for (let head = 0; head < h; head++) {
      const state = Array.from({ length: d }, (_, i) => Array.from({ length: m }, (_, j) => at(x.past, n, head, i, j)));
      for (let p = 0; p < t; p++) {
        const key = (i: number): number => at(x.k, n, p, head * d + i);
        const erase = (i: number): number => key(i) * (x.erase ? at(x.erase, n, p, head * d + i) : 1);
        const decay = (i: number): number => (x.decay ? Math.exp(at(x.decay, n, p, x.decay.shape[2] === h ? head : head * d + i)) : 1);
        state.forEach((row, i) => row.forEach((_, j) => { row[j] = (row[j] as number) * decay(i); }));
        const value = Array.from({ length: m }, (_, j) => {
          const v = at(x.v, n, p, head * m + j);
          const old = state.reduce((sum, row, i) => sum + (row[j] as number) * erase(i), 0);
          return rule.endsWith("delta") ? at(x.beta, n, p, x.beta?.shape[2] === 1 ? 0 : head) * (v - old) : v;
        });
        state.forEach((row, i) => row.forEach((_, j) => { row[j] = (row[j] as number) + key(i) * (value[j] as number); }));
        for (let group = 0; group < g; group++)
          for (let j = 0; j < m; j++)
            y[((n * t + p) * h * g + head * g + group) * m + j] = scale * state.reduce((sum, row, i) => sum + (row[j] as number) * at(x.q, n, p, (head * g + group) * d + i), 0);
      }
      last.push(...state.flat());
    }
  return { y, state: last };
}

describe("LinearAttention is its recurrence, and its gradient that of finite differences", () => {
  const [b, h, g, t, d, m] = [2, 2, 2, 3, 4, 3] as const;
  const all: Readonly<Record<string, readonly number[]>> = {
    q: [b, t, h * g * d], k: [b, t, h * d], v: [b, t, h * m], past: [b, h, d, m], decay: [b, t, h * d], decay1: [b, t, h], beta: [b, t, h], beta1: [b, t, 1], erase: [b, t, h * d],
  };
  const linear = (rule: string, names: readonly string[], scale: number): ModelSpec => ({
    opset: 27, inputs: Object.fromEntries(names.filter((n) => n !== "").map((n) => [n, all[n] as readonly number[]])), outputs: ["y", "state"],
    nodes: [node("LinearAttention", names, ["y", "state"], { update_rule: rule, q_num_heads: h * g, kv_num_heads: h, ...(scale === 0 ? {} : { scale: { float: scale } }) })],
  });
  for (const [rule, scale, ...names] of [
    ["linear", 0, "q", "k", "v"], ["linear", 0.25, "q", "k", "v", "past"], ["gated", 0, "q", "k", "v", "", "decay"], ["gated", 0.5, "q", "k", "v", "past", "decay1"],
    ["delta", 0, "q", "k", "v", "past", "", "beta"], ["delta", 0, "q", "k", "v", "", "", "beta1"], ["gated_delta", 0, "q", "k", "v", "past", "decay", "beta"],
    ["gated_delta", 0, "q", "k", "v", "past", "decay1", "beta1", "erase"],
  ] as const)
    it(`${rule}(${names.join(", ")})`, () => {
      const made = importing(linear(rule, names, scale));
      const bound = bindingsOf(made, seeded(made.graph, 6));
      const got = runImported(made, seeded(made.graph, 6));
      const named = Object.fromEntries(Object.entries(bound).map(([name, x]) => [name.replace(/1$/, ""), x]));
      const wanted = recurrence(rule, named, [b, h, g, t, d, m], scale === 0 ? 1 / Math.sqrt(d) : scale);
      // both are float64: sums of a few terms of size 1
      wanted.y.forEach((v, k) => expect(got.y?.data[k]).toBeCloseTo(v, 12));
      wanted.state.forEach((v, k) => expect(got.state?.data[k]).toBeCloseTo(v, 12));
      expectGradient(made.graph, bound, 6);
    });

  it("and refuses what does not go together, and what would be endless", () => {
    expect(messageOf(() => importing(linear("gated", ["q", "k", "v"], 0)))).toMatch(/bad-model: .*"gated" does not go/);
    expect(messageOf(() => importing(linear("mamba", ["q", "k", "v"], 0)))).toMatch(/unsupported-op: .*"mamba"/);
    expect(messageOf(() => importing(linear("delta", ["q", "k", "v", "past", "", "erase"], 0)))).toMatch(/shape-mismatch: .*input 5/);
    const long: ModelSpec = { ...linear("gated", ["q", "k", "v", "", "decay1"], 0), inputs: { q: [1, 513, 16], k: [1, 513, 8], v: [1, 513, 6], decay1: [1, 513, 2] } };
    expect(messageOf(() => importing(long))).toMatch(/unsupported-op: .*513 positions/);
  });
});

describe("CausalConvWithState sees its position and what came before", () => {
  const shapes: Readonly<Record<string, readonly number[]>> = { x: [2, 3, 5], w: [3, 1, 4], bias: [3], past: [2, 3, 3], short: [2, 3, 2], w1: [3, 1, 1] };
  for (const [names, activation] of [[["x", "w"], "none"], [["x", "w", "bias", "past"], "silu"], [["short", "w", "", "past"], "swish"], [["short", "w"], "none"], [["x", "w1", "bias"], "none"]] as const)
    it(`${names.join(", ")}, ${activation}`, () => {
      const made = importing({
        opset: 27, inputs: Object.fromEntries(names.filter((n) => n !== "").map((n) => [n, shapes[n] as readonly number[]])), outputs: ["y", "state"],
        nodes: [node("CausalConvWithState", names, ["y", "state"], { activation })],
      });
      const inputs = seeded(made.graph, 8);
      const bound = bindingsOf(made, inputs);
      const { y, state } = runImported(made, inputs) as { y: NdArray; state: NdArray };
      const [x, w] = [bound[names[0]] as NdArray, bound[names[1]] as NdArray];
      const [batch, channels, n] = x.shape as [number, number, number];
      const before = (w.shape[2] as number) - 1;
      const seen = (i: number, k: number, p: number): number => (p >= 0 ? at(x, i, k, p) : bound.past ? at(bound.past, i, k, before + p) : 0);
      expect(state.shape).toEqual([batch, channels, before]);
      for (let i = 0; i < batch; i++)
        for (let k = 0; k < channels; k++) {
          for (let p = 0; p < before; p++) expect(at(state, i, k, p)).toBe(seen(i, k, n - before + p));
          for (let p = 0; p < n; p++) {
            const sum = Array.from({ length: before + 1 }, (_, tap) => at(w, k, 0, tap) * seen(i, k, p - before + tap)).reduce((a, v) => a + v, at(bound.bias, k));
            expect(at(y, i, k, p)).toBeCloseTo(activation === "none" ? sum : sum / (1 + Math.exp(-sum)), 12);
          }
        }
      expectGradient(made.graph, bound, 8);
    });
});

describe("of onnxruntime's own forms what is not known is refused by name", () => {
  const fused = (op: string, shapes: readonly (readonly number[])[], types: Readonly<Record<string, number>>, attrs: Readonly<Record<string, AttrSpec>>): string => {
    const inputs = Object.fromEntries(shapes.flatMap((shape, k) => (shape.length === 0 ? [] : [[`x${k}`, shape]])));
    return messageOf(() => importing({ opset: 17, inputs, types, outputs: ["y"], nodes: [{ ...node(op, shapes.map((s, k) => (s.length === 0 ? "" : `x${k}`)), ["y"], { num_heads: 2, ...attrs }), domain: "com.microsoft" }] }));
  };
  it("packed keys and values", () => expect(fused("MultiHeadAttention", [[2, 3, 8], [2, 3, 2, 2, 4]], {}, {})).toMatch(/unsupported-op: MultiHeadAttention: packed/));
  it("a mask of another form", () => expect(fused("Attention", [[2, 3, 5], [5, 24], [24], [6]], { x3: 6 }, {})).toMatch(/unsupported-op: Attention: a mask \[6\]/));
  it("a past state", () => expect(fused("Attention", [[2, 3, 5], [5, 24], [24], [], [2, 2, 2, 3, 4]], {}, {})).toMatch(/unsupported-op: Attention: a past state/));
  it("grouped queries", () => expect(fused("GroupQueryAttention", [[2, 3, 8], [2, 3, 8], [2, 3, 8]], {}, {})).toMatch(/unsupported-op: ONNX op "com.microsoft.GroupQueryAttention"/));
  it("a causal mask where queries and keys are not the same positions", () => expect(fused("MultiHeadAttention", [[2, 3, 8], [2, 5, 8], [2, 5, 8]], {}, { unidirectional: 1 })).toMatch(/unsupported-op: MultiHeadAttention: unidirectional with 3 queries and 5 keys/));
  it("rotation inside", () => expect(fused("Attention", [[2, 3, 5], [5, 24], [24]], {}, { do_rotary: 1 })).toMatch(/unsupported-op: Attention: do_rotary/));
});
