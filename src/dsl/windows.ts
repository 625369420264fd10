/** Layers that slide over extents: convolutions and pooling. */
import { spellShape } from "../../ir/type.js";
import type { StepAttrs } from "./model.js";
import type { ConvTransposeOptions, WindowOptions } from "./options.js";
import type { Init, Recorder, Tensor } from "./record.js";

export const weightOf = (r: Recorder, layer: string, shape: readonly number[], init: Init = "he"): Tensor => r.param(`${layer}.weight`, shape, init);
export const biasOf = (r: Recorder, layer: string, units: number): Tensor => r.param(`${layer}.bias`, [units], "zeros");

export function conv(r: Recorder, op: "Conv" | "ConvTranspose", rank: number, x: Tensor, filters: number, kernel: number | readonly number[], options: ConvTransposeOptions): Tensor {
  const layer = r.layer(op === "Conv" ? "conv" : "convTranspose", options);
  r.count(layer, "filters", filters);
  r.floats(layer, x);
  if (x.shape.length !== rank + 1 || !x.perExample)
    throw r.error(layer, "shape-mismatch", `takes [channels${", extent".repeat(rank)}] of each example, got ${spellShape(x.shape)}`, x.shape.length === rank ? "add the channels: m.reshape(x, [1, ...])" : undefined);
  const { taps, attrs } = geometry(r, layer, rank, kernel, options, 1);
  const groups = options.groups ?? 1;
  r.count(layer, "groups", groups);
  const channels = x.shape[0] as number;
  if (channels % groups !== 0 || filters % groups !== 0) throw r.error(layer, "bad-attribute", `${channels} channels and ${filters} filters do not split into ${groups} groups`);
  const shape = op === "Conv" ? [filters, channels / groups, ...taps] : [channels, filters / groups, ...taps];
  const weight = weightOf(r, layer, shape, options.init);
  const extra = typeof options.outputPad === "number" ? new Array<number>(rank).fill(options.outputPad) : options.outputPad;
  if (extra && (op === "Conv" || extra.length !== rank || extra.some((n) => !Number.isInteger(n) || n < 0)))
    throw r.error(layer, "bad-attribute", op === "Conv" ? "outputPad is for transposed convolutions" : `outputPad must be ${rank} whole numbers ≥ 0, got ${extra}`);
  return r.op(layer, op, [x, weight, ...(options.bias === false ? [] : [biasOf(r, layer, filters)])], { ...attrs, group: groups, ...(extra ? { output_padding: extra } : {}) });
}

export function pool(r: Recorder, op: string, kind: string, x: Tensor, kernel: number | readonly number[], options: WindowOptions, more: StepAttrs): Tensor {
  const layer = r.layer(kind, options);
  r.floats(layer, x);
  if (x.shape.length < 2 || !x.perExample) throw r.error(layer, "shape-mismatch", `takes [channels, extents…] of each example, got ${spellShape(x.shape)}`);
  const { taps, attrs } = geometry(r, layer, x.shape.length - 1, kernel, options, undefined);
  return r.op(layer, op, [x], { ...attrs, ...more, kernel_shape: taps });
}

function geometry(r: Recorder, layer: string, rank: number, kernel: number | readonly number[], options: WindowOptions, stride: number | undefined): { taps: readonly number[]; attrs: StepAttrs } {
  const list = (what: string, given: number | readonly number[], low: number): readonly number[] => {
    const all = typeof given === "number" ? new Array<number>(rank).fill(given) : given;
    const wrong = all.find((n) => !Number.isInteger(n) || n < low);
    if (wrong !== undefined) throw r.error(layer, "bad-attribute", `${what} must be whole numbers ≥ ${low}, got ${wrong}`);
    if (all.length !== rank && !(what === "pad" && all.length === 2 * rank))
      throw r.error(layer, "bad-attribute", `${what} has ${all.length} entries for ${rank} axes`);
    return all;
  };
  const taps = list("kernel", kernel, 1);
  const attrs = { strides: list("stride", options.stride ?? stride ?? taps, 1), dilations: list("dilation", options.dilation ?? 1, 1) };
  const { pad = 0 } = options;
  if (pad === "same" || pad === "valid") return { taps, attrs: { ...attrs, auto_pad: pad === "same" ? "SAME_UPPER" : "VALID" } };
  if (typeof pad === "string") throw r.error(layer, "bad-attribute", `no padding "${pad as string}"`, '"same", "valid" or numbers');
  const pads = list("pad", pad, 0);
  return { taps, attrs: { ...attrs, pads: pads.length === rank ? [...pads, ...pads] : pads } };
}
