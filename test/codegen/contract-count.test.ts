/** What a search counts without tables is what the tables hold. */
import { expect, it } from "vitest";
import { Counter } from "../../codegen/kernels/contract/cost.js";
import { splitAddress, tabulate, widthOf } from "../../codegen/kernels/contract/place.js";
import { Pool } from "../../codegen/kernels/contract/pool.js";
import { problemOf, type Side } from "../../codegen/kernels/contract/problem.js";
import { layOut, levelSize, product } from "../../codegen/kernels/contract/schedule.js";
import { scheduleOf, search } from "../../codegen/kernels/contract/search.js";
import { PORTABLE } from "../../codegen/limits.js";
import { Dice, randomChoice, randomSpec } from "../support/contract-fuzz.js";
import { gemm } from "../support/contract-specs.js";

it("parts of a side counted apart load what the side's whole table loads", () => {
  let compared = 0;
  for (let seed = 1; seed <= 300; seed++) {
    const dice = new Dice(seed);
    const { sums: _, ...spec } = randomSpec(dice);
    const problem = problemOf(spec, PORTABLE);
    const schedule = scheduleOf(problem, randomChoice(spec, dice), false);
    const layout = layOut(problem, schedule, "whole");
    const sides = [problem.left, problem.right].filter((side): side is Side => side !== undefined);
    if (schedule.peel !== undefined || sides.some((side) => splitAddress(side, layout).open.length > 0)) continue;
    const loads = sides.map((side) => {
      const { guards, chunks } = tabulate(side, layout, new Pool(), widthOf(side, layout));
      return new Set([...chunks].filter((_, i) => (guards[i] ?? -1) >= 0)).size;
    });
    const trips = product(problem.axes.map((axis) => levelSize(schedule, axis, "loop")));
    expect(new Counter(problem).count(schedule).loads, `seed ${seed}`).toBe(trips * loads.reduce((a, b) => a + b, 0));
    compared++;
  }
  expect(compared).toBeGreaterThan(100);
});

it("a search that is remembered gives the schedule that a new one finds, over the asking problem's own axes", () => {
  const remembered = new Map();
  search(problemOf(gemm("nn", [60, 70, 80], "first"), PORTABLE), false, true, remembered);
  const problem = problemOf(gemm("nn", [60, 70, 80], "second"), PORTABLE);
  const found = search(problem, false, true, remembered);
  expect(remembered.size).toBe(1);
  expect(found.best.schedule).toEqual(search(problem).best.schedule);
  expect([...found.best.schedule.levels.keys()]).toEqual([...problem.axes]);
  for (const axis of problem.axes) expect(found.best.schedule.levels.has(axis)).toBe(true);
});
