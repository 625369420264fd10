/**
 * Which reductions and values may share one kernel of row sweeps: reductions of the same trailing axes of the same shape, values of that
 * shape, and values of one element per row. A thread of that kernel sees its own row only, so movement between them must keep rows in place.
 */
import type { Node, Value } from "../ir/graph.js";
import { only } from "../ir/graph.js";
import { intsAttr } from "../ir/op.js";
import { sameShape, size } from "../ir/type.js";
import type { Group } from "./group.js";

/** `full` = `lead` + the reduced axes. */
export interface Rows {
  readonly lead: readonly number[];
  readonly full: readonly number[];
}

/** A row up to here is one thread's work however few there are. */
const SHORT = 64;
/** Longer ones need this many rows to keep the device busy, and are no longer than `LONG`: else each reduction is split over threads. */
const MANY = 64;
const LONG = 1024;

export const isReduction = (node: Node): boolean => node.op === "reduce_sum" || node.op === "reduce_max" || node.op === "reduce_argmax";

/** The rows that a reduction takes; undefined if its axes are not the last ones, or a thread per row does not pay. */
export function reductionRows(node: Node): Rows | undefined {
  if (!isReduction(node)) return undefined;
  const full = (node.inputs[0] as Value).type.shape;
  const axes = [...intsAttr(node.attrs, "axes")].sort((a, b) => a - b);
  const kept = full.length - axes.length;
  if (!axes.every((a, k) => a === kept + k)) return undefined;
  const lead = full.slice(0, kept);
  const [rows, length] = [size(lead), size(full.slice(kept))];
  return length > 1 && (length <= SHORT || (length <= LONG && rows >= MANY)) ? { lead, full } : undefined;
}

export const rowsOf = (group: Group): Rows | undefined => reductionRows(group.root);

/** One element per element of the rows, or one per row (with or without axes of size 1 in the reduced ones' place). */
export const belongs = (value: Value, { lead, full }: Rows): boolean =>
  sameShape(value.type.shape, full) || (value.type.shape.length >= lead.length && value.type.shape.length <= full.length && sameShape(value.type.shape.slice(0, lead.length), lead) && value.type.shape.slice(lead.length).every((n) => n === 1));

/** Movement from a row's value to that row's elements, or between spellings of the same shape. */
export function keepsRows(node: Node, { lead, full }: Rows): boolean {
  const [from, to] = [(node.inputs[0] as Value)?.type.shape, only(node).type.shape];
  if (node.op === "reshape") return size(from) === size(lead) || size(from) === size(full);
  if (node.op !== "broadcast" || (size(to) !== size(full) && size(to) !== size(lead))) return false;
  // the axes that the input has come first, the repeated ones after them
  const axes = intsAttr(node.attrs, "axes").filter((_, k) => (from[k] as number) > 1);
  const moving = to.flatMap((n, k) => (n > 1 ? [k] : []));
  return (size(from) === size(lead) || size(from) === size(to)) && axes.every((a, k) => a === moving[k]);
}

/** The group is a kernel of row sweeps: it has a second reduction, or values of the rows' own shape. */
export function sweepsRows(group: Group): boolean {
  const rows = rowsOf(group);
  return rows !== undefined && group.nodes.some((n) => isReduction(n) || sameShape(only(n).type.shape, rows.full));
}

/** The last value that joined because of its row. */
export const lastOfRows = (group: Group): Node =>
  [...group.nodes].reverse().find((n) => isReduction(n) || sameShape(only(n).type.shape, (group.root.inputs[0] as Value).type.shape)) ?? group.root;
