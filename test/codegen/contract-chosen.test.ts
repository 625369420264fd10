import { describe, expect, it } from "vitest";
import { canonicalize } from "../../codegen/canonical.js";
import type { ChosenSchedule, ContractSpec } from "../../codegen/kernel.js";
import { candidates, lowerContract } from "../../codegen/kernels/contract/index.js";
import { PORTABLE } from "../../codegen/limits.js";
import { access, affine, axis, buffer, convForward, convWeight, gemm, gram, storeTo, view } from "../support/contract-specs.js";
import { compileOnNull } from "../support/gpu.js";

const GPU = { ...PORTABLE, target: "gpu" as const };
const text = (spec: ContractSpec, limits: Parameters<typeof lowerContract>[1]): string => lowerContract(spec, limits).kernels.map((k) => k.wgsl).join("\n");
const withChoice = (spec: ContractSpec, chosen: ChosenSchedule) => ({ ...PORTABLE, schedules: new Map([[canonicalize(spec).key, chosen]]) });
const isTiled = (wgsl: string): boolean => wgsl.includes("var<workgroup>");
const CONV = { n: 32, ci: 16, co: 32, y: 28, x: 28, k: 3, pad: 1 };

describe("kernels for a GPU", () => {
  it("are tiles in workgroup memory where there is something to share, register tiles where not", () => {
    for (const spec of [gemm("nt", [512, 512, 512]), convForward(CONV), convWeight(CONV), gram(128, 785, 785)]) expect(isTiled(text(spec, GPU)), spec.label).toBe(true);
    for (const spec of [gemm("nn", [1, 785, 10]), gemm("nn", [512, 4, 512]), gram(36864, 6, 6)]) expect(isTiled(text(spec, GPU)), spec.label).toBe(false);
    expect(isTiled(text(gemm("nt", [512, 512, 512]), PORTABLE))).toBe(false);
  });

  it("keep to workgroup memory, invocations and 64 accumulators", () => {
    for (const spec of [gemm("nt", [4608, 4608, 4608]), convForward({ ...CONV, co: 128 }), convWeight(CONV), gram(128, 785, 785), gemm("nn", [60000, 10, 784])]) {
      const wgsl = text(spec, GPU);
      const vec4s = [...wgsl.matchAll(/var<workgroup> \w+: array<vec4f, (\d+)>/g)].reduce((n, m) => n + Number(m[1]), 0);
      expect(vec4s * 16, spec.label).toBeLessThanOrEqual(PORTABLE.workgroupBytes);
      for (const m of wgsl.matchAll(/@workgroup_size\((\d+)\)/g)) expect(Number(m[1])).toBeLessThanOrEqual(PORTABLE.invocations);
      expect((wgsl.match(/var c\d+_\d+ = vec4f\(\)|vec4f\(\); var c/g) ?? []).length, spec.label).toBeLessThanOrEqual(32);
    }
  });

  it("give an operand's sum a kernel of its own", () => {
    const spec = gemm("tn", [64, 64, 256]);
    const [m] = spec.output;
    if (!m || spec.left === "one") throw new Error("unreachable");
    const bias = access(buffer("bias_cotangent", 64), affine([[m, 1]]));
    const { kernels } = lowerContract({ ...spec, sums: [{ of: spec.left, stores: [storeTo(bias)] }] }, GPU);
    expect(kernels.filter((k) => isTiled(k.wgsl))).toHaveLength(1);
    expect(kernels.some((k) => k.bindings.some((b) => b.kind === "buffer" && b.buffer.name === "bias_cotangent"))).toBe(true);
  });

  it("load a row-major operand across its columns and a transposed one along the reduction, by vec4", () => {
    const wgsl = text(gemm("nt", [1024, 1024, 1024]), GPU);
    expect(wgsl).toContain("rows loaded along the tile by vec4, columns along the tile by vec4");
    expect(text(gemm("tn", [1024, 1024, 1024]), GPU)).toContain("rows loaded across the tile by vec4, columns across the tile by vec4");
  });
});

describe("a chosen schedule", () => {
  it("goes before the rules, of either family", () => {
    const spec = gemm("nn", [64, 64, 64]);
    expect(text(spec, withChoice(spec, { family: "rows", tile: [2, 4, 1], split: [1, 1, 1] }))).toContain("m thread 32 × register 2, n thread 16 × register 4");
    expect(text(spec, withChoice(spec, { family: "tiled", rows: 32, columns: 32, depth: 8, perRow: 4, perColumn: 4, parts: 2 }))).toContain("8 deep (k) in 2 parts");
  });

  it("of another contraction changes nothing", () => {
    expect(text(gemm("nn", [64, 64, 64]), withChoice(gemm("nn", [64, 64, 65]), { family: "rows", tile: [1, 1, 1], split: [1, 1, 1] }))).toBe(text(gemm("nn", [64, 64, 64]), PORTABLE));
  });

  it("is found under the same key by the canonical form of the canonical form", () => {
    for (const spec of [gemm("tt", [5, 6, 7]), convForward(CONV), gram(9, 5, 5)]) {
      const once = canonicalize(spec);
      expect(canonicalize(once.spec).key).toBe(once.key);
    }
  });

  it("that does not fit is refused", () => {
    const spec = gemm("nn", [64, 64, 64]);
    expect(() => text(spec, withChoice(spec, { family: "rows", tile: [2, 4], split: [1, 1] }))).toThrow(/does not fit/);
    expect(() => text(spec, withChoice(spec, { family: "rows", tile: [64, 64, 64], split: [1, 1, 1] }))).toThrow(/does not fit/);
    expect(() => text(spec, withChoice(spec, { family: "tiled", rows: 64, columns: 64, depth: 16, perRow: 16, perColumn: 16, parts: 1 }))).toThrow(/does not fit/);
  });

  it("may be any candidate: all of them lower to valid kernels", async () => {
    for (const spec of [gemm("nn", [100, 90, 300]), convWeight({ ...CONV, n: 2 }), gram(300, 70, 70)]) {
      const found = candidates(spec, PORTABLE, 4);
      expect(new Set(found.map((c) => c.family))).toEqual(new Set(["rows", "tiled"]));
      await compileOnNull(found.flatMap((c) => lowerContract(spec, withChoice(spec, c)).kernels));
    }
  });
});

describe("names in a tiled kernel", () => {
  it("never shadow a buffer or an axis", () => {
    const [m, n, k] = [axis("row", 64), axis("thread_row", 64), axis("step", 64)];
    const spec: ContractSpec = { kind: "contract", label: "names", output: [m, n], reduction: [k], left: view("a0", [m, k]), right: view("rows_tile", [k, n]), stores: [storeTo(view("c0_0", [m, n]))] };
    const wgsl = text(spec, GPU);
    for (const name of ["a0", "rows_tile", "c0_0"]) expect(wgsl).not.toMatch(new RegExp(`(let|var|var<workgroup>) ${name}\\b`));
  });
});
