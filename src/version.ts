/** The version in package.json, from the sources and from dist alike. */
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

interface PackageFile {
  readonly name: string;
  readonly version: string;
  readonly dependencies?: Readonly<Record<string, string>>;
}

/** The folder of kfacc's own package.json. */
export function packageRoot(): URL {
  for (const up of ["../", "../../"]) {
    const root = new URL(up, import.meta.url);
    const file = new URL("package.json", root);
    if (existsSync(file) && (JSON.parse(readFileSync(file, "utf8")) as PackageFile).name === "kfacc") return root;
  }
  throw new Error(`kfacc's package.json is not found from ${fileURLToPath(import.meta.url)}`);
}

export const packageFile = (): PackageFile => JSON.parse(readFileSync(new URL("package.json", packageRoot()), "utf8")) as PackageFile;
