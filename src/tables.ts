/** Tables of the documentation that are made from the code: what becomes a layer, and which ONNX ops are read. */
import { IMPORT_OPS, OP_TOPICS } from "./import/ops/index.js";
import { KIND_DOCS } from "./kfac/layer.js";

/** What is true of all kinds of layers, and of what is none. */
const FURTHER: readonly (readonly [string, string, string])[] = [
  ["tied weights", "one weight at several nodes, also transposed", "one layer with several sites, pooled in the stored orientation"],
  ["factor sides over `--max-factor`", "", "diagonal on that side, said in the table"],
  ["anything else", "positional tables, biases of transposed uses …", "plain update, or with `--fallback diagonal` a diagonal Fisher"],
];

/** Ops that are refused by name wherever they stand, and why. */
export const REFUSED = "LSTM, GRU, RNN (recurrence), Loop, Scan and If with a computed condition (control flow), quantised, string, sequence and optional types, NonZero and Unique of computed values (the sizes of their results depend on the data)";

const markdown = (header: readonly string[], rows: readonly (readonly string[])[]): string =>
  [header, header.map(() => "---"), ...rows].map((row, k) => (k === 1 ? `|${row.join("|")}|` : `| ${row.join(" | ")} |`)).join("\n");

export const layerKinds = (): string =>
  markdown(["kind", "found as", "curvature"], [...Object.entries(KIND_DOCS).map(([kind, { found, curvature }]) => [kind, found, curvature]), ...FURTHER]);

/** Names of a topic's ops; those of other domains in full. */
export const opNames = (ops: Readonly<Record<string, unknown>>): string => Object.keys(ops).sort((a, b) => Number(a.includes(".")) - Number(b.includes(".")) || a.localeCompare(b, "en")).join(", ");

export const importedOps = (): string =>
  `${markdown([`${IMPORT_OPS.size} ops`, ""], OP_TOPICS.map(([topic, ops]) => [topic, opNames(ops)]))}\n\nRefused by name: ${REFUSED}.`;
