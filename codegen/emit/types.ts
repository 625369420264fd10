/** `index.d.ts` of a generated module: batches with the model's own names and shapes. */
import { type Artifact, type TargetInfo, targetsOf, type TensorInfo } from "../../runtime/artifact.js";

/** A name as a key of an object literal. */
export const property = (name: string): string => (/^[A-Za-z_$][A-Za-z0-9_$]*$/.test(name) ? name : JSON.stringify(name));

const dataOf = (t: TensorInfo): string => (t.dtype === "i32" ? "Int32Array" : "Float32Array");

/** `shape` with the examples axis back in its place. */
function spellShape(shape: readonly number[], examples: number | null): string {
  const dims = shape.map(String);
  if (examples !== null) dims.splice(examples, 0, "examples: number");
  // a tuple names all of its members or none
  const named = examples === null ? dims : dims.map((d, k) => (k === examples ? d : `d${k}: ${d}`));
  return `readonly [${named.join(", ")}]`;
}

function member(t: TensorInfo, examples: number | null, doc: string): string {
  return `  /** ${doc} */\n  readonly ${property(t.name)}: Typed<${spellShape(t.shape, examples)}, ${dataOf(t)}>;`;
}

const spellDims = (shape: readonly number[], examples: number | null): string => {
  const dims = shape.map(String);
  if (examples !== null) dims.splice(examples, 0, "examples");
  return `[${dims.join(", ")}]`;
};

type Target = Omit<TargetInfo, "output" | "weight">;

/** What a target holds, in words: shape, classes, and how a position is left out. */
export const spellTarget = ({ shape, classes }: Target): string =>
  `${spellDims(shape, 0)}${classes === null ? "" : `, classes 0 … ${classes - 1}; below 0: no label, no loss`}`;

/** One target is a tensor, several are tensors by output. */
function targetMember(artifact: Artifact): string {
  const targets = targetsOf(artifact);
  const [first, ...others] = targets as readonly [TargetInfo, ...TargetInfo[]];
  if (others.length === 0) return member({ ...first, name: "target" }, 0, spellTarget(first));
  const each = targets.map((t) => `  ${member({ ...t, name: t.output }, 0, `${spellTarget(t)}; ${oneLine(t.loss)}${t.weight === 1 ? "" : `, times ${t.weight}`}`).replaceAll("\n", "\n  ")}`);
  return `  /** By output. */\n  readonly target: {\n${each.join("\n")}\n  };`;
}

/** @param runtime module specifier of the runtime. */
export function moduleTypes(artifact: Artifact, runtime: string): string {
  const { inputs, outputs, params } = artifact;
  const targets = targetsOf(artifact);
  return `// Types of the training program of ${oneLine(artifact.name)}. Made by kfacc compile; changes are lost when it runs again.
import type { Fisher, LayerDiagnosis, LayerInfo, Metrics, RunScalars, StepResult, Tensor } from "${runtime}";

export type { Estimate, Fisher, LayerDiagnosis, LayerInfo, Metrics, RunScalars, StepResult, Tensor, Vector, VectorResult } from "${runtime}";

interface Typed<Shape extends readonly number[], Data> {
  readonly shape: Shape;
  readonly data: Data;
}

export type Inputs = {
${inputs.map((i) => member(i, i.examples, spellDims(i.shape, i.examples))).join("\n")}
};

export type Batch = Inputs & {
${targetMember(artifact)}
  /** A weight per example; 0 leaves it out. */
  readonly weight?: Float32Array;
  /** Targets for the sampled Fisher, instead of random ones. */
  readonly mcTargets?: ${targets.length < 2 ? "Tensor" : `{ ${targets.map((t) => `readonly ${property(t.output)}: Tensor`).join("; ")} }`};
};

export type Outputs = {
${outputs.map((o) => member(o, o.examples, spellDims(o.shape, o.examples))).join("\n")}
};

export type ParameterName =
${params.map((p) => `  | ${JSON.stringify(p.name)}`).join("\n") || "  never"};

export interface Trainer {
  readonly layers: readonly LayerInfo[];
  /** Compiled batch sizes, largest first; a smaller batch is padded and masked. */
  readonly batches: readonly number[];
  stepCount: number;
  /** Learning rate, damping, momentum …: checked when set, used by the next step. */
  run: RunScalars;
  /** One update. Enqueues; never waits for the GPU. The loss is that of the batch before the update. */
  step(batch: Batch): StepResult;
  /** Adds a batch's gradients to those since the last update. */
  gradients(batch: Batch): void;
  /** One update from the gradients added up. */
  update(): StepResult;
  /** Over any count of examples. */
  evaluate(data: Iterable<Batch>): Promise<Metrics>;
  /** The model's own outputs, for any count of examples. */
  predict(inputs: Inputs): Promise<Outputs>;
  /** Copies of the parameters as they are now. */
  weights(): Promise<Record<ParameterName, Tensor>>;
  setWeights(weights: Partial<Record<ParameterName, Tensor>>): void;
  /** A checkpoint; \`restore\` goes on from it bit for bit. */
  save(): Promise<Uint8Array>;
  restore(bytes: Uint8Array): Promise<unknown>;
  /** Per layer, after a step: curvature against damping, the angle between step and gradient, the age of the inverse. */
  diagnose(): Promise<LayerDiagnosis[]>;
  /** The Fisher matrix: running factors, estimates over a data set, exact products with vectors. */
  readonly fisher: Fisher;
  /** Waits for all steps; rejects with whatever stopped the run. */
  finish(): Promise<void>;
  /** Frees the GPU's memory, and the device unless it was given. */
  dispose(): Promise<void>;
}

export interface LoadOptions {
  /** Default: the best one of this machine. */
  readonly device?: GPUDevice;
  /** Safetensors with the model's parameter names; default: those beside this file. */
  readonly weights?: URL | Uint8Array;
  readonly seed?: number;
  readonly run?: Partial<RunScalars>;
}

export function load(options?: LoadOptions): Promise<Trainer>;
`;
}

/** Names come from model files: none may end a comment or begin a line (in WGSL, next line U+0085 does). */
export const oneLine = (text: string): string => [...text].map((c) => (c < " " || c === "\u0085" || c === "\u2028" || c === "\u2029" ? " " : c)).join("").replaceAll("*/", "* /");
