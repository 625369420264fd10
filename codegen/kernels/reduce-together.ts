/**
 * A short sum with few outputs in one dispatch: the threads of a workgroup share its outputs' elements, then one thread for each output adds
 * what they found, in order. Where a workgroup has one output, devices with subgroups may add what each subgroup found instead.
 */
import type { Point } from "../address.js";
import { bindingsOf, declare, freeBuffers } from "../bindings.js";
import { Body } from "../body.js";
import { emitExpr, emitStore } from "../expr.js";
import type { Axis, Binding, Kernel, ReduceSpec } from "../kernel.js";
import { isNan, literal } from "../wgsl.js";
import { decode, identifier, indicesOf, lowest, product, WORKGROUP } from "./iterate.js";
import { combineSubgroups } from "./subgroups.js";

/** A thread's share, and the elements of all workgroups, are at most this many: beyond, more workgroups and a second pass are quicker. */
const MAX_SHARE = 256;
const MAX_ELEMENTS = 32_768;
/** Outputs of one workgroup where there are enough of them. */
const OUTPUTS = 8;

/** Who does what in a workgroup. */
interface Sharing {
  readonly outputs: number;
  /** Outputs of one workgroup. */
  readonly mine: number;
  /** Threads of one output; they take turns along `axis`. */
  readonly parts: number;
  readonly axis: Axis;
  readonly bindings: readonly Binding[];
}

/** undefined where a workgroup is too small for the sum. */
export function lowerTogether(spec: ReduceSpec): Kernel | undefined {
  const outputs = product(spec.axes);
  const mine = outputs >= 4 * OUTPUTS ? OUTPUTS : 1;
  const axis = cutAxis(spec, WORKGROUP / mine);
  const parts = Math.min(WORKGROUP / mine, axis.size);
  if (Math.ceil(axis.size / parts) * (product(spec.reduction) / axis.size) > MAX_SHARE || outputs * product(spec.reduction) > MAX_ELEMENTS) return undefined;
  const used = freeBuffers([...spec.stores, { buffer: { name: "", dtype: "f32", elements: 0 }, address: { at: 0, by: new Map() }, value: spec.value }]);
  const written = used.stores.filter((b) => b.name !== "");
  const sharing: Sharing = { outputs, mine, parts, axis, bindings: bindingsOf([...used.loads, ...written], new Set(written), used.run) };
  return {
    name: `reduce_${spec.combine}_${outputs}x${product(spec.reduction)}`,
    wgsl: textOf(spec, sharing, false),
    // with several outputs a subgroup holds threads of more than one, and which ones is not known
    ...(mine === 1 && spec.value.dtype !== "bool" ? { variants: [{ feature: "subgroups", wgsl: textOf(spec, sharing, true) }] } : {}),
    bindings: sharing.bindings, workgroups: [Math.ceil(outputs / mine), 1, 1],
  };
}

function textOf(spec: ReduceSpec, { outputs, mine, parts, axis, bindings }: Sharing, subgroups: boolean): string {
  const { dtype } = spec.value;
  const none = new Set<never>();
  const body = new Body();
  // neighbours in memory for neighbouring threads: along the sum, or along the outputs
  const along = [...indicesOf(spec.value)].some((i) => i.by.get(axis) === 1);
  const [part, output] = along ? [`local % ${parts}u`, `local / ${parts}u`] : [`local / ${mine}u`, `local % ${mine}u`];
  body.push(`let part = ${part};`);
  if (mine > 1) body.push(`let place = group.x * ${mine}u + ${output};`);
  else body.push("let place = group.x;");
  body.push(`let thread = min(place, ${outputs - 1}u);`);
  const spelled = decode(spec.axes.map((a) => ({ axis: a, count: a.size, scale: 1 })), "thread", (line) => body.push(line));
  const start = literal(dtype, spec.combine === "sum" ? 0 : lowest(dtype));
  if (spec.combine !== "sum" && dtype === "f32") body.bits = true;
  body.push(`var acc: ${dtype} = ${start};`);
  const values = new Map(spelled);
  const outside = body.indent;
  let loops = 0;
  spec.reduction.forEach((a, k) => {
    if (a === axis && axis.size === parts) {
      values.set(a, "i32(part)");
      return;
    }
    const name = `${identifier(a.name)}_r${k}`;
    loops++;
    body.push(`for (var ${name}: i32 = ${a === axis ? "i32(part)" : "0"}; ${name} < ${a.size}; ${name} += ${a === axis ? parts : 1}) {`);
    body.indent += "  ";
    values.set(a, name);
  });
  const add = (x: string): void => body.push(spec.combine === "sum" ? `acc += ${x};` : `acc = select(acc, ${x}, (${x} > acc)${dtype === "f32" ? ` | ${isNan(dtype, x)}` : ""});`);
  add(emitExpr(body, spec.value, { axis: (a) => values.get(a) ?? 0 }, none));
  for (let depth = loops - 1; depth >= 0; depth--) {
    body.indent = outside + "  ".repeat(depth);
    body.push("}");
  }
  let memory = [`var<workgroup> shares: array<${dtype === "bool" ? "u32" : dtype}, ${WORKGROUP}>;`];
  if (subgroups && dtype !== "bool") {
    if (parts < WORKGROUP) body.push(`acc = select(${start}, acc, local < ${parts}u);`);
    memory = combineSubgroups(body, spec.combine === "sum" ? "sum" : "max", dtype, WORKGROUP);
  } else {
    body.push("shares[local] = acc;");
    body.push("workgroupBarrier();");
    body.push(`if (part != 0u || place >= ${outputs}u${mine * parts < WORKGROUP ? ` || local >= ${mine * parts}u` : ""}) { return; }`);
    body.push(`for (var k = 1u; k < ${parts}u; k++) {`);
    body.indent += "  ";
    body.push(`let other = shares[local + k${along || mine === 1 ? "" : ` * ${mine}u`}];`);
    add("other");
    body.indent = outside;
    body.push("}");
  }
  const point: Point = { axis: (a) => spelled.get(a) ?? 0, acc: "acc" };
  // every value before any store: a second store must not see what the first one wrote
  for (const store of spec.stores) emitExpr(body, store.value, point, none);
  for (const store of spec.stores) emitStore(body, store, point, none);

  return `// ${spec.label}: ${spec.combine} over ${product(spec.reduction)}, ${parts} threads for each of ${outputs}${subgroups ? ", by subgroups\nenable subgroups;" : ""}
${declare(bindings, none)}
${memory.join("\n")}
${body.prelude()}
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
${body.lines.join("\n")}
}
`.replace("\n\n", "\n");
}

/** The axis that the threads share: the innermost if it is long enough for all of them, else the longest. */
function cutAxis(spec: ReduceSpec, wanted: number): Axis {
  const last = spec.reduction[spec.reduction.length - 1] as Axis;
  return last.size >= wanted ? last : spec.reduction.reduce((a, b) => (b.size > a.size ? b : a));
}
