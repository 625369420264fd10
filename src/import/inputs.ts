/** Gives every model input a static shape: which axis carries examples, and how many of them. */
import { CompileError } from "../../ir/error.js";
import type { DType } from "../../ir/type.js";
import type { Dim, Loaded, OnnxValue } from "./model.js";
import { onnxType } from "./model.js";
import { irType } from "./tensor.js";

export interface InputOptions {
  /** Examples per step; default: what the file fixes, else free. */
  readonly batch?: number | undefined;
  /** Whole shapes of inputs, for files that leave axes open. A symbol that one input's shape binds is bound in all of them. */
  readonly shapes?: Readonly<Record<string, readonly number[]>> | undefined;
  /** The axis of an input that carries examples; −1: none. Default: the leading one where it agrees with the first input's. */
  readonly batchAxis?: Readonly<Record<string, number>> | undefined;
}

export interface BoundInput {
  readonly name: string;
  readonly dtype: DType;
  readonly examples: number | undefined;
  /** Shape with a given number of examples. */
  readonly shape: (batch: number) => readonly number[];
}

export interface Binding {
  readonly inputs: readonly BoundInput[];
  /** What the file's own constants were written for; 1 where its batch is a symbol. */
  readonly fileBatch: number;
  /** The file leaves its batch open. */
  readonly symbolic: boolean;
  /** What the graph is built with. */
  readonly batch: number;
  /** False: the file leaves the batch open and nobody named one. */
  readonly bound: boolean;
}

/**
 * An unnamed batch is built with this many examples. Not 1: an axis of 1 broadcasts, and would hide where examples get mixed.
 */
const UNBOUND_BATCH = 2;

/** @throws CompileError "bad-option" (unknown input, open axis, batch out of range), "unsupported-op" (strings). */
export function bindInputs(loaded: Loaded, names: ReadonlySet<string>, options: InputOptions): Binding {
  const all = loaded.graph.inputs;
  for (const name of [...Object.keys(options.shapes ?? {}), ...Object.keys(options.batchAxis ?? {})])
    if (!all.some((v) => v.name === name)) throw new CompileError("bad-option", `the model has no input "${name}"`, undefined, `its inputs are ${all.map((v) => `"${v.name}"`).join(", ")}`);
  if (options.batch !== undefined && !(Number.isSafeInteger(options.batch) && options.batch >= 1))
    throw new CompileError("bad-option", `a batch of ${options.batch} examples`, "--batch", "give a positive whole number");
  const symbols = boundSymbols(all, options.shapes ?? {});
  const inputs = all.filter((v) => names.has(v.name)).map((v) => ({ v, dims: dimsOf(v, options.shapes?.[v.name], symbols) }));
  // the first input with a batch says what the others' leading axis must agree with
  let lead: { file: Dim; given: number | undefined } | undefined;
  const placed = inputs.map(({ v, dims }) => {
    const axis = options.batchAxis?.[v.name];
    if (axis === -1 || dims.length === 0) return { v, dims, examples: undefined };
    const at = axis ?? 0;
    if (at < 0 || at >= dims.length) throw new CompileError("bad-option", `input "${v.name}" has no axis ${at}`, "--batch-axis");
    const file = v.dims?.[at];
    const own = { file, given: options.shapes?.[v.name]?.[at] ?? (typeof file === "string" ? symbols.get(file) : undefined) };
    if (lead && axis === undefined && (own.file !== lead.file || own.given !== lead.given)) return { v, dims, examples: undefined };
    lead ??= own;
    return { v, dims, examples: at };
  });
  const fixed = typeof lead?.file === "number" ? lead.file : undefined;
  const asked = options.batch ?? lead?.given;
  return {
    inputs: placed.map(({ v, dims, examples }) => ({ name: v.name, dtype: dtypeOf(v), examples, shape: shaper(v.name, dims, examples, lead?.file) })),
    fileBatch: fixed ?? 1,
    symbolic: fixed === undefined,
    batch: lead ? (asked ?? fixed ?? UNBOUND_BATCH) : 1,
    bound: !lead || asked !== undefined || fixed !== undefined,
  };
}

/** Sizes of symbolic axes, from the shapes given for the inputs that have them. @throws bad-option where two differ */
function boundSymbols(inputs: readonly OnnxValue[], shapes: Readonly<Record<string, readonly number[]>>): ReadonlyMap<string, number> {
  const known = new Map<string, { readonly size: number; readonly by: string }>();
  for (const v of inputs)
    v.dims?.forEach((d, axis) => {
      const size = shapes[v.name]?.[axis];
      if (typeof d !== "string" || size === undefined) return;
      const before = known.get(d);
      if (before && before.size !== size)
        throw new CompileError("bad-option", `the axis "${d}" is ${before.size} in input "${before.by}" and ${size} in "${v.name}"`, "--shape", "axes of one name have one size");
      known.set(d, { size, by: v.name });
    });
  return new Map([...known].map(([symbol, { size }]) => [symbol, size]));
}

function dimsOf(v: OnnxValue, given: readonly number[] | undefined, symbols: ReadonlyMap<string, number>): readonly Dim[] {
  if (!v.dims && !given) throw open(v.name, "has no shape in the file");
  if (given && v.dims && given.length !== v.dims.length)
    throw new CompileError("bad-option", `shape [${given}] does not fit input "${v.name}", which is [${v.dims.map((d) => d ?? "?").join(", ")}]`);
  return given ?? (v.dims as readonly Dim[]).map((d) => (typeof d === "string" ? (symbols.get(d) ?? d) : d));
}

const open = (name: string, what: string): CompileError =>
  new CompileError("bad-option", `input "${name}" ${what}`, undefined, `give its shape, e.g. --shape "${name}=1,3,224,224"`);

function shaper(name: string, dims: readonly Dim[], examples: number | undefined, batchSymbol: Dim): (batch: number) => readonly number[] {
  dims.forEach((d, axis) => {
    const isBatch = axis === examples || (typeof d === "string" && d === batchSymbol);
    if (typeof d !== "number" && !isBatch) throw open(name, `leaves the size of axis ${axis}${d === undefined ? "" : ` ("${d}")`} open`);
  });
  return (batch) => dims.map((d, axis) => (axis === examples || typeof d !== "number" ? batch : d));
}

function dtypeOf(v: OnnxValue): DType {
  const stored = onnxType(v.type);
  if (stored === undefined || stored === "string") throw new CompileError("unsupported-op", `input "${v.name}" has elements of ${stored ?? "no tensor type"}`);
  return irType(stored);
}
