/** Statistics and steps of every kind of layer on the device against float64: whole batches, and short ones that are padded and masked. */
import { describe, expect, it } from "vitest";
import type { NdArray } from "../../ir/ndarray.js";
import { ndarray } from "../../ir/ndarray.js";
import { Trainer } from "../../runtime/trainer.js";
import { compile } from "../../src/compile.js";
import { testDevice } from "../support/gpu.js";
import { options, random, relative, tensor } from "../support/models.js";
import { toHost } from "../support/run-graph.js";
import { inputsOf, Lab, pickExamples } from "./support.js";
import { KINDS, V } from "./zoo.js";

const device = testDevice();
const N = 3;

describe("on the device", () => {
  it.each(KINDS)("%s: factors and gradients are those of float64, for a whole batch and a padded one", async (_, forward, more) => {
    const lab = new Lab(forward, N, more);
    const c = compile(forward, options({ loss: "half-sse", batches: [N], fisher: { kind: "empirical", samples: 1 }, verify: false, ...more }));
    const { shape } = lab.m.heads.map((h) => h.loss.z.type)[0] as { shape: readonly number[] };
    const inputs = { ...inputsOf(lab.m, 61, V), target: tensor(shape, random(62)) };
    for (const count of [3, 2]) {
      const weight = ndarray("f32", [N], [1, 1, Number(count === 3)]);
      const want = lab.stats({ ...inputs, weight }, count);
      const t = await Trainer.create(device().device, c.artifact, c.sources, Object.fromEntries(c.weights));
      try {
        const given = Object.entries(pickExamples(inputs, [0, 1, 2].slice(0, count))).map(([name, x]) => [name, { shape: x.shape, data: toHost(x) as Float32Array | Int32Array }]);
        t.step(Object.fromEntries(given) as Parameters<Trainer["step"]>[0]);
        const names = Object.keys(want).filter((n) => /^(kfac|grad)\//.test(n));
        expect(names.length).toBeGreaterThanOrEqual(2 * c.artifact.layers.length);
        const arrays = await t.task(() => t.program.read(names));
        // sums of at most some hundred float32 products
        names.forEach((name, k) => expect(relative(arrays[k] as Float32Array, (want[name] as NdArray).data), `${count}: ${name}`).toBeLessThan(1e-5));
      } finally {
        await t.dispose();
      }
    }
  });
});
