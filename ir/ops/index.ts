/** The table of all operations. A name without a record does not typecheck. */
import type { OpDef } from "../op.js";
import { binaryOps, cast, select, unaryOps } from "./elementwise.js";
import { indexingOps } from "./indexing.js";
import { inverse } from "./linalg.js";
import { broadcast, concat, fold, pad, permute, reshape, slice, window } from "./movement.js";
import type { OpName } from "./names.js";
import { contract, reduceOps } from "./reduction.js";
import { constant, iota, uniform } from "./source.js";

export const OPS: Readonly<Record<OpName, OpDef>> = {
  ...unaryOps,
  ...binaryOps,
  select, cast,
  constant, iota, uniform,
  reshape, permute, broadcast, pad, slice, window, fold, concat,
  ...reduceOps, contract, ...indexingOps,
  inverse,
};
