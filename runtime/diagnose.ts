/**
 * What K-FAC does to each layer, worked out on the host in float64 from what the last step left on the device. Nothing is added to a step, and
 * nothing that training goes on from is touched.
 *
 *   spectrum   the eigenvalues of the layer's block: products of those of A and G (pi), the S that is divided by (eig, ekfac), those of F (block),
 *              D itself (diagonal)
 *   share      median of the spectrum / λ: how much of a typical direction's denominator is curvature
 *   effective rank   (Σ s)² / Σ s², from 1 (one direction has it all) to the number of eigenvalues (all alike)
 *
 * ∇ is the mean gradient of the last step's loss, without weight decay, and P what the inverses of now make of it.
 */
import { type LayerInfo, RuntimeFault, type RunScalars } from "./artifact.js";
import { between, clamped, type Group, groupsOf, inBases, type KroneckerLayer, type Side, trace } from "./factored.js";
import { eigenMany } from "./offthread.js";
import type { Program } from "./program.js";
import type { TrainerCore } from "./state.js";

export interface LayerDiagnosis {
  /** Its name; of a parameter without a layer that has a diagonal Fisher, the parameter's. */
  readonly layer: string;
  /** How damping enters: `--inverse`, or one exact block per group, or a diagonal. */
  readonly form: "pi" | "eig" | "ekfac" | "block" | "diagonal";
  /** λ times what failed inverses raised it by. */
  readonly lambda: number;
  /** How λ is split between A and G by the factors of now: median over groups. null where it is not split. */
  readonly pi: number | null;
  readonly medianEigenvalue: number;
  readonly largestEigenvalue: number;
  /** medianEigenvalue / lambda. */
  readonly share: number;
  readonly effectiveRank: number;
  /** Number of eigenvalues: the layer's numbers. */
  readonly dimension: number;
  /** cos(P, ∇); 1: the layer moves as by gradient descent. null where one of them is 0. */
  readonly cosine: number | null;
  /** |∇| and |P|, before the norm constraint. */
  readonly gradientNorm: number;
  readonly directionNorm: number;
  /** What the norm constraint multiplied all directions of the last step with. */
  readonly nu: number;
  /** Steps since the inverse that the last step used was made; null: unknown, of a checkpoint that does not say. A diagonal has none. */
  readonly age: number | null;
}

/** Eigenvalues of a group's block are the products a·g; both ascending. */
interface Spectrum {
  readonly a: Float64Array;
  readonly g: Float64Array;
}

const ONE = Float64Array.of(1);
const UNIT: Side = { n: 1, full: false, data: ONE, name: "1" };
const sum = (values: Float64Array): number => values.reduce((s, x) => s + x, 0);
const squares = (values: Float64Array): number => values.reduce((s, x) => s + x * x, 0);
const sorted = (values: Float64Array): Float64Array => clamped(values).sort();

/**
 * @param run the knobs when the question was asked
 * @throws RuntimeFault "bad-option" without K-FAC, or before the first step (or the first after a restore)
 */
export async function diagnose(t: TrainerCore, run: Readonly<RunScalars>): Promise<LayerDiagnosis[]> {
  const { artifact, program, state, gradientCount } = t;
  if (artifact.optimizer !== "kfac") throw new RuntimeFault("bad-option", `a program for ${artifact.optimizer} has no curvature to explain`, "diagnose()", "compile with --optimizer kfac");
  if (gradientCount === undefined) throw new RuntimeFault("bad-option", "there is no gradient of a step to explain", "diagnose()", "call it after a step");
  if (t.gradientEntry !== undefined) {
    await program.prepare([t.gradientEntry]);
    program.submit([t.gradientEntry]);
    t.gradientEntry = undefined;
  }
  const made = await inverseSteps(t);
  const nu = program.hasBuffer("stat/nu") ? ((await program.read(["stat/nu"]))[0]?.[0] as number) : 1;
  const last = state.stepCount - 1;
  const out: LayerDiagnosis[] = [];
  for (const [k, layer] of t.layers.entries()) {
    const lambda = run.damping * (state.scales[k] as number);
    const [sums] = await doubles(program, [`grad/${layer.name}`]);
    const gradient = (sums as Float64Array).map((x) => x / gradientCount);
    const at = made[k] as number;
    const facts = layer.form === "block" || artifact.inverse === "pi" ? await inverted(program, layer, gradient) : await inEigenbases(program, layer, gradient, lambda);
    out.push({
      layer: layer.name, form: layer.form === "block" ? "block" : artifact.inverse, lambda, pi: facts.pi, ...spread(facts.spectra, lambda), ...angle(facts.direction, gradient), nu,
      age: at < 0 ? null : last - at,
    });
  }
  for (const { name } of artifact.params.filter((p) => program.hasBuffer(`kfac/${p.name}/D`))) {
    const [sums, D] = (await doubles(program, [`grad/${name}`, `kfac/${name}/D`])) as [Float64Array, Float64Array];
    const gradient = sums.map((x) => x / gradientCount);
    const direction = gradient.map((x, k) => x / ((D[k] as number) + run.damping));
    out.push({ layer: name, form: "diagonal", lambda: run.damping, pi: null, ...spread([{ a: ONE, g: sorted(D) }], run.damping), ...angle(direction, gradient), nu, age: 0 });
  }
  return out;
}

/** The step that made each layer's inverse of now: what the host has not reacted to yet is known to the device already. */
async function inverseSteps(t: TrainerCore): Promise<readonly number[]> {
  const made = [...t.state.invertedAt];
  for (const p of t.pending) {
    if (!p.refreshed) continue;
    const { clean } = await p.values;
    clean.forEach((ok, k) => { if (ok === 1) made[k] = p.step; });
  }
  return made;
}

const doubles = async (program: Program, names: readonly string[]): Promise<Float64Array[]> => (await program.read(names)).map((x) => Float64Array.from(x));

interface Facts {
  readonly spectra: readonly Spectrum[];
  readonly pi: number | null;
  readonly direction: Float64Array;
}

/** Layers whose inverses the device makes: G⁻¹ · M · A⁻¹ with those, or F⁻¹ vec M; the spectrum is that of the running factors. */
async function inverted(program: Program, layer: LayerInfo, gradient: Float64Array): Promise<Facts> {
  const block = layer.form === "block";
  const slot = (part: string): string => `kfac/${layer.name}/${part}`;
  const parts = block ? ["F"] : ["A", "G"];
  const factors = await doubles(program, parts.map(slot));
  const whole: KroneckerLayer = { ...layer, ...Object.fromEntries(parts.map((part, k) => [part, factors[k]])) };
  const groups = groupsOf(whole);
  const sides = groups.flatMap(({ left, right }) => [left, right]);
  const jobs = sides.filter((s) => s.full);
  const found = await eigenMany(jobs, { vectors: false });
  const valuesOf = (s: Side): Float64Array => sorted(s.full ? (found[jobs.indexOf(s)] as (typeof found)[number]).values : s.data);
  const stored = await doubles(program, (block ? ["Finv"] : ["Ginv", "Ainv"]).map(slot));
  const direction = perGroup(groups, gradient, (group, M, k) => {
    const inverse = (s: Side, data: Float64Array | undefined): Side => ({ ...s, data: corner(data as Float64Array, groups.length, k, s.n, s.n, s.full) });
    return between({ ...group, left: block ? UNIT : inverse(group.left, stored[0]), right: inverse(group.right, stored[block ? 0 : 1]) }, M);
  });
  return { spectra: groups.map(({ left, right }) => ({ a: valuesOf(right), g: valuesOf(left) })), pi: block ? null : median(groups.map(ratio)), direction };
}

/** Layers with eigenbases from the host: U_G [(U_Gᵀ M U_A) / (S + λ)] U_Aᵀ. */
async function inEigenbases(program: Program, layer: LayerInfo, gradient: Float64Array, lambda: number): Promise<Facts> {
  const slot = (part: string): string => `kfac/${layer.name}/${part}`;
  const { dG, dA, sides } = layer;
  const full = (["A", "G"] as const).filter((s) => sides[s] === "full");
  const bases = await doubles(program, full.map((s) => slot(`U${s}`)));
  const [S] = (await doubles(program, [slot("S")])) as [Float64Array];
  const [, columns] = (program.buffer(slot("S")).info.shape as number[]).slice(-2) as [number, number];
  const each = Array.from({ length: layer.groups }, (_, k) => corner(S, layer.groups, k, dG, dA, true, columns));
  // a side's "eigenvalues" are its indices: S has one number for each pair of them
  const basis = (s: "A" | "G", d: number, k: number) => ({
    values: Float64Array.from({ length: d }, (_, i) => i),
    vectors: full.includes(s) ? corner(bases[full.indexOf(s)] as Float64Array, layer.groups, k, d, d, true) : undefined,
  });
  const group: Group = { rows: dG, columns: dA, left: UNIT, right: UNIT };
  const direction = perGroup(each.map(() => group), gradient, (g, M, k) =>
    inBases(g, { left: basis("G", dG, k), right: basis("A", dA, k) }, M, (o, i) => 1 / (((each[k] as Float64Array)[o * dA + i] as number) + lambda)));
  return { spectra: each.map((s) => ({ a: ONE, g: sorted(s) })), pi: null, direction };
}

function perGroup(groups: readonly Group[], M: Float64Array, f: (group: Group, part: Float64Array, k: number) => Float64Array): Float64Array {
  const out = new Float64Array(M.length);
  let at = 0;
  groups.forEach((group, k) => {
    const end = at + group.rows * group.columns;
    out.set(f(group, M.subarray(at, end), k), at);
    at = end;
  });
  return out;
}

/** The first rows and columns of one of several stored matrices, whose rows may be longer; of a diagonal, its numbers. */
function corner(data: Float64Array, groups: number, k: number, rows: number, columns: number, full: boolean, stride?: number): Float64Array {
  const size = data.length / groups;
  const part = data.subarray(k * size, (k + 1) * size);
  if (!full) return part.slice(0, rows);
  const width = stride ?? Math.round(Math.sqrt(size));
  const out = new Float64Array(rows * columns);
  for (let r = 0; r < rows; r++) out.set(part.subarray(r * width, r * width + columns), r * columns);
  return out;
}

/** π = √((tr A / dim A) / (tr G / dim G)), 1 if a trace is 0. */
function ratio({ left, right, rows, columns }: Group): number {
  const [A, G] = [trace(right) / columns, trace(left) / rows];
  return A > 0 && G > 0 ? Math.sqrt(A / G) : 1;
}

function median(values: readonly number[]): number {
  const order = [...values].sort((a, b) => a - b);
  return ((order[Math.floor((order.length - 1) / 2)] as number) + (order[Math.floor(order.length / 2)] as number)) / 2;
}

function spread(spectra: readonly Spectrum[], lambda: number) {
  const dimension = spectra.reduce((n, { a, g }) => n + a.length * g.length, 0);
  const total = spectra.reduce((s, { a, g }) => s + sum(a) * sum(g), 0);
  const second = spectra.reduce((s, { a, g }) => s + squares(a) * squares(g), 0);
  const middle = (nth(spectra, Math.floor((dimension - 1) / 2)) + nth(spectra, Math.floor(dimension / 2))) / 2;
  return { medianEigenvalue: middle, largestEigenvalue: largest(spectra), share: middle / lambda, effectiveRank: second > 0 ? total ** 2 / second : 0, dimension };
}

const largest = (spectra: readonly Spectrum[]): number => Math.max(...spectra.map(({ a, g }) => (a[a.length - 1] as number) * (g[g.length - 1] as number)));

/**
 * The product with so many before it in ascending order. A layer may have millions of them: they are counted, not made. Doubles that are not
 * negative are in the order of their bits, which are halved 63 times.
 */
function nth(spectra: readonly Spectrum[], rank: number): number {
  const number = new Float64Array(1);
  const bits = new BigUint64Array(number.buffer);
  const at = (b: bigint): number => {
    bits[0] = b;
    return number[0] as number;
  };
  number[0] = largest(spectra);
  let [low, high] = [0n, bits[0] as bigint];
  while (low < high) {
    const middle = (low + high) >> 1n;
    if (spectra.reduce((n, s) => n + countUpTo(s, at(middle)), 0) > rank) high = middle;
    else low = middle + 1n;
  }
  return at(low);
}

/** How many products are at most x. */
function countUpTo({ a, g }: Spectrum, x: number): number {
  let [count, j] = [0, g.length];
  for (const factor of a) {
    while (j > 0 && factor * (g[j - 1] as number) > x) j--;
    count += j;
  }
  return count;
}

function angle(direction: Float64Array, gradient: Float64Array) {
  const [directionNorm, gradientNorm] = [Math.sqrt(squares(direction)), Math.sqrt(squares(gradient))];
  const inner = direction.reduce((s, x, k) => s + x * (gradient[k] as number), 0);
  const both = directionNorm * gradientNorm;
  return { cosine: both > 0 ? inner / both : null, gradientNorm, directionNorm };
}
