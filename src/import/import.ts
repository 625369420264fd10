/** ONNX to the IR: the whole of it on one page. */
import { CompileError } from "../../ir/error.js";
import type { Graph, Value } from "../../ir/graph.js";
import type { NdArray } from "../../ir/ndarray.js";
import type { Head } from "./context.js";
import { bindInputs, type InputOptions } from "./inputs.js";
import { type Loaded, type OnnxNode, onnxType } from "./model.js";
import { Roles } from "./roles.js";
import { type ParamData, Run } from "./run.js";
import { decodeTensor } from "./tensor.js";
import { finite, weightNotes } from "./weightcheck.js";

export interface ImportOptions extends InputOptions {
  /** Train: BatchNormalization nodes exported for training use the statistics of the batch. */
  readonly mode: "train" | "eval";
  /** False: Dropout nodes pass their input on in training, too. Default true. */
  readonly dropout?: boolean | undefined;
  /** Weights that stay as they are: ONNX names, "*" for any part of one. */
  readonly freeze?: readonly string[] | undefined;
  /** Values to compute, instead of the model's outputs; nodes that none of them needs are left out. */
  readonly outputs?: readonly string[] | undefined;
  /** Inputs that are these numbers, whatever is computed: shapes, axes, flags. They are no inputs of the graph. */
  readonly values?: Readonly<Record<string, NdArray>> | undefined;
}

export interface ImportedOutput {
  readonly name: string;
  readonly value: Value;
  readonly head?: Head;
}

export interface Weight {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

export interface Imported {
  /** Parameters and inputs have their ONNX names; results are the outputs by name. */
  readonly graph: Graph;
  readonly outputs: readonly ImportedOutput[];
  /** What a training step leaves in parameters that are not trained. */
  readonly updates: readonly { readonly param: string; readonly value: Value }[];
  /** First values of all parameters, trainable or not. */
  readonly weights: ReadonlyMap<string, Weight>;
  /** Examples per step; undefined: the file leaves it open and none was asked for (the graph then has 2). */
  readonly batch: number | undefined;
  /** Some node does something else in evaluation: imported again in that mode, the model is another graph over the same parameters. */
  readonly differs: boolean;
  readonly notes: readonly string[];
  readonly loaded: Loaded;
}

/**
 * The graph of a model, its first weights, and what its outputs are.
 *
 * @throws CompileError "unsupported-op", "shape-mismatch", "bad-model", "bad-option", "missing-data"; "examples-lost" where
 *   another batch than the file's cannot be carried through a node.
 */
export function importModel(loaded: Loaded, options: ImportOptions): Imported {
  const { graph } = loaded;
  const outputs = options.outputs ?? graph.outputs.map((v) => v.name);
  const { nodes, inputs } = neededFor(loaded, outputs);
  const values = new Map(Object.entries(options.values ?? {}));
  for (const name of values.keys())
    if (!graph.inputs.some((v) => v.name === name)) throw new CompileError("bad-option", `the model has no input "${name}" to give a value`, undefined, `its inputs are ${graph.inputs.map((v) => `"${v.name}"`).join(", ")}`);
    else inputs.delete(name);
  const binding = bindInputs(loaded, inputs, options);
  const roles = new Roles({ ...graph, nodes });
  const frozen = matcher(options.freeze ?? []);
  const at = (batch: number, shapes?: ReadonlyMap<string, readonly number[]>): Run =>
    new Run(loaded, roles, binding, batch, { mode: options.mode, frozen, nodes, outputs, values, dropout: options.dropout ?? true }, shapes).run();
  const run = binding.batch === binding.fileBatch ? at(binding.batch) : at(binding.batch, at(binding.fileBatch).shapes);
  const made = run.finish();
  const weights = new Map([...run.params].map(([name, data]) => [name, decoded(loaded, data)]));
  const trained = made.params.filter((p) => p.trainable).map((p) => p.value.name);
  if (options.mode === "train") for (const name of trained) finite(name, weights.get(name)?.data ?? []);
  return {
    graph: made,
    outputs: made.results.map((r) => ({ ...r, ...headOf(run, r.value) })),
    updates: [...run.updates].map(([param, value]) => ({ param, value })),
    weights,
    differs: run.differs,
    batch: binding.bound ? binding.batch : undefined,
    notes: [...(loaded.notes ?? []), ...run.notes, ...inputNotes(loaded, inputs, values), ...weightNotes(run.params, weights, new Set(trained))],
    loaded,
  };
}

const headOf = (run: Run, value: Value): { head?: Head } => {
  const head = run.heads.get(value);
  return head ? { head } : {};
};

/** The nodes and graph inputs that some values are computed from. */
function neededFor(loaded: Loaded, outputs: readonly string[]): { nodes: OnnxNode[]; inputs: Set<string> } {
  const { graph } = loaded;
  const madeBy = new Map(graph.nodes.flatMap((node) => node.outputs.map((name) => [name, node] as const)));
  const isInput = new Set(graph.inputs.map((v) => v.name));
  const wanted = new Set<OnnxNode>();
  const inputs = new Set<string>();
  const open = [...outputs];
  for (let name = open.pop(); name !== undefined; name = open.pop()) {
    if (isInput.has(name)) inputs.add(name);
    const node = madeBy.get(name);
    if (!node && !isInput.has(name) && !graph.initializers.has(name))
      throw new CompileError("bad-option", `the model has no value "${name}"`, "--output", `its outputs are ${graph.outputs.map((v) => `"${v.name}"`).join(", ")}`);
    if (!node || wanted.has(node)) continue;
    wanted.add(node);
    for (const input of node.inputs) if (input !== "") open.push(input); // not push(...): a node may have a million inputs
  }
  return { nodes: graph.nodes.filter((node) => wanted.has(node)), inputs };
}

function decoded(loaded: Loaded, data: ParamData): Weight {
  if ("array" in data) return { shape: data.array.shape, data: Float32Array.from(data.array.data) };
  const { shape, data: numbers } = decodeTensor(data.tensor, loaded.external);
  return { shape, data: numbers instanceof Float32Array ? numbers : Float32Array.from(numbers) };
}

/** Whether a name is one of some patterns, in which "*" stands for anything. */
function matcher(patterns: readonly string[]): (name: string) => boolean {
  const tests = patterns.map((p) => new RegExp(`^${p.split("*").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join(".*")}$`));
  return (name) => tests.some((t) => t.test(name));
}

function inputNotes(loaded: Loaded, used: ReadonlySet<string>, given: ReadonlyMap<string, NdArray>): string[] {
  return loaded.graph.inputs.flatMap((v) => {
    const stored = onnxType(v.type);
    if (given.has(v.name)) return [];
    if (!used.has(v.name)) return [`input "${v.name}" is not used and left out`];
    return stored === "double" || stored === "float16" || stored === "bfloat16" ? [`input "${v.name}" is ${stored} in the file and float32 here`] : [];
  });
}
