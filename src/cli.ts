#!/usr/bin/env node
/** The command line: words in, an exit code out. */
import { ERROR_CODES } from "../ir/error.js";
import { parseArgs, printHelp } from "./cli/args.js";
import { COMMANDS } from "./cli/commands.js";
import { makeIo, reportFault } from "./cli/io.js";
import { CompileError } from "../ir/error.js";
import { table } from "./cli/table.js";
import { packageFile } from "./version.js";

/** Commands load what they need when they are called: `kfacc --help` must not wait for a GPU library. */
async function run(argv: readonly string[]): Promise<number> {
  const { version } = packageFile();
  const { command, args, settings: s, wants, help } = parseArgs(argv, COMMANDS, version);
  const io = makeIo(s.on("json"));
  if (wants === "version") io.out(`kfacc ${version}`);
  else if (wants === "help") help();
  if (wants) return 0;
  const path = args[0] as string;
  switch (command) {
    case "layers": await (await import("./cli/inspect.js")).layersCommand(path, s, io); break;
    case "print": await (await import("./cli/inspect.js")).printCommand(path, s, io); break;
    case "compile": await (await import("./cli/inspect.js")).compileCommand(path, s, io); break;
    case "train": await (await import("./cli/train.js")).trainCommand(path, s, io); break;
    case "evaluate": await (await import("./cli/use.js")).evaluateCommand(path, s, io); break;
    case "predict": await (await import("./cli/use.js")).predictCommand(path, s, io); break;
    case "devices": await (await import("./cli/inspect.js")).devicesCommand(io); break;
    case "help": helpCommand(args[0], version); break;
    default:
      printHelp(undefined, COMMANDS, version);
      return 2;
  }
  return 0;
}

function helpCommand(topic: string | undefined, version: string): void {
  if (topic === "errors") {
    process.stdout.write(`${table(["code", "meaning"], Object.entries(ERROR_CODES))}\n`);
    return;
  }
  const spec = COMMANDS.find((c) => c.name === topic);
  if (topic !== undefined && !spec) throw new CompileError("usage", `there is no help on "${topic}"`, undefined, "kfacc help lists the commands; kfacc help errors the errors");
  printHelp(spec, COMMANDS, version);
}

const argv = process.argv.slice(2);
const has = (flag: string): boolean => argv.includes(flag);

// `kfacc layers m.onnx | head` closes the pipe early: that is no error
process.stdout.on("error", (e: NodeJS.ErrnoException) => { if (e.code === "EPIPE") process.exit(0); });

process.exitCode = await run(argv).catch((e: unknown) => reportFault(e, { json: has("--json"), debug: has("--debug") }));
