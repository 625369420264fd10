/** Parameter tensors as the matrices that a layer's factors act on, and back. */
import { type Digits, type LayerInfo, type MatrixDigits, RuntimeFault } from "./artifact.js";

/** What of a layer says where its numbers are. */
export type MatrixLayer = Pick<LayerInfo, "name" | "groups" | "dA" | "dG" | "params" | "matrix">;

/** A tensor of numbers of any kind, row-major. */
export interface Numbers {
  readonly shape: readonly number[];
  readonly data: Float64Array | Float32Array | Int32Array;
}

/** Index → place in the data: the digits' strides added up, fastest digit first. */
function places(digits: Digits): Int32Array {
  let out = new Int32Array(1);
  for (const [count, stride] of digits) {
    const next = new Int32Array(out.length * count);
    for (let k = 0; k < next.length; k++) next[k] = (out[k % out.length] as number) + Math.floor(k / out.length) * stride;
    out = next;
  }
  return out;
}

/** Calls `visit` with each element of one parameter: its place in the matrix form, then in the parameter's data. */
function walk({ name, groups, dA, dG }: MatrixLayer, digits: MatrixDigits, firstColumn: number, columns: number, visit: (matrix: number, tensor: number) => void): void {
  const [g, o, i] = [places(digits.groups), places(digits.out), places(digits.in)];
  if (g.length !== groups || o.length !== dG || i.length !== columns)
    throw new RuntimeFault("internal", `the layer "${name}" is [${groups}, ${dG}, ${dA}] and its digits count ${g.length}, ${o.length}, ${i.length}`, `layer "${name}"`);
  for (let a = 0; a < groups; a++)
    for (let b = 0; b < dG; b++) {
      const row = (a * dG + b) * dA + firstColumn;
      const base = digits.offset + (g[a] as number) + (o[b] as number);
      for (let c = 0; c < columns; c++) visit(row + c, base + (i[c] as number));
    }
}

/** Every element of the layer: place in the matrix form [groups, dG, dA], its parameter, place in the parameter's data. */
export function eachElement(layer: MatrixLayer, visit: (matrix: number, param: string, tensor: number) => void): void {
  const { weight, bias } = layer.params;
  const biased = bias !== null && layer.matrix.bias !== null;
  walk(layer, layer.matrix.weight, 0, layer.dA - (biased ? 1 : 0), (m, t) => visit(m, weight, t));
  if (biased) walk(layer, layer.matrix.bias as MatrixDigits, layer.dA - 1, 1, (m, t) => visit(m, bias, t));
}

function named<T>(layer: MatrixLayer, tensors: Readonly<Record<string, T>>): Map<string, T> {
  return new Map([layer.params.weight, layer.params.bias].flatMap((param) => {
    if (param === null) return [];
    const tensor = Object.hasOwn(tensors, param) ? tensors[param] : undefined;
    if (tensor === undefined) throw new RuntimeFault("bad-data", `the layer "${layer.name}" needs the parameter "${param}", which is missing`, `layer "${layer.name}"`, "pass all parameters of a layer together");
    return [[param, tensor] as const];
  }));
}

/**
 * The layer's numbers out of its parameters: [groups, dG, dA], the bias as last column.
 *
 * @throws RuntimeFault "bad-data" if a parameter is missing or too short
 */
export function toMatrix(layer: MatrixLayer, tensors: Readonly<Record<string, Numbers>>): Float64Array {
  const found = named(layer, tensors);
  const out = new Float64Array(layer.groups * layer.dG * layer.dA);
  eachElement(layer, (at, param, place) => {
    const value = found.get(param)?.data[place];
    if (value === undefined) throw new RuntimeFault("bad-data", `the parameter "${param}" holds ${found.get(param)?.data.length} numbers: too few for its layer`, `layer "${layer.name}"`);
    out[at] = value;
  });
  return out;
}

/** Writes the matrix form back into the tensors of its parameters; what of them belongs to other layers is left alone. */
export function fromMatrix(layer: MatrixLayer, matrix: Float64Array, out: Readonly<Record<string, Numbers>>): void {
  const found = named(layer, out);
  eachElement(layer, (at, param, place) => {
    const { data } = found.get(param) as Numbers;
    data[place] = matrix[at] as number;
  });
}
