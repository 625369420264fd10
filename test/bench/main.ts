/**
 * `npm run bench -- [flags]`: kernels and whole training steps as multiples of the yardstick, measured in alternation with it; every
 * kernel's numbers are held to float64 before it is timed.
 *
 *   --only WORD        rows whose id, name or group has the word
 *   --quick            fewer rounds, without the big networks
 *   --processes N      medians of N processes (marks are defined by three)
 *   --json [FILE]      results as JSON, into the file or printed instead of the table
 *   --compare [FILE]   against a baseline (test/bench/baseline.json): fails if a row takes more than 1.25 times as long, twice
 *   --peers            the same work by other libraries on the same device, beside it
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Args, parse } from "./args.js";
import { better, compare, regressed, suspects } from "./compare.js";
import { runPeers } from "./peers.js";
import { inProcess } from "./processes.js";
import { merged, type Results, type Row } from "./result.js";
import { runBench } from "./run.js";
import { compareTable, foot, head, line, markTable, stepTable } from "./table.js";

const BASELINE = fileURLToPath(new URL("baseline.json", import.meta.url));

async function main(args: Args): Promise<number> {
  const say = (text: string): void => { if (args.json !== true && text !== "") console.log(text); };
  if (args.peers) return runPeers(args, say);
  say(head());
  let results = await measured(args, (row) => say(line(row)));
  for (const text of [stepTable(results), markTable(results), foot(results)]) if (text !== "") say(`\n${text}`);
  let code = results.rows.some((r) => r.error !== undefined) ? 1 : 0;
  if (args.compare !== undefined) {
    const old = baseline(args.compare === true ? BASELINE : args.compare);
    const whole = args.only === undefined && !args.quick && !args.ids;
    const again = suspects(compare(old, results, whole));
    if (again.size > 0) {
      say(`\n${again.size} slower than the baseline: once more`);
      const second = await measured({ ...args, ids: again }, (row) => say(line(row)));
      results = { ...results, rows: results.rows.map((row) => better(row, second.rows.find((r) => r.id === row.id) ?? row)) };
    }
    const list = compare(old, results, whole);
    say(`\n${compareTable(list)}`);
    if (old.adapter !== results.adapter) say(`the baseline is of ${old.adapter}: ratios of different devices say little`);
    if (regressed(list)) code = 1;
  }
  if (args.json === true) console.log(JSON.stringify(results, null, 1));
  else if (args.json !== undefined) writeFileSync(args.json, `${JSON.stringify(results, null, 1)}\n`);
  return code;
}

/** @throws Error saying how to make one */
function baseline(file: string): Results {
  if (!existsSync(file)) throw new Error(`no baseline ${file}: npm run bench -- --processes 3 --json ${file}`);
  return JSON.parse(readFileSync(file, "utf8")) as Results;
}

async function measured(args: Args, onRow: (row: Row) => void): Promise<Results> {
  if (args.processes === 1) return runBench(args, onRow);
  const runs = Array.from({ length: args.processes }, () => inProcess(args));
  const all = merged(runs);
  for (const row of all.rows) onRow(row);
  return all;
}

process.exitCode = await main(parse(process.argv.slice(2)));
