/** Elementwise kernels: one thread computes one element, or four neighbouring ones. */
import { bindingsOf, declare, freeBuffers, laneBuffers } from "../bindings.js";
import { Body } from "../body.js";
import { emitExpr, emitStore } from "../expr.js";
import type { Axis, Buffer, Kernel, Limits, Lowered, MapSpec } from "../kernel.js";
import { decode, grid, indicesOf, mapStores, mergeAxes, WORKGROUP } from "./iterate.js";

export function lowerMap(spec: MapSpec, limits: Limits): Lowered {
  const indices = spec.stores.flatMap((s) => [s.address, ...indicesOf(s.value)]);
  const { axes, to } = mergeAxes(spec.axes, indices);
  const stores = mapStores(spec.stores, to);
  const last = axes[axes.length - 1];
  const lanes = last && useLanes(stores, axes, last) ? last : undefined;
  const vec4: ReadonlySet<Buffer> = lanes ? laneBuffers(stores, lanes, true) : new Set();
  const { loads, stores: written, run } = freeBuffers(stores);
  const bindings = bindingsOf([...loads, ...written], new Set(written), run);

  const unrolled = lanes ? [] : unrollable(stores, axes);
  const counts = axes.map((axis) => ({ axis, count: unrolled.includes(axis) ? 1 : axis === lanes ? Math.ceil(axis.size / 4) : axis.size, scale: axis === lanes ? 4 : 1 }));
  const threads = counts.reduce((n, c) => n * c.count, 1);
  const { workgroups, thread } = grid(threads, limits);
  const body = new Body({ share: true });
  body.push(`let thread = ${thread};`);
  body.push(`if (thread >= ${threads}u) { return; }`);
  const spelled = decode(counts, "thread", (line) => body.push(line));
  for (const digits of combinations(unrolled)) {
    const point = { axis: (a: Axis) => digits.get(a) ?? spelled.get(a) ?? 0, ...(lanes ? { lanes } : {}) };
    // every value before any store: a second store must not see what the first one wrote
    for (const store of stores) emitExpr(body, store.value, point, vec4);
    for (const store of stores) emitStore(body, store, point, vec4);
  }

  const kernel: Kernel = {
    name: `map_${spec.axes.map((a) => a.size).join("x") || "scalar"}`,
    wgsl: `// ${spec.label}: ${threads === 1 && !lanes ? "one element" : `elementwise, ${threads} thread${threads === 1 ? "" : "s"}${lanes ? " of 4 lanes" : ""}`}
${declare(bindings, vec4)}
${body.prelude()}
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(global_invocation_id) id: vec3u) {
${body.lines.join("\n")}
}
`.replace("\n\n", "\n"),
    bindings, workgroups,
  };
  return { kernels: [kernel], scratch: [] };
}

/** One thread computes up to this many neighbours that share loads. */
const UNROLL = 8;

/** Short axes along which some access does not move: a thread that takes them all loads that once. */
function unrollable(stores: MapSpec["stores"], axes: readonly Axis[]): Axis[] {
  const indices = stores.flatMap((s) => [...indicesOf(s.value)]);
  const chosen: Axis[] = [];
  for (const axis of [...axes].reverse())
    if (axis.size <= 4 && chosen.reduce((n, a) => n * a.size, axis.size) <= UNROLL && axes.length > chosen.length + 1 && indices.some((i) => i.by.size > 0 && !i.by.has(axis))) chosen.push(axis);
  return chosen;
}

function* combinations(axes: readonly Axis[], fixed: ReadonlyMap<Axis, number> = new Map()): Generator<ReadonlyMap<Axis, number>> {
  const [axis, ...rest] = axes;
  if (!axis) {
    yield fixed;
    return;
  }
  for (let k = 0; k < axis.size; k++) yield* combinations(rest, new Map([...fixed, [axis, k]]));
}

/**
 * Four lanes pay where every store is contiguous along the last axis. A ragged end is allowed only if the axis is the
 * whole iteration space and all accesses run along it: then the lanes beyond it fall into the buffers' padding.
 */
function useLanes(stores: MapSpec["stores"], axes: readonly Axis[], last: Axis): boolean {
  if (last.size < 4 || stores.some((s) => s.address.by.get(last) !== 1)) return false;
  if (last.size % 4 === 0) return true;
  return axes.length === 1 && stores.every((s) => s.address.at % 4 === 0 && s.address.at + last.size === s.buffer.elements);
}
