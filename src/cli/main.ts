/** Words in, an exit code out. */
import { CompileError, ERROR_CODES } from "../../ir/error.js";
import { packageFile } from "../version.js";
import { parseArgs, printHelp } from "./args.js";
import { COMMANDS } from "./commands.js";
import { makeIo, reportFault } from "./io.js";
import { table } from "./table.js";

/** Runs a command; errors become lines on standard error. */
export function main(argv: readonly string[]): Promise<number> {
  return run(argv).catch((e: unknown) => reportFault(e, { json: argv.includes("--json"), debug: argv.includes("--debug") }));
}

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
    case "layers": await (await import("./inspect.js")).layersCommand(path, s, io); break;
    case "print": await (await import("./inspect.js")).printCommand(path, s, io); break;
    case "compile": await (await import("./inspect.js")).compileCommand(path, s, io); break;
    case "train": await (await import("./train.js")).trainCommand(path, s, io); break;
    case "evaluate": await (await import("./use.js")).evaluateCommand(path, s, io); break;
    case "predict": await (await import("./use.js")).predictCommand(path, s, io); break;
    case "verify": return (await import("./verify.js")).verifyCommand(path, s, io);
    case "fisher": await (await import("./fisher.js")).fisherCommand(path, s, io); break;
    case "profile": await (await import("./profile.js")).profileCommand(path, s, io); break;
    case "devices": await (await import("./inspect.js")).devicesCommand(io); break;
    case "help": await helpCommand(args[0], version); break;
    default:
      printHelp(undefined, COMMANDS, version);
      return 2;
  }
  return 0;
}

async function helpCommand(topic: string | undefined, version: string): Promise<void> {
  if (topic === "errors") {
    process.stdout.write(`${table(["code", "meaning"], Object.entries(ERROR_CODES))}\n`);
    return;
  }
  if (topic === "ops") {
    const [{ OP_TOPICS }, { opNames, REFUSED }] = [await import("../import/ops/index.js"), await import("../tables.js")];
    const rows = OP_TOPICS.map(([name, ops]) => `${name}\n  ${opNames(ops)}`);
    process.stdout.write(`${rows.join("\n")}\n\nrefused by name\n  ${REFUSED}\n`);
    return;
  }
  const spec = COMMANDS.find((c) => c.name === topic);
  if (topic !== undefined && !spec) throw new CompileError("usage", `there is no help on "${topic}"`, undefined, "kfacc help lists the commands; kfacc help errors the errors; kfacc help ops the ONNX ops");
  printHelp(spec, COMMANDS, version);
}
