/**
 * What the compiler is held to on llvmpipe: every figure a multiple of the yardstick, the median of three processes, or a figure of its
 * own unit. `stretch` is what would be better still. Hand-written kernels and other libraries' figures stand beside, as measured once.
 */
import type { Facts, Results, Row } from "./result.js";

export type Figure = "yards" | keyof Facts;

export interface Mark {
  readonly what: string;
  readonly row: string;
  readonly figure: Figure;
  readonly most: number;
  readonly stretch?: number;
  readonly hand?: string;
  /** jax-js / tfjs-webgpu. */
  readonly peers?: string;
}

export const MARKS: readonly Mark[] = [
  { what: "matmul 512³", row: "matmul/512", figure: "yards", most: 0.65, stretch: 0.52, hand: "0.52–0.62", peers: "1.8 / 1.75" },
  { what: "conv 32×16×28²→32, 3×3 + bias + relu", row: "conv/plain/forward", figure: "yards", most: 0.43, stretch: 0.32, hand: "0.32–0.38", peers: "1.6 / 2.0" },
  { what: "both its gradients", row: "conv/plain/gradients", figure: "yards", most: 0.88, stretch: 0.7, hand: "0.70–0.76", peers: "4.1 / 18" },
  { what: "its A factor (144²)", row: "conv/plain/factor", figure: "yards", most: 0.87, stretch: 0.4, hand: "0.34–0.76" },
  { what: "inverse 785", row: "inverse/785", figure: "yards", most: 2, stretch: 1.2, hand: "2.8–4.0" },
  { what: "MLP SGD step", row: "mlp/sgd", figure: "yards", most: 0.5, stretch: 0.4, hand: "0.39–0.44", peers: "1.4 / 2.2" },
  { what: "  its dispatches", row: "mlp/sgd", figure: "dispatches", most: 12, hand: "9", peers: "34 / 54" },
  { what: "  its submits", row: "mlp/sgd", figure: "submits", most: 1 },
  { what: "LeNet SGD step", row: "lenet/sgd", figure: "yards", most: 0.53, stretch: 0.38, hand: "0.37–0.46", peers: "3.0 / 13" },
  { what: "  its dispatches", row: "lenet/sgd", figure: "dispatches", most: 20, hand: "17", peers: "59 / 86" },
  { what: "  its submits", row: "lenet/sgd", figure: "submits", most: 1 },
  { what: "MLP K-FAC step, clip and decay off", row: "mlp/kfac-10-off", figure: "yards", most: 2.1, stretch: 1.5, hand: "1.57–1.76" },
  { what: "MLP K-FAC step, clip and decay on", row: "mlp/kfac-10", figure: "yards", most: 2.9 },
  { what: "LeNet K-FAC step, clip and decay off", row: "lenet/kfac-10-off", figure: "yards", most: 1.5, stretch: 1.1, hand: "1.0–1.26" },
  { what: "LeNet K-FAC step, clip and decay on", row: "lenet/kfac-10", figure: "yards", most: 1.7 },
  { what: "MLP K-FAC step, amortised (10/100)", row: "mlp/kfac-100", figure: "yards", most: 1.2 },
  { what: "LeNet K-FAC step, amortised (10/100)", row: "lenet/kfac-100", figure: "yards", most: 0.75 },
  { what: "ResNet-20 memory / sum of all tensors", row: "resnet20/kfac-10", figure: "memoryShare", most: 0.6 },
  { what: "MLP first step, cold, ms", row: "mlp/first", figure: "firstColdMs", most: 3000 },
  { what: "  with the driver's cache, ms", row: "mlp/first", figure: "firstWarmMs", most: 300 },
  { what: "LeNet first step, cold, ms", row: "lenet/first", figure: "firstColdMs", most: 5000 },
  { what: "  with the driver's cache, ms", row: "lenet/first", figure: "firstWarmMs", most: 500 },
  { what: "kfacc compile LeNet, ms", row: "command/lenet", figure: "commandMs", most: 1000 },
  { what: "kfacc compile ResNet-50, ms", row: "command/resnet50", figure: "commandMs", most: 10_000 },
  { what: "MLP K-FAC p99 / p50 of a step, inverses spread", row: "mlp/kfac-spread", figure: "tail", most: 1.5 },
  { what: "LeNet K-FAC p99 / p50 of a step, inverses spread", row: "lenet/kfac-spread", figure: "tail", most: 1.5 },
];

export type Verdict = "stretch" | "kept" | "missed" | "not measured";

export const figureOf = (row: Row | undefined, figure: Figure): number | undefined => (figure === "yards" ? row?.yards : row?.facts[figure]);

export function verdict(mark: Mark, reached: number | undefined): Verdict {
  if (reached === undefined || !Number.isFinite(reached)) return "not measured";
  if (mark.stretch !== undefined && reached <= mark.stretch) return "stretch";
  return reached <= mark.most ? "kept" : "missed";
}

export interface Judged {
  readonly mark: Mark;
  readonly reached: number | undefined;
  readonly verdict: Verdict;
}

/** Every mark against what was measured, in the marks' order. */
export const judge = (results: Pick<Results, "rows">, marks: readonly Mark[] = MARKS): readonly Judged[] =>
  marks.map((mark) => {
    const reached = figureOf(results.rows.find((r) => r.id === mark.row), mark.figure);
    return { mark, reached, verdict: verdict(mark, reached) };
  });
