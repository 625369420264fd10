/** Which installed packages a bundle needs, and which of their files. */

/** The part of a package-lock that says who needs whom. */
export interface Lock {
  readonly packages: Readonly<Record<string, { readonly dependencies?: Readonly<Record<string, string>>; readonly optional?: boolean }>>;
}

/**
 * Folders of the named packages and of all they depend on, as Node would find them: `node_modules/a/node_modules/b` before `node_modules/b`.
 * @throws Error for a dependency that the lock does not have
 */
export function closure(lock: Lock, names: readonly string[]): string[] {
  const found = new Set<string>();
  const visit = (name: string, from: string): void => {
    const path = resolved(lock, name, from);
    if (path === undefined) throw new Error(`package "${name}", needed by "${from || "the project"}", is not in package-lock.json`);
    if (found.has(path)) return;
    found.add(path);
    for (const next of Object.keys(lock.packages[path]?.dependencies ?? {})) visit(next, path);
  };
  for (const name of names) visit(name, "");
  return [...found].sort();
}

function resolved(lock: Lock, name: string, from: string): string | undefined {
  for (let at = from; ; at = at.slice(0, Math.max(0, at.lastIndexOf("/node_modules/")))) {
    const path = `${at === "" ? "" : `${at}/`}node_modules/${name}`;
    if (lock.packages[path]) return path;
    if (at === "") return undefined;
  }
}

/** Files that something runs: no sources, no types, no maps, and of Dawn only Linux x64's. */
export const wanted = (file: string): boolean =>
  !/\.(ts|mts|cts|map|md|markdown|html|flow)$/.test(file) && (!/\/webgpu\/dist\//.test(file) || file.includes("/linux-x64/"));
