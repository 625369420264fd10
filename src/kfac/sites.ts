/**
 * One use of a parameter as a layer sees it: which axes are groups, positions, inputs and outputs, and where a bias is added.
 *
 *   contract   y = x·W     labels of W that x and y share are groups; of x and y alone: positions; of W and y: outputs; of W and x: inputs
 *   scale      y = x ⊙ γ   every element of γ is a group of one input and one output
 *   bias       z = views(y) + b, one number of b per group and output
 *
 * The weight may stand behind reshapes, permutes and slices; a sliding window in x makes a contraction a convolution.
 * Source: Martens & Grosse 2015, section 3; Grosse & Martens 2016, section 3.
 */
import type { Mark } from "../../ir/examples.js";
import { type Graph, type Node, producers, users, type Value } from "../../ir/graph.js";
import { intsAttr, stringAttr } from "../../ir/op.js";
import { parseSpec } from "../../ir/ops/reduction.js";
import { match, type Match, type Pattern, pattern } from "../../ir/pattern.js";
import { size } from "../../ir/type.js";
import type { MatrixDigits } from "../../runtime/artifact.js";
import { type Digit, type DigitView, merged, pairDigits, startAxes, startFlat, through, throughAll } from "./digits.js";
import type { BiasView, LayerKindName, ParamView, Rows } from "./layer.js";

/** Nodes between a parameter and the node that computes with it. */
export const PARAM_VIEWS: ReadonlySet<string> = new Set(["reshape", "permute", "slice"]);

export interface Scene {
  readonly graph: Graph;
  readonly producer: ReadonlyMap<Value, Node>;
  /** Nodes that the loss depends on. */
  readonly readers: ReadonlyMap<Value, readonly Node[]>;
  readonly returned: ReadonlySet<Value>;
  readonly marks: ReadonlyMap<Value, Mark>;
  readonly trainable: ReadonlySet<Value>;
  /** Matches of the patterns, by the node that reads the parameter. */
  readonly matches: ReadonlyMap<Node, readonly Match[]>;
}

const CONTRACT = pattern`(x: value, w: param view) { %y = contract(%x, %w)  return %y }`;
const SCALES = [
  pattern`(x: value, w: param view) { %c = broadcast(%w) shared  %y = mul(%x, %c)  return %y }`,
  // nothing is repeated
  pattern`(x: value, w: param view) { %y = mul(%x, %w)  return %y }`,
];
const BIASES = [
  pattern`(y: value, b: param view) { %c = broadcast(%b) shared  %z = add(%y, %c)  return %z }`,
  pattern`(y: value, b: param view) { %z = add(%y, %b)  return %z }`,
];

/** @param roots values that the loss is made from */
export function sceneOf(graph: Graph, marks: ReadonlyMap<Value, Mark>, roots: readonly Value[]): Scene {
  const producer = producers(graph);
  const live = new Set<Node>();
  const visit = [...roots];
  for (let v = visit.pop(); v; v = visit.pop()) {
    const node = producer.get(v);
    if (!node || live.has(node)) continue;
    live.add(node);
    visit.push(...node.inputs);
  }
  const readers = new Map([...users(graph)].map(([v, nodes]) => [v, nodes.filter((n) => live.has(n))] as const));
  const matches = new Map<Node, Match[]>();
  const note = (p: Pattern) => {
    for (const m of match(graph, p)) {
      const node = producer.get(m.root) as Node;
      matches.set(node, [...(matches.get(node) ?? []), m]);
    }
  };
  for (const p of [CONTRACT, ...SCALES, ...BIASES]) note(p);
  return {
    graph, producer, readers, matches, marks, returned: new Set(roots),
    trainable: new Set(graph.params.filter((p) => p.trainable).map((p) => p.value)),
  };
}

/** One way from a parameter to a node that is no view of it. */
export interface Use {
  readonly param: Value;
  /** Views on the way, from the parameter on; a broadcast at the end is not among them. */
  readonly chain: readonly Node[];
  /** What the last view gives. */
  readonly view: Value;
  readonly node: Node;
}

/** Every use that the loss depends on. */
export function usesOf(scene: Scene, param: Value): Use[] {
  const from = (v: Value, chain: readonly Node[], view: Value): Use[] =>
    (scene.readers.get(v) ?? []).flatMap((node): Use[] => {
      const result = node.results[0] as Value;
      if (PARAM_VIEWS.has(node.op) && v === view) return from(result, [...chain, node], result);
      if (node.op === "broadcast" && v === view) return from(result, chain, view);
      return [{ param, chain, view, node }];
    });
  return from(param, [], param);
}

/** A use that can be a site. `region` is the part of the parameter that it reads. */
export interface Candidate {
  readonly use: Use;
  readonly how: "contract" | "scale";
  readonly weight: ParamView;
  readonly region: DigitView;
  readonly input: Rows;
  readonly output: Rows;
  readonly kind: LayerKindName;
  readonly T: number;
  readonly bias: BiasSite | undefined;
}

const examplesOf = (v: Value, mark: Mark): number => ("lost" in mark ? 1 : (v.type.shape[mark.axis] as number) / (mark.outer * mark.inner));

/** @returns a sentence for the user where the use is no site. */
export function toCandidate(scene: Scene, use: Use): Candidate | string {
  const found = (scene.matches.get(use.node) ?? []).filter((m) => m.bind.w === use.param);
  const at = use.node.origin ?? use.node.op;
  if (found.some((m) => m.pattern === CONTRACT)) return fromContract(scene, use, at);
  const scale = found.find((m) => SCALES.includes(m.pattern));
  if (scale) return fromScale(scene, use, scale.bind.x as Value, at);
  return `no layer pattern covers its use in ${at}`;
}

function fromContract(scene: Scene, use: Use, at: string): Candidate | string {
  const { node, view } = use;
  const side = node.inputs.indexOf(view);
  const x = node.inputs[1 - side] as Value;
  const y = node.results[0] as Value;
  if (x === view) return `${at} is the product of the parameter with itself`;
  const spec = parseSpec(stringAttr(node.attrs, "spec"));
  const [wl, xl] = side === 1 ? [spec.right, spec.left] : [spec.left, spec.right];
  const inW = (wanted: (c: string) => boolean): string[] => [...wl].filter(wanted);
  const groups = inW((c) => spec.out.includes(c) && xl.includes(c));
  const outputs = inW((c) => spec.out.includes(c) && !xl.includes(c));
  const inputs = inW((c) => !spec.out.includes(c) && xl.includes(c));
  const positions = [...spec.out].filter((c) => xl.includes(c) && !wl.includes(c));
  if (groups.length + outputs.length + inputs.length !== wl.length || groups.length + inputs.length + positions.length !== xl.length)
    return `${at} sums axes of one operand alone`;
  const mark = scene.marks.get(y);
  if (!mark) return `the input of ${at} does not depend on examples`;
  if ("lost" in mark) return `examples cannot be followed to ${at}: ${mark.why}`;
  if (!positions.includes(spec.out[mark.axis] as string)) return `in ${at} the examples are features of the weight (--batch-axis NAME=-1 if that input carries none)`;
  const region = throughAll(startFlat(use.param.type.shape), use.chain);
  if (!region) return `${at} reads the parameter through a view that is no regular part of it`;
  const places = (labels: string, wanted: readonly string[]) => wanted.map((c) => labels.indexOf(c));
  const window = windowOf(x, scene.producer);
  const kind = isOneHot(x, scene.producer) ? "embed" : window ? (isTransposed(window) ? "convT" : "conv") : isPointwise(use.param) ? "conv" : "dense";
  const output: Rows = { value: y, groups: places(spec.out, groups), positions: places(spec.out, positions), features: places(spec.out, outputs) };
  return {
    use, how: "contract", region, kind,
    weight: { param: use.param, view, groups: places(wl, groups), out: places(wl, outputs), in: places(wl, inputs) },
    input: { value: x, groups: places(xl, groups), positions: places(xl, positions), features: places(xl, inputs) },
    output, T: positionsIn(output, mark), bias: biasOf(scene, output),
  };
}

function fromScale(scene: Scene, use: Use, x: Value, at: string): Candidate | string {
  const { node, view } = use;
  const y = node.results[0] as Value;
  const other = node.inputs.find((v) => v === view) ?? (node.inputs.find((v) => v !== x) as Value);
  const repeat = other === view ? undefined : scene.producer.get(other);
  const mark = scene.marks.get(x);
  if (!mark) return `what it scales in ${at} does not depend on examples`;
  if ("lost" in mark) return `examples cannot be followed to ${at}: ${mark.why}`;
  const places = repeat ? intsAttr(repeat.attrs, "axes") : view.type.shape.map((_, k) => k);
  if (places.includes(mark.axis) && y.type.shape[mark.axis] !== 1) return `in ${at} it has a number for every example`;
  const region = throughAll(startFlat(use.param.type.shape), use.chain);
  if (!region) return `${at} reads the parameter through a view that is no regular part of it`;
  const kept = places.flatMap((axis, k) => (view.type.shape[k] === 1 && axis === mark.axis ? [] : [[axis, k] as const]));
  const groups = kept.map(([axis]) => axis);
  const positions = y.type.shape.flatMap((_, k) => (groups.includes(k) ? [] : [k]));
  const rows = (value: Value): Rows => ({ value, groups, positions, features: [] });
  return {
    use, how: "scale", region, kind: "norm",
    weight: { param: use.param, view, groups: kept.map(([, k]) => k), out: [], in: view.type.shape.flatMap((_, k) => (kept.some(([, mine]) => mine === k) ? [] : [k])) },
    input: rows(x), output: rows(y), T: positionsIn(rows(y), mark), bias: biasOf(scene, rows(y)),
  };
}

const positionsIn = (rows: Rows, mark: Mark): number =>
  size(rows.positions.map((k) => rows.value.type.shape[k] as number)) / examplesOf(rows.value, mark);

/** A bias added to the result of a use. */
export interface BiasSite {
  readonly use: Node;
  readonly param: Value;
  readonly view: BiasView;
  /** [groups, out] in the parameter's data. */
  readonly digits: MatrixDigits;
}

/** Follows a result that nothing else reads through reshapes and permutes to an addition of one number per group and output. */
function biasOf(scene: Scene, y: Rows): BiasSite | undefined {
  let at = y.value;
  let seen: DigitView | undefined = startAxes(y.value.type.shape);
  for (;;) {
    const readers: readonly Node[] = scene.readers.get(at) ?? [];
    const node: Node | undefined = readers[0];
    if (!node || !seen || readers.length !== 1 || scene.returned.has(at)) return undefined;
    if (node.op === "reshape" || node.op === "permute") {
      seen = through(seen, node);
      at = node.results[0] as Value;
      continue;
    }
    if (node.op !== "add") return undefined;
    for (const m of scene.matches.get(node) ?? []) {
      if (!BIASES.includes(m.pattern) || m.bind.y !== at || !scene.trainable.has(m.bind.b as Value)) continue;
      const made = fitBias(scene, y, seen, node, m);
      if (made) return made;
    }
    return undefined;
  }
}

function fitBias(scene: Scene, y: Rows, seen: DigitView, node: Node, m: Match): BiasSite | undefined {
  const param = m.bind.b as Value;
  const chain = [...(m.views.b ?? [])].reverse();
  const view = (chain[chain.length - 1]?.results[0] ?? param) as Value;
  const repeat = m.inner.c && scene.producer.get(m.inner.c);
  const places = repeat ? intsAttr(repeat.attrs, "axes") : view.type.shape.map((_, k) => k);
  const inside = throughAll(startFlat(param.type.shape), chain);
  const order = startFlat(view.type.shape);
  if (!inside) return undefined;
  // what each digit of y is in the view (its order) and in the parameter (its data)
  const parts: { y: Digit; stride: number; place: number }[] = [];
  for (const [axis, digits] of seen.axes.entries()) {
    const k = places.indexOf(axis);
    const features = digits.filter((d) => !y.positions.includes(d.axis));
    if (k < 0 || view.type.shape[k] === 1) {
      if (features.length > 0) return undefined;
      continue;
    }
    if (features.length !== digits.length) return undefined;
    const inData = pairDigits(digits, inside.axes[k] as readonly Digit[]);
    if (!inData) return undefined;
    let place = (order.axes[k]?.[0]?.stride ?? 1) * size(digits.map((d) => d.count));
    for (const [mine, theirs] of inData) {
      place /= mine.count;
      parts.push({ y: mine, stride: theirs.stride, place });
    }
  }
  const of = (axes: readonly number[]) => axes.flatMap((axis) => parts.filter((p) => p.y.axis === axis).sort((a, b) => b.y.stride - a.y.stride));
  const [groups, out] = [of(y.groups), of(y.features)];
  const digits = (list: readonly { y: Digit; stride: number }[]): Digit[] => list.map((p) => ({ ...p.y, stride: p.stride }));
  const matrixOrder = [...groups, ...out];
  const viewOrder = [...matrixOrder].sort((a, b) => b.place - a.place);
  return {
    use: node, param, digits: { offset: inside.offset, groups: merged(digits(groups)), out: merged(digits(out)), in: [] },
    view: { param, view, counts: matrixOrder.map((p) => p.y.count), perm: viewOrder.map((p) => matrixOrder.indexOf(p)) },
  };
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
  let node = producer.get(value);
  while (node && (node.op === "reshape" || node.op === "permute")) node = producer.get(node.inputs[0] as Value);
  return node?.op === "cast" && producer.get(node.inputs[0] as Value)?.op === "eq";
}

/** A 1×1 convolution's weight [o, c, 1, 1]: its window is no window after canonicalisation. */
const isPointwise = (weight: Value): boolean => weight.type.shape.length > 2 && weight.type.shape.slice(2).every((n) => n === 1);
