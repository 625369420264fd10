import { describe, expect, it } from "vitest";
import { type Life, shareSlots } from "../../codegen/slots.js";
import { Dice } from "../support/contract-fuzz.js";

const life = (bytes: number, first: number, last: number, entry = 0): Life<string> => ({ bytes, entry, first, last, what: `${entry}:${first}-${last}` });

describe("slots", () => {
  it("are as large as their first tenant, and nothing else lives there meanwhile", () => {
    expect(shareSlots([life(16, 0, 1), life(64, 2, 3), life(32, 1, 2)])).toEqual([{ bytes: 64, holds: ["0:2-3", "0:0-1"] }, { bytes: 32, holds: ["0:1-2"] }]);
  });

  it("are shared by entries, which never overlap", () => {
    expect(shareSlots([life(16, 0, 9, 0), life(16, 0, 9, 1)]).length).toBe(1);
  });

  it("never hold two that live at once, and take no more than the largest entry's peak and half again", () => {
    for (let seed = 0; seed < 30; seed++) {
      const dice = new Dice(seed);
      const lives = Array.from({ length: 120 }, (_, k) => {
        const first = dice.int(60);
        return { bytes: 16 * (1 + dice.int(200)), entry: dice.int(3), first, last: first + dice.int(8), what: k };
      });
      const slots = shareSlots(lives);
      for (const slot of slots) {
        const mine = slot.holds.map((k) => lives[k] as Life<number>);
        expect(Math.max(...mine.map((l) => l.bytes))).toBe(slot.bytes);
        for (const [i, a] of mine.entries()) for (const b of mine.slice(i + 1)) expect(a.entry !== b.entry || a.last < b.first || b.last < a.first, `seed ${seed}: ${a.what} and ${b.what}`).toBe(true);
      }
      expect(slots.flatMap((s) => s.holds).toSorted((a, b) => a - b)).toEqual(lives.map((l) => l.what));
      const peak = Math.max(...[0, 1, 2].flatMap((entry) => Array.from({ length: 70 }, (_, at) => lives.reduce((n, l) => n + (l.entry === entry && l.first <= at && at <= l.last ? l.bytes : 0), 0))));
      expect(slots.reduce((n, s) => n + s.bytes, 0)).toBeLessThanOrEqual(1.5 * peak);
    }
  });
});
