/**
 * Who may import whom (.dependency-cruiser.json), type imports included, and who may read environment variables.
 * As a program: prints what breaks a rule and fails.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { cruise, type ICruiseOptions, type ICruiseResult, type IFlattenedRuleSet } from "dependency-cruiser";

const PROJECT = resolve(import.meta.dirname, "../..");
const ROOMS = ["ir", "src", "codegen", "runtime", "examples"];
/** Files that read the environment; see README on KFACC_ADAPTER. */
const READS_ENVIRONMENT = ["src/cli.ts", "runtime/adapter.node.ts"];

/** Checks the rooms below `root`. Returns what is wrong, one sentence each: `rule: from → to`. */
export const checkDoors = async (root: string): Promise<readonly string[]> => {
  const rooms = ROOMS.filter((room) => existsSync(join(root, room)));
  const files = rooms.flatMap((room) => sourcesIn(root, room));
  const { forbidden, options } = JSON.parse(readFileSync(join(PROJECT, ".dependency-cruiser.json"), "utf8")) as {
    forbidden: NonNullable<IFlattenedRuleSet["forbidden"]>;
    options: ICruiseOptions;
  };
  const { output } = await cruise(rooms, { ...options, baseDir: root, validate: true, ruleSet: { forbidden } });
  const { modules, summary } = output as ICruiseResult;
  // A parser that does not understand the files finds no imports in them, and then no rule is ever broken.
  const read = new Set(modules.filter((m) => m.dependencies !== undefined).map((m) => m.source));
  return [
    ...files.filter((file) => !read.has(file)).map((file) => `not-read: ${file} was not looked at`),
    ...summary.violations.map((v) => `${v.rule.name}: ${v.from} → ${v.cycle ? v.cycle.map((c) => c.name).join(" → ") : v.to}`),
    ...files.filter((file) => readsEnvironment(root, file)).map((file) => `environment: ${file} reads process.env`),
  ];
};

/** TypeScript files of a room as `room/…/file.ts`. */
const sourcesIn = (root: string, room: string): readonly string[] =>
  (readdirSync(join(root, room), { recursive: true }) as string[])
    .filter((file) => file.endsWith(".ts") && !file.endsWith(".d.ts"))
    .map((file) =>
      relative(root, join(root, room, file))
        .split(sep)
        .join("/"),
    );

const readsEnvironment = (root: string, file: string): boolean =>
  !file.startsWith("examples/") &&
  !READS_ENVIRONMENT.includes(file) &&
  /\bprocess\s*(\?\.|\.|\[\s*["'])\s*env\b|\benv\b[^;]*from "(node:)?process"/.test(readFileSync(join(root, file), "utf8"));

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const wrong = await checkDoors(PROJECT);
  for (const line of wrong) console.error(line);
  console.log(wrong.length === 0 ? "doors: every import is allowed" : `doors: ${wrong.length} not allowed`);
  process.exitCode = wrong.length === 0 ? 0 : 1;
}
