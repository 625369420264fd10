/** `verify`: every layer against exact float64 quantities; see src/verify/verify.ts. */
import { CompileError } from "../../ir/error.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { openDevice } from "../../runtime/adapter.node.js";
import { RuntimeFault } from "../../runtime/artifact.js";
import { batchAt, epochOrder } from "../../runtime/batches.js";
import type { OpenDevice } from "../../runtime/device.js";
import { type CompileOptions, type ForwardModel, prepareFor, signature } from "../compile.js";
import type { OpenModel } from "../model.js";
import type { Settings } from "../options.js";
import type { Check, LayerReport, VerifyReport } from "../verify/report.js";
import { verifyModel } from "../verify/verify.js";
import type { Io } from "./io.js";
import { openData } from "./program.js";
import { batchesOf, compileOptions, openFor } from "./setup.js";
import { shaped } from "./shape.js";
import { table } from "./table.js";

/** Enough examples to tell them apart, few enough for float64. */
const EXAMPLES = 4;

/** @returns the exit code: 1 where a check failed. */
export async function verifyCommand(path: string, s: Settings, io: Io): Promise<number> {
  // what is drawn anew in every step has no exact value to compare with
  const model = await openFor(path, s, "train", false);
  const given = { ...(await shaped(compileOptions(s), s, io, true)).options, optimizer: "kfac" as const };
  const { options, batch, source } = lossAndBatch(model, given, s, io);
  const data = s.has("data") ? await dataOf(model, source, options, batch, s, io) : undefined;
  const device = await tryDevice();
  try {
    const report = await verifyModel(model.forward, {
      compile: options, batch, seed: s.number("seed"), ...(data ?? {}),
      ...(typeof device === "string" ? { withoutDevice: device } : { device }),
    });
    const whole = { ...report, notes: [...model.notes, ...report.notes] };
    if (io.json) io.out(JSON.stringify({ ...whole, partly: partlyChecked(whole) }, undefined, 2));
    else print(whole, io);
    return report.passed ? 0 : 1;
  } finally {
    if (typeof device !== "string") await device.close();
  }
}

/** Verification needs no loss of the user's: half-sse stands in where none is known, and that is said. */
function lossAndBatch(model: OpenModel, given: CompileOptions, s: Settings, io: Io): { readonly options: CompileOptions; readonly batch: number; readonly source: ForwardModel } {
  const attempt = (options: CompileOptions, batch: number) => {
    const source = model.forward(batch);
    prepareFor(model.forward, source, batch, { ...options, batches: [batch] });
    return { options, batch, source };
  };
  const withLoss = (batch: number) => {
    try {
      return attempt(given, batch);
    } catch (e) {
      if (!(e instanceof CompileError && e.code === "loss-unknown") || given.loss || given.losses) throw e;
      io.note("note: the loss is not known: verified with half-sse; --loss names another");
      return attempt({ ...given, loss: "half-sse" }, batch);
    }
  };
  if (s.has("batch")) return withLoss(batchesOf(s)[0] as number);
  try {
    return withLoss(EXAMPLES);
  } catch (e) {
    if (!(e instanceof CompileError && e.code === "examples-lost") || model.fileBatch === undefined || model.fileBatch === EXAMPLES) throw e;
    io.note(`note: the model cannot be made for ${EXAMPLES} examples: verified with the ${model.fileBatch} of the file`);
    return withLoss(model.fileBatch);
  }
}

/** The first examples of a data set. */
async function dataOf(model: OpenModel, source: ForwardModel, options: CompileOptions, batch: number, s: Settings, io: Io) {
  const prepared = prepareFor(model.forward, source, batch, { ...options, batches: [batch] });
  const data = await openData(signature(prepared), s, io, { labels: true, split: "train" });
  if (data.count < batch) throw new CompileError("bad-data", `it holds ${data.count} examples, fewer than the batch of ${batch}`, `--data "${s.text("data")}"`, `--batch ${data.count}`);
  const off = source.graph.inputs.find((i) => i.examples !== undefined && i.examples !== 0);
  if (off) throw new CompileError("bad-data", `input "${off.value.name}" carries examples along axis ${off.examples}`, "--data", "leave --data out: random inputs are used");
  const first = batchAt(data, epochOrder(data.count, 0, 0, false), 0, batch);
  const array = (a: { readonly shape: readonly number[]; readonly data: Float32Array | Int32Array }): NdArray => ndarray(a.data instanceof Int32Array ? "i32" : "f32", a.shape, Float64Array.from(a.data));
  const targets = prepared.heads.map((h) => [h.target, first.targets?.[h.output] ?? first.target] as const);
  return {
    inputs: Object.fromEntries(Object.entries(first.inputs).map(([name, a]) => [name, array(a)])),
    targets: Object.fromEntries(targets.flatMap(([name, t]) => (t ? [[name, array(t)]] : []))),
  };
}

/** A device, or why there is none. */
async function tryDevice(): Promise<OpenDevice | string> {
  try {
    return await openDevice();
  } catch (e) {
    if (e instanceof RuntimeFault || e instanceof CompileError) return e.message;
    throw e;
  }
}

/** Checks of a layer that could not be made; the comparison with its whole block is information and does not count. */
const left = (l: LayerReport): readonly Check[] => l.checks.filter((c) => c.verdict === "skipped" && c.name !== "A⊗G");
const partlyChecked = (r: VerifyReport): string[] => r.layers.filter((l) => l.verdict === "passed" && left(l).length > 0).map((l) => l.name);

const spell = (x: number | null): string => (x === null ? "–" : x === 0 ? "0" : x.toExponential(1));
const worst = (checks: readonly Check[], gpu: boolean): number | null => {
  const errors = checks.filter((c) => c.verdict === "passed" && c.name.startsWith("gpu") === gpu && !c.name.startsWith("differences")).flatMap((c) => (c.error === null ? [] : [c.error]));
  return errors.length > 0 ? Math.max(...errors) : null;
};

function print(r: VerifyReport, io: Io): void {
  for (const n of r.notes) io.note(`note: ${n}`);
  io.out(`${r.model}: ${r.batch} examples, seed ${r.seed}, loss ${r.loss}, ${r.fisher} Fisher, inverse ${r.inverse}; device: ${r.device ?? "none"}\n`);
  const differences = (checks: readonly Check[]): number | null => {
    const list = checks.filter((c) => c.name.startsWith("differences")).flatMap((c) => (c.error === null ? [] : [c.error]));
    return list.length > 0 ? Math.max(...list) : null;
  };
  if (r.layers.length > 0)
    io.out(table(["layer", "kind", "uses", "T", "A", "G", "float64", "differences", "gpu", "A⊗G", "verdict"], r.layers.map((l) => {
      const block = l.checks.find((c) => c.name === "A⊗G");
      const groups = l.groups > 1 ? `${l.groups}×` : "";
      return [l.name, l.kind, l.sites, l.T, `${groups}${l.dA}`, `${groups}${l.dG}`, spell(worst(l.checks, false)), spell(differences(l.checks)), spell(worst(l.checks, true)),
        block?.verdict === "passed" ? "exact" : spell(block?.error ?? null), l.verdict === "passed" && left(l).length > 0 ? "partly" : l.verdict];
    })));
  if (r.orphans.length > 0)
    io.out(`\nwithout a layer:\n${table(["parameter", "differences", "gpu", "verdict", "why"], r.orphans.map((o) => [o.param, spell(differences(o.checks)), spell(worst(o.checks, true)), o.verdict, o.reason]))}`);
  io.out("");
  const failures = [
    ...r.layers.flatMap((l) => l.checks.filter((c) => c.verdict === "failed").map((c) => [`layer "${l.name}"`, c] as const)),
    ...r.orphans.flatMap((o) => o.checks.filter((c) => c.verdict === "failed").map((c) => [`parameter "${o.param}"`, c] as const)),
    ...r.checks.filter((c) => c.verdict === "failed").map((c) => ["model", c] as const),
  ];
  for (const [where, c] of failures)
    io.out(`${where}: ${c.name} failed${c.allowed === null ? "" : `, relative error ${c.error === null ? "not finite" : spell(c.error)} where ${spell(c.allowed)} is allowed`}${c.note ? `: ${c.note}` : ""}`);
  const count = (verdict: string): number => [...r.layers, ...r.orphans].filter((x) => x.verdict === verdict).length;
  for (const l of r.layers) for (const c of left(l)) io.out(`${l.name}: ${c.name} skipped, ${c.note}`);
  const partly = partlyChecked(r).length;
  io.out(`${r.layers.length} layers, ${r.orphans.length} parameters without one: ${count("passed")} passed${partly > 0 ? ` (${partly} of them only in part: checks were skipped)` : ""}, ${count("failed")} failed${r.checks.some((c) => c.verdict === "failed") ? "; a check of the whole model failed" : ""}`);
}
