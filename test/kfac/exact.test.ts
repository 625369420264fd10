/**
 * Where A ⊗ G is the exact Gauss–Newton block, it must be: one example used once per weight, and deep linear nets. In float64, through
 * the entry graphs that a program runs; the block itself comes from finite differences of the forward pass alone.
 */
import { describe, expect, it } from "vitest";
import { evaluate } from "../../ir/evaluate.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { type Compiled, compile, type ForwardModel } from "../../src/compile.js";
import type { LossKind } from "../../src/train/loss.js";
import { convnet, type Forward, HostRun, invert, kron, labels, matmul, mlp, options, random, relative, tensor, transpose } from "../support/models.js";

const exact = (forward: Forward, loss: LossKind, batch: number, more: Parameters<typeof options>[0] = {}): Compiled =>
  compile(forward as (n: number) => ForwardModel, options({ loss, batches: [batch], fisher: { kind: "exact", samples: 1 }, ...more }));

/** Inputs of one batch: x and targets of the loss's kind. */
function batchOf(c: Compiled, batch: number, seed: number): Record<string, NdArray> {
  const next = random(seed);
  const x = c.artifact.inputs[0] as NonNullable<Compiled["artifact"]["inputs"][0]>;
  const t = c.artifact.target;
  const target = c.artifact.classes === null ? tensor([batch, ...t.shape], next) : labels([batch, ...t.shape], c.artifact.classes, next);
  return { x: tensor([batch, ...x.shape], next), target: c.artifact.loss === "bernoulli-ce" ? { ...target, data: target.data.map(Math.abs) } : target };
}

const logits = (run: HostRun, inputs: Readonly<Record<string, NdArray>>, batch: number, state: Readonly<Record<string, NdArray>>): Float64Array => {
  const graph = run.compiled.graphs.get(`predict@${batch}`);
  if (!graph) throw new Error("no predict");
  return (evaluate(graph, { ...state, x: inputs.x as NdArray })["out/y"] as NdArray).data;
};

/** A layer's parameters as one vector in the order of A ⊗ G: input coordinate slow (bias last), output fast. */
function coordinates(layer: { name: string; bias: string | null; dA: number; dG: number }): { param: string; at: number }[] {
  const inputs = layer.dA - (layer.bias ? 1 : 0);
  return Array.from({ length: layer.dA * layer.dG }, (_, k) => {
    const [i, o] = [Math.floor(k / layer.dG), k % layer.dG];
    return i < inputs ? { param: layer.name, at: o * inputs + i } : { param: layer.bias as string, at: o };
  });
}

function nudged(state: Readonly<Record<string, NdArray>>, { param, at }: { param: string; at: number }, by: number): Record<string, NdArray> {
  const old = state[param] as NdArray;
  return { ...state, [param]: { ...old, data: old.data.map((x, k) => (k === at ? x + by : x)) } };
}

/** (1/N) Σ_n J_nᵀ H_n J_n of one layer: J by central differences of the logits, H the curvature of the loss, written out. */
function gaussNewton(run: HostRun, layer: Compiled["artifact"]["layers"][0], inputs: Readonly<Record<string, NdArray>>, batch: number): Float64Array {
  const coords = coordinates({ name: layer.name, bias: layer.params.bias, dA: layer.dA, dG: layer.dG });
  const z = logits(run, inputs, batch, run.state);
  const h = 1e-5;
  const columns = coords.map((c) => {
    const [up, down] = [logits(run, inputs, batch, nudged(run.state, c, h)), logits(run, inputs, batch, nudged(run.state, c, -h))];
    return up.map((x, k) => (x - (down[k] as number)) / (2 * h));
  });
  const per = z.length / batch;
  const n = coords.length;
  const block = new Float64Array(n * n);
  for (let e = 0; e < batch; e++) {
    const row = z.slice(e * per, (e + 1) * per);
    const J = new Float64Array(per * n);
    columns.forEach((column, c) => { for (let k = 0; k < per; k++) J[k * n + c] = column[e * per + k] as number; });
    const part = matmul(matmul(transpose(J, per, n), curvature(run.compiled.artifact.loss, row), n, per, per), J, n, per, n);
    part.forEach((x, k) => { block[k] = (block[k] as number) + x / batch; });
  }
  return block;
}

function curvature(loss: string, z: Float64Array): Float64Array {
  const n = z.length;
  const e = z.map((x) => Math.exp(x - Math.max(...z)));
  const total = e.reduce((a, b) => a + b);
  const p = loss === "softmax-ce" ? e.map((x) => x / total) : z.map((x) => 1 / (1 + Math.exp(-x)));
  return Float64Array.from({ length: n * n }, (_, k) => {
    const [i, j] = [Math.floor(k / n), k % n];
    if (loss === "softmax-ce") return (i === j ? (p[i] as number) : 0) - (p[i] as number) * (p[j] as number);
    if (i !== j) return 0;
    return loss === "bernoulli-ce" ? (p[i] as number) * (1 - (p[i] as number)) : loss === "mse" ? 2 / n : 1;
  });
}

/** A ⊗ G of a layer from the running factors. */
const block = (run: HostRun, layer: Compiled["artifact"]["layers"][0]): Float64Array =>
  kron(run.get(`kfac/${layer.name}/A`), layer.dA, run.get(`kfac/${layer.name}/G`), layer.dG);

describe("A ⊗ G is the exact block", () => {
  for (const loss of ["softmax-ce", "half-sse", "mse", "bernoulli-ce"] as const)
    for (const act of ["tanh", "relu"] as const)
      it(`of one example through dense layers: ${loss}, ${act}`, () => {
        const c = exact(mlp([4, 5, 3], act), loss, 1);
        const run = new HostRun(c);
        const inputs = batchOf(c, 1, 21);
        run.run("front.stats@1", inputs, { count: 1 });
        expect(c.artifact.layers.map((l) => [l.dA, l.dG])).toEqual([[5, 5], [6, 3]]);
        for (const layer of c.artifact.layers) expect(relative(block(run, layer), gaussNewton(run, layer, inputs, 1)), layer.name).toBeLessThan(1e-7);
      });

  for (const bias of [true, false])
    it(`of a deep linear net of any number of examples, half-sse, ${bias ? "with" : "without"} biases`, () => {
      const c = exact(mlp([3, 4, 4, 2], "linear", { bias }), "half-sse", 6);
      const run = new HostRun(c);
      const inputs = batchOf(c, 6, 22);
      run.run("front.stats@6", inputs, { count: 6 });
      expect(c.artifact.layers.length).toBe(3);
      for (const layer of c.artifact.layers) expect(relative(block(run, layer), gaussNewton(run, layer, inputs, 6)), layer.name).toBeLessThan(1e-7);
    });

  it("and is not, with several examples through a nonlinear net: the comparison can fail", () => {
    const c = exact(mlp([4, 5, 3], "tanh"), "softmax-ce", 6);
    const run = new HostRun(c);
    const inputs = batchOf(c, 6, 23);
    run.run("front.stats@6", inputs, { count: 6 });
    const layer = c.artifact.layers[0] as NonNullable<Compiled["artifact"]["layers"][0]>;
    expect(relative(block(run, layer), gaussNewton(run, layer, inputs, 6))).toBeGreaterThan(0.01);
  });

  it("half-sse on a relu net: the Fisher block of one example is its Hessian block", () => {
    const c = exact(mlp([4, 5, 3], "relu"), "half-sse", 1);
    const run = new HostRun(c);
    const inputs = batchOf(c, 1, 24);
    run.run("front.stats@1", inputs, { count: 1 });
    for (const layer of c.artifact.layers) {
      const coords = coordinates({ name: layer.name, bias: layer.params.bias, dA: layer.dA, dG: layer.dG });
      const gradient = (state: Readonly<Record<string, NdArray>>): Float64Array => {
        const at = new HostRun(c);
        Object.assign(at.state, state);
        // the gradient matrix is [out, in]: reorder to (in, out)
        return transpose((at.run("front@1", inputs, { count: 1 })[`grad/${layer.name}`] as NdArray).data, layer.dG, layer.dA);
      };
      const n = coords.length;
      const hessian = new Float64Array(n * n);
      coords.forEach((at, k) => {
        const [up, down] = [gradient(nudged(run.state, at, 1e-5)), gradient(nudged(run.state, at, -1e-5))];
        for (let j = 0; j < n; j++) hessian[k * n + j] = ((up[j] as number) - (down[j] as number)) / 2e-5;
      });
      expect(relative(block(run, layer), hessian), layer.name).toBeLessThan(1e-7);
    }
  });
});

describe("gradients of the entry graphs", () => {
  for (const [name, forward, loss] of [["mlp", mlp([4, 5, 3]), "softmax-ce"], ["convnet", convnet(3, "tanh"), "half-sse"], ["convnet", convnet(2, "tanh"), "bernoulli-ce"]] as const)
    it(`${name}, ${loss}: the sums over examples are the loss's derivative`, () => {
      const c = exact(forward, loss, 3);
      const run = new HostRun(c);
      const inputs = batchOf(c, 3, 25);
      const results = run.run("front@3", inputs, { count: 3 });
      const total = (state: Readonly<Record<string, NdArray>>): number => {
        const at = new HostRun(c);
        Object.assign(at.state, state);
        return (at.run("evaluate@3", { ...inputs, weight: ndarray("f32", [3], [1, 1, 1]) }).lossSum as NdArray).data[0] as number;
      };
      for (const layer of c.artifact.layers) {
        const coords = coordinates({ name: layer.name, bias: layer.params.bias, dA: layer.dA, dG: layer.dG });
        const got = transpose((results[`grad/${layer.name}`] as NdArray).data, layer.dG, layer.dA);
        const want = coords.map((at) => (total(nudged(run.state, at, 1e-5)) - total(nudged(run.state, at, -1e-5))) / 2e-5);
        expect(relative(got, want), layer.name).toBeLessThan(1e-7);
      }
    });
});

describe("the preconditioned step", () => {
  it("with exact factors and no damping, solves the block's normal equations", () => {
    const c = exact(mlp([3, 2, 2], "linear"), "half-sse", 12);
    const run = new HostRun(c, { damping: 1e-24, klClip: 0, momentum: 0, lr: 1, count: 12 });
    const inputs = batchOf(c, 12, 26);
    const before = { ...run.state };
    const results = run.front(inputs, 12);
    run.run("back");
    // the last layer sees all its outputs: its block is invertible
    const layer = c.artifact.layers[1] as NonNullable<Compiled["artifact"]["layers"][0]>;
    const gradient = transpose((results[`grad/${layer.name}`] as NdArray).data.map((x) => x / 12), layer.dG, layer.dA);
    const coords = coordinates({ name: layer.name, bias: layer.params.bias, dA: layer.dA, dG: layer.dG });
    const n = coords.length;
    const step = matmul(invert(gaussNewton(new HostRun(c), layer, inputs, 12), n), gradient, n, n, 1);
    const moved = coords.map(({ param, at }) => ((before[param] as NdArray).data[at] as number) - (run.get(param)[at] as number));
    expect(relative(moved, step)).toBeLessThan(1e-6);
  });
});
