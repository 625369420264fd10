/** Models as text: `net.kir`, with the numbers of parameters from `file` in `net.safetensors` beside it. */
import { extname } from "node:path";
import { CompileError } from "../ir/error.js";
import { type Graph, type Node, producers, type Value } from "../ir/graph.js";
import { intsAttr } from "../ir/op.js";
import { parse } from "../ir/parse.js";
import { print } from "../ir/print.js";
import { sameShape, spellShape } from "../ir/type.js";
import { RuntimeFault } from "../runtime/artifact.js";
import { decode, encode, type SafeTensor, toFloat32 } from "../runtime/safetensors.js";
import type { ForwardModel, ModelOutput } from "./compile.js";
import { initialValues } from "./dsl/init.js";
import { kindOf, readFileOr, readTextOr, writeAtomic } from "./files.js";
import { examplesOf, rebatch } from "./rebatch.js";

type Weights = ForwardModel["weights"];

/** A graph from a file, opened (see OpenModel in model.ts). */
export interface OpenKir {
  readonly path: string;
  readonly name: string;
  /** The examples of the graph's inputs. */
  readonly fileBatch: number | undefined;
  readonly notes: readonly string[];
  forward(batch: number): ForwardModel;
}

/** `net.kir` → `net.safetensors`. */
export const weightsBeside = (path: string): string => `${path.slice(0, path.length - extname(path).length)}.safetensors`;

/**
 * Reads a graph and its first weights. Results are the model's outputs.
 *
 * @throws CompileError "missing-data" (the text; or stored weights, absent as a file or by name), "syntax" and what else `parse` throws,
 *   "shape-mismatch" (a stored tensor of another shape), "bad-model" (damaged weights)
 */
export async function openKir(path: string): Promise<OpenKir> {
  const graph = parse(await readTextOr("missing-data", path), `file "${path}"`);
  const weights = await weightsOf(graph, weightsBeside(path));
  const name = path.replace(/^.*[/\\]/, "").replace(/\.kir$/i, "");
  return {
    path, name, fileBatch: examplesOf(graph), notes: graph.nodes.some((n) => n.op === "uniform") ? ["the graph draws random numbers (dropout): it does so in evaluation too"] : [],
    forward(batch) {
      if (!(Number.isSafeInteger(batch) && batch >= 1)) throw new CompileError("bad-option", `a batch of ${batch} examples`, "--batch", "give a positive whole number");
      const made = rebatch(graph, batch);
      return { name, graph: made, outputs: outputsOf(made), weights };
    },
  };
}

async function weightsOf(graph: Graph, file: string): Promise<Weights> {
  const needed = graph.params.filter((p) => p.source.kind === "file");
  const stored = needed.length === 0 ? {} : await readWeights(file, needed[0]?.value.name ?? "");
  return new Map(graph.params.map(({ value, source }) => {
    const { name, type: { shape } } = value;
    if (source.kind !== "file") return [name, { shape, data: initialValues(name, shape, source) }];
    const tensor = stored[name];
    if (!tensor) throw new CompileError("missing-data", `it holds no tensor "${name}"`, `file "${file}"`, "write text and weights together: kfacc print MODEL -o net.kir");
    if (!sameShape(tensor.shape, shape)) throw new CompileError("shape-mismatch", `tensor "${name}" is ${spellShape(tensor.shape)}, the graph's parameter ${spellShape(shape)}`, `file "${file}"`);
    return [name, { shape, data: toFloat32(tensor) }];
  }));
}

async function readWeights(file: string, first: string): Promise<Readonly<Record<string, SafeTensor>>> {
  if ((await kindOf(file)) !== "file") throw new CompileError("missing-data", `no weights for parameter "${first}"`, `file "${file}"`, "put the weights there, or give the parameter a source: zeros, ones, he(seed), glorot(seed), values(…)");
  try {
    return decode(await readFileOr("missing-data", file), `file "${file}"`).tensors;
  } catch (e) {
    throw e instanceof RuntimeFault ? new CompileError("bad-model", e.message, e.where, e.hint) : e;
  }
}

/**
 * Writes a graph, and beside it the numbers of its parameters from `file`. Both or none is not promised; each is written whole.
 *
 * @returns the files written
 * @throws CompileError "cannot-write"; "bad-option" unless the path ends in .kir; "internal" if numbers are missing
 */
export async function writeKir(graph: Graph, weights: Weights, path: string): Promise<readonly string[]> {
  if (extname(path).toLowerCase() !== ".kir") throw new CompileError("bad-option", "text graphs are named .kir", `file "${path}"`, "e.g. -o net.kir");
  const tensors = Object.fromEntries(graph.params.filter((p) => p.source.kind === "file").map(({ value }): [string, SafeTensor] => {
    const weight = weights.get(value.name);
    if (!weight) throw new CompileError("internal", `no numbers for parameter "${value.name}"`);
    return [value.name, { dtype: "F32", shape: weight.shape, data: weight.data }];
  }));
  const beside = weightsBeside(path);
  const stored = Object.keys(tensors).length > 0;
  if (stored) await writeAtomic(beside, encode(tensors, { format: "kfacc-weights" }));
  await writeAtomic(path, print(graph));
  return stored ? [path, beside] : [path];
}

/** Outputs with their heads, read off the nodes that make them. */
export function outputsOf(graph: Graph): ModelOutput[] {
  const producer = producers(graph);
  return graph.results.map(({ name, value }) => {
    const head = headOf(value, producer);
    return head ? { name, value, head } : { name, value };
  });
}

/**
 * Whether a value is a function of logits z from which a loss is known:
 *
 *   sigmoid(z)      e / Σe (softmax)      s − log Σe (log-softmax)      with s = z − detach(max z), e = exp(s)
 */
function headOf(value: Value, producer: ReadonlyMap<Value, Node>): ModelOutput["head"] {
  const made = (v: Value | undefined, op: Node["op"]): Node | undefined => {
    const node = v && producer.get(v);
    return node?.op === op ? node : undefined;
  };
  /** The node of that op behind reshapes, broadcasts and detach. */
  const behind = (v: Value | undefined, op: Node["op"]): Node | undefined => {
    for (let node = v && producer.get(v); node; node = producer.get(node.inputs[0] as Value)) {
      if (node.op === op) return node;
      if (node.op !== "reshape" && node.op !== "broadcast" && node.op !== "detach") return undefined;
    }
    return undefined;
  };
  const sigmoid = made(value, "sigmoid");
  if (sigmoid) return { kind: "sigmoid", axis: Math.min(1, Math.max(0, value.type.shape.length - 1)), logits: sigmoid.inputs[0] as Value };
  const quotient = made(value, "div");
  const difference = made(value, "sub");
  const [shifted, total] = quotient
    ? [made(quotient.inputs[0], "exp")?.inputs[0], behind(quotient.inputs[1], "reduce_sum")]
    : [difference?.inputs[0], behind(behind(difference?.inputs[1], "log")?.inputs[0], "reduce_sum")];
  const powers = made(total?.inputs[0], "exp");
  const shift = made(shifted, "sub");
  const top = behind(shift?.inputs[1], "reduce_max");
  const logits = shift?.inputs[0];
  if (!total || !logits || powers?.inputs[0] !== shifted || top?.inputs[0] !== logits) return undefined;
  const [axes, others] = [intsAttr(total.attrs, "axes"), intsAttr(top.attrs, "axes")].map((list) => list.filter((axis) => logits.type.shape[axis] !== 1)) as [number[], number[]];
  return axes.length <= 1 && sameShape(axes, others) ? { kind: quotient ? "softmax" : "log-softmax", axis: axes[0] ?? 1, logits } : undefined;
}
