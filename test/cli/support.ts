/** Runs the command line: in this process where no device is needed, as the built program otherwise. */
import { execFileSync, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { main } from "../../src/cli/main.js";

export interface Outcome {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** Inside this process, with what it writes caught. */
export async function cli(...argv: string[]): Promise<Outcome> {
  const caught = { out: "", err: "" };
  const kept = [process.stdout.write, process.stderr.write] as const;
  process.stdout.write = ((text: string) => { caught.out += text; return true; }) as typeof process.stdout.write;
  process.stderr.write = ((text: string) => { caught.err += text; return true; }) as typeof process.stderr.write;
  try {
    return { code: await main(argv), ...caught };
  } finally {
    [process.stdout.write, process.stderr.write] = kept;
  }
}

export const CLI = resolve("dist/src/cli.js");

/** dist as the sources are now. */
export function build(): void {
  execFileSync(process.execPath, [resolve("node_modules/typescript/bin/tsc"), "-p", "tsconfig.build.json"], { stdio: "pipe" });
  if (!existsSync(CLI)) throw new Error("the build made no dist/src/cli.js");
}

/** The built program. `signal` is sent once `when` holds. */
export function built(argv: readonly string[], options: { readonly cwd: string; readonly env?: Record<string, string>; readonly interrupt?: () => boolean } ): Promise<Outcome> {
  return new Promise((done) => {
    const child = spawn(process.execPath, [CLI, ...argv], { cwd: options.cwd, env: { ...process.env, ...options.env } });
    const caught = { out: "", err: "" };
    child.stdout.on("data", (chunk: Buffer) => { caught.out += chunk; });
    child.stderr.on("data", (chunk: Buffer) => { caught.err += chunk; });
    const poll = options.interrupt && setInterval(() => { if (options.interrupt?.() && child.kill("SIGINT")) clearInterval(poll); }, 3);
    child.on("close", (code) => { clearInterval(poll); done({ code, ...caught }); });
  });
}

const MODELS = resolve("test/fixtures/models"); // now: a test may change the working folder

export const model = (name: string): string => join(MODELS, `${name}.onnx`);

/** Rows of `count` examples with 64 features and a class that they tell: learnable, the same every time. */
export function digitsCsv(count: number): string {
  return Array.from({ length: count }, (_, n) => {
    const label = n % 10;
    const x = Array.from({ length: 64 }, (_, k) => (Math.sin(k * (label + 1)) + Math.sin(n * 12.9898 + k * 78.233) * 0.3).toFixed(4));
    return [...x, label].join(",");
  }).join("\n");
}
