/** All cases, by topic. */
import type { Case } from "../../support/op-case.js";
import { basicCases } from "./basic.js";

export const CASES: readonly Case[] = [...basicCases];
