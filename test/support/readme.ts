/** `npm run tables`: writes the README's generated tables anew, between their marks. With --check it only says whether they are current. */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { importedOps, layerKinds } from "../../src/tables.js";

const FILE = fileURLToPath(new URL("../../README.md", import.meta.url));
const TABLES = { layers: layerKinds, ops: importedOps } as const;

/** The text with every generated part as the code has it. @throws if a part's marks are missing */
export function current(text: string): string {
  return Object.entries(TABLES).reduce((whole, [name, table]) => {
    const marks = new RegExp(`(<!-- generated: ${name} -->\\n)[^]*?(\\n<!-- end -->)`);
    if (!marks.test(whole)) throw new Error(`README.md has no marks for the table of ${name}`);
    return whole.replace(marks, (_, start: string, end: string) => `${start}${table()}${end}`);
  }, text);
}

export const readme = (): string => readFileSync(FILE, "utf8");

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes("--check")) process.exitCode = current(readme()) === readme() ? 0 : 1;
  else writeFileSync(FILE, current(readme()));
}
