/** Without any damping, eigenbases leave directions that have no curvature alone, padding among them. */
import { expect, test } from "vitest";
import { Builder } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import { ndarray } from "../../ir/ndarray.js";
import { f32 } from "../../ir/type.js";
import type { Layer } from "../../src/kfac/layer.js";
import { preconditionedEigen } from "../../src/kfac/precondition.js";

test("a scaling of 0 with λ = 0 gives 0, not NaN; a scaling that is no number stays none", () => {
  const b = new Builder("undamped");
  const input = (name: string, shape: readonly number[]) => b.input(name, f32(...shape));
  const layer = { groups: 1, dA: 2, dG: 2, form: "kronecker", sides: { A: "full", G: "full" } } as Partial<Layer> as Layer;
  const P = preconditionedEigen(b, layer, input("M", [3, 3]), input("UA", [3, 3]), input("UG", [3, 3]), input("S", [3, 3]), input("lambda", []));
  const graph = b.finish([{ name: "P", value: P }]);
  const U = [1, 0, 0, 0, 1, 0, 0, 0, 0];
  const run = (S: readonly number[]) => [...(evaluate(graph, { M: ndarray("f32", [3, 3], [2, 3, 0, 4, 5, 0, 0, 0, 0]), UA: ndarray("f32", [3, 3], U), UG: ndarray("f32", [3, 3], U), S: ndarray("f32", [3, 3], S), lambda: ndarray("f32", [], [0]) }).P?.data ?? [])];
  expect(run([2, 4, 0, 8, 0, 0, 0, 0, 0])).toEqual([1, 0.75, 0, 0.5, 0, 0, 0, 0, 0]);
  expect(run([Number.NaN, 4, 0, 8, 0, 0, 0, 0, 0])[0]).toBeNaN();
});
