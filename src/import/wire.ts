/** Protobuf's wire format, just enough to find a field's bytes and to put others in their place. */
import { CompileError } from "../../ir/error.js";

export interface Field {
  readonly number: number;
  /** 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes. */
  readonly wire: number;
  /** The whole field, tag included. */
  readonly start: number;
  /** Its value: for wire type 2 the bytes after the length. */
  readonly value: number;
  readonly end: number;
}

const damaged = (at: number): CompileError => new CompileError("bad-model", `damaged at byte ${at}`, undefined, "fetch or export the file again");

/** Reads a varint that fits in 53 bits; returns [value, next position]. Wider ones (negative int64) keep the low bits only. */
export function readVarint(bytes: Uint8Array, at: number, end: number): [number, number] {
  let value = 0;
  let scale = 1;
  for (let k = 0; k < 10; k++) {
    if (at + k >= end) throw damaged(at);
    const byte = bytes[at + k] as number;
    if (k < 7) value += (byte & 127) * scale;
    scale *= 128;
    if (byte < 128) return [value, at + k + 1];
  }
  throw damaged(at);
}

/** The fields of the message in bytes[start, end). @throws bad-model if they do not fill it exactly. */
export function* fields(bytes: Uint8Array, start: number, end: number): Generator<Field> {
  let at = start;
  while (at < end) {
    const [tag, afterTag] = readVarint(bytes, at, end);
    const wire = tag % 8;
    let value = afterTag;
    let next: number;
    if (wire === 0) next = readVarint(bytes, afterTag, end)[1];
    else if (wire === 1) next = afterTag + 8;
    else if (wire === 5) next = afterTag + 4;
    else if (wire === 2) {
      const [length, afterLength] = readVarint(bytes, afterTag, end);
      if (afterLength - afterTag > 7) throw damaged(at); // beyond 2^49, of which readVarint keeps the low bits only
      value = afterLength;
      next = afterLength + length;
    } else throw damaged(at);
    if (next > end) throw damaged(at);
    yield { number: Math.floor(tag / 8), wire, start: at, value, end: next };
    at = next;
  }
}

export function varint(value: number): number[] {
  const out: number[] = [];
  let rest = value;
  while (rest >= 128) {
    out.push((rest % 128) | 128);
    rest = Math.floor(rest / 128);
  }
  out.push(rest);
  return out;
}

/** A length-delimited field. */
export const delimited = (number: number, payload: Uint8Array): Uint8Array => concat([Uint8Array.from([...varint(number * 8 + 2), ...varint(payload.length)]), payload]);

export function concat(chunks: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(chunks.reduce((total, c) => total + c.length, 0));
  let at = 0;
  for (const c of chunks) {
    out.set(c, at);
    at += c.length;
  }
  return out;
}

/**
 * The message in bytes[start, end) with some fields replaced: `edit` gives the new bytes of a whole field (tag included;
 * empty removes it) or undefined to keep it as it is. Undefined if nothing was replaced.
 */
export function rewrite(bytes: Uint8Array, start: number, end: number, edit: (f: Field) => Uint8Array | undefined): Uint8Array | undefined {
  const chunks: Uint8Array[] = [];
  let kept = start;
  for (const f of fields(bytes, start, end)) {
    const made = edit(f);
    if (!made) continue;
    chunks.push(bytes.subarray(kept, f.start), made);
    kept = f.end;
  }
  if (chunks.length === 0) return undefined;
  chunks.push(bytes.subarray(kept, end));
  return concat(chunks);
}

/** `rewrite` of a length-delimited field that holds a message; the field with its new length. */
export function rewriteInside(bytes: Uint8Array, f: Field, edit: (f: Field) => Uint8Array | undefined): Uint8Array | undefined {
  const inner = rewrite(bytes, f.value, f.end, edit);
  return inner && delimited(f.number, inner);
}
