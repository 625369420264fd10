/** What generated modules, and programs that use them, import as `kfacc/runtime`. Browser-safe. */
export { type Artifact, type HostOptions, HOST_DEFAULTS, type Knob, type LayerInfo, type OrphanInfo, RUN_KNOBS, type RunScalars, RuntimeFault, type TensorInfo } from "./artifact.js";
export { type BatchOptions, batchAt, batches, type BatchStep, epochOrder, type ExampleArray, type Examples, inOrder, type OrderState, permutation } from "./batches.js";
export type { LayerDiagnosis } from "./diagnose.js";
export { adopt, openBrowserDevice, type OpenDevice } from "./device.js";
export { type EstimateOptions, type ExactOptions, type Factors, Fisher } from "./fisher.js";
export type { FisherProgress } from "./fisher-device.js";
export { Estimate } from "./fisher-estimate.js";
export type { EstimateInfo, LayerFactors } from "./fisher-layers.js";
export type { VectorOptions } from "./fisher-vectors.js";
export type { DampingOptions, PlainOptions, Vector, VectorResult } from "./kronecker.js";
export { loadModule, type LoadOptions, type ModuleData, parameters, readModule } from "./load.js";
export { decode as decodeSafetensors, encode as encodeSafetensors, type SafeFile, type SafeTensor } from "./safetensors.js";
export type { Batch, Tensor } from "./tensors.js";
export { type Metrics, type StepResult, Trainer, type TrainerOptions } from "./trainer.js";
export type { TrainerEvent } from "./reactions.js";
