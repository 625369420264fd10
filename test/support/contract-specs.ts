/** Contractions as the compiler makes them: products of matrices and the kernels of a convolution. */
import type { Access, Affine, Axis, Bound, Buffer, ContractSpec, Expr, Quotient, Store } from "../../codegen/kernel.js";

export const axis = (name: string, size: number): Axis => ({ name, size });
export const affine = (by: readonly (readonly [Axis, number])[], at = 0): Affine => {
  const sum = new Map<Axis, number>();
  for (const [a, c] of by) if (c !== 0 && a.size > 1) sum.set(a, (sum.get(a) ?? 0) + c);
  return { at, by: sum };
};
export const buffer = (name: string, elements: number): Buffer => ({ name, dtype: "f32", elements });
export const access = (from: Buffer, address: Affine, bounds: readonly Bound[] = [], quotients: readonly Quotient[] = []): Access => ({ buffer: from, address, bounds, quotients, fill: 0 });
export const ACC: Expr = { kind: "acc", dtype: "f32" };
export const op = (name: "add" | "sub" | "mul" | "relu", ...args: Expr[]): Expr => ({ kind: "op", dtype: "f32", op: name, args });
export const constant = (value: number): Expr => ({ kind: "const", dtype: "f32", value });
export const load = (a: Access): Expr => ({ kind: "load", dtype: "f32", access: a });

/** Row-major strides of some axes: [axis, stride] with the last one contiguous, rows padded to `pad`. */
export function rowMajor(axes: readonly Axis[], pad = 1): { by: (readonly [Axis, number])[]; elements: number } {
  let stride = 1;
  const by: (readonly [Axis, number])[] = [];
  for (const [k, a] of axes.toReversed().entries()) {
    by.unshift([a, stride]);
    stride *= k === 0 ? Math.ceil(a.size / pad) * pad : a.size;
  }
  return { by, elements: stride };
}

/** A view of a fresh buffer by axes in storage order. */
export function view(name: string, axes: readonly Axis[], pad = 1): Access {
  const { by, elements } = rowMajor(axes, pad);
  return access(buffer(name, elements), affine(by));
}

export const storeTo = (a: Access, value: Expr = ACC): Store => ({ buffer: a.buffer, address: a.address, value });

/** c[m, n] = Σ_k a · b; form "tn": a is stored [k, m], b as [k, n], and so on. */
export function gemm(form: "nn" | "nt" | "tn" | "tt", sizes: readonly [number, number, number], label = `gemm ${form}`): ContractSpec {
  const [m, n, k] = [axis("m", sizes[0]), axis("n", sizes[1]), axis("k", sizes[2])];
  return {
    kind: "contract", label, output: [m, n], reduction: [k],
    left: view("left", form[0] === "n" ? [m, k] : [k, m]),
    right: view("right", form[1] === "n" ? [k, n] : [n, k]),
    stores: [storeTo(view("product", [m, n]))],
  };
}

export interface Conv {
  readonly n: number;
  readonly ci: number;
  readonly co: number;
  readonly y: number;
  readonly x: number;
  readonly k: number;
  readonly stride?: number;
  readonly dilation?: number;
  readonly pad?: number;
  /** Taps per filter are stored in multiples of this. */
  readonly tapPad?: number;
}

const outputSize = (c: Conv, size: number): number => Math.floor((size + 2 * (c.pad ?? 0) - (c.dilation ?? 1) * (c.k - 1) - 1) / (c.stride ?? 1)) + 1;

function shape(c: Conv) {
  const [stride, dilation, pad] = [c.stride ?? 1, c.dilation ?? 1, c.pad ?? 0];
  const taps = Math.ceil((c.k * c.k) / (c.tapPad ?? 1)) * (c.tapPad ?? 1);
  const axes = {
    n: axis("n", c.n), ci: axis("ci", c.ci), co: axis("co", c.co), ky: axis("ky", c.k), kx: axis("kx", c.k),
    oy: axis("oy", outputSize(c, c.y)), ox: axis("ox", outputSize(c, c.x)), iy: axis("iy", c.y), ix: axis("ix", c.x),
  };
  const input = buffer("image", c.n * c.ci * c.y * c.x);
  /** The input at output position (oy, ox) and a tap. */
  const window = (ci: Axis, ky: Axis, kx: Axis): Access => {
    const y = affine([[axes.oy, stride], [ky, dilation]], -pad);
    const x = affine([[axes.ox, stride], [kx, dilation]], -pad);
    return access(
      input,
      affine([[axes.n, c.ci * c.y * c.x], [ci, c.y * c.x], [axes.oy, stride * c.x], [ky, dilation * c.x], [axes.ox, stride], [kx, dilation]], -pad * c.x - pad),
      [{ expr: y, low: 0, high: c.y }, { expr: x, low: 0, high: c.x }],
    );
  };
  const filter = buffer("weights", c.co * c.ci * taps);
  const weights = affine([[axes.co, c.ci * taps], [axes.ci, taps], [axes.ky, c.k], [axes.kx, 1]]);
  return { ...axes, stride, dilation, pad, taps, input, window, filter, weights };
}

export function convForward(c: Conv, label = "conv forward"): ContractSpec {
  const s = shape(c);
  const bias = access(buffer("bias", c.co), affine([[s.co, 1]]));
  return {
    kind: "contract", label, output: [s.n, s.co, s.oy, s.ox], reduction: [s.ci, s.ky, s.kx],
    left: s.window(s.ci, s.ky, s.kx), right: access(s.filter, s.weights),
    stores: [storeTo(view("activation", [s.n, s.co, s.oy, s.ox]), op("relu", op("add", ACC, load(bias))))],
  };
}

/** dX[n, ci, iy, ix] = Σ g[n, co, (iy + pad - ky·dilation) / stride, …] · w[co, ci, ky, kx] */
export function convInput(c: Conv, label = "conv input gradient"): ContractSpec {
  const s = shape(c);
  const g = view("cotangent", [s.n, s.co, s.oy, s.ox]);
  const area = s.oy.size * s.ox.size;
  const y = affine([[s.iy, 1], [s.ky, -s.dilation]], s.pad);
  const x = affine([[s.ix, 1], [s.kx, -s.dilation]], s.pad);
  const bounds = [{ expr: y, low: 0, high: (s.oy.size - 1) * s.stride + 1 }, { expr: x, low: 0, high: (s.ox.size - 1) * s.stride + 1 }];
  const rest: (readonly [Axis, number])[] = [[s.n, c.co * area], [s.co, area]];
  const left = s.stride > 1
    ? access(g.buffer, affine(rest), bounds, [{ expr: y, divisor: s.stride, stride: s.ox.size }, { expr: x, divisor: s.stride, stride: 1 }])
    : access(g.buffer, affine([...rest, [s.iy, s.ox.size], [s.ky, -s.dilation * s.ox.size], [s.ix, 1], [s.kx, -s.dilation]], s.pad * s.ox.size + s.pad), bounds);
  return {
    kind: "contract", label, output: [s.n, s.ci, s.iy, s.ix], reduction: [s.co, s.ky, s.kx],
    left, right: access(s.filter, s.weights),
    stores: [storeTo(view("image_cotangent", [s.n, s.ci, s.iy, s.ix]))],
  };
}

export function convWeight(c: Conv, label = "conv weight gradient"): ContractSpec {
  const s = shape(c);
  return {
    kind: "contract", label, output: [s.co, s.ci, s.ky, s.kx], reduction: [s.n, s.oy, s.ox],
    left: view("cotangent", [s.n, s.co, s.oy, s.ox]), right: s.window(s.ci, s.ky, s.kx),
    stores: [{ buffer: buffer("weights_cotangent", s.filter.elements), address: s.weights, value: ACC }],
  };
}

/** A[(ci, ky, kx), (ci', ky', kx')] = Σ_{n, oy, ox} patch · patch */
export function convFactor(c: Conv, label = "conv factor"): ContractSpec {
  const s = shape(c);
  const [ci2, ky2, kx2] = [axis("ci2", c.ci), axis("ky2", c.k), axis("kx2", c.k)];
  return {
    kind: "contract", label, output: [s.ci, s.ky, s.kx, ci2, ky2, kx2], reduction: [s.n, s.oy, s.ox],
    left: s.window(s.ci, s.ky, s.kx), right: s.window(ci2, ky2, kx2),
    stores: [storeTo(view("factor", [s.ci, s.ky, s.kx, ci2, ky2, kx2]))],
    symmetric: [[s.ci, ci2], [s.ky, ky2], [s.kx, kx2]],
  };
}

/** A = xᵀ·x / n over rows of `stored` elements. */
export function gram(rows: number, columns: number, stored: number, label = "gram"): ContractSpec {
  const [i, j, n] = [axis("i", columns), axis("j", columns), axis("n", rows)];
  const x = buffer("x", rows * stored);
  return {
    kind: "contract", label, output: [i, j], reduction: [n],
    left: access(x, affine([[n, stored], [i, 1]])), right: access(x, affine([[n, stored], [j, 1]])),
    stores: [{ buffer: buffer("factor", columns * stored), address: affine([[i, stored], [j, 1]]), value: op("mul", ACC, constant(1 / rows)) }],
    symmetric: [[i, j]],
  };
}
