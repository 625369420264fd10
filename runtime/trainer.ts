/**
 * Training, evaluation and prediction over a compiled artifact.
 *
 * Calls enqueue work and return at once; one chain of tasks runs them in order. What a step reports (loss, pivot flags) is
 * reacted to a fixed number of steps later, awaiting it if need be, so that a run is bit-reproducible and the GPU never stalls.
 */
import { type Artifact, ARTIFACT_VERSION, HOST_DEFAULTS, type HostOptions, type LayerInfo, type RunScalars, RuntimeFault } from "./artifact.js";
import { restoreCheckpoint, saveCheckpoint } from "./checkpoint.js";
import { refreshEigenbases } from "./eigenbases.js";
import { diagnose, type LayerDiagnosis } from "./diagnose.js";
import { Fisher } from "./fisher.js";
import { type HostArray, Program } from "./program.js";
import { duties, firstInverses, invertsOnDevice, type Reacting, settle, type TrainerEvent } from "./reactions.js";
import { Readback } from "./readback.js";
import { checkedKnobs, type HostState, newHostState, nextBlend, nextScaleBlend, type Pending, type TrainerCore } from "./state.js";
import { type Batch, cutExamples, joinOutputs, type Prepared, prepareBatch, targetsOf, type Tensor } from "./tensors.js";

export interface StepResult {
  readonly step: number;
  /** Mean loss of the batch before the update. Rejects if the run has stopped. */
  readonly loss: Promise<number>;
}

export interface Metrics {
  readonly loss: number;
  /** Of the first output with classes, over its labelled examples. */
  readonly accuracy?: number;
  /** Mean loss of each output, unweighted, where several have one. */
  readonly losses?: Readonly<Record<string, number>>;
  readonly count: number;
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

export class Trainer implements TrainerCore, Reacting {
  readonly layers: readonly LayerInfo[];
  readonly batches: readonly number[];
  readonly run: RunScalars;
  readonly fisher: Fisher;
  readonly host: HostOptions;
  /** @internal */ readonly state: HostState;
  /** @internal */ pending: Pending[] = [];
  /** @internal */ gradientCount: number | undefined;
  readonly #options: TrainerOptions;
  readonly #readback: Readback;
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
    this.#readback = new Readback(program);
    this.fisher = new Fisher(this);
  }

  /**
   * @param sources WGSL of the plan's kernels; `weights` by parameter name.
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
      const fields = { ...this.#fields(run), count: prepared.weightSum, keep: 0, ...this.#blends(run, stats, refresh) };
      const tail = `${prepared.weight ? ".masked" : ""}@${prepared.batch}`;
      this.upload(prepared);
      this.program.writeRun(fields);
      const front = this.artifact.optimizer === "kfac" ? `front${stats ? ".stats" : ""}${tail}` : `step${tail}`;
      const lossName = `lossSum@${prepared.batch}`;
      return this.#finishStep(front, refresh, fields, (values) => (values.get(lossName) as Float32Array)[0] as number / prepared.weightSum, [lossName], `scale${tail}`);
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
      this.program.writeRun({ ...this.#fields(run), seed: (this.state.seed + draw) >>> 0, count: prepared.weightSum, keep: first ? 0 : 1 });
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
      const fields = { ...this.#fields(run), count: open.count, keep: 0, ...this.#blends(run, open.stats, refresh) };
      this.program.writeRun(fields);
      return this.#finishStep(open.stats ? "absorb" : undefined, refresh, fields, () => mean, []);
    });
    return { step, loss: this.#unwrap(loss) };
  }

  /** Weights of this step's statistics in the running averages; scalings that a refresh starts anew have none yet. */
  #blends(run: RunScalars, stats: boolean, refresh: boolean): { emaBlend: number; scaleBlend: number } {
    const { emaDebias, burnIn } = this.host;
    const scaled = stats && this.artifact.inverse === "ekfac" && this.state.inverted && !refresh;
    return {
      emaBlend: stats ? nextBlend(this.state, run.emaDecay, burnIn, emaDebias) : 0,
      scaleBlend: scaled ? nextScaleBlend(this.state, run.emaDecay, emaDebias) : 0,
    };
  }

  /**
   * Submits front, inverses and update in one go; the first inverses are awaited, later ones only reported. Eigenbases are always awaited;
   * `scale` then measures EKFAC's scalings of the batch in them.
   */
  async #finishStep(front: string | undefined, refresh: boolean, fields: Readonly<Record<string, number>>, lossOf: (values: ReadonlyMap<string, HostArray>) => number, read: readonly string[], scale?: string) {
    const kfac = this.artifact.optimizer === "kfac" && this.layers.length > 0;
    const tail = kfac || !front?.startsWith("step") ? ["back"] : [];
    const fronts = front ? [front] : [];
    const step = this.state.stepCount;
    const invert = kfac && (refresh || !this.state.inverted);
    const device = invert && invertsOnDevice(this);
    const host = invert && this.artifact.inverse !== "pi";
    const scales = host && scale !== undefined && this.artifact.plan.entries[scale] ? [scale] : [];
    await this.program.prepare([...fronts, ...(device ? ["refresh"] : []), ...scales, ...tail]);
    if (invert && this.state.inverted) this.state.redo = false;
    if (invert && (host || !this.state.inverted)) {
      this.program.submit(fronts);
      const again = device && this.state.inverted;
      if (!again) await firstInverses(this, fields);
      if (host) {
        await refreshEigenbases(this);
        this.layers.forEach((l, k) => { if (l.form === "kronecker") this.state.invertedAt[k] = step; });
        this.state.scaleWeight = scales.length > 0 ? 1 : 0;
        this.program.writeRun({ ...fields, scaleBlend: 1 });
        this.program.submit(scales);
        this.program.writeRun(fields);
      }
      this.#push(step, again, this.#readback.submit([...(again ? ["refresh"] : []), ...tail], [...read, ...(again ? ["clean"] : [])]), lossOf);
    } else {
      const values = this.#readback.submit([...fronts, ...(device ? ["refresh"] : []), ...tail], [...read, ...(device ? ["clean"] : [])]);
      this.#push(step, device, values, lossOf);
    }
    this.state.stepCount++;
    this.gradientCount = fields.count;
    // wrapped, so that the chain of tasks does not wait for the readback
    return { loss: (this.pending[this.pending.length - 1] as Pending).values.then((v) => v.loss) };
  }

  #push(step: number, refreshed: boolean, values: Promise<ReadonlyMap<string, HostArray>>, lossOf: (values: ReadonlyMap<string, HostArray>) => number): void {
    const ready = values.then(
      (map) => ({ loss: lossOf(map), clean: refreshed ? [...(map.get("clean") as HostArray)] : [] }),
      async (e: unknown) => { throw await this.#lostOr(e); },
    );
    ready.catch(() => {});
    this.pending.push({ step, refreshed, scales: [...this.state.scales], values: ready });
  }

  #fields(run: RunScalars): Record<string, number> {
    const t = this.state.stepCount + 1;
    return { ...run, correction1: 1 - run.beta1 ** t, correction2: 1 - run.beta2 ** t, seed: this.state.seed, step: this.state.stepCount };
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
    return this.#task(async () => {
      let [loss, right, labelled, total, count] = [0, 0, 0, 0, 0];
      const heads = targetsOf(this.artifact);
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
        const p = prepareBatch(this.artifact, batch, { target: true, evaluation: true }, true);
        await this.program.prepare([`evaluate@${p.batch}`]);
        this.upload(p);
        inFlight.push([p, this.#readback.submit([`evaluate@${p.batch}`], names(p))]);
        if (inFlight.length < 4) continue;
        const [done, values] = inFlight.shift() as [Prepared, Promise<ReadonlyMap<string, HostArray>>];
        add(done, await values);
      }
      for (const [p, values] of inFlight) add(p, await values);
      if (count === 0) throw new RuntimeFault("bad-data", "nothing to evaluate: the data set is empty", "evaluate");
      return {
        loss: loss / total, ...(classes ? { accuracy: labelled > 0 ? right / labelled : Number.NaN } : {}),
        ...(each.length > 0 ? { losses: Object.fromEntries(each.map((output) => [output, (losses.get(output) as number) / total])) } : {}), count,
      };
    });
  }

  /** The model's own outputs for any number of examples. */
  predict(inputs: Readonly<Record<string, Tensor>>): Promise<Record<string, Tensor>> {
    return this.#task(async () => {
      const lead = this.artifact.inputs.find((i) => i.examples !== null);
      const total = lead ? (inputs[lead.name]?.shape[lead.examples as number] ?? 0) : 0;
      if (total === 0) throw new RuntimeFault("bad-data", `input "${lead?.name}" is missing or empty`, "predict");
      const largest = Math.max(...this.batches);
      const parts = new Map<string, Float32Array[]>();
      for (let start = 0; start < total; start += largest) {
        const count = Math.min(largest, total - start);
        const p = prepareBatch(this.artifact, cutExamples(this.artifact, inputs, start, count), { target: false, evaluation: true }, true);
        for (const [name, data] of p.arrays) if (this.program.hasBuffer(`${name}@${p.batch}`)) this.program.write(`${name}@${p.batch}`, data);
        await this.program.prepare([`predict@${p.batch}`]);
        this.program.submit([`predict@${p.batch}`]);
        const arrays = await this.program.read(this.artifact.outputs.map((o) => `out/${o.name}@${p.batch}`));
        this.artifact.outputs.forEach((o, k) => {
          const per = o.shape.reduce((n, d) => n * d, 1);
          const whole = arrays[k] as Float32Array;
          parts.set(o.name, [...(parts.get(o.name) ?? []), o.examples === null ? whole.slice() : whole.slice(0, count * per)]);
        });
      }
      return joinOutputs(this.artifact, parts, total);
    });
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
        throw this.#fault ?? (await this.#lostOr(e));
      }
    });
    this.#tail = done.catch((e: unknown) => {
      if (e instanceof RuntimeFault && (e.code === "diverged" || e.code === "device-lost")) this.#fault ??= e;
    });
    return done;
  }

  /** A rejected readback usually means the device went away just now: say that instead. */
  async #lostOr(e: unknown): Promise<unknown> {
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
