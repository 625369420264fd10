/** What `plan.json` says of each dispatch's work. */
import { expect, it } from "vitest";
import type { Axis, Buffer, ContractSpec, Kernel } from "../../codegen/kernel.js";
import { dispatchWork } from "../../codegen/plan-work.js";
import { entryWork } from "../../codegen/work.js";
import type { PlanDispatch } from "../../runtime/artifact.js";
import { COMPILE_DEFAULTS, compile } from "../../src/compile.js";
import { openModel } from "../../src/model.js";
import { model } from "../cli/support.js";

const axis = (name: string, size: number): Axis => ({ name, size });
const buffer = (name: string, elements: number): Buffer => ({ name, dtype: "f32", elements });
const kernel = (name: string, buffers: readonly Buffer[], groups: number): Kernel => ({
  name, wgsl: `// ${name}`, workgroups: [groups, 1, 1], bindings: buffers.map((b) => ({ kind: "buffer", buffer: b, access: "read_write" })),
});

it("every operation that is counted is some dispatch's, split sums and blocked inverses included", async () => {
  const c = compile((await openModel(model("lenet5"))).forward, { ...COMPILE_DEFAULTS, loss: "softmax-ce", batches: [8] });
  for (const [name, { steps }] of Object.entries(c.artifact.plan.entries)) {
    const dispatches = steps.filter((s): s is PlanDispatch => "kernel" in s);
    const sum = dispatches.reduce((n, s) => n + (s.work?.flops ?? Number.NaN), 0);
    const counted = entryWork(c.planned.lowered.get(name) as NonNullable<ReturnType<typeof c.planned.lowered.get>>).flops;
    // an inverse's are handed out in whole numbers
    expect(Math.abs(sum - counted), name).toBeLessThanOrEqual(dispatches.length);
    expect(dispatches.every((s) => (s.work?.bytes ?? 0) > 0), name).toBe(true);
  }
});

it("a split sum multiplies in its first kernel, and both move the partial sums", () => {
  const [i, k] = [axis("i", 10), axis("k", 100)];
  const [x, out, partials] = [buffer("x", 1000), buffer("out", 10), buffer("partials", 40)];
  const by = (...list: readonly (readonly [Axis, number])[]) => ({ at: 0, by: new Map(list) });
  const spec: ContractSpec = {
    kind: "contract", label: "row sums of squares", output: [i], reduction: [k], stores: [{ buffer: out, address: by([i, 1]), value: { kind: "acc", dtype: "f32" } }],
    left: { buffer: x, address: by([i, 100], [k, 1]), bounds: [], quotients: [], fill: 0 }, right: { buffer: x, address: by([i, 100], [k, 1]), bounds: [], quotients: [], fill: 0 },
  };
  const [first, second] = dispatchWork(spec, { kernels: [kernel("parts", [x, partials], 4), kernel("total", [partials, out], 1)], scratch: [partials] });
  expect(first?.flops).toBe(2000);
  expect(second).toEqual({ flops: 0, bytes: 160 });
  expect(first?.bytes).toBe((dispatchWork(spec, { kernels: [kernel("all", [x, out], 1)], scratch: [] })[0]?.bytes as number) + 160);
});

it("inverses of several sizes: small ones do their own arithmetic, the sweeps share that of the others by their size", () => {
  const [matrix, damping, inverse, status, sweep] = [buffer("m", 6400), buffer("d", 1), buffer("i", 6400), buffer("s", 1), buffer("sweep", 6400)];
  const small = { n: 10, batch: 3, matrix: buffer("m3", 300), damping: buffer("d3", 3), inverse: buffer("i3", 300), status: buffer("s3", 3) };
  const spec = { kind: "inverse", label: "inverse", batches: [small, { n: 80, batch: 1, matrix, damping, inverse, status }] } as const;
  const [panel, update] = [kernel("inverse_panel", [sweep], 1), kernel("inverse_update", [sweep], 3)];
  const kernels = [kernel("inverse_10", [small.matrix, small.inverse], 3), kernel("inverse_load", [matrix, sweep], 50), panel, update, panel, update, kernel("inverse_finish", [sweep, inverse], 50)];
  const work = dispatchWork(spec, { kernels, scratch: [sweep] });
  expect(work.map((w) => w.flops)).toEqual([3000, 0, 64000, 192000, 64000, 192000, 0]);
  expect(work.map((w) => w.bytes)).toEqual([2400, 51200, 25600, 25600, 25600, 25600, 51200]);
});
