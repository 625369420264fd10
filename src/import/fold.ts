/** Arithmetic at import: the ops of the IR evaluated at once on known numbers, instead of being written into the graph. */
import { CompileError } from "../../ir/error.js";
import type { Value } from "../../ir/graph.js";
import type { NdArray } from "../../ir/ndarray.js";
import type { Emit } from "../../ir/op.js";
import { OPS } from "../../ir/ops/index.js";
import { type DType, size, spellType } from "../../ir/type.js";

/** More elements than this are not computed at import: a file that asks for it is damaged or hostile. */
export const MAX_FOLDED = 2 ** 26;

export class Folder {
  readonly #known = new WeakMap<Value, NdArray>();

  /** A value that stands for numbers and never enters a graph. */
  wrap(array: NdArray): Value {
    const value = { name: "", type: { dtype: array.dtype, shape: array.shape } };
    this.#known.set(value, array);
    return value;
  }

  numbers(value: Value): NdArray | undefined {
    return this.#known.get(value);
  }

  readonly emit: Emit = (op, inputs, attrs = {}) => {
    const types = OPS[op].infer(inputs.map((v) => v.type), attrs, []);
    for (const t of types) if (!(size(t.shape) <= MAX_FOLDED)) throw new CompileError("too-large", `a constant of ${spellType(t)}`);
    const [made] = OPS[op].evaluate(inputs.map((v) => this.#known.get(v) as NdArray), attrs, types);
    return this.wrap(made as NdArray);
  };

  scalar(value: number, dtype: DType): Value {
    return this.wrap({ dtype, shape: [], data: Float64Array.of(value) });
  }
}
