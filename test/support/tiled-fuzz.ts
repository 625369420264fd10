/** Random tilings for random contractions: what the rules would not choose must be right, too. */
import type { ContractSpec, Limits, Lowered } from "../../codegen/kernel.js";
import { lowerContract } from "../../codegen/kernels/contract/index.js";
import { lowerTiled, tiledProblem } from "../../codegen/kernels/contract/tiled.js";
import { evenly, isLegal, planTiling, type Tiling, TILES } from "../../codegen/kernels/contract/tiled-plan.js";
import type { Dice } from "./contract-fuzz.js";

/** A legal tiling of any size, or undefined where the family has none for the problem (no operand, a maximum in the store). */
export function randomTiling(spec: ContractSpec, limits: Limits, dice: Dice): Tiling | undefined {
  const found = tiledProblem(spec, limits);
  if (!found) return undefined;
  const { problem, roles } = found;
  for (let n = 0; n < 40; n++) {
    const depth = dice.pick([4, 8, 16]);
    const parts = dice.chance(0.6) ? 1 : evenly(Math.ceil(roles.deep / depth), 1 + dice.int(4));
    const tiling = { ...dice.pick(TILES), depth, parts };
    if (isLegal(problem, roles, tiling)) return tiling;
  }
  return undefined;
}

/** The rules' choice, also where they would leave the problem to the other family. */
export function ruledTiling(spec: ContractSpec, limits: Limits): Tiling | undefined {
  const found = tiledProblem(spec, limits);
  return found && planTiling(found.problem, found.roles);
}

export const lowerWithTiling = (spec: ContractSpec, limits: Limits, tiling?: Tiling): Lowered | undefined =>
  lowerTiled(spec, limits, (rest) => lowerContract(rest, limits), tiling);

export const spellTiling = (t: Tiling): string => `${t.rows}×${t.columns}×${t.depth}, ${t.perRow}×${t.perColumn}, ${t.parts} parts`;
