import { describe, expect, it } from "vitest";
import type { Buffer, ContractSpec, Lowered } from "../../codegen/kernel.js";
import { PORTABLE } from "../../codegen/limits.js";
import { openDevice } from "../../runtime/adapter.node.js";
import { Dice, randomData, randomSpec } from "../support/contract-fuzz.js";
import { interpret } from "../support/contract-interpret.js";
import { convFactor, convForward, convInput, convWeight, gemm, gram } from "../support/contract-specs.js";
import { compileOnNull, runKernels } from "../support/gpu.js";
import { lowerWithTiling, randomTiling, ruledTiling, spellTiling } from "../support/tiled-fuzz.js";

const RUN = { lr: 0.5 };

interface Case {
  readonly what: string;
  readonly spec: ContractSpec;
  readonly lowered: Lowered;
  readonly data: Map<Buffer, Float32Array>;
}

function caseOf(seed: number): Case | undefined {
  const dice = new Dice(seed);
  const spec = randomSpec(dice);
  const data = randomData(spec, dice);
  const tiling = randomTiling(spec, PORTABLE, dice);
  const lowered = tiling && lowerWithTiling(spec, PORTABLE, tiling);
  return lowered && { what: `seed ${seed}, ${spec.label}, ${spellTiling(tiling)}`, spec, lowered, data };
}

const cases = (from: number, count: number): Case[] => Array.from({ length: count }, (_, i) => caseOf(from + i)).filter((c) => c !== undefined);

/** Problems of more than one tile each way, ragged, by the rules' own choice. */
const CONV = { n: 2, ci: 5, co: 9, y: 9, x: 14, k: 3, pad: 1 };
const LARGE: readonly ContractSpec[] = [
  ...(["nn", "nt", "tn", "tt"] as const).flatMap((form, i) => [gemm(form, [70, 67, 21 + i]), gemm(form, [64, 48, 16])]),
  gemm("tn", [33, 36, 260]), gram(8, 77, 77), gram(4, 128, 128),
  convForward(CONV), convForward({ ...CONV, x: 28, stride: 2, dilation: 2, tapPad: 4 }), convInput({ ...CONV, stride: 2 }), convInput(CONV), convWeight(CONV), convFactor(CONV),
];

const device = await openDevice().catch((reason: unknown) => {
  console.warn(`SKIPPED: tiled contractions were not run, there is no adapter (${String(reason)})`);
  return undefined;
});

/** SwiftShader takes up to twenty seconds to compile one such kernel: a few must do there. */
const [RANDOM, CHOSEN] = device?.kind === "swiftshader" ? [5, 2] : [70, LARGE.length];

async function expectExact(list: readonly Case[]): Promise<void> {
  if (!device) return;
  for (const { what, spec, lowered, data } of list) {
    const got = await runKernels(device, lowered.kernels, data, RUN);
    const want = interpret(spec, new Map([...data].map(([b, values]) => [b, Float64Array.from(values)])), RUN);
    for (const [buffer, values] of want) {
      const wrong = values.findIndex((value, i) => got.get(buffer)?.[i] !== value);
      expect(wrong, `${what}: ${buffer.name}[${wrong}] = ${got.get(buffer)?.[wrong]}, not ${values[wrong]}`).toBe(-1);
    }
  }
}

describe("tiled contractions", () => {
  it("are valid WGSL with matching bindings and barriers in uniform control flow, without any adapter", async () => {
    await compileOnNull(cases(2000, 80).flatMap((c) => c.lowered.kernels));
  }, 60_000);

  it("are the same bytes every time", () => {
    const text = () => lowerWithTiling(convForward({ ...CONV, n: 32 }), PORTABLE)?.kernels.map((k) => k.wgsl);
    expect(text()).toEqual(text());
    expect(text()).toBeDefined();
  });

  it.skipIf(device === undefined)("with random tilings equal a float64 interpreter exactly on integers, memory around them being NaN", async () => {
    await expectExact(cases(0, RANDOM));
  }, 180_000);

  it.skipIf(device === undefined)("chosen by the rules are exact over several ragged tiles", async () => {
    await expectExact(LARGE.slice(0, CHOSEN).flatMap((spec, seed) => {
      const tiling = ruledTiling(spec, PORTABLE);
      const lowered = tiling && lowerWithTiling(spec, PORTABLE, tiling);
      if (!lowered) throw new Error(`no tiling for ${spec.label}`);
      return [{ what: `${spec.label}, ${spellTiling(tiling)}`, spec, lowered, data: randomData(spec, new Dice(seed)) }];
    }));
  }, 180_000);

  it.skipIf(device === undefined)("leave the device in order", async () => {
    await device?.close();
  });
});
