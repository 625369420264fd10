import { describe, expect, it } from "vitest";
import type { ChosenSchedule } from "../../codegen/kernel.js";
import { parseTuning, type Tuning, tuningText } from "../../src/tune/file.js";

const ROWS: ChosenSchedule = { family: "rows", tile: [8, 8, 1], split: [1, 1, 4] };
const TILED: ChosenSchedule = { family: "tiled", rows: 64, columns: 32, depth: 16, perRow: 8, perColumn: 4, parts: 3 };
const TUNING: Tuning = { adapter: "llvmpipe", target: "gpu", schedules: new Map<string, ChosenSchedule>([["contract[b]", TILED], ["contract[a]", ROWS]]) };
const damaged = (change: (text: string) => string) => () => parseTuning(change(tuningText(TUNING)), "tuning.json");

describe("a tuning file", () => {
  it("says again what was written", () => {
    const read = parseTuning(tuningText(TUNING), "tuning.json");
    expect(read.adapter).toBe("llvmpipe");
    expect(read.target).toBe("gpu");
    expect(new Map(read.schedules)).toEqual(new Map(TUNING.schedules));
  });

  it("is the same bytes whatever order the choices were made in", () => {
    const other = { ...TILED, rows: TILED.rows };
    expect(tuningText({ ...TUNING, schedules: new Map<string, ChosenSchedule>([["contract[a]", { split: [1, 1, 4], family: "rows", tile: [8, 8, 1] }], ["contract[b]", other]]) })).toBe(tuningText(TUNING));
  });

  it.each([
    ["that is cut off", (t: string) => t.slice(0, -40), /not JSON/],
    ["of something else", () => "{}", /no tuning of kfacc/],
    ["of another version", (t: string) => t.replace('"kfaccTuning": 1', '"kfaccTuning": 2'), /version is 2/],
    ["with a schedule of no known family", (t: string) => t.replace('"rows","tile"', '"wild","tile"'), /schedule 0 is none/],
    ["with a number that is none", (t: string) => t.replace('"parts":3', '"parts":"3"'), /schedule 1 is none/],
    ["with a number below one", (t: string) => t.replace('"depth":16', '"depth":0'), /schedule 1 is none/],
    ["with two schedules of one contraction", (t: string) => t.replace("contract[b]", "contract[a]"), /that has one/],
  ])("%s is refused with what is wrong", (_, change, message) => {
    expect(damaged(change)).toThrow(message);
  });
});
