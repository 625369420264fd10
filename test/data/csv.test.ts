import { describe, expect, test } from "vitest";
import { CompileError } from "../../ir/error.js";
import { type CsvOptions, type CsvTable, parseCsv } from "../../src/data/csv.js";

const parse = (text: string, options: Partial<CsvOptions> = {}): CsvTable =>
  parseCsv(new TextEncoder().encode(text), 'file "f.csv"', { targets: () => 1, text: true, ...options });

const rows = ({ features, targets }: CsvTable): unknown => [[...features.data], [...targets.data]];

const refusal = (text: string, options: Partial<CsvOptions> = {}): string => {
  try {
    parse(text, options);
  } catch (error) {
    if (error instanceof CompileError && error.hint) return `${error.code}: ${error.message} | ${error.where}`;
    throw error;
  }
  return "accepted";
};

test("without a word about it, the last column is the target", () => {
  expect(rows(parse("1,2,0\n3,4,1\n"))).toEqual([
    [1, 2, 3, 4],
    [0, 1],
  ]);
});

describe("the first line is names only where it cannot be data", () => {
  test.each([
    ["names above numbers", "a,b,y\n1,2,0\n", ["a", "b", "y"], 1],
    ["one name among numbers, as of pixels", "0,1,label\n5,6,7\n", ["0", "1", "label"], 1],
    ["names above a text label", "a,b,kind\n1,2,cat\n", ["a", "b", "kind"], 1],
    ["a text label in both lines", "1,2,cat\n3,4,dog\n", ["0", "1", "2"], 2],
    ["numbers", "1,2,3\n4,5,6\n", ["0", "1", "2"], 2],
    ["one line of data", "1,2,3", ["0", "1", "2"], 1],
    ["scikit-learn's counts and classes", "2,2,no,yes\n1,2,0\n3,4,1\n", ["0", "1", "2"], 2],
  ])("%s", (_, text, columns, count) => {
    const table = parse(text);
    expect([table.columns, table.features.shape[0]]).toEqual([columns, count]);
  });

  test("a missing value in the first example does not turn it into names", () => {
    expect(refusal("1,NA,3\n4,5,6\n")).toBe('bad-data: column "1": "NA" is not a number | file "f.csv", line 1');
  });

  test("scikit-learn's class names are kept", () => expect(parse("2,2,no,yes\n1,2,0\n3,4,1\n").classNames).toEqual(["no", "yes"]));
});

describe("target columns", () => {
  const text = "y,a,b\n1,2,3\n";
  test.each([["y"], ["0"], ["-3"]])("%s names the first", (target) => expect(rows(parse(text, { target }))).toEqual([[2, 3], [1]]));
  test("several, in the order asked for", () => expect(rows(parse(text, { target: "b,y" }))).toEqual([[2], [3, 1]]));
  test("one whose name has a comma", () => expect(rows(parse('"a,b",c\n1,2\n', { target: "a,b" }))).toEqual([[2], [1]]));
  test.each([["z"], ["3"], ["-4"], [""]])("%j is not there, and those that are are listed", (target) =>
    expect(refusal(text, { target })).toBe(`bad-option: no column "${target}" | --target, file "f.csv"`),
  );
});

describe("cells", () => {
  test("are exactly the numbers that JavaScript reads in them", () => {
    const cells = [
      "0",
      "-0",
      "007",
      "1.",
      ".5",
      "-12.25",
      "0.1",
      "123456789012345",
      "1234567890123456789",
      "0.000000000000001",
      "3.14159265358979",
      "2.5e-3",
      "+4",
      " 6 ",
      "1E5",
      "9007199254740993",
    ];
    const table = parse(cells.map((cell) => `0,${cell}`).join("\n"));
    cells.forEach((cell, i) => expect(Object.is(table.targets.data[i], Number(cell)), cell).toBe(true));
  });

  test.each(["0x10", "1_000", "1e", ".", "-", "--1", "1.2.3", "Infinity", "nan", "12abc", "1 2"])("%s is no number", (cell) =>
    expect(refusal(`a,b\n1,2\n${cell},1\n`)).toContain("line 3"),
  );

  test("may be quoted, with quotes, commas and line ends inside, and line numbers go on", () => {
    const table = parse('a,kind\n"1.5","big, ""red""\ncat"\n2,dog\n');
    expect([rows(table), table.texts, [...table.lines]]).toEqual([
      [
        [1.5, 2],
        [0, 1],
      ],
      ['big, "red"\ncat', "dog"],
      [2, 4],
    ]);
  });

  test("lie between commas, semicolons or tabs; lines end in either way; blank ones and a byte order mark do not count", () => {
    for (const text of ["\ufeff1,2\r\n\r\n3,4\r\n", "1;2\n3;4", "1\t2\n\n\n3\t4\n\n"]) {
      const table = parse(text);
      expect(rows(table), JSON.stringify(text)).toEqual([
        [1, 3],
        [2, 4],
      ]);
    }
  });
});

describe("text labels", () => {
  test("are numbered in sorted order, whatever order the examples are in", () => {
    const [a, b] = [parse("1,cat\n2,ant\n3,cat\n"), parse("3,cat\n2,ant\n1,cat\n")];
    expect([a.texts, [...a.targets.data], [...b.targets.data]]).toEqual([
      ["ant", "cat"],
      [1, 0, 1],
      [1, 0, 1],
    ]);
  });

  test("do not mix with numbers", () => {
    expect(refusal("1,cat\n1,cat\n2,7\n")).toBe('bad-data: label "7" is a number, those before are not | file "f.csv", line 3');
    expect(refusal("1,7\n2,cat\n3,8\n")).toBe('bad-data: label "cat" is text, those before are not | file "f.csv", line 2');
  });

  test("are refused where the loss wants numbers", () => expect(refusal("1,cat\n", { text: false })).toContain('"cat" is not a number'));
});

describe("a damaged table is refused, with its line", () => {
  test.each([
    ["1,2\n3\n", 'bad-data: 1 columns, 2 expected | file "f.csv", line 2'],
    ["1,2\n3,4,5\n", 'bad-data: more than 2 columns | file "f.csv", line 2'],
    ["1,2\n3,4\n5,6,7\n", 'bad-data: more than 2 columns | file "f.csv", line 3'],
    ["a,b\n1,2\n3,\n", 'bad-data: column "b": a cell is empty | file "f.csv", line 3'],
    ['1,2\n"3,4\n', 'bad-data: a quote is not closed | file "f.csv", line 2'],
    ["", 'bad-data: the file is empty | file "f.csv"'],
    ["\n\n", 'bad-data: the file is empty | file "f.csv"'],
  ])("%j", (text, message) => expect(refusal(text)).toBe(message));
});
