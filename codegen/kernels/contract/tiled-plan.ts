/** Which tile a contraction gets on a GPU: rules by shape and limits, no search. */
import { MAX_TRIPS } from "../../limits.js";
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

/** Best reuse first. 64 accumulators at most: more leave a GPU too few threads to hide its memory's latency. 32 threads at least: they run in step. */
export const TILES: readonly Omit<Tiling, "parts">[] = [
  tile(128, 64, 8, 8), tile(64, 128, 8, 8), tile(64, 64, 8, 8),
  tile(128, 32, 8, 4), tile(32, 128, 4, 8), tile(64, 32, 8, 4), tile(32, 64, 4, 8), tile(32, 32, 4, 4),
  tile(128, 16, 8, 4), tile(16, 128, 4, 8), tile(64, 16, 4, 4), tile(16, 64, 4, 4), tile(32, 16, 4, 4), tile(16, 32, 4, 4),
];

/** Workgroups that keep a middling GPU busy. */
const ENOUGH = 96;
/** Share of a tile that must be results. */
const FILLED = 0.7;
/** Reduction steps a part should have at least: its partial sums cost memory traffic. */
const PART = 256;
/** Fewer multiplications cost less than a dispatch: the other family's kernels are smaller, and several share one. */
const LEAST_WORK = 2 ** 20;
/** Fewer rows or columns share too little for a tile. */
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
    Math.ceil(steps / t.parts) * loopsOf(t) <= MAX_TRIPS &&
    tilesOf(problem, roles, t) * t.parts < limits.workgroupsPerDimension ** 2
  );
}

/** Most trips of an invocation's loops in one step: its own, those that load the two tiles, and those over the tile. */
const loopsOf = (t: Omit<Tiling, "parts">): number => 1 + t.depth + (t.depth * (t.rows + t.columns)) / 4 / threadsOf(t);

/** Whether tiles gain anything over registers. */
export const isWorthTiling = ({ rows, columns, batches, deep }: Roles): boolean =>
  rows.size * columns.size * batches * deep >= LEAST_WORK && Math.min(rows.size, columns.size) >= LEAST_SIDE;

/** The first tile that is well filled and gives the GPU enough to do, its reduction split if need be; else the last legal one. */
export function planTiling(problem: Problem, roles: Roles): Tiling | undefined {
  const { rows, columns } = roles;
  const legal = TILES.map((t) => ({ ...t, parts: partsFor(problem, roles, t) })).filter((t) => isLegal(problem, roles, t));
  const filled = (t: Tiling) => fill(rows.size, t.rows) * fill(columns.size, t.columns);
  const enough = (t: Tiling) => tilesOf(problem, roles, t) * t.parts >= ENOUGH;
  return legal.find((t) => filled(t) >= FILLED && enough(t)) ?? legal.findLast((t) => filled(t) >= FILLED) ?? legal.at(-1);
}

/** Other tilings that might do as well: this tile with half and twice the parts, and other well-filled tiles, best reuse first. */
export function alternatives(problem: Problem, roles: Roles, first: Tiling): Tiling[] {
  const steps = Math.ceil(roles.deep / first.depth);
  const filled = (t: Tiling) => fill(roles.rows.size, t.rows) * fill(roles.columns.size, t.columns) >= FILLED / 2;
  const resplit = [first.parts * 2, Math.ceil(first.parts / 2), 1].map((parts) => ({ ...first, parts: evenly(steps, parts) }));
  const retiled = TILES.map((t) => ({ ...t, parts: partsFor(problem, roles, t) })).filter(filled);
  return [...resplit, ...retiled].filter((t) => isLegal(problem, roles, t));
}

const fill = (size: number, tileSize: number): number => size / (Math.ceil(size / tileSize) * tileSize);

/** As many parts as make up for missing tiles, of at least PART reduction steps; more where one invocation's loops would be too long. */
export function partsFor(problem: Problem, roles: Roles, t: Omit<Tiling, "parts">): number {
  const steps = Math.ceil(roles.deep / t.depth);
  const wanted = Math.min(Math.ceil(ENOUGH / tilesOf(problem, roles, t)), Math.max(1, Math.floor(roles.deep / PART)));
  const forced = Math.ceil((steps * loopsOf(t)) / MAX_TRIPS);
  return evenly(steps, Math.max(wanted, forced));
}

/** Parts that are not empty: with so many steps each, fewer may do. */
export const evenly = (steps: number, parts: number): number => Math.ceil(steps / Math.ceil(steps / Math.max(1, Math.min(parts, steps))));
