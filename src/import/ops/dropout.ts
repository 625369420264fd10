/** Dropout: what a training step leaves out of an activation. */
import type { Value } from "../../../ir/graph.js";
import type { Context, ImportOp } from "../context.js";
import { like, times } from "./common.js";

/**
 * Whether the file asks for dropout in training: a flag since opset 12 (an input) and before 7 (`is_test`). Between them a file cannot
 * say; the node is there for training, so it does.
 */
function asked(c: Context): boolean {
  if (c.opset >= 12) return c.number(2, 0) !== 0;
  return c.opset >= 7 || c.int("is_test", 0) === 0;
}

/**
 * y = x · keep / (1 − ratio) in training, keep drawn anew in every step; y = x else. The mask is `keep`.
 *
 * The draw is a hash of the seed, the step, the node and the element: equal runs are equal, and K-FAC's second pass sees the same mask.
 */
function dropout(c: Context): readonly Value[] {
  const x = c.x(0);
  const ratio = c.opset < 12 ? c.float("ratio", 0.5) : c.number(1, 0.5);
  if (!(ratio >= 0 && ratio < 1)) throw c.refuse(`a ratio of ${ratio} is not in [0, 1)`);
  const noise = asked(c) && ratio > 0 ? c.noise(x.type.shape) : undefined;
  if (!noise) return [x, ...(c.wants(1) ? [like(c, 1, { ...x, type: { ...x.type, dtype: "bool" } })] : [])];
  if (c.opset < 12) c.host.note(`${c.where}: Dropout leaves activations out in training; --no-dropout if the file is meant otherwise`);
  const keep = c.emit("ge", [noise, like(c, ratio, noise)]);
  return [c.emit("select", [keep, times(c, x, 1 / (1 - ratio)), like(c, 0, x)]), keep];
}

export const dropoutOps: Readonly<Record<string, ImportOp>> = { Dropout: dropout };
