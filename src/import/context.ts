/** What an importer of one ONNX op sees: its node's inputs and attributes, and a way to write IR. */
import { CompileError } from "../../ir/error.js";
import type { Value } from "../../ir/graph.js";
import type { NdArray } from "../../ir/ndarray.js";
import type { Emit } from "../../ir/op.js";
import type { DType } from "../../ir/type.js";
import { type ExternalRef, type OnnxNode, type OnnxType, spellNode } from "./model.js";
import type { Place } from "./rebind.js";

/** The output is this function of `logits`, along `axis`: so a loss can be inferred, and differentiated from the logits. */
export interface Head {
  readonly kind: "softmax" | "log-softmax" | "sigmoid";
  readonly axis: number;
  readonly logits: Value;
}

/** How an example axis of another size is carried through constants that spell the file's size. */
export interface Rebind {
  /** The file's own batch, and the one that takes its place. */
  readonly from: number;
  readonly to: number;
  /** The file leaves its batch open: what it computes from shapes is right for any. */
  readonly symbolic?: boolean;
  /** Shape of an ONNX value as the file has it. */
  readonly shape: (name: string) => readonly number[];
}

/** What the importer of a model offers to the ops (see run.ts). */
export interface Host {
  readonly opset: number;
  readonly mode: "train" | "eval";
  readonly emit: Emit;
  readonly rebind: Rebind | undefined;
  readonly value: (name: string) => Value;
  readonly shapeOf: (name: string) => readonly number[];
  readonly dtypeOf: (name: string) => DType;
  /** The element type that the file has for a value, where it says one (stored tensors, inputs). */
  readonly storedType?: (name: string) => OnnxType | undefined;
  /** The numbers of a tensor known at import; undefined for what depends on the model's inputs. */
  readonly numbers: (name: string) => NdArray | undefined;
  readonly table: (name: string, array: NdArray) => Value;
  readonly scalar: (value: number, dtype: DType) => Value;
  readonly heads: Map<Value, Head>;
  readonly note: (text: string) => void;
  readonly isRead: (name: string) => boolean;
  readonly external: (ref: ExternalRef) => Uint8Array;
  /** Where the examples are in a value (only while rebinding, only if it has them). */
  readonly place: (name: string) => Place | undefined;
  /** The stored tensor that a value is, if a training step may write it: one that nothing trains and no other node updates. */
  readonly running?: (name: string) => string | undefined;
  /** What a training step leaves in a stored tensor. */
  readonly update?: (param: string, value: Value) => void;
  readonly setPlace: (name: string, place: Place) => void;
  /** Whether numbers known at import are computed from the shapes of values, not spelled by the file. */
  readonly fromShapes?: (name: string) => boolean;
  /** This node does something else in evaluation than in training. */
  readonly differs?: () => void;
  /** Numbers in (0, 1) that every training step draws anew; undefined where nothing may be drawn. */
  readonly noise?: (shape: readonly number[]) => Value | undefined;
}

/** A result: a value of the graph, or numbers known at import. */
export type Result = Value | NdArray;
export type ImportOp = (c: Context) => Result | readonly Result[];

export class Context {
  readonly emit: Emit;
  readonly opset: number;

  constructor(readonly node: OnnxNode, readonly host: Host) {
    this.emit = host.emit;
    this.opset = node.opset ?? host.opset;
  }

  get count(): number {
    return this.node.inputs.length;
  }

  /** Whether optional input i is given. */
  has(i: number): boolean {
    return (this.node.inputs[i] ?? "") !== "";
  }

  /** The stored tensor of input i, a running statistic that a training step updates; undefined: it is not stored, or frozen. */
  running(i: number): string | undefined {
    return this.has(i) ? this.host.running?.(this.#name(i)) : undefined;
  }

  /** Numbers in (0, 1), drawn anew in every training step; undefined: this is no training, or nothing is to be drawn. */
  noise(shape: readonly number[]): Value | undefined {
    return this.host.noise?.(shape);
  }

  /** Whether output k is read by anything. */
  wants(k: number): boolean {
    const name = this.node.outputs[k] ?? "";
    return name !== "" && this.host.isRead(name);
  }

  #name(i: number): string {
    const name = this.node.inputs[i] ?? "";
    if (name === "") throw new CompileError("bad-model", `input ${i} of ${this.node.op} is missing`, this.where);
    return name;
  }

  /** Input i as a value of the graph. */
  x(i: number): Value {
    return this.host.value(this.#name(i));
  }

  /** All inputs as values. */
  all(): Value[] {
    return this.node.inputs.map((_, i) => this.x(i));
  }

  shape(i: number): readonly number[] {
    return this.host.shapeOf(this.#name(i));
  }

  dtype(i: number): DType {
    return this.host.dtypeOf(this.#name(i));
  }

  storedType(i: number): OnnxType | undefined {
    return this.host.storedType?.(this.#name(i));
  }

  /** The file's shape of input i while the batch is being rebound, else undefined. */
  oldShape(i: number): readonly number[] | undefined {
    return this.host.rebind?.shape(this.#name(i));
  }

  oldResult(k: number): readonly number[] | undefined {
    return this.host.rebind?.shape(this.node.outputs[k] ?? "");
  }

  numbers(i: number): NdArray | undefined {
    return this.has(i) ? this.host.numbers(this.#name(i)) : undefined;
  }

  /** Input i as integers known at import. */
  ints(i: number): number[] {
    const known = this.numbers(i);
    if (!known) throw this.refuse(`input "${this.node.inputs[i]}" must be known when the model is compiled`, "if it is an input of the model, give its numbers with --value; else export the model with fixed sizes");
    return [...known.data];
  }

  /** Input i as one number known at import, or `fallback` if it is left out. */
  number(i: number, fallback: number): number {
    if (!this.has(i)) return fallback;
    const known = this.numbers(i);
    if (known?.data.length !== 1) throw this.refuse(`input "${this.node.inputs[i]}" must be one number known when the model is compiled`);
    return known.data[0] as number;
  }

  int(name: string, fallback?: number): number {
    const value = this.node.attrs.get(name)?.i ?? fallback;
    if (value === undefined) throw new CompileError("bad-model", `${this.node.op} lacks its attribute "${name}"`, this.where);
    return value;
  }

  float(name: string, fallback: number): number {
    return this.node.attrs.get(name)?.f ?? fallback;
  }

  intList(name: string): readonly number[] | undefined {
    return this.node.attrs.get(name)?.ints;
  }

  text(name: string, fallback: string): string {
    return this.node.attrs.get(name)?.s ?? fallback;
  }

  scalar(value: number, dtype: DType = "f32"): Value {
    return this.host.scalar(value, dtype);
  }

  /** A counted axis of a tensor of that rank. */
  axis(axis: number, rank: number): number {
    const at = axis < 0 ? axis + rank : axis;
    if (at < 0 || at >= rank) throw new CompileError("bad-model", `${this.node.op}: no axis ${axis} in ${rank} dimensions`, this.where);
    return at;
  }

  /** Where messages point. */
  get where(): string {
    return spellNode(this.node, this.opset);
  }

  refuse(message: string, hint?: string): CompileError {
    return new CompileError("unsupported-op", `${this.node.op}: ${message}`, this.where, hint);
  }

  /** While rebinding: this use of the example axis cannot be carried over to another batch. */
  lost(message: string): CompileError {
    const { from, to } = this.host.rebind ?? { from: 0, to: 0 };
    return new CompileError("examples-lost", `${this.node.op}: ${message}, so the batch cannot become ${to}`, this.where,
      `keep the file's batch of ${from}, or export the model with a symbolic batch axis`);
  }
}

/** Axes that the new batch has made larger or smaller. */
export const scaledAxes = (now: readonly number[], old: readonly number[] | undefined): number[] =>
  old && old.length === now.length ? now.flatMap((n, axis) => (n === old[axis] ? [] : [axis])) : [];
