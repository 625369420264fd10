/** The vectors that are sent back through the network for G, next to the gradient's own cotangent. */
import { accumulate, type Builder, broadcast, reshape, times } from "../../ir/builder.js";
import type { Value } from "../../ir/graph.js";
import type { Head } from "../train/heads.js";
import { derivative, exactColumns, exactVectors, type FisherKind, randomSigns, sampleTargets, signed, signShape, targetType, withoutIgnored } from "../train/loss.js";

export interface FisherColumns {
  /** z of a head → [count, ..shape of z] */
  readonly vectors: ReadonlyMap<Value, Value>;
  readonly count: number;
  /** G is the sum over columns divided by this. */
  readonly samples: number;
}

export interface FisherOptions {
  readonly kind: FisherKind;
  /** mc, cp: samples per example. */
  readonly samples: number;
}

type Key = () => readonly [Value, Value];

/** Random streams of the program; each use of noise has its own. */
const STREAM_TARGETS = 16;

/**
 * `mc`: targets drawn from the model's own distribution, or given by the caller for reproducible comparisons (inputs `mcTargets` and
 * `mcGiven`, 0 or 1; `mcTargets/<output>` with several heads). `cp`: random signs on a factor of the output Fisher. `exact`: all columns.
 * `empirical` has none of its own: the gradient's cotangent serves (it is not the Fisher).
 *
 * With several heads a sampled column carries all of them, each scaled by √weight: they are independent and of mean zero, so that the
 * expectation of its product is the sum over heads. Exact columns of the heads come one after the other, with zeros at the others.
 *
 * @param targets true targets, for the positions they leave out: no column has anything there
 */
export function fisherColumns(b: Builder, heads: readonly Head[], { kind, samples }: FisherOptions, key: Key, targets?: ReadonlyMap<Head, Value>): FisherColumns | undefined {
  if (kind === "empirical") return undefined;
  const vectors = new Map<Value, Value>();
  const add = (head: Head, columns: Value): void => {
    const truth = targets?.get(head);
    const here = truth ? withoutIgnored(b, head.loss, columns, truth) : columns;
    accumulate(b, vectors, head.loss.z, times(b, here, Math.sqrt(head.weight)));
  };
  if (kind === "exact") {
    const all = heads.map((head) => exactVectors(b, head.loss));
    const counts = all.map((v) => v.type.shape[0] as number);
    const count = counts.reduce((x, y) => x + y, 0);
    let start = 0;
    heads.forEach((head, k) => {
      add(head, placed(b, all[k] as Value, start, count));
      start += counts[k] as number;
    });
    return { vectors, count, samples: 1 };
  }
  heads.forEach((head, k) => {
    const columns = Array.from({ length: samples }, (_, s) => {
      const g = sample(b, head, kind, key, STREAM_TARGETS + 2 * (k * samples + s));
      return reshape(b.emit, g, [1, ...g.type.shape]);
    });
    add(head, columns.length === 1 ? (columns[0] as Value) : b.emit("concat", columns, { axis: 0 }));
  });
  return { vectors, count: samples, samples };
}

/** Columns start … of `count`, the others 0. */
function placed(b: Builder, v: Value, start: number, count: number): Value {
  const [own, ...rest] = v.type.shape as [number, ...number[]];
  if (own === count) return v;
  const none = rest.map(() => 0);
  return b.emit("pad", [v], { low: [start, ...none], high: [count - own - start, ...none], value: 0 });
}

function sample(b: Builder, { loss, target }: Head, kind: "mc" | "cp", key: Key, stream: number): Value {
  // a custom loss says nothing of how to draw targets
  if (kind === "cp" || loss.kind === "custom") return signed(b, loss, randomSigns(b, signShape(loss), key(), stream));
  const t = targetType(loss);
  const given = inputOnce(b, target.replace(/^target/, "mcTargets"), t, 0);
  const flag = inputOnce(b, "mcGiven", { dtype: "i32", shape: [1] });
  const use = b.emit("ne", [broadcast(b.emit, reshape(b.emit, flag, []), t.shape, []), broadcast(b.emit, b.scalar(0, "i32"), t.shape, [])]);
  return derivative(b, loss, b.emit("select", [use, given, sampleTargets(b, loss, key(), stream)]));
}

/** The graph input of that name, made on first use. */
const inputOnce = (b: Builder, name: string, t: Value["type"], examples?: number): Value =>
  b.inputs.find((i) => i.value.name === name)?.value ?? b.input(name, t, examples);

/** Columns that one backward pass carries besides the gradient's. */
export function columnCount(heads: readonly Head[], { kind, samples }: FisherOptions): number {
  switch (kind) {
    case "empirical": return 0;
    case "exact": return heads.reduce((n, { loss }) => n + exactColumns(loss), 0);
    case "mc": case "cp": return samples;
    default: return kind satisfies never;
  }
}
