import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { afterEach, describe, expect, it, test } from "vitest";
import { CompileError, spellError } from "../../ir/error.js";
import { print } from "../../ir/print.js";
import { openDsl } from "../../src/dsl/open.js";
import { openModel } from "../../src/model.js";

const PROJECT = resolve(import.meta.dirname, "../..");
const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

/** A folder outside the project. */
function folder(files: Readonly<Record<string, string>>): string {
  const made = realpathSync(mkdtempSync(join(os.tmpdir(), "kfacc-open-")));
  folders.push(made);
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(made, name)), { recursive: true });
    writeFileSync(join(made, name), text);
  }
  return made;
}

const NET = `
import { model } from "kfacc/dsl";
import { units } from "./sizes.js";

interface Sizes { readonly hidden: number }
const sizes: Sizes = { hidden: units };
export default model("net", (m) => {
  const x = m.input("x", [2, 3]);
  return m.output("z", m.dense(m.relu(m.dense(m.flatten(x), sizes.hidden)), 3), { loss: "softmax-ce" });
});
`;
const SIZES = "export const units: number = 5;\n";
const packageOf = (type: string | undefined): Record<string, string> =>
  type === undefined ? {} : { "package.json": JSON.stringify({ name: "user", ...(type === "" ? {} : { type }) }) };

const KINDS = [["without package.json", undefined], ["without a type", ""], ["of type module", "module"], ["of type commonjs", "commonjs"]] as const;

describe.each(KINDS)("a folder %s", (_name, type) => {
  it("holds model files that import other files", async () => {
    const opened = await openDsl(join(folder({ ...packageOf(type), "net.ts": NET, "sizes.ts": SIZES }), "net.ts"));
    expect([opened.name, opened.loss, opened.fileBatch]).toEqual(["net", "softmax-ce", undefined]);
    expect(opened.forward(4).graph.params.map((p) => p.value.type.shape)).toEqual([[5, 6], [5], [3, 5], [3]]);
  });

  // the package as npm installs it is a second copy of this one: its models are told by their brand
  it("may have the package installed", async () => {
    const installed = {
      "node_modules/kfacc/package.json": JSON.stringify({ name: "kfacc", type: "module", exports: { "./dsl": "./dsl.ts" } }),
      "node_modules/kfacc/dsl.ts": `export * from ${JSON.stringify(join(PROJECT, "src/dsl/index.ts"))};\nexport const installed = true;\n`,
    };
    const net = NET.replace("import { model }", "import { model, installed }").replace('model("net"', 'model(installed ? "copy" : "own"');
    const opened = await openDsl(join(folder({ ...packageOf(type), ...installed, "net.ts": net, "sizes.ts": SIZES }), "net.ts"));
    expect(opened.name).toBe("copy");
    expect(opened.forward(2).graph.nodes.length).toBeGreaterThan(5);
  });
});

test("JavaScript is a model file too, even where .js would be CommonJS", async () => {
  const made = folder({
    ...packageOf("commonjs"),
    "net.mjs": 'import { model } from "kfacc/dsl";\nexport default model("a", (m) => m.output("y", m.dense(m.input("x", [4]), 2)));\n',
    "net.js": 'import { model } from "kfacc/dsl";\nexport default model("b", (m) => m.output("y", m.dense(m.input("x", [4]), 2)));\n',
  });
  const [a, b] = [await openModel(join(made, "net.mjs")), await openModel(join(made, "net.js"))];
  expect([a.name, b.name]).toEqual(["a", "b"]);
  expect(print({ ...b.forward(3).graph, name: "a" })).toBe(print(a.forward(3).graph));
});

test("a file that has changed is read again", async () => {
  const made = folder({ ...packageOf("module"), "net.ts": NET, "sizes.ts": SIZES });
  const units = async () => (await openDsl(join(made, "net.ts"))).forward(1).graph.params[1]?.value.type.shape;
  expect(await units()).toEqual([5]);
  writeFileSync(join(made, "sizes.ts"), SIZES.replace("5", "7"));
  expect(await units()).toEqual([7]);
});

describe("what is wrong with a file is said with its name", () => {
  const refusal = async (text: string, type: string | undefined = "module"): Promise<string> => {
    const made = folder({ ...packageOf(type), "net.ts": text });
    try {
      await openDsl(join(made, "net.ts"));
    } catch (e) {
      if (e instanceof CompileError) return spellError(e).replaceAll(made, "…");
      throw e;
    }
    return "accepted";
  };
  const head = 'import { model } from "kfacc/dsl";\n';

  it.each([
    ["a layer that does not fit", `${head}export default model("net", (m) => {\n  const x = m.input("x", [4]);\n  return m.output("y", m.conv2d(x, 3, 3));\n});\n`,
      'shape-mismatch: takes [channels, extent, extent] of each example, got [4]\n  at layer "conv1" of model "net", file "…/net.ts"'],
    ["an exception", "interface A { readonly b: number }\n\nconst a = undefined as unknown as A;\nexport default a.b;\n",
      "bad-model: it throws TypeError: Cannot read properties of undefined (reading 'b')\n  at file \"…/net.ts\"\n  hint: a model file only describes a model; run it alone to see where it fails"],
    ["syntax", `${head}const x = ;\n`, 'syntax: Unexpected ";"\n  at file "…/net.ts", line 2\n  hint: the file is TypeScript or JavaScript'],
    ["another default export", "export default 3;\n",
      'bad-model: its default export is no model\n  at file "…/net.ts"\n  hint: end it with: export default model("name", (m) => { … })'],
    ["the model under another name", `${head}export const net = model("n", (m) => m.output("y", m.input("x", [1])));\n`,
      'bad-model: it exports the model as "net", not as default\n  at file "…/net.ts"\n  hint: end it with: export default model("name", (m) => { … })'],
  ])("%s", async (_name, text, message) => {
    expect(await refusal(text)).toBe(message);
  });

  it("the same errors, without lines, where files are CommonJS", async () => {
    expect(await refusal(`${head}export default model("net", (m) => m.output("y", m.relu(m.dense(m.input("x", [4]), -1))));\n`, "commonjs"))
      .toBe('bad-option: units must be a whole number ≥ 1, got -1\n  at layer "dense1" of model "net", file "…/net.ts"');
    expect(await refusal("export const net = 3;\n", undefined)).toMatch(/^bad-model: its default export is no model\n/);
  });

  it("an import that is not found", async () => {
    expect(await refusal('import { a } from "a-package-nobody-has";\nexport default a;\n')).toMatch(/^bad-model: Cannot find package 'a-package-nobody-has'.*\n {2}at file "…\/net\.ts"\n {2}hint: install the package/);
  });

  // in a process of its own: this test runner rewrites the stacks from which lines are read
  it("and its line", () => {
    const made = folder({
      ...packageOf("module"),
      "net.ts": `${head}\n\nexport default model("net", (m) => {\n  const x = m.input("x", [4]);\n  return m.output("y", m.conv2d(x, 3, 3));\n});\n`,
      "throws.ts": "interface A { readonly b: number }\n\nconst a = undefined as unknown as A;\nexport default a.b;\n",
      "main.mts": `import { openDsl } from ${JSON.stringify(join(PROJECT, "src/dsl/open.ts"))};
        for (const file of ["net.ts", "throws.ts"]) await openDsl(file).catch((e) => console.log(e.where));\n`,
    });
    const loader = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;
    const printed = execFileSync(process.execPath, ["--import", loader, "main.mts"], { cwd: made, encoding: "utf8" });
    expect(printed).toBe('layer "conv1" of model "net", file "net.ts", line 6\nfile "throws.ts", line 4\n');
  });

  it("no file", async () => {
    await expect(openDsl("nowhere/net.ts")).rejects.toMatchObject({ code: "missing-data", where: 'file "nowhere/net.ts"' });
  });
});
