/** The counted work of a specification, handed out to the dispatches that it became: what `kfacc profile` divides by time. */
import type { Buffer, Kernel, Lowered } from "./kernel.js";
import type { Spec } from "./lower.js";
import { type KernelWork, kernelWork } from "./work.js";

/**
 * One figure per kernel of `lowered`, in order.
 *
 * One kernel does it all. A split sum's arithmetic is its first kernel's, and each of its kernels moves the partial sums it binds. A sum by
 * index adds in its last kernel, after sorting. Of an inverse's many kernels the sweeps do the arithmetic, by their
 * workgroups; the others bring the matrix into shape and back. Where nothing better is known, a kernel moves what it binds, once.
 */
export function dispatchWork(spec: Spec, { kernels, scratch }: Lowered): readonly KernelWork[] {
  const total = kernelWork(spec);
  if (kernels.length === 1) return [total];
  switch (spec.kind) {
    case "inverse": {
      const shares = sweepShares(kernels, total.flops);
      return kernels.map((k, i) => ({ flops: Math.round(total.flops * (shares[i] as number)), bytes: bytesOf(boundBy(k)) }));
    }
    case "scatter":
      return kernels.map((k, i) => ({ flops: i === kernels.length - 1 ? total.flops : 0, bytes: bytesOf(boundBy(k)) }));
    default: {
      const partials = new Set(scratch);
      return kernels.map((k, i) => {
        const bytes = bytesOf(boundBy(k).filter((b) => partials.has(b)));
        return i === 0 ? { flops: total.flops, bytes: total.bytes + bytes } : { flops: 0, bytes };
      });
    }
  }
}

/** Each kernel's part of the arithmetic: that of a small inverse is known, the sweeps share the rest by their workgroups. */
function sweepShares(kernels: readonly Kernel[], all: number): number[] {
  const groups = (k: Kernel): number => k.workgroups.reduce((n, w) => n * w, 1);
  const own = kernels.map((k) => Number(/^inverse_(\d+)$/.exec(k.name)?.[1] ?? 0) ** 3 * groups(k));
  const sweeps = kernels.map((k) => (/^inverse_(panel|update)$/.test(k.name) ? groups(k) : 0));
  const rest = 1 - sum(own) / all;
  return kernels.map((_, i) => (own[i] as number) / all + rest * (sweeps[i] as number) / Math.max(1, sum(sweeps)));
}

const sum = (list: readonly number[]): number => list.reduce((n, x) => n + x, 0);

const boundBy = (k: Kernel): readonly Buffer[] => [...new Set(k.bindings.flatMap((b) => (b.kind === "buffer" ? [b.buffer] : [])))];

const bytesOf = (buffers: readonly Buffer[]): number => 4 * buffers.reduce((n, b) => n + b.elements, 0);
