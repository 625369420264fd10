/** Arrays of a data file brought to the shapes and types a model takes, every number checked. */
import { CompileError } from "../../ir/error.js";
import { type DType, sameShape, size, spellShape } from "../../ir/type.js";
import type { ExampleArray } from "../../runtime/batches.js";
import type { RawArray } from "./idx.js";

export type LabelSpec =
  /** Integers 0 … count − 1; `shape` per example is [] unless given (e.g. [T] for a class per position). */
  | { readonly kind: "classes"; readonly count: number; readonly shape?: readonly number[] }
  /** Numbers, within `range` (inclusive) if given; whole ones for i32. */
  | { readonly kind: "values"; readonly shape: readonly number[]; readonly range?: readonly [number, number]; readonly dtype?: "f32" | "i32" };

/** The label that leaves a position out (PyTorch's ignore_index). Where an example has several positions, any label below 0 does. */
const IGNORED = -100;

const per = (raw: RawArray): readonly number[] => raw.shape.slice(1);

/** Where element `flat` came from, in words. */
export const placeOf = (raw: RawArray, flat: number): string =>
  raw.at?.(flat) ?? `${raw.where}, example ${Math.floor(flat / Math.max(1, size(per(raw))))}`;

/**
 * Whether data of one shape can stand for another, per example: equal up to axes of 1, or one of them flat and as many
 * numbers. [28, 28] fits [1, 28, 28] and [784]; [28, 28, 3] does not fit [3, 28, 28], whose numbers are in another order.
 */
export function fits(data: readonly number[], model: readonly number[]): boolean {
  const [a, b] = [data.filter((n) => n !== 1), model.filter((n) => n !== 1)];
  return sameShape(a, b) || (Math.min(a.length, b.length) <= 1 && size(a) === size(b));
}

const misfit = (raw: RawArray, what: string, shape: readonly number[]): CompileError => {
  const data = per(raw);
  const reordered = sameShape(data.filter((n) => n !== 1).sort(), shape.filter((n) => n !== 1).sort());
  const hint = reordered ? "the axes are in another order: transpose the data" : "check that the data are those of this model";
  return new CompileError("bad-data", `${what} takes ${spellShape(shape)} per example, the data have ${spellShape(data)}`, raw.where, hint);
};

/**
 * The array as float32 (f32, f16) or int32 (i32, u32, bool), times `factor`.
 *
 * @throws CompileError "bad-data" if the shape does not fit, a number is not finite in float32, or no integer of the type.
 */
export function fit(raw: RawArray, what: string, shape: readonly number[], dtype: DType, factor: number): ExampleArray {
  if (!fits(per(raw), shape)) throw misfit(raw, what, shape);
  const from = raw.data;
  if (dtype === "f32" || dtype === "f16") {
    const most = dtype === "f16" ? 65504 : Infinity;
    const data = new Float32Array(from.length);
    for (let i = 0; i < from.length; i++) {
      const value = Math.fround((from[i] as number) * factor);
      data[i] = value;
      if (!Number.isFinite(value) || Math.abs(value) > most)
        throw new CompileError(
          "bad-data",
          `${what}: ${from[i]} is not a finite ${dtype} number`,
          placeOf(raw, i),
          "remove or replace such examples",
        );
    }
    return { shape, data };
  }
  const [low, high] = dtype === "bool" ? [0, 1] : dtype === "u32" ? [0, 2 ** 31 - 1] : [-(2 ** 31), 2 ** 31 - 1];
  const data = new Int32Array(from.length);
  for (let i = 0; i < from.length; i++) {
    const value = from[i] as number;
    if (!Number.isInteger(value) || value < low || value > high)
      throw new CompileError(
        "bad-data",
        `${what}: ${value} is not an integer in ${low} … ${high}`,
        placeOf(raw, i),
        `the model takes ${dtype} here`,
      );
    data[i] = value;
  }
  return { shape, data };
}

/**
 * Class numbers as int32. One-hot rows [..., count] become numbers, and labels below 0 are positions without a label; a note says so.
 * A single label per example can only be −100 then: −1 there is more likely another way to count the classes.
 *
 * @throws CompileError "bad-data" if the shape does not fit or a label is not one of 0 … count − 1.
 */
export function classLabels(raw: RawArray, { count, shape = [] }: Extract<LabelSpec, { kind: "classes" }>, notes: string[]): ExampleArray {
  if (count > 1 && !fits(per(raw), shape) && fits(per(raw), [...shape, count])) {
    notes.push(`one-hot labels are read as class numbers 0 … ${count - 1}`);
    return { shape, data: fromOneHot(raw, count) };
  }
  if (!fits(per(raw), shape)) throw misfit(raw, "the target", shape);
  const data = new Int32Array(raw.data.length);
  const several = size(shape) > 1;
  let ignored = 0;
  for (let i = 0; i < data.length; i++) {
    const label = raw.data[i] as number;
    const skip = Number.isInteger(label) && (several ? label < 0 && label >= -(2 ** 31) : label === IGNORED);
    if (skip) ignored++;
    else if (!Number.isInteger(label) || label < 0 || label >= count)
      throw new CompileError(
        "bad-data",
        `label ${label} is not one of the classes 0 … ${count - 1}`,
        placeOf(raw, i),
        labelHint(raw.data, count),
      );
    data[i] = label;
  }
  if (ignored > 0) notes.push(`${ignored} of ${data.length} labels are below 0: ${several ? "positions" : "examples"} without a label, which no loss counts`);
  return { shape, data };
}

/**
 * A weight per example, [examples] numbers ≥ 0, not all 0.
 *
 * @throws CompileError "bad-data"
 */
export function exampleWeights(raw: RawArray): Float32Array {
  if (size(per(raw)) !== 1) throw new CompileError("bad-data", `a weight per example is one number, the data have ${spellShape(per(raw))}`, raw.where, "name another array with --example-weight");
  const { data } = fit(raw, "the example weight", [], "f32", 1);
  const below = data.findIndex((w) => w < 0);
  if (below >= 0) throw new CompileError("bad-data", `an example weight of ${data[below]}`, placeOf(raw, below), "weights are numbers ≥ 0; 0 leaves an example out");
  if (data.every((w) => w === 0)) throw new CompileError("bad-data", "every example weight is 0", raw.where, "give some examples a weight above 0");
  return data as Float32Array;
}

/** What most likely happened, from all labels: the usual mistake is to count from 1. */
function labelHint(labels: RawArray["data"], count: number): string {
  let [low, high] = [Infinity, -Infinity];
  for (const label of labels) [low, high] = [Math.min(low, label), Math.max(high, label)];
  if (low >= 1 && high === count) return `the labels run from ${low} to ${high}; count them from 0`;
  return `the model has ${count} outputs to choose from, the labels run from ${low} to ${high}`;
}

function fromOneHot(raw: RawArray, count: number): Int32Array {
  const rows = raw.data.length / count;
  const data = new Int32Array(rows);
  for (let row = 0; row < rows; row++) {
    const values = raw.data.subarray(row * count, (row + 1) * count);
    const hot = values.indexOf(1);
    if (hot < 0 || values.some((v, i) => v !== Number(i === hot)))
      throw new CompileError(
        "bad-data",
        `a row of labels is not one 1 among ${count - 1} zeros`,
        placeOf(raw, row * count),
        "give class numbers, or use a loss on values",
      );
    data[row] = hot;
  }
  return data;
}

/** A note lists no more names than this. */
const LISTED = 20;

/**
 * Text labels, held as indices into the sorted `texts`, as class numbers: in the order of `known` names, or as sorted.
 *
 * @throws CompileError "bad-data" if there are more names than classes, or one that is not known.
 */
export function textLabels(
  raw: RawArray,
  texts: readonly string[],
  count: number,
  known: readonly string[] | undefined,
  notes: string[],
): { readonly raw: RawArray; readonly names: readonly string[] } {
  const names = known ?? texts;
  const listed = (all: readonly string[]): string => all.slice(0, LISTED).join(", ") + (all.length > LISTED ? ", …" : "");
  if (known === undefined && texts.length > count)
    throw new CompileError(
      "bad-data",
      `${texts.length} different labels, the model has ${count} classes`,
      raw.where,
      `labels: ${listed(texts)}`,
    );
  const numbers = texts.map((text) => names.indexOf(text));
  const stranger = numbers.indexOf(-1);
  if (stranger >= 0) {
    const at = raw.data.findIndex((v: number) => v === stranger);
    throw new CompileError("bad-data", `label "${texts[stranger]}" is not a known class`, placeOf(raw, at), `classes: ${listed(names)}`);
  }
  const missing =
    known === undefined && texts.length < count
      ? ` (the model has ${count} classes; another file with other labels would number them otherwise)`
      : "";
  notes.push(`classes: ${listed(names.map((name, i) => `${i} = ${name}`))}${missing}`);
  return { raw: { ...raw, data: Float64Array.from(raw.data, (v) => numbers[v] as number) }, names };
}
