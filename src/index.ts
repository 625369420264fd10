/**
 * kfacc for programs: open a model, compile it, train it or write it as a module.
 *
 *   const model = await openModel("lenet.onnx");
 *   const compiled = compile(model.forward, { ...COMPILE_DEFAULTS, loss: "softmax-ce" });
 *   const open = await openDevice();
 *   const trainer = await Trainer.create(open.device, compiled.artifact, compiled.sources, Object.fromEntries(compiled.weights));
 *   await runTraining({ trainer, train: { examples }, options: { batch: 64, epochs: 5, seed: 0 } });
 *   await writeTrained(model, compiled, await trainer.weights(), "trained.onnx");
 */
export { CompileError, ERROR_CODES, type ErrorCode, spellError } from "../ir/error.js";
export { openDevice, listAdapters } from "../runtime/adapter.node.js";
export * from "../runtime/index.js";
export { COMPILE_DEFAULTS, type Compiled, type CompileOptions, compile, type ForwardModel, type ModelOutput, summary } from "./compile.js";
export { type DataOptions, type Dataset, type InputSpec, openDataset } from "./data/dataset.js";
export type { LabelSpec } from "./data/fit.js";
export { layerTable, table } from "./cli/table.js";
export { dataSpec } from "./dataspec.js";
export { type Split, splitExamples } from "./data/split.js";
export { writeModule, type WriteOptions, type WrittenModule } from "./emit.js";
export { makeFolder, readFileOr, writeAtomic } from "./files.js";
export { type OpenModel, type OpenOptions, openModel } from "./model.js";
export { type LinePlot, linePlot, type Series } from "./plot.js";
export { type Progress, type ProgressOptions, startProgress } from "./progress.js";
export { type EvalRecord, evaluatePart, type Part, runTraining, type StepRecord, toBatch, type TrainingHooks, type TrainingOptions, type TrainingResult, type TrainingRun } from "./session.js";
export { writeTrained } from "./trained.js";
export { CONSTANT, rateAt, type Schedule } from "./train/schedule.js";
