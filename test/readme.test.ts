/** The README's tables are the code's. */
import { describe, expect, it } from "vitest";
import { IMPORT_OPS } from "../src/import/ops/index.js";
import { current, FILES, readme } from "./support/readme.js";

describe("README", () => {
  for (const file of FILES)
    it(`${file} has its tables and kernels as the code has them (npm run tables writes them)`, () => {
      expect(readme(file)).toBe(current(file, readme(file)));
    });
  it("names every op that is read", () => {
    const missing = [...IMPORT_OPS.keys()].filter((op) => !new RegExp(`[ ,]${op.replace(/\./g, "\\.")}[, |]`).test(readme()));
    expect(missing).toEqual([]);
  });
});
