/** How the learning rate changes over a run. */

export interface Schedule {
  readonly kind: "constant" | "linear" | "cosine" | "step";
  /** Steps in which the rate rises from 0. */
  readonly warmup: number;
  /** Fraction of the rate at the end (linear, cosine). */
  readonly end: number;
  /** Epochs between drops, and the factor of one (step). */
  readonly every: number;
  readonly gamma: number;
}

export const CONSTANT: Schedule = { kind: "constant", warmup: 0, end: 0, every: 1, gamma: 1 };

/** Factor of the learning rate at step `step` (from 0) of `total`. */
export function rateAt(s: Schedule, step: number, total: number, perEpoch: number): number {
  if (step < s.warmup) return (step + 1) / (s.warmup + 1);
  // the last step is just before the end
  const progress = Math.min(1, (step - s.warmup) / Math.max(1, total - s.warmup));
  switch (s.kind) {
    case "constant": return 1;
    case "linear": return 1 + (s.end - 1) * progress;
    case "cosine": return s.end + ((1 - s.end) * (1 + Math.cos(Math.PI * progress))) / 2;
    case "step": return s.gamma ** Math.floor(step / perEpoch / s.every);
    default: return s.kind satisfies never;
  }
}
