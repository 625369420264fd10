/** Reading and writing files so that a failure is one clear error and never half a file. */
import { mkdir, open, readFile, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { CompileError, type ErrorCode } from "../ir/error.js";

/** What the system's error means, and what to do about it. */
const REASONS: Readonly<Record<string, readonly [message: string, hint: string]>> = {
  ENOSPC: ["the disk is full", "free some space or write to another disk"],
  EDQUOT: ["the disk quota is used up", "free some space or write to another disk"],
  EFBIG: ["the file would exceed the size limit", "raise the file size limit or write elsewhere"],
  EACCES: ["permission denied", "choose a file you have the right to use"],
  EPERM: ["permission denied", "choose a file you have the right to use"],
  EROFS: ["the file system is read-only", "write to another folder"],
  ENOENT: ["no such file or folder", "check the path; folders are not created on the way"],
  ENOTDIR: ["a part of the path is a file, not a folder", "check the path"],
  EISDIR: ["it is a folder", "name a file"],
  ENAMETOOLONG: ["the name is too long", "choose a shorter name"],
  ERR_FS_FILE_TOO_LARGE: ["it is larger than 2 GiB", "split it into smaller files"],
};

/** The system's error as ours. */
function explain(code: ErrorCode, action: string, path: string, cause: unknown, hint?: string): CompileError {
  const name = cause instanceof Error && "code" in cause ? String(cause.code) : "";
  const [reason, advice] = REASONS[name] ?? [cause instanceof Error ? cause.message : String(cause), "check the path and try again"];
  return new CompileError(code, `${action}: ${reason}`, `file "${path}"`, hint ?? advice);
}

let written = 0;

/**
 * Writes a file whole or not at all: beside its place, flushed, then renamed over it. A link is followed; the mode of a file
 * that is replaced is kept; a device or pipe is written directly.
 *
 * @throws CompileError "cannot-write"; the file that was there is untouched and nothing is left beside it.
 */
export async function writeAtomic(path: string, bytes: Uint8Array | string): Promise<void> {
  let temporary: string | undefined;
  try {
    const target = await realpath(path).catch(() => path);
    const old = await stat(target).catch(() => undefined);
    if (old?.isDirectory()) throw Object.assign(new Error("is a folder"), { code: "EISDIR" });
    const direct = old !== undefined && !old.isFile();
    const place = direct ? target : join(dirname(target), `.${basename(target).slice(0, 100)}.${process.pid}-${written++}.tmp`);
    const file = await open(place, direct ? "w" : "wx");
    if (!direct) temporary = place;
    try {
      if (old?.isFile()) await file.chmod(old.mode & 0o777); // what open() makes is cut by the umask
      await file.writeFile(bytes);
      if (!direct) await file.sync();
    } finally {
      await file.close();
    }
    if (direct) return;
    await rename(place, target);
    temporary = undefined;
    await syncFolder(dirname(target));
  } catch (cause) {
    if (temporary !== undefined) await rm(temporary, { force: true }).catch(() => undefined);
    throw explain("cannot-write", "cannot write", path, cause);
  }
}

/** Makes the rename itself survive a power cut. Some file systems refuse to sync a folder; the file is whole either way. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r").catch(() => undefined);
  await folder?.sync().catch(() => undefined);
  await folder?.close().catch(() => undefined);
}

/**
 * Creates a folder and those above it.
 *
 * @throws CompileError "cannot-write"
 */
export async function makeFolder(path: string): Promise<void> {
  try {
    // level by level: mkdir's own recursion never ends in folders like /proc, which refuse with ENOENT
    const missing: string[] = [];
    for (let at = resolve(path); (await kindOf(at)) === undefined && dirname(at) !== at; at = dirname(at)) missing.unshift(at);
    if (missing.length === 0 && (await kindOf(path)) === "file") throw Object.assign(new Error("is a file"), { code: "EEXIST" });
    for (const folder of missing) await mkdir(folder).catch(async (cause: unknown) => { if ((await kindOf(folder)) !== "folder") throw cause; });
  } catch (cause) {
    const isFile = cause instanceof Error && "code" in cause && cause.code === "EEXIST";
    throw isFile
      ? new CompileError("cannot-write", "cannot create the folder: a file has its name", `folder "${path}"`, "choose another name")
      : explain("cannot-write", "cannot create the folder", path, cause);
  }
}

/**
 * A file's bytes.
 *
 * @throws CompileError `code` (usually "missing-data") if it is not there or cannot be read.
 */
export async function readFileOr(code: ErrorCode, path: string, hint?: string): Promise<Uint8Array> {
  try {
    const { buffer, byteOffset, byteLength } = await readFile(path);
    return new Uint8Array(buffer, byteOffset, byteLength); // not a Buffer: its slice() would not copy
  } catch (cause) {
    throw explain(code, "cannot read", path, cause, hint);
  }
}

/** A text file, decoded as UTF-8. Errors as `readFileOr`. */
export async function readTextOr(code: ErrorCode, path: string, hint?: string): Promise<string> {
  return new TextDecoder().decode(await readFileOr(code, path, hint));
}

/** "file", "folder", or undefined where there is neither. */
export async function kindOf(path: string): Promise<"file" | "folder" | undefined> {
  const found = await stat(path).catch(() => undefined);
  return found === undefined ? undefined : found.isDirectory() ? "folder" : "file";
}
