/** The published package: packed, installed into an empty folder, used from there. */
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "kfacc-pack-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const run = (command: string, args: readonly string[], cwd: string): string =>
  execFileSync(command, [...args], { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ONNXRUNTIME_NODE_INSTALL: "skip" } });

test("npm pack, npm install in an empty folder, kfacc compile: the module is there", { timeout: 240_000 }, () => {
  run("npm", ["pack", "--pack-destination", folder], root);
  const tarball = readdirSync(folder).find((f) => f.endsWith(".tgz")) as string;
  writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "user", private: true, type: "module" }));
  run("npm", ["install", "--no-audit", "--no-fund", "--prefer-offline", `./${tarball}`], folder);
  expect(existsSync(join(folder, "node_modules", "@sparticuz"))).toBe(false); // an optional peer, not forced on users
  copyFileSync(join(root, "examples/mnist-lenet/model.onnx"), join(folder, "model.onnx"));
  const text = run("npx", ["kfacc", "compile", "model.onnx", "--loss", "softmax-ce", "-o", "build"], folder);
  expect(text).toContain("44426 parameters in 5 layers");
  expect(readdirSync(join(folder, "build")).sort()).toEqual(expect.arrayContaining(["index.d.ts", "index.js", "kernels", "plan.json", "weights.safetensors"]));
  // kfacc resolves from here, so the module imports it instead of carrying the runtime
  expect(existsSync(join(folder, "build", "runtime"))).toBe(false);
});
