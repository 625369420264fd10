/** Layers of the DSL that K-FAC takes in a way of its own, and options that are none. */
import { describe, expect, it } from "vitest";
import { COMPILE_DEFAULTS, prepare } from "../../src/compile.js";
import { model, toForward } from "../../src/dsl/index.js";

const layersOf = (build: Parameters<typeof model>[1]): string[] =>
  prepare(toForward(model("t", build), 2), COMPILE_DEFAULTS).registration.layers.map((l) => `${l.name} ${l.kind} ${l.sites.length} sites, ${l.groups} of ${l.dA}×${l.dG}, T ${l.T}`);

describe("a table", () => {
  it("that is looked up and multiplied with is one layer with two sites", () => {
    expect(layersOf((m) => {
      const table = m.param("table", [11, 6]);
      const h = m.relu(m.gather(table, m.input("x", [5], { dtype: "i32" })));
      return m.output("y", m.transpose(m.matmul(h, m.transpose(table)), [1, 0]), { loss: "softmax-ce" });
    })).toEqual(["table embed 2 sites, 1 of 11×6, T 10"]);
  });

  it("must not differ from example to example", () => {
    expect(() => model("t", (m) => m.output("y", m.gather(m.input("t", [3, 2]), m.input("x", [5], { dtype: "i32" }))))).toThrow(/a table \[count, width\] that is the same for all examples/);
  });
});

describe("transposed convolutions", () => {
  it("come in one to three dimensions, with positions more at the end", () => {
    const shape = (build: Parameters<typeof model>[1]) => toForward(model("t", build), 2).outputs[0]?.value.type.shape;
    expect(shape((m) => m.output("y", m.convTranspose1d(m.input("x", [4, 5]), 6, 3, { groups: 2, stride: 2, outputPad: 1 })))).toEqual([2, 6, 12]);
    expect(shape((m) => m.output("y", m.convTranspose3d(m.input("x", [2, 3, 3, 3]), 1, 2, { stride: [1, 2, 2], outputPad: [0, 1, 0] })))).toEqual([2, 1, 4, 7, 6]);
    expect(() => model("t", (m) => m.output("y", m.convTranspose1d(m.input("x", [4, 5]), 6, 3, { outputPad: [0, 1] })))).toThrow(/outputPad must be 1 whole numbers/);
  });
});

it("an option that there is none of is refused: it would pass as a default", () => {
  expect(() => model("t", (m) => m.output("y", m.conv1d(m.input("x", [4, 5]), 6, 3, { pads: 1 } as never)))).toThrow(/there is no option "pads"/);
});
