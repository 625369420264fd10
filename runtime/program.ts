/** A plan on a device: pipelines and bind groups made once, entries encoded into one pass, buffers written and read back. */
import { requireRoom } from "./memory.js";
import { type Plan, type PlanBuffer, type PlanEntry, type PlanKernel, RUN_BYTES, RUN_FIELDS, RuntimeFault } from "./artifact.js";

export type HostArray = Float32Array | Int32Array | Uint32Array;

interface Prepared {
  readonly steps: readonly (
    | { readonly pipeline: GPUComputePipeline; readonly group: GPUBindGroup; readonly workgroups: readonly [number, number, number] }
    | { readonly from: GPUBuffer; readonly to: GPUBuffer; readonly bytes: number })[];
}

/** Shader modules and pipelines are shared by all programs of a device; equal text is one pipeline. */
const pipelines = new WeakMap<GPUDevice, Map<string, Promise<{ pipeline: GPUComputePipeline; layout: GPUBindGroupLayout }>>>();

/** Some steps of an entry, those with from ≤ index < to. */
export interface EntryPart {
  readonly entry: string;
  readonly from: number;
  readonly to: number;
}

export class Program {
  readonly #sources: readonly string[];
  readonly #buffers: readonly GPUBuffer[];
  readonly #entries = new Map<string, Prepared>();
  readonly #byName = new Map<string, number>();
  readonly #run: GPUBuffer;
  readonly #runBytes = new ArrayBuffer(RUN_BYTES);
  #disposed = false;

  private constructor(readonly device: GPUDevice, readonly plan: Plan, sources: readonly string[], buffers: readonly GPUBuffer[], run: GPUBuffer) {
    this.#sources = sources;
    this.#buffers = buffers;
    this.#run = run;
    plan.buffers.forEach((b, k) => { this.#byName.set(b.name, k); });
  }

  /**
   * @param sources WGSL text of each kernel of the plan, in order, then of their variants: a device with a variant's feature runs that one.
   * @param options lazy: pipelines are made when `prepare` first asks for an entry, not all at once
   * @throws RuntimeFault "out-of-memory" if the buffers do not fit; "internal" if a kernel does not compile.
   */
  static async create(device: GPUDevice, plan: Plan, sources: readonly string[], options: { readonly lazy?: boolean } = {}): Promise<Program> {
    requireRoom(device, plan);
    const usage = GPU_STORAGE | GPU_COPY_SRC | GPU_COPY_DST;
    device.pushErrorScope("out-of-memory");
    device.pushErrorScope("validation");
    const buffers = plan.buffers.map((b) => device.createBuffer({ label: b.name, size: b.bytes, usage }));
    const run = device.createBuffer({ label: "run", size: RUN_BYTES, usage: GPU_UNIFORM | GPU_COPY_DST });
    const invalid = await device.popErrorScope();
    const memory = await device.popErrorScope();
    if (invalid || memory) {
      for (const b of buffers) b.destroy();
      const total = plan.buffers.reduce((n, b) => n + b.bytes, 0);
      throw new RuntimeFault("out-of-memory", `the program's ${plan.buffers.length} buffers (${total} bytes) cannot be allocated: ${(memory ?? invalid)?.message}`, undefined, "use a smaller batch");
    }
    const program = new Program(device, plan, sources, buffers, run);
    if (!options.lazy) await program.prepare(Object.keys(plan.entries));
    return program;
  }

  /** Makes the pipelines and bind groups of entries, once. Must have resolved before an entry is submitted. */
  async prepare(names: readonly string[]): Promise<void> {
    const missing = names.filter((n) => !this.#entries.has(n));
    if (missing.length === 0) return;
    const entries = missing.map((name) => {
      const entry = this.plan.entries[name];
      if (!entry) throw new RuntimeFault("internal", `the program has no entry "${name}"`);
      return [name, entry] as const;
    });
    const needed = new Set(entries.flatMap(([, e]) => e.steps.flatMap((s) => ("kernel" in s ? [s.kernel] : []))));
    const ready = new Map(await Promise.all([...needed].map(async (k) => {
      const kernel = this.plan.kernels[k] as PlanKernel;
      const variant = kernel.variants?.find((v) => this.device.features.has(v.feature));
      const source = this.#sources[variant?.source ?? k];
      const name = variant ? `${kernel.name}.${variant.feature}` : kernel.name;
      if (source === undefined) throw new RuntimeFault("internal", `the program has no text of kernel "${name}"`);
      return [k, await pipelineFor(this.device, source, kernel.bindings, name)] as const;
    })));
    for (const [name, entry] of entries) this.#entries.set(name, this.#prepare(entry, ready));
  }

  #prepare(entry: PlanEntry, ready: ReadonlyMap<number, { pipeline: GPUComputePipeline; layout: GPUBindGroupLayout }>): Prepared {
    const known = new Map<string, GPUBindGroup>();
    return {
      steps: entry.steps.map((step) => {
        if ("from" in step) return { from: this.#buffers[step.from] as GPUBuffer, to: this.#buffers[step.to] as GPUBuffer, bytes: step.bytes };
        const { pipeline, layout } = ready.get(step.kernel) as { pipeline: GPUComputePipeline; layout: GPUBindGroupLayout };
        const key = `${step.kernel}:${step.buffers.join(",")}`;
        const group = known.get(key) ?? this.device.createBindGroup({
          layout,
          entries: step.buffers.map((b, binding) => ({ binding, resource: { buffer: b < 0 ? this.#run : (this.#buffers[b] as GPUBuffer) } })),
        });
        known.set(key, group);
        return { pipeline, group, workgroups: step.workgroups };
      }),
    };
  }

  buffer(name: string): { readonly info: PlanBuffer; readonly gpu: GPUBuffer } {
    const id = this.#byName.get(name);
    if (id === undefined) throw new RuntimeFault("internal", `the program has no buffer "${name}"`);
    return { info: this.plan.buffers[id] as PlanBuffer, gpu: this.#buffers[id] as GPUBuffer };
  }

  hasBuffer(name: string): boolean {
    return this.#byName.has(name);
  }

  /** Copies host data into a buffer, from its start. */
  write(name: string, data: HostArray): void {
    this.#alive();
    const { info, gpu } = this.buffer(name);
    if (data.byteLength > info.bytes) throw new RuntimeFault("internal", `${data.byteLength} bytes for buffer "${name}" of ${info.bytes}`);
    this.device.queue.writeBuffer(gpu, 0, data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
  }

  /** Fills the uniform block; unnamed fields are 0. */
  writeRun(fields: Readonly<Record<string, number>>): void {
    this.#alive();
    const view = new DataView(this.#runBytes);
    RUN_FIELDS.forEach((f, k) => {
      const value = fields[f.name] ?? 0;
      if (f.dtype === "u32") view.setUint32(k * 4, value >>> 0, true);
      else view.setFloat32(k * 4, value, true);
    });
    this.device.queue.writeBuffer(this.#run, 0, this.#runBytes);
  }

  /**
   * Encodes the entries one after the other and submits them at once; `after` may append copies. With `timed` each entry is a pass of its
   * own, and the k-th writes the timestamps that it gives for k.
   */
  submit(entries: readonly (string | EntryPart)[], after?: (encoder: GPUCommandEncoder) => void, timed?: (k: number) => GPUComputePassTimestampWrites): void {
    this.#alive();
    const encoder = this.device.createCommandEncoder();
    let pass: GPUComputePassEncoder | undefined;
    for (const [k, wanted] of entries.entries()) {
      const name = typeof wanted === "string" ? wanted : wanted.entry;
      const entry = this.#entries.get(name);
      if (!entry) throw new RuntimeFault("internal", `entry "${name}" was not prepared`);
      if (timed) {
        pass?.end();
        pass = undefined;
      }
      for (const step of typeof wanted === "string" ? entry.steps : entry.steps.slice(wanted.from, wanted.to)) {
        if ("from" in step) {
          pass?.end();
          pass = undefined;
          encoder.copyBufferToBuffer(step.from, 0, step.to, 0, step.bytes);
          continue;
        }
        pass ??= encoder.beginComputePass(timed ? { timestampWrites: timed(k) } : undefined);
        pass.setPipeline(step.pipeline);
        pass.setBindGroup(0, step.group);
        pass.dispatchWorkgroups(step.workgroups[0], step.workgroups[1], step.workgroups[2]);
      }
    }
    pass?.end();
    after?.(encoder);
    this.device.queue.submit([encoder.finish()]);
  }

  /** Reads whole buffers back, waiting for all submitted work. */
  async read(names: readonly string[]): Promise<HostArray[]> {
    this.#alive();
    const wanted = names.map((n) => this.buffer(n));
    const total = wanted.reduce((n, b) => n + b.info.bytes, 0);
    const staging = this.device.createBuffer({ size: Math.max(16, total), usage: GPU_MAP_READ | GPU_COPY_DST });
    const encoder = this.device.createCommandEncoder();
    let at = 0;
    for (const b of wanted) {
      encoder.copyBufferToBuffer(b.gpu, 0, staging, at, b.info.bytes);
      at += b.info.bytes;
    }
    this.device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPU_MAP_MODE_READ);
    const bytes = staging.getMappedRange().slice(0);
    staging.unmap();
    staging.destroy();
    at = 0;
    return wanted.map((b) => {
      const elements = (b.info.shape ?? [b.info.bytes / 4]).reduce((n, d) => n * d, 1);
      const made = new ARRAY[b.info.dtype](bytes, at, elements);
      at += b.info.bytes;
      return made;
    });
  }

  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    await this.device.queue.onSubmittedWorkDone();
    for (const b of this.#buffers) b.destroy();
    this.#run.destroy();
  }

  #alive(): void {
    if (this.#disposed) throw new RuntimeFault("internal", "the program was disposed");
  }
}

const ARRAY = { f32: Float32Array, i32: Int32Array, u32: Uint32Array } as const;

// WebGPU's flag objects are globals in a browser but not in Node: the numbers are fixed by the specification
const GPU_MAP_READ = 0x1;
const GPU_COPY_SRC = 0x4;
const GPU_COPY_DST = 0x8;
const GPU_UNIFORM = 0x40;
const GPU_STORAGE = 0x80;
const GPU_MAP_MODE_READ = 0x1;
const GPU_STAGE_COMPUTE = 0x4;

function pipelineFor(device: GPUDevice, code: string, bindings: readonly ("read" | "read_write" | "run")[], label: string) {
  const cache = pipelines.get(device) ?? new Map<string, Promise<{ pipeline: GPUComputePipeline; layout: GPUBindGroupLayout }>>();
  pipelines.set(device, cache);
  const known = cache.get(code);
  if (known) return known;
  const made = (async () => {
    const layout = device.createBindGroupLayout({
      entries: bindings.map((b, binding) => ({
        binding, visibility: GPU_STAGE_COMPUTE,
        buffer: { type: b === "run" ? "uniform" as const : b === "read" ? "read-only-storage" as const : "storage" as const },
      })),
    });
    const module = device.createShaderModule({ code, label });
    try {
      const pipeline = await device.createComputePipelineAsync({
        label, layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }), compute: { module, entryPoint: "main" },
      });
      return { pipeline, layout };
    } catch (e) {
      const info = await module.getCompilationInfo();
      const lines = info.messages.map((m) => `  ${m.lineNum}:${m.linePos} ${m.message}`).join("\n");
      throw new RuntimeFault("internal", `kernel "${label}" does not compile: ${e instanceof Error ? e.message : e}\n${lines}`, undefined, "please report this with the model");
    }
  })();
  cache.set(code, made);
  return made;
}
