/** A K-FAC step as one graph with directions made of rows, against its halves: in float64, on a device, and in what it costs. */
import { describe, expect, it } from "vitest";
import { reshape } from "../../ir/builder.js";
import { type Graph, only } from "../../ir/graph.js";
import { parseSpec } from "../../ir/ops/reduction.js";
import { f32, size } from "../../ir/type.js";
import type { NdArray } from "../../ir/ndarray.js";
import { decode } from "../../runtime/safetensors.js";
import type { Batch, Tensor } from "../../runtime/tensors.js";
import { Trainer, type TrainerOptions } from "../../runtime/trainer.js";
import { compile, type Compiled, type CompileOptions } from "../../src/compile.js";
import { testDevice } from "../support/gpu.js";
import { conv, custom, dense, type Forward, HostRun, labels, mlp, options, random, relative, tensor } from "../support/models.js";
import { toHost } from "../support/run-graph.js";

const device = testDevice();
const B = 4;
const build = (forward: Forward, more: Partial<CompileOptions> = {}): Compiled => compile(forward, options({ loss: "softmax-ce", verify: false, batches: [B], ...more }));

const wide = mlp([23, 18, 14, 3]);
/** Weights [in, out], a product of two axes, a sequence, a weight in two parts, and a convolution before them all. */
const turned = custom("turned", 5, (b, n) => {
  const h = b.emit("tanh", [b.emit("contract", [b.input("x", f32(n, 21), 0), b.param("w", f32(21, 17))], { spec: "ni,io->no" })]);
  return b.emit("contract", [h, b.param("v", f32(3, 17))], { spec: "ni,oi->no" });
});
const axes = custom("axes", 6, (b, n) => {
  const x = b.input("x", f32(n, 4, 6), 0);
  const h = b.emit("tanh", [b.emit("contract", [x, b.param("w", f32(3, 6, 5, 4))], { spec: "nci,pioc->nop" })]);
  return dense(b, reshape(b.emit, h, [n, 15]), "last", 3);
});
const sequence = custom("sequence", 7, (b, n) => {
  const h = b.emit("tanh", [dense(b, b.input("x", f32(n, 2, 30), 0), "each", 24)]);
  return dense(b, reshape(b.emit, h, [n, 48]), "last", 3);
});
const halves = custom("halves", 8, (b, n) => {
  const x = b.input("x", f32(n, 20), 0);
  const w = b.param("w", f32(30, 20));
  const part = (k: number) => b.emit("contract", [x, b.emit("slice", [w], { start: [15 * k, 0], size: [15, 20], stride: [1, 1] })], { spec: "ni,oi->no" });
  return dense(b, b.emit("mul", [b.emit("tanh", [part(0)]), part(1)]), "last", 3);
});
const convolved = custom("convolved", 9, (b, n) => {
  const h = b.emit("relu", [conv(b, b.input("x", f32(n, 2, 6, 6), 0), "conv", 3, 3, { stride: 2, pad: 1 })]);
  return dense(b, b.emit("tanh", [dense(b, reshape(b.emit, h, [n, 27]), "fc0", 16)]), "fc1", 3);
});

const CASES: Readonly<Record<string, () => Compiled>> = {
  "dense layers, sampled targets": () => build(wide),
  "without biases, empirical Fisher": () => build(mlp([23, 18, 14, 3], "tanh", { bias: false }), { fisher: { kind: "empirical", samples: 1 } }),
  "half-sse, exact Fisher": () => build(wide, { loss: "half-sse", fisher: { kind: "exact", samples: 1 } }),
  "weights the other way round": () => build(turned),
  "inputs and outputs of several axes": () => build(axes),
  "positions of a sequence": () => build(sequence, { sharing: { "*": "expand" } }),
  "positions of a sequence, reduced": () => build(sequence, { sharing: { "*": "reduce" } }),
  "parts of one weight": () => build(halves),
  "after a convolution": () => build(convolved),
  "with decoupled decay": () => build(wide, { weightDecayMode: "decoupled", run: { weightDecay: 0.02 } }),
};

function examples({ artifact }: Compiled, seed: number, count = B): { readonly x: NdArray; readonly target: NdArray } {
  const next = random(seed);
  const shape = [count, ...artifact.target.shape];
  return { x: tensor([count, ...(artifact.inputs[0]?.shape ?? [])], next), target: artifact.classes === null ? tensor(shape, next) : labels(shape, artifact.classes, next) };
}
const tensorOf = (a: NdArray): Tensor => ({ shape: a.shape, data: toHost(a) as Float32Array | Int32Array });
const batchOf = (c: Compiled, seed: number, count = B): Batch => {
  const { x, target } = examples(c, seed, count);
  return { x: tensorOf(x), target: tensorOf(target) };
};

/** The program without its whole steps. */
const inHalves = (c: Compiled): Compiled => ({
  ...c, artifact: { ...c.artifact, plan: { ...c.artifact.plan, entries: Object.fromEntries(Object.entries(c.artifact.plan.entries).filter(([name]) => !name.startsWith("step"))) } },
});

async function withTrainer<T>(c: Compiled, more: TrainerOptions, use: (t: Trainer) => Promise<T>): Promise<T> {
  const t = await Trainer.create(device().device, c.artifact, c.sources, Object.fromEntries(c.weights), more);
  try {
    return await use(t);
  } finally {
    await t.dispose();
  }
}

/** Entries submitted while something runs, in order. */
async function submitted(t: Trainer, work: () => void): Promise<string[]> {
  const seen: string[] = [];
  const submit = t.program.submit.bind(t.program);
  t.program.submit = (entries, ...more) => {
    seen.push(...entries.map((e) => (typeof e === "string" ? e : e.entry)));
    submit(entries, ...more);
  };
  work();
  await t.finish();
  return seen;
}

describe("a whole step is its halves, in float64", () => {
  for (const [name, make] of Object.entries(CASES))
    it(name, () => {
      const c = make();
      // inverses of condition ≤ 1e3: 1e-16 · 1e3, over some sums
      const close = 1e-12;
      for (const klClip of [0, 1e-4]) {
        const fields = { ...c.artifact.run, klClip, count: B, lr: 0.25, damping: 0.25, seed: 3 };
        const [one, two] = [new HostRun(c, fields), new HostRun(c, fields)];
        for (const run of [one, two]) {
          run.front(examples(c, 1), B);
          run.run("back");
        }
        const names = (c.graphs.get(`step.stats@${B}`) as Graph).results.map((r) => r.name);
        expect(names.some((n) => n.startsWith("rows/")), names.join(" ")).toBe(true);
        for (const [step, stats] of [[1, ".stats"], [2, ""]] as const) {
          const at = { step, emaBlend: 0.5 };
          one.run(`front${stats}@${B}`, examples(c, step + 1), at);
          one.run("back", {}, at);
          two.run(`step${stats}@${B}`, examples(c, step + 1), at);
          two.run(`expose@${B}`);
          for (const [slot, { data }] of Object.entries(one.state)) expect(relative(two.get(slot), data), `step ${step}, ${slot}`).toBeLessThan(close);
        }
        const nu = one.get("stat/nu")[0] as number;
        expect(klClip === 0 ? nu === 1 : nu < 1, `ν = ${nu}`).toBe(true);
      }
    });
});

describe("a whole step is its halves, on a device", () => {
  for (const name of ["dense layers, sampled targets", "positions of a sequence", "after a convolution"])
    it(`${name}: six steps, two of them with new inverses`, async () => {
      const c = (CASES[name] as () => Compiled)();
      const train = (of: Compiled) => withTrainer(of, { seed: 5, run: { lr: 0.1, damping: 0.3 }, host: { inversePeriod: 3, factorPeriod: 2 } }, async (t) => {
        const losses = await Promise.all([0, 1, 2, 3, 4, 5].map((k) => t.step(batchOf(c, k)).loss));
        return { losses, state: decode(await t.save()).tensors, told: await t.diagnose() };
      });
      const [one, two] = [await train(c), await train(inHalves(c))];
      // f32 rounds at 6e-8; six steps through inverses of condition ≤ 100
      const close = 2e-5;
      expect(relative(one.losses, two.losses)).toBeLessThan(close);
      for (const [key, want] of Object.entries(two.state)) expect(relative(one.state[key]?.data as Float32Array, want.data as Float32Array), key).toBeLessThan(close);
      for (const [k, d] of two.told.entries()) {
        expect(one.told[k]?.gradientNorm, d.layer).toBeCloseTo(d.gradientNorm, 4);
        expect(one.told[k]?.cosine, d.layer).toBeCloseTo(d.cosine as number, 4);
        expect(one.told[k]?.nu, d.layer).toBeCloseTo(d.nu, 4);
      }
    });

  it("equal runs are equal to the bit, through a checkpoint too", async () => {
    const c = build(wide);
    const host = { inversePeriod: 4, factorPeriod: 2 };
    const whole = await withTrainer(c, { host, seed: 2 }, async (t) => {
      for (let k = 0; k < 7; k++) t.step(batchOf(c, k));
      return t.save();
    });
    const half = await withTrainer(c, { host, seed: 2 }, async (t) => {
      for (let k = 0; k < 3; k++) t.step(batchOf(c, k));
      await t.diagnose();
      return t.save();
    });
    await withTrainer(c, { host, seed: 9 }, async (t) => {
      await t.restore(half);
      for (let k = 3; k < 7; k++) t.step(batchOf(c, k));
      expect(await t.save()).toEqual(whole);
    });
  });
});

describe("a step is whole", () => {
  const c = build(wide);
  const at = (t: Trainer, count = B): Promise<string[]> => submitted(t, () => { t.step(batchOf(c, 1, count)); });

  it("where no inverses are made, no example is missing and no decay is added to gradients", async () => {
    await withTrainer(c, { host: { inversePeriod: 4, factorPeriod: 2 } }, async (t) => {
      expect((await at(t)).filter((e) => !/^(front|refresh|back)/.test(e))).toEqual([]);
      expect(await at(t)).toEqual([`step@${B}`]);
      expect(await at(t)).toEqual([`step.stats@${B}`]);
      expect(await at(t, B - 1)).toEqual([`front.masked@${B}`, "back"]);
      expect(await at(t)).toEqual([`front.stats@${B}`, "refresh", "back"]);
      t.run.weightDecay = 0.1;
      expect(await at(t)).toEqual([`front@${B}`, "back"]);
      t.run.weightDecay = 0;
      expect(await at(t)).toEqual([`step.stats@${B}`]);
    });
    const decoupled = (CASES["with decoupled decay"] as () => Compiled)();
    await withTrainer(decoupled, {}, async (t) => {
      await at(t);
      expect(await at(t)).toEqual([`step.stats@${B}`]);
    });
  });

  it("only where that saves arithmetic", () => {
    const entries = (compiled: Compiled): string[] => Object.keys(compiled.artifact.plan.entries).filter((name) => /^(step|expose)/.test(name));
    expect(entries(c)).toEqual([`step@${B}`, `step.stats@${B}`, `expose@${B}`]);
    // as many rows as columns; bases from the host; no layers; another optimiser
    expect(entries(build(wide, { batches: [24] }))).toEqual([]);
    expect(entries(build(wide, { inverse: "eig" }))).toEqual([]);
    expect(entries(build(wide, { inverse: "ekfac" }))).toEqual([]);
    expect(entries(build(wide, { register: [] }))).toEqual([]);
    expect(entries(build(wide, { optimizer: "sgd" }))).toEqual([`step@${B}`, `step.masked@${B}`]);
  });

  it("and what it saves is what it was counted to save", () => {
    const work = (graph: Graph): number => graph.nodes.filter((n) => n.op === "contract").reduce((total, n) => {
      const { left, right } = parseSpec(String(n.attrs.spec));
      const sizes = new Map<string, number>();
      for (const [labels, v] of [[left, n.inputs[0]], [right, n.inputs[1]]] as const) [...labels].forEach((l, k) => sizes.set(l, v?.type.shape[k] as number));
      return total + size([...sizes.values()]);
    }, 0);
    // no biases and sides of multiples of four: the graphs multiply what the formula counts and nothing else
    const plain = build(mlp([24, 20, 4], "tanh", { bias: false }));
    const of = (name: string): number => work(plain.graphs.get(name) as Graph);
    const [d0, d1, R] = [24, 20, B];
    const byGradient = R * d0 * d1 + d0 * d1 * (d0 + d1);
    const byRows = R * (d0 * d0 + d1 * d1 + d0 * d1) + R * R * (d0 + d1);
    expect(of(`front@${B}`) + of("back") - of(`step@${B}`)).toBe(byGradient - byRows);
    expect(only((plain.graphs.get(`expose@${B}`) as Graph).nodes[0] as never).type.shape).toEqual([20, 24]);
  });
});
