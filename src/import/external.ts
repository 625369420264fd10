/** Tensors whose bytes lie in files beside the model. */
import { closeSync, openSync, readSync, realpathSync, statSync } from "node:fs";
import { isAbsolute, resolve, sep } from "node:path";
import { CompileError } from "../../ir/error.js";
import { type ExternalRef, type OnnxTensor, TYPE_BYTES } from "./model.js";
import { countElements, numericType } from "./tensor.js";

/** The path of an external data file. @throws bad-model if it leaves the folder, missing-data if it is not there. */
export function externalPath(baseDir: string | undefined, location: string): string {
  const where = `external data "${location}"`;
  if (baseDir === undefined)
    throw new CompileError("missing-data", "the model keeps tensors in other files, and no folder was given", where, "load it from its file, or give baseDir");
  if (location === "" || isAbsolute(location) || /^[A-Za-z]:/.test(location))
    throw new CompileError("bad-model", "external data must be named by a relative path", where);
  const folder = resolve(baseDir);
  const path = resolve(folder, location);
  if (!path.startsWith(folder + sep)) throw new CompileError("bad-model", "external data must not leave the model's folder", where);
  let real: string;
  let home: string;
  try {
    real = realpathSync(path);
    home = realpathSync(folder);
  } catch {
    throw new CompileError("missing-data", `the model's external data is not there: ${path}`, where, "put the data file beside the model");
  }
  // a link inside the folder may still lead out of it
  if (!real.startsWith(home.endsWith(sep) ? home : home + sep))
    throw new CompileError("bad-model", "external data must not leave the model's folder", where);
  if (!statSync(real).isFile()) throw new CompileError("bad-model", "external data must be a file", where);
  return real;
}

/** The byte range of a reference in a file of `extent` bytes. @throws bad-model if it lies outside. */
function rangeOf(ref: ExternalRef, extent: number): { start: number; length: number } {
  const length = ref.length ?? extent - ref.offset;
  if (length < 0 || ref.offset + length > extent)
    throw new CompileError("bad-model", `bytes from ${ref.offset}${ref.length === undefined ? "" : ` to ${ref.offset + ref.length}`} are asked for, the file has ${extent}`,
      `external data "${ref.location}"`, "the data file is truncated or belongs to another model");
  return { start: ref.offset, length };
}

/** Checks, without reading it, that a tensor's external data is there and has the right size. */
export function checkExternal(baseDir: string | undefined, t: OnnxTensor): void {
  if (!t.external) return;
  const { length } = rangeOf(t.external, statSync(externalPath(baseDir, t.external.location)).size);
  const wanted = countElements(t) * TYPE_BYTES[numericType(t)];
  if (length !== wanted)
    throw new CompileError("bad-model", `shape [${t.dims.join(", ")}] needs ${wanted} bytes, the external data has ${length}`, `tensor "${t.name}"`);
}

/** Reads ranges of external files of a folder (undefined: every read is refused). */
export function externalReader(baseDir: string | undefined): (ref: ExternalRef) => Uint8Array {
  return (ref) => {
    const path = externalPath(baseDir, ref.location);
    const { start, length } = rangeOf(ref, statSync(path).size);
    const out = new Uint8Array(length);
    const file = openSync(path, "r");
    try {
      for (let at = 0; at < length; ) {
        const got = readSync(file, out, at, length - at, start + at);
        if (got === 0) throw new CompileError("bad-model", "the data file ended early", `external data "${ref.location}"`);
        at += got;
      }
    } finally {
      closeSync(file);
    }
    return out;
  };
}

/** A whole external file. */
export function readExternalFile(baseDir: string | undefined, location: string): Uint8Array {
  return externalReader(baseDir)({ location, offset: 0, length: undefined });
}
