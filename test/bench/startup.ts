/** What happens once: the first step of a process, and the command line's compilation. Each in a process of its own. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import os from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Row } from "./result.js";
import type { Subject } from "./measure.js";
import { median } from "./stats.js";

export interface Startup extends Pick<Subject, "id" | "name" | "group" | "slow"> {
  /** @param adapter which way to a device the children take */
  run(adapter: string): Row;
}

const PROJECT = fileURLToPath(new URL("../../", import.meta.url));
const CHILD_MS = 300_000;
const COMMAND_RUNS = 3;

/** Runs Node in the project. @throws Error with what the child wrote */
export function node(args: readonly string[], env: Readonly<Record<string, string>> = {}, timeout = CHILD_MS): string {
  const done = spawnSync(process.execPath, [...args], { cwd: PROJECT, encoding: "utf8", timeout, maxBuffer: 2 ** 28, env: { ...process.env, ...env } });
  if (done.status !== 0) throw new Error(`${args.join(" ")} ended with ${done.status ?? done.signal}: ${done.stderr.trim().split("\n").slice(-3).join(" ")}`);
  return done.stdout;
}

/** Whether the bench runs as compiled JavaScript (in a bundle), beside a compiled project. */
const COMPILED = import.meta.url.endsWith(".js");

/** A TypeScript file of the bench as a program. */
export const script = (file: string, ...args: readonly string[]): readonly string[] => {
  const path = fileURLToPath(new URL(COMPILED ? file.replace(/\.ts$/, ".js") : file, import.meta.url));
  return [...(COMPILED ? [] : ["--import", "tsx"]), path, ...args];
};

function inFolder<T>(use: (folder: string) => T): T {
  const folder = mkdtempSync(join(os.tmpdir(), "kfacc-bench-"));
  try {
    return use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const guarded = (id: string, name: string, run: () => Row): Row => {
  try {
    return run();
  } catch (e) {
    return { id, name, facts: {}, error: e instanceof Error ? e.message : String(e) };
  }
};

/** From artifact to the first K-FAC step's loss, twice: the driver's cache starts empty and is what the first process left. */
function firstStep(network: string, title: string, slow = false): Startup {
  const [id, name] = [`${network}/first`, `${title}: first K-FAC step of a process`];
  return {
    id, name, group: "startup", slow,
    run: (adapter) => guarded(id, name, () => inFolder((folder) => {
      const child = () => JSON.parse(node(script("first-step.ts", network), { KFACC_ADAPTER: adapter, MESA_SHADER_CACHE_DIR: folder, XDG_CACHE_HOME: process.env["XDG_CACHE_HOME"] ?? join(os.homedir(), ".cache") })) as { readonly compileMs: number; readonly firstMs: number };
      const [cold, warm] = [child(), child()];
      return { id, name, facts: { firstColdMs: cold.firstMs, firstWarmMs: warm.firstMs, compileMs: warm.compileMs } };
    })),
  };
}

/** When a source file was last written, in ms. */
const newestSource = (): number =>
  Math.max(...["ir", "codegen", "runtime", "src"].flatMap((room) =>
    (readdirSync(join(PROJECT, room), { recursive: true }) as string[]).filter((f) => f.endsWith(".ts")).map((f) => statSync(join(PROJECT, room, f)).mtimeMs)));

/** Wall clock of `kfacc compile`, start of Node and all. */
function command(id: string, title: string, args: readonly string[], slow = false): Startup {
  const [full, name] = [`command/${id}`, `kfacc compile ${title}`];
  return {
    id: full, name, group: "startup", slow,
    run: () => guarded(full, name, () => {
      const cli = join(PROJECT, COMPILED ? "src/cli.js" : "dist/src/cli.js");
      if (!existsSync(cli) || (!COMPILED && statSync(cli).mtimeMs < newestSource())) throw new Error("dist is not of these sources: npm run build");
      const once = (): number => inFolder((folder) => {
        const start = performance.now();
        node([cli, "compile", ...args, "--out", join(folder, "out")]);
        return performance.now() - start;
      });
      return { id: full, name, facts: { commandMs: median(Array.from({ length: slow ? 1 : COMMAND_RUNS }, once)) } };
    }),
  };
}

export const STARTUPS: readonly Startup[] = [
  firstStep("mlp", "MLP, batch 128"), firstStep("lenet", "LeNet-5, batch 64"),
  command("lenet", "LeNet-5", ["examples/mnist-lenet/model.onnx", "--loss", "softmax-ce", "--batch", "64"]),
  command("resnet50", "ResNet-50, batch 8", [`test/bench/resnet50.${COMPILED ? "js" : "ts"}`, "--batch", "8"], true),
];
