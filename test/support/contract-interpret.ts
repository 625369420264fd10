/** What a contraction means, slowly, in float64; and float32 noise bounds for it. */
import type { Access, Affine, Axis, Buffer, ContractSpec, Expr } from "../../codegen/kernel.js";

export type Memory = Map<Buffer, Float64Array>;
type At = ReadonlyMap<Axis, number>;

const index = (a: Affine, at: At): number => [...a.by].reduce((sum, [axis, c]) => sum + c * (at.get(axis) ?? 0), a.at);

export function read(access: Access, at: At, memory: Memory): number {
  let address = index(access.address, at);
  for (const b of access.bounds) if (index(b.expr, at) < b.low || index(b.expr, at) >= b.high) return access.fill;
  for (const q of access.quotients) {
    const dividend = index(q.expr, at);
    if (dividend % q.divisor !== 0) return access.fill;
    address += (dividend / q.divisor) * q.stride;
  }
  const value = memory.get(access.buffer)?.[address];
  if (value === undefined) throw new Error(`${access.buffer.name}[${address}] does not exist`);
  return value;
}

function evaluate(e: Expr, at: At, acc: number, memory: Memory, run: Readonly<Record<string, number>>, position = 0): number {
  switch (e.kind) {
    case "const": return e.value;
    case "acc": return e.dtype === "i32" ? position : acc;
    case "cast": return evaluate(e.arg, at, acc, memory, run, position);
    case "run": return run[e.name] ?? 0;
    case "load": return read(e.access, at, memory);
    case "index": return index(e.index, at);
    case "op": {
      const [x = 0, y = 0] = e.args.map((arg) => evaluate(arg, at, acc, memory, run, position));
      if (e.op === "add") return x + y;
      if (e.op === "sub") return x - y;
      if (e.op === "mul") return x * y;
      if (e.op === "relu") return Math.max(x, 0);
      throw new Error(`the test interpreter has no ${e.op}`);
    }
    default: throw new Error(`the test interpreter has no ${e.kind}`);
  }
}

export function each(axes: readonly Axis[], visit: (at: Map<Axis, number>) => void): void {
  const at = new Map<Axis, number>();
  const go = (k: number): void => {
    const axis = axes[k];
    if (axis === undefined) visit(at);
    else {
      for (let i = 0; i < axis.size; i++) {
        at.set(axis, i);
        go(k + 1);
      }
    }
  };
  go(0);
}

/** Memory after the contraction. Values are computed from the memory before it. */
export function interpret(spec: ContractSpec, before: Memory, run: Readonly<Record<string, number>> = {}): Memory {
  const after: Memory = new Map([...before].map(([buffer, data]) => [buffer, data.slice()]));
  const summed = (at: At, factors: readonly (Access | "one")[]): number => {
    let acc = 0;
    each(spec.reduction, (inner) => {
      const all = new Map([...at, ...inner]);
      acc += factors.reduce((product, f) => product * (f === "one" ? 1 : read(f, all, before)), 1);
    });
    return acc;
  };
  const store = (stores: ContractSpec["stores"], at: At, acc: number, position = 0): void => {
    for (const s of stores) {
      const target = after.get(s.buffer);
      if (target) target[index(s.address, at)] = evaluate(s.value, at, acc, before, run, position);
    }
  };
  const { pool } = spec;
  each(spec.output.filter((a) => !pool?.axes.includes(a)), (at) => {
    if (!pool) return store(spec.stores, at, summed(at, [spec.left, spec.right]));
    let [best, first, count] = [Number.NEGATIVE_INFINITY, 0, 0];
    each(pool.axes, (inner) => {
      const all = new Map([...at, ...inner]);
      const value = evaluate(pool.value, all, summed(all, [spec.left, spec.right]), before, run);
      if (value > best) [best, first] = [value, count];
      count++;
    });
    store(spec.stores, at, best, first);
  });
  for (const sum of spec.sums ?? []) {
    const of = sum.of === "none" ? [] : [sum.of.address, ...sum.of.bounds.map((b) => b.expr), ...sum.of.quotients.map((q) => q.expr)];
    const moves = [...of, ...sum.stores.map((s) => s.address)];
    each(spec.output.filter((a) => moves.some((m) => m.by.has(a))), (at) => store(sum.stores, at, sum.of === "none" ? 0 : summed(at, [sum.of])));
  }
  return after;
}
