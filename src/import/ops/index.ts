/** Every ONNX op that kfacc reads, by name; ops of other domains as "domain.Op". To add one: a row here or in a topic file, and a test. */
import type { ImportOp } from "../context.js";
import { activationOps } from "./activation.js";
import { argumentOps } from "./argument.js";
import { attentionOps } from "./attention.js";
import { bitOps } from "./bits.js";
import { castOps } from "./cast.js";
import { constantOps } from "./constant.js";
import { convOps } from "./conv.js";
import { cumulativeOps } from "./cumulative.js";
import { dropoutOps } from "./dropout.js";
import { dynamicOps } from "./dynamic.js";
import { gatherOps } from "./gather.js";
import { gridOps } from "./grid.js";
import { fusedAttentionOps } from "./fused-attention.js";
import { linearOps } from "./linear.js";
import { linearAttentionOps } from "./linear-attention.js";
import { lossOps } from "./loss.js";
import { mathOps } from "./math.js";
import { normOps } from "./norm.js";
import { padOps } from "./pad.js";
import { poolOps } from "./pool.js";
import { reduceOps } from "./reduce.js";
import { resizeOps } from "./resize.js";
import { rotaryOps } from "./rotary.js";
import { scatterOps } from "./scatter.js";
import { selectOps } from "./select.js";
import { shapeOps } from "./shape.js";
import { sortOps } from "./sort.js";
import { trigOps } from "./trig.js";
import { unpoolOps } from "./unpool.js";

/** By topic, as the documentation lists them. */
export const OP_TOPICS: readonly (readonly [topic: string, ops: Readonly<Record<string, ImportOp>>])[] = [
  ["arithmetic, comparison, logic", { ...mathOps, ...trigOps, ...bitOps }],
  ["activations", { ...activationOps, ...dropoutOps }],
  ["matrix products", linearOps],
  ["convolution", convOps],
  ["pooling", { ...poolOps, ...unpoolOps }],
  ["normalisation", normOps],
  ["reductions", { ...reduceOps, ...argumentOps }],
  ["sorting and running sums", { ...sortOps, ...cumulativeOps }],
  ["losses", lossOps],
  ["shapes", { ...shapeOps, ...padOps }],
  ["parts and indices", { ...selectOps, ...gatherOps, ...scatterOps }],
  ["resampling", { ...resizeOps, ...gridOps }],
  ["attention and state", { ...attentionOps, ...rotaryOps, ...linearAttentionOps, ...fusedAttentionOps }],
  ["constants, types, control", { ...constantOps, ...castOps, ...dynamicOps }],
];

export const IMPORT_OPS: ReadonlyMap<string, ImportOp> = new Map(OP_TOPICS.flatMap(([, ops]) => Object.entries(ops)));
