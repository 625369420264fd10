/** What an operation is: one record that holds everything the language knows about it. */
import type { NdArray } from "./ndarray.js";
import { CompileError } from "./error.js";
import type { Attr, Attrs, Graph, Node, Value } from "./graph.js";
import type { OpName } from "./ops/names.js";
import { spellType, type Type } from "./type.js";

/** Appends one node to the graph being built and returns its single result. */
export type Emit = (op: OpName, inputs: readonly Value[], attrs?: Attrs) => Value;

export interface VjpContext {
  readonly node: Node;
  readonly inputs: readonly Value[];
  readonly output: Value;
  /** Cotangent of the output, same type. */
  readonly ct: Value;
  readonly emit: Emit;
}

export type AttrKind = "int" | "float" | "ints" | "string" | "bool";

export interface OpDef {
  readonly name: OpName;
  /** One line: what it computes. */
  readonly doc: string;
  /** Number of inputs; -1 = one or more. */
  readonly arity: number;
  readonly attrs: Readonly<Record<string, AttrKind>>;
  /** Output is computed element by element from inputs of the same shape. */
  readonly elementwise?: true;
  /** The result is the same with the two inputs exchanged. */
  readonly commutative?: true;
  /** Output elements are input elements (or a constant): an index map. */
  readonly movement?: true;
  /** Result types; throws `shape-mismatch` or `bad-attribute`. */
  infer(inputs: readonly Type[], attrs: Attrs, regions: readonly Graph[]): readonly Type[];
  /**
   * Cotangents of the inputs in terms of other ops, `undefined` where the derivative is zero everywhere
   * (integers, comparisons). Absent: the op has no derivative; asking for one is `not-differentiable`.
   */
  readonly vjp?: (context: VjpContext) => readonly (Value | undefined)[];
  /** Slow and obvious, in float64. */
  evaluate(inputs: readonly NdArray[], attrs: Attrs, results: readonly Type[]): readonly NdArray[];
}

/** Reads an attribute of the given kind; throws `bad-attribute` if it is missing or of another kind. */
export function intAttr(attrs: Attrs, name: string): number {
  const value = attrs[name];
  if (typeof value !== "number" || !Number.isInteger(value)) throw badAttr(name, value, "an integer");
  return value;
}
export function floatAttr(attrs: Attrs, name: string): number {
  const value = attrs[name];
  if (typeof value !== "number") throw badAttr(name, value, "a number");
  return value;
}
export function intsAttr(attrs: Attrs, name: string): readonly number[] {
  const value = attrs[name];
  if (!Array.isArray(value) || !value.every(Number.isInteger)) throw badAttr(name, value, "a list of integers");
  return value;
}
export function stringAttr(attrs: Attrs, name: string): string {
  const value = attrs[name];
  if (typeof value !== "string") throw badAttr(name, value, "a string");
  return value;
}

const badAttr = (name: string, value: Attr | undefined, want: string): CompileError =>
  new CompileError("bad-attribute", `attribute "${name}" must be ${want}, got ${value === undefined ? "nothing" : JSON.stringify(value)}`);

/** Throws `shape-mismatch` naming the op and the types it got. */
export function mismatch(op: string, inputs: readonly Type[], why: string): CompileError {
  return new CompileError("shape-mismatch", `${op}(${inputs.map(spellType).join(", ")}): ${why}`);
}
