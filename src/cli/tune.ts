/** `compile --tune`: a program whose contractions have the schedules that are fastest on this device. */
import { openDevice } from "../../runtime/adapter.node.js";
import { CompileError } from "../../ir/error.js";
import { type Compiled, compile, type CompileOptions, limitsOf } from "../compile.js";
import type { Settings } from "../options.js";
import type { Tuning } from "../tune/file.js";
import { type Tuned, tune } from "../tune/tune.js";
import type { Io } from "./io.js";
import { table } from "./table.js";

/** @throws CompileError "usage" together with --tuning; RuntimeFault "no-adapter". */
export async function tuned(forward: Parameters<typeof compile>[0], given: CompileOptions, s: Settings, io: Io): Promise<{ readonly compiled: Compiled; readonly tuning: Tuning }> {
  if (s.has("tuning")) throw new CompileError("usage", "--tune measures, --tuning takes what was measured: one of them", undefined, "leave one out");
  const open = await openDevice();
  try {
    const target = s.has("for") ? (s.text("for") as "software" | "gpu") : open.kind === "gpu" ? "gpu" : "software";
    const options = { ...given, target };
    io.note(`device: ${open.name} (${open.kind}); kernels shaped for ${target === "gpu" ? "a GPU" : "software"} where measuring does not say otherwise`);
    const results = await tune(open, compile(forward, options), limitsOf(options), (t, done, total) => io.note(`measured ${done} of ${total}: ${t.shape}, ${t.tried} schedules, ${spell(t.before)} → ${spell(t.after)}`));
    const schedules = new Map(results.flatMap((t) => (t.chosen ? [[t.key, t.chosen] as const] : [])));
    const compiled = compile(forward, { ...options, schedules });
    if (!io.json) io.out(`${summaryTable(results)}\n`);
    return { compiled, tuning: { adapter: open.name, target, schedules } };
  } finally {
    await open.close();
  }
}

const spell = (ms: number): string => `${ms.toPrecision(3)} ms`;

/** Slowest first, as often as each is used; what did not change at the end as one line. */
function summaryTable(results: readonly Tuned[]): string {
  const sorted = [...results].sort((a, b) => b.before * b.uses - a.before * a.uses);
  const changed = sorted.filter((t) => t.chosen);
  const total = (of: "before" | "after") => results.reduce((sum, t) => sum + t[of] * t.uses, 0);
  const wrong = results.reduce((n, t) => n + t.wrong, 0);
  const rows = changed.map((t) => [t.label, t.shape, `${t.uses}`, spell(t.before), spell(t.after), `${(t.before / t.after).toFixed(2)}×`, t.chosen?.family ?? ""]);
  return `${rows.length > 0 ? `${table(["contraction", "shape", "uses", "before", "after", "faster", "family"], rows)}\n` : ""}${results.length} contractions, ${results.length - changed.length} already fastest; in all ${spell(total("before"))} → ${spell(total("after"))}${wrong > 0 ? `; ${wrong} schedules left out: refused by the device, or another result` : ""}`;
}
