/**
 * The contract between the compiler and the runtime: what `plan.json` holds, the run-time knobs, and the error type.
 * The compiler writes it, the runtime reads it; both import this file and nothing else of each other.
 */

/** Bumped when a field changes meaning; the runtime refuses other versions. */
export const ARTIFACT_VERSION = 3;

/** A fault the runtime reports: what, where, what next. Same fields as the compiler's error. */
export class RuntimeFault extends Error {
  constructor(
    readonly code: "bad-data" | "bad-option" | "no-adapter" | "device-lost" | "out-of-memory" | "diverged" | "bad-checkpoint" | "internal",
    message: string,
    readonly where?: string,
    readonly hint?: string,
  ) {
    super(message);
    this.name = "RuntimeFault";
  }
}

export interface Knob {
  readonly name: string;
  readonly doc: string;
  readonly unit: string;
  readonly default: number;
  /** Inclusive range. */
  readonly range: readonly [number, number];
}

/** Numbers a user may change between steps. One table: the flags of the command line and `trainer.run` come from it. */
export const RUN_KNOBS = [
  { name: "lr", doc: "learning rate", unit: "per step", default: 0.05, range: [0, 1e6] },
  { name: "momentum", doc: "momentum: m = momentum·m + direction", unit: "fraction", default: 0.9, range: [0, 1] },
  { name: "weightDecay", doc: "L2 weight decay", unit: "per weight", default: 0, range: [0, 1e6] },
  { name: "damping", doc: "K-FAC damping λ", unit: "curvature", default: 0.03, range: [0, 1e12] },
  { name: "emaDecay", doc: "decay of the running averages of A and G", unit: "fraction", default: 0.95, range: [0, 1] },
  { name: "klClip", doc: "bound on lr²·Σ⟨∇, F⁻¹∇⟩ (Martens & Grosse's norm constraint); 0 = off", unit: "nats", default: 0.001, range: [0, 1e12] },
  { name: "beta1", doc: "Adam: decay of the gradient average", unit: "fraction", default: 0.9, range: [0, 1] },
  { name: "beta2", doc: "Adam: decay of the squared-gradient average", unit: "fraction", default: 0.999, range: [0, 1] },
  { name: "epsilon", doc: "Adam: added to the root of the second moment", unit: "gradient", default: 1e-8, range: [0, 1] },
] as const satisfies readonly Knob[];

export type RunScalars = { [K in (typeof RUN_KNOBS)[number]["name"]]: number };

/**
 * The uniform block `run` as kernels see it, in order, 4 bytes each. Besides the knobs: what the host knows per step.
 * `count` = true examples N of the batch(es) since the last update; `keep` = 0 on the first of several accumulated
 * batches, 1 after; `emaBlend` = weight of the new statistics (1/w of the debiased average), `scaleBlend` of EKFAC's new scalings; `seed`, `step` key the RNG.
 */
export const RUN_FIELDS = [
  ...RUN_KNOBS.map((k) => ({ name: k.name as string, dtype: "f32" as const })),
  { name: "count", dtype: "f32" as const },
  { name: "keep", dtype: "f32" as const },
  { name: "emaBlend", dtype: "f32" as const },
  { name: "scaleBlend", dtype: "f32" as const },
  { name: "correction1", dtype: "f32" as const },
  { name: "correction2", dtype: "f32" as const },
  { name: "seed", dtype: "u32" as const },
  { name: "step", dtype: "u32" as const },
] as const;

/** Bytes of the uniform block, a multiple of 16. */
export const RUN_BYTES = Math.ceil((RUN_FIELDS.length * 4) / 16) * 16;

export type StoredType = "f32" | "i32" | "u32";

/** A buffer of the program. `state` outlives steps; `input` is written by the host; `output` is read back; `slot` is reused scratch. */
export interface PlanBuffer {
  readonly name: string;
  readonly kind: "state" | "input" | "output" | "slot";
  readonly bytes: number;
  readonly dtype: StoredType;
  /** Absent for slots. */
  readonly shape?: readonly number[];
}

/** Features of devices for which a kernel may have another text; named as WebGPU names them. */
export type KernelFeature = "subgroups";

export interface PlanKernel {
  readonly name: string;
  /**
   * Texts for devices that have a feature, to be taken instead of the kernel's own: same bindings, same workgroups. `source` counts in the
   * program's sources, which begin with the kernels' own texts, one each, in order.
   */
  readonly variants?: readonly { readonly feature: KernelFeature; readonly source: number }[];
  /** Per binding number: how a storage buffer is used, or the uniform block of run-time knobs. */
  readonly bindings: readonly ("read" | "read_write" | "run")[];
}

/** One dispatch: `buffers[k]` (an index into `Plan.buffers`; −1 for the run block) goes to binding k. `values` says what each holds. */
export interface PlanDispatch {
  readonly kernel: number;
  readonly buffers: readonly number[];
  readonly values: readonly string[];
  readonly workgroups: readonly [number, number, number];
  /** What the compiler counted, for profiles: arithmetic of the definition, and bytes that must move at least once. */
  readonly work?: { readonly flops: number; readonly bytes: number };
}

export interface PlanCopy {
  readonly from: number;
  readonly to: number;
  readonly bytes: number;
  readonly value: string;
}

export type PlanStep = PlanDispatch | PlanCopy;

export interface PlanEntry {
  readonly steps: readonly PlanStep[];
  /** Input name → buffer. */
  readonly inputs: Readonly<Record<string, number>>;
  /** Result name → buffer to read back. */
  readonly outputs: Readonly<Record<string, number>>;
}

/** Kernels, buffers and entries: all a device needs. */
export interface Plan {
  readonly kernels: readonly PlanKernel[];
  readonly buffers: readonly PlanBuffer[];
  readonly entries: Readonly<Record<string, PlanEntry>>;
}

export interface TensorInfo {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: "f32" | "i32";
}

/** What one loss takes; `name` is its graph input: `target`, or `target/<output>` where several outputs have a loss. */
export interface TargetInfo extends TensorInfo {
  readonly output: string;
  /** Number of classes if the targets are class numbers; then any number below 0 is a position without a label. */
  readonly classes: number | null;
  readonly loss: string;
  /** Factor in the total loss. */
  readonly weight: number;
}

/** Digits of an index, fastest first: [count, stride]. */
export type Digits = readonly (readonly [number, number])[];

/** Where element (group, out, in) of a matrix form is in a parameter's row-major data: offset + Σ digit · stride. */
export interface MatrixDigits {
  readonly offset: number;
  readonly groups: Digits;
  readonly out: Digits;
  readonly in: Digits;
}

export interface LayerInfo {
  /** The weight's name; of a part of a weight: with the range behind it. */
  readonly name: string;
  readonly kind: string;
  /** kronecker: A ⊗ G per group · block: one exact Fisher block per group over its dG·dA numbers. */
  readonly form: "kronecker" | "block";
  readonly sharing: "expand" | "reduce";
  readonly sides: { readonly A: "full" | "diagonal"; readonly G: "full" | "diagonal" };
  readonly matrix: { readonly weight: MatrixDigits; readonly bias: MatrixDigits | null };
  readonly params: { readonly weight: string; readonly bias: string | null };
  /** Number of uses of the weight. */
  readonly sites: number;
  readonly siteDetails: readonly { readonly node: string; readonly T: number; readonly transposed: boolean }[];
  /** Positions per example, all sites together. */
  readonly T: number;
  readonly groups: number;
  readonly dA: number;
  readonly dG: number;
}

export interface OrphanInfo {
  readonly param: string;
  readonly reason: string;
  readonly update: string;
}

/** Choices that the host makes between steps; a knob each on the command line. */
export interface HostOptions {
  /** Factor statistics every this many steps. */
  readonly factorPeriod: number;
  /** New inverses every this many steps. */
  readonly inversePeriod: number;
  /** The work of new inverses is spread over the steps between them, instead of all at once. The program must have been compiled for it. */
  readonly spreadInverses: boolean;
  /** Steps at the start during which statistics are plainly averaged (decay 1) and taken every step. */
  readonly burnIn: number;
  /** false: the first statistics are the start value and later ones blend in with 1 − emaDecay. */
  readonly emaDebias: boolean;
  /** The host reacts to what a step reports this many steps later. */
  readonly readbackLag: number;
}

export const HOST_DEFAULTS: HostOptions = { factorPeriod: 1, inversePeriod: 10, spreadInverses: false, burnIn: 0, emaDebias: true, readbackLag: 2 };

/** Everything a trainer needs besides kernels and weights. */
export interface Artifact {
  readonly version: number;
  readonly name: string;
  /** Hash of plan and kernels: a checkpoint belongs to one. */
  readonly hash: string;
  readonly plan: Plan;
  /** Largest first. */
  readonly batches: readonly number[];
  /** With the examples axis first and its size replaced by the batch at run time: `shape` leaves it out. */
  readonly inputs: readonly (TensorInfo & { readonly examples: number | null })[];
  readonly target: TensorInfo;
  /** Number of classes if the target is a class number. */
  readonly classes: number | null;
  /** Every output with a loss; `target`, `classes` and `loss` are those of the first. Absent: it is the only one. */
  readonly targets?: readonly TargetInfo[];
  readonly outputs: readonly (TensorInfo & { readonly examples: number | null })[];
  /** `updated`: not trained, but every training step writes it (running statistics). */
  readonly params: readonly (TensorInfo & { readonly trainable: boolean; readonly updated?: boolean })[];
  readonly layers: readonly LayerInfo[];
  readonly orphans: readonly OrphanInfo[];
  readonly optimizer: "kfac" | "sgd" | "adam";
  readonly loss: string;
  readonly fisher: { readonly kind: string; readonly samples: number };
  /** How damping enters a layer's inverse: pi on the device; eig and ekfac in eigenbases that the host makes. */
  readonly inverse: "pi" | "eig" | "ekfac";
  /** Whether weight decay is added to gradients or taken from the weights themselves; absent: to gradients. */
  readonly weightDecayMode?: "l2" | "decoupled";
  /** Kernels are shaped for GPUs; absent: for adapters that compute on the CPU. They run on both. */
  readonly compiledFor?: "gpu";
  /** The node that mixes the examples of a batch; null: none does, and short batches may be padded. */
  readonly mixes: string | null;
  /** The same of evaluation and prediction, which may go another way than training (running statistics instead of the batch's). */
  readonly evaluationMixes: string | null;
  readonly host: HostOptions;
  /** Start values of the run-time knobs that differ from their defaults. */
  readonly run: Partial<RunScalars>;
}

/** The losses of a program. */
export const targetsOf = (a: Pick<Artifact, "target" | "targets" | "classes" | "loss" | "outputs">): readonly TargetInfo[] =>
  a.targets ?? [{ ...a.target, output: a.outputs[0]?.name ?? "", classes: a.classes, loss: a.loss, weight: 1 }];
