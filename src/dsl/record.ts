/** The notes a model builder takes: names, steps and shapes. What a layer means is in nn.ts. */
import { broadcastShape } from "../../ir/builder.js";
import { CompileError, type ErrorCode } from "../../ir/error.js";
import type { Source } from "../../ir/graph.js";
import { size, spellShape } from "../../ir/type.js";
import type { LossSpec } from "../train/loss.js";
import { define, type ModelDefinition, type Operand, Replay, type Step, type StepAttrs, whereIs } from "./model.js";

/** A value of the model: an input, a parameter or a layer's result. */
export interface Tensor {
  /** Of one example; of a parameter, its own. */
  readonly shape: readonly number[];
  readonly dtype: "f32" | "i32";
  /** False: the same for every example (a parameter, or computed from parameters alone). */
  readonly perExample: boolean;
}

export type Init = "he" | "glorot" | "zeros" | "ones" | readonly number[];

/** Shapes are inferred with this many examples: not 1, which broadcasts. */
const BATCH = 2;

/** Of any layer. */
const OPTION_NAMES: ReadonlySet<string> = new Set(["name", "bias", "init", "stride", "pad", "dilation", "groups", "outputPad", "countPad", "epsilon", "momentum", "frozen"]);

export class Recorder {
  readonly #model: string;
  readonly #seed: number;
  readonly #replay: Replay;
  readonly #steps: Step[] = [];
  readonly #numbers = new Map<Tensor, number>();
  readonly #names = new Set<string>();
  readonly #counts = new Map<string, number>();
  readonly #outputs: ModelDefinition["outputs"][number][] = [];

  constructor(model: string, seed: number) {
    this.#model = model;
    this.#seed = seed;
    this.#replay = new Replay(model, BATCH);
  }

  input(name: string, shape: readonly number[], dtype: "f32" | "i32"): Tensor {
    this.shape(name, shape);
    this.#own(name);
    return this.#keep({ kind: "input", name, shape: [...shape], dtype }, true);
  }

  param(name: string, shape: readonly number[], init: Init, trainable = true): Tensor {
    this.shape(name, shape);
    this.#own(name);
    return this.#keep({ kind: "param", name, shape: [...shape], source: this.#source(name, shape, init), trainable }, false);
  }

  output(name: string, x: Tensor, loss: LossSpec | undefined, weight: number | undefined): void {
    const step = this.number(x, name);
    if (!x.perExample) throw this.error(name, "bad-model", "an output that does not depend on the inputs");
    if (this.#outputs.some((o) => o.name === name)) throw this.error(name, "bad-model", `two outputs are named "${name}"`);
    this.#outputs.push({ name, step, ...(loss === undefined ? {} : { loss }), ...(weight === undefined ? {} : { weight }) });
  }

  finish(): ModelDefinition {
    if (this.#outputs.length === 0) throw new CompileError("bad-model", "the model has no output", `model "${this.#model}"`, 'name one with m.output("logits", h)');
    const { loss } = this.#outputs[0] ?? {};
    return define({ name: this.#model, steps: this.#steps, outputs: this.#outputs, ...(typeof loss === "string" ? { loss } : {}) });
  }

  /**
   * Broadcasting aligns axes at the right, where the examples of a smaller operand would end up among the features of a larger one:
   * axes of 1 after its examples keep them in front. `stack`: the axes that broadcast.
   */
  aligned(layer: string, operands: readonly (Tensor | number)[], stack: (x: Tensor) => readonly number[]): readonly (Tensor | Operand)[] {
    const tensors = operands.filter((v) => typeof v !== "number");
    try {
      tensors.map(stack).reduce((a, b) => broadcastShape(a, b));
    } catch {
      throw this.error(layer, "shape-mismatch", `${tensors.map((v) => spellShape(v.shape)).join(" and ")} do not broadcast together`);
    }
    const rank = Math.max(...tensors.map((v) => v.shape.length));
    const dtype = tensors[0]?.dtype ?? "f32";
    return operands.map((v) => {
      if (typeof v === "number") return { number: v, dtype };
      const missing = v.perExample ? rank - v.shape.length : 0;
      return missing === 0 ? v : this.op(layer, "Unsqueeze", [v, { ints: Array.from({ length: missing }, (_, k) => k + 1) }]);
    });
  }

  op(layer: string, op: string, inputs: readonly (Tensor | Operand)[], attrs: StepAttrs = {}): Tensor {
    const operands = inputs.map((v): Operand => ("perExample" in v ? { step: this.number(v, layer) } : v));
    const perExample = inputs.some((v) => "perExample" in v && v.perExample);
    return this.#keep({ kind: "op", op, layer, inputs: operands, attrs }, perExample);
  }

  /** Records a step and infers its shape by making it once. */
  #keep(step: Step, perExample: boolean): Tensor {
    const { shape, dtype } = this.#replay.add(step).type;
    const tensor: Tensor = Object.freeze({ shape: Object.freeze(shape.slice(perExample ? 1 : 0)), dtype: dtype as Tensor["dtype"], perExample });
    this.#numbers.set(tensor, this.#steps.length);
    this.#steps.push(step);
    return tensor;
  }

  number(x: Tensor, layer: string): number {
    const step = this.#numbers.get(x);
    if (step !== undefined) return step;
    const what = typeof x === "object" && x !== null && "perExample" in x ? "a value of another model" : `${x === null ? "null" : typeof x === "object" ? "an object" : typeof x} instead of a value of the model`;
    throw this.error(layer, "bad-model", `got ${what}`, "use what m.input, m.dense and the others return");
  }

  floats(layer: string, x: Tensor): Tensor {
    this.number(x, layer);
    if (x.dtype !== "f32") throw this.error(layer, "shape-mismatch", "takes floats, got whole numbers");
    return x;
  }

  /** The layer's name: given and new, or made up. */
  layer(kind: string, options: { readonly name?: string }): string {
    const { name } = options;
    // a misspelt option must not pass as a default, which is what JavaScript would make of it
    const unknown = Object.keys(options).find((key) => !OPTION_NAMES.has(key));
    if (unknown !== undefined) throw this.error(name ?? kind, "bad-attribute", `there is no option "${unknown}"`, `options are ${[...OPTION_NAMES].join(", ")}`);
    let made = name;
    while (made === undefined) {
      const count = (this.#counts.get(kind) ?? 0) + 1;
      this.#counts.set(kind, count);
      if (!this.#names.has(`${kind}${count}`)) made = `${kind}${count}`;
    }
    this.#own(made);
    return made;
  }

  #own(name: string): void {
    if (typeof name !== "string" || name === "") throw this.error(String(name), "bad-option", "a name is a text that is not empty");
    if (this.#names.has(name)) throw this.error(name, "bad-option", `the name "${name}" is taken`, "give it another one");
    this.#names.add(name);
  }

  #source(name: string, shape: readonly number[], init: Init): Source {
    if (typeof init !== "string") {
      if (init.length !== size(shape)) throw this.error(name, "shape-mismatch", `${init.length} values for ${spellShape(shape)}`);
      return { kind: "values", values: [...init] };
    }
    if (init === "he" || init === "glorot") return { kind: init, seed: this.#seed };
    if (init !== "zeros" && init !== "ones") throw this.error(name, "bad-option", `no initialisation "${init as string}"`, "he, glorot, zeros, ones or a list of numbers");
    return { kind: init };
  }

  shape(layer: string, shape: readonly number[]): void {
    if (!Array.isArray(shape) || !shape.every((n) => Number.isSafeInteger(n) && n > 0))
      throw this.error(layer, "bad-option", `a shape is a list of whole numbers > 0, got ${JSON.stringify(shape)}`, "leave the examples out");
    if (size(shape) >= 2 ** 31) throw this.error(layer, "too-large", `a tensor of ${spellShape(shape)}`);
  }

  count(layer: string, what: string, n: number): void {
    if (!Number.isSafeInteger(n) || n < 1) throw this.error(layer, "bad-option", `${what} must be a whole number ≥ 1, got ${n}`);
  }

  /** An axis of each example, as the graph counts it. */
  axis(layer: string, x: Tensor, axis: number): number {
    this.number(x, layer);
    const rank = x.shape.length;
    const at = axis < 0 ? axis + rank : axis;
    if (!Number.isInteger(at) || at < 0 || at >= rank) throw this.error(layer, "bad-attribute", `no axis ${axis} in ${spellShape(x.shape)}`, "the examples are not among the axes");
    return at + Number(x.perExample);
  }

  error(layer: string, code: ErrorCode, message: string, hint?: string): CompileError {
    return new CompileError(code, message, whereIs(layer, this.#model), hint);
  }
}
