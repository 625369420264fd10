/** The inner text of a kernel: its loops, and in them addresses, loads, conditions and sums. */
import type { Base, Guard, Sum } from "./pool.js";
import type { Problem } from "./problem.js";
import { type Digit, layOut, type Schedule } from "./schedule.js";
import type { Body, Term } from "./terms.js";

/** Loops around the main body; the innermost one's ragged last trip follows it as the tail. */
export function loopNest(problem: Problem, schedule: Schedule, main: readonly string[], tail: readonly string[] | undefined): string[] {
  const layout = layOut(problem, schedule, "main");
  const lines: string[] = [];
  let indent = "  ";
  const open: string[] = [];
  const header = (digit: Digit): string => `${indent}for (var ${digit.name} = 0; ${digit.name} < ${digit.size}; ${digit.name}++) {`;
  for (const axis of schedule.loops) {
    const digits = (layout[problem.axes.indexOf(axis)]?.digits ?? []).filter((digit) => digit.kind === "loop");
    for (const digit of digits) {
      lines.push(header(digit));
      if (axis === schedule.peel) {
        lines.push(...main.map((line) => `${indent}  ${line}`), `${indent}}`);
        continue;
      }
      open.push(`${indent}}`);
      indent += "  ";
    }
    if (axis === schedule.peel && digits.length === 0) lines.push(`${indent}{`, ...main.map((line) => `${indent}  ${line}`), `${indent}}`);
  }
  if (schedule.peel === undefined) lines.push(...main.map((line) => indent + line));
  if (tail !== undefined) lines.push(`${indent}{`, ...tail.map((line) => `${indent}  ${line}`), `${indent}}`);
  return [...lines, ...open.reverse()];
}

const LANES = "xyzw";

/** Addresses, loads and sums of one body. `local`: prefix of the names. */
export function printBody(problem: Problem, body: Body, local: string): string[] {
  const lines: string[] = [];
  const letter = (base: Base) => (base.buffer === problem.left?.buffer ? "a" : "b");
  for (const [i, base] of body.pool.bases.entries()) {
    const quotients = base.quotients.map((q) => `${spellSum(q.sum, q.at)} / ${q.divisor} * ${q.stride / base.width}`);
    const plain = base.sum.map(([name, c]) => [name, c / base.width] as const);
    lines.push(`let ${local}q${i} = ${[...(plain.length > 0 || quotients.length === 0 ? [spellSum(plain, 0)] : []), ...quotients].join(" + ")};`);
  }
  const chunkName = (chunk: number): string => {
    const base = body.pool.bases[body.pool.chunks[chunk]?.base ?? 0];
    return `${local}${base ? letter(base) : "a"}${chunk}`;
  };
  const load = (chunk: number): string => {
    const { base, at } = body.pool.chunks[chunk] ?? { base: 0, at: 0 };
    const offset = at === 0 ? "" : at > 0 ? ` + ${at}` : ` - ${-at}`;
    return `let ${chunkName(chunk)} = ${body.pool.bases[base]?.buffer.name}[${local}q${base}${offset}];`;
  };
  const factor = (table: Body["left"], entry: number): string | undefined => {
    if (table === undefined) return undefined;
    const chunk = table.chunks[entry] ?? 0;
    const wide = (body.pool.bases[body.pool.chunks[chunk]?.base ?? 0]?.width ?? 1) > 1;
    return wide ? `${chunkName(chunk)}.${LANES[table.lanes[entry] ?? 0]}` : chunkName(chunk);
  };
  for (const chunk of body.shared) lines.push(load(chunk));
  for (const group of body.groups) {
    const inner = group.loads.map(load);
    for (const [acc, sum] of group.sums) {
      const factors = (term: Term) => (term.sum === undefined ? [factor(body.left, term.left), factor(body.right, term.right)] : [factor(body.sums[term.sum], term.left)]);
      const products = sum.map((term) => factors(term).filter((f) => f !== undefined).join(" * "));
      inner.push(`${local}c${acc} += ${products[0] === "" ? `${products.length}.0f` : products.join(" + ")};`);
    }
    const conditions = (body.pool.sets[group.guards] ?? []).map((guard) => spellGuard(body.pool.guards[guard] as Guard));
    if (conditions.length === 0) lines.push(...inner);
    else lines.push(`if (${conditions.join(" && ")}) {`, ...inner.map((line) => `  ${line}`), "}");
  }
  return lines;
}

export function spellSum(sum: Sum, at: number): string {
  const terms = sum.map(([name, c]) => (c === 1 ? name : c < 0 ? `${name} * (${c})` : `${name} * ${c}`));
  if (terms.length === 0) return `${at}`;
  const text = terms.join(" + ") + (at === 0 ? "" : at > 0 ? ` + ${at}` : ` - ${-at}`);
  return at === 0 && terms.length === 1 ? text : `(${text})`;
}

/** One comparison where one end is certain, else one unsigned comparison. */
function spellGuard(guard: Guard): string {
  if (guard.kind === "exact") return `${spellSum(guard.sum, guard.at)} % ${guard.divisor} == 0`;
  if (guard.low <= guard.min) return `${spellSum(guard.sum, 0)} < ${guard.high}`;
  if (guard.high > guard.max) return `${spellSum(guard.sum, 0)} >= ${guard.low}`;
  return `u32(${spellSum(guard.sum, -guard.low)}) < ${guard.high - guard.low}u`;
}
