/** All cases, by topic. */
import type { Case } from "../../support/op-case.js";
import { activationCases } from "./activation.js";
import { attentionCases } from "./attention.js";
import { basicCases } from "./basic.js";
import { gatherCases } from "./gather.js";
import { gridCases } from "./grid.js";
import { padCases } from "./pad.js";
import { resizeCases } from "./resize.js";
import { scatterCases } from "./scatter.js";
import { shapeCases } from "./shape.js";
import { constantCases } from "./constant.js";
import { linearCases } from "./linear.js";
import { mathCases } from "./math.js";
import { lossCases } from "./loss.js";
import { normCases } from "./norm.js";
import { poolCases } from "./pool.js";
import { reduceCases } from "./reduce.js";
import { sortCases } from "./sort.js";

export const CASES: readonly Case[] = [...basicCases, ...mathCases, ...linearCases, ...constantCases, ...activationCases, ...attentionCases, ...gatherCases, ...gridCases, ...padCases, ...resizeCases, ...scatterCases, ...shapeCases, ...lossCases, ...normCases, ...poolCases, ...reduceCases, ...sortCases];
