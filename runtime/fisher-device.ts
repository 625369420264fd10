/** Sums over examples on a trainer's device, read back into float64: statistics of a data set, exact products and diagonals on batches. */
import { type LayerInfo, type Plan, RuntimeFault } from "./artifact.js";
import { type EstimatedLayer, factorShape, partsOf } from "./fisher-layers.js";
import { elements } from "./fisher-vectors.js";
import type { VectorResult } from "./kronecker.js";
import { fromMatrix } from "./matrix.js";
import type { HostArray } from "./program.js";
import type { TrainerCore } from "./state.js";
import { type Batch, cutExamples, type Prepared, prepareBatch, targetsOf } from "./tensors.js";

/** What has gone into a sum so far. */
export interface FisherProgress {
  readonly batches: number;
  readonly examples: number;
}

export interface Statistics {
  /** Means over the examples. */
  readonly layers: readonly EstimatedLayer[];
  readonly gradient: VectorResult;
  readonly examples: number;
  readonly count: number;
}

/** Batches whose float32 sums are added up on the device: each adds its rounding of 2⁻²⁴ of the sum, so the error stays near 10⁻⁶. */
const TOGETHER = 32;
/** Sampled targets of an estimate are apart from those of training steps. */
const SAMPLES = 0x66697368;

/** A batch in pieces that a program of `size` examples takes; whole where the model mixes examples. Pieces in which nothing counts are left out. */
function* pieces(t: TrainerCore, batch: Batch, size: number): Generator<Batch, void, void> {
  const lead = t.artifact.inputs.find((i) => i.examples !== null);
  const given = lead && batch[lead.name];
  const total = lead && given && "shape" in given && Array.isArray(given.shape) ? (given.shape[lead.examples as number] as number | undefined) : undefined;
  if (total === undefined || total <= size || t.artifact.mixes !== null) return yield batch;
  const { weight } = batch;
  if (weight instanceof Float32Array && weight.length !== total) throw new RuntimeFault("bad-data", `weight must be a Float32Array of ${total} numbers`, "weight");
  for (let start = 0; start < total; start += size) {
    const piece = cutExamples(t.artifact, batch, start, Math.min(size, total - start));
    if (!(piece.weight instanceof Float32Array) || piece.weight.some((w) => w !== 0)) yield piece;
  }
}

/** Buffers that an entry writes. */
function writtenBy(plan: Plan, entry: string): Set<number> {
  const out = new Set<number>();
  for (const step of plan.entries[entry]?.steps ?? []) {
    if ("from" in step) out.add(step.to);
    else plan.kernels[step.kernel]?.bindings.forEach((binding, k) => { if (binding === "read_write") out.add(step.buffers[k] as number); });
  }
  return out;
}

/** Names of parameters that statistics entries move: running statistics of normalisations. */
function movedParams(t: TrainerCore): string[] {
  const { plan } = t.artifact;
  const written = Object.keys(plan.entries).filter((name) => name.startsWith("gradients.stats")).map((name) => writtenBy(plan, name));
  return t.artifact.params.filter((p) => t.program.hasBuffer(p.name)).map((p) => p.name)
    .filter((name) => written.some((set) => set.has(plan.buffers.findIndex((b) => b.name === name))));
}

type Sums = Map<string, Float64Array>;

function addTo(sums: Sums, name: string, values: HostArray): void {
  const sum = sums.get(name);
  if (!sum) sums.set(name, Float64Array.from(values));
  else for (let k = 0; k < sum.length; k++) sum[k] = (sum[k] as number) + (values[k] as number);
}

/** Gradient slots: of layers as matrices, of other trainable parameters as they are. */
function gradientNames(t: TrainerCore): { readonly layers: readonly LayerInfo[]; readonly plain: readonly string[] } {
  const covered = new Set(t.layers.flatMap((l) => [l.params.weight, l.params.bias]));
  return { layers: t.layers, plain: t.artifact.params.filter((p) => p.trainable && !covered.has(p.name)).map((p) => p.name) };
}

/**
 * Curvature statistics and the gradient of all examples at the current weights. Weights, running averages, optimiser and counters stay as
 * they are. A task of the trainer.
 *
 * @throws RuntimeFault "bad-data" for a batch that does not fit the model, or no example at all
 */
export async function gatherStatistics(t: TrainerCore, data: Iterable<Batch>, seed: number, onBatch?: (done: FisherProgress) => void): Promise<Statistics> {
  const { program, artifact } = t;
  const { plain } = gradientNames(t);
  const kept = movedParams(t);
  const values = await program.read(kept);
  const reads = [...t.layers.map((l) => [`grad/${l.name}`, ...partsOf(l).map((part) => `stat/${l.name}/${part}`)]), ...plain.map((name) => [`grad/${name}`])];
  const sums: Sums = new Map();
  let [together, batches, examples, count] = [0, 0, 0, 0];
  t.gradientCount = undefined; // grad/… is about to hold these sums
  const flush = async (): Promise<void> => {
    if (together === 0) return;
    for (const names of reads) (await program.read(names)).forEach((array, k) => addTo(sums, names[k] as string, array));
    together = 0;
  };
  try {
    for (const whole of data)
      for (const batch of pieces(t, whole, Math.max(...artifact.batches))) {
        const p = prepareBatch(artifact, batch, { target: true });
        const entry = `gradients.stats${p.weight ? ".masked" : ""}@${p.batch}`;
        await program.prepare([entry]);
        t.upload(p);
        program.writeRun({ ...t.run, seed: (seed ^ SAMPLES) >>> 0, step: batches, count: p.weightSum, keep: together > 0 ? 1 : 0 });
        program.submit([entry]);
        [together, batches, examples, count] = [together + 1, batches + 1, examples + p.count, count + p.weightSum];
        if (together === TOGETHER) await flush();
        onBatch?.({ batches, examples });
      }
    await flush();
  } finally {
    kept.forEach((name, k) => program.write(name, values[k] as HostArray));
  }
  if (examples === 0) throw new RuntimeFault("bad-data", "nothing to estimate from: the data set is empty", "estimate");
  const mean = (name: string): Float64Array => (sums.get(name) as Float64Array).map((x) => x / count);
  const gradient = zeroVector(t);
  for (const l of t.layers) fromMatrix(l, mean(`grad/${l.name}`), gradient);
  for (const name of plain) gradient[name]?.data.set(mean(`grad/${name}`));
  return { layers: t.layers.map((l) => ({ ...l, ...Object.fromEntries(partsOf(l).map((part) => [part, mean(`stat/${l.name}/${part}`)])) })), gradient, examples, count };
}

const zeroVector = (t: TrainerCore): VectorResult =>
  Object.fromEntries(t.artifact.params.filter((p) => p.trainable).map((p) => [p.name, { shape: p.shape, data: new Float64Array(elements(p.shape)) }]));

/** The running factors. A task of the trainer. */
export async function readRunning(t: TrainerCore): Promise<EstimatedLayer[]> {
  const out: EstimatedLayer[] = [];
  for (const l of t.layers) {
    const parts = partsOf(l);
    const arrays = await t.program.read(parts.map((part) => `kfac/${l.name}/${part}`));
    out.push({ ...l, ...Object.fromEntries(parts.map((part, k) => [part, Float64Array.from((arrays[k] as HostArray).subarray(0, elements(factorShape(l, part))))])) });
  }
  return out;
}

/** For a program of the largest batch alone, with every example weighed. Targets that nobody needs may be absent. */
function prepareWhole(t: TrainerCore, batch: Batch, size: number, needsTarget: boolean): Prepared {
  const target = needsTarget || batch.target !== undefined;
  const p = prepareBatch({ ...t.artifact, batches: [size] }, batch, { target }, true);
  if (target) return p;
  // class 0 is a label: the exact Fisher reads from the targets only which positions have none
  const zeros = targetsOf(t.artifact).map((info) => [info.name, new (info.dtype === "i32" ? Int32Array : Float32Array)(size * elements(info.shape))] as const);
  return { ...p, arrays: new Map([...p.arrays, ...zeros]) };
}

/**
 * Mean over the examples of what an entry `name@B` sums (results `<prefix>/<param>`), for all trainable parameters. A task of the trainer.
 *
 * @param v written to `v/<param>` before
 */
export async function meanOver(t: TrainerCore, name: string, prefix: string, data: Iterable<Batch>, needsTarget: boolean, v?: VectorResult): Promise<VectorResult> {
  const { program, artifact } = t;
  const size = Math.max(...artifact.batches);
  const entry = `${name}@${size}`;
  await program.prepare([entry]);
  for (const [param, { data: numbers }] of Object.entries(v ?? {})) if (program.hasBuffer(`v/${param}@${size}`)) program.write(`v/${param}@${size}`, Float32Array.from(numbers));
  const out = zeroVector(t);
  const names = Object.keys(out);
  let count = 0;
  for (const whole of data)
    for (const batch of pieces(t, whole, size)) {
      const p = prepareWhole(t, batch, size, needsTarget);
      t.upload(p);
      program.submit([entry]);
      const arrays = await program.read(names.map((param) => `${prefix}/${param}@${size}`));
      arrays.forEach((array, k) => {
        const sum = (out[names[k] as string] as VectorResult[string]).data;
        for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (array[i] as number);
      });
      count += p.weightSum;
    }
  if (count === 0) throw new RuntimeFault("bad-data", "there is no example to take a mean over", "batches");
  for (const { data: sum } of Object.values(out)) for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) / count;
  return out;
}
