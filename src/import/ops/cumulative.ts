/** Running sums and products along an axis. */
import type { Value } from "../../../ir/graph.js";
import { type Context, type ImportOp, scaledAxes } from "../context.js";
import { cut, sum } from "./common.js";

interface Running {
  readonly axis: number;
  readonly n: number;
  /** An element is not part of its own result. */
  readonly exclusive: boolean;
  readonly reverse: boolean;
}

function running(c: Context): Running {
  const shape = c.shape(0);
  const axis = c.axis(c.number(1, 0), shape.length);
  if (scaledAxes(shape, c.oldShape(0)).includes(axis)) throw c.lost(`axis ${axis} is accumulated, which carries the examples`);
  return { axis, n: shape[axis] as number, exclusive: c.int("exclusive", 0) !== 0, reverse: c.int("reverse", 0) !== 0 };
}

/** A window over all that came before, zeros beyond the ends, and its sum. */
function cumSum(c: Context): Value {
  const { axis, n, exclusive, reverse } = running(c);
  const x = c.x(0);
  if (n === 0) return x;
  const own = Number(exclusive);
  const offset = reverse ? own : 1 - n - own;
  return sum(c, c.emit("window", [x], { axis, count: n, taps: n, stride: 1, dilation: 1, offset, divisor: 1 }), [axis + 1]);
}

/** What lies `by` places earlier (later), and 1 beyond the end. */
function shifted(c: Context, x: Value, { axis, n, reverse }: Running, by: number): Value {
  if (by >= n) return c.emit("broadcast", [c.scalar(1, x.type.dtype)], { shape: [...x.type.shape], axes: [] });
  const [low, high] = [0, 1].map((end) => x.type.shape.map((_, k) => (k === axis && (end === 1) === reverse ? by : 0))) as [number[], number[]];
  return c.emit("pad", [cut(c, x, axis, reverse ? by : 0, n - by)], { low, high, value: 1 });
}

/** By doubling: after a step each element is the product of twice as many. No division, so that zeros do no harm. */
function cumProd(c: Context): Value {
  const r = running(c);
  let x = c.x(0);
  if (r.exclusive && r.n > 0) x = shifted(c, x, r, 1);
  for (let by = 1; by < r.n; by *= 2) x = c.emit("mul", [x, shifted(c, x, r, by)]);
  return x;
}

export const cumulativeOps: Readonly<Record<string, ImportOp>> = { CumSum: cumSum, CumProd: cumProd };
