/** Writes a generated module's folder. */
import { existsSync, readFileSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { moduleFiles } from "../codegen/emit/module.js";
import { CompileError } from "../ir/error.js";
import { encode, type SafeTensor } from "../runtime/safetensors.js";
import { type Compiled, summary } from "./compile.js";
import { kindOf, makeFolder, readFileOr, writeAtomic } from "./files.js";
import { packageFile, packageRoot } from "./version.js";

export interface WriteOptions {
  /** Default: if `kfacc/runtime` is not found from the folder. */
  readonly standalone?: boolean;
  /** Text of tuning.json; without, one that is there goes: it is another program's. */
  readonly tuning?: string;
}

export interface WrittenModule {
  readonly folder: string;
  readonly standalone: boolean;
  /** Paths inside the folder; plan.json, which is written last, at the end. */
  readonly files: readonly string[];
}

/** @throws CompileError "cannot-write"; files are whole or not there, and an older plan.json stays until all of its successors are. */
export async function writeModule(compiled: Compiled, folder: string, options: WriteOptions = {}): Promise<WrittenModule> {
  if (resolve(folder) === resolve(".")) throw new CompileError("cannot-write", "that is the working folder", `folder "${folder}"`, "name a folder of its own, e.g. -o out");
  await makeFolder(join(folder, "kernels"));
  const standalone = options.standalone ?? !resolvesFrom(folder);
  const { version } = packageFile();
  const made = moduleFiles(compiled.artifact, compiled.sources, { runtime: standalone ? "./runtime/index.js" : "kfacc/runtime", version, summary: summary(compiled) });
  const files = new Map<string, string | Uint8Array>([["weights.safetensors", weightsFile(compiled)]]);
  if (standalone) for (const [name, bytes] of await runtimeFiles()) files.set(`runtime/${name}`, bytes);
  for (const [name, text] of made) if (name !== "plan.json") files.set(name, text);
  if (needsPackage(folder, standalone)) files.set("package.json", packageText(standalone));
  if (options.tuning !== undefined) files.set("tuning.json", options.tuning);
  files.set("plan.json", made.get("plan.json") as string);
  if (standalone) await makeFolder(join(folder, "runtime"));
  const write = ([name, content]: readonly [string, string | Uint8Array]): Promise<void> => writeAtomic(join(folder, name), content);
  const [plan, others] = [[...files].slice(-1), [...files].slice(0, -1)];
  for (let k = 0; k < others.length; k += AT_ONCE) await allDone(others.slice(k, k + AT_ONCE).map(write));
  await allDone(plan.map(write));
  await removeStale(folder, new Set(files.keys()));
  if (options.tuning === undefined) await rm(join(folder, "tuning.json"), { force: true });
  return { folder, standalone, files: [...files.keys()] };
}

/** Every file is flushed to disk, which takes longer than writing it: so many wait together. */
const AT_ONCE = 16;

/** Waits for all, then throws the first failure: nothing is still being written when the caller hears of it. */
async function allDone(writes: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(writes)) if (result.status === "rejected") throw result.reason;
}

export function weightsFile({ weights }: Compiled): Uint8Array {
  const tensors = [...weights].map(([name, w]): [string, SafeTensor] => [name, { dtype: "F32", shape: w.shape, data: w.data }]);
  return encode(Object.fromEntries(tensors), {});
}

/** Kernels of an earlier program in the same folder. */
async function removeStale(folder: string, kept: ReadonlySet<string>): Promise<void> {
  for (const name of await readdir(join(folder, "kernels")))
    if (/^\d+_.*\.wgsl$/.test(name) && !kept.has(`kernels/${name}`)) await rm(join(folder, "kernels", name), { force: true });
}

/** Whether a module in `folder` could `import "kfacc/runtime"`. */
function resolvesFrom(folder: string): boolean {
  try {
    return existsSync(createRequire(join(resolve(folder), "index.js")).resolve("kfacc/runtime"));
  } catch {
    return false;
  }
}

/** index.js is an ES module: the nearest package.json must say so. One that the user wrote stays. */
function needsPackage(folder: string, standalone: boolean): boolean {
  const own = join(folder, "package.json");
  if (existsSync(own)) return isOurs(own);
  if (standalone) return true;
  for (let at = resolve(folder); ; at = dirname(at)) {
    const file = join(at, "package.json");
    if (existsSync(file)) return (JSON.parse(readFileSync(file, "utf8")) as { type?: string }).type !== "module";
    if (dirname(at) === at) return true;
  }
}

const OURS = "made by kfacc compile";

function isOurs(file: string): boolean {
  try {
    return (JSON.parse(readFileSync(file, "utf8")) as { description?: string }).description === OURS;
  } catch {
    return false;
  }
}

function packageText(standalone: boolean): string {
  const webgpu = packageFile().dependencies?.webgpu;
  // in Node, the runtime needs Dawn; a browser does not
  return `${JSON.stringify({ private: true, description: OURS, type: "module", ...(standalone && webgpu ? { dependencies: { webgpu } } : {}) }, undefined, 2)}\n`;
}

/** The built runtime: .js and .d.ts. */
async function runtimeFiles(): Promise<readonly (readonly [string, Uint8Array])[]> {
  const folder = fileURLToPath(new URL("dist/runtime/", packageRoot()));
  if ((await kindOf(folder)) !== "folder") throw new CompileError("missing-data", "the built runtime is not there", `folder "${folder}"`, "npm run build");
  const names = (await readdir(folder)).filter((n) => /\.(js|d\.ts)$/.test(n)).sort();
  return Promise.all(names.map(async (n) => [n, await readFileOr("missing-data", join(folder, n))] as const));
}
