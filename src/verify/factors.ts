/** A, G and blocks by their definitions, as plain loops over an oracle's rows (conventions in src/kfac/factors.ts's heading). */
import type { LayerInfo } from "../../runtime/artifact.js";
import type { Layout } from "./layout.js";
import type { SiteRows } from "./oracle.js";

export type Side = "A" | "G";

/** Rows of one side of one site in stored orientation, [groups, positions, d]; `d` includes the bias's 1. */
interface SideRows {
  readonly rows: Float64Array;
  readonly positions: number;
  readonly example: Int32Array;
  readonly fromCotangents: boolean;
}

/** What a layer's statistics are made of. `y[column][site]` are rows of cotangents. */
export interface LayerRows {
  readonly layer: LayerInfo;
  readonly layout: Layout;
  readonly sites: readonly SiteRows[];
  readonly y: readonly (readonly Float64Array[])[];
  readonly examples: number;
  /** Columns are averaged over this many samples. */
  readonly samples: number;
}

function widened(l: LayerRows, rows: Float64Array, positions: number, ones: number): Float64Array {
  const { groups, dIn, dA } = l.layout;
  if (dA === dIn) return rows;
  const out = new Float64Array(groups * positions * dA);
  for (let r = 0; r < groups * positions; r++) {
    out.set(rows.subarray(r * dIn, (r + 1) * dIn), r * dA);
    out[r * dA + dIn] = ones;
  }
  return out;
}

/** The rows that go to a side at a site, for one column (rows of inputs are the same for all). */
function sideRows(l: LayerRows, side: Side, site: number, column: number): SideRows {
  const s = l.sites[site] as SiteRows;
  const fromCotangents = (side === "G") !== s.transposed;
  const raw = fromCotangents ? (l.y[column]?.[site] as Float64Array) : s.x;
  const rows = side === "A" ? widened(l, raw, s.positions, s.ones && !s.transposed ? 1 : 0) : raw;
  return { rows, positions: s.positions, example: s.example, fromCotangents };
}

/** Per group and example: the sum of rows. [groups, N, d] with N positions. */
function summed(r: SideRows, groups: number, examples: number, d: number, scale: number): SideRows {
  const rows = new Float64Array(groups * examples * d);
  const example = Int32Array.from({ length: groups * examples }, (_, k) => k % examples);
  for (let g = 0; g < groups; g++)
    for (let p = 0; p < r.positions; p++) {
      const n = r.example[g * r.positions + p] as number;
      for (let i = 0; i < d; i++) {
        const to = (g * examples + n) * d + i;
        rows[to] = (rows[to] as number) + scale * (r.rows[(g * r.positions + p) * d + i] as number);
      }
    }
  return { rows, example, positions: examples, fromCotangents: r.fromCotangents };
}

/** Mean over examples: A or G, [groups, d, d] or [groups, d] where diagonal. */
export function factor(l: LayerRows, side: Side): Float64Array {
  const { groups, dA, dG } = l.layout;
  const d = side === "A" ? dA : dG;
  const diagonal = l.layer.sides[side] === "diagonal";
  const out = new Float64Array(groups * (diagonal ? d : d * d));
  const reduce = l.layer.sharing === "reduce";
  // positions by counting rows, not by what the layer says
  const T = reduce ? l.sites.length : l.sites.reduce((n, s) => n + s.positions / l.examples, 0);
  l.sites.forEach((s, k) => {
    const perExample = s.positions / l.examples;
    const columns = (side === "G") !== s.transposed ? l.y.length : 1;
    for (let c = 0; c < columns; c++) {
      let r = sideRows(l, side, k, c);
      if (reduce) r = summed(r, groups, l.examples, d, r.fromCotangents ? 1 : 1 / perExample);
      const scale = 1 / l.examples / (side === "G" ? T : 1) / (r.fromCotangents ? l.samples : 1);
      accumulate(out, r, groups, d, diagonal, scale);
    }
  });
  return out;
}

function accumulate(out: Float64Array, r: SideRows, groups: number, d: number, diagonal: boolean, scale: number): void {
  for (let g = 0; g < groups; g++)
    for (let p = 0; p < r.positions; p++) {
      const row = (g * r.positions + p) * d;
      for (let i = 0; i < d; i++) {
        const x = (r.rows[row + i] as number) * scale;
        if (x === 0) continue;
        if (diagonal) {
          out[g * d + i] = (out[g * d + i] as number) + x * (r.rows[row + i] as number);
          continue;
        }
        const to = (g * d + i) * d;
        for (let j = 0; j < d; j++) out[to + j] = (out[to + j] as number) + x * (r.rows[row + j] as number);
      }
    }
}

/** Σ_t g āᵀ of every example and column over all sites, [columns][N][groups, dG, dA]. */
export function exampleGradients(l: LayerRows, sites = l.sites): Float64Array[][] {
  const { groups, dA, dG } = l.layout;
  return l.y.map((_, c) => {
    const out = Array.from({ length: l.examples }, () => new Float64Array(groups * dG * dA));
    sites.forEach((s, k) => {
      const [A, G] = [sideRows(l, "A", k, c), sideRows(l, "G", k, c)];
      for (let g = 0; g < groups; g++)
        for (let p = 0; p < s.positions; p++) {
          const at = g * s.positions + p;
          const into = out[s.example[at] as number];
          if (!into) continue;
          for (let o = 0; o < dG; o++) {
            const gv = G.rows[at * dG + o] as number;
            // a bias is only added where the node's own result gets it
            for (let i = 0; gv !== 0 && i < dA; i++) {
              const to = (g * dG + o) * dA + i;
              into[to] = (into[to] as number) + gv * (A.rows[at * dA + i] as number);
            }
          }
        }
    });
    return out;
  });
}

/** Exact Fisher block of each group over its dG·dA numbers, output slow: (1/N)(1/samples) Σ_n Σ_columns vec(∇)vec(∇)ᵀ; [groups, n, n]. */
export function fisherBlocks(l: LayerRows): Float64Array {
  const { groups, dA, dG } = l.layout;
  const n = dG * dA;
  const out = new Float64Array(groups * n * n);
  for (const column of exampleGradients(l))
    for (const u of column)
      accumulate(out, { rows: u, positions: 1, example: new Int32Array(groups), fromCotangents: true }, groups, n, false, 1 / l.examples / l.samples);
  return out;
}

/** G_g ⊗ A_g of each group in the same order. Full sides only. */
export function kronecker(l: LayerRows, A: Float64Array, G: Float64Array): Float64Array {
  const { groups, dA, dG } = l.layout;
  const n = dG * dA;
  const out = new Float64Array(groups * n * n);
  for (let g = 0; g < groups; g++)
    for (let o = 0; o < dG; o++)
      for (let q = 0; q < dG; q++) {
        const x = G[(g * dG + o) * dG + q] as number;
        for (let i = 0; i < dA; i++) for (let j = 0; j < dA; j++) out[(g * n + o * dA + i) * n + q * dA + j] = x * (A[(g * dA + i) * dA + j] as number);
      }
  return out;
}

/**
 * Whether A ⊗ G must be the block: one use whose examples have the same Σ g gᵀ (a single example; linear nets), and either one position per
 * example, or `reduce` with a gradient that is the same at all positions.
 */
export function kroneckerIsExact(l: LayerRows): boolean {
  const [site] = l.sites;
  if (!site || l.sites.length > 1 || site.transposed || l.layer.form !== "kronecker") return false;
  const { groups, dG } = l.layout;
  const close = (a: number, b: number, scale: number): boolean => Math.abs(a - b) <= 1e-12 * scale;
  const perExample = site.positions / l.examples;
  const scale = Math.max(...l.y.map((y) => y[0]?.reduce((m, v) => Math.max(m, Math.abs(v)), 0) ?? 0));
  const second = Array.from({ length: l.examples }, () => new Float64Array(groups * dG * dG));
  for (const y of l.y) {
    const rows = y[0] as Float64Array;
    const first = new Map<number, number>();
    for (let at = 0; at < groups * site.positions; at++) {
      const n = site.example[at] as number;
      const group = Math.floor(at / site.positions);
      const before = first.get(group * l.examples + n);
      if (before !== undefined) {
        if (l.layer.sharing !== "reduce") return false;
        for (let o = 0; o < dG; o++) if (!close(rows[at * dG + o] as number, rows[before * dG + o] as number, scale)) return false;
        continue;
      }
      first.set(group * l.examples + n, at);
      const into = second[n] as Float64Array;
      for (let o = 0; o < dG; o++) for (let q = 0; q < dG; q++) into[(group * dG + o) * dG + q] = (into[(group * dG + o) * dG + q] as number) + (rows[at * dG + o] as number) * (rows[at * dG + q] as number);
    }
  }
  if (l.layer.sharing !== "reduce" && perExample !== 1) return false;
  return second.every((m) => m.every((v, k) => close(v, (second[0] as Float64Array)[k] as number, scale * scale * l.y.length)));
}
