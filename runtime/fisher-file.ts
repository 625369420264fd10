/** Estimates as safetensors files. What is read is checked: a file may come from anywhere. */
import { type Digits, type LayerInfo, type MatrixDigits, RuntimeFault } from "./artifact.js";
import { CONVENTIONS, type EstimatedLayer, type EstimateInfo, factorShape, partsOf } from "./fisher-layers.js";
import { elements, type ParamShape } from "./fisher-vectors.js";
import { decode, encode, type SafeTensor } from "./safetensors.js";

const FORMAT = "kfacc-fisher";
const VERSION = "1";

export function saveEstimate(info: EstimateInfo, layers: readonly EstimatedLayer[], params: readonly ParamShape[]): Uint8Array {
  const tensors = layers.flatMap((l) => partsOf(l).map((part): [string, SafeTensor] => [`${l.name}/${part}`, { dtype: "F64", shape: factorShape(l, part), data: l[part] as Float64Array }]));
  const bare = layers.map(({ A: _a, G: _g, F: _f, ...l }) => l);
  return encode(Object.fromEntries(tensors), {
    format: FORMAT, formatVersion: VERSION, model: info.model, source: info.source, fisher: JSON.stringify(info.fisher), losses: JSON.stringify(info.losses),
    examples: JSON.stringify(info.examples), count: JSON.stringify(info.count), conventions: JSON.stringify(CONVENTIONS), layers: JSON.stringify(bare),
    params: JSON.stringify(params.map(({ name, shape }) => ({ name, shape }))),
  });
}

const damaged = (message: string): RuntimeFault => new RuntimeFault("bad-data", message, "Fisher file", "use a file that kfacc fisher or estimate.save() wrote");

type Json = Readonly<Record<string, unknown>>;
const isObject = (x: unknown): x is Json => typeof x === "object" && x !== null && !Array.isArray(x);
const isCount = (x: unknown, least = 0): x is number => Number.isSafeInteger(x) && (x as number) >= least;
const oneOf = <T extends string>(x: unknown, ...names: readonly T[]): x is T => names.includes(x as T);

/** @throws RuntimeFault "bad-checkpoint" if it is no safetensors file, "bad-data" if it is no estimate */
export function loadEstimate(bytes: Uint8Array): { readonly info: EstimateInfo; readonly layers: readonly EstimatedLayer[]; readonly params: readonly ParamShape[] } {
  const { tensors, metadata } = decode(bytes, "Fisher file");
  if (metadata.format !== FORMAT) throw damaged("the file holds no Fisher estimate");
  if (metadata.formatVersion !== VERSION) throw damaged(`the file has version ${metadata.formatVersion ?? "unknown"}, this runtime reads ${VERSION}`);
  const parse = (key: string): unknown => {
    try {
      return JSON.parse(metadata[key] ?? "");
    } catch {
      throw damaged(`its "${key}" is missing or not readable`);
    }
  };
  const [fisher, losses, examples, count] = [parse("fisher"), parse("losses"), parse("examples"), parse("count")];
  const { model, source } = metadata;
  const known = model !== undefined && oneOf(source, "data", "running") && isObject(fisher) && typeof fisher.kind === "string" && isCount(fisher.samples, 1)
    && Array.isArray(losses) && losses.every((l) => isObject(l) && typeof l.output === "string" && typeof l.loss === "string" && typeof l.weight === "number")
    && (examples === null || isCount(examples)) && (count === null || typeof count === "number");
  if (!known) throw damaged("its description is not complete");
  const info = { model, source, fisher, losses, examples, count } as unknown as EstimateInfo;
  const params = readParams(parse("params"));
  const layers = parse("layers");
  if (!Array.isArray(layers)) throw damaged("its layers are not a list");
  return { info, params, layers: layers.map((l: unknown) => withFactors(readLayer(l, params), tensors)) };
}

function readParams(list: unknown): ParamShape[] {
  if (!Array.isArray(list) || !list.every((p): p is ParamShape => isObject(p) && typeof p.name === "string" && Array.isArray(p.shape) && p.shape.every((n) => isCount(n)))) throw damaged("its parameters are not a list of names and shapes");
  return list;
}

function readLayer(l: unknown, params: readonly ParamShape[]): LayerInfo {
  const fits = isObject(l) && typeof l.name === "string" && oneOf(l.form, "kronecker", "block") && isCount(l.groups, 1) && isCount(l.dA, 1) && isCount(l.dG, 1)
    && isObject(l.sides) && oneOf(l.sides.A, "full", "diagonal") && oneOf(l.sides.G, "full", "diagonal")
    && isObject(l.params) && typeof l.params.weight === "string" && (l.params.bias === null || typeof l.params.bias === "string")
    && isObject(l.matrix) && isDigits(l.matrix.weight) && (l.matrix.bias === null || isDigits(l.matrix.bias));
  if (!fits) throw damaged(`its layer ${isObject(l) ? JSON.stringify(l.name) : "?"} is not described completely`);
  const layer = l as unknown as LayerInfo;
  const biased = layer.params.bias !== null && layer.matrix.bias !== null;
  requireInside(layer, layer.params.weight, layer.matrix.weight, layer.dA - (biased ? 1 : 0), params);
  if (biased) requireInside(layer, layer.params.bias as string, layer.matrix.bias as MatrixDigits, 1, params);
  return layer;
}

const isDigitList = (d: unknown): d is Digits => Array.isArray(d) && d.every((x) => Array.isArray(x) && x.length === 2 && isCount(x[0], 1) && isCount(x[1]));
const isDigits = (m: unknown): m is MatrixDigits => isObject(m) && isCount(m.offset) && isDigitList(m.groups) && isDigitList(m.out) && isDigitList(m.in);

/** The digits count what the layer has, and end inside the parameter. */
function requireInside({ name, groups, dG }: LayerInfo, param: string, m: MatrixDigits, columns: number, params: readonly ParamShape[]): void {
  const shape = params.find((p) => p.name === param)?.shape;
  const counts = [m.groups, m.out, m.in].map((digits) => digits.reduce((n, [count]) => n * count, 1));
  const last = [...m.groups, ...m.out, ...m.in].reduce((at, [count, stride]) => at + (count - 1) * stride, m.offset);
  if (!shape || counts.join() !== [groups, dG, columns].join() || last >= elements(shape)) throw damaged(`its layer "${name}" does not fit the parameter "${param}"`);
}

function withFactors(l: LayerInfo, tensors: Readonly<Record<string, SafeTensor>>): EstimatedLayer {
  const parts = partsOf(l).map((part) => {
    const [key, wanted] = [`${l.name}/${part}`, factorShape(l, part)];
    const t = Object.hasOwn(tensors, key) ? tensors[key] : undefined;
    if (t?.dtype !== "F64" || t.shape.join() !== wanted.join()) throw damaged(`its tensor "${key}" is ${t ? `${t.dtype}[${t.shape.join(", ")}]` : "missing"}, the layer takes F64[${wanted.join(", ")}]`);
    return [part, t.data as Float64Array] as const;
  });
  return { ...l, ...Object.fromEntries(parts) };
}
