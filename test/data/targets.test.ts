/** Several targets and weights in a file. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { zipSync } from "fflate";
import { describe, expect, it } from "vitest";
import { type DataOptions, type Dataset, openDataset } from "../../src/data/dataset.js";
import { npy, refusal, withFolder } from "./support.js";

const open = (name: string, content: Uint8Array | string, options: DataOptions): Promise<Dataset> =>
  withFolder(async (folder) => {
    await writeFile(join(folder, name), content);
    return openDataset(join(folder, name), options);
  });
const flat = (d: Dataset) => ({
  inputs: Object.fromEntries(Object.entries(d.inputs).map(([k, a]) => [k, [...a.data]])),
  ...(d.target && { target: [...d.target.data] }), ...(d.targets && { targets: Object.fromEntries(Object.entries(d.targets).map(([k, a]) => [k, [...a.data]])) }),
  ...(d.weight && { weight: [...d.weight] }),
});
const x = { name: "x", shape: [2], dtype: "f32" } as const;
const kind = { output: "kind", labels: { kind: "classes", count: 2 } } as const;
const size = { output: "size", labels: { kind: "values", shape: [2] } } as const;
const CSV = "a,k,h,w,b,n\n1,cat,3,4,2,0.5\n5,dog,7,8,6,0\n9,cat,1,2,3,2\n";

describe("a .csv", () => {
  it("has columns for each output and for the weights; the others are inputs, and examples of weight 0 are left out", async () => {
    const d = await open("d.csv", CSV, { inputs: [x], heads: [kind, size], target: ["size=h,w", "kind=k"], exampleWeight: "n" });
    expect(flat(d)).toEqual({ inputs: { x: [1, 2, 9, 3] }, targets: { kind: [0, 0], size: [3, 4, 1, 2] }, weight: [0.5, 2] });
    expect([d.count, d.inputs.x?.shape, d.targets?.size?.shape]).toEqual([2, [2], [2]]);
    expect(d.notes).toContain("1 of 3 examples have the weight 0 and are left out");
  });
  it("of one head keeps its own way, and the last columns before the weights are its default", async () => {
    const one = { inputs: [x], labels: { kind: "values", shape: [1] } } as const;
    expect(flat(await open("d.csv", "1,2,3,9\n4,5,6,8\n", { ...one, exampleWeight: "-1" }))).toEqual({ inputs: { x: [1, 2, 4, 5] }, target: [3, 6], weight: [9, 8] });
    expect(flat(await open("d.csv", "1,2,3\n4,5,6\n", { ...one, heads: [{ output: "y", labels: one.labels }], target: ["y=0"] })).target).toEqual([1, 4]);
  });
  it("leaves out the columns of an output whose loss is switched off", async () => {
    expect(flat(await open("d.csv", CSV, { inputs: [x], heads: [size], target: ["size=h,w", "kind=k"], exampleWeight: "n" }))).toMatchObject({ inputs: { x: [1, 2, 9, 3] }, target: [3, 4, 1, 2] });
  });
  it("for prediction leaves all of them out", async () => {
    expect(flat(await open("d.csv", CSV.replaceAll(/cat|dog/g, "1"), { inputs: [x], heads: [{ output: "kind" }, { output: "size" }], target: ["size=h,w", "kind=k"], exampleWeight: "n" }))).toMatchObject({ inputs: { x: [1, 2, 5, 6, 9, 3] } });
  });
  it.each<[string, Partial<DataOptions>, string]>([
    ["an output without columns", { target: ["kind=k"] }, 'bad-option: no columns for output "size"'],
    ["columns of no output", { target: ["kind=k", "h,w"] }, "bad-option: it names no output with a loss"],
    ["an output twice", { target: ["kind=k", "kind=h"] }, 'bad-option: two targets for output "kind"'],
    ["a column twice", { target: ["kind=k", "size=k,h"] }, 'bad-option: column "k" is named for two things'],
    ["a weight column that is not there", { target: ["kind=k", "size=h,w"], exampleWeight: "m" }, 'bad-option: no column "m" | --example-weight'],
    ["a weight below 0", { target: ["kind=k", "size=h,w"], exampleWeight: "n", inputs: [x] }, "bad-data: an example weight of -2"],
  ])("with %s is refused", async (_name, options, says) => {
    const text = _name === "a weight below 0" ? CSV.replace("3,2\n", "3,-2\n") : CSV;
    expect((await refusal(open("d.csv", text, { inputs: [x], heads: [kind, size], ...options }))).slice(0, says.length)).toBe(says);
  });
});

describe("an .npz", () => {
  const files = {
    "x.npy": npy("<f4", [2, 2], Float32Array.of(1, 2, 3, 4)), "kind.npy": npy("<i4", [2], Int32Array.of(1, 0)),
    "s.npy": npy("<f4", [2, 2], Float32Array.of(5, 6, 7, 8)), "n.npy": npy("<f4", [2], Float32Array.of(2, 3)),
  };
  it("has an array for each output, by its name or as named, and one for the weights", async () => {
    expect(flat(await open("d.npz", zipSync(files), { inputs: [x], heads: [kind, size], target: ["size=s"], exampleWeight: "n" })))
      .toEqual({ inputs: { x: [1, 2, 3, 4] }, targets: { kind: [1, 0], size: [5, 6, 7, 8] }, weight: [2, 3] });
  });
  it("without an output's array, or with a weight per position, is refused", async () => {
    const { "kind.npy": _, ...without } = files;
    expect(await refusal(open("d.npz", zipSync(without), { inputs: [x], heads: [kind, size], target: ["size=s"] }))).toMatch(/no array for the target of output "kind"/);
    expect(await refusal(open("d.npz", zipSync(files), { inputs: [x], heads: [kind, size], target: ["size=s"], exampleWeight: "s" }))).toMatch(/a weight per example is one number, the data have \[2\]/);
  });
});

describe("labels below 0", () => {
  const labels = (shape: readonly number[]) => ({ kind: "classes", count: 3, shape }) as const;
  it("leave positions out, which a note counts", async () => {
    const npz = zipSync({ "x.npy": npy("<f4", [2, 2], new Float32Array(4)), "y.npy": npy("<i4", [2, 2], Int32Array.of(0, -1, -100, 2)) });
    const d = await open("d.npz", npz, { inputs: [x], labels: labels([2]) });
    expect([...(d.target?.data ?? [])]).toEqual([0, -1, -100, 2]);
    expect(d.notes).toContain("2 of 4 labels are below 0: positions without a label, which no loss counts");
  });
  it("where there is one per example are −100; −1 may be another way to count the classes", async () => {
    expect((await open("d.csv", "1,2,-100\n3,4,2\n", { inputs: [x], labels: labels([]) })).target?.data).toEqual(Int32Array.of(-100, 2));
    expect(await refusal(open("d.csv", "1,2,-1\n3,4,1\n", { inputs: [x], labels: labels([]) }))).toMatch(/label -1 is not one of the classes 0 … 2/);
  });
});
