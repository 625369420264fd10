import { describe, expect, test } from "vitest";
import { kernelWork } from "../../codegen/work.js";
import { convForward, convInput, gemm, gram } from "../support/contract-specs.js";
import { parse } from "./args.js";
import { better, compare, regressed, suspects } from "./compare.js";
import { judge, type Mark, MARKS, verdict } from "./marks.js";
import { type Facts, merged, type Results, type Row } from "./result.js";
import { wanted } from "./run.js";
import { median, percentile, roundOf } from "./stats.js";
import { checkSampled } from "./work/program.js";
import { along, firstOrder } from "./work/models.js";

const row = (id: string, yards: number, facts: Facts = {}): Row => ({ id, name: id, yards, ms: yards * 20, facts });
const results = (rows: readonly Row[], yardstickMs = 20): Results => ({ adapter: "llvmpipe", name: "made up", yardstickMs, gflops: 268 / yardstickMs, processes: 1, rows });

describe("numbers out of rounds", () => {
  test("the median of an even count is the mean of the middle two, and one wild round moves nothing", () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2.5);
    expect(median([1, 2, 900])).toBe(2);
    expect(() => median([])).toThrow("no values");
  });

  test("the 99th percentile of a hundred steps is the second slowest: one pause of the machine is not the work's", () => {
    const steps = [...new Array<number>(98).fill(10), 14, 200];
    expect(percentile(steps, 0.5)).toBe(10);
    expect(percentile(steps, 0.99)).toBe(14);
    expect(percentile([5], 0.99)).toBe(5);
  });

  test("a round counts each lap in the yardsticks of its own moment: a machine that halves its speed changes nothing", () => {
    const steady = roundOf([{ ms: 100, count: 5, before: 20, after: 20 }, { ms: 100, count: 5, before: 20, after: 20 }]);
    const slowed = roundOf([{ ms: 100, count: 5, before: 20, after: 20 }, { ms: 200, count: 5, before: 40, after: 40 }]);
    expect(steady).toEqual({ yards: 1, ms: 20 });
    expect(slowed.yards).toBe(1);
  });

  test("several processes give the median of each figure; a row that failed in one has failed", () => {
    const runs = [1, 3, 2].map((y) => results([row("a", y, { dispatches: 9 }), row("b", y)], y * 10));
    const all = merged(runs);
    expect(all).toMatchObject({ processes: 3, yardstickMs: 20 });
    expect(all.rows[0]).toMatchObject({ yards: 2, facts: { dispatches: 9 } });
    const failed = merged([results([row("a", 1)]), results([{ id: "a", name: "a", facts: {}, error: "wrong numbers" }])]);
    expect(failed.rows[0]?.error).toBe("wrong numbers");
  });
});

describe("marks", () => {
  const mark: Mark = { what: "work", row: "work", figure: "yards", most: 0.65, stretch: 0.52 };

  test("a mark is kept up to and with its bound, and what was not measured is not kept", () => {
    expect(verdict(mark, 0.52)).toBe("stretch");
    expect(verdict(mark, 0.53)).toBe("kept");
    expect(verdict(mark, 0.65)).toBe("kept");
    expect(verdict(mark, 0.651)).toBe("missed");
    expect(verdict(mark, undefined)).toBe("not measured");
    expect(verdict(mark, Number.NaN)).toBe("not measured");
  });

  test("figures besides time are judged in their own unit", () => {
    const judged = judge(results([row("step", 0.4, { dispatches: 13 })]), [{ ...mark, row: "step" }, { what: "its dispatches", row: "step", figure: "dispatches", most: 12 }]);
    expect(judged.map((j) => j.verdict)).toEqual(["stretch", "missed"]);
  });

  test("no two marks judge one figure, and a stretch lies beyond its mark", () => {
    expect(new Set(MARKS.map((m) => `${m.row} ${m.figure}`)).size).toBe(MARKS.length);
    for (const m of MARKS) expect(m.stretch ?? 0, m.what).toBeLessThan(m.most);
  });
});

describe("regressions", () => {
  const old = results([row("a", 1), row("b", 2), row("c", 3)]);

  test("a quarter slower is noise, more is suspect, and only a second bad measurement makes it a regression", () => {
    const now = results([row("a", 1.25), row("b", 2.6), row("c", 1)]);
    const list = compare(old, now, true);
    expect(list.map((c) => c.outcome)).toEqual(["same", "slower", "faster"]);
    expect([...suspects(list)]).toEqual(["b"]);
    const again = results([row("a", 1.25), better(row("b", 2.6), row("b", 2.2)), row("c", 1)]);
    expect(regressed(compare(old, again, true))).toBe(false);
    const slow = results([row("a", 1.25), better(row("b", 2.6), row("b", 2.7)), row("c", 1)]);
    expect(regressed(compare(old, slow, true))).toBe(true);
  });

  test("work so short that it is mostly a dispatch's own cost is not judged by its ratio", () => {
    const tiny = results([row("a", 0.001)]);
    expect(compare(tiny, results([row("a", 0.003)]), true)[0]).toMatchObject({ outcome: "same" });
    expect(compare(tiny, results([row("a", 0.01)]), true)[0]).toMatchObject({ outcome: "slower" });
  });

  test("work that is gone or fails is a regression; new work is none; a part of the bench is compared with its part", () => {
    expect(regressed(compare(old, results([row("a", 1), row("b", 2)]), true))).toBe(true);
    expect(regressed(compare(old, results([row("a", 1), row("b", 2)]), false))).toBe(false);
    expect(compare(old, results([row("a", 1), row("d", 9)]), false).map((c) => c.outcome)).toEqual(["same", "new"]);
    expect(regressed(compare(old, results([{ id: "a", name: "a", facts: {}, error: "wrong" }]), false))).toBe(true);
  });
});

describe("what is asked for", () => {
  test("flags with and without a value", () => {
    expect(parse(["--quick", "--only", "lenet", "--json", "--compare", "old.json"])).toEqual({ quick: true, only: "lenet", json: true, compare: "old.json", processes: 1, peers: false });
    expect(parse(["--processes", "3"]).processes).toBe(3);
    expect(() => parse(["--processes", "0"])).toThrow("whole number");
    expect(() => parse(["--only"])).toThrow("needs a value");
    expect(() => parse(["--onyl", "x"])).toThrow("no flag --onyl");
  });

  test("a word finds rows by id, name or group; quick leaves the big networks out", () => {
    const lenet = { id: "lenet/sgd", name: "LeNet-5, batch 64, SGD step", group: "models" } as const;
    expect(wanted({ quick: false, only: "LENET" }, lenet)).toBe(true);
    expect(wanted({ quick: false, only: "models" }, lenet)).toBe(true);
    expect(wanted({ quick: false, only: "resnet" }, lenet)).toBe(false);
    expect(wanted({ quick: true }, { ...lenet, slow: true })).toBe(false);
    expect(wanted({ quick: true, ids: new Set(["lenet/sgd"]) }, { ...lenet, slow: true })).toBe(true);
  });
});

describe("numbers are held to the truth", () => {
  test("an element that lost one of its products is found, one rounded as float32 rounds is not", () => {
    const truth = () => ({ value: 10, size: 40, terms: 100 });
    expect(checkSampled("z", Float32Array.of(10 + 1e-5), truth)).toBe(1);
    expect(() => checkSampled("z", Float32Array.of(9.9), truth)).toThrow("z[0] is 9.8");
    expect(() => checkSampled("z", Float32Array.of(Number.NaN), truth)).toThrow("NaN");
  });

  test("a step that does not move, or moves against its gradient, is found", () => {
    const at = (...w: number[]) => new Map([["w", Float32Array.from(w)]]);
    const moved = (...w: number[]) => along(at(1, 2), at(0, 0), at(...w));
    expect(firstOrder("step", moved(-0.1, -0.2), 3, 2.52)).toContain("gradient");
    expect(() => firstOrder("step", moved(0, 0), 3, 3)).toThrow("lowered the loss");
    expect(() => firstOrder("step", moved(0.1, 0.2), 3, 3.5)).toThrow("lowered the loss");
    expect(() => firstOrder("step", moved(-0.1, -0.2), 3, 3)).toThrow("lowered the loss");
  });
});

describe("the count of work", () => {
  test("two per product, one triangle of a symmetric one, of a strided view only what exists", () => {
    expect(kernelWork(gemm("nn", [3, 5, 7])).flops).toBe(2 * 3 * 5 * 7);
    expect(kernelWork(gemm("nn", [3, 5, 7])).bytes).toBe(4 * (3 * 7 + 7 * 5 + 3 * 5));
    // i ≤ j of 6 × 6 sums over 10 rows, and a factor for each element
    expect(kernelWork(gram(10, 6, 6)).flops).toBe(2 * 10 * 21 + 36);
    const c = { n: 2, ci: 4, co: 6, y: 8, x: 8, k: 3, pad: 1 };
    expect(kernelWork(convForward(c)).flops).toBe(2 * 2 * 6 * 64 * 4 * 9 + 2 * (2 * 6 * 64));
    expect(kernelWork(convInput({ ...c, stride: 2 })).flops).toBe((2 * 2 * 4 * 64 * 6 * 9) / 4);
  });
});
