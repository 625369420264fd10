/**
 * The algebra of a Kronecker-factored Fisher, on the host in float64.
 *
 * F is block diagonal over layers and their groups. With V [dG, dA] the matrix form of a layer's part of a vector
 * (bias in the last column; V row-major is the vector, so F = G ⊗ A in the order o·dA + i):
 *
 *   F·v = G·V·A         A = U_A·diag(a)·U_Aᵀ, G = U_G·diag(g)·U_Gᵀ
 *   f(F + λI)·v = U_G·[f(g·aᵀ + λ) ⊙ (U_Gᵀ·V·U_A)]·U_Aᵀ
 *
 * A diagonal side has U = I; a block layer has one exact F per group and its own U. Eigenvalues that rounding has made
 * negative count as 0.
 * Source: Martens & Grosse 2015, sections 3, 6.3 (π); George et al. 2018, section 3 (eigenbases).
 */
import { RuntimeFault } from "./artifact.js";
import { eigen } from "./eigen.js";
import { type Bases, type Basis, between, clamped, diagonalOf, type Group, groupsOf, inBases, type KroneckerLayer, normals, perGroup, range, regular, type Side, squares, trace } from "./factored.js";
import { eachElement, fromMatrix, type Numbers, toMatrix } from "./matrix.js";
import { eigenMany } from "./offthread.js";

export type { KroneckerLayer };

/** A vector over parameters, by name. */
export type Vector = Readonly<Record<string, Numbers>>;
export type VectorResult = Record<string, { readonly shape: readonly number[]; readonly data: Float64Array }>;

export interface PlainOptions {
  /** What to do about parameters of which no layer knows the Fisher: leave them as they are. Absent: they are refused. */
  readonly plain?: "identity";
}

export interface DampingOptions {
  /** λ ≥ 0, added to every eigenvalue. Default 0. */
  readonly damping?: number;
}

const DENSE_ROWS = 4096; // 128 MiB of float64

const checkDamping = ({ damping = 0 }: DampingOptions): number => {
  if (!(damping >= 0 && Number.isFinite(damping))) throw new RuntimeFault("bad-option", `damping must be a finite number ≥ 0, not ${damping}`, "damping");
  return damping;
};

export class KroneckerFisher {
  readonly #layers: readonly { readonly layer: KroneckerLayer; readonly groups: readonly Group[] }[];
  readonly #shapes: Readonly<Record<string, readonly number[]>>;
  readonly #bases = new Map<Side, Basis>();
  /** Eigenvalues of sides whose eigenvectors nobody has asked for. */
  readonly #values = new Map<Side, Float64Array>();
  /** Parameter → how many of its numbers belong to layers. */
  readonly #covered = new Map<string, number>();

  /**
   * @param layers with their factors, which are kept, not copied
   * @param shapes shape of every parameter of a layer
   * @throws RuntimeFault "bad-data" if a factor is missing or has another size; "diverged" if one is not finite
   */
  constructor(layers: readonly KroneckerLayer[], shapes: Readonly<Record<string, readonly number[]>>) {
    this.#layers = layers.map((layer) => ({ layer, groups: groupsOf(layer) }));
    this.#shapes = shapes;
    for (const layer of layers) eachElement(layer, (_, param) => this.#covered.set(param, (this.#covered.get(param) ?? 0) + 1));
    for (const param of this.#covered.keys()) if (!Object.hasOwn(shapes, param)) throw new RuntimeFault("bad-data", `the shape of the parameter "${param}" is missing`, "shapes");
  }

  /**
   * Makes all eigenbases now, beside the main thread. Without it each is made, on this thread, when it is first needed.
   * `vectors: false`: the eigenvalues alone, which is all that `eigenvalues` and `logdet` need, at a fraction of the work.
   */
  async prepare(options: { readonly workers?: number; readonly vectors?: boolean } = {}): Promise<void> {
    const whole = options.vectors ?? true;
    const sides = this.#layers.flatMap(({ groups }) => groups.flatMap(({ left, right }) => [left, right]))
      .filter((s) => s.full && !this.#bases.has(s) && (whole || !this.#values.has(s)));
    const found = await eigenMany(sides, options);
    sides.forEach((side, k) => {
      const { values, vectors } = found[k] as (typeof found)[number];
      if (whole) this.#bases.set(side, { values: clamped(values), vectors });
      else this.#values.set(side, clamped(values));
    });
  }

  /** F·v: Σ over layers of G·V·A. Two products of matrices per layer. */
  multiply(v: Vector, options: PlainOptions = {}): VectorResult {
    return this.#each(v, options, (group, x) => between(group, x));
  }

  /**
   * The damped inverse times v. `eig` (default): (F + λI)⁻¹ exactly. `pi`: (G + √λ/π·I)⁻¹·V·(A + π√λ·I)⁻¹ with
   * π = √((tr A/dA)/(tr G/dG)) of each group, 1 if a trace is 0; block layers: as eig.
   *
   * @throws RuntimeFault "bad-option" if what is to be inverted is singular in float64
   */
  multiplyInverse(v: Vector, options: { readonly damping: number; readonly form?: "pi" | "eig" } & PlainOptions): VectorResult {
    if ((options.form ?? "eig") === "eig") return this.power(v, -1, options);
    const damping = checkDamping(options);
    return this.#each(v, options, (group, x, layer) => {
      if (layer.form === "block") return this.#power(group, x, -1, damping, layer);
      const means = [trace(group.right) / group.columns, trace(group.left) / group.rows] as const;
      const pi = means[0] > 0 && means[1] > 0 ? Math.sqrt(means[0] / means[1]) : 1;
      const root = Math.sqrt(damping);
      const bases = this.#basesOf(group);
      regular(range(bases.left.values), root / pi, layer);
      regular(range(bases.right.values), root * pi, layer);
      return inBases(group, bases, x, (g, a) => 1 / ((g + root / pi) * (a + root * pi)));
    });
  }

  /**
   * (F + λI)^exponent · v for any real exponent, through eigenbases.
   *
   * @throws RuntimeFault "bad-option" if the exponent is negative and F + λI singular in float64
   */
  power(v: Vector, exponent: number, options: DampingOptions & PlainOptions = {}): VectorResult {
    if (!Number.isFinite(exponent)) throw new RuntimeFault("bad-option", `the exponent must be a finite number, not ${exponent}`, "exponent");
    const damping = checkDamping(options);
    return this.#each(v, options, (group, x, layer) => this.#power(group, x, exponent, damping, layer));
  }

  /** S·v with S·Sᵀ = F + λI; S is the symmetric root. */
  multiplySqrt(v: Vector, options: DampingOptions & PlainOptions = {}): VectorResult {
    return this.power(v, 0.5, options);
  }

  /** Eigenvalues of one layer's F + λI, ascending: [groups·dG·dA]. */
  eigenvalues(layer: string, options: DampingOptions = {}): Float64Array {
    const damping = checkDamping(options);
    const out = perGroup(this.#find(layer).groups, (group) => this.#spectrum(group));
    return out.map((s) => s + damping).sort();
  }

  /** tr F = Σ tr A · tr G, over all layers or of one. */
  trace(layer?: string): number {
    return this.#sum(({ left, right }) => trace(left) * trace(right), layer);
  }

  /** ‖F‖_F = √Σ ‖A‖²·‖G‖², over all layers or of one. */
  frobenius(layer?: string): number {
    return Math.sqrt(this.#sum(({ left, right }) => squares(left) * squares(right), layer));
  }

  /** log det(F + λI) over the parameters of layers; −∞ if it is singular. */
  logdet(options: DampingOptions = {}): number {
    const damping = checkDamping(options);
    return this.#sum((group) => this.#spectrum(group).reduce((sum, s) => sum + Math.log(s + damping), 0));
  }

  /** The diagonal of F by parameter; parts of a parameter that belong to no layer are NaN. */
  diagonal(): VectorResult {
    return this.#build((group) => {
      const [g, a] = [diagonalOf(group.left), diagonalOf(group.right)];
      return Float64Array.from({ length: group.rows * group.columns }, (_, k) => (g[Math.floor(k / group.columns)] as number) * (a[k % group.columns] as number));
    });
  }

  /**
   * One layer's F as a matrix [n, n], n = groups·dG·dA, in the order (group, out, in); zero between groups.
   *
   * @throws RuntimeFault "bad-option" above 4096 rows
   */
  dense(layer: string): Float64Array {
    const { groups, layer: { groups: count, dA, dG } } = this.#find(layer);
    const [each, n] = [dG * dA, count * dG * dA];
    if (n > DENSE_ROWS) throw new RuntimeFault("bad-option", `the Fisher of "${layer}" as a matrix would have ${n} rows; at most ${DENSE_ROWS} are made`, `layer "${layer}"`, "use multiply, eigenvalues or diagonal");
    const out = new Float64Array(n * n);
    groups.forEach(({ columns, left, right }, k) => {
      const entry = (side: Side, r: number, c: number): number => (side.full ? (side.data[r * side.n + c] as number) : r === c ? (side.data[r] as number) : 0);
      for (let r = 0; r < each; r++)
        for (let c = 0; c < each; c++)
          out[(k * each + r) * n + k * each + c] = entry(left, Math.floor(r / columns), Math.floor(c / columns)) * entry(right, r % columns, c % columns);
    });
    return out;
  }

  /** `count` draws from N(0, (F + λI)⁻¹) over the parameters of layers; the same seed gives the same draws. Parts without a layer: NaN. */
  sample(options: { readonly damping: number; readonly seed: number; readonly count: number }): VectorResult[] {
    const damping = checkDamping(options);
    const key = [options.seed >>> 0, Math.floor(options.seed / 2 ** 32) >>> 0] as const;
    return Array.from({ length: options.count }, (_, draw) => {
      let at = 0;
      return this.#build((group, layer) => {
        const noise = normals(group.rows * group.columns, at++, draw, key);
        return this.#power(group, noise, -0.5, damping, layer);
      });
    });
  }

  #find(name: string): { readonly layer: KroneckerLayer; readonly groups: readonly Group[] } {
    const found = this.#layers.find(({ layer }) => layer.name === name);
    if (!found) throw new RuntimeFault("bad-option", `there is no layer "${name}"`, "layer", `layers are ${this.#layers.map(({ layer }) => layer.name).join(", ")}`);
    return found;
  }

  #sum(f: (group: Group) => number, only?: string): number {
    const layers = only === undefined ? this.#layers : [this.#find(only)];
    return layers.reduce((sum, { groups }) => groups.reduce((inner, group) => inner + f(group), sum), 0);
  }

  #basis(side: Side): Basis {
    let basis = this.#bases.get(side);
    if (!basis) {
      const { values, vectors } = side.full ? eigen(side.n, side.data, side.name) : { values: side.data, vectors: undefined };
      basis = { values: clamped(values), vectors };
      this.#bases.set(side, basis);
    }
    return basis;
  }

  #basesOf({ left, right }: Group): Bases {
    return { left: this.#basis(left), right: this.#basis(right) };
  }

  /** g_o·a_i, unsorted. */
  #spectrum(group: Group): Float64Array {
    const [g, a] = [this.#valuesOf(group.left), this.#valuesOf(group.right)];
    return Float64Array.from({ length: group.rows * group.columns }, (_, k) => (g[Math.floor(k / group.columns)] as number) * (a[k % group.columns] as number));
  }

  #valuesOf(side: Side): Float64Array {
    return this.#bases.get(side)?.values ?? this.#values.get(side) ?? this.#basis(side).values;
  }

  #power(group: Group, x: Float64Array, exponent: number, damping: number, layer: KroneckerLayer): Float64Array {
    const bases = this.#basesOf(group);
    const [g, a] = [range(bases.left.values), range(bases.right.values)];
    if (exponent < 0) regular([g[0] * a[0], g[1] * a[1]], damping, layer);
    return inBases(group, bases, x, (g, a) => (g * a + damping) ** exponent);
  }

  /** f of the matrix form of every group of every layer that v holds; other parameters as `plain` says. */
  #each(v: Vector, { plain }: PlainOptions, f: (group: Group, x: Float64Array, layer: KroneckerLayer) => Float64Array): VectorResult {
    const out: VectorResult = {};
    for (const [param, { shape, data }] of Object.entries(v)) {
      const covered = this.#covered.get(param) ?? 0;
      if (covered < data.length && plain !== "identity")
        throw new RuntimeFault("bad-data", `the Fisher of the parameter "${param}" is unknown: ${covered > 0 ? "a part of it" : "it"} belongs to no layer`, `parameter "${param}"`, 'leave it out, or pass plain: "identity" to leave it as it is');
      out[param] = { shape, data: Float64Array.from(data) };
    }
    for (const { layer, groups } of this.#layers) {
      if (![layer.params.weight, layer.params.bias].some((param) => param !== null && Object.hasOwn(v, param))) continue;
      const x = toMatrix(layer, v);
      fromMatrix(layer, perGroup(groups, (group, at, end) => f(group, x.subarray(at, end), layer)), out);
    }
    return out;
  }

  /** Tensors of all parameters of layers from the matrix form of every group. */
  #build(f: (group: Group, layer: KroneckerLayer) => Float64Array): VectorResult {
    const out: VectorResult = {};
    for (const param of this.#covered.keys()) {
      const shape = this.#shapes[param] as readonly number[];
      out[param] = { shape, data: new Float64Array(shape.reduce((n, d) => n * d, 1)).fill(Number.NaN) };
    }
    for (const { layer, groups } of this.#layers) fromMatrix(layer, perGroup(groups, (group) => f(group, layer)), out);
    return out;
  }
}
