/** What lowering one group needs: splits of axes until every view is affine, views, stores, a label. */
import { CompileError } from "../ir/error.js";
import { type Node, only, type Value } from "../ir/graph.js";
import { addAffine, axisIndex, constantIndex, scaleAffine } from "./affine.js";
import type { Group } from "./group.js";
import type { Affine, Axis, Buffer, Expr, KernelSpec, Store } from "./kernel.js";
import type { InverseSpec } from "./kernels/inverse-spec.js";
import type { ScatterSpec } from "./kernels/scatter-spec.js";
import { flat, SplitAxis, Views } from "./view.js";

export type Spec = KernelSpec | InverseSpec | ScatterSpec;

export interface GroupContext {
  readonly group: Group;
  readonly producer: ReadonlyMap<Value, Node>;
  readonly buffers: ReadonlyMap<Value, Buffer>;
}

/** Retries with axes split where a view asks for it. `axesOf` gives fresh factors for a dimension under the splits so far. */
export function withSplits<T>(make: (dim: (name: string, size: number) => { axes: Axis[]; index: Affine }) => T): T {
  const cuts = new Map<string, number[]>();
  for (let tries = 0; tries < 64; tries++) {
    const made = new Map<Axis, { name: string; place: number }>();
    const dim = (name: string, size: number) => {
      const axes: Axis[] = [];
      let index = constantIndex(0);
      let unit = size;
      (cuts.get(name) ?? [size]).forEach((n, place) => {
        unit /= n;
        const axis = { name: (cuts.get(name)?.length ?? 1) > 1 ? `${name}_${place}` : name, size: n };
        axes.push(axis);
        made.set(axis, { name, place });
        index = addAffine(index, scaleAffine(axisIndex(axis), unit));
      });
      return { axes: axes.filter((a) => a.size > 1), index };
    };
    try {
      return make(dim);
    } catch (e) {
      if (!(e instanceof SplitAxis)) throw e;
      const where = made.get(e.axis);
      if (!where) throw e;
      const list = cuts.get(where.name) ?? [e.axis.size];
      list.splice(where.place, 1, e.axis.size / e.inner, e.inner);
      cuts.set(where.name, list);
    }
  }
  throw new CompileError("internal", "axis splits do not settle");
}

export const label = (context: GroupContext): string => {
  const { root, nodes, stored } = context.group;
  const ops = [root, ...nodes].map((n) => n.op);
  const shown = ops.length > 6 ? [...ops.slice(0, 5), "…", ops[ops.length - 1]] : ops;
  return `${shown.join(" → ")} [${(stored[0] as Value).type.shape.join(", ")}]`;
};

/** Values of this kernel are computed in place; all others are read from their buffers. */
export function viewsOf({ group, producer, buffers }: GroupContext, acc: Value | undefined, accExpr?: Expr, taps?: ReadonlyMap<Node, Affine>, held?: ReadonlyMap<Value, Expr>): Views {
  const own = new Set<Value>([...group.root.results, ...group.nodes.map(only)]);
  return new Views({ producer, acc, buffer: (v) => (own.has(v) ? undefined : buffers.get(v)), ...(accExpr ? { accExpr } : {}), ...(taps ? { taps } : {}), ...(held ? { held } : {}) });
}

export const storesOf = (context: GroupContext, views: Views, coords: readonly Affine[], stored: readonly Value[] = context.group.stored): Store[] =>
  stored.map((v) => ({ buffer: context.buffers.get(v) as Buffer, address: flat(v.type.shape, coords), value: views.at(v, coords) }));
