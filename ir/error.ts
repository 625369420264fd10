/** The one error the language and the compiler throw: what was wrong, where, and what to do next. */

/** A closed list: users and scripts match on these. `kfacc help errors` prints it. */
export const ERROR_CODES = {
  "shape-mismatch": "Shapes or element types of an operation do not fit together.",
  "bad-attribute": "An attribute of an operation is missing or out of range.",
  "invalid-graph": "A graph breaks a rule of the IR (undefined value, use before definition, wrong result type).",
  "syntax": "A text file (.kir, DSL, JSON) cannot be parsed.",
  "unsupported-op": "The model uses an operation, or a form of one, that kfacc does not compile.",
  "not-differentiable": "A gradient was asked for through an operation that has none.",
  "examples-lost": "The axis that carries examples cannot be followed through an operation.",
  "bad-model": "The model file is damaged, truncated or not what its name says.",
  "missing-data": "A file that the model or command refers to is missing.",
  "bad-data": "A data set has the wrong shape, type, label range or non-finite values.",
  "bad-option": "An option's value is out of range or options contradict each other.",
  "usage": "Unknown command or flag.",
  "loss-unknown": "The loss could not be inferred and was not given.",
  "orphan-parameter": "A trainable parameter belongs to no layer and --strict was given.",
  "too-large": "A kernel or buffer would exceed what the device or an index can hold.",
  "no-adapter": "No usable WebGPU adapter.",
  "device-lost": "The GPU device was lost.",
  "out-of-memory": "The device ran out of memory.",
  "diverged": "Loss or weights became non-finite.",
  "bad-checkpoint": "A checkpoint is damaged or belongs to another program.",
  "cannot-write": "An output file or folder cannot be written.",
  "interrupted": "Ctrl-C.",
  "internal": "A defect in kfacc itself; please report it.",
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

export class CompileError extends Error {
  constructor(
    readonly code: ErrorCode,
    message: string,
    /** Where: a node, file or option, e.g. `node "conv1" (opset 13)`. */
    readonly where?: string,
    /** What to do next. */
    readonly hint?: string,
  ) {
    super(message);
    this.name = "CompileError";
  }
}

/** `code: message`, then where and hint on lines of their own. */
export const spellError = (e: { code: string; message: string; where?: string | undefined; hint?: string | undefined }): string =>
  [`${e.code}: ${e.message}`, e.where && `  at ${e.where}`, e.hint && `  hint: ${e.hint}`].filter(Boolean).join("\n");
