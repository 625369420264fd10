/** The files of a generated module, as text: what to write is decided here, writing is the caller's. */
import { type Artifact, targetsOf } from "../../runtime/artifact.js";
import { moduleTypes, oneLine, property } from "./types.js";
import { withUses } from "./usage.js";

export interface ModuleOptions {
  /** Specifier of the runtime in imports: "kfacc/runtime", or "./runtime/index.js" for a folder that stands alone. */
  readonly runtime: string;
  /** Of the compiler. */
  readonly version: string;
  /** Lines about the program for the head of index.js. */
  readonly summary: readonly string[];
}

/** What `plan.json` holds: the artifact and where its kernels are. */
export interface ModulePlan extends Artifact {
  readonly kernelFiles: readonly string[];
}

/** `kernels/07_contract_64x10.wgsl`: in the plan's order, which is that of first use; behind them their variants, `….subgroups.wgsl`. */
export function kernelFiles(artifact: Artifact): string[] {
  const { kernels } = artifact.plan;
  const digits = Math.max(2, String(kernels.length - 1).length);
  const stems = kernels.map((k, i) => `kernels/${String(i).padStart(digits, "0")}_${k.name.replace(/[^A-Za-z0-9_.-]+/g, "_").slice(0, 80)}`);
  const files = stems.map((stem) => `${stem}.wgsl`);
  kernels.forEach((k, i) => { for (const v of k.variants ?? []) files[v.source] = `${stems[i]}.${v.feature}.wgsl`; });
  return files;
}

/** Kernel of each source. */
function owners({ kernels }: Artifact["plan"]): number[] {
  const of = kernels.map((_, i) => i);
  kernels.forEach((k, i) => { for (const v of k.variants ?? []) of[v.source] = i; });
  return of;
}

/** Path → text. Same artifact, same bytes. `weights.safetensors` is not among them. */
export function moduleFiles(artifact: Artifact, sources: readonly string[], options: ModuleOptions): ReadonlyMap<string, string> {
  const files = kernelFiles(artifact);
  const of = owners(artifact.plan);
  const plan: ModulePlan = { ...artifact, kernelFiles: files };
  return new Map([
    ...files.map((file, i) => [file, withNewline(withUses(sources[i] as string, of[i] as number, artifact.plan))] as const),
    ["index.d.ts", moduleTypes(artifact, options.runtime)],
    ["index.js", indexSource(artifact, options)],
    // last: a folder with a plan has everything the plan names
    ["plan.json", `${JSON.stringify(plan, undefined, 1)}\n`],
  ]);
}

const withNewline = (text: string): string => (text.endsWith("\n") ? text : `${text}\n`);

function indexSource(artifact: Artifact, { runtime, version, summary }: ModuleOptions): string {
  const inputs = artifact.inputs.map((i) => `${i.name} ${i.dtype}[${[...i.shape.slice(0, i.examples ?? 0), ...(i.examples === null ? [] : ["N"]), ...i.shape.slice(i.examples ?? 0)].join(", ")}]`);
  const lines = [
    `${artifact.name}: a ${artifact.optimizer} training program for WebGPU. Made by kfacc ${version}; changes are lost when it runs again.`,
    "",
    ...summary,
    `inputs   ${inputs.join(", ")}`,
    ...targetsOf(artifact).map((t) => `${t.name.padEnd(8)} ${t.dtype}[${["N", ...t.shape].join(", ")}]${t.classes === null ? "" : `, classes 0 … ${t.classes - 1}`}, loss ${t.loss}${t.weight === 1 ? "" : ` times ${t.weight}`}`),
    "",
    ...layerLines(artifact),
    "",
    ...entryLines(artifact),
    "",
    "  const trainer = await load();",
    `  const { loss } = trainer.step({ ${exampleBatch(artifact)} });`,
    "  console.log(await loss);",
  ];
  return `/*
${lines.map((l) => ` * ${oneLine(l)}`.trimEnd()).join("\n")}
 */
import { loadModule } from ${JSON.stringify(runtime)};

export const load = (options = {}) => loadModule(new URL("./", import.meta.url), options);
`;
}

function layerLines({ layers, orphans }: Artifact): string[] {
  const rows = layers.map((l) => [l.name, l.kind, l.params.bias ?? "–", String(l.T), String(l.dA), String(l.dG)]);
  const all = [["layer", "kind", "bias", "T", "A", "G"], ...rows];
  const widths = (all[0] as string[]).map((_, c) => Math.max(...all.map((r) => (r[c] as string).length)));
  return [
    ...(rows.length > 0 ? all.map((r) => r.map((cell, c) => cell.padEnd(widths[c] as number)).join("  ")) : []),
    ...orphans.map((o) => `${o.param}: no layer (${o.reason}); ${o.update}`),
  ];
}

/** What a user passes to `step`, spelled for the largest batch. */
function exampleBatch(artifact: Artifact): string {
  const { inputs, batches } = artifact;
  const tensor = (name: string, shape: readonly number[], dtype: string) => {
    const size = shape.reduce((n, d) => n * d, 1);
    return `${property(name)}: { shape: [${shape.join(", ")}], data: new ${dtype === "i32" ? "Int32Array" : "Float32Array"}(${size}) }`;
  };
  const batch = batches[0] as number;
  const full = (shape: readonly number[], examples: number | null) => (examples === null ? shape : [...shape.slice(0, examples), batch, ...shape.slice(examples)]);
  const targets = targetsOf(artifact);
  const each = targets.map((t) => tensor(targets.length === 1 ? "target" : t.output, full(t.shape, 0), t.dtype));
  return [...inputs.map((i) => tensor(i.name, full(i.shape, i.examples), i.dtype)), targets.length === 1 ? each[0] : `target: { ${each.join(", ")} }`].join(", ");
}

/** What the plan's entries do. Kernel files name them in their heads; suffixes say the rest. */
const ENTRIES: Readonly<Record<string, string>> = {
  step: "forward, backward and update",
  front: "forward and backward",
  gradients: "the same, added to the gradients of earlier batches",
  absorb: "statistics of accumulated batches into the running averages",
  refresh: "damped inverses of A and G",
  back: "preconditioned gradient, momentum, update",
  evaluate: "loss and correct answers",
  predict: "the model's own outputs",
};

function entryLines({ plan, batches }: Artifact): string[] {
  const names = Object.keys(plan.entries);
  const known = Object.entries(ENTRIES).filter(([entry]) => names.some((n) => n.split(/[.@]/)[0] === entry));
  const stats = names.some((n) => n.includes(".stats")) ? "; .stats adds the factors A and G" : "";
  return [
    `entries of plan.json, in the heads of kernels/*.wgsl (@${batches.join(", @")}: batch size; .masked: padded or weighted examples${stats})`,
    ...known.map(([entry, doc]) => `  ${entry.padEnd(10)} ${doc}`),
  ];
}
