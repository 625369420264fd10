/** Plans: memory that is shared, state that is overwritten, names of buffers and kernels. (That plans are right: check.test.ts.) */
import { describe, expect, it } from "vitest";
import { checkPlan } from "../../codegen/check.js";
import { PORTABLE } from "../../codegen/limits.js";
import { planProgram } from "../../codegen/plan.js";
import { simulate } from "../../codegen/simulate.js";
import { ndarray } from "../../ir/ndarray.js";
import { parse } from "../../ir/parse.js";
import type { Plan } from "../../runtime/artifact.js";
import { programs } from "../support/models.js";

const graph = (text: string) => parse(`graph g {\n${text}\n}`);
const planOf = (text: string, state: readonly string[] = []) => {
  const made = planProgram([{ name: "main", graph: graph(text) }], new Set(state), PORTABLE);
  checkPlan(made.plan, made.lowered);
  return { ...made, steps: made.plan.entries.main?.steps ?? [], run: (bindings: Parameters<typeof simulate>[3]) => simulate(made.plan, "main", made.lowered.get("main") as never, bindings) };
};
const names = (plan: Plan): string[] => plan.buffers.map((b) => `${b.kind} ${b.name}`);

/** A chain of n sums over rows and their repetition: every link needs memory, none longer than to the next. */
const chain = (n: number): string => `input %v0: f32[64, 64]\n${Array.from({ length: n }, (_, k) => `
  %s${k} = contract(%v${k}, %v${k}) {spec = "ab,cb->ac"}
  %v${k + 1} = tanh(%s${k})`).join("\n")}\nreturn out = %v${n}`;

describe("memory", () => {
  it("a chain of any length takes two slots", () => {
    for (const n of [3, 4, 9]) {
      const { plan } = planOf(chain(n));
      expect(plan.buffers.filter((b) => b.kind === "slot").length, `${n} links`).toBe(2);
    }
  });

  it("a value that is read late keeps its slot until then", () => {
    const { plan } = planOf(chain(4).replace("return out = %v4", "%w = contract(%v1, %v4) {spec = \"ab,cb->ac\"}\nreturn out = %w"));
    expect(plan.buffers.filter((b) => b.kind === "slot").length).toBe(3);
  });

  it("entries share slots, and inputs of different batch sizes do not share names", () => {
    const entries = [["a", "@8", 8], ["b", "@4", 4]].map(([name, suffix, n]) => ({ name: String(name), suffix: String(suffix), graph: graph(`
      input %x: f32[${n}, 4] examples 0
      %h = contract(%x, %x) {spec = "ni,mi->nm"}
      %y = contract(%h, %x) {spec = "nm,mi->ni"}
      return out = %y`) }));
    const { plan } = planProgram(entries, new Set(), PORTABLE);
    expect(names(plan)).toEqual(["input x@8", "output out@8", "input x@4", "output out@4", "slot slot0"]);
  });

  it("every buffer is whole vec4s, a scalar's too", () => {
    for (const b of planOf("input %x: f32[5]\n%s = reduce_sum(%x) {axes = [0]}\nreturn sum = %s").plan.buffers) expect(b.bytes % 16, b.name).toBe(0);
  });

  it("planned memory of a training program is less than one buffer per tensor", () => {
    for (const [name, make] of Object.entries(programs()).slice(0, 4)) {
      const { memory } = make().planned;
      expect(memory.planned, name).toBeLessThan(0.9 * memory.everyTensor);
    }
  });
});

describe("state", () => {
  const W = { w: ndarray("f32", [3], [1, 2, 3]), g: ndarray("f32", [3], [10, 20, 30]) };

  it("a result with the name of a parameter is written over it without a copy", () => {
    const { plan, steps, run } = planOf("param %w: f32[3] = file\ninput %g: f32[3]\n%n = sub(%w, %g)\nreturn w = %n", ["w"]);
    expect(names(plan)).toEqual(["state w", "input g"]);
    expect(steps.length).toBe(1);
    expect([...(run(W).w?.data ?? [])]).toEqual([-9, -18, -27]);
  });

  it("a mirrored read of the old value forbids that: the new one is copied at the end", () => {
    const { steps, run } = planOf("param %w: f32[3] = file\ninput %g: f32[3]\n%m = slice(%w) {start = [2], size = [3], stride = [-1]}\n%n = sub(%m, %g)\nreturn w = %n", ["w"]);
    expect(steps.map((s) => ("from" in s ? "copy" : "dispatch"))).toEqual(["dispatch", "copy"]);
    expect([...(run(W).w?.data ?? [])]).toEqual([-7, -18, -29]);
  });

  it("the old value under another name is saved first", () => {
    const { run } = planOf("param %w: f32[3] = file\ninput %g: f32[3]\n%n = sub(%w, %g)\nreturn w = %n, before = %w", ["w"]);
    const out = run(W);
    expect([[...(out.w?.data ?? [])], [...(out.before?.data ?? [])]]).toEqual([[-9, -18, -27], [1, 2, 3]]);
  });

  it("one value under two names of state, while kernels read the old content of both", () => {
    const { run } = planOf("param %w: f32[3] = file\nparam %g: f32[3] = file\n%n = sub(%w, %g)\n%q = mul(%g, %g)\nreturn w = %n, g = %n, q = %q", ["w", "g"]);
    const out = run(W);
    expect(["w", "g", "q"].map((name) => [...(out[name]?.data ?? [])])).toEqual([[-9, -18, -27], [-9, -18, -27], [100, 400, 900]]);
  });

  it("a chain of moves: each goes before the one that overwrites what it takes", () => {
    const { run } = planOf("param %w: f32[3] = file\nparam %g: f32[3] = file\nparam %h: f32[3] = file\n%n = neg(%w)\nreturn w = %n, g = %w, h = %g", ["w", "g", "h"]);
    const out = run({ ...W, h: ndarray("f32", [3], [7, 7, 7]) });
    expect(["w", "g", "h"].map((name) => [...(out[name]?.data ?? [])])).toEqual([[-1, -2, -3], [1, 2, 3], [10, 20, 30]]);
  });

  it("two parameters that change places are refused, not lost", () => {
    expect(() => planOf("param %w: f32[3] = file\nparam %g: f32[3] = file\nreturn w = %g, g = %w", ["w", "g"])).toThrow(/the plan is wrong/);
  });

  it("a parameter that comes out unchanged costs nothing", () => {
    expect(planOf("param %w: f32[3] = file\ninput %g: f32[3]\n%n = neg(%g)\nreturn w = %w, out = %n", ["w"]).steps.length).toBe(1);
  });
});

describe("kernels", () => {
  it("layers of one shape share a kernel whatever their values are called", () => {
    const { plan, steps } = planOf(`
      input %x: f32[4, 6]
      param %a: f32[6, 6] = file
      param %b: f32[6, 6] = file
      %p = contract(%x, %a) {spec = "ni,oi->no"}
      %q = relu(%p)
      %r = contract(%q, %b) {spec = "nk,jk->nj"}
      %s = relu(%r)
      return out = %s`);
    expect([steps.length, plan.kernels.length]).toEqual([2, 1]);
  });

  it("kernels of the same shape that compute something else keep apart, under names of their own", () => {
    const { plan } = planOf("input %x: f32[8]\n%a = exp(%x)\n%b = sin(%x)\n%c = reduce_sum(%a) {axes = [0]}\n%d = reduce_sum(%b) {axes = [0]}\nreturn a = %a, b = %b, c = %c, d = %d");
    expect(new Set(plan.kernels.map((k) => k.name)).size).toBe(plan.kernels.length);
  });

  it("a plan is the same text every time", () => {
    const make = Object.values(programs())[3] as NonNullable<ReturnType<typeof programs>[string]>;
    const [one, two] = [make().planned, make().planned];
    expect(JSON.stringify(one.plan)).toBe(JSON.stringify(two.plan));
    expect(one.sources).toEqual(two.sources);
  });
});
