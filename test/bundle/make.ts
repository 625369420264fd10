/**
 * `npm run bench:bundle [-- FILE.tar.xz]`: one folder that runs on a bare Linux x64 machine with a Vulkan driver and no network: Node, Dawn for
 * that platform, the compiled project with its bench and conformance runner, fixtures, example weights, run.sh.
 */
import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import os from "node:os";
import { dirname, extname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { closure, type Lock, wanted } from "./packages.js";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const HERE = fileURLToPath(new URL("./", import.meta.url));
const NAME = "kfacc-bench";
/** What the issue of such a bundle allows; Node is two thirds of it. */
const MOST_BYTES = 60 * 1024 * 1024;
/** Programs that run in the bundle: what they import comes with them. */
const PROGRAMS = ["src/cli.ts", "runtime/index.ts", "runtime/adapter.node.ts", "src/dsl/index.ts", "test/bench/main.ts", "test/bench/first-step.ts", "test/bench/resnet50.ts", "test/conformance/kfac.ts"];
/** What those read at run time, beside code. */
const ASSETS = ["package.json", "LICENSE", "README.md", "test/bench/yardstick.wgsl", "test/bench/baseline.json", "test/conformance/required.json", "examples/mnist-lenet/model.onnx"];
const PACKAGES = ["cac", "cli-progress", "fflate", "onnx-proto", "protobufjs", "chevrotain", "webgpu"];
/** Larger fixtures stay behind, and the big ones, whose weights are made anew. */
const MOST_FIXTURE = 3 * 1024 * 1024;

function run(command: string, args: readonly string[], cwd = ROOT, env: NodeJS.ProcessEnv = {}): void {
  const done = spawnSync(command, [...args], { cwd, stdio: ["ignore", "inherit", "inherit"], env: { ...process.env, ...env } });
  if (done.error) throw new Error(`${command}: ${done.error.message}`);
  if (done.status !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${done.status ?? done.signal}`);
}

const bytesIn = (path: string): number =>
  statSync(path).isDirectory() ? readdirSync(path).reduce((sum, name) => sum + bytesIn(join(path, name)), 0) : statSync(path).size;

function compileInto(app: string, scratch: string): void {
  const config = join(scratch, "tsconfig.json");
  const files = PROGRAMS.filter((file) => existsSync(join(ROOT, file))).map((file) => join(ROOT, file));
  writeFileSync(config, JSON.stringify({ extends: join(ROOT, "tsconfig.json"), files, include: [], compilerOptions: { rootDir: ROOT, outDir: app, declaration: false, types: ["@types/node", "@webgpu/types"].map((name) => join(ROOT, "node_modules", name)) } }));
  run(process.execPath, [join(ROOT, "node_modules/typescript/bin/tsc"), "-p", config]);
}

function copyPackages(app: string): void {
  const lock = JSON.parse(readFileSync(join(ROOT, "package-lock.json"), "utf8")) as Lock;
  for (const path of closure(lock, PACKAGES)) {
    const nested = (from: string): boolean => from !== join(ROOT, path) && from.slice(join(ROOT, path).length).includes("/node_modules");
    cpSync(join(ROOT, path), join(app, path), { recursive: true, filter: (from) => !nested(from) && (statSync(from).isDirectory() || wanted(from)) });
  }
}

/** Small recorded fixtures, where they are beside the project. */
function copyFixtures(target: string): number {
  mkdirSync(target, { recursive: true });
  const from = resolve(ROOT, "../shared/fixtures/kfac");
  if (!existsSync(from)) {
    console.error(`bundle: no fixtures at ${from}: the bundle's conformance run has none`);
    return 0;
  }
  const names = readdirSync(from).filter((name) => !name.startsWith("big_") && existsSync(join(from, name, "meta.json")) && bytesIn(join(from, name)) <= MOST_FIXTURE);
  for (const name of names) cpSync(join(from, name), join(target, name), { recursive: true });
  return names.length;
}

function main(out: string): void {
  if (process.platform !== "linux" || process.arch !== "x64") throw new Error(`this is ${process.platform}-${process.arch}: the bundle takes this machine's Node and is for linux-x64`);
  for (const tool of ["tar", "xz"]) if (spawnSync(tool, ["--version"]).error) throw new Error(`"${tool}" is not installed (Debian: apt-get install ${tool === "xz" ? "xz-utils" : tool})`);
  const scratch = mkdtempSync(join(os.tmpdir(), "kfacc-bundle-"));
  try {
    const folder = join(scratch, NAME);
    const app = join(folder, "app");
    compileInto(app, scratch);
    for (const file of ASSETS) {
      if (!existsSync(join(ROOT, file))) continue;
      mkdirSync(dirname(join(app, file)), { recursive: true });
      copyFileSync(join(ROOT, file), join(app, file));
    }
    copyPackages(app);
    const fixtures = copyFixtures(join(folder, "fixtures"));
    copyFileSync(process.execPath, join(folder, "node"));
    copyFileSync(join(HERE, "run.sh"), join(folder, "run.sh"));
    for (const file of ["node", "run.sh"]) chmodSync(join(folder, file), 0o755);
    const made = join(scratch, "made.tar.xz");
    run("tar", ["-C", scratch, "-cJf", made, NAME], ROOT, { XZ_OPT: "-6 -T0" });
    const { size } = statSync(made);
    if (size > MOST_BYTES) throw new Error(`the bundle has ${size} bytes, more than ${MOST_BYTES}`);
    // written beside and renamed: a copy that was cut off never has the name
    copyFileSync(made, `${out}.part`);
    renameSync(`${out}.part`, out);
    console.log(`${out}: ${(size / 1e6).toFixed(1)} MB, ${fixtures} fixtures; unpack it and run ${NAME}/run.sh`);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

const target = process.argv[2] ?? `${NAME}.tar.xz`;
if (target.startsWith("-") || extname(target) !== ".xz" || process.argv.length > 3) {
  console.error("usage: npm run bench:bundle [-- FILE.tar.xz]");
  process.exitCode = 2;
} else {
  try {
    main(resolve(target));
  } catch (e) {
    console.error(`bench:bundle: ${e instanceof Error ? e.message : e}`);
    process.exitCode = 1;
  }
}
