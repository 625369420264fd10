/** How the threads of a workgroup bring one operand's tile into workgroup memory, four elements of a column of it per store. */
import { element } from "../../address.js";
import type { Buffer } from "../../kernel.js";
import type { Form, Problem, Side } from "./problem.js";
import { PADDING } from "./tiled-plan.js";
import { type Face, type Roles, quadsAlong, unitRun } from "./tiled-roles.js";
import { grouped, type Index, partOf, plus, type Scope, spell, times, type Value, ZERO } from "./tiled-text.js";

/**
 * `along`: which index of the tile neighbouring threads differ in when they load. `wide`: by vec4s along it. `packed`: a vec4 of the tile
 * is four neighbouring lines; else lines a quarter of the tile apart, so that neighbouring threads load and store neighbouring lines.
 */
export interface Layout {
  readonly along: "line" | "depth";
  readonly wide: boolean;
  readonly packed: boolean;
  /** vec4s from one step of the reduction to the next in workgroup memory. */
  readonly stride: number;
}

/** A line is a row or a column of the product. `lines`: their number in the tile. */
export function layoutOf(side: Side, face: Face, roles: Roles, problem: Problem, lines: number, packable: boolean): Layout {
  const [line, depth] = [unitRun(side.address, face.axes, problem), unitRun(side.address, roles.depth, problem)];
  const [wideLine, wideDepth] = [quadsAlong(side, face.axes, problem), quadsAlong(side, roles.depth, problem)];
  const along = wideLine !== wideDepth ? (wideLine ? "line" : "depth") : Math.min(line, lines) >= Math.min(depth, lines) ? "line" : "depth";
  const wide = along === "line" ? wideLine : wideDepth;
  return { along, wide, packed: along === "line" ? wide : packable, stride: lines / 4 + (along === "depth" ? PADDING : 0) };
}

/** Names that the loads of both operands share. */
export interface Frame {
  readonly problem: Problem;
  readonly roles: Roles;
  readonly vec4: ReadonlySet<Buffer>;
  readonly threads: number;
  readonly tileDepth: number;
  /** i32 values: the thread's number, the batch, and, inside the loop, the first reduction index of the step. */
  readonly thread: string;
  readonly batch: string;
  readonly from: string;
}

export interface Operand {
  readonly side: Side;
  readonly face: Face;
  readonly layout: Layout;
  readonly lines: number;
  /** Prefix of names, and the tile's own name. */
  readonly prefix: string;
  readonly tile: string;
  /** The tile's first line, as a flattened index. */
  readonly first: string;
}

/** Statements before the loop go to `outer`, those that load one step's tile to `inner`. */
export function printLoads(f: Frame, o: Operand, outer: Scope, inner: Scope): void {
  const { along, wide, packed, stride } = o.layout;
  const quads = o.lines / 4;
  const steps = along === "depth" && wide ? f.tileDepth / 4 : f.tileDepth;
  // neighbouring threads: neighbouring quads of lines, or neighbouring steps of the reduction
  const [fast, slow] = along === "line" ? [quads, steps] : [steps, quads];
  const each = Math.ceil((quads * steps) / f.threads);
  const across = Math.max(1, f.threads / fast);
  const low = outer.let(`${o.prefix}_${along === "line" ? "quad" : "step"}`, fast >= f.threads ? f.thread : `${f.thread} % ${fast}`);
  const high = outer.let(`${o.prefix}_${along === "line" ? "step" : "quad"}`, across === 1 ? "0" : `${f.thread} / ${fast}`);
  const [quad, step] = along === "line" ? [low, high] : [high, low];
  const line = outer.let(`${o.prefix}_line`, plusText(o.first, packed ? `${quad} * 4` : quad));
  const stepSize = along === "depth" && wide ? 4 : 1;
  const apart = packed ? 1 : quads;
  const idle = f.threads > fast * slow;
  // steps of the reduction are visited in a loop, lines one by one: what depends on them is computed before the reduction begins
  const loop = along === "line" && each > 1;
  const unitName = loop ? inner.name(`${o.prefix}_part`) : "";
  const body = idle || loop ? inner.inner() : inner;
  const at = loop ? body.let(`${o.prefix}_step`, `${step} + ${times(unitName, across)}`) : step;
  const deep = body.let(`${o.prefix}_deep`, plusText(f.from, stepSize === 4 ? `${at} * 4` : at));
  for (let unit = 0; unit < (loop ? 1 : each); unit++) {
    const moved = unit * across;
    const lineAt = (j: number): Index => ({ name: line, plus: j * apart + moved * (packed ? 4 : 1) });
    const deepAt: Index = { name: deep, plus: 0 };
    const target = (extra: number) => `${o.tile}[${spell({ terms: [times(at, stepSize * stride), quad], at: moved + extra * stride })}]`;
    if (along === "line" && wide) body.push(`${target(0)} = ${load(f, o, lineAt(0), deepAt, true, outer, body)};`);
    else if (along === "line" || !wide) body.push(`${target(0)} = vec4f(${[0, 1, 2, 3].map((j) => load(f, o, lineAt(j), deepAt, false, outer, body)).join(", ")});`);
    else {
      const rows = [0, 1, 2, 3].map((j) => body.let(`${o.prefix}${unit}_${j}`, load(f, o, lineAt(j), deepAt, true, outer, body)));
      for (const [i, lane] of ["x", "y", "z", "w"].entries()) body.push(`${target(i)} = vec4f(${rows.map((row) => `${row}.${lane}`).join(", ")});`);
    }
  }
  if (body === inner) return;
  inner.push(idle ? `if (${f.thread} < ${fast * slow}) {` : `for (var ${unitName} = 0; ${unitName} < ${each}; ${unitName}++) {`);
  inner.lines.push(...body.lines);
  inner.push("}");
}

const plusText = (a: string, b: string): string => (a === "0" ? b : b === "0" ? a : `${a} + ${b}`);

/** One element, or a vec4 from it on; 0 beyond the reduction, outside bounds and where a division is not exact. */
function load(f: Frame, o: Operand, line: Index, deep: Index, wide: boolean, outer: Scope, body: Scope): string {
  const { problem, roles } = f;
  const { side, prefix } = o;
  const form = (what: Form, name: string): Value => plus(
    partOf(what, o.face.axes, line, problem, outer, `${prefix}_${name}`),
    partOf(what, roles.depth, deep, problem, body, `${prefix}_${name}_k`),
    roles.batch.length === 0 ? ZERO : partOf(what, roles.batch, { name: f.batch, plus: 0 }, problem, outer, `${prefix}_${name}_b`),
    { terms: [], at: what.at },
  );
  const conditions: string[] = [];
  if (roles.deep % f.tileDepth !== 0) conditions.push(`${spell({ terms: [deep.name], at: deep.plus })} < ${roles.deep}`);
  for (const [i, bound] of side.bounds.entries()) {
    const { min, max } = range(bound.form, problem);
    if (min >= bound.low && max < bound.high) continue;
    const value = form(bound.form, `bound${i}`);
    if (min >= bound.low) conditions.push(`${grouped(value)} < ${bound.high}`);
    else if (max < bound.high) conditions.push(`${grouped(value)} >= ${bound.low}`);
    else conditions.push(`u32(${spell(plus(value, { terms: [], at: -bound.low }))}) < ${bound.high - bound.low}u`);
  }
  let address = form(side.address, "at");
  for (const [i, q] of side.quotients.entries()) {
    const name = body.let(`${prefix}_dividend${i}`, spell(form(q.form, `dividend${i}`)));
    conditions.push(`${name} % ${q.divisor} == 0`);
    address = plus(address, { terms: [`${name} / ${q.divisor}${q.stride === 1 ? "" : ` * ${q.stride}`}`], at: 0 });
  }
  const text = spell(address);
  const value = wide ? `${side.buffer.name}[(${text}) >> 2u]` : element(side.buffer, address.terms.length > 1 || address.at !== 0 ? (f.vec4.has(side.buffer) ? `(${text})` : text) : text, f.vec4);
  if (conditions.length === 0) return value;
  const all = conditions.length === 1 ? (conditions[0] as string) : body.let(`${prefix}_in`, conditions.join(" && "));
  return `select(${wide ? "vec4f()" : "0.0f"}, ${value}, ${all})`;
}

/** Smallest and largest value of a form over the whole problem. */
function range(form: Form, problem: Problem): { min: number; max: number } {
  let [min, max] = [form.at, form.at];
  for (const [a, axis] of problem.axes.entries()) {
    const far = (form.by[a] ?? 0) * (axis.size - 1);
    if (far < 0) min += far;
    else max += far;
  }
  return { min, max };
}
