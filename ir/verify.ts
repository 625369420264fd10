/** The rules of a well-formed graph. Passes are verified after each run in tests; a broken rule names the node. */
import { CompileError } from "./error.js";
import type { Attr, Attrs, Graph, Node, Value } from "./graph.js";
import type { AttrKind } from "./op.js";
import { OPS } from "./ops/index.js";
import type { OpName } from "./ops/names.js";
import { printNode, spellAttr, spellValue } from "./print.js";
import { sameType, spellType, type Type } from "./type.js";

/**
 * Checks a graph and its regions: every value defined once and before its use, names unique, result types as the op
 * records infer them, attributes as declared, example axes in range, results defined, regions closed.
 *
 * @throws CompileError "invalid-graph", naming the node.
 */
export function verify(graph: Graph): void {
  verifyIn(graph, new Set());
}

function verifyIn(graph: Graph, outer: ReadonlySet<Value>): void {
  const defined = new Set<Value>();
  const names = new Set<string>();
  const here = `graph "${graph.name}"`;
  const define = (value: Value, where: string): void => {
    if (defined.has(value)) throw invalid(`${spellValue(value)} is defined twice`, where);
    if (names.has(value.name)) throw invalid(`two values are named ${spellValue(value)}`, where);
    defined.add(value);
    names.add(value.name);
  };
  for (const p of graph.params) define(p.value, here);
  for (const { value, examples } of graph.inputs) {
    define(value, here);
    if (examples !== undefined && !(Number.isInteger(examples) && examples >= 0 && examples < value.type.shape.length))
      throw invalid(`input ${spellValue(value)}: ${spellType(value.type)} has no axis ${examples} to carry examples`, here);
  }
  for (const node of graph.nodes) {
    for (const input of node.inputs) {
      if (defined.has(input)) continue;
      const why = outer.has(input) ? "belongs to the graph around this region" : "is not defined before its use";
      throw invalid(`${spellValue(input)} ${why}`, spellNode(node));
    }
    checkTypes(node);
    for (const region of node.regions) verifyIn(region, new Set([...outer, ...defined]));
    for (const result of node.results) define(result, spellNode(node));
  }
  const returned = new Set<string>();
  for (const { name, value } of graph.results) {
    if (!defined.has(value)) throw invalid(`result "${name}" = ${spellValue(value)} is not defined`, here);
    if (returned.has(name)) throw invalid(`result "${name}" is returned twice`, here);
    returned.add(name);
  }
}

/** The node's arity, attributes and result types, against its op record. */
function checkTypes(node: Node): void {
  const where = spellNode(node);
  const def = OPS[node.op];
  if (!def) throw invalid(`there is no operation "${node.op}"`, where);
  if (def.arity >= 0 ? node.inputs.length !== def.arity : node.inputs.length === 0)
    throw invalid(`${node.op} takes ${def.arity >= 0 ? def.arity : "one or more"} inputs, has ${node.inputs.length}`, where);
  let types: readonly Type[];
  try {
    checkAttrs(node.op, node.attrs);
    types = def.infer(node.inputs.map((v) => v.type), node.attrs, node.regions);
  } catch (e) {
    if (e instanceof CompileError) throw invalid(e.message, where);
    throw e;
  }
  if (types.length !== node.results.length) throw invalid(`${node.op} has ${types.length} results, not ${node.results.length}`, where);
  types.forEach((t, k) => {
    const result = node.results[k] as Value;
    if (!sameType(t, result.type)) throw invalid(`${spellValue(result)} is ${spellType(t)}, not ${spellType(result.type)}`, where);
  });
}

const FITS: Readonly<Record<AttrKind, (attr: Attr) => boolean>> = {
  int: Number.isInteger,
  float: (attr) => typeof attr === "number",
  ints: (attr) => Array.isArray(attr) && attr.every(Number.isInteger),
  string: (attr) => typeof attr === "string",
  bool: (attr) => typeof attr === "boolean",
};

/** Exactly the declared attributes, each of its kind. @throws CompileError "bad-attribute". */
export function checkAttrs(op: OpName, attrs: Attrs): void {
  const declared = OPS[op].attrs;
  for (const [name, kind] of Object.entries(declared)) {
    const given = attrs[name];
    if (given === undefined) throw new CompileError("bad-attribute", `${op} needs the attribute "${name}" (${kind})`);
    if (!FITS[kind](given)) throw new CompileError("bad-attribute", `${op}: "${name}" must be ${kind}, got ${spellAttr(given)}`);
  }
  const unknown = Object.keys(attrs).find((name) => !(name in declared));
  if (unknown !== undefined) throw new CompileError("bad-attribute", `${op} has no attribute "${unknown}"`);
}

/** `node %h = add(%y, %b) : f32[16, 32] @ "Gemm"`: how error messages name a node. */
export const spellNode = (node: Node): string => `node ${printNode({ ...node, regions: [] })}`;

const invalid = (message: string, where: string): CompileError => new CompileError("invalid-graph", message, where);
