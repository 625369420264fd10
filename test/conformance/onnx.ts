/** `npm run conformance:onnx -- DIR [NAME…]`: the ONNX standard's own tests on the adapter, forward only; counted by family and by op. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openDevice } from "../../runtime/adapter.node.js";
import { type Outcome, runCase } from "./onnx-case.js";

interface Test {
  readonly path: string;
  readonly family: string;
  readonly op: string;
  readonly onnxruntime_node_1_30_cpu_passes?: boolean;
}

const [folder, ...named] = process.argv.slice(2);
const index = folder && join(folder, "index.json");
if (!folder || !index || !existsSync(index)) {
  console.error("usage: npm run conformance:onnx -- DIR [NAME…]   (DIR holds index.json and SUITE/TEST folders; NAME: part of a test's path, or a family or op)");
  process.exit(2);
}
const all = (JSON.parse(readFileSync(index, "utf8")) as { tests: Test[] }).tests;
const tests = named.length === 0 ? all : all.filter((t) => named.some((n) => t.path.includes(n) || t.family === n || t.op === n));
if (tests.length === 0) {
  console.error(`no test of ${index} is called ${named.join(" or ")}`);
  process.exit(2);
}

const opened = await openDevice();
console.log(`adapter: ${opened.kind} (${opened.name})`);
const done: { readonly test: Test; readonly outcome: Outcome }[] = [];
try {
  for (const test of tests) {
    const outcome = await runCase(opened.device, join(folder, test.path));
    done.push({ test, outcome });
    const told = test.onnxruntime_node_1_30_cpu_passes === false ? " (not by onnxruntime either)" : "";
    const fixed = outcome.fixed.length > 0 && outcome.verdict === "passed" ? `known when compiled: ${outcome.fixed.join(", ")}` : "";
    console.log(`${outcome.verdict.padEnd(7)} ${test.family.padEnd(13)} ${test.op.padEnd(26)} ${test.path} ${outcome.why}${fixed}${outcome.verdict === "passed" ? "" : told}`.trimEnd());
  }
} finally {
  await opened.close();
}

table("family", (t) => t.family);
table("op", (t) => t.op);
for (const verdict of ["wrong", "refused"] as const) {
  const list = done.filter((d) => d.outcome.verdict === verdict);
  if (list.length > 0) console.log(`\n${verdict}: ${list.map((d) => d.test.path.replace(/^.*\//, "")).join(" ")}`);
}
const count = (verdict: Outcome["verdict"]): number => done.filter((d) => d.outcome.verdict === verdict).length;
console.log(`${count("passed")} passed, ${count("wrong")} wrong, ${count("refused")} refused`);
process.exitCode = count("wrong") > 0 ? 1 : 0;

/** Counts by a key; the last column is the share of the tests that onnxruntime passes. */
function table(title: string, key: (t: Test) => string): void {
  console.log(`\n${title.padEnd(28)} passed  wrong refused   of onnxruntime's`);
  for (const name of [...new Set(done.map((d) => key(d.test)))].sort()) {
    const mine = done.filter((d) => key(d.test) === name);
    const of = (verdict: Outcome["verdict"], list = mine): number => list.filter((d) => d.outcome.verdict === verdict).length;
    const theirs = mine.filter((d) => d.test.onnxruntime_node_1_30_cpu_passes !== false);
    const share = theirs.length === 0 ? "-" : `${of("passed", theirs)}/${theirs.length} = ${((100 * of("passed", theirs)) / theirs.length).toFixed(0)} %`;
    console.log(`${name.padEnd(28)} ${String(of("passed")).padStart(6)} ${String(of("wrong")).padStart(6)} ${String(of("refused")).padStart(7)}   ${share}`);
  }
}
