/**
 * Training, evaluation and prediction over a compiled artifact.
 *
 * Calls enqueue work and return at once; one chain of tasks runs them in order. What a step reports (loss, pivot flags) is
 * reacted to a fixed number of steps later, awaiting it if need be, so that a run is bit-reproducible and the GPU never stalls.
 */
import { type Artifact, ARTIFACT_VERSION, HOST_DEFAULTS, type HostOptions, type LayerInfo, type RunScalars, RuntimeFault } from "./artifact.js";
import { restoreCheckpoint, saveCheckpoint } from "./checkpoint.js";
import { diagnose, type LayerDiagnosis } from "./diagnose.js";
import { Fisher } from "./fisher.js";
import { evaluateBatches, type Metrics, predictAll } from "./inference.js";
import { Program } from "./program.js";
import { duties, settle, type TrainerEvent } from "./reactions.js";
import { Readback } from "./readback.js";
import { checkedKnobs, type HostState, newHostState, type Pending, type TrainerCore } from "./state.js";
import { blends, finishStep, runFields, type Stepping, wholeStep } from "./stepping.js";
import { type Batch, type Prepared, prepareBatch, type Tensor } from "./tensors.js";

export type { Metrics };

export interface StepResult {
  readonly step: number;
  /** Mean loss of the batch before the update. Rejects if the run has stopped. */
  readonly loss: Promise<number>;
}

export interface TrainerOptions {
  readonly seed?: number;
  readonly run?: Partial<RunScalars>;
  readonly host?: Partial<HostOptions>;
  readonly onEvent?: (event: TrainerEvent) => void;
  /** Name of the adapter, kept in checkpoints. */
  readonly adapter?: string;
  /** Runs at the end of `dispose`: whoever opened a device for this trainer closes it here. */
  readonly onDispose?: () => Promise<void>;
}

export class Trainer implements TrainerCore, Stepping {
  readonly layers: readonly LayerInfo[];
  readonly batches: readonly number[];
  readonly run: RunScalars;
  readonly fisher: Fisher;
  readonly host: HostOptions;
  /** @internal */ readonly state: HostState;
  /** @internal */ pending: Pending[] = [];
  /** @internal */ gradientCount: number | undefined;
  /** @internal */ gradientEntry: string | undefined;
  /** @internal */ readonly readback: Readback;
  readonly #options: TrainerOptions;
  #tail: Promise<unknown> = Promise.resolve();
  #fault: Error | undefined;
  #nextStep = 0;
  /** Since the last update: examples, and losses of the batches. */
  #open: { count: number; stats: boolean; losses: Promise<number>[] } | undefined;
  #disposed = false;

  private constructor(readonly artifact: Artifact, readonly program: Program, options: TrainerOptions) {
    this.layers = artifact.layers;
    this.batches = artifact.batches;
    this.run = checkedKnobs({ ...artifact.run, ...options.run });
    this.host = { ...HOST_DEFAULTS, ...artifact.host, ...options.host };
    this.state = newHostState(artifact, options.seed ?? 0);
    this.#options = options;
    this.readback = new Readback(program);
    this.fisher = new Fisher(this);
  }

  /**
   * @param sources WGSL of the plan's kernels and their variants; `weights` by parameter name.
   * @throws RuntimeFault
   */
  static async create(device: GPUDevice, artifact: Artifact, sources: readonly string[], weights: Readonly<Record<string, Tensor>>, options: TrainerOptions = {}): Promise<Trainer> {
    if (artifact.version !== ARTIFACT_VERSION)
      throw new RuntimeFault("bad-option", `the artifact has version ${artifact.version}, this runtime reads ${ARTIFACT_VERSION}`, artifact.name, "compile the model again");
    const program = await Program.create(device, artifact.plan, sources, { lazy: true });
    const trainer = new Trainer(artifact, program, options);
    void device.lost.then((info) => {
      if (!trainer.#disposed) trainer.#fault ??= new RuntimeFault("device-lost", `the GPU device was lost: ${info.message || info.reason}`, undefined, "restart from the last checkpoint");
    });
    for (const p of artifact.params) if (!weights[p.name]) throw new RuntimeFault("bad-data", `no weights for parameter "${p.name}"`, artifact.name, "the weights file does not belong to this model");
    trainer.#writeWeights(weights);
    trainer.#writeScales();
    return trainer;
  }

  /** @internal */
  get accumulating(): boolean {
    return this.#open !== undefined;
  }

  get stepCount(): number {
    return this.#nextStep;
  }

  set stepCount(step: number) {
    this.#nextStep = step;
    void this.#task(async () => { this.state.stepCount = step; });
  }

  /** One update from one batch. Enqueues; never waits for the GPU. */
  step(batch: Batch): StepResult {
    if (this.#open) throw new RuntimeFault("bad-option", "step() between gradients() and update()", undefined, "finish the accumulation with update()");
    const prepared = prepareBatch(this.artifact, batch, { target: true });
    const run = { ...this.run };
    const step = this.#nextStep++;
    const loss = this.#task(async () => {
      await settle(this, this.host.readbackLag);
      const { stats, refresh } = duties(this);
      const fields = { ...runFields(this, run), count: prepared.weightSum, keep: 0, ...blends(this, run, stats, refresh) };
      const tail = `${prepared.weight ? ".masked" : ""}@${prepared.batch}`;
      this.upload(prepared);
      this.program.writeRun(fields);
      const name = `${stats ? ".stats" : ""}${tail}`;
      const whole = wholeStep(this, `step${name}`, refresh, run);
      const lossName = `lossSum@${prepared.batch}`;
      return finishStep(this, {
        ...(whole ? { whole: `step${name}`, expose: `expose@${prepared.batch}` } : { front: `front${name}` }), refresh, fields, scale: `scale${tail}`,
        read: [lossName], lossOf: (values) => (values.get(lossName) as Float32Array)[0] as number / prepared.weightSum,
      });
    });
    return { step, loss: this.#unwrap(loss) };
  }

  /** Adds one batch's gradients (and statistics, on a statistics step) to what earlier calls left. */
  gradients(batch: Batch): void {
    const prepared = prepareBatch(this.artifact, batch, { target: true });
    const run = { ...this.run };
    const first = this.#open === undefined;
    this.#open ??= { count: 0, stats: false, losses: [] };
    const open = this.#open;
    open.count += prepared.weightSum;
    // each batch of a step draws targets of its own
    const draw = Math.imul(open.losses.length, 0x9e3779b9);
    const sum = this.#task(async () => {
      // decided in turn: only then is known which statistics earlier steps took
      if (first) open.stats = duties(this).stats;
      const tail = `${prepared.weight ? ".masked" : ""}@${prepared.batch}`;
      this.upload(prepared);
      this.program.writeRun({ ...runFields(this, run), seed: (this.state.seed + draw) >>> 0, count: prepared.weightSum, keep: first ? 0 : 1 });
      const entry = `gradients${open.stats ? ".stats" : ""}${tail}`;
      await this.program.prepare([entry]);
      this.program.submit([entry]);
      const name = `lossSum@${prepared.batch}`;
      const [values] = await this.program.read([name]);
      return (values as Float32Array)[0] as number;
    });
    sum.catch(() => {});
    open.losses.push(sum);
  }

  /** One update from the gradients accumulated so far. */
  update(): StepResult {
    const open = this.#open;
    if (!open) throw new RuntimeFault("bad-option", "update() without gradients()", undefined, "call gradients(batch) first");
    this.#open = undefined;
    const run = { ...this.run };
    const step = this.#nextStep++;
    const loss = this.#task(async () => {
      await settle(this, this.host.readbackLag);
      const { refresh } = duties(this);
      const sums = await Promise.all(open.losses);
      const mean = sums.reduce((a, b) => a + b, 0) / open.count;
      const fields = { ...runFields(this, run), count: open.count, keep: 0, ...blends(this, run, open.stats, refresh) };
      this.program.writeRun(fields);
      return finishStep(this, { ...(open.stats ? { front: "absorb" } : {}), refresh, fields, read: [], lossOf: () => mean });
    });
    return { step, loss: this.#unwrap(loss) };
  }

  /** @internal */
  upload(p: Prepared): void {
    const at = `@${p.batch}`;
    for (const [name, data] of p.arrays) if (this.program.hasBuffer(name + at)) this.program.write(name + at, data);
    if (p.weight) this.program.write(`weight${at}`, p.weight);
    if (this.program.hasBuffer(`mcGiven${at}`)) {
      this.program.write(`mcGiven${at}`, Int32Array.of(p.mcArrays ? 1 : 0));
      for (const [name, data] of p.mcArrays ?? []) if (this.program.hasBuffer(name + at)) this.program.write(name + at, data);
    }
  }

  /** Mean loss (and accuracy) over all examples of the batches, exact for any count. */
  evaluate(data: Iterable<Batch>): Promise<Metrics> {
    return this.#task(() => evaluateBatches(this, data));
  }

  /** The model's own outputs for any number of examples. */
  predict(inputs: Readonly<Record<string, Tensor>>): Promise<Record<string, Tensor>> {
    return this.#task(() => predictAll(this, inputs));
  }

  /** Parameters by name. */
  weights(): Promise<Record<string, Tensor>> {
    return this.#task(async () => {
      const arrays = await this.program.read(this.artifact.params.map((p) => p.name));
      return Object.fromEntries(this.artifact.params.map((p, k) => [p.name, { shape: p.shape, data: arrays[k] as Float32Array }]));
    });
  }

  setWeights(weights: Readonly<Record<string, Tensor>>): void {
    for (const [name, t] of Object.entries(weights)) {
      const info = this.artifact.params.find((p) => p.name === name);
      if (!info) throw new RuntimeFault("bad-data", `the model has no parameter "${name}"`, "setWeights");
      const elements = info.shape.reduce((n, d) => n * d, 1);
      if (t.data.length !== elements) throw new RuntimeFault("bad-data", `parameter "${name}" is [${info.shape.join(", ")}], got ${t.data.length} numbers`, "setWeights");
    }
    const copies = Object.fromEntries(Object.entries(weights).map(([name, t]) => [name, { shape: t.shape, data: Float32Array.from(t.data) }]));
    void this.#task(async () => this.#writeWeights(copies));
  }

  #writeWeights(weights: Readonly<Record<string, Tensor>>): void {
    // a parameter that no entry reads has no buffer
    for (const [name, t] of Object.entries(weights)) if (this.program.hasBuffer(name)) this.program.write(name, t.data instanceof Float32Array ? t.data : Float32Array.from(t.data));
  }

  /** @internal */
  raised(events: readonly TrainerEvent[]): void {
    this.#writeScales();
    for (const event of events) this.#options.onEvent?.(event);
  }

  #writeScales(): void {
    if (this.artifact.optimizer !== "kfac") return;
    this.layers.forEach((l, k) => this.program.write(`kfac/${l.name}/scale`, Float32Array.of(this.state.scales[k] as number)));
  }

  /**
   * What K-FAC does to each layer, as the last step left it: curvature against damping, the angle to the gradient, the age of the inverse. Training
   * goes on as if it had not been asked.
   *
   * @throws RuntimeFault "bad-option" without K-FAC, before the first step, between gradients() and update()
   */
  diagnose(): Promise<LayerDiagnosis[]> {
    if (this.#open) return Promise.reject(new RuntimeFault("bad-option", "diagnose() between gradients() and update()", "diagnose()", "finish the accumulation with update()"));
    const run = { ...this.run };
    return this.#task(() => diagnose(this, run));
  }

  /** A checkpoint: parameters, optimiser and factor state, knobs, pending reactions. `extra` is the caller's (epoch, position …). */
  save(extra: Readonly<Record<string, string>> = {}): Promise<Uint8Array> {
    const run = { ...this.run };
    return this.#task(() => saveCheckpoint(this, run, { ...extra, ...(this.#options.adapter ? { adapter: this.#options.adapter } : {}) }));
  }

  /** Continues exactly where `save` was called; returns the caller's own metadata. @throws RuntimeFault "bad-checkpoint". */
  restore(bytes: Uint8Array, options: { readonly weightsOnly?: boolean } = {}): Promise<Readonly<Record<string, string>>> {
    return this.#task(async () => {
      const extra = restoreCheckpoint(this, bytes, options.weightsOnly ?? false);
      this.#writeScales();
      this.#nextStep = this.state.stepCount;
      return extra;
    });
  }

  /** Waits for all work and for every pending reaction; rejects with whatever stopped the run. */
  finish(): Promise<void> {
    return this.#task(() => settle(this, 0));
  }

  /** @internal Runs in order with the steps. */
  task<T>(work: () => Promise<T>): Promise<T> {
    return this.#task(work);
  }

  async dispose(): Promise<void> {
    await this.#tail.catch(() => {});
    this.#disposed = true;
    await this.program.dispose();
    await this.#options.onDispose?.();
  }

  #task<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#tail.then(async () => {
      if (this.#fault) throw this.#fault;
      try {
        return await work();
      } catch (e) {
        throw this.#fault ?? (await this.lostOr(e));
      }
    });
    this.#tail = done.catch((e: unknown) => {
      if (e instanceof RuntimeFault && (e.code === "diverged" || e.code === "device-lost")) this.#fault ??= e;
    });
    return done;
  }

  /** @internal A rejected readback usually means the device went away just now: say that instead. */
  async lostOr(e: unknown): Promise<unknown> {
    if (e instanceof RuntimeFault) return e;
    const lost = await Promise.race([this.program.device.lost, new Promise<undefined>((resolve) => { setTimeout(() => resolve(undefined), 50); })]);
    return lost ? new RuntimeFault("device-lost", `the GPU device was lost: ${lost.message || lost.reason}`, undefined, "restart from the last checkpoint") : e;
  }

  #unwrap(p: Promise<{ readonly loss: Promise<number> }>): Promise<number> {
    const flat = p.then((x) => x.loss);
    // whoever wants to know awaits it; a loss that nobody reads must not end the process
    flat.catch(() => {});
    return flat;
  }
}
