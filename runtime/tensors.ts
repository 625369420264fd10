/** Batches as users pass them: checked against the model, padded to a compiled batch size. */
import { type Artifact, RuntimeFault, type TargetInfo, targetsOf, type TensorInfo } from "./artifact.js";

export { targetsOf } from "./artifact.js";

export type Tensor = { readonly shape: readonly number[]; readonly data: Float32Array | Int32Array };
/** By output name, where several outputs have a loss. */
export type Targets = Readonly<Record<string, Tensor>>;
/** Inputs by name, `target`, and optionally a weight per example and fixed targets for the Monte-Carlo Fisher. */
export interface Batch {
  readonly [name: string]: Tensor | Float32Array | Targets | undefined;
}

export interface Prepared {
  /** True examples. */
  readonly count: number;
  /** The compiled batch size that takes them. */
  readonly batch: number;
  /** Σ of the weights given for them; count without weights. */
  readonly weightSum: number;
  /** Absent: every example counts once and none is padding. */
  readonly weight: Float32Array | undefined;
  /** Inputs, and targets by the names of their graph inputs. */
  readonly arrays: ReadonlyMap<string, Float32Array | Int32Array>;
  /** Fixed targets for the Fisher by the names of their graph inputs, if there are any. */
  readonly mcArrays: ReadonlyMap<string, Float32Array | Int32Array> | undefined;
}

const product = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);

const fault = (message: string, where: string, hint?: string): RuntimeFault => new RuntimeFault("bad-data", message, where, hint);

const isTensor = (x: unknown): x is Tensor => typeof x === "object" && x !== null && "data" in x && "shape" in x && ArrayBuffer.isView(x.data);

/** Copies, checks and pads one batch. @throws RuntimeFault "bad-data". */
export function prepareBatch(artifact: Artifact, batch: Batch, need: { readonly target: boolean; readonly evaluation?: boolean }, forceMask = false): Prepared {
  const carrying = artifact.inputs.filter((i) => i.examples !== null);
  const first = carrying[0];
  if (!first) throw fault("the model has no input with examples", "batch");
  const given = batch[first.name];
  if (!isTensor(given)) throw fault(`input "${first.name}" is missing`, "batch", `pass {${carrying.map((i) => i.name).join(", ")}${need.target ? ", target" : ""}} as {shape, data}`);
  const count = given.shape[first.examples as number] ?? 0;
  if (count === 0) throw fault("the batch is empty", `input "${first.name}"`, "pass at least one example");
  const size = pickBatch(artifact.batches, count);
  const mixes = need.evaluation ? artifact.evaluationMixes : artifact.mixes;
  if (mixes !== null && (count !== size || batch.weight !== undefined))
    throw fault(`the model mixes the examples of a batch in ${mixes}: ${batch.weight === undefined ? `${count} examples cannot be padded to ${size}` : "they cannot have weights"}`, "batch", `pass whole batches of ${artifact.batches.join(" or ")}`);
  const arrays = new Map<string, Float32Array | Int32Array>();
  for (const info of artifact.inputs) arrays.set(info.name, fit(info, batch[info.name], count, size, info.examples));
  const targets = (key: "target" | "mcTargets") => new Map(targetsOf(artifact).map((info, _, all) => {
    const name = info.name.replace(/^target/, key);
    return [name, checkLabels(info, fit({ ...info, name }, targetFor(info, batch[key], all, key), count, size, 0), count)] as const;
  }));
  if (need.target) for (const [name, array] of targets("target")) arrays.set(name, array);
  const weights = batch.weight;
  if (weights !== undefined && (!(weights instanceof Float32Array) || weights.length !== count)) throw fault(`weight must be a Float32Array of ${count} numbers`, "weight");
  if (weights?.some((w) => !(w >= 0 && Number.isFinite(w)))) throw fault("weights must be finite and not negative", "weight");
  let weight: Float32Array | undefined;
  if (weights || count !== size || forceMask) {
    weight = new Float32Array(size);
    weight.set(weights ?? new Float32Array(count).fill(1));
  }
  const weightSum = weights ? weights.reduce((a, b) => a + b, 0) : count;
  if (!(weightSum > 0)) throw fault("all weights of the batch are 0", "weight");
  const mcArrays = batch.mcTargets === undefined ? undefined : targets("mcTargets");
  return { count, batch: size, weightSum, weight, arrays, mcArrays };
}

/** One head takes a tensor (or a record of one), several take a record by output name. */
function targetFor(info: TargetInfo, given: Batch[string], all: readonly TargetInfo[], key: string): Tensor | undefined {
  if (given === undefined || given instanceof Float32Array) return undefined;
  if (!isTensor(given)) return (given as Targets)[info.output];
  if (all.length === 1) return given;
  throw fault(`${key} is one tensor, ${all.length} outputs have a loss`, key, `pass {${all.map((t) => JSON.stringify(t.output)).join(", ")}}, a tensor each`);
}

/** The smallest compiled batch that holds `count` examples. */
function pickBatch(batches: readonly number[], count: number): number {
  const found = [...batches].sort((a, b) => a - b).find((b) => b >= count);
  if (found === undefined) throw fault(`a batch of ${count} examples is larger than the compiled ${Math.max(...batches)}`, "batch", `compile with --batch ${count}, or pass smaller batches`);
  return found;
}

function fit(info: TensorInfo, given: Batch[string], count: number, size: number, examples: number | null): Float32Array | Int32Array {
  const where = `tensor "${info.name}"`;
  if (!isTensor(given)) throw fault(`"${info.name}" is missing from the batch`, where);
  const wanted = examples === null ? [...info.shape] : [...info.shape.slice(0, examples), count, ...info.shape.slice(examples)];
  if (given.shape.length !== wanted.length || given.shape.some((n, k) => n !== wanted[k])) throw fault(`"${info.name}" has shape [${given.shape.join(", ")}], the model takes [${wanted.join(", ")}]`, where);
  if (given.data.length !== product(wanted)) throw fault(`"${info.name}" has ${given.data.length} numbers for shape [${wanted.join(", ")}]`, where);
  const odd = info.dtype === "i32" ? given.data.find((v) => !Number.isInteger(v)) : undefined;
  if (odd !== undefined) throw fault(`"${info.name}" holds ${odd}; the model takes whole numbers`, where);
  const make = info.dtype === "i32" ? Int32Array : Float32Array;
  if (examples === null || count === size) return make.from(given.data);
  const outer = product(info.shape.slice(0, examples));
  const inner = product(info.shape.slice(examples));
  const out = new make(outer * size * inner);
  for (let k = 0; k < outer; k++) out.set(given.data.subarray(k * count * inner, (k + 1) * count * inner), k * size * inner);
  return out;
}

/** Labels below 0 leave their position out. */
function checkLabels({ classes, shape }: TargetInfo, target: Float32Array | Int32Array, count: number): Float32Array | Int32Array {
  if (classes === null) return target;
  const perExample = product(shape);
  for (let k = 0; k < count * perExample; k++) {
    const label = target[k] as number;
    if (!(label < classes)) throw fault(`label ${label} is outside 0 … ${classes - 1}`, `target of example ${Math.floor(k / perExample)} of the batch`, "check the labels, or the number of the model's outputs");
  }
  return target;
}

/**
 * Examples start … start + count of every input, and of targets and weights where they are given.
 *
 * @throws RuntimeFault "bad-data" if an input is missing.
 */
export function cutExamples(artifact: Artifact, given: Batch, start: number, count: number): Batch {
  const inputs = artifact.inputs.map((info): [string, Tensor] => {
    const t = given[info.name];
    if (!isTensor(t)) throw fault(`input "${info.name}" is missing`, "predict");
    return [info.name, info.examples === null ? t : rows(t, info.examples, start, count)];
  });
  const targets = (["target", "mcTargets"] as const).flatMap((key): [string, Tensor | Targets][] => {
    const t = given[key];
    if (t === undefined || t instanceof Float32Array || artifact.inputs.some((i) => i.name === key)) return [];
    return [[key, isTensor(t) ? rows(t, 0, start, count) : Object.fromEntries(Object.entries(t as Targets).map(([name, one]) => [name, rows(one, 0, start, count)]))]];
  });
  const { weight } = given;
  return { ...Object.fromEntries([...inputs, ...targets]), ...(weight instanceof Float32Array ? { weight: weight.slice(start, start + count) } : {}) };
}

function rows(t: Tensor, axis: number, start: number, count: number): Tensor {
  const outer = product(t.shape.slice(0, axis));
  const inner = product(t.shape.slice(axis + 1));
  const all = t.shape[axis] as number;
  const data = new (t.data instanceof Int32Array ? Int32Array : Float32Array)(outer * count * inner);
  for (let k = 0; k < outer; k++) data.set(t.data.subarray((k * all + start) * inner, (k * all + start + count) * inner), k * count * inner);
  return { shape: t.shape.map((n, k) => (k === axis ? count : n)), data };
}

/** The outputs of several batches, one after the other; those without examples are taken from the first. */
export function joinOutputs(artifact: Artifact, parts: ReadonlyMap<string, readonly Float32Array[]>, total: number): Record<string, Tensor> {
  return Object.fromEntries(artifact.outputs.map((o): [string, Tensor] => {
    const list = parts.get(o.name) ?? [];
    if (o.examples === null) return [o.name, { shape: o.shape, data: list[0] as Float32Array }];
    const data = new Float32Array(list.reduce((n, a) => n + a.length, 0));
    let at = 0;
    for (const a of list) {
      data.set(a, at);
      at += a.length;
    }
    return [o.name, { shape: [total, ...o.shape], data }];
  }));
}
