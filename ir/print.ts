/**
 * Graphs as text (`.kir`). `parse(print(g))` is g again, and `print` of that is the same text, byte for byte.
 * The grammar is in `grammar.ts`; the syntax is explained in `ir/README.md`.
 */
import type { Attr, Graph, GraphInput, Node, Param, Source, Value } from "./graph.js";
import { OPS } from "./ops/index.js";
import { spellType } from "./type.js";

/** Words that the grammar reads itself; a name that is one of them is quoted. */
export const KEYWORDS = ["graph", "pattern", "param", "input", "return", "frozen", "examples", "shared", "true", "false", "inf", "nan"] as const;

const BARE_VALUE = /^[A-Za-z0-9_./-]+$/;
const BARE_WORD = /^[A-Za-z_][A-Za-z0-9_]*$/;

/** `%h`, `%/fc/Gemm_output_0`, `%"onnx::MatMul_8"`: quoted (JSON) unless made of letters, digits and `_ . / -`. */
export const spellValue = (value: { readonly name: string }): string =>
  `%${BARE_VALUE.test(value.name) ? value.name : JSON.stringify(value.name)}`;

/** A name of a graph, a result or an attribute: bare if it is a word and no keyword. */
export const spellWord = (word: string): string =>
  BARE_WORD.test(word) && !(KEYWORDS as readonly string[]).includes(word) ? word : JSON.stringify(word);

/** A float64 that reads back as the same float64: shortest decimal, `-0`, `inf`, `-inf`, `nan`. */
export function spellNumber(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  return Object.is(value, -0) ? "-0" : String(value);
}

export function spellAttr(attr: Attr): string {
  if (typeof attr === "number") return spellNumber(attr);
  if (typeof attr === "string") return JSON.stringify(attr);
  if (typeof attr === "boolean") return String(attr);
  return `[${attr.map(spellNumber).join(", ")}]`;
}

function spellSource(source: Source): string {
  switch (source.kind) {
    case "he":
    case "glorot":
      return `${source.kind}(${spellNumber(source.seed)})`;
    case "values":
      return `values(${source.values.map(spellNumber).join(", ")})`;
    case "file":
    case "zeros":
    case "ones":
      return source.kind;
    default:
      return source satisfies never;
  }
}

const spellParam = ({ value, source, trainable }: Param): string =>
  `param ${spellValue(value)}: ${spellType(value.type)} = ${spellSource(source)}${trainable ? "" : " frozen"}`;

const spellInput = ({ value, examples }: GraphInput): string =>
  `input ${spellValue(value)}: ${spellType(value.type)}${examples === undefined ? "" : ` examples ${examples}`}`;

/** Attributes in the order of the op's record, so that equal nodes print equally whoever made them. */
function spellAttrs(node: Node): string {
  const known = Object.keys(OPS[node.op]?.attrs ?? {});
  const others = Object.keys(node.attrs).filter((name) => !known.includes(name)).sort();
  const given = [...known, ...others].filter((name) => node.attrs[name] !== undefined);
  return given.map((name) => `${spellWord(name)} = ${spellAttr(node.attrs[name] as Attr)}`).join(", ");
}

/** One node as it stands in a graph, e.g. `%y = contract(%x, %w) {spec = "ni,oi->no"} : f32[16, 32]`. */
export function printNode(node: Node, indent = ""): string {
  const attrs = spellAttrs(node);
  const regions = node.regions.map((region) => ` ${printAt(region, indent).trim()}`).join("");
  const types = node.results.map((r) => spellType(r.type)).join(", ");
  const origin = node.origin === undefined ? "" : ` @ ${JSON.stringify(node.origin)}`;
  const call = `${node.op}(${node.inputs.map(spellValue).join(", ")})${attrs === "" ? "" : ` {${attrs}}`}`;
  return `${indent}${node.results.map(spellValue).join(", ")} = ${call}${regions} : ${types}${origin}`;
}

/** The whole graph; ends with a newline. */
export const print = (graph: Graph): string => `${printAt(graph, "")}\n`;

function printAt(graph: Graph, indent: string): string {
  const inner = `${indent}  `;
  const results = graph.results.map(({ name, value }: { name: string; value: Value }) => `${spellWord(name)} = ${spellValue(value)}`);
  return [
    `${indent}graph ${spellWord(graph.name)} {`,
    ...graph.params.map((p) => inner + spellParam(p)),
    ...graph.inputs.map((i) => inner + spellInput(i)),
    ...graph.nodes.map((n) => printNode(n, inner)),
    `${inner}return${results.length === 0 ? "" : ` ${results.join(", ")}`}`,
    `${indent}}`,
  ].join("\n");
}
