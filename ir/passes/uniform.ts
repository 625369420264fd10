/** Values that are one number everywhere: a `constant`, repeated. */
import type { Value } from "../graph.js";
import { floatAttr } from "../op.js";
import type { Type } from "../type.js";
import type { Scope } from "./rewrite.js";

const KEEPS = new Set(["broadcast", "reshape", "permute", "slice"]);

/** The number, if the value is one number everywhere. */
export function uniformOf(value: Value, scope: Scope): number | undefined {
  for (let at = scope.producer(value); at; at = scope.producer(at.inputs[0] as Value)) {
    if (at.op === "constant") return floatAttr(at.attrs, "value");
    if (!KEEPS.has(at.op)) return undefined;
  }
  return undefined;
}

/** A value of the given type with every element equal. */
export const uniform = (scope: Scope, type: Type, value: number): Value =>
  scope.emit("broadcast", [scope.emit("constant", [], { value, dtype: type.dtype })], { shape: type.shape, axes: [] });
