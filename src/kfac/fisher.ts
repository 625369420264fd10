/** The vectors that are sent back through the network for G, next to the gradient's own cotangent. */
import { type Builder, broadcast, reshape } from "../../ir/builder.js";
import type { Value } from "../../ir/graph.js";
import { derivative, exactColumns, exactVectors, type FisherKind, type Loss, sampleTargets, targetType } from "../train/loss.js";

export interface FisherColumns {
  /** [columns, ..shape of the logits] */
  readonly vectors: Value;
  /** G is the sum over columns divided by this. */
  readonly samples: number;
}

export interface FisherOptions {
  readonly kind: FisherKind;
  /** Monte-Carlo samples per example. */
  readonly samples: number;
}

/** Random streams of the program; each use of noise has its own. */
const STREAM_TARGETS = 16;

/**
 * `mc`: targets drawn from the model's own distribution, or given by the caller for reproducible comparisons (inputs `mcTargets` and
 * `mcGiven`, 0 or 1). `exact`: all columns. `empirical` has none of its own: the gradient's cotangent serves (it is not the Fisher).
 */
export function fisherColumns(b: Builder, loss: Loss, { kind, samples }: FisherOptions, key: () => readonly [Value, Value]): FisherColumns | undefined {
  switch (kind) {
    case "empirical": return undefined;
    case "exact": return { vectors: exactVectors(b, loss), samples: 1 };
    case "mc": {
      const t = targetType(loss);
      const given = b.input("mcTargets", { dtype: t.dtype, shape: t.shape }, 0);
      const flag = b.input("mcGiven", { dtype: "i32", shape: [1] });
      const use = b.emit("ne", [broadcast(b.emit, reshape(b.emit, flag, []), t.shape, []), broadcast(b.emit, b.scalar(0, "i32"), t.shape, [])]);
      const columns = Array.from({ length: samples }, (_, s) => {
        const drawn = sampleTargets(b, loss, key(), STREAM_TARGETS + 2 * s);
        const g = derivative(b, loss, b.emit("select", [use, given, drawn]));
        return reshape(b.emit, g, [1, ...g.type.shape]);
      });
      return { vectors: columns.length === 1 ? (columns[0] as Value) : b.emit("concat", columns, { axis: 0 }), samples };
    }
    default: return kind satisfies never;
  }
}

/** Columns that one backward pass carries besides the gradient's. */
export const columnCount = (loss: Loss, { kind, samples }: FisherOptions): number => ({ empirical: 0, exact: exactColumns(loss), mc: samples })[kind];
