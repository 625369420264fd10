/** What a sum by index is asked for, and when it is worth sorting its rows first. */
import type { Node, Value } from "../../ir/graph.js";
import { intAttr } from "../../ir/op.js";
import type { Access, Axis, Buffer } from "../kernel.js";
import { MAX_TRIPS } from "../limits.js";

export interface ScatterSpec {
  readonly kind: "scatter";
  readonly label: string;
  /** Tables, places in the index, numbers in a row. */
  readonly batch: Axis;
  readonly places: Axis;
  readonly width: Axis;
  readonly rows: number;
  /** Row of each place, over batch and places. */
  readonly index: Access;
  /** What is added, over batch, places and width. */
  readonly value: Access;
  /** [batch, rows, width] */
  readonly result: Buffer;
}

/** Below this many comparisons every row looks through all places; above, the places are sorted by row. */
const COMPARISONS = 2 ** 21;

export function sortsPlaces(node: Node): boolean {
  if (node.op !== "scatter") return false;
  const [batch, places, width] = (node.inputs[0] as Value).type.shape as [number, number, number];
  return places <= MAX_TRIPS && width > 0 && batch * intAttr(node.attrs, "rows") * places * Math.ceil(width / 16) > COMPARISONS;
}
