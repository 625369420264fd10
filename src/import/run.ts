/** One import of a model at a given batch: every ONNX node becomes IR or, where all its inputs are known, numbers. */
import { Builder } from "../../ir/builder.js";
import { CompileError } from "../../ir/error.js";
import type { Graph, Value } from "../../ir/graph.js";
import type { NdArray } from "../../ir/ndarray.js";
import type { Emit } from "../../ir/op.js";
import { type DType, size, spellType } from "../../ir/type.js";
import { Context, type Head, type Host, type Rebind, type Result } from "./context.js";
import { Folder } from "./fold.js";
import { taken } from "./functions.js";
import { constantTensor } from "./ops/constant.js";
import type { Binding } from "./inputs.js";
import { LegacyContext, MODERN_OPSET } from "./legacy.js";
import { type Loaded, type OnnxNode, type OnnxTensor, onnxType, spellNode } from "./model.js";
import { IMPORT_OPS } from "./ops/index.js";
import type { Place } from "./rebind.js";
import type { Roles } from "./roles.js";
import { asI32, decodeTensor, irType, MAX_ELEMENTS, numericType } from "./tensor.js";

/** What the name of an ONNX value stands for. */
type Operand =
  | { readonly kind: "value"; readonly value: Value }
  | { readonly kind: "known"; readonly array: NdArray }
  | { readonly kind: "weight"; readonly tensor: OnnxTensor; readonly trainable: boolean };

/** A parameter's first numbers: of a stored tensor (decoded when asked for) or computed at import. */
export type ParamData = { readonly tensor: OnnxTensor } | { readonly array: NdArray };

export interface RunOptions {
  readonly mode: "train" | "eval";
  readonly frozen: (name: string) => boolean;
  /** The nodes to import, in order; and the values wanted. */
  readonly nodes: readonly OnnxNode[];
  readonly outputs: readonly string[];
  /** Inputs that are known numbers. */
  readonly values?: ReadonlyMap<string, NdArray>;
  /** Whether Dropout nodes draw in training. */
  readonly dropout: boolean;
}

/** Ops of models whose weights are 8-bit integers with a scale. */
const QUANTIZED = /^(QLinear.*|QGemm|QAttention|QMoE|(Dynamic)?QuantizeLinear|DequantizeLinear|ConvInteger|MatMulInteger.*|DynamicQuantize.*|MatMulNBits)$/;

/** Streams of random numbers below this are the losses' own. */
export const DROPOUT_STREAMS = 1024;

/** What every draw of a step is keyed by: knobs of the program, not inputs of the model. */
export const drawKeys = (b: Builder): readonly [Value, Value] => [b.input("run.seed", { dtype: "u32", shape: [] }), b.input("run.step", { dtype: "u32", shape: [] })];

export class Run {
  readonly builder: Builder;
  readonly heads = new Map<Value, Head>();
  readonly params = new Map<string, ParamData>();
  readonly notes = new Set<string>();
  /** What a training step leaves in parameters that are not trained, by name. */
  readonly updates = new Map<string, Value>();
  /** Some node does something else in evaluation than in training. */
  differs = false;
  #keys: readonly [Value, Value] | undefined;
  #streams = 0;
  readonly #operands = new Map<string, Operand>();
  readonly #shapes = new Map<string, readonly number[]>();
  readonly #places = new Map<string, Place>();
  readonly #fromShapes = new Set<string>();
  readonly #materialized = new Map<string, Value>();
  readonly #scalars = new Map<string, Value>();
  readonly #folder = new Folder();
  readonly #reserved: ReadonlySet<string>;
  readonly #read: ReadonlySet<string>;
  #next = 0;

  constructor(
    readonly loaded: Loaded, readonly roles: Roles, readonly binding: Binding, readonly batch: number, readonly options: RunOptions,
    /** Shapes of the import at the file's own batch, when this one has another. */
    readonly fileShapes?: ReadonlyMap<string, readonly number[]>,
  ) {
    const { graph } = loaded;
    this.builder = new Builder(graph.name === "" ? "model" : graph.name);
    this.#read = new Set([...options.outputs, ...options.nodes.flatMap((n) => n.inputs)]);
    // parameters and inputs keep their ONNX names: no intermediate value may take one first
    this.#reserved = new Set([...graph.inputs.map((v) => v.name), ...graph.initializers.keys(), ...graph.nodes.flatMap((n) => n.outputs)]);
    for (const [name, array] of options.values ?? []) this.#set(name, { kind: "known", array });
    for (const input of binding.inputs) {
      const shape = input.shape(batch);
      this.#set(input.name, { kind: "value", value: this.builder.input(input.name, { dtype: input.dtype, shape }, input.examples) });
      if (fileShapes && input.examples !== undefined) this.#places.set(input.name, { axis: input.examples, inner: 1 });
    }
  }

  /** Shapes of all values by ONNX name, once run. */
  get shapes(): ReadonlyMap<string, readonly number[]> {
    return this.#shapes;
  }

  run(): this {
    for (const node of this.options.nodes) {
      this.builder.origin = spellNode(node, this.loaded.opset);
      try {
        this.#node(node);
      } catch (e) {
        throw this.#placed(e, node);
      }
    }
    this.builder.origin = undefined;
    return this;
  }

  finish(): Graph {
    return this.builder.finish(this.options.outputs.map((name) => ({ name, value: this.value(name) })));
  }

  #node(asked: OnnxNode): void {
    const node = taken(asked, (name) => this.#numbers(name));
    if (!node) return;
    const { op, domain } = node;
    const importOp = IMPORT_OPS.get(domain === "" ? op : `${domain}.${op}`);
    if (!importOp) {
      if (QUANTIZED.test(op))
        throw new CompileError("unsupported-op", `ONNX op "${op}": the model is quantised to integers, which are not trained`, undefined, "use the float model that it was made from");
      const computed = node.inputs.find((name) => this.loaded.graph.nodes.some((other) => other.outputs.includes(name)));
      throw new CompileError("unsupported-op", `ONNX op "${domain === "" ? op : `${domain}.${op}`}" is not supported`, undefined,
        computed && computed !== "" ? `cut the model before it with --output "${computed}"` : "nothing is computed before it that the model could be cut at");
    }
    if ((op === "Constant" || op === "ConstantOfShape") && this.#keptWeight(node)) return;
    // of its second input CastLike reads the type only
    const given = (op === "CastLike" ? node.inputs.slice(0, 1) : node.inputs).filter((name) => name !== "");
    const folds = given.every((name) => this.#operand(name).kind === "known");
    const context = (node.opset ?? this.loaded.opset) < MODERN_OPSET ? new LegacyContext(node, this.#host(folds)) : new Context(node, this.#host(folds));
    const made = importOp(context);
    const results: readonly Result[] = Array.isArray(made) ? made : [made as Result];
    if (op === "Shape" || op === "Size" || given.some((name) => this.#fromShapes.has(name))) for (const name of node.outputs) this.#fromShapes.add(name);
    results.forEach((result, k) => {
      const name = node.outputs[k] ?? "";
      if (name !== "") this.#set(name, this.#asOperand(result), node);
    });
    for (const name of node.outputs.slice(results.length))
      if (name !== "" && this.#read.has(name)) throw new CompileError("unsupported-op", `${op}: its output "${name}" is not computed`);
  }

  /** A Constant's tensor that serves as a weight stays a parameter under the name of its output. */
  #keptWeight(node: OnnxNode): boolean {
    const name = node.outputs[0] ?? "";
    if (this.roles.constantNode(name, 2) !== "trainable") return false; // whatever its size
    const t = constantTensor(node, (input) => this.#numbers(input)?.data ?? [], this.loaded.external);
    if (!t || this.roles.constantNode(name, size(t.dims)) !== "trainable") return false;
    if (node.inlined) {
      this.notes.add(`${spellNode(node, this.loaded.opset)}: a weight stored in a function or branch stays as it is`);
      return false;
    }
    this.#set(name, { kind: "weight", tensor: t, trainable: !this.options.frozen(name) }, node);
    return true;
  }

  #asOperand(result: Result): Operand {
    if ("data" in result) return { kind: "known", array: result };
    const array = this.#folder.numbers(result);
    return array ? { kind: "known", array } : { kind: "value", value: result };
  }

  /** Defines a name; while rebinding, checks that nothing but the examples' axis has changed. */
  #set(name: string, operand: Operand, node?: OnnxNode): void {
    const shape = operand.kind === "value" ? operand.value.type.shape : operand.kind === "known" ? operand.array.shape : operand.tensor.dims;
    this.#operands.set(name, operand);
    this.#shapes.set(name, shape);
    const old = this.fileShapes?.get(name);
    if (!old || !node) return;
    const scaled = shape.flatMap((n, axis) => (n === old[axis] ? [] : [axis]));
    const even = shape.length === old.length && scaled.every((axis) => (shape[axis] as number) * this.binding.fileBatch === (old[axis] as number) * this.batch);
    if (!even) throw new CompileError("examples-lost", `${node.op}: [${old}] becomes [${shape}], so the examples are lost`);
    const [axis] = scaled;
    if (axis === undefined || this.#places.has(name)) return;
    const source = node.inputs.map((input) => this.#places.get(input)).find((p) => p !== undefined);
    this.#places.set(name, { axis, inner: source?.inner ?? 1 });
  }

  #operand(name: string): Operand {
    const known = this.#operands.get(name);
    if (known) return known;
    const tensor = this.loaded.graph.initializers.get(name);
    if (!tensor && name === "") throw new CompileError("bad-model", "an input that the op needs is left out");
    if (!tensor) throw new CompileError("internal", `"${name}" has no value`);
    const role = irType(numericType(tensor)) === "f32" ? this.roles.initializer(name, tensor.dims, () => this.#decoded(tensor).data) : "constant";
    const made: Operand = role === "constant"
      ? { kind: "known", array: this.#decoded(tensor) }
      : { kind: "weight", tensor, trainable: role === "trainable" && !this.options.frozen(name) };
    this.#set(name, made);
    return made;
  }

  /** @throws CompileError "unsupported-op" where another node updates the tensor too, or it serves as a weight. */
  #running(name: string): string | undefined {
    const stored = this.roles.source(name);
    if (!this.loaded.graph.initializers.has(stored)) {
      this.notes.add(`running statistic "${name}" is not an initializer and is not updated`);
      return undefined;
    }
    if (this.updates.has(stored))
      throw new CompileError("unsupported-op", `the running statistic "${stored}" is updated twice in a step`, undefined, "export the model with a tensor of its own for each statistic");
    const operand = this.#operand(stored);
    if (operand.kind !== "weight" || this.roles.initializer(stored, operand.tensor.dims) !== "frozen")
      throw new CompileError("unsupported-op", `the running statistic "${stored}" also serves as a weight`, undefined, "export the model with a tensor of its own for each statistic");
    return this.options.frozen(stored) ? undefined : stored;
  }

  #decoded(tensor: OnnxTensor): NdArray {
    const { dtype, shape, data } = decodeTensor(tensor, this.loaded.external);
    return { dtype, shape, data: Float64Array.from(data) };
  }

  #numbers(name: string): NdArray | undefined {
    const operand = this.#operand(name);
    return operand.kind === "known" ? operand.array : operand.kind === "weight" ? this.#decoded(operand.tensor) : undefined;
  }

  /** The graph value of a name; parameters and constants enter the graph at their first use. */
  value(name: string): Value {
    const operand = this.#operand(name);
    if (operand.kind === "value") return operand.value;
    const done = this.#materialized.get(name);
    if (done) return done;
    const made = operand.kind === "known" ? this.#table(name, operand.array) : this.#param(name, { tensor: operand.tensor }, operand.tensor.dims, operand.trainable);
    this.#materialized.set(name, made);
    return made;
  }

  #param(name: string, data: ParamData, shape: readonly number[], trainable: boolean): Value {
    const value = this.builder.param(name, { dtype: "f32", shape }, { kind: "file" }, trainable);
    this.params.set(value.name, data);
    return value;
  }

  /** Known numbers in the graph: one scalar if all are equal, else a parameter that is not trained. */
  #table(name: string, array: NdArray): Value {
    const { dtype, shape, data } = array;
    if (dtype === "i32") asI32(data, `tensor "${name}"`);
    const first = data[0];
    if (first !== undefined && data.every((v) => v === first)) {
      const scalar = this.#scalar(first, dtype);
      return shape.length === 0 ? scalar : this.#emit("broadcast", [scalar], { shape: [...shape], axes: [] });
    }
    if (dtype === "i32" && data.some((v) => Math.abs(v) > 2 ** 24))
      throw new CompileError("unsupported-op", "an integer table with numbers beyond 2^24 is not supported", `tensor "${name}"`);
    const value = this.#param(name, { array }, shape, false);
    return dtype === "f32" ? value : this.#emit("cast", [value], { dtype });
  }

  #scalar(value: number, dtype: DType): Value {
    const key = `${dtype}:${Object.is(value, -0) ? "-0" : value}`;
    const known = this.#scalars.get(key);
    if (known) return known;
    const made = this.#emit("constant", [], { value, dtype });
    this.#scalars.set(key, made);
    return made;
  }

  readonly #emit: Emit = (op, inputs, attrs) => {
    let name: string;
    do name = `v${this.#next++}`;
    while (this.#reserved.has(name));
    const made = this.builder.node(op, inputs, attrs, [], [name]).results[0] as Value;
    if (!(size(made.type.shape) < MAX_ELEMENTS)) throw new CompileError("too-large", `a tensor of ${spellType(made.type)}`);
    return made;
  };

  #host(folds: boolean): Host {
    const { loaded, fileShapes } = this;
    const rebind: Rebind | undefined = fileShapes && { from: this.binding.fileBatch, to: this.batch, symbolic: this.binding.symbolic, shape: (name) => fileShapes.get(name) ?? this.#shapes.get(name) ?? [] };
    return {
      opset: loaded.opset, mode: this.options.mode, rebind, heads: this.heads, external: loaded.external,
      emit: folds ? this.#folder.emit : this.#emit,
      scalar: folds ? (v, dtype) => this.#folder.scalar(v, dtype) : (v, dtype) => this.#scalar(v, dtype),
      value: (name) => (folds ? this.#folder.wrap(this.#numbers(name) as NdArray) : this.value(name)),
      table: (name, array) => (folds ? this.#folder.wrap(array) : this.#table(name, array)),
      shapeOf: (name) => {
        this.#operand(name);
        return this.#shapes.get(name) as readonly number[];
      },
      storedType: (name) => {
        const stored = this.loaded.graph.initializers.get(this.roles.source(name))?.type ?? this.loaded.graph.inputs.find((v) => v.name === name)?.type;
        return stored === undefined ? undefined : onnxType(stored);
      },
      dtypeOf: (name) => {
        const operand = this.#operand(name);
        return operand.kind === "value" ? operand.value.type.dtype : operand.kind === "known" ? operand.array.dtype : "f32";
      },
      numbers: (name) => this.#numbers(name),
      note: (text) => this.notes.add(text),
      isRead: (name) => this.#read.has(name),
      place: (name) => this.#places.get(name),
      running: (name) => this.#running(name),
      update: (param, value) => this.updates.set(param, value),
      setPlace: (name, place) => this.#places.set(name, place),
      fromShapes: (name) => this.#fromShapes.has(name),
      differs: () => { this.differs = true; },
      noise: (shape) => (this.options.mode === "train" && this.options.dropout ? this.#noise(shape) : undefined),
    };
  }

  #noise(shape: readonly number[]): Value {
    this.differs = true;
    this.#keys ??= drawKeys(this.builder);
    return this.#emit("uniform", this.#keys, { shape: [...shape], stream: DROPOUT_STREAMS + this.#streams++ });
  }

  /** Errors of single ops point at their node; while rebinding, a mismatch is the batch's fault: the file's own passed. */
  #placed(e: unknown, node: OnnxNode): unknown {
    if (!(e instanceof CompileError)) return e;
    const where = spellNode(node, this.loaded.opset);
    if (this.fileShapes && e.code === "shape-mismatch")
      return new CompileError("examples-lost", `the batch cannot become ${this.batch}: ${e.message}`, where,
        `keep the file's batch of ${this.binding.fileBatch}, or export the model with a symbolic batch axis`);
    return e.where === undefined ? new CompileError(e.code, e.message, where, e.hint) : e;
  }
}
