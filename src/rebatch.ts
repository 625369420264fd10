/**
 * A graph made again for another number of examples: where it spells the old number, it gets the new one.
 *
 * Marks say which axis of a value carries examples. A value without a mark (a bias repeated for every example) may spell the
 * number all the same: what reads it says along which axis. Values are made on demand, once per axis asked for, because one
 * value may serve two uses that want different ones.
 */
import { Builder } from "../ir/builder.js";
import { CompileError } from "../ir/error.js";
import { type ExampleAxis, exampleMarks } from "../ir/examples.js";
import { type Attrs, type Graph, type Node, producers, type Value } from "../ir/graph.js";
import { intsAttr, stringAttr } from "../ir/op.js";
import { OPS } from "../ir/ops/index.js";
import { parseSpec } from "../ir/ops/reduction.js";
import { spellNode } from "../ir/verify.js";

/** Examples of a graph: the size of the marked axis of its inputs. undefined: no input carries any. */
export function examplesOf(graph: Graph): number | undefined {
  const sizes = new Set(graph.inputs.flatMap(({ value, examples }) => (examples === undefined ? [] : [value.type.shape[examples] as number])));
  if (sizes.size > 1) throw new CompileError("examples-lost", `its inputs carry ${[...sizes].join(" and ")} examples`, `graph "${graph.name}"`);
  return [...sizes][0];
}

/**
 * The same graph for `to` examples; results by the same names.
 *
 * @throws CompileError "examples-lost" naming the node that cannot be made for another number.
 */
export function rebatch(graph: Graph, to: number): Graph {
  const from = examplesOf(graph);
  return from === undefined || from === to ? graph : new Rebatch(graph, from, to).run();
}

/** The same, and for every value of the old graph that is part of the new one: what it became, and where its examples are. */
export function rebatched(graph: Graph, to: number): { readonly graph: Graph; readonly values: ReadonlyMap<Value, Value>; readonly marks: ReadonlyMap<Value, ExampleAxis> } {
  const from = examplesOf(graph);
  if (from === undefined) throw new CompileError("examples-lost", "no input carries examples", `graph "${graph.name}"`);
  const made = new Rebatch(graph, from, to);
  return { graph: made.run(), ...made.correspondence() };
}

/** The axis along which a value is to be made for the new number: of its outer · N · inner. */
type Want = ExampleAxis | undefined;

class Rebatch {
  readonly #graph: Graph;
  readonly #from: number;
  readonly #to: number;
  readonly #builder: Builder;
  readonly #producer: ReadonlyMap<Value, Node>;
  readonly #marks: ReadonlyMap<Value, Want>;
  readonly #made = new Map<Value, Map<string, Value>>();
  /** new node → the one it was made from */
  readonly #origins = new Map<Node, Node>();

  constructor(graph: Graph, from: number, to: number) {
    this.#graph = graph;
    this.#from = from;
    this.#to = to;
    this.#builder = new Builder(graph.name);
    this.#producer = producers(graph);
    const marks = new Map<Value, Want>();
    for (const [value, mark] of exampleMarks(graph)) {
      if ("lost" in mark) throw this.#lost(mark.lost, mark.why);
      marks.set(value, mark);
    }
    this.#marks = marks;
  }

  run(): Graph {
    const { params, inputs, nodes, results } = this.#graph;
    for (const { value, source, trainable } of params) this.#put(value, undefined, this.#builder.param(value.name, value.type, source, trainable));
    for (const { value, examples } of inputs) {
      const shape = this.#scaled(value.type.shape, this.#marks.get(value));
      this.#put(value, this.#marks.get(value), this.#builder.input(value.name, { ...value.type, shape }, examples));
    }
    for (const node of nodes) if (this.#marks.has(node.results[0] as Value)) this.#value(node.results[0] as Value, undefined, node);
    const made = this.#builder.finish(results.map((r) => ({ name: r.name, value: this.#value(r.value, undefined) })));
    // in the order of the graph, so that it prints as it would have been made for the new number
    const place = new Map(nodes.map((node, k) => [node, k]));
    const placeOf = (node: Node): number => place.get(this.#origins.get(node) as Node) as number;
    return { ...made, nodes: [...made.nodes].sort((a, b) => placeOf(a) - placeOf(b)) };
  }

  /** Marks do not change with the number: outer and inner have it divided out. */
  correspondence(): { values: ReadonlyMap<Value, Value>; marks: ReadonlyMap<Value, ExampleAxis> } {
    const values = new Map<Value, Value>();
    const marks = new Map<Value, ExampleAxis>();
    for (const [old, made] of this.#made) {
      const mark = this.#marks.get(old);
      const value = made.get(key(mark));
      if (value) values.set(old, value);
      if (value && mark) marks.set(value, mark);
    }
    return { values, marks };
  }

  /** A value made for the new number, along its own mark, else along the axis that `reader` wants. */
  #value(value: Value, want: Want, reader?: Node): Value {
    const axis = this.#marks.get(value) ?? want;
    const known = this.#made.get(value)?.get(key(axis));
    if (known) return known;
    const node = this.#producer.get(value);
    if (!node) throw this.#lost(reader, `%${value.name} has the number of examples in its shape, and is stored`);
    const inputs = this.#operands(node, axis);
    this.#builder.origin = node.origin;
    try {
      const made = this.#builder.node(node.op, inputs, this.#attrs(node, axis), node.regions, node.results.map((r) => r.name));
      this.#origins.set(made, node);
      node.results.forEach((r, k) => this.#put(r, axis, made.results[k] as Value));
    } catch (e) {
      throw e instanceof CompileError && e.code !== "examples-lost" ? this.#lost(node, e.message) : e;
    } finally {
      this.#builder.origin = undefined;
    }
    return this.#made.get(value)?.get(key(axis)) as Value;
  }

  #put(old: Value, axis: Want, made: Value): void {
    const known = this.#made.get(old) ?? new Map<string, Value>();
    this.#made.set(old, known.set(key(axis), made));
  }

  /** Inputs of a node whose result is made along `axis`: marked ones as they are, the others along the axis that becomes it. */
  #operands(node: Node, axis: Want): Value[] {
    return node.inputs.map((v, k) => this.#value(v, this.#marks.has(v) || !axis ? undefined : this.#before(node, k, axis), node));
  }

  /** The axis of operand k that becomes `axis` of the result; undefined: none does. */
  #before(node: Node, k: number, axis: ExampleAxis): Want {
    const at = (moved: number): Want => (moved < 0 ? undefined : { ...axis, axis: moved });
    if (OPS[node.op].elementwise) return axis;
    switch (node.op) {
      case "broadcast": return at(intsAttr(node.attrs, "axes").indexOf(axis.axis));
      case "permute": return at(intsAttr(node.attrs, "perm")[axis.axis] as number);
      case "contract": {
        const spec = parseSpec(stringAttr(node.attrs, "spec"));
        return at((k === 0 ? spec.left : spec.right).indexOf(spec.out[axis.axis] as string));
      }
      case "concat": return axis;
      case "gather": case "scatter": return axis.axis === 2 && k === 1 ? undefined : axis;
      case "constant": case "iota": case "uniform": return undefined;
      default: throw this.#lost(node, "it repeats its operand's number of examples");
    }
  }

  #attrs(node: Node, axis: Want): Attrs {
    if (!axis) return node.attrs;
    switch (node.op) {
      case "reshape": case "broadcast": case "iota": case "uniform": return { ...node.attrs, shape: this.#scaled(intsAttr(node.attrs, "shape"), axis) };
      case "slice": {
        const old = this.#marks.get(node.inputs[0] as Value)?.axis;
        const moved = (name: string) => intsAttr(node.attrs, name).map((n, k) => (k === old ? (n / this.#from) * this.#to : n));
        return { ...node.attrs, start: moved("start"), size: moved("size") };
      }
      default: return node.attrs;
    }
  }

  #scaled(shape: readonly number[], want: Want): number[] {
    return shape.map((n, axis) => (axis === want?.axis ? (n / this.#from) * this.#to : n));
  }

  #lost(node: Node | undefined, why: string): CompileError {
    return new CompileError("examples-lost", `the batch cannot become ${this.#to}: ${why}`, node && spellNode(node),
      `keep the graph's batch of ${this.#from}, or write it again from the model with another one`);
  }
}

const key = (want: Want): string => (want ? `${want.axis}:${want.outer}:${want.inner}` : "");
