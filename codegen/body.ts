/** The text of a kernel's body as it grows, and the functions it brings along. */
import { BITS, helperText } from "./wgsl.js";

/** Statements of a function body under construction. */
export class Body {
  readonly lines: string[] = [];
  readonly helpers = new Set<string>();
  bits = false;
  hash = false;
  indent = "  ";
  readonly #known: Map<string, string> | undefined;
  #next = 0;

  /** @param share equal texts are one value: right where there is one scope and loads mean what memory held at its start. */
  constructor(options: { readonly share?: boolean } = {}) {
    this.#known = options.share ? new Map() : undefined;
  }

  push(line: string): void {
    this.lines.push(this.indent + line);
  }

  /** Declares a value under a fresh name and returns the name. */
  let(prefix: string, type: string, text: string): string {
    const key = `${type} ${text}`;
    const known = this.#known?.get(key);
    if (known !== undefined) return known;
    const name = `${prefix}${this.#next++}`;
    this.push(`let ${name}: ${type} = ${text};`);
    this.#known?.set(key, name);
    return name;
  }

  /** Functions and private variables that the body uses; goes before `main`. */
  prelude(): string {
    return [this.bits ? BITS : "", this.hash ? HASH : "", helperText(this.helpers)].filter(Boolean).join("\n");
  }
}

const HASH = `fn mix32(v: u32) -> u32 {
  var x = v;
  x = (x ^ (x >> 16u)) * 0x7feb352du;
  x = (x ^ (x >> 15u)) * 0x846ca68bu;
  return x ^ (x >> 16u);
}
fn uniform_at(index: u32, key0: u32, key1: u32, stream: u32) -> f32 {
  let a = mix32(index + key0 * 0x9e3779b9u);
  let b = mix32(a ^ key1);
  let c = mix32(b + stream * 0x85ebca6bu);
  return (f32(c >> 9u) + 0.5f) * 1.1920928955078125e-7f;
}`;
