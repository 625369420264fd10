/** A contraction in dense form: axes are numbered, every affine map is an array of coefficients. */
import { CompileError } from "../../../ir/error.js";
import type { Access, Affine, Axis, Buffer, ContractSpec, Expr, Limits, Pool, Store } from "../../kernel.js";

/** at + Σ by[axis number] · axis */
export interface Form {
  readonly at: number;
  readonly by: readonly number[];
}

/** An operand: `buffer[address + Σ stride · (expr / divisor)]`, 0 where a bound fails or a division is not exact. */
export interface Side {
  readonly buffer: Buffer;
  readonly address: Form;
  readonly bounds: readonly { readonly form: Form; readonly low: number; readonly high: number }[];
  readonly quotients: readonly { readonly form: Form; readonly divisor: number; readonly stride: number }[];
  /** The widest view the buffer may be declared with: its epilogue or a store may forbid vectors. */
  readonly widest: 1 | 4;
}

/** A further sum over the reduction. `side` undefined: nothing is summed, only stored. */
export interface Extra {
  readonly side: Side | undefined;
  readonly stores: readonly Store[];
  /** Output axes along which neither it nor its stores move: it is stored where they are 0. */
  readonly absent: readonly number[];
}

export interface Problem {
  readonly spec: ContractSpec;
  readonly limits: Limits;
  /** Output axes first, then reduction axes. */
  readonly axes: readonly Axis[];
  readonly outputs: number;
  /** WGSL spellings of the axes, unique. */
  readonly names: readonly string[];
  readonly left: Side | undefined;
  readonly right: Side | undefined;
  /** Rows and columns of a symmetric product, as axis numbers. */
  readonly pairs: readonly (readonly [number, number])[];
  readonly sums: readonly Extra[];
  /** Output axes that one invocation holds whole, because it takes the maximum over them. */
  readonly pooled: ReadonlySet<number>;
  readonly loaded: ReadonlySet<Buffer>;
  readonly stored: ReadonlySet<Buffer>;
}

/** @throws CompileError "internal" for an access with a fill, or an axis that is neither output nor reduction. */
export function problemOf(spec: ContractSpec, limits: Limits): Problem {
  const axes = [...spec.output, ...spec.reduction];
  const number = new Map(axes.map((axis, i) => [axis, i]));
  if (number.size !== axes.length) throw internal(spec, "an axis occurs twice");
  const form = (affine: Affine): Form => {
    const by = axes.map(() => 0);
    for (const [axis, coefficient] of affine.by) {
      const i = number.get(axis);
      if (i === undefined) throw internal(spec, `axis ${axis.name} of an operand is neither output nor reduction`);
      by[i] = coefficient;
    }
    return { at: affine.at, by };
  };
  const loaded = new Set<Buffer>();
  for (const store of epilogues(spec)) collectLoads(store.value, loaded, new Set());
  const stored = new Set(epilogues(spec).map((store) => store.buffer));
  const side = (access: Access | "one"): Side | undefined => {
    if (access === "one") return undefined;
    if (access.fill !== 0) throw internal(spec, `operand ${access.buffer.name} is filled with ${access.fill}, not 0`);
    if (access.buffer.dtype !== "f32") throw internal(spec, `operand ${access.buffer.name} is ${access.buffer.dtype}, not f32`);
    return {
      buffer: access.buffer,
      address: form(access.address),
      bounds: access.bounds.map((b) => ({ form: form(b.expr), low: b.low, high: b.high })),
      quotients: access.quotients.map((q) => ({ form: form(q.expr), divisor: q.divisor, stride: q.stride })),
      widest: stored.has(access.buffer) ? 1 : 4,
    };
  };
  const pairs = (spec.symmetric ?? []).map(([i, j]) => [number.get(i) ?? -1, number.get(j) ?? -1] as const);
  for (const [i, j] of pairs) {
    if (i < 0 || j < 0 || i >= spec.output.length || j >= spec.output.length || axes[i]?.size !== axes[j]?.size)
      throw internal(spec, "a symmetric pair must be two output axes of one size");
  }
  const sums = (spec.sums ?? []).map((sum): Extra => {
    const of = sum.of === "none" ? undefined : side(sum.of);
    const forms = [...(of ? [of.address, ...of.bounds.map((b) => b.form), ...of.quotients.map((q) => q.form)] : []), ...sum.stores.map((store) => form(store.address))];
    return { side: of, stores: sum.stores, absent: spec.output.flatMap((_, a) => (forms.some((f) => f.by[a] !== 0) ? [] : [a])) };
  });
  return {
    spec,
    limits,
    axes,
    outputs: spec.output.length,
    names: uniqueNames(axes.map((axis) => axis.name), bufferNames(spec, loaded, stored)),
    left: side(spec.left),
    right: side(spec.right),
    pairs,
    sums,
    pooled: new Set((spec.pool?.axes ?? []).map((axis) => number.get(axis) ?? -1)),
    loaded,
    stored,
  };
}

/** Everything a kernel of `spec` may store, and a stand-in for what a maximum is taken of: for those who ask which buffers are touched. */
export const epilogues = (spec: ContractSpec): readonly Store[] => [
  ...spec.stores, ...(spec.sums ?? []).flatMap((sum) => sum.stores), ...(spec.pool ? spec.stores.slice(0, 1).map((store) => ({ ...store, value: (spec.pool as Pool).value })) : []),
];

/** Words a kernel uses itself, and words of WGSL that make plausible axis names. */
export const RESERVED: readonly string[] = ["acc", "finish", "main", "thread", "id", "tile", "run", "in", "out", "loop", "for", "if", "let", "var", "fn", "i32", "f32", "case", "default", "filter", "target", "from", "of", "group", "new", "with"];

/**
 * Identifiers in the order given: `x`, `x_2` for a second x; characters WGSL does not take become `_`. No name, and no
 * name with a suffix like `_t`, is one of `taken`.
 */
export function uniqueNames(names: readonly string[], taken: Iterable<string>): string[] {
  const used = new Set([...RESERVED, ...[...taken].flatMap((name) => [name, name.replace(/_[a-z]\w?$/, "")])]);
  return names.map((name) => {
    const plain = name.replace(/[^A-Za-z0-9]+/g, "_").replace(/^_+|_+$/g, "");
    const stem = /^[A-Za-z]/.test(plain) ? plain : `i${plain}`;
    let unique = stem;
    for (let n = 2; used.has(unique); n++) unique = `${stem}_${n}`;
    used.add(unique);
    return unique;
  });
}

export const internal = (spec: ContractSpec, message: string): CompileError =>
  new CompileError("internal", message, `contraction "${spec.label}"`);

const bufferNames = (spec: ContractSpec, loaded: ReadonlySet<Buffer>, stored: ReadonlySet<Buffer>): string[] =>
  [...[spec.left, spec.right].flatMap((side) => (side === "one" ? [] : [side.buffer])), ...loaded, ...stored].map((buffer) => buffer.name);

function collectLoads(expr: Expr, into: Set<Buffer>, seen: Set<Expr>): void {
  if (seen.has(expr)) return;
  seen.add(expr);
  if (expr.kind === "load") into.add(expr.access.buffer);
  else if (expr.kind === "gather") {
    into.add(expr.access.buffer);
    collectLoads(expr.row, into, seen);
  } else if (expr.kind === "op") for (const arg of expr.args) collectLoads(arg, into, seen);
  else if (expr.kind === "cast") collectLoads(expr.arg, into, seen);
  else if (expr.kind === "masked") collectLoads(expr.inner, into, seen);
  else if (expr.kind === "uniform") for (const word of expr.key) collectLoads(word, into, seen);
}
