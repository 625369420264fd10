/**
 * A model written in TypeScript: what `model()` records, and how the record becomes a graph for any number of examples.
 *
 * The record is plain data under a well-known symbol, because a model file may be loaded with a second copy of this package. Its
 * operations are those of ONNX, written into the graph by the importer's own functions: the same net from either front end
 * is the same graph.
 */
import { Builder } from "../../ir/builder.js";
import { CompileError } from "../../ir/error.js";
import type { Source, Value } from "../../ir/graph.js";
import type { NdArray } from "../../ir/ndarray.js";
import type { Emit } from "../../ir/op.js";
import { type DType, size } from "../../ir/type.js";
import type { ForwardModel } from "../compile.js";
import { Context, type Head, type Host } from "../import/context.js";
import type { OnnxAttr } from "../import/model.js";
import { IMPORT_OPS } from "../import/ops/index.js";
import { DROPOUT_STREAMS, drawKeys } from "../import/run.js";
import { MAX_ELEMENTS } from "../import/tensor.js";
import type { HeadSpec } from "../train/heads.js";
import type { LossKind, LossSpec } from "../train/loss.js";
import { initialValues } from "./init.js";

/** The brand of a model definition. Its value is the version of the record. */
export const MODEL = Symbol.for("kfacc.model");
const VERSION = 2;

/** What ops mean here: newer opsets normalise groups per channel and take axes as inputs. */
const OPSET = 21;

/** An earlier step's result, a number, or a list of integers (shapes, axes). */
export type Operand = { readonly step: number } | { readonly number: number; readonly dtype: DType } | { readonly ints: readonly number[] };
export type StepAttrs = Readonly<Record<string, number | string | readonly number[]>>;

/** `shape` is that of one example: the graph has the examples in front. */
export interface InputStep {
  readonly kind: "input";
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: "f32" | "i32";
}
export interface ParamStep {
  readonly kind: "param";
  readonly name: string;
  readonly shape: readonly number[];
  readonly source: Source;
  readonly trainable: boolean;
}
export interface OpStep {
  readonly kind: "op";
  readonly op: string;
  /** The layer's name, for messages. */
  readonly layer: string;
  readonly inputs: readonly Operand[];
  readonly attrs: StepAttrs;
}
export type Step = InputStep | ParamStep | OpStep;

export interface ModelDefinition {
  readonly [MODEL]: number;
  readonly name: string;
  readonly steps: readonly Step[];
  readonly outputs: readonly { readonly name: string; readonly step: number; readonly loss?: LossSpec; readonly weight?: number }[];
  /** Of the first output, if it is one by name. */
  readonly loss?: LossKind;
}

export type DslModel = ForwardModel & { readonly losses?: readonly HeadSpec[] };

export const define = (parts: Omit<ModelDefinition, typeof MODEL>): ModelDefinition => ({ [MODEL]: VERSION, ...parts });

/** Whether a value is what `model()` returns, whichever copy of the package made it. */
export const isModel = (value: unknown): value is ModelDefinition =>
  typeof value === "object" && value !== null && (value as Partial<ModelDefinition>)[MODEL] !== undefined;

/** Where messages point. */
export const whereIs = (layer: string, model: string): string => `layer "${layer}" of model "${model}"`;

export interface ReplayOptions {
  /** Default "train": batch statistics and dropout, with an evaluation graph beside them. */
  readonly mode?: "train" | "eval";
  /** False: dropout passes its input on in training, too. */
  readonly dropout?: boolean;
}

/**
 * The graph for `batch` examples, with first weights.
 *
 * @throws CompileError "bad-model" if the record is of another version; "bad-option" for an impossible batch.
 */
export function toForward(definition: ModelDefinition, batch: number, options: ReplayOptions = {}): DslModel {
  const { name } = definition;
  if (definition[MODEL] !== VERSION)
    throw new CompileError("bad-model", `it was recorded by another version of kfacc/dsl (${definition[MODEL]}, not ${VERSION})`, `model "${name}"`, "use one version of kfacc for the model file and the command");
  if (!(Number.isSafeInteger(batch) && batch >= 1)) throw new CompileError("bad-option", `a batch of ${batch} examples`, "--batch", "give a positive whole number");
  const { replay, ...train } = replayed(definition, batch, options);
  const weights = new Map(train.graph.params.map(({ value: { name: param, type }, source }) => {
    const table = replay.tables.get(param);
    return [param, { shape: type.shape, data: table ? Float32Array.from(table.data) : initialValues(param, type.shape, source) }] as const;
  }));
  const updates = [...replay.updates].map(([param, value]) => ({ param, value }));
  const { replay: _, ...evaluation } = replay.differs ? replayed(definition, batch, { mode: "eval" }) : { replay };
  return { name, ...train, weights, ...(replay.differs ? { updates, evaluation: evaluation as typeof train } : {}), ...lossesOf(definition) };
}

function replayed({ name, steps, outputs }: ModelDefinition, batch: number, options: ReplayOptions): Pick<DslModel, "graph" | "outputs"> & { readonly replay: Replay } {
  const replay = new Replay(name, batch, new Set(steps.flatMap((s) => (s.kind === "op" ? [] : [s.name]))), options);
  const values = steps.map((step) => replay.add(step));
  const results = outputs.map((o) => ({ name: o.name, value: values[o.step] as Value }));
  return { replay, graph: replay.builder.finish(results), outputs: results.map((r) => ({ ...r, ...headOf(replay.heads.get(r.value)) })) };
}

/** `loss` alone where the first output has one by name and nothing else is said. */
function lossesOf(definition: ModelDefinition): Pick<DslModel, "loss" | "losses"> {
  const { loss, outputs } = definition;
  const said = outputs.flatMap(({ name, loss: kind, weight }): HeadSpec[] => (kind === undefined && weight === undefined ? [] : [{ output: name, kind, weight }]));
  return { ...(loss === undefined ? {} : { loss }), ...(said.length > (loss === undefined ? 0 : 1) || said[0]?.weight !== undefined ? { losses: said } : {}) };
}

const headOf = (head: Head | undefined): { head?: Head } => (head ? { head } : {});

/** Steps as nodes of a graph. */
export class Replay {
  readonly builder: Builder;
  readonly heads = new Map<Value, Head>();
  /** Numbers of parameters that are computed, not initialised (how many taps of a pool count at the border). */
  readonly tables = new Map<string, NdArray>();
  /** What a training step leaves in parameters that are not trained. */
  readonly updates = new Map<string, Value>();
  /** Some layer does something else in evaluation. */
  differs = false;
  readonly #model: string;
  readonly #batch: number;
  readonly #options: ReplayOptions;
  #keys: readonly [Value, Value] | undefined;
  #streams = 0;
  readonly #reserved: ReadonlySet<string>;
  readonly #values: Value[] = [];
  #known = new Map<string, NdArray>();
  #next = 0;

  /** @param reserved names of inputs and parameters, which no other value may take */
  constructor(model: string, batch: number, reserved: ReadonlySet<string> = new Set(), options: ReplayOptions = {}) {
    this.#options = options;
    this.builder = new Builder(model);
    this.#model = model;
    this.#batch = batch;
    this.#reserved = reserved;
  }

  /** Appends what a step says. @throws CompileError pointing at the layer. */
  add(step: Step): Value {
    const value = this.#made(step);
    this.#values.push(value);
    return value;
  }

  #made(step: Step): Value {
    switch (step.kind) {
      case "input": return this.builder.input(step.name, { dtype: step.dtype, shape: [this.#batch, ...step.shape] }, 0);
      case "param": return this.builder.param(step.name, { dtype: "f32", shape: step.shape }, step.source, step.trainable);
      case "op": return this.#op(step);
      default: return step satisfies never;
    }
  }

  #op({ op, layer, inputs, attrs }: OpStep): Value {
    const importOp = IMPORT_OPS.get(op);
    if (!importOp) throw new CompileError("internal", `no op "${op}"`, whereIs(layer, this.#model));
    this.#known = new Map();
    const node = {
      name: layer, op, domain: "", outputs: [layer],
      inputs: inputs.map((operand, k) => this.#nameOf(operand, k)),
      attrs: new Map(Object.entries(attrs).map(([name, value]) => [name, attribute(name, value)])),
    };
    this.builder.origin = layer;
    try {
      const made = importOp(new Context(node, this.#host));
      return (Array.isArray(made) ? made[0] : made) as Value;
    } catch (e) {
      throw e instanceof CompileError ? new CompileError(e.code, e.message, whereIs(layer, this.#model), e.hint) : e;
    } finally {
      this.builder.origin = undefined;
    }
  }

  /** Operands are looked up by name, as the importer does it: steps by number, constants by their place. */
  #nameOf(operand: Operand, k: number): string {
    if ("step" in operand) return String(operand.step);
    const name = `=${k}`;
    const [dtype, shape, data] = "ints" in operand ? (["i32", [operand.ints.length], operand.ints] as const) : ([operand.dtype, [], [operand.number]] as const);
    this.#known.set(name, { dtype, shape, data: Float64Array.from(data) });
    return name;
  }

  readonly #emit: Emit = (op, inputs, attrs) => {
    let name: string;
    do name = `v${this.#next++}`;
    while (this.#reserved.has(name));
    const made = this.builder.node(op, inputs, attrs, [], [name]).results[0] as Value;
    if (!(size(made.type.shape) < MAX_ELEMENTS)) throw new CompileError("too-large", `a tensor of [${made.type.shape.join(", ")}]`);
    return made;
  };

  readonly #scalars = new Map<string, Value>();
  #scalar(value: number, dtype: DType): Value {
    const key = `${dtype}:${Object.is(value, -0) ? "-0" : value}`;
    const made = this.#scalars.get(key) ?? this.#emit("constant", [], { value, dtype });
    this.#scalars.set(key, made);
    return made;
  }

  #value(name: string): Value {
    const known = this.#known.get(name);
    if (!known) return this.#values[Number(name)] as Value;
    if (known.shape.length > 0) throw new CompileError("internal", "a list of integers is no operand of the graph");
    return this.#scalar(known.data[0] as number, known.dtype);
  }

  #noise(shape: readonly number[]): Value {
    this.differs = true;
    this.#keys ??= drawKeys(this.builder);
    return this.#emit("uniform", this.#keys, { shape: [...shape], stream: DROPOUT_STREAMS + this.#streams++ });
  }

  /** A parameter that is not trained. */
  #running(name: string): string | undefined {
    const value = this.#values[Number(name)];
    return this.builder.params.find((p) => p.value === value && !p.trainable)?.value.name;
  }

  // made when the mode is known
  get #host(): Host {
    return { ...this.#plainHost, mode: this.#options.mode ?? "train" };
  }

  readonly #plainHost: Omit<Host, "mode"> = {
    opset: OPSET, rebind: undefined, heads: this.heads, emit: this.#emit,
    value: (name) => this.#value(name),
    shapeOf: (name) => this.#known.get(name)?.shape ?? this.#value(name).type.shape,
    dtypeOf: (name) => this.#known.get(name)?.dtype ?? this.#value(name).type.dtype,
    numbers: (name) => this.#known.get(name),
    scalar: (value, dtype) => this.#scalar(value, dtype),
    table: (name, array) => {
      const value = this.builder.param(name, { dtype: "f32", shape: array.shape }, { kind: "file" }, false);
      this.tables.set(value.name, array);
      return value;
    },
    note: () => {},
    isRead: () => true,
    external: () => { throw new CompileError("internal", "a recorded model has no files"); },
    place: () => undefined,
    setPlace: () => {},
    running: (name) => this.#running(name),
    update: (param, value) => this.updates.set(param, value),
    differs: () => { this.differs = true; },
    noise: (shape) => ((this.#options.mode ?? "train") === "train" && (this.#options.dropout ?? true) ? this.#noise(shape) : undefined),
  };
}

const attribute = (name: string, value: number | string | readonly number[]): OnnxAttr => ({
  name, t: undefined, strings: [], opaque: false,
  f: typeof value === "number" ? value : undefined,
  i: typeof value === "number" ? value : undefined,
  s: typeof value === "string" ? value : undefined,
  floats: typeof value === "object" ? value : [],
  ints: typeof value === "object" ? value : [],
});
