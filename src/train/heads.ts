/**
 * Heads: which outputs of a model have a loss, and how much each counts. The total loss of an example is Σ_heads weight · l.
 *
 * Targets are graph inputs: `target` for one head, `target/<output>` for several.
 */
import { accumulate, type Builder, times } from "../../ir/builder.js";
import { CompileError } from "../../ir/error.js";
import type { Value } from "../../ir/graph.js";
import { derivative, type Loss, type LossKind, type LossSpec, parseLoss, perExample, targetType } from "./loss.js";

export interface Head {
  readonly loss: Loss;
  /** > 0 */
  readonly weight: number;
  /** Name of the graph input that holds its targets. */
  readonly target: string;
  /** Name of the model's output. */
  readonly output: string;
}

/** A loss as asked for. */
export interface HeadSpec {
  /** Default: the first output. */
  readonly output?: string | undefined;
  /** Default: what the model file names, or the output's own end implies. */
  readonly kind?: LossSpec | undefined;
  /** ≥ 0; default 1. 0: no loss there. */
  readonly weight?: number | undefined;
}

/** An output of a model, maybe a known function of `logits` along an axis. */
export interface HeadOutput {
  readonly name: string;
  readonly value: Value;
  readonly head?: { readonly kind: "softmax" | "log-softmax" | "sigmoid"; readonly axis: number; readonly logits: Value };
}

/** What of a model matters here. */
export interface HeadSource {
  readonly name: string;
  readonly outputs: readonly HeadOutput[];
  /** The loss that the model's author named for the first output. */
  readonly loss?: LossSpec;
  /** Losses that the model's author named, by output. */
  readonly losses?: readonly HeadSpec[];
}

const IMPLIED = { softmax: "softmax-ce", "log-softmax": "softmax-ce", sigmoid: "bernoulli-ce" } as const;
export const impliedLoss = (output: HeadOutput): LossKind | undefined => output.head && IMPLIED[output.head.kind];

const spell = (outputs: readonly HeadOutput[]): string => outputs.map((o) => `"${o.name}"`).join(", ");

/**
 * The heads: of losses that were given, else those that the model names, else the one that the first output implies. Differentiated from
 * the logits where an output is a softmax or sigmoid of some.
 *
 * @throws CompileError "bad-option" for an unknown output, a weight below 0 or two losses on one output; "loss-unknown" where nothing says
 *   what the loss is or it does not fit the output.
 */
export function pickHeads(source: HeadSource, given: readonly HeadSpec[] | undefined, notes: string[]): Head[] {
  const { outputs } = source;
  const first = outputs[0];
  if (!first) throw new CompileError("bad-model", "the model has no output", source.name);
  const own = resolved(source, [...(source.losses ?? []), ...(source.losses || source.loss === undefined ? [] : [{ kind: source.loss }])]);
  const asked = resolved(source, given ?? []);
  // losses that are given replace the model's own; weights alone change those
  const chosen = [...asked.values()].some((s) => s.kind !== undefined) ? new Map(asked) : new Map([...own].map(([name, s]) => [name, { ...s, ...asked.get(name) }]));
  for (const [name, s] of asked) if (!chosen.has(name)) chosen.set(name, s);
  const implied = [...chosen.values()].every((s) => s.kind === undefined) && !chosen.has(first.name);
  if (chosen.size === 0 || implied) chosen.set(first.name, {});
  const kept = outputs.flatMap((output) => {
    const spec = chosen.get(output.name);
    if (!spec) return [];
    if (spec.weight !== 0) return [{ output, spec }];
    notes.push(`output "${output.name}" has no loss: its weight is 0`);
    return [];
  });
  if (kept.length === 0) throw new CompileError("bad-option", "every loss has the weight 0", "--loss-weight", "give one a weight above 0");
  if (kept.length === 1 && outputs.length > 1 && chosen.size === 1)
    notes.push(kept[0]?.output === first ? `the loss is taken on the first of ${outputs.length} outputs, "${first.name}"` : `the loss is taken on output "${kept[0]?.output.name}"`);
  if (kept.length > 1 && kept.length < outputs.length && chosen.size < outputs.length)
    notes.push(`no loss on ${spell(outputs.filter((o) => !chosen.has(o.name)))}`);
  return kept.map(({ output, spec }) => ({
    loss: lossOn(source, output, spec.kind, notes), weight: spec.weight ?? 1, output: output.name,
    target: kept.length === 1 ? "target" : `target/${output.name}`,
  }));
}

/** By output name, in which a loss and a weight for one output meet. */
function resolved({ outputs, name }: HeadSource, specs: readonly HeadSpec[]): Map<string, HeadSpec> {
  const made = new Map<string, HeadSpec>();
  for (const { output = outputs[0]?.name as string, kind, weight } of specs) {
    if (!outputs.some((o) => o.name === output)) throw new CompileError("bad-option", `the model has no output "${output}"`, name, `its outputs are ${spell(outputs)}`);
    const before = made.get(output) ?? {};
    if (kind !== undefined && before.kind !== undefined) throw new CompileError("bad-option", `two losses on output "${output}"`, name, "give it one");
    if (weight !== undefined && !(weight >= 0 && Number.isFinite(weight))) throw new CompileError("bad-option", `a weight of ${weight} for output "${output}"`, name, "weights are numbers ≥ 0");
    made.set(output, { ...before, ...(kind === undefined ? {} : { kind }), ...(weight === undefined ? {} : { weight }) });
  }
  return made;
}

function lossOn(source: HeadSource, output: HeadOutput, given: LossSpec | undefined, notes: string[]): Loss {
  const implied = impliedLoss(output);
  const kind = given ?? implied;
  if (!kind)
    throw new CompileError("loss-unknown", `the loss cannot be told from output "${output.name}": it ends in neither Softmax, LogSoftmax nor Sigmoid`,
      source.name, "give --loss softmax-ce | half-sse | bernoulli-ce | mse");
  if (!given) notes.push(`loss ${implied} inferred from the ${output.head?.kind} at the end of ${source.outputs.length > 1 ? `output "${output.name}"` : "the graph"}`);
  const head = kind === implied ? output.head : undefined;
  const z = head ? head.logits : output.value;
  if (z.type.dtype !== "f32") throw new CompileError("loss-unknown", `output "${output.name}" holds ${z.type.dtype}, not floats`, source.name, "cut the model with --output NAME");
  if (z.type.shape.length < 1) throw new CompileError("examples-lost", `output "${output.name}" is a scalar`, source.name, "the loss needs one row per example");
  const axis = head ? head.axis : Math.min(1, z.type.shape.length - 1);
  if (kind === "softmax-ce" && z.type.shape.length < 2) throw new CompileError("loss-unknown", `softmax-ce needs [examples, classes]; "${output.name}" is [${z.type.shape}]`, source.name, "use bernoulli-ce or half-sse");
  return typeof kind === "string" ? { kind, z, axis } : { kind: "custom", custom: kind, z, axis };
}

/**
 * `--loss KIND` or `--loss OUTPUT=KIND`, and `--loss-weight OUTPUT=w`, as typed. Output names may hold "=".
 *
 * @throws CompileError "bad-option"
 */
export function parseHeads(losses: readonly string[], weights: readonly string[]): HeadSpec[] {
  const split = (text: string) => { const at = text.lastIndexOf("="); return at > 0 ? [text.slice(0, at), text.slice(at + 1)] as const : [undefined, text] as const; };
  return [
    ...losses.map((text): HeadSpec => { const [output, kind] = split(text); return { output, kind: parseLoss(kind) }; }),
    ...weights.map((text): HeadSpec => {
      const [output, number] = split(text);
      const weight = number.trim() === "" ? Number.NaN : Number(number);
      if (!(weight >= 0 && Number.isFinite(weight))) throw new CompileError("bad-option", `"${text}" is not OUTPUT=w with a number w ≥ 0`, "--loss-weight", "e.g. --loss-weight aux=0.3");
      return { output, weight };
    }),
  ];
}

// ——— as graphs

/** The graph inputs of the targets. */
export const targetInputs = (b: Builder, heads: readonly Head[]): Map<Head, Value> =>
  new Map(heads.map((head) => [head, b.input(head.target, targetType(head.loss), 0)]));

/** l_n of each head (unweighted) and their weighted sum, [N]. */
export function headLosses(b: Builder, heads: readonly Head[], targets: ReadonlyMap<Head, Value>): { readonly each: ReadonlyMap<Head, Value>; readonly total: Value } {
  const each = new Map(heads.map((head) => [head, perExample(b, head.loss, targets.get(head) as Value)]));
  const total = [...each].map(([head, l]) => times(b, l, head.weight)).reduce((x, y) => b.emit("add", [x, y]));
  return { each, total };
}

/** ∂(Σ weight · l_n)/∂z at every z that a head starts from. */
export function headSeeds(b: Builder, heads: readonly Head[], targets: ReadonlyMap<Head, Value>): Map<Value, Value> {
  const seeds = new Map<Value, Value>();
  for (const head of heads) accumulate(b, seeds, head.loss.z, times(b, derivative(b, head.loss, targets.get(head) as Value), head.weight));
  return seeds;
}
