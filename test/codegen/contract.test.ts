import { describe, expect, it } from "vitest";
import type { ContractSpec, Kernel, Limits } from "../../codegen/kernel.js";
import { chooseSchedule, lowerContract, lowerWith } from "../../codegen/kernels/contract/index.js";
import { Counter } from "../../codegen/kernels/contract/cost.js";
import { problemOf } from "../../codegen/kernels/contract/problem.js";
import { scheduleOf } from "../../codegen/kernels/contract/search.js";
import { MAX_ACCUMULATORS, MAX_SOURCE, MAX_TERMS, MAX_TRIPS, PORTABLE } from "../../codegen/limits.js";
import { access, affine, axis, buffer, convFactor, convForward, convInput, convWeight, gemm, gram, storeTo, view } from "../support/contract-specs.js";

const text = (spec: ContractSpec, limits: Limits = PORTABLE): string => lowerContract(spec, limits).kernels.map((k) => k.wgsl).join("\n");
const only = (spec: ContractSpec, limits: Limits = PORTABLE): Kernel => {
  const { kernels } = lowerContract(spec, limits);
  expect(kernels).toHaveLength(1);
  return kernels[0] as Kernel;
};
const CONV = { n: 4, ci: 4, co: 8, y: 28, x: 28, k: 3, pad: 1 };

describe("a contraction's text", () => {
  it("is the same bytes every time: drivers key their caches by it", () => {
    for (const make of [() => gemm("nt", [30, 20, 70]), () => convFactor(CONV), () => convInput({ ...CONV, stride: 2 })]) expect(text(make())).toBe(text(make()));
  });

  it("says on its first line what it computes, with shapes", () => {
    expect(text(gemm("nn", [8, 12, 16])).split("\n")[0]).toBe("// gemm nn: product from out[m 8, n 12] = Σ[k 16] left · right");
  });

  it("loads a sliding window's row once, as vectors, and knows its ends without a condition", () => {
    const wgsl = text(convForward({ ...CONV, n: 32, co: 32, ci: 16, tapPad: 4 }));
    expect(wgsl).toContain("image: array<vec4f>");
    expect(wgsl).toContain("weights: array<vec4f>");
    expect(wgsl).not.toMatch(/ox_[tl]/);
    expect(wgsl.match(/if \(oy_t/g)).toHaveLength(2);
    const loads = wgsl.match(/= image\[/g) ?? [];
    expect(loads).toHaveLength(3 * 7);
  });

  it("decides the divisions of a strided input gradient before it runs", () => {
    expect(text(convInput({ ...CONV, n: 32, stride: 2 })).replace(/let \w+ = .*thread.*/g, "")).not.toContain("%");
  });

  it("peels a ragged tail instead of testing every step", () => {
    const problem = problemOf(gemm("nt", [64, 64, 131]), PORTABLE);
    const schedule = scheduleOf(problem, { tile: [8, 8, 4], split: [1, 1, 1] }, false);
    const wgsl = lowerWith(problem, schedule).kernels[0]?.wgsl ?? "";
    expect(wgsl).toContain("for (var k_l = 0; k_l < 32; k_l++)");
    expect(wgsl).not.toContain("if (");
  });

  it("never shadows a buffer with a local name", () => {
    const [m, k] = [axis("a0", 8), axis("c0", 8)];
    const a0 = access(buffer("a0", 64), affine([[m, 8], [k, 1]]));
    const c0 = access(buffer("c0", 8), affine([[k, 1]]));
    const wgsl = text({ kind: "contract", label: "names", output: [m], reduction: [k], left: a0, right: c0, stores: [storeTo(view("q0", [m]))] });
    for (const name of ["a0", "c0", "q0"]) expect(wgsl).not.toMatch(new RegExp(`(let|var) ${name}\\b`));
  });
});

describe("a schedule", () => {
  const specs = [
    gemm("nn", [512, 512, 512]), gemm("tt", [785, 10, 3]), gemm("nn", [1, 1, 1_000_000]), gram(36864, 6, 6), gram(128, 785, 785),
    convForward({ ...CONV, n: 64 }), convInput({ ...CONV, stride: 3, dilation: 2 }), convWeight({ ...CONV, n: 64 }), convFactor({ ...CONV, k: 5, ci: 3 }), convFactor(CONV),
  ];

  it("stays within trips, accumulators, terms, text and workgroups", () => {
    for (const spec of specs) {
      const { schedule } = chooseSchedule(spec, PORTABLE);
      const counts = new Counter(problemOf(spec, PORTABLE)).count(schedule);
      expect(counts.trips, spec.label).toBeLessThanOrEqual(MAX_TRIPS);
      expect(counts.accumulators, spec.label).toBeLessThanOrEqual(MAX_ACCUMULATORS);
      expect(counts.printed, spec.label).toBeLessThanOrEqual(MAX_TERMS);
      for (const kernel of lowerContract(spec, PORTABLE).kernels) {
        expect(kernel.wgsl.length, spec.label).toBeLessThanOrEqual(MAX_SOURCE);
        for (const size of kernel.workgroups) expect(size).toBeLessThanOrEqual(PORTABLE.workgroupsPerDimension);
      }
    }
  });

  it("splits a long reduction over few outputs, and stores only in the second pass", () => {
    const { kernels, scratch } = lowerContract(gemm("nn", [1, 1, 1_000_000]), PORTABLE);
    expect(kernels.length).toBeGreaterThan(1);
    expect(scratch.length).toBe(kernels.length - 1);
    const product = (kernel: Kernel) => kernel.bindings.some((b) => b.kind === "buffer" && b.buffer.name === "product");
    expect(kernels.map(product)).toEqual([...kernels.slice(1).map(() => false), true]);
  });

  it("computes one triangle of a symmetric product", () => {
    const spec = gram(128, 512, 512);
    const { symmetric: _, ...square } = spec;
    const work = (s: ContractSpec) => {
      const { threads, terms } = new Counter(problemOf(s, PORTABLE)).count(chooseSchedule(s, PORTABLE).schedule);
      return threads * terms;
    };
    expect(work(spec)).toBeLessThan(0.55 * work(square));
  });

  it("folds many workgroups into two dimensions", () => {
    const limits = { ...PORTABLE, workgroupsPerDimension: 20 };
    const kernel = only(gemm("nn", [256, 256, 4]), limits);
    expect(kernel.workgroups[1]).toBeGreaterThan(1);
    for (const size of kernel.workgroups) expect(size).toBeLessThanOrEqual(20);
  });

  it("takes a second pass when operands and stores do not fit into one kernel's bindings", () => {
    const limits = { ...PORTABLE, storageBuffers: 3 };
    const { kernels } = lowerContract(convForward(CONV), limits);
    expect(kernels).toHaveLength(2);
    for (const kernel of kernels) expect(kernel.bindings.length).toBeLessThanOrEqual(3);
    expect(() => lowerContract(convForward(CONV), { ...PORTABLE, storageBuffers: 2 })).toThrow(/binds 2/);
  });
});

describe("a specification the generator cannot mean", () => {
  it("is refused: a fill other than 0", () => {
    const spec = gemm("nn", [4, 4, 4]);
    expect(() => lowerContract({ ...spec, left: { ...(spec.left as object), fill: 1 } as ContractSpec["left"] }, PORTABLE)).toThrow(/filled with 1/);
  });

  it("is refused: an axis that nobody iterates", () => {
    const spec = gemm("nn", [4, 4, 4]);
    expect(() => lowerContract({ ...spec, reduction: [] }, PORTABLE)).toThrow(/neither output nor reduction/);
  });
});
