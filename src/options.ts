/** Every knob of the command line in one table: flags, help and checks are made from it. */
import { FALLBACKS } from "./kfac/diagonal.js";
import { INVERSES } from "./kfac/precondition.js";
import { CompileError } from "../ir/error.js";
import { HOST_DEFAULTS, RUN_KNOBS } from "../runtime/artifact.js";
import { CLOCKS } from "../runtime/profile-clock.js";
import { FISHER_KINDS, LOSS_ALIASES, LOSSES } from "./train/loss.js";

export const GROUPS = ["model", "compile", "optimiser", "statistics", "data", "training", "measuring", "output"] as const;
export type Group = (typeof GROUPS)[number];

export interface Flag {
  /** As typed, without dashes. */
  readonly name: string;
  readonly short?: string;
  readonly group: Group;
  /** `list` may be given several times; `switch` has no value and a `--no-` form if its default is true. */
  readonly kind: "number" | "integer" | "choice" | "text" | "list" | "switch";
  /** What stands for the value in the help. */
  readonly value?: string;
  readonly doc: string;
  readonly unit?: string;
  /** Inclusive. */
  readonly range?: readonly [number, number];
  readonly choices?: readonly string[];
  readonly default?: number | string | boolean;
  /** Said instead of `default` where that depends on something. */
  readonly defaultDoc?: string;
}

export type FlagValue = number | string | boolean | readonly string[];
/** Checked values of the flags that were given; defaults are not among them. */
export type Given = Readonly<Record<string, FlagValue>>;

const MANY = 1e9;

/** `factorPeriod` → `factor-period`. */
export const kebab = (name: string): string => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);

/** Start learning rates by optimiser; K-FAC's is that of the run-time table. */
export const LEARNING_RATES = { kfac: RUN_KNOBS[0].default, sgd: 0.02, adam: 0.001 } as const;

const knobFlags: readonly Flag[] = RUN_KNOBS.map((k) => ({
  name: kebab(k.name), group: "optimiser", kind: "number", doc: k.doc, unit: k.unit, range: k.range, default: k.default,
  ...(k.name === "lr" ? { defaultDoc: Object.entries(LEARNING_RATES).map(([o, lr]) => `${lr} for ${o}`).join(", ") } : {}),
}));

const hostFlags: readonly Flag[] = [
  { name: "factor-period", group: "statistics", kind: "integer", doc: "new statistics of A and G every this many steps", unit: "steps", range: [1, MANY], default: HOST_DEFAULTS.factorPeriod },
  { name: "inverse-period", group: "statistics", kind: "integer", doc: "new inverses every this many steps", unit: "steps", range: [1, MANY], default: HOST_DEFAULTS.inversePeriod },
  { name: "spread-inverses", group: "statistics", kind: "switch", doc: "the work of new inverses is spread over the steps between them (off: all of it in one step); with --inverse pi", default: HOST_DEFAULTS.spreadInverses },
  { name: "burn-in", group: "statistics", kind: "integer", doc: "steps at the start with a plain average of the statistics, taken every step", unit: "steps", range: [0, MANY], default: HOST_DEFAULTS.burnIn },
  { name: "ema-debias", group: "statistics", kind: "switch", doc: "running averages divide by the weight they have gathered (off: the first statistics are the start value)", default: HOST_DEFAULTS.emaDebias },
  { name: "readback-lag", group: "statistics", kind: "integer", doc: "react to what a step reports this many steps later", unit: "steps", range: [0, 64], default: HOST_DEFAULTS.readbackLag },
];

export const FLAGS: readonly Flag[] = [
  { name: "freeze", group: "model", kind: "list", value: "NAME", doc: "leave these weights as they are; * stands for any part of a name" },
  { name: "train", group: "model", kind: "list", value: "NAME", doc: "only these weights train, unless --freeze names them; * stands for any part of a name", defaultDoc: "all" },
  { name: "dropout", group: "model", kind: "switch", doc: "Dropout leaves activations out in training (off: it passes its input on)", default: true },
  { name: "output", group: "model", kind: "list", value: "NAME", doc: "use these values of the graph as its outputs, and leave out what they do not need" },
  { name: "shape", group: "model", kind: "list", value: "NAME=1,3,32,32", doc: "whole shape of an input: sizes that the file leaves open, or others than it has (1x3x32x32 is the same); a symbol bound in one is bound in all" },
  { name: "value", group: "model", kind: "list", value: "NAME=NUMBERS", doc: "an input is these numbers, whatever is computed: a flag, a shape, a list of axes" },
  { name: "batch-axis", group: "model", kind: "list", value: "NAME=AXIS", doc: "axis of an input that carries examples; -1: none", defaultDoc: "the leading one" },

  { name: "loss", group: "compile", kind: "list", value: `[OUTPUT=]${[...new Set([...LOSSES, ...Object.keys(LOSS_ALIASES)])].join("|")}`, doc: "loss on an output, else on the first; mse is the mean over outputs, half-sse half their sum", defaultDoc: "what the model file names, or a softmax or sigmoid at the end implies" },
  { name: "loss-weight", group: "compile", kind: "list", value: "OUTPUT=w", doc: "factor of an output's loss in the total; 0: no loss there", defaultDoc: "1" },
  { name: "optimizer", group: "compile", kind: "choice", choices: ["kfac", "sgd", "adam"], doc: "how parameters move; without a layer they move by momentum, or by adam", default: "kfac" },
  { name: "batch", group: "compile", kind: "text", value: "N[,N…]", doc: "examples per step; the first trains, others are for smaller batches", unit: "examples", default: "64" },
  { name: "fisher", group: "compile", kind: "choice", choices: FISHER_KINDS, doc: "what is sent back for G: targets sampled from the model, all of them, the data's own (not the Fisher), or random signs (cp: curvature propagation)", default: "mc" },
  { name: "fisher-samples", group: "compile", kind: "integer", doc: "sampled targets, or signs, per example", unit: "samples", range: [1, 1024], default: 1 },
  { name: "fisher-diagonal", group: "compile", kind: "switch", doc: "entries for the exact and the empirical Fisher's diagonal: trainer.fisher.diagonal", default: false },
  { name: "weight-decay-mode", group: "compile", kind: "choice", choices: ["l2", "decoupled"], doc: "decay as part of the gradient, or straight on the weights", default: "l2" },
  { name: "register", group: "compile", kind: "list", value: "KIND,…", doc: "only these kinds become layers: dense, conv, convT, embed, norm", defaultDoc: "all" },
  { name: "layer", group: "compile", kind: "list", value: "NAME=dense|skip", doc: "treat this weight as a dense layer, or not as a layer" },
  { name: "sharing", group: "compile", kind: "list", value: "[NAME=]expand|reduce|auto", doc: "positions of a weight that is used at several: rows apart, or averaged per example; auto reduces where only their sum or mean reaches the loss", defaultDoc: "auto" },
  { name: "inverse", group: "compile", kind: "choice", choices: INVERSES, doc: "how damping enters: split between A and G by their traces (pi), exactly in their eigenbases (eig), or there with the gradient's second moments (ekfac); eigenbases are made on the host in float64", default: "pi" },
  { name: "max-factor", group: "compile", kind: "integer", doc: "a factor of more rows is kept as its diagonal", unit: "rows", range: [1, 65536], default: 5120 },
  { name: "fallback", group: "compile", kind: "choice", choices: FALLBACKS, doc: "how K-FAC moves a parameter without a layer: by its gradient, or by its gradient over a diagonal Fisher of its own", default: "plain" },
  { name: "for", group: "compile", kind: "choice", choices: ["software", "gpu"], doc: "what kernels are shaped for: adapters that compute on the CPU, or GPUs; both run on both", defaultDoc: "compile: software; else the device that is found" },
  { name: "tuning", group: "compile", kind: "text", value: "FILE", doc: "schedules measured by compile --tune, taken without measuring" },
  { name: "tune", group: "output", kind: "switch", doc: "measure the best schedules of every contraction on the device, take the fastest, and keep the choice beside the plan (tuning.json)", default: false },
  { name: "strict", group: "compile", kind: "switch", doc: "a parameter without a layer is an error", default: false },
  { name: "standalone", group: "output", kind: "switch", doc: "put the runtime into the folder, so that it needs no installed kfacc", defaultDoc: "if kfacc is not found from the folder" },

  ...knobFlags,
  ...hostFlags,

  { name: "data", short: "d", group: "data", kind: "text", value: "PATH", doc: "folder or file with IDX images (MNIST) or CIFAR records (.bin), .npz, .csv; .gz of them" },
  { name: "target", group: "data", kind: "list", value: "[OUTPUT=]COLUMN", doc: "target column(s) of a .csv by name or index, target array of a .npz; of an output, where several have a loss", defaultDoc: "the last column; y, or the output's name" },
  { name: "example-weight", group: "data", kind: "text", value: "COLUMN", doc: "column of a .csv or array of a .npz with a weight per example; 0 leaves an example out", defaultDoc: "all count once" },
  { name: "scale", group: "data", kind: "number", doc: "multiplies the inputs", unit: "factor", defaultDoc: "1/255 for images of bytes, else 1" },
  { name: "split", group: "data", kind: "choice", choices: ["train", "test"], doc: "which half of a data set that holds both", defaultDoc: "train to train, else test" },
  { name: "val", group: "data", kind: "number", doc: "held out for validation; 0: none", unit: "fraction of the examples", range: [0, 0.99], default: 0.1 },
  { name: "shuffle", group: "data", kind: "switch", doc: "visit the examples in a new order each epoch", default: true },

  { name: "epochs", group: "training", kind: "integer", doc: "times each example is visited", unit: "epochs", range: [1, MANY], default: 5 },
  { name: "steps", group: "training", kind: "integer", doc: "stop after this many steps, whatever --epochs says", unit: "steps", range: [1, MANY] },
  { name: "seed", group: "training", kind: "integer", doc: "seeds the data order, the split and the sampled targets", range: [0, 2 ** 32 - 1], default: 0 },
  { name: "lr-schedule", group: "training", kind: "choice", choices: ["constant", "linear", "cosine", "step"], doc: "how the learning rate goes to --lr-end, or by --lr-gamma every --lr-step epochs", default: "cosine" },
  { name: "lr-end", group: "training", kind: "number", doc: "learning rate at the end, for linear and cosine", unit: "fraction of --lr", range: [0, 1], default: 0.05 },
  { name: "lr-step", group: "training", kind: "integer", doc: "for step: epochs between two drops", unit: "epochs", range: [1, MANY], default: 10 },
  { name: "lr-gamma", group: "training", kind: "number", doc: "for step: factor of a drop", unit: "factor", range: [0, 1], default: 0.1 },
  { name: "warmup", group: "training", kind: "integer", doc: "steps in which the learning rate rises from 0", unit: "steps", range: [0, MANY], default: 0 },
  { name: "damping-decay", group: "training", kind: "number", doc: "damping is multiplied by this over each epoch", unit: "factor", range: [1e-6, 1e6], default: 1 },
  { name: "keep-best", group: "training", kind: "switch", doc: "end with the weights that did best in validation", default: true },
  { name: "eval-every", group: "training", kind: "integer", doc: "steps between validations", unit: "steps", range: [1, MANY], defaultDoc: "each epoch" },
  { name: "checkpoint", group: "training", kind: "text", value: "FILE", doc: "where the state is kept", defaultDoc: "MODEL.checkpoint.safetensors, removed once --out is written" },
  { name: "checkpoint-every", group: "training", kind: "integer", doc: "steps between checkpoints", unit: "steps", range: [1, MANY], defaultDoc: "each epoch" },
  { name: "resume", group: "training", kind: "text", value: "FILE", doc: "go on from a checkpoint, with its options where none are given" },
  { name: "weights-only", group: "training", kind: "switch", doc: "take just the parameters from --resume and start anew", default: false },

  { name: "weights", short: "w", group: "data", kind: "text", value: "FILE", doc: "a checkpoint, .safetensors or .onnx to take the parameters from", defaultDoc: "the model's own" },
  { name: "out", short: "o", group: "output", kind: "text", value: "PATH", doc: "what to write: a folder (compile), .kir (print), .onnx or .safetensors (train), .npz (predict), .safetensors (fisher), .json (profile)" },
  { name: "after", group: "output", kind: "text", value: "PASS", doc: "print the graph after this pass (canonicalize, fold, cse, dce, undetach, unwindow), or as fused into kernels (fuse)" },
  { name: "entry", group: "output", kind: "text", value: "NAME", doc: "an entry of the program (front, back, refresh, step …): print it instead of the forward graph, or profile it", defaultDoc: "profile: all that a training step runs" },
  { name: "history", group: "output", kind: "text", value: "FILE.jsonl", doc: "a line of JSON per step and per validation" },
  { name: "explain", group: "training", kind: "switch", doc: "a table of every layer's curvature, damping and step at each validation, and a warning where damping drowns a layer's curvature", default: false },
  { name: "explain-every", group: "training", kind: "integer", doc: "such a table every so many steps, too", unit: "steps", range: [1, MANY] },
  { name: "repeat", group: "measuring", kind: "integer", doc: "measurements of each kernel, of which the median counts", range: [1, 1000], default: 5 },
  { name: "clock", group: "measuring", kind: "choice", choices: CLOCKS, doc: "the device's timestamps, or each kernel alone by the wall clock", defaultDoc: "timestamps where the device has them" },
  { name: "trace", group: "output", kind: "text", value: "FILE.json", doc: "the kernels in the order in which they run, in Chrome's trace event format: for chrome://tracing, Perfetto, Firefox's profiler" },
  { name: "plot", group: "output", kind: "text", value: "FILE.svg", doc: "the course of the loss as a picture" },
  { name: "json", group: "output", kind: "switch", doc: "results and errors as JSON", default: false },
  { name: "debug", group: "output", kind: "switch", doc: "errors with their stack trace", default: false },
];

export const flagNamed = (name: string): Flag => {
  const found = FLAGS.find((f) => f.name === name);
  if (!found) throw new CompileError("internal", `no flag "${name}"`);
  return found;
};

/**
 * A flag's value as typed, checked.
 *
 * @throws CompileError "bad-option" naming the flag, its unit and its range.
 */
export function checkFlag(flag: Flag, text: string): FlagValue {
  const where = `--${flag.name}`;
  switch (flag.kind) {
    case "number": case "integer": {
      const value = text.trim() === "" ? Number.NaN : Number(text);
      const [low, high] = flag.range ?? [-Infinity, Infinity];
      if (Number.isFinite(value) && value >= low && value <= high && (flag.kind === "number" || Number.isInteger(value))) return value;
      const kind = flag.kind === "integer" ? "a whole number" : "a number";
      const bounds = high >= MANY ? `of at least ${low}` : `between ${low} and ${high}`;
      throw new CompileError("bad-option", `"${text}" is not ${kind} ${bounds}${flag.unit ? ` (${flag.unit})` : ""}`, where, flag.doc);
    }
    case "choice":
      if (flag.choices?.includes(text)) return text;
      throw new CompileError("bad-option", `"${text}" is not one of ${flag.choices?.join(", ")}`, where, flag.doc);
    case "text": case "list": case "switch":
      if (text !== "") return text;
      throw new CompileError("bad-option", "the value is empty", where, flag.doc);
    default: return flag.kind satisfies never;
  }
}

/** Reads checked values, or the table's defaults. */
export class Settings {
  constructor(readonly given: Given) {}

  has(name: string): boolean {
    return this.given[name] !== undefined;
  }

  number(name: string): number {
    return (this.given[name] ?? flagNamed(name).default) as number;
  }

  optionalNumber(name: string): number | undefined {
    return this.given[name] as number | undefined;
  }

  text(name: string): string | undefined {
    return (this.given[name] ?? flagNamed(name).default) as string | undefined;
  }

  on(name: string): boolean {
    return Boolean(this.given[name] ?? flagNamed(name).default);
  }

  list(name: string): readonly string[] {
    // of a checkpoint made when the flag could be given once
    const value = this.given[name];
    return typeof value === "string" ? [value] : ((value ?? []) as readonly string[]);
  }

  /** @throws CompileError "usage" if the flag was not given. */
  required(name: string): string {
    const value = this.text(name);
    if (value === undefined) throw new CompileError("usage", `--${name} is missing`, undefined, spellFlag(flagNamed(name)).join("  "));
    return value;
  }
}

/** One line of the help: what it does, unit, range, default. */
export function spellFlag(flag: Flag): readonly [left: string, right: string] {
  const value = { number: "<x>", integer: "<n>", choice: `<${flag.choices?.join("|")}>`, text: `<${flag.value}>`, list: `<${flag.value}>`, switch: "" }[flag.kind];
  const off = flag.kind === "switch" && flag.default === true;
  const left = `${flag.short ? `-${flag.short}, ` : ""}--${off ? "[no-]" : ""}${flag.name}${value ? ` ${value}` : ""}`;
  const facts = [
    flag.unit,
    flag.range && (flag.range[1] >= MANY ? `≥ ${flag.range[0]}` : flag.range[1] >= 1e12 ? `${flag.range[0]} …` : `${flag.range[0]} … ${flag.range[1]}`),
    flag.kind === "list" ? "may be repeated" : undefined,
    flag.defaultDoc ? `default ${flag.defaultDoc}` : flag.kind === "switch" ? (off ? "default on" : undefined) : flag.default === undefined ? undefined : `default ${flag.default}`,
  ].filter((x) => x !== undefined && x !== "");
  return [left, `${flag.doc}${facts.length > 0 ? ` [${facts.join("; ")}]` : ""}`];
}
