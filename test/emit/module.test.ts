/** The folder that `compile` writes: it loads, trains as the command line does, typechecks, and stands alone. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { withUses } from "../../codegen/emit/usage.js";
import type { Plan } from "../../runtime/artifact.js";
import { decode } from "../../runtime/safetensors.js";
import { COMPILE_DEFAULTS, compile } from "../../src/compile.js";
import { writeModule } from "../../src/emit.js";
import { openModel } from "../../src/model.js";
import { build, built, digitsCsv, model } from "../cli/support.js";

const folder = mkdtempSync(join(tmpdir(), "kfacc-emit-"));
const at = (...path: string[]): string => join(folder, ...path);
const made = async (batches = [16]) => compile((await openModel(model("mlp_tanh_ce"))).forward, { ...COMPILE_DEFAULTS, loss: "softmax-ce", batches });

/** Relative path → bytes, of all files below. */
const filesOf = (root: string): ReadonlyMap<string, string> =>
  new Map(readdirSync(root, { recursive: true, withFileTypes: true }).filter((e) => e.isFile()).map((e) => join(e.parentPath, e.name)).sort().map((f) => [f.slice(root.length + 1), readFileSync(f, "base64")]));

beforeAll(build);
afterAll(() => rmSync(folder, { recursive: true }));

describe("a generated module", () => {
  it("is the same, byte for byte, each time, and leaves no kernel of an earlier program behind", async () => {
    await writeModule(await made(), at("one"), { standalone: false });
    await writeModule(await made(), at("other"), { standalone: false });
    expect(filesOf(at("other"))).toEqual(filesOf(at("one")));
    const smaller = compile((await openModel(model("linreg_mse"))).forward, { ...COMPILE_DEFAULTS, loss: "mse", batches: [4] });
    await writeModule(smaller, at("other"), { standalone: false });
    const plan = JSON.parse(readFileSync(at("other", "plan.json"), "utf8")) as { kernelFiles: string[]; plan: { kernels: { name: string }[] } };
    expect(readdirSync(at("other", "kernels")).map((f) => `kernels/${f}`).sort()).toEqual([...plan.kernelFiles].sort());
    plan.kernelFiles.forEach((file, k) => expect(file).toMatch(new RegExp(`^kernels/\\d+_${plan.plan.kernels[k]?.name}\\.wgsl$`)));
  });

  it("imports nothing but kfacc/runtime, and says in its head what it is", async () => {
    const source = readFileSync(at("one", "index.js"), "utf8");
    expect(source.match(/from "[^"]+"/g)).toEqual(['from "kfacc/runtime"']);
    expect(source).toMatch(/^\/\*\n \* mlp_tanh_ce: .*\n[\s\S]*inputs {3}input f32\[N, 64\]\n[\s\S]*fc\.0\.weight {2}dense {2}fc\.0\.bias {2}1 {2}65 {2}32\n[\s\S]*\*\/\nimport/);
  });

  it("says in the head of each kernel what it computes and which tensors its bindings hold", async () => {
    const { plan: { kernels, entries }, kernelFiles } = JSON.parse(readFileSync(at("one", "plan.json"), "utf8")) as { plan: Plan; kernelFiles: string[] };
    const heads = kernelFiles.map((f) => readFileSync(at("one", f), "utf8").split(/^(?!\/\/)/m, 1)[0] as string);
    expect(heads[0]).toMatch(/^\/\/ contract → add → tanh \[16, 32\]: result from out\[i0 16, i1 32\] = Σ\[k2 64\] left · right\n/);
    expect(heads[0]).toContain("\n// front@16: left = input [16, 64], right = fc.0.weight [32, 64], data = fc.0.bias [32], result = ");
    expect(heads.map((h) => h.startsWith("// "))).toEqual([...kernels, ...kernels.flatMap((k) => k.variants ?? [])].map(() => true));
    // every entry that dispatches a kernel stands in its head
    for (const [name, { steps }] of Object.entries(entries))
      for (const step of steps)
        for (const source of "kernel" in step ? [step.kernel, ...(kernels[step.kernel]?.variants ?? []).map((v) => v.source)] : [])
          expect(heads[source]).toMatch(new RegExp(`^// (${name}: |also in .*\\b${name}(,|$))`, "m"));
  });

  it("is not disturbed by a name with line breaks", () => {
    const buffers = [{ name: "w\u0085fn x() {}\n\u2028", kind: "state", bytes: 16, dtype: "f32", shape: [4] }] as const;
    const source = "// nothing [4]\n@group(0) @binding(0) var<storage, read_write> data: array<f32>;\n@compute @workgroup_size(1)\nfn main() {}\n";
    const plan: Plan = { kernels: [{ name: "map", bindings: ["read_write"] }], buffers, entries: { back: { steps: [{ kernel: 0, buffers: [0], values: [buffers[0].name], workgroups: [1, 1, 1] }], inputs: {}, outputs: {} } } };
    const lines = withUses(source, 0, plan).split(/[\n\v\f\r\u0085\u2028\u2029]/);
    expect(lines[1]).toBe("// back: data = w fn x() {}   [4]");
    expect(lines.toSpliced(1, 1).join("\n")).toBe(source);
  });

  it("trains to the same bits as the command line", async () => {
    writeFileSync(at("data.csv"), digitsCsv(48));
    const flags = ["--loss", "softmax-ce", "--data", "data.csv", "--batch", "16", "--epochs", "2", "--val", "0", "--no-shuffle", "--lr-schedule", "constant", "--seed", "9"];
    expect((await built(["train", model("mlp_tanh_ce"), ...flags, "--out", "cli.safetensors"], { cwd: folder })).code).toBe(0);
    expect((await built(["compile", model("mlp_tanh_ce"), "--loss", "softmax-ce", "--batch", "16", "-o", "module"], { cwd: folder })).code).toBe(0);
    // the folder stands alone: nothing is installed beside it, so a device is brought along
    expect(existsSync(at("module", "runtime", "index.js"))).toBe(true);
    writeFileSync(at("use.mjs"), `
      import { readFileSync, writeFileSync } from "node:fs";
      import { load } from "./module/index.js";
      import { encodeSafetensors } from "./module/runtime/index.js";
      import { openDevice } from ${JSON.stringify(pathToFileURL(resolve("dist/runtime/adapter.node.js")).href)};
      const open = await openDevice();
      const trainer = await load({ device: open.device, seed: 9 });
      const rows = readFileSync("data.csv", "utf8").split("\\n").map((l) => l.split(",").map(Number));
      for (let epoch = 0; epoch < 2; epoch++)
        for (let from = 0; from < rows.length; from += 16) {
          const part = rows.slice(from, from + 16);
          trainer.step({
            input: { shape: [part.length, 64], data: Float32Array.from(part.flatMap((r) => r.slice(0, 64))) },
            target: { shape: [part.length], data: Int32Array.from(part, (r) => r[64]) },
          });
        }
      await trainer.finish();
      const weights = await trainer.weights();
      writeFileSync("module.safetensors", encodeSafetensors(Object.fromEntries(Object.entries(weights).map(([n, t]) => [n, { dtype: "F32", ...t }]))));
      await trainer.dispose();
      await open.close();`);
    execFileSync(process.execPath, ["use.mjs"], { cwd: folder, stdio: "pipe" });
    const [cli, own] = ["cli", "module"].map((name) => decode(readFileSync(at(`${name}.safetensors`))).tensors);
    expect(Object.keys(own ?? {}).length).toBe(6);
    expect(own).toEqual(cli);
  });

  it("that stands alone loads nothing but its own files until a device is asked for, so that a browser takes it", async () => {
    await writeModule(await made(), at("alone"), { standalone: true });
    const seen = new Set<string>();
    const walk = (file: string): void => {
      if (seen.has(file)) return;
      seen.add(file);
      const text = readFileSync(file, "utf8").replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, "");
      for (const [, specifier] of text.matchAll(/^\s*(?:import|export)\s[^;]*?from\s*"([^"]+)"/gm)) {
        expect(specifier, file).toMatch(/^\.{1,2}\//);
        expect(specifier, file).not.toMatch(/\.node\.js$/);
        walk(resolve(dirname(file), specifier as string));
      }
      expect(text.match(/\bprocess\.env\b|\bBuffer\.|\brequire\(/), file).toBeNull();
    };
    walk(at("alone", "index.js"));
    expect(seen.size).toBeGreaterThan(8);
  });

  it("without Dawn says what to install", async () => {
    writeFileSync(at("load.mjs"), `import { load } from "./alone/index.js"; await load().catch((e) => { console.log(e.code, e.hint); });`);
    const out = execFileSync(process.execPath, ["load.mjs"], { cwd: folder, encoding: "utf8" });
    expect(out).toMatch(/^no-adapter run npm install in the module's folder, or pass a device/);
  });

  it("has types with the model's own names and shapes", async () => {
    await writeModule(await made([16, 4]), at("typed"), { standalone: true });
    writeFileSync(at("typed.mts"), `
      import { load, type Batch } from "./typed/index.js";
      const n = 3;
      const input = { shape: [n, 64] as const, data: new Float32Array(n * 64) };
      const target = { shape: [n] as const, data: new Int32Array(n) };
      const trainer = await load({ run: { lr: 0.1 } });
      const batch: Batch = { input, target };
      const loss: number = await trainer.step(batch).loss;
      trainer.step({ input: { shape: [n, 64], data: new Float32Array(n * 64) }, target });
      const weight: Float32Array | Int32Array = (await trainer.weights())["fc.0.weight"].data;
      const out: Float32Array = (await trainer.predict({ input })).output.data;
      // @ts-expect-error another name
      trainer.step({ x: input, target });
      // @ts-expect-error another shape
      trainer.step({ input: { shape: [n, 65], data: new Float32Array(n * 65) }, target });
      // @ts-expect-error class numbers are integers
      trainer.step({ input, target: { shape: [n], data: new Float32Array(n) } });
      // @ts-expect-error no such knob
      trainer.run.learningRate = 1;
      // @ts-expect-error no such weight
      (await trainer.weights())["fc.9.weight"];
      export { loss, weight, out };`);
    writeFileSync(at("tsconfig.json"), JSON.stringify({ compilerOptions: { strict: true, noEmit: true, target: "es2022", lib: ["es2023", "dom"], module: "nodenext", types: [] }, files: ["typed.mts"] }));
    const result = (() => {
      try {
        return execFileSync(process.execPath, [resolve("node_modules/typescript/bin/tsc"), "-p", at("tsconfig.json")], { encoding: "utf8" });
      } catch (e) {
        return String((e as { stdout?: string }).stdout);
      }
    })();
    expect(result).toBe("");
  });
});
