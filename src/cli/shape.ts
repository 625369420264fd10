/** What a compilation takes from the device or from a file: what kernels are shaped for, and schedules that were measured. */
import type { Target } from "../../codegen/kernel.js";
import { findAdapter } from "../../runtime/adapter.node.js";
import type { CompileOptions } from "../compile.js";
import { readTextOr } from "../files.js";
import type { Settings } from "../options.js";
import { parseTuning, type Tuning } from "../tune/file.js";
import type { Io } from "./io.js";

/** `--for`, else a `--tuning` file's, else what suits the device that would be opened. */
export async function targetFor(s: Settings): Promise<Target> {
  if (s.has("for")) return s.text("for") as Target;
  return (await findAdapter())?.kind === "gpu" ? "gpu" : "software";
}

/**
 * The options with target and schedules. `run`: the program runs here and now, and the device decides where the user does not; else it is
 * written down for wherever it will run, and software is what it was measured on.
 *
 * @throws CompileError "missing-data" or "bad-data" for the file of --tuning.
 */
export async function shaped(options: CompileOptions, s: Settings, io: Io, run: boolean): Promise<{ readonly options: CompileOptions; readonly tuning: Tuning | undefined }> {
  const file = s.text("tuning");
  const tuning = file === undefined ? undefined : parseTuning(await readTextOr("missing-data", file, "check --tuning"), file);
  if (!tuning) {
    const target = run ? await targetFor(s) : (s.text("for") as Target | undefined);
    return { options: target === undefined || target === "software" ? options : { ...options, target }, tuning };
  }
  const here = run ? (await findAdapter())?.name : undefined;
  if (here !== tuning.adapter) io.note(`note: the schedules of ${file} were measured on ${tuning.adapter}${here === undefined ? "" : `, this is ${here}: they are right here, but may not be the fastest`}`);
  return { options: { ...options, target: s.has("for") ? (s.text("for") as Target) : tuning.target, schedules: tuning.schedules }, tuning };
}
