/** Which outputs have a loss, what counts how much, and what a position without a label leaves behind. */
import { describe, expect, it } from "vitest";
import { Builder } from "../../ir/builder.js";
import { CompileError, spellError } from "../../ir/error.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { f32 } from "../../ir/type.js";
import type { CustomLoss } from "../../src/train/custom.js";
import { headLosses, headSeeds, type HeadSource, type HeadSpec, parseHeads, pickHeads, targetInputs } from "../../src/train/heads.js";
import { correct, derivative, labelled, type Loss, perExample } from "../../src/train/loss.js";
import { labels, random, relative, tensor } from "../support/models.js";

/** main: softmax of logits; aux: sigmoid of logits; free: plain values. */
function source(more: Partial<HeadSource> = {}): HeadSource {
  const b = new Builder("net");
  const [za, zb, free] = [b.input("za", f32(2, 3), 0), b.input("zb", f32(2, 4), 0), b.input("free", f32(2, 5), 0)];
  const [p, q] = [b.emit("exp", [za]), b.emit("sigmoid", [zb])];
  return {
    name: "net",
    outputs: [{ name: "main", value: p, head: { kind: "softmax", axis: 1, logits: za } }, { name: "aux", value: q, head: { kind: "sigmoid", axis: 1, logits: zb } }, { name: "free", value: free }],
    ...more,
  };
}
/** `output:loss·weight@graph input of z→target` of each head, then the notes. */
const picked = (given: readonly HeadSpec[] | undefined, from = source()): readonly [string, string[]] => {
  const notes: string[] = [];
  const heads = pickHeads(from, given, notes);
  return [heads.map((h) => `${h.output}:${h.loss.kind}·${h.weight}@${h.loss.z.name}→${h.target}`).join(" "), notes];
};
const refusal = (run: () => unknown): string => {
  try {
    run();
  } catch (e) {
    if (e instanceof CompileError) return spellError(e).replaceAll("\n", " ");
    throw e;
  }
  return "accepted";
};

describe("heads", () => {
  it.each<[string, readonly HeadSpec[] | undefined, Partial<HeadSource>, string]>([
    ["nothing given: the first output, as its end implies", undefined, {}, "main:softmax-ce·1@za→target"],
    ["a loss without a name is on the first output, and of values unless implied", [{ kind: "mse" }], {}, "main:mse·1@v0→target"],
    ["a loss of another output is alone", [{ output: "aux", kind: "bernoulli-ce" }], {}, "aux:bernoulli-ce·1@zb→target"],
    ["several, in the order of the outputs", [{ output: "free", kind: "half-sse" }, { kind: "softmax-ce" }], {}, "main:softmax-ce·1@za→target/main free:half-sse·1@free→target/free"],
    ["a weight alone adds what the output implies", [{ output: "aux", weight: 0.3 }], {}, "main:softmax-ce·1@za→target/main aux:bernoulli-ce·0.3@zb→target/aux"],
    ["a weight meets its loss", [{ output: "free", kind: "mse" }, { output: "free", weight: 2 }, { kind: "softmax-ce" }], {}, "main:softmax-ce·1@za→target/main free:mse·2@free→target/free"],
    ["the model's own", undefined, { losses: [{ output: "aux", kind: "half-sse" }, { output: "free", kind: "mse", weight: 0.5 }] }, "aux:half-sse·1@v1→target/aux free:mse·0.5@free→target/free"],
    ["the model's own, weighed anew", [{ output: "free", weight: 4 }], { losses: [{ output: "main", kind: "softmax-ce" }, { output: "free", kind: "mse", weight: 0.5 }] }, "main:softmax-ce·1@za→target/main free:mse·4@free→target/free"],
    ["given losses replace the model's own", [{ output: "free", kind: "mse" }], { loss: "softmax-ce", losses: [{ output: "main", kind: "softmax-ce" }] }, "free:mse·1@free→target"],
    ["a weight of 0 leaves one head", [{ output: "aux", weight: 0 }], { losses: [{ output: "main", kind: "softmax-ce" }, { output: "aux", kind: "bernoulli-ce" }] }, "main:softmax-ce·1@za→target"],
  ])("%s", (_name, given, more, want) => {
    expect(picked(given, source(more))[0]).toBe(want);
  });

  it("what was decided is said", () => {
    expect(picked(undefined)[1]).toEqual(['the loss is taken on the first of 3 outputs, "main"', 'loss softmax-ce inferred from the softmax at the end of output "main"']);
    expect(picked([{ output: "aux", weight: 0 }])[1]).toContain('output "aux" has no loss: its weight is 0');
    expect(picked([{ kind: "softmax-ce" }, { output: "aux", kind: "bernoulli-ce" }])[1]).toEqual(['no loss on "free"']);
  });

  it.each<[string, () => unknown, RegExp]>([
    ["an unknown output", () => picked([{ output: "axu", kind: "mse" }]), /bad-option: the model has no output "axu".*its outputs are "main", "aux", "free"/],
    ["two losses on one output", () => picked([{ kind: "mse" }, { output: "main", kind: "half-sse" }]), /two losses on output "main"/],
    ["all weights 0", () => picked([{ weight: 0 }]), /every loss has the weight 0/],
    ["a weight for an output that implies nothing", () => picked([{ output: "free", weight: 1 }]), /loss-unknown: the loss cannot be told from output "free"/],
    ["a weight below 0", () => parseHeads([], ["aux=-1"]), /"aux=-1" is not OUTPUT=w/],
    ["a loss of no name", () => parseHeads(["aux=hinge"], []), /no loss "hinge"/],
  ])("%s is refused", (_name, run, says) => expect(refusal(run)).toMatch(says));

  it("flags: the output's name may hold an equals sign", () => {
    expect(parseHeads(["bce", "a=b=mse"], ["a=b=0.5"])).toEqual([{ kind: "bernoulli-ce", output: undefined }, { output: "a=b", kind: "mse" }, { output: "a=b", weight: 0.5 }]);
  });

  it("the total is the weighted sum, and its derivative is that of every head", () => {
    const b = new Builder("g");
    const z = b.input("z", f32(2, 3), 0);
    const specs = [{ output: "main", kind: "softmax-ce", weight: 2 }, { output: "copy", kind: "half-sse", weight: 0.5 }] as const;
    const heads = pickHeads({ name: "g", outputs: [{ name: "main", value: z }, { name: "copy", value: z }] }, specs, []);
    const targets = targetInputs(b, heads);
    const { total, each } = headLosses(b, heads, targets);
    const seeds = headSeeds(b, heads, targets);
    const graph = b.finish([{ name: "total", value: total }, ...[...each].map(([h, value]) => ({ name: h.output, value })), { name: "seed", value: seeds.get(z) as Value }]);
    const next = random(5);
    const inputs = { z: tensor([2, 3], next), "target/main": labels([2], 3, next), "target/copy": tensor([2, 3], next) };
    const at = (moved: NdArray) => evaluate(graph, { ...inputs, z: moved }) as Record<"total" | "main" | "copy" | "seed", NdArray>;
    const here = at(inputs.z);
    here.total.data.forEach((l, n) => expect(l).toBeCloseTo(2 * (here.main.data[n] as number) + 0.5 * (here.copy.data[n] as number), 12));
    const sum = (k: number, by: number) => at({ ...inputs.z, data: inputs.z.data.map((x, j) => (j === k ? x + by : x)) }).total.data.reduce((x, y) => x + y);
    const want = inputs.z.data.map((_, k) => (sum(k, 1e-5) - sum(k, -1e-5)) / 2e-5);
    expect(relative(here.seed.data, want)).toBeLessThan(1e-8);
  });
});

/** A function of z [2, 3, 2] and targets [2, 2]. */
function onPositions(t: readonly number[], build: (b: Builder, loss: Loss, target: Value) => Value): number[] {
  const b = new Builder("g");
  const z = b.input("z", f32(2, 3, 2), 0);
  const target = b.input("t", { dtype: "i32", shape: [2, 2] }, 0);
  const y = build(b, { kind: "softmax-ce", z, axis: 1 }, target);
  return [...(evaluate(b.finish([{ name: "y", value: y }]), { z: tensor([2, 3, 2], random(9), 2), t: ndarray("i32", [2, 2], t) }).y as NdArray).data];
}

describe("labels below 0", () => {
  it("have no loss and no derivative, and change nothing elsewhere", () => {
    const [all, some] = [[1, 2, 0, 1], [1, -100, -1, 1]].map((t) => onPositions(t, derivative)) as [number[], number[]];
    some.forEach((g, k) => expect(g).toBe([1, 2].includes(Math.floor(k / 6) * 2 + (k % 2)) ? 0 : all[k]));
    const loss = (...t: number[]) => onPositions(t, perExample);
    expect(loss(-1, -1, 0, 1)[0]).toBe(0);
    expect((loss(1, -1, 0, 1)[0] as number) + (loss(-1, 2, 0, 1)[0] as number)).toBeCloseTo(loss(1, 2, 0, 1)[0] as number, 12);
  });

  it("are neither right nor wrong", () => {
    const best = onPositions([0, 0, 0, 0], (b, { z }) => b.emit("cast", [b.emit("reduce_argmax", [z], { axes: [1] })], { dtype: "f32" }));
    const right = (...t: number[]) => onPositions(t, (b, l, target) => correct(b, l, target) as Value);
    expect(right(best[0] as number, -100, -1, -1)).toEqual([1, 0]);
    expect(right(best[0] as number, ((best[1] as number) + 1) % 3, best[2] as number, best[3] as number)).toEqual([0.5, 1]);
    expect(onPositions([0, -1, -1, -1], (b, l, target) => labelled(b, l, target) as Value)).toEqual([1, 0]);
  });
});

describe("a loss of one's own", () => {
  const huber: CustomLoss = {
    kind: "custom", name: "huber", target: { dtype: "f32", shape: [3] },
    perExample(ops, z, t) {
      const d = ops.map("abs", ops.sub(z, t));
      return ops.where(ops.less(d, 1), ops.mul(ops.square(d), 0.5), ops.sub(d, 0.5));
    },
  };
  const run = (custom: CustomLoss, z: NdArray, t: NdArray, build: typeof derivative): NdArray => {
    const b = new Builder("g");
    const loss: Loss = { kind: "custom", custom, z: b.input("z", f32(...z.shape), 0), axis: 1 };
    return evaluate(b.finish([{ name: "y", value: build(b, loss, b.input("t", { dtype: t.dtype, shape: t.shape }, 0)) }]), { z, t }).y as NdArray;
  };
  it("is summed per example, and differentiated from its formula", () => {
    const [z, t] = [ndarray("f32", [2, 3], [0.5, 3, -2, 1, 1, 1]), ndarray("f32", [2, 3], [0, 0, 0, 1, 0.5, 4])];
    expect([...run(huber, z, t, perExample).data]).toEqual([0.125 + 2.5 + 1.5, 0.125 + 2.5]);
    expect([...run(huber, z, t, derivative).data]).toEqual([0.5, 1, -1, 0, 0.5, -1]);
  });
  it("that sums over the examples, or forgets the output, is refused", () => {
    const z = ndarray("f32", [2, 3], [1, 2, 3, 4, 5, 6]);
    expect(refusal(() => run({ ...huber, perExample: (ops, v) => ops.sum(v, [0]) }, z, z, perExample))).toMatch(/bad-model: perExample gives f32\[3\], not floats with the 2 examples first {3}at loss "huber"/);
    expect(refusal(() => run({ ...huber, perExample: (_, __, t) => t }, z, z, derivative))).toMatch(/does not depend on the output/);
  });
});
