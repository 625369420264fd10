/**
 * `npm run bench [-- --json] [--only NAME]`: matrix products and whole training steps as multiples of the yardstick, measured in
 * alternation in one process; median of the rounds. A step is timed over several in a row, ended by one wait for the queue.
 */
import { PORTABLE } from "../../codegen/limits.js";
import { planProgram } from "../../codegen/plan.js";
import { Builder, broadcast, contract } from "../../ir/builder.js";
import { openDevice } from "../../runtime/adapter.node.js";
import { Program } from "../../runtime/program.js";
import { Trainer } from "../../runtime/trainer.js";
import { COMPILE_DEFAULTS, compile, type Compiled, type ForwardModel } from "../../src/compile.js";
import { openModel } from "../../src/model.js";
import { gflops, openYardstick } from "./yardstick.js";

const ROUNDS = 9;
const LENET = new URL("../../examples/mnist-lenet/model.onnx", import.meta.url).pathname;

interface Subject {
  readonly name: string;
  /** Runs the work `count` times and waits for it. */
  run(count: number): Promise<void>;
  /** Repetitions per round. */
  readonly count: number;
  readonly facts: Readonly<Record<string, number>>;
  close(): Promise<void>;
}

/** Seeded values in [-0.5, 0.5). */
function seeded(length: number, seed: number): Float32Array {
  let state = seed >>> 0;
  return Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 4294967296 - 0.5;
  });
}

async function matmul(device: GPUDevice, n: number): Promise<Subject> {
  const b = new Builder("matmul");
  const [x, y] = [b.input("x", { dtype: "f32", shape: [n, n] }), b.input("y", { dtype: "f32", shape: [n, n] })];
  const graph = b.finish([{ name: "z", value: contract(b.emit, "ik,kj->ij", x, y) }]);
  const { plan, sources } = planProgram([{ name: "main", graph }], new Set(), PORTABLE);
  const program = await Program.create(device, plan, sources);
  program.write("x", seeded(n * n, 1));
  program.write("y", seeded(n * n, 2));
  return {
    name: `matmul ${n}`, count: n > 512 ? 1 : 4, facts: { flops: 2 * n ** 3 },
    run: async (count) => {
      program.submit(Array.from({ length: count }, () => "main"));
      await device.queue.onSubmittedWorkDone();
    },
    close: () => program.dispose(),
  };
}

/** 784-256-256-10, relu, softmax. */
export function mlp(batch: number): ForwardModel {
  const b = new Builder("mlp");
  const sizes = [784, 256, 256, 10];
  const weights = new Map<string, { shape: readonly number[]; data: Float32Array }>();
  let h = b.input("input", { dtype: "f32", shape: [batch, 784] }, 0);
  for (let k = 0; k < 3; k++) {
    const [i, o] = [sizes[k] as number, sizes[k + 1] as number];
    const param = (name: string, shape: readonly number[], scale: number) => {
      const values = seeded(shape.reduce((n, d) => n * d, 1), k + 1);
      weights.set(name, { shape, data: values.map((v) => v * scale) });
      return b.param(name, { dtype: "f32", shape });
    };
    const s = contract(b.emit, "ni,oi->no", h, param(`fc${k}.weight`, [o, i], 2 * Math.sqrt(3 / i)));
    const z = b.emit("add", [s, broadcast(b.emit, param(`fc${k}.bias`, [o], 0), s.type.shape, [1])]);
    h = k < 2 ? b.emit("relu", [z]) : z;
  }
  return { name: "mlp", graph: b.finish([{ name: "logits", value: h }]), outputs: [{ name: "logits", value: h }], weights };
}

async function steps(device: GPUDevice, name: string, c: Compiled, compileMs: number, count: number): Promise<Subject> {
  const trainer = await Trainer.create(device, c.artifact, c.sources, Object.fromEntries(c.weights), { seed: 1, run: { lr: 1e-4 } });
  const n = c.artifact.batches[0] as number;
  const input = c.artifact.inputs[0] as { name: string; shape: readonly number[] };
  const shape = [n, ...input.shape];
  const batch = {
    [input.name]: { shape, data: seeded(shape.reduce((a, d) => a * d, 1), 7) },
    target: { shape: [n], data: Int32Array.from({ length: n }, (_, k) => (k * 7) % 10) },
  };
  const { plan } = c.artifact;
  const dispatches = (entries: readonly string[]) => entries.reduce((sum, e) => sum + (plan.entries[e]?.steps.length ?? 0), 0);
  const kfac = c.artifact.optimizer === "kfac";
  return {
    name, count,
    facts: {
      compileMs, kernels: plan.kernels.length, megabytes: c.planned.memory.planned / 1e6,
      dispatches: kfac ? dispatches([`front.stats@${n}`, "back"]) : dispatches([`step@${n}`]), ...(kfac ? { refreshDispatches: dispatches(["refresh"]) } : {}),
    },
    run: async (times) => {
      for (let k = 0; k < times; k++) trainer.step(batch);
      await trainer.finish();
      await device.queue.onSubmittedWorkDone();
    },
    close: () => trainer.dispose(),
  };
}

const median = (list: readonly number[]): number => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)] as number;

async function main(): Promise<void> {
  const args = process.argv.slice(2);
  const json = args.includes("--json");
  const only = args.includes("--only") ? args[args.indexOf("--only") + 1] : undefined;
  const opened = await openDevice();
  const { device } = opened;
  const yardstick = await openYardstick(opened);
  const built = (model: (batch: number) => ForwardModel, batch: number, optimizer: "sgd" | "kfac") => {
    const start = performance.now();
    const c = compile(model, { ...COMPILE_DEFAULTS, optimizer, loss: "softmax-ce", batches: [batch] });
    return { c, ms: performance.now() - start };
  };
  const lenet = await openModel(LENET);
  const list: { name: string; make: () => Promise<Subject> }[] = [
    ...[256, 512, 1024].map((n) => ({ name: `matmul ${n}`, make: () => matmul(device, n) })),
    ...([["MLP 784-256-256-10, batch 128", mlp, 128], ["LeNet-5, batch 64", lenet.forward, 64]] as const).flatMap(([name, model, batch]) =>
      (["sgd", "kfac"] as const).map((optimizer) => ({
        name: `${name}, ${optimizer === "kfac" ? "K-FAC step (factors every step, inverse every 10)" : "SGD step"}`,
        make: async () => {
          const { c, ms } = built(model, batch, optimizer);
          return steps(device, `${name}, ${optimizer}`, c, ms, 10);
        },
      }))),
  ].filter((s) => !only || s.name.toLowerCase().includes(only.toLowerCase()));
  const rows: Record<string, number | string>[] = [];
  const yards: number[] = [];
  try {
    for (const { name, make } of list) {
      const subject = await make();
      await subject.run(subject.count);
      const ratios: number[] = [];
      const times: number[] = [];
      for (let round = 0; round < ROUNDS; round++) {
        const before = await yardstick.round();
        const start = performance.now();
        await subject.run(subject.count);
        const ms = (performance.now() - start) / subject.count;
        const after = await yardstick.round();
        yards.push(before, after);
        times.push(ms);
        ratios.push(ms / ((before + after) / 2));
      }
      await subject.close();
      rows.push({ name, yardsticks: median(ratios), ms: median(times), ...subject.facts });
      if (!json) console.log(spell(rows[rows.length - 1] as Record<string, number | string>));
    }
  } finally {
    yardstick.close();
    await opened.close();
  }
  const y = median(yards);
  if (json) console.log(JSON.stringify({ adapter: opened.kind, name: opened.name, yardstickMs: y, gflops: gflops(y), rounds: ROUNDS, rows }, null, 2));
  else console.log(`\nyardstick ${y.toFixed(1)} ms = ${gflops(y).toFixed(1)} GFLOP/s on ${opened.kind} (${opened.name}); median of ${ROUNDS} rounds in alternation`);
}

function spell(row: Record<string, number | string>): string {
  const { name, yardsticks, ms, ...facts } = row;
  const rest = Object.entries(facts).filter(([k]) => k !== "flops").map(([k, v]) => `${k} ${typeof v === "number" ? Math.round(v * 10) / 10 : v}`).join(", ");
  return `${(yardsticks as number).toFixed(2).padStart(6)} yardsticks  ${(ms as number).toFixed(1).padStart(7)} ms  ${name}${rest ? `  (${rest})` : ""}`;
}

await main();
