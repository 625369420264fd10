/** What all families share: compiling a fixture's model, its batches, reading state, parameters as matrices. */
import { compile, type CompileOptions, type Compiled, type ForwardModel, prepare } from "../../src/compile.js";
import { layerInfo } from "../../src/kfac/layer.js";
import { parseLoss } from "../../src/train/loss.js";
import type { LayerInfo } from "../../runtime/artifact.js";
import type { HostArray } from "../../runtime/program.js";
import type { Batch, Tensor } from "../../runtime/tensors.js";
import { Trainer } from "../../runtime/trainer.js";
import type { Fixture, FixtureLayer } from "./fixture.js";
import type { Scorecard } from "./report.js";

export type Fisher = "exact" | "emp" | "mc";
export const KIND = { exact: "exact", emp: "empirical", mc: "mc" } as const;
export type Forward = (batch: number) => ForwardModel;

/** Everything that a family needs. */
export interface Bench {
  readonly device: GPUDevice;
  readonly fixture: Fixture;
  /** The model as it is in the file. */
  readonly model: Forward;
  /** The model whose every use of a weight is a layer of its own. */
  readonly untied: Forward;
  readonly card: Scorecard;
}

/** The fixtures' conventions. Scales of normalisations are not among their layers. */
const optionsOf = (fixture: Fixture, more: Partial<CompileOptions>): CompileOptions => ({
  optimizer: "kfac", sharing: { "*": "expand" }, register: ["dense", "conv", "convT", "embed"], batches: [fixture.batch],
  fisher: { kind: "mc", samples: 1 }, weightDecayMode: "l2", loss: parseLoss(fixture.loss), ...(fixture.target ? { target: fixture.target } : {}), ...more,
  host: { factorPeriod: 1, inversePeriod: 1, emaDebias: false },
});

export const build = (fixture: Fixture, forward: Forward, more: Partial<CompileOptions>): Compiled => compile(forward, optionsOf(fixture, more));

/** The layers alone: nothing is compiled. */
export const layersOf = (fixture: Fixture, forward: Forward): LayerInfo[] => prepare(forward(fixture.batch), optionsOf(fixture, {})).registration.layers.map(layerInfo);

export async function withTrainer<T>(device: GPUDevice, c: Compiled, use: (t: Trainer) => Promise<T>): Promise<T> {
  const trainer = await Trainer.create(device, c.artifact, c.sources, Object.fromEntries(c.weights));
  try {
    return await use(trainer);
  } finally {
    await trainer.dispose();
  }
}

/** A tensor of the fixture as the runtime takes it; `at`: of this minibatch. */
function take(fixture: Fixture, name: string, at?: number): Tensor {
  const t = fixture.tensors.get(name);
  if (!t) throw new Error(`fixture has no ${name}`);
  const shape = at === undefined ? t.shape : t.shape.slice(1);
  const size = shape.reduce((n, d) => n * d, 1);
  const data = at === undefined ? t.data : t.data.subarray(at * size, (at + 1) * size);
  return { shape, data: t.integers ? Int32Array.from(data) : Float32Array.from(data) };
}

/** The batch under the names `prefix`input, `prefix`target; `at` picks a minibatch of a trajectory. */
export const batchOf = (fixture: Fixture, prefix = "", at?: number): Batch & { target: Tensor } =>
  ({ [fixture.inputName]: take(fixture, `${prefix}input`, at), target: take(fixture, `${prefix}target`, at) });

/** The batch with the targets that the sampled Fisher is to use. */
export const batchFor = (fixture: Fixture, kind: Fisher): Batch => ({ ...batchOf(fixture), ...(kind === "mc" ? { mcTargets: take(fixture, "mc_target") } : {}) });

/** State by name, as stored. */
export async function readState(t: Trainer, names: readonly string[]): Promise<HostArray[]> {
  return t.task(() => t.program.read(names));
}

/** A stack of matrices [groups, rows, columns] without the padding that its buffer has. */
export async function readStack(t: Trainer, name: string, groups: number, rows: number, columns: number): Promise<Float64Array> {
  const [data] = await readState(t, [name]);
  const [r, c] = (t.program.buffer(name).info.shape as readonly number[]).slice(-2) as [number, number];
  const out = new Float64Array(groups * rows * columns);
  for (let g = 0; g < groups; g++)
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) out[(g * rows + i) * columns + j] = (data as HostArray)[(g * r + i) * c + j] as number;
  return out;
}

/** A parameter's tensor as the matrices [groups, out, in(+1)]. `channels`: input channels of a transposed convolution, stored [in, out, taps…]. */
export function toMatrix(layer: FixtureLayer, weight: ArrayLike<number>, bias: ArrayLike<number> | undefined, channels: number): Float64Array {
  const { groups, dA, dG } = layer;
  const inputs = dA - (layer.bias ? 1 : 0);
  const taps = inputs / channels;
  const at = (g: number, o: number, i: number): number => {
    if (layer.kind === "convT") return (Math.floor(i / taps) * dG + o) * taps + (i % taps);
    const swapped = layer.kind === "dense_T" || layer.kind === "embed" || layer.stored === "IO";
    return swapped ? i * dG + o : (g * dG + o) * inputs + i;
  };
  const out = new Float64Array(groups * dG * dA);
  for (let g = 0; g < groups; g++)
    for (let o = 0; o < dG; o++) {
      const row = (g * dG + o) * dA;
      for (let i = 0; i < inputs; i++) out[row + i] = weight[at(g, o, i)] as number;
      if (bias) out[row + inputs] = bias[g * dG + o] as number;
    }
  return out;
}
