/** Which examples train and which validate: a function of the count, the fraction and the seed. */
import { CompileError } from "../../ir/error.js";
import { permutation, STREAM } from "../../runtime/batches.js";

export interface Split {
  /** Indices in ascending order: reading them in turn walks memory forwards. */
  readonly train: Uint32Array;
  readonly val: Uint32Array;
}

/**
 * Holds out round(count · fraction) examples, at least one and never all; none for a fraction of 0.
 *
 * @throws CompileError "bad-option" unless 0 ≤ fraction < 1 and there is an example for each side.
 */
export function splitExamples(count: number, fraction: number, seed: number): Split {
  if (!(fraction >= 0 && fraction < 1))
    throw new CompileError("bad-option", `${fraction} is not a fraction in [0, 1)`, "--val", "e.g. --val 0.1");
  if (fraction > 0 && count < 2)
    throw new CompileError("bad-option", `${count} examples cannot be split`, "--val", "leave --val out, or bring more data");
  const held = fraction === 0 ? 0 : Math.min(count - 1, Math.max(1, Math.round(count * fraction)));
  const order = permutation(count, seed, 0, STREAM.split);
  return { val: order.slice(0, held).sort(), train: order.slice(held).sort() };
}
