/** The step of every kind of layer in float64 through `refresh` and `back`, against dense inverses of its running curvature. */
import { describe, expect, it } from "vitest";
import type { NdArray } from "../../ir/ndarray.js";
import { toMatrix } from "../../runtime/matrix.js";
import { compile, type CompileOptions } from "../../src/compile.js";
import type { LossKind } from "../../src/train/loss.js";
import { type Forward, HostRun, invert, matmul, options, random, relative, tensor } from "../support/models.js";
import { inputsOf } from "./support.js";
import { KINDS, V } from "./zoo.js";

const N = 3;
const LAMBDA = 2 ** -6;
/** L2: part of the gradient. */
const DECAY = 0.25;
const range = (n: number): number[] => Array.from({ length: n }, (_, k) => k);

function stepped(forward: Forward, more: Partial<CompileOptions>, loss: LossKind, damping: number, weightDecay = 0, fisher: CompileOptions["fisher"] = { kind: "empirical", samples: 1 }) {
  const c = compile(forward, options({ loss, batches: [N], fisher, verify: false, ...more }));
  const run = new HostRun(c, { damping, lr: 1, momentum: 0, klClip: 0, weightDecay, count: N });
  const before = { ...run.state };
  const z = c.model.heads.map((h) => h.loss.z.type)[0] as { shape: readonly number[] };
  const results = run.front({ ...inputsOf(c.model, 63, V), target: tensor(z.shape, random(64)) }, N);
  run.run("back");
  const moved = Object.fromEntries(Object.entries(before).map(([name, old]) => [name, { shape: old.shape, data: old.data.map((x, k) => x - (run.get(name)[k] as number)) }]));
  return { c, run, results, moved, before };
}

const damped = (m: Float64Array, n: number, by: number): Float64Array => invert(m.map((x, k) => x + (k % (n + 1) === 0 ? by : 0)), n);

describe("the direction of", () => {
  it.each(KINDS)("%s is that of dense inverses: (F + λI)⁻¹ of a block, (G + √λ/π)⁻¹ ∇ (A + π√λ)⁻¹ of factors, per group", (_, forward, more) => {
    const { c, run, results, moved, before } = stepped(forward, more, "half-sse", LAMBDA, DECAY);
    for (const l of c.artifact.layers) {
      const { dA, dG, groups } = l;
      const [got, gradient, weights] = [toMatrix(l, moved), (results[`grad/${l.name}`] as NdArray).data, toMatrix(l, before)];
      for (const g of range(groups)) {
        const cut = (x: Float64Array, n: number): Float64Array => x.slice(g * n, (g + 1) * n);
        const mean = cut(gradient, dG * dA).map((x, k) => x / N + DECAY * (cut(weights, dG * dA)[k] as number));
        /** One side as a full matrix. */
        const side = (name: "A" | "G", d: number): Float64Array => {
          const all = run.get(`kfac/${l.name}/${name}`);
          if (l.sides[name] === "full") return cut(all, d * d);
          return Float64Array.from({ length: d * d }, (_unused, k) => (k % (d + 1) === 0 ? (cut(all, d)[k % d] as number) : 0));
        };
        const want = (): Float64Array => {
          if (l.form === "block") return matmul(damped(cut(run.get(`kfac/${l.name}/F`), (dA * dG) ** 2), dA * dG, LAMBDA), mean, dA * dG, dA * dG, 1);
          const [A, G] = [side("A", dA), side("G", dG)];
          const trace = (m: Float64Array, d: number): number => range(d).reduce((s, k) => s + (m[k * (d + 1)] as number), 0) / d;
          const pi = Math.sqrt(trace(A, dA) / trace(G, dG));
          const root = Math.sqrt(LAMBDA);
          return matmul(matmul(damped(G, dG, root / pi), mean, dG, dG, dA), damped(A, dA, pi * root), dG, dA, dA);
        };
        expect(relative(cut(got, dG * dA), want()), `${l.name}, group ${g}`).toBeLessThan(1e-9);
      }
    }
  });

  // a pool with a transposed site adds g rows to input rows, which a factor of the loss does not reach
  it.each(KINDS.filter(([name]) => !/tied/.test(name)))("%s with loss × c and λ × c is the same, for the exact Fisher", (_, forward, more) => {
    {
      const outputs = (compile(forward, options({ loss: "half-sse", batches: [N], verify: false, ...more })).model.heads.map((h) => h.loss.z.type.shape)[0] as number[]).slice(1).reduce((x, y) => x * y, 1);
      // mse is half-sse times 2/outputs
      const exact = { kind: "exact", samples: 1 } as const;
      const [a, b] = [stepped(forward, more, "mse", (2 / outputs) * LAMBDA, 0, exact), stepped(forward, more, "half-sse", LAMBDA, 0, exact)];
      // λ is rounded to float32
      for (const l of a.c.artifact.layers) expect(relative(toMatrix(l, a.moved), toMatrix(l, b.moved)), l.name).toBeLessThan(1e-6);
    }
  });
});
