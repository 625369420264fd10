import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync, unlinkSync } from "node:fs";
import os from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, describe, expect, test } from "vitest";
import { type AdapterKind, listAdapters, nullDevice, openDevice } from "../../runtime/adapter.node.js";
import { adopt } from "../../runtime/device.js";
import { readTar } from "../../runtime/swiftshader.node.js";

const folder = mkdtempSync(join(os.tmpdir(), "kfacc-adapter-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const reports = await listAdapters();
const software = reports.filter((r) => r.kind !== "gpu" && r.refusal === undefined).map((r) => r.kind);

/** A process of its own: exit codes and environment variables are what is tested. */
const inProcess = async (script: string, environment: Record<string, string>) => {
  const source = `import { openDevice, listAdapters } from ${JSON.stringify(join(import.meta.dirname, "../../runtime/adapter.node.ts"))};\n${script}`;
  const options = { env: { ...process.env, ...environment }, timeout: 50_000 };
  return promisify(execFile)(process.execPath, ["--import", "tsx", "--input-type=module", "--eval", source], options);
};

/** A shader busy for some ten milliseconds. */
const BUSY = `
  const buffer = device.createBuffer({ size: 4096, usage: 128 });
  const module = device.createShaderModule({ code: \`@group(0) @binding(0) var<storage, read_write> b: array<f32>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
      for (var i = 0u; i < 20000u; i++) { b[id.x] = fma(b[id.x], 0.5, 1.0); } }\` });
  const pipeline = device.createComputePipeline({ layout: "auto", compute: { module } });
  const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries: [{ binding: 0, resource: { buffer } }] });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline); pass.setBindGroup(0, group); pass.dispatchWorkgroups(16); pass.end();
  device.queue.submit([encoder.finish()]);`;

test("there is at least one way to a device, and exactly one is used", () => {
  expect(reports.filter((r) => r.used)).toHaveLength(1);
  expect(reports.map((r) => r.kind)).toEqual(["gpu", "llvmpipe", "swiftshader"]);
  for (const r of reports) expect([r.kind, r.refusal === undefined]).toEqual([r.kind, r.limits !== undefined]);
});

test("the device opened by default is the one listed as used", async () => {
  const opened = await openDevice();
  expect(opened.kind).toBe(reports.find((r) => r.used)?.kind);
  await opened.close();
});

describe.each(software)("%s", (adapter) => {
  test("opens and closes again and again, with more than WebGPU's default limits", async () => {
    for (let i = 0; i < 5; i++) {
      const opened = await openDevice({ adapter });
      expect(opened.kind).toBe(adapter);
      expect(opened.limits.storageBuffers).toBeGreaterThan(8);
      expect(opened.limits.invocations).toBeGreaterThanOrEqual(256);
      expect(opened.isGone()).toBe(false);
      await opened.close();
      await opened.close();
      expect(opened.isGone()).toBe(true);
      expect((await opened.lost).reason).toBe("destroyed");
    }
  });

  test("leaves the drivers' environment variables as they were", async () => {
    const before = { EGL_PLATFORM: "x11", XDG_RUNTIME_DIR: undefined, VK_ICD_FILENAMES: "/mine.json" };
    Object.assign(process.env, before);
    delete process.env["XDG_RUNTIME_DIR"];
    await (await openDevice({ adapter })).close();
    const after = Object.fromEntries(Object.keys(before).map((name) => [name, process.env[name]]));
    for (const name of Object.keys(before)) delete process.env[name];
    expect(after).toEqual(before);
  });

  test("a device that the caller made stays open when the wrapper closes", async () => {
    const owner = await openDevice({ adapter });
    const guest = adopt(owner.device);
    await guest.close();
    expect([guest.isGone(), owner.isGone()]).toEqual([true, false]);
    await owner.close();
  });

  test.each([
    ["closed", "await opened.close();"],
    ["only awaited", "await device.queue.onSubmittedWorkDone();"],
  ])("the process ends with code 0 when the device was %s after work", async (_, end) => {
    const { stdout } = await inProcess(`const opened = await openDevice(); const { device } = opened; ${BUSY} ${end} console.log("end");`, {
      KFACC_ADAPTER: adapter,
    });
    expect(stdout.trim()).toBe("end");
  });
});

test("openings at the same time do not see each other's environment variables", async () => {
  const both = await Promise.all([...software, ...software].map((adapter) => openDevice({ adapter })));
  const left = [process.env["EGL_PLATFORM"], process.env["VK_ICD_FILENAMES"]];
  for (const opened of both) await opened.close();
  expect(new Set(both.map((o) => o.device)).size).toBe(both.length);
  expect(left).toEqual([undefined, undefined]);
});

test("KFACC_ADAPTER forces a way, and a way it does not know is refused by name", async () => {
  const ask = `try { const o = await openDevice(); console.log(o.kind); await o.close(); } catch (e) { console.log(e.code, e.where); }`;
  for (const kind of ["gpu", "llvmpipe", "swiftshader"] satisfies AdapterKind[]) {
    const found = reports.find((r) => r.kind === kind)?.refusal === undefined;
    expect((await inProcess(ask, { KFACC_ADAPTER: kind })).stdout.trim()).toBe(found ? kind : `no-adapter adapter "${kind}"`);
  }
  expect((await inProcess(ask, { KFACC_ADAPTER: "cuda" })).stdout.trim()).toBe("bad-option KFACC_ADAPTER");
});

test("the error without an adapter says why each way failed and names the three ways out", async () => {
  const script = `
    Object.defineProperty(process, "platform", { value: "sunos" }); // none of the ways leads anywhere there
    try { await openDevice(); } catch (e) { console.log(JSON.stringify([e.code, e.message, e.hint])); }`;
  const [code, message, hint] = JSON.parse((await inProcess(script, { KFACC_ADAPTER: "" })).stdout) as string[];
  expect(code).toBe("no-adapter");
  expect(message).toMatch(/gpu: .*; llvmpipe: .*; swiftshader: /);
  expect(hint).toMatch(/GPU.*libgl1-mesa-dri.*@sparticuz\/chromium/);
});

describe.runIf(software.includes("swiftshader"))("unpacking SwiftShader", () => {
  const open = `const o = await openDevice(); await o.close();`;
  const unpacked = (cache: string) => readdirSync(join(cache, "kfacc"));

  test("four processes at once unpack one folder and leave nothing else", async () => {
    const cache = join(folder, "shared");
    await Promise.all([1, 2, 3, 4].map(() => inProcess(open, { KFACC_ADAPTER: "swiftshader", XDG_CACHE_HOME: cache })));
    expect(unpacked(cache)).toEqual([expect.stringMatching(/^swiftshader-\d+\.\d+\.\d+$/)]);
  });

  test("a folder that lost a file is unpacked anew", async () => {
    const cache = join(folder, "partial");
    await inProcess(open, { KFACC_ADAPTER: "swiftshader", XDG_CACHE_HOME: cache });
    const driver = join(cache, "kfacc", unpacked(cache)[0] ?? "", "libvk_swiftshader.so");
    unlinkSync(driver);
    await inProcess(open, { KFACC_ADAPTER: "swiftshader", XDG_CACHE_HOME: cache });
    expect(existsSync(driver)).toBe(true);
  });

  test("a cache that cannot be written is replaced by a private temporary folder", async () => {
    const temporary = mkdtempSync(join(folder, "tmp-"));
    await inProcess(open, { KFACC_ADAPTER: "swiftshader", XDG_CACHE_HOME: "/dev/null/cache", TMPDIR: temporary });
    expect(readdirSync(temporary)).toContain(`kfacc-${os.userInfo().uid}`);
  });
});

test("the tar reader refuses what is not a tar archive", () => {
  expect(() => readTar(new Uint8Array(1024).fill(120))).toThrow("not a tar archive");
});

test("the null device compiles without a driver and knows the portable limits", async () => {
  const opened = await nullDevice();
  expect([opened.kind, opened.limits.storageBuffers, opened.limits.invocations]).toEqual(["null", 8, 256]);
  await opened.close();
});
