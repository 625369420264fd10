/**
 * Another batch for a model whose constants spell the file's own.
 *
 * The model is imported twice: as the file has it, and with the new batch. An axis whose size differs between the two
 * carries the examples ("scaled"). A Reshape then needs the place of the examples inside its target: they are one digit of
 * the row-major index, so their stride says where they go, whatever number the target spells.
 */

/** Where the examples are in a tensor: the axis, and how many elements of that axis lie inside one example step. */
export interface Place {
  readonly axis: number;
  readonly inner: number;
}

const product = (list: readonly number[]): number => list.reduce((a, b) => a * b, 1);

/**
 * The shape that a Reshape gives under the new batch, or undefined if the examples cannot be placed without doubt.
 *
 * @param old input's shape in the file; `place` of the examples in it; `target` the file's (resolved) result
 * @param raw the target as spelled now (0, −1, numbers); `natural` what it resolves to now, if it does
 * @param exact `natural` is right: the file computes it from shapes, for any batch
 * @param symbolic the file leaves its batch open: only an axis of 1 that is the batch alone may be something else than `natural` says
 */
export function reboundShape(
  old: readonly number[], place: Place, target: readonly number[], from: number, to: number, raw: readonly number[], natural: readonly number[] | undefined, exact = false, symbolic = false,
): { shape: number[]; place: Place } | undefined {
  const step = product(old.slice(place.axis + 1)) * place.inner;
  const options = target.flatMap((n, axis) => {
    const stride = product(target.slice(axis + 1));
    const fits = stride > 0 && step % stride === 0 && (stride * n) % (step * from) === 0;
    if (!fits) return [];
    const shape = target.map((m, k) => (k === axis ? (m / from) * to : m));
    return [{ shape, place: { axis, inner: step / stride }, alone: n === from && stride === step }];
  });
  const spelled = natural && options.filter((o) => o.shape.every((n, k) => n === natural[k]));
  const alone = options.filter((o) => o.alone);
  if (exact) return spelled?.find((o) => o.alone) ?? spelled?.[0];
  const open = options.filter((o) => raw[o.place.axis] === -1);
  const stays = symbolic && natural !== undefined;
  // an axis that is the batch and nothing else; else what the file's own arithmetic gives; else the open entry
  for (const group of [alone.filter((o) => spelled?.includes(o)), alone.filter((o) => o.place.axis === place.axis), alone, spelled ?? [], stays ? [] : open])
    if (group[0]) return group[0];
  return options.length === 1 && !stays ? options[0] : undefined;
}
