/** What printed bodies are made of: guards, guard sets, run-time addresses and loads, each kept once and known by number. */
import type { Buffer } from "../../kernel.js";
import type { Width } from "./schedule.js";

/** Σ coefficient · digit name */
export type Sum = readonly (readonly [name: string, coefficient: number])[];

/** A condition on digits. range: low ≤ sum < high, where sum is known to lie in min … max. exact: divisor divides at + sum. */
export type Guard =
  | { readonly kind: "range"; readonly sum: Sum; readonly low: number; readonly high: number; readonly min: number; readonly max: number }
  | { readonly kind: "exact"; readonly sum: Sum; readonly at: number; readonly divisor: number };

/** The run-time part of an address in elements: sum + Σ stride · ((at + sum) / divisor). */
export interface Base {
  readonly buffer: Buffer;
  readonly width: Width;
  readonly sum: Sum;
  readonly quotients: readonly { readonly sum: Sum; readonly at: number; readonly divisor: number; readonly stride: number }[];
}

/** One load: `width` elements from base + at · width. */
export interface Chunk {
  readonly base: number;
  readonly at: number;
}

/** Interned guards, guard sets, bases and chunks of one printed body. Set 0 is empty. */
export class Pool {
  readonly guards: Guard[] = [];
  readonly sets: number[][] = [[]];
  readonly bases: Base[] = [];
  readonly chunks: Chunk[] = [];
  readonly #ids = new Map<string, number>();
  readonly #chunkIds = new Map<number, number>();
  readonly #unions = new Map<number, number>();

  intern<T>(list: T[], prefix: string, item: T, key: string): number {
    const known = this.#ids.get(prefix + key);
    if (known !== undefined) return known;
    this.#ids.set(prefix + key, list.length);
    return list.push(item) - 1;
  }

  guard(guard: Guard): number {
    const limits = guard.kind === "range" ? `${guard.low},${guard.high}` : `${guard.at}%${guard.divisor}`;
    return this.intern(this.guards, "g", guard, `${guard.sum.join()}|${limits}`);
  }

  base(base: Base): number {
    const quotients = base.quotients.map((q) => `${q.sum.join()}+${q.at}/${q.divisor}*${q.stride}`).join(";");
    const known = this.bases.findIndex((b) => b.buffer === base.buffer && b.width === base.width && keyOf(b) === `${base.sum.join()}|${quotients}`);
    return known >= 0 ? known : this.bases.push(base) - 1;
  }

  chunk(base: number, at: number): number {
    const key = (base + 1) * 2 ** 40 + at;
    const known = this.#chunkIds.get(key);
    if (known !== undefined) return known;
    this.#chunkIds.set(key, this.chunks.length);
    return this.chunks.push({ base, at }) - 1;
  }

  /** The set with all members of both. */
  union(a: number, b: number): number {
    if (a === b || b === 0) return a;
    if (a === 0) return b;
    const key = a < b ? a * 65536 + b : b * 65536 + a;
    const known = this.#unions.get(key);
    if (known !== undefined) return known;
    const members = [...new Set([...(this.sets[a] ?? []), ...(this.sets[b] ?? [])])].sort((x, y) => x - y);
    const id = this.intern(this.sets, "s", members, members.join());
    this.#unions.set(key, id);
    return id;
  }

  singleton(guard: number): number {
    return this.intern(this.sets, "s", [guard], `${guard}`);
  }
}

const keyOf = (base: Base): string =>
  `${base.sum.join()}|${base.quotients.map((q) => `${q.sum.join()}+${q.at}/${q.divisor}*${q.stride}`).join(";")}`;
