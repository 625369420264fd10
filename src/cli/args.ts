/** From the words of a command line to a command and checked flags. */
import { type CAC, type Command, cac } from "cac";
import { CompileError } from "../../ir/error.js";
import { checkFlag, FLAGS, type Flag, type FlagValue, flagNamed, GROUPS, type Group, Settings, spellFlag } from "../options.js";

export interface CommandSpec {
  readonly name: string;
  /** With its arguments, e.g. `layers <model>`. */
  readonly usage: string;
  readonly doc: string;
  readonly flags: readonly string[];
  readonly examples: readonly string[];
}

export interface Parsed {
  readonly command: string | undefined;
  readonly args: readonly string[];
  readonly settings: Settings;
  /** The user asks what there is instead of doing it. */
  readonly wants: "help" | "version" | undefined;
}

export const inGroups = (...groups: readonly Group[]): string[] => FLAGS.filter((f) => groups.includes(f.group)).map((f) => f.name);

/** Stands before a value so that the parser takes it as text: no argument of a process can hold it. */
const MARK = "\0";

const valued = (flag: Flag): boolean => flag.kind !== "switch";

const wordsOf = (flag: Flag): string[] => [`--${flag.name}`, ...(flag.short ? [`-${flag.short}`] : [])];

/** `--lr -1` → `--lr=␀-1`: negative numbers, names that look like numbers and empty values arrive as they were typed. */
function markValues(argv: readonly string[], flags: readonly Flag[]): string[] {
  const out: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i] as string;
    if (word === "--") return [...out, ...argv.slice(i)];
    const flag = flags.find((f) => valued(f) && wordsOf(f).some((w) => word === w || word.startsWith(`${w}=`)));
    if (!flag) out.push(word);
    else if (word.includes("=")) out.push(`--${flag.name}=${MARK}${word.slice(word.indexOf("=") + 1)}`);
    else if (i + 1 < argv.length && !(argv[i + 1] as string).startsWith("--") && !flags.some((f) => wordsOf(f).includes(argv[i + 1] as string))) out.push(`--${flag.name}=${MARK}${argv[++i]}`);
    else throw new CompileError("usage", `${word} needs a value`, undefined, spellFlag(flag).join("  "));
  }
  return out;
}

/** @throws CompileError "usage" for an unknown command, flag or argument; "bad-option" for a value out of range. */
export function parseArgs(argv: readonly string[], commands: readonly CommandSpec[], version: string): Parsed & { readonly help: () => void } {
  const cli = cac("kfacc");
  cli.option("-h, --help", "this text");
  cli.option("-v, --version", "the version");
  cli.globalCommand.version(version, "--version");
  for (const c of commands) declare(cli, c);
  const first = commands.find((c) => c.name === argv.find((word) => !word.startsWith("-")));
  cli.parse(["node", "kfacc", ...markValues(argv, first ? first.flags.map(flagNamed) : FLAGS)], { run: false });
  const spec = commands.find((c) => c.name === cli.matchedCommandName) ?? first;
  const help = (): void => { printHelp(spec, commands, version); };
  const none = { command: undefined, args: cli.args, settings: new Settings({}), help };
  if (cli.options.help) return { ...none, wants: "help" };
  if (cli.options.version) return { ...none, wants: "version" };
  const command: Command | undefined = cli.matchedCommand;
  if (!command || !spec) {
    const word = cli.args[0];
    if (word === undefined) return { ...none, wants: undefined };
    const near = nearest(word, commands.map((c) => c.name));
    throw new CompileError("usage", `there is no command "${word}"`, undefined, near ? `did you mean "${near}"?` : "kfacc help lists them");
  }
  const known = spec.flags.map(flagNamed);
  for (const name of Object.keys(cli.options)) if (name !== "--" && !command.hasOption(name) && !cli.globalCommand.hasOption(name)) throw unknownFlag(argv, name, spec, known);
  try {
    command.checkRequiredArgs();
    command.checkUnusedArgs();
  } catch (e) {
    throw new CompileError("usage", e instanceof Error ? e.message.replaceAll("`", '"') : String(e), undefined, `usage: kfacc ${spec.usage}`);
  }
  return { command: spec.name, args: cli.args, settings: new Settings(checked(cli.options, known)), wants: undefined, help };
}

function declare(cli: CAC, spec: CommandSpec): void {
  const command = cli.command(spec.usage, spec.doc, { ignoreOptionDefaultValue: true });
  for (const f of spec.flags.map(flagNamed)) {
    if (valued(f)) command.option(`${f.short ? `-${f.short}, ` : ""}--${f.name} <value>`, f.doc);
    else command.option(`--${f.name}`, f.doc);
    if (f.kind === "switch" && f.default === true) command.option(`--no-${f.name}`, f.doc);
  }
}

const camel = (name: string): string => name.replace(/-([a-z])/g, (_, c: string) => c.toUpperCase());

function checked(options: Readonly<Record<string, unknown>>, flags: readonly Flag[]): Record<string, FlagValue> {
  const given: Record<string, FlagValue> = {};
  for (const flag of flags) {
    const raw = options[camel(flag.name)];
    if (raw === undefined) continue;
    const list = (Array.isArray(raw) ? raw : [raw]) as unknown[];
    if (flag.kind === "switch") {
      given[flag.name] = Boolean(list.at(-1));
      continue;
    }
    const values = list.map((v) => checkFlag(flag, String(v).replace(MARK, "")));
    given[flag.name] = flag.kind === "list" ? values.map(String) : (values.at(-1) as FlagValue);
  }
  return given;
}

function unknownFlag(argv: readonly string[], name: string, spec: CommandSpec, known: readonly Flag[]): CompileError {
  const typed = argv.find((w) => w.startsWith("-") && camel(w.replace(/^-+(no-)?/, "").replace(/=.*$/s, "")) === name) ?? `--${name}`;
  const bare = typed.replace(/=.*$/s, "");
  const elsewhere = FLAGS.some((f) => `--${f.name}` === bare);
  const near = nearest(bare.replace(/^-+/, ""), known.map((f) => f.name));
  const hint = elsewhere ? `${bare} belongs to other commands` : near ? `did you mean --${near}?` : `kfacc ${spec.name} --help lists them`;
  return new CompileError("usage", `kfacc ${spec.name} has no flag ${bare}`, undefined, hint);
}

/** The candidate within two edits, if there is one. */
function nearest(word: string, candidates: readonly string[]): string | undefined {
  const scored = candidates.map((c) => [edits(word, c), c] as const).filter(([d]) => d <= 2).sort(([a], [b]) => a - b);
  return scored[0]?.[1];
}

function edits(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) next.push(Math.min((row[j] as number) + 1, (next[j - 1] as number) + 1, (row[j - 1] as number) + Number(a[i - 1] !== b[j - 1])));
    row = next;
  }
  return row[b.length] as number;
}

export function printHelp(spec: CommandSpec | undefined, commands: readonly CommandSpec[], version: string): void {
  const lines = [`kfacc ${version}`, ""];
  if (!spec) {
    const width = Math.max(...commands.map((c) => c.usage.length));
    lines.push("A model graph becomes a K-FAC training program on WebGPU.", "", "Commands:", ...commands.map((c) => `  ${c.usage.padEnd(width)}  ${c.doc}`), "",
      "A model is a .onnx, .kir, .ts or .js file. `kfacc COMMAND --help` lists the flags of a command, `kfacc help errors` the errors.",
      "KFACC_ADAPTER=gpu|llvmpipe|swiftshader forces a way to a device, KFACC_FEATURES=portable leaves out what not every device has.", "",
      "Exit: 0 done, 1 the input is at fault, 2 wrong usage, 3 no usable device, 4 training diverged, 130 Ctrl-C.");
  } else {
    lines.push(`usage: kfacc ${spec.usage}`, "", spec.doc);
    const flags = spec.flags.map(flagNamed);
    for (const group of GROUPS) {
      const rows = flags.filter((f) => f.group === group).map(spellFlag);
      if (rows.length === 0) continue;
      lines.push("", `${group}:`);
      for (const [left, right] of rows) lines.push(...(left.length <= 28 ? [`  ${left.padEnd(28)}  ${right}`] : [`  ${left}`, `  ${" ".repeat(28)}  ${right}`]));
    }
    if (spec.examples.length > 0) lines.push("", "examples:", ...spec.examples.map((e) => `  ${e}`));
  }
  process.stdout.write(`${lines.join("\n")}\n`);
}
