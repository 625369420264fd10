import fc from "fast-check";
import { checkPlan } from "../codegen/check.js";
import { PORTABLE } from "../codegen/limits.js";
import { planProgram } from "../codegen/plan.js";
import { simulate } from "../codegen/simulate.js";
import { evaluate } from "../ir/evaluate.js";
import { print } from "../ir/print.js";
import { withState } from "./support/models.js";
import { bindings, difference, graphs } from "./support/graphs.js";
const seen = new Map<string, {n: number, g: string, size: number}>();
let rs = 7; const pick = (n: number) => { rs = (Math.imul(rs, 1103515245) + 12345) >>> 0; return (rs >>> 8) % n; };
for (const graph0 of fc.sample(graphs(), { numRuns: Number(process.argv[2]), seed: Number(process.argv[3] ?? 1) })) {
  let why = "ok"; const { graph, state } = withState(graph0, pick);
  try {
    const { plan, lowered } = planProgram([{ name: "main", graph }], state, PORTABLE);
    checkPlan(plan, lowered);
    const given = bindings(graph, 5);
    const want = evaluate(graph, given); const got = simulate(plan, "main", lowered.get("main")!, given);
    for (const k of Object.keys(want)) if (difference(want[k]!, got[k]!) !== 0) why = "simulate differs";
  } catch (e) { why = String((e as Error).message).toString(); }
  const size = graph.nodes.length;
  const old = seen.get(why);
  if (!old || (old.size > size)) seen.set(why, { n: (old?.n ?? 0) + 1, g: print(graph), size }); else old.n++;
}
for (const [why, x] of seen) console.log(x.n, why, why === "ok" ? "" : "\n" + x.g);
