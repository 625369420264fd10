/**
 * Puts trained weights back into the bytes of an .onnx file.
 *
 * The file is not re-encoded: a walk over the wire format finds each tensor's bytes. Storage of fixed width (raw_data,
 * float_data, double_data, the attributes of a Constant) is overwritten in a copy; what changes length (fp16 in varints,
 * ConstantOfShape, the location of external data) is spliced and the lengths around it are rewritten. Every other byte stays.
 */
import { CompileError } from "../../ir/error.js";
import { DataFiles, type ExternalPlan } from "./datafiles.js";
import { onnxType } from "./model.js";
import { decodeTensorProto } from "./onnx.js";
import { ATTRIBUTE, ENTRY, externalPlace, fieldsOf, findTensor, GRAPH, MODEL, NODE, TENSOR, textField, utf8 } from "./schema.js";
import { countElements, decodeTensor, encodeRaw, type FloatType, narrowBrain, narrowHalf } from "./tensor.js";
import { concat, delimited, type Field, rewrite, rewriteInside, varint } from "./wire.js";

export interface Written {
  readonly model: Uint8Array;
  /** New data files by name: all of the old ones, so that the new model stands alone. Empty without external data. */
  readonly externalFiles: ReadonlyMap<string, Uint8Array>;
}

interface Work {
  /** The copy that is overwritten in place. */
  readonly bytes: Uint8Array;
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly files: DataFiles;
  readonly written: Set<string>;
}

const EMPTY = new Uint8Array(0);
const CODES: Readonly<Record<FloatType, number>> = { float: 1, float16: 10, double: 11, bfloat16: 16 };
const TENSOR_ATTRIBUTE = 4; // AttributeProto.type = TENSOR

/**
 * The model with new values for some initialisers (by name) and Constant or ConstantOfShape nodes (by output name).
 * Values are in the tensor's own layout and are stored in its own type (float, double, float16, bfloat16).
 *
 * @throws CompileError "bad-model" if a name is not in the model or its storage is damaged; "shape-mismatch" if a count
 *   differs; "missing-data" if the model has external data and no `external` was given.
 */
export function writeWeights(model: Uint8Array, weights: ReadonlyMap<string, Float32Array>, external?: ExternalPlan): Written {
  const bytes = new Uint8Array(model); // a copy, also of a Buffer, whose slice() is a view
  const work: Work = { bytes, weights, files: new DataFiles(bytes, external), written: new Set() };
  const made = rewrite(bytes, 0, bytes.length, (f) => (f.number === MODEL.graph ? rewriteInside(bytes, f, (g) => graphField(work, g, true)) : undefined));
  for (const name of weights.keys())
    if (!work.written.has(name)) throw new CompileError("bad-model", "the model has no tensor of this name to write to", `tensor "${name}"`);
  return { model: made ?? bytes, externalFiles: work.files.result() };
}

/** A field of GraphProto. Names count in the main graph only; sub-graphs are walked for their external data. */
function graphField(work: Work, f: Field, main: boolean): Uint8Array | undefined {
  if (f.number === GRAPH.initializer) return tensor(work, f, main ? textField(work.bytes, f, TENSOR.name) : undefined);
  return f.number === GRAPH.node ? node(work, f, main) : undefined;
}

function node(work: Work, f: Field, main: boolean): Uint8Array | undefined {
  const output = main ? textField(work.bytes, f, NODE.output) : undefined;
  const op = textField(work.bytes, f, NODE.opType);
  const wanted = output !== undefined && work.weights.has(output);
  if (wanted && op === "ConstantOfShape") return filled(work, f, output);
  return rewriteInside(work.bytes, f, (a) => (a.number === NODE.attribute ? attribute(work, a, wanted && op === "Constant" ? output : undefined) : undefined));
}

/** An attribute; `target` is the weight to put into it, if the node is the Constant of that name. */
function attribute(work: Work, f: Field, target: string | undefined): Uint8Array | undefined {
  const name = textField(work.bytes, f, ATTRIBUTE.name);
  if (target !== undefined && (name === "value_floats" || name === "value_float")) {
    overwriteFixed(work, f, name === "value_float" ? ATTRIBUTE.f : ATTRIBUTE.floats, 4, target);
    return undefined;
  }
  return rewriteInside(work.bytes, f, (t) => {
    if (t.number === ATTRIBUTE.t || t.number === ATTRIBUTE.tensors) return tensor(work, t, name === "value" ? target : undefined);
    if (t.number === ATTRIBUTE.g || t.number === ATTRIBUTE.graphs) return rewriteInside(work.bytes, t, (g) => graphField(work, g, false));
    return undefined;
  });
}

/** A ConstantOfShape node becomes a Constant with the values; name, output, doc string and unknown fields stay. */
function filled(work: Work, f: Field, output: string): Uint8Array {
  const { bytes } = work;
  const source = findTensor(bytes, textField(bytes, f, NODE.input) ?? "");
  if (!source) throw new CompileError("bad-model", "the shape of a ConstantOfShape weight is itself computed", `tensor "${output}"`, "fold the model's constants first");
  const shape = [...decodeTensor(decodeTensorProto(bytes.subarray(source.value, source.end)), () => EMPTY).data];
  const values = take(work, output, shape.reduce((a, b) => a * b, 1));
  const fill = fieldsOf(bytes, f, NODE.attribute).flatMap((a) => fieldsOf(bytes, a, ATTRIBUTE.t))[0];
  const stored = fill ? floatType(decodeTensorProto(bytes.subarray(fill.value, fill.end)).type, output) : "float";
  const made = concat([
    delimited(TENSOR.dims, Uint8Array.from(shape.flatMap(varint))),
    Uint8Array.from([TENSOR.dataType * 8, CODES[stored]]),
    delimited(TENSOR.rawData, encodeRaw(values, stored)),
  ]);
  const value = concat([
    delimited(ATTRIBUTE.name, utf8("value")), delimited(ATTRIBUTE.t, made), Uint8Array.from([...varint(ATTRIBUTE.type * 8), TENSOR_ATTRIBUTE]),
  ]);
  return rewriteInside(bytes, f, (a) => {
    if (a.number === NODE.input || a.number === NODE.attribute) return EMPTY;
    return a.number === NODE.opType ? concat([delimited(NODE.opType, utf8("Constant")), delimited(NODE.attribute, value)]) : undefined;
  }) as Uint8Array;
}

/** A TensorProto with the weight `name` put in (if one is given for it) and its external location renamed. */
function tensor(work: Work, f: Field, name: string | undefined): Uint8Array | undefined {
  const { bytes } = work;
  const target = name !== undefined && work.weights.has(name) ? name : undefined;
  const place = externalPlace(bytes, f);
  if (place) return outside(work, f, place, target);
  if (target === undefined) return undefined;
  const proto = decodeTensorProto(bytes.subarray(f.value, f.end));
  const stored = floatType(proto.type, target);
  if (proto.raw) {
    const raw = fieldsOf(bytes, f, TENSOR.rawData).at(-1) as Field;
    const made = encodeRaw(take(work, target, countElements(proto)), stored);
    if (made.length !== raw.end - raw.value) throw new CompileError("bad-model", "raw data of the wrong length", `tensor "${target}"`);
    bytes.set(made, raw.value);
    return undefined;
  }
  if (stored === "float" || stored === "double") {
    overwriteFixed(work, f, stored === "float" ? TENSOR.floatData : TENSOR.doubleData, stored === "float" ? 4 : 8, target);
    return undefined;
  }
  // fp16 and bf16 bits as varints: the length may change, so one packed list takes the place of whatever was there
  const narrow = stored === "float16" ? narrowHalf : narrowBrain;
  const packed = delimited(TENSOR.int32Data, Uint8Array.from([...take(work, target, countElements(proto))].flatMap((v) => varint(narrow(v)))));
  let first = true;
  return rewriteInside(bytes, f, (d) => {
    if (d.number !== TENSOR.int32Data) return undefined;
    const made = first ? packed : EMPTY;
    first = false;
    return made;
  });
}

/** A tensor whose bytes lie in a data file: its entries point into the new file. A checksum that no longer holds is dropped. */
function outside(work: Work, f: Field, place: { location: string; offset: number }, target: string | undefined): Uint8Array | undefined {
  const { bytes } = work;
  let made: Uint8Array | undefined;
  if (target !== undefined) {
    const proto = decodeTensorProto(bytes.subarray(f.value, f.end));
    made = encodeRaw(take(work, target, countElements(proto)), floatType(proto.type, target));
  }
  const change = work.files.put(place.location, place.offset, made);
  return rewriteInside(bytes, f, (e) => {
    if (e.number !== TENSOR.externalData) return undefined;
    const key = textField(bytes, e, ENTRY.key) ?? "";
    if (key === "checksum") return EMPTY;
    const value = change.get(key);
    return value === undefined ? undefined : rewriteInside(bytes, e, (v) => (v.number === ENTRY.value ? delimited(ENTRY.value, utf8(value)) : undefined));
  });
}

/** Overwrites a repeated field of little-endian floats in place, packed or not: every element has `width` bytes somewhere. */
function overwriteFixed(work: Work, message: Field, number: number, width: 4 | 8, name: string): void {
  const { bytes } = work;
  const places = fieldsOf(bytes, message, number).flatMap((f) => Array.from({ length: (f.end - f.value) / width }, (_, k) => f.value + k * width));
  const values = take(work, name, places.length);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  places.forEach((at, k) => {
    if (width === 4) view.setFloat32(at, values[k] as number, true);
    else view.setFloat64(at, values[k] as number, true);
  });
}

/** The values for a tensor, marked as written. @throws shape-mismatch unless there are `count` of them. */
function take(work: Work, name: string, count: number): Float32Array {
  const values = work.weights.get(name) as Float32Array;
  if (values.length !== count)
    throw new CompileError("shape-mismatch", `the tensor has ${count} elements, ${values.length} values were given`, `tensor "${name}"`);
  work.written.add(name);
  return values;
}

function floatType(code: number, name: string): FloatType {
  const stored = onnxType(code);
  if (stored === "float" || stored === "double" || stored === "float16" || stored === "bfloat16") return stored;
  throw new CompileError("bad-model", `a weight of type ${stored ?? code} cannot be written`, `tensor "${name}"`);
}
