/** From flags to an opened model and compile options. */
import { CompileError } from "../../ir/error.js";
import { type HostOptions, RUN_KNOBS, type RunScalars } from "../../runtime/artifact.js";
import { COMPILE_DEFAULTS, type CompileOptions } from "../compile.js";
import type { Fallback } from "../kfac/diagonal.js";
import type { InverseForm } from "../kfac/precondition.js";
import { LAYER_KINDS, type LayerKindName, type Sharing } from "../kfac/layer.js";
import { type OpenModel, openModel } from "../model.js";
import { kebab, LEARNING_RATES, type Settings } from "../options.js";
import { type HeadSpec, parseHeads } from "../train/heads.js";
import type { FisherKind, LossKind } from "../train/loss.js";

/** `NAME=VALUE`; the name may hold "=" itself. */
function pair(flag: string, text: string): readonly [string, string] {
  const at = text.lastIndexOf("=");
  if (at > 0) return [text.slice(0, at), text.slice(at + 1)];
  throw new CompileError("bad-option", `"${text}" is not NAME=VALUE`, `--${flag}`);
}

function integers(flag: string, text: string, least: number): number[] {
  const list = text.split(",").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
  if (list.every((n) => Number.isSafeInteger(n) && n >= least)) return list;
  throw new CompileError("bad-option", `"${text}" is not a list of whole numbers ≥ ${least}`, `--${flag}`, flag === "batch" ? "e.g. --batch 64 or --batch 64,256" : undefined);
}

function numbers(flag: string, text: string): number[] {
  const list = text.split(",").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
  if (list.every((n) => !Number.isNaN(n))) return list;
  throw new CompileError("bad-option", `"${text}" is not a list of numbers`, `--${flag}`);
}

export function openFor(path: string, s: Settings, mode: "train" | "eval" = "train", dropout = s.on("dropout")): Promise<OpenModel> {
  const shapes = Object.fromEntries(s.list("shape").map((t) => pair("shape", t)).map(([name, text]) => [name, integers("shape", text.replaceAll("x", ","), 1)]));
  const batchAxis = Object.fromEntries(s.list("batch-axis").map((t) => pair("batch-axis", t)).map(([name, text]) => [name, integers("batch-axis", text, -1)[0] as number]));
  const values = Object.fromEntries(s.list("value").map((t) => pair("value", t)).map(([name, text]) => [name, numbers("value", text)]));
  return openModel(path, {
    mode, dropout, ...(s.has("seed") ? { seed: s.number("seed") } : {}), ...(Object.keys(values).length > 0 ? { values } : {}),
    ...(Object.keys(shapes).length > 0 ? { shapes } : {}), ...(Object.keys(batchAxis).length > 0 ? { batchAxis } : {}),
    ...(s.has("freeze") ? { freeze: s.list("freeze") } : {}), ...(s.has("train") ? { train: s.list("train") } : {}), ...(s.has("output") ? { outputs: s.list("output") } : {}),
  });
}

/** Batch sizes as typed: the first one trains. */
export const batchesOf = (s: Settings): readonly number[] => integers("batch", s.text("batch") as string, 1);



const SHARINGS: readonly string[] = ["expand", "reduce", "auto"];

/** `expand` for all layers, `NAME=expand` for one. */
function sharingRules(texts: readonly string[]): Readonly<Record<string, Sharing | "auto">> {
  return Object.fromEntries(texts.map((text) => {
    const [name, rule] = text.includes("=") ? pair("sharing", text) : ["*", text];
    if (!SHARINGS.includes(rule)) throw new CompileError("bad-option", `"${rule}" is none of ${SHARINGS.join(", ")}`, `--sharing ${text}`);
    return [name, rule as Sharing | "auto"];
  }));
}

/** What `register` needs to know; no loss among it. */
export function registerOptions(s: Settings): Pick<CompileOptions, "register" | "layerOverride" | "sharing" | "maxFactor" | "strict" | "fallback"> {
  const kinds = s.list("register").flatMap((t) => t.split(","));
  for (const k of kinds) if (!LAYER_KINDS.includes(k as LayerKindName)) throw new CompileError("bad-option", `no layer kind "${k}"`, "--register", `one of ${LAYER_KINDS.join(", ")}`);
  const rules = s.list("layer").map((t) => pair("layer", t));
  for (const [name, rule] of rules) if (rule !== "dense" && rule !== "skip") throw new CompileError("bad-option", `"${rule}" is neither dense nor skip`, `--layer ${name}=${rule}`);
  return {
    ...(kinds.length > 0 ? { register: kinds as LayerKindName[] } : {}),
    ...(rules.length > 0 ? { layerOverride: Object.fromEntries(rules) as Record<string, "dense" | "skip"> } : {}),
    ...(s.has("sharing") ? { sharing: sharingRules(s.list("sharing")) } : {}),
    maxFactor: s.number("max-factor"), strict: s.on("strict"), fallback: s.text("fallback") as Fallback,
  };
}

export function hostOptions(s: Settings): HostOptions {
  return { factorPeriod: s.number("factor-period"), inversePeriod: s.number("inverse-period"), spreadInverses: s.on("spread-inverses"), burnIn: s.number("burn-in"), emaDebias: s.on("ema-debias"), readbackLag: s.number("readback-lag") };
}

/** All knobs: as given, else their default for the optimiser. */
export function runScalars(s: Settings): RunScalars {
  const values = RUN_KNOBS.map((k) => [k.name, s.number(kebab(k.name))]);
  const lr = s.optionalNumber("lr") ?? LEARNING_RATES[s.text("optimizer") as keyof typeof LEARNING_RATES];
  return { ...(Object.fromEntries(values) as RunScalars), lr };
}

/** A loss for the first output alone is `loss`; anything else `losses`. */
export function lossOptions(s: Settings): { readonly loss?: LossKind; readonly losses?: readonly HeadSpec[] } {
  const specs = parseHeads(s.list("loss"), s.list("loss-weight"));
  const [only] = specs;
  if (specs.length === 1 && only?.output === undefined && typeof only?.kind === "string") return { loss: only.kind };
  return specs.length === 0 ? {} : { losses: specs };
}

export function compileOptions(s: Settings): CompileOptions {
  return {
    ...COMPILE_DEFAULTS, ...registerOptions(s),
    ...lossOptions(s),
    optimizer: s.text("optimizer") as CompileOptions["optimizer"],
    batches: batchesOf(s),
    fisher: { kind: s.text("fisher") as FisherKind, samples: s.number("fisher-samples") },
    inverse: s.text("inverse") as InverseForm,
    ...(s.on("fisher-diagonal") ? { fisherDiagonal: true } : {}),
    weightDecayMode: s.text("weight-decay-mode") as CompileOptions["weightDecayMode"],
    host: hostOptions(s),
    // defaults are left out: a program does not change with the table of defaults
    run: Object.fromEntries(Object.entries(runScalars(s)).filter(([name, value]) => RUN_KNOBS.find((k) => k.name === name)?.default !== value)),
  };
}
