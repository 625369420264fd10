/** Which part of the inverses' work belongs to which step. */
import { describe, expect, it } from "vitest";
import type { Plan, PlanStep } from "../../runtime/artifact.js";
import { between, ends, layerRefresh, schedule } from "../../runtime/refresh.js";
import { random } from "../support/models.js";

const unit = (cost: number, steps = 1): { readonly steps: number; readonly cost: number } => ({ steps, cost });

describe("parts of about equal cost", () => {
  it("hold all units in order, whatever the costs", () => {
    for (let seed = 1; seed <= 50; seed++) {
      const signed = random(seed);
      const next = (): number => Math.abs(signed());
      const units = Array.from({ length: 1 + Math.floor(next() * 40) }, () => unit(next() ** 4, 1 + Math.floor(next() * 3)));
      const parts = 1 + Math.floor(next() * 12);
      const made = ends(units, parts);
      expect(made.length, `seed ${seed}`).toBe(parts);
      expect(made, `seed ${seed}`).toEqual(made.toSorted((a, b) => a - b));
      expect(made[parts - 1], `seed ${seed}`).toBe(units.reduce((n, u) => n + u.steps, 0));
    }
  });

  it("exceed an even share by no more than the largest unit", () => {
    for (let seed = 1; seed <= 50; seed++) {
      const signed = random(seed);
      const next = (): number => Math.abs(signed());
      const costs = Array.from({ length: 60 }, () => next() ** 2);
      const made = ends(costs.map((c) => unit(c)), 10);
      const share = costs.reduce((a, b) => a + b) / 10;
      made.forEach((end, k) => {
        const cost = costs.slice(made[k - 1] ?? 0, end).reduce((a, b) => a + b, 0);
        expect(cost, `seed ${seed}, part ${k}`).toBeLessThanOrEqual(share + Math.max(...costs) + 1e-9);
      });
    }
  });

  it("leave parts empty where there are fewer units than parts, and never cut a unit", () => {
    expect(ends([unit(1, 5), unit(1, 7)], 4)[3]).toBe(12);
    for (const end of ends([unit(1, 5), unit(1, 7)], 4)) expect([0, 5, 12]).toContain(end);
    expect(ends([], 3)).toEqual([0, 0, 0]);
  });
});

/** A plan with one entry per layer: reads its factor, sweeps, writes its inverse in two dispatches. */
function planOf(layers: Readonly<Record<string, number>>): Plan {
  const names = Object.keys(layers);
  const buffers = [
    { name: "kfac/refresh/slot0", kind: "slot" as const, bytes: 16, dtype: "f32" as const },
    ...names.flatMap((name) => ["A", "Ainv", "Ginv"].map((part) => ({ name: `kfac/${name}/${part}`, kind: "state" as const, bytes: 16, dtype: "f32" as const, shape: [4] }))),
  ];
  const kernels = [{ name: "move", bindings: ["read", "read_write"] as const }, { name: "sweep", bindings: ["read_write"] as const }];
  const step = (kernel: number, on: readonly number[], flops = 0): PlanStep => ({ kernel, buffers: on, values: on.map(String), workgroups: [1, 1, 1], work: { flops, bytes: 0 } });
  return {
    kernels, buffers,
    entries: Object.fromEntries(names.map((name, k) => [layerRefresh(name), {
      inputs: {}, outputs: {},
      steps: [step(0, [1 + 3 * k, 0]), step(0, [1 + 3 * k, 0]), ...Array.from({ length: layers[name] as number }, () => step(1, [0], 1e7)), step(0, [0, 2 + 3 * k]), step(0, [0, 3 + 3 * k])],
    }])),
  };
}

describe("a schedule", () => {
  const layers = { first: 12, second: 1, third: 7 };
  const plan = planOf(layers);
  const made = schedule(plan, Object.keys(layers).map((name) => ({ name })), 5);

  it("runs every step of every layer once per cycle, in order", () => {
    const seen = new Map<string, number>();
    let at = 0;
    for (const end of made.ends) {
      for (const { entry, from, to } of between(made, at, end).parts) {
        expect(from, entry).toBe(seen.get(entry) ?? 0);
        expect(to, entry).toBeGreaterThan(from);
        seen.set(entry, to);
      }
      at = end;
    }
    expect([...seen]).toEqual(Object.entries(layers).map(([name, sweeps]) => [layerRefresh(name), sweeps + 4]));
  });

  it("names each layer done once, with the part that holds its last step", () => {
    const done = made.ends.map((end, k) => between(made, made.ends[k - 1] ?? 0, end).done);
    expect(done.flat()).toEqual([0, 1, 2]);
    expect(between(made, 0, made.total).done).toEqual([0, 1, 2]);
    expect(between(made, 0, 15).done).toEqual([]);
    expect(between(made, 0, 16).done).toEqual([0]);
    expect(between(made, 16, 16)).toEqual({ parts: [], done: [] });
  });

  it("cuts neither the reading of factors nor the taking over of inverses", () => {
    for (let period = 1; period <= 60; period++)
      for (const end of schedule(plan, Object.keys(layers).map((name) => ({ name })), period).ends)
        for (const { start, steps } of made.rows)
          expect([start + 1, start + steps - 1], `period ${period}`).not.toContain(end);
  });

  it("cuts one large inverse into several parts", () => {
    const parts = made.ends.map((end, k) => between(made, made.ends[k - 1] ?? 0, end).parts);
    expect(parts.filter((p) => p.some(({ entry }) => entry === layerRefresh("first"))).length).toBeGreaterThan(2);
  });
});
