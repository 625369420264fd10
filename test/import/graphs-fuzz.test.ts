/**
 * Random graphs of a dozen ops, spelled as exporters spell them (test/support/onnx-fuzz.ts), against onnxruntime: with the file's own batch, with
 * another one, and with a symbol for it; and their gradients against finite differences. Every failure names its seed.
 */
import { describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import type { NdArray } from "../../ir/ndarray.js";
import { type Imported, importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { expectGradient } from "../support/gradient.js";
import { type Fuzzed, fuzzModel } from "../support/onnx-fuzz.js";
import { buildModel, ints, type ModelSpec, node } from "../support/onnx-model.js";
import { bindingsOf, expectClose, type Inputs, random, runImported, runOrt, seeded } from "../support/onnx-run.js";

const SEEDS = 160;
/** Batches that no size inside a graph is equal to: a constant that spells them spells the batch. */
const [OWN, OTHER] = [7, 5];

const ran = { all: 0, compared: 0 };

/** Seeded inputs, also for those that the graph has no use for. */
function inputsOf(m: Imported, f: Fuzzed, batch: number, seed: number): Inputs {
  const unused = Object.entries(f.spec.inputs).map(([name, dims]) => {
    const shape = dims.map((d, k) => (k === 0 ? batch : (d as number)));
    return [name, { shape, data: random(shape.reduce((a, b) => a * b, 1), seed) }] as const;
  });
  return { ...Object.fromEntries(unused), ...seeded(m.graph, seed) };
}

async function expectSame(f: Fuzzed, referee: Fuzzed, batch: number, seed: number, what: string): Promise<{ m: Imported; inputs: Inputs }> {
  const m = importModel(loadModel(f.bytes), { mode: "eval", batch });
  const inputs = inputsOf(m, f, batch, seed);
  // a few graphs onnxruntime does not take: an empty tensor of scales behind an Identity, say
  const [mine, theirs] = [runImported(m, inputs), await runOrt(referee.bytes, inputs).catch(() => undefined)];
  ran.all++;
  ran.compared += Number(theirs !== undefined);
  for (const [name, wanted] of Object.entries(theirs ?? {})) if (wanted.data.every(Number.isFinite)) expectClose(mine[name] as NdArray, wanted, `seed ${seed}, ${what}`);
  return { m, inputs };
}

/** Whether the batch could be changed; anything but a refusal by name is a failure. */
async function rebinds(f: Fuzzed, referee: Fuzzed, batch: number, seed: number, what: string): Promise<boolean> {
  try {
    await expectSame(f, referee, batch, seed, what);
    return true;
  } catch (e) {
    if (e instanceof CompileError && e.code === "examples-lost") return false;
    throw e;
  }
}

/** A kink may lie at one point: the gradient must be right at one of two. */
function expectSlope(m: Imported, inputs: Inputs, f: Fuzzed, seed: number): void {
  try {
    expectGradient(m.graph, bindingsOf(m, inputs), seed);
  } catch {
    expectGradient(m.graph, bindingsOf(m, inputsOf(m, f, OWN, seed + 1)), seed);
  }
}

describe("a random graph", () => {
  const seeds = Array.from({ length: SEEDS }, (_, k) => k + 1);
  const kept = { fixed: 0, symbolic: 0 };
  it.each(seeds)("%i", async (seed) => {
    const [own, other, open] = [fuzzModel({ seed, batch: OWN, symbolic: false }), fuzzModel({ seed, batch: OTHER, symbolic: false }), fuzzModel({ seed, batch: OTHER, symbolic: true })];
    const { m, inputs } = await expectSame(own, own, OWN, seed, "the file's own batch");
    expectSlope(m, inputs, own, seed);
    kept.fixed += Number(await rebinds(own, other, OTHER, seed, "another batch"));
    kept.symbolic += Number(await rebinds(open, open, OTHER, seed, "a symbolic batch"));
  });
  it("takes another batch, but for a few that mix examples", () => {
    expect(kept.fixed, "files of a fixed batch").toBeGreaterThan(0.93 * SEEDS);
    expect(kept.symbolic, "files of a symbolic batch").toBeGreaterThan(0.96 * SEEDS);
    expect(ran.compared, "graphs that onnxruntime takes").toBeGreaterThan(0.94 * ran.all);
  });
});

describe("what the random graphs found", () => {
  const reshaped = (before: ModelSpec["nodes"], shape: ModelSpec["nodes"], x: readonly (string | number)[]): ModelSpec => ({
    inputs: { x }, outputs: ["y"], initializers: { i0: ints(0), i1: ints(1), four: ints(4), two: ints(2), open: ints(-1), flat: ints(1, -1) },
    nodes: [...before, ...shape, node("Reshape", ["h", "to"], ["y"])],
  });
  const behind = [node("Shape", ["h"], ["s"])];
  const shapeOf = async (spec: ModelSpec, batch: number): Promise<readonly number[]> => {
    const bytes = buildModel(spec);
    const m = importModel(loadModel(bytes), { mode: "eval", batch });
    const inputs = seeded(m.graph, 1);
    const mine = runImported(m, inputs).y as NdArray;
    if (spec.inputs.x?.[0] === "N") expectClose(mine, (await runOrt(bytes, inputs)).y as { shape: number[]; data: number[] }, "y");
    return mine.shape;
  };

  it("examples that Flatten puts beside another axis are still inside of it", async () => {
    const spec = reshaped([node("Transpose", ["x"], ["t"], { perm: [1, 0, 2] }), node("Flatten", ["t"], ["h"], { axis: 2 })],
      [node("Concat", ["open", "i1"], ["to"], { axis: 0 })], ["N", 2, 1]);
    expect(await shapeOf(spec, 3)).toEqual([6, 1]);
    const back: ModelSpec = { inputs: { x: [2, 3, 4] }, outputs: ["y"], initializers: { to: ints(2, 3, 4) }, nodes: [node("Flatten", ["x"], ["h"], { axis: 2 }), node("Reshape", ["h", "to"], ["y"])] };
    expect(await shapeOf(back, 5)).toEqual([5, 3, 4]);
  });
  it("a 1 that the file computes from shapes is no trace of an export with one example", async () => {
    const spec = reshaped([node("Relu", ["x"], ["h"])], [...behind, node("Gather", ["s", "i1"], ["n"]), node("Div", ["n", "four"], ["one"]), node("Concat", ["one", "open"], ["to"], { axis: 0 })], ["N", 4]);
    expect(await shapeOf(spec, 3)).toEqual([1, 12]);
  });
  it("nor is one behind examples that the file has merged itself", async () => {
    expect(await shapeOf(reshaped([node("Flatten", ["x"], ["h"], { axis: 0 })], [node("Identity", ["flat"], ["to"])], ["N", 4]), 3)).toEqual([1, 12]);
  });
  it("pairs of neighbours among examples that stand twice are none of them", async () => {
    const spec = { ...reshaped([node("Concat", ["x", "x"], ["h"], { axis: 0 })], [node("Concat", ["open", "four", "two"], ["to"], { axis: 0 })], ["N", 4]) };
    await expect(shapeOf(spec, 3)).rejects.toThrow("cannot be followed");
  });
  it("but a literal 1 before all else is", async () => {
    expect(await shapeOf(reshaped([node("Relu", ["x"], ["h"])], [node("Identity", ["flat"], ["to"])], [1, 4]), 3)).toEqual([3, 4]);
  });
  it("Expand repeats what has its examples by a number that is the file's batch by chance", async () => {
    const spec: ModelSpec = { inputs: { x: [2, 4] }, outputs: ["y"], initializers: { to: ints(2, 1, 4) }, nodes: [node("Expand", ["x", "to"], ["y"])] };
    expect(await shapeOf(spec, 3)).toEqual([2, 3, 4]);
  });
});
