/**
 * The order in which examples are visited, and batches gathered in it.
 *
 * Everything random is a function of (seed, epoch, index) through a counter-based generator, so the whole state of a
 * training run's data order is three numbers and resuming from them is exact. Browser-safe.
 */

export interface ExampleArray {
  /** Shape of one example; of a batch: with the count in front. */
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array;
}

/** Examples in memory. `data` of every array holds `count` examples, one after the other. */
export interface Examples {
  readonly count: number;
  readonly inputs: Readonly<Record<string, ExampleArray>>;
  readonly target?: ExampleArray;
  /** Instead of `target` where several outputs have losses: by output name. */
  readonly targets?: Readonly<Record<string, ExampleArray>>;
  /** One per example, ≥ 0; 0 leaves it out. */
  readonly weight?: Float32Array;
}

/** Where a run stands in its data: `position` examples of epoch `epoch` are done. */
export interface OrderState {
  readonly dataSeed: number;
  readonly epoch: number;
  readonly position: number;
}

/** Uses of one seed that must not share random numbers. */
export const STREAM = { order: 0, split: 1 } as const;

/** High and low word of a 32 × 32-bit product, through 16-bit halves. */
function multiply(a: number, b: number): readonly [high: number, low: number] {
  const [al, ah, bl, bh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = ah * bl + ((al * bl) >>> 16); // below 2^32
  const carry = al * bh + (middle & 0xffff); // below 2^32
  return [(ah * bh + Math.floor(middle / 65536) + Math.floor(carry / 65536)) >>> 0, Math.imul(a, b) >>> 0];
}

/**
 * Philox 4×32-10: four random words from a counter and a key.
 * Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"; constants of table 2.
 */
export function philox(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [h0, l0] = multiply(0xd2511f53, c0);
    const [h1, l1] = multiply(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [(h1 ^ c1 ^ k0) >>> 0, l1, (h0 ^ c3 ^ k1) >>> 0, l0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/**
 * A random order of 0 … count − 1 (Fisher–Yates). Seeds may be any integers up to 2^53.
 * A place is drawn from 64 random bits, so the bias is below count / 2^53.
 */
export function permutation(count: number, seed: number, epoch: number, stream: number = STREAM.order): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  const key = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0] as const;
  for (let i = count - 1; i > 0; i--) {
    const [high, low] = philox([i, epoch >>> 0, stream, 0], key);
    const other = Math.floor(((high >>> 5) * 2 ** 26 + (low >>> 6)) * 2 ** -53 * (i + 1));
    const kept = order[i] as number;
    order[i] = order[other] as number;
    order[other] = kept;
  }
  return order;
}

/**
 * The examples of one epoch in the order they are visited: `pool` shuffled, or as it is without `shuffle`.
 *
 * @param pool indices into the examples: all of them (a count), or one side of a split
 */
export function epochOrder(pool: number | Uint32Array, seed: number, epoch: number, shuffle = true): Uint32Array {
  const count = typeof pool === "number" ? pool : pool.length;
  const places = shuffle ? permutation(count, seed, epoch) : Uint32Array.from({ length: count }, (_, i) => i);
  return typeof pool === "number" ? places : places.map((place) => pool[place] as number);
}

function gather({ shape, data }: ExampleArray, indices: Uint32Array): ExampleArray {
  const each = shape.reduce((product, n) => product * n, 1);
  const length = indices.length * each;
  const out = data instanceof Float32Array ? new Float32Array(length) : new Int32Array(length);
  indices.forEach((index, i) => out.set(data.subarray(index * each, (index + 1) * each), i * each));
  return { shape: [indices.length, ...shape], data: out };
}

/** The batch of examples order[start … start + size), in fresh arrays. Short at the end: its `count` is the true one. */
export function batchAt(examples: Examples, order: Uint32Array, start: number, size: number): Examples {
  const indices = order.subarray(start, start + size);
  const all = (arrays: Readonly<Record<string, ExampleArray>>) => Object.fromEntries(Object.entries(arrays).map(([name, array]) => [name, gather(array, indices)]));
  const { inputs, target, targets, weight } = examples;
  return {
    count: indices.length, inputs: all(inputs),
    ...(target && { target: gather(target, indices) }), ...(targets && { targets: all(targets) }),
    ...(weight && { weight: Float32Array.from(indices, (index) => weight[index] as number) }),
  };
}

/** A batch as a trainer takes it. */
export function asBatch({ inputs, target, targets, weight }: Examples) {
  const given = targets ?? target;
  return { ...inputs, ...(given && { target: given }), ...(weight && { weight }) };
}

export interface BatchOptions {
  readonly size: number;
  readonly state: OrderState;
  /** Which examples; all of them if absent. */
  readonly pool?: Uint32Array;
  /** Default true. */
  readonly shuffle?: boolean;
}

export interface BatchStep {
  readonly batch: Examples;
  /** The state after this batch: put it in a checkpoint, and `batches` from it goes on with exactly the next one. */
  readonly next: OrderState;
  readonly epochDone: boolean;
}

/** Batches without end, epoch after epoch. The last batch of an epoch may be short. No examples: no batches. */
export function* batches(examples: Examples, { size, state, pool, shuffle }: BatchOptions): Generator<BatchStep, void, void> {
  const source = pool ?? examples.count;
  let { epoch, position } = state;
  for (;;) {
    const order = epochOrder(source, state.dataSeed, epoch, shuffle);
    if (order.length === 0 || !(size >= 1)) return;
    while (position < order.length) {
      const batch = batchAt(examples, order, position, size);
      position += batch.count;
      const epochDone = position >= order.length;
      yield { batch, epochDone, next: epochDone ? { ...state, epoch: epoch + 1, position: 0 } : { ...state, epoch, position } };
    }
    epoch++;
    position = 0;
  }
}

/** Every example once, in order: what evaluation and prediction visit. */
export function* inOrder(examples: Examples, size: number, pool?: Uint32Array): Generator<Examples, void, void> {
  const order = epochOrder(pool ?? examples.count, 0, 0, false);
  for (let at = 0; at < order.length; at += size) yield batchAt(examples, order, at, size);
}
