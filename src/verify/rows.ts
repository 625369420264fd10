/** Rows as multisets: positions may come in another order, examples and groups may not. */
import type { Site, Layer } from "../kfac/layer.js";
import type { ClaimedRows, Claims } from "./claims.js";
import type { Cotangents, SiteRows } from "./oracle.js";
import { normals, relativeError } from "./values.js";

interface Paired {
  readonly positions: number;
  readonly example: Int32Array;
  readonly x: Float64Array;
  readonly xFeatures: number;
  readonly y: Float64Array;
  readonly yFeatures: number;
}

type Part = "x" | "y" | "pair";

/** Rows of a group in the order of (example, random projection of the input row, the output row or both). */
function ordered(p: Paired, group: number, w: Float64Array, part: Part): number[] {
  const keys = new Map<number, number>();
  const list = Array.from({ length: p.positions }, (_, k) => group * p.positions + k);
  for (const at of list) {
    let s = 0;
    for (let i = 0; part !== "y" && i < p.xFeatures; i++) s += (w[i] as number) * (p.x[at * p.xFeatures + i] as number);
    for (let o = 0; part !== "x" && o < p.yFeatures; o++) s += (w[p.xFeatures + o] as number) * (p.y[at * p.yFeatures + o] as number);
    keys.set(at, s);
  }
  return list.sort((a, b) => (p.example[a] as number) - (p.example[b] as number) || (keys.get(a) as number) - (keys.get(b) as number));
}

function collected(p: Paired, order: readonly number[], which: "x" | "y"): Float64Array {
  const d = which === "x" ? p.xFeatures : p.yFeatures;
  const out = new Float64Array(order.length * d);
  order.forEach((at, k) => out.set(p[which].subarray(at * d, (at + 1) * d), k * d));
  return out;
}

/** Relative differences of input rows and of output rows, each in an order of its own, and of pairs; infinite where counts differ. */
function difference(a: Paired, b: Paired, groups: number, seed: number): Readonly<Record<Part, number>> {
  const none = Number.POSITIVE_INFINITY;
  if (a.positions !== b.positions || a.xFeatures !== b.xFeatures || a.yFeatures !== b.yFeatures) return { x: none, y: none, pair: none };
  const next = normals(seed);
  const w = Float64Array.from({ length: a.xFeatures + a.yFeatures }, () => next());
  const error = (part: Part): number => {
    const [oa, ob] = [a, b].map((p) => Array.from({ length: groups }, (_, g) => ordered(p, g, w, part)).flat()) as [number[], number[]];
    if (oa.some((at, k) => a.example[at] !== b.example[ob[k] as number])) return none;
    return Math.max(...(part === "pair" ? (["x", "y"] as const) : [part]).map((which) => relativeError(collected(b, ob, which), collected(a, oa, which))));
  };
  return { x: error("x"), y: error("y"), pair: error("pair") };
}

export interface SiteMatch {
  readonly site: Site;
  readonly use: SiteRows;
  readonly x: number;
  readonly y: number;
  /** Of input and output row of one position together. */
  readonly pair: number;
  readonly problem: string | undefined;
}

/** Infinities of one part must not hide that the other fits. */
const nearness = ({ x, y }: { readonly x: number; readonly y: number }): number => Math.min(x, 1e3) + Math.min(y, 1e3);

/** Every claimed site with the use whose rows are nearest to its own. */
export function matchSites(layer: Layer, uses: readonly SiteRows[], claims: Claims, claimed: Cotangents, exact: Cotangents, seed: number): SiteMatch[] {
  const free = [...uses];
  return layer.sites.flatMap((site): SiteMatch[] => {
    const [input, output] = [claims.input(site), claims.output(site, claimed)];
    const mine: Paired = { positions: input.positions, example: input.example, x: input.rows, xFeatures: input.features, y: output.rows, yFeatures: output.features };
    const scored = free.map((use) => {
      const theirs: Paired = { positions: use.positions, example: use.example, x: use.x, xFeatures: use.xFeatures, y: use.y(exact), yFeatures: use.yFeatures };
      return { site, use, ...difference(theirs, mine, layer.groups, seed), problem: problemOf(layer, site, use, input, output) };
    });
    const best = scored.sort((p, q) => nearness(p) - nearness(q))[0];
    if (!best) return [];
    free.splice(free.indexOf(best.use), 1);
    return [best];
  });
}

function problemOf(layer: Layer, site: Site, use: SiteRows, input: ClaimedRows, output: ClaimedRows): string | undefined {
  if (input.positions !== output.positions) return `${input.positions} input rows and ${output.positions} output rows`;
  if (input.positions !== use.positions) return `${input.positions} positions per group, the node has ${use.positions}`;
  if (layer.form === "kronecker" && site.transposed !== use.transposed) return site.transposed ? "claimed to be transposed, which it is not" : "the weight is used transposed here";
  if (site.ones !== use.ones) return site.ones ? "no bias is added here, but a 1 is claimed" : "the bias is added here, but no 1 is claimed";
  return undefined;
}
