/**
 * Eigenbases of the running factors, for the damping forms `eig` and `ekfac`: read back, decomposed in float64 beside the main thread,
 * and written to the device.
 *
 *   A = U_A diag(s_A) U_Aᵀ, G likewise, per group;   S = s_G s_Aᵀ (what EKFAC then replaces by the gradient's second moments)
 *
 * A diagonal side is its own eigenbasis and has no U.
 */
import type { LayerInfo } from "./artifact.js";
import type { Eigen } from "./eigen.js";
import { type EigenJob, eigenMany } from "./offthread.js";
import type { TrainerCore } from "./state.js";

type Side = "A" | "G";

/** One group's eigenvalues (ascending; a diagonal side's in its own order) and, on a full side, its eigenvectors as columns. */
interface SideEigen {
  readonly values: Float64Array;
  readonly vectors: Float64Array | undefined;
}

const sideSize = (l: LayerInfo, side: Side): number => (side === "A" ? l.dA : l.dG);

/** Decompositions of both sides of every group, by layer. @throws RuntimeFault "diverged" naming the factor that is not finite. */
async function decompose(layers: readonly LayerInfo[], factor: (layer: LayerInfo, side: Side) => ArrayLike<number>): Promise<Map<LayerInfo, Record<Side, readonly SideEigen[]>>> {
  const jobs: EigenJob[] = [];
  const waiting: ((done: readonly Eigen[]) => SideEigen)[] = [];
  for (const l of layers)
    for (const side of ["A", "G"] as const) {
      const [d, all] = [sideSize(l, side), factor(l, side)];
      for (let g = 0; g < l.groups; g++) {
        if (l.sides[side] === "diagonal") {
          const values = Float64Array.from({ length: d }, (_, k) => all[g * d + k] as number);
          waiting.push(() => ({ values, vectors: undefined }));
          continue;
        }
        const at = jobs.length;
        jobs.push({ name: `factor ${side} of layer "${l.name}"${l.groups > 1 ? `, group ${g}` : ""}`, n: d, data: Float64Array.from({ length: d * d }, (_, k) => all[g * d * d + k] as number) });
        waiting.push((done) => done[at] as Eigen);
      }
    }
  const done = await eigenMany(jobs, { consume: true });
  const made = waiting.map((take) => take(done));
  let at = 0;
  const next = (count: number): SideEigen[] => {
    at += count;
    return made.slice(at - count, at);
  };
  return new Map(layers.map((l) => [l, { A: next(l.groups), G: next(l.groups) }] as const));
}

/** Puts blocks [d, d] into the corners of [groups, rows, columns] of zeros. */
function stored(groups: number, rows: number, columns: number, at: (g: number, i: number, j: number) => number, d: readonly [number, number]): Float32Array {
  const out = new Float32Array(groups * rows * columns);
  for (let g = 0; g < groups; g++)
    for (let i = 0; i < d[0]; i++)
      for (let j = 0; j < d[1]; j++) out[(g * rows + i) * columns + j] = at(g, i, j);
  return out;
}

/** New eigenbases of every layer that inverts in one, and S = s_G s_Aᵀ. */
export async function refreshEigenbases(t: Pick<TrainerCore, "layers" | "program">): Promise<void> {
  const layers = t.layers.filter((l) => l.form === "kronecker");
  if (layers.length === 0) return;
  const { program } = t;
  const arrays = await program.read(layers.flatMap((l) => [`kfac/${l.name}/A`, `kfac/${l.name}/G`]));
  const made = await decompose(layers, (l, side) => arrays[2 * layers.indexOf(l) + (side === "A" ? 0 : 1)] as Float32Array);
  for (const l of layers) {
    const sides = made.get(l) as Record<Side, readonly SideEigen[]>;
    const last = (name: string): number => program.buffer(name).info.shape?.slice(-1)[0] as number;
    for (const side of ["A", "G"] as const) {
      if (l.sides[side] === "diagonal") continue;
      const d = sideSize(l, side);
      const name = `kfac/${l.name}/U${side}`;
      const rows = last(name);
      program.write(name, stored(l.groups, rows, rows, (g, i, j) => ((sides[side][g] as SideEigen).vectors as Float64Array)[i * d + j] as number, [d, d]));
    }
    const name = `kfac/${l.name}/S`;
    const [rows, columns] = (program.buffer(name).info.shape as number[]).slice(-2) as [number, number];
    // rounding may leave the least eigenvalues of a semidefinite factor below zero
    const value = (side: Side, g: number, k: number): number => Math.max(0, (sides[side][g] as SideEigen).values[k] as number);
    program.write(name, stored(l.groups, rows, columns, (g, i, j) => value("G", g, i) * value("A", g, j), [l.dG, l.dA]));
  }
}
