/** Cells of separated text, read in place: no string is made for a plain number. */
import { CompileError } from "../../ir/error.js";

const QUOTE = 0x22;
export const NEWLINE = 0x0a;
const RETURN = 0x0d;

export const isNumber = (text: string): boolean => /^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$/.test(text);

/** A cursor over cells. `next` moves to the next cell; `value`, `text` read it; `rowDone` says it was the last of its line. */
export class Cells {
  line = 1;
  rowDone = true;
  private begin = 0;
  private end = 0;
  private quoted = false;
  private pendingLines = 0;
  private at = 0;
  private readonly bytes: Uint8Array;
  private readonly delimiter: number;
  private readonly where: string;

  constructor(bytes: Uint8Array, delimiter: number, where: string) {
    this.bytes = bytes;
    this.delimiter = delimiter;
    this.where = where;
  }

  /** Skips blank lines before a row; false at the end of the file. */
  more(): boolean {
    this.line += this.pendingLines;
    this.pendingLines = 0;
    for (; this.bytes[this.at] === NEWLINE || this.bytes[this.at] === RETURN; this.at++) if (this.bytes[this.at] === NEWLINE) this.line++;
    return this.at < this.bytes.length;
  }

  next(): void {
    const { bytes, delimiter } = this;
    this.quoted = bytes[this.at] === QUOTE;
    if (this.quoted) {
      this.begin = ++this.at;
      for (; ; this.at++) {
        if (this.at >= bytes.length) throw this.bad("a quote is not closed");
        if (bytes[this.at] === NEWLINE) this.pendingLines++;
        if (bytes[this.at] !== QUOTE) continue;
        if (bytes[this.at + 1] !== QUOTE) break;
        this.at++;
      }
      this.end = this.at++;
    } else this.begin = this.at;
    while (this.at < bytes.length && bytes[this.at] !== delimiter && bytes[this.at] !== NEWLINE) this.at++;
    const stop = this.at;
    if (!this.quoted)
      this.end = bytes[stop] === NEWLINE || stop === bytes.length ? stop - Number(bytes[stop - 1] === RETURN && stop > this.begin) : stop;
    this.rowDone = bytes[stop] !== delimiter;
    if (this.rowDone && stop < bytes.length) this.pendingLines++;
    this.at = stop + 1;
  }

  text(): string {
    const text = new TextDecoder().decode(this.bytes.subarray(this.begin, this.end));
    return this.quoted ? text.replaceAll('""', '"') : text.trim();
  }

  /** The cell as a number, exactly as `Number` reads it; undefined if it is none. */
  value(): number | undefined {
    // Up to 15 digits and 22 decimals, digits / 10^decimals is one correctly rounded division (Clinger 1990).
    let digits = 0;
    let decimals = -1;
    let at = this.begin;
    const negative = this.bytes[at] === 0x2d;
    if (negative) at++;
    const first = at;
    for (; at < this.end; at++) {
      const c = (this.bytes[at] as number) - 0x30;
      if (c >= 0 && c <= 9) {
        digits = digits * 10 + c;
        if (decimals >= 0) decimals++;
      } else if (c === -2 && decimals < 0) decimals = 0;
      else break;
    }
    const plain = at === this.end && at - first <= 15 && at - first > (decimals < 0 ? 0 : 1);
    if (plain) return (negative ? -1 : 1) * (decimals > 0 ? digits / (POWERS[decimals] as number) : digits);
    const text = this.text();
    return isNumber(text) ? Number(text) : undefined;
  }

  bad(message: string, hint = "every line needs the same columns, all of numbers"): CompileError {
    return new CompileError("bad-data", message, `${this.where}, line ${this.line}`, hint);
  }

  /** The cells of one line as text. */
  row(): string[] {
    const cells: string[] = [];
    do {
      this.next();
      cells.push(this.text());
    } while (!this.rowDone);
    return cells;
  }
}

const POWERS = Array.from({ length: 16 }, (_, n) => 10 ** n);
