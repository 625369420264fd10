/** What a profile says: figures per kernel file, as a table, as JSON, and as a trace in Chrome's event format. */
import { kernelFiles } from "../../codegen/emit/module.js";
import type { Artifact } from "../../runtime/artifact.js";
import type { Profile, StepTime } from "../../runtime/profile.js";
import { table } from "./table.js";

export interface Figures {
  readonly ms: number;
  /** null: the plan does not say. */
  readonly flops: number | null;
  readonly bytes: number | null;
  readonly gflops: number | null;
  readonly gbs: number | null;
}

export interface KernelFigures extends Figures {
  /** Path in the module's folder, or "copy". */
  readonly kernel: string;
  readonly computes: string;
  readonly runs: number;
  /** Of a training step's time, else of the entry's. */
  readonly share: number;
}

export interface EntryFigures extends Figures {
  readonly entry: string;
  /** Runs per training step; null if the entry was asked for by name. */
  readonly perStep: number | null;
  readonly dispatches: number;
  /** The whole entry in one submit; `ms` is the sum over its kernels. */
  readonly together: number;
  readonly nonFinite: readonly string[];
  /** Slowest first. */
  readonly kernels: readonly KernelFigures[];
  /** In the order in which they run. */
  readonly steps: readonly (Figures & { readonly kernel: string; readonly values: readonly string[]; readonly workgroups: readonly number[] })[];
}

export interface Report {
  readonly model: string;
  readonly device: string;
  readonly clock: Profile["clock"];
  readonly repeat: number;
  readonly batch: number;
  readonly loss: number;
  /** Each entry as often as a training step runs it on average; null if one was asked for by name. */
  readonly step: Figures & { readonly together: number } | null;
  readonly entries: readonly EntryFigures[];
}

/** `sources`: the kernels' text, whose first line says what they compute. */
export function reportOf(artifact: Artifact, sources: readonly string[], p: Profile, about: { readonly device: string; readonly repeat: number }): Report {
  const files = kernelFiles(artifact);
  const fileOf = (s: StepTime): string => (s.kernel === undefined ? "copy" : (files[s.kernel] as string));
  const says = (s: StepTime): string => (s.kernel === undefined ? s.values.join() : computes(sources[s.kernel] as string));
  const whole = p.entries.every((e) => e.perStep !== undefined);
  const step = figures(p.entries.flatMap((e) => e.steps.map((s) => [s, e.perStep ?? 1] as const)));
  const entries = p.entries.map((e): EntryFigures => {
    const groups = new Map<string, StepTime[]>();
    for (const s of e.steps) groups.set(fileOf(s), [...(groups.get(fileOf(s)) ?? []), s]);
    const mine = figures(e.steps.map((s) => [s, 1]));
    const total = whole ? step.ms / (e.perStep as number) : mine.ms;
    const kernels = [...groups].map(([kernel, list]): KernelFigures => {
      const f = figures(list.map((s) => [s, 1]));
      return { kernel, computes: says(list[0] as StepTime), runs: list.length, ...f, share: total > 0 ? f.ms / total : 0 };
    });
    return {
      entry: e.entry, perStep: e.perStep ?? null, dispatches: e.steps.length, ...mine, together: e.together, nonFinite: e.nonFinite,
      kernels: kernels.sort((a, b) => b.ms - a.ms),
      steps: e.steps.map((s) => ({ kernel: fileOf(s), ...figures([[s, 1]]), values: s.values, workgroups: s.workgroups })),
    };
  });
  const together = p.entries.reduce((n, e) => n + e.together * (e.perStep ?? 1), 0);
  return { model: artifact.name, device: about.device, clock: p.clock, repeat: about.repeat, batch: p.batch, loss: p.loss, step: whole ? { ...step, together } : null, entries };
}

/** What a kernel says it computes: its first line. */
const computes = (source: string): string => (source.split("\n", 1)[0] as string).replace(/^\/\/\s*/, "");

/** Sums, each part as often as it is given. */
function figures(parts: readonly (readonly [StepTime, number])[]): Figures {
  const ms = parts.reduce((n, [s, times]) => n + s.ms * times, 0);
  const known = parts.every(([s]) => s.work !== undefined);
  const sum = (of: "flops" | "bytes"): number | null => (known ? parts.reduce((n, [s, times]) => n + (s.work?.[of] ?? 0) * times, 0) : null);
  const [flops, bytes] = [sum("flops"), sum("bytes")];
  const rate = (n: number | null): number | null => (n === null || ms === 0 ? null : n / ms / 1e6);
  return { ms, flops, bytes, gflops: rate(flops), gbs: rate(bytes) };
}

const short = (x: number | null): string => (x === null || x === 0 ? "–" : x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));
const time = (ms: number): string => (ms >= 100 ? ms.toFixed(1) : ms >= 10 ? ms.toFixed(2) : ms.toFixed(3));
const mega = (n: number | null, unit: string): string => (n === null ? "" : `, ${n >= 1e9 ? `${(n / 1e9).toFixed(2)} G` : `${(n / 1e6).toFixed(2)} M`}${unit}`);
const rates = (f: Figures): string => (f.gflops === null ? "" : `, ${short(f.gflops)} GFLOP/s, ${short(f.gbs)} GB/s`);

/** `3 of 4 steps`; a share that is no small fraction in percent. */
const often = (perStep: number | null): string => {
  if (perStep === null) return "";
  if (perStep === 1) return ", every step";
  for (let n = 2; n <= 1000; n++) if (Math.abs(perStep * n - Math.round(perStep * n)) < 1e-9) return `, ${Math.round(perStep * n)} of ${n} steps`;
  return `, ${(100 * perStep).toFixed(1)} % of the steps`;
};

const WIDEST = 70;
/** Kernels of a smaller share go together on one line, unless they are among an entry's first few. */
const SMALL = 0.005;
const FIRST = 5;

/** A table per entry, slowest kernel first, and what it comes to per step. */
export function spellReport(r: Report): string {
  const parts = r.entries.map((e) => `${e.entry}: ${e.dispatches} dispatches${often(e.perStep)}: ${spellSum(e)}; together ${time(e.together)} ms\n${kernelTable(e)}`);
  if (r.step) {
    const each = r.entries.map((e) => `${e.entry} ${time(e.ms * (e.perStep ?? 1))}`).join(", ");
    parts.push(`a step of ${r.batch} examples: ${spellSum(r.step)}; together ${time(r.step.together)} ms\n  ${each}`);
  }
  return parts.join("\n\n");
}

const spellSum = (f: Figures): string => `${time(f.ms)} ms${mega(f.flops, "FLOP")}${rates(f)}`;

function kernelTable({ kernels }: EntryFigures): string {
  const large = Math.max(FIRST, kernels.filter((k) => k.share >= SMALL).length);
  const shown = kernels.slice(0, large === kernels.length - 1 ? kernels.length : large);
  const small = kernels.slice(shown.length);
  const row = (name: string, runs: number, took: number, share: number, f: Pick<Figures, "gflops" | "gbs">, computes: string) =>
    [name, runs, time(took), `${(100 * share).toFixed(1)} %`, short(f.gflops), short(f.gbs), computes.length > WIDEST ? `${computes.slice(0, WIDEST - 1)}…` : computes];
  const rows = shown.map((k) => row(k.kernel.replace(/^kernels\//, ""), k.runs, k.ms, k.share, k, k.computes));
  if (small.length > 0) {
    const sum = (of: "runs" | "ms" | "share"): number => small.reduce((n, k) => n + k[of], 0);
    rows.push(row(`${small.length} smaller kernels`, sum("runs"), sum("ms"), sum("share"), { gflops: null, gbs: null }, "--json names them"));
  }
  const head = ["kernel", "runs", "ms", "share", "GFLOP/s", "GB/s", "computes"];
  // figures to the right: the table does that with numbers alone
  const widths = head.map((h, c) => Math.max(h.length, ...rows.map((x) => String(x[c]).length)));
  const figure = (cell: string | number, c: number) => (c >= 2 && c <= 5 ? String(cell).padStart(widths[c] as number) : cell);
  return table(head.map((h, c) => String(figure(h, c))), rows.map((x) => x.map(figure)));
}

/**
 * One track per entry, the kernels one after the other as long as each takes alone; entries follow one another.
 *
 * Format: "Trace Event Format" of Chrome's about:tracing; times in µs.
 */
export function traceOf(r: Report): string {
  let at = 0;
  const events = r.entries.flatMap((e, track) => {
    const id = { pid: 1, tid: track + 1 };
    const meta = [
      { name: "thread_name", ph: "M", ...id, args: { name: `${e.entry}${often(e.perStep)}` } },
      { name: "thread_sort_index", ph: "M", ...id, args: { sort_index: track } },
    ];
    return [...meta, ...e.steps.map((s) => {
      const [ts, dur] = [at, 1000 * s.ms];
      at += dur;
      const name = s.kernel.replace(/^kernels\/(.*)\.wgsl$/, "$1");
      const args = { file: s.kernel, values: s.values.join(", "), workgroups: s.workgroups.join(" × "), flops: s.flops, bytes: s.bytes, gflops: s.gflops, gbs: s.gbs };
      return { name, cat: e.entry, ph: "X", ts, dur, ...id, args };
    })];
  });
  const process = { name: "process_name", ph: "M", pid: 1, tid: 0, args: { name: `${r.model} on ${r.device}` } };
  return `${JSON.stringify({ traceEvents: [process, ...events], displayTimeUnit: "ms", otherData: { model: r.model, device: r.device, clock: r.clock, batch: r.batch } })}\n`;
}
