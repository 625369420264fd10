/** Everything the checks share: a compiled model beside its imported graph, data, targets, exact columns. */
import { Builder } from "../../ir/builder.js";
import { CompileError } from "../../ir/error.js";
import { evaluate } from "../../ir/evaluate.js";
import type { Value } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { size } from "../../ir/type.js";
import type { Compiled, ForwardModel } from "../compile.js";
import { type Head, pickHeads } from "../train/heads.js";
import { derivative as derivativeGraph, exactVectors, lossName, perExample, targetType } from "../train/loss.js";
import { derivative, drawTargets, exactColumns, losses, type LossShape, type PlainLoss } from "./loss.js";
import { bindingsOf, Oracle, type OracleHead } from "./oracle.js";
import { type Known, norm, normals, uniforms } from "./values.js";

export interface SceneHead extends OracleHead {
  readonly head: Head;
  /** Of the imported graph; `head.loss.z` is of the canonical one. */
  readonly z: Value;
  readonly target: NdArray;
  /** Drawn from the model's own distribution, for the sampled Fisher. */
  readonly drawn: NdArray;
}

export interface Scene {
  readonly source: ForwardModel;
  readonly compiled: Compiled;
  readonly named: Readonly<Record<string, NdArray>>;
  /** Parameters whose numbers were all equal, with random numbers added. */
  readonly moved: readonly string[];
  readonly oracle: Oracle;
  readonly heads: readonly SceneHead[];
  readonly examples: number;
}

/** Seeds by head. */
export type HeadSeeds = readonly NdArray[];

/** The value of the imported graph that a head's loss starts from. */
function importedZ(source: ForwardModel, head: Head): Value {
  const kind = head.loss.kind === "custom" ? head.loss.custom : head.loss.kind;
  return (pickHeads({ name: source.name, outputs: source.outputs }, [{ output: head.output, kind }], [])[0] as Head).loss.z;
}

export function makeScene(source: ForwardModel, compiled: Compiled, inputs: Readonly<Record<string, NdArray>>, targets: Readonly<Record<string, NdArray>> | undefined, seed: number): Scene {
  const trainable = new Set(source.graph.params.filter((p) => p.trainable).map((p) => p.value.name));
  const moved: string[] = [];
  const weights = [...source.weights].map(([name, w], k) => {
    const data = Float64Array.from(w.data);
    // a head of zeros lets no gradient through, and ones hide what is multiplied by them
    if (trainable.has(name) && data.every((x) => x === data[0])) {
      const next = normals(seed * 31 + k);
      data.forEach((x, i) => { data[i] = Math.fround(x + 0.1 * next()); });
      moved.push(name);
    }
    return [name, ndarray("f32", w.shape, data)] as const;
  });
  const named = { ...Object.fromEntries(weights), ...inputs };
  const examples = (compiled.model.heads[0] as Head).loss.z.type.shape[0] as number;
  const places = compiled.model.heads.map((head) => ({ head, weight: head.weight, z: importedZ(source, head) }));
  const oracle = new Oracle(source.graph, bindingsOf(source.graph, named), places, examples);
  const heads = places.map((p, k): SceneHead => {
    const z = oracle.forward.get(p.z) as NdArray;
    const draw = (stream: number): NdArray => {
      if (p.head.loss.kind === "custom") return customTarget(p.head, seed * 31 + stream);
      return drawTargets(shapeOf(p.head), z, uniforms(seed * 7919 + stream), normals(seed * 104729 + stream));
    };
    const given = targets?.[p.head.target];
    if (targets && !given) throw new CompileError("bad-data", `no targets "${p.head.target}"`, "--data");
    return { ...p, target: given ?? draw(2 * k + 1), drawn: draw(2 * k + 2) };
  });
  return { source, compiled, named, moved, oracle, heads, examples };
}

const shapeOf = ({ loss }: Head): LossShape => ({ kind: loss.kind as PlainLoss, axis: loss.axis });

/** A formula says nothing of how its targets are distributed: small whole numbers fit counts, classes and reals. */
function customTarget(head: Head, seed: number): NdArray {
  const t = targetType(head.loss);
  const next = uniforms(seed);
  return ndarray(t.dtype, t.shape, Float64Array.from({ length: size(t.shape) }, () => Math.floor(2 * next())));
}

/** A custom loss's own graphs, evaluated: there is no second formula for them, only finite differences check them. */
function custom(head: Head, z: NdArray, target: NdArray, what: "loss" | "derivative" | "columns"): NdArray {
  const b = new Builder("custom");
  const [zi, ti] = [b.input("z", head.loss.z.type), b.input("t", targetType(head.loss))];
  const loss = { ...head.loss, z: zi };
  const value = what === "loss" ? perExample(b, loss, ti) : what === "derivative" ? derivativeGraph(b, loss, ti) : exactVectors(b, loss);
  return evaluate(b.finish([{ name: "y", value }]), { z, t: target }).y as NdArray;
}

/** Mean loss of the batch for values of the heads' z. */
export function meanLoss(s: Scene, z: Known): number {
  return s.heads.reduce((sum, h) => {
    const at = z.get(h.z) as NdArray;
    const each = h.head.loss.kind === "custom" ? custom(h.head, at, h.target, "loss").data : losses(shapeOf(h.head), at, h.target);
    return sum + (h.weight * each.reduce((a, b) => a + b, 0)) / s.examples;
  }, 0);
}

const scaled = (a: NdArray, by: number): NdArray => (by === 1 ? a : { ...a, data: a.data.map((x) => x * by) });
const zero = (a: NdArray): NdArray => ({ ...a, data: new Float64Array(a.data.length) });

/** ∂(Σ weight·l_n)/∂z of all examples. */
export const lossSeeds = (s: Scene, which: "target" | "drawn" = "target", factor: (weight: number) => number = (w) => w): HeadSeeds =>
  s.heads.map((h) => {
    const z = s.oracle.z(h);
    return scaled(h.head.loss.kind === "custom" ? custom(h.head, z, h[which], "derivative") : derivative(shapeOf(h.head), z, h[which]), factor(h.weight));
  });

/** Columns whose outer products add up to the Fisher (over `samples`). undefined: this kind cannot be reproduced here. */
export function fisherSeeds(s: Scene): { readonly columns: readonly HeadSeeds[]; readonly samples: number } | undefined {
  const { kind } = s.compiled.model.fisher;
  switch (kind) {
    case "empirical": return { columns: [lossSeeds(s)], samples: 1 };
    case "mc": {
      if (s.heads.some((h) => h.head.loss.kind === "custom")) return undefined;
      // independent and of mean zero: the heads' draws go back together. What is unlabelled stays so
      return { columns: [withoutIgnored(s, lossSeeds(s, "drawn", Math.sqrt))], samples: 1 };
    }
    case "exact": return {
      columns: s.heads.flatMap((h, k) => {
        const z = s.oracle.z(h);
        const root = Math.sqrt(h.weight);
        const own = h.head.loss.kind === "custom" ? splitColumns(custom(h.head, z, h.target, "columns"), z) : exactColumns(shapeOf(h.head), z, h.target);
        return own.map((c) => s.heads.map((other, j) => (j === k ? scaled(c, root) : zero(s.oracle.z(other)))));
      }),
      samples: 1,
    };
    default: return undefined;
  }
}

/** ‖z‖ / ‖∂l/∂z‖ where above 1: relative errors of large outputs are that much larger in a derivative like z − t. */
export const outputAmplification = (s: Scene, which: "target" | "drawn"): number =>
  Math.max(1, ...lossSeeds(s, which, () => 1).map((seed, k) => norm(s.oracle.z(s.heads[k] as SceneHead).data) / Math.max(norm(seed.data), Number.MIN_VALUE)));

const splitColumns = (all: NdArray, z: NdArray): NdArray[] =>
  Array.from({ length: all.data.length / z.data.length }, (_, c) => ndarray("f32", z.shape, all.data.slice(c * z.data.length, (c + 1) * z.data.length)));

/** Sampled columns at positions without a label are 0. */
function withoutIgnored(s: Scene, seeds: HeadSeeds): HeadSeeds {
  return seeds.map((seed, k) => {
    const h = s.heads[k] as SceneHead;
    if (h.head.loss.kind !== "softmax-ce" || h.target.data.every((t) => t >= 0)) return seed;
    const labelled = derivative({ kind: "softmax-ce", axis: h.head.loss.axis }, s.oracle.z(h), h.target);
    return { ...seed, data: seed.data.map((x, i) => (labelled.data[i] === 0 ? 0 : x)) };
  });
}

/** Seeds with all examples but one set to 0. */
export const onlyExample = (s: Scene, seeds: HeadSeeds, example: number): HeadSeeds =>
  seeds.map((seed) => {
    const per = seed.data.length / s.examples;
    return { ...seed, data: seed.data.map((x, k) => (Math.floor(k / per) === example ? x : 0)) };
  });

/** Seeds keyed by the values of a graph; two heads at one value add up. */
export function keyed(s: Scene, seeds: HeadSeeds, of: (h: SceneHead) => Value): Known {
  const out = new Map<Value, NdArray>();
  s.heads.forEach((h, k) => {
    const [at, seed] = [of(h), seeds[k] as NdArray];
    const before = out.get(at);
    out.set(at, before ? { ...seed, data: seed.data.map((x, i) => x + (before.data[i] as number)) } : seed);
  });
  return out;
}

export const lossNames = (s: Scene): string => s.heads.map((h) => `${lossName(h.head.loss)}${s.heads.length > 1 ? ` on ${h.head.output}` : ""}`).join(", ");
