/** `npm run tables`: writes the generated parts of READMEs anew, between their marks. With --check it only says whether they are current. */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { importedOps, layerKinds } from "../../src/tables.js";
import { kernelSamples } from "./kernel-samples.js";

/** Generated parts by file. */
const PARTS: Readonly<Record<string, Readonly<Record<string, () => string>>>> = {
  "README.md": { layers: layerKinds, ops: importedOps },
  "codegen/README.md": { kernels: kernelSamples },
};
export const FILES = Object.keys(PARTS);

/** The text with every generated part as the code has it. @throws if a part's marks are missing */
export function current(file: string, text: string): string {
  return Object.entries(PARTS[file] ?? {}).reduce((whole, [name, part]) => {
    const marks = new RegExp(`(<!-- generated: ${name} -->\\n)[^]*?(<!-- end -->)`);
    if (!marks.test(whole)) throw new Error(`${file} has no marks for ${name}`);
    return whole.replace(marks, (_, start: string, end: string) => `${start}${part()}\n${end}`);
  }, text);
}

const pathOf = (file: string): string => fileURLToPath(new URL(`../../${file}`, import.meta.url));
export const readme = (file = "README.md"): string => readFileSync(pathOf(file), "utf8");

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes("--check")) process.exitCode = FILES.every((file) => current(file, readme(file)) === readme(file)) ? 0 : 1;
  else for (const file of FILES) writeFileSync(pathOf(file), current(file, readme(file)));
}
