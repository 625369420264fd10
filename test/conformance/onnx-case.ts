/** One test of the ONNX standard's layout (a model, and data sets of serialised tensors), run on the adapter. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { CompileError } from "../../ir/error.js";
import type { NdArray } from "../../ir/ndarray.js";
import { runPasses } from "../../ir/pass.js";
import { CANONICAL } from "../../ir/passes/index.js";
import { size } from "../../ir/type.js";
import { type Imported, importModel } from "../../src/import/import.js";
import type { Loaded, OnnxTensor } from "../../src/import/model.js";
import { onnxType } from "../../src/import/model.js";
import { decodeTensorProto, loadModel } from "../../src/import/onnx.js";
import { decodeTensor } from "../../src/import/tensor.js";
import { runPoisoned } from "../support/models.js";

export interface Outcome {
  readonly verdict: "passed" | "wrong" | "refused";
  /** Why it was refused, or what is wrong. */
  readonly why: string;
  /** Inputs that had to be known when the model was compiled. */
  readonly fixed: readonly string[];
}

/** The standard's own measure: |mine − theirs| ≤ ABSOLUTE + RELATIVE · |theirs|. */
const RELATIVE = 1e-3;
const ABSOLUTE = 1e-7;
/** What float32 cannot resolve beside the largest number of a tensor: a few roundings of 2^-24. */
const ROUNDINGS = 8 * 2 ** -24;

interface Given {
  readonly name: string;
  readonly tensor: OnnxTensor;
  readonly array: NdArray;
}

/** @throws only what is no refusal: such an error is the importer's fault, and counts as wrong. */
export async function runCase(device: GPUDevice, folder: string): Promise<Outcome> {
  let fixed: readonly string[] = [];
  try {
    const loaded = loadModel(join(folder, "model.onnx"));
    const sets = readdirSync(folder).filter((n) => /^test_data_set_\d+$/.test(n)).sort();
    for (const set of sets) {
      const inputs = tensors(join(folder, set), "input", loaded.graph.inputs.map((v) => v.name));
      const wanted = tensors(join(folder, set), "output", loaded.graph.outputs.map((v) => v.name));
      const made = importWith(loaded, inputs);
      fixed = made.fixed;
      const wrong = await compare(device, made.imported, inputs, wanted);
      if (wrong) return { verdict: "wrong", why: wrong, fixed };
    }
    return { verdict: "passed", why: "", fixed };
  } catch (e) {
    if (e instanceof CompileError && e.code !== "internal") return { verdict: "refused", why: `${e.code}: ${e.message}`, fixed };
    return { verdict: "wrong", why: e instanceof Error ? `${e.name}: ${e.message.split("\n")[0]}` : String(e), fixed };
  }
}

/** input_K.pb or output_K.pb in order; the model's own names count, not those in the files. */
function tensors(folder: string, kind: string, names: readonly string[]): Given[] {
  return names.flatMap((name, k) => {
    const file = join(folder, `${kind}_${k}.pb`);
    if (!existsSync(file)) return [];
    const tensor = decodeTensorProto(readFileSync(file));
    const { dtype, shape, data } = decodeTensor(tensor, () => new Uint8Array());
    return [{ name, tensor, array: { dtype, shape, data: Float64Array.from(data) } }];
  });
}

/**
 * The model with as many of its inputs open as can be: what an op must know when it is compiled (shapes, axes, scales) becomes known,
 * first small whole numbers, then all whole numbers, then lists of a few numbers.
 */
function importWith(loaded: Loaded, inputs: readonly Given[]): { imported: Imported; fixed: string[] } {
  const whole = (g: Given): boolean => g.array.dtype === "i32";
  const stages: ((g: Given) => boolean)[] = [
    () => false,
    (g) => whole(g) && g.array.shape.length === 0,
    (g) => whole(g) && g.array.shape.length <= 1,
    (g) => whole(g) || g.array.dtype === "bool",
    (g) => whole(g) || g.array.dtype === "bool" || (g.array.shape.length <= 1 && g.array.data.length <= 16),
  ];
  let first: unknown;
  let before = -1;
  for (const stage of stages) {
    const known = inputs.filter(stage);
    if (known.length === before) continue;
    before = known.length;
    try {
      const imported = importModel(loaded, {
        mode: "train", dropout: asksForDropout(loaded), values: Object.fromEntries(known.map((g) => [g.name, g.array])),
        shapes: Object.fromEntries(inputs.filter((g) => !known.includes(g)).map((g) => [g.name, g.array.shape])),
        batchAxis: Object.fromEntries(inputs.filter((g) => !known.includes(g)).map((g) => [g.name, -1])),
      });
      return { imported, fixed: known.map((g) => g.name) };
    } catch (e) {
      if (!(e instanceof CompileError)) throw e;
      first ??= e;
    }
  }
  throw first;
}

/** Since opset 12 a file says whether Dropout draws; before, the standard's tests are those of inference. */
const asksForDropout = (loaded: Loaded): boolean => loaded.opset >= 12;

const OUT = "out/";

/** @throws what the device objects to: otherwise it only prints that, and does nothing. */
async function strictly<T>(device: GPUDevice, use: () => Promise<T>): Promise<T> {
  device.pushErrorScope("validation");
  const [done] = await Promise.allSettled([use()]);
  const found = await device.popErrorScope();
  if (done.status === "rejected") throw done.reason;
  if (found) throw new Error(found.message);
  return done.value;
}

async function compare(device: GPUDevice, imported: Imported, inputs: readonly Given[], wanted: readonly Given[]): Promise<string | undefined> {
  if (imported.graph.nodes.some((n) => n.op === "uniform")) throw new CompileError("unsupported-op", "its numbers are drawn at random, and no other generator draws the same");
  // names of their own: a result that has an input's name would be that input, updated in place
  const results = imported.graph.results.map((r) => ({ name: OUT + r.name, value: r.value }));
  const graph = runPasses({ ...imported.graph, results }, CANONICAL);
  const weights = [...imported.weights].map(([name, w]) => [name, { dtype: "f32" as const, shape: w.shape, data: Float64Array.from(w.data) }] as const);
  const made = await strictly(device, () => runPoisoned(device, graph, Object.fromEntries([...weights, ...inputs.map((g) => [g.name, g.array] as const)])));
  for (const want of wanted) {
    const got = made.results[OUT + want.name];
    if (!got) return `output "${want.name}" is missing`;
    const wrong = different(got, want.array, onnxType(want.tensor.type) ?? "");
    if (wrong) return `output "${want.name}" ${wrong}`;
  }
  return undefined;
}

function different(got: NdArray, want: NdArray, stored: string): string | undefined {
  if (got.shape.join() !== want.shape.join()) return `is [${got.shape}], not [${want.shape}]`;
  const largest = want.data.reduce((top, v) => (Number.isFinite(v) ? Math.max(top, Math.abs(v)) : top), 0);
  const exact = stored !== "float" && stored !== "double" && stored !== "float16" && stored !== "bfloat16";
  for (let k = 0; k < size(want.shape); k++) {
    const [mine, theirs] = [got.data[k] as number, want.data[k] as number];
    if (Object.is(mine, theirs) || mine === theirs) continue;
    const allowed = exact ? 0 : Math.max(ABSOLUTE, ROUNDINGS * largest) + RELATIVE * Math.abs(theirs);
    if (!(Math.abs(mine - theirs) <= allowed)) return `is ${mine} at ${k}, not ${theirs}`;
  }
  return undefined;
}
