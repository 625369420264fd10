import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "fflate";
import { describe, expect, test } from "vitest";
import { type DataOptions, type Dataset, openDataset } from "../../src/data/dataset.js";
import { idx, refusal, withFolder } from "./support.js";

type Files = Readonly<Record<string, Uint8Array | string>>;

/** A record of CIFAR-10; every plane counts from its own first number, so that a plane in the wrong place is seen. */
const record = (label: number, red = 0, green = 100, blue = 200): Uint8Array => {
  const plane = (start: number): number[] => Array.from({ length: 1024 }, (_, k) => (start + k) % 256);
  return Uint8Array.from([label, ...plane(red), ...plane(green), ...plane(blue)]);
};
const joined = (...parts: readonly Uint8Array[]): Uint8Array => Uint8Array.from(parts.flatMap((p) => [...p]));
/** Images of one colour: `label` and a byte. */
const plain = (label: number, byte: number): Uint8Array => Uint8Array.from([label, ...new Array<number>(3072).fill(byte)]);
const hundred = (coarse: number, fine: number): Uint8Array => joined(Uint8Array.of(coarse), plain(fine, 7));

const options: DataOptions = { inputs: [{ name: "image", shape: [3, 32, 32], dtype: "f32" }], labels: { kind: "classes", count: 10 } };
const test10: DataOptions = { ...options, split: "test" };
const of100: DataOptions = { ...options, labels: { kind: "classes", count: 100 } };

/** Opens one of the files (or with "" the folder); the folder's name is taken out of every message. */
const open = (files: Files, name = "", given: DataOptions = options): Promise<Dataset> =>
  withFolder(async (folder) => {
    for (const [file, content] of Object.entries(files)) await writeFile(join(folder, file), content);
    return openDataset(name === "" ? folder : join(folder, name), given);
  });
const refused = async (files: Files, name = "", given: DataOptions = options): Promise<string> =>
  (await refusal(open(files, name, given))).replaceAll(/"[^"]*kfacc-test-[^/"]*\/?/g, '"');
const labelsOf = async (data: Promise<Dataset>): Promise<readonly number[]> => [...((await data).target?.data ?? [])];

describe("a record", () => {
  test("is a label and three planes, row by row: red, green, blue", async () => {
    const { inputs, target, count, notes } = await open({ "data_batch_1.bin": joined(plain(3, 0), record(7)) });
    const { shape, data } = inputs["image"] ?? { shape: [], data: [] };
    expect([count, shape, [...(target?.data ?? [])]]).toEqual([2, [3, 32, 32], [3, 7]]);
    const at = (channel: number, row: number, column: number): number | undefined => data[3072 + channel * 1024 + row * 32 + column];
    expect([at(0, 0, 1), at(0, 1, 0), at(1, 0, 0), at(2, 2, 5)]).toEqual([1, 32, 100, (200 + 69) % 256].map((v) => Math.fround(v / 255)));
    expect(notes.join()).toContain("1/255");
  });

  test("is multiplied by --scale instead of 1/255", async () => {
    const { inputs } = await open({ "data_batch_1.bin": plain(0, 51) }, "", { ...options, scale: 2 });
    expect(inputs["image"]?.data[0]).toBe(102);
  });

  test("of CIFAR-100 has a coarse label before the fine one, which is taken", async () => {
    const { target, inputs } = await open({ "train.bin": joined(hundred(19, 99), hundred(0, 41)) }, "", of100);
    expect([[...(target?.data ?? [])], inputs["image"]?.data[0]]).toEqual([[99, 41], Math.fround(7 / 255)]);
  });
});

describe("a folder", () => {
  const original: Files = { "data_batch_2.bin": plain(2, 0), "data_batch_10.bin": plain(9, 0), "data_batch_1.bin.gz": gzipSync(joined(plain(0, 0), plain(1, 0))), "test_batch.bin": plain(5, 0) };

  test("serves the half asked for: the training files by their numbers, packed or not", async () => {
    expect(await labelsOf(open(original))).toEqual([0, 1, 2, 9]);
    expect(await labelsOf(open(original, "", test10))).toEqual([5]);
  });

  test("may go by other names with train and test in them", async () => {
    const files = { "cifar10_train_10k.bin.gz": gzipSync(plain(1, 0)), "cifar10_test_2k.bin.gz": gzipSync(plain(2, 0)) };
    expect([await labelsOf(open(files)), await labelsOf(open(files, "", test10))]).toEqual([[1], [2]]);
  });

  test("with a file packed and unpacked has its examples once", async () => {
    expect((await open({ "data_batch_1.bin": plain(1, 0), "data_batch_1.bin.gz": gzipSync(plain(1, 0)) })).count).toBe(1);
  });

  test("never serves training data as test data, nor the reverse", async () => {
    expect(await refused({ "data_batch_1.bin": plain(0, 0) }, "", test10)).toBe('missing-data: no CIFAR file of the test half | folder "" | expected test_batch.bin (or .gz)');
    expect(await refused({ "my-test.bin": plain(0, 0) })).toMatch(/^missing-data: no CIFAR file of the train half/);
  });

  test("of one file that names no half serves as either, of two it is refused", async () => {
    expect(await labelsOf(open({ "photos.bin": plain(4, 0) }, "", test10))).toEqual([4]);
    expect(await refused({ "photos.bin": plain(4, 0), "more.bin": plain(4, 0) })).toMatch(/^bad-data: which of more.bin, photos.bin is the train half\? \| folder ""/);
  });

  test("with IDX files is read as those, whatever .bin files lie beside them", async () => {
    const files = { "train-images-idx3-ubyte": idx([1, 3, 1024], new Uint8Array(3072)), "train-labels-idx1-ubyte": idx([1], [8]), "weights.bin": "x" };
    expect(await labelsOf(open(files, "", { ...options, inputs: [{ name: "image", shape: [3, 1024], dtype: "f32" }] }))).toEqual([8]);
  });

  test("gives the classes the names of batches.meta.txt", async () => {
    const names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    expect((await open({ ...original, "batches.meta.txt": `${names.join("\n")}\n\n` })).classNames).toEqual(names);
    expect((await open({ ...original })).classNames).toBeUndefined();
    expect(await refused({ ...original, "batches.meta.txt": "airplane\nbird\n" })).toMatch(/^bad-data: 2 class names, CIFAR-10 has 10 classes \| file "batches.meta.txt"/);
  });
});

describe("what cannot be right is refused:", () => {
  test.each<[string, Files, string]>([
    ["no whole number of records", { "data_batch_1.bin": plain(1, 0).subarray(1) }, 'bad-data: 3072 bytes are no whole number of records: of 3073 bytes (CIFAR-10) or 3074 bytes (CIFAR-100) | file "data_batch_1.bin"'],
    ["an empty file", { "data_batch_1.bin": "" }, 'bad-data: the file is empty | file "data_batch_1.bin"'],
    ["an empty archive", { "data_batch_1.bin.gz": gzipSync(new Uint8Array(0)) }, 'bad-data: the file is empty | file "data_batch_1.bin.gz"'],
    ["a cut archive", { "data_batch_1.bin.gz": gzipSync(record(1)).subarray(0, -9) }, 'bad-data: cannot be unpacked: unexpected end of file | file "data_batch_1.bin.gz"'],
    ["a label that is no class, in a later file", { "data_batch_1.bin": joined(plain(1, 0), plain(2, 0)), "data_batch_2.bin": joined(plain(10, 0), plain(9, 0)) }, `bad-data: label 10 is not one of CIFAR-10's 0 … 9 | file "data_batch_2.bin", record 0`],
    ["a fine label that is no class", { "train.bin": hundred(3, 100) }, `bad-data: label 100 is not one of CIFAR-100's 0 … 99 | file "train.bin", record 0`],
    ["two formats as one data set", { "data_batch_1.bin": plain(1, 0), "train.bin": hundred(3, 1) }, 'bad-data: CIFAR-100 records, CIFAR-10 in file "data_batch_1.bin" | file "train.bin"'],
    ["the Python version", { data_batch_1: "x" }, 'bad-data: CIFAR-10 as Python pickles, which are programs and not read | folder "" | fetch the binary version'],
  ])("%s", async (_, files, message) => expect((await refused(files)).slice(0, message.length)).toBe(message));

  test("a model of other images, or of fewer classes", async () => {
    const files = { "data_batch_1.bin": joined(plain(1, 0), plain(7, 0)) };
    expect(await refused(files, "", { ...options, inputs: [{ name: "image", shape: [32, 32, 3], dtype: "f32" }] })).toMatch(/takes \[32, 32, 3\] per example, the data have \[3, 32, 32\] \| file "data_batch_1.bin" \| the axes are in another order/);
    expect(await refused(files, "", { ...options, labels: { kind: "classes", count: 5 } })).toMatch(/^bad-data: label 7 is not one of the classes 0 … 4 \| file "data_batch_1.bin", record 1/);
  });

  test("weights of examples, which the format has no place for", async () => {
    expect(await refused({ "data_batch_1.bin": plain(1, 0) }, "data_batch_1.bin", { ...options, exampleWeight: "w" })).toMatch(/^bad-option: this format holds no weights/);
  });
});

test("a size that both records divide is told apart by the name", async () => {
  const both = new Uint8Array(3073 * 3074);
  expect((await open({ "data_batch_1.bin": both })).count).toBe(3074);
  expect((await open({ "cifar-100-train.bin": both }, "", of100)).count).toBe(3073);
});
