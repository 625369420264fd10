/** Schedules that were measured, as a file: `tuning.json`. Equal choices are equal bytes. */
import type { ChosenSchedule, Target } from "../../codegen/kernel.js";
import { CompileError } from "../../ir/error.js";

export interface Tuning {
  /** What was measured on, as the adapter calls itself. */
  readonly adapter: string;
  readonly target: Target;
  /** By the key of a contraction's canonical form. */
  readonly schedules: ReadonlyMap<string, ChosenSchedule>;
}

const VERSION = 1;
const MOST = 1e9;
const TILED = ["rows", "columns", "depth", "perRow", "perColumn", "parts"] as const;

export function tuningText({ adapter, target, schedules }: Tuning): string {
  const list = [...schedules].sort(([a], [b]) => (a < b ? -1 : 1)).map(([contraction, schedule]) => `    ${JSON.stringify({ contraction, schedule: ordered(schedule) })}`);
  return `{\n  "kfaccTuning": ${VERSION},\n  "adapter": ${JSON.stringify(adapter)},\n  "target": ${JSON.stringify(target)},\n  "schedules": [\n${list.join(",\n")}\n  ]\n}\n`;
}

/** Fields in one order, whoever made the choice. */
function ordered(s: ChosenSchedule): object {
  return s.family === "rows" ? { family: s.family, tile: s.tile, split: s.split } : { family: s.family, ...Object.fromEntries(TILED.map((name) => [name, s[name]])) };
}

/** @throws CompileError "bad-data" for a file that is damaged or of another version. */
export function parseTuning(text: string, file: string): Tuning {
  const fail = (what: string): never => {
    throw new CompileError("bad-data", `the tuning is damaged: ${what}`, `file "${file}"`, "make it anew with kfacc compile --tune");
  };
  let data: unknown;
  try {
    data = JSON.parse(text);
  } catch {
    return fail("it is not JSON");
  }
  const { kfaccTuning, adapter, target, schedules } = (typeof data === "object" && data !== null ? data : {}) as Readonly<Record<string, unknown>>;
  if (kfaccTuning !== VERSION) return fail(kfaccTuning === undefined ? "it is no tuning of kfacc" : `its version is ${JSON.stringify(kfaccTuning)}, this is ${VERSION}`);
  if (typeof adapter !== "string") return fail("adapter is no name");
  if (target !== "software" && target !== "gpu") return fail("target is neither software nor gpu");
  if (!Array.isArray(schedules)) return fail("schedules is no list");
  const found = new Map<string, ChosenSchedule>();
  for (const [i, entry] of (schedules as unknown[]).entries()) {
    const { contraction, schedule } = (typeof entry === "object" && entry !== null ? entry : {}) as Readonly<Record<string, unknown>>;
    const made = scheduleOf(schedule);
    if (typeof contraction !== "string" || made === undefined) return fail(`schedule ${i} is none`);
    if (found.has(contraction)) return fail(`schedule ${i} is of a contraction that has one`);
    found.set(contraction, made);
  }
  return { adapter, target, schedules: found };
}

const isCount = (n: unknown): n is number => Number.isInteger(n) && (n as number) >= 1 && (n as number) <= MOST;
const isCounts = (list: unknown): list is number[] => Array.isArray(list) && list.every(isCount);

function scheduleOf(value: unknown): ChosenSchedule | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { family, tile, split, ...rest } = value as Readonly<Record<string, unknown>>;
  if (family === "rows") return isCounts(tile) && isCounts(split) ? { family, tile, split } : undefined;
  const [rows, columns, depth, perRow, perColumn, parts] = TILED.map((name) => rest[name]);
  if (family !== "tiled" || !isCount(rows) || !isCount(columns) || !isCount(depth) || !isCount(perRow) || !isCount(perColumn) || !isCount(parts)) return undefined;
  return { family, rows, columns, depth, perRow, perColumn, parts };
}
