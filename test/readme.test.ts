/** The README's tables are the code's. */
import { describe, expect, it } from "vitest";
import { IMPORT_OPS } from "../src/import/ops/index.js";
import { current, readme } from "./support/readme.js";

describe("README", () => {
  it("has the tables of layer kinds and ops as the code has them (npm run tables writes them)", () => {
    expect(readme()).toBe(current(readme()));
  });
  it("names every op that is read", () => {
    const missing = [...IMPORT_OPS.keys()].filter((op) => !new RegExp(`[ ,]${op.replace(/\./g, "\\.")}[, |]`).test(readme()));
    expect(missing).toEqual([]);
  });
});
