/** `fisher`: the factors of every layer over a whole data set, as a table and as a file. */
import { CompileError } from "../../ir/error.js";
import { size } from "../../ir/type.js";
import type { Artifact, LayerInfo } from "../../runtime/artifact.js";
import { asBatch, epochOrder, inOrder } from "../../runtime/batches.js";
import type { Estimate } from "../../runtime/fisher-estimate.js";
import { COMPILE_DEFAULTS, type CompileOptions } from "../compile.js";
import type { Dataset } from "../data/dataset.js";
import { kindOf, writeAtomic } from "../files.js";
import type { Settings } from "../options.js";
import { startProgress } from "../progress.js";
import { type Io, requireWritable } from "./io.js";
import { openData, openProgram, withTrainer } from "./program.js";
import { compileOptions } from "./setup.js";
import { table } from "./table.js";

/** What decides how factors are made; a compiled folder has decided it. */
const MAKING = ["fisher", "fisher-samples", "sharing", "register", "layer", "max-factor", "loss", "loss-weight", "batch"] as const;

export interface LayerFigures {
  readonly name: string;
  readonly kind: string;
  readonly form: LayerInfo["form"];
  readonly groups: number;
  readonly dA: number;
  readonly dG: number;
  /** Over all groups; null on block layers. */
  readonly traceA: number | null;
  readonly traceG: number | null;
  /** Of the layer's part of F. */
  readonly trace: number;
  readonly largest: number;
  readonly median: number;
  /** (Σ s)²/Σ s² over its eigenvalues. */
  readonly effectiveRank: number;
}

export async function fisherCommand(path: string, s: Settings, io: Io): Promise<void> {
  s.required("data");
  const out = s.text("out");
  if (out !== undefined) {
    if (!out.endsWith(".safetensors")) throw new CompileError("bad-option", `"${out}" does not end in .safetensors`, "--out");
    await requireWritable(out);
  }
  if ((await kindOf(path)) === "folder") {
    const given = MAKING.find((name) => s.has(name));
    if (given) throw new CompileError("bad-option", "the folder is compiled: how its factors are made is decided", `--${given}`, "name the model file instead, or compile it again");
  }
  const program = await openProgram(path, s, io, true, fisherOptions);
  const data = await openData(program.artifact, s, io, { labels: true, split: "train" });
  const estimate = await withTrainer(program, io, { seed: s.number("seed") }, async (trainer) => {
    const progress = io.json ? undefined : startProgress({ total: data.count, label: "factors" });
    try {
      return await trainer.fisher.estimate(examplesOf(program.artifact, data, io), { onBatch: ({ examples }) => progress?.update(examples) });
    } finally {
      progress?.stop();
    }
  });
  const layers = await Promise.all(estimate.layers.map((l) => figures(estimate, l)));
  const damping = s.number("damping");
  const total = { trace: estimate.trace(), frobenius: estimate.frobenius(), damping, logdet: await estimate.logdet({ damping }) };
  const numbers = (covered: boolean) => estimate.params.filter((p) => estimate.uncovered.includes(p.name) !== covered).reduce((n, p) => n + size(p.shape), 0);
  const parameters = { covered: numbers(true), uncovered: numbers(false), names: estimate.uncovered };
  if (out !== undefined) await writeAtomic(out, estimate.save());
  const { info } = estimate;
  if (io.json) return io.out(JSON.stringify({ examples: info.examples, count: info.count, fisher: info.fisher, layers, ...total, parameters, ...(out === undefined ? {} : { file: out }) }));
  io.out(print(layers));
  io.out(`\n${info.fisher.kind} Fisher over ${info.examples} examples: trace ${short(total.trace)}, norm ${short(total.frobenius)}, log det(F + ${damping}) ${short(total.logdet)}`);
  io.out(`${parameters.covered} parameters covered${parameters.uncovered > 0 ? `, ${parameters.uncovered} not: ${parameters.names.join(", ")}` : ""}`);
  io.out(out === undefined ? "-o factors.safetensors writes them" : `factors in ${out}`);
}

/** The program of a training step, for its statistics alone. */
function fisherOptions(s: Settings): CompileOptions {
  const { loss, losses, batches, fisher, register, layerOverride, sharing, maxFactor } = compileOptions(s);
  return {
    ...COMPILE_DEFAULTS, optimizer: "kfac", batches, fisher, ...(loss ? { loss } : {}), ...(losses ? { losses } : {}), ...(register ? { register } : {}),
    ...(layerOverride ? { layerOverride } : {}), ...(sharing ? { sharing } : {}), ...(maxFactor === undefined ? {} : { maxFactor }),
  };
}

/** Every example once; where a batch's examples are mixed, those that fill whole batches. */
function* examplesOf(a: Artifact, data: Dataset, io: Io) {
  const largest = Math.max(...a.batches);
  const count = a.mixes === null ? data.count : data.count - (data.count % largest);
  if (count === 0) throw new CompileError("bad-data", `${data.count} examples are less than one batch of ${largest}, and the model mixes the examples of a batch`, a.mixes ?? undefined, "use a smaller --batch, or more data");
  if (count < data.count) io.note(`note: ${data.count - count} examples do not fill a batch of ${largest} and are left out: the model mixes the examples of a batch`);
  for (const e of inOrder(data, largest, epochOrder(count, 0, 0, false))) if (!e.weight || e.weight.some((w) => w > 0)) yield asBatch(e);
}

async function figures(estimate: Estimate, l: LayerInfo): Promise<LayerFigures> {
  const values = await estimate.eigenvalues(l.name);
  const factors = estimate.factors()[l.name];
  const traceOf = (side: "A" | "G", d: number): number | null => {
    const data = factors?.[side]?.data;
    if (!data) return null;
    const step = l.sides[side] === "diagonal" ? 1 : d + 1;
    let sum = 0;
    for (let g = 0; g < l.groups; g++) for (let k = 0; k < d; k++) sum += data[g * (data.length / l.groups) + k * step] as number;
    return sum;
  };
  const [trace, norm] = [estimate.trace(l.name), estimate.frobenius(l.name)];
  return {
    name: l.name, kind: l.kind, form: l.form, groups: l.groups, dA: l.dA, dG: l.dG, traceA: traceOf("A", l.dA), traceG: traceOf("G", l.dG), trace,
    largest: values.at(-1) as number, median: values[values.length >> 1] as number, effectiveRank: norm > 0 ? (trace / norm) ** 2 : 0,
  };
}

const short = (x: number): string => (Number.isFinite(x) ? x.toPrecision(4) : String(x));

function print(layers: readonly LayerFigures[]): string {
  const many = (l: LayerFigures): string => (l.groups > 1 ? `${l.groups} of ` : "");
  return table(["layer", "kind", "A", "G", "tr A", "tr G", "tr F", "largest", "median", "effective rank"], layers.map((l) => [
    l.name, l.kind, l.form === "block" ? `block ${many(l)}${l.dA * l.dG}` : `${many(l)}${l.dA}`, l.form === "block" ? "–" : `${many(l)}${l.dG}`,
    ...[l.traceA, l.traceG].map((x) => (x === null ? "–" : short(x))), short(l.trace), short(l.largest), short(l.median), `${l.effectiveRank.toPrecision(3)} of ${l.groups * l.dA * l.dG}`,
  ]));
}
