/** What a kernel's expressions read and write, and how its bindings are declared. */
import { RUN_FIELDS } from "../runtime/artifact.js";
import { aligned } from "./address.js";
import type { Affine, Axis, Binding, Buffer, Expr, Quotient, Store } from "./kernel.js";
import { vectorOf } from "./wgsl.js";

/** Calls `visit` for every access (loads and stores) of the stores' expressions. */
function eachAccess(stores: readonly Store[], visit: (buffer: Buffer, address: Affine, quotients: readonly Quotient[], how: "load" | "store" | "gather") => void, run?: () => void): void {
  const seen = new Set<Expr>();
  const walk = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    switch (e.kind) {
      case "load": visit(e.access.buffer, e.access.address, e.access.quotients, "load"); break;
      case "gather": visit(e.access.buffer, e.access.address, e.access.quotients, "gather"); walk(e.row); break;
      case "run": run?.(); break;
      case "op": e.args.forEach(walk); break;
      case "cast": walk(e.arg); break;
      case "masked": walk(e.inner); break;
      case "uniform": e.key.forEach(walk); break;
      default: break;
    }
  };
  for (const s of stores) {
    visit(s.buffer, s.address, [], "store");
    walk(s.value);
  }
}

/**
 * Buffers that may be declared array<vec4>: along `lanes` every access is contiguous and 4-aligned, or does not move.
 * `lanesAligned`: the lane axis only takes multiples of 4 as first lane.
 */
export function laneBuffers(stores: readonly Store[], lanes: Axis, lanesAligned: boolean): Set<Buffer> {
  const yes = new Set<Buffer>();
  const no = new Set<Buffer>();
  eachAccess(stores, (buffer, address, quotients, how) => {
    const k = address.by.get(lanes) ?? 0;
    if (how === "gather") no.add(buffer);
    else if (k === 1 && aligned(address, lanes) && !quotients.some((q) => q.expr.by.has(lanes))) yes.add(buffer);
    else if (k !== 0 || how === "store") no.add(buffer);
  });
  if (!lanesAligned) return new Set();
  return new Set([...yes].filter((b) => !no.has(b)));
}

/** What the stores read and write, in order of first appearance; `run`: they use a run-time knob. */
export function freeBuffers(stores: readonly Store[]): { loads: Buffer[]; stores: Buffer[]; run: boolean } {
  const loads = new Set<Buffer>();
  const written = new Set<Buffer>();
  let run = false;
  eachAccess(stores, (buffer, _address, _quotients, how) => { (how === "store" ? written : loads).add(buffer); }, () => { run = true; });
  return { loads: [...loads], stores: [...written], run };
}

/** Bindings for buffers in the given order (read_write where stored), then the run block. */
export function bindingsOf(buffers: Iterable<Buffer>, stored: ReadonlySet<Buffer>, run: boolean): Binding[] {
  const list: Binding[] = [...new Set(buffers)].map((buffer) => ({ kind: "buffer", buffer, access: stored.has(buffer) ? "read_write" : "read" }));
  return run ? [...list, { kind: "run" }] : list;
}

/** WGSL declarations of a kernel's bindings, group 0, in order. */
export function declare(bindings: readonly Binding[], vec4: ReadonlySet<Buffer>): string {
  const run = bindings.some((b) => b.kind === "run")
    ? [`struct Run { ${RUN_FIELDS.map((f) => `${f.name}: ${f.dtype}`).join(", ")} }`]
    : [];
  return [...run, ...bindings.map((b, k) => {
    if (b.kind === "run") return `@group(0) @binding(${k}) var<uniform> run: Run;`;
    const element = vec4.has(b.buffer) ? vectorOf(b.buffer.dtype) : b.buffer.dtype;
    return `@group(0) @binding(${k}) var<storage, ${b.access}> ${b.buffer.name}: array<${element}>;`;
  })].join("\n");
}
