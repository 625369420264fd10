/** Runs a graph on a real adapter through lowering, plan and program: results by name, as float64 arrays. */
import { PORTABLE } from "../../codegen/limits.js";
import { planProgram } from "../../codegen/plan.js";
import type { Graph } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { type HostArray, Program } from "../../runtime/program.js";

export async function runGraph(device: GPUDevice, graph: Graph, bindings: Readonly<Record<string, NdArray>>, state: ReadonlySet<string> = new Set(), run: Readonly<Record<string, number>> = {}) {
  const { plan, sources } = planProgram([{ name: "main", graph }], state, PORTABLE);
  const program = await Program.create(device, plan, sources);
  try {
    for (const { value } of [...graph.params, ...graph.inputs]) {
      if (value.name.startsWith("run.")) continue;
      program.write(value.name, toHost(bindings[value.name] as NdArray));
    }
    program.writeRun(run);
    program.submit(["main"]);
    const names = graph.results.map((r) => r.name);
    const arrays = await program.read(names);
    return { plan, sources, results: Object.fromEntries(graph.results.map((r, k) => [r.name, ndarray(r.value.type.dtype, r.value.type.shape, Float64Array.from(arrays[k] as HostArray))])) };
  } finally {
    await program.dispose();
  }
}

export function toHost(a: NdArray): HostArray {
  if (a.dtype === "i32") return Int32Array.from(a.data);
  if (a.dtype === "u32" || a.dtype === "bool") return Uint32Array.from(a.data);
  return Float32Array.from(a.data);
}

/** Relative Frobenius error against a reference. */
export function relativeError(got: ArrayLike<number>, want: ArrayLike<number>): number {
  let [difference, norm] = [0, 0];
  for (let k = 0; k < want.length; k++) {
    difference += ((got[k] as number) - (want[k] as number)) ** 2;
    norm += (want[k] as number) ** 2;
  }
  return norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm);
}
