/**
 * An estimate of the Fisher matrix: the factors of every layer with what they mean, and the algebra of `kronecker.ts` over them.
 * Needs no device: estimates come from `trainer.fisher` or from a file.
 */
import { type LayerInfo, RuntimeFault } from "./artifact.js";
import { loadEstimate, saveEstimate } from "./fisher-file.js";
import { CONVENTIONS, type EstimatedLayer, type EstimateInfo, factorShape, type LayerFactors, partsOf } from "./fisher-layers.js";
import { checkedVector, type ParamShape, type VectorOptions } from "./fisher-vectors.js";
import { type DampingOptions, KroneckerFisher, type PlainOptions, type Vector, type VectorResult } from "./kronecker.js";

/**
 * The Kronecker-factored Fisher F, a mean over examples, and what is done with it. Vectors are keyed by parameter name. Parameters without
 * a layer are refused by name unless `plain: "identity"` leaves them as they are; parameters of layers that v lacks are refused unless
 * `missing: "zero"`. Methods that need eigenvalues are promises: they are made in workers, once.
 */
export class Estimate {
  readonly conventions = CONVENTIONS;
  readonly layers: readonly LayerInfo[];
  readonly #fisher: KroneckerFisher;
  readonly #layers: readonly EstimatedLayer[];
  readonly #covered: ReadonlySet<string>;

  /**
   * @param params trainable parameters
   * @param gradient mean gradient of the loss over the same data, where it is known
   * @throws RuntimeFault "bad-data" if a factor is missing or has another size; "diverged" if one is not finite
   */
  constructor(readonly info: EstimateInfo, layers: readonly EstimatedLayer[], readonly params: readonly ParamShape[], readonly gradient?: VectorResult) {
    this.#layers = layers;
    this.layers = layers.map(({ A: _a, G: _g, F: _f, ...l }) => l);
    this.#fisher = new KroneckerFisher(layers, Object.fromEntries(params.map((p) => [p.name, p.shape])));
    this.#covered = new Set(layers.flatMap((l) => [l.params.weight, ...(l.params.bias === null ? [] : [l.params.bias])]));
  }

  /** What `save` wrote. @throws RuntimeFault "bad-data", "bad-checkpoint" if the file is no estimate or damaged */
  static load(bytes: Uint8Array): Estimate {
    const { info, layers, params } = loadEstimate(bytes);
    return new Estimate(info, layers, params);
  }

  /** A safetensors file: `<layer>/A`, `<layer>/G`, `<layer>/F` in float64, everything else as metadata. */
  save(): Uint8Array {
    return saveEstimate(this.info, this.#layers, this.params);
  }

  /** Sum of the weights of the examples; null for running averages. */
  get count(): number | null {
    return this.info.count;
  }

  /** Trainable parameters that belong to no layer: F says nothing about them. */
  get uncovered(): readonly string[] {
    return this.params.filter((p) => !this.#covered.has(p.name)).map((p) => p.name);
  }

  /** A and G, or F, by layer name. The arrays are the estimate's own: leave them as they are. */
  factors(): Record<string, LayerFactors> {
    return Object.fromEntries(this.#layers.map((l) => [l.name, Object.fromEntries(partsOf(l).map((part) => [part, { shape: factorShape(l, part), data: l[part] as Float64Array }]))]));
  }

  /** F·v. Exact products are `trainer.fisher.multiply`. */
  multiply(v: Vector, options: VectorOptions & PlainOptions = {}): VectorResult {
    return this.#fisher.multiply(this.#checked(v, options), options);
  }

  /** (F + λI)⁻¹·v; `form: "pi"`: with K-FAC's factored damping, (G + √λ/π·I)⁻¹·V·(A + π√λ·I)⁻¹. @throws RuntimeFault "bad-option" if that is singular */
  async multiplyInverse(v: Vector, options: { readonly damping: number; readonly form?: "pi" | "eig" } & VectorOptions & PlainOptions): Promise<VectorResult> {
    const copy = this.#checked(v, options);
    await this.#fisher.prepare();
    return this.#fisher.multiplyInverse(copy, options);
  }

  /** (F + λI)^exponent · v for any real exponent. @throws RuntimeFault "bad-option" if it is negative and F + λI singular */
  async power(v: Vector, exponent: number, options: DampingOptions & VectorOptions & PlainOptions = {}): Promise<VectorResult> {
    const copy = this.#checked(v, options);
    await this.#fisher.prepare();
    return this.#fisher.power(copy, exponent, options);
  }

  /** S·v with S·Sᵀ = F + λI; S is the symmetric root. */
  async multiplySqrt(v: Vector, options: DampingOptions & VectorOptions & PlainOptions = {}): Promise<VectorResult> {
    return this.power(v, 0.5, options);
  }

  /** Of one layer's F + λI, ascending: [groups·out·in]. */
  async eigenvalues(layer: string, options: DampingOptions = {}): Promise<Float64Array> {
    await this.#fisher.prepare({ vectors: false });
    return this.#fisher.eigenvalues(layer, options);
  }

  /** log det(F + λI) over the parameters of layers; −∞ if it is singular. */
  async logdet(options: DampingOptions = {}): Promise<number> {
    await this.#fisher.prepare({ vectors: false });
    return this.#fisher.logdet(options);
  }

  /** Of F, or of one layer's part of it. */
  trace(layer?: string): number {
    return this.#fisher.trace(layer);
  }

  /** ‖F‖, or that of one layer's part of it. */
  frobenius(layer?: string): number {
    return this.#fisher.frobenius(layer);
  }

  /** The diagonal of F by parameter, for those of layers; NaN where only a part of a parameter belongs to one. */
  diagonal(): VectorResult {
    return this.#fisher.diagonal();
  }

  /** One layer's F as a matrix [n, n], n = groups·out·in, in the order (group, out, in). @throws RuntimeFault "bad-option" above 4096 rows */
  dense(layer: string): Float64Array {
    return this.#fisher.dense(layer);
  }

  /**
   * Draws from N(0, (F + λI)⁻¹) over the parameters of layers; the same seed gives the same draws. For a Laplace approximation of n examples
   * under a prior N(0, I/τ), whose precision is n·F + τI: damping τ/n, and the draws divided by √n.
   */
  async sample(options: { readonly damping: number; readonly seed: number; readonly count?: number }): Promise<VectorResult[]> {
    await this.#fisher.prepare();
    return this.#fisher.sample({ ...options, count: options.count ?? 1 });
  }

  #checked(v: Vector, options: VectorOptions & PlainOptions): VectorResult {
    const copy = checkedVector(this.params, v, options, (name) => this.#covered.has(name));
    const plain = Object.keys(copy).find((name) => !this.#covered.has(name));
    if (plain !== undefined && options.plain !== "identity")
      throw new RuntimeFault("bad-data", `the parameter "${plain}" belongs to no layer: its Fisher is unknown`, `parameter "${plain}"`, 'leave it out, pass plain: "identity" to leave it as it is, or use trainer.fisher.multiply, which knows every parameter');
    return copy;
  }
}
