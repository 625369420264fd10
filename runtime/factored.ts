/** One group of a Kronecker-factored layer: its sides, their eigenbases, and what is done with them. See `kronecker.ts`. */
import { type LayerInfo, RuntimeFault } from "./artifact.js";
import { philox } from "./batches.js";
import { checkMatrix } from "./eigen.js";
import type { MatrixLayer } from "./matrix.js";

export interface KroneckerLayer extends MatrixLayer, Pick<LayerInfo, "form" | "sides"> {
  /** [groups, dA, dA], or [groups, dA] if the side is diagonal; kronecker layers only. */
  readonly A?: Float64Array;
  /** [groups, dG, dG], or [groups, dG]. */
  readonly G?: Float64Array;
  /** [groups, dG·dA, dG·dA]; block layers only. */
  readonly F?: Float64Array;
}

const SAMPLE_STREAM = 0x6b666163; // apart from the streams that order examples and start parameters

/** One matrix of a group: full [n, n] or diagonal [n]. */
export interface Side {
  readonly n: number;
  readonly full: boolean;
  readonly data: Float64Array;
  readonly name: string;
}

/** values [n]; vectors [n, n] with eigenvectors as columns, or undefined for the identity. */
export interface Basis {
  readonly values: Float64Array;
  readonly vectors: Float64Array | undefined;
}

/** A group of a layer: V [rows, columns] ↦ left·V·right. A block is a row vector with F on the right. */
export interface Group {
  readonly rows: number;
  readonly columns: number;
  readonly left: Side;
  readonly right: Side;
}

export interface Bases {
  readonly left: Basis;
  readonly right: Basis;
}

/** a [m, k] · b [k, n], or a · bᵀ with b [n, k], or aᵀ · b with a [k, m]; rows are read in order in all three. */
function product(m: number, k: number, n: number, a: Float64Array, b: Float64Array, transposed?: "left" | "right"): Float64Array {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++)
    if (transposed === "right")
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let x = i * k, y = j * k, end = x + k; x < end; x++, y++) sum += (a[x] as number) * (b[y] as number);
        out[i * n + j] = sum;
      }
    else
      for (let r = 0; r < k; r++) {
        const factor = a[transposed === "left" ? r * m + i : i * k + r] as number;
        for (let x = i * n, y = r * n, end = x + n; x < end; x++, y++) out[x] = (out[x] as number) + factor * (b[y] as number);
      }
  return out;
}

/** left · V · right for symmetric sides. */
export function between({ rows, columns, left, right }: Group, v: Float64Array): Float64Array {
  const half = left.full ? product(rows, rows, columns, left.data, v) : v.map((x, k) => x * (left.data[Math.floor(k / columns)] as number));
  return right.full ? product(rows, columns, columns, half, right.data) : half.map((x, k) => x * (right.data[k % columns] as number));
}

/** U_G · [scale(g, a) ⊙ (U_Gᵀ·V·U_A)] · U_Aᵀ */
export function inBases({ rows, columns }: Group, { left, right }: Bases, v: Float64Array, scale: (g: number, a: number) => number): Float64Array {
  let x = left.vectors ? product(rows, rows, columns, left.vectors, v, "left") : v;
  if (right.vectors) x = product(rows, columns, columns, x, right.vectors);
  x = x.map((value, k) => value * scale(left.values[Math.floor(k / columns)] as number, right.values[k % columns] as number));
  if (left.vectors) x = product(rows, rows, columns, left.vectors, x);
  return right.vectors ? product(rows, columns, columns, x, right.vectors, "right") : x;
}

export const trace = ({ n, full, data }: Side): number => diagonalOf({ n, full, data }).reduce((sum, x) => sum + x, 0);
export const diagonalOf = ({ n, full, data }: Pick<Side, "n" | "full" | "data">): Float64Array => (full ? Float64Array.from({ length: n }, (_, k) => data[k * n + k] as number) : data);
export const squares = ({ data }: Side): number => data.reduce((sum, x) => sum + x * x, 0);
export const clamped = (values: Float64Array): Float64Array => values.map((x) => Math.max(0, x));

function sideOf(layer: KroneckerLayer, which: "A" | "G" | "F", n: number, group: number): Side {
  const data = layer[which];
  const full = which === "F" || layer.sides[which] === "full";
  const each = full ? n * n : n;
  const name = `kfac/${layer.name}/${which}`;
  if (data?.length !== each * layer.groups)
    throw new RuntimeFault("bad-data", `"${name}" should hold ${layer.groups} × ${each} numbers and ${data ? `holds ${data.length}` : "is missing"}`, `layer "${layer.name}"`);
  const part = data.subarray(group * each, (group + 1) * each);
  if (full) checkMatrix(n, part, name);
  else if (part.some((x) => !Number.isFinite(x))) throw new RuntimeFault("diverged", `"${name}" holds a number that is not finite`, name);
  return { n, full, data: part, name };
}

const ONE: Side = { n: 1, full: false, data: Float64Array.of(1), name: "1" };

export function groupsOf(layer: KroneckerLayer): Group[] {
  return Array.from({ length: layer.groups }, (_, k) =>
    layer.form === "block"
      ? { rows: 1, columns: layer.dG * layer.dA, left: ONE, right: sideOf(layer, "F", layer.dG * layer.dA, k) }
      : { rows: layer.dG, columns: layer.dA, left: sideOf(layer, "G", layer.dG, k), right: sideOf(layer, "A", layer.dA, k) });
}

/** Smallest and largest. */
export const range = (values: Float64Array): readonly [number, number] => values.reduce<readonly [number, number]>(([low, high], x) => [Math.min(low, x), Math.max(high, x)], [Number.POSITIVE_INFINITY, 0]);

/** Refuses a smallest eigenvalue that is rounding noise beside the largest: its inverse would be, too. */
export function regular([smallest, largest]: readonly [number, number], damping: number, layer: KroneckerLayer): void {
  if (smallest + damping <= 2 ** -52 * largest || smallest + damping === 0)
    throw new RuntimeFault("bad-option", `the Fisher of "${layer.name}" with damping ${damping} is singular: its eigenvalues reach from ${smallest} to ${largest}`, `layer "${layer.name}"`, "give a larger damping");
}

/** [length] standard normal numbers (Box & Muller 1958): two words of a counter-based generator make two of them. */
export function normals(length: number, group: number, draw: number, key: readonly [number, number]): Float64Array {
  const out = new Float64Array(length);
  for (let at = 0; at < length; at += 4) {
    const words = philox([at / 4, group, draw, SAMPLE_STREAM], key);
    for (let pair = 0; pair < 4; pair += 2) {
      const radius = Math.sqrt(-2 * Math.log(((words[pair] as number) + 0.5) / 2 ** 32));
      const angle = (2 * Math.PI * ((words[pair + 1] as number) + 0.5)) / 2 ** 32;
      if (at + pair < length) out[at + pair] = radius * Math.cos(angle);
      if (at + pair + 1 < length) out[at + pair + 1] = radius * Math.sin(angle);
    }
  }
  return out;
}

/** What f makes of every group, one after the other; [at, end) is the group's part of a matrix form. */
export function perGroup(groups: readonly Group[], f: (group: Group, at: number, end: number) => Float64Array): Float64Array {
  const out = new Float64Array(groups.reduce((n, { rows, columns }) => n + rows * columns, 0));
  let at = 0;
  for (const group of groups) {
    const end = at + group.rows * group.columns;
    out.set(f(group, at, end), at);
    at = end;
  }
  return out;
}
