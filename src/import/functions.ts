/**
 * A model's own functions, and the branches of its Ifs, put in the place of their calls when the file is read, so that nothing
 * later knows of them.
 *
 * - A call becomes the nodes of the function's body. A function counts before the importer's own op of the same name.
 * - An If becomes the nodes of both branches, each under the guard of the condition, and one If node [condition, then, else] for
 *   each result. The condition must be known when the model is imported; `taken` then leaves one branch out.
 * - Names inside are made new; node names begin with the call's and the function's.
 */
import { CompileError } from "../../ir/error.js";
import { type Branch, type FunctionBody, keyOf, MAX_DEPTH, type Read, readBodies, type Step } from "./bodies.js";
import type { Guard, OnnxAttr, OnnxNode } from "./model.js";

/** Nodes that calls may become: a file of a few kilobytes can ask for billions. */
export const MAX_INLINED = 200_000;
/** Node names are for messages: a path of calls need not be longer. */
const MAX_NAME = 200;

interface Work {
  readonly functions: ReadonlyMap<string, FunctionBody>;
  readonly out: OnnxNode[];
  /** Names of values that no new one may take. */
  readonly used: Set<string>;
  /** How often a path of calls has been taken. */
  readonly paths: Map<string, number>;
}

/** Where a list of nodes is put. */
interface Scope {
  /** "" in the main graph. */
  readonly path: string;
  readonly names: Map<string, string>;
  /** Where a branch looks for what it does not define itself. */
  readonly outer: Scope | undefined;
  readonly guards: readonly Guard[];
  readonly opset: number | undefined;
  /** The function's attributes in this call; undefined outside of functions. */
  readonly attrs: ReadonlyMap<string, OnnxAttr> | undefined;
}

/**
 * The nodes of a model's main graph, all calls and branches inlined. `names`: other values of the graph (inputs, initialisers).
 *
 * @throws CompileError "bad-model" (recursion, calls that do not fit their function), "too-large" (more nodes than MAX_INLINED),
 *   "unsupported-op" (a function in an opset older than `oldest`).
 */
export function inlined(bytes: Uint8Array, model: Parameters<typeof readBodies>[1], read: Read, names: Iterable<string>, oldest: number): OnnxNode[] {
  const { functions, steps } = readBodies(bytes, model, read);
  if (functions.size === 0 && !steps.some((s) => s.branches)) return steps.map((s) => plain(s));
  const sizes = new Sizes(functions, oldest);
  if (sizes.of(steps, 0) - steps.length > MAX_INLINED)
    throw new CompileError("too-large", `the model's functions stand for more than ${MAX_INLINED} nodes`, undefined, "it is damaged, or made to exhaust memory");
  const used = new Set([...names, ...steps.flatMap((s) => s.node.outputs)]);
  const work: Work = { functions, out: [], used, paths: new Map() };
  expand(work, steps, { path: "", names: new Map(), outer: undefined, guards: [], opset: undefined, attrs: undefined });
  return work.out;
}

function plain(s: Step): OnnxNode {
  if (s.refs.size > 0) throw new CompileError("bad-model", "an attribute refers to one of a function, but the node is in none", `node "${s.node.name}" (${s.node.op})`);
  return s.node;
}

/** How many nodes a list becomes, counted before any is made. Long lists of inputs count too: they are memory. */
class Sizes {
  readonly #known = new Map<string, { readonly nodes: number; readonly height: number }>();
  readonly #open = new Set<string>();

  constructor(readonly functions: ReadonlyMap<string, FunctionBody>, readonly oldest: number) {}

  of(steps: readonly Step[], depth: number): number {
    return this.#measure(steps, depth).nodes;
  }

  #measure(steps: readonly Step[], depth: number): { nodes: number; height: number } {
    let [nodes, height] = [0, 0];
    for (const step of steps) {
      const { inputs, outputs, attrs } = step.node;
      const callee = called(this.functions, step);
      const parts = callee ? [this.#function(callee, depth + 1)] : (step.branches ?? []).map((b) => this.#measure(b.steps, depth));
      nodes += 1 + Math.floor((inputs.length + outputs.length + attrs.size) / 16) + parts.reduce((sum, p) => sum + p.nodes, 0);
      height = Math.max(height, ...parts.map((p) => p.height));
    }
    return { nodes, height };
  }

  #function(f: FunctionBody, depth: number): { nodes: number; height: number } {
    const known = this.#known.get(f.key);
    if (known) return known;
    if (this.#open.has(f.key)) throw new CompileError("bad-model", `function "${f.name}" calls itself`, undefined, "ONNX has no recursion");
    const deep = (): CompileError => new CompileError("bad-model", `functions call each other more than ${MAX_DEPTH} deep`, `function "${f.name}"`);
    if (depth > MAX_DEPTH) throw deep();
    if (f.opset !== undefined && f.opset < this.oldest)
      throw new CompileError("unsupported-op", `opset ${f.opset} is older than ${this.oldest}`, `function "${f.name}"`, "convert it with onnx.version_converter to opset 13 or later");
    this.#open.add(f.key);
    const body = this.#measure(f.steps, depth);
    this.#open.delete(f.key);
    const made = { nodes: body.nodes + Math.floor((f.inputs.length + f.outputs.length + f.defaults.size) / 16), height: body.height + 1 };
    if (made.height > MAX_DEPTH) throw deep();
    this.#known.set(f.key, made);
    return made;
  }
}

const called = (functions: ReadonlyMap<string, FunctionBody>, { node, overload }: Step): FunctionBody | undefined =>
  functions.size === 0 ? undefined : functions.get(keyOf(node.domain, node.op, overload));

/** What a name inside means outside. A name that nothing defines becomes a new one, which the check of the graph then reports. */
function resolve(work: Work, scope: Scope, name: string): string {
  if (name === "") return "";
  const known = scope.names.get(name);
  if (known !== undefined) return known;
  if (scope.outer) return resolve(work, scope.outer, name);
  if (scope.path === "") return name;
  const made = fresh(work, scope, name);
  scope.names.set(name, made);
  return made;
}

function fresh(work: Work, scope: Scope, name: string): string {
  const wanted = `${scope.path}/${name}`;
  let made = wanted;
  for (let k = 2; work.used.has(made); k++) made = `${wanted}#${k}`;
  work.used.add(made);
  return made;
}

/** New names for all that a body defines, but for what is named already (inputs and outputs of a call). */
function define(work: Work, scope: Scope, steps: readonly Step[]): void {
  for (const { node } of steps)
    for (const name of node.outputs) if (name !== "" && !scope.names.has(name)) scope.names.set(name, fresh(work, scope, name));
}

function newPath(work: Work, path: string): string {
  const short = path.length > MAX_NAME ? `${path.slice(0, MAX_NAME)}…` : path;
  const times = (work.paths.get(short) ?? 0) + 1;
  work.paths.set(short, times);
  return times === 1 ? short : `${short}#${times}`;
}

const inside = (scope: Scope, name: string): string => (scope.path === "" ? name : name === "" ? scope.path : `${scope.path}/${name}`);

function expand(work: Work, steps: readonly Step[], scope: Scope): void {
  for (const step of steps) {
    const callee = called(work.functions, step);
    if (callee) call(work, callee, step, scope);
    else if (step.branches) choice(work, step.node, step.branches, scope);
    else work.out.push(placed(work, step, scope));
  }
}

/** One node with its names and attributes as they are where it is put. */
function placed(work: Work, step: Step, scope: Scope): OnnxNode {
  const { node } = step;
  if (scope.path === "") return plain(step);
  return {
    ...node,
    name: inside(scope, node.name === "" ? `${node.op}_${node.outputs[0] ?? ""}` : node.name),
    inputs: node.inputs.map((name) => resolve(work, scope, name)),
    outputs: node.outputs.map((name) => resolve(work, scope, name)),
    attrs: bound(step, scope),
    inlined: true,
    ...(scope.opset === undefined ? {} : { opset: scope.opset }),
    ...(scope.guards.length === 0 ? {} : { guards: scope.guards }),
  };
}

/** A node's attributes; one that the call does not give and that has no default is left out. */
function bound(step: Step, scope: Scope): ReadonlyMap<string, OnnxAttr> {
  if (step.refs.size === 0) return step.node.attrs;
  if (!scope.attrs) return plain(step).attrs;
  const attrs = new Map(step.node.attrs);
  for (const [name, from] of step.refs) {
    const given = scope.attrs.get(from);
    if (given) attrs.set(name, { ...given, name });
    else attrs.delete(name);
  }
  return attrs;
}

function call(work: Work, f: FunctionBody, step: Step, scope: Scope): void {
  const { node } = step;
  const at = inside(scope, node.name);
  const path = newPath(work, node.name.includes(f.name) ? at : at === "" ? f.name : `${at}/${f.name}`);
  const where = `the call "${path}" of function "${f.name}"`;
  if (node.inputs.length > f.inputs.length || node.outputs.length > f.outputs.length)
    throw new CompileError("bad-model", `${node.inputs.length} inputs and ${node.outputs.length} outputs are given, but the function has ${f.inputs.length} and ${f.outputs.length}`, where);
  const own: Scope = {
    path, names: new Map(f.inputs.map((formal, k) => [formal, resolve(work, scope, node.inputs[k] ?? "")])), outer: undefined, guards: scope.guards,
    opset: f.opset ?? scope.opset, attrs: new Map([...f.defaults, ...bound(step, scope)]),
  };
  const copies: OnnxNode[] = [];
  const made = new Set(f.steps.flatMap((s) => s.node.outputs));
  f.outputs.forEach((formal, k) => {
    const wanted = resolve(work, scope, node.outputs[k] ?? "");
    if (wanted === "") return;
    if (!own.names.has(formal) && made.has(formal)) own.names.set(formal, wanted);
    else copies.push(copyOf(own, formal, wanted)); // an input passed on, or one value under two names
  });
  define(work, own, f.steps);
  expand(work, f.steps, own);
  for (const copy of copies) {
    const source = own.names.get(copy.inputs[0] ?? "") ?? "";
    if (source === "") throw new CompileError("bad-model", `the function never defines its output "${copy.inputs[0]}"`, where);
    work.out.push({ ...copy, inputs: [source] });
  }
}

const copyOf = (scope: Scope, from: string, to: string): OnnxNode => ({
  name: `${scope.path}/${from}`, op: "Identity", domain: "", inputs: [from], outputs: [to], attrs: new Map(), inlined: true,
  ...(scope.guards.length === 0 ? {} : { guards: scope.guards }),
});

/** Both branches, each under its guard, and the choice between their results. */
function choice(work: Work, node: OnnxNode, branches: readonly [Branch, Branch], scope: Scope): void {
  const condition = resolve(work, scope, node.inputs[0] ?? "");
  if (condition === "") throw new CompileError("bad-model", "an If lacks its condition", `node "${inside(scope, node.name)}"`);
  const name = inside(scope, node.name === "" ? `If_${node.outputs[0] ?? ""}` : node.name);
  const results = branches.map((branch, k): string[] => {
    if (branch.outputs.length !== node.outputs.length)
      throw new CompileError("bad-model", `a branch of If gives ${branch.outputs.length} results, not ${node.outputs.length}`, `node "${name}"`);
    const guard: Guard = { condition, holds: k === 0, of: name };
    const path = newPath(work, `${name}/${k === 0 ? "then" : "else"}`);
    const own: Scope = { ...scope, path, names: new Map(), outer: scope, guards: [...scope.guards, guard] };
    define(work, own, branch.steps);
    expand(work, branch.steps, own);
    return branch.outputs.map((output) => resolve(work, own, output));
  });
  node.outputs.forEach((output, k) => {
    if (output !== "")
      work.out.push({
        name, op: "If", domain: "", inputs: [condition, results[0]?.[k] ?? "", results[1]?.[k] ?? ""], outputs: [resolve(work, scope, output)], attrs: new Map(), inlined: true,
        ...(scope.guards.length === 0 ? {} : { guards: scope.guards }),
      });
  });
}

/**
 * The node as it counts once conditions are known: undefined in a branch that is not taken; an If is the result of the one that is.
 *
 * @throws CompileError "unsupported-op" if a condition depends on the model's inputs.
 */
export function taken(node: OnnxNode, numbers: (name: string) => { readonly data: ArrayLike<number> } | undefined): OnnxNode | undefined {
  const holds = (condition: string, name: string): boolean => {
    const data = numbers(condition)?.data;
    if (data?.length === 1) return data[0] !== 0;
    throw new CompileError("unsupported-op", data ? "If: its condition is not one truth value" : "If: its condition is computed from the model's inputs", `node "${name}"`,
      "only a condition known when the model is compiled is supported, e.g. of shapes: fix it in the exporter");
  };
  for (const guard of node.guards ?? []) if (holds(guard.condition, guard.of) !== guard.holds) return undefined;
  if (node.op !== "If" || node.domain !== "" || node.inlined !== true) return node;
  return { ...node, op: "Identity", inputs: [node.inputs[holds(node.inputs[0] ?? "", node.name) ? 1 : 2] ?? ""] };
}
