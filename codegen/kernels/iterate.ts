/** Shared by map and reduce: merging axes, decoding a thread number into axis values, folding big grids to two dimensions. */
import { boundMatters, substitute, substituteAccess, substituteBounds, substituteQuotients } from "../affine.js";
import type { Affine, Axis, Expr, Limits, ScalarType, Store } from "../kernel.js";

/** Threads per workgroup of one-dimensional kernels. */
export const WORKGROUP = 64;

/** Rewrites every index in an expression. Sharing is kept. */
export function mapIndices(expr: Expr, to: ReadonlyMap<Axis, Affine>, memo = new Map<Expr, Expr>()): Expr {
  const known = memo.get(expr);
  if (known) return known;
  const inner = (e: Expr): Expr => mapIndices(e, to, memo);
  const made = ((): Expr => {
    switch (expr.kind) {
      case "const": case "run": case "acc": return expr;
      case "load": return { ...expr, access: substituteAccess(expr.access, to) };
      case "index": return { ...expr, index: substitute(expr.index, to) };
      case "uniform": return { ...expr, index: substitute(expr.index, to), key: [inner(expr.key[0]), inner(expr.key[1])] };
      case "cast": return { ...expr, arg: inner(expr.arg) };
      case "op": return { ...expr, args: expr.args.map(inner) };
      case "gather": return { ...expr, access: substituteAccess(expr.access, to), row: inner(expr.row) };
      case "masked": return { ...expr, inner: inner(expr.inner), bounds: substituteBounds(expr.bounds, to), quotients: substituteQuotients(expr.quotients, to) };
      default: return expr satisfies never;
    }
  })();
  memo.set(expr, made);
  return made;
}

/** Every affine expression in an expression. */
export function* indicesOf(expr: Expr, seen = new Set<Expr>()): Generator<Affine> {
  if (seen.has(expr)) return;
  seen.add(expr);
  switch (expr.kind) {
    case "load": case "gather":
      yield expr.access.address;
      for (const b of expr.access.bounds) if (boundMatters(b)) yield b.expr;
      for (const q of expr.access.quotients) yield q.expr;
      if (expr.kind === "gather") yield* indicesOf(expr.row, seen);
      return;
    case "index": yield expr.index; return;
    case "uniform": yield expr.index; for (const k of expr.key) yield* indicesOf(k, seen); return;
    case "cast": yield* indicesOf(expr.arg, seen); return;
    case "op": for (const a of expr.args) yield* indicesOf(a, seen); return;
    case "masked":
      for (const b of expr.bounds) if (boundMatters(b)) yield b.expr;
      for (const q of expr.quotients) yield q.expr;
      yield* indicesOf(expr.inner, seen);
      return;
    default: return;
  }
}

/** Merges neighbouring axes that every index steps through as one. Returns the new axes and what the old ones became. */
export function mergeAxes(axes: readonly Axis[], indices: readonly Affine[]): { axes: Axis[]; to: Map<Axis, Affine> } {
  const runs: Axis[][] = [];
  for (const axis of axes.filter((a) => a.size > 1)) {
    const run = runs[runs.length - 1];
    const last = run?.[run.length - 1];
    const fits = last !== undefined && indices.every((i) => (i.by.get(last) ?? 0) === (i.by.get(axis) ?? 0) * axis.size);
    if (fits) run?.push(axis);
    else runs.push([axis]);
  }
  const to = new Map<Axis, Affine>(axes.filter((a) => a.size === 1).map((a) => [a, { at: 0, by: new Map() }]));
  const merged = runs.map((run): Axis => {
    if (run.length === 1) return run[0] as Axis;
    const axis = { name: run.map((a) => a.name).join(""), size: run.reduce((n, a) => n * a.size, 1) };
    // only the innermost keeps a place; the outer ones ride on its multiples
    run.forEach((a, k) => to.set(a, k === run.length - 1 ? { at: 0, by: new Map([[axis, 1]]) } : { at: 0, by: new Map() }));
    return axis;
  });
  return { axes: merged, to };
}

export const mapStores = (stores: readonly Store[], to: ReadonlyMap<Axis, Affine>): Store[] => {
  const memo = new Map<Expr, Expr>();
  return stores.map((s) => ({ ...s, address: substitute(s.address, to), value: mapIndices(s.value, to, memo) }));
};

/** Workgroups for `threads` one-dimensional threads, folded to x, y where x alone would exceed the limit. */
export function grid(threads: number, limits: Limits): { workgroups: readonly [number, number, number]; thread: string } {
  const groups = Math.max(1, Math.ceil(threads / WORKGROUP));
  if (groups <= limits.workgroupsPerDimension) return { workgroups: [groups, 1, 1], thread: "id.x" };
  const x = limits.workgroupsPerDimension;
  return { workgroups: [x, Math.ceil(groups / x), 1], thread: `(id.y * ${x * WORKGROUP}u + id.x)` };
}

/** Statements decoding `thread` (a u32 name) into axes, outermost first; returns each axis's spelling. */
export function decode(axes: readonly { axis: Axis; count: number; scale: number }[], thread: string, push: (line: string) => void): Map<Axis, string | number> {
  const spelled = new Map<Axis, string | number>();
  let unit = axes.reduce((n, a) => n * a.count, 1);
  axes.forEach(({ axis, count, scale }, k) => {
    unit /= count;
    if (count === 1) {
      spelled.set(axis, 0);
      return;
    }
    const divided = unit === 1 ? thread : `${thread} / ${unit}u`;
    const value = k === 0 ? divided : `(${divided}) % ${count}u`;
    const name = `${identifier(axis.name)}_${k}`;
    push(`let ${name} = i32(${value})${scale === 1 ? "" : ` * ${scale}`};`);
    spelled.set(axis, name);
  });
  return spelled;
}

export const identifier = (name: string): string => name.replace(/[^A-Za-z0-9_]/g, "_").replace(/^(?=[0-9_])/, "k");
export const product = (axes: readonly Axis[]): number => axes.reduce((n, a) => n * a.size, 1);
/** Where a maximum starts. */
export const lowest = (dtype: ScalarType): number => (dtype === "f32" ? Number.NEGATIVE_INFINITY : dtype === "i32" ? -2147483648 : 0);
