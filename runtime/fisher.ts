/** The Fisher estimate of a trainer: its running factors. */
import type { Tensor } from "./tensors.js";
import type { TrainerCore } from "./state.js";

export interface Factors {
  /** [in(+1), in(+1)] */
  readonly A: Tensor;
  /** [out, out] */
  readonly G: Tensor;
}

export class Fisher {
  readonly #trainer: TrainerCore;

  constructor(trainer: TrainerCore) {
    this.#trainer = trainer;
  }

  /** Running averages of A and G by layer name. */
  factors(): Promise<Record<string, Factors>> {
    return this.#square("A", "G", (A, G) => ({ A, G }));
  }

  /** The damped inverses in use. */
  inverses(): Promise<Record<string, { readonly Ainv: Tensor; readonly Ginv: Tensor }>> {
    return this.#square("Ainv", "Ginv", (Ainv, Ginv) => ({ Ainv, Ginv }));
  }

  #square<T>(first: string, second: string, make: (a: Tensor, b: Tensor) => T): Promise<Record<string, T>> {
    const { program, layers } = this.#trainer;
    return this.#trainer.task(async () => {
      const out: Record<string, T> = {};
      for (const l of layers) {
        const names = [`kfac/${l.name}/${first}`, `kfac/${l.name}/${second}`];
        const [a, b] = await program.read(names) as [Float32Array, Float32Array];
        out[l.name] = make({ shape: [l.dA, l.dA], data: corner(a, l.dA) }, { shape: [l.dG, l.dG], data: corner(b, l.dG) });
      }
      return out;
    });
  }
}

/** The first n rows and columns of a square matrix: stored inverses have a few rows of zeros more. */
function corner(data: Float32Array, n: number): Float32Array {
  const rows = Math.round(Math.sqrt(data.length));
  if (rows === n) return data;
  const out = new Float32Array(n * n);
  for (let k = 0; k < n; k++) out.set(data.subarray(k * rows, k * rows + n), k * n);
  return out;
}
