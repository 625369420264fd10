/** The same run in several processes, one after the other. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import { join } from "node:path";
import type { Args } from "./args.js";
import type { Results } from "./result.js";
import { node, script } from "./startup.js";

/** @throws Error with what a child wrote before it failed */
export function inProcess(args: Pick<Args, "only" | "quick" | "ids">): Results {
  const folder = mkdtempSync(join(os.tmpdir(), "kfacc-bench-"));
  try {
    const file = join(folder, "results.json");
    node(script("main.ts", ...(args.only === undefined ? [] : ["--only", args.only]), ...(args.quick ? ["--quick"] : []), ...(args.ids ? ["--ids", [...args.ids].join(",")] : []), "--json", file), {}, 1_800_000);
    return JSON.parse(readFileSync(file, "utf8")) as Results;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
