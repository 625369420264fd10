/** Trained weights on their way to disk: back into a copy of the .onnx file, or as safetensors. */
import { basename, dirname, join } from "node:path";
import { CompileError } from "../ir/error.js";
import { encode, type SafeTensor } from "../runtime/safetensors.js";
import type { Tensor } from "../runtime/tensors.js";
import type { Compiled } from "./compile.js";
import { writeAtomic } from "./files.js";
import { readExternalFile } from "./import/external.js";
import { writeWeights } from "./import/writeback.js";
import type { OpenModel } from "./model.js";

/**
 * Data files first, then the model that names them.
 *
 * @throws CompileError "cannot-write"; "diverged" if a weight is not finite; "bad-option" if the model is not of a .onnx file.
 */
export async function writeTrained(model: OpenModel, { artifact }: Pick<Compiled, "artifact">, weights: Readonly<Record<string, Tensor>>, path: string): Promise<void> {
  for (const [name, t] of Object.entries(weights))
    if (!t.data.every(Number.isFinite)) throw new CompileError("diverged", "a trained weight is not finite", `parameter "${name}"`, "lower --lr or raise --damping");
  if (!path.endsWith(".onnx")) {
    const tensors = Object.entries(weights).map(([name, t]): [string, SafeTensor] => [name, { dtype: "F32", shape: t.shape, data: t.data }]);
    return writeAtomic(path, encode(Object.fromEntries(tensors)));
  }
  if (!model.loaded) throw new CompileError("bad-option", "only a model that came from a .onnx file can be written as one", path);
  const trained = artifact.params.flatMap((p) => {
    const t = weights[p.name];
    return (p.trainable || p.updated) && t ? [[p.name, t.data as Float32Array] as const] : [];
  });
  const folder = dirname(model.loaded.file ?? model.path);
  const written = writeWeights(model.loaded.bytes, new Map(trained), { dataName: `${basename(path)}.data`, read: (location) => readExternalFile(folder, location) });
  for (const [name, bytes] of written.externalFiles) await writeAtomic(join(dirname(path), name), bytes);
  await writeAtomic(path, written.model);
}
