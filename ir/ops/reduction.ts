/** Reductions over whole axes, and the contraction of two operands. */
import type { Value } from "../graph.js";
import { eachIndex, empty, type NdArray } from "../ndarray.js";
import { type Emit, intsAttr, mismatch, type OpDef, stringAttr } from "../op.js";
import { size, strides, type Type } from "../type.js";
import type { REDUCE } from "./names.js";

const without = (shape: readonly number[], axes: readonly number[]): number[] => shape.filter((_, axis) => !axes.includes(axis));

/** Visits (input flat, output flat, row-major index inside the reduced axes). */
function eachReduced(x: NdArray, axes: readonly number[], visit: (from: number, to: number, inner: number) => void): void {
  const kept = x.shape.map((_, axis) => axis).filter((axis) => !axes.includes(axis));
  const outStep = strides(kept.map((axis) => x.shape[axis] as number));
  const inStep = strides(axes.map((axis) => x.shape[axis] as number));
  eachIndex(x.shape, (index, flat) => {
    const to = kept.reduce((sum, axis, k) => sum + (index[axis] as number) * (outStep[k] as number), 0);
    const inner = axes.reduce((sum, axis, k) => sum + (index[axis] as number) * (inStep[k] as number), 0);
    visit(flat, to, inner);
  });
}

/** x over the kept axes, repeated along the reduced ones. */
function spread(emit: Emit, x: Value, shape: readonly number[], axes: readonly number[]): Value {
  return emit("broadcast", [x], { shape, axes: shape.map((_, axis) => axis).filter((axis) => !axes.includes(axis)) });
}

/** The row-major index inside the reduced axes, as i32 of the full shape. */
function innerIndex(emit: Emit, shape: readonly number[], axes: readonly number[]): Value {
  const step = strides(axes.map((axis) => shape[axis] as number));
  return axes
    .map((axis, k) => {
      const along = emit("iota", [], { shape, axis });
      const scale = emit("broadcast", [emit("constant", [], { value: step[k] as number, dtype: "i32" })], { shape, axes: [] });
      return emit("mul", [along, scale]);
    })
    .reduce((a, b) => emit("add", [a, b]));
}

function reduction(name: (typeof REDUCE)[number], doc: string, rest: Pick<OpDef, "vjp" | "evaluate">, result?: "i32"): OpDef {
  return {
    name, doc, arity: 1, attrs: { axes: "ints" },
    infer(inputs, attrs) {
      const x = inputs[0] as Type;
      const axes = intsAttr(attrs, "axes");
      if (x.dtype === "bool") throw mismatch(name, inputs, "takes numbers: cast it first");
      const ascending = axes.every((axis, k) => axis < x.shape.length && axis > (k === 0 ? -1 : (axes[k - 1] as number)));
      if (axes.length === 0 || !ascending) throw mismatch(name, inputs, `axes [${axes}] must be ascending axes of it`);
      if (name !== "reduce_sum" && size(axes.map((axis) => x.shape[axis] as number)) === 0) throw mismatch(name, inputs, "nothing to reduce");
      return [{ dtype: result ?? x.dtype, shape: without(x.shape, axes) }];
    },
    ...rest,
  };
}

export const reduceOps: Record<(typeof REDUCE)[number], OpDef> = {
  reduce_sum: reduction("reduce_sum", "sum over the given axes", {
    vjp: ({ node, inputs: [x], ct, emit }) => [spread(emit, ct, (x as Value).type.shape, intsAttr(node.attrs, "axes"))],
    evaluate([x], attrs, [t]) {
      const out = empty(t as Type);
      eachReduced(x as NdArray, intsAttr(attrs, "axes"), (from, to) => {
        out.data[to] = (out.data[to] as number) + ((x as NdArray).data[from] as number);
      });
      return [out];
    },
  }),
  reduce_max: reduction("reduce_max", "largest over the given axes", {
    // the whole cotangent goes to the first maximum, as in PyTorch
    vjp: ({ node, inputs: [x], ct, emit }) => {
      const axes = intsAttr(node.attrs, "axes");
      const { shape } = (x as Value).type;
      const first = emit("reduce_argmax", [x as Value], { axes });
      const here = emit("eq", [spread(emit, first, shape, axes), innerIndex(emit, shape, axes)]);
      const zeros = emit("broadcast", [emit("constant", [], { value: 0, dtype: ct.type.dtype })], { shape, axes: [] });
      return [emit("select", [here, spread(emit, ct, shape, axes), zeros])];
    },
    evaluate([x], attrs, [t]) {
      const out = empty(t as Type);
      out.data.fill(Number.NEGATIVE_INFINITY);
      eachReduced(x as NdArray, intsAttr(attrs, "axes"), (from, to) => {
        out.data[to] = Math.max(out.data[to] as number, (x as NdArray).data[from] as number);
      });
      return [out];
    },
  }),
  reduce_argmax: reduction("reduce_argmax", "row-major index, inside the given axes, of the first maximum", {
    vjp: () => [undefined],
    evaluate([x], attrs, [t]) {
      const out = empty(t as Type);
      const best = new Float64Array(out.data.length).fill(Number.NEGATIVE_INFINITY);
      eachReduced(x as NdArray, intsAttr(attrs, "axes"), (from, to, inner) => {
        const v = (x as NdArray).data[from] as number;
        if (v > (best[to] as number)) {
          best[to] = v;
          out.data[to] = inner;
        }
      });
      return [out];
    },
  }, "i32"),
};

export interface Spec {
  readonly left: string;
  readonly right: string;
  readonly out: string;
}

/** Splits "ab,bc->ac". Labels are single letters. */
export function parseSpec(spec: string): Spec {
  const match = /^([A-Za-z]*),([A-Za-z]*)->([A-Za-z]*)$/.exec(spec);
  return { left: match?.[1] ?? "?", right: match?.[2] ?? "?", out: match?.[3] ?? "?" };
}

/** label → size; undefined if the operands disagree. */
export function labelSizes(spec: Spec, left: readonly number[], right: readonly number[]): Map<string, number> | undefined {
  const sizes = new Map<string, number>();
  for (const [labels, shape] of [[spec.left, left], [spec.right, right]] as const) {
    if (labels.length !== shape.length || new Set(labels).size !== labels.length) return undefined;
    for (let k = 0; k < labels.length; k++) {
      const label = labels[k] as string;
      if ((sizes.get(label) ?? shape[k]) !== shape[k]) return undefined;
      sizes.set(label, shape[k] as number);
    }
  }
  return [...spec.out].every((label) => sizes.has(label)) && new Set(spec.out).size === spec.out.length ? sizes : undefined;
}

/**
 * Contraction of two tensors by labelled axes (einsum): labels absent from the output are summed.
 *
 *   "ni,oi->no"   x [n, i]   w [o, i]   out[n, o] = Σ_i x[n, i] · w[o, i]
 */
export const contract: OpDef = {
  name: "contract", doc: "einsum of two operands, e.g. spec \"ni,oi->no\": out[n, o] = Σ_i left[n, i] · right[o, i]",
  arity: 2, attrs: { spec: "string" },
  infer(inputs, attrs) {
    const [l, r] = inputs as [Type, Type];
    const text = stringAttr(attrs, "spec");
    const spec = parseSpec(text);
    const sizes = labelSizes(spec, l.shape, r.shape);
    if (!sizes || l.dtype !== r.dtype || l.dtype === "bool") throw mismatch("contract", inputs, `spec "${text}" does not fit`);
    return [{ dtype: l.dtype, shape: [...spec.out].map((label) => sizes.get(label) as number) }];
  },
  vjp: ({ node, inputs, ct, emit }) => {
    const [l, r] = inputs as [Value, Value];
    const spec = parseSpec(stringAttr(node.attrs, "spec"));
    const side = (mine: Value, my: string, other: Value, its: string): Value => {
      // labels that only I have and that were summed come back by repetition
      const reach = [...my].filter((label) => spec.out.includes(label) || its.includes(label)).join("");
      const made = emit("contract", [ct, other], { spec: `${spec.out},${its}->${reach}` });
      if (reach.length === my.length) return made;
      return emit("broadcast", [made], { shape: mine.type.shape, axes: [...reach].map((label) => my.indexOf(label)) });
    };
    return [side(l, spec.left, r, spec.right), side(r, spec.right, l, spec.left)];
  },
  evaluate([l, r], attrs, [t]) {
    const spec = parseSpec(stringAttr(attrs, "spec"));
    const [a, b] = [l as NdArray, r as NdArray];
    const sizes = labelSizes(spec, a.shape, b.shape) as Map<string, number>;
    const out = empty(t as Type);
    const summed = [...sizes.keys()].filter((label) => !spec.out.includes(label));
    const stepsOf = (labels: string, shape: readonly number[], of: readonly string[]) => {
      const step = strides(shape);
      return of.map((label) => (labels.includes(label) ? (step[labels.indexOf(label)] as number) : 0));
    };
    const outer = [...spec.out];
    const [ao, bo] = [stepsOf(spec.left, a.shape, outer), stepsOf(spec.right, b.shape, outer)];
    const [ak, bk] = [stepsOf(spec.left, a.shape, summed), stepsOf(spec.right, b.shape, summed)];
    const pairs: number[] = [];
    eachIndex(summed.map((label) => sizes.get(label) as number), (index) => {
      let [x, y] = [0, 0];
      for (let k = 0; k < index.length; k++) {
        x += (index[k] as number) * (ak[k] as number);
        y += (index[k] as number) * (bk[k] as number);
      }
      pairs.push(x, y);
    });
    eachIndex((t as Type).shape, (index, flat) => {
      let [x, y, total] = [0, 0, 0];
      for (let k = 0; k < index.length; k++) {
        x += (index[k] as number) * (ao[k] as number);
        y += (index[k] as number) * (bo[k] as number);
      }
      for (let k = 0; k < pairs.length; k += 2) total += (a.data[x + (pairs[k] as number)] as number) * (b.data[y + (pairs[k + 1] as number)] as number);
      out.data[flat] = total;
    });
    return [out];
  },
};
