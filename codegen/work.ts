/**
 * How much work a kernel specification asks for, whatever schedule carries it out: the figures of profiles and benches.
 *
 * Arithmetic is that of the definition: 2 per product of a contraction (one triangle of a symmetric one; of a strided view only the
 * places that exist), the operations of every expression once per point, n³ for an inverse of n × n (Cholesky and what follows it).
 * Padding is counted like data. Bytes are those that must move at least once: every element that is touched, read or written, 4 each.
 */
import type { Access, Affine, Axis, Buffer, ContractSpec, Expr, Store } from "./kernel.js";
import type { LoweredGraph, Spec } from "./lower.js";

export interface KernelWork {
  readonly flops: number;
  readonly bytes: number;
}

const BYTES = 4;

/** Work of one specification (one or more dispatches). */
export function kernelWork(spec: Spec): KernelWork {
  switch (spec.kind) {
    case "map": {
      const [points, seen] = [volume(spec.axes), new Seen()];
      return { flops: points * seen.stores(spec.stores), bytes: seen.bytes(points) };
    }
    case "reduce": {
      const [outer, seen] = [volume(spec.axes), new Seen()];
      const points = outer * volume(spec.reduction);
      // one to combine, the rest to make what is combined
      const inner = 1 + seen.expr(spec.value) + (spec.when ? seen.expr(spec.when) : 0);
      return { flops: points * inner + outer * seen.stores(spec.stores), bytes: seen.bytes(points) };
    }
    case "rows": {
      const [outer, seen] = [volume(spec.axes), new Seen()];
      const points = outer * volume(spec.reduction);
      const inner = spec.folds.reduce((n, f) => n + 1 + seen.expr(f.value), 0);
      return { flops: points * (inner + seen.stores(spec.stores)) + outer * seen.stores(spec.rowStores), bytes: seen.bytes(points) };
    }
    case "contract": {
      const [outer, reduced, seen] = [volume(spec.output), volume(spec.reduction), new Seen()];
      for (const side of [spec.left, spec.right]) if (side !== "one") seen.access(side);
      const pooled = spec.pool ? outer / volume(spec.pool.axes) : outer;
      const pooling = spec.pool ? outer * (1 + seen.expr(spec.pool.value)) : 0;
      const epilogue = seen.stores(spec.stores) * pooled;
      const sums = (spec.sums ?? []).reduce((n, { of, stores }) => {
        const axes = of === "none" ? new Set(stores.flatMap((s) => [...s.address.by.keys()])) : new Set(of.address.by.keys());
        const own = volume(spec.output.filter((a) => axes.has(a)));
        return n + own * ((of === "none" ? 0 : reduced) + seen.stores(stores));
      }, 0);
      return { flops: products(spec) + pooling + epilogue + sums, bytes: seen.bytes(outer * reduced) };
    }
    case "inverse":
      return sumWork(spec.batches.map(({ n, batch }) => ({ flops: batch * n ** 3, bytes: BYTES * batch * (2 * n ** 2 + 2) })));
    case "scatter": {
      const [places, rows] = [spec.batch.size * spec.places.size, spec.batch.size * spec.rows];
      return { flops: places * spec.width.size, bytes: BYTES * (places + (places + rows) * spec.width.size) };
    }
    default: {
      const unknown: never = spec;
      throw new Error(`no count of work for ${JSON.stringify((unknown as { kind: string }).kind)}`);
    }
  }
}

/** Work of everything that an entry dispatches. */
export const entryWork = (low: LoweredGraph): KernelWork => sumWork(low.work.flatMap((w) => w.specs.map(kernelWork)));

export const sumWork = (list: readonly KernelWork[]): KernelWork => ({ flops: list.reduce((n, w) => n + w.flops, 0), bytes: list.reduce((n, w) => n + w.bytes, 0) });

const volume = (axes: readonly Axis[]): number => axes.reduce((n, a) => n * a.size, 1);

/** Multiplications and additions of the sums alone. */
function products(spec: ContractSpec): number {
  const side = volume((spec.symmetric ?? []).map(([a]) => a));
  const all = volume(spec.output) * volume(spec.reduction);
  const once = all * (spec.symmetric ? (side + 1) / (2 * side) : 1);
  const [left, right] = [spec.left, spec.right].map((a) => (a === "one" ? 1 : a.quotients.reduce((n, q) => n * q.divisor, 1))) as [number, number];
  return Math.round(once / (left * right)) * (spec.left === "one" || spec.right === "one" ? 1 : 2);
}

/** What expressions compute and touch. Shared sub-expressions are computed once. */
class Seen {
  readonly #exprs = new Set<Expr>();
  readonly #reads = new Map<Buffer, number>();
  readonly #writes = new Map<Buffer, number>();

  /** Operations per point. */
  stores(list: readonly Store[]): number {
    return list.reduce((n, s) => {
      touch(this.#writes, s.buffer, extent([s.address]));
      return n + this.expr(s.value);
    }, 0);
  }

  access(a: Access): void {
    touch(this.#reads, a.buffer, extent([a.address, ...a.quotients.map((q) => q.expr)]));
  }

  /** Operations of one evaluation that earlier calls have not counted. */
  expr(e: Expr): number {
    if (this.#exprs.has(e)) return 0;
    this.#exprs.add(e);
    switch (e.kind) {
      case "const": case "run": case "acc": case "index": return 0;
      case "load": this.access(e.access); return 0;
      case "uniform": return 1 + this.expr(e.key[0]) + this.expr(e.key[1]);
      case "cast": return this.expr(e.arg);
      case "op": return (FREE.has(e.op) ? 0 : 1) + e.args.reduce((n, a) => n + this.expr(a), 0);
      // which rows is known at run time only: any row of the table, at most all of it
      case "gather": touch(this.#reads, e.access.buffer, Number.POSITIVE_INFINITY); return this.expr(e.row);
      case "masked": return this.expr(e.inner);
      default: return e satisfies never;
    }
  }

  /** @param points an access touches no more elements than there are points */
  bytes(points: number): number {
    const sum = (touched: ReadonlyMap<Buffer, number>): number => [...touched].reduce((n, [b, count]) => n + Math.min(count, b.elements, points), 0);
    return BYTES * (sum(this.#reads) + sum(this.#writes));
  }
}

/** No arithmetic: other names of the same bits, or of a value. */
const FREE: ReadonlySet<string> = new Set(["bits", "from_bits", "detach"]);

/** Elements that an address can reach: one per combination of the axes in it. */
const extent = (parts: readonly Affine[]): number => volume([...new Set(parts.flatMap((p) => [...p.by.keys()]))]);

const touch = (map: Map<Buffer, number>, buffer: Buffer, elements: number): void => { map.set(buffer, (map.get(buffer) ?? 0) + elements); };
