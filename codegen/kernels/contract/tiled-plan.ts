/** Which tile a contraction gets on a GPU: rules by shape and limits, no search. */
import type { Problem } from "./problem.js";
import type { Roles } from "./tiled-roles.js";

/**
 * One workgroup computes rows × columns results in steps of `depth` along the reduction; a thread perRow × perColumn of them.
 * `parts`: workgroups that share a reduction, each writing partial sums that a second kernel adds.
 */
export interface Tiling {
  readonly rows: number;
  readonly columns: number;
  readonly depth: number;
  readonly perRow: number;
  readonly perColumn: number;
  readonly parts: number;
}

/** A vec4 of padding at the end of each row of a tile in workgroup memory: rows that threads write side by side fall on other banks. */
export const PADDING = 1;

const tile = (rows: number, columns: number, perRow: number, perColumn: number): Omit<Tiling, "parts"> => ({ rows, columns, depth: 16, perRow, perColumn });

/** Best reuse first. 64 accumulators at most: more leave a GPU too few threads to hide its memory's latency. */
export const TILES: readonly Omit<Tiling, "parts">[] = [
  tile(128, 64, 8, 8), tile(64, 128, 8, 8), tile(64, 64, 8, 8),
  tile(128, 32, 8, 4), tile(32, 128, 4, 8), tile(64, 32, 8, 4), tile(32, 64, 4, 8), tile(32, 32, 4, 4),
  tile(128, 16, 8, 4), tile(16, 128, 4, 8), tile(64, 16, 4, 4), tile(16, 64, 4, 4), tile(16, 16, 4, 4),
];

/** Workgroups that keep a middling GPU busy. */
const ENOUGH = 128;
/** Share of a tile that must be results. */
const FILLED = 0.7;
/** Reduction steps a part should have at least: its partial sums cost memory traffic. */
const PART = 256;
/** Fewer results, or fewer rows or columns, share too little for a tile: the other family computes them. */
const LEAST_RESULTS = 1024;
const LEAST_SIDE = 8;

export const threadsOf = ({ rows, columns, perRow, perColumn }: Omit<Tiling, "parts">): number => (rows / perRow) * (columns / perColumn);
export const bytesOf = ({ rows, columns, depth }: Omit<Tiling, "parts">): number => ((rows + columns) / 4 + 2 * PADDING) * depth * 16;

/** Tiles of the whole problem, one part. */
export function tilesOf(problem: Problem, roles: Roles, t: Omit<Tiling, "parts">): number {
  const [down, across] = [Math.ceil(roles.rows.size / t.rows), Math.ceil(roles.columns.size / t.columns)];
  return roles.batches * (problem.pairs.length > 0 ? (down * (down + 1)) / 2 : down * across);
}

/** Whether the device can run it, and the problem allows it. */
export function isLegal(problem: Problem, roles: Roles, t: Tiling): boolean {
  const { limits } = problem;
  const steps = Math.ceil(roles.deep / t.depth);
  const whole = [t.rows, t.columns, t.perRow, t.perColumn, t.depth].every((n) => Number.isInteger(n) && n > 0 && n % 4 === 0 && Math.log2(n) % 1 === 0);
  return (
    whole && Number.isInteger(t.parts) && t.parts >= 1 && t.parts <= steps &&
    t.perRow * t.perColumn <= 64 && t.perRow <= t.rows && t.perColumn <= t.columns &&
    threadsOf(t) >= Math.max(t.rows / 4, t.columns / 4, t.depth) && threadsOf(t) <= limits.invocations &&
    bytesOf(t) <= limits.workgroupBytes && (problem.pairs.length === 0 || t.rows === t.columns) &&
    Math.ceil(steps / t.parts) * (t.depth + 1) <= MAX_LOOP &&
    tilesOf(problem, roles, t) * t.parts < limits.workgroupsPerDimension ** 2
  );
}

/** Trips of an invocation's two loops. */
const MAX_LOOP = 50_000;

/** The first tile that is well filled and gives the GPU enough to do, its reduction split if need be; else the last legal one. */
export function planTiling(problem: Problem, roles: Roles): Tiling | undefined {
  const { rows, columns, batches, deep } = roles;
  if (rows.size * columns.size * batches < LEAST_RESULTS || Math.min(rows.size, columns.size) < LEAST_SIDE) return undefined;
  const legal = TILES.map((t) => ({ ...t, parts: partsFor(problem, roles, t) })).filter((t) => isLegal(problem, roles, t));
  const filled = (t: Tiling) => fill(rows.size, t.rows) * fill(columns.size, t.columns);
  const enough = (t: Tiling) => tilesOf(problem, roles, t) * t.parts >= ENOUGH;
  return legal.find((t) => filled(t) >= FILLED && enough(t)) ?? legal.findLast((t) => filled(t) >= FILLED) ?? legal.at(-1);
}

const fill = (size: number, tileSize: number): number => size / (Math.ceil(size / tileSize) * tileSize);

/** As many parts as make up for missing tiles, of at least PART reduction steps; more where one invocation's loops would be too long. */
export function partsFor(problem: Problem, roles: Roles, t: Omit<Tiling, "parts">): number {
  const steps = Math.ceil(roles.deep / t.depth);
  const wanted = Math.min(Math.ceil(ENOUGH / tilesOf(problem, roles, t)), Math.max(1, Math.floor(roles.deep / PART)));
  const forced = Math.ceil((steps * (t.depth + 1)) / MAX_LOOP);
  return evenly(steps, Math.max(wanted, forced));
}

/** Parts that are not empty: with so many steps each, fewer may do. */
export const evenly = (steps: number, parts: number): number => Math.ceil(steps / Math.ceil(steps / Math.max(1, Math.min(parts, steps))));
