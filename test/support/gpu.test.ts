import { describe, expect, test } from "vitest";
import type { Buffer, Kernel } from "../../codegen/kernel.js";
import { compileOnNull, runKernels, testDevice } from "./gpu.js";

const x: Buffer = { name: "x", dtype: "f32", elements: 5 };
const y: Buffer = { name: "y", dtype: "f32", elements: 5 };
const scale: Kernel = {
  name: "scale",
  wgsl: `struct Run { ${"lr,momentum,weightDecay,damping,emaDecay,klClip,beta1,beta2,epsilon,count"
    .split(",")
    .map((f) => `${f}: f32`)
    .join(", ")} }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<uniform> run: Run;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < 4u) { y[id.x] = x[id.x] * run.lr + run.count; }
}`,
  bindings: [{ kind: "buffer", buffer: x, access: "read" }, { kind: "run" }, { kind: "buffer", buffer: y, access: "read_write" }],
  workgroups: [1, 1, 1],
};

describe("running kernels in tests", () => {
  const device = testDevice();

  test("an element that no invocation writes is NaN, not a lucky zero", async () => {
    const results = await runKernels(device(), [scale], new Map([[x, Float32Array.of(1, 2, 3, 4, 5)]]), { lr: 10, count: 0.5 });
    expect([...(results.get(y) ?? [])]).toEqual([10.5, 20.5, 30.5, 40.5, Number.NaN]);
  });

  test("kernels run in order over the same buffers", async () => {
    const back: Kernel = {
      ...scale,
      bindings: [{ kind: "buffer", buffer: y, access: "read" }, { kind: "run" }, { kind: "buffer", buffer: x, access: "read_write" }],
    };
    const results = await runKernels(device(), [scale, back], new Map([[x, new Float32Array(5).fill(1)]]), { lr: 2, count: 1 });
    expect([...(results.get(x) ?? [])]).toEqual([7, 7, 7, 7, 1]);
  });

  test("a kernel that binds a buffer in the wrong way fails with its text", async () => {
    const wrong: Kernel = { ...scale, bindings: scale.bindings.map((b) => (b.kind === "run" ? b : { ...b, access: "read" as const })) };
    await expect(runKernels(device(), [wrong], new Map())).rejects.toThrow(/compiling scale: [\s\S]*array<f32>;/);
  });

  test("values of another type or length than the buffer's are refused", async () => {
    await expect(runKernels(device(), [scale], new Map([[x, Int32Array.of(1, 2, 3, 4, 5)]]))).rejects.toThrow('buffer "x" holds 5 f32');
    await expect(runKernels(device(), [scale], new Map([[x, Float32Array.of(1)]]))).rejects.toThrow('buffer "x" holds 5 f32');
  });

  test("a field the run block does not have is refused", async () => {
    await expect(runKernels(device(), [scale], new Map(), { learningRate: 1 })).rejects.toThrow('no field "learningRate"');
  });
});

test("the null backend refuses WGSL that does not compile, and more invocations than are portable", async () => {
  await compileOnNull([scale]);
  await expect(compileOnNull([{ ...scale, wgsl: scale.wgsl.replace("x[id.x]", "x[id.q]") }])).rejects.toThrow(/compiling scale/);
  await expect(compileOnNull([{ ...scale, wgsl: scale.wgsl.replace("(64)", "(512)") }])).rejects.toThrow(/compiling scale/);
});
