/** One graph as a program of its own, with sampled elements of its results held to float64. */
import { entryWork } from "../../../codegen/work.js";
import { planProgram } from "../../../codegen/plan.js";
import type { Graph } from "../../../ir/graph.js";
import { type HostArray, Program } from "../../../runtime/program.js";
import { limitsOf } from "../../../src/compile.js";
import type { Opened, Subject } from "../measure.js";

/** Seeded values in [-0.5, 0.5) (a linear congruential generator, Numerical Recipes). */
export function seeded(length: number, seed: number): Float32Array {
  let state = seed >>> 0;
  return Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 4294967296 - 0.5;
  });
}

/** An element of a result as float64 has it. */
export interface Truth {
  readonly value: number;
  /** Σ |products| behind it, and how many there are. */
  readonly size: number;
  readonly terms: number;
}

/** Adds up products in float64. */
export class Sum {
  #value = 0;
  #size = 0;
  #terms = 0;

  add(left: number, right: number): void {
    const product = left * right;
    this.#value += product;
    this.#size += Math.abs(product);
    this.#terms++;
  }

  /** @param map what is done to the sum; its slope is at most 1 */
  truth(map: (sum: number) => number = (s) => s, offset = 0): Truth {
    return { value: map(this.#value + offset), size: this.#size + Math.abs(offset), terms: this.#terms + 1 };
  }
}

export interface ProgramParts {
  readonly graph: Graph;
  readonly state?: ReadonlySet<string>;
  readonly inputs: ReadonlyMap<string, HostArray>;
  readonly run?: Readonly<Record<string, number>>;
  readonly rounds?: number;
  /** By result: element number → truth. */
  readonly truth?: ReadonlyMap<string, (element: number) => Truth>;
  /** Instead of `truth`; says what it checked. */
  readonly check?: (read: (name: string) => Promise<HostArray>) => Promise<string>;
}

export const programSubject = (id: string, name: string, group: Subject["group"], make: () => ProgramParts | Promise<ProgramParts>, slow = false): Subject => ({
  id, name, group, slow,
  open: async ({ device, target }): Promise<Opened> => {
    const parts = await make();
    const start = performance.now();
    const { plan, sources, lowered, memory } = planProgram([{ name: "main", graph: parts.graph }], parts.state ?? new Set(), limitsOf({ target }));
    const compileMs = performance.now() - start;
    const program = await Program.create(device, plan, sources);
    for (const [input, values] of parts.inputs) program.write(input, values);
    program.writeRun(parts.run ?? {});
    const run = async (count: number): Promise<void> => {
      program.submit(Array.from({ length: count }, () => "main"));
      await device.queue.onSubmittedWorkDone();
    };
    return {
      run, batched: true,
      ...(parts.rounds === undefined ? {} : { rounds: parts.rounds }),
      check: async () => {
        await run(1);
        const read = async (result: string): Promise<HostArray> => (await program.read([result]))[0] as HostArray;
        if (parts.check) return parts.check(read);
        let count = 0;
        for (const [result, truth] of parts.truth ?? []) count += checkSampled(result, await read(result), truth);
        return `${count} elements against float64`;
      },
      facts: () => ({
        ...entryWork(lowered.get("main") as NonNullable<ReturnType<typeof lowered.get>>), kernels: plan.kernels.length, compileMs,
        memoryBytes: memory.planned, tensorBytes: memory.everyTensor,
      }),
      close: () => program.dispose(),
    };
  },
});

const SAMPLES = 61;

/** Elements spread over the whole result, corners included. @throws Error naming the first that is wrong */
export function checkSampled(result: string, values: HostArray, truth: (element: number) => Truth): number {
  const count = Math.min(SAMPLES, values.length);
  for (let k = 0; k < count; k++) {
    const element = count === 1 ? 0 : Math.round((k * (values.length - 1)) / (count - 1));
    const [got, want] = [values[element] as number, truth(element)];
    // each of the partial sums is rounded by at most 2⁻²⁴ of Σ |products|; such errors add like a random walk: four deviations
    const allowed = 4 * 2 ** -24 * Math.sqrt(want.terms) * want.size;
    if (!(Math.abs(got - want.value) <= allowed)) throw new Error(`${result}[${element}] is ${got} instead of ${want.value} (± ${allowed.toExponential(1)})`);
  }
  return count;
}
