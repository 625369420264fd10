/** A pass is a value with a name, a sentence and a pure function from graph to graph. */
import { CompileError } from "./error.js";
import type { Graph } from "./graph.js";
import { verify } from "./verify.js";

export interface Pass {
  readonly name: string;
  /** One sentence: what is true afterwards. */
  readonly doc: string;
  run(graph: Graph): Graph;
}

export interface PassOptions {
  /** Verify the graph before the first pass and after each. */
  readonly verify?: boolean;
  /** Called with each pass's result, e.g. to print it. */
  readonly after?: (pass: Pass, graph: Graph) => void;
}

/** Runs the passes in order. @throws CompileError "invalid-graph", or "internal" naming the pass that broke the graph. */
export function runPasses(graph: Graph, passes: readonly Pass[], options: PassOptions = {}): Graph {
  if (options.verify) verify(graph);
  let current = graph;
  for (const pass of passes) {
    current = pass.run(current);
    if (options.verify) verifyAfter(pass, current);
    options.after?.(pass, current);
  }
  return current;
}

function verifyAfter(pass: Pass, graph: Graph): void {
  try {
    verify(graph);
  } catch (e) {
    if (e instanceof CompileError) throw new CompileError("internal", `pass "${pass.name}" broke the graph: ${e.message}`, e.where);
    throw e;
  }
}
