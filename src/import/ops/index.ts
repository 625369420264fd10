/** Every ONNX op that kfacc reads, by name; ops of other domains as "domain.Op". To add one: a row here or in a topic file, and a test. */
import type { ImportOp } from "../context.js";
import { activationOps } from "./activation.js";
import { constantOps } from "./constant.js";
import { convOps } from "./conv.js";
import { linearOps } from "./linear.js";
import { mathOps } from "./math.js";
import { normOps } from "./norm.js";
import { poolOps } from "./pool.js";
import { reduceOps } from "./reduce.js";
import { selectOps } from "./select.js";
import { shapeOps } from "./shape.js";

export const IMPORT_OPS: ReadonlyMap<string, ImportOp> = new Map(Object.entries({
  ...mathOps, ...activationOps, ...linearOps, ...convOps, ...poolOps, ...normOps, ...reduceOps, ...shapeOps, ...selectOps, ...constantOps,
}));
