/** The passes, in order. */
import type { Pass } from "../pass.js";
import { autocorrelation } from "./autocorrelation.js";
import { canonicalize } from "./canonicalize.js";
import { cse } from "./cse.js";
import { dce } from "./dce.js";
import { fold } from "./fold.js";
import { lookups } from "./lookup.js";
import { undetach } from "./undetach.js";
import { unwindow } from "./unwindow.js";

/**
 * Before registration and again after the gradients:
 *
 * 1. dce           what nobody needs is gone
 * 2. cse           equal nodes are one, so that "used once" means it
 * 3. fold          arithmetic on constants is done
 * 4. canonicalize  one form for what means the same: a fixpoint of its own rules and of 1 to 3
 */
export const CANONICAL: readonly Pass[] = [dce, cse, fold, canonicalize];

/**
 * Once the gradients are made, `detach` goes first; look-ups, second moments by distance and windows that are reshapes go last, when nobody
 * looks for their first form any more.
 */
export const AFTER_GRADIENTS: readonly Pass[] = [undetach, ...CANONICAL, lookups, autocorrelation, unwindow];

/** Every pass by name, for `print --after PASS`. */
export const PASSES: Readonly<Record<string, Pass>> = { canonicalize, fold, cse, dce, undetach, lookups, autocorrelation, unwindow };
