import { PassThrough } from "node:stream";
import { expect, test } from "vitest";
import { type Progress, type ProgressOptions, spellSeconds, startProgress } from "../../src/progress.js";

/** A run of 1000 examples on a stream that keeps what it is given, with a clock set by hand. */
function rig(isTTY: boolean, options: Partial<ProgressOptions> = {}): { progress: Progress; clock: { at: number }; text: () => string } {
  const chunks: string[] = [];
  const stream = Object.assign(new PassThrough(), {
    isTTY,
    columns: 120,
    rows: 40,
    cursorTo: () => true,
    clearLine: () => true,
  }) as unknown as NodeJS.WriteStream;
  stream.on("data", (chunk) => chunks.push(String(chunk)));
  const clock = { at: 0 };
  return {
    progress: startProgress({ total: 1000, label: "training", stream, now: () => clock.at, ...options }),
    clock,
    text: () => chunks.join(""),
  };
}

test("a log gets a plain line every ten seconds and one at the end, however often progress is made", () => {
  const { progress, clock, text } = rig(false);
  for (let done = 10; done <= 250; done += 10) {
    clock.at = done * 100; // 10 examples a second
    progress.update(done, 1 / done);
  }
  progress.stop();
  progress.stop();
  expect(text().split("\n")).toEqual([
    "training: 10%, 100/1000 examples, 10 examples/s, loss 0.01000, 1m30s left",
    "training: 20%, 200/1000 examples, 10 examples/s, loss 0.005000, 1m20s left",
    "training: 25%, 250/1000 examples, 10 examples/s, loss 0.004000, 1m15s left",
    "",
  ]);
});

test("a resumed run is not credited with the examples done before", () => {
  const { progress, clock, text } = rig(false, { done: 900 });
  clock.at = 10_000;
  progress.update(950);
  expect(text()).toBe("training: 95%, 950/1000 examples, 5.0 examples/s, loss –, 10s left\n");
});

test("the speed forgets a slow start", () => {
  const { progress, clock, text } = rig(false, { total: 1e6 });
  for (let second = 60; second <= 120; second++) {
    clock.at = second * 1000; // a minute of nothing, then 1000 a second
    progress.update((second - 60) * 1000, 0.5);
  }
  expect(text().trim().split("\n").at(-1)).toContain("1000 examples/s");
});

test("a terminal gets a bar with the same figures, a note above it, and its cursor back", () => {
  const { progress, clock, text } = rig(true);
  clock.at = 1000;
  progress.update(100, 0.25);
  progress.note("saved");
  progress.stop();
  expect(text()).toContain("saved\n");
  expect(text()).toMatch(/training \[.*\] 10% · 100 examples\/s · loss 0\.2500 · 9s left/);
  expect(text()).toContain("\x1b[?25h");
});

test.each([
  [0, "0s"],
  [59.4, "59s"],
  [125, "2m05s"],
  [3725, "1h02m"],
  [Infinity, "?"],
  [-3, "0s"],
])("%d seconds are spelled %s", (seconds, text) => expect(spellSeconds(seconds)).toBe(text));
