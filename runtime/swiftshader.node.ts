/**
 * SwiftShader, a Vulkan driver that computes on the CPU, out of the npm package `@sparticuz/chromium` (an optional peer):
 * unpacked once per version into the user's cache.
 */
import { existsSync } from "node:fs";
import { chmod, lstat, mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import os from "node:os";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { brotliDecompress } from "node:zlib";

/** Files of the unpacked driver. */
export interface SwiftShader {
  /** Vulkan's loader, to be loaded before Dawn looks for one. */
  readonly loader: string;
  /** The description by which the loader finds the driver (VK_ICD_FILENAMES). */
  readonly icd: string;
}

const PACKAGE = "@sparticuz/chromium";
const LOADER = "libvulkan.so.1";
const ICD = "vk_swiftshader_icd.json";
const FILES: readonly string[] = [LOADER, ICD, "libvk_swiftshader.so"];

/**
 * The driver's files, unpacked below `cache` or, where that cannot be written, below the system's temporary folder.
 * Returns one sentence if there is no driver to be had. The package is looked for beside kfacc, then from the working folder.
 */
export const findSwiftShader = async (cache: string): Promise<SwiftShader | string> => {
  if (process.platform !== "linux" || process.arch !== "x64") return `${PACKAGE} carries it for Linux x64 only`;
  const root = packageRoot();
  if (!root) return `npm package ${PACKAGE} is not installed`;
  const archive = join(root, "bin", "swiftshader.tar.br");
  if (!existsSync(archive)) return `this version of ${PACKAGE} has no ${basename(archive)}`;
  const { version } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as { version: string };
  const name = `swiftshader-${version}`;
  const folder = await unpackOnce(archive, cache, name).catch(async () => unpackOnce(archive, await privateTemporary(), name));
  return { loader: join(folder, LOADER), icd: join(folder, ICD) };
};

const packageRoot = (): string | undefined => {
  for (const from of [import.meta.url, join(process.cwd(), "package.json")]) {
    try {
      return dirname(dirname(createRequire(from).resolve(PACKAGE))); // …/build/index.js
    } catch {
      // not installed there
    }
  }
  return undefined;
};

/** A folder of this user's own: a driver must not be loaded from where others could have put it. */
const privateTemporary = async (): Promise<string> => {
  const folder = join(os.tmpdir(), `kfacc-${os.userInfo().uid}`);
  await mkdir(folder, { mode: 0o700 }).catch(() => {});
  const status = await lstat(folder);
  if (!status.isDirectory() || status.uid !== os.userInfo().uid || (status.mode & 0o022) !== 0) {
    throw new Error(`${folder} is not a private folder of this user`);
  }
  return folder;
};

/** Unpacks beside the final folder and renames: whoever sees the folder sees all of it, however many processes try. */
const unpackOnce = async (archive: string, parent: string, name: string): Promise<string> => {
  const folder = join(parent, name);
  if (isComplete(folder)) return folder;
  await mkdir(parent, { recursive: true });
  const draft = await mkdtemp(join(parent, `${name}.draft-`));
  try {
    for (const file of readTar(await promisify(brotliDecompress)(await readFile(archive)))) {
      if (FILES.includes(file.name)) await writeFile(join(draft, file.name), file.bytes, { mode: 0o755 });
    }
    if (!isComplete(draft)) throw new Error(`${archive} lacks one of ${FILES.join(", ")}`);
    await chmod(draft, 0o755);
    await rename(draft, folder).catch(async () => {
      if (isComplete(folder)) return; // another process was quicker
      await rm(folder, { recursive: true, force: true }); // the rest of a folder someone partly deleted
      await rename(draft, folder);
    });
    return folder;
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
};

const isComplete = (folder: string): boolean => FILES.every((file) => existsSync(join(folder, file)));

const TAR_BLOCK = 512;

/** The plain files of a tar archive (header: name at 0, octal size at 124, type at 156), by their base names. */
export const readTar = (tar: Uint8Array): readonly { readonly name: string; readonly bytes: Uint8Array }[] => {
  const text = (at: number, length: number): string => {
    const field = tar.subarray(at, at + length);
    const end = field.indexOf(0);
    return Buffer.from(end < 0 ? field : field.subarray(0, end))
      .toString("utf8")
      .trim();
  };
  const files = [];
  let at = 0;
  while (at + TAR_BLOCK <= tar.length && tar[at] !== 0) {
    const size = Number.parseInt(text(at + 124, 12), 8);
    if (!Number.isInteger(size)) throw new Error("not a tar archive");
    const type = text(at + 156, 1);
    if (type === "0" || type === "")
      files.push({ name: basename(text(at, 100)), bytes: tar.subarray(at + TAR_BLOCK, at + TAR_BLOCK + size) });
    at += TAR_BLOCK + Math.ceil(size / TAR_BLOCK) * TAR_BLOCK;
  }
  return files;
};
