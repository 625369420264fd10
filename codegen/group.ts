/** What fusion decides: operations that share a kernel. */
import type { Node, Value } from "../ir/graph.js";

export interface Group {
  readonly root: Node;
  /** Values this kernel computes besides the root's: of the root's result shape, or what joins its rows (`fuse-rows.ts`). */
  readonly nodes: Node[];
  /** Results that others read: these are stored. Filled at the end. */
  readonly stored: Value[];
  /** Of a contraction that computes other groups on its way (`alongside.ts`), whose nodes and results are then among its own. */
  readonly parts?: Parts;
}

export interface Parts {
  /** The contraction's own part. */
  readonly main: Group;
  /** Sums of an operand over what the contraction sums over. */
  readonly sums: readonly { readonly group: Group; readonly operand: 0 | 1 }[];
  /** Maxima, and their positions, over stretches of the contraction's result. */
  readonly maxima: readonly Group[];
}

export interface Fusion {
  /** In dispatch order. */
  readonly groups: readonly Group[];
  readonly groupOf: ReadonlyMap<Value, Group>;
}
