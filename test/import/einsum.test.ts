/** Random Einstein sums against the definition: a sum over all values of all labels. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CompileError } from "../../ir/error.js";
import { eachIndex, type NdArray, ndarray } from "../../ir/ndarray.js";
import { size, strides } from "../../ir/type.js";
import { importModel } from "../../src/import/import.js";
import { loadModel } from "../../src/import/onnx.js";
import { expectGradient } from "../support/gradient.js";
import { buildModel } from "../support/onnx-model.js";
import { bindingsOf, random, runImported } from "../support/onnx-run.js";

const SIZES: Readonly<Record<string, number>> = { a: 2, b: 3, c: 1, d: 2, e: 4 };

interface Sum {
  readonly inputs: readonly (readonly string[])[];
  readonly out: readonly string[];
  /** Axes of this operand that have one element instead of the label's size. */
  readonly ones: readonly (readonly boolean[])[];
}

/** Σ over every label, at every place of the output: nothing is chained or reordered. */
function defined({ inputs, out }: Sum, arrays: readonly NdArray[]): NdArray {
  const labels = [...new Set([...out, ...inputs.flat()])];
  const made = ndarray("f32", out.map((l) => SIZES[l] as number), new Array<number>(size(out.map((l) => SIZES[l] as number))).fill(0));
  const step = strides(made.shape);
  eachIndex(labels.map((l) => SIZES[l] as number), (index) => {
    const at = (l: string): number => index[labels.indexOf(l)] as number;
    const product = arrays.reduce((total, x, k) => {
      const steps = strides(x.shape);
      return total * (x.data[(inputs[k] as string[]).reduce((flat, l, axis) => flat + (x.shape[axis] === 1 ? 0 : at(l)) * (steps[axis] as number), 0)] as number);
    }, 1);
    const place = out.reduce((flat, l, axis) => flat + at(l) * (step[axis] as number), 0);
    made.data[place] = (made.data[place] as number) + product;
  });
  return made;
}

const label = fc.constantFrom(...Object.keys(SIZES));
const sums: fc.Arbitrary<Sum> = fc
  .tuple(fc.array(fc.array(label, { maxLength: 4 }), { minLength: 1, maxLength: 4 }), fc.array(label, { maxLength: 4 }), fc.infiniteStream(fc.nat(5)))
  .map(([inputs, wanted, dice]) => {
    const ones = inputs.map((labels) => labels.map((l) => labels.indexOf(l) === labels.lastIndexOf(l) && dice.next().value === 0));
    // a label of which all axes are 1 has the size 1: the definition would need another table
    const whole = (l: string): boolean => inputs.some((labels, k) => labels.some((m, axis) => m === l && !ones[k]?.[axis]));
    const used = [...new Set(wanted)].filter((l) => inputs.flat().includes(l));
    return { inputs, out: used, ones: ones.map((row, k) => row.map((one, axis) => one && whole(inputs[k]?.[axis] as string))) };
  });

const modelOf = (equation: string, shapes: readonly (readonly number[])[], attrs: Readonly<Record<string, string>> = { equation }) => {
  const inputs = Object.fromEntries(shapes.map((shape, k) => [`x${k}`, shape]));
  const batchAxis = Object.fromEntries(Object.keys(inputs).map((name) => [name, -1]));
  return importModel(loadModel(buildModel({ opset: 13, inputs, outputs: ["y"], nodes: [{ op: "Einsum", inputs: Object.keys(inputs), outputs: ["y"], attrs }] })), { mode: "eval", batchAxis });
};

describe("Einsum", () => {
  it("of any operands, with traces, diagonals and axes of 1, is the sum that defines it; and so is its gradient", () => {
    fc.assert(fc.property(sums, (s) => {
      const shapes = s.inputs.map((labels, k) => labels.map((l, axis) => (s.ones[k]?.[axis] ? 1 : (SIZES[l] as number))));
      const equation = `${s.inputs.map((l) => l.join("")).join(",")}->${s.out.join("")}`;
      const model = modelOf(equation, shapes);
      const given = Object.fromEntries(shapes.map((shape, k) => [`x${k}`, { shape, data: random(size(shape), k + 1) }]));
      const { y } = runImported(model, given);
      const want = defined(s, shapes.map((shape, k) => ndarray("f32", shape, given[`x${k}`]?.data as Float32Array)));
      expect(y?.shape, equation).toEqual([...want.shape]);
      want.data.forEach((v, k) => {
        expect(Math.abs((y?.data[k] as number) - v), equation).toBeLessThan(1e-9);
      });
      expectGradient(model.graph, bindingsOf(model, given), 3);
    }), { numRuns: 200, seed: 20 });
  });

  it("an ellipsis broadcasts from the right, is summed where the output leaves it out, and leads where there is no output", () => {
    const shape = (equation: string, ...shapes: number[][]): readonly number[] | undefined => modelOf(equation, shapes).graph.results[0]?.value.type.shape;
    expect(shape("...ij,...jk->...ik", [2, 1, 3, 4], [5, 4, 2])).toEqual([2, 5, 3, 2]);
    expect(shape("...a,...a->...", [2, 3], [3])).toEqual([2]);
    expect(shape("b...,b->b", [2, 3, 4], [2])).toEqual([2]);
    expect(shape("b...,ba", [2, 3, 4], [2, 5])).toEqual([3, 4, 5]);
  });

  it("what is no equation of these operands is refused by name", () => {
    const refused = (equation: string, ...shapes: number[][]): string => {
      try {
        modelOf(equation, shapes);
      } catch (e) {
        if (e instanceof CompileError) return `${e.code}: ${e.message}`;
        throw e;
      }
      return "taken";
    };
    expect(refused("ij,jk->ik", [2, 3])).toMatch(/^bad-model: .*does not fit 1 operands/);
    expect(refused("ijk->i", [2, 3])).toMatch(/^bad-model: .*does not fit operand 0/);
    expect(refused("ij,jk->ik", [2, 3], [4, 2])).toMatch(/^bad-model: .*gives "j" the sizes 3 and 4/);
    expect(refused("ii->i", [2, 3])).toMatch(/^bad-model: .*"i"/);
    expect(refused("ij->ik", [2, 3])).toMatch(/^bad-model: .*output/);
    expect(refused("ij->ii", [2, 3])).toMatch(/^bad-model: .*output/);
    expect(refused("i%->i", [2, 3])).toMatch(/^bad-model: .*letters/);
  });
});
