/** Where commands say things: results on standard output, remarks and errors on standard error. */
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { CompileError, type ErrorCode, spellError } from "../../ir/error.js";
import { RuntimeFault } from "../../runtime/artifact.js";
import { kindOf } from "../files.js";

export interface Io {
  readonly json: boolean;
  /** The result of a command. */
  out(text: string): void;
  /** A remark; nothing with --json. */
  note(text: string): void;
}

export const makeIo = (json: boolean): Io => ({
  json,
  out: (text) => { process.stdout.write(`${text}\n`); },
  note: (text) => { if (!json) process.stderr.write(`${text}\n`); },
});

export interface Fault {
  readonly code: ErrorCode;
  readonly message: string;
  readonly where?: string | undefined;
  readonly hint?: string | undefined;
}

/** Any error as code, message, where and hint; what nobody foresaw is "internal". */
export function asFault(e: unknown): Fault {
  if (e instanceof CompileError || e instanceof RuntimeFault) return { code: e.code, message: e.message, where: e.where, hint: e.hint };
  if (e instanceof RangeError && /(allocation|array length|Array buffer)/i.test(e.message))
    return { code: "out-of-memory", message: `the process ran out of memory: ${e.message}`, hint: "use a smaller batch or data set" };
  return { code: "internal", message: e instanceof Error ? e.message : String(e), hint: "this is a defect in kfacc: run again with --debug and report it" };
}

/** 1 the input, data or a check · 2 usage · 3 device · 4 diverged · 130 Ctrl-C. */
export function exitCode(code: ErrorCode): number {
  switch (code) {
    case "usage": case "bad-option": case "loss-unknown": return 2;
    case "no-adapter": case "device-lost": case "out-of-memory": return 3;
    case "diverged": return 4;
    case "interrupted": return 130;
    default: return 1;
  }
}

export function reportFault(e: unknown, { json, debug }: { readonly json: boolean; readonly debug: boolean }): number {
  const fault = asFault(e);
  const plain = Object.fromEntries(Object.entries(fault).filter(([, v]) => v !== undefined));
  process.stderr.write(`${json ? JSON.stringify({ code: fault.code, message: fault.message, where: null, hint: null, ...plain }) : spellError(fault)}\n`);
  if (debug && e instanceof Error && e.stack) process.stderr.write(`${e.stack}\n`);
  return exitCode(fault.code);
}

/**
 * Fails early instead of after hours: the folder of a file that will be written must exist and take files.
 *
 * @throws CompileError "cannot-write"
 */
export async function requireWritable(path: string): Promise<void> {
  const folder = dirname(resolve(path));
  const kind = await kindOf(folder);
  if (kind !== "folder") throw new CompileError("cannot-write", kind === undefined ? "its folder does not exist" : "a part of its path is a file", `file "${path}"`, "check the path; folders are not created on the way");
  if ((await kindOf(path)) === "folder") throw new CompileError("cannot-write", "it is a folder", `file "${path}"`, "name a file");
  await access(folder, constants.W_OK).catch(() => {
    throw new CompileError("cannot-write", "no permission to write into its folder", `file "${path}"`, "choose a folder you have the right to write to");
  });
}
