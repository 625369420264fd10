/** Which short-lived buffers share memory. Slots are whole buffers: WebGPU refuses one buffer for reading and writing in one dispatch. */

/** Something that needs `bytes` from dispatch `first` to dispatch `last` of an entry. Entries never overlap. */
export interface Life<T> {
  readonly bytes: number;
  readonly entry: number;
  readonly first: number;
  readonly last: number;
  readonly what: T;
}

export interface Slot<T> {
  readonly bytes: number;
  readonly holds: readonly T[];
}

/**
 * The largest goes first, so that a slot's first tenant is its largest; then each into the smallest slot that is free while it lives.
 * Deterministic: of equal sizes in the order of entries and dispatches.
 */
export function shareSlots<T>(lives: readonly Life<T>[]): Slot<T>[] {
  const slots: { readonly bytes: number; readonly holds: T[]; readonly taken: Map<number, (readonly [number, number])[]> }[] = [];
  const order = lives.toSorted((a, b) => b.bytes - a.bytes || a.entry - b.entry || a.first - b.first);
  for (const { bytes, entry, first, last, what } of order) {
    const free = slots.findLast(({ taken }) => !taken.get(entry)?.some(([from, to]) => from <= last && first <= to));
    const slot = free ?? { bytes, holds: [] as T[], taken: new Map<number, (readonly [number, number])[]>() };
    if (!free) slots.push(slot);
    slot.holds.push(what);
    const intervals = slot.taken.get(entry) ?? [];
    slot.taken.set(entry, intervals);
    intervals.push([first, last]);
  }
  return slots.map(({ bytes, holds }) => ({ bytes, holds }));
}
