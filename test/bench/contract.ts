/**
 * Times generated contractions in multiples of the yardstick (512³, 4×4 tile), alternating with it in one process.
 *
 *   npx tsx test/bench/contract.ts [words in the label]
 */
import type { Buffer, Lowered } from "../../codegen/kernel.js";
import { chooseSchedule, lowerContract } from "../../codegen/kernels/contract/index.js";
import { spellSchedule } from "../../codegen/kernels/contract/emit.js";
import { problemOf } from "../../codegen/kernels/contract/problem.js";
import { PORTABLE } from "../../codegen/limits.js";
import { openDevice } from "../../runtime/adapter.node.js";
import { load, type Loaded } from "../support/contract-run.js";
import { type Conv, convFactor, convForward, convInput, convWeight, gemm, gram } from "../support/contract-specs.js";
import { Dice } from "../support/contract-fuzz.js";
import { YARDSTICK } from "../support/contract-yardstick.js";

const CONV: Conv = { n: 32, ci: 16, co: 32, y: 28, x: 28, k: 3, pad: 1 };
const LENET1: Conv = { n: 64, ci: 1, co: 6, y: 28, x: 28, k: 5 };
const LENET2: Conv = { n: 64, ci: 6, co: 16, y: 12, x: 12, k: 5 };
/** What is timed, and the goal in yardsticks where there is one. */
const WORK = [
  ...(["nn", "nt", "tn", "tt"] as const).map((form) => [gemm(form, [512, 512, 512], `512³ ${form}`), 0.65] as const),
  [gemm("nn", [128, 256, 784], "dense 128×784·784×256"), 0.18],
  [gemm("tn", [784, 256, 128], "dense 128×784·784×256 dW"), 0.18],
  [convForward(CONV, "conv 3×3 forward"), 0.45],
  [convForward({ ...CONV, tapPad: 4 }, "conv 3×3 forward, taps padded"), 0.45],
  [convInput(CONV, "conv 3×3 dX"), 0.5],
  [convInput({ ...CONV, tapPad: 4 }, "conv 3×3 dX, taps padded"), 0.5],
  [convInput({ ...CONV, stride: 2 }, "conv 3×3 stride 2 dX"), undefined],
  [convWeight(CONV, "conv 3×3 dW"), 0.55],
  [convFactor(CONV, "conv 3×3 A"), 0.76],
  [gram(128, 785, 785, "xᵀx 785"), 0.32],
  [gram(128, 785, 788, "xᵀx 785, rows padded"), 0.32],
  [convForward(LENET1, "LeNet conv1 forward"), undefined],
  [convForward({ ...LENET1, tapPad: 4 }, "LeNet conv1 forward, taps padded"), undefined],
  [convWeight(LENET1, "LeNet conv1 dW"), undefined],
  [convFactor(LENET1, "LeNet conv1 A"), undefined],
  [convForward(LENET2, "LeNet conv2 forward"), undefined],
  [convForward({ ...LENET2, tapPad: 4 }, "LeNet conv2 forward, taps padded"), undefined],
  [convInput(LENET2, "LeNet conv2 dX"), undefined],
  [convInput({ ...LENET2, tapPad: 4 }, "LeNet conv2 dX, taps padded"), undefined],
  [convWeight(LENET2, "LeNet conv2 dW"), undefined],
  [convFactor(LENET2, "LeNet conv2 A"), undefined],
  [gram(64 * 576, 6, 6, "LeNet conv1 G"), undefined],
  [gemm("nn", [64, 120, 256], "LeNet dense 256→120"), undefined],
  [gemm("nn", [64, 10, 84], "LeNet dense 84→10"), undefined],
  [gemm("tn", [84, 10, 64], "LeNet dense 84→10 dW"), undefined],
] as const;

const ROUNDS = 7;
/** Timed at a time, so that a dispatch's own cost does not hide a small kernel's. */
const SLICE_MS = 15;

const open = await openDevice();
const dataFor = (lowered: Lowered): Map<Buffer, Float32Array> => {
  const dice = new Dice(1);
  const bound = lowered.kernels.flatMap((k) => k.bindings.flatMap((b) => (b.kind === "buffer" && !lowered.scratch.includes(b.buffer) ? [b.buffer] : [])));
  return new Map([...new Set(bound)].map((b) => [b, Float32Array.from({ length: b.elements }, () => dice.int(1001) / 1000 - 0.5)]));
};
const timed = async (kernels: Loaded, times: number): Promise<number> => {
  const start = performance.now();
  await kernels.run(times);
  return (performance.now() - start) / times;
};

console.log(`${open.name}; ratio to the yardstick (median of ${ROUNDS}), ms, yardstick ms, choosing ms, first dispatch ms`);
const yardstick = await load(open, YARDSTICK, dataFor(YARDSTICK));
await yardstick.run();
const words = process.argv.slice(2);
for (const [spec, goal] of WORK) {
  if (!words.every((word) => spec.label.includes(word))) continue;
  const t0 = performance.now();
  const { schedule } = chooseSchedule(spec, PORTABLE);
  const choosing = performance.now() - t0;
  const lowered = lowerContract(spec, PORTABLE);
  const kernels = await load(open, lowered, dataFor(lowered));
  const first = await timed(kernels, 1);
  const times = Math.max(1, Math.min(300, Math.round(SLICE_MS / (await timed(kernels, 1)))));
  const pairs: { ms: number; yard: number }[] = [];
  for (let round = 0; round < ROUNDS; round++) pairs.push({ ms: await timed(kernels, times), yard: await timed(yardstick, 1) });
  // the median of ratios taken side by side: a busy machine slows both
  const { ms: best, yard } = pairs.sort((p, q) => p.ms / p.yard - q.ms / q.yard)[ROUNDS >> 1] ?? { ms: 0, yard: 1 };
  const ratio = best / yard;
  const verdict = goal === undefined ? "      " : ratio <= goal ? `≤ ${goal}`.padEnd(6) : `MISSES ${goal}`;
  console.log(`${spec.label.padEnd(36)} ${ratio.toFixed(4)} ${verdict} ${best.toFixed(3).padStart(8)} ${yard.toFixed(1).padStart(6)} ${choosing.toFixed(0).padStart(4)} ${first.toFixed(0).padStart(5)}  ${spellSchedule(problemOf(spec, PORTABLE), schedule)}`);
  kernels.free();
}
yardstick.free();
await open.close();
