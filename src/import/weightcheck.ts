/** What the first values of weights have wrong or unusual with them. */
import { CompileError } from "../../ir/error.js";
import { type OnnxTensor, onnxType } from "./model.js";

/** Names that a note lists. */
const LISTED = 3;
const spellNames = (names: readonly string[]): string => `${names.slice(0, LISTED).map((n) => `"${n}"`).join(", ")}${names.length > LISTED ? ", …" : ""}`;

/** A trained weight must begin finite: one NaN makes every loss NaN. (Evaluation passes it on, as other runtimes do.) @throws bad-model */
export function finite(name: string, values: ArrayLike<number>): void {
  for (let k = 0; k < values.length; k++)
    if (!Number.isFinite(values[k]))
      throw new CompileError("bad-model", `element ${k} of a weight is ${values[k]}, so that training cannot begin`, `tensor "${name}"`, "the file comes from a run that diverged, or is damaged; or keep the tensor with --freeze");
}

/** One line for each thing to know about a model's weights, however many they are. */
export function weightNotes(
  params: ReadonlyMap<string, { readonly tensor: OnnxTensor } | { readonly array: unknown }>, weights: ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: Float32Array }>, trained: ReadonlySet<string>,
): string[] {
  const wide = new Map<string, string[]>();
  for (const [name, p] of params) {
    const stored = "tensor" in p ? onnxType(p.tensor.type) : undefined;
    if (stored === "double" || stored === "float16" || stored === "bfloat16") wide.set(stored, [...(wide.get(stored) ?? []), name]);
  }
  const equal = [...weights].filter(([name, { shape, data }]) => trained.has(name) && shape.length > 1 && data.length > 1 && data.every((v) => v === data[0])).map(([name]) => name);
  return [
    ...[...wide].map(([type, names]) => `weights stored as ${type} are float32 here, and ${type} again in --out: ${names.length} (${spellNames(names)})`),
    ...(equal.length === 0 ? [] : [`weights that are one number throughout: ${equal.length} (${spellNames(equal)}); what they feed learns the same everywhere, so start from trained or random ones (--weights)`]),
  ];
}
