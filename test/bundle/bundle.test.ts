import { describe, expect, it } from "vitest";
import { closure, wanted } from "./packages.js";

const lock = {
  packages: {
    "": { dependencies: { a: "1" } },
    "node_modules/a": { dependencies: { b: "1", "@s/c": "2" } },
    "node_modules/a/node_modules/b": { dependencies: { d: "1" } },
    "node_modules/b": {},
    "node_modules/@s/c": { dependencies: { b: "1" } },
    "node_modules/d": { dependencies: { a: "1" } },
    "node_modules/unused": {},
  },
};

describe("the bundle", () => {
  it("takes a package and all it needs, from where Node would load it", () => {
    expect(closure(lock, ["a"])).toEqual(["node_modules/@s/c", "node_modules/a", "node_modules/a/node_modules/b", "node_modules/b", "node_modules/d"]);
    expect(closure(lock, ["d"])).toContain("node_modules/a/node_modules/b");
  });

  it("names a package that is not installed", () => {
    expect(() => closure(lock, ["missing"])).toThrow(/"missing", needed by "the project"/);
  });

  it("brings Dawn for Linux x64 alone, and no sources", () => {
    expect(["/x/webgpu/dist/linux-x64/dawn.node", "/x/webgpu/dist/win32-x64/dawn.node", "/x/webgpu/index.js", "/x/cac/index.d.ts"].map(wanted)).toEqual([true, false, true, false]);
  });
});
