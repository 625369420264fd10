/** Properties of the factor statistics and of the step made with them, in float64 through the entry graphs. */
import { describe, expect, it } from "vitest";
import { broadcast } from "../../ir/builder.js";
import type { Builder } from "../../ir/builder.js";
import type { Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { f32, size } from "../../ir/type.js";
import { type Compiled, compile } from "../../src/compile.js";
import type { LossKind } from "../../src/train/loss.js";
import { conv, convnet, custom, dense, type Forward, gained, HostRun, invert, labels, matmul, mlp, options, random, relative, tensor, transpose } from "../support/models.js";

const EXACT = { kind: "exact", samples: 1 } as const;
const EMPIRICAL = { kind: "empirical", samples: 1 } as const;
const make = (forward: Forward, loss: LossKind, batches: readonly number[], more: Parameters<typeof options>[0] = {}): Compiled =>
  compile(forward, options({ loss, batches, fisher: EXACT, ...more }));
const slice = (x: NdArray, start: number, count: number): NdArray => {
  const per = size(x.shape.slice(1));
  return ndarray(x.dtype, [count, ...x.shape.slice(1)], x.data.slice(start * per, (start + count) * per));
};
const ones = (n: number): NdArray => ndarray("f32", [n], new Float64Array(n).fill(1));
const factorNames = (c: Compiled): string[] => c.artifact.layers.flatMap((l) => (l.form === "block" ? [`kfac/${l.name}/F`] : [`kfac/${l.name}/A`, `kfac/${l.name}/G`]));

/** x and class numbers for the convnet or an mlp. */
function batch(shape: readonly number[], classes: number, seed: number): { x: NdArray; target: NdArray } {
  const next = random(seed);
  return { x: tensor(shape, next), target: labels([shape[0] as number], classes, next) };
}

describe("factors", () => {
  it("are symmetric, and no direction has a negative square", () => {
    for (const fisher of [EXACT, EMPIRICAL, { kind: "mc", samples: 2 } as const]) {
      const c = make(convnet(), "softmax-ce", [4], { fisher });
      const run = new HostRun(c, { seed: 3, step: 1 });
      run.run("front.stats@4", batch([4, 2, 6, 6], 3, 31), { count: 4 });
      const next = random(32);
      for (const name of factorNames(c)) {
        const F = run.get(name);
        const n = Math.sqrt(F.length);
        expect(relative(transpose(F, n, n), F), name).toBeLessThan(1e-14);
        for (let k = 0; k < 20; k++) {
          const v = Float64Array.from({ length: n }, next);
          expect(matmul(matmul(v, F, 1, n, n), v, 1, n, 1)[0], `${name}, ${fisher.kind}`).toBeGreaterThan(-1e-12);
        }
      }
    }
  });

  it("of a convolution are those of a dense layer on its patches", () => {
    const shape = { stride: 2, pad: 1, dilation: 1 };
    const convolution = custom("conv", 5, (b, n) => conv(b, b.input("x", f32(n, 2, 5, 5), 0), "w", 3, 3, shape));
    const unfolded = custom("dense", 5, (b, n) => dense(b, b.input("x", f32(n, 9, 18), 0), "w", 3));
    const [c, d] = [make(convolution, "half-sse", [2]), make(unfolded, "half-sse", [2])];
    const next = random(33);
    const [x, t] = [tensor([2, 2, 5, 5], next), tensor([2, 3, 3, 3], next)];
    // patches by hand: position (p, q), feature (channel, i, j), zero outside
    const rows = Float64Array.from({ length: 2 * 9 * 18 }, (_, k) => {
      const [n, pos, f] = [Math.floor(k / 162), Math.floor(k / 18) % 9, k % 18];
      const [row, column] = [2 * Math.floor(pos / 3) + (Math.floor(f / 3) % 3) - 1, 2 * (pos % 3) + (f % 3) - 1];
      return row < 0 || row > 4 || column < 0 || column > 4 ? 0 : (x.data[((n * 2 + Math.floor(f / 9)) * 5 + row) * 5 + column] as number);
    });
    const turned = Float64Array.from({ length: 54 }, (_, k) => t.data[(Math.floor(k / 27) * 3 + (k % 3)) * 9 + (Math.floor(k / 3) % 9)] as number);
    const [one, two] = [new HostRun(c), new HostRun(d)];
    expect(c.artifact.layers.map((l) => [l.kind, l.T, l.dA, l.dG])).toEqual([["conv", 9, 19, 3]]);
    expect(d.artifact.layers.map((l) => [l.kind, l.T, l.dA, l.dG])).toEqual([["dense", 9, 19, 3]]);
    two.state["w.weight"] = ndarray("f32", [3, 18], one.get("w.weight"));
    two.state["w.bias"] = one.state["w.bias"] as NdArray;
    const a = one.run("front.stats@2", { x, target: t }, { count: 2 });
    const b = two.run("front.stats@2", { x: ndarray("f32", [2, 9, 18], rows), target: ndarray("f32", [2, 9, 3], turned) }, { count: 2 });
    for (const name of ["grad/w.weight", "kfac/w.weight/A", "kfac/w.weight/G"]) expect(relative((a[name] as NdArray).data, (b[name] as NdArray).data), name).toBeLessThan(1e-13);
    expect((a["kfac/w.weight/A"] as NdArray).data[19 * 19 - 1]).toBe(9);
  });

  it("do not depend on how a batch is cut, gradients included", () => {
    for (const [forward, shape] of [[convnet(), [6, 2, 6, 6]], [gained(), [6, 4]]] as const)
      for (const fisher of [EXACT, EMPIRICAL]) {
        const c = make(forward, "softmax-ce", [6, 2, 4], { fisher });
        const { x, target } = batch(shape, 3, 34);
        const whole = new HostRun(c);
        whole.run("front.stats@6", { x, target }, { count: 6 });
        for (const [first, second] of [[2, 4], [4, 2]] as const) {
          const parts = new HostRun(c);
          parts.run(`gradients.stats@${first}`, { x: slice(x, 0, first), target: slice(target, 0, first) }, { keep: 0 });
          parts.run(`gradients.stats@${second}`, { x: slice(x, first, second), target: slice(target, first, second) }, { keep: 1 });
          parts.run("absorb", {}, { count: 6 });
          for (const name of [...factorNames(c), ...Object.keys(whole.state).filter((n) => n.startsWith("grad/"))])
            expect(relative(parts.get(name), whole.get(name)), `${fisher.kind}: ${name}`).toBeLessThan(1e-12);
        }
      }
  });

  it("of a padded, masked batch are those of the true examples; a weight of 2 counts an example twice", () => {
    for (const forward of [convnet(), mlp([72, 5, 3])])
      for (const fisher of [EXACT, EMPIRICAL]) {
        const flat = forward(1).graph.inputs[0]?.value.type.shape.length === 2;
        const c = make(forward, "softmax-ce", [4, 3, 2], { fisher });
        const { x, target } = batch(flat ? [4, 72] : [4, 2, 6, 6], 3, 35);
        const [masked, short] = [new HostRun(c), new HostRun(c)];
        const lossOf = (r: Record<string, NdArray>) => (r.lossSum as NdArray).data[0] as number;
        // whatever stands in the padding must not matter
        const a = masked.run("front.stats.masked@4", { x, target, weight: ndarray("f32", [4], [1, 1, 0, 0]) }, { count: 2 });
        const b = short.run("front.stats@2", { x: slice(x, 0, 2), target: slice(target, 0, 2) }, { count: 2 });
        expect(lossOf(a)).toBeCloseTo(lossOf(b), 12);
        const names = [...factorNames(c), ...Object.keys(short.state).filter((n) => n.startsWith("grad/"))];
        for (const name of names) expect(relative(masked.get(name), short.get(name)), `${fisher.kind}: ${name}`).toBeLessThan(1e-12);
        const [weighted, twice] = [new HostRun(c), new HostRun(c)];
        weighted.run("front.stats.masked@2", { x: slice(x, 0, 2), target: slice(target, 0, 2), weight: ndarray("f32", [2], [1, 2]) }, { count: 3 });
        const pick = (t: NdArray) => ndarray(t.dtype, [3, ...t.shape.slice(1)], [...slice(t, 0, 2).data, ...slice(t, 1, 1).data]);
        twice.run("front.stats@3", { x: pick(x), target: pick(target) }, { count: 3 });
        for (const name of names) expect(relative(weighted.get(name), twice.get(name)), `${fisher.kind}, weights: ${name}`).toBeLessThan(1e-12);
      }
  });

  it("are averages with the given blend: F + (x − F)·blend", () => {
    const c = make(mlp([3, 2]), "half-sse", [2]);
    const run = new HostRun(c);
    const next = random(36);
    const [one, two] = [{ x: tensor([2, 3], next), target: tensor([2, 2], next) }, { x: tensor([2, 3], next), target: tensor([2, 2], next) }];
    run.run("front.stats@2", one, { count: 2, emaBlend: 1 });
    const first = run.get("kfac/fc0.weight/A");
    run.run("front.stats@2", two, { count: 2, emaBlend: 0.25 });
    const mixed = run.get("kfac/fc0.weight/A");
    const alone = new HostRun(c);
    alone.run("front.stats@2", two, { count: 2, emaBlend: 1 });
    expect(relative(mixed, first.map((f, k) => 0.75 * f + 0.25 * (alone.get("kfac/fc0.weight/A")[k] as number)))).toBeLessThan(1e-14);
  });

  it("of the sampled Fisher approach the exact one as samples are added up", () => {
    const { x, target } = batch([3, 4], 3, 37);
    const exact = new HostRun(make(mlp([4, 5, 3]), "softmax-ce", [3]));
    exact.run("front.stats@3", { x, target }, { count: 3 });
    const sampled = make(mlp([4, 5, 3]), "softmax-ce", [3], { fisher: { kind: "mc", samples: 8 }, verify: false });
    const draws = 250;
    for (const layer of sampled.artifact.layers) {
      const name = `kfac/${layer.name}/G`;
      const want = exact.get(name);
      const [sum, squares] = [new Float64Array(want.length), new Float64Array(want.length)];
      for (let step = 0; step < draws; step++) {
        const run = new HostRun(sampled, { seed: 5, step });
        run.run("front.stats@3", { x, target }, { count: 3 });
        run.get(name).forEach((g, k) => { sum[k] = (sum[k] as number) + g; squares[k] = (squares[k] as number) + g * g; });
      }
      want.forEach((w, k) => {
        const mean = (sum[k] as number) / draws;
        const error = Math.sqrt(Math.max(0, (squares[k] as number) / draws - mean * mean) / draws);
        expect(Math.abs(mean - w), `${name}[${k}]`).toBeLessThan(5 * error + 1e-9);
      });
    }
  });

  it("with targets given by the caller, sampling is replaced by them", () => {
    const { x, target } = batch([4, 4], 3, 38);
    const mc = new HostRun(make(mlp([4, 5, 3]), "softmax-ce", [4], { fisher: { kind: "mc", samples: 1 } }));
    const emp = new HostRun(make(mlp([4, 5, 3]), "softmax-ce", [4], { fisher: EMPIRICAL }));
    mc.run("front.stats@4", { x, target, mcTargets: target, mcGiven: ndarray("i32", [1], [1]) }, { count: 4 });
    emp.run("front.stats@4", { x, target }, { count: 4 });
    for (const name of ["kfac/fc0.weight/G", "kfac/fc1.weight/G", "grad/fc0.weight"]) expect(relative(mc.get(name), emp.get(name)), name).toBeLessThan(1e-13);
  });
});

describe("damping", () => {
  const setup = () => {
    const c = make(mlp([4, 5, 3]), "softmax-ce", [6]);
    const run = new HostRun(c, { damping: 0.02, lr: 0.1, momentum: 0, klClip: 0, count: 6 });
    return { c, run, inputs: batch([6, 4], 3, 41) };
  };

  it("inverses are those of A + π√λ·I and G + √λ/π·I, π from the traces", () => {
    const { c, run, inputs } = setup();
    run.run("front.stats@6", inputs);
    const out = run.run("refresh");
    expect([...(out.clean as NdArray).data]).toEqual([1, 1]);
    c.artifact.layers.forEach((l, k) => {
      const [A, G] = [run.get(`kfac/${l.name}/A`), run.get(`kfac/${l.name}/G`)];
      const trace = (m: Float64Array, n: number) => Array.from({ length: n }, (_, i) => m[i * n + i] as number).reduce((a, b) => a + b);
      const pi = Math.sqrt((trace(A, l.dA) / l.dA) / (trace(G, l.dG) / l.dG));
      expect((out.pi as NdArray).data[k]).toBeCloseTo(pi, 10);
      const root = Math.sqrt(Math.fround(0.02));
      const damped = (m: Float64Array, n: number, by: number) => invert(m.map((x, i) => x + (i % (n + 1) === 0 ? by : 0)), n);
      expect(relative(run.square(`kfac/${l.name}/Ainv`, l.dA), damped(A, l.dA, pi * root))).toBeLessThan(1e-10);
      expect(relative(run.square(`kfac/${l.name}/Ginv`, l.dG), damped(G, l.dG, root / pi))).toBeLessThan(1e-10);
    });
  });

  it("π is 1 where a trace is 0", () => {
    const c = make(mlp([4, 5, 3], "tanh", { bias: false }), "softmax-ce", [2]);
    const run = new HostRun(c, { damping: 0.04 });
    run.run("front.stats@2", { x: ndarray("f32", [2, 4], new Float64Array(8)), target: ndarray("i32", [2], [0, 1]) }, { count: 2 });
    const out = run.run("refresh");
    expect((out.pi as NdArray).data[0]).toBe(1);
    expect(relative(run.square("kfac/fc0.weight/Ainv", 4), [5, 0, 0, 0, 0, 5, 0, 0, 0, 0, 5, 0, 0, 0, 0, 5])).toBeLessThan(1e-6);
  });

  it("a layer whose factor has no inverse keeps its old ones, and only that layer", () => {
    const { run, inputs } = setup();
    run.front(inputs, 6);
    const before = ["fc0", "fc1"].map((l) => run.get(`kfac/${l}.weight/Ainv`));
    run.state["kfac/fc0.weight/A"] = ndarray("f32", [5, 5], run.get("kfac/fc0.weight/A").map((x) => -x));
    run.state["kfac/fc1.weight/A"] = ndarray("f32", [6, 6], run.get("kfac/fc1.weight/A").map((x) => 2 * x));
    const out = run.run("refresh");
    expect([...(out.clean as NdArray).data]).toEqual([0, 1]);
    expect(run.get("kfac/fc0.weight/Ainv")).toEqual(before[0]);
    expect(relative(run.get("kfac/fc1.weight/Ainv"), before[1] as Float64Array)).toBeGreaterThan(0.1);
  });

  it("a layer's scale multiplies λ", () => {
    const [one, two] = [setup(), setup()];
    one.run.front(one.inputs, 6);
    two.run.state["kfac/fc0.weight/scale"] = ndarray("f32", [1], [100]);
    two.run.fields.damping = 0.02;
    two.run.front(two.inputs, 6);
    const third = setup();
    third.run.fields.damping = 2;
    third.run.front(third.inputs, 6);
    expect(relative(two.run.get("kfac/fc0.weight/Ainv"), third.run.get("kfac/fc0.weight/Ainv"))).toBeLessThan(1e-6);
    expect(relative(two.run.get("kfac/fc1.weight/Ainv"), one.run.get("kfac/fc1.weight/Ainv"))).toBe(0);
  });
});

describe("the step", () => {
  const grads = (run: HostRun, c: Compiled, count: number) => c.artifact.layers.map((l) => run.get(`grad/${l.name}`).map((x) => x / count));

  it("is G⁻¹·∇·A⁻¹ scaled by ν = min(1, √(κ / (lr²·Σ⟨P, ∇⟩))) over all layers", () => {
    for (const klClip of [0, 1e-6, 1e-3, 1e3]) {
      const c = make(mlp([4, 5, 3]), "softmax-ce", [6]);
      const lr = 0.5;
      const run = new HostRun(c, { damping: 0.02, lr, momentum: 0, klClip, count: 6 });
      const before = { ...run.state };
      run.front(batch([6, 4], 3, 42), 6);
      const P = grads(run, c, 6).map((g, k) => {
        const l = c.artifact.layers[k] as NonNullable<Compiled["artifact"]["layers"][0]>;
        return matmul(matmul(run.square(`kfac/${l.name}/Ginv`, l.dG), g, l.dG, l.dG, l.dA), run.square(`kfac/${l.name}/Ainv`, l.dA), l.dG, l.dA, l.dA);
      });
      const total = grads(run, c, 6).reduce((sum, g, k) => sum + g.reduce((s, x, i) => s + x * (P[k]?.[i] as number), 0), 0);
      const nu = klClip === 0 ? 1 : Math.min(1, Math.sqrt(Math.fround(klClip) / (lr * lr * total)));
      const out = run.run("back");
      expect((out["stat/nu"] as NdArray).data[0]).toBeCloseTo(nu, 12);
      const moved = run.get("fc1.weight").map((w, k) => ((before["fc1.weight"] as NdArray).data[k] as number) - w);
      const want = Float64Array.from({ length: 15 }, (_, k) => lr * nu * (P[1]?.[Math.floor(k / 5) * 6 + (k % 5)] as number));
      expect(relative(moved, want)).toBeLessThan(1e-11);
    }
  });

  it("of loss × c with λ × c is the same (exact Fisher); with λ × c² and fixed targets it is 1/c of it", () => {
    // mse is half-sse times 2/outputs
    const [outputs, count] = [4, 6];
    const scale = 2 / outputs;
    const next = random(43);
    const inputs = { x: tensor([count, 3], next), target: tensor([count, outputs], next) };
    const drawn = { mcTargets: tensor([count, outputs], next), mcGiven: ndarray("i32", [1], [1]) };
    const stepOf = (loss: LossKind, fisher: Parameters<typeof make>[3], damping: number): Float64Array[] => {
      const c = make(mlp([3, 5, outputs]), loss, [count], fisher);
      const run = new HostRun(c, { damping, lr: 1, momentum: 0, klClip: 0, count });
      const before = { ...run.state };
      run.front({ ...inputs, ...drawn }, count);
      run.run("back");
      return ["fc0.weight", "fc0.bias", "fc1.weight", "fc1.bias"].map((n) => run.get(n).map((w, k) => w - ((before[n] as NdArray).data[k] as number)));
    };
    const lambda = 2 ** -5;
    const compare = (a: Float64Array[], b: Float64Array[], factor: number) => a.forEach((x, k) => expect(relative(x, (b[k] as Float64Array).map((y) => factor * y))).toBeLessThan(1e-10));
    compare(stepOf("mse", { fisher: EXACT }, scale * lambda), stepOf("half-sse", { fisher: EXACT }, lambda), 1);
    for (const fisher of [EMPIRICAL, { kind: "mc", samples: 1 } as const])
      compare(stepOf("mse", { fisher }, scale ** 2 * lambda), stepOf("half-sse", { fisher }, lambda), 1 / scale);
  });

  it("is the same function's step after an affine change of the activations, without damping", () => {
    const [inner, count] = [4, 24];
    const next = random(44);
    const M = tensor([inner, inner], next);
    for (let i = 0; i < inner; i++) M.data[i * inner + i] = (M.data[i * inner + i] as number) + 2;
    const shift = tensor([inner], next);
    const build = (affine: boolean) => custom("net", 6, (b: Builder, n: number): Value => {
      let h = b.emit("tanh", [dense(b, b.input("x", f32(n, 3), 0), "one", inner)]);
      if (affine) {
        const m = b.param("M", f32(inner, inner), { kind: "file" }, false);
        const s = b.param("shift", f32(inner), { kind: "file" }, false);
        h = b.emit("add", [b.emit("contract", [h, m], { spec: "ni,oi->no" }), broadcast(b.emit, s, h.type.shape, [1])]);
      }
      return dense(b, h, "two", 2);
    });
    const inputs = { x: tensor([count, 3], next), target: tensor([count, 2], next) };
    const outputs = [false, true].map((affine) => {
      const c = make(build(affine), "half-sse", [count]);
      const run = new HostRun(c, { damping: 1e-24, lr: 0.3, momentum: 0, klClip: 0, count });
      if (affine) {
        run.state.M = M;
        run.state.shift = shift;
      }
      // W' [M | shift] = W: the same function
      const plain = new HostRun(make(build(false), "half-sse", [count]));
      for (const n of ["one.weight", "one.bias", "two.weight", "two.bias"]) run.state[n] = plain.state[n] as NdArray;
      if (affine) {
        const w = matmul(plain.get("two.weight"), invert(M.data, inner), 2, inner, inner);
        const moved = matmul(w, shift.data, 2, inner, 1);
        run.state["two.weight"] = ndarray("f32", [2, inner], w);
        run.state["two.bias"] = ndarray("f32", [2], plain.get("two.bias").map((x, k) => x - (moved[k] as number)));
      }
      const of = () => (run.run(`predict@${count}`, inputs)["out/y"] as NdArray).data;
      const before = of();
      run.front(inputs, count);
      run.run("back");
      return { before, after: of() };
    });
    const [plain, changed] = outputs as [{ before: Float64Array; after: Float64Array }, { before: Float64Array; after: Float64Array }];
    expect(relative(changed.before, plain.before)).toBeLessThan(1e-12);
    expect(relative(plain.after, plain.before)).toBeGreaterThan(0.01);
    expect(relative(changed.after, plain.after)).toBeLessThan(1e-6);
  });

  it("leaves nothing out: every trainable parameter moves, a gain without a layer by plain momentum", () => {
    const c = make(gained(), "softmax-ce", [4], { layerOverride: { gain: "skip" } });
    expect(c.artifact.orphans.map((o) => o.param)).toEqual(["gain"]);
    const run = new HostRun(c, { lr: 0.1, momentum: 0.9, klClip: 0, count: 4, weightDecay: 0.5 });
    const before = { ...run.state };
    run.state["opt/m/gain"] = ndarray("f32", [5], [1, 2, 3, 4, 5]);
    run.front(batch([4, 4], 3, 45), 4);
    run.run("back");
    for (const name of Object.keys(before)) expect(relative(run.get(name), (before[name] as NdArray).data), name).toBeGreaterThan(1e-6);
    const gain = (before.gain as NdArray).data;
    const want = gain.map((p, k) => p - Math.fround(0.1) * (Math.fround(0.9) * (k + 1) + (run.get("grad/gain")[k] as number) / 4 + 0.5 * p));
    expect(relative(run.get("gain"), want)).toBeLessThan(1e-12);
  });

  it("decoupled decay shrinks weights beside the step, L2 decay goes through the inverses", () => {
    for (const mode of ["l2", "decoupled"] as const) {
      const c = make(mlp([3, 2]), "half-sse", [4], { weightDecayMode: mode });
      const next = random(46);
      const inputs = { x: tensor([4, 3], next), target: tensor([4, 2], next) };
      const stepWith = (weightDecay: number): { moved: Float64Array; run: HostRun } => {
        const run = new HostRun(c, { lr: 1, momentum: 0, klClip: 0, damping: 0.1, weightDecay, count: 4 });
        run.front(inputs, 4);
        run.run("back");
        return { moved: run.get("fc0.weight"), run };
      };
      const before = new HostRun(c);
      const [none, some] = [stepWith(0), stepWith(0.25)];
      const w = Float64Array.from({ length: 8 }, (_, k) => (k % 4 < 3 ? (before.get("fc0.weight")[Math.floor(k / 4) * 3 + (k % 4)] as number) : (before.get("fc0.bias")[Math.floor(k / 4)] as number)));
      const P = mode === "decoupled" ? w : matmul(matmul(some.run.square("kfac/fc0.weight/Ginv", 2), w, 2, 2, 4), some.run.square("kfac/fc0.weight/Ainv", 4), 2, 4, 4);
      const want = none.moved.map((x, k) => x - 0.25 * (P[Math.floor(k / 3) * 4 + (k % 3)] as number));
      expect(relative(some.moved, want), mode).toBeLessThan(1e-10);
    }
  });

  it("of an empty statistics slot cannot happen: absorb divides sums by the true count", () => {
    const c = make(mlp([4, 5, 3]), "softmax-ce", [4]);
    const run = new HostRun(c);
    const { x, target } = batch([4, 4], 3, 47);
    run.run("gradients.stats.masked@4", { x, target, weight: ones(4) }, { keep: 0 });
    run.run("absorb", {}, { count: 4 });
    const plain = new HostRun(c);
    plain.run("front.stats@4", { x, target }, { count: 4 });
    for (const name of factorNames(c)) expect(relative(run.get(name), plain.get(name)), name).toBeLessThan(1e-12);
  });
});
