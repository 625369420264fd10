/**
 * What a weight's node computes, found by trying it out: no axis of anything is looked at.
 *
 * The node's result s is linear in the weight W and in its other operand x: s_e = Σ W_w · x_k. With operands replaced by ones, random
 * numbers and whole-number codes, evaluations and derivatives of the node alone tell for every element of s which output (row of W) and
 * which position it is, for every element of W its row and column, for every element of x its position and column:
 *
 *   W random, x = 1:   s_e is the same for elements of one row          W = 1, x random:  s_e is the same at one position
 *   ∂s/∂W, x random:   the same for weights of one column               codes as seeds:   rows of weights, positions of x
 */
import { Builder } from "../../ir/builder.js";
import { CompileError } from "../../ir/error.js";
import type { Graph, Node, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import type { Use } from "./uses.js";
import { Backward, evaluateFrom, filled, normals } from "./values.js";

export interface Structure {
  readonly rows: number;
  readonly columns: number;
  readonly positions: number;
  /** By element of the parameter; −1: not read here. */
  readonly rowOfW: Int32Array;
  readonly columnOfW: Int32Array;
  /** By element of s. */
  readonly rowOfS: Int32Array;
  readonly positionOfS: Int32Array;
  /** By element of x; −1: not read. */
  readonly positionOfX: Int32Array;
  readonly columnOfX: Int32Array;
}

/** The node with its parameter's views as a graph of its own. */
export class LoneNode {
  readonly graph: Graph;
  readonly #w: Value;
  readonly #x: Value;
  readonly #s: Value;

  constructor(use: Use) {
    const b = new Builder("probe");
    this.#w = b.input("w", use.param.type);
    this.#x = b.input("x", (use.other as Value).type);
    let view = this.#w;
    for (const n of use.chain) view = b.emit(n.op, [view], n.attrs);
    this.#s = b.emit(use.node.op, use.node.inputs.map((v) => (v === use.view ? view : this.#x)), use.node.attrs);
    this.graph = b.finish([{ name: "s", value: this.#s }]);
  }

  get types() {
    return { w: this.#w.type, x: this.#x.type, s: this.#s.type };
  }

  result(w: NdArray, x: NdArray): NdArray {
    return evaluateFrom(this.graph.nodes, new Map([[this.#w, w], [this.#x, x]]), [this.#s]).get(this.#s) as NdArray;
  }

  derivative(w: NdArray, x: NdArray, seed: NdArray, of: "w" | "x"): NdArray {
    const known = evaluateFrom(this.graph.nodes, new Map([[this.#w, w], [this.#x, x]]), [this.#s]);
    const target = of === "w" ? this.#w : this.#x;
    return new Backward(this.graph, known, [this.#s], [target]).run(new Map([[this.#s, seed]]), [target]).get(target) as NdArray;
  }
}

/** Numbers for equal values, in order of appearance; where `has` is false: −1. */
function classes(data: ArrayLike<number>, has: (k: number) => boolean = () => true): { of: Int32Array; count: number } {
  const known = new Map<number, number>();
  const of = new Int32Array(data.length).fill(-1);
  for (let k = 0; k < data.length; k++) {
    if (!has(k)) continue;
    const x = data[k] as number;
    if (!known.has(x)) known.set(x, known.size);
    of[k] = known.get(x) as number;
  }
  return { of, count: known.size };
}

/** @throws CompileError "internal" where the node is not a product of rows and columns. */
export function probe(use: Use, seed: number): Structure {
  const lone = new LoneNode(use);
  const { w, x, s } = lone.types;
  const next = normals(seed);
  const [ones, random] = [() => 1, () => next()];
  const [w1, x1, s1] = [filled(w, ones), filled(x, ones), filled(s, ones)];
  const [wr, xr] = [filled(w, random), filled(x, random)];
  const rowS = classes(lone.result(wr, x1).data);
  const posS = classes(lone.result(w1, xr).data);

  // one element of s for every row, with the row's number as its seed
  const first = new Map<number, number>();
  rowS.of.forEach((r, e) => { if (!first.has(r)) first.set(r, e); });
  const chosen = (value: (row: number) => number): NdArray => {
    const out = filled(s, () => 0);
    for (const [r, e] of first) out.data[e] = value(r);
    return out;
  };
  const times = lone.derivative(w1, x1, chosen(() => 1), "w").data;
  const coded = lone.derivative(w1, x1, chosen((r) => r + 1), "w").data;
  const rowOfW = Int32Array.from(coded, (c, k) => code(c, times[k] as number, use.node));
  const columns = classes(lone.derivative(w1, xr, s1, "w").data, (k) => (rowOfW[k] as number) >= 0);
  const columnCode = { ...w1, data: Float64Array.from(columns.of, (c) => c + 1) };

  const reads = lone.derivative(w1, x1, s1, "x").data;
  const byPosition = lone.derivative(w1, x1, ndarray(s.dtype, s.shape, Float64Array.from(posS.of, (p) => p + 1)), "x").data;
  const byColumn = lone.derivative(columnCode, x1, s1, "x").data;
  return {
    rows: rowS.count, columns: columns.count, positions: posS.count,
    rowOfW, columnOfW: columns.of, rowOfS: rowS.of, positionOfS: posS.of,
    positionOfX: Int32Array.from(byPosition, (c, k) => code(c, reads[k] as number, use.node)),
    columnOfX: Int32Array.from(byColumn, (c, k) => code(c, reads[k] as number, use.node)),
  };
}

/** The whole number behind `sum` = `times` · (number + 1); −1 for nothing. */
function code(sum: number, times: number, node: Node): number {
  if (times === 0) return -1;
  const number = sum / times - 1;
  if (!Number.isInteger(number)) throw new CompileError("internal", "its node is no product of rows and columns", node.origin ?? node.op);
  return number;
}

/**
 * Rows of x as [positions][columns], by the structure. Proven on the node itself: for random weights, s must be what the rows say.
 *
 * @returns rows, and the largest relative error over `probes` random weights
 */
export function inputRows(use: Use, st: Structure, x: NdArray, seed: number, probes = 3): { readonly rows: Float64Array; readonly error: number } {
  const rows = new Float64Array(st.positions * st.columns);
  x.data.forEach((v, k) => {
    const [p, c] = [st.positionOfX[k] as number, st.columnOfX[k] as number];
    if (p >= 0) rows[p * st.columns + c] = (rows[p * st.columns + c] as number) + v;
  });
  const lone = new LoneNode(use);
  const next = normals(seed);
  const members = Array.from({ length: st.rows }, (): number[] => []);
  st.rowOfW.forEach((r, k) => { if (r >= 0) members[r]?.push(k); });
  let error = 0;
  for (let n = 0; n < probes; n++) {
    const w = filled(lone.types.w, () => next());
    const s = lone.result(w, x).data;
    let [d, total] = [0, 0];
    for (let e = 0; e < s.length; e++) {
      const base = (st.positionOfS[e] as number) * st.columns;
      let sum = 0;
      for (const k of members[st.rowOfS[e] as number] as number[]) sum += (w.data[k] as number) * (rows[base + (st.columnOfW[k] as number)] as number);
      d += (sum - (s[e] as number)) ** 2;
      total += (s[e] as number) ** 2;
    }
    error = Math.max(error, total === 0 ? Math.sqrt(d) : Math.sqrt(d / total));
  }
  return { rows, error };
}
