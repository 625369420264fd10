/**
 * Which stored tensors are weights to train.
 *
 * - A float initialiser of rank ≥ 1 is trainable, except BatchNormalization's running mean and variance; single
 *   numbers ([1], [1, 1]) that only ever serve as the exponent, divisor, subtrahend or bound of elementwise arithmetic; and what its
 *   uses or its numbers show to be no weight (buffers.ts): bounds, masks, frequencies, grids, the mean taken from the model's input.
 * - A tensor of rank 0 is a constant.
 * - The float tensor of a Constant or ConstantOfShape node is a constant, except with more than one element at the place of a
 *   weight or bias of a linear, recurrent or normalising layer (also through Transpose, Reshape and the like), or added to a linear one's result.
 */
import { Buffers } from "./buffers.js";
import type { OnnxGraph, OnnxNode, Use } from "./model.js";

export type Role =
  /** A parameter that the optimiser updates. */
  | "trainable"
  /** A parameter that stays as it is. */
  | "frozen"
  /** Numbers that import computes with. */
  | "constant";

const VIEWS = new Set(["Transpose", "Reshape", "Identity", "Unsqueeze", "Squeeze", "Flatten", "Cast"]);
const LINEAR: Readonly<Record<string, readonly number[]>> = { Gemm: [0, 1, 2], MatMul: [0, 1], Conv: [1, 2], ConvTranspose: [1, 2] };
const placesOf = (op: string): readonly number[] => (Object.hasOwn(PLACES, op) ? (PLACES[op] ?? []) : []); // an op may be called "constructor"
/** Weights and biases of the other layers that have their own ops. */
const PLACES: Readonly<Record<string, readonly number[]>> = {
  ...LINEAR, BatchNormalization: [1, 2], InstanceNormalization: [1, 2], LayerNormalization: [1, 2], GroupNormalization: [1, 2], RMSNormalization: [1], PRelu: [1],
  LSTM: [1, 2, 3, 7], GRU: [1, 2, 3], RNN: [1, 2, 3],
};
/** Ops in which a single number is arithmetic, not a weight. */
const HELPERS = new Set(["Div", "Sub", "Pow", "Min", "Max", "Clip", "Mod", "Where", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Pad", "Resize", "Range", "OneHot"]);

export class Roles {
  readonly #uses = new Map<string, Use[]>();
  readonly #madeBy = new Map<string, OnnxNode>();
  readonly #computed = new Map<string, OnnxNode | undefined>();
  readonly #buffers: Buffers;

  constructor(graph: OnnxGraph) {
    for (const node of graph.nodes) {
      node.inputs.forEach((name, input) => {
        if (name === "") return;
        const list = this.#uses.get(name);
        if (list) list.push({ node, input });
        else this.#uses.set(name, [{ node, input }]);
      });
      for (const name of node.outputs) if (name !== "") this.#madeBy.set(name, node);
    }
    this.#buffers = new Buffers(graph, this.#uses);
  }

  /** Uses of a tensor by ops that compute with it, looking through views. (No recursion: a file may chain thousands of views.) */
  reached(name: string): Use[] {
    const found: Use[] = [];
    const open = [name];
    for (let at = open.pop(); at !== undefined; at = open.pop())
      for (const use of this.#uses.get(at) ?? [])
        if (VIEWS.has(use.node.op) && use.input === 0) open.push(use.node.outputs[0] ?? "");
        else found.push(use);
    return found;
  }

  /** The node that computes a value, looking through views; asked once per value, as many may lie behind one chain. */
  #computedBy(name: string): OnnxNode | undefined {
    const passed: string[] = [];
    let at = name;
    let node = this.#madeBy.get(at);
    while (node && VIEWS.has(node.op) && !this.#computed.has(at)) {
      passed.push(at);
      at = node.inputs[0] ?? "";
      node = this.#madeBy.get(at);
    }
    const found = this.#computed.has(at) ? this.#computed.get(at) : node;
    for (const view of passed) this.#computed.set(view, found);
    return found;
  }

  /** Whether a value is a linear op's result, looking through views. */
  isLinear(name: string): boolean {
    const node = this.#computedBy(name);
    return node !== undefined && Object.hasOwn(LINEAR, node.op);
  }

  /** Whether the first op that computes with a tensor sees it transposed. */
  flips(name: string): boolean {
    let flipped = false;
    let use = this.#uses.get(name)?.[0];
    for (; use && VIEWS.has(use.node.op) && use.input === 0; use = this.#uses.get(use.node.outputs[0] ?? "")?.[0]) if (use.node.op === "Transpose") flipped = !flipped;
    return flipped;
  }

  /** `numbers`: the tensor's own, read only where its uses leave a doubt. */
  initializer(name: string, dims: readonly number[], numbers?: () => ArrayLike<number>): Role {
    if (dims.length === 0) return "constant";
    const uses = this.reached(name);
    if (uses.length > 0 && uses.every((u) => u.node.op === "BatchNormalization" && u.input >= 3)) return "frozen";
    const single = dims.every((n) => n === 1);
    if (single && uses.length > 0 && uses.every((u) => HELPERS.has(u.node.op))) return "constant";
    if (this.#buffers.byUse(name)) return "constant";
    return numbers && this.#buffers.byNumbers(name, dims, numbers) ? "frozen" : "trainable";
  }

  /** What a value is a mere copy of. */
  source(name: string): string {
    let at = name;
    for (let node = this.#madeBy.get(at); node?.op === "Identity"; node = this.#madeBy.get(at)) at = node.inputs[0] ?? "";
    return at;
  }

  /** For the float result of a Constant or ConstantOfShape node. */
  constantNode(name: string, elements: number): Role {
    if (elements <= 1) return "constant";
    const serves = this.reached(name).some(({ node, input }) =>
      placesOf(node.op).includes(input) || (node.op === "Add" && this.isLinear(node.inputs[1 - input] ?? "")));
    return serves ? "trainable" : "constant";
  }
}
