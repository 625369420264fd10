import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { withDevice } from "../support/gpu.js";
import { gflops, openYardstick } from "./yardstick.js";

test("the yardstick's text never changes: figures of different days would no longer compare", () => {
  const text = readFileSync(new URL("yardstick.wgsl", import.meta.url));
  expect(createHash("sha256").update(text).digest("hex")).toBe("4783364b69c86dceb533defdecfcd5ead2706c3b5453670d7874d9d5b2478dc2");
});

test("a round of the yardstick takes time", async () => {
  await withDevice(async (device) => {
    const yardstick = await openYardstick(device);
    const ms = await yardstick.round();
    yardstick.close();
    expect(ms).toBeGreaterThan(0);
    expect(gflops(ms)).toBeLessThan(200_000); // no device does 200 TFLOP/s in f32 without tensor cores
  });
});
