/**
 * Patterns: graphs with holes, as text.
 *
 *   pattern`(x: value, w: param view, b: param) {
 *     %y = contract(%x, %w)  %c = broadcast(%b)  %z = add(%y, %c)  return %z }`
 *
 * A match is rooted at the returned value. Attributes that are given must be equal (a `spec` up to the names of its labels), others
 * may be anything; commutative ops match in both orders, and so does `contract`, its spec turned round. A hole that is used twice is
 * one value. An inner value may have no user outside the match, unless its line ends with `shared`: a value with a second user cannot
 * hide inside a layer.
 */
import { readPatterns, syntaxError } from "./grammar.js";
import { type Attr, type Graph, type Node, type Param, producers, users, type Value } from "./graph.js";
import { OPS } from "./ops/index.js";
import type { OpName } from "./ops/names.js";
import { parseSpec, type Spec } from "./ops/reduction.js";
import { toAttrs, toOp } from "./parse.js";
import type { Name, TextNode, TextPattern } from "./tree.js";

/** value: anything · param: a parameter · param view: one behind permutes, reshapes and slices · const: one number everywhere. */
export type HoleKind = "value" | "param" | "param view" | "const";

export interface PatternNode {
  readonly op: OpName;
  readonly inputs: readonly string[];
  readonly attrs: Readonly<Record<string, Attr>>;
  readonly results: readonly string[];
  readonly shared: boolean;
}

export interface Pattern {
  readonly name: string | undefined;
  readonly holes: ReadonlyMap<string, HoleKind>;
  readonly nodes: readonly PatternNode[];
  /** The name of the returned value. */
  readonly root: string;
}

export interface Match {
  readonly pattern: Pattern;
  /** hole → value. For `param view`, the parameter itself. */
  readonly bind: Readonly<Record<string, Value>>;
  /** For each `param view` hole: the nodes between the parameter and its use, outermost first. */
  readonly views: Readonly<Record<string, readonly Node[]>>;
  /** The value of every line, by its name in the pattern. */
  readonly inner: Readonly<Record<string, Value>>;
  /** The nodes of the lines, in the order of the pattern. */
  readonly nodes: readonly Node[];
  /** The value that the pattern returns. */
  readonly root: Value;
}

/** One pattern from a template literal. @throws CompileError "syntax". */
export function pattern(strings: TemplateStringsArray, ...holes: readonly (string | number)[]): Pattern {
  const text = strings.reduce((all, part, k) => `${all}${holes[k - 1]}${part}`);
  const all = parsePatterns(text);
  if (all.length !== 1) throw syntaxError(`expected one pattern, found ${all.length}`, { line: 1, column: 1 });
  return all[0] as Pattern;
}

/** Every pattern of a file: `pattern NAME(hole: kind, …) { … return %y }`. @throws CompileError "syntax". */
export const parsePatterns = (text: string, file?: string): Pattern[] => readPatterns(text, file).map((tree) => toPattern(tree, file));

const KINDS: readonly string[] = ["value", "param", "param view", "const"] satisfies HoleKind[];

function toPattern(tree: TextPattern, file?: string): Pattern {
  const holes = new Map<string, HoleKind>();
  const defined = new Set<string>();
  const used = new Set<string>();
  const define = (name: Name): void => {
    if (defined.has(name.text)) throw syntaxError(`%${name.text} is defined twice`, name, file);
    defined.add(name.text);
  };
  const use = (name: Name): void => {
    if (!defined.has(name.text)) throw syntaxError(`%${name.text} is not defined before its use`, name, file);
    used.add(name.text);
  };
  for (const { name, kind } of tree.holes) {
    define(name);
    const words = kind.map((word) => word.text).join(" ");
    if (!KINDS.includes(words)) throw syntaxError(`expected ${KINDS.join(", ")}, found "${words}"`, kind[0] ?? name, file);
    holes.set(name.text, words as HoleKind);
  }
  const nodes = tree.nodes.map((node) => toNode(node, use, define, file));
  const root = tree.returns[0];
  if (!root || tree.returns.length > 1 || holes.has(root.text))
    throw syntaxError("a pattern returns the value of one of its lines", root ?? tree.name ?? { line: 1, column: 1 }, file);
  use(root);
  for (const name of [...tree.holes.map((h) => h.name), ...tree.nodes.flatMap((n) => n.results)])
    if (!used.has(name.text) && !tree.nodes.some((n) => n.results.includes(name) && n.results.some((r) => used.has(r.text))))
      throw syntaxError(`%${name.text} is never used`, name, file);
  return { name: tree.name?.text, holes, nodes, root: root.text };
}

function toNode(text: TextNode, use: (name: Name) => void, define: (name: Name) => void, file?: string): PatternNode {
  if (text.regions.length > 0 || text.types.length > 0) throw syntaxError("a line of a pattern has no regions and no types", text.op, file);
  for (const input of text.inputs) use(input);
  for (const result of text.results) define(result);
  const op = toOp(text.op, file);
  const attrs = toAttrs(text, file);
  const unknown = text.attrs.find(({ name }) => !(name.text in OPS[op].attrs));
  if (unknown) throw syntaxError(`${op} has no attribute "${unknown.name.text}"`, unknown.name, file);
  return { op, inputs: text.inputs.map((n) => n.text), attrs, results: text.results.map((n) => n.text), shared: text.shared };
}

/** What is known of a match so far: pattern name → value, pattern node → node, view hole → chain. */
interface Found {
  readonly values: ReadonlyMap<string, Value>;
  readonly nodes: ReadonlyMap<PatternNode, Node>;
  readonly views: ReadonlyMap<string, readonly Node[]>;
}

/** The first match at each node that can be the root, in the order of the graph. Matches may overlap. */
export function match(graph: Graph, wanted: Pattern): Match[] {
  const finder = new Finder(graph, wanted);
  return graph.nodes.flatMap((node) => finder.at(node) ?? []);
}

const VIEWS: readonly OpName[] = ["permute", "reshape", "slice"];
const REPEATS: readonly OpName[] = ["broadcast", ...VIEWS];

class Finder {
  readonly #pattern: Pattern;
  readonly #producers: ReadonlyMap<Value, Node>;
  readonly #users: ReadonlyMap<Value, readonly Node[]>;
  readonly #params: ReadonlyMap<Value, Param>;
  readonly #returned: ReadonlySet<Value>;

  constructor(graph: Graph, wanted: Pattern) {
    this.#pattern = wanted;
    this.#producers = producers(graph);
    this.#users = users(graph);
    this.#params = new Map(graph.params.map((p) => [p.value, p]));
    this.#returned = new Set(graph.results.map((r) => r.value));
  }

  at(node: Node): Match | undefined {
    const line = this.#pattern.nodes.find((n) => n.results.includes(this.#pattern.root)) as PatternNode;
    const root = node.results[line.results.indexOf(this.#pattern.root)];
    if (node.op !== line.op || !root) return undefined;
    for (const found of this.#value(this.#pattern.root, root, { values: new Map(), nodes: new Map(), views: new Map() }))
      if (this.#closed(found)) return this.#match(found, root);
    return undefined;
  }

  /** Every way in which the pattern's value `name` can be `value`. */
  *#value(name: string, value: Value, found: Found): Generator<Found> {
    const known = found.values.get(name);
    const hole = this.#pattern.holes.get(name);
    if (hole !== undefined) {
      const view = this.#hole(hole, value);
      if (!view || (known && known !== view.value)) return;
      yield { ...found, values: new Map(found.values).set(name, view.value), views: new Map(found.views).set(name, view.chain) };
      return;
    }
    if (known) {
      if (known === value) yield found;
      return;
    }
    const line = this.#pattern.nodes.find((n) => n.results.includes(name)) as PatternNode;
    const node = this.#producers.get(value);
    if (node?.op !== line.op || node.results[line.results.indexOf(name)] !== value || node.inputs.length !== line.inputs.length) return;
    // two lines are two nodes
    if ([...found.nodes.values()].includes(node)) return;
    const values = new Map(found.values);
    line.results.forEach((result, k) => { values.set(result, node.results[k] as Value); });
    const next = { ...found, values, nodes: new Map(found.nodes).set(line, node) };
    if (sameAttrs(line, node, false)) yield* this.#inputs(line.inputs, node.inputs, next);
    const turns = node.inputs.length === 2 && (OPS[node.op].commutative === true || node.op === "contract");
    if (turns && sameAttrs(line, node, true)) yield* this.#inputs(line.inputs, [...node.inputs].reverse(), next);
  }

  *#inputs(names: readonly string[], inputs: readonly Value[], found: Found): Generator<Found> {
    const [name, ...rest] = names;
    if (name === undefined) yield found;
    else for (const next of this.#value(name, inputs[0] as Value, found)) yield* this.#inputs(rest, inputs.slice(1), next);
  }

  /** What a hole binds to if this value fits it. */
  #hole(kind: HoleKind, value: Value): { value: Value; chain: readonly Node[] } | undefined {
    if (kind === "value") return { value, chain: [] };
    const chain: Node[] = [];
    let at = value;
    const through = kind === "param view" ? VIEWS : kind === "const" ? REPEATS : [];
    for (let node = this.#producers.get(at); node && through.includes(node.op); node = this.#producers.get(at)) {
      chain.push(node);
      at = node.inputs[0] as Value;
    }
    if (kind === "const") return this.#producers.get(at)?.op === "constant" ? { value, chain: [] } : undefined;
    return this.#params.has(at) ? { value: at, chain } : undefined;
  }

  /** No inner value is seen from outside. */
  #closed(found: Found): boolean {
    const inside = new Set(found.nodes.values());
    return [...found.nodes].every(([line, node]) =>
      line.shared || node.results.every((value, k) => {
        if (line.results[k] === this.#pattern.root) return true;
        return !this.#returned.has(value) && (this.#users.get(value) ?? []).every((user) => inside.has(user));
      }));
  }

  #match({ values, nodes, views }: Found, root: Value): Match {
    const { holes } = this.#pattern;
    const pick = (hole: boolean): Record<string, Value> => Object.fromEntries([...values].filter(([name]) => holes.has(name) === hole));
    const shown = [...views].filter(([name]) => holes.get(name) === "param view");
    const ordered = this.#pattern.nodes.map((line) => nodes.get(line)).filter((node) => node !== undefined);
    return { pattern: this.#pattern, bind: pick(true), views: Object.fromEntries(shown), inner: pick(false), nodes: ordered, root };
  }
}

function sameAttrs(line: PatternNode, node: Node, turned: boolean): boolean {
  return Object.entries(line.attrs).every(([name, wanted]) => {
    const given = node.attrs[name];
    if (node.op !== "contract") return Array.isArray(wanted) ? same(wanted, given) : Object.is(wanted, given);
    const spec = parseSpec(String(given));
    return numbered(parseSpec(String(wanted))) === numbered(turned ? { left: spec.right, right: spec.left, out: spec.out } : spec);
  });
}

const same = (a: readonly number[], b: Attr | undefined): boolean =>
  Array.isArray(b) && a.length === b.length && a.every((n, k) => n === b[k]);

/** A spec with its labels numbered by first appearance. */
function numbered({ left, right, out }: Spec): string {
  const order = [...new Set(left + right)];
  return [left, right, out].map((labels) => [...labels].map((label) => order.indexOf(label)).join(".")).join(" ");
}
