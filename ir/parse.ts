/** `.kir` text → graph: names become values, types are inferred through the op records and compared with the written ones. */
import { Builder } from "./builder.js";
import { CompileError } from "./error.js";
import { readGraph, spellAt, syntaxError } from "./grammar.js";
import type { Attr, Graph, Source, Value } from "./graph.js";
import { OP_NAMES, type OpName } from "./ops/names.js";
import { spellValue } from "./print.js";
import type { At, Name, TextGraph, TextInput, TextNode, TextParam, TextType } from "./tree.js";
import { DTYPES, type DType, sameType, size, spellType, type Type } from "./type.js";
import { checkAttrs } from "./verify.js";

/**
 * Reads one graph. `file` names the text in error messages.
 *
 * @throws CompileError "syntax" (line, column, what was expected), "invalid-graph" (undefined or repeated names, types
 * that disagree with what is written), "shape-mismatch" or "bad-attribute" from the op that does not fit.
 */
export const parse = (text: string, file?: string): Graph => build(readGraph(text, file), file);

function build(tree: TextGraph, file: string | undefined): Graph {
  const builder = new Builder(tree.name.text);
  const scope = new Map<string, Value>();
  const define = (name: Name, value: Value): void => {
    if (scope.has(name.text)) throw invalid(`${spellValue({ name: name.text })} is defined twice`, name, file);
    scope.set(name.text, value);
  };
  const look = (name: Name): Value => {
    const value = scope.get(name.text);
    if (!value) throw invalid(`${spellValue({ name: name.text })} is not defined before its use`, name, file);
    return value;
  };
  for (const p of tree.params) define(p.name, builder.param(p.name.text, toType(p.type, file), toSource(p, file), !p.frozen));
  for (const i of tree.inputs) define(i.name, builder.input(i.name.text, toType(i.type, file), toExamples(i, file)));
  for (const node of tree.nodes) addNode(builder, node, look, define, file);
  const names = new Set<string>();
  for (const r of tree.results) {
    if (names.has(r.name.text)) throw invalid(`result "${r.name.text}" is returned twice`, r.name, file);
    names.add(r.name.text);
  }
  return builder.finish(tree.results.map((r) => ({ name: r.name.text, value: look(r.value) })));
}

function addNode(builder: Builder, text: TextNode, look: (name: Name) => Value, define: (name: Name, value: Value) => void, file?: string): void {
  const op = toOp(text.op, file);
  if (text.shared) throw syntaxError('"shared" belongs in patterns', text.op, file);
  const inputs = text.inputs.map(look);
  const attrs = toAttrs(text, file);
  const regions = text.regions.map((region) => build(region, file));
  builder.origin = text.origin;
  const { results } = locate(text.op, file, () => {
    checkAttrs(op, attrs);
    return builder.node(op, inputs, attrs, regions, text.results.map((r) => r.text));
  });
  if (results.length !== text.results.length)
    throw invalid(`${op} has ${results.length} results, ${text.results.length} are named`, text.op, file);
  if (text.types.length > 0 && text.types.length !== results.length)
    throw invalid(`${op} has ${results.length} results, ${text.types.length} types are written`, text.op, file);
  results.forEach((result, k) => {
    const written = text.types[k];
    if (written && !sameType(toType(written, file), result.type))
      throw invalid(`${op} gives ${spellType(result.type)}, not ${spellType(toType(written, file))}`, written, file);
    define(text.results[k] as Name, result);
  });
}

/** An op by name. @throws CompileError "syntax". */
export function toOp(name: Name, file?: string): OpName {
  if (!(OP_NAMES as readonly string[]).includes(name.text)) throw syntaxError(`there is no operation "${name.text}"`, name, file);
  return name.text as OpName;
}

/** Attributes as a record. @throws CompileError "syntax" if one is given twice. */
export function toAttrs(text: TextNode, file?: string): Record<string, Attr> {
  const attrs: Record<string, Attr> = {};
  for (const { name, value } of text.attrs) {
    if (name.text in attrs) throw syntaxError(`attribute "${name.text}" is given twice`, name, file);
    attrs[name.text] = value;
  }
  return attrs;
}

function toType(text: TextType, file?: string): Type {
  if (!(DTYPES as readonly string[]).includes(text.dtype)) throw syntaxError(`there is no element type "${text.dtype}"`, text, file);
  const wrong = text.shape.find((n) => !Number.isSafeInteger(n) || n < 0);
  if (wrong !== undefined) throw syntaxError(`an extent is a whole number, not ${wrong}`, text, file);
  return { dtype: text.dtype as DType, shape: text.shape };
}

function toExamples({ examples, name, type }: TextInput, file?: string): number | undefined {
  if (examples === undefined || (Number.isInteger(examples) && examples >= 0 && examples < type.shape.length)) return examples;
  throw invalid(`${spellValue({ name: name.text })} has no axis ${examples} to carry examples`, name, file);
}

function toSource({ source: { kind, numbers }, type }: TextParam, file?: string): Source {
  switch (kind.text) {
    case "file":
    case "zeros":
    case "ones":
      if (numbers !== undefined) throw syntaxError(`${kind.text} takes no numbers`, kind, file);
      return { kind: kind.text };
    case "he":
    case "glorot":
      if (numbers?.length !== 1) throw syntaxError(`${kind.text} takes one number, the seed`, kind, file);
      return { kind: kind.text, seed: numbers[0] as number };
    case "values":
      if (numbers?.length !== size(type.shape)) throw syntaxError(`values takes ${size(type.shape)} numbers, got ${numbers?.length ?? 0}`, kind, file);
      return { kind: "values", values: numbers };
    default:
      throw syntaxError(`expected file, zeros, ones, he(seed), glorot(seed) or values(…), found "${kind.text}"`, kind, file);
  }
}

const invalid = (message: string, place: At, file?: string): CompileError => new CompileError("invalid-graph", message, spellAt(place, file));

/** Runs `make`; an error of an op record is thrown again with the place in the text. */
function locate<T>(place: At, file: string | undefined, make: () => T): T {
  try {
    return make();
  } catch (e) {
    if (e instanceof CompileError) throw new CompileError(e.code, e.message, spellAt(place, file), e.hint);
    throw e;
  }
}
