/** EKFAC's scalings: the gradient's second moments in the eigenbases of A and G (George et al. 2018). */
import { contract, times } from "../../ir/builder.js";
import { requireExamples } from "../../ir/examples.js";
import type { Value } from "../../ir/graph.js";
import type { Scope } from "./factors.js";
import type { Layer, Site } from "./layer.js";
import { add, byExample, extended, inputTable, LETTERS, outer, outputTable, type Table } from "./tables.js";

/** Elements that a per-example product of a layer may have at once; more examples go one slice after the other. */
const CHUNK = 2 ** 24;

/**
 * EKFAC's scalings, Σ over examples and columns of (U_Gᵀ ∇_n W̄ U_A)², [(groups), dG, dA] (George et al. 2018): ∇_n is summed over an example's
 * positions and sites before squaring.
 *
 * @param UA, UG eigenbases [(groups), d, d], undefined on a diagonal side
 */
export function scalingSums(s: Scope, layer: Layer, columns: ReadonlyMap<Site, Value>, samples: number, UA: Value | undefined, UG: Value | undefined): Value | undefined {
  const { b } = s;
  const sites = layer.sites.filter((site) => columns.has(site));
  if (sites.length === 0) return undefined;
  const turn = (t: Table, U: Value | undefined): Table => {
    if (!U) return t;
    const rank = t.value.type.shape.length;
    const labels = `${"C".repeat(t.columns)}${t.grouped ? "G" : ""}${LETTERS.slice(0, rank - t.columns - (t.grouped ? 1 : 0) - 1)}`;
    return { ...t, value: contract(b.emit, `${labels}y,${t.grouped ? "G" : ""}yz->${labels}z`, t.value, U) };
  };
  const turned = sites.map((site) => {
    const [a, g] = [inputTable(b, layer, site), outputTable(b, layer, site, columns.get(site) as Value)];
    const wide = (t: Table) => (layer.bias ? extended(b, t, site.ones && !site.transposed ? 1 : 0) : t);
    return site.transposed
      ? { site, left: turn(a, UG), right: turn(wide(g), UA), leftRows: site.input, rightRows: site.output }
      : { site, left: turn(g, UG), right: turn(wide(a), UA), leftRows: site.output, rightRows: site.input };
  });
  const only = turned[0] as (typeof turned)[0];
  const label = layer.groups > 1 ? "G" : "";
  if (sites.length === 1 && layer.T === 1) {
    // one row per example: the square of a product is the product of squares
    const square = (t: Table): Table => {
      const value = b.emit("mul", [t.value, t.value]);
      return t.columns > 0 ? { ...t, columns: 0, value: b.emit("reduce_sum", [value], { axes: [0] }) } : { ...t, value };
    };
    return times(b, outer(b, square(only.left), square(only.right)), 1 / samples);
  }
  const placed = turned.map(({ site, left, right, leftRows, rightRows }) => ({
    left: byExample(b, left, leftRows, requireExamples(s.marks, leftRows === site.input ? site.input.value : site.output.value)),
    right: byExample(b, right, rightRows, requireExamples(s.marks, rightRows === site.input ? site.input.value : site.output.value)),
  }));
  const n = (placed[0]?.left.value.type.shape[(placed[0]?.left.columns ?? 0) + (label ? 1 : 0)] ?? 1) as number;
  const lead = Math.max(...placed.map((p) => (p.left.columns + p.right.columns > 0 ? ((p.left.columns ? p.left : p.right).value.type.shape[0] as number) : 1)));
  const chunk = Math.max(1, Math.min(n, Math.floor(CHUNK / (lead * layer.groups * layer.dG * layer.dA))));
  const parts: Value[] = [];
  for (let start = 0; start < n; start += chunk) {
    const cut = (t: Table): Value => {
      const axis = t.columns + (t.grouped ? 1 : 0);
      const { shape } = t.value.type;
      if (chunk === n) return t.value;
      const count = Math.min(chunk, n - start);
      return b.emit("slice", [t.value], { start: shape.map((_, k) => (k === axis ? start : 0)), size: shape.map((d, k) => (k === axis ? count : d)), stride: shape.map(() => 1) });
    };
    const each = add(b, placed.map(({ left, right }) => {
      const c = left.columns + right.columns > 0 ? "C" : "";
      return contract(b.emit, `${"C".repeat(left.columns)}${label}npy,${"C".repeat(right.columns)}${label}npz->${c}${label}nyz`, cut(left), cut(right));
    }));
    const square = b.emit("mul", [each, each]);
    const c = square.type.shape.length - 3 - (label ? 1 : 0);
    parts.push(b.emit("reduce_sum", [square], { axes: [...(c > 0 ? [0] : []), c + (label ? 1 : 0)] }));
  }
  return times(b, add(b, parts), 1 / samples);
}
