/** Passes 1, 2 and 4: digits become addresses, bounds become true, false or a run-time guard, elements become lanes of loads. */
import type { Guard, Pool, Sum } from "./pool.js";
import type { Form, Side } from "./problem.js";
import { type AxisLayout, gcd, type Width } from "./schedule.js";

/** What every combination of an operand's pinned digits reads. Index: Σ strides[axis] · pin of the axis. */
export interface Table {
  readonly strides: readonly number[];
  /** Guard set, or -1 where the element is 0. */
  readonly guards: Int32Array;
  readonly chunks: Int32Array;
  readonly lanes: Uint8Array;
}

/** Run-time part of a form: Σ coefficient · weight · digit. */
function dynamic(form: Form, layout: readonly AxisLayout[]): Sum {
  const sum: [string, number][] = [];
  for (const [a, axis] of layout.entries()) {
    const coefficient = form.by[a] ?? 0;
    if (coefficient !== 0) for (const digit of axis.digits) sum.push([digit.name, coefficient * digit.weight]);
  }
  return sum;
}

/** The run-time part of an operand's address, with the divisions that the schedule already makes exact folded in. */
export function splitAddress(side: Side, layout: readonly AxisLayout[]) {
  const coefficients = new Map(dynamic(side.address, layout));
  const known: Side["quotients"][number][] = [];
  const open: Side["quotients"][number][] = [];
  for (const quotient of side.quotients) {
    const terms = dynamic(quotient.form, layout);
    if (terms.some(([, c]) => c % quotient.divisor !== 0)) {
      open.push(quotient);
      continue;
    }
    known.push(quotient);
    for (const [name, c] of terms) coefficients.set(name, (coefficients.get(name) ?? 0) + (c / quotient.divisor) * quotient.stride);
  }
  const sum: Sum = [...coefficients].filter(([, c]) => c !== 0);
  return { sum, known, open };
}

/** The widest load an operand allows: 4, 2 or 1 elements, from the gcd of everything that is unknown in its address. */
export function widthOf(side: Side, layout: readonly AxisLayout[]): Width {
  const { sum, open } = splitAddress(side, layout);
  const common = [...sum.map(([, c]) => c), ...open.map((q) => q.stride)].reduce(gcd, 0);
  const width = common % 4 === 0 ? 4 : common % 2 === 0 ? 2 : 1;
  return Math.min(width, side.widest) as Width;
}

/** f(pins) = at + Σ part(axis, pin), for every combination of pins of the relevant axes, in table order. */
function outerSum(at: number, relevant: readonly number[], layout: readonly AxisLayout[], part: (axis: number, pin: number) => number): Float64Array {
  let sums = new Float64Array([at]);
  for (const a of relevant) {
    const pins = layout[a]?.values.length ?? 1;
    const next = new Float64Array(sums.length * pins);
    for (let pin = 0; pin < pins; pin++) {
      const more = part(a, pin);
      for (let i = 0; i < sums.length; i++) next[i * pins + pin] = (sums[i] ?? 0) + more;
    }
    sums = next;
  }
  return sums;
}

/** A form without its digits, at every combination of pins. */
function pinned(form: Form, relevant: readonly number[], layout: readonly AxisLayout[]): Float64Array {
  const single = layout.reduce((at, axis, a) => at + (axis.values.length === 1 ? (form.by[a] ?? 0) * (axis.values[0] ?? 0) : 0), form.at);
  return outerSum(single, relevant, layout, (a, pin) => (form.by[a] ?? 0) * (layout[a]?.values[pin] ?? 0));
}

export interface Placed {
  readonly strides: readonly number[];
  /** Guard set without the divisions left open, -1 where the element is 0. */
  readonly guards: Int32Array;
  /** Pinned part of the address, without the divisions left open. */
  readonly addresses: Float64Array;
  readonly relevant: readonly number[];
  readonly within: number;
}

/** Address and bounds of `side` at every combination of pinned digits. */
export function place(side: Side, known: Side["quotients"], layout: readonly AxisLayout[], pool: Pool): Placed {
  const forms = [side.address, ...side.bounds.map((b) => b.form), ...side.quotients.map((q) => q.form)];
  const relevant = layout.flatMap((axis, a) => (axis.values.length > 1 && forms.some((f) => (f.by[a] ?? 0) !== 0) ? [a] : []));
  const { strides, size } = stridesOf(relevant, layout);
  const guards = outsideAxes(relevant, layout, size);
  let within = 0;
  for (let i = 0; i < size; i++) if (guards[i] === 0) within++;
  for (const bound of side.bounds) decide(bound, relevant, layout, pool, guards);
  const addresses = pinned(side.address, relevant, layout);
  for (const { form, divisor, stride } of known) {
    const dividends = pinned(form, relevant, layout);
    for (let i = 0; i < size; i++) {
      const dividend = dividends[i] ?? 0;
      if (dividend % divisor === 0) addresses[i] = (addresses[i] ?? 0) + (dividend / divisor) * stride;
      else guards[i] = -1;
    }
  }
  return { strides, guards, addresses, relevant, within };
}

/** Reads `side` at every combination of pinned digits. */
export function tabulate(side: Side, layout: readonly AxisLayout[], pool: Pool, width: Width): Table {
  const { sum, known, open } = splitAddress(side, layout);
  const { strides, guards, addresses, relevant } = place(side, known, layout, pool);
  const plain = open.length === 0 ? pool.base({ buffer: side.buffer, width, sum, quotients: [] }) : -1;
  const dividends = open.map((q) => pinned(q.form, relevant, layout));
  const openSums = open.map((q) => dynamic(q.form, layout));
  const chunks = new Int32Array(guards.length);
  const lanes = new Uint8Array(guards.length);
  for (let i = 0; i < guards.length; i++) {
    const set = guards[i] ?? -1;
    if (set < 0) continue;
    let base = plain;
    if (base < 0) {
      const quotients = open.map((q, k) => ({ sum: openSums[k] ?? [], at: dividends[k]?.[i] ?? 0, divisor: q.divisor, stride: q.stride }));
      guards[i] = quotients.reduce((all, q) => pool.union(all, pool.singleton(pool.guard({ kind: "exact", sum: q.sum, at: q.at, divisor: q.divisor }))), set);
      base = pool.base({ buffer: side.buffer, width, sum, quotients });
    }
    const address = addresses[i] ?? 0;
    const at = Math.floor(address / width);
    chunks[i] = pool.chunk(base, at);
    lanes[i] = address - at * width;
  }
  return { strides, guards, chunks, lanes };
}

/** -1 where a pin lies beyond its axis for every digit, else the empty set. */
function outsideAxes(relevant: readonly number[], layout: readonly AxisLayout[], size: number): Int32Array {
  if (relevant.every((a) => (layout[a]?.reach.at(-1) ?? 0) >= 0)) return new Int32Array(size);
  return Int32Array.from(outerSum(0, relevant, layout, (a, pin) => ((layout[a]?.reach[pin] ?? 0) < 0 ? 1 : 0)), (beyond) => (beyond > 0 ? -1 : 0));
}

/** Where ragged axes end: dead pins, and guards on reduction axes whose last trip is not whole. */
export function tabulateEnds(layout: readonly AxisLayout[], outputs: number, pool: Pool): Table {
  const relevant = layout.flatMap((axis, a) => (axis.reach.some((r) => r < axis.span) ? [a] : []));
  const { strides, size } = stridesOf(relevant, layout);
  const guards = new Int32Array(size);
  const pins = layout.map(() => 0);
  for (let index = 0; index < size; index++) {
    setPins(pins, index, relevant, strides, layout);
    let set = 0;
    for (const a of relevant) {
      const axis = layout[a];
      if (axis === undefined || set < 0) continue;
      const reach = axis.reach[pins[a] ?? 0] ?? 0;
      if (reach < 0) set = -1;
      else if (a >= outputs && reach < axis.span) {
        const sum = axis.digits.map((digit) => [digit.name, digit.weight / axis.step] as const);
        set = pool.union(set, pool.singleton(pool.guard({ kind: "range", sum, low: 0, high: reach / axis.step + 1, min: 0, max: axis.span / axis.step })));
      }
    }
    guards[index] = set;
  }
  return { strides, guards, chunks: guards, lanes: new Uint8Array(0) };
}

function stridesOf(relevant: readonly number[], layout: readonly AxisLayout[]): { strides: number[]; size: number } {
  const strides = layout.map(() => 0);
  let size = 1;
  for (const a of relevant.toReversed()) {
    strides[a] = size;
    size *= layout[a]?.values.length ?? 1;
  }
  return { strides, size };
}

function setPins(pins: number[], index: number, relevant: readonly number[], strides: readonly number[], layout: readonly AxisLayout[]): void {
  for (const a of relevant) pins[a] = Math.floor(index / (strides[a] ?? 1)) % (layout[a]?.values.length ?? 1);
}

/** Adds a bound to every guard set: no change where it always holds, -1 where it never does. */
function decide({ form, low, high }: Side["bounds"][number], relevant: readonly number[], layout: readonly AxisLayout[], pool: Pool, guards: Int32Array): void {
  const values = pinned(form, relevant, layout);
  const reach = (a: number, pin: number) => (form.by[a] ?? 0) * Math.max(0, layout[a]?.reach[pin] ?? 0);
  const fixed = (sign: number) =>
    layout.reduce((sum, axis, a) => sum + (axis.values.length === 1 && (form.by[a] ?? 0) * sign > 0 ? reach(a, 0) : 0), 0);
  const below = outerSum(fixed(-1), relevant, layout, (a, pin) => Math.min(0, reach(a, pin)));
  const above = outerSum(fixed(1), relevant, layout, (a, pin) => Math.max(0, reach(a, pin)));
  let known: Map<number, number> | undefined;
  for (let i = 0; i < guards.length; i++) {
    const set = guards[i] ?? -1;
    if (set < 0) continue;
    const value = values[i] ?? 0;
    const min = value + (below[i] ?? 0);
    const max = value + (above[i] ?? 0);
    if (min >= low && max < high) continue;
    if (max < low || min >= high) {
      guards[i] = -1;
      continue;
    }
    known ??= new Map();
    let guard = known.get(value);
    if (guard === undefined) {
      guard = pool.singleton(pool.guard(rangeGuard(form, low - value, high - value, layout)));
      known.set(value, guard);
    }
    guards[i] = pool.union(set, guard);
  }
}

/** low ≤ digits of `form` < high, divided by their gcd. The digits' own range tightens both ends, so that equal guards look equal. */
function rangeGuard(form: Form, low: number, high: number, layout: readonly AxisLayout[]): Guard {
  const terms = dynamic(form, layout);
  const g = terms.reduce((common, [, c]) => gcd(common, c), 0);
  let min = 0;
  let max = 0;
  for (const [a, axis] of layout.entries()) {
    const c = ((form.by[a] ?? 0) * axis.span) / g;
    if (c < 0) min += c;
    else max += c;
  }
  return { kind: "range", sum: terms.map(([name, c]) => [name, c / g] as const), low: Math.max(Math.ceil(low / g), min), high: Math.min(Math.ceil(high / g), max + 1), min, max };
}
