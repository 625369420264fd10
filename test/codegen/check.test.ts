/** The two checkers of plans: a replay that needs no numbers, and a run on float64 arrays. Each must also see planted faults. */
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { checkPlan } from "../../codegen/check.js";
import { PORTABLE } from "../../codegen/limits.js";
import { planProgram, type Planned } from "../../codegen/plan.js";
import { simulate } from "../../codegen/simulate.js";
import { evaluate } from "../../ir/evaluate.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { parse } from "../../ir/parse.js";
import { print } from "../../ir/print.js";
import type { Plan, PlanDispatch, PlanEntry, PlanStep } from "../../runtime/artifact.js";
import type { Compiled } from "../../src/compile.js";
import { bindings, difference, graphs, PATIENCE } from "../support/graphs.js";
import { bind, defaultFields, programs, random, tensor, withState } from "../support/models.js";

/** Random contents for everything an entry binds; factors and inverses need not make sense. */
function anything(graph: Parameters<typeof bind>[0], seed: number): Record<string, NdArray> {
  const next = random(seed);
  const given = Object.fromEntries([...graph.params, ...graph.inputs].filter(({ value }) => !value.name.startsWith("run.")).map(({ value }) => {
    const { dtype, shape } = value.type;
    const data = tensor(shape, next).data;
    return [value.name, ndarray(dtype, shape, dtype === "f32" ? data.map((x) => (/weight|clean|scale/.test(value.name) ? Math.abs(x) + 0.1 : x)) : data.map((x) => Math.floor((x + 1) / 1.01)))];
  }));
  return bind(graph, given, { ...defaultFields(), count: 4, keep: 1, emaBlend: 0.3, correction1: 0.1, correction2: 0.01, seed: 5, step: 3 });
}

describe("plans of whole programs", () => {
  for (const [name, make] of Object.entries(programs())) {
    describe(name, () => {
      let c: Compiled;
      beforeAll(() => {
        c = make();
      });

      it("passes the replay", () => {
        checkPlan(c.planned.plan, c.planned.lowered);
      });

      it("run through its slots, gives the numbers of its graphs to the bit", () => {
        for (const [entry, low] of c.planned.lowered) {
          const given = anything(low.graph, 7);
          const [want, got] = [evaluate(low.graph, given), simulate(c.planned.plan, entry, low, given)];
          for (const [result, value] of Object.entries(want)) expect(got[result]?.data, `${entry}: ${result}`).toEqual(value.data);
        }
      });
    });
  }
});

describe("plans of random graphs", () => {
  it("pass the replay and give the graph's numbers, also where results overwrite inputs", () => {
    fc.assert(fc.property(graphs(), fc.nat(1000), (free, seed) => {
      const next = random(seed);
      const { graph, state } = seed % 3 === 0 ? { graph: free, state: new Set<string>() } : withState(free, (n) => Math.floor(((next() + 1) / 2) * n) % n);
      const { plan, lowered } = planProgram([{ name: "main", graph }], state, PORTABLE);
      checkPlan(plan, lowered);
      const given = bindings(graph, seed);
      const want = evaluate(graph, given);
      const got = simulate(plan, "main", lowered.get("main") as NonNullable<ReturnType<typeof lowered.get>>, given);
      for (const [name, value] of Object.entries(want))
        if (difference(value, got[name] as NdArray) !== 0) throw new Error(`seed ${seed}: result ${name} differs\n${print(graph)}`);
    }), { ...PATIENCE, seed: 17, numRuns: 150 });
  });
});

describe("a fault in a plan is seen", () => {
  let planned: Planned;
  const entry = (name: string): PlanEntry => planned.plan.entries[name] as PlanEntry;
  const withSteps = (name: string, change: (steps: PlanStep[], plan: Plan) => PlanStep[]): Plan =>
    ({ ...planned.plan, entries: { ...planned.plan.entries, [name]: { ...entry(name), steps: change([...entry(name).steps], planned.plan) } } });
  const isSlot = (id: number): boolean => planned.plan.buffers[id]?.kind === "slot";
  const refused = (plan: Plan, why: RegExp): void => { expect(() => checkPlan(plan, planned.lowered)).toThrow(why); };
  const patched = (s: PlanDispatch, at: number, id: number): PlanDispatch => ({ ...s, buffers: s.buffers.map((b, k) => (k === at ? id : b)) });
  const FRONT = "front.stats@4";

  beforeAll(() => {
    planned = (programs()["convnet, softmax, two samples"] as () => Compiled)().planned;
  });

  it("two slots exchanged in one dispatch, wherever it is", () => {
    let tried = 0;
    entry(FRONT).steps.forEach((s, k) => {
      if ("from" in s) return;
      s.buffers.forEach((id, at) => {
        const other = s.buffers.findIndex((b) => isSlot(b) && b !== id);
        if (!isSlot(id) || other < 0) return;
        tried++;
        refused(withSteps(FRONT, (steps) => { steps[k] = patched(patched(s, at, s.buffers[other] as number), other, id); return steps; }), /the plan is wrong/);
      });
    });
    expect(tried).toBeGreaterThan(10);
  });

  it("a lifetime cut short: another work writes into a slot that is still to be read", () => {
    const { steps } = entry(FRONT);
    const bindings = (s: PlanDispatch) => planned.plan.kernels[s.kernel]?.bindings ?? [];
    let tried = 0;
    steps.forEach((reader, k) => {
      if ("from" in reader || k < 3) return;
      const before = steps[k - 1];
      if (!before || "from" in before) return;
      const at = before.buffers.findIndex((id, b) => isSlot(id) && bindings(before)[b] === "read_write");
      if (at < 0) return;
      for (const slot of new Set(reader.buffers.filter((id, b) => isSlot(id) && bindings(reader)[b] === "read" && !before.buffers.includes(id)))) {
        tried++;
        refused(withSteps(FRONT, (all) => { all[k - 1] = patched(before, at, slot); return all; }), /holds|is destroyed|nothing wrote|needs/);
      }
    });
    expect(tried).toBeGreaterThan(3);
  });

  it("a dispatch moved one place earlier than what it needs", () => {
    let caught = 0;
    const { steps } = entry(FRONT);
    for (let k = 1; k < steps.length; k++) {
      const [a, b] = [steps[k - 1] as PlanStep, steps[k] as PlanStep];
      if ("from" in a || "from" in b) continue;
      const writes = a.values.filter((_, at) => planned.plan.kernels[a.kernel]?.bindings[at] === "read_write");
      if (!b.values.some((v, at) => writes.includes(v) && planned.plan.kernels[b.kernel]?.bindings[at] === "read")) continue;
      caught++;
      refused(withSteps(FRONT, (all) => { all[k - 1] = b; all[k] = a; return all; }), /the plan is wrong/);
    }
    expect(caught).toBeGreaterThan(3);
  });

  it("a parameter updated before the last kernel that reads its old value", () => {
    const graph = parse(`graph g {
      param %w: f32[8] = file
      input %g: f32[8]
      %new = sub(%w, %g)
      %old = mul(%w, %w)
      %norm = reduce_sum(%old) {axes = [0]}
      return w = %new, norm = %norm
    }`);
    const made = planProgram([{ name: "main", graph }], new Set(["w"]), PORTABLE);
    checkPlan(made.plan, made.lowered);
    const main = made.plan.entries.main as PlanEntry;
    expect(main.steps.length).toBe(2);
    const turned = { ...made.plan, entries: { main: { ...main, steps: [...main.steps].reverse() } } };
    expect(() => checkPlan(turned, made.lowered)).toThrow(/reads "w" from buffer "w", which holds "new"/);
  });

  it("a dispatch left out, and one that belongs to nothing", () => {
    const { steps } = entry(FRONT);
    for (const k of [0, Math.floor(steps.length / 2), steps.length - 1]) refused(withSteps(FRONT, (all) => all.filter((_, j) => j !== k)), /the plan is wrong/);
    refused(withSteps(FRONT, (all) => [...all, { ...(steps[0] as PlanDispatch), values: (steps[0] as PlanDispatch).values.map(() => "nonsense") }]), /nothing stores/);
  });

  it("a buffer that is too small, and one bound twice", () => {
    const used = new Set(entry(FRONT).steps.flatMap((s) => ("from" in s ? [] : s.buffers)));
    const id = planned.plan.buffers.findIndex((b, k) => b.kind === "output" && b.bytes > 16 && used.has(k));
    const big = id >= 0 ? id : planned.plan.buffers.findIndex((b, k) => b.kind === "state" && b.bytes > 16 && used.has(k));
    refused({ ...planned.plan, buffers: planned.plan.buffers.map((b, k) => (k === big ? { ...b, bytes: 16 } : b)) }, /has 16 bytes/);
    const k = entry(FRONT).steps.findIndex((s) => !("from" in s) && s.buffers.filter((b) => b >= 0).length >= 2);
    const s = entry(FRONT).steps[k] as PlanDispatch;
    const written = s.buffers.findIndex((_, at) => planned.plan.kernels[s.kernel]?.bindings[at] === "read_write");
    const read = s.buffers.findIndex((_, at) => planned.plan.kernels[s.kernel]?.bindings[at] === "read");
    refused(withSteps(FRONT, (all) => { all[k] = patched(s, read, s.buffers[written] as number); return all; }), /read and read_write/);
  });

  it("state overwritten by a value that is not its own", () => {
    const state = planned.plan.buffers.findIndex((b) => b.kind === "state" && b.name === "conv0.weight");
    const k = entry(FRONT).steps.findIndex((s) => !("from" in s) && s.buffers.some((id, at) => isSlot(id) && planned.plan.kernels[s.kernel]?.bindings[at] === "read_write"));
    const s = entry(FRONT).steps[k] as PlanDispatch;
    const at = s.buffers.findIndex((id, b) => isSlot(id) && planned.plan.kernels[s.kernel]?.bindings[b] === "read_write");
    refused(withSteps(FRONT, (all) => { all[k] = patched(s, at, state); return all; }), /over buffer "conv0.weight"|read and read_write/);
  });

  it("a copy from or to the wrong place", () => {
    const graph = parse(`graph g {
      input %x: f32[4]
      %y = neg(%x)
      return out = %y, again = %y
    }`);
    const made = planProgram([{ name: "main", graph }], new Set(), PORTABLE);
    checkPlan(made.plan, made.lowered);
    const main = made.plan.entries.main as PlanEntry;
    const k = main.steps.findIndex((s) => "from" in s);
    const copy = main.steps[k] as { from: number; to: number; bytes: number; value: string };
    const other = made.plan.buffers.findIndex((b) => b.name === "x");
    const change = (to: Partial<typeof copy>) => ({ ...made.plan, entries: { main: { ...main, steps: main.steps.map((s, j) => (j === k ? { ...copy, ...to } : s)) } } });
    expect(() => checkPlan(change({ from: other }), made.lowered)).toThrow(/which holds "x"/);
    expect(() => checkPlan(change({ to: other }), made.lowered)).toThrow(/over buffer "x"/);
    expect(() => checkPlan(change({ bytes: 4 }), made.lowered)).toThrow(/copies 4 bytes/);
  });
});

it("the replay costs a small part of a compilation", () => {
  const make = programs()["convnet, softmax, two samples"] as () => Compiled;
  const start = performance.now();
  const { planned } = make();
  const middle = performance.now();
  checkPlan(planned.plan, planned.lowered);
  const end = performance.now();
  expect(end - middle).toBeLessThan(0.5 * (middle - start));
});
