/**
 * Which stored tensors are weights to train.
 *
 * - A float initialiser of rank ≥ 1 is trainable, except BatchNormalization's running mean and variance, and single
 *   numbers ([1], [1, 1]) that only ever serve as the exponent, divisor, subtrahend or bound of elementwise arithmetic.
 * - A tensor of rank 0 is a constant.
 * - The float tensor of a Constant or ConstantOfShape node is a constant, except with more than one element at the place of a
 *   weight or bias of Gemm, MatMul, Conv, ConvTranspose (also through Transpose, Reshape and the like), or added to their result.
 */
import type { OnnxGraph, OnnxNode } from "./model.js";

export type Role =
  /** A parameter that the optimiser updates. */
  | "trainable"
  /** A parameter that stays as it is. */
  | "frozen"
  /** Numbers that import computes with. */
  | "constant";

export interface Use {
  readonly node: OnnxNode;
  readonly input: number;
}

const VIEWS = new Set(["Transpose", "Reshape", "Identity", "Unsqueeze", "Squeeze", "Flatten", "Cast"]);
const LINEAR: Readonly<Record<string, readonly number[]>> = { Gemm: [0, 1, 2], MatMul: [0, 1], Conv: [1, 2], ConvTranspose: [1, 2] };
/** Ops in which a single number is arithmetic, not a weight. */
const HELPERS = new Set(["Div", "Sub", "Pow", "Min", "Max", "Clip", "Mod", "Where", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Pad", "Resize", "Range", "OneHot"]);

export class Roles {
  readonly #uses = new Map<string, Use[]>();
  readonly #madeBy = new Map<string, OnnxNode>();

  constructor(graph: OnnxGraph) {
    for (const node of graph.nodes) {
      node.inputs.forEach((name, input) => {
        const list = this.#uses.get(name);
        if (list) list.push({ node, input });
        else this.#uses.set(name, [{ node, input }]);
      });
      for (const name of node.outputs) this.#madeBy.set(name, node);
    }
  }

  /** Uses of a tensor by ops that compute with it, looking through views. */
  #reached(name: string): Use[] {
    return (this.#uses.get(name) ?? []).flatMap((use) =>
      VIEWS.has(use.node.op) && use.input === 0 ? this.#reached(use.node.outputs[0] ?? "") : [use]);
  }

  /** Whether a value is a linear op's result, looking through views. */
  #isLinear(name: string): boolean {
    const node = this.#madeBy.get(name);
    if (!node) return false;
    return VIEWS.has(node.op) ? this.#isLinear(node.inputs[0] ?? "") : node.op in LINEAR;
  }

  initializer(name: string, dims: readonly number[]): Role {
    if (dims.length === 0) return "constant";
    const uses = this.#reached(name);
    if (uses.length > 0 && uses.every((u) => u.node.op === "BatchNormalization" && u.input >= 3)) return "frozen";
    const single = dims.every((n) => n === 1);
    if (single && uses.length > 0 && uses.every((u) => HELPERS.has(u.node.op))) return "constant";
    return "trainable";
  }

  /** What a value is a mere copy of. */
  source(name: string): string {
    const node = this.#madeBy.get(name);
    return node?.op === "Identity" ? this.source(node.inputs[0] ?? "") : name;
  }

  /** For the float result of a Constant or ConstantOfShape node. */
  constantNode(name: string, elements: number): Role {
    if (elements <= 1) return "constant";
    const serves = this.#reached(name).some(({ node, input }) =>
      LINEAR[node.op]?.includes(input) || (node.op === "Add" && this.#isLinear(node.inputs[1 - input] ?? "")));
    return serves ? "trainable" : "constant";
  }
}
