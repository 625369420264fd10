/**
 * Registration: finds the layers of a graph by matching patterns, and says of every trainable parameter either which layer it
 * belongs to or why it belongs to none. Nothing is guessed and nothing is left out in silence.
 *
 * A layer answers only "which rows?": per example and position, its input row a and its output cotangent g.
 */
import { CompileError } from "../../ir/error.js";
import { exampleMarks, type Mark } from "../../ir/examples.js";
import { type Graph, type Node, producers, users, type Value } from "../../ir/graph.js";
import { intsAttr, stringAttr } from "../../ir/op.js";
import { parseSpec } from "../../ir/ops/reduction.js";
import { type Match, match, pattern } from "../../ir/pattern.js";
import { size } from "../../ir/type.js";

export type LayerKindName = "dense" | "conv" | "convT";
export const LAYER_KINDS: readonly LayerKindName[] = ["dense", "conv", "convT"];

/** Which axes of a value are positions (examples among them) and which are features, both in the value's own order. */
export interface Rows {
  readonly value: Value;
  readonly positions: readonly number[];
  /** In the order of the weight's matrix form. */
  readonly features: readonly number[];
}

export interface Layer {
  /** The weight's name. */
  readonly name: string;
  readonly kind: LayerKindName;
  readonly weight: Value;
  readonly bias: Value | undefined;
  /** The weight as the contraction sees it, and which of its axes are outputs and inputs: matrix form [out, in]. */
  readonly weightView: Value;
  readonly outAxes: readonly number[];
  readonly inAxes: readonly number[];
  /** The bias as it is broadcast. */
  readonly biasView: Value | undefined;
  readonly input: Rows;
  /** Pre-activation (bias included). Its cotangent has the same axes. */
  readonly output: Rows;
  /** The user's name of the node. */
  readonly node: string;
  /** Positions per example. */
  readonly T: number;
  readonly dA: number;
  readonly dG: number;
}

export interface Orphan {
  readonly param: string;
  readonly reason: string;
}

export interface Registration {
  readonly layers: readonly Layer[];
  readonly orphans: readonly Orphan[];
}

/**
 * One kind per way in which rows are read. Shapes are the matrix form's.
 *
 *   dense   y = x·W + b       x [n, t.., i]    W [o, i]            one row per example and leading position
 *   conv    y = W ∗ x + b     x [n, c, h, w]   W [o, c·kh·kw]      one row per output position: the patch, zero where padded
 *   convT   the same over the zero-stuffed x (transposed convolution)
 *
 * Both are a contraction of a view of x with a view of a parameter; a sliding window in the view of x makes it a convolution.
 * Source: Martens & Grosse 2015, section 3; Grosse & Martens 2016, section 3.
 */
const PATTERNS = [
  pattern`(x: value, w: param view, b: param view) { %y = contract(%x, %w)  %c = broadcast(%b)  %z = add(%y, %c)  return %z }`,
  // one row only: nothing is repeated
  pattern`(x: value, w: param view, b: param view) { %y = contract(%x, %w)  %z = add(%y, %b)  return %z }`,
  pattern`(x: value, w: param view) { %y = contract(%x, %w)  return %y }`,
];

export interface RegisterOptions {
  /** Only these kinds become layers (`--register`). */
  readonly kinds?: readonly LayerKindName[];
  readonly override?: Readonly<Record<string, "dense" | "skip">>;
  /** Factor sides larger than this are refused as layers. */
  readonly maxFactor?: number;
}

/** @param graph canonical forward graph. */
export function register(graph: Graph, options: RegisterOptions = {}): Registration {
  const marks = exampleMarks(graph, { sharedSums: true });
  const uses = countUses(graph);
  const layers: Layer[] = [];
  const reasons = new Map<string, string>();
  const taken = new Set<string>();
  for (const p of PATTERNS)
    for (const found of match(graph, p)) {
      const weight = found.bind.w as Value;
      if (taken.has(weight.name) || !isTrainable(graph, weight) || (found.bind.b && !isTrainable(graph, found.bind.b))) continue;
      const outcome = toLayer(graph, found, marks, uses, options);
      if (typeof outcome === "string") {
        if (!reasons.has(weight.name)) reasons.set(weight.name, outcome);
        continue;
      }
      if (outcome === undefined) continue;
      taken.add(weight.name);
      layers.push(outcome);
    }
  const order = new Map(graph.nodes.map((n, k) => [n.results[0] as Value, k] as const));
  layers.sort((a, b) => (order.get(a.output.value) ?? 0) - (order.get(b.output.value) ?? 0));
  const covered = new Set(layers.flatMap((l) => [l.weight.name, ...(l.bias ? [l.bias.name] : [])]));
  const orphans = graph.params.filter((p) => p.trainable && !covered.has(p.value.name))
    .map((p) => ({ param: p.value.name, reason: reasons.get(p.value.name) ?? reasonOf(graph, p.value) }));
  checkOverrides(graph, { layers, orphans }, options.override ?? {});
  return { layers, orphans };
}

/** An override names a weight of the model, and `dense` must have made a layer of it. */
function checkOverrides(graph: Graph, { layers, orphans }: Registration, override: Readonly<Record<string, "dense" | "skip">>): void {
  for (const [name, rule] of Object.entries(override)) {
    if (!graph.params.some((p) => p.value.name === name && p.trainable))
      throw new CompileError("bad-option", `--layer ${name}=${rule}: the model has no trainable parameter "${name}"`, "--layer", `its parameters are ${graph.params.filter((p) => p.trainable).map((p) => p.value.name).join(", ")}`);
    if (rule === "dense" && !layers.some((l) => l.name === name))
      throw new CompileError("bad-option", `--layer ${name}=dense: "${name}" cannot be a dense layer: ${orphans.find((o) => o.param === name)?.reason ?? "it is a bias"}`, "--layer", "leave the override out");
  }
}

const isTrainable = (graph: Graph, v: Value): boolean => graph.params.some((p) => p.value === v && p.trainable);

/** parameter → number of nodes that read it, directly or through views. */
function countUses(graph: Graph): Map<string, number> {
  const readers = users(graph);
  const VIEWS = new Set(["reshape", "permute", "slice", "broadcast"]);
  const count = (v: Value): number => (readers.get(v) ?? []).reduce((n, node) => n + (VIEWS.has(node.op) ? count(node.results[0] as Value) : 1), 0);
  return new Map(graph.params.map((p) => [p.value.name, count(p.value)]));
}

/** A layer, or a sentence why not, or undefined if another pattern may still fit. */
function toLayer(graph: Graph, found: Match, marks: ReadonlyMap<Value, Mark>, uses: ReadonlyMap<string, number>, options: RegisterOptions): Layer | string | undefined {
  const node = found.nodes[0] as Node;
  const weight = found.bind.w as Value;
  const bias = found.bind.b;
  const rule = options.override?.[weight.name];
  if (rule === "skip") return "skipped by --layer";
  const producer = producers(graph);
  const side = node.inputs.findIndex((v) => viewBase(v, producer) === weight);
  const [weightView, x] = [node.inputs[side] as Value, node.inputs[1 - side] as Value];
  if (weightView === x) return "the product of a parameter with itself";
  const spec = parseSpec(stringAttr(node.attrs, "spec"));
  const [wl, xl] = side === 1 ? [spec.right, spec.left] : [spec.left, spec.right];
  const outputs = [...wl].filter((c) => spec.out.includes(c) && !xl.includes(c));
  const inputs = [...wl].filter((c) => !spec.out.includes(c) && xl.includes(c));
  const shared = [...wl].filter((c) => spec.out.includes(c) && xl.includes(c));
  const positions = [...spec.out].filter((c) => xl.includes(c) && !wl.includes(c));
  if (shared.length > 0) return "grouped or batched weights are not registered as a layer yet";
  if (outputs.length + inputs.length !== wl.length || inputs.length + positions.length !== xl.length) return "its contraction sums axes of one operand alone";
  if ((uses.get(weight.name) ?? 0) !== 1) return `used ${uses.get(weight.name)} times (tied weights are not registered as a layer yet)`;
  if (bias && (uses.get(bias.name) ?? 0) !== 1) return undefined;
  if (found.views.w?.some((n) => n.op === "slice")) return "only a slice of the parameter is used here";
  const mark = marks.get(found.root);
  if (!mark || "lost" in mark) return mark ? `examples cannot be followed: ${mark.why}` : "its input does not depend on examples";
  if (!positions.includes(spec.out[mark.axis] as string)) return "its examples are features of the weight";
  const repeat = found.inner.c && producer.get(found.inner.c);
  const biasView = bias && (repeat ? repeat.inputs[0] : found.nodes[1]?.inputs.find((v) => v !== node.results[0]));
  if (bias && biasView && !biasFits(repeat, biasView, outputs.map((c) => spec.out.indexOf(c)), found.root.type.shape)) return undefined;
  const sizeOf = (c: string) => weightView.type.shape[wl.indexOf(c)] as number;
  const T = size(positions.map((c) => x.type.shape[xl.indexOf(c)] as number)) / examplesIn(found.root, mark);
  if (rule !== "dense" && isOneHot(x, producer)) return "embeddings are not registered as a layer yet";
  const window = windowOf(x, producer);
  const kind: LayerKindName = rule === "dense" ? "dense" : window ? (isTransposed(window) ? "convT" : "conv") : isPointwise(weight) ? "conv" : "dense";
  if (rule !== "dense" && options.kinds && !options.kinds.includes(kind)) return `kind "${kind}" is not among --register`;
  const dA = size(inputs.map(sizeOf)) + (bias ? 1 : 0);
  const dG = size(outputs.map(sizeOf));
  const limit = options.maxFactor ?? 5120;
  if (Math.max(dA, dG) > limit) return `a factor of ${Math.max(dA, dG)} rows is larger than --max-factor ${limit}`;
  return {
    name: weight.name, kind, weight, bias, weightView, biasView,
    outAxes: outputs.map((c) => wl.indexOf(c)), inAxes: inputs.map((c) => wl.indexOf(c)),
    input: { value: x, positions: positions.map((c) => xl.indexOf(c)), features: inputs.map((c) => xl.indexOf(c)) },
    output: { value: found.root, positions: positions.map((c) => spec.out.indexOf(c)), features: outputs.map((c) => spec.out.indexOf(c)) },
    node: node.origin ?? node.op, T, dA, dG,
  };
}

const examplesIn = (v: Value, mark: Mark): number => ("lost" in mark ? 1 : (v.type.shape[mark.axis] as number) / (mark.outer * mark.inner));

/** The broadcast (if any) repeats the bias along positions only, and its axes are the output axes in order. */
function biasFits(repeat: Node | undefined, view: Value, features: readonly number[], shape: readonly number[]): boolean {
  const places = repeat ? intsAttr(repeat.attrs, "axes") : view.type.shape.map((_, k) => k);
  const axes = places.filter((_, k) => view.type.shape[k] !== 1);
  const wanted = features.filter((axis) => shape[axis] !== 1);
  return axes.length === wanted.length && axes.every((axis, k) => axis === wanted[k]);
}

function viewBase(value: Value, producer: ReadonlyMap<Value, Node>): Value {
  let v = value;
  for (let n = producer.get(v); n && (n.op === "reshape" || n.op === "permute" || n.op === "slice"); n = producer.get(v)) v = n.inputs[0] as Value;
  return v;
}

/** The sliding window between the contraction and the value it reads, if there is one. */
function windowOf(value: Value, producer: ReadonlyMap<Value, Node>): Node | undefined {
  for (let v = value, n = producer.get(v); n && ["reshape", "permute", "slice", "pad", "window"].includes(n.op); v = n.inputs[0] as Value, n = producer.get(v))
    if (n.op === "window") return n;
  return undefined;
}

/** The window of a transposed convolution runs over the zero-stuffed input, taps backwards. */
const isTransposed = (window: Node): boolean => window.attrs.divisor !== 1 || Number(window.attrs.dilation) < 0;

/** Rows of zeros with a single one, made by comparing indices with positions: a look-up. */
function isOneHot(value: Value, producer: ReadonlyMap<Value, Node>): boolean {
  const node = producer.get(value);
  return node?.op === "cast" && producer.get(node.inputs[0] as Value)?.op === "eq";
}

/** A 1×1 convolution's weight [o, c, 1, 1]: its window is no window after canonicalisation. */
const isPointwise = (weight: Value): boolean => weight.type.shape.length > 2 && weight.type.shape.slice(2).every((n) => n === 1);

function reasonOf(graph: Graph, param: Value): string {
  const readers = users(graph);
  const through = (v: Value): Node[] => (readers.get(v) ?? []).flatMap((n) => (["reshape", "permute", "broadcast", "slice"].includes(n.op) ? through(n.results[0] as Value) : [n]));
  const nodes = through(param);
  if (nodes.length === 0) return "not used by the loss";
  const names = [...new Set(nodes.map((n) => n.origin ?? n.op))];
  return `no layer pattern covers its use in ${names.slice(0, 3).join(", ")}${names.length > 3 ? ", …" : ""}`;
}

/** @throws CompileError "orphan-parameter" if there are any. */
export function requireNoOrphans(orphans: readonly Orphan[]): void {
  const first = orphans[0];
  if (!first) return;
  throw new CompileError("orphan-parameter", `${orphans.length} trainable parameter${orphans.length > 1 ? "s belong" : " belongs"} to no layer: ${orphans.map((o) => o.param).slice(0, 5).join(", ")}`,
    `parameter "${first.param}": ${first.reason}`, "leave out --strict to train them with the plain update, or freeze them");
}
