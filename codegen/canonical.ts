/**
 * Equal work, equal text: renames the buffers and axes of a kernel spec by their role, so that two layers of one shape share
 * a pipeline, and gives the spec a key under which its lowering is remembered.
 */
import type { Access, Affine, Axis, Bound, Buffer, Expr, KernelSpec, Quotient, Store } from "./kernel.js";
import type { InverseSpec } from "./kernels/inverse.js";
import type { ScatterSpec } from "./kernels/scatter-spec.js";

export interface Canonical<S> {
  readonly key: string;
  readonly spec: S;
  /** canonical buffer → the caller's. */
  readonly original: ReadonlyMap<Buffer, Buffer>;
}

export function canonicalize(spec: KernelSpec): Canonical<KernelSpec> {
  const r = new Renamer();
  const axes = (list: readonly Axis[], prefix: string) => list.map((a) => r.axis(a, prefix));
  const made = ((): KernelSpec => {
    switch (spec.kind) {
      case "map": return { ...spec, axes: axes(spec.axes, "i"), stores: r.stores(spec.stores) };
      case "reduce": {
        const [outer, inner] = [axes(spec.axes, "i"), axes(spec.reduction, "r")];
        return { ...spec, axes: outer, reduction: inner, value: r.expr(spec.value), ...(spec.when ? { when: r.expr(spec.when) } : {}), stores: r.stores(spec.stores) };
      }
      case "rows": {
        const [outer, inner] = [axes(spec.axes, "i"), axes(spec.reduction, "r")];
        return { ...spec, axes: outer, reduction: inner, folds: spec.folds.map((f) => ({ ...f, value: r.expr(f.value) })), rowStores: r.stores(spec.rowStores), stores: r.stores(spec.stores) };
      }
      case "contract": {
        const [output, reduction] = [axes(spec.output, "i"), axes(spec.reduction, "k")];
        const operand = (a: Access | "one", role: string): Access | "one" => (a === "one" ? a : r.access(a, role));
        const left = operand(spec.left, "left");
        const right = operand(spec.right, "right");
        const pool = spec.pool && { axes: spec.pool.axes.map((a) => r.axis(a, "i")), value: r.expr(spec.pool.value) };
        const sums = spec.sums?.map((sum) => ({ of: sum.of === "none" ? sum.of : r.access(sum.of, "also"), stores: r.stores(sum.stores) }));
        return {
          ...spec, output, reduction, left, right, stores: r.stores(spec.stores), ...(sums && { sums }), ...(pool && { pool }),
          ...(spec.symmetric ? { symmetric: spec.symmetric.map(([a, b]) => [r.axis(a, "i"), r.axis(b, "i")] as const) } : {}),
        };
      }
      default: return spec satisfies never;
    }
  })();
  return { key: keyOf(made), spec: made, original: r.original };
}

export function canonicalizeInverse(spec: InverseSpec): Canonical<InverseSpec> {
  const r = new Renamer();
  const made = {
    ...spec,
    batches: spec.batches.map((b) => ({
      ...b, matrix: r.buffer(b.matrix, "matrix"), damping: r.buffer(b.damping, "damping"), inverse: r.buffer(b.inverse, "inverse"), status: r.buffer(b.status, "status"),
    })),
  };
  const key = made.batches.map((b) => [b.batch, b.n, b.matrix.name, b.damping.name, b.inverse.name, b.status.name].join(":"));
  return { key: `inverse:${key.join("|")}`, spec: made, original: r.original };
}

export function canonicalizeScatter(spec: ScatterSpec): Canonical<ScatterSpec> {
  const r = new Renamer();
  const [batch, places, width] = [r.axis(spec.batch, "b"), r.axis(spec.places, "n"), r.axis(spec.width, "i")];
  const made = { ...spec, batch, places, width, index: r.access(spec.index, "index"), value: r.access(spec.value, "value"), result: r.buffer(spec.result, "result") };
  return { key: `scatter:${spec.rows}:${batch.size}:${places.size}:${width.size}:${accessKey(made.index)}|${accessKey(made.value)}`, spec: made, original: r.original };
}

class Renamer {
  readonly original = new Map<Buffer, Buffer>();
  readonly #buffers = new Map<Buffer, Buffer>();
  readonly #axes = new Map<Axis, Axis>();
  readonly #exprs = new Map<Expr, Expr>();
  readonly #used = new Set<string>();

  buffer(b: Buffer, role: string): Buffer {
    const known = this.#buffers.get(b);
    if (known) return known;
    let name = role;
    for (let k = 1; this.#used.has(name); k++) name = `${role}${k}`;
    this.#used.add(name);
    const made = { ...b, name };
    this.#buffers.set(b, made);
    this.original.set(made, b);
    return made;
  }

  axis(a: Axis, prefix: string): Axis {
    const known = this.#axes.get(a);
    if (known) return known;
    const made = { name: `${prefix}${this.#axes.size}`, size: a.size };
    this.#axes.set(a, made);
    return made;
  }

  affine(a: Affine): Affine {
    return { at: a.at, by: new Map([...a.by].map(([axis, k]) => [this.axis(axis, "i"), k])) };
  }

  bounds(list: readonly Bound[]): Bound[] {
    return list.map((b) => ({ ...b, expr: this.affine(b.expr) }));
  }

  quotients(list: readonly Quotient[]): Quotient[] {
    return list.map((q) => ({ ...q, expr: this.affine(q.expr) }));
  }

  access(a: Access, role: string): Access {
    return { ...a, buffer: this.buffer(a.buffer, role), address: this.affine(a.address), bounds: this.bounds(a.bounds), quotients: this.quotients(a.quotients) };
  }

  expr(e: Expr): Expr {
    const known = this.#exprs.get(e);
    if (known) return known;
    const made = ((): Expr => {
      switch (e.kind) {
        case "const": case "run": case "acc": return e;
        case "load": return { ...e, access: this.access(e.access, "data") };
        case "index": return { ...e, index: this.affine(e.index) };
        case "uniform": return { ...e, key: [this.expr(e.key[0]), this.expr(e.key[1])], index: this.affine(e.index) };
        case "cast": return { ...e, arg: this.expr(e.arg) };
        case "op": return { ...e, args: e.args.map((a) => this.expr(a)) };
        case "gather": return { ...e, access: this.access(e.access, "table"), row: this.expr(e.row) };
        case "masked": return { ...e, inner: this.expr(e.inner), bounds: this.bounds(e.bounds), quotients: this.quotients(e.quotients) };
        default: return e satisfies never;
      }
    })();
    this.#exprs.set(e, made);
    return made;
  }

  stores(list: readonly Store[]): Store[] {
    return list.map((s) => {
      const value = this.expr(s.value);
      return { buffer: this.buffer(s.buffer, "result"), address: this.affine(s.address), value };
    });
  }
}

const affineKey = (a: Affine): string => `${a.at}${[...a.by].map(([axis, k]) => `${k >= 0 ? "+" : ""}${k}${axis.name}:${axis.size}`).sort().join("")}`;
const boundsKey = (list: readonly Bound[]): string => list.map((b) => `{${affineKey(b.expr)}|${b.low}|${b.high}}`).join("");
const quotientsKey = (list: readonly Quotient[]): string => list.map((q) => `{${affineKey(q.expr)}/${q.divisor}*${q.stride}}`).join("");
const bufferKey = (b: Buffer): string => `${b.name}:${b.dtype}:${b.elements}`;
const accessKey = (a: Access | "one"): string => (a === "one" ? a : `${bufferKey(a.buffer)}@${affineKey(a.address)}${boundsKey(a.bounds)}${quotientsKey(a.quotients)}f${a.fill}`);

/** A text that two specs share exactly if they compute the same thing (labels aside). */
function keyOf(spec: KernelSpec): string {
  const exprs = new Map<Expr, number>();
  const [affine, bounds, quotients, buffer, access] = [affineKey, boundsKey, quotientsKey, bufferKey, accessKey];
  const expr = (e: Expr): string => {
    const seen = exprs.get(e);
    if (seen !== undefined) return `#${seen}`;
    exprs.set(e, exprs.size);
    switch (e.kind) {
      case "const": return `c${e.dtype}${Object.is(e.value, -0) ? "-0" : e.value}`;
      case "run": return `run.${e.name}`;
      case "acc": return `acc${e.fold ?? ""}${e.dtype}`;
      case "load": return `l${e.dtype}(${access(e.access)})`;
      case "index": return `i(${affine(e.index)})`;
      case "uniform": return `u(${expr(e.key[0])},${expr(e.key[1])},${e.stream},${affine(e.index)})`;
      case "cast": return `${e.dtype}(${expr(e.arg)})`;
      case "op": return `${e.op}(${e.args.map(expr).join(",")})`;
      case "gather": return `g${e.dtype}(${access(e.access)})[${expr(e.row)}<${e.rows}]*${e.stride}`;
      case "masked": return `m${bounds(e.bounds)}${quotients(e.quotients)}${e.fill}(${expr(e.inner)})`;
      default: return e satisfies never;
    }
  };
  const axes = (list: readonly Axis[]): string => list.map((a) => `${a.name}:${a.size}`).join(",");
  const storesKey = (list: readonly Store[]): string => list.map((s) => `${buffer(s.buffer)}@${affine(s.address)}=${expr(s.value)}`).join(";");
  const stores = storesKey(spec.stores);
  switch (spec.kind) {
    case "map": return `map[${axes(spec.axes)}]${stores}`;
    case "reduce": return `${spec.combine}[${axes(spec.axes)}][${axes(spec.reduction)}]${spec.when ? `${expr(spec.when)}?` : ""}${expr(spec.value)}|${stores}`;
    case "rows": return `rows[${axes(spec.axes)}][${axes(spec.reduction)}]${spec.folds.map((f) => `${f.combine} ${expr(f.value)};`).join("")}|${storesKey(spec.rowStores)}|${stores}`;
    case "contract":
      return `contract[${axes(spec.output)}][${axes(spec.reduction)}]${access(spec.left)}|${access(spec.right)}|${(spec.symmetric ?? []).map(([a, b]) => a.name + b.name).join(",")}|${stores}${spec.pool ? `|pool[${axes(spec.pool.axes)}]${expr(spec.pool.value)}` : ""}${(spec.sums ?? []).map((sum) => `|sum ${sum.of === "none" ? sum.of : access(sum.of)}:${storesKey(sum.stores)}`).join("")}`;
    default: return spec satisfies never;
  }
}
