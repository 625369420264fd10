/** One step on a device against the exact quantities: gradients, factors and preconditioned gradients, with bounds for float32. */
import type { NdArray } from "../../ir/ndarray.js";
import type { OpenDevice } from "../../runtime/device.js";
import type { HostArray } from "../../runtime/program.js";
import type { Batch, Tensor } from "../../runtime/tensors.js";
import { Trainer } from "../../runtime/trainer.js";
import { cholesky, eigen, largestBound, matmul, plusDiagonal, solve, traceOf, transpose } from "./dense.js";
import { exampleGradients } from "./factors.js";
import { toMatrix } from "./layout.js";
import type { ExactLayer } from "./layers.js";
import { type Check, compared, held, info, skipped } from "./report.js";
import { outputAmplification, type Scene } from "./scene.js";
import { relativeError } from "./values.js";

/** Forward and backward in float32: a unit roundoff of 6e-8, times the depth and the length of sums, far below. A wrong term is not. */
const ALLOWED = 1e-4;
/** Relative error of a row in float32 after some tens of roundings on the way; sums that cancel amplify it. */
const ROW = 64 * 2 ** -24;
/** Errors of a solution are bounded by condition number × error of the matrix; above this such a bound says nothing. */
const HOPELESS = 0.1;
const EPSILON = 2 ** -23;
const MAX_SOLVE = 1200;
const MAX_EIGEN = 300;

export interface DeviceState {
  readonly read: ReadonlyMap<string, Float64Array>;
  readonly damping: number;
}

/** One step from the model's weights: momentum 0, no norm constraint, no decay; what it leaves in the state. */
export async function stepOnDevice(open: OpenDevice, s: Scene): Promise<DeviceState> {
  const { artifact, sources } = s.compiled;
  const weights = artifact.params.map((p): [string, Tensor] => [p.name, { shape: p.shape, data: Float32Array.from((s.named[p.name] as NdArray).data) }]);
  const trainer = await Trainer.create(open.device, artifact, sources, Object.fromEntries(weights), {
    run: { momentum: 0, klClip: 0, weightDecay: 0, lr: 1e-6 },
    host: { factorPeriod: 1, inversePeriod: 1, burnIn: 0, emaDebias: true },
  });
  try {
    await trainer.step(batchOf(s)).loss;
    const wanted = artifact.plan.buffers.filter((b) => b.kind === "state" && /^(kfac|grad|opt)\//.test(b.name)).map((b) => b.name);
    const arrays = await trainer.task(() => trainer.program.read(wanted));
    return { read: new Map(wanted.map((name, k) => [name, Float64Array.from(arrays[k] as HostArray)])), damping: Math.fround(trainer.run.damping) };
  } finally {
    await trainer.dispose().catch(() => {});
  }
}

function batchOf(s: Scene): Batch {
  const tensor = (a: NdArray): Tensor => ({ shape: a.shape, data: a.dtype === "f32" || a.dtype === "f16" ? Float32Array.from(a.data) : Int32Array.from(a.data) });
  const byOutput = (which: "target" | "drawn") => Object.fromEntries(s.heads.map((h) => [h.head.output, tensor(h[which])]));
  const drawn = s.compiled.model.fisher.kind === "mc" && s.heads.every((h) => h.head.loss.kind !== "custom");
  return {
    ...Object.fromEntries(s.source.graph.inputs.map(({ value }) => [value.name, tensor(s.named[value.name] as NdArray)])),
    target: byOutput("target"), ...(drawn ? { mcTargets: byOutput("drawn") } : {}),
  };
}

/** The first `rows` × `columns` of stored matrices, which may be padded, per group. */
function corner(data: Float64Array, groups: number, rows: number, columns: number): Float64Array {
  if (data.length === groups * rows * columns) return data;
  const stored = data.length / groups;
  // padded to multiples of 4 as described where inverses are stored
  const up = (n: number): number => (n < 16 ? n : Math.ceil(n / 4) * 4);
  const [r, c] = [[rows, columns], [up(rows), columns], [rows, up(columns)], [up(rows), up(columns)]].find(([a, b]) => (a as number) * (b as number) === stored) ?? [0, 0];
  if (r === 0) return new Float64Array(groups * rows * columns).fill(Number.NaN);
  const out = new Float64Array(groups * rows * columns);
  for (let g = 0; g < groups; g++)
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) out[(g * rows + i) * columns + j] = data[g * stored + i * (c as number) + j] as number;
  return out;
}

/** @param inverse pi, eig or ekfac */
export function deviceChecks(s: Scene, state: DeviceState, exact: ExactLayer, inverse: string): Check[] {
  const { layer, layout, factors, gradient } = exact;
  const { groups, dA, dG } = layout;
  const checks: Check[] = [];
  const sum = state.read.get(`grad/${layer.name}`);
  const gradientError = sum ? relativeError(sum.map((x) => x / s.examples), gradient) : Number.POSITIVE_INFINITY;
  checks.push(sum ? compared("gpu gradient", gradientError, Math.min(HOPELESS, ALLOWED + ROW * exact.cancellation * outputAmplification(s, "target")), exact.cancellation > 50 ? `its terms cancel to one part in ${Math.round(exact.cancellation)}` : "") : held("gpu gradient", false, `the program keeps no "grad/${layer.name}"`));
  if (!factors) return [...checks, skipped("gpu factors", "nothing exact to compare with")];
  const errors: Record<string, number> = {};
  // exact columns are functions of z of size 1 at most; sampled and true targets enter as differences
  const rowErrors = s.compiled.model.fisher.kind === "exact" ? 1 : outputAmplification(s, s.compiled.model.fisher.kind === "empirical" ? "target" : "drawn");
  for (const [part, want] of Object.entries(factors)) {
    const got = state.read.get(`kfac/${layer.name}/${part}`);
    errors[part] = got ? relativeError(got, want) : Number.POSITIVE_INFINITY;
    checks.push(got ? compared(`gpu ${part}`, errors[part] as number, part === "A" ? ALLOWED : Math.min(HOPELESS, ALLOWED + ROW * rowErrors)) : held(`gpu ${part}`, false, `the program keeps no "kfac/${layer.name}/${part}"`));
  }
  const [w, b] = [state.read.get(`opt/m/${layer.weight.param.name}`), layer.bias && state.read.get(`opt/m/${layer.bias.param.name}`)];
  if (!w) return [...checks, held("gpu direction", false, `the program keeps no "opt/m/${layer.weight.param.name}"`)];
  const got = toMatrix(layout, w, b);
  const lambda = state.damping * (state.read.get(`kfac/${layer.name}/scale`)?.[0] ?? 1);
  const name = "gpu direction";
  if ("F" in factors) {
    const n = dG * dA;
    const want = perGroup(groups, (g) => {
      const F = cut(factors.F, g, n * n);
      return withSolve(plusDiagonal(F, n, lambda), n, cut(gradient, g, n), 1);
    });
    const kappa = Math.max(...Array.from({ length: groups }, (_, g) => largestBound(cut(factors.F, g, n * n), n) / lambda + 1));
    return [...checks, direction(name, got, want, kappa * ((errors.F as number) + n * EPSILON) + gradientError, "(F + λI)⁻¹∇ by a dense solve in float64")];
  }
  if (inverse === "pi") {
    if (Math.max(layer.sides.A === "full" ? dA : 0, layer.sides.G === "full" ? dG : 0) > MAX_SOLVE) return [...checks, skipped(name, `a side of more than ${MAX_SOLVE} rows`)];
    let kappaSum = 0;
    const want = perGroup(groups, (g) => {
      const side = (which: "A" | "G") => {
        const d = which === "A" ? dA : dG;
        const full = layer.sides[which] === "full";
        const m = cut(factors[which], g, full ? d * d : d);
        return { d, full, m, trace: full ? traceOf(m, d) : m.reduce((x, y) => x + y, 0) };
      };
      const [A, G] = [side("A"), side("G")];
      const pi = A.trace > 0 && G.trace > 0 ? Math.sqrt(A.trace / dA / (G.trace / dG)) : 1;
      const [dampA, dampG] = [pi * Math.sqrt(lambda), Math.sqrt(lambda) / pi];
      const kappa = (x: typeof A, damp: number): number => (x.full ? largestBound(x.m, x.d) : Math.max(...x.m)) / damp + 1;
      kappaSum = Math.max(kappaSum, kappa(A, dampA) * ((errors.A as number) + dA * EPSILON) + kappa(G, dampG) * ((errors.G as number) + dG * EPSILON));
      const apply = (x: typeof A, damp: number, M: Float64Array, columns: number): Float64Array | undefined =>
        x.full ? withSolve(plusDiagonal(x.m, x.d, damp), x.d, M, columns) : M.map((v, k) => v / ((x.m[Math.floor(k / columns)] as number) + damp));
      const left = apply(G, dampG, cut(gradient, g, dG * dA), dA);
      const right = left && apply(A, dampA, transpose(left, dG, dA), dG);
      return right && transpose(right, dA, dG);
    });
    return [...checks, direction(name, got, want, kappaSum + gradientError, "(G + √λ/π I)⁻¹ ∇ (A + π√λ I)⁻¹ by dense solves in float64")];
  }
  return [...checks, ...eigenChecks(s, state, exact, got, lambda, inverse, errors, gradientError)];
}

const cut = (a: Float64Array, g: number, n: number): Float64Array => a.slice(g * n, (g + 1) * n);

function perGroup(groups: number, make: (g: number) => Float64Array | undefined): Float64Array | undefined {
  const parts = Array.from({ length: groups }, (_, g) => make(g));
  if (parts.some((p) => p === undefined)) return undefined;
  const n = (parts[0] as Float64Array).length;
  const out = new Float64Array(groups * n);
  parts.forEach((p, g) => out.set(p as Float64Array, g * n));
  return out;
}

function withSolve(m: Float64Array, n: number, b: Float64Array, columns: number): Float64Array | undefined {
  const l = cholesky(m, n);
  return l && solve(l, n, b, columns);
}

/** `amplified`: condition numbers times the errors of what went in. */
function direction(name: string, got: Float64Array, want: Float64Array | undefined, amplified: number, note: string): Check {
  if (!want) return held(name, false, "the exact factors with damping are not positive definite");
  const error = relativeError(got, want);
  const allowed = 2 * amplified + ALLOWED;
  if (allowed > HOPELESS && error > HOPELESS && error <= allowed) return info(name, error, `${note}; too badly conditioned in float32 for a verdict`);
  return compared(name, error, Math.min(allowed, HOPELESS), note);
}

/** Directions in eigenbases. `eig`: against its own decomposition of the exact factors; `ekfac`: in the program's bases, which must be bases. */
function eigenChecks(s: Scene, state: DeviceState, exact: ExactLayer, got: Float64Array, lambda: number, inverse: string, errors: Readonly<Record<string, number>>, gradientError: number): Check[] {
  const { layer, layout, rows, gradient } = exact;
  const { groups, dA, dG } = layout;
  const factors = exact.factors as { readonly A: Float64Array; readonly G: Float64Array };
  const checks: Check[] = [];
  const name = "gpu direction";
  const sideOf = (which: "A" | "G") => ({ which, d: which === "A" ? dA : dG, full: layer.sides[which] === "full" });
  const [A, G] = [sideOf("A"), sideOf("G")];
  const large = [A, G].some((x) => x.full && x.d > (inverse === "eig" ? MAX_EIGEN : MAX_SOLVE));
  if (large) return [skipped(name, "a side is too large for dense eigenvectors here")];
  const stored = new Map([A, G].flatMap((x) => {
    const u = state.read.get(`kfac/${layer.name}/U${x.which}`);
    return x.full && u ? [[x.which, corner(u, groups, x.d, x.d)] as const] : [];
  }));
  for (const x of [A, G]) {
    if (!x.full) continue;
    const U = stored.get(x.which);
    if (!U) return [held(name, false, `the program keeps no "kfac/${layer.name}/U${x.which}"`)];
    checks.push(basisCheck(`gpu U${x.which}`, U, factors[x.which], groups, x.d, errors[x.which] as number));
  }
  const turn = (M: Float64Array, g: number, back: boolean, bases: ReadonlyMap<string, Float64Array>): Float64Array => {
    let out = M;
    const [UG, UA] = [bases.get("G"), bases.get("A")];
    if (UG) out = matmul(back ? cut(UG, g, dG * dG) : transpose(cut(UG, g, dG * dG), dG, dG), out, dG, dG, dA);
    if (UA) out = matmul(out, back ? transpose(cut(UA, g, dA * dA), dA, dA) : cut(UA, g, dA * dA), dG, dA, dA);
    return out;
  };
  const own = new Map<string, Float64Array>();
  const values = new Map<string, Float64Array>();
  if (inverse === "eig") {
    for (const x of [A, G]) {
      const made = Array.from({ length: groups }, (_, g) => (x.full ? eigen(cut(factors[x.which], g, x.d * x.d), x.d) : { values: cut(factors[x.which], g, x.d), vectors: new Float64Array(0) }));
      values.set(x.which, Float64Array.from(made.flatMap((m) => [...m.values])));
      if (x.full) own.set(x.which, Float64Array.from(made.flatMap((m) => [...m.vectors])));
    }
  }
  const bases = inverse === "eig" ? own : stored;
  let scalings: Float64Array;
  if (inverse === "eig") scalings = Float64Array.from({ length: groups * dG * dA }, (_, k) => (values.get("G")?.[Math.floor(k / dA)] as number) * (values.get("A")?.[Math.floor(k / (dG * dA)) * dA + (k % dA)] as number));
  else {
    scalings = new Float64Array(groups * dG * dA);
    for (const column of rows ? exampleGradients(rows) : [])
      for (const u of column)
        for (let g = 0; g < groups; g++)
          turn(cut(u, g, dG * dA), g, false, bases).forEach((v, k) => { scalings[g * dG * dA + k] = (scalings[g * dG * dA + k] as number) + (v * v) / s.examples / (rows?.samples ?? 1); });
    const S = state.read.get(`kfac/${layer.name}/S`);
    checks.push(S ? compared("gpu S", relativeError(corner(S, groups, dG, dA), scalings), 10 * ALLOWED, "E[(U_Gᵀ ∇_n U_A)²] in the program's bases") : held("gpu S", false, `the program keeps no "kfac/${layer.name}/S"`));
  }
  const want = perGroup(groups, (g) => {
    const inside = turn(cut(gradient, g, dG * dA), g, false, bases);
    return turn(inside.map((v, k) => v / ((scalings[g * dG * dA + k] as number) + lambda)), g, true, bases);
  });
  const kappa = Math.max(...scalings) / lambda + 1;
  checks.push(direction(name, got, want, kappa * ((errors.A as number) + (errors.G as number) + (dA + dG) * EPSILON) + gradientError, inverse === "eig" ? "(A⊗G + λI)⁻¹∇ by eigenvectors in float64" : "U_G[(U_Gᵀ∇U_A)/(S + λ)]U_Aᵀ in the program's bases, in float64"));
  return checks;
}

/** UᵀU = I and UᵀFU diagonal. */
function basisCheck(name: string, U: Float64Array, F: Float64Array, groups: number, d: number, factorError: number): Check {
  let error = 0;
  for (let g = 0; g < groups; g++) {
    const [u, f] = [cut(U, g, d * d), cut(F, g, d * d)];
    const ut = transpose(u, d, d);
    const gram = matmul(ut, u, d, d, d);
    const unit = Float64Array.from({ length: d * d }, (_, k) => (k % (d + 1) === 0 ? 1 : 0));
    const turned = matmul(matmul(ut, f, d, d, d), u, d, d, d);
    error = Math.max(error, relativeError(gram, unit), relativeError(turned.map((x, k) => (k % (d + 1) === 0 ? x : 0)), turned));
  }
  return compared(name, error, Math.min(HOPELESS, ALLOWED * 10 + 4 * factorError), "UᵀU = I, and UᵀFU is diagonal");
}
