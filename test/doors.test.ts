import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import os from "node:os";
import { dirname, join, resolve } from "node:path";
import { afterEach, expect, test } from "vitest";
import { checkDoors } from "./support/doors.js";

const PROJECT = resolve(import.meta.dirname, "..");
const trees: string[] = [];
afterEach(() => {
  for (const tree of trees.splice(0)) rmSync(tree, { recursive: true });
});

/** A small tree laid out like the project, with the project's packages. */
const tree = (files: Readonly<Record<string, string>>): string => {
  const root = mkdtempSync(join(os.tmpdir(), "kfacc-doors-"));
  trees.push(root);
  cpSync(join(PROJECT, "package.json"), join(root, "package.json"));
  symlinkSync(join(PROJECT, "node_modules"), join(root, "node_modules"));
  for (const [file, text] of Object.entries({ ...ALLOWED, ...files })) {
    mkdirSync(dirname(join(root, file)), { recursive: true });
    writeFileSync(join(root, file), text);
  }
  return root;
};

/** Every kind of import that is allowed, so that a rule that refuses too much is seen. */
const ALLOWED = {
  "ir/type.ts": "export interface Type { readonly shape: readonly number[] }\n",
  "ir/grammar.ts": 'import { createToken } from "chevrotain";\nexport const token = createToken;\n',
  "runtime/artifact.ts": "export const VERSION = 1;\nexport interface Plan { readonly version: number }\n",
  "runtime/adapter.node.ts":
    'import os from "node:os";\nexport const open = async () => [await import("webgpu"), os.tmpdir(), process.env["KFACC_ADAPTER"]];\n',
  "runtime/index.ts":
    'import type { Plan } from "./artifact.js";\nexport const open = async (_: Plan) => (await import("./adapter.node.js")).open();\n',
  "codegen/kernel.ts":
    'import type { Type } from "../ir/type.js";\nimport { VERSION } from "../runtime/artifact.js";\nexport const kernel = (_: Type) => VERSION;\n',
  "src/import/onnx.ts": 'import onnxProto from "onnx-proto";\nexport const decode = onnxProto;\n',
  "src/index.ts":
    'import { readFileSync } from "node:fs";\nimport { unzip } from "fflate";\nimport { kernel } from "../codegen/kernel.js";\nexport const all = [readFileSync, unzip, kernel];\n',
  "src/cli.ts": 'import { all } from "./index.js";\nexport const debug = [all, process.env["DEBUG"]];\n',
  "examples/mlp/main.ts": 'import { all } from "../../src/index.js";\nexport const example = all;\n',
};

test("imports along the doors are allowed", async () => {
  expect(await checkDoors(tree({}))).toEqual([]);
});

test.each([
  ["ir-imports-nothing", "ir/op.ts", 'import type { Plan } from "../runtime/artifact.js";\nexport type Op = Plan;\n'],
  ["ir-imports-nothing", "ir/op.ts", 'import { readFileSync } from "node:fs";\nexport const op = readFileSync;\n'],
  ["grammar-imports-chevrotain-only", "ir/grammar.ts", 'import { unzip } from "fflate";\nexport const token = unzip;\n'],
  ["runtime-imports-nothing", "runtime/device.ts", 'import type { Type } from "../ir/type.js";\nexport type Device = Type;\n'],
  ["runtime-imports-nothing", "runtime/device.ts", 'import { join } from "node:path";\nexport const device = join;\n'],
  ["node-runtime-imports-node-and-dawn-only", "runtime/save.node.ts", 'import { unzip } from "fflate";\nexport const save = unzip;\n'],
  [
    "browser-runtime-loads-node-files-late",
    "runtime/device.ts",
    'import { open } from "./adapter.node.js";\nexport const device = open;\n',
  ],
  [
    "codegen-imports-ir-and-the-artifact",
    "codegen/plan.ts",
    'import type { open } from "../runtime/index.js";\nexport type Plan = typeof open;\n',
  ],
  [
    "codegen-imports-ir-and-the-artifact",
    "codegen/plan.ts",
    'import type { all } from "../src/index.js";\nexport type Plan = typeof all;\n',
  ],
  [
    "examples-use-what-is-published",
    "examples/mlp/main.ts",
    'import { kernel } from "../../codegen/kernel.js";\nexport const example = kernel;\n',
  ],
  [
    "nothing-imports-tests-or-examples",
    "src/train.ts",
    'import type { example } from "../examples/mlp/main.js";\nexport type Example = typeof example;\n',
  ],
  ["onnx-proto-in-import-only", "src/train.ts", 'import type { Reader } from "protobufjs";\nexport type R = Reader;\n'],
  ["chevrotain-in-the-grammar-only", "src/train.ts", 'import type { IToken } from "chevrotain";\nexport type T = IToken;\n'],
  ["webgpu-in-the-adapter-only", "runtime/other.node.ts", 'export const open = () => import("webgpu");\n'],
  ["no-development-packages", "src/train.ts", 'import fc from "fast-check";\nexport const check = fc;\n'],
  ["every-import-resolves", "src/train.ts", 'import type { Gone } from "./gone.js";\nexport type G = Gone;\n'],
  ["environment", "src/train.ts", 'export const home = process.env["HOME"];\n'],
  ["environment", "runtime/other.node.ts", 'import { env } from "node:process";\nexport const home = env["HOME"];\n'],
])("%s is broken by %s: %s", async (rule, file, text) => {
  expect(await checkDoors(tree({ [file]: text }))).toContainEqual(expect.stringMatching(`^${rule}: ${file}`));
});

test("two files that import each other are refused, even if one of the imports is of a type", async () => {
  const found = await checkDoors(
    tree({
      "ir/a.ts": 'import type { B } from "./b.js";\nexport interface A { readonly b: B }\n',
      "ir/b.ts": 'import type { A } from "./a.js";\nexport interface B { readonly a: A }\n',
    }),
  );
  expect(found).toContain("no-cycles: ir/a.ts → ir/b.ts → ir/a.ts");
});
