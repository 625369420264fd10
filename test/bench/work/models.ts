/** Whole training steps of the networks: SGD, Adam and K-FAC with its periods. */
import { entryWork, type KernelWork, sumWork } from "../../../codegen/work.js";
import type { Target } from "../../../codegen/kernel.js";
import type { HostOptions, RunScalars } from "../../../runtime/artifact.js";
import type { HostArray } from "../../../runtime/program.js";
import { Trainer } from "../../../runtime/trainer.js";
import { COMPILE_DEFAULTS, compile, type Compiled } from "../../../src/compile.js";
import type { OptimizerKind } from "../../../src/train/step-model.js";
import type { Facts } from "../result.js";
import type { Bench, Opened, Subject } from "../measure.js";
import { AUTOENCODER, batchOf, LENET, MLP, type Network, NETWORKS, RESNET20 } from "../models.js";

type Weights = ReadonlyMap<string, Float32Array>;

/** How a network is trained in one row. */
interface Way {
  readonly id: string;
  readonly name: string;
  readonly optimizer: OptimizerKind;
  readonly run: Partial<RunScalars>;
  readonly host: Partial<HostOptions>;
  /** Steps of each lap of a round, over a multiple of the periods; and most rounds. */
  readonly laps: readonly number[];
  readonly rounds?: number;
  /** Also single steps, each awaited. */
  readonly spread?: boolean;
}

/** So small that hundreds of steps on one batch neither diverge nor arrive, and that the first step's effect is its gradient's. */
const RATE = { sgd: 1e-3, adam: 1e-4, kfac: 1e-3 } as const;
const ON = { klClip: 0.001, weightDecay: 5e-4 };
const OFF = { klClip: 0, weightDecay: 0 };

const plain = (optimizer: "sgd" | "adam", steps: number): Way =>
  ({ id: optimizer, name: optimizer === "sgd" ? "SGD step" : "Adam step", optimizer, run: { lr: RATE[optimizer] }, host: {}, laps: [steps] });

function kfac(factors: number, inverse: number, knobs: "on" | "off", laps: readonly number[], more: Partial<Way> = {}): Way {
  const [period, off] = [`${factors}/${inverse}`, knobs === "off"];
  return {
    id: `kfac-${inverse}${off ? "-off" : ""}`, name: `K-FAC step ${period}, clip and decay ${knobs}`, optimizer: "kfac",
    run: { lr: RATE.kfac, ...(off ? OFF : ON) }, host: { factorPeriod: factors, inversePeriod: inverse }, laps, ...more,
  };
}

/** Of the loss, what the step that is checked should take off it; and how far the rate may be raised for that. */
const SEEN = 2e-4;
const MOST_RAISED = 1000;
/** Steps before anything is timed, besides the three that are checked: past the first period of ten; of big networks so many as there are entries. */
const WARM_UP = 9;
const BIG_WARM_UP = 1;

const tens = (count: number): readonly number[] => new Array<number>(count).fill(10);
const SMALL: readonly Way[] = [
  plain("sgd", 10), plain("adam", 10),
  kfac(1, 10, "off", [10]), kfac(1, 10, "on", [10]),
  kfac(1, 10, "on", [10], { id: "kfac-spread", name: "K-FAC step 1/10, inverses spread over steps", host: { factorPeriod: 1, inversePeriod: 10, spreadInverses: true }, spread: true }),
  kfac(10, 100, "off", [50, 50]), kfac(10, 100, "on", [50, 50]),
];
/** Big networks: fewer rounds, each of a whole cycle, with a look at the yardstick every ten steps. */
const BIG: readonly Way[] = [
  { ...plain("sgd", 3), rounds: 5 }, { ...plain("adam", 3), rounds: 5 },
  kfac(1, 10, "on", [5, 5], { rounds: 2 }), kfac(10, 100, "on", tens(10), { rounds: 1 }),
];
const WAYS: ReadonlyMap<Network, readonly Way[]> = new Map([[MLP, SMALL], [LENET, SMALL], [AUTOENCODER, BIG], [RESNET20, BIG]]);


async function compiledFor(target: Target, network: Network, { optimizer, run, host }: Pick<Way, "optimizer" | "run" | "host">): Promise<Compiled> {
  return compile(await network.forward(), { ...COMPILE_DEFAULTS, optimizer, loss: network.loss, batches: [network.batch], run, host, target });
}

/** The trained parameters by name. */
async function trained(trainer: Trainer, { artifact }: Compiled): Promise<Map<string, Float32Array>> {
  const all = await trainer.weights();
  return new Map(artifact.params.filter((p) => p.trainable).map((p) => [p.name, Float32Array.from((all[p.name] as { data: HostArray }).data)]));
}

const create = (device: GPUDevice, c: Compiled, way: Pick<Way, "run" | "host">): Promise<Trainer> =>
  Trainer.create(device, c.artifact, c.sources, Object.fromEntries(c.weights), { seed: 1, run: way.run, host: way.host });

/** ∇ of the batch's mean loss at the first weights: what one step of SGD with rate 1 takes off them. */
const gradients = new Map<Network, Promise<Map<string, Float32Array>>>();
function gradientOf({ device, target }: Pick<Bench, "device" | "target">, network: Network): Promise<Map<string, Float32Array>> {
  const known = gradients.get(network);
  if (known) return known;
  const made = (async () => {
    const way = { optimizer: "sgd", run: { lr: 1 }, host: {} } as const;
    const c = await compiledFor(target, network, way);
    const trainer = await create(device, c, way);
    const first = await trained(trainer, c);
    await trainer.step(batchOf(network, c)).loss;
    const after = await trained(trainer, c);
    await trainer.dispose();
    return new Map([...first].map(([name, w]) => [name, w.map((v, k) => v - (after.get(name)?.[k] ?? Number.NaN))]));
  })();
  gradients.set(network, made);
  return made;
}

function steps(network: Network, way: Way): Subject {
  return {
    id: `${network.id}/${way.id}`, name: `${network.name}, ${way.name}`, group: "models", slow: network.slow ?? false,
    open: async ({ device, target }): Promise<Opened> => {
      const start = performance.now();
      const c = await compiledFor(target, network, way);
      const compileMs = performance.now() - start;
      const trainer = await create(device, c, way);
      const batch = batchOf(network, c);
      const entries: string[] = [];
      const submit = trainer.program.submit.bind(trainer.program);
      trainer.program.submit = (names, after) => {
        entries.push(...names.map((n) => (typeof n === "string" ? n : n.entry)));
        submit(names, after);
      };
      let [first, last, counted] = [Number.NaN, Number.NaN, 0];
      const run = async (count: number): Promise<void> => {
        const losses = Array.from({ length: count }, () => trainer.step(batch).loss);
        await trainer.finish();
        await device.queue.onSubmittedWorkDone();
        last = (await losses[count - 1]) as number;
      };
      return {
        laps: way.laps, ...(way.rounds === undefined ? {} : { rounds: way.rounds }),
        run,
        check: async () => {
          // a first step tells what the rate does; a second lowers the loss by enough to be seen among roundings
          const gradient = await gradientOf({ device, target }, network);
          const [start, begun] = [await trained(trainer, c), await trainer.step(batch).loss];
          const before = await trained(trainer, c);
          const rate = trainer.run.lr;
          trainer.run.lr = rate * Math.min(MOST_RAISED, Math.max(1, (SEEN * begun) / Math.abs(along(gradient, start, before))));
          first = await trainer.step(batch).loss;
          const after = await trained(trainer, c);
          trainer.run.lr = rate;
          const second = await trainer.step(batch).loss;
          const said = firstOrder(`${network.name}, ${way.name}`, along(gradient, before, after), first, second);
          // every entry once, so that no round waits for a driver's compiler
          await run(network.slow ? BIG_WARM_UP : WARM_UP);
          entries.length = 0;
          counted = trainer.stepCount;
          return said;
        },
        ...(way.spread ? { step: async () => { await trainer.step(batch).loss; await device.queue.onSubmittedWorkDone(); } } : {}),
        facts: () => {
          if (!(last < first)) throw new Error(`${network.name}, ${way.name}: the loss went from ${first} to ${last}`);
          return { ...factsOf(c, entries, trainer.stepCount - counted), compileMs };
        },
        close: () => trainer.dispose(),
      };
    },
  };
}

export const MODELS: readonly Subject[] = NETWORKS.flatMap((network) => (WAYS.get(network) ?? []).map((way) => steps(network, way)));

/** ⟨∇, w₀ − w₁⟩ */
export function along(gradient: Weights, before: Weights, after: Weights): number {
  let sum = 0;
  for (const [param, g] of gradient) {
    const [w0, w1] = [before.get(param), after.get(param)];
    if (!w0 || !w1) throw new Error(`no parameter "${param}"`);
    g.forEach((v, k) => { sum += v * ((w0[k] as number) - (w1[k] as number)); });
  }
  return sum;
}

/** To first order a step lowers the loss by ⟨∇, w₀ − w₁⟩. @throws Error where it does something else */
export function firstOrder(name: string, expected: number, first: number, second: number): string {
  const fallen = first - second;
  // curvature bends the line by a part that shrinks with the rate; a loss is a sum in float32
  const allowed = 0.25 * Math.abs(expected) + 2e-6 * Math.abs(first);
  if (!(expected > 0 && fallen > 0 && Math.abs(fallen - expected) <= allowed)) throw new Error(`${name}: a step lowered the loss of ${first} by ${fallen}, its gradient says ${expected}`);
  return `a step lowers the loss by ${fallen.toExponential(1)}, its gradient says ${expected.toExponential(1)}`;
}

/** Per step, over whole cycles of submitted entries. */
function factsOf(c: Compiled, entries: readonly string[], count: number): Facts {
  const cost = new Map<string, KernelWork>();
  for (const name of new Set(entries)) {
    const low = c.planned.lowered.get(name);
    if (low) cost.set(name, entryWork(low));
  }
  const total = sumWork(entries.flatMap((name) => cost.get(name) ?? []));
  const [memoryBytes, tensorBytes] = [c.planned.memory.planned, tensorsOf(c, new Set(entries))];
  return { flops: total.flops / count, bytes: total.bytes / count, kernels: c.artifact.plan.kernels.length, memoryBytes, tensorBytes, memoryShare: memoryBytes / tensorBytes };
}

/** Bytes of the program's state, inputs and outputs, and of every tensor that the given entries keep in memory on their way, each in a buffer of its own. */
function tensorsOf({ planned: { plan, lowered } }: Compiled, entries: ReadonlySet<string>): number {
  let bytes = plan.buffers.reduce((n, b) => n + (b.kind === "slot" ? 0 : b.bytes), 0);
  for (const name of entries) {
    const low = lowered.get(name);
    if (!low) continue;
    const { params, inputs, results } = low.graph;
    const named = new Set([...params, ...inputs, ...results].map(({ value }) => low.buffers.get(value)));
    for (const buffer of new Set(low.buffers.values())) if (!named.has(buffer)) bytes += buffer.elements * 4;
  }
  return bytes;
}
