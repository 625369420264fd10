/** Comments under a kernel's head that say which tensors its bindings hold: kernel text itself is shared and names none. */
import type { Plan, PlanDispatch } from "../../runtime/artifact.js";
import { oneLine } from "./types.js";

/** Uses spelled per kernel; layers of one shape share a kernel. */
const SPELLED = 4;

/**
 * Source `kernel` of the plan, with its uses after its leading comment lines:
 *
 *   // front@64: left = input [64, 1, 28, 28], right = conv1.weight [6, 1, 5, 5], data = conv1.bias [6], result = v5
 *   // also in gradients@64, front.masked@64
 *
 * v5 is a value of that entry that no name outlives; another kernel of the entry names it, too.
 */
export function withUses(source: string, kernel: number, plan: Plan): string {
  const names = bindingNames(source);
  const uses = new Map<string, Set<string>>();
  for (const [entry, { steps }] of Object.entries(plan.entries)) {
    for (const step of steps) {
      if (!("kernel" in step) || step.kernel !== kernel) continue;
      const spelled = spellUse(step, names, plan);
      uses.set(entry, (uses.get(entry) ?? new Set()).add(spelled));
    }
  }
  const [first, ...others] = uses.keys();
  if (first === undefined) return source;
  const spelled = [...(uses.get(first) as Set<string>)];
  const comments = [
    ...spelled.slice(0, SPELLED).map((use) => `${first}: ${use}`),
    ...(spelled.length > SPELLED ? [`${first}: and ${spelled.length - SPELLED} more uses`] : []),
    ...(others.length > 0 ? [`also in ${others.join(", ")}`] : []),
  ];
  const lines = source.split("\n");
  const head = lines.findIndex((line) => !line.startsWith("//"));
  return [...lines.slice(0, head), ...comments.map((line) => `// ${oneLine(line)}`), ...lines.slice(head)].join("\n");
}

/** Variable name per binding number. */
function bindingNames(source: string): ReadonlyMap<number, string> {
  return new Map([...source.matchAll(/@binding\((\d+)\)\s*var<[^>]*>\s*(\w+)/g)].map(([, at, name]) => [Number(at), name as string]));
}

function spellUse({ buffers, values }: PlanDispatch, names: ReadonlyMap<number, string>, plan: Plan): string {
  return values.flatMap((value, at) => {
    const buffer = plan.buffers[buffers[at] as number];
    if (!buffer) return []; // the run block is called what it is
    // a value computed into a named buffer goes by the buffer's name: kfac/conv1.weight/A, not v252
    const lasting = buffer.kind !== "slot";
    const tensor = lasting && /^v\d+$/.test(value) ? buffer.name : value;
    const shape = lasting && buffer.shape ? ` [${buffer.shape.join(", ")}]` : "";
    return [`${names.get(at) ?? `binding ${at}`} = ${tensor}${shape}`];
  }).join(", ");
}
