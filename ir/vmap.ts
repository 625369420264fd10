/**
 * Maps recorded nodes over a leading axis: the same computation for k stacked values at once. K-FAC uses it to carry the
 * gradient's cotangent and all Fisher columns through one backward pass.
 */
import { broadcast, reshape } from "./builder.js";
import type { Attrs, Node, Value } from "./graph.js";
import { only } from "./graph.js";
import { type Emit, intAttr, intsAttr, stringAttr } from "./op.js";
import { OPS } from "./ops/index.js";
import { parseSpec } from "./ops/reduction.js";

/**
 * Replays `nodes` with every value in `stacked` replaced by its stacked form [k, ...]. Nodes that do not depend on one are left
 * alone. Returns original value → stacked value, for everything that became stacked.
 */
export function vmap(emit: Emit, nodes: readonly Node[], stacked: ReadonlyMap<Value, Value>): Map<Value, Value> {
  const map = new Map(stacked);
  const first = [...stacked.values()][0];
  if (!first) return map;
  const k = first.type.shape[0] as number;
  for (const node of nodes) {
    if (!node.inputs.some((v) => map.has(v))) continue;
    map.set(only(node), replay(emit, node, map, k));
  }
  return map;
}

/** A value without the leading axis, repeated along it. */
const repeated = (emit: Emit, v: Value, k: number): Value =>
  broadcast(emit, v, [k, ...v.type.shape], v.type.shape.map((_, axis) => axis + 1));

function replay(emit: Emit, node: Node, map: ReadonlyMap<Value, Value>, k: number): Value {
  const { op, attrs } = node;
  const x = node.inputs[0] as Value;
  const sx = map.get(x) as Value;
  const up = (list: readonly number[]) => list.map((axis) => axis + 1);
  const all = () => node.inputs.map((v) => map.get(v) ?? repeated(emit, v, k));
  if (OPS[op].elementwise) return emit(op, all(), attrs);
  switch (op) {
    case "reshape": return emit(op, [sx], { shape: [k, ...intsAttr(attrs, "shape")] });
    case "permute": return emit(op, [sx], { perm: [0, ...up(intsAttr(attrs, "perm"))] });
    case "broadcast": return emit(op, [sx], { shape: [k, ...intsAttr(attrs, "shape")], axes: [0, ...up(intsAttr(attrs, "axes"))] });
    case "pad": return emit(op, [sx], { ...attrs, low: [0, ...intsAttr(attrs, "low")], high: [0, ...intsAttr(attrs, "high")] });
    case "slice":
      return emit(op, [sx], { start: [0, ...intsAttr(attrs, "start")], size: [k, ...intsAttr(attrs, "size")], stride: [1, ...intsAttr(attrs, "stride")] });
    case "window": case "fold": return emit(op, [sx], { ...attrs, axis: intAttr(attrs, "axis") + 1 } as Attrs);
    case "concat": return emit(op, all(), { axis: intAttr(attrs, "axis") + 1 });
    case "reduce_sum": case "reduce_max": case "reduce_argmax": return emit(op, [sx], { axes: up(intsAttr(attrs, "axes")) });
    case "contract": {
      const spec = parseSpec(stringAttr(attrs, "spec"));
      const label = [..."zyxwvutsrqponmlkjihgfedcbaZYXWVUTSRQPONMLKJIHGFEDCBA"].find((c) => !(spec.left + spec.right).includes(c)) as string;
      const [l, r] = node.inputs as [Value, Value];
      const [sl, sr] = [map.get(l), map.get(r)];
      return emit(op, [sl ?? l, sr ?? r], { spec: `${sl ? label : ""}${spec.left},${sr ? label : ""}${spec.right}->${label}${spec.out}` });
    }
    case "gather": case "scatter": {
      // one batch of k times as many tables
      const [v, index] = all().map((s) => reshape(emit, s, [k * (s.type.shape[1] as number), ...s.type.shape.slice(2)])) as [Value, Value];
      const made = emit(op, [v, index], attrs);
      return reshape(emit, made, [k, (made.type.shape[0] as number) / k, ...made.type.shape.slice(1)]);
    }
    default: throw new Error(`"${op}" cannot be mapped over a leading axis`);
  }
}
