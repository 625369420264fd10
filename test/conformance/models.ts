/** `npm run conformance:models -- DIR [NAME…]`: models that people have made, imported, compared, stepped and differentiated on the adapter. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openDevice } from "../../runtime/adapter.node.js";
import { type Entry, type Findings, runModel } from "./model-case.js";

const [folder, ...named] = process.argv.slice(2).filter((a) => !a.startsWith("--"));
const index = folder && join(folder, "index.json");
if (!folder || !index || !existsSync(index)) {
  console.error("usage: npm run conformance:models -- DIR [NAME…] [--trace]   (DIR holds index.json and a folder per model; NAME: part of a model's name)");
  process.exit(2);
}
const all = (JSON.parse(readFileSync(index, "utf8")) as { models: Entry[] }).models;
const models = named.length === 0 ? all : all.filter((m) => named.some((n) => m.name.includes(n)));
if (models.length === 0) {
  console.error(`no model of ${index} is called ${named.join(" or ")}`);
  process.exit(2);
}

/** Ops that no version of this importer has claimed to train. */
const NOT_YET = ["LSTM", "GRU", "RNN", "If", "Loop", "Scan"];
const expectable = (m: Entry): boolean => !m.training_relevant || NOT_YET.some((op) => m.ops[op]);
/** The software adapter's bindings are small: what does not fit there is said, and runs on a larger device. */
const tooLarge = (f: Findings): boolean => f.verdict === "refused" && f.why.some((w) => w.startsWith("out-of-memory"));

/** A refusal is explained if it names an op of the model that is recurrent, control flow or listed in why_not. */
function explained(m: Entry, why: string): boolean {
  const op = /"([A-Za-z0-9_.]+)"/.exec(why)?.[1] ?? "";
  return Object.keys(m.ops).some((o) => (o === op || why.includes(`"${o}"`) || why.includes(`.${o}"`)) && (NOT_YET.includes(o) || m.why_not.some((w) => w.includes(o) || w.startsWith("ops of other domains"))))
    || NOT_YET.some((op) => m.ops[op] && why.includes(`: ${op}:`)) || m.why_not.some((w) => w.includes("no trainable") && why.includes("no trainable"));
}

const opened = await openDevice();
console.log(`adapter: ${opened.kind} (${opened.name})`);
const done: { readonly model: Entry; readonly found: Findings }[] = [];
const begun = performance.now();
try {
  for (const model of models) {
    const found = await runModel(opened.device, join(folder, model.name), model);
    done.push({ model, found });
    console.log(line(model, found));
  }
} finally {
  await opened.close();
}

console.log(`\n${"model".padEnd(62)} verdict   flops  forward shuffled recorded    loss layers orphans grad f64 grad dev  seconds`);
for (const { model, found: f } of done)
  console.log(`${model.name.padEnd(62)} ${f.verdict.padEnd(7)} ${[e(f.flops), e(f.forward), e(f.shuffled), e(f.recorded), f.loss?.toPrecision(4) ?? "-", f.layers ?? "-", f.orphans ?? "-", e(f.gradientF64), e(f.gradientDevice), total(f).toFixed(1)].map((x) => String(x).padStart(8)).join(" ")}`);
for (const verdict of ["failed", "refused"] as const) {
  const list = done.filter((d) => d.found.verdict === verdict);
  if (list.length > 0) console.log(`\n${verdict}:\n${list.map((d) => `  ${d.model.name}: ${d.found.why.join("; ")}`).join("\n")}`);
}
const unexplained = done.filter((d) => d.found.verdict === "refused" && expectable(d.model) && !explained(d.model, d.found.why.join("; ")));
if (unexplained.length > 0) console.log(`\nrefused for a reason that the index does not give: ${unexplained.map((d) => d.model.name).join(" ")}`);
const noted = done.filter((d) => d.found.notes.length > 0);
if (noted.length > 0) console.log(`\nnotes:\n${noted.map((d) => `  ${d.model.name}: ${d.found.notes.join("; ")}`).join("\n")}`);
const missed = done.filter((d) => d.found.verdict !== "passed" && !expectable(d.model) && !tooLarge(d.found));
console.log(`\n${((performance.now() - begun) / 1000).toFixed(0)} s`);
const count = (verdict: Findings["verdict"]): number => done.filter((d) => d.found.verdict === verdict).length;
console.log(`${count("passed")} passed, ${count("failed")} failed, ${count("refused")} refused`);
process.exitCode = missed.length > 0 || unexplained.length > 0 || count("failed") > 0 ? 1 : 0;

function e(x: number | undefined): string {
  return x === undefined ? "-" : x === 0 ? "0" : x.toExponential(1);
}

function total(f: Findings): number {
  return Object.values(f.seconds).reduce((a, b) => a + b, 0);
}

function line(m: Entry, f: Findings): string {
  const seconds = Object.entries(f.seconds).map(([what, s]) => `${what} ${s.toFixed(1)}`).join(", ");
  const figures = f.verdict === "refused" ? "" : ` forward ${e(f.forward)} (shuffled ${e(f.shuffled)}, recorded ${e(f.recorded)}), loss ${f.loss?.toPrecision(4) ?? "-"}, gradient ${e(f.gradientF64)} / ${e(f.gradientDevice)}`;
  return `${f.verdict.padEnd(7)} ${m.name}${figures}${f.why.length > 0 ? `: ${f.why.join("; ")}` : ""} [${seconds} s]`;
}
