/** `evaluate` and `predict`. */
import { zipSync } from "fflate";
import { CompileError } from "../../ir/error.js";
import type { Tensor } from "../../runtime/tensors.js";
import type { Metrics } from "../../runtime/trainer.js";
import { writeAtomic } from "../files.js";
import type { Settings } from "../options.js";
import { evaluatePart } from "../session.js";
import { type Io, requireWritable } from "./io.js";
import { openData, openProgram, withTrainer } from "./program.js";
import { table } from "./table.js";

export const spellMetrics = (m: Metrics & { readonly losses?: Readonly<Record<string, number>> }): string =>
  `loss ${m.loss.toPrecision(5)}${m.losses ? ` (${Object.entries(m.losses).map(([name, l]) => `${name} ${l.toPrecision(5)}`).join(", ")})` : ""}${m.accuracy === undefined ? "" : `, accuracy ${(100 * m.accuracy).toFixed(2)} %`}`;

export async function evaluateCommand(path: string, s: Settings, io: Io): Promise<void> {
  s.required("data");
  const program = await openProgram(path, s, io, true);
  const data = await openData(program.artifact, s, io, { labels: true, split: "test" });
  const metrics = await withTrainer(program, io, {}, (trainer) => evaluatePart(trainer, { examples: data }));
  io.out(io.json ? JSON.stringify(metrics) : `${spellMetrics(metrics)} over ${metrics.count} examples`);
}

export async function predictCommand(path: string, s: Settings, io: Io): Promise<void> {
  s.required("data");
  const out = s.text("out");
  if (out !== undefined) {
    if (!out.endsWith(".npz")) throw new CompileError("bad-option", `"${out}" does not end in .npz`, "--out");
    await requireWritable(out);
  }
  const program = await openProgram(path, s, io, false);
  const data = await openData(program.artifact, s, io, { labels: false, split: "test" });
  const inputs = Object.fromEntries(Object.entries(data.inputs).map(([name, a]) => [name, { shape: [data.count, ...a.shape], data: a.data }]));
  const outputs = await withTrainer(program, io, {}, (trainer) => trainer.predict(inputs));
  if (out !== undefined) await writeAtomic(out, npz(outputs));
  const rows = Object.entries(outputs).map(([name, t]) => ({ name, shape: t.shape, ...extent(t.data) }));
  if (io.json) return io.out(JSON.stringify({ count: data.count, outputs: rows, ...(out === undefined ? {} : { file: out }) }));
  io.out(table(["output", "shape", "least", "mean", "most"], rows.map((r) => [r.name, `[${r.shape.join(", ")}]`, ...[r.least, r.mean, r.most].map((v) => v.toPrecision(5))])));
  io.out(out === undefined ? `${data.count} examples; -o predictions.npz writes them` : `${data.count} examples in ${out}`);
}

function extent(data: Tensor["data"]): { readonly least: number; readonly mean: number; readonly most: number } {
  let [least, most, sum] = [Infinity, -Infinity, 0];
  for (const v of data) {
    least = Math.min(least, v);
    most = Math.max(most, v);
    sum += v;
  }
  return { least, mean: sum / data.length, most };
}

/** NumPy's .npz of float32 and int32 arrays. The same numbers always give the same bytes. */
export function npz(arrays: Readonly<Record<string, Tensor>>): Uint8Array {
  const files = Object.entries(arrays).map(([name, t]) => [`${name}.npy`, npy(t)] as const);
  // the earliest moment a zip can name
  return zipSync(Object.fromEntries(files), { level: 6, mtime: new Date(1980, 0, 1) });
}

/** Source: NumPy Enhancement Proposal 1, version 1.0; the header is padded so that the data begin at a multiple of 64. */
function npy({ shape, data }: Tensor): Uint8Array {
  const dict = `{'descr': '${data instanceof Float32Array ? "<f4" : "<i4"}', 'fortran_order': False, 'shape': (${shape.join(", ")}${shape.length === 1 ? "," : ""}), }`;
  const header = new TextEncoder().encode(`${dict.padEnd(Math.ceil((11 + dict.length) / 64) * 64 - 11)}\n`);
  const out = new Uint8Array(10 + header.length + data.byteLength);
  out.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8]);
  out.set(header, 10);
  out.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 10 + header.length);
  return out;
}
