/**
 * Stored float tensors that are no weights. A file does not tell registered buffers from parameters: what a tensor is used for does, and in a
 * few cases what it holds.
 */
import type { OnnxGraph, OnnxNode, Use } from "./model.js";
import { onnxType } from "./model.js";

/** Places at which no weight stands: shapes, bounds, scales, masks, labels, first states; and where a derivative is 0. "all": any. */
const NEVER: Readonly<Record<string, "all" | readonly number[]>> = {
  Equal: "all", Less: "all", LessOrEqual: "all", Greater: "all", GreaterOrEqual: "all", Range: "all", Floor: "all", Ceil: "all", Round: "all", Sign: "all",
  ConstantOfShape: "all", Min: "all", Max: "all", Mod: "all", Clip: [1, 2], Pad: [1, 2, 3], Resize: [1, 2, 3], Upsample: [1], OneHot: [1, 2],
  Reshape: [1], Expand: [1], Tile: [1], Slice: [1, 2, 3, 4], Split: [1], TopK: [1], Squeeze: [1], Unsqueeze: [1], Gather: [1], GatherElements: [1], GatherND: [1],
  Where: [0], Dropout: [1], NegativeLogLikelihoodLoss: [1, 2], SoftmaxCrossEntropyLoss: [1, 2], RotaryEmbedding: [1, 2],
  LSTM: [4, 5, 6], GRU: [4, 5], RNN: [4, 5],
};
const CONTRIBUTED: Readonly<Record<string, readonly number[]>> = { RotaryEmbedding: [2, 3] };
const ELEMENTWISE = new Set(["Add", "Sub", "Mul", "Div", "Where"]);
/** Where attention ops take a mask, or a bias, which may be a weight. */
const MASKS: Readonly<Record<string, readonly number[]>> = { Attention: [3], MultiHeadAttention: [4, 5], GroupQueryAttention: [10] };
/** Ops behind which a tensor is still the same numbers, maybe repeated. */
const COPIES = new Set(["Transpose", "Reshape", "Identity", "Unsqueeze", "Squeeze", "Flatten", "Cast", "Expand", "CastLike"]);
const PRODUCTS = new Set(["MatMul", "Mul", "Einsum", "Gemm"]);
/** Additive masks hold this or less where nothing may be seen. */
const MASKED = -50;

export class Buffers {
  readonly #outputs: ReadonlySet<string>;
  /** Values that depend on the model's inputs by their shapes at most. */
  readonly #settled: Set<string>;
  /** The model's float inputs, at most cast, moved, less a stored tensor, divided by one or multiplied by one number. */
  readonly #raw = new Set<string>();
  /** Of these, those that a stored tensor has been taken from or divided by. */
  readonly #centered = new Set<string>();
  /** Whole numbers that count: given as integers, or made from shapes. */
  readonly #counting = new Set<string>();
  /** Values that only serve places at which no weight stands, in arithmetic between settled values; and of which only sine and cosine are taken. */
  readonly #serving = new Set<string>();
  readonly #angles = new Set<string>();

  /** One pass over the nodes each way: a file may have a hundred thousand, in a chain. */
  constructor(readonly graph: OnnxGraph, readonly uses: ReadonlyMap<string, readonly Use[]>) {
    this.#outputs = new Set(graph.outputs.map((v) => v.name));
    this.#settled = new Set([...graph.initializers.keys(), ""]);
    for (const { name, type } of graph.inputs) {
      if (graph.initializers.has(name)) continue;
      const stored = onnxType(type);
      (stored === "int64" || stored === "int32" ? this.#counting : this.#raw).add(name);
    }
    for (const node of graph.nodes) this.#forwards(node);
    for (const node of [...graph.nodes].reverse()) this.#backwards(node);
  }

  #forwards(node: OnnxNode): void {
    const [first, second] = [node.inputs[0] ?? "", node.inputs[1] ?? ""];
    const copies = COPIES.has(node.op);
    const fixed = this.#settled.has(second);
    const prepares = (node.op === "Sub" || node.op === "Div" || (node.op === "Mul" && this.#isOne(second))) && fixed;
    for (const out of node.outputs) {
      if (node.op === "Shape" || node.op === "Size" || node.inputs.every((name) => this.#settled.has(name))) this.#settled.add(out);
      if (this.#raw.has(first) && (copies || prepares)) this.#raw.add(out);
      if ((this.#raw.has(first) && prepares && node.op !== "Mul") || (this.#centered.has(first) && (copies || prepares))) this.#centered.add(out);
      if (node.op === "Range" || node.op === "Shape" || (this.#counting.has(first) && (copies || node.op === "Add" || node.op === "Slice"))) this.#counting.add(out);
    }
  }

  #backwards(node: OnnxNode): void {
    for (const out of node.outputs) {
      const all = this.uses.get(out) ?? [];
      if (out === "" || all.length === 0 || this.#outputs.has(out)) continue;
      if (all.every((use) => isNever(use) || this.#servesShapes(use))) this.#serving.add(out);
      const turns = ({ node: next }: Use): boolean =>
        next.op === "Sin" || next.op === "Cos" || ((COPIES.has(next.op) || next.op === "Concat" || next.op === "Mul") && next.outputs.every((name) => this.#angles.has(name)));
      if (all.every(turns)) this.#angles.add(out);
    }
  }

  #isOne(name: string): boolean {
    return this.graph.initializers.get(name)?.dims.every((n) => n === 1) === true;
  }

  /**
   * Whether the tensor is none by its uses: each is a place at which no weight stands, or arithmetic between stored tensors and shapes that
   * ends at such places, or turns positions into angles, or prepares the model's input.
   */
  byUse(name: string): boolean {
    const all = this.#beyondCopies(name);
    return all.length > 0 && all.every((use) => isNever(use) || this.#servesShapes(use) || this.#makesAngles(use) || this.#preparesInput(use));
  }

  /** Whether the tensor is none by its numbers: a mask; a table of waves; or one of whole, half or few numbers that is added or multiplied elementwise. */
  byNumbers(name: string, dims: readonly number[], numbers: () => ArrayLike<number>): boolean {
    const all = this.#beyondCopies(name);
    const elementwise = all.every(({ node }) => node.domain === "" && ELEMENTWISE.has(node.op));
    const rows = all.every(({ node, input }) => ELEMENTWISE.has(node.op) || (input === 0 && (node.op === "Slice" || node.op === "Gather")));
    if (all.length > 0 && rows && dims.reduce((a, b) => a * b, 1) <= MAX_TABLE && isWaves(dims, numbers)) return true;
    const masks = all.every(({ node, input }) => Object.hasOwn(MASKS, node.op) && MASKS[node.op]?.includes(input));
    if (all.length === 0 || !(elementwise || masks)) return false;
    const data = numbers();
    return isMask(dims, data) || (elementwise && (isGrid(data) || repeats(dims, data)));
  }

  /** Uses by ops that are no mere copies. */
  #beyondCopies(name: string): Use[] {
    const found: Use[] = [];
    const open = [name];
    const seen = new Set(open);
    for (let at = open.pop(); at !== undefined; at = open.pop())
      for (const use of this.uses.get(at) ?? []) {
        if (!COPIES.has(use.node.op) || use.input !== 0) found.push(use);
        else for (const out of use.node.outputs) if (out !== "" && !seen.has(out)) open.push(seen.add(out) && out);
      }
    return found;
  }

  /** Scales of a Resize that are joined from parts, say. */
  #servesShapes({ node }: Use): boolean {
    return node.outputs.every((name) => this.#serving.has(name)) && node.inputs.every((name) => this.#settled.has(name));
  }

  /** Positions times frequencies, of which only sine and cosine are taken. */
  #makesAngles({ node, input }: Use): boolean {
    const others = node.inputs.filter((_, k) => k !== input);
    return PRODUCTS.has(node.op) && others.length > 0 && others.every((name) => this.#counting.has(name)) && this.#angles.has(node.outputs[0] ?? "");
  }

  /** What is taken from the model's input, or divides it, before anything else does: its mean and deviation, or one over that. */
  #preparesInput({ node, input }: Use): boolean {
    const other = node.inputs[1 - input] ?? "";
    return node.op === "Mul" ? this.#centered.has(other) : (node.op === "Sub" || node.op === "Div") && input === 1 && this.#raw.has(other);
  }
}

function isNever({ node, input }: Use): boolean {
  const table = node.domain === "" ? NEVER : CONTRIBUTED;
  const places = Object.hasOwn(table, node.op) ? table[node.op] : undefined;
  return places === "all" || (places?.includes(input) ?? false);
}

const longAxes = (dims: readonly number[]): number => dims.filter((n) => n > 1).length;

/** Holds −∞; or, as a matrix, nothing but 0 and one number that shuts out (−1e9), or nothing but 0 and 1. */
function isMask(dims: readonly number[], numbers: ArrayLike<number>): boolean {
  const values = new Set<number>();
  for (let k = 0; k < numbers.length; k++) {
    const v = numbers[k] as number;
    if (v === -Infinity) return true;
    if (values.size < 3) values.add(v);
  }
  if (longAxes(dims) < 2 || values.size !== 2 || !values.has(0)) return false;
  return [...values].every((v) => v === 0 || v === 1 || v <= MASKED);
}

/** As many numbers as no one would see whole by chance. */
const MANY = 6;

/** Coordinates, anchors, positions: at least so many whole or half numbers, more than two different ones. */
function isGrid(numbers: ArrayLike<number>): boolean {
  if (numbers.length < MANY) return false;
  const values = new Set<number>();
  for (let k = 0; k < numbers.length; k++) {
    if (!Number.isInteger(2 * (numbers[k] as number))) return false;
    if (values.size < 3) values.add(numbers[k] as number);
  }
  return values.size > 2;
}

/** Larger tables are not looked into: a vocabulary's embeddings have more. */
const MAX_TABLE = 2 ** 22;
/** Half precision leaves 5e-4 of a sine; the sums below make up to nine times that. */
const ROUNDED = 5e-3;
const near = (a: number, b: number): boolean => Math.abs(a - b) <= ROUNDED;

/** Rows of positions 0, 1, 2, …: cosines or sines of angles that grow with them, or of both in turn or in halves. */
function isWaves(dims: readonly number[], numbers: () => ArrayLike<number>): boolean {
  const [count, width, ...more] = dims.filter((n) => n > 1);
  if (count === undefined || width === undefined || more.length > 0 || count < 4) return false;
  const data = numbers();
  const at = (row: number, k: number): number => data[row * width + k] as number;
  const every = (test: (k: number) => boolean): boolean => Array.from({ length: width }, (_, k) => k).every(test);
  // cos 2t = 2 cos² t − 1; sin 3t = 3 sin t − 4 sin³ t
  const cosine = (k: number): boolean => near(at(0, k), 1) && near(at(2, k), 2 * at(1, k) ** 2 - 1);
  const sine = (k: number): boolean => near(at(0, k), 0) && near(at(3, k), 3 * at(1, k) - 4 * at(1, k) ** 3);
  // all zeros are no waves
  return every((k) => cosine(k) || sine(k)) && Array.from({ length: width }, (_, k) => k).some((k) => Math.abs(at(1, k) - at(0, k)) > 0.1);
}

/** How many times numbers recur, on average, that were computed from a few. */
const RECURS = 32;

/** A matrix, or a vector of more than two different numbers, in which each stands many times: boxes, coordinates. */
function repeats(dims: readonly number[], numbers: ArrayLike<number>): boolean {
  const most = numbers.length / RECURS;
  const values = new Set<number>();
  for (let k = 0; k < numbers.length; k++) if (values.add(numbers[k] as number).size > most) return false;
  return values.size > (longAxes(dims) > 1 ? 1 : 2);
}
