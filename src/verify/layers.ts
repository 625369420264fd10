/** The checks of one layer that need no device. */
import { evaluate } from "../../ir/evaluate.js";
import type { Graph } from "../../ir/graph.js";
import { type NdArray, ndarray } from "../../ir/ndarray.js";
import { size } from "../../ir/type.js";
import { RUN_KNOBS } from "../../runtime/artifact.js";
import { type Layer, layerInfo } from "../kfac/layer.js";
import type { Claims, ClaimedRows } from "./claims.js";
import { exampleGradients, factor, fisherBlocks, kronecker, kroneckerIsExact, type LayerRows } from "./factors.js";
import { type Layout, layoutOf, toMatrix } from "./layout.js";
import type { Cotangents, SiteRows } from "./oracle.js";
import { type Check, compared, held, info, skipped } from "./report.js";
import { matchSites } from "./rows.js";
import { fisherSeeds, type HeadSeeds, keyed, lossSeeds, onlyExample, type Scene } from "./scene.js";
import { norm, normals, relativeError } from "./values.js";

/** Float64 sums of at most millions of terms in another order: 1e-16 times their condition. A wrong term is off by far more. */
export const EXACT = 1e-9;
/** Largest block that is compared with A ⊗ G, in rows. */
const MAX_BLOCK = 1500;

/** Exact cotangents for the seeds that all layers share, made once. */
export interface Passes {
  readonly random: { readonly exact: Cotangents; readonly claimed: Cotangents };
  /** By example (the whole batch as one where examples are mixed). */
  readonly gradients: readonly { readonly exact: Cotangents; readonly claimed: Cotangents }[];
  /** By Fisher column, all examples together. */
  readonly columns: readonly Cotangents[] | undefined;
  readonly samples: number;
  readonly mixes: boolean;
}

export function makePasses(s: Scene, claims: Claims, seed: number): Passes {
  const both = (seeds: HeadSeeds) => ({ exact: s.oracle.cotangents(keyed(s, seeds, (h) => h.z)), claimed: claims.cotangents(keyed(s, seeds, (h) => h.head.loss.z)) });
  const next = normals(seed);
  const noise = s.heads.map((h) => ({ ...s.oracle.z(h), data: s.oracle.z(h).data.map(() => next()) }));
  const loss = lossSeeds(s);
  const mixes = s.compiled.artifact.mixes !== null;
  const fisher = fisherSeeds(s);
  return {
    random: both(noise), mixes,
    gradients: mixes ? [both(loss)] : Array.from({ length: s.examples }, (_, n) => both(onlyExample(s, loss, n))),
    columns: fisher?.columns.map((c) => s.oracle.cotangents(keyed(s, c, (h) => h.z))),
    samples: fisher?.samples ?? 1,
  };
}

export interface ExactLayer {
  readonly layer: Layer;
  readonly layout: Layout;
  readonly rows: LayerRows | undefined;
  /** Mean gradient in matrix form. */
  readonly gradient: Float64Array;
  /** ‖Σ |g| |ā|ᵀ‖ / ‖Σ g āᵀ‖: how much errors of rows are amplified in the gradient. */
  readonly cancellation: number;
  readonly factors: { readonly A: Float64Array; readonly G: Float64Array } | { readonly F: Float64Array } | undefined;
}

/** @returns checks, and the exact quantities for further ones. */
export function checkLayer(s: Scene, claims: Claims, passes: Passes, statistics: Readonly<Record<string, NdArray>> | undefined, layer: Layer, seed: number): { readonly checks: Check[]; readonly exact: ExactLayer } {
  const checks: Check[] = [];
  const layout = layoutOf(layer);
  const weight = s.oracle.param(layer.weight.param.name);
  const gradient = exactMatrix(s, layer, layout, passes.gradients.map((p) => p.exact), 1 / s.examples);
  const none = (check: Check) => ({ checks: [...checks, check], exact: { layer, layout, rows: undefined, gradient, cancellation: 1, factors: undefined } });
  if (!weight) return none(held("uses", false, `the imported graph has no trainable parameter "${layer.weight.param.name}"`));

  // uses that read this layer's part of the parameter
  const mine = new Set(layout.weightAt);
  const uses = s.oracle.sites(weight).filter((u) => {
    const reads = s.oracle.reads(u, seed);
    return typeof reads === "string" || [...reads].some((k) => mine.has(k));
  });
  const found = uses.map((u) => s.oracle.siteRows(u, layerInfo(layer), layout, seed));
  const problem = found.find((r): r is string => typeof r === "string");
  const sites = found.filter((r): r is SiteRows => typeof r !== "string");
  checks.push(held("uses", uses.length === layer.sites.length, uses.length === layer.sites.length ? `${uses.length} in the imported graph` : `${uses.length} in the imported graph, ${layer.sites.length} claimed: a use is ${uses.length > layer.sites.length ? "lost" : "invented"}`));
  if (problem !== undefined) {
    checks.push(held("matrix", false, problem));
    return none(gradientOf(s, claims, passes, layer, layout));
  }
  const proof = Math.max(0, ...uses.map((u) => { const p = s.oracle.probed(u, seed); return typeof p === "string" ? 0 : p.error; }));
  checks.push(compared("matrix", proof, EXACT, "rows and columns of the weight, found by probing"));

  const matches = matchSites(layer, sites, claims, passes.random.claimed, passes.random.exact, seed + 5);
  const worst = (of: (m: (typeof matches)[0]) => number): number => Math.max(0, ...matches.map(of));
  const trouble = matches.find((m) => m.problem !== undefined);
  checks.push(held("sites", !trouble, trouble ? `${trouble.site.node}: ${trouble.problem}` : "orientation, positions and the bias's 1 of every use"));
  checks.push(compared("input rows", worst((m) => m.x), EXACT, "as multisets per example"));
  checks.push(compared("output rows", worst((m) => m.y), EXACT, "cotangents for a random seed"));
  // where the rows themselves are wrong, so are pairs of them
  if (worst((m) => Math.max(m.x, m.y)) <= EXACT) checks.push(compared("row pairs", worst((m) => m.pair), EXACT, "input and output row of one position"));
  checks.push(positionsCheck(s, layer, sites));
  checks.push(gradientOf(s, claims, passes, layer, layout));
  if (!passes.mixes) checks.push(examplesCheck(passes, sites));

  const cancellation = cancellationOf(s, passes, layer, layout, sites, gradient);
  if (!passes.columns) {
    checks.push(skipped("factors", `the ${s.compiled.model.fisher.kind} Fisher of this loss draws what cannot be given from outside`));
    return { checks, exact: { layer, layout, rows: undefined, gradient, cancellation, factors: undefined } };
  }
  const rows: LayerRows = { layer: layerInfo(layer), layout, sites, examples: s.examples, samples: passes.samples, y: passes.columns.map((c) => sites.map((site) => site.y(c))) };
  const factors: NonNullable<ExactLayer["factors"]> = layer.form === "block" ? { F: fisherBlocks(rows) } : { A: factor(rows, "A"), G: factor(rows, "G") };
  for (const [part, want] of Object.entries(factors)) {
    const got = statistics?.[`stat/${layer.name}/${part}`]?.data;
    checks.push(got ? compared(part, relativeError(got.map((x) => x / s.examples), want), EXACT, "by the definition, against the program's statistics in float64") : held(part, false, `the program has no statistics "stat/${layer.name}/${part}"`));
  }
  if ("A" in factors) checks.push(blockCheck(rows, factors.A, factors.G));
  return { checks, exact: { layer, layout, rows, gradient, cancellation, factors } };
}

/** Σ of parameters' cotangents over passes, as the layer's matrix. */
function exactMatrix(s: Scene, layer: Layer, layout: Layout, passes: readonly Cotangents[], scale: number): Float64Array {
  const w = s.oracle.param(layer.weight.param.name);
  const b = layer.bias && s.oracle.param(layer.bias.param.name);
  const out = new Float64Array(layout.groups * layout.dG * layout.dA);
  for (const p of passes) {
    if (!w) break;
    toMatrix(layout, (p.get(w) as NdArray).data, b && (p.get(b) as NdArray).data).forEach((x, k) => { out[k] = (out[k] as number) + scale * x; });
  }
  return out;
}

/** Σ_t g āᵀ over the claimed sites against the parameters' own derivative, example by example. */
function gradientOf(s: Scene, claims: Claims, passes: Passes, layer: Layer, layout: Layout): Check {
  let error = 0;
  const scale = norm(exactMatrix(s, layer, layout, passes.gradients.map((p) => p.exact), 1));
  for (const pass of passes.gradients) {
    const want = exactMatrix(s, layer, layout, [pass.exact], 1);
    const sites = layer.sites.map((site) => ({ site, x: claims.input(site), y: claims.output(site, pass.claimed) }));
    const got = sites.every(({ x, y }) => x.positions === y.positions) ? claimedGradient(layout, sites) : undefined;
    const d = got ? norm(got.map((v, k) => v - (want[k] as number))) : Number.POSITIVE_INFINITY;
    error = Math.max(error, d / Math.max(norm(want), 1e-3 * scale, Number.MIN_VALUE));
  }
  return compared("gradient", Number.isNaN(error) ? Number.POSITIVE_INFINITY : error, EXACT, passes.mixes ? "of the whole batch, whose examples are mixed" : "Σ g āᵀ over all sites, example by example, against the imported graph's derivative");
}

function claimedGradient(l: Layout, sites: readonly { readonly site: Layer["sites"][0]; readonly x: ClaimedRows; readonly y: ClaimedRows }[]): Float64Array {
  const out = new Float64Array(l.groups * l.dG * l.dA);
  for (const { site, x, y } of sites) {
    const [wide, tall] = site.transposed ? [y, x] : [x, y];
    for (let g = 0; g < l.groups; g++)
      for (let p = 0; p < x.positions; p++) {
        const at = g * x.positions + p;
        for (let o = 0; o < l.dG; o++) {
          // a scale has no axes of its own: one input and one output per group
          const gv = tall.rows[at * tall.features + o] ?? 0;
          const to = (g * l.dG + o) * l.dA;
          for (let i = 0; i < l.dIn; i++) out[to + i] = (out[to + i] as number) + gv * (wide.rows[at * wide.features + i] ?? Number.NaN);
          if (l.dA > l.dIn && site.ones) out[to + l.dIn] = (out[to + l.dIn] as number) + gv;
        }
      }
  }
  return out;
}

function cancellationOf(s: Scene, passes: Passes, layer: Layer, layout: Layout, sites: readonly SiteRows[], gradient: Float64Array): number {
  const size = (a: Float64Array): Float64Array => a.map(Math.abs);
  const absolute = sites.map((site): SiteRows => ({ ...site, x: size(site.x), y: (c) => size(site.y(c)) }));
  const y = passes.gradients.map(({ exact }) => absolute.map((site) => site.y(exact)));
  const sums = exampleGradients({ layer: layerInfo(layer), layout, sites: absolute, y, examples: s.examples, samples: 1 }).flat();
  const total = new Float64Array(gradient.length);
  for (const part of sums) part.forEach((v, k) => { total[k] = (total[k] as number) + v / s.examples; });
  return norm(gradient) === 0 ? 1 : norm(total) / norm(gradient);
}

function positionsCheck(s: Scene, layer: Layer, sites: readonly SiteRows[]): Check {
  const counted = sites.map((r) => r.positions / s.examples);
  const total = counted.reduce((a, b) => a + b, 0);
  const each = [...counted].sort((a, b) => a - b).join() === layer.sites.map((r) => r.T).sort((a, b) => a - b).join();
  return held("T", total === layer.T && each, total === layer.T && each ? `${total} positions counted` : `${total} positions counted (${counted.join(", ")} by use), ${layer.T} claimed (${layer.sites.map((r) => r.T).join(", ")})`);
}

/** The loss of one example must reach only the rows of that example. */
function examplesCheck(passes: Passes, sites: readonly SiteRows[]): Check {
  let [stray, total] = [0, 0];
  passes.gradients.forEach(({ exact }, n) => {
    for (const site of sites)
      site.y(exact).forEach((v, k) => {
        if (site.example[Math.floor(k / site.yFeatures)] !== n) stray += v * v;
        total += v * v;
      });
  });
  return compared("examples", total === 0 ? 0 : Math.sqrt(stray / total), EXACT, "an example's loss reaches its own rows only");
}

function blockCheck(rows: LayerRows, A: Float64Array, G: Float64Array): Check {
  const { layer, layout } = rows;
  const n = layout.dA * layout.dG;
  if (n > MAX_BLOCK) return skipped("A⊗G", `the exact block has ${n} rows`);
  if (layer.sides.A !== "full" || layer.sides.G !== "full") return skipped("A⊗G", "a side is diagonal");
  if (layout.groups * n * n > 4e7) return skipped("A⊗G", `${layout.groups} exact blocks of ${n} rows`);
  const error = relativeError(kronecker(rows, A, G), fisherBlocks(rows));
  return kroneckerIsExact(rows) ? compared("A⊗G", error, EXACT, "equal to the exact Fisher block here") : info("A⊗G", error, "relative error of the approximation against the exact Fisher block");
}

/** The program's statistics of the batch, sums over examples, evaluated in float64. */
export function programStatistics(s: Scene): Readonly<Record<string, NdArray>> | undefined {
  const graph = s.compiled.graphs.get(`gradients.stats@${s.examples}`);
  return graph && evaluate(graph, programBindings(s, graph));
}

export function programBindings(s: Scene, graph: Graph): Record<string, NdArray> {
  const several = s.heads.length > 1;
  const given: Record<string, NdArray> = { ...s.named };
  for (const h of s.heads) {
    given[h.head.target] = h.target;
    given[several ? `mcTargets/${h.head.output}` : "mcTargets"] = h.drawn;
  }
  const knob = (name: string): number => RUN_KNOBS.find((k) => k.name === name)?.default ?? (name === "count" ? s.examples : 0);
  return Object.fromEntries([...graph.params, ...graph.inputs].map(({ value }): [string, NdArray] => {
    const { name, type: { dtype, shape } } = value;
    if (given[name]) return [name, ndarray(dtype, shape, given[name].data)];
    const number = name.startsWith("run.") ? knob(name.slice(4)) : name === "mcGiven" || name.endsWith("/scale") ? 1 : 0;
    return [name, ndarray(dtype, shape, new Float64Array(size(shape)).fill(number))];
  }));
}

