import { describe, expect, test } from "vitest";
import { batchAt, batches, epochOrder, type Examples, inOrder, type OrderState, permutation, philox } from "../../runtime/batches.js";

const examples: Examples = {
  count: 7,
  inputs: {
    x: { shape: [2], data: Float32Array.from({ length: 14 }, (_, i) => i) },
    ids: { shape: [], data: Int32Array.from({ length: 7 }, (_, i) => 100 + i) },
  },
  target: { shape: [], data: Int32Array.from({ length: 7 }, (_, i) => i) },
};
const visited = (batch: Examples): number[] => [...(batch.target?.data ?? [])];

test("the generator is Philox 4x32-10: the known answers of its authors", () => {
  const full = 0xffffffff;
  expect(philox([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  expect(philox([full, full, full, full], [full, full])).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
  expect(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toEqual([
    0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1,
  ]);
});

describe("an epoch's order", () => {
  test("holds every example once, whatever the seed", () => {
    for (const seed of [0, 1, 2 ** 40 + 3])
      expect(
        [...permutation(1000, seed, 5)].sort((a, b) => a - b),
        `seed ${seed}`,
      ).toEqual([...Array(1000).keys()]);
  });

  test("differs between epochs, seeds (also above 2^32) and uses, and is the same every time", () => {
    const orders = [
      permutation(50, 1, 0),
      permutation(50, 1, 1),
      permutation(50, 2, 0),
      permutation(50, 1 + 2 ** 32, 0),
      permutation(50, 1, 0, 1),
    ].map(String);
    expect(new Set(orders).size).toBe(5);
    expect(String(permutation(50, 1, 0))).toBe(orders[0]);
  });

  test("is the order that earlier versions gave: a checkpoint must go on as it began", () => {
    expect([...permutation(10, 42, 3)]).toEqual([3, 5, 1, 6, 2, 9, 0, 8, 7, 4]);
  });

  test("favours no place: over 6000 shuffles of 5, each example is in each place 1200 times within 5 sigma", () => {
    const counts = new Array<number>(25).fill(0);
    for (let epoch = 0; epoch < 6000; epoch++)
      permutation(5, 9, epoch).forEach((example, place) => (counts[place * 5 + example] = (counts[place * 5 + example] ?? 0) + 1));
    for (const count of counts) expect(Math.abs(count - 1200), `seed 9, ${counts}`).toBeLessThan(5 * Math.sqrt(6000 * 0.2 * 0.8));
  });

  test("visits only the pool, and without shuffling in the pool's own order", () => {
    const pool = Uint32Array.of(4, 2, 6);
    expect([...epochOrder(pool, 1, 0)].sort()).toEqual([2, 4, 6]);
    expect([...epochOrder(pool, 1, 0, false)]).toEqual([4, 2, 6]);
  });
});

describe("batches", () => {
  test("hold the examples of the order, whole, with the count in front of every shape", () => {
    const batch = batchAt(examples, Uint32Array.of(5, 0, 3), 1, 2);
    expect(batch).toEqual({
      count: 2,
      inputs: { x: { shape: [2, 2], data: Float32Array.of(0, 1, 6, 7) }, ids: { shape: [2], data: Int32Array.of(100, 103) } },
      target: { shape: [2], data: Int32Array.of(0, 3) },
    });
  });

  test("the last one is short and says its true count", () => {
    expect([...inOrder(examples, 3)].map((b) => [b.count, b.inputs["x"]?.shape])).toEqual([
      [3, [3, 2]],
      [3, [3, 2]],
      [1, [1, 2]],
    ]);
  });

  test("going on from any saved state visits exactly what the unbroken run would have", () => {
    const start: OrderState = { dataSeed: 11, epoch: 0, position: 0 };
    const take = (state: OrderState, n: number): { seen: number[][]; states: OrderState[] } => {
      const [seen, states]: [number[][], OrderState[]] = [[], []];
      for (const { batch, next } of batches(examples, { size: 3, state })) {
        seen.push(visited(batch));
        states.push(next);
        if (seen.length === n) break;
      }
      return { seen, states };
    };
    const whole = take(start, 10);
    expect(whole.seen.map((s) => s.length)).toEqual([3, 3, 1, 3, 3, 1, 3, 3, 1, 3]);
    whole.states.forEach((state, i) =>
      expect(take(state, 10 - i - 1 || 1).seen.slice(0, 9 - i), `after batch ${i}`).toEqual(whole.seen.slice(i + 1)),
    );
    expect(new Set([0, 3, 6].map((at) => String(whole.seen.slice(at, at + 3)))).size).toBe(3);
  });

  test("an epoch's end is said with its last batch, and the state is the next epoch's first place", () => {
    const steps = batches(examples, { size: 7, state: { dataSeed: 1, epoch: 4, position: 0 } });
    const step = steps.next().value;
    expect(step && [step.epochDone, step.next]).toEqual([true, { dataSeed: 1, epoch: 5, position: 0 }]);
  });

  test("of nothing there are none, instead of a loop without end", () => {
    expect([...batches({ count: 0, inputs: {} }, { size: 3, state: { dataSeed: 1, epoch: 0, position: 0 } })]).toEqual([]);
    expect([...batches(examples, { size: 0, state: { dataSeed: 1, epoch: 0, position: 0 } })]).toEqual([]);
  });
});
