/** Registration, outputs, losses, gradients, and the running statistics of batch normalisation. */
import type { OpenModel } from "../../src/model.js";
import type { HostArray } from "../../runtime/program.js";
import type { Tensor } from "../../runtime/tensors.js";
import type { Fixture } from "./fixture.js";
import { batchOf, type Bench, build, type Forward, layersOf, readState, withTrainer } from "./program.js";
import { type Row, statement } from "./report.js";

/** Names, kinds, biases and sizes of the layers are as listed. */
export function registration(fixture: Fixture, forward: Forward): Row {
  const spell = (kind: string, ...rest: (string | number | null)[]): string => [kind === "dense_T" ? "dense" : kind, ...rest].join(" ");
  const mine = layersOf(fixture, forward).map((l) => spell(l.kind, l.name, l.params.bias, l.T, l.dA, l.dG, l.groups));
  const theirs = fixture.layers.map((l) => spell(l.kind, l.key, l.bias, l.T, l.dA, l.dG, l.groups));
  const wrong = theirs.filter((t) => !mine.includes(t)).concat(mine.filter((m) => !theirs.includes(m)));
  return statement(fixture.name, "registration", wrong.length === 0, wrong.length > 0 ? `differs: ${wrong.join("; ")}` : `${theirs.length} layers as listed`);
}

export async function forwardAndGradients({ device, fixture, model, untied, card }: Bench): Promise<void> {
  const batch = batchOf(fixture);
  const input = { [fixture.inputName]: batch[fixture.inputName] as Tensor };
  const plain = build(fixture, model, { optimizer: "sgd" });
  const params = plain.artifact.params.filter((p) => p.trainable).map((p) => p.name);
  await withTrainer(device, plain, async (t) => {
    card.compare("output", (Object.values(await t.predict(input))[0] as Tensor).data);
    card.compare("loss", [(await t.evaluate([batch])).loss]);
    const [each] = await readState(t, [`losses@${fixture.batch}`]);
    card.compare("loss_per_example", each as HostArray);
    t.gradients(batch);
    const sums = await readState(t, params.map((p) => `grad/${p}`));
    params.forEach((p, k) => {
      const mean = Float64Array.from(sums[k] as HostArray, (x) => x / fixture.batch);
      card.compare(`grad/${p}`, mean);
      card.compare(`grad_norm/${p}`, [Math.sqrt(mean.reduce((sum, x) => sum + x * x, 0))]);
    });
  });
  if (fixture.graphOnly) return;
  await logits({ device, fixture, model, untied, card }, input);
  const kfac = build(fixture, untied, {});
  await withTrainer(device, kfac, async (t) => {
    t.gradients(batch);
    for (const l of kfac.artifact.layers) {
      const [sum] = await readState(t, [`grad/${l.name}`]);
      card.compare(`gradmat/${l.name}`, Float64Array.from(sum as HostArray, (x) => x / fixture.batch));
    }
  });
}

/** What the loss is taken on, as an output of its own. */
async function logits({ device, fixture, model, card }: Bench, input: Readonly<Record<string, Tensor>>): Promise<void> {
  const bare: Forward = (batch) => {
    const made = model(batch);
    return { ...made, outputs: made.outputs.slice(0, 1).map((o) => ({ name: o.name, value: o.head?.logits ?? o.value })) };
  };
  await withTrainer(device, build(fixture, bare, { optimizer: "sgd" }), async (t) => {
    card.compare("logits", (Object.values(await t.predict(input))[0] as Tensor).data);
  });
}

/** Running statistics after one batch; and, started from zeros, what the batch put into them. */
export async function batchStatistics({ device, fixture, model, card }: Bench, { loaded }: OpenModel): Promise<void> {
  const nodes = (loaded?.graph.nodes ?? []).filter((n) => n.op === "BatchNormalization");
  if (nodes.length === 0 || ![...fixture.tensors.keys()].some((name) => name.startsWith("bn."))) return;
  const batch = batchOf(fixture);
  await withTrainer(device, build(fixture, model, { optimizer: "sgd" }), async (t) => {
    t.gradients(batch);
    const after = await t.weights();
    const running = nodes.map((n) => ({ mean: n.inputs[3] as string, variance: n.inputs[4] as string, share: 1 - (n.attrs.get("momentum")?.f ?? 0.9) }));
    const names = running.flatMap((r) => [r.mean, r.variance]);
    for (const name of names) card.compare(`bn.running_after/${name}`, (after[name] as Tensor).data);
    t.setWeights(Object.fromEntries(names.map((name) => [name, { shape: (after[name] as Tensor).shape, data: new Float32Array((after[name] as Tensor).data.length) }])));
    t.gradients(batch);
    const fresh = await t.weights();
    for (const { mean, variance, share } of running) {
      const part = (name: string): Float64Array => Float64Array.from((fresh[name] as Tensor).data, (x) => x / share);
      const layer = mean.replace(/\.running_mean$/, "");
      card.compare(`bn.batch_mean/${layer}`, part(mean));
      card.compare(`bn.batch_var_biased/${layer}`, part(variance));
    }
  });
}
