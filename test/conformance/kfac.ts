/** `npm run conformance:kfac -- DIR [NAME…]`: fixtures against the project, on the adapter the cascade (or KFACC_ADAPTER) gives. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openDevice } from "../../runtime/adapter.node.js";
import { readFixture } from "./fixture.js";
import { type Row, spellRow } from "./report.js";
import { runFixture } from "./run.js";

const words = process.argv.slice(2).filter((a) => a !== "--trace");
const gpu = words.includes("--target");
if (gpu && words.splice(words.indexOf("--target"), 2)[1] !== "gpu") throw new Error("--target gpu");
const [folder, ...named] = words;
if (!folder || !existsSync(folder)) {
  console.error("usage: npm run conformance:kfac -- DIR [NAME…] [--trace] [--target gpu]   (DIR holds one folder per fixture; --trace: stacks of errors; --target gpu: kernels shaped for GPUs, on whatever device; a GPU takes them anyway)");
  process.exit(2);
}
const all = readdirSync(folder).filter((n) => existsSync(join(folder, n, "meta.json"))).sort();
const names = named.length > 0 ? named : all;
const required = JSON.parse(readFileSync(new URL("./required.json", import.meta.url), "utf8")) as { families: string[]; fixtures: string[] };
const opened = await openDevice();
console.log(`adapter: ${opened.kind} (${opened.name})`);
const count = { passed: 0, failed: 0, skipped: 0 };
let bad = false;
try {
  for (const name of names) {
    let rows: Row[];
    try {
      rows = await runFixture(opened.device, { ...readFixture(join(folder, name)), ...(gpu || opened.kind === "gpu" ? { target: "gpu" as const } : {}) });
    } catch (e) {
      const why = e instanceof Error ? e.message : String(e);
      const mustRun = named.length > 0 || required.fixtures.includes(name);
      rows = [{ fixture: name, family: "all", verdict: mustRun ? "failed" : "skipped", tensors: 0, worst: "", error: 0, allowed: 0, why }];
      if (process.argv.includes("--trace")) console.error(e);
    }
    for (const r of rows) {
      count[r.verdict]++;
      const missing = r.verdict === "skipped" && required.fixtures.includes(name) && required.families.includes(r.family);
      if (r.verdict === "failed" || missing) bad = true;
      console.log(spellRow(missing ? { ...r, why: "required, but nothing was compared" } : r));
    }
  }
} finally {
  await opened.close();
}
console.log(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`);
process.exitCode = bad ? 1 : 0;
