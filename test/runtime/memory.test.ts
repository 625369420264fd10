/** What does not fit a device is said before anything is allocated. */
import { describe, expect, it } from "vitest";
import type { Plan } from "../../runtime/artifact.js";
import { requireRoom, setMemory } from "../../runtime/memory.js";
import { Program } from "../../runtime/program.js";
import { testDevice } from "../support/gpu.js";

const device = testDevice();
const planOf = (...bytes: number[]): Plan => ({ kernels: [], entries: {}, buffers: bytes.map((n, k) => ({ name: `b${k}`, kind: "state", bytes: n, dtype: "f32", shape: [n / 4] })) });

/** A device that fails the test if it is asked for a buffer. */
const limited = (most: number): GPUDevice => ({
  limits: { maxBufferSize: most, maxStorageBufferBindingSize: 2 * most },
  createBuffer: () => { throw new Error("allocated"); },
}) as unknown as GPUDevice;

describe("memory", () => {
  it("a buffer beyond the device's limit is named", async () => {
    await expect(Program.create(limited(1024), planOf(512, 2048), [])).rejects.toMatchObject({ code: "out-of-memory", message: expect.stringMatching(/"b1" takes 0\.0 MB/) as string });
  });
  it("a program beyond what is free is refused with both figures", async () => {
    const small = limited(1e9);
    setMemory(small, 5e6);
    expect(() => requireRoom(small, planOf(3e6, 1e6))).not.toThrow();
    await expect(Program.create(small, planOf(3e6, 4e6), [])).rejects.toMatchObject({ code: "out-of-memory", message: "the program's 2 buffers take 7.0 MB, and 5.0 MB are free" });
  });
  it("a software adapter's memory is the machine's", () => {
    expect(() => requireRoom(device().device, planOf(...Array.from({ length: 100_000 }, () => 2 ** 26)))).toThrow(/buffers take 6710886\.4 MB/);
  });
});
