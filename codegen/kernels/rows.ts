/**
 * Several reductions of the same rows in one kernel, with what lies between and after them: softmax and its loss, layer normalisation. One
 * thread takes one row, in as many sweeps as the reductions wait for each other. A short row stays in registers: nothing is loaded or
 * computed twice. A long one is read again by each sweep, four lanes at a time where its elements are neighbours.
 */
import type { Point } from "../address.js";
import { bindingsOf, declare, freeBuffers, laneBuffers } from "../bindings.js";
import { Body } from "../body.js";
import { emitExpr, emitStore } from "../expr.js";
import type { Affine, Axis, Buffer, Expr, Limits, Lowered, RowsSpec, ScalarType, Store } from "../kernel.js";
import { isNan, literal, vectorOf } from "../wgsl.js";
import { decode, grid, identifier, indicesOf, lowest, mapStores, mergeAxes, product, WORKGROUP } from "./iterate.js";

/** Operations of a kernel whose rows are kept in registers. */
const MAX_STATEMENTS = 600;

type Fold = RowsSpec["folds"][number];
/** A sweep: reductions that need no others of it. */
type Sweep = readonly number[];

export function lowerRows(given: RowsSpec, limits: Limits): Lowered {
  const spec = merged(given);
  const { axes, reduction, folds } = spec;
  const everything: Store[] = [...folds.map(({ value }) => ({ buffer: OPERAND, address: NOWHERE, value })), ...spec.rowStores, ...spec.stores];
  const length = product(reduction);
  const unrolled = length * countOps(everything) <= MAX_STATEMENTS;
  const last = reduction[reduction.length - 1];
  const lanes = last && useLanes(spec, last) ? last : undefined;
  const vec4: ReadonlySet<Buffer> = lanes ? new Set([...laneBuffers(everything, lanes, true)].filter((b) => b !== OPERAND)) : new Set();
  const { loads, stores: written, run } = freeBuffers(everything);
  const bindings = bindingsOf([...loads, ...written].filter((b) => b !== OPERAND), new Set(written), run);

  const rows = product(axes);
  const { workgroups, thread } = grid(rows, limits);
  const body = new Body({ share: unrolled });
  body.push(`let thread = ${thread};`);
  body.push(`if (thread >= ${rows}u) { return; }`);
  const spelled = decode(axes.map((axis) => ({ axis, count: axis.size, scale: 1 })), "thread", (line) => body.push(line));
  const emitter = new Emitter(body, { spec, spelled, lanes, vec4 });
  if (unrolled) emitter.inRegisters();
  else emitter.inLoops();

  const shape = (list: readonly Axis[]): string => list.map((a) => a.size).join(", ");
  return {
    kernels: [{
      name: `rows_${rows}x${length}`,
      wgsl: `// ${spec.label}: ${folds.map((f) => f.combine).join(", ")} over rows [${shape(axes)}] of [${shape(reduction)}], ${rows} thread${rows === 1 ? "" : "s"}
${declare(bindings, vec4)}
${body.prelude()}
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(global_invocation_id) id: vec3u) {
${body.lines.join("\n")}
}
`.replace("\n\n", "\n"),
      bindings, workgroups,
    }],
    scratch: [],
  };
}

/** Reductions in the order in which they can be made: each sweep needs the ones before it only. */
export function sweepsOf(folds: readonly Fold[]): readonly Sweep[] {
  const level: number[] = [];
  for (const f of folds) level.push(1 + Math.max(-1, ...[...foldsIn(f.value)].map((k) => level[k] as number)));
  return Array.from({ length: Math.max(0, ...level.map((l) => l + 1)) }, (_, l) => level.flatMap((at, k) => (at === l ? [k] : [])));
}

/** Emits the statements of one row. */
class Emitter {
  readonly #body: Body;
  readonly #spec: RowsSpec;
  readonly #spelled: ReadonlyMap<Axis, string | number>;
  readonly #lanes: Axis | undefined;
  readonly #vec4: ReadonlySet<Buffer>;
  /** Spellings of finished reductions, then of what was computed once for the row. */
  readonly #folds: string[];
  readonly #row: Point;
  readonly #hoisted = new Map<Expr, Expr>();

  constructor(body: Body, c: { spec: RowsSpec; spelled: ReadonlyMap<Axis, string | number>; lanes: Axis | undefined; vec4: ReadonlySet<Buffer> }) {
    this.#body = body;
    this.#spec = c.spec;
    this.#spelled = c.spelled;
    this.#lanes = c.lanes;
    this.#vec4 = c.vec4;
    this.#folds = c.spec.folds.map((_, k) => `fold${k}`);
    this.#row = { axis: (a) => this.#spelled.get(a) ?? 0, folds: this.#folds };
  }

  /** Every element has a name of its own; what two sweeps need of it is computed once. */
  inRegisters(): void {
    const { folds, stores } = this.#spec;
    const points = [...places(this.#spec.reduction, this.#lanes)].map((digits) => ({ point: this.#at(digits), position: `${positionOf(this.#spec.reduction, digits)}` }));
    for (const sweep of sweepsOf(folds)) {
      sweep.forEach((k) => this.#open(k));
      for (const { point, position } of points) for (const k of sweep) this.#add(k, emitExpr(this.#body, (folds[k] as Fold).value, point, this.#vec4), position);
      sweep.forEach((k) => this.#close(k));
    }
    this.#rowValues();
    for (const { point } of points) for (const s of stores) emitExpr(this.#body, s.value, point, this.#vec4);
    this.#rowStores();
    for (const { point } of points) for (const s of stores) emitStore(this.#body, s, point, this.#vec4);
  }

  /** One loop nest per sweep. What does not move along the row is computed before it. */
  inLoops(): void {
    const { folds, stores } = this.#spec;
    for (const sweep of sweepsOf(folds)) {
      const values = sweep.map((k) => this.#hoist((folds[k] as Fold).value));
      sweep.forEach((k) => this.#open(k));
      this.#loop((point, position) => sweep.forEach((k, j) => this.#add(k, emitExpr(this.#body, values[j] as Expr, point, this.#vec4), position)));
      sweep.forEach((k) => this.#close(k));
    }
    const mine = stores.map((s) => ({ ...s, value: this.#hoist(s.value) }));
    this.#rowValues();
    if (mine.length > 0)
      this.#loop((point) => {
        for (const s of mine) emitExpr(this.#body, s.value, point, this.#vec4);
        for (const s of mine) emitStore(this.#body, s, point, this.#vec4);
      });
    this.#rowStores();
  }

  #rowValues(): void {
    for (const s of this.#spec.rowStores) emitExpr(this.#body, s.value, this.#row, this.#vec4);
  }

  #rowStores(): void {
    for (const s of this.#spec.rowStores) emitStore(this.#body, s, this.#row, this.#vec4);
  }

  #at(digits: ReadonlyMap<Axis, string | number>): Point {
    return { axis: (a) => digits.get(a) ?? this.#spelled.get(a) ?? 0, folds: this.#folds, ...(this.#lanes ? { lanes: this.#lanes } : {}) };
  }

  #loop(inside: (point: Point, position: string) => void): void {
    const { reduction } = this.#spec;
    const outside = this.#body.indent;
    const digits = new Map<Axis, string>();
    let position = "0";
    reduction.forEach((axis, k) => {
      const name = `${identifier(axis.name)}_r${k}`;
      this.#body.push(`for (var ${name}: i32 = 0; ${name} < ${axis.size}; ${name} += ${axis === this.#lanes ? 4 : 1}) {`);
      this.#body.indent += "  ";
      digits.set(axis, name);
      position = position === "0" ? name : `(${position}) * ${axis.size} + ${name}`;
    });
    inside(this.#at(digits), position);
    for (let depth = reduction.length - 1; depth >= 0; depth--) {
      this.#body.indent = outside + "  ".repeat(depth);
      this.#body.push("}");
    }
  }

  #open(k: number): void {
    const { combine, value: { dtype } } = this.#spec.folds[k] as Fold;
    const start = literal(dtype, combine === "sum" ? 0 : lowest(dtype));
    if (combine !== "sum" && dtype === "f32") this.#body.bits = true;
    this.#body.push(this.#lanes ? `var acc${k}: ${vectorOf(dtype)} = ${vectorOf(dtype)}(${start});` : `var acc${k}: ${dtype} = ${start};`);
    if (combine === "argmax") this.#body.push(`var best${k}: i32 = 0;`);
  }

  #add(k: number, x: string, position: string): void {
    const { combine, value: { dtype } } = this.#spec.folds[k] as Fold;
    switch (combine) {
      case "sum": this.#body.push(`acc${k} += ${x};`); break;
      case "max": this.#body.push(`acc${k} = ${larger(dtype, this.#lanes ? vectorOf(dtype) : dtype, `acc${k}`, x)};`); break;
      case "argmax": this.#body.push(`if (${x} > acc${k}) { acc${k} = ${x}; best${k} = ${position}; }`); break;
      default: combine satisfies never;
    }
  }

  #close(k: number): void {
    const { combine, value: { dtype } } = this.#spec.folds[k] as Fold;
    const acc = `acc${k}`;
    if (combine === "argmax") this.#body.push(`let fold${k} = best${k};`);
    else if (!this.#lanes) this.#body.push(`let fold${k} = ${acc};`);
    else if (combine === "sum") this.#body.push(`let fold${k} = (${acc}.x + ${acc}.y) + (${acc}.z + ${acc}.w);`);
    else {
      this.#body.push(`let pair${k} = ${larger(dtype, vectorOf(dtype).replace("4", "2"), `${acc}.xy`, `${acc}.zw`)};`);
      this.#body.push(`let fold${k} = ${larger(dtype, dtype, `pair${k}.x`, `pair${k}.y`)};`);
    }
  }

  /** The same value with its largest parts that do not move along the row named once, here. */
  #hoist(expr: Expr): Expr {
    const known = this.#hoisted.get(expr);
    if (known) return known;
    const made = ((): Expr => {
      if (expr.kind === "const" || expr.kind === "run" || expr.kind === "acc" || expr.kind === "index") return expr;
      if (![...indicesOf(expr)].some((i) => this.#spec.reduction.some((axis) => i.by.has(axis)))) {
        const at = this.#folds.length;
        this.#folds.push(emitExpr(this.#body, expr, this.#row, this.#vec4));
        return { kind: "acc", dtype: expr.dtype, fold: at };
      }
      switch (expr.kind) {
        case "op": return { ...expr, args: expr.args.map((a) => this.#hoist(a)) };
        case "cast": return { ...expr, arg: this.#hoist(expr.arg) };
        case "masked": return { ...expr, inner: this.#hoist(expr.inner) };
        case "gather": return { ...expr, row: this.#hoist(expr.row) };
        case "uniform": return { ...expr, key: [this.#hoist(expr.key[0]), this.#hoist(expr.key[1])] };
        default: return expr;
      }
    })();
    this.#hoisted.set(expr, made);
    return made;
  }
}

/** Stands for "a value that is reduced" where only its reads matter. */
const OPERAND: Buffer = { name: "", dtype: "f32", elements: 0 };
const NOWHERE: Affine = { at: 0, by: new Map() };

/** The larger one; a NaN wins and stays, or it would be hidden. */
const larger = (dtype: ScalarType, type: string, acc: string, x: string): string =>
  `select(${acc}, ${x}, (${x} > ${acc})${dtype === "f32" ? ` | ${type === "vec2f" ? `((bitcast<vec2u>(${x}) & vec2u(0x7fffffffu)) > vec2u(0x7f800000u))` : isNan(type, x)}` : ""})`;

function merged(spec: RowsSpec): RowsSpec {
  const indices = [...spec.folds.flatMap((f) => [...indicesOf(f.value)]), ...[...spec.rowStores, ...spec.stores].flatMap((s) => [s.address, ...indicesOf(s.value)])];
  const outer = mergeAxes(spec.axes, indices);
  const inner = mergeAxes(spec.reduction, indices);
  const to = new Map([...outer.to, ...inner.to]);
  const both = mapStores([...spec.folds.map(({ value }) => ({ buffer: OPERAND, address: NOWHERE, value })), ...spec.rowStores, ...spec.stores], to);
  const cut = spec.folds.length;
  return {
    ...spec, axes: outer.axes, reduction: inner.axes,
    folds: spec.folds.map((f, k) => ({ ...f, value: (both[k] as Store).value })),
    rowStores: both.slice(cut, cut + spec.rowStores.length), stores: both.slice(cut + spec.rowStores.length),
  };
}

/** The reductions that a value needs. */
function foldsIn(expr: Expr, found = new Set<number>(), seen = new Set<Expr>()): ReadonlySet<number> {
  if (seen.has(expr)) return found;
  seen.add(expr);
  switch (expr.kind) {
    case "acc": if (expr.fold !== undefined) found.add(expr.fold); break;
    case "op": for (const a of expr.args) foldsIn(a, found, seen); break;
    case "cast": foldsIn(expr.arg, found, seen); break;
    case "masked": foldsIn(expr.inner, found, seen); break;
    case "gather": foldsIn(expr.row, found, seen); break;
    case "uniform": for (const key of expr.key) foldsIn(key, found, seen); break;
    default: break;
  }
  return found;
}

/** Statements of one element. */
function countOps(stores: readonly Store[]): number {
  const seen = new Set<Expr>();
  const visit = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    if (e.kind === "op") e.args.forEach(visit);
    else if (e.kind === "cast") visit(e.arg);
    else if (e.kind === "masked") visit(e.inner);
    else if (e.kind === "gather") visit(e.row);
    else if (e.kind === "uniform") e.key.forEach(visit);
  };
  for (const s of stores) visit(s.value);
  return seen.size + stores.length;
}

/** Four lanes pay where rows are contiguous; a position of a maximum is found one element at a time. */
const useLanes = (spec: RowsSpec, last: Axis): boolean =>
  last.size % 4 === 0 && spec.folds.every((f) => f.combine !== "argmax") && spec.stores.every((s) => s.address.by.get(last) === 1)
  && [...spec.folds.map((f) => f.value), ...spec.stores.map((s) => s.value)].some((e) => [...indicesOf(e)].some((i) => i.by.get(last) === 1));

/** Every place of a row (of four lanes, its first), row-major. */
function* places(axes: readonly Axis[], lanes: Axis | undefined, fixed: ReadonlyMap<Axis, number> = new Map()): Generator<ReadonlyMap<Axis, number>> {
  const [axis, ...rest] = axes;
  if (!axis) {
    yield fixed;
    return;
  }
  for (let k = 0; k < axis.size; k += axis === lanes ? 4 : 1) yield* places(rest, lanes, new Map([...fixed, [axis, k]]));
}

const positionOf = (axes: readonly Axis[], digits: ReadonlyMap<Axis, number>): number => axes.reduce((at, a) => at * a.size + (digits.get(a) ?? 0), 0);
