/** Results as text. */
import { table } from "../../src/cli/table.js";
import type { Comparison } from "./compare.js";
import { type Judged, judge } from "./marks.js";
import type { Results, Row } from "./result.js";

const fixed = (n: number | undefined, places: number): string => (n === undefined || !Number.isFinite(n) ? "–" : n.toFixed(places));
/** Three digits that count, without exponent. */
export const short = (n: number | undefined): string => {
  if (n === undefined || !Number.isFinite(n)) return "–";
  if (Number.isInteger(n) && Math.abs(n) < 1e6) return `${n}`;
  return n.toFixed(Math.abs(n) >= 100 ? 0 : Math.abs(n) >= 10 ? 1 : Math.abs(n) >= 0.1 ? 2 : 4);
};

const HEAD = ["× Y", "at best", "ms", "work", "MFLOP", "GFLOP/s", "MB", "GB/s", "dispatches", "submits"] as const;
const WIDTHS = [7, 7, 8, 66, 9, 8, 8, 6, 10, 7] as const;
const pad = (cells: readonly string[]): string => cells.map((cell, k) => (k === 3 ? cell.padEnd(WIDTHS[k] ?? 0) : cell.padStart(WIDTHS[k] ?? 0))).join("  ").trimEnd();

export const head = (): string => pad(HEAD);

/** One line as soon as it is measured. */
export function line(row: Row): string {
  const { flops, bytes, dispatches, submits } = row.facts;
  if (row.error !== undefined) return pad(["failed", "", "", `${row.name}: ${row.error.split("\n")[0]}`]);
  if (row.yards === undefined) return pad(["", "", "", `${row.name}: ${Object.entries(row.facts).map(([k, v]) => `${k} ${short(v)}`).join(", ")}`]);
  const rate = (n: number | undefined): number | undefined => (n === undefined || row.ms === undefined ? undefined : n / row.ms / 1e6);
  return pad([fixed(row.yards, 3), fixed(row.best, 3), fixed(row.ms, row.ms !== undefined && row.ms < 1 ? 3 : 1), row.name, fixed(flops === undefined ? undefined : flops / 1e6, 1), fixed(rate(flops), 1), fixed(bytes === undefined ? undefined : bytes / 1e6, 1), fixed(rate(bytes), 1), short(dispatches), short(submits)]);
}

/** What a training step costs beside its time. */
export function stepTable(results: Results): string {
  const rows = results.rows.filter((r) => r.facts.memoryShare !== undefined);
  if (rows.length === 0) return "";
  const ms = (n: number | undefined): string => fixed(n, 0);
  return table(["step", "kernels", "compiled, ms", "memory, MB", "all tensors, MB", "share", "p50, ms", "p99, ms", "checked"], rows.map(({ name, facts: f, checked }) => [
    name, short(f.kernels), ms(f.compileMs), fixed((f.memoryBytes ?? 0) / 1e6, 1), fixed((f.tensorBytes ?? 0) / 1e6, 1), fixed(f.memoryShare, 2), fixed(f.p50Ms, 1), fixed(f.p99Ms, 1), checked ?? "",
  ]));
}

const SPELL: Record<Judged["verdict"], string> = { stretch: "beyond the stretch", kept: "kept", missed: "MISSED", "not measured": "not measured" };

export function markTable(results: Results): string {
  const judged = judge(results).filter((j) => j.reached !== undefined || results.rows.some((r) => r.id === j.mark.row));
  if (judged.length === 0) return "";
  const counted = (kind: Judged["verdict"]): number => judged.filter((j) => j.verdict === kind).length;
  const text = table(["mark", "reached", "at most", "stretch", "hand-written", "jax-js / tfjs", ""], judged.map(({ mark, reached, verdict }) => [mark.what, short(reached), `${mark.most}`, mark.stretch === undefined ? "" : `${mark.stretch}`, mark.hand ?? "", mark.peers ?? "", SPELL[verdict]]));
  return `${text}\n${counted("stretch")} beyond the stretch, ${counted("kept")} kept, ${counted("missed")} missed`;
}

export const foot = (r: Results): string =>
  `yardstick ${r.yardstickMs.toFixed(1)} ms = ${r.gflops.toFixed(1)} GFLOP/s on ${r.adapter} (${r.name}); every figure is a multiple of it, measured in alternation, median of the rounds${r.processes > 1 ? ` and of ${r.processes} processes` : ""}`;

export const compareTable = (list: readonly Comparison[]): string =>
  table(["work", "baseline", "now", "ratio", ""], list.map((c) => [c.name, short(c.old), short(c.now), c.ratio === undefined ? "–" : c.ratio.toFixed(2), c.outcome === "same" ? "" : c.outcome]));
