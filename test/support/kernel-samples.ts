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

const dense: Make = (b, input) => {
  const s = contract(b.emit, "nk,kj->nj", input("x", 512, 64), input("w", 64, 256));
  return b.emit("relu", [b.emit("add", [s, broadcast(b.emit, input("bias", 256), s.type.shape, [1])])]);
};

/** What is shown, and of which kernel of the program. */
const SAMPLES: Readonly<Record<string, { readonly make: Make; readonly kernel?: number; readonly gpu?: boolean }>> = {
  map: { make: (b, input) => b.emit("relu", [b.emit("add", [input("x", 6, 8), broadcast(b.emit, input("bias", 8), [6, 8], [1])])]) },
  reduce: { make: (b, input) => b.emit("reduce_sum", [input("x", 600, 3)], { axes: [1] }) },
  rows: { make: softmax },
  contract: { make: dense },
  tiled: { make: dense, gpu: true },
  routine: { make: (b, input) => b.node("inverse", [input("m", 1, 4, 4), input("damping", 1)]).results[0] as Value },
};

export function sample(name: string): string {
  const { make, kernel = 0, gpu } = SAMPLES[name] ?? {};
  if (!make) throw new Error(`no sample "${name}"`);
  const { sources } = planProgram([{ name: "main", graph: graph(make) }], new Set(), { ...PORTABLE, ...(gpu ? { target: "gpu" as const } : {}) });
  return (sources[kernel] as string).trimEnd();
}

export const SAMPLE_NAMES = Object.keys(SAMPLES);
