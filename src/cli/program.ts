/** A model file or a compiled folder, made ready to evaluate and predict on a device. */
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { CompileError } from "../../ir/error.js";
import type { Artifact } from "../../runtime/artifact.js";
import { openDevice } from "../../runtime/adapter.node.js";
import { type ModuleData, parameters, readModule } from "../../runtime/load.js";
import { Trainer, type TrainerOptions } from "../../runtime/trainer.js";
import { compile, type CompileOptions } from "../compile.js";
import { type Dataset, openDataset } from "../data/dataset.js";
import { dataSpec, type Signature } from "../dataspec.js";
import { kindOf, readFileOr } from "../files.js";
import { openModel } from "../model.js";
import type { Settings } from "../options.js";
import type { Io } from "./io.js";
import { compileOptions, openFor } from "./setup.js";
import { shaped } from "./shape.js";

/** `needsLoss`: otherwise any loss will do where none is known. `optionsOf`: the program to compile for a model file. */
export async function openProgram(path: string, s: Settings, io: Io, needsLoss: boolean, optionsOf: (s: Settings) => CompileOptions = compileOptionsForUse): Promise<ModuleData> {
  const data = (await kindOf(path)) === "folder" ? await openFolder(path) : await compileFor(path, s, io, needsLoss, optionsOf);
  const weights = s.text("weights");
  return weights === undefined ? data : { ...data, weights: await storedWeights(weights, data.artifact) };
}

/** Parameters in a .onnx model of the same names, a checkpoint or a weights file. */
async function storedWeights(file: string, artifact: Artifact): Promise<ModuleData["weights"]> {
  if (!file.endsWith(".onnx")) return parameters(artifact, await readFileOr("missing-data", file), `file "${file}"`);
  const other = await openModel(file);
  const { weights } = other.forward(other.fileBatch ?? 2);
  for (const p of artifact.params) {
    const shape = weights.get(p.name)?.shape;
    if (shape?.join() !== p.shape.join()) throw new CompileError("bad-data", shape ? `tensor "${p.name}" is [${shape.join(", ")}], the program takes [${p.shape.join(", ")}]` : `no tensor "${p.name}"`, `--weights "${file}"`, "the file does not belong to this model");
  }
  return Object.fromEntries(weights);
}

/** @throws CompileError "missing-data" if the folder holds no module; RuntimeFault "bad-data" if it is damaged or of another version. */
export async function openFolder(path: string): Promise<ModuleData> {
  if ((await kindOf(join(path, "plan.json"))) !== "file") throw new CompileError("missing-data", "the folder holds no compiled model: it has no plan.json", `folder "${path}"`, "make it with kfacc compile, or name a model file");
  return readModule(pathToFileURL(`${path}/`));
}

async function compileFor(path: string, s: Settings, io: Io, needsLoss: boolean, optionsOf: (s: Settings) => CompileOptions): Promise<ModuleData> {
  const model = await openFor(path, s, "eval");
  for (const n of model.notes) io.note(`note: ${n}`);
  const { options: given } = await shaped(optionsOf(s), s, io, true);
  const attempt = (loss: object) => compile(model.forward, { ...given, ...loss });
  const made = (() => {
    try {
      return attempt({});
    } catch (e) {
      if (needsLoss || !(e instanceof CompileError && e.code === "loss-unknown")) throw e;
      return attempt({ loss: "half-sse" });
    }
  })();
  return { artifact: made.artifact, sources: made.sources, weights: Object.fromEntries(made.weights) };
}

/** Nothing is trained: the smallest program that evaluates and predicts. */
function compileOptionsForUse(s: Settings): CompileOptions {
  const { loss, losses, batches } = compileOptions(s);
  return { ...(loss ? { loss } : {}), ...(losses ? { losses } : {}), batches, optimizer: "sgd" as const, fisher: { kind: "mc" as const, samples: 1 }, weightDecayMode: "l2" as const };
}

export async function openData(a: Signature, s: Settings, io: Io, options: { readonly labels: boolean; readonly split: "train" | "test" }): Promise<Dataset> {
  const data = await openDataset(s.required("data"), {
    ...dataSpec(a, options.labels),
    target: s.list("target"), exampleWeight: s.text("example-weight"), scale: s.optionalNumber("scale"), split: (s.text("split") as "train" | "test" | undefined) ?? options.split,
  });
  for (const n of data.notes) io.note(`note: ${n}`);
  return data;
}

/** Opens a device and a trainer for `use`, and closes both on every way out. */
export async function withTrainer<T>(data: ModuleData, io: Io, options: TrainerOptions, use: (trainer: Trainer) => Promise<T>): Promise<T> {
  const open = await openDevice();
  try {
    io.note(`device: ${open.name} (${open.kind}); memory of the program: ${(data.artifact.plan.buffers.reduce((n, b) => n + b.bytes, 0) / 1e6).toFixed(1)} MB`);
    const trainer = await Trainer.create(open.device, data.artifact, data.sources, data.weights, { ...options, adapter: open.name });
    try {
      return await use(trainer);
    } finally {
      await trainer.dispose().catch(() => {});
    }
  } finally {
    await open.close();
  }
}
