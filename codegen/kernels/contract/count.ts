/**
 * The figures of an operand's table without the table. Axes that share a bound or a division are counted together, all others apart:
 * what a side reads is the product of what its parts read, and most schedules that a search compares differ in one part only.
 */
import { place, splitAddress, widthOf } from "./place.js";
import { Pool } from "./pool.js";
import type { Form, Side } from "./problem.js";
import type { AxisLayout, Cut, Part } from "./schedule.js";

/** What one operand contributes to one body. */
export interface SideCount {
  readonly loads: number;
  /** Share of its pinned combinations that bounds and divisions leave. */
  readonly live: number;
  /** Different guard sets. */
  readonly sets: number;
}

export const NO_SIDE: SideCount = { loads: 0, live: 1, sets: 1 };

/** Some axes of a side, and what couples them. */
interface Coupled {
  readonly axes: readonly number[];
  /** The side as far as these axes matter to it. */
  readonly side: Side;
  readonly known: Map<string, PartCount>;
}

interface PartCount {
  /** Different addresses of the combinations that are left. */
  readonly addresses: Float64Array;
  readonly live: number;
  readonly within: number;
  readonly sets: number;
  /** A division is left to run time. */
  readonly open: boolean;
}

/** Counts what one side of a problem loads; remembers every part under every layout it was asked for. */
export class SideCounter {
  readonly #side: Side;
  readonly #axes: readonly number[];
  readonly #parts: readonly Coupled[];
  readonly #known = new Map<string, SideCount>();

  constructor(side: Side, axes: number) {
    this.#side = side;
    this.#parts = partsOf(side, axes);
    this.#axes = this.#parts.flatMap((part) => part.axes).sort((a, b) => a - b);
  }

  /** `peel`: the axis of which only `part` of the trips are counted; -1: none. */
  count(cuts: readonly Cut[], peel: number, part: Part): SideCount {
    const key = keyOf(this.#axes, cuts, peel, part);
    const known = this.#known.get(key);
    if (known) return known;
    const made = this.#count(cuts, peel, part);
    this.#known.set(key, made);
    return made;
  }

  #count(cuts: readonly Cut[], peel: number, part: Part): SideCount {
    const laid = () => cuts.map((cut, a) => cut.layout(a === peel ? part : "whole"));
    const width = widthOf(this.#side, cuts.map((cut) => cut.layout("whole")));
    let [live, within, sets, open] = [1, 1, 1, false];
    let sums: Float64Array = new Float64Array([this.#side.address.at]);
    for (const coupled of this.#parts) {
      const key = keyOf(coupled.axes, cuts, peel, part);
      const count = coupled.known.get(key) ?? countPart(coupled.side, laid());
      coupled.known.set(key, count);
      live *= count.live;
      within *= count.within;
      sets *= count.sets;
      open ||= count.open;
      sums = allSums(sums, count.addresses);
    }
    if (open) return { loads: live, live: live / within, sets: live };
    for (let i = 0; i < sums.length; i++) sums[i] = Math.floor((sums[i] ?? 0) / width);
    return { loads: live === 0 ? 0 : distinct(sums).length, live: within === 0 ? 0 : live / within, sets: Math.max(1, sets) };
  }
}

/** Cuts have small numbers: one character each. */
function keyOf(axes: readonly number[], cuts: readonly Cut[], peel: number, part: Part): string {
  let key = "";
  let own = false;
  for (const a of axes) {
    key += String.fromCharCode((cuts[a] as Cut).id);
    own ||= a === peel;
  }
  return own ? key + part : key;
}

function countPart(side: Side, layout: readonly AxisLayout[]): PartCount {
  const { known, open } = splitAddress(side, layout);
  const { guards, addresses, within } = place(side, known, layout, new Pool());
  const sets = new Set<number>();
  let live = 0;
  for (let i = 0; i < guards.length; i++) {
    const set = guards[i] ?? -1;
    if (set < 0) continue;
    sets.add(set);
    addresses[live++] = addresses[i] ?? 0;
  }
  return { addresses: distinct(addresses.subarray(0, live)), live, within, sets: sets.size, open: open.length > 0 };
}

/** Every sum of a member of one and a member of the other. */
function allSums(a: Float64Array, b: Float64Array): Float64Array {
  if (a.length === 1 && a[0] === 0) return Float64Array.from(b);
  const sums = new Float64Array(a.length * b.length);
  let at = 0;
  for (const x of b) for (const y of a) sums[at++] = x + y;
  return sums;
}

/** Longest stretch of numbers that is marked in a table. */
const STRETCH = 1 << 14;

/** Each number once. The argument's memory is used. */
function distinct(numbers: Float64Array): Float64Array {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const n of numbers) {
    if (n < low) low = n;
    if (n > high) high = n;
  }
  if (high - low >= STRETCH) return Float64Array.from(new Set(numbers));
  const seen = new Uint8Array(Math.max(0, high - low + 1));
  let count = 0;
  for (const n of numbers) {
    if (seen[n - low] === 1) continue;
    seen[n - low] = 1;
    numbers[count++] = n;
  }
  return numbers.subarray(0, count);
}

/** The side's axes in groups that no bound or division connects. */
function partsOf(side: Side, axes: number): Coupled[] {
  const group = Array.from({ length: axes }, (_, a) => a);
  const couplings = [...side.bounds.map((b) => b.form), ...side.quotients.map((q) => q.form)];
  for (const form of couplings) {
    const mine = axesOf(form);
    const to = group[mine[0] ?? -1];
    const merged = new Set(mine.map((a) => group[a]));
    if (to !== undefined) for (let a = 0; a < axes; a++) if (merged.has(group[a])) group[a] = to;
  }
  const used = new Set([side.address, ...couplings].flatMap(axesOf));
  const zero = group.map(() => 0);
  const parts = [...new Set(group)].flatMap((g): Coupled[] => {
    const mine = group.flatMap((other, a) => (other === g && used.has(a) ? [a] : []));
    if (mine.length === 0) return [];
    const within = (form: Form) => axesOf(form).some((a) => mine.includes(a));
    const address = { at: 0, by: side.address.by.map((c, a) => (mine.includes(a) ? c : 0)) };
    return [{ axes: mine, side: { ...side, address, bounds: side.bounds.filter((b) => within(b.form)), quotients: side.quotients.filter((q) => within(q.form)) }, known: new Map() }];
  });
  // what holds for no axis at all is a part of its own
  const bounds = side.bounds.filter((b) => axesOf(b.form).length === 0);
  const quotients = side.quotients.filter((q) => axesOf(q.form).length === 0);
  if (bounds.length + quotients.length > 0) parts.push({ axes: [], side: { ...side, address: { at: 0, by: zero }, bounds, quotients }, known: new Map() });
  return parts;
}

const axesOf = (form: Form): number[] => form.by.flatMap((c, a) => (c === 0 ? [] : [a]));
