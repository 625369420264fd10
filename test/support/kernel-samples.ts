/** One small generated kernel of each kind, for codegen/README.md. */
import { PORTABLE } from "../../codegen/limits.js";
import { planProgram } from "../../codegen/plan.js";
import { Builder, broadcast, contract } from "../../ir/builder.js";
import type { Graph, Value } from "../../ir/graph.js";

type Make = (b: Builder, input: (name: string, ...shape: number[]) => Value) => Value;

function graph(make: Make): Graph {
  const b = new Builder("sample");
  return b.finish([{ name: "result", value: make(b, (name, ...shape) => b.input(name, { dtype: "f32", shape })) }]);
}

const softmax: Make = (b, input) => {
  const z = input("z", 100, 3);
  const over = (v: Value) => broadcast(b.emit, v, z.type.shape, [0]);
  const e = b.emit("exp", [b.emit("sub", [z, over(b.emit("reduce_max", [z], { axes: [1] }))])]);
  return b.emit("div", [e, over(b.emit("reduce_sum", [e], { axes: [1] }))]);
};

const dense = (n: number, k: number, j: number): Make => (b, input) => {
  const s = contract(b.emit, "nk,kj->nj", input("x", n, k), input("w", k, j));
  return b.emit("relu", [b.emit("add", [s, broadcast(b.emit, input("bias", j), s.type.shape, [1])])]);
};

interface Sample {
  readonly title: string;
  readonly make: Make;
  readonly gpu?: boolean;
}

const SAMPLES: readonly Sample[] = [
  { title: "map: relu(x + bias)", make: (b, input) => b.emit("relu", [b.emit("add", [input("x", 6, 8), broadcast(b.emit, input("bias", 8), [6, 8], [1])])]) },
  { title: "reduce: sums of rows", make: (b, input) => b.emit("reduce_sum", [input("x", 600, 3)], { axes: [1] }) },
  { title: "rows: softmax", make: softmax },
  { title: "contract, rows family: a dense layer (its accumulators are few because it is small)", make: dense(32, 32, 32) },
  { title: "contract, tiled family: a dense layer", make: dense(512, 64, 256), gpu: true },
  { title: "routine: damped inverse of small matrices", make: (b, input) => b.node("inverse", [input("m", 1, 4, 4), input("damping", 1)]).results[0] as Value },
];

/** Markdown with the WGSL of each sample's first kernel. */
export const kernelSamples = (): string =>
  SAMPLES.map(({ title, make, gpu }) => {
    const { sources } = planProgram([{ name: "main", graph: graph(make) }], new Set(), { ...PORTABLE, ...(gpu ? { target: "gpu" as const } : {}) });
    return `**${title}**\n\n\`\`\`wgsl\n${(sources[0] as string).trimEnd()}\n\`\`\``;
  }).join("\n\n");
