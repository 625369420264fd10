/** `layers`, `print`, `compile`, `devices`: what needs no data. */
import { CompileError } from "../../ir/error.js";
import type { Graph } from "../../ir/graph.js";
import { PASSES } from "../../ir/passes/index.js";
import { print } from "../../ir/print.js";
import { listAdapters } from "../../runtime/adapter.node.js";
import { type Compiled, compile, type CompileOptions, orphanInfo, prepare, prepareFor, summary } from "../compile.js";
import { writeModule } from "../emit.js";
import { writeAtomic } from "../files.js";
import { layerInfo } from "../kfac/layer.js";
import { requireNoOrphans } from "../kfac/register.js";
import type { Settings } from "../options.js";
import { type Tuning, tuningText } from "../tune/file.js";
import { printFused } from "./fused.js";
import { type Io, requireWritable } from "./io.js";
import { isKnob } from "../../ir/graph.js";
import { compileOptions, openFor, registerOptions } from "./setup.js";
import { shaped } from "./shape.js";
import { tuned } from "./tune.js";
import { layersJson, layerTable, spellExamples, table } from "./table.js";

export async function layersCommand(path: string, s: Settings, io: Io): Promise<void> {
  const model = await openFor(path, s);
  const source = model.forward(model.fileBatch ?? 2);
  const { batches: _, run: __, host: ___, ...options } = compileOptions(s);
  const prepared = anyLoss({ ...options, batches: [], ...registerOptions(s) }, (o) => prepareFor(model.forward, source, model.fileBatch ?? 2, o));
  const { registration, graph } = prepared;
  if (s.on("strict")) requireNoOrphans(registration.orphans);
  const [layers, orphans] = [registration.layers.map(layerInfo), orphanInfo(registration, prepared.optimizer)];
  if (io.json) return io.out(JSON.stringify(layersJson(layers, orphans), undefined, 2));
  for (const i of graph.inputs.filter((g) => !isKnob(g.value))) io.out(`input "${i.value.name}" ${i.value.type.dtype}${spellExamples(i.value.type.shape, i.examples, model.fileBatch)}`);
  for (const o of source.outputs) io.out(`output "${o.name}" ${o.value.type.dtype}${spellExamples(o.value.type.shape, 0, model.fileBatch)}${o.head ? ` (${o.head.kind})` : ""}`);
  io.out(`\n${layerTable(layers, orphans, graph.params.map((p) => p.value))}`);
  for (const n of model.notes) io.note(`note: ${n}`);
}

/** Where the loss makes no difference, an unknown one must not stop anything. */
function anyLoss<T>(options: CompileOptions, use: (options: CompileOptions) => T): T {
  try {
    return use(options);
  } catch (e) {
    if (!(e instanceof CompileError && e.code === "loss-unknown") || options.loss) throw e;
    return use({ ...options, loss: "half-sse" });
  }
}

export async function printCommand(path: string, s: Settings, io: Io): Promise<void> {
  const after = s.text("after");
  const entry = s.text("entry");
  const fused = after === "fuse";
  if (after !== undefined && !fused && !PASSES[after]) throw new CompileError("bad-option", `there is no pass "${after}"`, "--after", `one of ${Object.keys(PASSES).join(", ")}, fuse`);
  const out = s.text("out");
  if (out !== undefined) await requireWritable(out);
  const model = await openFor(path, s);
  const batch = s.has("batch") || model.fileBatch === undefined ? undefined : model.fileBatch;
  const options = compileOptions(s);
  const size = batch ?? (s.has("batch") ? (options.batches[0] as number) : 2);
  const stage = fused ? (entry === undefined ? "canonicalize" : undefined) : after;
  const graph = entry === undefined ? forwardAfter(model.forward(size), options, stage) : entryAfter(model.forward, { ...options, batches: [size] }, entry, stage);
  if (fused) return out === undefined ? io.out(printFused(graph)) : writeAtomic(out, `${printFused(graph)}\n`);
  if (out === undefined) return io.out(print(graph).trimEnd());
  if (!/\.kir$/.test(out)) throw new CompileError("bad-option", `"${out}" does not end in .kir`, "--out");
  if (entry !== undefined) return writeAtomic(out, print(graph));
  if (model.forward(size).evaluation) io.note("note: a .kir file holds one graph, that of training: evaluating it uses each batch's statistics and dropout, and training leaves running statistics as they are");
  const { writeKir } = await import("../kir.js");
  await writeKir(graph, model.forward(size).weights, out);
}

function forwardAfter(source: ReturnType<Awaited<ReturnType<typeof openFor>>["forward"]>, options: CompileOptions, after: string | undefined): Graph {
  if (after === undefined) return source.graph;
  let found: Graph | undefined;
  const results = source.graph.results;
  anyLoss({ ...options, onPass: (stage, pass, graph) => { if (stage === "forward" && pass.name === after) found = graph; } }, (o) => prepare(source, o));
  if (!found) throw new CompileError("bad-option", `pass "${after}" does not run on the forward graph`, "--after", "print an entry with --entry, e.g. --entry front");
  return { ...found, results: found.results.filter((r) => results.some((mine) => mine.name === r.name)) };
}

function entryAfter(forward: Parameters<typeof compile>[0], options: CompileOptions, entry: string, after: string | undefined): Graph {
  const stages = new Map<string, Graph>();
  const bare = (stage: string): string => stage.replace(/@\d+$/, "");
  const made = anyLoss({ ...options, onPass: (stage, pass, graph) => { if (pass.name === after) stages.set(bare(stage), graph); } }, (o) => compile(forward, o));
  const graphs = after === undefined ? new Map([...made.graphs].map(([name, g]) => [bare(name), g])) : stages;
  const found = graphs.get(entry);
  if (!found) throw new CompileError("bad-option", `the program has no entry "${entry}"`, "--entry", `one of ${[...graphs.keys()].join(", ")}`);
  return found;
}

export async function compileCommand(path: string, s: Settings, io: Io): Promise<void> {
  const folder = s.required("out");
  const model = await openFor(path, s);
  const { compiled, tuning } = s.on("tune") ? await tuned(model.forward, compileOptions(s), s, io) : await untuned(model.forward, s, io);
  for (const n of [...model.notes, ...compiled.notes]) io.note(`note: ${n}`);
  const written = await writeModule(compiled, folder, { ...(s.has("standalone") ? { standalone: s.on("standalone") } : {}), ...(tuning ? { tuning: tuningText(tuning) } : {}) });
  const { artifact } = compiled;
  if (io.json) return io.out(JSON.stringify({ folder, standalone: written.standalone, hash: artifact.hash, kernels: artifact.plan.kernels.length, batches: artifact.batches, files: written.files, ...layersJson(artifact.layers, artifact.orphans) }, undefined, 2));
  io.out(layerTable(artifact.layers, artifact.orphans, compiled.model.graph.params.map((p) => p.value)));
  io.out(`\n${summary(compiled).join("\n")}`);
  io.out(`${written.files.length} files in ${folder}${written.standalone ? ", with the runtime" : ", importing kfacc/runtime"}`);
}

async function untuned(forward: Parameters<typeof compile>[0], s: Settings, io: Io): Promise<{ readonly compiled: Compiled; readonly tuning: Tuning | undefined }> {
  const { options, tuning } = await shaped(compileOptions(s), s, io, false);
  return { compiled: compile(forward, options), tuning };
}

export async function devicesCommand(io: Io): Promise<void> {
  const reports = await listAdapters();
  if (io.json) return io.out(JSON.stringify({ devices: reports }, undefined, 2));
  io.out(table(["", "way", "adapter", "features", "workgroup", "largest binding"], reports.map((r) => [
    r.used ? "→" : "", r.kind, r.name ?? `– (${r.refusal})`, r.features.join(" ") || "–",
    r.limits ? `${r.limits.invocations} invocations, ${r.limits.workgroupBytes >> 10} KiB` : "–",
    r.limits ? `${Math.round(r.limits.bindingBytes / 2 ** 20)} MiB` : "–",
  ])));
  if (!reports.some((r) => r.used)) throw new CompileError("no-adapter", "no usable WebGPU adapter", undefined, "install a GPU driver, Mesa's software OpenGL, or npm install @sparticuz/chromium (Linux x64)");
}
