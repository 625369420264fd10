/** Loads a model file (.ts, .js …) from any folder, whatever that folder's package.json says of modules. */
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import Module, { createRequire } from "node:module";
import os from "node:os";
import { extname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { tsImport } from "tsx/esm/api";
import { CompileError, ERROR_CODES, type ErrorCode } from "../../ir/error.js";
import type { LossKind } from "../train/loss.js";
import { type DslModel, isModel, type ModelDefinition, type ReplayOptions, toForward } from "./model.js";

const PACKAGE = "kfacc/dsl";

/** A recorded model, opened (see OpenModel in ../model.ts). */
export interface OpenDsl {
  readonly path: string;
  readonly name: string;
  /** Never fixed by a model file. */
  readonly fileBatch: undefined;
  readonly notes: readonly string[];
  readonly loss?: LossKind;
  forward(batch: number): DslModel;
}

/**
 * Runs the file and takes its default export. The options are those of every graph made from it.
 *
 * @throws CompileError "missing-data" if there is no such file; "syntax" if it cannot be read; "bad-model" if it throws or exports no
 *   model; what `model()` throws. `where` names the file, and the line where it is known.
 */
export async function openDsl(path: string, options: ReplayOptions = {}): Promise<OpenDsl> {
  const file = resolve(path);
  if (!(await stat(file).catch(() => undefined))?.isFile()) throw new CompileError("missing-data", "no such file", `file "${path}"`, "check the path");
  const definition = modelOf(await load(file, path), path);
  const made = new Map<number, DslModel>();
  return {
    path, name: definition.name, fileBatch: undefined, notes: [],
    ...(definition.loss === undefined ? {} : { loss: definition.loss }),
    forward(batch) {
      const known = made.get(batch) ?? toForward(definition, batch, options);
      made.set(batch, known);
      return known;
    },
  };
}

/** The default export; a file loaded as CommonJS has it one level further in. */
function modelOf(loaded: unknown, path: string): ModelDefinition {
  const inner = (value: unknown): unknown => (typeof value === "object" && value !== null && "default" in value ? value.default : undefined);
  const found = [inner(loaded), inner(inner(loaded))].find(isModel);
  if (found) return found;
  const names = typeof loaded === "object" && loaded !== null ? Object.keys(loaded).filter((name) => name !== "default" && isModel((loaded as Record<string, unknown>)[name])) : [];
  throw new CompileError("bad-model", names.length > 0 ? `it exports the model as "${names[0]}", not as default` : "its default export is no model", `file "${path}"`,
    'end it with: export default model("name", (m) => { … })');
}

async function load(file: string, path: string): Promise<unknown> {
  const url = pathToFileURL(file).href;
  try {
    return resolves(file) ? await tsImport(url, import.meta.url) : await withOwnPackage((tsconfig) => tsImport(url, { parentURL: import.meta.url, tsconfig }));
  } catch (cause) {
    throw explain(cause, file, path);
  }
}

/** Whether the package can be imported from where the file is. */
function resolves(file: string): boolean {
  try {
    createRequire(file).resolve(PACKAGE);
    return true;
  } catch {
    return false;
  }
}

const SELF = fileURLToPath(new URL(`./index${extname(import.meta.url)}`, import.meta.url));

/** Node's resolver of require(), which loaders replace. */
const cjs = Module as unknown as { _resolveFilename: (request: string, ...rest: readonly unknown[]) => string };

/**
 * Where the package is not installed, its name stands for this very copy, so that a model file may lie anywhere: for import through
 * the paths of a tsconfig, for require (files of a folder without "type": "module" become CommonJS) through Node's resolver.
 */
async function withOwnPackage<T>(use: (tsconfig: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(os.tmpdir(), "kfacc-"));
  const before = cjs._resolveFilename;
  try {
    const config = join(folder, "tsconfig.json");
    await writeFile(config, JSON.stringify({ compilerOptions: { target: "es2022", paths: { [PACKAGE]: [SELF] } } }));
    cjs._resolveFilename = (request, ...rest) => before(request === PACKAGE ? SELF : request, ...rest);
    return await use(config);
  } finally {
    cjs._resolveFilename = before;
    await rm(folder, { recursive: true, force: true });
  }
}

/** Errors of the package (maybe of its other copy) keep what they say; others are the file's. */
function explain(cause: unknown, file: string, path: string): CompileError {
  const { name, message, code, where, hint, stack } = (typeof cause === "object" && cause !== null ? cause : { message: String(cause) }) as Partial<Record<keyof CompileError, string>>;
  const place = lineOf(`${message}\n${stack}`, file);
  const here = `file "${path}"${place ? `, line ${place}` : ""}`;
  const text = (message ?? "").split("\n")[0] ?? "";
  if (name === "CompileError" && code !== undefined && code in ERROR_CODES) return new CompileError(code as ErrorCode, text, [where, here].filter(Boolean).join(", "), hint);
  if (name === "TransformError" || name === "SyntaxError") return new CompileError("syntax", syntaxMessage(message ?? ""), here, "the file is TypeScript or JavaScript");
  if (code === "ERR_MODULE_NOT_FOUND" || code === "MODULE_NOT_FOUND") return new CompileError("bad-model", text, here, "install the package that the file imports, or correct the path");
  return new CompileError("bad-model", `it throws ${name ?? "an error"}: ${text}`, here, "a model file only describes a model; run it alone to see where it fails");
}

/**
 * The line of the file that an error's text or topmost frame names. None for a file that was loaded as CommonJS: what runs then is
 * transpiled, its lines are others, and its frames name it as a query.
 */
function lineOf(text: string, file: string): string | undefined {
  for (const start of [file, pathToFileURL(file).href]) {
    const escaped = start.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const found = new RegExp(`(?:^|\\(|at )${escaped}:(\\d+)`, "m").exec(text);
    if (found) return found[1];
  }
  return undefined;
}

/** The transpiler's message without its preamble: `Transform failed with 1 error:\n/path/net.ts:3:5: ERROR: Unexpected "}"`. */
const syntaxMessage = (message: string): string => /ERROR: (.*)/.exec(message)?.[1] ?? message.split("\n")[0] ?? "";
