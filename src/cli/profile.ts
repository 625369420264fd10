/** `profile`: where the time of a compiled program goes, kernel by kernel. */
import { CompileError } from "../../ir/error.js";
import { openDevice } from "../../runtime/adapter.node.js";
import type { ModuleData } from "../../runtime/load.js";
import { profile } from "../../runtime/profile.js";
import type { Clock } from "../../runtime/profile-clock.js";
import { compile } from "../compile.js";
import { kindOf, writeAtomic } from "../files.js";
import type { Settings } from "../options.js";
import { type Io, requireWritable } from "./io.js";
import { openFolder } from "./program.js";
import { reportOf, spellReport, traceOf } from "./profile-report.js";
import { batchesOf, compileOptions, openFor } from "./setup.js";
import { shaped } from "./shape.js";

/** Flags that say how to measure; all others make the program, and a folder is made. */
const MEASURING: readonly string[] = ["batch", "seed", "entry", "repeat", "clock", "trace", "out", "json", "debug"];

export async function profileCommand(path: string, s: Settings, io: Io): Promise<void> {
  const [out, trace] = [s.text("out"), s.text("trace")];
  for (const [flag, file] of [["out", out], ["trace", trace]] as const) {
    if (file === undefined) continue;
    if (!file.endsWith(".json")) throw new CompileError("bad-option", `"${file}" does not end in .json`, `--${flag}`);
    await requireWritable(file);
  }
  const data = await programOf(path, s, io);
  const batch = s.has("batch") ? { batch: batchesOf(s)[0] as number } : {};
  const entry = s.text("entry");
  const repeat = s.number("repeat");
  const open = await openDevice();
  try {
    const measured = await profile(open, data, {
      ...batch, ...(entry === undefined ? {} : { entries: [entry] }), repeat, seed: s.number("seed"), ...(s.has("clock") ? { clock: s.text("clock") as Clock } : {}),
      onEntry: (name, dispatches) => io.note(`measuring ${name}: ${dispatches} dispatches`),
    });
    const report = reportOf(data.artifact, data.sources, measured, { device: `${open.name} (${open.kind})`, repeat });
    io.note(`device: ${report.device}; ${report.clock === "wall" ? "each kernel alone by the wall clock" : "timestamps"}, median of ${repeat}; random data, loss ${report.loss.toPrecision(4)}`);
    if (report.step && data.artifact.optimizer === "kfac" && data.artifact.inverse !== "pi") io.note(`note: --inverse ${data.artifact.inverse} makes eigenbases on the host, which are not measured`);
    if (!Number.isFinite(report.loss)) io.note("warning: the loss on random data is not finite");
    for (const e of report.entries) if (e.nonFinite.length > 0) io.note(`warning: ${e.entry} leaves numbers that are not finite in ${e.nonFinite.join(", ")}`);
    const json = JSON.stringify(report, undefined, 2);
    if (out !== undefined) await writeAtomic(out, `${json}\n`);
    if (trace !== undefined) await writeAtomic(trace, traceOf(report));
    io.out(io.json ? json : spellReport(report));
  } finally {
    await open.close();
  }
}

/** A folder as it is compiled, or a model compiled to be trained. */
async function programOf(path: string, s: Settings, io: Io): Promise<ModuleData> {
  if ((await kindOf(path)) === "folder") {
    const given = Object.keys(s.given).find((name) => !MEASURING.includes(name));
    if (given) throw new CompileError("bad-option", "the folder is compiled: how it trains is decided", `--${given}`, "name the model file instead, or compile it again");
    return openFolder(path);
  }
  const model = await openFor(path, s);
  const { options } = await shaped(compileOptions(s), s, io, true);
  const { artifact, sources, weights, notes } = compile(model.forward, options);
  for (const n of [...model.notes, ...notes]) io.note(`note: ${n}`);
  return { artifact, sources, weights: Object.fromEntries(weights) };
}
