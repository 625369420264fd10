/** The bench's command line. */
export interface Args {
  readonly only?: string;
  readonly quick: boolean;
  readonly processes: number;
  /** A file, or true: printed. */
  readonly json?: string | true;
  /** A file, or true: the committed baseline. */
  readonly compare?: string | true;
  readonly peers: boolean;
  /** Measure these rows only. */
  readonly ids?: ReadonlySet<string>;
}

/** @throws Error naming a flag that does not exist or lacks its value */
export function parse(argv: readonly string[]): Args {
  let args: Args = { quick: false, processes: 1, peers: false };
  for (let k = 0; k < argv.length; k++) {
    const flag = argv[k] as string;
    const next = argv[k + 1];
    const value = next !== undefined && !next.startsWith("--") ? next : undefined;
    const needed = (): string => {
      if (value === undefined) throw new Error(`${flag} needs a value`);
      return value;
    };
    switch (flag) {
      case "--only": args = { ...args, only: needed() }; break;
      case "--processes": {
        const processes = Number(needed());
        if (!Number.isInteger(processes) || processes < 1) throw new Error(`--processes takes a whole number ≥ 1, got ${value}`);
        args = { ...args, processes };
        break;
      }
      case "--ids": args = { ...args, ids: new Set(needed().split(",")) }; break;
      case "--json": args = { ...args, json: value ?? true }; break;
      case "--compare": args = { ...args, compare: value ?? true }; break;
      case "--quick": args = { ...args, quick: true }; continue;
      case "--peers": args = { ...args, peers: true }; continue;
      default: throw new Error(`no flag ${flag}; there are --only, --quick, --processes, --json, --compare, --peers`);
    }
    if (value !== undefined) k++;
  }
  return args;
}
