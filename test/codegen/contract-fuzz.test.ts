import { describe, expect, it } from "vitest";
import type { Axis, Buffer, ContractSpec, Lowered } from "../../codegen/kernel.js";
import { lowerContract, lowerWith } from "../../codegen/kernels/contract/index.js";
import { Counter, costOf } from "../../codegen/kernels/contract/cost.js";
import { problemOf } from "../../codegen/kernels/contract/problem.js";
import { scheduleOf } from "../../codegen/kernels/contract/search.js";
import { spellSchedule } from "../../codegen/kernels/contract/emit.js";
import { PORTABLE } from "../../codegen/limits.js";
import { openDevice } from "../../runtime/adapter.node.js";
import { Dice, randomChoice, randomData, randomSpec } from "../support/contract-fuzz.js";
import { interpret } from "../support/contract-interpret.js";
import { ACC, access, affine, buffer, constant, gram, load, op, storeTo } from "../support/contract-specs.js";
import { compileOnNull, runKernels } from "../support/gpu.js";

const RUN = { lr: 0.5 };

interface Case {
  readonly what: string;
  readonly spec: ContractSpec;
  readonly lowered: Lowered;
  readonly data: Map<Buffer, Float32Array>;
}

/** Even seeds take the chosen schedule, odd ones a random one (undefined where that breaks a limit). */
function caseOf(seed: number): Case | undefined {
  const dice = new Dice(seed);
  const spec = randomSpec(dice);
  const problem = problemOf(spec, PORTABLE);
  const data = randomData(spec, dice);
  if (seed % 2 === 0) return { what: `seed ${seed}, ${spec.label}, chosen`, spec, lowered: lowerContract(spec, PORTABLE), data };
  const schedule = scheduleOf(problem, randomChoice(spec, dice), dice.chance(0.1));
  if (costOf(new Counter(problem), schedule).cost === Number.POSITIVE_INFINITY) return undefined;
  return { what: `seed ${seed}, ${spec.label}, ${spellSchedule(problem, schedule)}`, spec, lowered: lowerWith(problem, schedule), data };
}

const cases = (from: number, count: number): Case[] => Array.from({ length: count }, (_, i) => caseOf(from + i)).filter((c) => c !== undefined);

/** A device, or undefined with a loud reason: these tests need one that computes. */
const device = await openDevice().catch((reason: unknown) => {
  console.warn(`SKIPPED: generated contractions were not run, there is no adapter (${String(reason)})`);
  return undefined;
});

describe("random contractions", () => {
  it("are valid WGSL with matching bindings, without any adapter", async () => {
    await compileOnNull(cases(1000, 60).flatMap((c) => c.lowered.kernels));
  }, 60_000);

  it.skipIf(device === undefined)("equal a float64 interpreter exactly on integers, memory around them being NaN", async () => {
    if (!device) return;
    for (const { what, spec, lowered, data } of cases(0, 60)) {
      const got = await runKernels(device, lowered.kernels, data, RUN);
      const want = interpret(spec, new Map([...data].map(([b, values]) => [b, Float64Array.from(values)])), RUN);
      for (const [buffer, values] of want) {
        const wrong = values.findIndex((value, i) => got.get(buffer)?.[i] !== value);
        expect(wrong, `${what}: ${buffer.name}[${wrong}] = ${got.get(buffer)?.[wrong]}, not ${values[wrong]}`).toBe(-1);
      }
    }
  }, 120_000);

  it.skipIf(device === undefined)("that are symmetric come out symmetric to the last bit, also from real numbers", async () => {
    if (!device) return;
    const dice = new Dice(7);
    for (const spec of [gram(37, 45, 45), gram(300, 9, 12)]) {
      const lowered = lowerContract(spec, PORTABLE);
      const x = (spec.left as { buffer: Buffer }).buffer;
      const store = spec.stores[0] as ContractSpec["stores"][number];
      const result = await runKernels(device, lowered.kernels, new Map([[x, Float32Array.from({ length: x.elements }, () => dice.int(1e6) / 1e6 - 0.5)]]));
      const stored = x.elements / (spec.reduction[0]?.size ?? 1);
      const size = spec.output[0]?.size ?? 0;
      const a = result.get(store.buffer) as Float32Array;
      for (let i = 0; i < size; i++) for (let j = 0; j < i; j++) expect(a[i * stored + j], `${i}, ${j}`).toBe(a[j * stored + i]);
    }
  });

  it.skipIf(device === undefined)("that average a symmetric product in place update every element once", async () => {
    if (!device) return;
    const plain = gram(19, 45, 45);
    const [i, j] = plain.output as [Axis, Axis];
    const average = access(buffer("average", 45 * 45), affine([[i, 45], [j, 1]]));
    const spec = { ...plain, stores: [storeTo(average, op("add", op("mul", load(average), constant(0.5)), ACC))] };
    const x = (spec.left as { buffer: Buffer }).buffer;
    const dice = new Dice(11);
    const data = new Map([[x, Float32Array.from({ length: x.elements }, () => dice.int(7) - 3)], [average.buffer, new Float32Array(45 * 45).fill(2)]]);
    const problem = problemOf(spec, PORTABLE);
    const want = interpret(spec, new Map([...data].map(([b, values]) => [b, Float64Array.from(values)])));
    for (const [tile, split] of [[1, 1], [4, 1], [8, 1], [8, 3]] as const) {
      const lowered = lowerWith(problem, scheduleOf(problem, { tile: [tile, tile, 1], split: [1, 1, split] }, false));
      const got = await runKernels(device, lowered.kernels, data);
      expect([...(got.get(average.buffer) ?? [])], `tile ${tile}, split ${split}`).toEqual([...(want.get(average.buffer) ?? [])]);
    }
  });

  it.skipIf(device === undefined)("leave the device in order", async () => {
    await device?.close();
  });
});
