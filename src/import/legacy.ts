/**
 * Models of opset 1 to 6, read as what opset 7 would say: there an operand of fewer axes was placed by the attributes `broadcast` and
 * `axis`, and some inputs of today were attributes.
 */
import { CompileError } from "../../ir/error.js";
import type { Value } from "../../ir/graph.js";
import type { NdArray } from "../../ir/ndarray.js";
import { Context } from "./context.js";
import { ONNX_TYPES } from "./model.js";
import { reshape } from "./ops/common.js";

/** The first opset in which all forms are today's. */
export const MODERN_OPSET = 7;

const BROADCASTS = new Set(["Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less"]);
/** Attributes that have another name today. */
const RENAMED: Readonly<Record<string, Readonly<Record<string, string>>>> = { Pad: { pads: "paddings" } };

export class LegacyContext extends Context {
  /** The shape in which NumPy's rule places operand 1 where the attributes place it; undefined: as it is. */
  #placed(shape: readonly number[]): number[] | undefined {
    const rank = super.shape(0).length;
    const { op } = this.node;
    if (op === "PRelu") return shape.length === 1 && rank > 2 && shape[0] !== 1 ? [...shape, ...new Array<number>(rank - 2).fill(1)] : undefined;
    if (!BROADCASTS.has(op) || super.int("broadcast", 0) === 0 || shape.length === 0) return undefined;
    const axis = this.node.attrs.get("axis")?.i;
    if (axis === undefined) return undefined;
    const behind = rank - (axis < 0 ? axis + rank : axis) - shape.length;
    if (behind < 0) throw new CompileError("shape-mismatch", `${op}: [${shape}] does not fit at axis ${axis} of ${rank} dimensions`, this.where);
    return [...shape, ...new Array<number>(behind).fill(1)];
  }

  override x(i: number): Value {
    const value = super.x(i);
    const shape = i === 1 ? this.#placed(value.type.shape) : undefined;
    return shape ? reshape(this, value, shape) : value;
  }

  override shape(i: number): readonly number[] {
    const shape = super.shape(i);
    return (i === 1 ? this.#placed(shape) : undefined) ?? shape;
  }

  override numbers(i: number): NdArray | undefined {
    const known = super.numbers(i);
    const shape = known && i === 1 ? this.#placed(known.shape) : undefined;
    return known && shape ? { ...known, shape } : known;
  }

  /** What Reshape and Tile took as attributes or in pieces. */
  override ints(i: number): number[] {
    const { op } = this.node;
    const stored = op === "Reshape" && i === 1 ? this.node.attrs.get("shape")?.ints : undefined;
    if (stored) return [...stored];
    if (op === "Tile" && i === 1 && this.count === 3) {
      const [tiles, axis] = [super.ints(1)[0] as number, super.ints(2)[0] as number];
      return super.shape(0).map((_, k) => (k === axis ? tiles : 1));
    }
    return super.ints(i);
  }

  override intList(name: string): readonly number[] | undefined {
    return super.intList(name) ?? super.intList(RENAMED[this.node.op]?.[name] ?? name);
  }

  /** Cast named its type in words. */
  override int(name: string, fallback?: number): number {
    const word = this.node.op === "Cast" && name === "to" ? this.node.attrs.get("to")?.s : undefined;
    if (word === undefined) return super.int(name, fallback);
    const code = Object.entries(ONNX_TYPES).find(([, type]) => type === word.toLowerCase())?.[0];
    if (code === undefined) throw this.refuse(`to "${word}" is not supported`);
    return Number(code);
  }
}
