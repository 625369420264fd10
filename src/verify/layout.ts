/** A layer's matrix form [groups, out, in(+1)] and how a probed node lies in it. */
import type { LayerInfo, MatrixDigits } from "../../runtime/artifact.js";
import type { Structure } from "./probe.js";

export interface Layout {
  readonly groups: number;
  readonly dG: number;
  /** Inputs without the bias. */
  readonly dIn: number;
  readonly dA: number;
  /** Flat index into the weight's data of (group, out, in). */
  readonly weightAt: Int32Array;
  /** Flat index into the bias' data of (group, out). */
  readonly biasAt: Int32Array | undefined;
}

/** Offsets of 0 … count − 1 by digits, fastest first. */
function places(digits: MatrixDigits["in"], count: number): number[] {
  return Array.from({ length: count }, (_, k) => {
    let [left, at] = [k, 0];
    for (const [n, stride] of digits) {
      at += (left % n) * stride;
      left = Math.floor(left / n);
    }
    return at;
  });
}

export function layoutOf(layer: Pick<LayerInfo, "groups" | "dA" | "dG" | "matrix">): Layout {
  const { groups, dA, dG, matrix } = layer;
  const dIn = dA - (matrix.bias ? 1 : 0);
  const table = (m: MatrixDigits, inputs: number): Int32Array => {
    const [g, o, i] = [places(m.groups, groups), places(m.out, dG), places(m.in, inputs)];
    const out = new Int32Array(groups * dG * inputs);
    for (let a = 0, k = 0; a < groups; a++) for (let b = 0; b < dG; b++) for (let c = 0; c < inputs; c++, k++) out[k] = m.offset + (g[a] as number) + (o[b] as number) + (i[c] as number);
    return out;
  };
  return { groups, dG, dIn, dA, weightAt: table(matrix.weight, dIn), biasAt: matrix.bias ? table(matrix.bias, 1) : undefined };
}

/** A parameter tensor's numbers (and the bias's) as the matrix form. */
export function toMatrix(l: Layout, weight: Float64Array, bias: Float64Array | undefined): Float64Array {
  const out = new Float64Array(l.groups * l.dG * l.dA);
  for (let row = 0; row < l.groups * l.dG; row++) {
    for (let i = 0; i < l.dIn; i++) out[row * l.dA + i] = weight[l.weightAt[row * l.dIn + i] as number] as number;
    if (l.biasAt && bias) out[row * l.dA + l.dIn] = bias[l.biasAt[row] as number] as number;
  }
  return out;
}

export interface Fit {
  /** The node uses the weight the other way round: its rows are the layer's columns. */
  readonly transposed: boolean;
  /** Probed row → (group, index) and column → (group, index) in the matrix form, as group · d + index. */
  readonly rowPlace: Int32Array;
  readonly columnPlace: Int32Array;
}

/** How the node's rows and columns lie in the layer's matrix, or why they do not. */
export function fit(l: Layout, st: Structure): Fit | string {
  const seen = new Set(l.weightAt);
  if (seen.size !== l.weightAt.length) return "two elements of the layer's matrix are one element of the parameter";
  let covered = 0;
  for (let k = 0; k < st.rowOfW.length; k++) {
    if ((st.rowOfW[k] as number) < 0) continue;
    covered++;
    if (!seen.has(k)) return "the node reads elements of the parameter that the layer's matrix leaves out";
  }
  if (covered !== l.weightAt.length) return "the layer's matrix holds elements of the parameter that the node does not read";
  for (const transposed of [false, true]) {
    const made = fitAs(l, st, transposed);
    if (made) return made;
  }
  return "rows and columns of the layer's matrix are not those of the node";
}

function fitAs(l: Layout, st: Structure, transposed: boolean): Fit | undefined {
  const [rowPlace, columnPlace] = [new Int32Array(st.rows).fill(-1), new Int32Array(st.columns).fill(-1)];
  const put = (into: Int32Array, at: number, place: number): boolean => {
    if (into[at] !== -1) return into[at] === place;
    into[at] = place;
    return true;
  };
  for (let g = 0, k = 0; g < l.groups; g++)
    for (let o = 0; o < l.dG; o++)
      for (let i = 0; i < l.dIn; i++, k++) {
        const w = l.weightAt[k] as number;
        const [r, c] = [st.rowOfW[w] as number, st.columnOfW[w] as number];
        const [out, into] = [g * l.dG + o, g * l.dIn + i];
        if (!put(rowPlace, r, transposed ? into : out) || !put(columnPlace, c, transposed ? out : into)) return undefined;
      }
  const distinct = (list: Int32Array): boolean => new Set(list).size === list.length && !list.includes(-1);
  return distinct(rowPlace) && distinct(columnPlace) ? { transposed, rowPlace, columnPlace } : undefined;
}
