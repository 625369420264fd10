/** The Fisher estimate of a trainer: its running curvature. */
import type { LayerInfo } from "./artifact.js";
import type { Tensor } from "./tensors.js";
import type { TrainerCore } from "./state.js";

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

/** The first n rows and columns of each of several square matrices: stored inverses have a few rows of zeros more. */
function corners(data: Float32Array, groups: number, n: number): Float32Array {
  const rows = Math.round(Math.sqrt(data.length / groups));
  if (rows === n) return data;
  const out = new Float32Array(groups * n * n);
  for (let g = 0; g < groups; g++) for (let k = 0; k < n; k++) out.set(data.subarray((g * rows + k) * rows, (g * rows + k) * rows + n), (g * n + k) * n);
  return out;
}
