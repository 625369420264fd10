/** Random contractions with small integers as data: float32 sums of them are exact in any order, so results must be equal. */
import type { Access, Axis, Buffer, ContractSpec, Expr, SideSum, Store } from "../../codegen/kernel.js";
import { ACC, access, affine, axis, buffer, constant, type Conv, convFactor, convForward, convInput, convWeight, gram, load, op, rowMajor, storeTo, view } from "./contract-specs.js";

/** Seeded choices. */
export class Dice {
  #state: number;
  constructor(seed: number) {
    this.#state = (seed * 2654435761 + 12345) >>> 0;
    for (let i = 0; i < 4; i++) this.int(2);
  }
  /** 0 ≤ result < n */
  int(n: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * n);
  }
  pick<T>(list: readonly T[]): T {
    return list[this.int(list.length)] as T;
  }
  shuffled<T>(list: readonly T[]): T[] {
    const rest = [...list];
    return list.map(() => rest.splice(this.int(rest.length), 1)[0] as T);
  }
  chance(p: number): boolean {
    return this.int(1000) < p * 1000;
  }
}

const size = (dice: Dice): number => (dice.chance(0.15) ? 1 : dice.chance(0.3) ? dice.pick([4, 8, 12, 16, 20]) : 1 + dice.int(19));

/** Any einsum of two operands, some of them 1, axes stored in any order with or without padded rows. */
function einsum(dice: Dice): ContractSpec {
  const some = (prefix: string, most: number): Axis[] => Array.from({ length: dice.int(most + 1) }, (_, i) => axis(`${prefix}${i}`, size(dice)));
  const [batch, m, n, k] = [some("batch", 1), some("m", 2), some("n", 2), some("k", 2)];
  for (const axes of [batch, m, n, k]) while (axes.reduce((p, a) => p * a.size, 1) > 60) axes.pop();
  const pad = dice.pick([1, 1, 4]);
  const operand = (name: string, axes: readonly Axis[]): Access | "one" => {
    if (dice.chance(0.08)) return "one";
    const stored = view(name, dice.shuffled(axes), pad);
    // an offset into a larger buffer
    const at = dice.chance(0.2) ? dice.int(9) : 0;
    return access(buffer(name, stored.buffer.elements + at), { ...stored.address, at });
  };
  const left = operand("left", [...batch, ...m, ...k]);
  const right = operand("right", [...batch, ...n, ...k]);
  const output = dice.shuffled([...batch, ...m, ...n]);
  return { kind: "contract", label: "einsum", output, reduction: dice.shuffled(k), left, right, stores: epilogue(dice, output, pad, left) };
}

/** Plain, scaled with a bias, in place with a run-time factor, with the operand itself, or two stores. */
function epilogue(dice: Dice, output: readonly Axis[], pad: number, left: Access | "one"): Store[] {
  const target = view("updated", dice.chance(0.7) ? output : dice.shuffled(output), pad);
  const old = load(target);
  const lr: Expr = { kind: "run", dtype: "f32", name: "lr" };
  switch (dice.int(6)) {
    case 0: return [storeTo(target, op("sub", old, op("mul", lr, ACC)))];
    case 1: {
      const along = dice.pick(output);
      return [storeTo(target, along ? op("relu", op("add", ACC, load(access(buffer("bias", along.size), affine([[along, 1]]))))) : op("relu", ACC))];
    }
    case 2: {
      const second = view("second", dice.shuffled(output));
      const sum = op("add", op("mul", old, constant(0.5)), ACC);
      // loads the old value again after the text of the first store: it must still be the old one
      return [storeTo(target, sum), storeTo(second, op("mul", sum, op("sub", sum, load(target))))];
    }
    case 3: {
      if (left === "one" || output.length === 0) return [storeTo(target)];
      return [storeTo(target, op("add", ACC, load(access(left.buffer, affine([[output[0] as Axis, 1]]), [{ expr: affine([[output[0] as Axis, 1]]), low: 0, high: Math.min(2, left.buffer.elements) }]))))];
    }
    default: return [storeTo(target)];
  }
}

function conv(dice: Dice): ContractSpec {
  const c: Conv = {
    n: 1 + dice.int(4), ci: 1 + dice.int(5), co: 1 + dice.int(6), y: 3 + dice.int(8), x: dice.pick([4, 5, 6, 7, 8, 10, 12, 13, 14]), k: dice.pick([1, 2, 3, 3]),
    stride: dice.pick([1, 1, 2, 3]), dilation: dice.pick([1, 1, 1, 2]), pad: dice.int(3), tapPad: dice.pick([1, 4]),
  };
  if ((c.k - 1) * (c.dilation ?? 1) + 1 > c.y + 2 * (c.pad ?? 0) || (c.k - 1) * (c.dilation ?? 1) + 1 > c.x + 2 * (c.pad ?? 0)) return conv(dice);
  const form = dice.int(4);
  if (form === 3) return convFactor({ ...c, ci: Math.min(c.ci, 3), n: Math.min(c.n, 2) });
  return form === 0 ? convForward(c) : form === 1 ? convInput(c) : convWeight(c);
}

/** A symmetric product with an in-place average, as factor statistics have it. */
function factor(dice: Dice): ContractSpec {
  const columns = 1 + dice.int(40);
  const plain = gram(1 + dice.int(40), columns, columns + dice.int(3));
  const [i, j] = plain.output as [Axis, Axis];
  const { by, elements } = rowMajor([i, j], dice.pick([1, 4]));
  const target = access(buffer("average", elements), affine(by));
  return { ...plain, stores: [storeTo(target, dice.chance(0.5) ? ACC : op("add", op("mul", load(target), constant(0.5)), ACC))] };
}

export const randomSpec = (dice: Dice): ContractSpec => {
  const plain = dice.chance(0.45) ? einsum(dice) : dice.chance(0.8) ? conv(dice) : factor(dice);
  const pooled = plain.symmetric === undefined && dice.chance(0.25) ? withPool(plain, dice) : plain;
  return dice.chance(0.35) ? withSums(pooled, dice) : pooled;
};

/** Axes that an operand moves along. */
const movesAlong = (a: Access): Set<Axis> => new Set([a.address, ...a.bounds.map((b) => b.expr), ...a.quotients.map((q) => q.expr)].flatMap((f) => [...f.by.keys()]));

/** Sums of one or both operands beside the product, new or added to what is there, and a store without any sum. */
function withSums(spec: ContractSpec, dice: Dice): ContractSpec {
  const sums: SideSum[] = [];
  for (const [of, name] of [[spec.left, "left_sum"], [spec.right, "right_sum"]] as const) {
    if (of === "one" || dice.chance(0.4) || (spec.symmetric && sums.length > 0)) continue;
    const target = view(name, dice.shuffled(spec.output.filter((a) => movesAlong(of).has(a))), dice.pick([1, 4]));
    sums.push({ of, stores: [storeTo(target, dice.chance(0.5) ? ACC : op("sub", load(target), op("mul", { kind: "run", dtype: "f32", name: "lr" }, ACC)))] });
  }
  if (dice.chance(0.2)) sums.push({ of: "none", stores: [storeTo(view("single", spec.symmetric ? [] : dice.shuffled(spec.output).slice(0, dice.int(3))), constant(3))] });
  return sums.length === 0 ? spec : { ...spec, sums };
}

/** The maximum over one or two output axes of the sum and something that moves along them, and where it is. */
function withPool(spec: ContractSpec, dice: Dice): ContractSpec {
  const axes = dice.shuffled(spec.output.filter((a) => a.size > 1 && a.size <= 4)).slice(0, 1 + dice.int(2));
  if (axes.length === 0) return spec;
  const rest = spec.output.filter((a) => !axes.includes(a));
  const along = dice.pick(axes);
  const value = dice.chance(0.5) ? ACC : op("relu", op("add", ACC, load(access(buffer("slope", along.size), affine([[along, 1]])))));
  const stores = [storeTo(view("largest", rest, dice.pick([1, 4])), dice.chance(0.5) ? ACC : op("relu", ACC))];
  if (dice.chance(0.7)) stores.push(storeTo(view("place", rest), { kind: "cast", dtype: "f32", arg: { kind: "acc", dtype: "i32" } }));
  return { ...spec, stores, pool: { axes, value } };
}

export const buffersOf = (spec: ContractSpec): Buffer[] => {
  const found = new Set<Buffer>();
  const walk = (e: Expr): void => {
    if (e.kind === "load") found.add(e.access.buffer);
    if (e.kind === "op") e.args.forEach(walk);
  };
  for (const side of [spec.left, spec.right]) if (side !== "one") found.add(side.buffer);
  if (spec.pool) walk(spec.pool.value);
  for (const store of [...spec.stores, ...(spec.sums ?? []).flatMap((sum) => sum.stores)]) {
    found.add(store.buffer);
    walk(store.value);
  }
  return [...found];
};

/** Integers in -3 … 3. What a symmetric contraction updates in place starts symmetric. */
export function randomData(spec: ContractSpec, dice: Dice): Map<Buffer, Float32Array> {
  const data = new Map(buffersOf(spec).map((b) => [b, Float32Array.from({ length: b.elements }, () => dice.int(7) - 3)]));
  if (spec.symmetric?.length) for (const store of spec.stores) data.get(store.buffer)?.fill(2);
  return data;
}

/** Another legal-looking choice of tiles and splits, to test the generator beyond what the cost model likes. */
export function randomChoice(spec: ContractSpec, dice: Dice): { tile: number[]; split: number[] } {
  const axes = [...spec.output, ...spec.reduction];
  const whole = new Set(spec.pool?.axes ?? []);
  const tile = axes.map((a) => (whole.has(a) ? a.size : Math.min(a.size, dice.pick([1, 1, 2, 3, 4, 5, 8, a.size]))));
  const split = axes.map((a, k) => (k >= spec.output.length && dice.chance(0.3) ? 1 + dice.int(Math.min(5, a.size)) : 1));
  for (const [i, j] of spec.symmetric ?? []) tile[axes.indexOf(j)] = tile[axes.indexOf(i)] ?? 1;
  const product = (list: readonly number[]) => list.reduce((a, b) => a * b, 1);
  while (product(tile.slice(0, spec.output.length)) > 64 || product(tile) > 1500) {
    const k = dice.int(tile.length);
    if (whole.has(axes[k] as Axis)) continue;
    const smaller = Math.ceil((tile[k] ?? 1) / 2);
    tile[k] = smaller;
    for (const [i, j] of spec.symmetric ?? []) for (const [a, b] of [[i, j], [j, i]] as const) if (axes[k] === a) tile[axes.indexOf(b)] = smaller;
  }
  return { tile, split };
}
