/**
 * The Fisher matrix of a trainer's model: running factors, estimates over a data set, exact products and diagonals on batches.
 * F is a mean over examples throughout. The algebra of estimates is in `fisher-estimate.ts`.
 */
import { type LayerInfo, RuntimeFault } from "./artifact.js";
import { type FisherProgress, gatherStatistics, meanOver, readRunning } from "./fisher-device.js";
import { Estimate } from "./fisher-estimate.js";
import type { EstimateInfo } from "./fisher-layers.js";
import { checkedVector, type ParamShape, type VectorOptions } from "./fisher-vectors.js";
import type { Vector, VectorResult } from "./kronecker.js";
import type { TrainerCore } from "./state.js";
import { type Batch, targetsOf, type Tensor } from "./tensors.js";

export interface EstimateOptions {
  /** Called as batches are enqueued. */
  readonly onBatch?: (done: FisherProgress) => void;
  /** Of sampled targets; default: the trainer's. The same seed, data and weights give the same estimate. */
  readonly seed?: number;
}

export interface ExactOptions {
  /** exact (default): the Fisher over the model's own predictions, which is the Gauss–Newton matrix · empirical: Σ g·gᵀ with the data's targets. */
  readonly kind?: "exact" | "empirical";
}

/** Of one layer; with a leading axis of groups where there are several, and diagonals as vectors. */
export interface Factors {
  /** [in(+1), in(+1)] */
  readonly A: Tensor;
  /** [out, out] */
  readonly G: Tensor;
}

/** [groups, d] or [groups, d, d] without an axis of one group. */
const shapeOf = (l: LayerInfo, d: number, diagonal = false): number[] => [...(l.groups > 1 ? [l.groups] : []), ...(diagonal ? [d] : [d, d])];

export class Fisher {
  readonly #trainer: TrainerCore;

  constructor(trainer: TrainerCore) {
    this.#trainer = trainer;
  }

  /** Running averages of A and G by layer name, for layers that have them. */
  async factors(): Promise<Record<string, Factors>> {
    const read = await this.#read((l) => (l.form === "kronecker" ? ["A", "G"] : []));
    return Object.fromEntries(read.map(([l, [A, G]]) => [l.name, {
      A: { shape: shapeOf(l, l.dA, l.sides.A === "diagonal"), data: A as Float32Array },
      G: { shape: shapeOf(l, l.dG, l.sides.G === "diagonal"), data: G as Float32Array },
    }]));
  }

  /** Running blocks [groups, dG·dA, dG·dA] of the layers that have those (scales of normalisations). */
  async blocks(): Promise<Record<string, Tensor>> {
    const read = await this.#read((l) => (l.form === "block" ? ["F"] : []));
    return Object.fromEntries(read.map(([l, [F]]) => [l.name, { shape: shapeOf(l, l.dG * l.dA), data: F as Float32Array }]));
  }

  /** The damped inverses in use, where the device makes them (`inverse: "pi"`). */
  async inverses(): Promise<Record<string, { readonly Ainv: Tensor; readonly Ginv: Tensor }>> {
    const read = await this.#read((l) => (l.form === "kronecker" && this.#trainer.artifact.inverse === "pi" ? ["Ainv", "Ginv"] : []));
    const side = (l: LayerInfo, s: "A" | "G", data: Float32Array): Tensor => {
      const d = s === "A" ? l.dA : l.dG;
      const diagonal = l.sides[s] === "diagonal";
      return { shape: shapeOf(l, d, diagonal), data: diagonal ? data : corners(data, l.groups, d) };
    };
    return Object.fromEntries(read.map(([l, [A, G]]) => [l.name, { Ainv: side(l, "A", A as Float32Array), Ginv: side(l, "G", G as Float32Array) }]));
  }

  /**
   * Factors of a whole data set at the weights of now, as means over its examples (by weight, where batches have weights), and the mean
   * gradient. Batches of any size: larger ones than the program takes are cut. The training state is left exactly as it is; it runs in order
   * with steps that are under way.
   *
   * @throws RuntimeFault "bad-option" between gradients() and update(), or without K-FAC; "bad-data" for no example; "diverged" for factors
   *   that are not finite
   */
  async estimate(data: Iterable<Batch>, options: EstimateOptions = {}): Promise<Estimate> {
    const t = this.#trainer;
    this.#requireFactors("estimate()");
    this.#requireClosed("estimate()");
    const { layers, gradient, examples, count } = await t.task(() => gatherStatistics(t, data, options.seed ?? t.state.seed, options.onBatch));
    return new Estimate({ ...this.#info("data"), examples, count }, layers, this.#params(), gradient);
  }

  /** The running averages of training. @throws RuntimeFault "bad-option" before the first statistics, or without K-FAC */
  async current(): Promise<Estimate> {
    const t = this.#trainer;
    this.#requireFactors("current()");
    const layers = await t.task(async () => {
      if (t.state.statSteps === 0) throw new RuntimeFault("bad-option", "there are no running averages before the first step", "current()", "train a step, or use estimate(data)");
      return readRunning(t);
    });
    return new Estimate(this.#info("running"), layers, this.#params());
  }

  /**
   * F·v on a batch, or on several, for all trainable parameters, with or without a layer: no approximation but float32.
   * Where the model mixes the examples of a batch, whole batches alone, and F is that of the batch's mean loss.
   *
   * @throws RuntimeFault "bad-data" for a name that is no trainable parameter, another shape, or (unless `missing: "zero"`) a missing one
   */
  async multiply(v: Vector, data: Batch | Iterable<Batch>, options: ExactOptions & VectorOptions = {}): Promise<VectorResult> {
    const t = this.#trainer;
    const copy = checkedVector(this.#params(), v, options);
    const empirical = kindOf(options) === "empirical";
    return t.task(() => meanOver(t, empirical ? "fvp.empirical" : "fvp", "fvp", batchesOf(data), empirical, copy));
  }

  /** The diagonal of that F. @throws RuntimeFault "bad-option" unless the program was compiled for it */
  async diagonal(data: Batch | Iterable<Batch>, options: ExactOptions = {}): Promise<VectorResult> {
    const t = this.#trainer;
    const empirical = kindOf(options) === "empirical";
    const name = empirical ? "diagonal.empirical" : "diagonal";
    if (!t.artifact.plan.entries[`${name}@${Math.max(...t.artifact.batches)}`])
      throw new RuntimeFault("bad-option", "the program has no entry for the Fisher's diagonal", "diagonal()", "compile with --fisher-diagonal, or use the diagonal of an estimate");
    return t.task(() => meanOver(t, name, "diag", batchesOf(data), empirical));
  }

  #params(): ParamShape[] {
    return this.#trainer.artifact.params.filter((p) => p.trainable).map(({ name, shape }) => ({ name, shape }));
  }

  #info(source: EstimateInfo["source"]): EstimateInfo {
    const { artifact } = this.#trainer;
    const { kind, samples } = artifact.fisher;
    const losses = targetsOf(artifact).map(({ output, loss, weight }) => ({ output, loss, weight }));
    return { model: artifact.name, source, fisher: { kind, samples: kind === "mc" || kind === "cp" ? samples : 1 }, losses, examples: null, count: null };
  }

  #requireFactors(where: string): void {
    const { artifact, layers } = this.#trainer;
    if (artifact.optimizer !== "kfac") throw new RuntimeFault("bad-option", `a program for ${artifact.optimizer} has no factors`, where, "compile with --optimizer kfac");
    if (layers.length === 0) throw new RuntimeFault("bad-option", "the model has no layer", where, "kfacc layers says why; multiply(v, batch) needs none");
  }

  /** Gradients that wait for their update are where an estimate would put its own. */
  #requireClosed(where: string): void {
    if (this.#trainer.accumulating) throw new RuntimeFault("bad-option", `${where} between gradients() and update()`, where, "finish the accumulation with update()");
  }

  #read(parts: (l: LayerInfo) => readonly string[]): Promise<[LayerInfo, Float32Array[]][]> {
    const { program, layers } = this.#trainer;
    return this.#trainer.task(async () => {
      const out: [LayerInfo, Float32Array[]][] = [];
      for (const l of layers) {
        const names = parts(l).map((p) => `kfac/${l.name}/${p}`);
        if (names.length > 0) out.push([l, await program.read(names) as Float32Array[]]);
      }
      return out;
    });
  }
}

const batchesOf = (data: Batch | Iterable<Batch>): Iterable<Batch> => (Symbol.iterator in data ? (data as Iterable<Batch>) : [data as Batch]);

function kindOf({ kind = "exact" }: ExactOptions): "exact" | "empirical" {
  if (kind === "exact" || kind === "empirical") return kind;
  throw new RuntimeFault("bad-option", `kind must be exact or empirical, not ${JSON.stringify(kind)}`, "kind");
}

/** The first n rows and columns of each of several square matrices: stored inverses have a few rows of zeros more. */
function corners(data: Float32Array, groups: number, n: number): Float32Array {
  const rows = Math.round(Math.sqrt(data.length / groups));
  if (rows === n) return data;
  const out = new Float32Array(groups * n * n);
  for (let g = 0; g < groups; g++) for (let k = 0; k < n; k++) out.set(data.subarray((g * rows + k) * rows, (g * rows + k) * rows + n), (g * n + k) * n);
  return out;
}
