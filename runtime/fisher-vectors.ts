/** Vectors over parameters as users pass them: checked by name and shape, copied to float64. */
import { RuntimeFault } from "./artifact.js";
import type { Vector, VectorResult } from "./kronecker.js";

export interface ParamShape {
  readonly name: string;
  readonly shape: readonly number[];
}

export interface VectorOptions {
  /** Parameters that v does not hold count as zeros. Absent: they are refused. */
  readonly missing?: "zero";
}

export const elements = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);

/**
 * A copy of v in the order of `params`.
 *
 * @param required names that v must hold; default: all of `params`
 * @throws RuntimeFault "bad-data" for a name that is not among `params`, another shape, or a required name that is missing
 */
export function checkedVector(params: readonly ParamShape[], v: Vector, options: VectorOptions = {}, required: (name: string) => boolean = () => true): VectorResult {
  const known = new Map(params.map((p) => [p.name, p]));
  for (const [name, t] of Object.entries(v)) {
    const wanted = known.get(name)?.shape;
    if (!wanted) throw new RuntimeFault("bad-data", `the model has no trainable parameter "${name}"`, `parameter "${name}"`, "vectors are keyed by the names of trainable parameters");
    if (!Array.isArray(t?.shape) || t.shape.length !== wanted.length || t.shape.some((n: number, k: number) => n !== wanted[k]) || t.data?.length !== elements(wanted))
      throw new RuntimeFault("bad-data", `"${name}" is [${wanted.join(", ")}], the vector has ${t?.data?.length ?? 0} numbers of shape [${Array.isArray(t?.shape) ? t.shape.join(", ") : "?"}] for it`, `parameter "${name}"`);
  }
  const out: VectorResult = {};
  for (const { name, shape } of params) {
    const given = Object.hasOwn(v, name) ? v[name] : undefined;
    if (given) out[name] = { shape, data: Float64Array.from(given.data) };
    else if (required(name)) {
      if (options.missing !== "zero") throw new RuntimeFault("bad-data", `the vector lacks the parameter "${name}"`, `parameter "${name}"`, 'pass all trainable parameters, or missing: "zero"');
      out[name] = { shape, data: new Float64Array(elements(shape)) };
    }
  }
  return out;
}
