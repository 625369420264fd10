/** Where an access points and whether it exists, as WGSL expressions. */
import { boundMatters, shiftAffine } from "./affine.js";
import type { Access, Affine, Axis, Bound, Buffer, Quotient } from "./kernel.js";

export interface Point {
  /** Spelling of each axis: an i32 WGSL expression, or a number known when the kernel is written. */
  readonly axis: (axis: Axis) => string | number;
  /** If set: this axis's spelling is the first of 4 consecutive values and every value is a vec4. */
  readonly lanes?: Axis;
  /** Spelling of the accumulator (vec4 with lanes). */
  readonly acc?: string;
  /** Spelling of the position of the maximum that `acc` is, where it is one. */
  readonly position?: string;
  /** Spellings of the results of several reductions, by number: scalars, also with lanes. */
  readonly folds?: readonly string[];
}

/** An i32 expression. */
export function spellAffine(a: Affine, axis: (axis: Axis) => string | number): string {
  let at = a.at;
  const terms: string[] = [];
  for (const [x, k] of a.by) {
    const value = axis(x);
    if (typeof value === "number") at += k * value;
    else if (k === 1) terms.push(value);
    else terms.push(`${value} * ${k < 0 ? `(${k})` : k}`);
  }
  if (terms.length === 0) return `${at}`;
  const text = terms.join(" + ");
  const whole = at === 0 ? text : at > 0 ? `${text} + ${at}` : `${text} - ${-at}`;
  return terms.length === 1 && at === 0 && /^[A-Za-z_]\w*$/.test(text) ? text : `(${whole})`;
}

/** Condition under which an access exists; undefined = always. With lanes it is a vec4<bool>, or a bool where lanes agree. */
export function guard(bounds: readonly Bound[], quotients: readonly Quotient[], point: Point): string | undefined {
  const parts: string[] = [];
  for (const b of bounds) {
    if (!boundMatters(b)) continue;
    const text = spellAffine(shiftAffine(b.expr, -b.low), point.axis);
    const k = point.lanes ? (b.expr.by.get(point.lanes) ?? 0) : 0;
    if (/^-?\d+$/.test(text)) {
      // known now, and not to be spelled: WGSL refuses to convert a negative constant
      const holds = [0, 1, 2, 3].map((lane) => Number(text) + k * lane >= 0 && Number(text) + k * lane < b.high - b.low);
      if (holds.every((h) => h)) continue;
      parts.push(k === 0 ? "(false)" : `vec4<bool>(${holds.join(", ")})`);
      continue;
    }
    // one unsigned comparison: negative numbers become huge
    parts.push(k === 0
      ? `(u32(${text}) < ${b.high - b.low}u)`
      : `(vec4u(vec4i(${text}) + vec4i(0, ${k}, ${2 * k}, ${3 * k})) < vec4u(${b.high - b.low}u))`);
  }
  for (const q of quotients) parts.push(`(${spellAffine(q.expr, point.axis)} % ${q.divisor} == 0)`);
  if (parts.length === 0) return undefined;
  if (!point.lanes) return parts.join(" && ").replace(/^(.*)$/, parts.length > 1 ? "($1)" : "$1");
  return `(${parts.map((p) => (p.includes("vec4") ? p : `vec4<bool>${p}`)).join(" & ")})`;
}

/** Address as an i32 expression, quotients divided out. */
export function addressOf(access: Access, point: Point): string {
  const base = spellAffine(access.address, point.axis);
  const parts = access.quotients.map((q) => `${spellAffine(q.expr, point.axis)} / ${q.divisor} * ${q.stride}`);
  return parts.length === 0 ? base : `(${[base, ...parts].join(" + ")})`;
}

/** One element at an i32 address. A constant one is kept inside the buffer: WGSL refuses it otherwise, even where a guard discards the value. */
export function element(buffer: Buffer, address: string, vec4: ReadonlySet<Buffer>): string {
  const known = /^-?\d+$/.test(address) ? Math.min(Math.max(Number(address), 0), Math.max(buffer.elements - 1, 0)) : undefined;
  if (known !== undefined) return vec4.has(buffer) ? `${buffer.name}[${known >> 2}][${known & 3}]` : `${buffer.name}[${known}]`;
  return vec4.has(buffer) ? `${buffer.name}[${address} >> 2u][${address} & 3]` : `${buffer.name}[${address}]`;
}

/** address + shift, as one number where it is known. */
export const moved = (address: string, shift: number): string =>
  shift === 0 ? address : /^-?\d+$/.test(address) ? `${Number(address) + shift}` : `(${address} + ${shift})`;

/** Along the lanes, first lanes fall on whole vec4s. */
export const aligned = (address: Affine, lanes: Axis): boolean =>
  address.at % 4 === 0 && [...address.by].every(([axis, k]) => axis === lanes || k % 4 === 0);
