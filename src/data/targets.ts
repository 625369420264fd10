/** Targets of a data set, head by head: which column or array they are, and arrays that the loss takes made of them. */
import { CompileError } from "../../ir/error.js";
import { size, spellShape } from "../../ir/type.js";
import type { ExampleArray } from "../../runtime/batches.js";
import { classLabels, fit, fits, type LabelSpec, placeOf, textLabels } from "./fit.js";
import type { RawArray } from "./idx.js";

/** An output with a loss. */
export interface TargetSpec {
  /** The output's name; absent where only one has a loss and nobody asks. */
  readonly output?: string | undefined;
  /** What the loss wants; absent: targets are not read. */
  readonly labels?: LabelSpec | undefined;
}

/** A head's targets as the file has them. */
export interface LoadedTarget {
  readonly raw?: RawArray | undefined;
  readonly texts?: readonly string[] | undefined;
  readonly classNames?: readonly string[] | undefined;
}

export interface TargetNames {
  /** The column or array of each head, undefined where none was named. */
  readonly heads: readonly (string | undefined)[];
  /** Those of outputs whose loss is switched off. */
  readonly unused: readonly string[];
}

/**
 * `--target COLUMN` for one head, `--target OUTPUT=COLUMN` for several.
 *
 * @throws CompileError "bad-option" where a name belongs to no head, or a head is named twice
 */
export function targetNames(heads: readonly TargetSpec[], given: string | readonly string[] | undefined): TargetNames {
  const texts = typeof given === "string" ? [given] : (given ?? []);
  const made: (string | undefined)[] = heads.map(() => undefined);
  const plain: string[] = [];
  const outputs = heads.flatMap((h) => h.output ?? []);
  for (const text of texts) {
    // names may hold "=": the longest one that fits
    const fitting = outputs.filter((output) => text.startsWith(`${output}=`)).sort((a, b) => b.length - a.length);
    const [output] = fitting;
    const at = heads.findIndex((h) => h.output === output);
    if (output === undefined) plain.push(text);
    else if (made[at] !== undefined) throw new CompileError("bad-option", `two targets for output "${output}"`, `--target ${text}`, "columns go into one: OUTPUT=COLUMN,COLUMN");
    else made[at] = text.slice(output.length + 1);
  }
  // where a single head is left, targets named for other outputs are those of losses that were switched off
  if (heads.length === 1 && made[0] !== undefined) return { heads: made, unused: plain.map((text) => text.slice(text.lastIndexOf("=") + 1)) };
  if (heads.length === 1 && plain.length === 1) return { heads: plain, unused: [] };
  if (plain.length > 0)
    throw new CompileError("bad-option", heads.length === 1 ? "several targets, but one output has a loss" : "it names no output with a loss", `--target ${plain[0]}`, `give OUTPUT=${plain[0]} with one of ${heads.map((h) => h.output).join(", ")}`);
  return { heads: made, unused: [] };
}

/** What the loss takes, made of what the file has. */
export interface TargetContext {
  /** For messages where there is no target. */
  readonly where: string;
  /** The model's only input, fitted, and as the file has it: an autoencoder's targets. */
  readonly only: { readonly array: ExampleArray; readonly raw: RawArray } | undefined;
  /** Names of the classes 0, 1, … as an earlier data set had them. */
  readonly classNames: readonly string[] | undefined;
  readonly notes: string[];
}

/** @throws CompileError "bad-data" */
export function fitTarget({ output }: TargetSpec, labels: LabelSpec, target: LoadedTarget, context: TargetContext): { readonly array: ExampleArray; readonly classNames?: readonly string[] } {
  const { notes, where } = context;
  const named = output === undefined ? "--target" : `--target ${output}=…`;
  const { raw } = target;
  if (labels.kind === "classes") {
    if (raw === undefined) throw new CompileError("bad-data", "no labels", where, `name the target with ${named}`);
    const texts = target.texts === undefined ? undefined : textLabels(raw, target.texts, labels.count, context.classNames, notes);
    const classNames = texts?.names ?? target.classNames;
    return { array: classLabels(texts?.raw ?? raw, labels, notes), ...(classNames && { classNames }) };
  }
  const { only } = context;
  // An autoencoder's data come without targets, or with labels of another shape.
  const reconstructs = only !== undefined && labels.dtype !== "i32" && size(only.array.shape) === size(labels.shape) && (raw === undefined || !fits(raw.shape.slice(1), labels.shape));
  if (raw === undefined && !reconstructs)
    throw new CompileError("bad-data", output === undefined ? "no targets" : `no targets for output "${output}"`, where, `the loss takes targets of ${spellShape(labels.shape)} per example; name them with ${named}`);
  if (reconstructs) notes.push("the inputs are the targets (an autoencoder): no others fit the loss");
  const array: ExampleArray = reconstructs
    ? { shape: labels.shape, data: Float32Array.from(only.array.data) }
    : fit(raw as RawArray, "the target", labels.shape, labels.dtype ?? "f32", 1);
  const [low, high] = labels.range ?? [-Infinity, Infinity];
  const outside = array.data.findIndex((v) => v < low || v > high);
  if (outside >= 0)
    throw new CompileError("bad-data", `target ${array.data[outside]} is outside [${low}, ${high}]`, placeOf(reconstructs ? only.raw : (raw as RawArray), outside),
      reconstructs ? "scale the inputs with --scale" : "check the targets and the loss");
  return { array };
}
