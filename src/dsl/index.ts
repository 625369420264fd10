/**
 * Models in TypeScript (`kfacc/dsl`):
 *
 *   import { model } from "kfacc/dsl";
 *   export default model("mlp", (m) => {
 *     const x = m.input("x", [28, 28]);
 *     const h = m.relu(m.dense(m.flatten(x), 256));
 *     return m.output("logits", m.dense(h, 10), { loss: "softmax-ce" });
 *   });
 */
import { CompileError } from "../../ir/error.js";
import type { ModelDefinition } from "./model.js";
import { ModelBuilder } from "./nn.js";
import type { Tensor } from "./record.js";

export { type DslModel, isModel, type ModelDefinition, toForward } from "./model.js";
export type { ModelBuilder } from "./nn.js";
export type { LossOps } from "../train/custom.js";
export type { ConvOptions, DenseOptions, Loss, LossFormula, NormOptions, OutputOptions, ParamOptions, PoolOptions, WindowOptions } from "./options.js";
export type { Init, Tensor } from "./record.js";

export interface ModelOptions {
  /** Of the first weights. Default 0. */
  readonly seed?: number;
}

/**
 * Records a model. `build` runs once; what it calls on `m` is the model, and an input, parameter or layer is named by it.
 *
 * @throws CompileError whose `where` names the layer, for shapes that do not fit and options that make no sense.
 */
export function model(name: string, build: (m: ModelBuilder) => Tensor | readonly Tensor[] | undefined, options: ModelOptions = {}): ModelDefinition {
  const { seed = 0 } = options;
  if (!Number.isSafeInteger(seed) || seed < 0) throw new CompileError("bad-option", `a seed is a whole number ≥ 0, got ${seed}`, `model "${name}"`);
  const m = new ModelBuilder(name, seed);
  build(m);
  return m.finish();
}
