/** What a trained program is asked besides training: losses over a data set, and the model's own outputs. Both are tasks of the trainer. */
import { RuntimeFault } from "./artifact.js";
import type { HostArray } from "./program.js";
import type { Readback } from "./readback.js";
import type { TrainerCore } from "./state.js";
import { type Batch, cutExamples, joinOutputs, type Prepared, prepareBatch, targetsOf, type Tensor } from "./tensors.js";

export interface Metrics {
  readonly loss: number;
  /** Of the first output with classes, over its labelled examples. */
  readonly accuracy?: number;
  /** Mean loss of each output, unweighted, where several have one. */
  readonly losses?: Readonly<Record<string, number>>;
  readonly count: number;
}

/** Batches on the device at a time: the host prepares the next ones meanwhile. */
const IN_FLIGHT = 4;

/** Mean loss (and accuracy) over all examples of the batches, exact for any count. @throws RuntimeFault "bad-data" if there are none */
export async function evaluateBatches(t: TrainerCore & { readonly readback: Readback }, data: Iterable<Batch>): Promise<Metrics> {
  let [loss, right, labelled, total, count] = [0, 0, 0, 0, 0];
  const heads = targetsOf(t.artifact);
  const classes = heads.some((h) => h.classes !== null);
  const each = heads.length > 1 ? heads.map((h) => h.output) : [];
  const losses = new Map(each.map((output) => [output, 0]));
  const add = (p: Prepared, values: ReadonlyMap<string, HostArray>) => {
    const sum = (name: string): number => values.get(`${name}@${p.batch}`)?.[0] ?? 0;
    loss += sum("lossSum");
    right += sum("correctSum");
    labelled += sum("labelledSum");
    for (const output of each) losses.set(output, (losses.get(output) as number) + sum(`lossSum/${output}`));
    total += p.weightSum;
    count += p.count;
  };
  const inFlight: [Prepared, Promise<ReadonlyMap<string, HostArray>>][] = [];
  const names = (p: Prepared) => ["lossSum", ...each.map((output) => `lossSum/${output}`), ...(classes ? ["correctSum", "labelledSum"] : [])].map((name) => `${name}@${p.batch}`);
  for (const batch of data) {
    const p = prepareBatch(t.artifact, batch, { target: true, evaluation: true }, true);
    await t.program.prepare([`evaluate@${p.batch}`]);
    t.upload(p);
    inFlight.push([p, t.readback.submit([`evaluate@${p.batch}`], names(p))]);
    if (inFlight.length < IN_FLIGHT) continue;
    const [done, values] = inFlight.shift() as [Prepared, Promise<ReadonlyMap<string, HostArray>>];
    add(done, await values);
  }
  for (const [p, values] of inFlight) add(p, await values);
  if (count === 0) throw new RuntimeFault("bad-data", "nothing to evaluate: the data set is empty", "evaluate");
  return {
    loss: loss / total, ...(classes ? { accuracy: labelled > 0 ? right / labelled : Number.NaN } : {}),
    ...(each.length > 0 ? { losses: Object.fromEntries(each.map((output) => [output, (losses.get(output) as number) / total])) } : {}), count,
  };
}

/** The model's own outputs for any number of examples. @throws RuntimeFault "bad-data" */
export async function predictAll(t: TrainerCore, inputs: Readonly<Record<string, Tensor>>): Promise<Record<string, Tensor>> {
  const { artifact, program } = t;
  const lead = artifact.inputs.find((i) => i.examples !== null);
  const total = lead ? (inputs[lead.name]?.shape[lead.examples as number] ?? 0) : 0;
  if (total === 0) throw new RuntimeFault("bad-data", `input "${lead?.name}" is missing or empty`, "predict");
  const largest = Math.max(...artifact.batches);
  const parts = new Map<string, Float32Array[]>();
  for (let start = 0; start < total; start += largest) {
    const count = Math.min(largest, total - start);
    const p = prepareBatch(artifact, cutExamples(artifact, inputs, start, count), { target: false, evaluation: true }, true);
    for (const [name, data] of p.arrays) if (program.hasBuffer(`${name}@${p.batch}`)) program.write(`${name}@${p.batch}`, data);
    await program.prepare([`predict@${p.batch}`]);
    program.submit([`predict@${p.batch}`]);
    const arrays = await program.read(artifact.outputs.map((o) => `out/${o.name}@${p.batch}`));
    artifact.outputs.forEach((o, k) => {
      const per = o.shape.reduce((n, d) => n * d, 1);
      const whole = arrays[k] as Float32Array;
      parts.set(o.name, [...(parts.get(o.name) ?? []), o.examples === null ? whole.slice() : whole.slice(0, count * per)]);
    });
  }
  return joinOutputs(artifact, parts, total);
}
