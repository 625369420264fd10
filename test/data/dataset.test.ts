import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync, strToU8, zipSync } from "fflate";
import { describe, expect, test } from "vitest";
import { type DataOptions, type Dataset, type InputSpec, openDataset } from "../../src/data/dataset.js";
import { idx, npy, refusal, withFolder } from "./support.js";

type Files = Readonly<Record<string, Uint8Array | string>>;

const input = (shape: readonly number[], dtype: InputSpec["dtype"] = "f32", name = "image"): InputSpec => ({ name, shape, dtype });
const classes = (count: number, shape?: readonly number[]): DataOptions["labels"] => ({ kind: "classes", count, ...(shape && { shape }) });
const values = (shape: readonly number[], range?: readonly [number, number]): DataOptions["labels"] => ({
  kind: "values",
  shape,
  ...(range && { range }),
});
const npz = (arrays: Readonly<Record<string, Uint8Array>>): Uint8Array =>
  zipSync(Object.fromEntries(Object.entries(arrays).map(([name, bytes]) => [`${name}.npy`, bytes])));
const f4 = (shape: readonly number[], ...data: number[]): Uint8Array => npy("<f4", shape, Float32Array.from(data));

/** Opens one of the files (or with "" the folder) as a data set; the folder's name is taken out of every message. */
const open = (files: Files, name: string, options: DataOptions): Promise<Dataset> =>
  withFolder(async (folder) => {
    for (const [file, content] of Object.entries(files)) await writeFile(join(folder, file), content);
    return openDataset(name === "" ? folder : join(folder, name), options);
  });
const refused = async (files: Files, name: string, options: DataOptions): Promise<string> =>
  (await refusal(open(files, name, options))).replaceAll(/"[^"]*kfacc-test-[^/"]*\/?/g, '"');

const images = idx([3, 2, 2], [0, 51, 102, 255, 1, 2, 3, 4, 5, 6, 7, 8]);
const digits = idx([3], [1, 0, 2]);
const mnist: Files = { "train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": digits };

describe("an IDX folder", () => {
  test("gives bytes as fractions of 255, which a note says, and labels as class numbers", async () => {
    const data = await open(mnist, "", { inputs: [input([1, 2, 2])], labels: classes(3) });
    expect(data.count).toBe(3);
    expect(data.inputs["image"]?.shape).toEqual([1, 2, 2]);
    expect([...(data.inputs["image"]?.data ?? [])].slice(0, 4)).toEqual([0, 0.2, 0.4, 1].map(Math.fround));
    expect(data.target).toEqual({ shape: [], data: Int32Array.of(1, 0, 2) });
    expect(data.notes.join()).toContain("1/255");
  });

  test("--scale takes the place of 1/255, and of its note", async () => {
    const data = await open(mnist, "", { inputs: [input([4])], labels: classes(3), scale: 2 });
    expect([[...(data.inputs["image"]?.data ?? [])].slice(0, 4), data.notes]).toEqual([[0, 102, 204, 510], []]);
  });

  test("serves the half that is asked for, packed or not, under any prefix", async () => {
    const files: Files = {
      "fashion-train-images-idx3-ubyte.gz": gzipSync(images),
      "fashion-train-labels-idx1-ubyte": digits,
      "fashion-t10k-images.idx3-ubyte": idx([1, 2, 2], [1, 2, 3, 4]),
      "fashion-t10k-labels.idx1-ubyte.gz": gzipSync(idx([1], [2])),
    };
    const options = { inputs: [input([4])], labels: classes(3) };
    expect([(await open(files, "", options)).count, (await open(files, "", { ...options, split: "test" })).count]).toEqual([3, 1]);
    expect((await open(files, "fashion-t10k-images.idx3-ubyte", options)).count).toBe(1);
    expect((await open({ "images-idx3-ubyte": images, "labels-idx1-ubyte": digits }, "", { ...options, split: "test" })).count).toBe(3);
  });

  test("never serves training data as test data", async () => {
    expect(await refused(mnist, "", { inputs: [input([4])], split: "test" })).toMatch(/^missing-data: no IDX images of the test half/);
  });

  test("takes the pair that names the half before one that names none", async () => {
    const files = { ...mnist, "extra-images-idx3-ubyte": idx([1, 2, 2], [0, 0, 0, 0]) };
    expect((await open(files, "", { inputs: [input([4])], labels: classes(3) })).count).toBe(3);
  });

  test("with two data sets in it is not guessed about", async () => {
    expect(await refused({ "a-images-idx3-ubyte": images, "b-images-idx3-ubyte": images }, "", { inputs: [input([4])] })).toMatch(
      /several data sets are here: a, b/,
    );
  });

  test.each<[string, Files, string]>([
    [
      "cut images",
      { ...mnist, "train-images-idx3-ubyte": images.subarray(0, -1) },
      'bad-data: truncated: [3, 2, 2] takes 12 bytes, 11 are there | file "train-images-idx3-ubyte"',
    ],
    [
      "a cut header",
      { ...mnist, "train-labels-idx1-ubyte": digits.subarray(0, 6) },
      'bad-data: truncated inside its header of 8 bytes | file "train-labels-idx1-ubyte"',
    ],
    [
      "a cut archive",
      { "train-labels-idx1-ubyte": digits, "train-images-idx3-ubyte.gz": gzipSync(images).subarray(0, -3) },
      'bad-data: cannot be unpacked: unexpected end of file | file "train-images-idx3-ubyte.gz"',
    ],
    ["another format", { ...mnist, "train-images-idx3-ubyte": gzipSync(images) }, "bad-data: not an IDX file"],
    [
      "too few labels",
      { ...mnist, "train-labels-idx1-ubyte": idx([2], [0, 1]) },
      'bad-data: 2 examples, 3 in file "train-images-idx3-ubyte" | file "train-labels-idx1-ubyte"',
    ],
    ["no labels", { "train-images-idx3-ubyte": images }, "missing-data: no labels beside the images"],
    [
      "no examples",
      { "train-images-idx3-ubyte": idx([0, 2, 2], []), "train-labels-idx1-ubyte": idx([0], []) },
      "bad-data: the data set is empty",
    ],
    ["nothing", {}, "missing-data: no IDX images of the train half"],
  ])("%s is refused", async (_, files, message) =>
    expect((await refused(files, "", { inputs: [input([1, 2, 2])], labels: classes(3) })).slice(0, message.length)).toBe(message),
  );

  test("labels counted from 1 are refused with the row, and the hint says why", async () => {
    const files = { ...mnist, "train-labels-idx1-ubyte": idx([3], [1, 2, 3]) };
    expect(await refused(files, "", { inputs: [input([4])], labels: classes(3) })).toBe(
      'bad-data: label 3 is not one of the classes 0 … 2 | file "train-labels-idx1-ubyte", example 2 | the labels run from 1 to 3; count them from 0',
    );
  });
});

describe("shapes", () => {
  const x = (shape: readonly number[]): Files => ({
    "d.npz": npz({ x: npy("<f4", [2, ...shape], new Float32Array(2 * shape.reduce((a, b) => a * b, 1))) }),
  });
  test.each<[number[], number[]]>([
    [
      [28, 28],
      [1, 28, 28],
    ],
    [[28, 28], [784]],
    [[784], [1, 28, 28]],
    [
      [28, 28, 1],
      [1, 28, 28],
    ],
    [[1], []],
    [[], [1, 1]],
  ])("%j fits a model of %j", async (data, model) =>
    expect((await open(x(data), "d.npz", { inputs: [input(model)] })).inputs["image"]?.shape).toEqual(model),
  );

  test.each<[number[], number[], string]>([
    [[8, 8, 3], [3, 8, 8], "transpose"],
    [[4, 8], [8, 4], "transpose"],
    [[4, 6], [3, 8], "check that the data"],
    [[9], [10], "check that the data"],
  ])("%j does not fit a model of %j", async (data, model, hint) => {
    const message = await refused(x(data), "d.npz", { inputs: [input(model)] });
    expect(message).toContain(
      `input "image" takes [${model.join(", ")}] per example, the data have [${data.join(", ")}] | file "d.npz", array "x"`,
    );
    expect(message).toContain(hint);
  });
});

describe("a .npz", () => {
  test("feeds inputs of several names and types, tokens as integers", async () => {
    const files = {
      "d.npz": npz({
        ids: npy("<i8", [2, 3], BigInt64Array.of(1n, 2n, 3n, 4n, 5n, 6n)),
        mask: f4([2], 1, 0),
        y: npy("|u1", [2, 3], Uint8Array.of(0, 1, 2, 2, 1, 0)),
      }),
    };
    const data = await open(files, "d.npz", { inputs: [input([3], "i32", "ids"), input([], "f32", "mask")], labels: classes(3, [3]) });
    expect(data.inputs["ids"]).toEqual({ shape: [3], data: Int32Array.of(1, 2, 3, 4, 5, 6) });
    expect(data.inputs["mask"]).toEqual({ shape: [], data: Float32Array.of(1, 0) });
    expect(data.target).toEqual({ shape: [3], data: Int32Array.of(0, 1, 2, 2, 1, 0) });
  });

  test("with both halves, as Keras saves MNIST, serves the one asked for", async () => {
    const files = { "d.npz": npz({ x_train: f4([2, 1], 1, 2), y_train: f4([2], 0, 1), x_test: f4([1, 1], 3), y_test: f4([1], 1) }) };
    const options = { inputs: [input([1])], labels: classes(2) };
    expect([...((await open(files, "d.npz", options)).inputs["image"]?.data ?? [])]).toEqual([1, 2]);
    expect([...((await open(files, "d.npz", { ...options, split: "test" })).inputs["image"]?.data ?? [])]).toEqual([3]);
  });

  test("of bytes is an image from two axes on, and plain numbers below", async () => {
    const bytes = (shape: number[]): Files => ({ "d.npz": npz({ x: npy("|u1", shape, new Uint8Array(8).fill(255)) }) });
    expect((await open(bytes([2, 2, 2]), "d.npz", { inputs: [input([1, 2, 2])] })).inputs["image"]?.data[0]).toBe(1);
    expect((await open(bytes([2, 4]), "d.npz", { inputs: [input([1, 2, 2])] })).inputs["image"]?.data[0]).toBe(1);
    const flags = await open(bytes([2, 4]), "d.npz", { inputs: [input([4])] });
    expect([flags.inputs["image"]?.data[0], flags.notes.join()]).toEqual([
      255,
      'input "image" reaches 255: training is easier with values near 1, e.g. --scale 0.00392',
    ]);
  });

  test("of one-hot labels becomes class numbers, which a note says", async () => {
    const data = await open({ "d.npz": npz({ x: f4([2], 1, 2), y: f4([2, 3], 0, 0, 1, 1, 0, 0) }) }, "d.npz", {
      inputs: [input([])],
      labels: classes(3),
    });
    expect([[...(data.target?.data ?? [])], data.notes]).toEqual([[2, 0], ["one-hot labels are read as class numbers 0 … 2"]]);
  });

  const one = { inputs: [input([2])], labels: values([1]) };
  test.each<[string, Record<string, Uint8Array>, DataOptions, string]>([
    [
      "NaN",
      { x: f4([2, 2], 1, 2, 3, NaN), y: f4([2], 0, 1) },
      one,
      'bad-data: input "image": NaN is not a finite f32 number | file "d.npz", array "x", example 1',
    ],
    [
      "infinity in a target",
      { x: f4([2, 2], 1, 2, 3, 4), y: f4([2], 0, -Infinity) },
      one,
      'bad-data: the target: -Infinity is not a finite f32 number | file "d.npz", array "y", example 1',
    ],
    [
      "a float64 beyond float32",
      { x: npy("<f8", [1, 2], Float64Array.of(1, 1e39)), y: f4([1], 0) },
      one,
      'bad-data: input "image": 1e+39 is not a finite f32 number | file "d.npz", array "x", example 0',
    ],
    [
      "a broken token",
      { x: f4([1, 2], 1, 2.5) },
      { inputs: [input([2], "i32")] },
      'bad-data: input "image": 2.5 is not an integer in -2147483648 … 2147483647 | file "d.npz", array "x", example 0',
    ],
    [
      "uneven counts",
      { x: f4([2, 2], 1, 2, 3, 4), y: f4([3], 0, 1, 2) },
      one,
      'bad-data: 3 examples, 2 in file "d.npz", array "x" | file "d.npz", array "y"',
    ],
    [
      "no axis of examples",
      { x: f4([], 1), y: f4([], 1) },
      { inputs: [input([])] },
      "bad-data: a single number, without an axis of examples",
    ],
    [
      "no input",
      { a: f4([1], 1) },
      one,
      'bad-data: no array for input "image" | file "d.npz" | it holds a; expected image or x or X or x_train or X_train',
    ],
    ["no target", { x: f4([1, 2], 1, 2) }, one, "bad-data: no targets"],
    [
      "no target of that name",
      { x: f4([1, 2], 1, 2), y: f4([1], 0) },
      { ...one, target: "z" },
      'bad-option: no array "z" | --target, file "d.npz" | it holds x, y',
    ],
    [
      "a target out of range",
      { x: f4([2, 2], 1, 2, 3, 4), y: f4([2], 0, 1.5) },
      { ...one, labels: values([], [0, 1]) },
      'bad-data: target 1.5 is outside [0, 1] | file "d.npz", array "y", example 1',
    ],
    [
      "a row that is not one-hot",
      { x: f4([2, 2], 1, 2, 3, 4), y: f4([2, 2], 1, 0, 0.5, 0.5) },
      { ...one, labels: classes(2) },
      'bad-data: a row of labels is not one 1 among 1 zeros | file "d.npz", array "y", example 1',
    ],
    ["scaled tokens", { x: f4([1, 2], 1, 2) }, { inputs: [input([2], "i32")], scale: 0.5 }, 'bad-option: input "image" takes integers'],
    ["a factor of zero", { x: f4([1, 2], 1, 2) }, { ...one, scale: 0 }, "bad-option: 0 is not a usable factor"],
  ])("with %s is refused", async (_, arrays, options, message) =>
    expect((await refused({ "d.npz": npz(arrays) }, "d.npz", options)).slice(0, message.length)).toBe(message),
  );
});

describe("a .csv", () => {
  const iris = "a,b,kind\n1,2,setosa\n3,4,lily\n5,6,setosa\n";
  test("of text labels numbers them in sorted order, and says how", async () => {
    const data = await open({ "d.csv": iris }, "d.csv", { inputs: [input([2])], labels: classes(2) });
    expect([[...(data.target?.data ?? [])], data.classNames, data.notes]).toEqual([
      [1, 0, 1],
      ["lily", "setosa"],
      ["classes: 0 = lily, 1 = setosa"],
    ]);
  });

  test("numbers text labels as the data set before did, and knows no others", async () => {
    const options = { inputs: [input([2])], labels: classes(3), classNames: ["setosa", "rose", "lily"] };
    expect([...((await open({ "d.csv": iris }, "d.csv", options)).target?.data ?? [])]).toEqual([0, 2, 0]);
    expect(await refused({ "d.csv": iris }, "d.csv", { ...options, classNames: ["setosa", "rose"] })).toBe(
      'bad-data: label "lily" is not a known class | file "d.csv", line 3 | classes: setosa, rose',
    );
  });

  test("reads several target columns, packed files, and --target", async () => {
    const files = { "d.csv.gz": gzipSync(strToU8("y,a,z,b\n1,2,3,4\n5,6,7,8\n")) };
    const data = await open(files, "d.csv.gz", { inputs: [input([2])], labels: values([2]), target: "z,y" });
    expect([[...(data.inputs["image"]?.data ?? [])], [...(data.target?.data ?? [])]]).toEqual([
      [2, 4, 6, 8],
      [3, 1, 7, 5],
    ]);
  });

  test("for prediction may come with the target or without", async () => {
    for (const text of ["1,2\n3,4\n", "1,2,cat\n3,4,dog\n"])
      expect([...((await open({ "d.csv": text }, "d.csv", { inputs: [input([2])] })).inputs["image"]?.data ?? [])], text).toEqual([
        1, 2, 3, 4,
      ]);
  });

  test.each<[string, string, DataOptions["labels"], string]>([
    [
      "a number too large for float32",
      "1,2,0\n3,1e39,1\n",
      classes(2),
      'bad-data: column "1": 1e39 is too large for float32 | file "d.csv", line 2',
    ],
    [
      "a label out of range",
      "a,b,y\n\n1,2,0\n3,4,2\n",
      classes(2),
      'bad-data: label 2 is not one of the classes 0 … 1 | file "d.csv", line 4',
    ],
    ["half a label", "1,2,0.5\n", classes(2), 'bad-data: label 0.5 is not one of the classes 0 … 1 | file "d.csv", line 1'],
    [
      "more names than classes",
      "1,2,a\n1,2,b\n1,2,c\n",
      classes(2),
      'bad-data: 3 different labels, the model has 2 classes | file "d.csv" | labels: a, b, c',
    ],
    [
      "no target column",
      "1,2\n",
      classes(2),
      'bad-data: 2 columns are 1 inputs and 1 targets; input "image" takes 2 | file "d.csv" | check --target',
    ],
    [
      "an index column",
      ",a,b,y\n0,5,6,1\n",
      classes(2),
      'bad-data: 4 columns are 3 inputs and 1 targets; input "image" takes 2 | file "d.csv" | the first column has no name',
    ],
    ["names and no examples", "a,b,y\n", classes(2), 'bad-data: the data set is empty | file "d.csv"'],
  ])("with %s is refused", async (_, text, labels, message) =>
    expect((await refused({ "d.csv": text }, "d.csv", { inputs: [input([2])], labels })).slice(0, message.length)).toBe(message),
  );
});

describe("an autoencoder", () => {
  test("has its scaled inputs as targets where no others fit, and a note says so", async () => {
    const options = { inputs: [input([1, 2, 2])], labels: values([4], [0, 1]) };
    for (const [files, name] of [
      [mnist, ""],
      [{ "d.npz": npz({ x: npy("|u1", [3, 2, 2], images.subarray(16)) }) }, "d.npz"],
    ] as const) {
      const data = await open(files, name, options);
      expect(data.target).toEqual({ shape: [4], data: data.inputs["image"]?.data });
      expect(data.notes.join()).toContain("the inputs are the targets");
    }
    expect((await open({ "d.csv": "0,1,0,1\n1,0,1,0\n" }, "d.csv", options)).target?.data[1]).toBe(1);
  });

  test("with inputs the loss cannot take as targets is refused", async () => {
    expect(await refused(mnist, "", { inputs: [input([4])], labels: values([4], [0, 1]), scale: 1 })).toContain(
      'target 51 is outside [0, 1] | file "train-images-idx3-ubyte", example 0 | scale',
    );
  });

  test("does not take the place of targets that fit", async () => {
    const data = await open({ "d.npz": npz({ x: f4([2, 1], 1, 2), y: f4([2], 3, 4) }) }, "d.npz", {
      inputs: [input([1])],
      labels: values([]),
    });
    expect([...(data.target?.data ?? [])]).toEqual([3, 4]);
  });
});

test("a path that is not there, and a format that is not known, are told apart", async () => {
  expect(await refused({}, "d.csv", { inputs: [input([1])] })).toMatch(/^missing-data: no such file or folder \| --data "d.csv"/);
  expect(await refused({ "d.parquet": "" }, "d.parquet", { inputs: [input([1])] })).toMatch(
    /^bad-option: unknown data format \| --data "d.parquet" \| data are a folder/,
  );
});

test("a format of one input is refused for a model of two", async () => {
  expect(await refused({ "d.csv": "1,2\n" }, "d.csv", { inputs: [input([1], "f32", "a"), input([1], "f32", "b")] })).toContain(
    "use a .npz with arrays named a, b",
  );
});
