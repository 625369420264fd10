/** Runs one fixture through the public pipeline on a device and compares every quantity this version has. */
import { join } from "node:path";
import { compile, type CompileOptions, type Compiled } from "../../src/compile.js";
import { type OpenModel, openModel } from "../../src/model.js";
import { parseLoss } from "../../src/train/loss.js";
import type { HostArray } from "../../runtime/program.js";
import type { Batch, Tensor } from "../../runtime/tensors.js";
import { Trainer } from "../../runtime/trainer.js";
import type { Fixture, FixtureLayer, Trajectory } from "./fixture.js";
import { Family, type Row } from "./report.js";

type Fisher = "exact" | "emp" | "mc";
const KIND = { exact: "exact", emp: "empirical", mc: "mc" } as const;

export async function runFixture(device: GPUDevice, fixture: Fixture): Promise<Row[]> {
  const model = await openModel(join(fixture.folder, "model.onnx"));
  return [
    ...registration(fixture, model),
    ...(await forwardAndGradients(device, fixture, model)),
    ...(await factorFamilies(device, fixture, model)),
    ...(await trajectory(device, fixture, model, "sgd")),
    ...(await trajectory(device, fixture, model, "kfac_pi")),
  ];
}

const options = (fixture: Fixture, more: Partial<CompileOptions>): CompileOptions => ({
  optimizer: "kfac", sharing: { "*": "expand" }, batches: [fixture.batch], fisher: { kind: "mc", samples: 1 }, weightDecayMode: "l2", loss: parseLoss(fixture.loss), ...more,
});

async function withTrainer<T>(device: GPUDevice, c: Compiled, use: (t: Trainer) => Promise<T>): Promise<T> {
  const trainer = await Trainer.create(device, c.artifact, c.sources, Object.fromEntries(c.weights));
  try {
    return await use(trainer);
  } finally {
    await trainer.dispose();
  }
}

function registration(fixture: Fixture, model: OpenModel): Row[] {
  const { artifact } = compile(model.forward, options(fixture, {}));
  // the fixtures do not list scales
  const mine = artifact.layers.filter((l) => l.kind !== "norm").map((l) => [l.kind, l.name, l.params.bias, l.T, l.dA, l.dG, l.groups].join(" ")).sort();
  const theirs = fixture.layers.map((l) => [l.kind, l.weight, l.bias, l.T, l.dA, l.dG, l.groups].join(" ")).sort();
  const wrong = theirs.filter((t) => !mine.includes(t)).concat(mine.filter((m) => !theirs.includes(m)));
  return [{ fixture: fixture.name, family: "registration", verdict: wrong.length ? "failed" : "passed", tensors: theirs.length, worst: "", error: 0, allowed: 0, why: wrong.length ? `differs: ${wrong.join("; ")}` : `${theirs.length} layers as listed` }];
}

/** The batch under the names `prefix`input, `prefix`target; `at` picks a minibatch of a trajectory. */
function batchOf(fixture: Fixture, prefix = "", at?: number): Batch & { target: Tensor } {
  const take = (name: string, integers: boolean): Tensor => {
    const t = fixture.tensors.get(prefix + name);
    if (!t) throw new Error(`fixture has no ${prefix}${name}`);
    const shape = at === undefined ? t.shape : t.shape.slice(1);
    const size = shape.reduce((n, d) => n * d, 1);
    const data = at === undefined ? t.data : t.data.subarray(at * size, (at + 1) * size);
    return { shape, data: integers ? Int32Array.from(data) : Float32Array.from(data) };
  };
  return { [fixture.inputName]: take("input", false), target: take("target", fixture.loss === "softmax-ce") };
}

async function readSlots(t: Trainer, names: readonly string[]): Promise<HostArray[]> {
  return t.task(() => t.program.read(names));
}

/** A parameter's tensor as the matrix [out, in]. `channels`: input channels of a transposed convolution, stored [in, out, taps…]. */
function toMatrix(layer: FixtureLayer, weight: ArrayLike<number>, bias: ArrayLike<number> | undefined, channels: number): Float64Array {
  const inputs = layer.dA - (layer.bias ? 1 : 0);
  const taps = inputs / channels;
  const at = (o: number, i: number): number => {
    if (layer.kind === "convT") return (Math.floor(i / taps) * layer.dG + o) * taps + (i % taps);
    return layer.stored === "IO" ? i * layer.dG + o : o * inputs + i;
  };
  const out = new Float64Array(layer.dG * layer.dA);
  for (let o = 0; o < layer.dG; o++) {
    for (let i = 0; i < inputs; i++) out[o * layer.dA + i] = weight[at(o, i)] as number;
    if (bias) out[o * layer.dA + inputs] = bias[o] as number;
  }
  return out;
}

async function forwardAndGradients(device: GPUDevice, fixture: Fixture, model: OpenModel): Promise<Row[]> {
  const names = ["output", "loss", "loss_per_example", "grad", "gradmat"];
  const [output, loss, losses, grad, gradmat] = names.map((n) => new Family(fixture, n)) as [Family, Family, Family, Family, Family];
  const batch = batchOf(fixture);
  const plain = compile(model.forward, options(fixture, { optimizer: "sgd" }));
  const params = plain.artifact.params.filter((p) => p.trainable).map((p) => p.name);
  await withTrainer(device, plain, async (t) => {
    const out = await t.predict({ [fixture.inputName]: batch[fixture.inputName] as Tensor });
    output.compare("output", (Object.values(out)[0] as Tensor).data);
    const metrics = await t.evaluate([batch]);
    loss.compare("loss", [metrics.loss]);
    const [each] = await readSlots(t, [`losses@${fixture.batch}`]);
    losses.compare("loss_per_example", each as HostArray);
    t.gradients(batch);
    const sums = await readSlots(t, params.map((p) => `grad/${p}`));
    params.forEach((p, k) => { grad.compare(`grad/${p}`, Float64Array.from(sums[k] as HostArray, (x) => x / fixture.batch)); });
  });
  const kfac = compile(model.forward, options(fixture, {}));
  await withTrainer(device, kfac, async (t) => {
    t.gradients(batch);
    for (const l of kfac.artifact.layers) {
      const [sum] = await readSlots(t, [`grad/${l.name}`]);
      gradmat.compare(`gradmat/${l.name}`, Float64Array.from(sum as HostArray, (x) => x / fixture.batch));
    }
  });
  return [output, loss, losses, grad, gradmat].map((f) => f.row());
}

async function factorFamilies(device: GPUDevice, fixture: Fixture, model: OpenModel): Promise<Row[]> {
  const rows: Row[] = [];
  const A = new Family(fixture, "A");
  for (const kind of ["exact", "emp", "mc"] as const) {
    if (!fixture.fisher.includes(kind)) continue;
    const [G, damp, precond] = [`G.${kind}`, `damp.${kind}.pi`, `precond.${kind}.pi`].map((n) => new Family(fixture, n)) as [Family, Family, Family];
    await factorsOf(device, fixture, model, kind, { A, G, damp, precond });
    rows.push(...[G, damp, precond].map((f) => f.row()).filter((r) => r.verdict !== "skipped"));
  }
  return [A.row(), ...rows];
}

async function factorsOf(device: GPUDevice, fixture: Fixture, model: OpenModel, kind: Fisher, f: { A: Family; G: Family; damp: Family; precond: Family }): Promise<void> {
  const c = compile(model.forward, options(fixture, {
    register: ["dense", "conv", "convT"], fisher: { kind: KIND[kind], samples: 1 }, host: { factorPeriod: 1, inversePeriod: 1, emaDebias: false },
    run: { lr: 1, momentum: 0, klClip: 0, weightDecay: 0, damping: fixture.damping },
  }));
  if (c.artifact.layers.length === 0) return;
  const batch = batchOf(fixture);
  const sampled = fixture.tensors.get("mc_target");
  const mcTargets: Tensor | undefined = sampled && { shape: sampled.shape, data: fixture.loss === "softmax-ce" ? Int32Array.from(sampled.data) : Float32Array.from(sampled.data) };
  await withTrainer(device, c, async (t) => {
    const { loss } = t.step(kind === "mc" && mcTargets ? { ...batch, mcTargets } : batch);
    await loss;
    const factors = await t.fisher.factors();
    const [pi] = await readSlots(t, ["pi"]);
    for (const [k, l] of c.artifact.layers.entries()) {
      const layer = fixture.layers.find((x) => x.weight === l.name);
      const own = factors[l.name];
      if (!layer || !own) continue;
      f.A.compare(`A/${l.name}`, own.A.data);
      f.G.compare(`G.${kind}/${l.name}`, own.G.data);
      f.damp.compare(`damp.${kind}.pi/${l.name}`, [(pi as HostArray)[k] as number]);
      // with momentum 0 the momentum slot holds the preconditioned gradient
      const [w, b] = await readSlots(t, [`opt/m/${l.name}`, ...(layer.bias ? [`opt/m/${layer.bias}`] : [])]);
      f.precond.compare(`precond.${kind}.pi/${l.name}`, toMatrix(layer, w as HostArray, b, c.artifact.params.find((p) => p.name === l.name)?.shape[0] ?? 1));
    }
  });
}

async function trajectory(device: GPUDevice, fixture: Fixture, model: OpenModel, name: "sgd" | "kfac_pi"): Promise<Row[]> {
  const hp: Trajectory | undefined = fixture.trajectories[name];
  const [losses, finals] = [new Family(fixture, `traj.${name}.loss`), new Family(fixture, `traj.${name}.final`)];
  if (!hp) return [losses, finals].map((f) => f.row());
  const c = compile(model.forward, options(fixture, {
    optimizer: name === "sgd" ? "sgd" : "kfac", register: ["dense", "conv"], fisher: { kind: KIND[hp.fisher ?? "exact"], samples: 1 },
    host: { factorPeriod: 1, inversePeriod: 1, emaDebias: false },
    run: { lr: hp.lr, momentum: hp.momentum, weightDecay: hp.weight_decay, emaDecay: hp.ema ?? 0.95, damping: hp.damping ?? 0.01, klClip: hp.kl_clip ?? 0 },
  }));
  await withTrainer(device, c, async (t) => {
    const made = Array.from({ length: 20 }, (_, k) => t.step(batchOf(fixture, "traj.", k % 4)).loss);
    losses.compare(`traj.${name}.loss`, await Promise.all(made));
    for (const [p, w] of Object.entries(await t.weights())) finals.compare(`traj.${name}.final/${p}`, w.data);
  });
  return [losses, finals].map((f) => f.row());
}
