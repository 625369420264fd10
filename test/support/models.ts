/**
 * Small models for tests, a float64 trainer that runs a compiled program's entry graphs, and dense linear algebra to compare with.
 */
import { PORTABLE } from "../../codegen/limits.js";
import { planProgram } from "../../codegen/plan.js";
import { Builder, broadcast } from "../../ir/builder.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Graph, Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { f32, size, type Type } from "../../ir/type.js";
import { type HostArray, Program } from "../../runtime/program.js";
import { RUN_FIELDS, RUN_KNOBS } from "../../runtime/artifact.js";
import { compile, type Compiled, type CompileOptions, COMPILE_DEFAULTS, type ForwardModel } from "../../src/compile.js";
import { toHost } from "./run-graph.js";

/** Numbers in (−1, 1) from a seed, the same on every machine. */
export function random(seed: number): () => number {
  let state = (Math.imul(seed, 2654435761) + 12345) >>> 0;
  return () => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0;
    let x = state;
    x = Math.imul(x ^ (x >>> 16), 0x7feb352d) >>> 0;
    x = Math.imul(x ^ (x >>> 15), 0x846ca68b) >>> 0;
    return ((x ^ (x >>> 16)) >>> 0) / 2 ** 31 - 1;
  };
}

/** A float tensor exactly representable in f32. */
export function tensor(shape: readonly number[], next: () => number, scale = 1): NdArray {
  return ndarray("f32", shape, Float64Array.from({ length: size(shape) }, () => Math.fround(scale * next())));
}
export const labels = (shape: readonly number[], classes: number, next: () => number): NdArray =>
  ndarray("i32", shape, Float64Array.from({ length: size(shape) }, () => Math.min(classes - 1, Math.floor(((next() + 1) / 2) * classes))));

type Activation = "tanh" | "relu" | "linear";
const activate = (b: Builder, v: Value, act: Activation): Value => (act === "linear" ? v : b.emit(act, [v]));

export type Forward = (batch: number) => ForwardModel;

/** Weights like He's, biases small. */
function modelOf(name: string, seed: number, build: (b: Builder, batch: number) => Value): Forward {
  return (batch) => {
    const b = new Builder(name);
    const value = build(b, batch);
    const graph = b.finish([{ name: "y", value }]);
    const next = random(seed);
    const weights = new Map(graph.params.map((p) => {
      const { shape } = p.value.type;
      const fan = Math.max(1, size(shape.slice(1)));
      const scale = shape.length > 1 ? Math.sqrt(3 / fan) : 0.3;
      return [p.value.name, { shape, data: Float32Array.from({ length: size(shape) }, () => scale * next()) }] as const;
    }));
    return { name, graph, outputs: [{ name: "y", value }], weights };
  };
}

export function dense(b: Builder, x: Value, name: string, outputs: number, bias = true): Value {
  const rank = x.type.shape.length;
  const inputs = x.type.shape[rank - 1] as number;
  const w = b.param(`${name}.weight`, f32(outputs, inputs));
  const lead = "nabc".slice(0, rank - 1);
  const y = b.emit("contract", [x, w], { spec: `${lead}i,oi->${lead}o` });
  if (!bias) return y;
  return b.emit("add", [y, broadcast(b.emit, b.param(`${name}.bias`, f32(outputs)), y.type.shape, [rank - 1])]);
}

export interface ConvShape {
  readonly stride?: number;
  readonly pad?: number;
  readonly dilation?: number;
}

/** Patches of x [n, c, h, w] as [n, c, ho, kh, wo, kw]. */
export function patches(b: Builder, x: Value, k: number, { stride = 1, pad = 0, dilation = 1 }: ConvShape = {}): Value {
  const slide = (v: Value, axis: number): Value => {
    const count = Math.floor(((v.type.shape[axis] as number) + 2 * pad - (k - 1) * dilation - 1) / stride) + 1;
    return b.emit("window", [v], { axis, count, taps: k, stride, dilation, offset: -pad, divisor: 1 });
  };
  return slide(slide(x, 2), 4);
}

export function conv(b: Builder, x: Value, name: string, outputs: number, k: number, shape: ConvShape = {}): Value {
  const w = b.param(`${name}.weight`, f32(outputs, x.type.shape[1] as number, k, k));
  const y = b.emit("contract", [patches(b, x, k, shape), w], { spec: "nchiwj,ocij->nohw" });
  return b.emit("add", [y, broadcast(b.emit, b.param(`${name}.bias`, f32(outputs)), y.type.shape, [1])]);
}

/** x [n, widths[0]] through dense layers fc0, fc1, … of the other widths. */
export const mlp = (widths: readonly number[], act: Activation = "tanh", { bias = true, seed = 1 } = {}): Forward =>
  modelOf("mlp", seed, (b, batch) => {
    let x = b.input("x", f32(batch, widths[0] as number), 0);
    widths.slice(1).forEach((n, k) => {
      x = dense(b, k === 0 ? x : activate(b, x, act), `fc${k}`, n, bias);
    });
    return x;
  });

/** x [n, 2, 6, 6] → conv 3×3 (padded, stride 2) → act → conv 2×2 → act → dense: all there is to sharing weights. */
export const convnet = (classes = 3, act: Activation = "relu", seed = 2): Forward =>
  modelOf("convnet", seed, (b, batch) => {
    const x = b.input("x", f32(batch, 2, 6, 6), 0);
    const one = activate(b, conv(b, x, "conv0", 3, 3, { stride: 2, pad: 1 }), act);
    const two = activate(b, conv(b, one, "conv1", 2, 2), act);
    return dense(b, b.emit("reshape", [two], { shape: [batch, size(two.type.shape.slice(1))] }), "fc", classes);
  });

/** A dense layer, a gain (a layer of scales), and another dense layer. */
export const gained = (seed = 3): Forward =>
  modelOf("gained", seed, (b, batch) => {
    const h = b.emit("tanh", [dense(b, b.input("x", f32(batch, 4), 0), "fc0", 5)]);
    const gain = b.param("gain", f32(5));
    return dense(b, b.emit("mul", [h, broadcast(b.emit, gain, h.type.shape, [1])]), "fc1", 3);
  });

export const custom = modelOf;

export const options = (more: Partial<CompileOptions>): CompileOptions => ({ ...COMPILE_DEFAULTS, batches: [4], verify: true, ...more });

/** Every kind of program the tests of this project compile, by a name. */
export function programs(): Readonly<Record<string, () => Compiled>> {
  return {
    "mlp, softmax, mc": () => compile(mlp([4, 5, 3]), options({ loss: "softmax-ce" })),
    "mlp, softmax, exact, two batch sizes": () => compile(mlp([4, 5, 3], "relu"), options({ loss: "softmax-ce", fisher: { kind: "exact", samples: 1 }, batches: [4, 6] })),
    "mlp without bias, half-sse, empirical, decoupled": () =>
      compile(mlp([4, 5, 3], "tanh", { bias: false }), options({ loss: "half-sse", fisher: { kind: "empirical", samples: 1 }, weightDecayMode: "decoupled" })),
    "convnet, softmax, two samples": () => compile(convnet(), options({ loss: "softmax-ce", fisher: { kind: "mc", samples: 2 } })),
    "convnet, bernoulli, exact": () => compile(convnet(2, "tanh"), options({ loss: "bernoulli-ce", fisher: { kind: "exact", samples: 1 } })),
    "gain without a layer, mse": () => compile(gained(), options({ loss: "mse", layerOverride: { gain: "skip" } })),
    "mlp, adam": () => compile(mlp([4, 5, 3]), options({ loss: "softmax-ce", optimizer: "adam" })),
    "convnet, sgd": () => compile(convnet(), options({ loss: "softmax-ce", optimizer: "sgd" })),
  };
}

/** Default knobs and what a trainer would set besides. */
export const defaultFields = (): Record<string, number> => ({
  ...Object.fromEntries(RUN_FIELDS.map((f) => [f.name, RUN_KNOBS.find((k) => k.name === f.name)?.default ?? 0])), count: 1, emaBlend: 1,
});

/** Inputs and parameters of a graph: given ones, `run.*` from the fields, zeros (a scale: ones) for what is missing. */
export function bind(graph: Graph, given: Readonly<Record<string, NdArray>>, fields: Readonly<Record<string, number>>): Record<string, NdArray> {
  return Object.fromEntries([...graph.params, ...graph.inputs].map(({ value }) => {
    const { dtype, shape } = value.type;
    if (value.name.startsWith("run.")) return [value.name, ndarray(dtype, [], [dtype === "f32" ? Math.fround(fields[value.name.slice(4)] ?? 0) : (fields[value.name.slice(4)] ?? 0)])];
    return [value.name, given[value.name] ?? ndarray(dtype, shape, new Float64Array(size(shape)).fill(value.name.endsWith("/scale") ? 1 : 0))];
  }));
}

/** Runs the entries of a compiled program in float64 over named state, as a device would. */
export class HostRun {
  readonly state: Record<string, NdArray>;
  readonly compiled: Compiled;
  fields: Record<string, number>;

  constructor(compiled: Compiled, fields: Readonly<Record<string, number>> = {}) {
    this.compiled = compiled;
    this.fields = { ...defaultFields(), ...fields };
    this.state = Object.fromEntries([...compiled.weights].map(([name, w]) => [name, ndarray("f32", w.shape, w.data)]));
  }

  /** Results by name; those that are state replace it. */
  run(entry: string, inputs: Readonly<Record<string, NdArray>> = {}, fields: Readonly<Record<string, number>> = {}): Record<string, NdArray> {
    const graph = this.compiled.graphs.get(entry);
    if (!graph) throw new Error(`no entry "${entry}" among ${[...this.compiled.graphs.keys()].join(", ")}`);
    const results = evaluate(graph, bind(graph, { ...this.state, ...inputs }, { ...this.fields, ...fields }));
    const names = new Set(this.compiled.artifact.plan.buffers.filter((b) => b.kind === "state").map((b) => b.name));
    for (const [name, value] of Object.entries(results)) if (names.has(name)) this.state[name] = value;
    return results;
  }

  get(name: string): Float64Array {
    const found = this.state[name];
    if (!found) throw new Error(`no state "${name}" among ${Object.keys(this.state).join(", ")}`);
    return found.data;
  }

  /** A square matrix [n, n] of the state. Inverses are stored with rows of a multiple of four: what stands beyond n is left out. */
  square(name: string, n: number): Float64Array {
    const data = this.get(name);
    const width = Math.round(Math.sqrt(data.length));
    return Float64Array.from({ length: n * n }, (_, k) => data[Math.floor(k / n) * width + (k % n)] as number);
  }

  /** Statistics of one batch become the factors (blend 1) and new inverses are made. Returns the results of `front`. */
  front(inputs: Readonly<Record<string, NdArray>>, batch: number): Record<string, NdArray> {
    const results = this.run(`front.stats@${batch}`, inputs, { count: batch });
    this.run("refresh");
    return results;
  }
}

/**
 * Runs a graph on a device. All memory that the host does not write starts as NaN (integers: all bits set), because in a
 * longer run it holds what its last tenant left.
 */
export async function runPoisoned(device: GPUDevice, graph: Graph, given: Readonly<Record<string, NdArray>>, state: ReadonlySet<string> = new Set(), fields: Readonly<Record<string, number>> = {}) {
  const { plan, sources } = planProgram([{ name: "main", graph }], state, PORTABLE);
  const program = await Program.create(device, plan, sources);
  try {
    for (const b of plan.buffers) program.write(b.name, b.dtype === "f32" ? new Float32Array(b.bytes / 4).fill(Number.NaN) : new Uint32Array(b.bytes / 4).fill(0xffffffff));
    for (const { value } of [...graph.params, ...graph.inputs]) if (!value.name.startsWith("run.")) program.write(value.name, toHost(given[value.name] as NdArray));
    program.writeRun(fields);
    program.submit(["main"]);
    const arrays = await program.read(graph.results.map((r) => r.name));
    return { plan, sources, results: Object.fromEntries(graph.results.map((r, k) => [r.name, ndarray(r.value.type.dtype, r.value.type.shape, Float64Array.from(arrays[k] as HostArray))])) };
  } finally {
    await program.dispose();
  }
}

// Dense matrices as row-major arrays.

/** a [m, k] · b [k, n] */
export function matmul(a: ArrayLike<number>, b: ArrayLike<number>, m: number, k: number, n: number): Float64Array {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++) for (let p = 0; p < k; p++) for (let j = 0; j < n; j++) out[i * n + j] = (out[i * n + j] as number) + (a[i * k + p] as number) * (b[p * n + j] as number);
  return out;
}

export function transpose(a: ArrayLike<number>, m: number, n: number): Float64Array {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) out[j * m + i] = a[i * n + j] as number;
  return out;
}

/** Kronecker product of square matrices: index (i·nb + k, j·nb + l) = a[i, j] · b[k, l]. */
export function kron(a: ArrayLike<number>, na: number, b: ArrayLike<number>, nb: number): Float64Array {
  const n = na * nb;
  const out = new Float64Array(n * n);
  for (let i = 0; i < na; i++) for (let j = 0; j < na; j++) for (let k = 0; k < nb; k++) for (let l = 0; l < nb; l++)
    out[(i * nb + k) * n + j * nb + l] = (a[i * na + j] as number) * (b[k * nb + l] as number);
  return out;
}

/** Gauss–Jordan with partial pivoting. */
export function invert(a: ArrayLike<number>, n: number): Float64Array {
  const m = Array.from({ length: n }, (_, i) => [...Array.from({ length: n }, (_, j) => a[i * n + j] as number), ...Array.from({ length: n }, (_, j) => Number(i === j))]);
  for (let k = 0; k < n; k++) {
    let best = k;
    for (let i = k + 1; i < n; i++) if (Math.abs(m[i]?.[k] as number) > Math.abs(m[best]?.[k] as number)) best = i;
    [m[k], m[best]] = [m[best] as number[], m[k] as number[]];
    const row = m[k] as number[];
    const pivot = row[k] as number;
    for (let j = 0; j < 2 * n; j++) row[j] = (row[j] as number) / pivot;
    for (let i = 0; i < n; i++) {
      const other = m[i] as number[];
      const factor = other[k] as number;
      if (i !== k && factor !== 0) for (let j = 0; j < 2 * n; j++) other[j] = (other[j] as number) - factor * (row[j] as number);
    }
  }
  return Float64Array.from(m.flatMap((row) => row.slice(n)));
}

/** Largest |a − b| over the largest |b|. */
export function relative(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let [difference, scale] = [0, 0];
  for (let k = 0; k < b.length; k++) {
    const d = Math.abs((a[k] as number) - (b[k] as number));
    if (!(d <= difference)) difference = d;
    scale = Math.max(scale, Math.abs(b[k] as number));
  }
  return scale === 0 ? difference : difference / scale;
}

export const zeros = (t: Type): NdArray => ndarray(t.dtype, t.shape, new Float64Array(size(t.shape)));

/**
 * A training step in small: some parameters and inputs become state that results of their type overwrite, whatever those are
 * computed from (the old value, another input), or an earlier input itself.
 */
export function withState(graph: Graph, pick: (n: number) => number): { readonly graph: Graph; readonly state: ReadonlySet<string> } {
  const all = [...graph.params, ...graph.inputs].map((p) => p.value);
  const made = graph.nodes.flatMap((n) => n.results);
  const results = graph.results.filter((r) => !all.some((v) => v.name === r.name));
  const state = new Set<string>();
  all.forEach((target, k) => {
    // no two inputs change places: that would need a third buffer
    const fits = [...made, ...made, ...all.slice(0, k)].filter((v) => v.type.dtype === target.type.dtype && v.type.shape.join() === target.type.shape.join() && v !== target);
    if (fits.length === 0 || pick(3) === 0) return;
    results.push({ name: target.name, value: fits[pick(fits.length)] as Value });
    state.add(target.name);
  });
  return { graph: { ...graph, results }, state };
}
