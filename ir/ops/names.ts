/** Every primitive operation, by family. The records are in the files beside this one; `index.ts` joins them. */

export const UNARY = [
  "neg", "abs", "sign", "exp", "log", "sqrt", "reciprocal", "tanh", "sigmoid", "relu", "softplus", "erf", "sin", "cos",
  "atan", "expm1", "log1p", "floor", "ceil", "round", "not", "detach", "bits", "from_bits",
] as const;
export const BINARY = ["add", "sub", "mul", "div", "max", "min", "pow"] as const;
export const COMPARE = ["lt", "le", "gt", "ge", "eq", "ne"] as const;
export const LOGIC = ["and", "or"] as const;
export const MOVEMENT = ["reshape", "permute", "broadcast", "pad", "slice", "window"] as const;
/** Rows by computed index. */
export const INDEXING = ["gather", "scatter"] as const;
export const REDUCE = ["reduce_sum", "reduce_max", "reduce_argmax"] as const;

export const OP_NAMES = [
  ...UNARY, ...BINARY, ...COMPARE, ...LOGIC, "select", "cast",
  "constant", "iota", "uniform",
  ...MOVEMENT, "fold", "concat",
  ...REDUCE, "contract", ...INDEXING,
  "inverse",
] as const;

export type OpName = (typeof OP_NAMES)[number];
