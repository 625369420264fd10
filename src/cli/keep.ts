/** What a run leaves on disk while it goes: checkpoints that cannot be lost, and a history that cannot stop it. */
import { closeSync, existsSync, openSync, readFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { CompileError } from "../../ir/error.js";
import { writeAtomic } from "../files.js";

/** A name that no file has: `a.b`, `a-2.b` … */
export function freeName(stem: string, extension: string): string {
  for (let n = 1; ; n++) {
    const name = `${stem}${n === 1 ? "" : `-${n}`}${extension}`;
    if (!existsSync(name)) return name;
  }
}

/** Writes where it was asked to, else where there is room. */
export class CheckpointFile {
  /** The last good state and where it is; not on disk: `file` is undefined. */
  #kept: { readonly step: number; readonly bytes: Uint8Array | undefined; readonly file: string | undefined } | undefined;
  /** The first failure to write. */
  failure: unknown;

  constructor(readonly path: string) {}

  /** Holds the state in memory: it is worth a file only if something goes wrong. */
  hold(bytes: Uint8Array, step: number): void {
    this.#kept = { step, bytes, file: undefined };
  }

  async write(bytes: Uint8Array, step: number): Promise<void> {
    try {
      await writeAtomic(this.path, bytes);
      this.#kept = { step, bytes: undefined, file: this.path };
    } catch (e) {
      this.failure ??= e;
      this.#kept = { step, bytes, file: undefined };
    }
  }

  /** Makes sure that the last good state is in some file; says which. */
  async secure(): Promise<{ readonly file: string; readonly step: number } | undefined> {
    const kept = this.#kept;
    if (!kept) return undefined;
    if (kept.file !== undefined) return { file: kept.file, step: kept.step };
    for (const place of [this.path, join(tmpdir(), `${process.pid}-${basename(this.path)}`)]) {
      try {
        await writeAtomic(place, kept.bytes as Uint8Array);
        this.#kept = { step: kept.step, bytes: undefined, file: place };
        return { file: place, step: kept.step };
      } catch (e) {
        this.failure ??= e;
      }
    }
    return undefined;
  }
}

/** Lines of JSON. A disk that is full ends the history, not the training. */
export class History {
  #file: number | undefined;
  failure: unknown;

  /** @param from steps up to this one are kept from an earlier part of the run. */
  constructor(readonly path: string, from: number) {
    const kept = from > 0 && existsSync(path) ? readFileSync(path, "utf8").split("\n").filter((line) => stepOf(line) <= from) : [];
    try {
      this.#file = openSync(path, "w");
    } catch (e) {
      throw this.#explain(e);
    }
    for (const line of kept) this.#write(line);
  }

  add(record: object): void {
    this.#write(JSON.stringify(record));
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
  }

  #write(line: string): void {
    if (this.#file === undefined) return;
    try {
      writeSync(this.#file, `${line}\n`);
    } catch (e) {
      this.failure = this.#explain(e);
      this.close();
    }
  }

  #explain(e: unknown): CompileError {
    return new CompileError("cannot-write", `cannot write: ${e instanceof Error ? e.message : e}`, `file "${this.path}"`, "free some space or write elsewhere");
  }
}

function stepOf(line: string): number {
  try {
    const { step } = JSON.parse(line) as { step?: unknown };
    return typeof step === "number" ? step : Number.NaN;
  } catch {
    return Number.NaN;
  }
}
